"""The robustness benchmark's table, its verdict on missing faces, its JSON and its picture.

Reads nothing; writes the PNG. Imported by `utils.tools.robustness`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from utils.data.files import atomic_path
from utils.tools.robustness_conditions import (
    ALL_MISSING,
    CLEAN,
    MISSING_SHARES,
    OFFSETS_FRAMES,
    RIGHT,
    SI_SNRI,
    SI_SNRI_BEST,
    SWAPPED,
    missing_name,
    offset_name,
)

if TYPE_CHECKING:
    from utils.tools.robustness import Outcome

BOTH_RIGHT = "right with own and with exchanged faces (%)"
NOTE = (
    "Mean ± standard error over mixtures. The twin sees no faces and is always scored in the best order; where only the "
    "faces differ it has the score of the clean mixtures. Right: every estimate is nearest (SI-SNR) to the voice of the "
    "face that was given."
)


class Statistic(NamedTuple):
    """Of the values that are numbers."""

    mean: float | None
    standard_error: float | None
    n: int

    def __str__(self) -> str:
        if self.mean is None:
            return "–"
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2f}"
        return f"{round(self.mean, 2) + 0.0:.2f}{error}"  # + 0.0: no minus zeros


def statistic(values: Iterable[float]) -> Statistic:
    """Mean and standard error of the mean; None where there are too few values."""
    finite = np.array([value for value in values if not np.isnan(value)])
    if not len(finite):
        return Statistic(None, None, 0)
    error = float(finite.std(ddof=1) / len(finite) ** 0.5) if len(finite) > 1 else None
    return Statistic(float(finite.mean()), error, len(finite))


def rows(outcomes: dict[str, "Outcome"]) -> list[tuple[str, str, Statistic, Statistic, int]]:
    """(condition, measure, model, twin, trials) in order; the twin has improvements only."""
    found = []
    for name, outcome in outcomes.items():
        if outcome.changed_joins is not None:
            name += f" (a face changes its speaker at {outcome.changed_joins:.0%} of the joins)".replace("%", " %")
        for measure in outcome.condition.measures:
            is_improvement = measure in (SI_SNRI, SI_SNRI_BEST)
            twin = statistic(outcome.twin.values() if is_improvement else ())
            found.append((name, measure, statistic(outcome.scores[measure].values()), twin, outcome.n_trials))
    both = both_right(outcomes)
    return [*found, (f"{CLEAN} and exchanged", BOTH_RIGHT, both, statistic(()), both.n)]


def both_right(outcomes: dict[str, "Outcome"]) -> Statistic:
    """Share of the mixtures in which every estimate is nearest to the voice of the given face, both ways; percent."""
    own, swapped = (outcomes[name].scores[RIGHT] for name in (CLEAN, SWAPPED))
    return statistic(min(own[name], swapped[name]) for name in own)


def table(outcomes: dict[str, "Outcome"], model: str, twin: str) -> str:
    """The Markdown table; n says how many have a value where a silent output left some without one."""
    lines = [f"| condition | measure | {model} | {twin or 'no twin'} | n |", "|---|---|---:|---:|---:|"]
    for name, measure, of_model, of_twin, n_trials in rows(outcomes):
        n = str(n_trials) if of_model.n == n_trials else f"{of_model.n} of {n_trials}"
        lines.append(f"| {name} | {measure} | {of_model} | {of_twin} | {n} |")
    return "\n".join(lines) + f"\n\n{NOTE}\n"


def gate(outcomes: dict[str, "Outcome"]) -> str:
    """How the network without any face compares with the twin."""
    outcome = outcomes[ALL_MISSING]
    blind = outcome.scores[SI_SNRI_BEST]
    text = f"**All faces missing: {statistic(blind.values())} dB"
    if not outcome.twin:
        return f"{text}** (SI-SNRi, best order; no twin given)"
    difference = statistic(blind[name] - outcome.twin[name] for name in blind)
    return f"{text}, twin {statistic(outcome.twin.values())} dB, difference {difference} dB** (SI-SNRi, best order)"


def results_json(outcomes: dict[str, "Outcome"]) -> dict[str, Any]:
    """All numbers as plain JSON: the table's rows, and each condition's facts."""
    listed = [
        {"condition": name, "measure": measure, "model": model._asdict(), "twin": twin._asdict(), "n_trials": n_trials}
        for name, measure, model, twin, n_trials in rows(outcomes)
    ]
    facts = {
        name: {"missing_frames": outcome.missing_frames, "changed_joins": outcome.changed_joins}
        for name, outcome in outcomes.items()
    }
    return {"rows": listed, "conditions": facts}


def draw(outcomes: dict[str, "Outcome"], path: Path, title: str, twin: str) -> None:
    """Draw SI-SNRi over the offset of the faces and over the share of missing frames, the twin as a line."""
    from matplotlib.figure import Figure

    def of(name: str, measure: str = SI_SNRI) -> Statistic:
        return statistic(outcomes[name].scores[measure].values())

    offsets = {by: of(offset_name(by)) for by in OFFSETS_FRAMES} | {0: of(CLEAN)}
    missing = {0.0: of(CLEAN)} | {100 * share: of(missing_name(share)) for share in MISSING_SHARES} | {100.0: of(ALL_MISSING)}
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, points in zip(panels, (offsets, missing), strict=True):
        _curve(panel, points, "in the order of the faces", "o-", "tab:blue")
        twin_mean = statistic(outcomes[CLEAN].twin.values()).mean
        if twin_mean is not None:
            panel.axhline(twin_mean, color="tab:orange", linestyle="--", label=f"{twin}, audio only")
        panel.grid(alpha=0.3)
    _curve(panels[1], {100.0: of(ALL_MISSING, SI_SNRI_BEST)}, "in the best order", "D", "tab:green")
    panels[0].set(xlabel="faces late by (video frames)", ylabel="SI-SNRi (dB)", xticks=sorted(offsets))
    panels[1].set(xlabel="frames missing of every face (%)", xticks=sorted(missing))
    panels[1].legend(frameon=False)
    figure.suptitle(title, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _curve(panel: Any, points: dict[float, Statistic], label: str, form: str, color: str) -> None:
    """Means with their standard errors; points without a value are left out."""
    known = [(x, point) for x, point in sorted(points.items()) if point.mean is not None]
    means, errors = [point.mean for _, point in known], [point.standard_error or 0.0 for _, point in known]
    panel.errorbar([x for x, _ in known], means, errors, fmt=form, capsize=3, color=color, label=label)
