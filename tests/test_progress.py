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


def run(program: str = PROGRAM, **environment: str) -> str:
    how = {"cwd": ROOT, "env": os.environ | environment, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.check_output([sys.executable, "-c", program], **how)


def test_what_is_no_terminal_gets_a_line_for_each_interval_and_none_of_what_is_quick():
    lines = run(AVSEP_PROGRESS_SEC="0.25").splitlines()
    assert 1 <= len(lines) <= 3 and all(re.match(r"long: +\d+% \d/8 \[00:0", line) for line in lines)
    assert run() == ""


def test_what_goes_on_is_shown_between_items_and_leaves_the_rate_as_it_is():
    program = (
        "import time; from utils.data.progress import progress_bar\n"
        "with progress_bar(total=4, desc='slow') as bar:\n"
        "    for k in range(16): time.sleep(0.1); bar.update(int(k % 4 == 3))\n"
    )
    lines = run(program, AVSEP_PROGRESS_SEC="0.05").splitlines()
    assert sum(" 0/4 [" in line for line in lines) >= 3 and sum(" 2/4 [" in line for line in lines) >= 3
    rate = re.search(r" 3/4 \[.*, +([\d.]+)(it/s|s/it)\]", lines[-2])  # one in 0.4 s
    assert rate and (float(rate[1]) < 4 if rate[2] == "it/s" else float(rate[1]) >= 0.25)


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
