"""The table of speed-ups by processes: its arithmetic, what is trained for it, and wrong numbers of processes."""

import csv
import json
import sys
from pathlib import Path

import pytest

from utils.benchmarks import ddp_scaling
from utils.errors import UsageError, UserError


def test_the_speed_up_is_over_the_first_number_of_processes_and_the_ideal_is_one_for_each():
    lines = ddp_scaling.table({1: 10.0, 2: 16.0, 4: 20.0}).splitlines()
    assert lines[2:] == ["| 1 | 10.0 | 1.00 | 100 % |", "| 2 | 16.0 | 1.60 | 80 % |", "| 4 | 20.0 | 2.00 | 50 % |"]
    assert ddp_scaling.table({2: 30.0, 4: 45.0}).splitlines()[-1] == "| 4 | 45.0 | 1.50 | 75 % |"


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *more: str) -> int:
    words = ["--conf", "conf/dprnn.yml", "--data_dir", str(tmp_path), *more]
    monkeypatch.setattr(sys, "argv", ["ddp_scaling", *words])
    return ddp_scaling.main()


@pytest.mark.parametrize("counts", ["0", "1,", "two", "1,-2", ""])
def test_numbers_of_processes_that_make_no_sense_are_refused(monkeypatch, tmp_path, counts):
    with pytest.raises(UsageError, match=f"--processes: '{counts}' is no list of whole numbers above zero"):
        run(monkeypatch, tmp_path, f"--processes={counts}")


def test_the_last_epoch_counts_and_the_results_get_the_table(monkeypatch, tmp_path, capsys):
    asked = []

    def train(chains, jobs, threads):
        (command,) = chains[0].commands.values()
        options = dict(word.removeprefix("--").split("=", 1) for word in command if word.startswith("--"))
        asked.append(options["train_args"])
        exp = Path(options["exp_dir"])
        exp.mkdir(parents=True)
        (exp / "training.json").write_text(json.dumps({"mixtures_seen": 80, "epochs": 2}))
        with open(exp / "history.csv", "w", newline="") as handle:
            csv.writer(handle).writerows([["seconds"], [100], [4 if "--devices 1 " in asked[-1] else 2.5]])
        return {}

    monkeypatch.setattr(ddp_scaling, "run_chains", train)
    results = tmp_path / "RESULTS.md"
    assert run(monkeypatch, tmp_path, "--processes", "1,2", "--epoch_size", "40", "--results", str(results)) == 0
    for text in (capsys.readouterr().out, results.read_text()):
        assert "| 1 | 10.0 | 1.00 | 100 % |" in text and "| 2 | 16.0 | 1.60 | 80 % |" in text
    assert ["--strategy ddp" in words for words in asked] == [False, True]
    assert all("--epoch_size 40" in words and "--epochs 2" in words for words in asked)


def test_a_training_that_failed_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(ddp_scaling, "run_chains", lambda *_: {"2 processes": "train ended with exit code 1, see log"})
    with pytest.raises(UserError, match="2 processes: train ended with exit code 1"):
        run(monkeypatch, tmp_path, "--processes", "2")
