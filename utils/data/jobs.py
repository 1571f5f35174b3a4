"""Work on many files at once: in processes or on a cluster, resumable, and nothing lost where one of them fails.

Finished jobs go line by line into a journal; the next run takes from it what has the same key and whose files are still
there. A job that raises `UserError` is reported with its reason and tried again by the next run; one whose process dies
(out of memory, a crash in C code) as well, without taking the others with it. So is one that meets an error of the system
on a file of its own; where the system refuses to write (a full disk, a quota) it would refuse the next job, too: that ends
the run, and what is in the journal stays.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from utils.data.cluster import chosen_cluster, open_cluster
from utils.data.files import append_line, remove_leftovers, write_text
from utils.data.progress import progress_bar
from utils.errors import UserError, is_of_machine, system_error

log = logging.getLogger(__name__)


class Journal:
    """Finished work in a file, one JSON line for each step, so that a kill at any moment is understood: the last line counts.

    A line that a kill cut short says nothing; its work is done again.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, tuple[str, Any]] = {}  # name: (key of what it was made from, result)
        if not path.is_file():
            return
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                self.entries[entry["name"]] = entry["key"], entry["result"]

    def add(self, name: str, key: str, result: Any) -> None:
        """Append a line; after `keep_only`, which removes what a kill left of a line."""
        self.entries[name] = key, result
        append_line(self.path, _line(name, key, result))

    def keep_only(self, names: Iterable[str]) -> list[str]:
        """Forget all other names, and the history of these; gives the names that were forgotten."""
        wanted = set(names)
        forgotten = [name for name in self.entries if name not in wanted]
        self.entries = {name: entry for name, entry in self.entries.items() if name in wanted}
        write_text(self.path, "".join(_line(name, *entry) + "\n" for name, entry in self.entries.items()))
        return forgotten


def _line(name: str, key: str, result: Any) -> str:
    return json.dumps({"name": name, "key": key, "result": result})  # ASCII: a name may hold what ends a line


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Attributes:
        name: unique among the jobs of a journal.
        key: changes whenever the job would make something else; a fingerprint of its inputs and options.
        outputs: the files that it makes; where one is missing the job is done again.
        given: what the function gets, picklable.
    """

    name: str
    key: str
    outputs: tuple[Path, ...]
    given: Any


def run_jobs(
    function: Callable[[Any], Any],
    jobs: Sequence[Job],
    journal: Path,
    nj: int,
    title: str,
    unit: str = "file",
    in_own_process: bool = False,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Apply `function` to what each job gives, or take its result from the journal.

    Args:
        function: picklable, i.e. of a module; returns plain JSON data or raises `UserError`; its files are whole or absent,
            and their folders are nobody else's meanwhile: what killed runs left there is removed.
        jobs: the work.
        journal: the file that finished results are kept in; it holds only these jobs.
        nj: processes; 1 works in this one.
        title, unit: of the progress bar.
        in_own_process: never work in this process, not even on one job with `nj` 1: for C code that can end its process.

    Returns:
        Results by the jobs' names, and for the others the reasons of their failures.

    Raises:
        OSError: the system refuses what every job needs.
    """
    todo, results = pending(jobs, journal)
    if results and todo:  # where nothing is left to do the caller says so
        log.info("%s: %d of %d %ss were done before and have not changed", title, len(results), len(jobs), unit)
    _remove_leftovers(jobs)
    remove_leftovers(journal.parent, below=False)
    finished = Journal(journal)
    finished.keep_only(results)  # without stale lines and the one that a kill cut short
    reasons: dict[str, str] = {}
    with (
        progress_bar(total=len(todo), desc=title, unit=unit) as progress,
        closing(work_through(function, todo, nj, journal.parent, progress.update, in_own_process)) as done,
    ):  # what stops this loop stops the workers
        for job, result, reason in done:
            progress.update()
            if reason:
                reasons[job.name] = reason
                continue
            results[job.name] = result
            finished.add(job.name, job.key, result)
    return {job.name: results[job.name] for job in jobs if job.name in results}, reasons


