"""The histogram of the improvements, a panel for each subset, as a PNG."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.data.files import atomic_path
from utils.scoring.table import UNMARKED

_BAR, _MEAN, _QUIET = "#4C78A8", "#D1495B", "#5A5A5A"
_MAX_PANELS = 8


def plot_histogram(sources: pd.DataFrame, path: Path, title: str) -> None:
    """Draw the SI-SNRi of each source (its SI-SNR where there are no mixtures), a panel for each subset.

    Args:
        sources: as `table.source_table` makes it.
        path: the PNG.
        title: above the figure.
    """
    column, name = ("si_snr_imp", "SI-SNRi") if "si_snr_imp" in sources else ("si_snr", "SI-SNR")
    sources = sources.dropna(subset=[column])
    panels = _panels(sources, column)
    figure = Figure(figsize=(7.5, 1.2 + 1.9 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    edges = _edges(sources[column].to_numpy())
    for axis, (label, values) in zip(axes, panels.items(), strict=True):
        _draw(axis, label, values, edges)
    axes[-1].set_xlabel(f"{name} of a source, dB")
    figure.align_ylabels()
    figure.suptitle(title, parse_math=False, x=0.01, ha="left", fontsize=12, fontweight="bold")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _panels(sources: pd.DataFrame, column: str) -> dict[str, np.ndarray]:
    labels = sorted(sources["subset"].unique(), key=lambda label: (label == "", label))[:_MAX_PANELS]
    panels = {"all": sources[column].to_numpy()}
    if len(labels) > 1:
        panels |= {label or UNMARKED: sources.loc[sources["subset"] == label, column].to_numpy() for label in labels}
    return panels


def _edges(values: np.ndarray) -> np.ndarray:
    """Whole-dB bins that hold every value; wider ones where that would be too many."""
    low, high = (np.floor(values.min()), np.ceil(values.max())) if values.size else (0.0, 1.0)
    width = max(1.0, np.ceil((high - low) / 40))
    return np.arange(low, max(high, low + 1) + width, width)


def _draw(axis: Axes, label: str, values: np.ndarray, edges: np.ndarray) -> None:
    axis.hist(values, bins=edges, color=_BAR, edgecolor="white", linewidth=0.6)
    axis.set_title(f"{label}: {len(values)} sources", parse_math=False, loc="left", fontsize=10, color=_QUIET)
    if values.size:
        mean = values.mean()
        axis.axvline(mean, color=_MEAN, linewidth=1.6)
        axis.set_title(f"mean {mean:.2f} dB", loc="right", fontsize=10, color=_MEAN)
    if edges[0] < 0 < edges[-1]:
        axis.axvline(0, color=_QUIET, linewidth=0.8, linestyle=":")
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel("sources")
    axis.spines[["top", "right"]].set_visible(False)
