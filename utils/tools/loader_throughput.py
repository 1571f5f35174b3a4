"""Mixtures per second that the loader delivers, beside those that the training of a conf consumes.

Reads   a conf, the manifests and audio of --data_dir, and the embeddings of stage 2, all as stage 3 takes them.
Writes  a Markdown table to the standard output, and into a section of --results.
Run     python -m utils.tools.loader_throughput --conf conf/av_tfdprnn.yml --data_dir data/demo \\
            --frontend_weights egs/demo/lipreader.pth.tar --workers 0,1,2

The two are measured one after the other, each with the machine to itself: where training runs on the CPU, loader
processes take their share of it. Training is real steps (forward, loss, backward, clipping, optimiser) on batches that
the loader made. Files that were read once come from memory, as they do from an epoch to the next where they fit into
it.
"""

import argparse
import contextlib
import shlex
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from utils.data.manifest import Manifest, read_manifest
from utils.data.reports import markdown_table
from utils.embedding.store import EmbeddingStore
from utils.errors import OptionParser, UsageError, UserError, run_cli
from utils.tools.sections import add_results_options, origin, publish
from utils.training.config import Config, read_config

if TYPE_CHECKING:
    from torch.utils.data import DataLoader, Dataset

Batch = dict[str, Any]

NOTE = (
    "With loader processes, training does not wait for them where the ratio is above 1. With 0, reading and training "
    "take turns in one process: a ratio of r leaves training r / (1 + r) of the time."
)


def main() -> None:
    """Measure both, print the table."""
    args = parse_args()
    try:
        config = read_config(args.conf, shlex.split(args.train_args))
    except ValueError as error:
        raise UsageError(f"--train_args: {error}") from None
    if config.model.n_faces and not (args.frontend_weights and args.frontend_weights.exists()):
        weights = args.frontend_weights
        raise UserError(f"{args.conf} needs embeddings; --frontend_weights {weights}: no such file, give one")
    train = read_manifest(args.data_dir / ("utterances.csv" if config.data.dynamic else "train.csv"))
    val = read_manifest(args.data_dir / "val.csv")

    import torch

    from utils.training.datasets import make_datasets

    torch.set_num_threads(args.threads)
    config, stores = _with_stores(config, train, args)
    train_set, _ = make_datasets(config, train, val, stores, stores[:1])
    delivered = {
        workers: loader_speed(config, train_set, train, workers, args.batches)
        for workers in tqdm(args.workers, desc="loader", unit="setting", disable=None)
    }
    consumed = training_speed(config, list(islice(_batches(config, train_set, train, 0), args.steps)))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    facts = (
        f"{args.conf} on {args.data_dir}, training on {device}, batches of {config.training.batch_size}",
        f"seed {config.training.seed}; {args.batches} batches of the loader, {args.steps} training steps",
    )
    text = f"{table(delivered, consumed)}\n" + origin("utils.tools.loader_throughput", args.threads, *facts)
    publish(text, args.results, args.section)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="loader_throughput", description="Whether the loader keeps up with training.")
    parser.add_argument("--conf", type=Path, required=True, help="conf/*.yml")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the corpus' CSVs")
    parser.add_argument("--train_args", default="", help='keys of the conf to change, "--noise_prob 0.5 --noise_dir D"')
    parser.add_argument("--frontend_weights", type=Path, help="of the visual frontend (not for audio-only confs)")
    parser.add_argument("--frontend_conf", type=Path, help="its conf/lipreading/*.json; found out when not given")
    parser.add_argument("--frontend_layer", default="trunk", choices=("trunk", "tcn"))
    parser.add_argument("--views", default="centre", help="crop views to draw from: centre or centre,flip")
    parser.add_argument("--precision", default="float16", choices=("float16", "float32"), help="of the embeddings")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"))
    parser.add_argument("--workers", type=_counts, default="0,1,2", help="numbers of loader processes")
    parser.add_argument("--batches", type=_count, default=30, help="batches of the loader to time, for each number")
    parser.add_argument("--steps", type=_count, default=5, help="training steps to time")
    parser.add_argument("--threads", type=_count, default=1, help="threads of the network on a CPU")
    add_results_options(parser, "loader-throughput")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above zero")
    return int(text)


