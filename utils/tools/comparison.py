"""Train several confs on the same data for the same time, score them, and print one table.

Reads   a suite (conf/suites/*.yml), the manifests of --data_dir with their embeddings (stage 2), and the weights of the
        visual frontend.
Writes  --out_dir: <row>-seed<k>/ (an experiment as stages 3 to 5 make it, with their logs), comparison.json,
        curves.png; with --results F a section of that Markdown file.
Run     python -m utils.tools.comparison --suite conf/suites/ablation.yml --data_dir data/demo \\
            --frontend_weights egs/demo/lipreader.pth.tar --out_dir exp/ablation_demo --jobs 2 --results RESULTS.md

Every row is trained with the suite's minutes as `training.max_minutes`: a training ends after the epoch in which they
have passed, and a cosine schedule follows the time. Epochs must be short beside the minutes, or the trainings are of
unequal length; the notes below the table name those that are. Trainings that run at once slow each other: train all
rows with the same --jobs and --threads. The same command goes on where it was interrupted; the stages do not repeat
what is finished for the same conf and data.

A suite is refused as a whole before anything runs:

    minutes: 5                          # of training and validation, for each run
    common: "--epoch_size 400"          # train_args of all rows
    baseline: plain                     # optional: the row that the others' SI-SNRi is compared with
    rows:
      plain: {conf: conf/av_tfdprnn.yml}
      wide:  {conf: conf/av_tfdprnn.yml, train_args: "--bn_chan 128", seeds: [0, 1]}
"""

import argparse
import math
import re
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from utils.data.experiments import DLIB
from utils.data.files import atomic_path, exclusive_lock, read_json, write_json
from utils.data.manifest import read_manifest
from utils.data.reports import markdown_table
from utils.errors import OptionParser, UsageError, UserError, at_least, run_cli
from utils.scoring.report import mean_text, number_text
from utils.separation.options import name_of_test
from utils.tools.chains import Chain, run_chains, stage
from utils.tools.sections import add_results_options, origin, publish, section_name
from utils.training.config import Config, nearest, read_config, read_separation_config, read_yaml
from utils.training.preflight import check_frontend_weights

SUITE_KEYS = ("minutes", "common", "baseline", "rows")
ROW_KEYS = ("conf", "train_args", "seeds")
# Keys of a conf, and those of a suite that decide them.
DECIDED_HERE = {"epochs": "minutes", "early_stop": "minutes", "max_minutes": "minutes", "seed": "seeds"}
TIMING_THREADS = 2  # CPU threads with which separation is timed
MAX_EPOCHS = 100_000  # never reached: the minutes end a training
# Given by the frontends, or no part of a score.
MAY_DIFFER = ("visual_dim", "visual_delay_frames", "shape_dim", "face_dim", "num_workers", "logger", "audio_examples")
SEARCHED = "\\*"  # marks rows for which the order of the estimates was searched
OFF_BUDGET = 0.1  # share by which a training may miss its minutes without being named


@dataclass(frozen=True)
class Row:
    """A row of the table: a conf with changed keys, trained once for each seed."""

    name: str
    conf_path: Path
    words: tuple[str, ...]  # train_args: those of all rows, its own, and the minutes
    seeds: tuple[int, ...]
    config: Config

    def train_args(self, seed: int) -> list[str]:
        """The words of one training."""
        return [*self.words, "--seed", str(seed)]


@dataclass(frozen=True)
class Suite:
    """A suite's file, checked."""

    path: Path
    minutes: float
    rows: tuple[Row, ...]
    baseline: str


