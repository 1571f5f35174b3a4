"""Compare two result files row by row: which rows differ, and by how much.

Reads   two all_metrics.csv of stage 5, matched by mixture and speaker, or two eval.txt, matched by line
Writes  the table to --results, or prints it
Run     python -m utils.tools.compare_results --first A/all_metrics.csv --second B/all_metrics.csv [--tolerance 0.0001]
"""

import argparse
import csv
import math
from pathlib import Path

import numpy as np

from utils.data.reports import markdown_table
from utils.errors import OptionParser, UserError, run_cli
from utils.tools.sections import add_results_options, publish

_EVAL_COLUMNS = ("sdr", "sdr_mixed", "sdri", "sir", "sar", "pesq", "stoi")
_LABELS = ("mixture_ID", "speaker")
Rows = dict[str, dict[str, float]]  # by the row's name, then by column


def main() -> int:
    """Compare, print the table; 1 where rows differ."""
    args = _parse_args()
    first, second = read_rows(args.first), read_rows(args.second)
    shared = [name for name in first if name in second]
    if not shared:
        raise UserError(f"{args.second}: no row has the name of one of {args.first}; give the results of the same test")
    columns = [column for column in first[shared[0]] if column in second[shared[0]]]
    table = [["", "rows that differ", "mean difference", "largest", "in row"]]
    n_differing = 0
    for column in columns:
        gaps = np.array([_gap(first[name][column], second[name][column]) for name in shared])
        differing = np.abs(gaps) > args.tolerance
        n_differing += int(differing.sum())
        worst = int(np.argmax(np.abs(gaps)))
        where = shared[worst] if differing.any() else ""
        finite = gaps[np.isfinite(gaps)]
        mean = f"{finite.mean():+.6g}" if finite.size else ""
        table.append([column, f"{differing.sum()} of {len(shared)}", mean, f"{gaps[worst]:+.6g}", where])
    lost = len(first) - len(shared), len(second) - len(shared)
    note = (
        f"\nsecond minus first; rows in the first only: {lost[0]}, in the second only: {lost[1]}; tolerance {args.tolerance:g}"
    )
    publish(markdown_table(table) + note, args.results, args.section)
    return 1 if n_differing or any(lost) else 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="compare_results", description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=Path, required=True, help="all_metrics.csv or eval.txt")
    parser.add_argument("--second", type=Path, required=True, help="another file of that kind")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="differences up to here are none")
    add_results_options(parser, "compare-results")
    return parser.parse_args()


def read_rows(path: Path) -> Rows:
    """The numbers of a result file; NaN where a metric has no value.

    Raises:
        UserError: it is neither of the two kinds.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give all_metrics.csv or eval.txt of stage 5") from None
    rows = _csv_rows(text) if text.startswith("mixture_ID,") else _eval_rows(text)
    if not rows:
        raise UserError(f"{path}: neither an all_metrics.csv nor an eval.txt with rows of {len(_EVAL_COLUMNS)} numbers")
    return rows


def _csv_rows(text: str) -> Rows:
    rows: Rows = {}
    for row in csv.DictReader(text.splitlines()):
        name = " ".join(row[label] for label in _LABELS)
        rows[name] = {column: float(value) for column, value in row.items() if _is_number(value) and column not in _LABELS}
    columns = set().union(*rows.values()) if rows else set()
    return {name: {column: values.get(column, math.nan) for column in sorted(columns)} for name, values in rows.items()}


def _eval_rows(text: str) -> Rows:
    rows: Rows = {}
    for number, line in enumerate(text.splitlines(), start=1):
        values = line.split()
        if len(values) == len(_EVAL_COLUMNS) and all(map(_is_number, values)):
            rows[f"line {number}"] = dict(zip(_EVAL_COLUMNS, map(float, values), strict=True))
    return rows


def _is_number(text: str | None) -> bool:
    try:
        float(text or "x")
    except ValueError:
        return False
    return True


def _gap(one: float, other: float) -> float:
    """The second minus the first; infinite where only one of them has a value."""
    if math.isnan(one) and math.isnan(other):
        return 0.0
    return math.inf if math.isnan(one) or math.isnan(other) else other - one


if __name__ == "__main__":
    run_cli(main)
