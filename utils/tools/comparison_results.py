"""What the runs of a comparison left, put together by row: scores, differences to a baseline, times, curves.

Reads `<row>-seed<k>/`: training.json, conf.yml, history.csv and `results/<test>/{final_metrics.json, all_metrics.csv}`.
"""

import csv
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.data.files import atomic_path, read_json, write_text
from utils.errors import UserError
from utils.tools.comparison_plan import RowPlan
from utils.tools.comparison_suite import Row, Suite
from utils.training.config import Config, read_config

METRICS = ("si_snr_imp", "pesq_wb", "estoi")
MAY_DIFFER = {  # of the row's conf: what the plan, the seeds and the front end decide, and what changes no number
    "epochs", "epoch_size", "early_stop", "seed", "visual_dim", "audio_examples", "num_workers", "logger",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A row trained with one seed and scored.

    Attributes:
        seed: of the training.
        exp_dir: the experiment's folder.
        final: what final_metrics.json holds.
        training: what training.json holds.
    """

    seed: int
    exp_dir: Path
    final: dict[str, Any]
    training: dict[str, Any]

    @property
    def revision(self) -> str:
        """The commit that it was scored with, as `utils.tools.sections.git_revision` writes it."""
        commit, dash, changed = self.final["provenance"]["git"].partition("-")
        return commit[:12] + dash + changed

    def groups(self) -> dict[str, dict[str, Any]]:
        """Means over all mixtures, "all", and over each subset."""
        return {"all": self.final["overall"]} | self.final["subsets"]

    def gains_db(self, test_name: str) -> dict[str, float]:
        """SI-SNRi by mixture, dB."""
        path = self.exp_dir / "results" / test_name / "all_metrics.csv"
        with open(path, newline="", encoding="utf-8") as handle:
            rows = [row for row in csv.DictReader(handle) if row["speaker"] == "mean" and row["si_snr_imp"]]
        return {row["mixture_ID"]: float(row["si_snr_imp"]) for row in rows}


@dataclass(frozen=True)
class Difference:
    """Mean over mixtures of the SI-SNRi differences to the baseline, and its standard error, dB."""

    mean_db: float
    standard_error_db: float | None


def exp_dir_of(out_dir: Path, row: Row, seed: int) -> Path:
    """The experiment's folder of a row and seed."""
    return out_dir / f"{row.name}-seed{seed}"


def read_runs(
    suite: Suite, out_dir: Path, test_name: str, plans: dict[str, RowPlan], failures: dict[str, str]
) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """The scored runs of what the suite says now, by row, and why the others are left out, by the run's name.

    Args:
        suite: its rows may have changed since they were trained, and so may its minutes.
        out_dir: the comparison's folder.
        test_name: of the scores.
        plans: of `plan.json`, by row; a row without a plan is taken as it is.
        failures: what failed just now, by the run's name: whatever its folder holds is of an earlier time.

    Raises:
        UserError: a file of a run is damaged.
    """
    runs: dict[str, list[Run]] = {}
    left_out = {}
    for row in suite.rows:
        for seed in row.seeds:
            exp_dir = exp_dir_of(out_dir, row, seed)
            final, training = exp_dir / "results" / test_name / "final_metrics.json", exp_dir / "training.json"
            reason = failures.get(exp_dir.name) or ("" if final.is_file() and training.is_file() else "not run")
            reason = reason or _other_training(row, suite.minutes, exp_dir / "conf.yml", plans.get(row.name))
            if reason:
                left_out[exp_dir.name] = reason
            else:
                runs.setdefault(row.name, []).append(Run(seed, exp_dir, read_json(final), read_json(training)))
    return runs, left_out


def _other_training(row: Row, minutes: float, conf_path: Path, plan: RowPlan | None) -> str:
    """In what a training is not the one that the suite asks for now; "" where it is."""
    try:
        trained = trained_conf(conf_path, row.conf).nested
    except UserError as error:
        return str(error)
    keys = [(section, key) for section, values in row.conf.nested.items() for key in values if key not in MAY_DIFFER]
    for section, key in keys:
        there, wanted = trained[section].get(key), row.conf.nested[section][key]
        if there != wanted:
            return f"trained with {section}.{key} {there}, the suite says {wanted}"
    if plan is None:
        return ""
    if plan.inputs["minutes"] != f"{minutes:g}":
        return f"planned for {plan.inputs['minutes']} minutes, not for {minutes:g}"
    there, wanted = [trained["training"]["epochs"]], [plan.epochs]
    if row.conf.data.dynamic:
        there, wanted = [*there, trained["data"]["epoch_size"]], [*wanted, plan.epoch_size]
    return "" if there == wanted else "trained for other epochs than the plan's"


def trained_conf(path: Path, wanted: Config) -> Config:
    """The conf of an experiment, without the keys that `wanted` has not: those that the recipe has lost since.

    Raises:
        UserError: it cannot be read.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        known = {name: {key: values[key] for key in values if key in wanted.nested[name]} for name, values in given.items()
                 if name in wanted.nested}  # fmt: skip
    except (OSError, yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not a conf ({' '.join(str(error).split())}); train this row again") from None
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / path.name
        write_text(kept, yaml.safe_dump(known))
        return read_config(kept)


def order_searched(runs: Sequence[Run]) -> bool:
    """Whether the order of the voices was searched in the scores of a row."""
    return any(run.final["n_order_unknown"] for run in runs)


def difference(runs: Sequence[Run], baseline: Sequence[Run], test_name: str) -> Difference | None:
    """How much better a row is than the baseline on the mixtures that both have; seeds are averaged first."""
    ours, theirs = (_mean_gains_db(some, test_name) for some in (runs, baseline))
    differences = [ours[name] - theirs[name] for name in ours if name in theirs]
    if not differences:
        return None
    error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else None
    return Difference(statistics.fmean(differences), error)


def _mean_gains_db(runs: Sequence[Run], test_name: str) -> dict[str, float]:
    gains = [run.gains_db(test_name) for run in runs]
    common = [name for name in gains[0] if all(name in one for one in gains)]
    return {name: statistics.fmean(one[name] for one in gains) for name in common}


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """A row's numbers as comparison.json holds them: each run's, under its seed."""
    return {
        str(run.seed): {
            "exp_dir": run.exp_dir.name,
            "scores": {name: _scores(group) for name, group in run.groups().items()},
            "order_searched_in_mixtures": run.final["n_order_unknown"],
            "training": run.training,
            "scored": run.final["provenance"]["date"],
        }
        for run in runs
    }


def heard(group: dict[str, Any]) -> int:
    """The mixtures of a group's means, in which absent targets and silent outputs are not."""
    return group.get("n_heard", group["n"])


def _scores(group: dict[str, Any]) -> dict[str, Any]:
    means = {name: group["metrics"][name]["mean"] for name in METRICS if name in group["metrics"]}
    return {"mixtures": heard(group), **means, "si_snr_imp_standard_error": group["metrics"]["si_snr_imp"]["standard_error"]}


def draw_curves(path: Path, runs: dict[str, list[Run]], budget_minutes: float, title: str) -> None:
    """Draw validation SI-SNRi over the minutes, a colour for each row and a line for each seed, and the budget, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots(figsize=(8, 4.5), layout="constrained")
    colours = plt.get_cmap("tab10" if len(runs) <= 10 else "tab20").colors
    for index, (name, row_runs) in enumerate(runs.items()):
        for number, run in enumerate(row_runs):
            minutes, gains_db = _curve(run.exp_dir / "history.csv")
            label = f"{name}{'*' * order_searched(row_runs)}" if number == 0 else None
            style = "-" if index < len(colours) else "--"
            panel.plot(minutes, gains_db, style, marker=".", label=label, color=colours[index % len(colours)])
    panel.axvline(budget_minutes, color="grey", linestyle=":", label="budget")
    panel.set_xlim(left=0)
    panel.set(xlabel="minutes of training and validation", ylabel="validation SI-SNRi (dB)", title=title)
    panel.grid(alpha=0.3)
    title = "* in the best order" if any(map(order_searched, runs.values())) else None
    panel.legend(title=title, frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def _curve(path: Path) -> tuple[list[float], list[float]]:
    minutes, gains_db, seconds = [], [], 0.0
    with open(path, newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            seconds += float(row["seconds"])
            minutes.append(seconds / 60)
            gains_db.append(float(row["val_si_snri"]))
    return minutes, gains_db
