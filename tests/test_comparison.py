"""Comparisons: suites that are refused, tables of made-up scores, and a whole one through real programs."""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import yaml
from shell_helpers import wait_until
from tiny_corpus import DIM, make_corpus

from utils.data.files import read_json, write_json
from utils.errors import UserError
from utils.tools.chains import Chain, run_chains
from utils.tools.comparison import (
    Run,
    Suite,
    choose_rows,
    comparison_table,
    difference,
    draw_curves,
    notes,
    read_runs,
    read_suite,
)
from utils.tools.memory import in_own_process
from utils.training.config import read_config, write_config

ROOT = Path(__file__).parent.parent
TINY = {
    "model": {
        "name": "av_tfdprnn", "n_faces": 0, "n_filters": 64, "kernel_size": 64, "stride": 32, "bands": "8x4", "bn_chan": 8,
        "hid_size": 4, "n_repeats": 1, "n_audio_repeats": 0,
    },
    "data": {"segment_sec": 0.4, "epoch_size": 8, "num_workers": 0},
    "training": {"batch_size": 2},
}  # fmt: skip


def suite_file(folder: Path, **changes) -> Path:
    """A suite of two rows of a tiny audio-only conf."""
    conf = folder / "tiny.yml"
    conf.write_text(yaml.safe_dump(TINY))
    rows = {"small": {"conf": str(conf)}, "wide": {"conf": str(conf), "train_args": "--bn_chan 12"}}
    path = folder / "suite.yml"
    path.write_text(yaml.safe_dump({"minutes": 0.001, "common": "--lr 0.01", "rows": rows, "baseline": "small"} | changes))
    return path


def test_a_suite_gives_its_rows_with_their_changes_after_the_common_ones(tmp_path: Path) -> None:
    suite = read_suite(suite_file(tmp_path, common="--lr 0.01 --bn_chan 10"), minutes=3)
    assert suite.minutes == 3 and suite.baseline == "small"
    assert {row.config.training.max_minutes for row in suite.rows} == {3.0}
    assert {row.config.training.early_stop for row in suite.rows} == {0}
    assert [row.config.model.bn_chan for row in suite.rows] == [10, 12]
    assert [row.config.optim.lr for row in suite.rows] == [0.01, 0.01]
    assert [row.seeds for row in suite.rows] == [(0,), (0,)]
    assert [row.name for row in choose_rows(suite, "wide")] == ["wide"]
    more = read_suite(suite_file(tmp_path, common="--lr 0.01"), train_args="--lr 0.02 --bn_chan 6")
    assert [(row.config.optim.lr, row.config.model.bn_chan) for row in more.rows] == [(0.02, 6), (0.02, 12)]
    with pytest.raises(UserError, match="no row 'wid'; did you mean 'wide'"):
        choose_rows(suite, "wid")


def row(**keys) -> dict:
    return {"rows": {"bad": {"conf": "conf/av_tfdprnn.yml"} | keys}, "baseline": ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minuts": 3}, "unknown key 'minuts'; did you mean 'minutes'"),
        ({"minutes": 0}, "minutes is 0"),
        ({"minutes": "5"}, "minutes is '5'"),
        ({"rows": {}}, "'rows' must map"),
        ({"baseline": "smal"}, "baseline 'smal' is no row; did you mean 'small'"),
        (row(trainargs="--lr 1"), "row 'bad': unknown key 'trainargs'; did you mean 'train_args'"),
        (row(conf="conf/none.yml"), "row 'bad': conf/none.yml: no such conf"),
        (row(conf=3), "row 'bad': must be a mapping with a conf"),
        (row(train_args="--hid_sise 3"), "row 'bad': --train_args: unknown key 'hid_sise'; did you mean 'hid_size'"),
        (row(train_args="--lr -1"), "row 'bad': --train_args: --lr"),
        (row(train_args="--lr '1"), "row 'bad': train_args: No closing quotation"),
        (row(train_args=3), "row 'bad': train_args is 3 where text"),
        (row(train_args="--epochs 3"), "row 'bad': --epochs is for the comparison to decide.*'minutes'"),
        (row(train_args="--max-minutes=3"), "row 'bad': --max_minutes is for the comparison to decide.*'minutes'"),
        (row(seeds=[1, 1]), "row 'bad': seeds is"),
        (row(seeds=1), "row 'bad': seeds is"),
        ({"rows": {"a/b": {"conf": "conf/av_tfdprnn.yml"}}, "baseline": ""}, "row 'a/b': its name makes a folder"),
        ({"rows": {1: {"conf": "conf/av_tfdprnn.yml"}}, "baseline": ""}, "row '1': YAML reads its name as int.*in quotes"),
    ],
)
def test_a_bad_suite_is_refused_in_a_line_that_names_file_and_row(tmp_path: Path, changes: dict, message: str) -> None:
    path = suite_file(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as caught:
        read_suite(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "suites").glob("*.yml")), ids=lambda path: path.stem)
