"""The Lightning module: one step of training, one of validation, the optimiser. No file is read or written here."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from utils.engine.config import LossConf, OptimConf
from utils.engine.losses import SeparationLoss, faceless, si_snri_db
from utils.engine.schedule import LearningRate


class AVSystem(pl.LightningModule):
    """Trains a separation network on batches of `mixture`, `sources` and, with faces, `visual`.

    Logs `loss` and `si_snri` (training and `val_`), both in dB, means over mixtures, of what the network gives in the end:
    the loss after earlier blocks (`loss.block_weight`) is minimised beside it and not part of what is logged. Voices
    without a face, such as all of the audio-only network, are put into the best order first.

    Args:
        network: see `local_models.build_model`.
        loss: what is minimised.
        optim: optimiser and learning rate.
        total_steps: optimiser steps of the whole training.
        seed: random numbers inside the network (dropout) depend on it and the epoch alone, so that a resumed training
            goes on as if it had not stopped.
    """

    def __init__(self, network: nn.Module, loss: LossConf, optim: OptimConf, total_steps: int, seed: int) -> None:
        super().__init__()
        self.network, self.optim, self.seed = network, optim, seed
        self.block_weight = loss.block_weight
        self.loss = SeparationLoss(loss)
        self.learning_rate = LearningRate(optim, total_steps)
        averaging = get_ema_multi_avg_fn(optim.ema_decay)
        self.average = AveragedModel(network, multi_avg_fn=averaging) if optim.ema_decay else None

    @property
    def kept_network(self) -> nn.Module:
        """What is validated and kept: the moving average of the network where there is one, the network otherwise."""
        return self.average.module if self.average else self.network

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Voices (batch, n_src, time) of a batch, by the network that is kept."""
        return self.kept_network(batch["mixture"], batch.get("visual"))

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        *earlier, voices = self._in_training(batch)
        loss, gains = self._step(batch, voices)
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch["sources"]))
        gain = gains.mean() if len(gains) else loss.new_zeros(())
        self.log("si_snri", gain, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(gains))
        self.log("step_loss", loss.detach(), on_step=True, on_epoch=False, prog_bar=True)
        return loss + self.block_weight * sum(self._loss(batch, voices)[0] for voices in earlier)

    def _in_training(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """The voices of the network in training, before them those after its earlier blocks where the loss wants them."""
        given = batch["mixture"], batch.get("visual")
        return self.network.after_each_block(*given) if self.block_weight else [self.network(*given)]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average:
            self.average.update_parameters(self.network)

    def on_validation_epoch_start(self) -> None:
        self._val_sums = torch.zeros(4, dtype=torch.float64, device=self.device)  # of loss, mixtures, SI-SNRi, its mixtures

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        loss, gains = self._step(batch, self(batch))
        count = len(batch["sources"])
        sums = (loss.item() * count, count, gains.double().sum().item(), len(gains))
        self._val_sums += torch.tensor(sums, dtype=torch.float64, device=self.device)

    def on_validation_epoch_end(self) -> None:
        # Summed here and not by Lightning, whose mean over processes with unequal shares is wrong (it halves integers).
        loss_sum, count, gain_sum, n_gains = self.trainer.strategy.reduce(self._val_sums, reduce_op="sum").tolist()
        self.log_dict({"val_loss": loss_sum / count, "val_si_snri": gain_sum / max(n_gains, 1)})
        self.learning_rate.end_epoch(loss_sum / count)

    def _step(self, batch: dict[str, torch.Tensor], voices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a batch, and the SI-SNRi of its mixtures (those in which there is something to improve), dB both."""
        loss, estimates = self._loss(batch, voices)
        with torch.no_grad():
            gains = si_snri_db(estimates, batch["sources"], batch["mixture"])
        return loss, gains

    def _loss(self, batch: dict[str, torch.Tensor], voices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sources = batch["sources"]
        return self.loss(voices.float(), sources, batch["mixture"], faceless(batch.get("visual"), sources))

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(self.seed * 100003 + self.current_epoch * 1009 + self.global_rank)

    def on_train_batch_start(self, *_: Any) -> None:
        rate = self.learning_rate.at(self.global_step)
        for group in self.optimizers().param_groups:
            group["lr"] = rate

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.optim.optimizer]
        return kind(self.network.parameters(), lr=self.optim.lr, weight_decay=self.optim.weight_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["learning_rate"] = self.learning_rate.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.learning_rate.load_state_dict(checkpoint["learning_rate"])
