"""Errors that a user can act on, and how a program reports them.

A `UserError` is one line: the file, the row if there is one, what is wrong and the remedy. Programs run their `main`
under `run_cli`, so that a mistake of the user, or a refusal of the operating system, ends in that line and an exit code,
while a mistake of ours still shows its traceback.

Names are bytes for the system and text for us. One that is not UTF-8, or that holds a control character, cannot stand in
tables: `name_problem` says so wherever a folder is read, and the item is listed as failed. Paths on the command line that
are not UTF-8 are refused by `OptionParser`, so that no later place meets one.
"""

import argparse
import atexit
import contextlib
import errno
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import NoReturn

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # they end lines, or move a terminal's cursor
_NO_RIGHT = "make it accessible to you, or give another folder"
_REMEDIES = {
    errno.ENOSPC: "make room there; the same command goes on",
    errno.EDQUOT: "make room in your quota; the same command goes on",
    errno.EFBIG: "raise the limit (ulimit -f), or write to another file system; the same command goes on",
    errno.EROFS: "give a folder that can be written",
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.ENAMETOOLONG: "give shorter names",
    errno.ENOENT: "look whether it is still there",
    errno.ENOTDIR: "a part of this path is a file; give another one",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower --nj",
    errno.ENFILE: "this machine has too many files open; lower --nj",
    errno.ENOMEM: "lower --nj, or take a machine with more memory",
    errno.EIO: "the disk or network share fails; look at it, then run the same command",
    errno.ESTALE: "the network share has lost it; mount it again, then run the same command",
    errno.ENOTCONN: "the network share is gone; mount it again, then run the same command",
}
_OF_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class UserError(Exception):
    """Something the user can mend: a path, a value, a damaged file. Ends a program with exit code 1.

    Args:
        reason: what is wrong, and the remedy.
        path: the file or folder at fault; it stands in front of the reason. None: the reason names it, or there is none.
    """

    def __init__(self, reason: object = "", path: object = None) -> None:
        super().__init__(str(reason) if path is None else f"{path}: {reason}")
        self.path = path
        self.reason = str(reason)

    def reason_for(self, path: object) -> str:
        """The reason, for a row that names `path` itself: without the path if this is the one at fault."""
        return self.reason if self.path is not None and str(self.path) == str(path) else str(self)


class UsageError(UserError):
    """A call that can never work: an unknown option, a missing value. Ends a program with exit code 2."""


class WriteError(OSError):
    """The system refused to write a file: no room, no right. `filename` is the file that the user asked for."""


def system_error(error: OSError) -> str:
    """The refusal of the operating system as one line: the file, the reason, and the remedy where one is known.

    Returns:
        "" for an error without a file or a known remedy, which is more likely a mistake of ours.
    """
    remedy = _REMEDIES.get(error.errno, "")
    if not (error.errno and error.strerror) or (error.filename is None and not remedy):
        return ""
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{where}{error.strerror}" + (f"; {remedy}" if remedy else "")


def is_of_machine(error: OSError) -> bool:
    """Tell if an error would meet the next item just as well: what cannot be written is no fault of the item in work."""
    return isinstance(error, WriteError) or error.errno in _OF_MACHINE


def name_problem(name: str) -> str:
    """The reason why a name in a folder cannot stand in a table, "" if it can."""
    if printable(name) == name:
        return ""
    what = "holds a control character" if _CONTROL.search(name) else "is not UTF-8 (as from an old archive)"
    return f"the name {what}; rename the file or folder"


def printable(text: str) -> str:
    """A text in one line that can be written anywhere: control characters, and bytes that are not UTF-8, as `\\udcfc`."""
    text = _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    return text.encode("utf-8", "backslashreplace").decode()


class OptionParser(argparse.ArgumentParser):
    """An argument parser of the recipe's stage programs: `--max_failed` and `--max-failed` alike, one line on errors."""

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        given = sys.argv[1:] if args is None else list(args)
        for text in (*given, os.getcwd()):
            if text.encode("utf-8", "ignore").decode() != text:
                raise UserError(f"{printable(text)}: the path is not UTF-8; rename the folder or file, or give another")
        return super().parse_args([_underscored(arg) for arg in given], namespace)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message} (see --help)")


def _underscored(arg: str) -> str:
    """`--max-failed=3` -> `--max_failed=3`; values are left alone, such as the words of `--train_args`."""
    if not re.match(r"--[A-Za-z][\w-]*(=|$)", arg):
        return arg
    name, sign, value = arg.partition("=")
    return "--" + name[2:].replace("-", "_") + sign + value


def flag(text: str) -> bool:
    """The value of a yes/no option, for `OptionParser.add_argument(type=flag)`.

    Raises:
        argparse.ArgumentTypeError: the text is neither true nor false.
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")


def at_least(least: int) -> Callable[[str], int]:
    """A reader of whole numbers that are not below `least`, for `OptionParser.add_argument(type=at_least(1))`."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least {least}")
        return int(text)

    return number


def run_cli(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` as a program: log to stderr, turn a `UserError` or `OSError` into one line, exit with its code."""
    for stream in (sys.stdout, sys.stderr):  # PYTHONIOENCODING=ascii, as of cron, would end a program after its work
        stream.reconfigure(errors="backslashreplace")
    _provide_configuration_folder()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of fonts where its cache is new
    try:
        sys.exit(main() or 0)
    except UsageError as error:
        sys.exit(_report(error, 2))
    except UserError as error:
        sys.exit(_report(error, 1))
    except KeyboardInterrupt:
        sys.exit(_report("interrupted; the same command continues", 130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader is gone: nothing left to flush to
        sys.exit(1)
    except OSError as error:
        line = system_error(error)
        if not line:
            raise
        sys.exit(_report(line, 1))


def _report(message: object, code: int) -> int:
    print(f"error: {printable(str(message))}", file=sys.stderr)
    return code


def _provide_configuration_folder() -> None:
    """Give matplotlib a folder where the user has no home that could be written: it would fail, or complain."""
    if os.environ.get("MPLCONFIGDIR") or os.access(os.path.expanduser("~"), os.W_OK):
        return
    with contextlib.suppress(OSError):  # no temporary folder either: who needs one will say so
        os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="avsep-")  # workers inherit it
        atexit.register(shutil.rmtree, os.environ["MPLCONFIGDIR"], ignore_errors=True)