def test_every_suite_of_the_recipe_can_be_read(path: Path) -> None:
    assert read_suite(path).rows


def compact(text: str) -> str:
    """A table without the blanks that align its columns."""
    return re.sub(" {2,}", " ", text)


METRICS = ("si_snr_imp", "sdr_imp", "sir", "pesq_wb", "estoi")


def fake_run(folder: Path, name: str, seed: int, gains_db: list[float], searched: int = 0) -> Run:
    """A scored run with one value a mixture, the first half of which is the subset `one`."""

    def group(values: list[float]) -> dict:
        mean = sum(values) / len(values)
        metrics = {key: {"mean": mean, "standard_error": 0.5, "nan": 0} for key in METRICS}
        return {"n_heard": len(values), "metrics": metrics}

    exp_dir = folder / f"{name}-seed{seed}"
    half = len(gains_db) // 2
    subsets = {"one": group(gains_db[:half]), "two": group(gains_db[half:])}
    source = {"date": "today", "git": f"{seed}123456789abcdef-dirty"}
    final = {"overall": group(gains_db), "subsets": subsets, "n_order_unknown": searched, "provenance": source}
    write_json(exp_dir / "results" / "t" / "final_metrics.json", final)
    write_json(exp_dir / "training.json", {"mixtures_seen": 800, "training_minutes": 5.04})
    rows = ["mixture_ID,speaker,si_snr_imp", *(f"m{index},mean,{value}" for index, value in enumerate(gains_db))]
    (exp_dir / "results" / "t" / "all_metrics.csv").write_text("\n".join([*rows, "m0,1,99"]) + "\n")
    return Run(seed, exp_dir, final, read_json(exp_dir / "training.json"))


def test_the_table_shows_errors_spreads_differences_and_searched_orders(tmp_path: Path) -> None:
    runs = {
        "plain": [fake_run(tmp_path, "plain", 0, [1, 2, 3, 4])],
        "better": [fake_run(tmp_path, "better", 0, [3, 3, 3, 5]), fake_run(tmp_path, "better", 2, [3, 5, 5, 7])],
        "blind": [fake_run(tmp_path, "blind", 0, [1, 1, 1, 1], searched=4)],
    }
    costs = dict.fromkeys(runs, {"params": 1_234_000, "macs_per_audio_second": 2.5e9, "inference_sec": 0.0504})
    differences = {name: difference(some, runs["plain"], "t") for name, some in runs.items()}
    assert differences["better"] == {"mean_db": 1.75, "standard_error_db": pytest.approx(0.25)}  # 2, 2, 1, 2 dB
    lines = compact(comparison_table(runs, costs, differences, "plain")).splitlines()
    assert lines[0].startswith("| | seeds | SI-SNRi, all (dB) | one | two | to plain (dB) | SDRi (dB) | SIR (dB) | PESQ wb |")
    assert lines[2].startswith("| plain | 0 | 2.50 ± 0.50 | 1.50 ± 0.50 | 3.50 ± 0.50 | – | 2.50 | 2.50 | 2.50 | 2.500 |")
    assert lines[2].endswith("| 1.23 | 2.50 | 50 | 800 | 5.04 |")
    assert lines[3].startswith("| better | 0, 2 | 4.25 [3.50..5.00] | 3.50 [3.00..4.00] |") and "| +1.75 ± 0.25 |" in lines[3]
    assert lines[4].startswith("| blind\\* | 0 | 1.00 ± 0.50 |") and "| -1.50 ± 0.65 |" in lines[4]
    assert "".join(lines).count("\\*") == 1
    assert {line.count("|") for line in lines} == {16}
    below = "\n".join(notes(runs, {"other-seed1": "not run"}, "plain", 4.0, 2.0))
    assert "4 test mixtures" in below and "Left out: other-seed1: not run." in below
    assert "that with the best mean SI-SNR was taken" in below
    assert "the spread of plain's seeds (not known, it has one) mean little" in below
    assert "More than 10% off the budget: plain-seed0 5.04 min, better-seed0" in below
    assert "the spread of better's seeds (1.50 dB) mean little" in "".join(notes(runs, {}, "better", 5.0, 2.0))
    assert "off the budget" not in "".join(notes(runs, {}, "", 5.0, 2.0))
    assert {run.revision for some in runs.values() for run in some} == {"0123456789ab-dirty", "2123456789ab-dirty"}