def _counts(text: str) -> list[int]:
    counts = text.split(",")
    if not all(count.isdigit() for count in counts):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of whole numbers such as 0,1,2")
    return [int(count) for count in counts]


def _with_stores(config: Config, train: Manifest, args: argparse.Namespace) -> tuple[Config, list[EmbeddingStore]]:
    """The conf for the embeddings of the visual frontend, and their stores, a view each; none for audio only."""
    if not config.model.n_faces:
        return config, []
    from utils.embedding.frontends import load_frontend, store_name

    frontend = load_frontend(args.frontend_weights, args.frontend_conf, args.frontend_layer)
    names = [store_name(frontend, view, args.precision) for view in args.views.split(",")]
    folders = [args.dump_dir / "embeddings" / name / train.corpus for name in names]
    missing = next((folder for folder in folders if not folder.is_dir()), None)
    if missing:
        raise UserError(f"{missing}: no embeddings of this visual frontend; stage 2 makes them (--stage 2)")
    return config.with_visual_dim(frontend.dim), [EmbeddingStore(folder) for folder in folders]


def loader_speed(config: Config, train_set: "Dataset", train: Manifest, workers: int, n_batches: int) -> float:
    """Mixtures per second that `workers` loader processes deliver to a process that only waits for them."""
    batches = _batches(config, train_set, train, workers)
    for _ in range(1 + 2 * workers):  # the processes' start, and what they have ready by then
        next(batches)
    start_sec = time.perf_counter()
    mixtures = sum(len(batch["mixture"]) for batch in islice(batches, n_batches))
    return mixtures / (time.perf_counter() - start_sec)


def training_speed(config: Config, batches: list[Batch]) -> float:
    """Mixtures per second that training consumes: one step on each batch, after one that does not count."""
    import torch

    from local_models.networks import build_network
    from utils.training.system import AVSystem

    warnings.filterwarnings("ignore", ".*self.trainer. reference is not registered")
    device, training = "cuda" if torch.cuda.is_available() else "cpu", config.training
    system = AVSystem(build_network(config.model), config.loss, config.optim, lambda step: 0.0, training.seed)
    system.to(device).train()
    optimizer = system.configure_optimizers()[0][0]
    halved = {"bf16": torch.bfloat16, "16": torch.float16}.get(training.precision)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        with torch.autocast(device, halved) if halved and device == "cuda" else contextlib.nullcontext():
            loss = system.training_step(batch, 0)
        loss.backward()
        if training.gradient_clipping:
            torch.nn.utils.clip_grad_norm_(system.parameters(), training.gradient_clipping)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    on_device = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]
    step(on_device[0])
    start_sec = time.perf_counter()
    for batch in tqdm(on_device, desc="training", unit="step", disable=None):
        step(batch)
    return sum(len(batch["mixture"]) for batch in on_device) / (time.perf_counter() - start_sec)


def _batches(config: Config, train_set: "Dataset", train: Manifest, workers: int) -> Iterator[Batch]:
    """Training batches without end, epoch after epoch."""
    from utils.training.datasets import make_loader, make_sampler

    sampler = make_sampler(config, train_set, train.path)
    config = replace(config, data=replace(config.data, num_workers=workers))
    loader: DataLoader = make_loader(config, train_set, sampler)
    while True:
        yield from loader
        sampler.set_epoch(sampler.epoch + 1)


def table(delivered: dict[int, float], consumed: float) -> str:
    """Markdown: mixtures delivered by the loader, those consumed by training, and their ratio.

    Args:
        delivered: mixtures per second by number of loader processes.
        consumed: mixtures per second.
    """
    rows = [["loader processes", "delivered, mixtures/s", "consumed by training, mixtures/s", "ratio"]]
    rows += [[str(n), f"{speed:.1f}", f"{consumed:.2f}", f"{speed / consumed:.1f}"] for n, speed in delivered.items()]
    return f"{markdown_table(rows, n_left=0)}\n{NOTE}\n"


if __name__ == "__main__":
    run_cli(main)
