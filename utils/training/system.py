"""The Lightning module: one step of training, one of validation, the optimiser and its schedule."""

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn.functional import normalize
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau
from torchmetrics import MeanMetric

from local_models.separator import AVSeparator
from local_models.visualvoice import VoiceAttributes
from utils.training.attributes import coseparation_loss, crossmodal_loss
from utils.training.config import LossConfig, OptimConfig
from utils.training.losses import SeparationLoss, si_snri_db, without_visual


class AVSystem(pl.LightningModule):
    """Train a separation network on batches of `mixture`, `sources` and, with visual embeddings, `visual`.

    Logs `loss` (in dB where it has a unit) and `si_snri` (dB), of training and `val_`, means over mixtures, of the network's
    last estimates: the losses after earlier blocks and on attributes are minimised too and not logged. Sources without a
    face, such as all of the audio-only baseline, are put into the best order first.

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
        self.match_weight = loss.match_weight if network.matcher else 0.0
        self.attribute_weights = loss.crossmodal_weight, loss.coseparation_weight, loss.attribute_margin
        needs_voices = network.config.n_faces > 0 and (loss.crossmodal_weight or loss.coseparation_weight)
        self.voice_net = VoiceAttributes(network.config.attribute_chan) if needs_voices else None
        if optim.train_only:
            network.requires_grad_(False)
            network.get_submodule(optim.train_only).requires_grad_(True)
        self.order_weights = loss.order_weight_start, loss.order_weight
        self.loss = SeparationLoss(loss.signal_loss, loss.discriminative_weight)
        # Means over mixtures, also where processes have unequal shares of them.
        self.val_loss, self.val_si_snri = MeanMetric(), MeanMetric()
        self.plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] = {}

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Estimates (batch, n_src, time) of a batch."""
        return self.network(batch["mixture"], batch.get("visual"))

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        *earlier, estimates = self._after_blocks(batch)
        order_weight = self._order_weight()
        loss, improvements = self._step(batch, estimates, order_weight)
        n_mixtures, n_improved = len(batch["sources"]), len(improvements)
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, sync_dist=True, batch_size=n_mixtures)
        mean = improvements.mean() if n_improved else loss.new_zeros(())
        self.log("si_snri", mean, on_step=False, on_epoch=True, sync_dist=True, batch_size=n_improved)
        self.log("step_loss", loss.detach(), on_step=True, on_epoch=False, prog_bar=True)
        loss = loss + self.block_weight * sum(self._loss(batch, each, order_weight)[0] for each in earlier)
        loss = loss + self._attribute_loss(batch, estimates.float())
        return loss + self.match_weight * self._match_loss(batch, estimates.detach().float())

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        if self.network.matcher and not self.match_weight:  # nothing has learned yet whose voice is whose
            loss, improvements = self._step(batch, self(batch), order_weight=0.0)
        else:
            loss, improvements = self._step(batch, self._in_order(batch))
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

    def _after_blocks(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """The estimates as the last of the list, before them those after earlier blocks if the loss needs them."""
        if self.block_weight:
            return self.network.after_each_block(batch["mixture"], batch.get("visual"))
        return [self(batch)]

    def _in_order(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The estimates in the order that a user gets."""
        return self.network.in_order_of_faces(self(batch), batch.get("visual"), batch["mixture"])

    def _match_loss(self, batch: dict[str, torch.Tensor], estimates: torch.Tensor) -> torch.Tensor:
        """Telling the voices of a batch apart by the faces: of the true sources, and of the estimates (batch, n_src, time).

        Gradients stay inside the comparison: separation is not punished for what cannot be seen.
        """
        if not self.match_weight or "visual" not in batch:
            return estimates.new_zeros(())
        sources, visual, mixture = batch["sources"], batch["visual"], batch["mixture"]
        is_active = sources.ne(0).any(dim=-1)
        with torch.no_grad():
            order = self.loss.best_orders(estimates, sources, mixture)
        ordered = self.network.arrange(estimates, order.cpu().tolist(), mixture)
        matcher = self.network.matcher
        voices = sum(matcher.contrastive_loss(each, visual, mixture, is_active) for each in (sources, ordered))
        alone = matcher.alone_loss(estimates, mixture, is_active)
        return voices / 2 + matcher.order_loss(estimates, visual, mixture, order, is_active) + alone

    def _attribute_loss(self, batch: dict[str, torch.Tensor], estimates: torch.Tensor) -> torch.Tensor:
        """The weighted losses on what voices and faces have in common; zero where they have no weight."""
        if self.voice_net is None:
            return estimates.new_zeros(())
        crossmodal_weight, coseparation_weight, margin = self.attribute_weights
        voices = self.voice_net(estimates.flatten(0, 1)).unflatten(0, estimates.shape[:2])
        is_active = batch["sources"].ne(0).any(dim=-1)
        no_face = without_visual(batch.get("visual"), batch["sources"])  # nobody knows which of the estimates is theirs
        speakers = torch.where(is_active & ~no_face, batch["speakers"], -1)
        loss = coseparation_weight * coseparation_loss(voices, speakers, margin)
        if crossmodal_weight:
            visual_net, visual = self.network.visual_net, batch["visual"]
            speakers = torch.where(visual_net.seen_faces(visual), speakers, -1)
            faces = normalize(visual_net.attributes(visual), dim=-1)
            loss = loss + crossmodal_weight * crossmodal_loss(voices, faces, speakers, margin)
        return loss

    def _order_weight(self) -> float:
        """The share of the loss that is in the order of the faces, now."""
        start, end = self.order_weights
        return start + (end - start) * min(self.progress(self.global_step), 1.0) if start != end else end

    def _step(
        self, batch: dict[str, torch.Tensor], estimates: torch.Tensor, order_weight: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a batch, and the SI-SNRi of its mixtures (those in which there is something to improve), dB both."""
        loss, ordered = self._loss(batch, estimates, order_weight)
        with torch.no_grad():
            improvements = si_snri_db(ordered, batch["sources"], batch["mixture"])
        return loss, improvements

    def _loss(
        self, batch: dict[str, torch.Tensor], estimates: torch.Tensor, order_weight: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sources = batch["sources"]
        no_face = without_visual(batch.get("visual"), sources)
        return self.loss(estimates.float(), sources, batch["mixture"], no_face, order_weight)