def test_the_curve_of_a_searched_order_has_a_star(tmp_path: Path, monkeypatch) -> None:
    from matplotlib.axes import Axes

    runs = {"sees": [fake_run(tmp_path, "sees", 0, [1, 2])], "blind": [fake_run(tmp_path, "blind", 0, [1, 2], searched=2)]}
    for (run,) in runs.values():
        (run.exp_dir / "history.csv").write_text("seconds,val_si_snri\n60,1\n60,2\n")
    labels, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *args, **more: labels.append(more["label"]) or plot(*args, **more))
    draw_curves(tmp_path / "curves.png", runs, 2.0, "title")
    assert labels == ["sees", "blind*"]


@pytest.fixture
def scored(tmp_path: Path) -> Suite:
    """A suite whose rows were trained and scored."""
    suite = read_suite(suite_file(tmp_path))
    for suite_row in suite.rows:
        exp_dir = fake_run(tmp_path, suite_row.name, 0, [1, 2]).exp_dir
        words = [*suite_row.train_args(0), "--audio_examples", "3"]
        write_config(exp_dir / "conf.yml", read_config(suite_row.conf_path, words).with_visual_dim(9))
    return suite


def left_out(suite: Suite, folder: Path, **failures: str) -> dict[str, str]:
    runs, reasons = read_runs(suite, folder, "t", {f"{name}-seed0": reason for name, reason in failures.items()})
    assert [name for name in ("small", "wide") if f"{name}-seed0" not in reasons] == list(runs)
    return reasons


def test_runs_of_the_same_setup_are_in_the_table(scored: Suite, tmp_path: Path) -> None:
    assert left_out(scored, tmp_path) == {}


def test_what_was_not_scored_is_left_out(scored: Suite, tmp_path: Path) -> None:
    (tmp_path / "small-seed0" / "training.json").unlink()
    assert left_out(scored, tmp_path) == {"small-seed0": "not run"}


def test_runs_of_another_setup_are_left_out_with_the_reason(scored: Suite, tmp_path: Path) -> None:
    """Regression: whatever lay in the folder of a row entered the table."""
    reasons = left_out(read_suite(scored.path, train_args="--bn_chan 6"), tmp_path)
    assert reasons == {"small-seed0": "trained with model.bn_chan 8, the suite says 6"}  # wide has its own
    reasons = left_out(read_suite(scored.path, minutes=3), tmp_path)
    assert set(reasons.values()) == {"trained with training.max_minutes 0.001, the suite says 3.0"}
    assert left_out(scored, tmp_path, wide="3_train: no luck") == {"wide-seed0": "3_train: no luck"}
    (tmp_path / "small-seed0" / "conf.yml").write_text("[")
    assert "conf.yml: not valid YAML" in left_out(scored, tmp_path)["small-seed0"]


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_failed_chain_stops_names_its_last_line_and_leaves_the_others_alone(tmp_path: Path) -> None:
    say = f"import os; open({str(tmp_path / 'threads')!r}, 'w').write(os.environ['OMP_NUM_THREADS'])"
    fail = "import sys; print('start', file=sys.stderr); exit('error: no luck')"
    chains = [
        Chain("bad", tmp_path / "bad" / "log", {"1": program(fail), "2": program(say)}),
        Chain("good", tmp_path / "good", {"1": program("print('fine')"), "2": program(say)}),
        Chain("silent", tmp_path / "silent", {"1": program("import os; os.kill(os.getpid(), 9)")}),
    ]
    failures = run_chains(chains, jobs=2, threads=3)
    assert set(failures) == {"bad", "silent"}
    assert failures["bad"].startswith("1: error: no luck (log: ") and "exit code 137" in failures["silent"]
    assert not (tmp_path / "bad" / "log" / "2.log").exists() and (tmp_path / "threads").read_text() == "3"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_a_comparison_ends_what_it_runs(tmp_path: Path, number: int) -> None:
    pid_file = tmp_path / "pid"
    sleeper = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(300)"
    chain = f"Chain('x', Path({str(tmp_path)!r}), {{'1': [sys.executable, '-c', {sleeper!r}]}})"
    text = f"import sys; from pathlib import Path; from utils.tools.chains import *; run_chains([{chain}], 1, 1)"
    process = subprocess.Popen(program(text), cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    assert wait_until(lambda: pid_file.is_file() and pid_file.read_text() != "", 30)
    pid = int(pid_file.read_text())
    os.kill(process.pid, number)
    process.wait(30)
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists(), 30)


