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
from utils.data.manifest import Manifest, read_manifest
from utils.errors import OptionParser, UserError, flag, run_cli
from utils.training.augmentation import Acoustics
from utils.training.preflight import check_frontend_weights, read_train_config

log = logging.getLogger(__name__)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="train", description="Stage 3: train a separation network.")
    parser.add_argument("--conf", type=Path, required=True, help="conf/*.yml")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the corpus' CSVs")
    parser.add_argument("--exp_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--init_exp_dir", type=Path, help="start from the network of this experiment")
    parser.add_argument("--train_args", default="", help='keys of the conf to change, "--lr 0.0005 --batch_size 2"')
    parser.add_argument("--frontend_weights", default="", help="visual frontend's weights (not for audio-only confs)")
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
    check_frontend_weights(config, args.frontend_weights)
    train_manifest = read_manifest(args.data_dir / ("utterances.csv" if config.data.dynamic else "train.csv"))
    val_manifest = read_manifest(args.data_dir / "val.csv")
    if args.init_exp_dir and not (args.init_exp_dir / "best_model.pth").is_file():
        raise UserError(f"--init_exp_dir {args.init_exp_dir}: no best_model.pth there; stage 3 makes it")
    acoustics = Acoustics(config.data, train_manifest.sample_rate)

    # torch is imported here, after the cheap checks.
    from utils.training.experiment import TrainingMarks, training_inputs
    from utils.training.trainer import train

    frontend, train_stores, val_stores = {}, [], []
    if config.needs_visual:
        options = (args.frontend_weights, args.frontend_conf, args.frontend_layer, args.views, args.precision)
        frontend, visual_dim = _frontend(*options)
        config = config.with_visual_dim(visual_dim)
        train_stores, val_stores = _stores(args.dump_dir / "embeddings", frontend, train_manifest, val_manifest)
    stores = frontend.get("training_stores", [])
    init_path = args.init_exp_dir / "best_model.pth" if args.init_exp_dir else None
    inputs = training_inputs(config, stores, train_manifest, val_manifest, acoustics, init_path)
    marks = TrainingMarks(args.exp_dir, inputs)
    if marks.is_finished() and not args.force:
        log.info("stage 3: up to date, %s was trained on the same inputs", args.exp_dir / "best_model.pth")
        return 0
    rank = next((int(os.environ[name]) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), 0)
    if rank == 0:
        marks.start(frontend, args.force)
    else:
        marks.wait_for_start(args.force)
    summary = train(config, args.exp_dir, train_manifest, val_manifest, train_stores, val_stores, init_path)
    if rank == 0:
        marks.finish()
        log.info(
            "stage 3: %d epochs in %.1f min, best validation SI-SNRi %.2f dB (epoch %d): %s",
            summary["epochs"], summary["training_minutes"], summary["best_val_si_snri_db"], summary["best_epoch"] + 1,
            args.exp_dir / "best_model.pth",
        )  # fmt: skip
    return 0


def _frontend(weights: str, conf: str, layer: str, views: str, precision: str) -> tuple[dict, int]:
    """The content of frontend.json, and how many numbers an embedding of this visual frontend has."""
    from utils.embedding.frontends import load_frontend, store_name

    frontend = load_frontend(Path(weights), Path(conf) if conf else None, layer)
    names = views.split(",")
    facts = {
        "weights": weights,
        "conf": conf,
        "layer": layer,
        "view": names[0],
        "precision": precision,
        "store_name": store_name(frontend, names[0], precision),
        "training_stores": [store_name(frontend, view, precision) for view in names],
        "description": frontend.describe(names[0], precision),
    }
    return facts, frontend.dim


def _stores(folder: Path, frontend: dict, train: Manifest, val: Manifest) -> tuple[list, list]:
    """The embedding stores for training (one for each view) and for validation (that of the first view)."""
    from utils.embedding.store import EmbeddingStore

    for name in frontend["training_stores"]:
        if not (folder / name / train.corpus).is_dir():
            missing = folder / name / train.corpus
            raise UserError(f"{missing}: no embeddings of this visual frontend; stage 2 makes them (--stage 2)")
    training = [EmbeddingStore(folder / name / train.corpus) for name in frontend["training_stores"]]
    return training, [EmbeddingStore(folder / frontend["store_name"] / val.corpus)]


if __name__ == "__main__":
    run_cli(main)
