"""Stage 2, embeddings: every mouth of a corpus through the lip-reading visual frontend, once.

Reads the manifests `data/<corpus>/*.csv`, the mouth crops they name and the visual frontend's weights, or in place of both a
folder of precomputed embeddings (`--frontend_weights DIR`, see utils/embedding/precomputed.py); writes
`dump/embeddings/<visual frontend>-<fingerprint>/<corpus>/` (parts and failed.csv), one store for each view, and the mark
`data/<corpus>/.done-2-<visual frontend>-<fingerprint>.json`. Clips that have an embedding are skipped, those whose mouth
file has changed are embedded again. Several processes share the work when started by torchrun or srun.

    python -m utils.stages.embed --data_dir data/demo --frontend_weights egs/demo/lipreader.pth.tar
    torchrun --nproc_per_node 4 -m utils.stages.embed --data_dir data/demo --frontend_weights W --id 0,1,2,3
"""

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from utils.data.cluster import add_cluster_option, use_cluster
from utils.data.constants import VIEWS
from utils.data.devices import choose_device, n_cores, process_share
from utils.data.experiments import DLIB, weights_by_kind
from utils.data.manifest import Manifest, find_manifests, read_manifest
from utils.environment import add_missing
from utils.errors import OptionParser, UsageError, UserError, flag, run_cli
from utils.training.preflight import check_weights, read_train_config

logger = logging.getLogger(__name__)


def main() -> int:
    """Check everything that is cheap to check, then embed."""
    args = parse_args()
    use_cluster(args.cluster)
    kinds: Sequence[str] = ("lips",)
    makes_embeddings = False
    if args.conf:
        config = read_train_config(args.conf, args.train_args)
        if not config.needs_visual:
            logger.info("stage 2: skipped, %s needs no visual embeddings", args.conf)
            return 0
        kinds, makes_embeddings = config.kinds_of_frontends, config.makes_embeddings
    if "face" in kinds and args.face_weights == DLIB:
        add_missing("requirements-video.txt")
    share = process_share(os.environ)
    if args.cluster and share[1] > 1:
        raise UsageError("--cluster shares the work itself; start one process, without srun or torchrun")
    manifests = _read_manifests(args, kinds)

    from utils.embedding.embed import CorpusOptions, embed_corpus  # torch comes only after the paths were found good
    from utils.embedding.frontends import store_name
    from utils.embedding.kinds import load_kind

    if makes_embeddings:
        from utils.voice_to_mouth.made import make_embeddings, open_voice_to_lips

        maker = open_voice_to_lips(args.voice_to_mouth_dir)
    device = choose_device(args.id, os.environ)
    logger.info("stage 2: on %s, process %d of %d", device, share[0] + 1, share[1])
    names = ("data_dir", "dump_dir", "precision", "batch_size", "nj", "max_failed", "force")
    options = CorpusOptions(**{name: getattr(args, name) for name in names}, share=share)
    weights = weights_by_kind(args.frontend_weights, args.face_weights)
    for kind in kinds:
        frontend = load_kind(kind, weights[kind], args.frontend_conf, args.frontend_layer, device)
        where = weights[kind] or kind
        logger.info("stage 2: visual frontend %s, %d values a frame, from %s", frontend.name, frontend.dim, where)
        embed_corpus(manifests, frontend, ["centre"] if kind == "face" else args.views, options)
    if makes_embeddings and share[0] == 0:
        wanted, found = store_name(frontend, "centre", args.precision), maker.frontends["lips"].store_name
        if wanted != found:
            raise UserError(f"--voice_to_mouth_dir {args.voice_to_mouth_dir}: predicts {found}, here {wanted} are wanted")
        make_embeddings(args.data_dir, args.voice_to_mouth_dir, args.dump_dir)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="embed", description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="the corpus' manifests, data/<corpus>")
    parser.add_argument("--frontend_weights", type=Path, help="of the visual frontend, or a folder of precomputed embeddings")
    parser.add_argument("--face_weights", default="", help="of the face frontend, where the conf asks for faces; or dlib")
    parser.add_argument("--conf", type=Path, help="of the training to come: an audio-only one needs no embeddings")
    parser.add_argument("--train_args", default="", help="keys of the conf to change")
    parser.add_argument("--frontend_conf", type=Path, help="its conf/lipreading/*.json; found by itself where possible")
    parser.add_argument("--frontend_layer", default="trunk", choices=("trunk", "tcn"), help="which output is cached")
    parser.add_argument("--views", type=_views, default="centre", help=f"one or several of {', '.join(VIEWS)}")
    parser.add_argument("--embedding_dtype", dest="precision", default="float16", choices=("float16", "float32"),
                        help="of what is stored")  # fmt: skip
    parser.add_argument("--voice_to_mouth_dir", type=Path, help="what makes embeddings of voices, for data.made_embeddings")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="the stores are dump_dir/embeddings/...")
    parser.add_argument("--embed_batch_size", dest="batch_size", type=_positive, default=16, help="clips a batch")
    parser.add_argument("--nj", type=_positive, default=n_cores(), help="threads that read ahead of the network, 8 at most")
    add_cluster_option(parser)
    parser.add_argument("--id", default="", help="GPUs, e.g. 0 or 0,1, one a process; cpu; empty: a GPU if there is one")
    parser.add_argument("--max_failed", type=int, default=0, help="mouths that may fail before the stage does")
    parser.add_argument("--force", type=flag, nargs="?", const=True, default=False, help="embed everything again")
    return parser.parse_args()


def _read_manifests(args: argparse.Namespace, kinds: Sequence[str]) -> list[Manifest]:
    """Check every path of the command and read the corpus' manifests, without torch.

    Raises:
        UserError: a path leads nowhere, or a manifest is wrong.
    """
    weights = weights_by_kind(args.frontend_weights or "", args.face_weights)
    for kind in kinds:
        check_weights(kind, weights[kind])
    if args.frontend_conf is not None and not args.frontend_conf.is_file():
        raise UserError(f"--frontend_conf {args.frontend_conf}: no such file; see conf/lipreading/*.json")
    if not args.data_dir.is_dir():
        raise UserError(f"--data_dir {args.data_dir}: no such folder; stage 0 (prepare) makes it")
    paths = find_manifests(args.data_dir)
    if not paths:
        raise UserError(f"--data_dir {args.data_dir}: holds no manifest (*.csv with *.json); stage 0 (prepare) makes them")
    return [read_manifest(path) for path in paths]


def _views(text: str) -> list[str]:
    views = list(dict.fromkeys(text.split(",")))
    unknown = next((view for view in views if view not in VIEWS), None)
    if unknown is not None:
        raise argparse.ArgumentTypeError(f"'{unknown}' is none of {', '.join(VIEWS)}")
    return views


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    run_cli(main)
