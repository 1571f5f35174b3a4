"""The Lightning module of separation: one step of training, one of validation."""

from collections.abc import Callable

import torch
from torch.nn.functional import normalize

from local_models.separator import AVSeparator
from local_models.visualvoice import VoiceAttributes
from utils.training.attributes import coseparation_loss, crossmodal_loss
from utils.training.config import LossConfig, OptimConfig
from utils.training.losses import SeparationLoss, si_snri_db, without_visual
from utils.training.system import Metric, TrainedSystem


class AVSystem(TrainedSystem):
    """Train a separation network on batches of `mixture`, `sources` and, with visual embeddings, `visual`.

    What is logged is of the network's last estimates: the losses after earlier blocks and on attributes are minimised too and
    not logged. Sources without a face, such as all of the audio-only baseline, are put into the best order first.

    Args:
        network: see `local_models.networks`.
        loss: the loss that is minimised.
        optim, progress, seed: see `TrainedSystem`; the weight of the order follows the progress, too.
    """

    def __init__(
        self, network: AVSeparator, loss: LossConfig, optim: OptimConfig, progress: Callable[[int], float], seed: int
    ) -> None:
        super().__init__(network, optim, progress, seed)
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
        self.metric = Metric("si_snri", "SI-SNRi", "dB", loss_unit="dB" if self.loss.is_in_db else "")

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Estimates (batch, n_src, time) of a batch."""
        return self.network(batch["mixture"], batch.get("visual"))

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        *earlier, estimates = self._after_blocks(batch)
        order_weight = self._order_weight()
        loss, improvements = self._step(batch, estimates, order_weight)
        self.log_training(loss, improvements, len(batch["sources"]))
        loss = loss + self.block_weight * sum(self._loss(batch, each, order_weight)[0] for each in earlier)
        loss = loss + self._attribute_loss(batch, estimates.float())
        return loss + self.match_weight * self._match_loss(batch, estimates.detach().float())

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        if self.network.matcher and not self.match_weight:  # nothing has learned yet whose voice is whose
            loss, improvements = self._step(batch, self(batch), order_weight=0.0)
        else:
            loss, improvements = self._step(batch, self._in_order(batch))
        self.log_validation(loss, improvements, len(batch["sources"]))

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
