"""The Markdown table of a comparison and what stands below it."""

import statistics
from collections.abc import Sequence
from typing import Any

from utils.tools.comparison_plan import RowPlan
from utils.tools.comparison_results import Difference, Run, heard, order_searched

SEARCHED = "\\*"  # marks rows for which the order of the voices was searched
OFF_BUDGET = 0.1  # share by which a training may miss its minutes without being named


def comparison_table(
    runs: dict[str, list[Run]], costs: dict[str, dict[str, float]], differences: dict[str, Difference | None], baseline: str
) -> str:
    """The table, a line for each row that was run.

    Args:
        runs: by the row's name, one for each seed.
        costs: by the row's name, as `utils.tools.comparison_costs.inference_costs` gives them.
        differences: to the baseline, by the row's name; empty where there is none.
        baseline: the row that the others are compared with, or "".
    """
    subsets = list(dict.fromkeys(name for some in runs.values() for run in some for name in run.final["subsets"]))
    head = ["", "seeds", "SI-SNRi, all (dB)", *subsets]
    head += [f"to {baseline} (dB)"] if baseline else []
    head += ["PESQ wb", "ESTOI", "parameters (M)", "GMAC/s", "CPU (ms)", "mixtures seen", "training (min)"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, some in runs.items():
        cells = [name + SEARCHED * order_searched(some), ", ".join(str(run.seed) for run in some)]
        cells += [gain_cell(some, group) for group in ("all", *subsets)]
        cells += [difference_cell(name, differences.get(name), baseline)] if baseline else []
        cells += [_mean_cell(some, "pesq_wb", 2), _mean_cell(some, "estoi", 3)]
        cost = costs[name]
        cells += [f"{cost['params'] / 1e6:.2f}", f"{cost['macs_per_audio_second'] / 1e9:.2f}"]
        cells.append(f"{1e3 * cost['inference_sec']:.0f}")
        cells.append(f"{statistics.fmean(run.training['mixtures_seen'] for run in some):.0f}")
        cells.append(f"{statistics.fmean(run.training['training_minutes'] for run in some):.2f}")
        lines.append(cells)
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def gain_cell(runs: Sequence[Run], group: str) -> str:
    """SI-SNRi of one run with its standard error over mixtures, of several as mean [lowest..highest]."""
    found = [(run, run.groups()[group]["metrics"]["si_snr_imp"]) for run in runs if group in run.groups()]
    means = [metric["mean"] for _, metric in found if metric["mean"] is not None]
    if not means:
        return "–"
    text = _number(statistics.fmean(means))
    if len(means) > 1:
        text += f" [{_number(min(means))}..{_number(max(means))}]"
    elif found[0][1]["standard_error"] is not None:
        text += f" ± {found[0][1]['standard_error']:.2f}"
    return text


def difference_cell(name: str, found: Difference | None, baseline: str) -> str:
    """The difference to the baseline with its standard error."""
    if name == baseline or found is None:
        return "–"
    text = f"{round(found.mean_db, 2) + 0.0:+.2f}"  # + 0.0: no minus zeros
    return text if found.standard_error_db is None else f"{text} ± {found.standard_error_db:.2f}"


def _mean_cell(runs: Sequence[Run], metric: str, digits: int) -> str:
    means = [run.final["overall"]["metrics"][metric]["mean"] for run in runs]
    means = [mean for mean in means if mean is not None]
    return _number(statistics.fmean(means), digits) if means else "–"


def _number(value: float, digits: int = 2) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"


def notes(
    runs: dict[str, list[Run]], left_out: dict[str, str], plans: dict[str, RowPlan], baseline: str, budget_minutes: float,
    threads: int, mixture_sec: float,
) -> list[str]:  # fmt: skip
    """What the numbers are, how far they can be trusted, and what is left out; a sentence or two for each line.

    Args:
        runs: by the row's name.
        left_out: why, by the run's name.
        plans: of the rows that have one.
        baseline: as for `comparison_table`.
        budget_minutes: of a training.
        threads, mixture_sec: with which separation was timed.
    """
    some = [run for row_runs in runs.values() for run in row_runs]
    lines = [
        f"{_counts(heard(run.final['overall']) for run in some)} test mixtures; each number is the mean over the mixtures of "
        "the mean over a mixture's voices. SI-SNRi of one seed: ± standard error over mixtures; of several seeds: their "
        "mean [lowest..highest]; other columns: means over the seeds.",
        f"CPU: median time to separate a mixture of {mixture_sec:g} s with {threads} threads, embeddings given, the rows "
        "measured in turns. Training: training and validation of all epochs, measured; start and end not counted.",
    ]
    if baseline:
        lines.append(
            f"to {baseline}: difference of SI-SNRi on the same mixtures, the seeds averaged; its ± is over mixtures only: "
            f"where a row has one seed, differences below the spread of {baseline}'s seeds ({_spread(runs[baseline])}) mean "
            "little."
        )
    if any(map(order_searched, runs.values())):
        lines.append(f"{SEARCHED} no face tells the order of the voices; the order with the best mean SI-SNR was taken.")
    off = [run for run in some if abs(run.training["training_minutes"] / budget_minutes - 1) > OFF_BUDGET]
    if off:
        listed = ", ".join(f"{run.exp_dir.name} {run.training['training_minutes']:.2f} min" for run in off)
        lines.append(f"More than {OFF_BUDGET:.0%} off the budget: {listed}.")
    contentions: dict[str, list[str]] = {}
    for name in runs:
        if name in plans:
            contentions.setdefault(plans[name].contention, []).append(name)
    if contentions:
        listed = "; ".join(f"{', '.join(names)}: {contention}" for contention, names in contentions.items())
        lines.append(f"Trainings while the steps were measured that the epochs were planned from: {listed}.")
    lines += [f"Left out: {name}: {reason}." for name, reason in left_out.items()]
    return lines


def _spread(runs: Sequence[Run]) -> str:
    means = [run.final["overall"]["metrics"]["si_snr_imp"]["mean"] for run in runs]
    means = [mean for mean in means if mean is not None]
    return f"{max(means) - min(means):.2f} dB" if len(means) > 1 else "not known, it has one"


def _counts(values: Any) -> str:
    return " or ".join(map(str, sorted(set(values))))