@dataclass(frozen=True)
class Run:
    """A row trained with one seed and scored."""

    seed: int
    exp_dir: Path
    final: dict[str, Any]  # of final_metrics.json
    training: dict[str, Any]  # of training.json

    @property
    def revision(self) -> str:
        """The commit that it was scored with, as `utils.data.reports.git_revision` writes it."""
        commit, dash, changed = self.final["provenance"]["git"].partition("-")
        return commit[:12] + dash + changed

    def groups(self) -> dict[str, dict[str, Any]]:
        """Means over all mixtures, "all", and over each subset."""
        return {"all": self.final["overall"]} | self.final["subsets"]

    def facts(self) -> dict[str, Any]:
        """The run as comparison.json holds it: the groups are those of stage 5."""
        facts = {"exp_dir": self.exp_dir.name, "scores": self.groups(), "training": self.training}
        facts["order_searched_in_mixtures"] = self.final["n_order_unknown"]
        return facts | {"scored": self.final["provenance"]["date"]}

    def gains_db(self, test_name: str) -> pd.Series:
        """SI-SNRi by mixture, dB."""
        path = self.exp_dir / "results" / test_name / "all_metrics.csv"
        # ids are text, whatever they look like: "7", "NA"
        as_text = {"dtype": {"mixture_ID": str, "speaker": str}, "keep_default_na": False}
        table = pd.read_csv(path, na_values={"si_snr_imp": [""]}, **as_text)
        return table[table["speaker"] == "mean"].set_index("mixture_ID")["si_snr_imp"].dropna()


