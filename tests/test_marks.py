"""Done marks: a stage is up to date only with the very inputs it finished with, and says what changed."""

import os
from pathlib import Path

import pytest

from utils.data.fingerprints import StageMark, hash_contents
from utils.errors import UserError


def test_a_stage_that_never_finished_has_no_changes_to_name(tmp_path: Path) -> None:
    assert StageMark(tmp_path / ".done-0.json", {"nj": "1"}).changed() is None


def test_a_finished_stage_with_the_same_inputs_is_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".done-0.json"
    StageMark(path, {"corpus": "demo", "rows": 3}).write()
    assert StageMark(path, {"rows": "3", "corpus": "demo"}).changed() == []
    assert os.listdir(path.parent) == [path.name], "no temporary file is left"


def test_changed_new_and_dropped_inputs_are_named_with_old_and_new_value(tmp_path: Path) -> None:
    path = tmp_path / ".done-0.json"
    StageMark(path, {"lr": "0.1", "same": "x", "gone": "1", "code": "a" * 64}).write()
    changes = StageMark(path, {"lr": "0.2", "same": "x", "new": "2", "code": "b" * 64}).changed()
    assert changes == [
        "lr: 0.1 -> 0.2", "new: (absent) -> 2", "code: aaaaaaaaaaaa -> bbbbbbbbbbbb", "gone: 1 -> (absent)"
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"inputs": 3}', '"x"', "\x00\xff"])
def test_a_damaged_mark_counts_as_never_finished(tmp_path: Path, text: str) -> None:
    path = tmp_path / ".done-0.json"
    path.write_text(text, encoding="latin-1")
    assert StageMark(path, {}).changed() is None


def test_the_fingerprint_follows_contents_and_names_not_order_or_folder(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.csv").write_text("1", encoding="utf-8")
        (tmp_path / folder / "b.csv").write_text("2", encoding="utf-8")
    one, two = ([tmp_path / folder / name for name in ("a.csv", "b.csv")] for folder in ("one", "two"))
    assert hash_contents(one) == hash_contents(reversed(two))
    one[0].write_text("2", encoding="utf-8")
    one[1].write_text("1", encoding="utf-8")
    assert hash_contents(one) != hash_contents(two), "contents that changed places"
    assert hash_contents(two[:1]) != hash_contents(two)


def test_a_missing_file_cannot_be_fingerprinted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a.csv: cannot be read"):
        hash_contents([tmp_path / "a.csv"])