def work_through(
    function: Callable[[Any], Any],
    jobs: Sequence[Job],
    nj: int,
    shared: Path,
    tell: Callable[[int], object],
    in_own_process: bool = False,
    in_this_process: bool = False,
) -> Generator[tuple[Job, Any, str], None, None]:
    """Apply `function` to what each job gives: on the cluster that was chosen (`utils.data.cluster`), else on this machine.

    Args:
        function, jobs, nj, in_own_process: as in `run_jobs`; keys of the jobs are not looked at.
        shared: the folder of the outputs, or a file, that the workers of a cluster must see.
        tell: the `update` of a progress bar, which is told 0 while a cluster works and nothing is finished.
        in_this_process: on this machine one after the other, for a network that fills it.

    Yields:
        A job, its result, and the reason of its failure or "", as they are finished. Closing it ends the work.

    Raises:
        OSError: the system refuses what every job needs.
        UserError: the cluster cannot be used.
    """
    if jobs and chosen_cluster():
        return _on_cluster(function, jobs, nj, shared, tell)
    if in_this_process or (not in_own_process and (nj <= 1 or len(jobs) < 2)):
        return _serially(function, jobs)
    return _in_processes(function, jobs, nj)


def pending(jobs: Sequence[Job], journal: Path) -> tuple[list[Job], dict[str, Any]]:
    """The jobs that are still to do, and the results of the others."""
    known = Journal(journal).entries
    todo, results = [], {}
    for job in jobs:
        key, result = known.get(job.name, (None, None))
        if key == job.key and all(path.is_file() for path in job.outputs):
            results[job.name] = result
        else:
            todo.append(job)
    return todo, results


def _serially(function: Callable, jobs: Sequence[Job]) -> Generator[tuple[Job, Any, str], None, None]:
    for job in jobs:
        yield job, *_guarded(function, job.given)


def _on_cluster(
    function: Callable, jobs: Sequence[Job], nj: int, shared: Path, tell: Callable[[int], object]
) -> Generator[tuple[Job, Any, str], None, None]:
    done = open_cluster(nj).work(partial(_guarded, function), [job.given for job in jobs], shared, tell)
    with closing(done):
        for index, outcome, death in done:
            yield jobs[index], *((None, death) if death else outcome)
    _remove_leftovers(jobs)  # of workers that died


def _in_processes(function: Callable, jobs: Sequence[Job], nj: int) -> Generator[tuple[Job, Any, str], None, None]:
    """Yield results as they come; after a crash a new pool goes on with what was not in work."""
    waiting = list(jobs)[::-1]
    while waiting:
        suspects: list[Job] = []
        running: dict[Future, Job] = {}
        with _open_pool(min(nj, len(waiting))) as pool:
            try:
                while waiting or running:
                    # no queue: a crash makes suspects only of those that were in work, and each of them is tried again by
                    # itself. A job waiting for each process was not faster with two of them and jobs of 10 or 50 ms.
                    while waiting and len(running) < nj:
                        running[pool.submit(_guarded, function, waiting[-1].given)] = waiting[-1]
                        waiting.pop()
                    ended = wait(running, return_when=FIRST_COMPLETED).done
                    for future in sorted(ended, key=lambda future: future.exception() is not None):  # what was done stays
                        outcome = future.result()
                        yield running.pop(future), *outcome
            except BrokenProcessPool:
                suspects = list(running.values())
            except BaseException:  # Ctrl-C, or whatever stops the reader of the results: nobody waits for what is in work
                _kill(pool)
                _remove_leftovers(running.values())
                raise
        _remove_leftovers(suspects)
        for job in suspects:
            yield job, *_in_own_process(function, job)


def _kill(pool: ProcessPoolExecutor) -> None:
    processes = list((pool._processes or {}).values())
    for process in processes:
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.join()


def _remove_leftovers(jobs: Iterable[Job]) -> None:
    for folder in {path.parent for job in jobs for path in job.outputs}:
        remove_leftovers(folder)


def _in_own_process(function: Callable, job: Job) -> tuple[Any, str]:
    with _open_pool(1) as pool:
        try:
            return pool.submit(_guarded, function, job.given).result()
        except BrokenProcessPool:
            return None, "the process that worked on it died (out of memory, or a crash in C code)"


def _open_pool(nj: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(nj, multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # the processes already fill the cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C the parent says what there is to say
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _guarded(function: Callable, given: Any) -> tuple[Any, str]:
    try:
        return function(given), ""
    except UserError as error:
        return None, str(error)
    except OSError as error:
        reason = "" if is_of_machine(error) else system_error(error)
        if not reason:
            raise
        return None, reason
