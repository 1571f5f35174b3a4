"""Runs a program, shows what it prints and keeps a copy in a log file; ends what it started when it has to end.

    python3 utils/stages/logged.py exp/demo/log/3_train.log python3 -m utils.stages.train --conf conf/av_tfdprnn.yml

Reads nothing; appends stdout and stderr of the program to the log. Why not `| tee`: a program whose output goes to a
terminal still finds a terminal here, so progress bars stay (the log gets only their last state); the exit code is the
program's; and when run.sh is killed, even by `kill -9`, the program and its workers die with it instead of writing on
beside the next call. Where the log cannot be written any more (a full disk) the program goes on without it: it has its own
writes to tell of. Standard library only, so that it starts in milliseconds.
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
from pathlib import Path
from typing import BinaryIO

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_POLL_SEC = 0.5
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux' prctl


class Log:
    """The log file, unbuffered; one that cannot be written any more is given up with a word."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.is_whole = True

    def write(self, data: bytes) -> None:
        """Append."""
        try:
            while data and self.is_whole:
                data = data[self.file.write(data) :]
        except OSError as error:
            self.is_whole = False
            print(f"{self.path}: {error.strerror}; what follows is not in the log", file=sys.stderr, flush=True)


class LogLines:
    """Writes lines to the log as a terminal would leave them: what a carriage return overwrote is dropped."""

    def __init__(self, log: "Log") -> None:
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


def run_logged(log_path: Path, command: list[str]) -> int:
    """Run `command` with its output shown and appended to `log_path`.

    Returns:
        Its exit code; 128 + n where signal n ended it.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, "ab", buffering=0) as file:
        log = Log(log_path, file)
        print(f"log: {log_path}", file=sys.stderr, flush=True)
        log.write(f"\n# {time.strftime('%F %T')} {shlex.join(command)}\n".encode(errors="backslashreplace"))
        code = _relay(command, log)
        log.write(f"# {time.strftime('%F %T')} exit code {code}\n".encode())
    return code


def _relay(command: list[str], log: Log) -> int:
    stdout_end, stdout_slave = _channel(1)
    together = os.path.sameopenfile(1, 2)
    stderr_end, stderr_slave = (stdout_end, stdout_slave) if together else _channel(2)
    parent = _run_sh()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # workers whose parent died become our children, so that they can be found
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout_slave, stderr=stderr_slave, preexec_fn=_die_with_parent
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the program by itself; its last words are still read
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, lambda number, _: child.send_signal(number))

    targets = {stdout_end: (1, LogLines(log)), stderr_end: (2, LogLines(log))}
    for slave in {stdout_slave, stderr_slave}:
        os.close(slave)
    with selectors.DefaultSelector() as selector:
        for end in targets:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(_POLL_SEC)
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
    size = fcntl.ioctl(like, termios.TIOCGWINSZ, bytes(8))
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    return ours, theirs


def _copy(source: int, target: int, lines: LogLines) -> bool:
    """Pass on what is there; False at the end of the stream."""
    try:
        data = os.read(source, 65536)
    except OSError:  # how a pseudo terminal says that nobody writes any more
        return False
    lines.write(data)
    view = memoryview(data)
    with contextlib.suppress(OSError):  # nobody looks any more (a closed terminal, `| head`): the log goes on
        while view:
            view = view[os.write(target, view) :]
    return bool(data)


def _run_sh() -> int | None:
    """The process id of the run.sh that started us, if one did; a stage started alone may outlive its shell."""
    parent = os.getppid()
    return parent if os.environ.get("AVSEP_RUN_PID") == str(parent) else None


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_descendants() -> None:
    """Kill all that we started and all that they started, workers that were left behind included."""
    for pid in _descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            parent = stat.read_bytes().rpartition(b")")[2].split()[1]  # names of processes are any bytes
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [pid]
    for number in found:
        found += children.get(number, [])
    return found[1:]


def main() -> int:
    """Run the command line `logged.py LOG COMMAND...`."""
    log_path, command = Path(sys.argv[1]), sys.argv[2:]
    try:
        code = run_logged(log_path, command)
    except OSError as error:
        reason = f"{error.filename or log_path}: {error.strerror}"
        print(f"error: {reason}; the log goes there: give a folder that can be written", file=sys.stderr)
        return 1
    if code and _run_sh() is None:
        print(f"{log_path.stem} failed (exit code {code}); log: {log_path}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