def fail_in_own_process(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise UserError("no luck")


def test_a_process_of_its_own_says_how_it_failed() -> None:
    with pytest.raises(UserError, match="^no luck$"):
        in_own_process(fail_in_own_process, "")
    with pytest.raises(UserError, match="the measuring process was killed"):
        in_own_process(fail_in_own_process, "killed")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """A corpus of five mixtures, train, validation and test alike."""
    root = tmp_path_factory.mktemp("corpus")
    made = make_corpus(root, frames=50)
    assert DIM == 4
    for suffix in (".csv", ".json"):
        (root / "data" / f"test{suffix}").write_bytes((root / "data" / f"val{suffix}").read_bytes())
    assert soundfile.info(root / made["val"].items[0].mixture_path).duration == 2.0
    return root / "data"


def compare(suite: Path, data_dir: Path, out_dir: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "utils.tools.comparison", "--suite", suite, "--data_dir", data_dir]
    command += ["--out_dir", out_dir, "--dump_dir", out_dir / "dump", "--jobs", "2", *more]
    return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


def test_a_comparison_reports_what_failed_goes_on_and_fills_its_section(data_dir: Path, tmp_path: Path) -> None:
    suite, out_dir, results = suite_file(tmp_path), tmp_path / "out", tmp_path / "R.md"
    checkpoint = out_dir / "wide-seed0" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"damaged")
    first = compare(suite, data_dir, out_dir)
    assert first.returncode == 1 and "Traceback" not in first.stderr
    assert first.stderr.splitlines()[-1].startswith("error: 1 runs failed") and "last.ckpt: damaged" in first.stderr
    assert "| small\\* | 0 | " in compact(first.stdout) and "Left out: wide-seed0: 3_train: " in first.stdout
    with open(out_dir / "small-seed0" / "history.csv", newline="") as handle:
        assert len(list(csv.DictReader(handle))) == 1  # the minutes were over after the first epoch
    trained = (out_dir / "small-seed0" / "best_model.pth").stat().st_mtime_ns

    checkpoint.unlink()
    second = compare(suite, data_dir, out_dir, "--results", str(results), "--section", "tiny")
    assert second.returncode == 0, second.stderr
    assert (out_dir / "small-seed0" / "best_model.pth").stat().st_mtime_ns == trained
    section = compact(results.read_text())
    assert section.startswith("<!-- begin tiny -->\n|") and "| wide\\* | 0 | " in section and "git revision: " in section
    made = read_json(out_dir / "comparison.json")
    assert set(made["rows"]) == {"small", "wide"} and made["left_out"] == {}
    ours, theirs = (
        made["rows"][name]["seeds"]["0"]["scores"]["all"]["metrics"]["si_snr_imp"]["mean"] for name in ("wide", "small")
    )
    assert made["rows"]["wide"]["to_baseline"]["mean_db"] == pytest.approx(ours - theirs, abs=1e-4)
    assert (out_dir / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_mistake_ends_in_a_line_before_anything_runs(data_dir: Path, tmp_path: Path) -> None:
    bad = compare(suite_file(tmp_path, rows={"av": {"conf": "conf/av_tfdprnn.yml"}}, baseline=""), data_dir, tmp_path / "out")
    assert bad.returncode == 1 and len(bad.stderr.strip().splitlines()) == 1
    assert "row 'av': --frontend_weights FILE is needed" in bad.stderr
    faces = suite_file(tmp_path, rows={"face": {"conf": "conf/demo_looking_to_listen.yml"}}, baseline="")
    absent = compare(faces, data_dir, tmp_path / "out", "--face_weights", "absent.pt")
    assert absent.returncode == 1 and "--face_weights absent.pt: no such file" in absent.stderr
    name = compare(suite_file(tmp_path), data_dir, tmp_path / "out", "--section", "two words")
    assert name.returncode == 2 and "section 'two words': a name has letters" in name.stderr
    nothing = compare(suite_file(tmp_path), data_dir, tmp_path / "out", "--table_only")
    assert nothing.returncode == 1 and "no row was scored" in nothing.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
