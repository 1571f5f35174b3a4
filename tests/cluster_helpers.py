"""A dask scheduler and its workers on this machine, each a process, and jobs for them: for the tests of `--cluster`.

Imports nothing heavy, as every worker imports this.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from utils.data.jobs import Job
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


class LocalEngine:
    """A scheduler, and workers that are started again where they die.

    Args:
        folder: where the processes work, away from the recipe; gets their logs.
        n_workers: worker processes to begin with.
        environment: more variables of theirs.
    """

    def __init__(self, folder: Path, n_workers: int, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
        allowed = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
        tests = {"PYTHONPATH": str(ROOT / "tests")}  # for functions of tests; the recipe is found without
        self.environment = {**os.environ, **threads, **allowed, **tests, **(environment or {})}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.name = f"dask://127.0.0.1:{self.port}"
        self.processes: list[subprocess.Popen] = []
        self.scheduler = self._run("dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port))
        if n_workers:
            self.add_workers(n_workers)

    def add_workers(self, count: int, n_threads: int = 1, *more: str) -> subprocess.Popen:
        """Start workers of a process each; gives the process that watches over them."""
        options = ["--nworkers", str(count), "--nthreads", str(n_threads), "--local-directory", str(self.folder), *more]
        return self._run("dask_worker", f"tcp://127.0.0.1:{self.port}", *options)

    def _run(self, program: str, *words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.{program}", *words, "--no-dashboard"]
        with open(self.folder / f"{program}.log", "ab") as file:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=file, stderr=file)
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End all of them."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGINT)
        end = time.monotonic() + 5
        for process in reversed(self.processes):
            try:
                process.wait(max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def work(given: tuple[str, str]) -> dict:
    what, path = given
    Path(path).parent.mkdir(exist_ok=True)
    if what == "fail":
        raise UserError("it cannot be done")
    if what == "die":
        Path(path).with_name(".tmp-half").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    Path(path).write_text(what, encoding="utf-8")
    return {"length": len(what), "pid": os.getpid()}


def slow_work(given: tuple[str, str]) -> dict:
    time.sleep(0.3)
    return work(given)


def slowest_work(given: tuple[str, str]) -> dict:
    time.sleep(1)
    return work(given)


def mistaken(given: tuple[str, str]) -> dict:
    return {"inverse": 1 / (given[0] != "mistake")} | work(given)


def jobs(folder: Path, *whats: str) -> list[Job]:
    return [Job(f"job{k:02}", what, (folder / f"out/{k}",), (what, str(folder / f"out/{k}"))) for k, what in enumerate(whats)]
