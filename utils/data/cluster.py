"""Where jobs run beyond this machine: on the workers of an engine, `--cluster dask://HOST:PORT` or `--cluster slurm`.

A program names the engine once (`use_cluster`); `utils.data.jobs.work_through`, which all jobs pass, then gives them to its
workers instead of to processes of its own. The choice is a variable of the environment, so that programs that are started
by programs (`egs/<corpus>/prepare.py`) have it, too. An engine is opened with the first job, once in a process. See
docs/cluster.md; the packages are those of requirements-cluster.txt.

Jobs travel as bytes that only workers read, after they were found fit: of one thread, with the recipe, the packages and
the Python of this process, and with the output folder in sight. Short jobs travel together.
"""

import argparse
import atexit
import functools
import importlib.metadata
import logging
import os
import platform
import queue
import re
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.data.files import temporary_file
from utils.data.fingerprints import hash_contents
from utils.environment import ROOT, add_missing, requirements
from utils.errors import UserError

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

log = logging.getLogger(__name__)

CLUSTER_NAME = "AVSEP_CLUSTER"
"""Variable of the environment: the engine that `use_cluster` chose."""
WAIT_NAME = "AVSEP_CLUSTER_WAIT_SEC"
"""Variable of the environment: seconds after which a cluster without any worker is given up."""
DIED = "the workers that worked on it died (out of memory, or a crash in C code)"
"""Why there is no result of a job whose workers died, also when it was done by itself."""
_WAIT_SEC = 600.0
_CONNECT_SEC = 10.0
_LOOK_SEC = 2.0  # between two looks at the workers
_VISIBLE_SEC = 5.0  # until a new file must be seen on another machine: network file systems ask only now and then
_TASK_SEC = 0.5  # short jobs are sent together, as many as take so long: a task costs this process 2 ms
_LONGEST_TASK = 100  # jobs
_SLURM = "slurm"


def add_cluster_option(parser: argparse.ArgumentParser) -> None:
    """The option `--cluster` of a stage's program; its value is for `use_cluster`."""
    text = "run jobs on an engine: dask://HOST:PORT, or slurm with --nj workers; empty: on this machine"
    parser.add_argument("--cluster", type=_engine, default="", help=text)


def _engine(text: str) -> str:
    if text and text != _SLURM and not re.fullmatch(r"dask://[^/\s]+:[0-9]+", text):
        raise argparse.ArgumentTypeError(f"'{text}' is neither dask://HOST:PORT nor slurm")
    return text


def use_cluster(engine: str) -> None:
    """Let all jobs of this process, and of programs that it starts, run on an engine; "" changes nothing."""
    if engine:
        os.environ[CLUSTER_NAME] = engine


def chosen_cluster() -> str:
    """The engine that was chosen, "" for this machine."""
    return os.environ.get(CLUSTER_NAME, "")


# Workers


@dataclass(frozen=True)
class _Place:
    """What a worker must have in common with the process that sends jobs."""

    state: tuple[tuple[str, str], ...]  # of `_state`
    folder: str  # that relative paths start from
    probe: str  # a file that it must see


class _UnfitError(UserError):
    """A worker that lacks something; it is no fault of the job that it got."""


@functools.cache
def _state() -> tuple[tuple[str, str], ...]:
    """The recipe and its packages, as this process found them when it was first asked."""
    code = [path for room in ("utils", "local_models", "egs") for path in ROOT.joinpath(room).rglob("*.py")]
    facts = {"Python": platform.python_version(), "the recipe's folder": str(ROOT), "the recipe's code": hash_contents(code)}
    for name, _, _ in requirements(ROOT / "requirements.txt"):
        with suppress(importlib.metadata.PackageNotFoundError):
            facts[name] = importlib.metadata.version(name)
    return tuple(facts.items())


@functools.lru_cache(maxsize=16)
def _is_visible(path: str) -> bool:
    end = time.monotonic() + _VISIBLE_SEC
    while not os.path.isfile(path):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def _make_fit(place: _Place, worker: "Worker") -> None:
    """Go to the folder of the jobs.

    Raises:
        _UnfitError: this worker lacks something.
    """
    ours = dict(_state())
    for name, value in place.state:
        if ours.get(name) != value:
            shown = [(text or "none")[:60] for text in (ours.get(name), value)]
            raise _UnfitError(f"{name} is {shown[0]} there and {shown[1]} here; start it again, by the recipe's path.sh")
    if worker.state.nthreads != 1 or os.environ.get("OMP_NUM_THREADS") != "1":
        raise _UnfitError("it has several threads; start it with OMP_NUM_THREADS=1 and --nthreads 1, a worker for each core")
    try:
        os.chdir(place.folder)
    except OSError:
        raise _UnfitError(f"there is no {place.folder} there; all machines must see it at the same path") from None
    if not _is_visible(place.probe):
        raise _UnfitError(f"it does not see {os.path.dirname(place.probe)}; outputs must be on a file system that all share")


