"""Stage 2, embeddings: every mouth of a corpus through the lip-reading visual frontend, once.

Reads the manifests `data/<corpus>/*.csv`, the mouth crops they name and the visual frontend's weights, or in place of both a
folder of precomputed embeddings (`--frontend_weights DIR`, see utils/embedding/precomputed.py); writes
`dump/embeddings/<visual frontend>-<fingerprint>/<corpus>/` (parts and failed.csv), one store for each view, and the mark
`data/<corpus>/.done-2-<visual frontend>-<fingerprint>.json`. Clips whose embedding is there are skipped, those whose mouth
file has changed are made anew. Several processes share the work when started by torchrun or srun.

    python -m utils.stages.embed --data_dir data/demo --frontend_weights egs/demo/lipreader.pth.tar
    torchrun --nproc_per_node 4 -m utils.stages.embed --data_dir data/demo --frontend_weights W --id 0,1,2,3
"""

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from utils.data.devices import choose_device, n_cores
from utils.data.fingerprints import StageMark, hash_contents
from utils.data.manifest import Manifest, find_manifests, read_manifest
from utils.errors import OptionParser, UsageError, UserError, flag, run_cli
from utils.training.preflight import read_train_config

if TYPE_CHECKING:
    from utils.embedding.embed import EmbeddingPlan
    from utils.embedding.frontends import Frontend
    from utils.embedding.precomputed import PrecomputedEmbeddings

logger = logging.getLogger(__name__)

_VIEWS = ("centre", "flip")


def main() -> int:
    args = parse_args()
    if args.conf and not read_train_config(args.conf, args.train_args).model.n_faces:
        logger.info("stage 2: skipped, %s is an audio-only model", args.conf)
        return 0
    shard = process_share(os.environ)
    manifests = read_manifests(args)

    from utils.embedding.embed import require_room  # torch comes only after the paths were found good
    from utils.embedding.frontends import load_frontend

    device = choose_device(args.id, os.environ)
    frontend = load_frontend(args.frontend_weights, args.frontend_conf, args.frontend_layer, device)
    logger.info("stage 2: on %s, process %d of %d", device, shard[0] + 1, shard[1])
    plans = [plan_view(manifests, frontend, view, args, shard, args.force) for view in args.views]
    require_room(plans)
    for plan in plans:
        embed_view(manifests, frontend, plan, args, shard)
    return 0


def parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="embed", description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="the corpus' manifests, data/<corpus>")
    parser.add_argument("--frontend_weights", type=Path, help="of the visual frontend, or a folder of precomputed embeddings")
    parser.add_argument("--conf", type=Path, help="of the training to come: an audio-only one needs no embeddings")
    parser.add_argument("--train_args", default="", help="keys of the conf to change")
    parser.add_argument("--frontend_conf", type=Path, help="its conf/lipreading/*.json; found by itself where possible")
    parser.add_argument("--frontend_layer", default="trunk", choices=("trunk", "tcn"), help="which output is cached")
    parser.add_argument("--views", type=_views, default="centre", help="centre, flip or centre,flip")
    parser.add_argument("--embedding_dtype", dest="precision", default="float16", choices=("float16", "float32"),
                        help="of what is stored")  # fmt: skip
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="the stores are dump_dir/embeddings/...")
    parser.add_argument("--embed_batch_size", dest="batch_size", type=_positive, default=16, help="clips a batch")
    parser.add_argument("--nj", type=_positive, default=n_cores(), help="threads that read ahead of the network, 8 at most")
    parser.add_argument("--id", default="", help="GPUs, e.g. 0 or 0,1, one a process; cpu; empty: a GPU if there is one")
    parser.add_argument("--max_failed", type=int, default=0, help="mouths that may fail before the stage does")
    parser.add_argument("--force", type=flag, nargs="?", const=True, default=False, help="embed everything again")
    return parser.parse_args()


