"""Work on many files: resumed by the journal, failures listed, a dying process costs nobody else's work."""

import errno
import json
import os
import resource
import signal
from pathlib import Path

import pytest

from utils.data.files import append_line, remove_leftovers, write_text
from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, pending, run_jobs
from utils.errors import UserError, WriteError


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


def test_a_job_in_its_own_process_that_dies_costs_only_itself_even_with_one_process(tmp_path):
    what = {"a": "one", "b": "die"}
    results, reasons = run_jobs(work, jobs(tmp_path, **what), tmp_path / "j", 1, "test", in_own_process=True)
    assert results == {"a": 3} and "died" in reasons["b"]
    results, reasons = run_jobs(work, jobs(tmp_path, **what), tmp_path / "j", 1, "test", in_own_process=True)
    assert results == {"a": 3} and "died" in reasons["b"]


def test_the_key_of_files_changes_with_them(tmp_path):
    path = tmp_path / "x"
    keys = [hash_stats([path])]
    for content in ("a", "bb"):
        path.write_text(content)
        keys.append(hash_stats([path]))
    assert len(set(keys)) == 3 and hash_stats([path]) == keys[-1]


@pytest.mark.parametrize("nj", [1, 2])
def test_nothing_to_do_is_no_trouble(tmp_path, nj):
    assert run_jobs(work, [], tmp_path / "j", nj, "test") == ({}, {})


LIMIT_BYTES = 50_000


def write_many(given: tuple[Path, int]) -> int:
    path, n_bytes = given
    if n_bytes < 0:
        raise PermissionError(errno.EACCES, "Permission denied", "source.mp4")
    write_text(path, "x" * n_bytes)
    return n_bytes


def sized_jobs(folder: Path, *sizes: int) -> list[Job]:
    return [Job(f"job{k}", f"{size}", (folder / f"out/{k}",), (folder / f"out/{k}", size)) for k, size in enumerate(sizes)]


@pytest.mark.parametrize("nj", [1, 2])
def test_a_full_disk_ends_the_run_what_was_done_stays_and_the_same_call_goes_on(tmp_path, limited, nj):
    journal = tmp_path / "made.jsonl"
    jobs = sized_jobs(tmp_path, 10, 20, 100_000, 30)
    limited(LIMIT_BYTES)
    with pytest.raises(WriteError, match=r"it needs 100 kB") as caught:
        run_jobs(write_many, jobs, journal, nj, "test")
    assert caught.value.filename == str(tmp_path / "out/2")
    done = {json.loads(line)["name"] for line in journal.read_text().splitlines()}
    assert done == {"job0", "job1"} if nj == 1 else done <= {"job0", "job1", "job3"}  # what was in work is killed
    assert all((tmp_path / f"out/{name[-1]}").is_file() for name in done)
    assert not list(tmp_path.rglob(".tmp-*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
    results, reasons = run_jobs(write_many, jobs, journal, 1, "test")
    assert list(results.values()) == [10, 20, 100_000, 30] and not reasons


@pytest.mark.parametrize("nj", [1, 2])
def test_an_error_of_the_system_on_one_items_file_is_the_reason_of_that_item(tmp_path, nj):
    jobs = [*sized_jobs(tmp_path, 10, -1), Job("long", "", (), (tmp_path / ("x" * 300), 1)), *sized_jobs(tmp_path, 1, 1, 5)[2:]]
    results, reasons = run_jobs(write_many, jobs, tmp_path / "made.jsonl", nj, "test")
    assert set(results) == {"job0", "job2"}
    assert reasons["job1"] == "source.mp4: Permission denied; make it accessible to you, or give another folder"
    assert "too long" in reasons["long"]


def test_a_journal_that_does_not_fit_is_named_and_its_cut_line_does_no_harm(tmp_path, limited):
    journal = tmp_path / "made.jsonl"
    run_jobs(write_many, sized_jobs(tmp_path, 10), journal, 1, "test")
    limited(journal.stat().st_size + 20)
    with pytest.raises(WriteError) as caught:
        append_line(journal, json.dumps({"name": "x" * 100}))
    assert caught.value.filename == str(journal)
    limited(1_000_000)
    results, _ = run_jobs(write_many, sized_jobs(tmp_path, 10, 20), journal, 1, "test")
    assert list(results) == ["job0", "job1"] and len(journal.read_text().splitlines()) == 2


def test_leftovers_of_killed_runs_go_with_the_next(tmp_path):
    (tmp_path / "out").mkdir()
    for place in (tmp_path, tmp_path / "out"):
        (place / ".tmp-killed.wav").touch()
    run_jobs(write_many, sized_jobs(tmp_path, 10), tmp_path / "made.jsonl", 1, "test")
    assert not list(tmp_path.rglob(".tmp-*"))
    (tmp_path / "out/.tmp-of-others").touch()
    remove_leftovers(tmp_path, below=False)
    assert (tmp_path / "out/.tmp-of-others").exists()
