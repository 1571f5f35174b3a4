"""How many epochs of how many mixtures each row of a comparison is trained, so that all take the same time.

Reads the suite's rows and the corpus' manifests; writes `plan.json` in the comparison's folder, from which a call that
goes on takes the rows that it has. A row is measured anew when its conf, the budget or the data have changed.
"""

import hashlib
import json
import logging
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from utils.data.files import read_json, sha256_file, write_json
from utils.errors import UserError
from utils.tools.comparison_costs import training_csv
from utils.tools.comparison_runs import Chain, run_chains
from utils.tools.comparison_suite import Row
from utils.training.config import write_config

log = logging.getLogger(__name__)

FEWEST_EPOCHS = 4  # where they can be had: a curve has points, and the best one is chosen of several
TRAINING_OVER_VALIDATION = 9  # an epoch's training takes so many times its validation at least


@dataclass(frozen=True)
class Machine:
    """What the trainings share: how many run at once, threads of each, and the cores there are."""

    jobs: int
    threads: int
    cores: int

    @classmethod
    def here(cls, jobs: int, threads: int) -> "Machine":
        """With the cores that this process may use."""
        return cls(jobs, threads, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)

    @property
    def contention(self) -> str:
        """What changes the seconds of a step, as text."""
        return f"{self.jobs} at once, {self.threads} threads each, {self.cores} cores"


@dataclass(frozen=True)
class RowPlan:
    """How long a row is trained, and what that was found from.

    Attributes:
        epochs: of the whole training.
        epoch_size: mixtures in an epoch.
        expected_minutes: of training and validation.
        step_sec, val_step_sec: measured seconds of a batch, without reading.
        read_sec, val_read_sec: measured seconds to read and mix an example.
        inputs: what the plan depends on.
        measured: when, and with how many trainings at once.
    """

    epochs: int
    epoch_size: int
    expected_minutes: float
    step_sec: float
    val_step_sec: float
    read_sec: float
    val_read_sec: float
    inputs: dict[str, str]
    measured: str

    @property
    def contention(self) -> str:
        """With how many trainings at once its seconds were measured."""
        return self.measured.partition(", ")[2]


def make_plan(
    rows: Sequence[Row], minutes: float, out_dir: Path, data_dir: Path, weights: Path | None, machine: Machine, anew: bool
) -> dict[str, RowPlan]:
    """The plan of every row; those that `plan.json` lacks are measured and added to it.

    Args:
        rows: of the suite.
        minutes: budget of a training with its validation.
        out_dir: the comparison's folder.
        data_dir: folder of the corpus' CSVs.
        weights: front end; None where no row needs faces.
        machine: the contention under which the trainings will run.
        anew: measure all of them, whatever `plan.json` holds.

    Raises:
        UserError: a row cannot be measured, or not be trained in its minutes; `plan.json` is damaged.
    """
    path = out_dir / "plan.json"
    plans = read_plan(path)
    inputs = {row.name: _inputs(row, minutes, data_dir) for row in rows}
    new = [row for row in rows if anew or row.name not in plans or plans[row.name].inputs != inputs[row.name]]
    if new:
        measured = measure_rows(new, out_dir, data_dir, weights, machine)
        for row in new:
            plans[row.name] = plan_row(row, measured[row.name], minutes, machine, inputs[row.name])
        write_json(path, {"rows": {name: asdict(plan) for name, plan in plans.items()}})
    for row in rows:
        plan = plans[row.name]
        log.info(
            "plan: %s: %d epochs of %d mixtures, %.1f min (a step %.3f s; %s)",
            row.name, plan.epochs, plan.epoch_size, plan.expected_minutes, plan.step_sec, plan.measured,
        )  # fmt: skip
        if plan.contention != machine.contention:
            log.warning(
                "plan: %s was measured with %s, and now runs with %s: it may miss its minutes; --replan measures it again",
                row.name, plan.contention, machine.contention,
            )  # fmt: skip
    return {row.name: plans[row.name] for row in rows}


def read_plan(path: Path) -> dict[str, RowPlan]:
    """The rows of a `plan.json`; none where there is no such file.

    Raises:
        UserError: it is no plan.
    """
    if not path.is_file():
        return {}
    try:
        return {name: RowPlan(**plan) for name, plan in read_json(path)["rows"].items()}
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: not a plan of this program; --replan makes it anew") from None


