"""Errors that a user can act on, and how a program reports them.

A `UserError` is one line: the file, the row if there is one, what is wrong and the remedy. Programs run their `main`
under `run_cli`, so that a mistake of the user ends in that line and an exit code, while a mistake of ours still shows
its traceback.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """Something the user can mend: a path, a value, a damaged file. Ends a program with exit code 1."""


class UsageError(UserError):
    """A call that can never work: an unknown option, a missing value. Ends a program with exit code 2."""


class OptionParser(argparse.ArgumentParser):
    """An argument parser of the recipe's stage programs: `--max_failed` and `--max-failed` alike, one line on errors."""

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        given = sys.argv[1:] if args is None else list(args)
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


def run_cli(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` as a program: log to stderr, turn a `UserError` into one line, exit with its code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
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


def _report(message: object, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