def read_manifests(args: argparse.Namespace) -> list[Manifest]:
    """Check every path of the command and read the corpus' manifests, without torch.

    Raises:
        UserError: a path leads nowhere, or a manifest is wrong.
    """
    if args.frontend_weights is None:
        raise UsageError("--frontend_weights is needed: the weights of the visual frontend, or a folder of embeddings")
    if not args.frontend_weights.exists():
        raise UserError(
            f"--frontend_weights {args.frontend_weights}: no such file or folder; utils/download_weights.sh fetches some"
        )
    if args.frontend_conf is not None and not args.frontend_conf.is_file():
        raise UserError(f"--frontend_conf {args.frontend_conf}: no such file; see conf/lipreading/*.json")
    if not args.data_dir.is_dir():
        raise UserError(f"--data_dir {args.data_dir}: no such folder; stage 0 (prepare) makes it")
    paths = find_manifests(args.data_dir)
    if not paths:
        raise UserError(f"--data_dir {args.data_dir}: holds no manifest (*.csv with *.json); stage 0 (prepare) makes them")
    return [read_manifest(path) for path in paths]


def plan_view(
    manifests: list[Manifest],
    frontend: "Frontend | PrecomputedEmbeddings",
    view: str,
    args: argparse.Namespace,
    shard: tuple[int, int] = (0, 1),
    force: bool = False,
) -> "EmbeddingPlan":
    """What is to be done for one view, by this process; see `plan_embedding`."""
    from utils.embedding.embed import plan_embedding

    where = (args.dump_dir, view, args.precision, args.batch_size, args.nj)
    return plan_embedding(manifests, frontend, *where, shard, force)


def embed_view(
    manifests: list[Manifest],
    frontend: "Frontend | PrecomputedEmbeddings",
    plan: "EmbeddingPlan",
    args: argparse.Namespace,
    shard: tuple[int, int],
) -> None:
    """Bring this process' share of one view's store up to date; mark the view once the whole of it is.

    Raises:
        UserError: more than `--max_failed` mouths could not be embedded.
    """
    from utils.embedding.embed import run_plan

    view = plan.view
    mark = _mark(manifests, plan.root.parent.name, view, args)
    changes = mark.changed()
    if not plan.groups and changes == []:
        logger.info("stage 2: up to date (%s view, %d clips in %s)", view, plan.n_clips, plan.root)
        return
    because = f" ({'; '.join(changes)})" if changes else ""
    logger.info("stage 2: %s view, %d of %d clips to embed%s", view, plan.n_pending, plan.n_clips, because)
    failed_path = plan.root / ("failed.csv" if shard[1] == 1 else f"failed-{shard[0]}.csv")
    problems = run_plan(plan, frontend, args.nj, failed_path.name)
    for other in plan.root.glob("failed-*.csv" if shard[1] == 1 else "failed.csv"):
        other.unlink(missing_ok=True)  # of an earlier run with another number of processes
    if len(problems) > args.max_failed:
        raise UserError(
            f"{failed_path}: {len(problems)} of {plan.n_clips} mouths could not be embedded, the first "
            f"{problems[0].path} ({problems[0].reason}); mend them, or allow so many with --max_failed"
        )
    # the last of several processes finds nothing missing
    if shard[1] == 1 or not plan_view(manifests, frontend, view, args).groups:
        mark.write()


def process_share(environment: Mapping[str, str]) -> tuple[int, int]:
    """(rank, number of processes) as torchrun or srun set them, (0, 1) without either.

    The number is taken from srun's step, not from SLURM_NTASKS: a batch script that starts one process has that too.

    Raises:
        UsageError: numbers that make no sense.
    """
    for rank_name, count_name in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank_name in environment and count_name in environment:
            rank, count = environment[rank_name], environment[count_name]
            if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
                raise UsageError(f"{rank_name}={rank}, {count_name}={count}: no process of a group; unset them")
            return int(rank), int(count)
    return 0, 1


def _mark(manifests: list[Manifest], name: str, view: str, args: argparse.Namespace) -> StageMark:
    files = [path for manifest in manifests for path in (manifest.path, manifest.path.with_suffix(".json"))]
    inputs = {"manifests": hash_contents(files), "visual frontend": name, "view": view, "precision": args.precision}
    return StageMark(args.data_dir / f".done-2-{name}.json", inputs)


def _views(text: str) -> list[str]:
    views = list(dict.fromkeys(text.split(",")))
    if not set(views) <= set(_VIEWS):
        raise argparse.ArgumentTypeError(f"'{text}' is not centre, flip or centre,flip")
    return views


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    run_cli(main)
