"""Stage 3: train a separation network.

Reads   data/<corpus>/utterances.csv (dynamic mixing) or train.csv (fixed mixtures), val.csv, the embeddings of stage 2,
        and a conf.
Writes  exp/<tag>/: conf.yml, checkpoints/last.ckpt, best_model.pth, history.csv, curves.png, log/ (TensorBoard),
        frontend.json, training.json.
Run     python -m utils.stages.train --conf conf/demo.yml --data_dir data/demo --exp_dir exp/demo_demo \\
            --frontend_weights egs/demo/lipreader.pth.tar

An interrupted training goes on from its last whole epoch and ends with the same network. When the conf, the data or the
visual frontend changed, what was trained before is kept in exp/<tag>/previous-<time>/ and training starts anew.
"""

import argparse
import logging
import os
from pathlib import Path

from utils.data.devices import show_only
from utils.data.experiments import FrontendRecord, network_path, weights_by_kind
from utils.data.hub import experiment_folder
from utils.data.manifest import Manifest, read_manifest
from utils.errors import OptionParser, UserError, flag, run_cli
from utils.training.augmentation import Acoustics
from utils.training.config import Config
from utils.training.preflight import check_frontend_weights, read_train_config

log = logging.getLogger(__name__)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="train", description="Stage 3: train a separation network.")
    parser.add_argument("--conf", type=Path, required=True, help="conf/*.yml")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the corpus' CSVs")
    parser.add_argument("--exp_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--init_exp_dir", type=experiment_folder, help="start from the network of this experiment")
    parser.add_argument("--train_args", default="", help='keys of the conf to change, "--lr 0.0005 --batch_size 2"')
    parser.add_argument("--frontend_weights", default="", help="visual frontend's weights (not for audio-only confs)")
    parser.add_argument("--face_weights", default="", help="face frontend's weights, where the conf asks for faces; or dlib")
    parser.add_argument("--frontend_conf", default="", help="its conf/lipreading/*.json; found out when not given")
    parser.add_argument("--frontend_layer", default="trunk", choices=("trunk", "tcn"), help="which output is used")
    parser.add_argument("--views", default="centre", help="crop views to draw from in training, e.g. centre,flip")
    parser.add_argument("--embedding_dtype", dest="precision", default="float16", choices=("float16", "float32"),
                        help="of the embeddings")  # fmt: skip
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="folder of the embeddings")
    parser.add_argument("--id", default="", help="GPUs, e.g. 0 or 0,1; cpu: none; empty: all that are visible")
    parser.add_argument("--force", type=flag, nargs="?", const=True, default=False, help="train anew though nothing changed")
    return parser.parse_args()


def main() -> int:
    """Check everything that is cheap to check, then train."""
    args = parse_args()
    show_only(args.id)
    config = read_train_config(args.conf, args.train_args)
    check_frontend_weights(config, args.frontend_weights, args.face_weights)
    train_manifest = read_manifest(args.data_dir / ("utterances.csv" if config.trains_on_utterances else "train.csv"))
    val_manifest = read_manifest(args.data_dir / "val.csv")
    init_path = network_path(args.init_exp_dir) if args.init_exp_dir else None
    if init_path and not init_path.is_file():
        raise UserError(f"--init_exp_dir {args.init_exp_dir}: no best_model.pth there; stage 3 makes it")
    acoustics = None if config.is_voice_to_mouth else Acoustics(config.data, train_manifest.sample_rate)

    # torch is imported here, after the cheap checks.
    from utils.training.experiment import TrainingMarks, training_inputs
    from utils.training.tasks import SEPARATION
    from utils.training.trainer import train
    from utils.voice_to_mouth.made import made_stamp
    from utils.voice_to_mouth.task import VOICE_TO_MOUTH

    task = VOICE_TO_MOUTH if config.is_voice_to_mouth else SEPARATION
    frontends: dict[str, FrontendRecord] = {}
    train_stores, val_stores = [], []
    if config.needs_visual:
        frontends, dims, delay_frames = _frontends(config, args)
        config = config.with_visual_dim(sum(dims.values()), dims.get("face", 0), dims.get("shape", 0))
        config = config.with_visual_delay(delay_frames)
        train_stores, val_stores = _stores(args.dump_dir / "embeddings", frontends, train_manifest, val_manifest)
    stores = [name for record in frontends.values() for name in record.training_stores]
    if config.makes_embeddings:
        stores.append(made_stamp(train_stores[0].root))
    inputs = training_inputs(config, stores, train_manifest, val_manifest, acoustics, init_path)
    marks = TrainingMarks(args.exp_dir, inputs)
    if marks.is_finished() and not args.force:
        log.info("stage 3: up to date, %s was trained on the same inputs", args.exp_dir / "best_model.pth")
        return 0
    rank = next((int(os.environ[name]) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), 0)
    if rank == 0:
        marks.start(frontends, args.force)
    else:
        marks.wait_for_start(args.force)
    train(config, args.exp_dir, train_manifest, val_manifest, train_stores, val_stores, init_path, task)
    if rank == 0:
        task.finish(config, args.exp_dir, train_manifest, train_stores)
        marks.finish()
    return 0


def _frontends(config: Config, args: argparse.Namespace) -> tuple[dict[str, FrontendRecord], dict[str, int], int]:
    """The visual frontends by what they see, how many numbers an embedding of each has, and by how many frames a causal
    network must wait for them."""
    from utils.embedding.kinds import load_kind, lookahead_frames, record_of

    records, dims, delay_frames = {}, {}, 0
    for kind in config.kinds_of_frontends:
        weights = weights_by_kind(args.frontend_weights, args.face_weights)[kind]
        views = ["centre"] if kind == "face" else args.views.split(",")
        conf, layer = (args.frontend_conf, args.frontend_layer) if kind == "lips" else ("", "trunk")
        frontend = load_kind(kind, weights, conf, layer)
        records[kind] = record_of(frontend, weights, conf, layer, views, args.precision)
        dims[kind] = frontend.dim
        if config.is_causal:
            delay_frames = max(delay_frames, lookahead_frames(frontend))
    return records, dims, delay_frames


def _stores(folder: Path, frontends: dict[str, FrontendRecord], train: Manifest, val: Manifest) -> tuple[list, list]:
    """The embedding stores for training (one for each view) and for validation (that of the first view)."""
    from utils.embedding.joined import joined
    from utils.embedding.store import EmbeddingStore

    by_kind = []
    for record in frontends.values():
        for name in record.training_stores:
            if not (folder / name / train.corpus).is_dir():
                missing = folder / name / train.corpus
                raise UserError(f"{missing}: no embeddings of this visual frontend; stage 2 makes them (--stage 2)")
        by_kind.append([EmbeddingStore(folder / name / train.corpus) for name in record.training_stores])
    n_views = max(map(len, by_kind))
    training = [joined([stores[view % len(stores)] for stores in by_kind]) for view in range(n_views)]
    return training, [joined([EmbeddingStore(folder / record.store_name / val.corpus) for record in frontends.values()])]


if __name__ == "__main__":
    run_cli(main)
