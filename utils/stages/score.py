"""Stage 5: score separated voices against their references.

Reads   exp/<tag>/separated/<test name>/separated.csv, the audio it names, and the cue test's folders beside it;
        or, on its own, folders of mixtures, references (s1/, s2/ ...) and estimates (s1/, s2/ ...) matched by stem.
Writes  exp/<tag>/results/<test name>/ (or --out_dir): all_metrics.csv, final_metrics.json, RESULTS.md, histogram.png,
        examples/, and failed.csv with the reasons of what could not be scored.
Run     python -m utils.stages.score --exp_dir exp/avdprnn_demo --test_name demo_test --nj 2
        python -m utils.stages.score --mixture_dir M --reference_dir R --estimate_dir E --out_dir O --nj 2

A second run replaces the results; one whose inputs have not changed does nothing. An interrupted run goes on where it
was.
"""

import argparse
import csv
import hashlib
import logging
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from utils.data.files import atomic_path, read_json, write_json, write_text
from utils.data.fingerprints import StageMark, hash_contents, hash_stats
from utils.data.manifest import Problem, write_failed
from utils.errors import OptionParser, UsageError, UserError, flag, run_cli
from utils.scoring.items import ScoreItem, read_separated, scan_folders
from utils.scoring.report import cue_text, definitions, package_versions, provenance, results_table, results_text, silent_table

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[2]
SCORE_CODE = [REPOSITORY / "utils" / "scoring" / "metrics.py", REPOSITORY / "utils" / "scoring" / "scores.py"]
CODE = [REPOSITORY / "utils" / "scoring" / "metrics.py", *sorted((REPOSITORY / "utils" / "scoring").glob("*.py")), Path(__file__)]
OUTPUTS = ("all_metrics.csv", "final_metrics.json", "RESULTS.md", "histogram.png")


@dataclass(frozen=True)
class Job:
    """What is scored: the mixtures, what is wrong with others, and where it comes from and goes to."""

    title: str
    out_dir: Path
    items: list[ScoreItem]
    problems: list[Problem]
    permute: bool = False
    cue_csvs: dict[str, Path] = field(default_factory=dict)
    experiment: dict[str, str] = field(default_factory=dict)
    experiment_files: tuple[Path, ...] = ()
    training: dict = field(default_factory=dict)
    n_not_separated: int = 0


def parse_args() -> argparse.Namespace:
    """Read the command line: an experiment's test, or folders."""
    parser = OptionParser(prog="score", description="Stage 5: score separated voices.")
    parser.add_argument("--exp_dir", type=Path, help="folder of the experiment")
    parser.add_argument("--test_name", help="name of the test under exp_dir/separated")
    parser.add_argument("--mixture_dir", type=Path, help="on its own: unprocessed mixtures; none: no improvements")
    parser.add_argument("--reference_dir", type=Path, help="on its own: references in s1/, s2/ ...")
    parser.add_argument("--estimate_dir", type=Path, help="on its own: estimates in s1/, s2/ ...")
    parser.add_argument("--out_dir", type=Path, help="on its own: where the results go")
    parser.add_argument("--permute", type=flag, default=False, help="assign estimates by the best mean SI-SNR")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    parser.add_argument("--max_failed", type=int, default=0, help="mixtures that may fail before the stage does")
    parser.add_argument("--force", type=flag, nargs="?", const=True, default=False, help="score although nothing changed")
    args = parser.parse_args()
    folders = (args.reference_dir, args.estimate_dir, args.out_dir)
    if args.nj < 1:
        raise UsageError(f"score: --nj {args.nj} must be at least 1")
    if args.exp_dir and (any(folders) or args.mixture_dir):
        raise UsageError("score: give --exp_dir and --test_name, or the folders, not both")
    if not (args.exp_dir and args.test_name) and not all(folders):
        raise UsageError("score: give --exp_dir and --test_name, or --reference_dir, --estimate_dir and --out_dir")
    return args


def main() -> int:
    """Find out what there is to score, score it unless that was done, and write the results."""
    args = parse_args()
    job = _experiment_job(args) if args.exp_dir else _folder_job(args)
    if job is None:
        return 0
    mark = StageMark(job.out_dir / ".done-5.json", _inputs(job))
    changes = mark.changed()
    if changes == [] and not args.force and all((job.out_dir / name).is_file() for name in OUTPUTS):
        logger.info("stage 5: up to date, the results are in %s", job.out_dir)
        return 0
    for change in changes or []:
        logger.info("stage 5: changed since the last scoring: %s", change)
    if args.force:
        for journal in job.out_dir.glob(".scored*.jsonl"):
            journal.unlink()
    failed = _score(job, args.nj)
    if failed > args.max_failed:
        raise UserError(
            f"{failed} mixtures could not be scored (--max_failed {args.max_failed}), the results of the others are in "
            f"{job.out_dir}; see {job.out_dir / 'failed.csv'}"
        )
    mark.write()
    logger.info("stage 5: the results are in %s", job.out_dir)
    return 0


