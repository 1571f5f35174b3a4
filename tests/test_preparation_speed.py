"""The benchmark of preparation: it runs on real speech, its table divides rightly, and too little speech is refused."""

import subprocess
import sys

from corpora_helpers import speech, write_audio

from utils.benchmarks.preparation import Measured, table


def test_the_table_divides_counts_by_seconds():
    text = table([Measured("a", 100, 4.0, 2.0), Measured("b", 10, 5.0, 0.0)])
    assert "| a | 100 | 4.00 | 25 | 2.00 | 50 |" in text and "| b | 10 | 5.00 | 2 | 0.00 | – |" in text


def test_it_runs_and_cleans_up(tmp_path, repo_root, shared_data):
    for index in range(5):
        write_audio(tmp_path / "speech" / f"{index}.wav", speech(shared_data, index, 3))
    command = [sys.executable, "-m", "utils.benchmarks.preparation", "--speech_dir", tmp_path / "speech", "--nj", 1,
               "--rows", 20, "--deep_rows", 5, "--mixtures", 3, "--clips", 12, "--seconds", 0.4, "--work_dir", tmp_path,
               "--results", tmp_path / "R.md"]  # fmt: skip
    done = subprocess.run([str(word) for word in command], cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| draw a list | 20 |" in done.stdout and "3 voices | 3 |" in (tmp_path / "R.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["R.md", "speech"]


def test_too_little_speech_is_refused_in_a_line(tmp_path, repo_root):
    (tmp_path / "speech").mkdir()
    command = [sys.executable, "-m", "utils.benchmarks.preparation", "--speech_dir", str(tmp_path / "speech")]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "fewer than 3 files" in done.stderr and "Traceback" not in done.stderr
