"""Helpers for the tests of machines and folders: rights that hold for root, small disks, programs of a few lines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from shell_helpers import ROOT, bash

LATIN_1 = os.fsdecode(b"gr\xfc\xdfe")
TRACKED = subprocess.run(["git", "ls-files", "*.sh", ".ci/run"], cwd=ROOT, capture_output=True, text=True).stdout.split()
SCRIPTS = TRACKED or [str(path.relative_to(ROOT)) for path in ROOT.glob("**/*.sh") if ".venv" not in path.parts]


def unprivileged(*command: object) -> list[str]:
    """A command for whose process rights of files hold, also where the tests run as root. Skips where that cannot be had."""
    words = [str(word) for word in command]
    if os.geteuid() != 0:
        return words
    if subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode:
        pytest.skip("the tests run as root, and this machine has no user namespaces: nothing is read-only for root")
    return ["unshare", "--user", *words]


def on_small_disk(folder: Path, size: str, *command: object) -> list[str]:
    """A command that finds a small disk at `folder`; nobody else sees it, and it goes with the command."""
    mount = ["unshare", "--mount", "bash", "-c", 'mount -t tmpfs -o "size=$2" none "$1" && shift 2 && exec "$@"', "mount"]
    if subprocess.run([*mount, str(folder), size, "true"], capture_output=True).returncode:
        pytest.skip("no file systems can be mounted here")
    return [*mount, str(folder), size, *map(str, command)]


def read_only(folder: Path) -> Path:
    """Take away the right to write into a folder and all below it, not that to the files there."""
    for path in (folder, *filter(Path.is_dir, folder.rglob("*"))):
        path.chmod(0o555)
    return folder


def touch_all(folder: Path, *names: str) -> Path:
    """A folder with these empty files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def run_main(body: str, *words: str, before: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess:
    """A program of the recipe whose `main` does this."""
    code = "from utils.errors import OptionParser, UserError, run_cli\nimport os, sys, logging\n"
    code += f"def main():\n    {body}\nrun_cli(main)"
    return bash(*before, sys.executable, "-c", code, *words, cwd=ROOT, **environment)
