"""The Lightning module: one step of training, one of validation, the optimiser and its schedule."""

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau
from torchmetrics import MeanMetric

from local_models.separator import AVSeparator
from utils.training.config import LossConfig, OptimConfig
from utils.training.losses import SeparationLoss, si_snri_db, without_visual


class AVSystem(pl.LightningModule):
    """Train a separation network on batches of `mixture`, `sources` and, with visual embeddings, `visual`.

    Logs `loss` and `si_snri` (training and `val_`), both in dB, means over mixtures, of the network's last estimates:
    the loss after earlier blocks (`loss.block_weight`) is minimised too and not logged. Sources without a face, such as
    all of the audio-only baseline, are put into the best order first.

    Args:
        network: see `local_models.networks`.
        loss: the loss that is minimised.
        optim: optimiser and learning rate.
        progress: how far the training is before an optimiser step (counted from 0), 0 to 1, for the cosine schedule and the
            weight of the order.
        seed: random numbers inside the network (dropout) depend on it and the epoch only, so that a resumed training
            goes on as if it had not stopped.
    """

    def __init__(
        self, network: AVSeparator, loss: LossConfig, optim: OptimConfig, progress: Callable[[int], float], seed: int
    ) -> None:
        super().__init__()
        self.network, self.optim, self.progress, self.seed = network, optim, progress, seed
        self.block_weight = loss.block_weight
        self.order_weights = loss.order_weight_start, loss.order_weight
        self.loss = SeparationLoss(loss.signal_loss)
        # Means over mixtures, also where processes have unequal shares of them.
        self.val_loss, self.val_si_snri = MeanMetric(), MeanMetric()
        self.plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] = {}

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Estimates (batch, n_src, time) of a batch."""
        return self.network(batch["mixture"], batch.get("visual"))

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        start, end = self.order_weights
        self.loss.order_weight = start + (end - start) * min(self.progress(self.global_step), 1.0)
        *earlier, estimates = self._after_blocks(batch)
        loss, improvements = self._step(batch, estimates)
        n_mixtures, n_improved = len(batch["sources"]), len(improvements)
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, sync_dist=True, batch_size=n_mixtures)
        mean = improvements.mean() if n_improved else loss.new_zeros(())
        self.log("si_snri", mean, on_step=False, on_epoch=True, sync_dist=True, batch_size=n_improved)
        self.log("step_loss", loss.detach(), on_step=True, on_epoch=False, prog_bar=True)
        return loss + self.block_weight * sum(self._loss(batch, estimates)[0] for estimates in earlier)

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        self.loss.order_weight = self.order_weights[1]  # epochs are compared by what is wanted in the end
        loss, improvements = self._step(batch, self(batch))
        self.val_loss.update(loss, weight=len(batch["sources"]))
        self.val_si_snri.update(improvements)

    def on_validation_epoch_end(self) -> None:
        val_loss = self.val_loss.compute()
        self.log_dict({"val_loss": val_loss, "val_si_snri": self.val_si_snri.compute()})
        self.val_loss.reset()
        self.val_si_snri.reset()
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
        optimizer = kind(self.network.parameters(), lr=conf.lr, weight_decay=conf.weight_decay)
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

    def _after_blocks(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """The estimates as the last of the list, before them those after earlier blocks if the loss needs them."""
        if self.block_weight:
            return self.network.after_each_block(batch["mixture"], batch.get("visual"))
        return [self(batch)]

    def _step(self, batch: dict[str, torch.Tensor], estimates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a batch, and the SI-SNRi of its mixtures (those in which there is something to improve), dB both."""
        loss, ordered = self._loss(batch, estimates)
        with torch.no_grad():
            improvements = si_snri_db(ordered, batch["sources"], batch["mixture"])
        return loss, improvements

    def _loss(self, batch: dict[str, torch.Tensor], estimates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sources = batch["sources"]
        return self.loss(estimates.float(), sources, batch["mixture"], without_visual(batch.get("visual"), sources))
