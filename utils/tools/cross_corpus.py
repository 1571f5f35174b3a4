"""Models on test sets of other corpora than their own, side by side in one table.

Reads   --exp_dirs, trained experiments, and --test_dirs, prepared CSVs or folders as stage 4 takes them.
Writes  the outputs of stages 4 and 5 for each model and test set, as far as they are missing; the tables to the
        standard output and into a section of --results; logs in exp/<tag>/log/.
Run     python -m utils.tools.cross_corpus --exp_dirs exp/tse_grid,exp/tse_lrs2 \\
            --test_dirs data/grid_tse/test.csv,data/tcd_tse/test.csv --results RESULTS.md

The mouth crops of a test set pass the visual frontend of each model: nothing needs to be embedded beforehand.
"""

import argparse
from pathlib import Path
from typing import Any

from utils.data.experiments import network_path
from utils.data.files import read_json
from utils.data.hub import experiment_folder
from utils.data.reports import markdown_table
from utils.errors import OptionParser, UsageError, UserError, at_least, run_cli
from utils.scoring.report import SHORT_TABLE, has_targets, mean_text
from utils.separation.options import name_of_test
from utils.tools.chains import Chain, run_chains, stage
from utils.tools.sections import add_results_options, origin, publish

Group = dict[str, Any]
Scores = dict[tuple[str, str], dict[str, Group]]  # of a test set and subset: the groups by model


def main() -> int:
    """Separate and score what is missing, then print the tables."""
    args = parse_args()
    for exp_dir in args.exp_dirs:
        if not network_path(exp_dir).is_file():
            raise UserError(f"--exp_dirs {exp_dir}: holds no best_model.pth; stage 3 makes it")
    for test_dir in args.test_dirs:
        if not test_dir.exists():
            raise UserError(f"--test_dirs {test_dir}: no such file or folder; a CSV of a corpus is made by stage 0")
    chains = [_chain(args, exp_dir, test_dir) for exp_dir in args.exp_dirs for test_dir in args.test_dirs]
    if failures := run_chains(chains, 1, args.threads):
        raise UserError(f"{len(failures)} of the runs failed, the first: {next(iter(failures.values()))}")
    scores = read_scores(args.exp_dirs, [name_of_test(test_dir) for test_dir in args.test_dirs])
    models = [exp_dir.name for exp_dir in args.exp_dirs]
    text = f"{matrix(scores, models)}\n{long_table(scores)}\n{silent_outputs(scores)}"
    publish(text + origin("utils.tools.cross_corpus", args.threads), args.results, args.section)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="cross_corpus", description="Models on test sets of other corpora, in one table.")
    parser.add_argument("--exp_dirs", type=_experiments, required=True, help="experiments, separated by commas")
    parser.add_argument("--test_dirs", type=_paths, required=True, help="CSVs or folders, separated by commas")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="where embeddings are kept")
    parser.add_argument("--data_root_dir", type=Path, default=Path("data"), help="where a folder's manifest is made")
    parser.add_argument("--max_failed", type=int, default=0, help="mixtures of a run that may fail")
    parser.add_argument("--nj", type=at_least(1), default=2, help="processes that score")
    parser.add_argument("--id", help="GPU, e.g. 0; cpu; without it a GPU if there is one")
    parser.add_argument("--threads", type=at_least(1), default=1, help="CPU threads of each program")
    add_results_options(parser, "cross-corpus")
    args = parser.parse_args()
    names = [name_of_test(test) for test in args.test_dirs]
    if len(set(names)) < len(names) or len({exp.name for exp in args.exp_dirs}) < len(args.exp_dirs):
        raise UsageError("cross_corpus: two experiments or two test sets have the same name; rename one of the folders")
    return args


def _experiments(text: str) -> list[Path]:
    return [experiment_folder(word) for word in text.split(",") if word]


def _paths(text: str) -> list[Path]:
    return [Path(word) for word in text.split(",") if word]


def _chain(args: argparse.Namespace, exp_dir: Path, test_dir: Path) -> Chain:
    name = name_of_test(test_dir)
    common = {"exp_dir": exp_dir, "test_name": name, "nj": args.nj, "max_failed": args.max_failed}
    where = {"dump_dir": args.dump_dir, "data_root_dir": args.data_root_dir, "id": args.id or None}
    commands = {
        f"4_separate_{name}": stage("separate", test_dir=test_dir, **where, **common),
        f"5_score_{name}": stage("score", **common),
    }
    return Chain(f"{exp_dir.name} on {name}", exp_dir / "log", commands)


def read_scores(exp_dirs: list[Path], tests: list[str]) -> Scores:
    """The means over all mixtures, "all", and over each subset that has any, of every test set and model.

    Raises:
        UserError: a test set was not scored: it has no references.
    """
    scores: Scores = {}
    for test in tests:
        for exp_dir in exp_dirs:
            path = exp_dir / "results" / test / "final_metrics.json"
            if not path.is_file():
                raise UserError(f"{path}: no such file: {test} has no references to score with; leave it out")
            final = read_json(path)
            for label, group in {"all": final["overall"], **final["subsets"]}.items():
                if has_targets(group):
                    scores.setdefault((test, label), {})[exp_dir.name] = group
    return scores


def matrix(scores: Scores, models: list[str]) -> str:
    """SI-SNRi of every model (columns) on every test set and subset (rows), Markdown.

    Mixtures and unprocessed SI-SNR are those of the model with the fewest silent outputs: the other means lack some.
    """
    rows = [["SI-SNRi (dB)", "mixtures", "unprocessed SI-SNR", *models]]
    for (test, label), groups in scores.items():
        fullest = max(groups.values(), key=lambda group: group["n_heard"])
        cells = [_cell(groups.get(model), "si_snr_imp", 2, error=True) for model in models]
        name = test if label == "all" else f"{test}: {label}"
        rows.append([name, str(fullest["n_heard"]), _cell(fullest, "input_si_snr", 2), *cells])
    return markdown_table(rows)


def long_table(scores: Scores) -> str:
    """All the metrics, a row for each test set, subset and model, Markdown."""
    rows = [["test set", "subset", "model", "mixtures", *(heading for heading, _, _ in SHORT_TABLE)]]
    for (test, label), groups in scores.items():
        for model, group in groups.items():
            cells = [_cell(group, metric, digits) for _, metric, digits in SHORT_TABLE]
            rows.append([test, label, model, str(group["n_heard"]), *cells])
    return markdown_table(rows, n_left=3)


def silent_outputs(scores: Scores) -> str:
    """A line for each model and test set with silent outputs for active targets; "" without any."""
    lines = [
        f"- {model} on {test}: {group['n_silent_output']} active targets got a silent output; they are in no mean\n"
        for (test, label), groups in scores.items()
        for model, group in groups.items()
        if label == "all" and group["n_silent_output"]
    ]
    return "".join([*lines, "\n"]) if lines else ""


def _cell(group: Group | None, metric: str, digits: int, error: bool = False) -> str:
    entry = group["metrics"].get(metric) if group else None
    return mean_text(entry["mean"], entry["standard_error"] if error else None, digits, "–") if entry else "–"


if __name__ == "__main__":
    run_cli(main)
