"""Chains of stages, several at once, each stage with its log.

Each program runs under `utils/stages/logged.py`, which also ends it and its workers when the process that runs this
module is gone, even by `kill -9`.
"""

import asyncio
import logging
import os
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.contrib.logging import logging_redirect_tqdm

from utils.data.progress import progress_bar

log = logging.getLogger(__name__)

LOGGED = Path(__file__).resolve().parents[1] / "stages" / "logged.py"
END_SEC = 10.0


class Chain(NamedTuple):
    """Programs that run one after the other, as long as none fails."""

    name: str  # for messages
    log_dir: Path
    commands: dict[str, list[str]]  # by the name of the log


def stage(name: str, **options: Any) -> list[str]:
    """The command of a stage's program; an option that is None is not given."""
    given = [f"--{key}={value}" for key, value in options.items() if value is not None]
    return [sys.executable, "-m", f"utils.stages.{name}", *given]


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
    return asyncio.run(_run_all(chains, jobs, environment))


async def _run_all(chains: Sequence[Chain], jobs: int, environment: dict[str, str]) -> dict[str, str]:
    failures: dict[str, str] = {}
    turns = asyncio.Semaphore(jobs)

    async def run(chain: Chain) -> None:
        async with turns:
            chain.log_dir.mkdir(parents=True, exist_ok=True)  # what is refused before it writes anything is in the log, too
            for name, command in chain.commands.items():
                path = chain.log_dir / f"{name}.log"
                log.info("%s: %s, log: %s", chain.name, name, path)
                there = environment | {"AVSEP_LOG_DIR": str(chain.log_dir)}
                if await _exit_code([sys.executable, str(LOGGED), name, *command], there):
                    failures[chain.name] = f"{name}: {_last_line(path)} (log: {path})"
                    log.error("%s failed: %s", chain.name, failures[chain.name])
                    break
        progress.update()

    with logging_redirect_tqdm(), progress_bar(total=len(chains), unit="run") as progress:
        await asyncio.gather(*map(run, chains))
    return failures


async def _exit_code(command: list[str], environment: dict[str, str]) -> int:
    """Wait for a program; end it where this process is interrupted meanwhile."""
    quiet = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
    process = await asyncio.create_subprocess_exec(*command, env=environment, **quiet)
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), END_SEC)  # a training may take a step to notice
            except TimeoutError:
                process.kill()  # what it runs dies with it


def _last_line(path: Path) -> str:
    """The last line that the program itself printed; where it printed none, how it ended."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"no log ({error.strerror})"
    *before, last = [line for line in lines if line.strip()] or ["an empty log"]
    says_how_it_ended = last.startswith("# ")
    return before[-1] if says_how_it_ended and before and not before[-1].startswith("# ") else last.removeprefix("# ")
