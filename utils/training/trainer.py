"""Training: data, network and Lightning's trainer put together; resumed from the last epoch where there is one."""

import logging
import math
import pickle
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    Timer,
)
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from local_models.networks import build_network
from utils.data.files import atomic_path, write_json
from utils.data.manifest import Manifest, write_failed
from utils.data.progress import progress_bar
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.training.config import Config, TrainingConfig, write_config
from utils.training.datasets import EpochSampler, make_loader, make_sampler
from utils.training.experiment import draw_curves, history_columns, initialise, save_model, write_history
from utils.training.loggers import RunLog, end_runs, make_loggers
from utils.training.system import TrainedSystem
from utils.training.tasks import SEPARATION, Task

log = logging.getLogger(__name__)

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def train(
    config: Config,
    exp_dir: Path,
    train_manifest: Manifest,
    val_manifest: Manifest,
    train_stores: Sequence[EmbeddingStore],
    val_stores: Sequence[EmbeddingStore],
    init_path: Path | None = None,
    task: Task = SEPARATION,
) -> dict[str, Any]:
    """Train a network, or go on from `exp_dir/checkpoints/last.ckpt`.

    Args:
        config: its `visual_dim` is that of the embeddings.
        exp_dir: where everything is written.
        train_manifest: utterances for dynamic mixing, mixtures otherwise.
        val_manifest: mixtures.
        train_stores, val_stores: the embeddings, a store for each view; empty for an audio-only network.
        init_path: a trained network to start from; None starts from random weights.
        task: what is trained for.

    Returns:
        The content of training.json.

    Raises:
        UserError: data that the conf cannot be trained on, or a logger that cannot be used.
    """
    start_sec = time.monotonic()
    _quieten_lightning()
    pl.seed_everything(config.training.seed, workers=True, verbose=False)
    train_set, val_set = task.make_datasets(config, train_manifest, val_manifest, train_stores, val_stores)
    last = exp_dir / "checkpoints" / "last.ckpt"
    resumed = _read_checkpoint(last)
    trainer = _trainer(config, exp_dir, resumed, task)
    rank, world_size, batch_size = trainer.global_rank, trainer.world_size, config.training.batch_size
    first_epoch = resumed["epoch"] + 1 if resumed else 0
    train_sampler = make_sampler(config, train_set, train_manifest.path, rank, world_size, first_epoch)
    val_sampler = EpochSampler(len(val_set), None, rank, world_size)
    batches = len(train_sampler) // batch_size
    network = build_network(config.model)
    if init_path and not resumed:
        initialise(network, init_path)
    steps_per_epoch = -(-batches // config.training.accumulate)  # Lightning steps on what an epoch's end leaves over
    progress = _progress(trainer, steps_per_epoch * config.training.epochs, config.training.max_minutes)
    system = task.make_system(config, network, progress)
    if trainer.is_global_zero:
        write_config(exp_dir / "conf.yml", config)
        _list_left_out(exp_dir / "left_out.csv", {train_manifest.path: train_set, val_manifest.path: val_set})
    if resumed:
        log.info("continuing from %s", last)
    loaders = make_loader(config, train_set, train_sampler), make_loader(config, val_set, val_sampler)
    _fit(trainer, system, loaders, last if resumed else None)
    end_runs(trainer.loggers)
    summary = _summary(config, trainer, system, batches * batch_size * world_size, time.monotonic() - start_sec)
    if trainer.is_global_zero:
        write_json(exp_dir / "training.json", summary)
        log.info(
            "stage 3: %d epochs in %.1f min, best validation loss %.2f, %s (epoch %d): %s",
            summary["epochs"], summary["training_minutes"], summary["best_val_loss"],
            system.metric.text(summary[f"best_val_{system.metric.name}"]), summary["best_epoch"] + 1,
            exp_dir / "best_model.pth",
        )  # fmt: skip
    return summary


def _list_left_out(path: Path, data_sets: dict[Path, Dataset]) -> None:
    """Write the items that are left out, as too short or without embeddings; no file where there are none."""
    problems = [
        replace(problem, reason=f"{manifest.name}: {problem.reason}")
        for manifest, data_set in data_sets.items()
        for problem in data_set.left_out
    ]
    path.unlink(missing_ok=True)
    if problems:
        write_failed(path, problems)
        log.warning("%d items are left out, see %s", len(problems), path)


def _fit(trainer: pl.Trainer, system: TrainedSystem, loaders: tuple[DataLoader, DataLoader], checkpoint: Path | None) -> None:
    """Train; raise KeyboardInterrupt where Lightning swallows one, and errors of loader processes in one line."""
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged ({reason}); delete it and train anew, or put a copy in its place") from None


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a kill never leaves half of one."""

    def save_checkpoint(self, checkpoint: dict, path: Path | str, storage_options: object = None) -> None:
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)


def _quieten_lightning() -> None:
    """Hide Lightning's tips, its device lists and its warnings about what is intended here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    messages = ("Checkpoint directory .* exists", ".*treespec, LeafSpec", "The number of training", ".*num_workers")
    for message in messages:
        warnings.filterwarnings("ignore", message)


def _trainer(config: Config, exp_dir: Path, resumed: dict | None, task: Task) -> pl.Trainer:
    training = config.training
    loggers = make_loggers(training.logger, exp_dir)
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
            callbacks=_callbacks(config, exp_dir, task),
            plugins=[AtomicCheckpoints()],
            logger=loggers,
            default_root_dir=exp_dir,
            enable_progress_bar=False,  # see `Progress`
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            use_distributed_sampler=False,  # EpochSampler shares out the data, without doubling the validation's tail
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(
            f"--devices {devices} --num_nodes {training.num_nodes} --strategy {training.strategy} cannot be used on "
            f"this machine: {' '.join(str(error).split())}"
        ) from None


def _last_epoch(training: TrainingConfig, resumed: dict | None) -> int:
    """Number of epochs in all; if early stopping had ended the training, those that it had."""
    for name, state in (resumed or {}).get("callbacks", {}).items():
        if name.startswith("EarlyStopping") and training.early_stop and state["wait_count"] >= training.early_stop:
            return resumed["epoch"] + 1
    return training.epochs


def _progress(trainer: pl.Trainer, total_steps: int, max_minutes: float) -> Callable[[int], float]:
    """A function of the optimiser step: how far the training is, 0 to 1, in steps or in time, whichever is further."""
    timer = next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)

    def progress(step: int) -> float:
        if timer is None:
            return step / total_steps
        elapsed = timer.time_elapsed() / (60 * max_minutes)
        # The clock of the first process holds for all: with different learning rates their networks would drift apart.
        return trainer.strategy.broadcast(max(step / total_steps, elapsed))

    return progress


