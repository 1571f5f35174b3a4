"""The Lightning module of voice to mouth: one step of training, one of validation."""

from collections.abc import Callable

import torch

from local_models.voice_to_mouth import VoiceToMouth
from utils.training.config import MotionLossConfig, OptimConfig
from utils.training.system import Metric, TrainedSystem
from utils.voice_to_mouth.losses import MotionLoss
from utils.voice_to_mouth.motion import correlation


class VoiceToMouthSystem(TrainedSystem):
    """Train a `VoiceToMouth` on batches of `voice` and `targets`.

    Args:
        network: the network.
        loss: the weights of the loss.
        optim, progress, seed: see `TrainedSystem`.
    """

    metric = Metric("correlation", "correlation", "", loss_unit="")

    def __init__(
        self,
        network: VoiceToMouth,
        loss: MotionLossConfig,
        optim: OptimConfig,
        progress: Callable[[int], float],
        seed: int,
    ) -> None:
        super().__init__(network, optim, progress, seed)
        self.loss = MotionLoss(loss, network.config.target == "keypoints")

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        loss, values = self._step(batch)
        self.log_training(loss, values, len(batch["voice"]))
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], _: int) -> None:
        self.log_validation(*self._step(batch), len(batch["voice"]))

    def _step(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a batch, and the correlation of what moves of its examples (those with more than one frame that is seen)."""
        true = batch["targets"]
        seen = true.ne(0).any(dim=-1)
        targets = self.network.standardise(true, seen)
        estimates = self.network.standardised(batch["voice"], true.shape[1]).float()
        guess = self.network.restored(estimates)
        loss = self.loss(estimates, targets, guess, true, seen)
        with torch.no_grad():
            values = correlation(self.loss.moving(guess), self.loss.moving(true), seen)
        return loss, values[seen.sum(dim=-1) > 1]
