"""How much of the front end's bare speed is left in stage 2, which also reads, unzips, preprocesses and writes.

Reads the first clips of a corpus' manifests and a front end; writes a store into a temporary folder below --dump_dir
and removes it. Prints clips per second of the bare forward pass on batches that lie ready in memory, and of the whole
stage on the same clips, in turns, so that both meet the same machine.

    python -m utils.benchmarks.embedding_throughput --data_dir data/grid --frontend_weights W
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.data.manifest import Manifest, find_manifests, read_manifest
from utils.errors import OptionParser, UserError, run_cli

if TYPE_CHECKING:
    from utils.engine.frontends import Frontend


def main() -> None:
    args = parse_args()
    manifests = read_clips(args.data_dir, args.clips)
    if not args.frontend_weights.is_file():
        raise UserError(f"--frontend_weights {args.frontend_weights}: no such file")

    import torch

    from utils.engine.frontends import load_frontend

    torch.set_num_threads(args.threads)
    frontend = load_frontend(args.frontend_weights, args.frontend_conf, args.frontend_layer, args.device)
    print(f"{frontend.name} on {args.device}, {args.threads} threads, batches of {args.batch_size}, {args.nj} readers")
    print(f"{'round':>6} {'bare clips/s':>13} {'stage clips/s':>14} {'ratio':>7}   {'CPU ms a clip, bare and stage':>30}")
    ratios = []
    for number, (bare, stage) in enumerate(measure(manifests, frontend, args), start=1):
        ratios.append(bare.wall_sec / stage.wall_sec)
        speeds = f"{bare.clips / bare.wall_sec:>13.2f} {stage.clips / stage.wall_sec:>14.2f} {ratios[-1]:>7.1%}"
        cpu_ms = f"{1e3 * bare.cpu_sec / bare.clips:>20.1f} {1e3 * stage.cpu_sec / stage.clips:>9.1f}"
        print(f"{number:>6} {speeds}   {cpu_ms}", flush=True)
    print(f"median {'':>28} {statistics.median(ratios):>7.1%}")


class Cost(NamedTuple):
    """What it took to embed some clips."""

    clips: int
    wall_sec: float
    cpu_sec: float  # of all threads of this process: tells the stage's own cost where others use the machine, too


def parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="embedding_throughput", description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="a corpus' manifests, data/<corpus>")
    parser.add_argument("--frontend_weights", type=Path, required=True, help="weights of the front end")
    parser.add_argument("--frontend_conf", type=Path, help="its conf/lipreading/*.json")
    parser.add_argument("--frontend_layer", default="trunk", choices=("trunk", "tcn"))
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="where the temporary store is made")
    parser.add_argument("--clips", type=int, default=48, help="clips to measure with")
    parser.add_argument("--rounds", type=int, default=5, help="times that both are measured")
    parser.add_argument("--batch_size", type=int, default=16, help="clips a batch")
    parser.add_argument("--nj", type=int, default=2, help="reading threads")
    parser.add_argument("--threads", type=int, default=2, help="threads of the network on a CPU")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    return parser.parse_args()


def read_clips(data_dir: Path, n_clips: int) -> list[Manifest]:
    """The manifests of a corpus, cut off once they name `n_clips` mouths.

    Raises:
        UserError: there are none.
    """
    manifests, names = [], set()
    for manifest in map(read_manifest, find_manifests(data_dir)):
        kept = []
        for item in manifest.items:
            if len(names) < n_clips:
                kept.append(item)
                names |= set(dataclasses.replace(manifest, items=(item,)).mouth_paths())
        manifests += [dataclasses.replace(manifest, items=tuple(kept))] if kept else []
    if not names:
        raise UserError(f"--data_dir {data_dir}: no manifest that names mouths; stage 0 (prepare) makes them")
    return manifests


def measure(manifests: list[Manifest], frontend: "Frontend", args: argparse.Namespace) -> Iterator[tuple[Cost, Cost]]:
    """Yield what the bare forward pass took, and the whole stage, for each round."""
    from utils.engine.embedding import embed_manifests, forward_batch, load_group
    from utils.engine.embedding_plan import plan_embedding

    args.dump_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-benchmark-", dir=args.dump_dir) as folder:
        how = ("centre", "float16", args.batch_size, args.nj)
        groups = plan_embedding(manifests, frontend, Path(folder), *how).groups
        batches = [batch for group in groups for batch in load_group(group, frontend, "centre")[0]]
        n_clips = sum(len(batch.clips) for batch in batches)

        def run_bare() -> None:
            for batch in batches:
                forward_batch(frontend, batch).cpu()

        run_bare()  # the first pass pays for the library's set-up
        for number in range(args.rounds):
            bare = _cost(run_bare, n_clips)
            store = Path(folder) / str(number)
            yield bare, _cost(lambda store=store: embed_manifests(manifests, frontend, store, *how), n_clips)


def _cost(work: Callable[[], object], n_clips: int) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(n_clips, time.perf_counter() - wall, time.process_time() - cpu)


if __name__ == "__main__":
    run_cli(main)
