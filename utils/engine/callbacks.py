"""What happens at the end of an epoch: the history, the best network, audio to listen to, one line to read."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger

from utils.engine.config import Conf
from utils.engine.experiment import draw_curves, save_model, write_history
from utils.errors import UserError

log = logging.getLogger(__name__)


class Progress(TQDMProgressBar):
    """Lightning's progress bar without the logger's version, which is always the same here."""

    def get_metrics(self, trainer: pl.Trainer, system: pl.LightningModule) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, system).items() if name != "v_num"}


class EpochReport(pl.Callback):
    """Writes history.csv, curves.png and best_model.pth after every epoch, and says a line about it.

    The rows travel in the checkpoint, so that an interrupted training goes on with the history it had.

    Args:
        exp_dir: the experiment's folder.
        conf: resolved conf, stored with the best network.
    """

    def __init__(self, exp_dir: Path, conf: Conf) -> None:
        self.exp_dir, self.conf = exp_dir, conf
        self.rows: list[dict[str, Any]] = []
        self._epoch_start_sec = 0.0

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the epoch with the lowest validation loss."""
        return min(self.rows, key=lambda row: row["val_loss"], default=None)

    def on_train_epoch_start(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        self._epoch_start_sec = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch,
            "steps": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **{key: round(values[key], 4) for key in ("loss", "si_snri", "val_loss", "val_si_snri")},
            "seconds": round(time.monotonic() - self._epoch_start_sec, 2),
        }
        if not math.isfinite(row["val_loss"]):
            raise UserError(
                f"{self.exp_dir}: the validation loss of epoch {row['epoch'] + 1} is not finite; lower --lr, or look for "
                "silent or broken sources in the validation set"
            )
        is_best = self.best is None or row["val_loss"] < self.best["val_loss"]
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        if is_best:
            infos = {"epoch": row["epoch"], "val_loss": row["val_loss"], "val_si_snri": row["val_si_snri"]}
            save_model(self.exp_dir / "best_model.pth", system.kept_network, self.conf, infos)
        write_history(self.exp_dir / "history.csv", self.rows)
        draw_curves(self.exp_dir / "curves.png", self.rows, self.exp_dir.name)
        log.info(
            "epoch %d/%d: loss %.2f, SI-SNRi %.2f | validation loss %.2f, SI-SNRi %.2f%s | lr %.1e, %.0f s",
            row["epoch"] + 1, trainer.max_epochs, row["loss"], row["si_snri"], row["val_loss"], row["val_si_snri"],
            " (best)" if is_best else "", row["lr"], row["seconds"],
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state_dict["rows"]]


class AudioExamples(pl.Callback):
    """Puts the voices of the first validation mixtures into the TensorBoard log, peak-normalised.

    Args:
        count: number of mixtures; 0 writes none.
        sample_rate: Hz.
    """

    def __init__(self, count: int, sample_rate: int) -> None:
        self.count, self.sample_rate = count, sample_rate

    def on_validation_batch_end(
        self, trainer: pl.Trainer, system: pl.LightningModule, outputs: Any, batch: dict, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx or not self.count or not trainer.is_global_zero:
            return
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        with torch.inference_mode():
            voices = system({name: value[: self.count] for name, value in batch.items()}).float().cpu()
        for board in boards:
            for example, signals in enumerate(voices):
                for voice, signal in enumerate(signals, start=1):
                    self._add(board, f"example_{example}/s{voice}_estimate", signal, trainer.current_epoch)
                if trainer.current_epoch == 0:
                    self._add(board, f"example_{example}/mixture", batch["mixture"][example].cpu(), 0)

    def _add(self, board: Any, name: str, signal: torch.Tensor, epoch: int) -> None:
        board.add_audio(name, signal[None] / signal.abs().max().clamp(min=1e-8), epoch, self.sample_rate)
