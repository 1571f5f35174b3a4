"""Sections of a Markdown file that tools fill: each writes its own and leaves the rest of the file as it is.

A section `NAME` lies between the lines `<!-- begin NAME -->` and `<!-- end NAME -->`, which a browser does not show.
"""

import argparse
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from utils.data.files import write_text
from utils.data.reports import git_revision
from utils.errors import UsageError, UserError

_CPU_FILE = Path("/proc/cpuinfo")  # of Linux


def add_results_options(parser: argparse.ArgumentParser, section: str | None) -> None:
    """Add --results and --section; a section that cannot be one is refused before hours of measuring.

    Args:
        parser: of a program that has a table.
        section: the default name; None where it depends on other options, for `section_name` to check.
    """
    parser.add_argument("--results", type=Path, help="Markdown file that takes the table too")
    parser.add_argument("--section", type=section_name, default=section, help="its section for the table")


def section_name(text: str) -> str:
    """The text, which is the name of a section.

    Raises:
        UsageError: it cannot be one.
    """
    if not re.fullmatch(r"[\w.-]+", text):
        raise UsageError(f"section '{text}': a name has letters, digits, '-', '_' and '.' only; give another --section")
    return text


def publish(text: str, results: Path | None, section: str) -> None:
    """Print a report, and put it into its section of the file that --results names, if any."""
    print(text.rstrip("\n"), flush=True)
    if results:
        write_section(results, section, text)


def write_section(path: Path, name: str, text: str) -> None:
    """Put Markdown between the lines of a section, atomically; a file or section that is missing is made.

    Raises:
        UserError: the file is not text, the name cannot be one, or the file's section has no end or is listed twice.
    """
    begin, end = f"<!-- begin {section_name(name)} -->", f"<!-- end {name} -->"
    section = f"{begin}\n{text.strip()}\n{end}\n"
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
    except (UnicodeDecodeError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); name another file") from None
    counts = before.count(begin), before.count(end)
    if counts == (0, 0):
        gap = "" if not before or before.endswith("\n\n") else "\n" if before.endswith("\n") else "\n\n"
        write_text(path, before + gap + section)
        return
    head, _, rest = before.partition(begin)
    _, found, tail = rest.partition(end)
    if counts != (1, 1) or not found:
        raise UserError(
            f"{path}: section '{name}' needs one line '{begin}' and one '{end}' after it; there are {counts[0]} and "
            f"{counts[1]}; mend the file by hand"
        )
    write_text(path, head + section + tail.removeprefix("\n"))


def origin(
    program: str, threads: int, *facts: str, arguments: Sequence[str] | None = None, revisions: Sequence[str] = ()
) -> str:
    """Origin of a section's numbers as Markdown, for the end of the section.

    Args:
        program: what `python -m` was given, e.g. `utils.tools.comparison`.
        threads: CPU threads of a process.
        facts: more lines, such as the seeds and the budget.
        arguments: of the command that makes the numbers again; None: those of this process.
        revisions: commits that made the numbers; none: the one that is checked out.
    """
    command = shlex.join(["python", "-m", program, *(sys.argv[1:] if arguments is None else arguments)])
    date = datetime.now().astimezone().isoformat(timespec="minutes")
    lines = [*facts, f"command: `{command}`", f"date: {date}, git revision: {', '.join(revisions) or git_revision()}"]
    return "\n".join(f"- {line}" for line in [*lines, f"CPU: {cpu_name()}, threads: {threads}"]) + "\n"


def cpu_name() -> str:
    """The CPU's name as Linux gives it, else its kind."""
    cpus = _CPU_FILE.read_text(encoding="utf-8", errors="replace") if _CPU_FILE.exists() else ""
    found = re.search(r"^model name\s*: (.*)$", cpus, re.MULTILINE)
    return found[1] if found else platform.machine()
