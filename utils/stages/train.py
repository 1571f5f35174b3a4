"""Stage 3: train a separation network.

Reads   data/<corpus>/utterances.csv (dynamic mixing) or train.csv (fixed mixtures), val.csv, the embeddings of stage 2,
        and a conf.
Writes  exp/<tag>/: conf.yml, checkpoints/last.ckpt, best_model.pth, history.csv, curves.png, log/ (TensorBoard),
        frontend.json, training.json.
Run     python -m utils.stages.train --conf conf/demo.yml --data_dir data/demo --exp_dir exp/demo_demo \\
            --frontend_weights egs/demo/lipreader.pth.tar

An interrupted training goes on from its last whole epoch and ends with the same network. When the conf, the data or the
front end changed, what was trained before is kept in exp/<tag>/previous-<time>/ and training starts anew.
"""

import argparse
import json
import logging
import os
import shlex
import time
from datetime import datetime
from pathlib import Path

from utils.data.devices import show_only
from utils.data.files import remove_leftovers, write_json
from utils.data.fingerprints import StageMark, hash_contents
from utils.data.manifest import Manifest, read_manifest
from utils.errors import OptionParser, UsageError, UserError, flag, run_cli
from utils.training.augmentation import Acoustics
from utils.training.config import Config, read_config

log = logging.getLogger(__name__)

# What a training makes: set aside together when it is started anew.
PRODUCTS = ("conf.yml", "left_out.csv", "checkpoints", "best_model.pth", "history.csv", "curves.png", "training.json",
            "log/tensorboard", "frontend.json", "separated", "results")  # fmt: skip
NEUTRAL_KEYS = ("num_workers", "logger", "audio_examples")  # they change no number of the result


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="train", description="Stage 3: train a separation network.")
    parser.add_argument("--conf", type=Path, required=True, help="conf/*.yml")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the corpus' CSVs")
    parser.add_argument("--exp_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--train_args", default="", help='keys of the conf to change, "--lr 0.0005 --batch_size 2"')
    parser.add_argument("--frontend_weights", default="", help="weights of the lip network (not for audio-only confs)")
    parser.add_argument("--frontend_conf", default="", help="its conf/lipreading/*.json; found out when not given")
    parser.add_argument("--frontend_layer", default="trunk", choices=("trunk", "tcn"))
    parser.add_argument("--views", default="centre", help="crop views to draw from in training: centre or centre,flip")
    parser.add_argument("--embedding_dtype", dest="precision", default="float16", choices=("float16", "float32"),
                        help="of the embeddings")  # fmt: skip
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"))
    parser.add_argument("--id", default="", help="GPUs, e.g. 0 or 0,1; cpu: none; empty: all that are visible")
    parser.add_argument("--force", type=flag, nargs="?", const=True, default=False, help="train again though nothing changed")
    return parser.parse_args()


def main() -> int:
    """Check everything that is cheap to check, then train."""
    args = parse_args()
    show_only(args.id)
    try:
        words = shlex.split(args.train_args)
    except ValueError as error:
        raise UsageError(f"--train_args: {error}") from None
    config = read_config(args.conf, words)
    if config.model.n_faces and not args.frontend_weights:
        raise UsageError(f"{args.conf} needs visual embeddings: give --frontend_weights FILE")
    if config.model.n_faces and not Path(args.frontend_weights).exists():
        raise UserError(f"{args.frontend_weights}: no such weights; utils/download_weights.sh fetches public ones")
    train_manifest = read_manifest(args.data_dir / ("utterances.csv" if config.data.dynamic else "train.csv"))
    val_manifest = read_manifest(args.data_dir / "val.csv")
    acoustics = Acoustics(config.data, train_manifest.sample_rate)

    from utils.training.trainer import train  # torch is imported here, after the cheap checks

    config, frontend = _with_frontend(config, args)
    stores = _stores(args, frontend, train_manifest, val_manifest)
    inputs = _inputs(config, frontend, train_manifest, val_manifest, acoustics)
    if _is_finished(args.exp_dir, inputs) and not args.force:
        log.info("stage 3: up to date, %s was trained with these very inputs", args.exp_dir / "best_model.pth")
        return 0
    rank = next((int(os.environ[name]) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), 0)
    started = args.exp_dir / ".started-3.json"
    if rank == 0:
        for folder in (args.exp_dir, args.exp_dir / "checkpoints"):
            remove_leftovers(folder, below=False)  # not below: stage 4 may be at work there
        _set_aside_other_training(args.exp_dir, inputs, args.force)
        if frontend:
            write_json(args.exp_dir / "frontend.json", frontend)
        write_json(started, {"inputs": inputs})
    else:
        _wait_for_rank_0(started, inputs)
    summary = train(config, args.exp_dir, train_manifest, val_manifest, *stores)
    if rank == 0:
        StageMark(args.exp_dir / ".done-3.json", inputs).write()
        log.info(
            "stage 3: %d epochs in %.1f min, best validation SI-SNRi %.2f dB (epoch %d): %s",
            summary["epochs"], summary["training_minutes"], summary["best_val_si_snri_db"], summary["best_epoch"] + 1,
            args.exp_dir / "best_model.pth",
        )  # fmt: skip
    return 0


