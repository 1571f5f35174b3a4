"""Latency, load and memory of a live separation over its seconds, as a PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from utils.data.files import atomic_path

_LINE, _MARK, _QUIET = "#4C78A8", "#D1495B", "#5A5A5A"
_MOST_SHOWN = 3.0  # times the latency that 99 % of the steps keep; single seconds above are cut off


def plot_seconds(rows: Sequence[Mapping], latency_ms: Mapping[str, float], algorithmic_ms: float, path: Path) -> None:
    """Draw the rows of live.csv.

    Args:
        rows: of at least one second.
        latency_ms: percentiles of the whole, by "50", "95" and "99".
        algorithmic_ms: what of the latency no computer could save.
        path: the PNG; made whole or not at all.
    """
    seconds = [row["second"] for row in rows]
    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    latency, load, memory = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1))
    latency.plot(seconds, [row["latency_ms"] for row in rows], color=_LINE, linewidth=1.0, label="largest of each second")
    label = f"95 % of all steps: {latency_ms['95']:.0f} ms"
    latency.axhline(latency_ms["95"], color=_MARK, linewidth=1.0, linestyle=":", label=label)
    latency.axhline(algorithmic_ms, color=_QUIET, linewidth=1.0, linestyle="--", label=f"algorithmic: {algorithmic_ms:.0f} ms")
    skipped = [(row["second"], row["latency_ms"]) for row in rows if row["pictures_not_searched"]]
    if skipped:
        latency.plot(*zip(*skipped, strict=True), ".", color=_MARK, markersize=4, label="pictures were not searched")
    highest = max([row["latency_ms"] for row in rows])
    latency.set_ylim(0, min(1.05 * highest, _MOST_SHOWN * max(latency_ms["99"], algorithmic_ms)))
    latency.set_ylabel("sound to track, ms")
    latency.legend(fontsize=7, loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=4, frameon=False, handlelength=1.5)
    load.plot(seconds, [row["load"] for row in rows], color=_LINE, linewidth=1.0)
    load.set(ylim=(0, None), ylabel="cores")
    memory.plot(seconds, [row["memory_mb"] for row in rows], color=_LINE, linewidth=1.0)
    memory.set(ylim=(0, 1.1 * max(row["memory_mb"] for row in rows) + 1), ylabel="memory, MB", xlabel="second")
    figure.align_ylabels()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
