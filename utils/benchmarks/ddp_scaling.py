"""How training speeds up with processes: the same epoch on one device, then on several, through stage 3 as it is.

Reads   what stage 3 reads: a conf, --data_dir, the embeddings of stage 2.
Writes  experiments in a temporary folder that it removes; the table to the standard output and into a section of --results.
Run     OMP_NUM_THREADS=1 python -m utils.benchmarks.ddp_scaling --conf conf/tse.yml --data_dir data/grid_tse \\
            --frontend_weights LIPS --processes 1,2 --train_args "--segment_sec 1.0 --batch_size 4 --num_workers 0"

Every process has the same batch size, so that a step of n processes is one of n times the mixtures. The last epoch counts:
in the first one processes start and files are read for the first time. Where CPUs are the devices, each process has
--threads threads; more processes than cores bring nothing.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path

from utils.benchmarks.comparison_runs import Chain, run_chains
from utils.benchmarks.sections import add_results_options, origin, write_section
from utils.data.files import read_json
from utils.errors import OptionParser, UserError, run_cli

EPOCHS = 2


def main() -> int:
    """Train with each number of processes, print the table."""
    args = parse_args()
    speeds = {}
    for count in args.processes:
        with tempfile.TemporaryDirectory(prefix="ddp-scaling-") as folder:
            speeds[count] = measure(args, count, Path(folder))
    facts = f"{args.conf} on {args.data_dir}, {args.epoch_size} mixtures an epoch, the {EPOCHS}nd of {EPOCHS} counts"
    text = f"{table(speeds)}\n" + origin("utils.benchmarks.ddp_scaling", args.threads, facts)
    print(text)
    if args.results:
        write_section(args.results, args.section, text)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="ddp_scaling", description="How training speeds up with processes.")
    parser.add_argument("--conf", type=Path, required=True, help="conf/*.yml")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the corpus' CSVs")
    parser.add_argument("--frontend_weights", default="", help="weights of the lip network (not for audio-only confs)")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"))
    parser.add_argument("--processes", type=_counts, default="1,2", help="numbers of processes, the first to compare with")
    parser.add_argument("--epoch_size", type=int, default=240, help="mixtures of an epoch")
    parser.add_argument("--train_args", default="", help="keys of the conf to change")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    add_results_options(parser, "ddp-scaling")
    return parser.parse_args()


def _counts(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdigit() and int(word) for word in words):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of whole numbers above zero such as 1,2")
    return [int(word) for word in words]


def measure(args: argparse.Namespace, count: int, folder: Path) -> float:
    """Mixtures per second that `count` processes train on together.

    Raises:
        UserError: training failed.
    """
    train_args = f"{args.train_args} --epochs {EPOCHS} --early_stop 0 --epoch_size {args.epoch_size} --audio_examples 0"
    train_args += f" --devices {count} --strategy {'ddp' if count > 1 else 'auto'}"
    words = [f"--conf={args.conf}", f"--data_dir={args.data_dir}", f"--exp_dir={folder / 'exp'}", f"--dump_dir={args.dump_dir}"]
    words += [f"--train_args={train_args}"]
    words += [f"--frontend_weights={args.frontend_weights}"] if args.frontend_weights else []
    command = [sys.executable, "-m", "utils.stages.train", *words]
    failures = run_chains([Chain(f"{count} processes", folder / "log", {"train": command})], 1, args.threads)
    if failures:
        raise UserError(f"{count} processes: {next(iter(failures.values()))}")
    training = read_json(folder / "exp" / "training.json")
    with open(folder / "exp" / "history.csv", newline="", encoding="utf-8") as handle:
        seconds = float(list(csv.DictReader(handle))[-1]["seconds"])
    return training["mixtures_seen"] / training["epochs"] / seconds


def table(speeds: dict[int, float]) -> str:
    """The Markdown table; the speed-up is over the first number of processes."""
    first = next(iter(speeds))
    lines = ["| processes | mixtures a second | speed-up | of the ideal |", "|---:|---:|---:|---:|"]
    for count, speed in speeds.items():
        gain = speed / speeds[first]
        lines.append(f"| {count} | {speed:.1f} | {gain:.2f} | {100 * gain * first / count:.0f} % |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_cli(main)