def _wait_for_rank_0(started: Path, inputs: dict[str, str]) -> None:
    """Wait until the first process has put aside what was trained with other inputs.

    Raises:
        UserError: it has not after ten minutes.
    """
    for _ in range(600):
        if StageMark(started, inputs).changed() == []:
            return
        time.sleep(1)
    raise UserError(f"{started}: the first process has not started within ten minutes; look at its log")


def _with_frontend(config: Config, args: argparse.Namespace) -> tuple[Config, dict]:
    """The conf for the front end's embeddings, and what the experiment must know of it; as it is for audio only."""
    if not config.model.n_faces:
        return config, {}
    from utils.embedding.frontends import load_frontend, store_name

    weights = Path(args.frontend_weights)
    frontend_conf = Path(args.frontend_conf) if args.frontend_conf else None
    frontend = load_frontend(weights, frontend_conf, args.frontend_layer)
    views = args.views.split(",")
    facts = {
        "weights": str(weights),
        "conf": str(frontend_conf or ""),
        "layer": args.frontend_layer,
        "view": views[0],
        "precision": args.precision,
        "store_name": store_name(frontend, views[0], args.precision),
        "training_stores": [store_name(frontend, view, args.precision) for view in views],
        "description": frontend.describe(views[0], args.precision),
    }
    return config.with_visual_dim(frontend.dim), facts


def _stores(args: argparse.Namespace, frontend: dict, train: Manifest, val: Manifest) -> tuple[list, list]:
    """The embedding stores for training (a view each) and for validation (the first view)."""
    if not frontend:
        return [], []
    from utils.embedding.store import EmbeddingStore

    folder = args.dump_dir / "embeddings"
    for name in frontend["training_stores"]:
        if not (folder / name / train.corpus).is_dir():
            raise UserError(f"{folder / name / train.corpus}: no embeddings of this front end; stage 2 makes them (--stage 2)")
    training = [EmbeddingStore(folder / name / train.corpus) for name in frontend["training_stores"]]
    return training, [EmbeddingStore(folder / frontend["store_name"] / val.corpus)]


def _inputs(config: Config, frontend: dict, train: Manifest, val: Manifest, acoustics: Acoustics) -> dict[str, str]:
    values = {
        f"{section}.{key}": json.dumps(value)
        for section, keys in config.to_dict().items()
        for key, value in keys.items()
        if key not in NEUTRAL_KEYS
    }
    values[train.path.name] = hash_contents([train.path])
    values[val.path.name] = hash_contents([val.path])
    values["noise and rooms"] = acoustics.fingerprint()
    values["embeddings"] = ",".join(frontend.get("training_stores", []))
    return values


def _is_finished(exp_dir: Path, inputs: dict[str, str]) -> bool:
    return StageMark(exp_dir / ".done-3.json", inputs).changed() == [] and (exp_dir / "best_model.pth").is_file()


def _set_aside_other_training(exp_dir: Path, inputs: dict[str, str], force: bool) -> None:
    """Keep what was trained with other inputs (or is to be trained again) out of the way of the new training."""
    changes = StageMark(exp_dir / ".started-3.json", inputs).changed()
    finished_again = force and (exp_dir / ".done-3.json").exists()
    if not changes and not finished_again:
        return
    for change in changes or []:
        log.info("stage 3: changed since the last training here: %s", change)
    previous = _unused(exp_dir / f"previous-{datetime.now():%Y%m%d-%H%M%S}")
    moved = [name for name in (*PRODUCTS, ".done-3.json") if (exp_dir / name).exists()]
    for name in moved:
        target = previous / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(exp_dir / name, target)
    if moved:
        log.info("stage 3: training anew; what was there is kept in %s", previous)


def _unused(path: Path) -> Path:
    """The path, or one with a number behind it: where a clock was set back, the time is the name of an older training."""
    names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000)))
    return next(name for name in names if not name.exists())


if __name__ == "__main__":
    run_cli(main)
