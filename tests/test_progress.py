"""Progress: a bar on a terminal, lines elsewhere."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = (
    "import time; from utils.data import progress; progress._DELAY_SEC = 0.2\n"
    "for k in progress.progress_bar(range(8), desc='long', unit='frame'): time.sleep(0.1)\n"
    "for k in progress.progress_bar(range(8), desc='short'): pass\n"
)


def run(**environment: str) -> str:
    how = {"cwd": ROOT, "env": os.environ | environment, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.check_output([sys.executable, "-c", PROGRAM], **how)


def test_what_is_no_terminal_gets_a_line_for_each_interval_and_none_of_what_is_quick():
    lines = run(AVSEP_PROGRESS_SEC="0.25").splitlines()
    assert 1 <= len(lines) <= 3 and all(re.match(r"long: +\d+% \d/8 \[00:0", line) for line in lines)
    assert run() == ""


def test_a_terminal_gets_a_bar_of_what_takes_long():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stderr=theirs, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # nobody writes any more
                break
    os.close(ours)
    assert process.returncode == 0
    assert b"\rlong: 100%|" in shown and b"8/8" in shown and b"short" not in shown
