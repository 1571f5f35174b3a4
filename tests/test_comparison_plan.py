"""Plans of a comparison: epochs that fill the minutes, steps as training makes them, and plans that are kept."""

from pathlib import Path

import pytest
from comparison_helpers import OLD_PLAN, suite_file

from utils.data.files import write_json
from utils.errors import UserError
from utils.tools.comparison_costs import naming
from utils.tools.comparison_plan import Machine, fit_budget, make_plan, plan_row, seconds_a_batch
from utils.tools.comparison_suite import Row, read_suite

ONE_CORE_EACH = Machine(jobs=2, threads=1, cores=2)


def test_epochs_fill_the_budget_and_shrink_a_little_for_it() -> None:
    epochs, steps = fit_budget(300, batch_sec=0.5, val_sec=1, steps=100, any_size=True)
    assert (epochs, steps) == (6, 98)  # 5.88 whole epochs of 51 s; 6 x (98 x 0.5 + 1) = 300
    assert fit_budget(300, 0.5, 1, 100, any_size=False) == (5, 100)


def test_at_least_four_epochs_fit_where_validation_is_short() -> None:
    assert fit_budget(100, 1.0, 2, 1000, any_size=True) == (4, 23)
    assert fit_budget(100, 1.0, 2, 1000, any_size=False) == (1, 1000)


def test_validation_takes_a_tenth_of_the_budget_at_most() -> None:
    """Regression: slow rows had four epochs whatever these left for training."""
    assert fit_budget(100, 1.0, 5, 1000, any_size=True) == (2, 45)
    assert fit_budget(100, 1.0, 6, 1000, any_size=True) == (1, 94)
    assert fit_budget(100, 1.0, 1, 4, any_size=True) == (10, 9)  # epochs that the suite has too short become longer
    assert fit_budget(100, 1.0, 20, 1000, any_size=True) == (1, 80)  # cannot be: the least validation there is
    assert fit_budget(1, 1.0, 20, 1000, any_size=True) == (1, 1)  # nothing fits: the least there can be


@pytest.mark.parametrize("val_sec", [0.1, 3, 30])
@pytest.mark.parametrize("steps", [1, 7, 400])
def test_no_plan_that_fits_exceeds_its_budget(val_sec: float, steps: int) -> None:
    for budget_sec in (40, 61.7, 300, 3000):
        epochs, planned = fit_budget(budget_sec, 0.9, val_sec, steps, any_size=True)
        assert planned >= 1 and epochs * (planned * 0.9 + val_sec) <= budget_sec + 1e-6
        assert epochs == 1 or planned * 0.9 >= 9 * val_sec - 1e-6


def test_reading_costs_nothing_only_where_a_core_is_left_for_it() -> None:
    assert seconds_a_batch(1.0, 0.3, 1, ONE_CORE_EACH) == pytest.approx(1.3)
    assert seconds_a_batch(1.0, 0.3, 0, Machine(1, 1, 8)) == pytest.approx(1.3)
    assert seconds_a_batch(1.0, 0.3, 1, Machine(1, 1, 8)) == pytest.approx(1.0)
    assert seconds_a_batch(1.0, 6.0, 2, Machine(1, 1, 8)) == pytest.approx(3.0)


def test_a_row_is_planned_from_the_medians_of_what_was_measured(tmp_path: Path) -> None:
    suite_row = read_suite(suite_file(tmp_path)).rows[0]  # batches of 2
    measured = {
        "step_sec": [0.1, 0.2, 9.0], "val_step_sec": [0.1], "read_sec": [0.4], "val_read_sec": [0.4],
        "n_read": 4, "n_train": 40, "n_val": 5,
    }  # fmt: skip
    plan = plan_row(suite_row, measured, 1.0, ONE_CORE_EACH, {})
    assert plan.step_sec == 0.2 and plan.read_sec == 0.1
    # 6.7 whole epochs of 8.9 s would fit: 20 steps of 0.4 s, 3 validation batches of 0.3 s; 7 would leave 7.6 s for training
    assert (plan.epochs, plan.epoch_size) == (6, 44)
    assert plan.expected_minutes == pytest.approx(6 * (22 * 0.4 + 0.9) / 60, abs=1e-3)


def three_voices_row(folder: Path, share: float) -> Row:
    rows = {"three": {"conf": "conf/av_tfdprnn.yml", "train_args": f"--extra_speaker_prob {share} --batch_size 4 --num_workers 0"}}
    return read_suite(suite_file(folder, common="", rows=rows, baseline="")).rows[0]


def test_a_plan_counts_the_steps_that_the_sampler_makes_of_two_kinds(tmp_path: Path) -> None:
    seconds = {name: [0.0] for name in ("read_sec", "val_read_sec", "val_step_sec")} | {"n_read": 4, "n_train": 400, "n_val": 1}
    measured = seconds | {"step_sec": [1.0], "more_step_sec": [1.0]}
    plan = plan_row(three_voices_row(tmp_path, 0.25), measured, 2.0, ONE_CORE_EACH, {})
    # 120 steps in 4 epochs of 30: 30 of 120 mixtures are of the one kind, 90 of the other, 7 + 22 whole batches
    assert (plan.epochs, plan.epoch_size) == (4, 120)
    assert plan.expected_minutes == pytest.approx(4 * 29 / 60, abs=1e-3)


def test_a_row_whose_epochs_lack_one_kind_of_batch_is_refused_by_its_name(tmp_path: Path) -> None:
    """Regression: the plan was made, and stage 3 refused it."""
    seconds = {name: [0.0] for name in ("read_sec", "val_read_sec", "val_step_sec")} | {"n_read": 4, "n_train": 400, "n_val": 1}
    measured = seconds | {"step_sec": [1.0], "more_step_sec": [1.0]}
    with pytest.raises(UserError, match=r"row 'three': an epoch has 40 mixtures, 2 of them .*--extra_speaker_prob 0.05"):
        plan_row(three_voices_row(tmp_path, 0.05), measured, 40 / 60, ONE_CORE_EACH, {})
    with pytest.raises(UserError, match=r"row 'three': an epoch has 40 mixtures, 38 of them .*--extra_speaker_prob 0.95"):
        plan_row(three_voices_row(tmp_path, 0.95), measured, 40 / 60, ONE_CORE_EACH, {})


def test_a_plan_goes_on_under_other_contention_with_a_warning(tmp_path: Path, monkeypatch, caplog) -> None:
    """Regression: it did so silently, and the table stated the wrong contention."""
    suite = read_suite(suite_file(tmp_path))
    write_json(tmp_path / "plan.json", {"rows": {row.name: OLD_PLAN for row in suite.rows}})
    monkeypatch.setattr("utils.tools.comparison_plan._inputs", lambda *_: OLD_PLAN["inputs"])
    made = {}
    for jobs in (2, 1):
        caplog.clear()
        made[jobs] = make_plan(suite.rows, 0.001, tmp_path, tmp_path, None, Machine(jobs, 1, 2), anew=False)
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warned) == (0 if jobs == 2 else 2)
    assert made[1] == made[2] and "small was measured with 2 at once" in warned[0] and "with 1 at once" in warned[0]


def test_a_conf_that_cannot_be_measured_is_named() -> None:
    """Regression: a comparison of many rows did not say which one failed."""
    with pytest.raises(UserError, match="^'wide': no network$"), naming("plans/wide.yml"):
        raise UserError("no network")

    def step() -> None:
        raise RuntimeError("shapes\ndiffer")

    with pytest.raises(RuntimeError, match="^'wide': shapes differ$"):
        naming("wide.yml")(step)()
