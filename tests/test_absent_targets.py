"""Absent targets in stage 5: told by the energy of the output, in no other mean."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from utils.data.audio import write_wav
from utils.scoring.metrics import QUIETEST_DB, silent_output
from utils.stages import score
from utils.tools.comparison import Run, notes

RATE_HZ = 16000


def voice(seed: int) -> np.ndarray:
    """Noise modulated like syllables, (time,)."""
    time_sec = np.arange(12800) / RATE_HZ
    noise = np.random.default_rng(seed).standard_normal(len(time_sec))
    return 0.1 * noise * (0.02 + np.sin(2 * np.pi * 1.5 * time_sec + seed) ** 2)


def write(path: Path, samples: np.ndarray) -> Path:
    write_wav(path, samples.astype(np.float32), RATE_HZ)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *options: object) -> int:
    monkeypatch.setattr(sys, "argv", ["score", *map(str, options)])
    return score.main()


def make_extraction(root: Path, silent: tuple[int, ...] = ()) -> Path:
    """Three mixtures of one wanted voice as stage 4 leaves them; in the last one the target is absent.

    The outputs of `silent` are zeros.
    """
    folder = root / "exp" / "separated" / "test"
    folder.mkdir(parents=True)
    with open(folder / "separated.csv", "w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(["mixture_ID", "mixture_path", "source_1_path", "estimate_1_path", "subset", "separated_by"])
        for n, subset in enumerate(("speech+speech", "speech+noise", "absent target")):
            target, other = voice(n) * (n < 2), voice(10 + n)
            mixture = write(root / "mix" / f"{n}.wav", target + other)
            source = write(root / "s1" / f"{n}.wav", target)
            write(folder / "s1" / f"{n}.wav", (target + 0.1 * other) * (n not in silent))
            rows.writerow([n, mixture, source, f"s1/{n}.wav", subset, "tse"])
    return root / "exp"


def test_an_absent_target_is_told_by_its_energy_and_is_in_no_other_mean(tmp_path, monkeypatch, capsys):
    exp_dir = make_extraction(tmp_path)
    assert run(monkeypatch, "--exp_dir", exp_dir, "--test_name", "test", "--nj", 1) == 0
    out_dir = exp_dir / "results" / "test"
    final = json.loads((out_dir / "final_metrics.json").read_text())
    overall, absent = final["overall"], final["subsets"]["absent target"]
    assert (overall["n"], overall["n_silent"], absent["n_silent"]) == (3, 1, 1)
    assert absent["metrics"]["si_snr"]["mean"] is None
    assert absent["metrics"]["silent_rel_db"]["mean"] == pytest.approx(-20, abs=1e-3)
    level_db = 10 * np.log10(np.mean(np.square(0.1 * voice(12))))
    assert overall["metrics"]["silent_db"]["mean"] == pytest.approx(level_db, abs=1e-3)
    heard = [final["subsets"][name]["metrics"]["si_snr"]["mean"] for name in ("speech+speech", "speech+noise")]
    assert overall["metrics"]["si_snr"]["mean"] == pytest.approx(np.mean(heard), abs=1e-5)
    text = (out_dir / "RESULTS.md").read_text()
    assert "Absent targets" in text and "-20.0" in text and "-20.0" in capsys.readouterr().out


def test_a_silent_output_has_the_least_energy_that_is_told():
    silence, heard = np.zeros(800), voice(0)[:800]
    assert silent_output(heard, silence, silence) == {"silent_db": QUIETEST_DB, "silent_rel_db": pytest.approx(-100, abs=25)}
    assert np.isnan(list(silent_output(heard, heard, heard).values())).all()
    assert silent_output(heard, silence, heard)["silent_rel_db"] == 0
    assert np.isnan(silent_output(None, silence, heard)["silent_rel_db"])


def test_a_group_of_absent_targets_alone_is_no_row_of_the_main_table(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "--exp_dir", make_extraction(tmp_path), "--test_name", "test", "--nj", 1) == 0
    table, absent = capsys.readouterr().out.split("absent targets\n")
    assert "speech+noise, unprocessed" in table and "absent target" not in table and "| absent target" in absent


def row_of(table: str, label: str) -> list[str]:
    return next(line for line in table.splitlines() if line.startswith(f"| {label} ")).split("|")


def test_absent_targets_are_not_among_the_mixtures_that_a_mean_is_over(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "--exp_dir", make_extraction(tmp_path), "--test_name", "test", "--nj", 1) == 0
    table = capsys.readouterr().out
    assert row_of(table, "all")[2].strip() == "2" and row_of(table, "speech+noise")[2].strip() == "1"
    assert "silent output" not in table


def test_a_heard_target_with_a_silent_output_is_counted_and_moves_no_mean(tmp_path, monkeypatch, capsys):
    """Regression: it was left out of the metrics without a word, and its mixture stayed among the unprocessed ones."""
    for name, silent in (("some", (0,)), ("none", ()), ("absent", (2,))):
        make_extraction(tmp_path / name, silent)
        assert run(monkeypatch, "--exp_dir", tmp_path / name / "exp", "--test_name", "test", "--nj", 1) == 0
        said = capsys.readouterr().out
        assert ("**1 heard targets got a silent output** (speech+speech: 1)" in said) == (name == "some")
    final = {name: json.loads((tmp_path / name / "exp/results/test/final_metrics.json").read_text())
             for name in ("some", "none", "absent")}  # fmt: skip
    assert [final[name]["overall"]["n_silent_output"] for name in final] == [1, 0, 0]
    overall, metrics = final["some"]["overall"], final["some"]["overall"]["metrics"]
    assert (overall["n"], overall["n_heard"], overall["n_silent"]) == (3, 1, 1)
    kept = final["none"]["subsets"]["speech+noise"]["metrics"]
    for metric in ("si_snr", "input_si_snr", "si_snr_imp", "stoi", "input_stoi"):
        assert metrics[metric]["mean"] == pytest.approx(kept[metric]["mean"], abs=1e-5), metric
    assert final["absent"]["nan_reasons"]["si_snr"] == {"the reference is silent": 1}
    text = (tmp_path / "some/exp/results/test/RESULTS.md").read_text()
    assert "heard targets got a silent output" in text and row_of(text, "speech+speech")[2].strip() == "0"


def test_a_comparison_counts_the_mixtures_of_its_means_without_absent_targets(tmp_path):
    metrics = {"si_snr_imp": {"mean": 5.0, "standard_error": 0.5, "nan": 3}}
    overall = {"n": 10, "n_heard": 7, "n_silent": 3, "n_silent_output": 0, "metrics": metrics}
    final = {"overall": overall, "subsets": {}, "n_order_unknown": 0, "provenance": {"date": "today"}}
    run = Run(0, tmp_path, final, {"training_minutes": 5.0})
    assert notes({"row": [run]}, {}, "", 5.0, 2.0)[0].startswith("7 test mixtures")
