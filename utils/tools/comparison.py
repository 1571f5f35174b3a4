"""Trains several confs with the same data for the same time, scores them, and prints one table.

Reads   a suite (conf/suites/*.yml: which confs, with which changes and seeds, how many minutes), the manifests of
        --data_dir with their embeddings (stage 2), and the front end's weights.
Writes  --out_dir: plan.json, <row>-seed<k>/ (an experiment as stages 3 to 5 make it, with their logs), comparison.json,
        curves.png; with --results F a section of that Markdown file.
Run     python -m utils.tools.comparison --suite conf/suites/ablation.yml --data_dir data/demo \\
            --frontend_weights egs/demo/lipreader.pth.tar --out_dir exp/ablation_demo --jobs 2 --results RESULTS.md

First the steps of all rows are measured, which gives each row the epochs that fit its minutes. The same command goes on
where it was interrupted; rows added to the suite are measured and trained beside those that are there.
"""

import argparse
import fcntl
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from utils.data.files import write_json
from utils.data.manifest import read_manifest
from utils.errors import OptionParser, UserError, run_cli
from utils.tools.comparison_costs import inference_costs, training_csv
from utils.tools.comparison_plan import Machine, RowPlan, make_plan, read_plan
from utils.tools.comparison_results import difference, draw_curves, exp_dir_of, read_runs, summary, trained_conf
from utils.tools.comparison_runs import Chain, run_chains
from utils.tools.comparison_suite import Row, Suite, choose_rows, read_suite
from utils.tools.comparison_table import comparison_table, notes
from utils.tools.complexity import MIXTURE_SEC
from utils.tools.sections import add_results_options, origin, section_name, write_section


