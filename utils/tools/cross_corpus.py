"""Models on test sets of other corpora than their own, side by side in one table.

Reads   --exp_dirs, trained experiments, and --test_dirs, prepared CSVs or folders as stage 4 takes them.
Writes  the outputs of stages 4 and 5 for each model and test set, as far as they are missing; the tables to the
        standard output and into a section of --results; logs in exp/<tag>/log/.
Run     python -m utils.tools.cross_corpus --exp_dirs exp/tse_grid,exp/tse_lrs2 \\
            --test_dirs data/grid_tse/test.csv,data/tcd_tse/test.csv --results RESULTS.md

The mouth crops of a test set pass the visual frontend of each model: nothing needs to be embedded beforehand.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from utils.data.files import read_json
from utils.data.reports import markdown_table
from utils.errors import OptionParser, UsageError, UserError, at_least, run_cli
from utils.scoring.report import SHORT_TABLE, mean_text
from utils.separation.options import name_of_test
from utils.tools.processes import Chain, run_chains
from utils.tools.sections import add_results_options, origin, publish

Group = dict[str, Any]


def main() -> int:
    """Separate and score what is missing, then print the tables."""
    args = parse_args()
    for exp_dir in args.exp_dirs:
        if not (exp_dir / "best_model.pth").is_file():
            raise UserError(f"--exp_dirs {exp_dir}: holds no best_model.pth; stage 3 makes it")
    for test_dir in args.test_dirs:
        if not test_dir.exists():
            raise UserError(f"--test_dirs {test_dir}: no such file or folder; a CSV of a corpus is made by stage 0")
    pairs = [(exp_dir, test_dir) for exp_dir in args.exp_dirs for test_dir in args.test_dirs]
    failures = run_chains([_chain(args, *pair) for pair in pairs], 1, args.threads)
    if failures:
        raise UserError(f"{len(failures)} of the runs failed, the first: {next(iter(failures.values()))}")
    named = [(exp_dir, name_of_test(test_dir)) for exp_dir, test_dir in pairs]
    found = {(exp_dir, name): read_groups(exp_dir, name) for exp_dir, name in named}
    text = f"{matrix(found)}\n{long_table(found)}\n{silent_outputs(found)}"
    publish(text + origin("utils.tools.cross_corpus", args.threads), args.results, args.section)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="cross_corpus", description="Models on test sets of other corpora, in one table.")
    parser.add_argument("--exp_dirs", type=_paths, required=True, help="experiments, separated by commas")
    parser.add_argument("--test_dirs", type=_paths, required=True, help="CSVs or folders, separated by commas")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="where embeddings are kept")
    parser.add_argument("--data_root_dir", type=Path, default=Path("data"), help="where a folder's manifest is made")
    parser.add_argument("--max_failed", type=int, default=0, help="mixtures of a run that may fail")
    parser.add_argument("--nj", type=at_least(1), default=2, help="processes that score")
    parser.add_argument("--id", default="", help="GPU, e.g. 0; cpu; empty: a GPU if there is one")
    parser.add_argument("--threads", type=at_least(1), default=1, help="CPU threads of each program")
    add_results_options(parser, "cross-corpus")
    args = parser.parse_args()
    names = [name_of_test(test) for test in args.test_dirs]
    if len(set(names)) < len(names) or len({exp.resolve().name for exp in args.exp_dirs}) < len(args.exp_dirs):
        raise UsageError("cross_corpus: two experiments or two test sets have the same name; rename one of the folders")
    return args


def _paths(text: str) -> list[Path]:
    return [Path(word) for word in text.split(",") if word]


def _chain(args: argparse.Namespace, exp_dir: Path, test_dir: Path) -> Chain:
    name, python = name_of_test(test_dir), [sys.executable, "-m"]
    common = [f"--exp_dir={exp_dir}", f"--test_name={name}", f"--nj={args.nj}", f"--max_failed={args.max_failed}"]
    separate = [f"--test_dir={test_dir}", f"--dump_dir={args.dump_dir}", f"--data_root_dir={args.data_root_dir}"]
    separate += [f"--id={args.id}"] if args.id else []
    commands = {
        f"4_separate_{name}": [*python, "utils.stages.separate", *common, *separate],
        f"5_score_{name}": [*python, "utils.stages.score", *common],
    }
    return Chain(f"{exp_dir.name} on {name}", exp_dir / "log", commands)


def read_groups(exp_dir: Path, name: str) -> dict[str, Group]:
    """The means over all mixtures, "all", and over each subset that has any.

    Raises:
        UserError: the test set was not scored: it has no references.
    """
    path = exp_dir / "results" / name / "final_metrics.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file: {name} has no references to score with; leave it out")
    final = read_json(path)
    groups = {"all": final["overall"]} | final["subsets"]
    return {
        label: group
        for label, group in groups.items()
        if group["metrics"]["si_snr"]["mean"] is not None or group["n_silent_output"]
    }


def matrix(found: dict[tuple[Path, str], dict[str, Group]]) -> str:
    """SI-SNRi of every model (columns) on every test set and subset (rows), Markdown.

    Mixtures and unprocessed SI-SNR are those of the model with the fewest silent outputs: the other means lack some.
    """
    exps, tests = (list(dict.fromkeys(key[place] for key in found)) for place in (0, 1))
    rows = [["SI-SNRi (dB)", "mixtures", "unprocessed SI-SNR", *(exp.name for exp in exps)]]
    for test in tests:
        for label in dict.fromkeys(label for exp in exps for label in found[exp, test]):
            groups = [found[exp, test].get(label) for exp in exps]
            first = max((group for group in groups if group), key=_n_scored)
            name = test if label == "all" else f"{test}: {label}"
            cells = [_cell(group, "si_snr_imp", 2, error=True) for group in groups]
            rows.append([name, str(_n_scored(first)), _cell(first, "input_si_snr", 2), *cells])
    return markdown_table(rows)


def long_table(found: dict[tuple[Path, str], dict[str, Group]]) -> str:
    """All the metrics, a row for each test set, subset and model, Markdown."""
    rows = [["test set", "subset", "model", "mixtures", *(heading for heading, _, _ in SHORT_TABLE)]]
    for test in dict.fromkeys(test for _, test in found):
        own = {exp.name: groups for (exp, name), groups in found.items() if name == test}
        for label in dict.fromkeys(label for groups in own.values() for label in groups):
            for name, groups in own.items():
                if label in groups:
                    cells = [_cell(groups[label], metric, digits) for _, metric, digits in SHORT_TABLE]
                    rows.append([test, label, name, str(_n_scored(groups[label])), *cells])
    return markdown_table(rows, n_left=3)


def silent_outputs(found: dict[tuple[Path, str], dict[str, Group]]) -> str:
    """A line for each model and test set with silent outputs for active targets; "" without any."""
    counts = {key: groups["all"]["n_silent_output"] for key, groups in found.items() if "all" in groups}
    lines = [
        f"- {exp.name} on {test}: {count} active targets got a silent output; they are in no mean"
        for (exp, test), count in counts.items()
        if count
    ]
    return "\n".join(lines) + "\n\n" if lines else ""


def _n_scored(group: Group) -> int:
    """The mixtures that the means are over."""
    return group["n_heard"]


def _cell(group: Group | None, metric: str, digits: int, error: bool = False) -> str:
    entry = group["metrics"].get(metric) if group else None
    return mean_text(entry["mean"], entry["standard_error"] if error else None, digits, "–") if entry else "–"


if __name__ == "__main__":
    run_cli(main)
