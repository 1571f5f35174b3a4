"""What spectrograms on the disk would cost: a table with the parts measured in turn."""

import re

from tiny_corpus import make_corpus

from utils.tools import spectrogram_cost


def test_reading_and_computing_are_measured_side_by_side(tmp_path, monkeypatch, capsys):
    make_corpus(tmp_path)
    monkeypatch.setattr("sys.argv", ["spectrogram_cost", "--manifest", str(tmp_path / "data/utterances.csv"), "--n_clips", "5"])
    assert spectrogram_cost.main() == 0
    text = capsys.readouterr().out
    rows = {row[0].strip(): row[1:] for row in (line.strip("|").split("|") for line in text.splitlines() if line[:1] == "|")}
    assert "5 clips, 1.00 s each" in text and float(rows["and compute"][0]) > 0
    size = float(rows["read the spectrogram"][1])
    assert abs(size - 257 * 101 * 8 * 3600 / 1e6) < 5  # float32, two numbers a bin
    assert re.fullmatch(r"\d+\.\d\d", rows["spectrogram read / computed (median of pairs)"][0].strip())
