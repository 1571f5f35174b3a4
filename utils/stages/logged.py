"""Run a program, show what it prints, keep a copy in a log, and end what it started when it has to end.

    python3 utils/stages/logged.py 3_train python3 -m utils.stages.train --exp_dir exp/a ...

The log is log/3_train.log in the folder that the program writes to, --out_dir, --exp_dir or --data_dir of its options, or
3_train.log in $AVSEP_LOG_DIR. It begins when the folder exists, so that a call that is refused writes nothing.

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
from itertools import zip_longest
from pathlib import Path

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_POLL_SEC = 0.5
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux' prctl


def log_path(name: str, words: list[str]) -> Path | None:
    """The log of a program with these options; None where they name no folder."""
    if os.environ.get("AVSEP_LOG_DIR"):
        return Path(os.environ["AVSEP_LOG_DIR"], f"{name}.log")
    given = {}
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        option, sign, value = word.partition("=")
        given[option.replace("-", "_")] = value if sign else following
    folders = [given[option] for option in ("__out_dir", "__exp_dir", "__data_dir") if given.get(option)]
    if not folders and name == "0_prepare":
        folders = [f"data/{given.get('__corpus') or 'demo'}"]
    return Path(folders[0], "log", f"{name}.log") if folders else None


class Log:
    """A log with its lines as a terminal would leave them: what a carriage return overwrote is dropped."""

    def __init__(self, path: Path, first_line: str) -> None:
        self.path, self.file, self.is_whole = path, None, True
        self.waiting = f"\n{first_line}\n".encode(errors="backslashreplace")
        self.line_ends: dict[int, bytes] = {}  # of each stream, what had no newline yet

    def take(self, stream: int, data: bytes) -> None:
        """Take a piece of what was printed."""
        *lines, rest = (self.line_ends.get(stream, b"") + data).split(b"\n")
        for line in lines:
            self.waiting += _ESCAPES.sub(b"", line.rstrip(b"\r").rpartition(b"\r")[2]).rstrip() + b"\n"
        overwritten, _, shown = rest.rpartition(b"\r")
        self.line_ends[stream] = shown or overwritten

    def write(self) -> None:
        """Write what is waiting, once the folder above the log's own exists."""
        if self.file is None and self.path.parent.parent.is_dir():
            self.path.parent.mkdir(exist_ok=True)
            self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (open until this process ends)
            print(f"log: {self.path}", file=sys.stderr, flush=True)
        try:
            while self.file and self.waiting and self.is_whole:
                self.waiting = self.waiting[self.file.write(self.waiting) :]
        except OSError as error:
            self.is_whole = False
            print(f"{self.path}: {error.strerror}; what follows is not in the log", file=sys.stderr, flush=True)


def run_logged(log: Log, command: list[str]) -> int:
    """Run `command` with its output shown and logged; gives its exit code, 128 + n where signal n ended it."""
    streams = {1: _channel(1)}
    streams[2] = streams[1] if os.path.sameopenfile(1, 2) else _channel(2)
    parent = _run_sh()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # workers whose parent died become our children, so that they can be found
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=streams[1][1], stderr=streams[2][1],
        preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
    )  # fmt: skip
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the program by itself; its last words are still read
    signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    for slave in {theirs for _, theirs in streams.values()}:
        os.close(slave)
    with selectors.DefaultSelector() as selector:
        for ours, stream in {streams[stream][0]: stream for stream in (2, 1)}.items():
            selector.register(ours, selectors.EVENT_READ, stream)
        while selector.get_map():
            ready = selector.select(_POLL_SEC)
            for key, _ in ready:
                if not _copy(key.fd, key.data, log):
                    selector.unregister(key.fd)
            log.write()
            if (not ready and child.poll() is not None) or (parent is not None and os.getppid() != parent):
                _kill_descendants(os.getpid())  # the program has ended, or run.sh was killed
    for stream, rest in list(log.line_ends.items()):
        log.take(stream, b"\n" if rest else b"")
    code = child.wait()
    _kill_descendants(os.getpid())
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


def _copy(source: int, stream: int, log: Log) -> bool:
    """Show and log what can be read; False at the end."""
    try:
        data = os.read(source, 65536)
    except OSError:  # of a pseudo terminal to which nobody writes any more
        return False
    log.take(stream, data)
    view = memoryview(data)
    with contextlib.suppress(OSError):  # nobody looks any more (a closed terminal, `| head`): the log goes on
        while view:
            view = view[os.write(stream, view) :]
    return bool(data)


def _run_sh() -> int | None:
    """The process id of the run.sh that started us, if one did; a stage started on its own may outlive its shell."""
    parent = os.getppid()
    return parent if os.environ.get("AVSEP_RUN_PID") == str(parent) else None


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _kill_descendants(pid: int) -> None:
    """Kill all that a process started and all that they started, workers that were left behind included."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):  # of each thread
        with contextlib.suppress(OSError):  # gone meanwhile
            for child in map(int, children.read_text().split()):
                _kill_descendants(child)
                os.kill(child, signal.SIGKILL)


def main() -> int:
    """Run the command line of the module's docstring."""
    name, *command = sys.argv[1:]
    path = log_path(name, command)
    if path is None or "--help" in command or "-h" in command:
        os.execvp(command[0], command)
    log = Log(path, f"# {time.strftime('%F %T')} {shlex.join(command)}")
    try:
        log.write()
        code = run_logged(log, command)
        log.waiting += f"# {time.strftime('%F %T')} exit code {code}\n".encode()
        log.write()
    except OSError as error:
        reason = f"{error.filename or path}: {error.strerror}"
        print(f"error: {reason}; the log goes there: give a folder that can be written", file=sys.stderr)
        return 1
    if code and log.file and _run_sh() is None:
        print(f"{name} failed (exit code {code}); log: {path}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
