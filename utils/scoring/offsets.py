"""Scores by the offset of the faces: the rows of the sweep's CSV, its Markdown table, its picture."""

import csv
import io
from pathlib import Path

from matplotlib.figure import Figure

from utils.data.files import atomic_path, write_text
from utils.data.reports import markdown_table
from utils.scoring.items import ScoreItem
from utils.scoring.report import has_targets
from utils.scoring.table import mixture_means, source_table, summarise

METRICS = {"si_snr": 2, "si_snr_imp": 2, "sdr_imp": 2, "pesq_wb": 2, "stoi": 3}  # column -> decimals
HEADINGS = ("SI-SNR", "SI-SNRi", "SDRi", "PESQ wb", "STOI")
COLUMNS = ("offset_frames", "subset", "n", "n_silent_output", *METRICS, "si_snr_imp_standard_error")
ALL = "all"


def offset_rows(by: int, items: list[ScoreItem], results: list[dict]) -> list[dict]:
    """A row for all mixtures and one for each subset; a metric without a value is None.

    `n` counts the mixtures of the means, `n_silent_output` the targets that are heard and got silence: they are in none.
    """
    sources = source_table(items, results)
    if sources.empty:
        return []
    final = summarise(sources, mixture_means(sources))
    rows = []
    for label, group in ({ALL: final["overall"]} | final["subsets"]).items():
        metrics = {name: group["metrics"][name]["mean"] for name in METRICS}
        error = group["metrics"]["si_snr_imp"]["standard_error"]
        counts = {"n": group["n_heard"], "n_silent_output": group["n_silent_output"]}
        if has_targets(group):
            rows.append({"offset_frames": by, "subset": label, **counts, **metrics, "si_snr_imp_standard_error": error})
    return rows


def write_offsets(rows: list[dict], out_dir: Path, title: str) -> str:
    """Write offset_sweep.csv, .md and .png; gives the table as text."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(out_dir / "offset_sweep.csv", text.getvalue())
    markdown = f"# {title}: faces out of step\n\n{offset_table(rows)}\n![offsets](offset_sweep.png)\n"
    write_text(out_dir / "offset_sweep.md", markdown)
    plot_offsets(rows, out_dir / "offset_sweep.png", title)
    return f"{title}, faces out of step\n\n{offset_table(rows)}"


def offset_table(rows: list[dict]) -> str:
    """Markdown: a block of offsets for each subset."""
    lines = [["subset", "faces late by (frames)", "mixtures", "silent outputs", *HEADINGS]]
    for label in dict.fromkeys(row["subset"] for row in rows):
        for row in (row for row in rows if row["subset"] == label):
            values = [_cell(row[name], digits) for name, digits in METRICS.items()]
            lines.append([label, f"{row['offset_frames']:+d}", str(row["n"]), str(row["n_silent_output"]), *values])
    if not any(row["n_silent_output"] for row in rows):
        return markdown_table([line[:3] + line[4:] for line in lines])
    return markdown_table(lines) + "\nSilent outputs where a target is heard are in no mean.\n"


def plot_offsets(rows: list[dict], path: Path, title: str) -> None:
    """Draw SI-SNRi over the offset, a line for each subset, as PNG."""
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axis = figure.subplots()
    for label in dict.fromkeys(row["subset"] for row in rows):
        own = [row for row in rows if row["subset"] == label and row["si_snr_imp"] is not None]
        errors = [row["si_snr_imp_standard_error"] or 0.0 for row in own]
        means = [row["si_snr_imp"] for row in own]
        axis.errorbar([row["offset_frames"] for row in own], means, errors, fmt="o-", capsize=3, label=label)
    axis.set(xlabel="faces late by (video frames)", ylabel="SI-SNRi (dB)")
    axis.set_title(title, parse_math=False)
    axis.set_xticks(sorted({row["offset_frames"] for row in rows}))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _cell(value: float | None, digits: int) -> str:
    return "NaN" if value is None else f"{value + 0.0:.{digits}f}"
