"""Sections of a Markdown file: filled, filled again, appended, and refused where the file is broken."""

import argparse
import sys
from pathlib import Path

import pytest

from utils.data.reports import markdown_table
from utils.errors import UserError
from utils.tools.sections import add_results_options, origin, write_section


def test_a_section_is_made_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "RESULTS.md"
    write_section(path, "cost", "\n| a |\n")
    assert path.read_text("utf-8") == "<!-- begin cost -->\n| a |\n<!-- end cost -->\n"


def test_writing_again_replaces_that_section_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Title\n\n<!-- begin one -->\nold\n<!-- end one -->\n\nProse – stays.\n", "utf-8")
    write_section(path, "two", "second")
    write_section(path, "one", "new\n\n| table |")
    write_section(path, "two", "second, again")
    assert path.read_text("utf-8") == (
        "# Title\n\n<!-- begin one -->\nnew\n\n| table |\n<!-- end one -->\n\nProse – stays.\n\n"
        "<!-- begin two -->\nsecond, again\n<!-- end two -->\n"
    )
    assert [item.name for item in tmp_path.iterdir()] == ["RESULTS.md"]


def test_a_name_that_begins_another_name_is_a_section_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write_section(path, "cost-gpu", "G")
    write_section(path, "cost", "C")
    assert "begin cost-gpu -->\nG\n" in path.read_text("utf-8") and "begin cost -->\nC\n" in path.read_text("utf-8")


def test_a_file_without_a_last_newline_keeps_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("last words", "utf-8")
    write_section(path, "cost", "C")
    assert path.read_text("utf-8").startswith("last words\n\n<!-- begin cost -->\n")


@pytest.mark.parametrize(
    "broken",
    [
        "<!-- begin cost -->\nno end\n",
        "no beginning\n<!-- end cost -->\n",
        "<!-- end cost -->\n<!-- begin cost -->\n",
        "<!-- begin cost -->\n<!-- end cost -->\n" * 2,
    ],
)
def test_a_broken_section_is_refused_and_the_file_left_alone(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text(broken, "utf-8")
    with pytest.raises(UserError, match="RESULTS.md: section 'cost' needs one line"):
        write_section(path, "cost", "C")
    assert path.read_text("utf-8") == broken


@pytest.mark.parametrize("name", ["", "two words", "--> x"])
def test_a_name_that_would_break_the_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="a name has letters"):
        write_section(tmp_path / "RESULTS.md", name, "C")
    assert not (tmp_path / "RESULTS.md").exists()


def test_a_section_is_checked_when_options_are_read(tmp_path: Path) -> None:
    """Regression: a bad name was refused after hours of measuring."""
    parser = argparse.ArgumentParser()
    add_results_options(parser, "cost")
    assert parser.parse_args([]).section == "cost" and parser.parse_args([]).results is None
    given = parser.parse_args(["--results", str(tmp_path / "R.md"), "--section", "a.b-c"])
    assert (given.results, given.section) == (tmp_path / "R.md", "a.b-c")
    with pytest.raises(UserError, match="section 'two words': a name has letters"):
        parser.parse_args(["--section", "two words"])


def test_a_table_is_aligned_in_its_source_and_on_the_page() -> None:
    rows = [["", "model", "dB"], ["a|b", "av", "10.25"], ["c", "audio-only", "–"]]
    assert markdown_table(rows, n_left=2).splitlines() == [
        "|     | model      |    dB |",
        "| --- | ---------- | ----: |",
        "| a/b | av         | 10.25 |",
        "| c   | audio-only |     – |",
    ]


def test_the_origin_tells_command_date_revision_machine_and_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--conf", "a b.yml"])
    text = origin("utils.tools.x", 3, "seeds: 0, 1")
    assert text.startswith("- seeds: 0, 1\n- command: `python -m utils.tools.x --conf 'a b.yml'`\n- date: 2")
    assert "git revision: " in text and "- CPU: " in text and text.endswith(", threads: 3\n")


def test_the_origin_may_name_other_arguments_than_those_of_this_process() -> None:
    assert "`python -m utils.tools.x --jobs 2`" in origin("utils.tools.x", 1, arguments=["--jobs", "2"])


def test_the_origin_may_name_the_revisions_that_the_numbers_were_made_with() -> None:
    assert "git revision: 0123, 4567-dirty\n" in origin("utils.tools.x", 1, revisions=["0123", "4567-dirty"])