def main() -> int:
    """Train, separate, score, and put the table together."""
    args = parse_args()
    suite = read_suite(args.suite, args.minutes, args.train_args)
    rows = choose_rows(suite, args.rows)
    test_name = name_of_test(args.data_dir / "test.csv")
    failures: dict[str, str] = {}
    if not args.table_only:
        check_inputs(args, rows)
        with exclusive_lock(args.out_dir, "this comparison"):
            chains = [make_chain(args, row, seed, test_name) for row in rows for seed in row.seeds]
            failures = run_chains(chains, args.jobs, args.threads)
    write_results(args, suite, test_name, failures)
    if failures:
        listed = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise UserError(f"{len(failures)} runs failed, the same command tries them again; {listed}")
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="comparison", description="Train confs for the same time, score them, print a table.")
    parser.add_argument("--suite", type=Path, required=True, help="conf/suites/*.yml")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the corpus' CSVs")
    parser.add_argument("--out_dir", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--frontend_weights", default="", help="of the visual frontend (not for audio-only rows)")
    parser.add_argument("--face_weights", default=DLIB, help="of the face frontend, for rows that see faces")
    parser.add_argument("--views", default="centre", help="crop views to draw from in training: centre or centre,flip")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"))
    parser.add_argument("--minutes", type=float, help="of training for each run; none: the suite's")
    parser.add_argument("--train_args", default="", help="keys of the conf for all rows, after the suite's common ones")
    parser.add_argument("--rows", default="", help="run only these rows, a,b; empty: all")
    parser.add_argument("--jobs", type=at_least(1), default=1, help="runs at once; they slow each other equally")
    parser.add_argument("--threads", type=at_least(1), default=1, help="CPU threads of each run")
    parser.add_argument("--table_only", action="store_true", help="print the table of earlier runs, run nothing")
    add_results_options(parser, None)  # the suite's name
    args = parser.parse_args()
    args.section = args.section or (section_name(args.suite.stem) if args.results else "")
    return args


def read_suite(path: Path, minutes: float | None = None, train_args: str = "") -> Suite:
    """Read a suite and check all of it.

    Args:
        path: `conf/suites/*.yml`.
        minutes: instead of the file's.
        train_args: keys for all rows, after the suite's common ones and before those of a row.

    Raises:
        UserError: no such file, no YAML, an unknown key, or a row that cannot be trained; names the row.
    """
    given = read_yaml(path, "suite")
    if not isinstance(given, dict):
        raise UserError(f"{path}: a suite has the keys {', '.join(SUITE_KEYS)}; this is a {type(given).__name__}")
    _check_keys(str(path), given, SUITE_KEYS)
    rows, common = given.get("rows"), given.get("common", "")
    if not isinstance(rows, dict) or not rows:
        raise UserError(f"{path}: 'rows' must map the name of each row to its conf")
    budget = _minutes(path, given.get("minutes") if minutes is None else minutes)
    words = _words(f"{path}: common", common) + _words("--train_args", train_args)
    read = tuple(_read_row(path, name, row, words, budget) for name, row in rows.items())
    baseline = str(given.get("baseline") or "")
    names = [row.name for row in read]
    if baseline and baseline not in names:
        raise UserError(f"{path}: baseline '{baseline}' is no row{nearest(baseline, names)}")
    return Suite(path, budget, read, baseline)


def choose_rows(suite: Suite, wanted: str) -> list[Row]:
    """The rows that `--rows a,b` names, all where it is empty.

    Raises:
        UserError: the suite has no such row.
    """
    rows = {row.name: row for row in suite.rows}
    chosen = [name.strip() for name in wanted.split(",") if name.strip()] or list(rows)
    for name in chosen:
        if name not in rows:
            raise UserError(f"--rows: {suite.path} has no row '{name}'{nearest(name, rows)}")
    return [rows[name] for name in dict.fromkeys(chosen)]


def _check_keys(where: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'{nearest(str(key), known)}")


def _minutes(path: Path, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{path}: minutes is {value!r}; give the minutes of training for each run, such as 5")
    return float(value)


def _words(where: str, text: Any) -> tuple[str, ...]:
    if not isinstance(text, str):
        raise UserError(f'{where} is {text!r} where text such as "--lr 0.0005" is expected')
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _read_row(path: Path, name: Any, given: Any, common: tuple[str, ...], minutes: float) -> Row:
    where = f"{path}: row '{name}'"
    if not isinstance(name, str):
        raise UserError(f"{where}: YAML reads its name as {type(name).__name__}, not as text; put it in quotes")
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(f"{where}: its name makes a folder, so it has letters, digits, '-', '_', '+' and '.' only")
    if not isinstance(given, dict) or not isinstance(given.get("conf"), str):
        raise UserError(f"{where}: must be a mapping with a conf, such as {{conf: conf/av_tfdprnn.yml}}")
    _check_keys(where, given, ROW_KEYS)
    words = common + _words(f"{where}: train_args", given.get("train_args", ""))
    for word in words:
        key = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word.startswith("--") and key in DECIDED_HERE:
            instead = DECIDED_HERE[key]
            raise UserError(f"{where}: --{key} is for the comparison to decide; take it out and set '{instead}'")
    words += ("--max_minutes", str(minutes), "--epochs", str(MAX_EPOCHS), "--early_stop", "0", "--audio_examples", "0")
    try:
        config = read_separation_config(given["conf"], list(words))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return Row(name, Path(given["conf"]), words, _seeds(where, given.get("seeds", [0])), config)


def _seeds(where: str, seeds: Any) -> tuple[int, ...]:
    right = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not right or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: seeds is {seeds!r} where different whole numbers are expected, such as [0, 1]")
    return tuple(seeds)


def check_inputs(args: argparse.Namespace, rows: Iterable[Row]) -> None:
    """Check the inputs before anything is trained.

    Raises:
        UserError: a manifest or the visual frontend is missing, or the test set has no references.
    """
    for name in sorted({"utterances.csv" if row.config.data.dynamic else "train.csv" for row in rows} | {"val.csv"}):
        read_manifest(args.data_dir / name)
    if not read_manifest(args.data_dir / "test.csv").has_references:
        raise UserError(f"{args.data_dir / 'test.csv'}: mixtures without sources cannot be scored")
    for row in rows:
        try:
            check_frontend_weights(row.config, args.frontend_weights, args.face_weights)
        except UsageError as error:
            raise UserError(f"{args.suite}: row '{row.name}': {error}") from None


def make_chain(args: argparse.Namespace, row: Row, seed: int, test_name: str) -> Chain:
    """Stages 3 to 5 of a row and seed."""
    exp_dir, train_args = exp_dir_of(args.out_dir, row, seed), shlex.join(row.train_args(seed))
    faces = {}
    if row.config.model.n_faces:
        faces = {"frontend_weights": args.frontend_weights, "face_weights": args.face_weights}
    train = {"conf": row.conf_path, "data_dir": args.data_dir, "train_args": train_args, "dump_dir": args.dump_dir}
    train |= {"views": args.views, **faces} if faces else {}
    test = {"test_name": test_name, "nj": args.threads}
    commands = {
        "3_train": stage("train", exp_dir=exp_dir, **train),
        "4_separate": stage(
            "separate", exp_dir=exp_dir, test_dir=args.data_dir / "test.csv", dump_dir=args.dump_dir, **test, **faces
        ),
        "5_score": stage("score", exp_dir=exp_dir, **test),
    }
    return Chain(exp_dir.name, exp_dir / "log", commands)


def exp_dir_of(out_dir: Path, row: Row, seed: int) -> Path:
    """The experiment's folder of a row and seed."""
    return out_dir / f"{row.name}-seed{seed}"


def read_runs(
    suite: Suite, out_dir: Path, test_name: str, failures: dict[str, str]
) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """The scored runs of the suite as it is now, by row, and why the others are left out, by the run's name.

    The suite's rows and minutes may have changed since they were trained. What lies in the folders of the runs that
    failed in this call (`failures`, by the run's name) is of an earlier time.

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
            reason = reason or _other_training(row, seed, exp_dir / "conf.yml")
            if reason:
                left_out[exp_dir.name] = reason
            else:
                runs.setdefault(row.name, []).append(Run(seed, exp_dir, read_json(final), read_json(training)))
    return runs, left_out


def _other_training(row: Row, seed: int, conf_path: Path) -> str:
    """The first key in which a training differs from what the suite asks for now, as text; "" for none."""
    try:
        trained = read_config(conf_path).to_dict()
    except UserError as error:
        return f"{error}; train this row again"
    for section, values in read_config(row.conf_path, row.train_args(seed)).to_dict().items():
        for key, wanted in values.items():
            found = trained[section].get(key)
            if found != wanted and key not in MAY_DIFFER:
                return f"trained with {section}.{key} {found}, the suite says {wanted}"
    return ""


def order_searched(runs: Iterable[Run]) -> bool:
    """Tell if the order of the estimates was searched in the scores of a row."""
    return any(run.final["n_order_unknown"] for run in runs)


def difference(runs: Sequence[Run], baseline: Sequence[Run], test_name: str) -> dict[str, Any] | None:
    """Gain of a row over the baseline on the mixtures that both have, seeds averaged first."""
    seeds = ([run.gains_db(test_name) for run in some] for some in (runs, baseline))
    ours, theirs = (pd.concat(gains, axis=1, join="inner").mean(axis=1) for gains in seeds)
    gains = (ours - theirs).dropna()
    if gains.empty:
        return None
    return {"mean_db": float(gains.mean()), "standard_error_db": float(gains.sem()) if len(gains) > 1 else None}


def write_results(args: argparse.Namespace, suite: Suite, test_name: str, failures: dict[str, str]) -> None:
    """Print the table of all rows that were scored, and write comparison.json, curves.png and the section."""
    runs, left_out = read_runs(suite, args.out_dir, test_name, failures)
    if not runs:
        reasons = "".join(f"; {name}: {reason}" for name, reason in left_out.items())
        raise UserError(f"{args.out_dir}: no row was scored, there is nothing to put into a table{reasons}")

    from utils.tools.complexity import MIXTURE_SEC, inference_costs  # brings torch: a wrong option need not wait

    configs = {name: read_config(some[0].exp_dir / "conf.yml") for name, some in runs.items()}
    costs = inference_costs(configs, TIMING_THREADS)
    baseline = suite.baseline if suite.baseline in runs else ""
    differences = {name: difference(some, runs[baseline], test_name) for name, some in runs.items()} if baseline else {}
    budget = f"budget: {suite.minutes:g} minutes of training and validation for each run; {suite.path}"
    arguments = [word for word in sys.argv[1:] if word.replace("-", "_") != "__table_only"]
    revisions = sorted({run.revision for some in runs.values() for run in some})
    source = origin("utils.tools.comparison", args.threads, budget, arguments=arguments, revisions=revisions)
    rows = {}
    for name, some in runs.items():
        seeds = {run.seed: run.facts() for run in some}
        rows[name] = {"seeds": seeds, "to_baseline": differences.get(name), "costs": costs[name]}
    facts = {"suite": str(suite.path), "minutes": suite.minutes, "baseline": baseline, "test": test_name, "rows": rows}
    write_json(args.out_dir / "comparison.json", facts | {"left_out": left_out, "origin": source.splitlines()})
    title = f"{suite.path.stem}: {suite.minutes:g} minutes for each row"
    draw_curves(args.out_dir / "curves.png", runs, suite.minutes, title)
    lines = notes(runs, left_out, baseline, suite.minutes, MIXTURE_SEC)
    table = comparison_table(runs, costs, differences, baseline)
    publish("\n".join(["", table, *(f"- {line}" for line in lines), source]), args.results, args.section)


def comparison_table(
    runs: dict[str, list[Run]],
    costs: dict[str, dict[str, float]],
    differences: dict[str, dict[str, Any] | None],
    baseline: str,
) -> str:
    """The table, a line for each row that was run.

    Args:
        runs: by the row's name, one for each seed.
        costs: by the row's name, of `utils.tools.complexity.inference_costs`.
        differences: to the baseline, by the row's name; empty where there is none.
        baseline: the row that the others are compared with, or "".
    """
    subsets = list(dict.fromkeys(name for some in runs.values() for run in some for name in run.final["subsets"]))
    head = ["", "seeds", "SI-SNRi, all (dB)", *subsets, *([f"to {baseline} (dB)"] if baseline else [])]
    head += ["SDRi (dB)", "SIR (dB)", "PESQ wb", "ESTOI", "parameters (M)", "GMAC/s", "CPU (ms)"]
    lines = [[*head, "mixtures seen", "training (min)"]]
    for name, some in runs.items():
        cells = [name + SEARCHED * order_searched(some), ", ".join(str(run.seed) for run in some)]
        cells += [gain_cell(some, group) for group in ("all", *subsets)]
        if baseline:
            gain = None if name == baseline else differences.get(name)
            cells.append("+" * (gain["mean_db"] >= 0) + mean_text(*gain.values()) if gain else "–")
        for metric, digits in (("sdr_imp", 2), ("sir", 2), ("pesq_wb", 2), ("estoi", 3)):
            cells.append(number_text(_mean(_means(some, metric)), digits, "–"))
        cost = costs[name]
        cells += [f"{cost['params'] / 1e6:.2f}", f"{cost['macs_per_audio_second'] / 1e9:.2f}"]
        cells.append(f"{1e3 * cost['inference_sec']:.0f}")
        cells.append(f"{_mean([run.training['mixtures_seen'] for run in some]):.0f}")
        cells.append(f"{_mean([run.training['training_minutes'] for run in some]):.2f}")
        lines.append(cells)
    return markdown_table(lines)


def gain_cell(runs: Sequence[Run], group: str) -> str:
    """SI-SNRi of one run with its standard error over mixtures, of several as mean [lowest..highest]."""
    means = _means(runs, "si_snr_imp", group)
    if len(means) > 1:
        mean, lowest, highest = (number_text(value, 2) for value in (_mean(means), min(means), max(means)))
        return f"{mean} [{lowest}..{highest}]"
    errors = [run.groups()[group]["metrics"]["si_snr_imp"]["standard_error"] for run in runs if group in run.groups()]
    return mean_text(means[0], next((error for error in errors if error is not None), None)) if means else "–"


def _means(runs: Iterable[Run], metric: str, group: str = "all") -> list[float]:
    """The means of the runs that have any."""
    found = [run.groups()[group]["metrics"][metric]["mean"] for run in runs if group in run.groups()]
    return [mean for mean in found if mean is not None]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def notes(
    runs: dict[str, list[Run]],
    left_out: dict[str, str],
    baseline: str,
    budget_minutes: float,
    mixture_sec: float,
) -> list[str]:
    """Explain the numbers and their errors, and name the runs that are left out; a sentence or two for each line.

    The arguments are those of `comparison_table`, the reasons by the run's name, and the length of the mixture with
    which separation was timed.
    """
    some = [run for row_runs in runs.values() for run in row_runs]
    n_mixtures = " or ".join(map(str, sorted({run.final["overall"]["n_heard"] for run in some})))
    lines = [
        f"{n_mixtures} test mixtures; each number is the mean over the mixtures of the mean over a mixture's sources. "
        "SI-SNRi of one seed: ± standard error over mixtures; of several seeds: their mean [lowest..highest]; other "
        "columns: means over the seeds.",
        f"CPU: median time to separate a mixture of {mixture_sec:g} s with {TIMING_THREADS} threads, embeddings given, "
        "the rows measured in turns. Training: training and validation of all epochs, measured; start and end not counted.",
    ]
    if baseline:
        means = _means(runs[baseline], "si_snr_imp")
        spread = f"{max(means) - min(means):.2f} dB" if len(means) > 1 else "not known, it has one"
        lines.append(
            f"to {baseline}: difference of SI-SNRi on the same mixtures, the seeds averaged; its ± is over mixtures "
            f"only: where a row has one seed, differences below the spread of {baseline}'s seeds ({spread}) mean "
            "little."
        )
    if any(map(order_searched, runs.values())):
        lines.append(f"{SEARCHED} no face tells the order of the estimates; that with the best mean SI-SNR was taken.")
    off = [run for run in some if abs(run.training["training_minutes"] / budget_minutes - 1) > OFF_BUDGET]
    if off:
        listed = ", ".join(f"{run.exp_dir.name} {run.training['training_minutes']:.2f} min" for run in off)
        lines.append(f"More than {OFF_BUDGET:.0%} off the budget: {listed}; a smaller --epoch_size comes nearer.")
    return lines + [f"Left out: {name}: {reason}." for name, reason in left_out.items()]


def draw_curves(path: Path, runs: dict[str, list[Run]], budget_minutes: float, title: str) -> None:
    """Draw validation SI-SNRi over the minutes, a colour for each row, a line for each seed, and the budget, as PNG."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    panel = figure.subplots()
    colours = colormaps["tab10" if len(runs) <= 10 else "tab20"].colors
    for index, (name, row_runs) in enumerate(runs.items()):
        for number, run in enumerate(row_runs):
            epochs = pd.read_csv(run.exp_dir / "history.csv")
            label = f"{name}{'*' * order_searched(row_runs)}" if number == 0 else None
            style, colour = "-" if index < len(colours) else "--", colours[index % len(colours)]
            minutes = epochs["seconds"].cumsum() / 60
            panel.plot(minutes, epochs["val_si_snri"], style, marker=".", label=label, color=colour)
    panel.axvline(budget_minutes, color="grey", linestyle=":", label="budget")
    panel.set_xlim(left=0)
    panel.set(xlabel="minutes of training and validation", ylabel="validation SI-SNRi (dB)", title=title)
    panel.grid(alpha=0.3)
    title = "* in the best order" if any(map(order_searched, runs.values())) else None
    panel.legend(title=title, frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    run_cli(main)
