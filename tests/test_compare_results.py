"""eval.txt as the course project printed it, and result files held against each other row by row."""

import pandas as pd
import pytest

from utils.errors import UserError
from utils.scoring.table import course_text
from utils.tools import compare_results

MEANS = pd.DataFrame({
    "mixture_ID": ["a", "b"], "sdr": [9.0, 11.5], "input_sdr": [0.5, -0.5], "sdr_imp": [8.5, 12.0], "sir": [16.0, 17.0],
    "sar": [10.0, 12.0], "pesq_nb": [2.5, 3.0], "stoi": [0.85, 0.9],
})  # fmt: skip


def test_a_line_of_seven_numbers_for_each_mixture_then_the_means():
    lines = course_text(MEANS).splitlines()
    assert lines[0] == "9.000000 0.500000 8.500000 16.000000 10.000000 2.500000 0.850000"
    assert lines[2:4] == ["sdr: 10.25", "sdr_mixed: 0.0"] and len(lines) == 9
    assert [line.partition(":")[0] for line in lines[4:]] == ["sdr - sdr_mixed", "sir", "sar", "pesq_score", "stoi_score"]
    assert course_text(MEANS.drop(columns="sir")) == ""


def compare(monkeypatch, capsys, *words) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["compare_results", *map(str, words)])
    code = compare_results.main()
    return code, capsys.readouterr().out


def test_rows_that_differ_are_counted_and_the_worst_is_named(tmp_path, monkeypatch, capsys):
    first, second = tmp_path / "one.txt", tmp_path / "two.txt"
    first.write_text(course_text(MEANS))
    second.write_text(course_text(MEANS.assign(sir=[16.0, 15.0], stoi=[0.85 + 6e-6, 0.9])))
    code, text = compare(monkeypatch, capsys, "--first", first, "--second", second)
    (row,) = [line for line in text.splitlines() if line.startswith("| sir")]
    assert code == 1 and [cell.strip() for cell in row.split("|")[2:6]] == ["1 of 2", "-1", "-2", "line 2"]
    assert "| stoi | 0 of 2" in " ".join(text.split()) and "tolerance 0.0001" in text
    code, text = compare(monkeypatch, capsys, "--first", first, "--second", first, "--tolerance", "0")
    assert code == 0


def test_csvs_are_matched_by_mixture_and_speaker(tmp_path, monkeypatch, capsys):
    columns = {"mixture_ID": ["a", "a", "b"], "speaker": ["1", "mean", "mean"], "si_snr": [1.0, 2.0, None], "subset": ["x"] * 3}
    pd.DataFrame(columns).to_csv(tmp_path / "one.csv", index=False)
    pd.DataFrame(columns).iloc[::-1].assign(si_snr=[4.0, 2.5, 1.0]).to_csv(tmp_path / "two.csv", index=False)
    code, text = compare(monkeypatch, capsys, "--first", tmp_path / "one.csv", "--second", tmp_path / "two.csv")
    row = " ".join(next(line for line in text.splitlines() if line.startswith("| si_snr")).split())
    assert code == 1 and row == "| si_snr | 2 of 3 | +0.25 | +inf | b mean |"


def test_other_files_and_other_tests_are_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "x.txt").write_text("hello\n")
    (tmp_path / "e.txt").write_text(course_text(MEANS))
    pd.DataFrame({"mixture_ID": ["a"], "speaker": ["1"], "si_snr": [1.0]}).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(UserError, match="neither an all_metrics.csv nor an eval.txt"):
        compare(monkeypatch, capsys, "--first", tmp_path / "x.txt", "--second", tmp_path / "e.txt")
    with pytest.raises(UserError, match="results of the same test"):
        compare(monkeypatch, capsys, "--first", tmp_path / "e.txt", "--second", tmp_path / "c.csv")
