"""Models on test sets of other corpora: every pair is separated and scored once, and is in one table."""

import json
import re
import sys

import pytest
from separation_helpers import make_experiment, make_folder, make_lips, state_of

from utils.errors import UsageError, UserError
from utils.separation.options import name_of_test
from utils.tools import cross_corpus


def compact(text):
    """Tables without the blanks that align their columns."""
    return re.sub(" {2,}", " ", text)


def run(root, patch, *more):
    words = ["--exp_dirs", f"{root / 'exp/a'},{root / 'exp/b'}", "--test_dirs", f"{root / 'one'},{root / 'two'}", "--id", "cpu"]
    words += ["--dump_dir", root / "dump", "--data_root_dir", root / "data", "--results", root / "RESULTS.md", "--nj", "1"]
    words += more
    patch.setattr(sys, "argv", ["cross_corpus", *map(str, words)])
    assert cross_corpus.main() == 0
    return compact((root / "RESULTS.md").read_text())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cross")
    lips = make_lips(root / "lips.pth")
    for seed, name in enumerate("ab"):
        make_experiment(root / "exp" / name, lips, seed)
    for name in ("one", "two"):
        make_folder(root / name)
    return root


def test_every_model_stands_beside_the_others_on_every_test_set(root, monkeypatch):
    text = run(root, monkeypatch)
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| one") or line.startswith("| two")]
    matrix, rows = lines[:2], lines[2:]
    assert [line[0] for line in matrix] == ["| one", "| two"] and len(rows) == 4
    for exp, column in (("a", 3), ("b", 4)):
        final = json.loads((root / "exp" / exp / "results" / "one" / "final_metrics.json").read_text())["overall"]
        assert matrix[0][column].startswith(f"{final['metrics']['si_snr_imp']['mean'] + 0.0:.2f} ±")
        assert f"| one | all | {exp} | 3 | {final['metrics']['si_snr']['mean'] + 0.0:.2f} |" in text
    before = state_of(root / "exp")
    assert run(root, monkeypatch).count("| one | all | a |") == 1 and state_of(root / "exp") == before


def test_mistakes_are_named(root, monkeypatch):
    for words, kind, said in (
        (("--exp_dirs", str(root / "exp/c")), UserError, "exp/c: holds no best_model.pth"),
        (("--test_dirs", str(root / "three")), UserError, "three: no such file or folder"),
        (("--test_dirs", f"{root / 'one'},{root / 'one'}"), UsageError, "have the same name"),
    ):
        with pytest.raises(kind, match=said):
            run(root, monkeypatch, *words)


def test_test_sets_are_called_as_stage_4_calls_them(tmp_path):
    assert name_of_test(tmp_path / "grid_tse" / "test.csv") == "grid_tse_test"
    assert name_of_test(tmp_path / "meetings") == "meetings"


def group(n_heard, n_silent_output, si_snr, input_si_snr):
    values = {"si_snr": si_snr, "si_snr_imp": si_snr and si_snr - input_si_snr, "input_si_snr": input_si_snr}
    metrics = {name: {"mean": value, "standard_error": None} for name, value in values.items()}
    return {"n": 9, "n_heard": n_heard, "n_silent": 0, "n_silent_output": n_silent_output, "metrics": metrics}


def test_a_model_whose_outputs_are_silent_keeps_its_place_and_is_named(tmp_path):
    """Regression: its mixtures were in no number, and with all of them silent it was in no table."""
    models = {"mute": group(0, 9, None, None), "shy": group(4, 5, 8.0, 3.0), "good": group(9, 0, 7.0, 1.0)}
    for name, overall in models.items():
        (tmp_path / name / "results" / "t").mkdir(parents=True)
        final = {"overall": overall, "subsets": {}}
        (tmp_path / name / "results" / "t" / "final_metrics.json").write_text(json.dumps(final))
    scores = cross_corpus.read_scores([tmp_path / name for name in models], ["t"])
    assert "| t | 9 | 1.00 | – | 5.00 | 6.00 |" in compact(cross_corpus.matrix(scores, list(models)))
    assert "| t | all | mute | 0 | – |" in compact(cross_corpus.long_table(scores))
    said = cross_corpus.silent_outputs(scores)
    assert "mute on t: 9 active" in said and "shy on t: 5 active" in said and "good" not in said
    assert cross_corpus.silent_outputs({("t", "all"): {"good": models["good"]}}) == ""
