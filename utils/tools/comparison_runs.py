"""Runs chains of programs, several chains at once, and ends them when it has to end itself.

Each program writes to a log of its own through `utils/stages/logged.py`, which also ends the program and its workers
when the process that runs this module is gone, even by `kill -9`.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

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
            [sys.executable, str(LOGGED), str(path), *command], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
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
