"""Stage 5: score estimates against their references.

Reads   exp/<tag>/separated/<test name>/separated.csv, the audio it names, and the folders of the visual cue test and of the
        offset sweep beside it; or, on its own, folders of mixtures, references (s1/, s2/ ...) and estimates (s1/, s2/ ...)
        matched by stem.
Writes  exp/<tag>/results/<test name>/ (or --out_dir): all_metrics.csv, final_metrics.json, RESULTS.md, histogram.png,
        examples/, eval.txt (SDR, SDR of the mixture, SDRi, SIR, SAR, PESQ, STOI of each mixture of several sources, then the
        means), failed.csv with the reasons of what could not be scored, and offset_sweep.{csv,md,png} where stage 4 was
        called with --av_offset_sweep.
Run     python -m utils.stages.score --exp_dir exp/demo_demo --test_name demo_test --nj 2
        python -m utils.stages.score --mixture_dir M --reference_dir R --estimate_dir E --out_dir O --nj 2

A second run replaces the results; one whose inputs have not changed does nothing. An interrupted run goes on where it
was.
"""

import argparse
import logging
from pathlib import Path

from utils.data.cluster import add_cluster_option, use_cluster
from utils.data.devices import n_cores
from utils.data.fingerprints import StageMark
from utils.data.hub import experiment_folder
from utils.errors import OptionParser, UsageError, UserError, flag, run_cli
from utils.scoring.job import experiment_job, folder_job, job_inputs, job_outputs, score_job
from utils.separation.options import is_video_set, name_of_test
from utils.training.config import is_voice_to_mouth

logger = logging.getLogger(__name__)


def main() -> int:
    """Find the estimates, score them unless nothing changed."""
    args = parse_args()
    use_cluster(args.cluster)
    if args.exp_dir and not args.exp_dir.is_dir():
        raise UserError(f"--exp_dir {args.exp_dir}: no such folder; stage 3 (--stage 3) makes it")
    if args.exp_dir and is_voice_to_mouth(args.exp_dir):
        from utils.voice_to_mouth.score import score_predictions

        score_predictions(args.exp_dir, args.test_name or name_of_test(args.test_dir), args.force)
        return 0
    if args.test_dir and is_video_set(args.test_dir):
        logger.info("stage 5: skipped, videos have no references to score against")
        return 0
    if args.exp_dir:
        job = experiment_job(args.exp_dir, args.test_name or name_of_test(args.test_dir), args.permute)
    else:
        job = folder_job(args.mixture_dir, args.reference_dir, args.estimate_dir, args.out_dir, args.permute)
    if job is None:
        return 0
    mark = StageMark(job.out_dir / ".done-5.json", job_inputs(job))
    changes = mark.changed()
    if changes == [] and not args.force and all(path.is_file() for path in job_outputs(job)):
        logger.info("stage 5: up to date, the results are in %s", job.out_dir)
        return 0
    for change in changes or []:
        logger.info("stage 5: changed since the last scoring: %s", change)
    if args.force:
        for journal in job.out_dir.glob(".scored*.jsonl"):
            journal.unlink()
    failed = score_job(job, args.nj)
    if failed > args.max_failed:
        raise UserError(
            f"{failed} mixtures could not be scored (--max_failed {args.max_failed}), the results of the others are in "
            f"{job.out_dir}; see {job.out_dir / 'failed.csv'}"
        )
    mark.write()
    logger.info("stage 5: the results are in %s", job.out_dir)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line: an experiment's test, or folders."""
    parser = OptionParser(prog="score", description="Stage 5: score estimates against their references.")
    parser.add_argument("--exp_dir", type=experiment_folder, help="folder of the experiment")
    parser.add_argument("--test_name", default="", help="name of the test under exp_dir/separated; empty: that of --test_dir")
    parser.add_argument("--test_dir", type=Path, help="what stage 4 separated: a CSV, a folder, or videos")
    parser.add_argument("--mixture_dir", type=Path, help="on its own: unprocessed mixtures; none: no improvements")
    parser.add_argument("--reference_dir", type=Path, help="on its own: references in s1/, s2/ ...")
    parser.add_argument("--estimate_dir", type=Path, help="on its own: estimates in s1/, s2/ ...")
    parser.add_argument("--out_dir", type=Path, help="on its own: where the results go")
    parser.add_argument("--permute", type=flag, nargs="?", const=True, default=False,
                        help="assign estimates by the best mean SI-SNR")  # fmt: skip
    parser.add_argument("--nj", type=int, default=n_cores(), help="processes")
    add_cluster_option(parser)
    parser.add_argument("--max_failed", type=int, default=0, help="mixtures that may fail before the stage does")
    parser.add_argument("--force", type=flag, nargs="?", const=True, default=False, help="score although nothing changed")
    args = parser.parse_args()
    folders = (args.reference_dir, args.estimate_dir, args.out_dir)
    if args.nj < 1:
        raise UsageError(f"score: --nj {args.nj} must be at least 1")
    if args.exp_dir and (any(folders) or args.mixture_dir):
        raise UsageError("score: give --exp_dir and --test_name, or the folders, not both")
    if not (args.exp_dir and (args.test_name or args.test_dir)) and not all(folders):
        raise UsageError(
            "score: --exp_dir and --test_name (or --test_dir) are needed, or --reference_dir, --estimate_dir and --out_dir"
        )
    return args


if __name__ == "__main__":
    run_cli(main)
