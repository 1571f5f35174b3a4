"""Examples to hear, in the log of a training."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger


class AudioExamples(pl.Callback):
    """Add the estimates for the first validation mixtures to the TensorBoard log, peak-normalised.

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
            estimates = system({name: value[: self.count] for name, value in batch.items()}).float().cpu()
        for board in boards:
            for example, signals in enumerate(estimates):
                for source, signal in enumerate(signals, start=1):
                    self._add(board, f"example_{example}/s{source}_estimate", signal, trainer.current_epoch)
                if trainer.current_epoch == 0:
                    self._add(board, f"example_{example}/mixture", batch["mixture"][example].cpu(), 0)

    def _add(self, board: Any, name: str, signal: torch.Tensor, epoch: int) -> None:
        board.add_audio(name, signal[None] / signal.abs().max().clamp(min=1e-8), epoch, self.sample_rate)