def main() -> int:
    """Plan, train, separate, score, and put the table together."""
    args = parse_args()
    suite = read_suite(args.suite, args.minutes, args.train_args)
    rows = choose_rows(suite, args.rows)
    test_name = f"{args.data_dir.resolve().name}_test"
    failures: dict[str, str] = {}
    if not args.table_only:
        check_inputs(args, rows)
        machine = Machine.here(args.jobs, args.threads)
        weights = args.frontend_weights if any(row.conf.n_cues for row in rows) else None
        with alone_in(args.out_dir):
            plan = make_plan(rows, suite.minutes, args.out_dir, args.data_dir, weights, machine, args.replan)
            failures = run_chains(make_chains(args, rows, plan, test_name), args.jobs, args.threads)
    write_results(args, suite, test_name, failures)
    if failures:
        listed = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise UserError(f"{len(failures)} runs failed, the same command tries them again; {listed}")
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="comparison", description="Train several confs for the same time, score them, print a table.")
    parser.add_argument("--suite", type=Path, required=True, help="conf/suites/*.yml")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the corpus' CSVs")
    parser.add_argument("--out_dir", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--frontend_weights", type=Path, help="weights of the lip network (not for audio-only rows)")
    parser.add_argument("--views", default="centre", help="crop views to draw from in training: centre or centre,flip")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"))
    parser.add_argument("--minutes", type=float, help="of training for each run; none: the suite's")
    parser.add_argument("--train_args", default="", help="keys of the conf for all rows, after the suite's common ones")
    parser.add_argument("--rows", default="", help="run only these rows, a,b; empty: all")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    parser.add_argument("--replan", action="store_true", help="measure all rows again, and train those whose plan changes")
    parser.add_argument("--table_only", action="store_true", help="make the table of what is there, run nothing")
    parser.add_argument("--timing_threads", type=int, default=2, help="CPU threads with which separation is timed")
    add_results_options(parser, None)  # the suite's name
    args = parser.parse_args()
    args.section = args.section or (section_name(args.suite.stem) if args.results else "")
    for name in ("jobs", "threads", "timing_threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)} must be at least 1")
    return args


def check_inputs(args: argparse.Namespace, rows: list[Row]) -> None:
    """Check what can be checked before anything is measured.

    Raises:
        UserError: a manifest or the front end is missing, or the test set has no references.
    """
    for name in sorted({training_csv(row.conf) for row in rows}) + ["val.csv"]:
        read_manifest(args.data_dir / name)
    if not read_manifest(args.data_dir / "test.csv").has_references:
        raise UserError(f"{args.data_dir / 'test.csv'}: mixtures without sources cannot be scored")
    needing = next((row.name for row in rows if row.conf.n_cues), None)
    if needing and not args.frontend_weights:
        raise UserError(f"{args.suite}: row '{needing}' needs mouth embeddings: give --frontend_weights FILE")
    if needing and not args.frontend_weights.exists():
        raise UserError(f"--frontend_weights {args.frontend_weights}: not there; utils/download_weights.sh fetches some")


@contextmanager
def alone_in(out_dir: Path) -> Iterator[None]:
    """Hold a comparison's folder; however this process ends, the folder is free again.

    Raises:
        UserError: another comparison holds it.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    with open(out_dir / ".lock", "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--out_dir {out_dir}: another comparison runs there; wait for its end, or give another") from None
        yield


def make_chains(args: argparse.Namespace, rows: list[Row], plan: dict[str, RowPlan], test_name: str) -> list[Chain]:
    """Stages 3 to 5 of every row and seed; what takes longest comes first, so that no core waits at the end.

    Trainings take about the same time by intention, so that the seconds to separate a mixture decide.
    """

    def cost(row: Row) -> tuple[float, float]:
        return round(plan[row.name].expected_minutes, 1), plan[row.name].val_step_sec / row.conf.training.batch_size

    ordered = sorted(rows, key=cost, reverse=True)
    return [_chain(args, row, seed, plan[row.name], test_name) for row in ordered for seed in row.seeds]


def _chain(args: argparse.Namespace, row: Row, seed: int, plan: RowPlan, test_name: str) -> Chain:
    exp_dir = exp_dir_of(args.out_dir, row, seed)
    words = ["--audio_examples", "0", *row.words, "--epochs", str(plan.epochs), "--early_stop", "0", "--seed", str(seed)]
    words += ["--epoch_size", str(plan.epoch_size)] if row.conf.data.dynamic else []
    train = ["--conf", row.conf_path, "--data_dir", args.data_dir, f"--train_args={shlex.join(words)}"]
    separate = ["--test_dir", args.data_dir / "test.csv", "--test_name", test_name, "--nj", args.threads]
    if row.conf.n_cues:
        train += ["--frontend_weights", args.frontend_weights, "--views", args.views]
        separate += ["--frontend_weights", args.frontend_weights]
    dump = ["--dump_dir", args.dump_dir]
    commands = {
        "3_train": ["train", *train, *dump],
        "4_separate": ["separate", *separate, *dump],
        "5_score": ["score", "--test_name", test_name, "--nj", args.threads],
    }
    common = ["--exp_dir", exp_dir]
    made = {
        name: [sys.executable, "-m", f"utils.stages.{words[0]}", *map(str, [*words[1:], *common])]
        for name, words in commands.items()
    }
    return Chain(exp_dir.name, exp_dir / "log", made)


def write_results(args: argparse.Namespace, suite: Suite, test_name: str, failures: dict[str, str]) -> None:
    """Print the table of all rows that were scored, and write comparison.json, curves.png and the section."""
    plan = read_plan(args.out_dir / "plan.json")
    runs, left_out = read_runs(suite, args.out_dir, test_name, plan, failures)
    if not runs:
        reasons = "".join(f"; {name}: {reason}" for name, reason in left_out.items())
        raise UserError(f"{args.out_dir}: no row was scored, there is nothing to put into a table{reasons}")
    wanted = {row.name: row.conf for row in suite.rows}
    confs = {name: trained_conf(some[0].exp_dir / "conf.yml", wanted[name]) for name, some in runs.items()}
    costs = inference_costs(confs, args.timing_threads)
    baseline = suite.baseline if suite.baseline in runs else ""
    differences = {name: difference(some, runs[baseline], test_name) for name, some in runs.items()} if baseline else {}
    source = _origin(args, suite, sorted({run.revision for some in runs.values() for run in some}))
    rows = {
        name: {
            "seeds": summary(some),
            "to_baseline": asdict(differences[name]) if differences.get(name) else None,
            "costs": costs[name],
            "plan": asdict(plan[name]) if name in plan else None,
        }
        for name, some in runs.items()
    }
    facts = {"suite": str(suite.path), "minutes": suite.minutes, "baseline": baseline, "test": test_name}
    listed = {"rows": rows, "left_out": left_out, "origin": source.splitlines()}
    write_json(args.out_dir / "comparison.json", facts | listed)
    draw_curves(args.out_dir / "curves.png", runs, suite.minutes, f"{suite.path.stem}: {suite.minutes:g} minutes for each row")
    lines = notes(runs, left_out, plan, baseline, suite.minutes, args.timing_threads, MIXTURE_SEC)
    table = comparison_table(runs, costs, differences, baseline)
    text = f"{table}\n" + "".join(f"- {line}\n" for line in lines) + source
    print(f"\n{text}", flush=True)
    if args.results:
        write_section(args.results, args.section, text)


def _origin(args: argparse.Namespace, suite: Suite, revisions: list[str]) -> str:
    budget = f"budget: {suite.minutes:g} minutes of training and validation for each run, seeds as in the table; {suite.path}"
    arguments = [word for word in sys.argv[1:] if word.replace("-", "_") != "__table_only"]
    return origin("utils.tools.comparison", args.threads, budget, arguments=arguments, revisions=revisions)


if __name__ == "__main__":
    run_cli(main)
