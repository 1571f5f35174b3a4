"""Training: data, network and Lightning's trainer put together; resumed from the last epoch where there is one."""

import importlib.util
import logging
import pickle
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, Dataset

from local_models import build_model
from utils.data.datasets import EpochSampler
from utils.data.embedding_store import EmbeddingStore
from utils.data.files import atomic_path, write_json
from utils.data.manifest import Manifest, write_failed
from utils.engine.callbacks import AudioExamples, EpochReport, Progress
from utils.engine.config import ResolvedConf, TrainingConf, write_conf
from utils.engine.system import AVSystem
from utils.engine.training_data import make_datasets, make_loader, make_sampler
from utils.errors import UserError

log = logging.getLogger(__name__)

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def train(
    conf: ResolvedConf,
    exp_dir: Path,
    train_manifest: Manifest,
    val_manifest: Manifest,
    train_stores: Sequence[EmbeddingStore],
    val_stores: Sequence[EmbeddingStore],
) -> dict:
    """Train a network, or go on from `exp_dir/checkpoints/last.ckpt`.

    Args:
        conf: resolved conf whose `visual_dim` is that of the embeddings.
        exp_dir: where everything is written.
        train_manifest: utterances for dynamic mixing, mixtures otherwise.
        val_manifest: mixtures.
        train_stores, val_stores: the embeddings, a store for each view; empty for an audio-only network.

    Returns:
        What training.json holds.

    Raises:
        UserError: data that the conf cannot be trained on, or a logger that is not installed.
    """
    start_sec = time.monotonic()
    _quieten_lightning()
    pl.seed_everything(conf.training.seed, workers=True, verbose=False)
    train_set, val_set = make_datasets(conf, train_manifest, val_manifest, train_stores, val_stores)
    last = exp_dir / "checkpoints" / "last.ckpt"
    resumed = _read_checkpoint(last)
    trainer = _trainer(conf, exp_dir, resumed)
    rank, world_size, batch_size = trainer.global_rank, trainer.world_size, conf.training.batch_size
    first_epoch = resumed["epoch"] + 1 if resumed else 0
    train_sampler = make_sampler(conf, train_set, train_manifest.path, rank, world_size, first_epoch)
    val_sampler = EpochSampler(len(val_set), None, rank, world_size)
    batches = len(train_sampler) // batch_size
    network = build_model(conf.nested)
    steps_per_epoch = -(-batches // conf.training.accumulate)  # Lightning steps on what an epoch's end leaves over
    system = AVSystem(network, conf.loss, conf.optim, steps_per_epoch * conf.training.epochs, conf.training.seed)
    if trainer.is_global_zero:
        write_conf(exp_dir / "conf.yml", conf)
        _list_left_out(exp_dir / "left_out.csv", {train_manifest.path: train_set, val_manifest.path: val_set})
    if resumed:
        log.info("continuing from %s", last)
    loaders = make_loader(conf, train_set, train_sampler), make_loader(conf, val_set, val_sampler)
    _fit(trainer, system, loaders, last if resumed else None)
    summary = _summary(conf, trainer, network, batches * batch_size * world_size, time.monotonic() - start_sec)
    if trainer.is_global_zero:
        write_json(exp_dir / "training.json", summary)
    return summary


def _list_left_out(path: Path, data_sets: dict[Path, Dataset]) -> None:
    """Name what is too short to train on or validate with; the file is there where there is something to name."""
    problems = [
        replace(problem, reason=f"{manifest.name}: {problem.reason}")
        for manifest, data_set in data_sets.items()
        for problem in data_set.left_out
    ]
    path.unlink(missing_ok=True)
    if problems:
        write_failed(path, problems)
        log.warning("%d items are left out, see %s", len(problems), path)


def _fit(trainer: pl.Trainer, system: AVSystem, loaders: tuple[DataLoader, DataLoader], checkpoint: Path | None) -> None:
    try:
        trainer.fit(system, *loaders, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # how Lightning ends on Ctrl-C
        raise KeyboardInterrupt from None
    except UserError as error:  # one from a loader process carries its traceback in its text
        raise UserError(str(error).rstrip().splitlines()[-1].removeprefix("utils.errors.UserError: ")) from None
    if trainer.interrupted:
        raise KeyboardInterrupt


def _read_checkpoint(path: Path) -> dict | None:
    """The checkpoint to go on from, if there is one.

    Raises:
        UserError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: damaged ({reason}); delete it and train anew, or put a copy in its place") from None


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a kill never leaves half of one."""

    def save_checkpoint(self, checkpoint: dict, path: Path | str, storage_options: object = None) -> None:
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)


def _quieten_lightning() -> None:
    """Hide its tips, its device lists and the warnings about what is meant here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in ("Checkpoint directory .* exists", ".*treespec, LeafSpec", "The number of training", ".*num_workers"):
        warnings.filterwarnings("ignore", message)


def _trainer(conf: ResolvedConf, exp_dir: Path, resumed: dict | None) -> pl.Trainer:
    training = conf.training
    devices, precision = training.devices, training.precision
    if precision != "32" and not torch.cuda.is_available():
        log.warning("precision %s is for GPUs, there is none here: training in 32 bits", precision)
        precision = "32"
    try:
        return pl.Trainer(
            max_epochs=_last_epoch(training, resumed),
            accelerator="auto",
            devices=int(devices) if devices.isdigit() else devices,
            num_nodes=training.num_nodes,
            strategy=training.strategy,
            precision=PRECISIONS[precision],
            gradient_clip_val=training.gradient_clipping or None,
            accumulate_grad_batches=training.accumulate,
            callbacks=_callbacks(conf, exp_dir),
            plugins=[AtomicCheckpoints()],
            logger=_loggers(conf, exp_dir),
            default_root_dir=exp_dir,
            enable_progress_bar=sys.stderr.isatty(),  # a log file wants the line an epoch, not the bar
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            use_distributed_sampler=False,  # EpochSampler shares out the data, without doubling the validation's tail
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(
            f"--devices {devices} --num_nodes {training.num_nodes} --strategy {training.strategy} cannot be had on this "
            f"machine: {' '.join(str(error).split())}"
        ) from None


def _last_epoch(training: TrainingConf, resumed: dict | None) -> int:
    """How many epochs to train in all: no more than there were where early stopping had ended it already."""
    for name, state in (resumed or {}).get("callbacks", {}).items():
        if name.startswith("EarlyStopping") and training.early_stop and state["wait_count"] >= training.early_stop:
            return resumed["epoch"] + 1
    return training.epochs


def _callbacks(conf: ResolvedConf, exp_dir: Path) -> list[Callback]:
    callbacks: list[Callback] = [
        EpochReport(exp_dir, conf.nested),
        AudioExamples(conf.training.audio_examples, conf.nested["model"]["sample_rate"]),
        ModelCheckpoint(
            exp_dir / "checkpoints", filename="last", save_top_k=1, enable_version_counter=False,
            save_on_train_epoch_end=True,
        ),
    ]  # fmt: skip
    if sys.stderr.isatty():
        callbacks.append(Progress())
    if conf.training.early_stop:
        callbacks.append(EarlyStopping("val_loss", patience=conf.training.early_stop, check_on_train_epoch_end=False))
    return callbacks


def _loggers(conf: ResolvedConf, exp_dir: Path) -> list[Logger]:
    loggers: list[Logger] = [TensorBoardLogger(exp_dir, name="log", version="tensorboard")]
    wanted = conf.training.logger
    if wanted == "none":
        return loggers
    package = {"wandb": "wandb", "comet": "comet_ml"}[wanted]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"--logger {wanted}: the package {package} is not installed; pip install {package}")
    if wanted == "wandb":
        from pytorch_lightning.loggers import WandbLogger

        return [*loggers, WandbLogger(name=exp_dir.name, save_dir=exp_dir)]
    from pytorch_lightning.loggers import CometLogger

    return [*loggers, CometLogger(name=exp_dir.name)]


def _summary(conf: ResolvedConf, trainer: pl.Trainer, network: torch.nn.Module, epoch_mixtures: int, seconds: float) -> dict:
    report = next(c for c in trainer.callbacks if isinstance(c, EpochReport))
    best = report.best
    return {
        "seed": conf.training.seed,
        "epochs": len(report.rows),
        "steps": report.rows[-1]["steps"],
        "mixtures_seen": len(report.rows) * epoch_mixtures,
        "training_minutes": round(sum(row["seconds"] for row in report.rows) / 60, 2),
        "this_run_minutes": round(seconds / 60, 2),
        "best_epoch": best["epoch"],
        "best_val_loss_db": best["val_loss"],
        "best_val_si_snri_db": best["val_si_snri"],
        "params": sum(p.numel() for p in network.parameters()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads",
        "world_size": trainer.world_size,
    }
