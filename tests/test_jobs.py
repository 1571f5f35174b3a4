"""Work on many files: resumed by the journal, failures listed, a dying process costs nobody else's work."""

import json
import os
import signal
from pathlib import Path

import pytest

from utils.data.jobs import Job, file_key, pending, run_jobs
from utils.errors import UserError


def work(given: tuple[str, str]) -> int:
    what, path = given
    if what == "fail":
        raise UserError("it cannot be done")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(what)
    return len(what)


def jobs(folder: Path, **what: str) -> list[Job]:
    return [Job(name, f"key of {text}", (folder / name,), (text, str(folder / name))) for name, text in what.items()]


def test_results_come_by_name_and_the_files_are_made(tmp_path):
    results, reasons = run_jobs(work, jobs(tmp_path, a="one", b="three"), tmp_path / "j", 1, "test")
    assert (results, reasons) == ({"a": 3, "b": 5}, {})
    assert (tmp_path / "b").read_text() == "three"


def test_a_second_call_works_on_what_is_new_changed_or_gone(tmp_path):
    run_jobs(work, jobs(tmp_path, a="one", b="two", c="three"), tmp_path / "j", 1, "test")
    (tmp_path / "b").unlink()
    run_jobs(work, jobs(tmp_path, a="one", b="two", c="3", d="four"), tmp_path / "j", 1, "test")
    assert [(tmp_path / name).read_text() for name in "abcd"] == ["one", "two", "three3", "four"]


def test_a_failure_is_told_and_tried_again(tmp_path):
    results, reasons = run_jobs(work, jobs(tmp_path, a="fail", b="two"), tmp_path / "j", 1, "test")
    assert (results, reasons) == ({"b": 3}, {"a": "it cannot be done"})
    todo, known = pending(jobs(tmp_path, a="fail", b="two"), tmp_path / "j")
    assert ([job.name for job in todo], known) == (["a"], {"b": 3})


def test_a_journal_with_rubbish_is_read_as_far_as_it_makes_sense(tmp_path):
    run_jobs(work, jobs(tmp_path, a="one", b="two"), tmp_path / "j", 1, "test")
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(lines[0] + b"\xff\xfe\n[1]\n" + lines[1][:-9])
    assert pending(jobs(tmp_path, a="one", b="two"), tmp_path / "j")[1] == {"a": 3}


def test_a_process_that_dies_is_told_and_the_others_are_done(tmp_path):
    what = {"a": "one", "b": "die", "c": "two", "d": "three"}
    results, reasons = run_jobs(work, jobs(tmp_path, **what), tmp_path / "j", 2, "test")
    assert results == {"a": 3, "c": 3, "d": 5}
    assert list(reasons) == ["b"] and "died" in reasons["b"]
    assert {json.loads(line)["name"] for line in (tmp_path / "j").read_text().splitlines()} == set("acd")


def test_a_job_apart_that_dies_costs_itself_alone_even_with_one_process(tmp_path):
    what = {"a": "one", "b": "die"}
    results, reasons = run_jobs(work, jobs(tmp_path, **what), tmp_path / "j", 1, "test", apart=True)
    assert results == {"a": 3} and "died" in reasons["b"]
    results, reasons = run_jobs(work, jobs(tmp_path, **what), tmp_path / "j", 1, "test", apart=True)
    assert results == {"a": 3} and "died" in reasons["b"]


def test_the_key_of_files_changes_with_them(tmp_path):
    path = tmp_path / "x"
    keys = [file_key(path)]
    for content in ("a", "bb"):
        path.write_text(content)
        keys.append(file_key(path))
    assert len(set(keys)) == 3 and file_key(path) == keys[-1]


@pytest.mark.parametrize("nj", [1, 2])
def test_nothing_to_do_is_no_trouble(tmp_path, nj):
    assert run_jobs(work, [], tmp_path / "j", nj, "test") == ({}, {})