def _experiment_job(args: argparse.Namespace) -> Job | None:
    """The job of a test that stage 4 separated; None where it has no references."""
    if not args.exp_dir.is_dir():
        raise UserError(f"--exp_dir {args.exp_dir}: no such folder; stage 3 (--stage 3) makes it")
    folder = args.exp_dir / "separated" / args.test_name
    items, problems, absent = read_separated(folder / "separated.csv")
    if absent:
        logger.warning(
            "stage 5: cannot score %s: no references (%s absent or empty in %s); the voices are in %s",
            args.test_name, ", ".join(absent), folder / "separated.csv", folder,
        )  # fmt: skip
        return None
    from utils.scoring.cues import cue_csvs

    training = args.exp_dir / "training.json"
    files = tuple(path for path in (args.exp_dir / "conf.yml", training) if path.is_file())
    return Job(
        title=f"{args.exp_dir.name} on {args.test_name}",
        out_dir=args.exp_dir / "results" / args.test_name,
        items=items,
        problems=problems,
        permute=args.permute,
        cue_csvs=cue_csvs(folder),
        experiment={"experiment": args.exp_dir.name, "test": args.test_name},
        experiment_files=files,
        training=read_json(training) if training in files else {},
        n_not_separated=_count_ids(folder / "failed.csv"),
    )


def _folder_job(args: argparse.Namespace) -> Job:
    items, problems = scan_folders(args.mixture_dir, args.reference_dir, args.estimate_dir)
    if args.mixture_dir is None:
        logger.info("stage 5: no --mixture_dir, so there will be no improvements")
    folders = {"estimates": args.estimate_dir, "references": args.reference_dir, "mixtures": args.mixture_dir}
    return Job(
        title=str(args.estimate_dir),
        out_dir=args.out_dir,
        items=items,
        problems=problems,
        permute=args.permute,
        experiment={name: str(path) for name, path in folders.items() if path},
    )


def _count_ids(path: Path) -> int:
    """How many mixtures a failed.csv names."""
    if not path.is_file():
        return 0
    with open(path, newline="", encoding="utf-8") as handle:
        return len({row["id"] for row in csv.DictReader(handle)})


def _inputs(job: Job) -> dict[str, str]:
    """What the results depend on; audio files count by name, size and time."""
    cue_items = [item for path in job.cue_csvs.values() for item in read_separated(path)[0]]
    return {
        "list of mixtures": hashlib.sha256(repr((job.items, job.problems)).encode()).hexdigest(),
        "audio": hash_stats(path for item in job.items for path in item.paths),
        "cue test": hash_stats(path for item in cue_items for path in item.paths),
        "permute": str(job.permute),
        "experiment": hash_contents(job.experiment_files),
        "not separated": str(job.n_not_separated),
        "scoring code": hash_contents(CODE),
    }


def _score(job: Job, nj: int) -> int:
    """Score, write everything, print the table; gives the number of mixtures that failed."""
    from utils.scoring.cues import cue_test
    from utils.scoring.pool import score_all
    from utils.scoring.scores import score_item
    from utils.scoring.table import mixture_means, source_table

    source = provenance(sys.argv[1:])
    version = score_version(job.permute)
    function = partial(score_item, permute=job.permute)
    results, reasons = score_all(function, job.items, nj, job.out_dir / ".scored.jsonl", version)
    problems = job.problems + [
        Problem(0, item.mixture_id, item.estimate_paths[0], reason)
        for item, reason in zip(job.items, reasons, strict=True)
        if reason
    ]
    write_failed(job.out_dir / "failed.csv", problems)
    n_failed = len({problem.item_id for problem in problems})
    if not any(results):
        raise UserError(f"none of {n_failed} mixtures could be scored, see {job.out_dir / 'failed.csv'}")
    cues = cue_test(job.items, job.cue_csvs, nj, job.out_dir, version) if job.cue_csvs else None
    voices = source_table(job.items, results)
    means = mixture_means(voices)
    final = _final_metrics(job, results, voices, means, source) | {"n_failed": n_failed, "cue_test": cues}
    _write(job, final, voices, means, [item for item, result in zip(job.items, results, strict=True) if result])
    print(f"\n{job.title}\n\n{results_table(final)}", flush=True)
    if final["overall"]["n_silent"]:
        print(f"absent targets\n\n{silent_table(final)}\n", flush=True)
    if cues:
        print(cue_text(cues) + "\n", flush=True)
    return n_failed


def score_version(permute: bool) -> str:
    """Changes whenever a mixture could get other scores; names what the journal of finished ones holds."""
    packages = " ".join(f"{name}={version}" for name, version in package_versions().items())
    return f"{hash_contents(SCORE_CODE)[:12]} {packages} permute={permute}"


def _final_metrics(job: Job, results: list[dict], voices: "DataFrame", means: "DataFrame", source: dict) -> dict:
    from utils.scoring.table import nan_reasons, summarise

    scored = [result for result in results if result]
    return {
        "title": job.title,
        "n_src": int(voices["speaker"].astype(int).max()),
        "sample_rates_hz": sorted({result["sample_rate"] for result in scored}),
        "permute": job.permute,
        "n_order_unknown": sum(result["permuted"] for result in scored) if not job.permute else 0,
        "n_not_separated": job.n_not_separated,
        "n_trimmed": sum(result["trimmed_samples"] > 0 for result in scored),
        **summarise(voices, means),
        "nan_reasons": nan_reasons(voices),
        "definitions": definitions(),
        "experiment": job.experiment,
        "training": job.training,
        "provenance": source,
    }


def _write(job: Job, final: dict, voices: "DataFrame", means: "DataFrame", items: list[ScoreItem]) -> None:
    from utils.scoring.examples import write_examples
    from utils.scoring.plots import plot_histogram
    from utils.scoring.table import all_rows

    with atomic_path(job.out_dir / "all_metrics.csv") as temporary:
        all_rows(voices, means).to_csv(temporary, index=False)
    write_examples(items, job.out_dir / "examples")
    plot_histogram(voices, job.out_dir / "histogram.png", job.title)
    write_text(job.out_dir / "RESULTS.md", results_text(final))
    write_json(job.out_dir / "final_metrics.json", final)


if __name__ == "__main__":
    run_cli(main)
