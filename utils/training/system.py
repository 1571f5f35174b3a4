"""The base of Lightning modules: the optimiser, its schedule, and the means of a validation."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau
from torchmetrics import MeanMetric

from utils.training.config import OptimConfig


class Metric(NamedTuple):
    """What a training is told by, beside its loss."""

    name: str
    """Of its column in history.csv."""
    title: str
    unit: str
    loss_unit: str

    def text(self, value: float) -> str:
        """A value in words."""
        return f"{self.title} {value:.2f}{' ' * bool(self.unit)}{self.unit}"


class TrainedSystem(pl.LightningModule):
    """Train a network. Subclasses have a `metric`, and give their losses to `log_training` and `log_validation`.

    Logs `loss` and the metric, of training and `val_`, means over examples, also where processes have unequal shares of them.

    Args:
        network: see `local_models.networks`.
        optim: optimiser and learning rate.
        progress: how far the training is before an optimiser step (counted from 0), 0 to 1, for the cosine schedule.
        seed: random numbers inside the network (dropout) depend on it and the epoch only, so that a resumed training
            goes on as if it had not stopped.
    """

    metric: Metric

    def __init__(self, network: nn.Module, optim: OptimConfig, progress: Callable[[int], float], seed: int) -> None:
        super().__init__()
        self.network, self.optim, self.progress, self.seed = network, optim, progress, seed
        self.val_loss, self.val_metric = MeanMetric(), MeanMetric()
        self.plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] = {}

    def log_training(self, loss: torch.Tensor, values: torch.Tensor, n_examples: int) -> None:
        """Log a step: its loss, a scalar, and the values of the metric, one for each example that has one."""
        how = {"on_step": False, "on_epoch": True, "sync_dist": True}
        self.log("loss", loss.detach(), batch_size=n_examples, **how)
        mean = values.mean() if len(values) else loss.new_zeros(())
        self.log(self.metric.name, mean, batch_size=len(values), **how)
        self.log("step_loss", loss.detach(), on_step=True, on_epoch=False, prog_bar=True)

    def log_validation(self, loss: torch.Tensor, values: torch.Tensor, n_examples: int) -> None:
        """The same for a batch of validation."""
        self.val_loss.update(loss, weight=n_examples)
        self.val_metric.update(values)

    def on_validation_epoch_end(self) -> None:
        val_loss = self.val_loss.compute()
        self.log_dict({"val_loss": val_loss, f"val_{self.metric.name}": self.val_metric.compute()})
        self.val_loss.reset()
        self.val_metric.reset()
        if self.plateau:
            # Lightning would do it after the epoch's checkpoint is written, so that a resumed training would miss it.
            self.plateau.step(val_loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["plateau"] = self.plateau.state_dict() if self.plateau else {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._plateau_state = checkpoint["plateau"]

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(self.seed * 100003 + self.current_epoch * 1009 + self.global_rank)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[dict[str, Any]]]:
        conf = self.optim
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[conf.optimizer]
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = kind(trained, lr=conf.lr, weight_decay=conf.weight_decay)
        if conf.schedule == "cosine":
            return [optimizer], [{"scheduler": LambdaLR(optimizer, self._cosine), "interval": "step"}]
        how = {"factor": conf.plateau_factor, "patience": conf.plateau_patience}
        self.plateau = ReduceLROnPlateau(optimizer, **how, threshold=1e-4, threshold_mode="abs", eps=0)
        self.plateau.load_state_dict(self._plateau_state)
        if conf.warmup_steps < 2:
            return [optimizer], []
        warmup = LinearLR(optimizer, 1 / conf.warmup_steps, total_iters=conf.warmup_steps - 1)
        return [optimizer], [{"scheduler": warmup, "interval": "step"}]

    def _cosine(self, step: int) -> float:
        """Factor of the learning rate of optimiser step `step`, counted from 0: warm-up, then a cosine to zero."""
        warmup = min(1.0, (step + 1) / max(self.optim.warmup_steps, 1))
        return warmup * 0.5 * (1 + math.cos(math.pi * min(self.progress(step), 1.0)))