Outcomes = tuple[list[Any], Exception | None, float]  # of jobs until one raised, what it raised, seconds


def _work(worker: "Worker", place: _Place, function: Callable[[Any], Any], givens: Sequence[Any]) -> Outcomes:
    """The work of a task: some jobs, one after the other."""
    start_sec, outcomes, raised = time.monotonic(), [], None
    try:
        _make_fit(place, worker)
        for given in givens:
            outcomes.append(function(given))
    except _UnfitError as error:
        raised = error
    except Exception as error:
        error.add_note(traceback.format_exc())  # what travels has no traceback
        raised = error
    return outcomes, raised, time.monotonic() - start_sec


def _portable() -> Callable[..., Any]:
    """What starts the work of a task; it travels by value, so that neither scheduler nor worker must know the recipe for it."""

    def start(root: str, task: bytes, dask_worker: Any = None) -> Any:
        import pickle
        import sys

        from distributed import get_worker

        if root not in sys.path:
            sys.path.insert(0, root)
        return pickle.loads(task)(dask_worker or get_worker())

    return start


# The process that sends jobs


class Cluster:
    """Workers of an engine.

    Args:
        client: connected to its scheduler.
        name: as the user gave it.
    """

    def __init__(self, client: "Client", name: str) -> None:
        self._client, self._name = client, name
        self._start = _portable()
        self._wait_sec = float(os.environ.get(WAIT_NAME) or _WAIT_SEC)
        self._n_workers, self._looked_sec, self._seen_sec = 0, -_LOOK_SEC, time.monotonic()

    def work(
        self, function: Callable[[Any], Any], givens: Sequence[Any], shared: Path, tell: Callable[[int], object]
    ) -> Generator[tuple[int, Any, str], None, None]:
        """Apply `function` to each of `givens`; what stops the reader takes back what has not begun.

        Args:
            function: picklable.
            givens: picklable.
            shared: a file that the workers must see, or the folder of the outputs, for a file that is made there.
            tell: is told 0 every few seconds, and while nothing is finished, too.

        Yields:
            The place among `givens`, what the function returned, and "" or the reason why there is nothing: twice, the
            workers that had it died.

        Raises:
            UserError: a worker is unfit, there are no workers, or the scheduler is lost.
            Exception: the first that `function` raised, after what was finished was given.
        """
        with nullcontext(shared) if shared.is_file() else temporary_file(shared) as probe:
            place = _Place(_state(), os.getcwd(), str(probe.absolute()))
            self._check(place)
            yield from self._work(functools.partial(_work, place=place, function=function), givens, tell)

    def _work(
        self, work: Callable, givens: Sequence[Any], tell: Callable[[int], object]
    ) -> Generator[tuple[int, Any, str], None, None]:
        waiting, suspects = list(range(len(givens)))[::-1], []
        running: dict[Future, list[int]] = {}
        ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        task_size, tried_again = 1, False
        try:
            while waiting or running or suspects:
                if not waiting and not running:  # only the suspects are left: one at a time, so that a death is its own
                    waiting, suspects, task_size, tried_again = suspects, [], 1, True
                n_workers = self._count_workers()
                while waiting and len(running) < (1 if tried_again else 2 * n_workers):
                    n_jobs = max(1, min(task_size, len(waiting) // (4 * n_workers)))
                    indices = [waiting.pop() for _ in range(n_jobs)]
                    future = self._submit(work, [givens[index] for index in indices])
                    running[future] = indices
                    future.add_done_callback(ended.put)
                raised = None
                tell(0)
                for future in _available(ended):
                    indices = running.pop(future)
                    outcome = self._outcome(future)
                    if outcome is None and tried_again:
                        yield indices[0], None, DIED
                    elif outcome is None:
                        suspects += indices
                    else:
                        outcomes, error, seconds = outcome
                        raised = raised or error
                        for index, result in zip(indices, outcomes, strict=False):
                            yield index, result, ""
                        if not tried_again:
                            task_size = _task_size(seconds, len(indices))
                if raised:
                    raise raised
        finally:
            with suppress(Exception):  # a lost scheduler has nothing to take back
                self._client.cancel(list(running))

    def _submit(self, work: Callable, givens: Sequence[Any]) -> "Future":
        from distributed.protocol.pickle import dumps

        task = dumps(functools.partial(work, givens=givens))
        return self._client.submit(self._start, str(ROOT), task, pure=False)

    def _outcome(self, future: "Future") -> Outcomes | None:
        """What a task gave; None where the workers that had it died."""
        from distributed import KilledWorker

        if future.cancelled():
            raise self._error("the scheduler is lost; start it and its workers again, then the same command goes on")
        error = future.exception()  # waits where a worker died with what it had finished, which is then done again
        if error is None:
            return future.result()
        if isinstance(error, KilledWorker):
            return None
        if isinstance(error, ImportError):
            raise self._error(_lack(error))
        raise error

    def _count_workers(self) -> int:
        """The workers there are, at least 1: waits for the first.

        Raises:
            UserError: there are none for too long, or no scheduler.
        """
        told = False
        while time.monotonic() - self._looked_sec > _LOOK_SEC or not self._n_workers:
            self._n_workers, self._looked_sec = len(self._addresses()), time.monotonic()
            if self._n_workers:
                self._seen_sec = self._looked_sec
                break
            if self._looked_sec - self._seen_sec > self._wait_sec:
                raise self._error(f"has had no worker for {self._wait_sec:g} s ({WAIT_NAME}); start some: see docs/cluster.md")
            if not told:
                log.info("--cluster %s: waiting for workers", self._name)
                told = True
            time.sleep(min(_LOOK_SEC, self._wait_sec / 4))
        return self._n_workers

    def _addresses(self) -> list[str]:
        try:
            return list(self._client.nthreads())
        except (OSError, ValueError, TypeError):  # what the engine raises where the connection ends meanwhile
            raise self._error("the scheduler is lost; start it and its workers again, then the same command goes on") from None

    def _check(self, place: _Place) -> None:
        """Look at every worker that is there; those that come later look at themselves, with each task.

        Raises:
            UserError: one is unfit.
        """
        from distributed.protocol.pickle import dumps

        self._seen_sec = time.monotonic()
        self._count_workers()
        task = dumps(functools.partial(_work, place=place, function=None, givens=[]))
        found = self._client.run(self._start, str(ROOT), task, on_error="return")
        for address, outcome in sorted(found.items()):
            if isinstance(outcome, ImportError):
                raise self._error(f"worker {address}: {_lack(outcome)}")
            if isinstance(outcome, tuple) and outcome[1]:
                raise self._error(f"worker {address}: {outcome[1]}")
        log.info("--cluster %s: workers: %d", self._name, len(found))

    def _error(self, reason: object) -> UserError:
        return UserError(f"--cluster {self._name}: {reason}")


def _lack(error: ImportError) -> str:
    return f"a worker lacks the recipe or a package of it ({error}); start it by the recipe's path.sh, see docs/cluster.md"


def _available(ended: "queue.SimpleQueue[Future]") -> Iterator["Future"]:
    """The tasks that have ended; waits a little for the first."""
    with suppress(queue.Empty):
        yield ended.get(timeout=_LOOK_SEC)
        while True:
            yield ended.get_nowait()


def _task_size(seconds: float, n_jobs: int) -> int:
    """How many jobs the next task gets, if they take as long as those of the last one."""
    return int(min(_TASK_SEC * n_jobs / max(seconds, 1e-6), 2 * n_jobs, _LONGEST_TASK)) or 1


def open_cluster(nj: int) -> Cluster:
    """The engine that was chosen, opened once; it is closed when this process ends.

    Args:
        nj: workers to ask Slurm for the first time; those of a running scheduler are what they are.

    Raises:
        UserError: there is no such scheduler, or no Slurm.
    """
    name = chosen_cluster()
    if name not in _opened:
        _opened[name] = _open(name, nj)
    return _opened[name]


_opened: dict[str, Cluster] = {}


def _open(engine: str, nj: int) -> Cluster:
    add_missing("requirements-cluster.txt")
    import dask
    import distributed

    for name in ("distributed", "distributed.client"):  # what matters of their messages is said here, in one line
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    address = _slurm_cluster(dask.config, nj) if engine == _SLURM else engine.removeprefix("dask://")
    try:
        client = distributed.Client(address, timeout=_CONNECT_SEC, set_as_default=False)
    except OSError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"--cluster {engine}: no scheduler answers there ({reason}); see docs/cluster.md") from None
    atexit.register(client.close)
    client.forward_logging("utils", logging.WARNING)
    return Cluster(client, engine)


def _slurm_cluster(config: Any, nj: int) -> Any:
    """Workers that Slurm starts, and again where they end, with the options of the user's jobqueue.yaml.

    Raises:
        UserError: there is no Slurm, or the options lack something.
    """
    for command in ("sbatch", "scancel"):
        if shutil.which(command) is None:
            raise UserError(f"--cluster {_SLURM}: there is no {command} here; call this on a machine that may submit jobs")
    from dask_jobqueue import SLURMCluster

    options = {name: config.get(f"jobqueue.slurm.{name}", None) for name in ("cores", "memory", "job-script-prologue")}
    if not (options["cores"] and options["memory"]):
        where = f"{config.PATH}/jobqueue.yaml"
        raise UserError(f"--cluster {_SLURM}: {where} must say cores and memory of a job; see docs/cluster.md")
    prologue = [f"cd {shlex.quote(str(ROOT))}", ". ./path.sh", "export OMP_NUM_THREADS=1"]
    cluster = SLURMCluster(
        processes=options["cores"],  # a worker for each core
        python=shlex.quote(sys.executable),
        job_script_prologue=[*(options["job-script-prologue"] or []), *prologue],
    )
    atexit.register(cluster.close)
    cluster.adapt(minimum=nj, maximum=nj)
    return cluster