def plan_row(row: Row, measured: dict[str, Any], minutes: float, machine: Machine, inputs: dict[str, str]) -> RowPlan:
    """The epochs of a row, from what `utils.tools.comparison_costs` measured.

    Args:
        row: of the suite.
        measured: lists of seconds, and the numbers of examples.
        minutes: budget.
        machine: where it was measured.
        inputs: what the plan depends on, stored with it.

    Raises:
        UserError: an epoch of this row has too few mixtures for a batch, or for one of each kind.
    """
    data, batch_size = row.conf.data, row.conf.training.batch_size
    step_sec, val_step_sec = (statistics.median(measured[name]) for name in ("step_sec", "val_step_sec"))
    if data.extra_speaker_prob:
        more_sec = statistics.median(measured["more_step_sec"])
        step_sec += data.extra_speaker_prob * (more_sec - step_sec)
    read_sec, val_read_sec = (statistics.median(measured[name]) / measured["n_read"] for name in ("read_sec", "val_read_sec"))
    batch_sec = seconds_a_batch(step_sec, batch_size * read_sec, data.num_workers, machine)
    val_batch_sec = seconds_a_batch(val_step_sec, batch_size * val_read_sec, data.num_workers, machine)
    val_sec = math.ceil(measured["n_val"] / batch_size) * val_batch_sec
    size = measured["n_train"]
    epochs, steps = fit_budget(60 * minutes, batch_sec, val_sec, max(size // batch_size, 1), data.dynamic)
    size = steps * batch_size if data.dynamic else size
    steps = steps_an_epoch(row, size)
    return RowPlan(
        epochs=epochs,
        epoch_size=size,
        expected_minutes=round(epochs * (steps * batch_sec + val_sec) / 60, 3),
        step_sec=round(step_sec, 5),
        val_step_sec=round(val_step_sec, 5),
        read_sec=round(read_sec, 5),
        val_read_sec=round(val_read_sec, 5),
        inputs=inputs,
        measured=f"{datetime.now().astimezone().isoformat(timespec='minutes')}, {machine.contention}",
    )


def steps_an_epoch(row: Row, size: int) -> int:
    """The batches that training makes of an epoch of `size` mixtures.

    Raises:
        UserError: none of a kind: of the mixtures with one more voice, or of the others.
    """
    from utils.training.datasets import EpochSampler  # brings torch, which a wrong path need not wait for

    batch_size, share = row.conf.training.batch_size, row.conf.data.extra_speaker_prob
    one_more = round(share * size)
    for n_mixtures, is_wanted in ((one_more, share > 0), (size - one_more, share < 1)):
        if is_wanted and n_mixtures < batch_size:
            kinds = f", {one_more} of them with one more voice (--extra_speaker_prob {share:g})" if share else ""
            raise UserError(
                f"row '{row.name}': an epoch has {size} mixtures{kinds}; each kind must fill a batch of {batch_size}: give it "
                "more minutes, a smaller --batch_size" + (", or --extra_speaker_prob 0" if share else "")
            )
    return len(EpochSampler(size, row.conf.training.seed, batch_size=batch_size, one_more=one_more)) // batch_size


def seconds_a_batch(compute_sec: float, read_sec: float, workers: int, machine: Machine) -> float:
    """Seconds of a batch when loader processes read the next one meanwhile, if there are cores left for them.

    Args:
        compute_sec: of the network's part.
        read_sec: to read the whole batch in one process.
        workers: loader processes of each training.
        machine: the trainings take `jobs * threads` of its cores.
    """
    readers = min(workers, (machine.cores - machine.jobs * machine.threads) // machine.jobs)
    return max(compute_sec, read_sec / readers) if readers > 0 else compute_sec + read_sec


def fit_budget(budget_sec: float, batch_sec: float, val_sec: float, steps: int, any_size: bool) -> tuple[int, int]:
    """Epochs, and steps in each of them, that fill a budget.

    Epochs of any size become a little shorter, so that a whole number of them, `FEWEST_EPOCHS` at least, fills the budget;
    but validation takes a tenth of it at most: there are fewer and longer epochs then, down to one. There is always one
    epoch with one step, even beyond the budget.

    Args:
        budget_sec: of all epochs.
        batch_sec: seconds of a training batch.
        val_sec: seconds of a validation.
        steps: in a whole epoch.
        any_size: whether an epoch may have another number of steps.
    """
    wanted = budget_sec / (steps * batch_sec + val_sec)
    if not any_size:
        return max(int(wanted), 1), steps
    for epochs in range(max(math.ceil(wanted), FEWEST_EPOCHS), 0, -1):
        fitting = int((budget_sec / epochs - val_sec) / batch_sec + 1e-9)
        if fitting >= 1 and fitting * batch_sec >= TRAINING_OVER_VALIDATION * val_sec:
            return epochs, fitting
    return 1, max(int((budget_sec - val_sec) / batch_sec), 1)


def measure_rows(
    rows: Sequence[Row], out_dir: Path, data_dir: Path, weights: Path | None, machine: Machine
) -> dict[str, dict[str, Any]]:
    """Measure the different confs of some rows in `machine.jobs` processes at once.

    Returns:
        By the row's name, what `utils.tools.comparison_costs` writes, the seconds of all processes together.
    """
    distinct: dict[str, Row] = {}
    for row in rows:
        distinct.setdefault(_fingerprint(row), row)
    log.info("plan: measuring %d confs, %d times at once, %d threads each", len(distinct), machine.jobs, machine.threads)
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-plan-", dir=out_dir) as name:
        folder = Path(name)
        paths = {key: folder / f"{row.name}.yml" for key, row in distinct.items()}
        for key, row in distinct.items():
            write_config(paths[key], row.conf)
        confs = [str(path) for path in paths.values()]
        command = [sys.executable, "-m", "utils.tools.comparison_costs", "--data_dir", str(data_dir)]
        command += ["--conf", *confs, *(["--frontend_weights", str(weights)] if weights else [])]
        chains = []
        for job in range(machine.jobs):
            words = ["--json", str(folder / f"{job}.json"), "--first", str(job * len(confs) // machine.jobs)]
            chains.append(Chain(f"measuring {job + 1}", out_dir / "log", {f"plan_{job + 1}": [*command, *words]}))
        for reason in run_chains(chains, machine.jobs, machine.threads).values():
            raise UserError(f"the rows could not be measured: {reason}")
        found = [read_json(folder / f"{job}.json") for job in range(machine.jobs)]
        return {row.name: _together([one[str(paths[_fingerprint(row)])] for one in found]) for row in rows}


def _together(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: sum((one[name] for one in found), []) if isinstance(value, list) else value for name, value in found[0].items()
    }


def _inputs(row: Row, minutes: float, data_dir: Path) -> dict[str, str]:
    data = [sha256_file(data_dir / name) for name in (training_csv(row.conf), "val.csv")]
    return {"conf": _fingerprint(row), "minutes": f"{minutes:g}", "data": " ".join(digest[:12] for digest in data)}


def _fingerprint(row: Row) -> str:
    return hashlib.sha256(json.dumps(row.conf.nested, sort_keys=True).encode()).hexdigest()[:12]
