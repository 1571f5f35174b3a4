"""The table of requirements files and Pythons: what pip is asked, and what its answers become."""

import subprocess
import sys
from pathlib import Path

import pytest

from utils.tools import check_requirements

ANSWER = """ERROR: Could not find a version that satisfies the requirement h5py==3.16.0 (from versions: 3.15.0, 3.15.1)
ERROR: No matching distribution found for h5py==3.16.0
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """The calls of pip, each with the file that it was given; pip has no h5py for Python 3.13."""
    calls = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        text = Path(command[command.index("-r") + 1]).read_text(encoding="utf-8")
        calls.append((command, text))
        fails = "h5py" in text and "--python-version=3.13" in command
        return subprocess.CompletedProcess(command, int(fails), "", ANSWER if fails else "")

    monkeypatch.setattr(check_requirements.subprocess, "run", run)
    return calls


def test_each_file_is_asked_for_on_each_python(asked, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["check_requirements", "--pythons", "3.12,3.13", "--platforms", "a,b"])
    assert check_requirements.main() == 1
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in capsys.readouterr().out.split("\n") if line]
    answers = {row[0].strip("`"): row[1:] for row in rows[2:]}
    assert answers["requirements.txt"] == ["installs", "installs", "pesq"]
    assert answers["egs/voxceleb2/requirements.txt"] == ["installs", "no wheel of h5py==3.16.0", "face-recognition-models"]
    assert len(asked) == 2 * len(answers) and all({"--dry-run", "--platform=a", "--platform=b"} <= {*call} for call, _ in asked)
    assert not any("pesq" in text for _, text in asked)


def test_another_failure_is_passed_on(tmp_path, monkeypatch) -> None:
    path = tmp_path / "r.txt"
    path.write_text("six==1.17.0\n", encoding="utf-8")
    done = subprocess.CompletedProcess([], 2, "", "WARNING: slow\nno network\n")
    monkeypatch.setattr(check_requirements.subprocess, "run", lambda *_, **__: done)
    assert check_requirements.why_not(path, "3.12") == "no network"
