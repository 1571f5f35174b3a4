"""Parts of all reports of results: Markdown tables, and the revision of the code that the numbers were made with."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def markdown_table(rows: Sequence[Sequence[str]], n_left: int = 1) -> str:
    """Rows of text, the first one the head, as a table whose columns are as wide in the source as on the page.

    Args:
        rows: cells; a `|` in one becomes `/`.
        n_left: columns, the first ones, that are aligned to the left; the others are to the right.
    """
    rows = [[cell.replace("|", "/") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * width if place < n_left else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        cells = [cell.ljust(width) for cell, width in zip(row[:n_left], widths[:n_left], strict=True)]
        cells += [cell.rjust(width) for cell, width in zip(row[n_left:], widths[n_left:], strict=True)]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def git_revision(n_digits: int = 12) -> str:
    """The commit that is checked out, with `-dirty` where files were changed since; "unknown" outside a repository."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", f"--abbrev={n_digits}", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