def _callbacks(config: Config, exp_dir: Path, task: Task) -> list[Callback]:
    training = config.training
    callbacks: list[Callback] = [
        EpochReport(exp_dir),
        Progress(),
        RunLog(config, exp_dir),
        *task.make_callbacks(config),
        LearningRateMonitor("epoch"),
        ModelCheckpoint(
            exp_dir / "checkpoints", filename="last", save_top_k=1, enable_version_counter=False,
            save_on_train_epoch_end=True,
        ),
    ]  # fmt: skip
    if training.early_stop:
        callbacks.append(EarlyStopping("val_loss", patience=training.early_stop, check_on_train_epoch_end=False))
    if training.max_minutes:
        callbacks.append(Timer(timedelta(minutes=training.max_minutes), interval="epoch", verbose=False))
    return callbacks


def _summary(config: Config, trainer: pl.Trainer, system: TrainedSystem, epoch_examples: int, seconds: float) -> dict[str, Any]:
    """The content of training.json: the length, the result and the machine of a training."""
    report = next(c for c in trainer.callbacks if isinstance(c, EpochReport))
    best, metric, has_gpu = report.best, system.metric, torch.cuda.is_available()
    return {
        "seed": config.training.seed,
        "epochs": len(report.rows),
        "steps": report.rows[-1]["steps"],
        "mixtures_seen": len(report.rows) * epoch_examples,
        "training_minutes": round(sum(row["seconds"] for row in report.rows) / 60, 2),
        "this_run_minutes": round(seconds / 60, 2),
        "best_epoch": best["epoch"],
        "best_val_loss": best["val_loss"],
        f"best_val_{metric.name}": best[f"val_{metric.name}"],
        "params": sum(p.numel() for p in system.network.parameters()),
        "device": torch.cuda.get_device_name() if has_gpu else f"CPU, {torch.get_num_threads()} threads",
        "world_size": trainer.world_size,
    }


