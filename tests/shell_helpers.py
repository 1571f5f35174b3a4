"""Helpers for the tests of the shell scripts: a copy of the scripts whose Python is a stub, and how to call them."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("run.sh", "path.sh", "requirements.txt", "utils/*.sh", "utils/environment.py", "utils/stages/*.sh",
           "utils/stages/logged.py", "conf/*.yml")  # fmt: skip

# Stands for .venv/bin/python3: notes its arguments in calls.txt instead of running a stage, says something on both
# streams and ends with the exit code that the file exit_code holds. Only logged.py, the preflight of training and what fetches
# networks are run.
STUB = """#!/usr/bin/env bash
case "$*" in
    *logged.py*) exec {python} "$@" ;;
    *utils.training.preflight* | *utils.tools.fetch*) PYTHONPATH={here} exec {python} "$@" ;;
esac
printf '%s\\n' "$*" >>"{root}/calls.txt"
echo "to stdout"
echo "to stderr" >&2
exit "$(cat "{root}/exit_code" 2>/dev/null || echo 0)"
"""


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of a user who has activated nothing."""
    dropped = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "AVSEP_ENVIRONMENT",
               "AVSEP_RUN_PID", "AVSEP_LOG_DIR", "SLURM_SUBMIT_DIR")  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    venv_bin = str(ROOT / ".venv" / "bin")
    kept["PATH"] = os.pathsep.join(folder for folder in kept["PATH"].split(os.pathsep) if folder != venv_bin)
    return kept | more


def bash(*command: object, cwd: Path, timeout_sec: float = 60, **environment: str) -> subprocess.CompletedProcess:
    """Run a script or command to its end, in a process group of its own that never outlives the call."""
    process = subprocess.Popen(
        [str(word) for word in command], cwd=cwd, env=clean_environment(**environment), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        stdout, stderr = process.communicate(timeout=timeout_sec)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def write_script(path: Path, text: str) -> Path:
    """Write an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def copy_scripts(root: Path) -> Path:
    """Copy the scripts below `root`, without any environment."""
    for pattern in SCRIPTS:
        for source in ROOT.glob(pattern):
            target = root / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return root


def copy_recipe(root: Path) -> Path:
    """Copy the scripts below `root` with a finished .venv whose Python is the stub, and a corpus `toy` to prepare."""
    copy_scripts(root)
    write_script(root / ".venv/bin/python3", STUB.format(python=sys.executable, root=root, here=ROOT))
    requirements = (root / "requirements.txt").read_bytes()
    (root / ".venv/.requirements").write_text(hashlib.sha256(requirements).hexdigest() + "\n", encoding="utf-8")
    for name in ("egs/toy/prepare.py", "egs/demo/prepare.py", "egs/demo/lipreader.pth.tar", "weights.pth"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def calls(root: Path) -> list[str]:
    """The arguments of every program that the stub ran."""
    path = root / "calls.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def wait_until(condition: Callable[[], bool], timeout_sec: float = 120) -> bool:
    """Poll a condition; its last value."""
    deadline = time.monotonic() + timeout_sec
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
