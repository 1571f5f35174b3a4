"""Run a program, show what it prints, keep a copy in a log, and end what it started when it has to end.

    python3 utils/stages/logged.py exp/a/log/3_train.log python3 -m utils.stages.train --exp_dir exp/a ...
    python3 utils/stages/logged.py --stage 3_train python3 -m utils.stages.train --exp_dir exp/a ...

With --stage the log is log/<stage>.log in the folder that the stage writes to: --out_dir, --exp_dir or --data_dir of the
command. It begins when that folder exists, so that a call that is refused writes nothing.

Unlike with `| tee`, a program on a terminal finds a terminal (progress bars stay; the log gets their last state), its exit
code is kept, and when run.sh is killed, even by `kill -9`, the program and its workers end too. A log that cannot be
written any more does not end the program. Standard library only, so that it starts in milliseconds.
"""

import contextlib
import ctypes
import fcntl
import os
import pty
import re
import selectors
import shlex
import signal
import subprocess
import sys
import termios
import time
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_POLL_SEC = 0.5
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux' prctl


class Log:
    """A log file: begun once the folder above its own exists, given up with a word when it cannot be written any more."""

    def __init__(self, path: Path, first_line: str) -> None:
        self.path = path
        self.file: BinaryIO | None = None
        self.waiting = f"\n{first_line}\n".encode(errors="backslashreplace")
        self.is_whole = True

    def open(self) -> None:
        """Make the log and its folder."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (open until this process ends)
        print(f"log: {self.path}", file=sys.stderr, flush=True)

    def write(self, data: bytes = b"") -> None:
        """Append, or keep until the log can begin."""
        self.waiting += data
        if self.file is None and self.path.parent.parent.is_dir():
            self.open()
        try:
            while self.file and self.waiting and self.is_whole:
                self.waiting = self.waiting[self.file.write(self.waiting) :]
        except OSError as error:
            self.is_whole = False
            print(f"{self.path}: {error.strerror}; what follows is not in the log", file=sys.stderr, flush=True)


class LogLines:
    """Writes lines to the log as a terminal would leave them: what a carriage return overwrote is dropped."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.rest = b""

    def write(self, data: bytes) -> None:
        """Take a piece of output; whole lines go to the log."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.log.write(b"".join(_as_shown(line) + b"\n" for line in lines))
        head, mark, tail = self.rest.rpartition(b"\r")
        if mark and tail:
            self.rest = tail

    def close(self) -> None:
        """Write what had no newline yet."""
        if _as_shown(self.rest):
            self.write(b"\n")


def _as_shown(line: bytes) -> bytes:
    return _ESCAPES.sub(b"", line.rstrip(b"\r").rpartition(b"\r")[2]).rstrip()


def run_logged(log: Log, command: list[str]) -> int:
    """Run `command` with its output shown and appended to the log.

    Returns:
        Its exit code; 128 + n where signal n ended it.
    """
    stdout_end, stdout_slave = _channel(1)
    together = os.path.sameopenfile(1, 2)
    stderr_end, stderr_slave = (stdout_end, stdout_slave) if together else _channel(2)
    parent = _run_sh()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # workers whose parent died become our children, so that they can be found
    die_with_us = partial(_prctl, _PR_SET_PDEATHSIG, signal.SIGKILL)
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout_slave, stderr=stderr_slave, preexec_fn=die_with_us
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the program by itself; its last words are still read
    signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))

    targets = {stdout_end: (1, LogLines(log)), stderr_end: (2, LogLines(log))}
    for slave in {stdout_slave, stderr_slave}:
        os.close(slave)
    with selectors.DefaultSelector() as selector:
        for end in targets:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(_POLL_SEC)
            log.write()
            for key, _ in ready:
                if not _copy(key.fd, *targets[key.fd]):
                    selector.unregister(key.fd)
            program_ended = not ready and child.poll() is not None
            run_was_killed = parent is not None and os.getppid() != parent
            if program_ended or run_was_killed:
                _kill_descendants()
    for _, lines in targets.values():
        lines.close()
    code = child.wait()
    _kill_descendants()
    return code if code >= 0 else 128 - code


def _channel(like: int) -> tuple[int, int]:
    """(our end, the program's end) of a pseudo terminal if `like` is a terminal, else of a pipe."""
    if not os.isatty(like):
        return os.pipe()
    ours, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST  # "\n" stays "\n": the real terminal does the translation
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, fcntl.ioctl(like, termios.TIOCGWINSZ, bytes(8)))
    return ours, theirs


def _copy(source: int, target: int, lines: LogLines) -> bool:
    """Pass on what can be read; False at the end of the stream."""
    try:
        data = os.read(source, 65536)
    except OSError:  # of a pseudo terminal to which nobody writes any more
        return False
    lines.write(data)
    view = memoryview(data)
    with contextlib.suppress(OSError):  # nobody looks any more (a closed terminal, `| head`): the log goes on
        while view:
            view = view[os.write(target, view) :]
    return bool(data)


def _run_sh() -> int | None:
    """The process id of the run.sh that started us, if one did; a stage started on its own may outlive its shell."""
    parent = os.getppid()
    return parent if os.environ.get("AVSEP_RUN_PID") == str(parent) else None


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _kill_descendants() -> None:
    """Kill all that we started and all that they started, workers that were left behind included."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            parent = stat.read_bytes().rpartition(b")")[2].split()[1]  # names of processes are any bytes
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [os.getpid()]
    for number in found:
        found += children.get(number, [])
    for pid in found[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def stage_log(stage: str, words: list[str]) -> Path | None:
    """The log of a stage, from the options of its program; None where they name no folder."""
    given = {}
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        name, sign, value = word.partition("=")
        given[name.replace("-", "_")] = value if sign else following
    folders = [given[name] for name in ("__out_dir", "__exp_dir", "__data_dir") if given.get(name)]
    if not folders and stage == "0_prepare":
        folders = [f"data/{given.get('__corpus') or 'demo'}"]
    return Path(folders[0], "log", f"{stage}.log") if folders else None


def main() -> int:
    """Run the command line of the module's docstring."""
    if sys.argv[1] == "--stage":
        command = sys.argv[3:]
        path = stage_log(sys.argv[2], command)
        if path is None or "--help" in command or "-h" in command:
            os.execvp(command[0], command)
    else:
        path, command = Path(sys.argv[1]), sys.argv[2:]
    log = Log(path, f"# {time.strftime('%F %T')} {shlex.join(command)}")
    try:
        if sys.argv[1] != "--stage":
            log.open()
        log.write()
        code = run_logged(log, command)
    except OSError as error:
        reason = f"{error.filename or path}: {error.strerror}"
        print(f"error: {reason}; the log goes there: give a folder that can be written", file=sys.stderr)
        return 1
    log.write(f"# {time.strftime('%F %T')} exit code {code}\n".encode())
    if code and log.file and _run_sh() is None:
        print(f"{path.stem} failed (exit code {code}); log: {path}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