class Progress(pl.Callback):
    """How far an epoch is; Lightning's own bar shows nothing where the output is no terminal."""

    def __init__(self) -> None:
        self._bar = None

    def _begin(self, trainer: pl.Trainer, what: str, total: float) -> None:
        self._end()
        if trainer.is_global_zero:
            title = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, {what}"
            self._bar = progress_bar(total=total, desc=title, unit="batch", leave=False)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_train_epoch_start(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        self._begin(trainer, "training", trainer.num_training_batches)

    def on_validation_epoch_start(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        self._begin(trainer, "validation", sum(trainer.num_val_batches))

    def on_train_batch_end(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.update()

    on_validation_batch_end = on_train_batch_end

    def on_train_epoch_end(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: pl.Trainer, system: pl.LightningModule, exception: BaseException) -> None:
        self._end()


class EpochReport(pl.Callback):
    """Write history.csv, curves.png and best_model.pth after every epoch, and log a line about it.

    All of them atomically, which Lightning's CSVLogger and ModelCheckpoint do not do. The rows are part of the
    checkpoint, so that an interrupted training goes on with its history.

    Args:
        exp_dir: the experiment's folder.
    """

    def __init__(self, exp_dir: Path) -> None:
        self.exp_dir = exp_dir
        self.rows: list[dict[str, Any]] = []
        self._epoch_start_sec = 0.0
        self._learning_rate = 0.0

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the epoch with the lowest validation loss."""
        return min(self.rows, key=lambda row: row["val_loss"], default=None)

    def on_train_epoch_start(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        self._epoch_start_sec = time.monotonic()

    def on_before_optimizer_step(self, trainer: pl.Trainer, system: pl.LightningModule, optimizer: Optimizer) -> None:
        self._learning_rate = optimizer.param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch,
            "steps": trainer.global_step,
            "lr": self._learning_rate,  # of the epoch's last step; the schedule has moved on since
            **{key: round(values[key], 4) for key in history_columns(system.metric)[3:7]},
            "seconds": round(time.monotonic() - self._epoch_start_sec, 2),
        }
        if not math.isfinite(row["val_loss"]):
            raise UserError(
                f"{self.exp_dir}: the validation loss of epoch {row['epoch'] + 1} is not finite; lower --lr, or look "
                "for silent or broken sources in the validation set"
            )
        metric = system.metric
        is_best = self.best is None or row["val_loss"] < self.best["val_loss"]
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        if is_best:
            infos = {key: row[key] for key in ("epoch", "val_loss", f"val_{metric.name}")}
            save_model(self.exp_dir / "best_model.pth", system.network, infos)
        write_history(self.exp_dir / "history.csv", self.rows, metric)
        draw_curves(self.exp_dir / "curves.png", self.rows, self.exp_dir.name, metric)
        log.info(
            "epoch %d/%d: loss %.2f, %s %.2f | validation loss %.2f, %s %.2f%s | lr %.1e, %.0f s",
            row["epoch"] + 1, trainer.max_epochs, row["loss"], metric.title, row[metric.name], row["val_loss"],
            metric.title, row[f"val_{metric.name}"], " (best)" if is_best else "", row["lr"], row["seconds"],
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state_dict["rows"]]
