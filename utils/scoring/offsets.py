"""Scores by the offset of the faces: the rows of the sweep's CSV, its Markdown table, its picture."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from utils.data.files import atomic_path, write_text
from utils.data.reports import markdown_table
from utils.scoring.items import ScoreItem
from utils.scoring.report import SHORT_TABLE, has_targets, number_text
from utils.scoring.table import mixture_means, source_table, summarise

COLUMNS = (
    "offset_frames",
    "subset",
    "n",
    "n_silent_output",
    *(name for _, name, _ in SHORT_TABLE),
    "si_snr_imp_standard_error",
)


def offset_rows(by: int, items: list[ScoreItem], results: list[dict]) -> list[dict]:
    """A row for all mixtures and one for each subset; a metric without a value is None.

    `n` counts the mixtures of the means, `n_silent_output` the heard targets that got silence: they are in none.
    """
    sources = source_table(items, results)
    if sources.empty:
        return []
    final = summarise(sources, mixture_means(sources))
    rows = []
    for label, group in ({"all": final["overall"]} | final["subsets"]).items():
        metrics = {name: group["metrics"][name]["mean"] for _, name, _ in SHORT_TABLE}
        error = group["metrics"]["si_snr_imp"]["standard_error"]
        counts = {"n": group["n_heard"], "n_silent_output": group["n_silent_output"]}
        if has_targets(group):
            rows.append({"offset_frames": by, "subset": label, **counts, **metrics, "si_snr_imp_standard_error": error})
    return rows


def write_offsets(rows: list[dict], out_dir: Path, title: str) -> str:
    """Write offset_sweep.csv, .md and .png; gives the table as text."""
    table = offset_table(rows)
    write_text(out_dir / "offset_sweep.csv", pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n"))
    write_text(out_dir / "offset_sweep.md", f"# {title}: faces out of step\n\n{table}\n![offsets](offset_sweep.png)\n")
    plot_offsets(rows, out_dir / "offset_sweep.png", title)
    return f"{title}, faces out of step\n\n{table}"


def offset_table(rows: list[dict]) -> str:
    """Markdown: a block of offsets for each subset."""
    lines = [["subset", "faces late by (frames)", "mixtures", "silent outputs", *(heading for heading, _, _ in SHORT_TABLE)]]
    for label in dict.fromkeys(row["subset"] for row in rows):
        for row in (row for row in rows if row["subset"] == label):
            values = [number_text(row[name], digits) for _, name, digits in SHORT_TABLE]
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
