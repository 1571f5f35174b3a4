"""Processes of the tools: chains of the recipe's programs, several at once, and measurements in a process of their own.

Each program of a chain writes to its log through `utils/stages/logged.py`, which also ends the program and its workers
when the process that runs this module is gone, even by `kill -9`.
"""

import logging
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from utils.errors import UserError

log = logging.getLogger(__name__)

LOGGED = Path(__file__).resolve().parents[1] / "stages" / "logged.py"
POLL_SEC = 0.1
END_SEC = 10.0


@dataclass(frozen=True)
class Chain:
    """Programs that run one after the other, as long as none fails.

    Attributes:
        name: for messages.
        log_dir: folder of the logs.
        commands: name of the log -> command.
    """

    name: str
    log_dir: Path
    commands: dict[str, list[str]]


def run_chains(chains: Sequence[Chain], jobs: int, threads: int) -> dict[str, str]:
    """Run every chain, `jobs` at a time, in the given order.

    Args:
        chains: with different names.
        jobs: chains that run at once.
        threads: CPU threads of each program.

    Returns:
        For each chain that failed, by its name, the program and its log's last line.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait for work leave the core to the other chains
        "AVSEP_RUN_PID": str(os.getpid()),  # logged.py ends what it runs when this process does
    }
    waiting, running, failures = list(chains), {}, {}
    try:
        with logging_redirect_tqdm(), tqdm(total=len(chains), disable=None, unit="run") as progress:
            while waiting or running:
                while waiting and len(running) < jobs:
                    chain = waiting.pop(0)
                    running[chain.name] = _follow(chain, environment)
                for name in list(running):
                    try:
                        next(running[name])
                    except StopIteration as end:
                        del running[name]
                        progress.update()
                        if end.value:
                            failures[name] = end.value
                            log.error("%s failed: %s", name, end.value)
                time.sleep(POLL_SEC if running else 0)
    finally:
        for follower in running.values():
            follower.close()
    return failures


def _follow(chain: Chain, environment: dict[str, str]) -> Generator[None, None, str]:
    """Run the programs of a chain, a step of this generator for each look at them; its value is what failed, or ""."""
    for name, command in chain.commands.items():
        path = chain.log_dir / f"{name}.log"
        log.info("%s: %s, log: %s", chain.name, name, path)
        process = subprocess.Popen(
            [sys.executable, str(LOGGED), name, *command], env=environment | {"AVSEP_LOG_DIR": str(chain.log_dir)},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while process.poll() is None:
                yield
        finally:
            _end(process)
        if process.returncode:
            return f"{name}: {_last_line(path)} (log: {path})"
    return ""


def _end(process: subprocess.Popen) -> None:
    """End a program that still runs; a training may take a step to notice."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SEC)
        except subprocess.TimeoutExpired:
            process.kill()  # what it runs dies with it
            process.wait()


def _last_line(path: Path) -> str:
    """The last line that the program itself printed; where it printed none, how it ended."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"no log ({error.strerror})"
    *before, last = [line for line in lines if line.strip()] or ["an empty log"]
    says_how_it_ended = last.startswith("# ")
    return before[-1] if says_how_it_ended and before and not before[-1].startswith("# ") else last.removeprefix("# ")


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process, where peak memory is that of the function.

    Raises:
        UserError: the process was killed; what the function raises comes through as it is.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise UserError("the measuring process was killed, perhaps because memory ran out") from None


def peak_growth_bytes(run: Callable[[], Any]) -> int:
    """Growth of this process' resident memory at its peak while `run` runs; for a fresh process.

    Raises:
        UserError: this system does not tell (it is not Linux).
    """
    before = _resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here, not from the imports
    run()
    return max(_resident_bytes("VmHWM") - before, 0)


def _resident_bytes(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (peak) of this process."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        raise UserError("/proc/self/status is missing; memory can only be measured on Linux") from None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
