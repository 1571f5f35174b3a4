"""A dask scheduler and its workers on this machine, each a process, for the tests of `--cluster`."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

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
