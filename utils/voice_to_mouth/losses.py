"""The loss of voice to mouth.

A voice tells how a mouth moves, and hardly anything of whose mouth it is. So the error is that of the motion, what differs
from a clip's mean, and the mean counts little. And the least squares of what a voice tells hardly anything of is a mouth that
hardly moves. So there is a loss on the correlation with the true motion, whatever the size, and one on the size itself.
"""

import torch
from torch import nn

from utils.training.config import MotionLossConfig
from utils.voice_to_mouth.motion import centred, correlation, deviation, masked_mean, opening, velocity


class MotionLoss(nn.Module):
    """Position, mean, velocity, correlation and range, each weighted.

    Args:
        config: the weights.
        is_keypoints: targets are landmarks; correlation and range are of the mouth's opening, else of all numbers.

    Shape:
        - estimates, targets: (batch, frames, dim), standardised; `true`, `guess` the same as they are
        - seen: bool (batch, frames)
        - output: a scalar
    """

    def __init__(self, config: MotionLossConfig, is_keypoints: bool) -> None:
        super().__init__()
        self.config, self.is_keypoints = config, is_keypoints

    def moving(self, values: torch.Tensor) -> torch.Tensor:
        """What correlation and range are of: (batch, frames, 1) or as it is."""
        return opening(values).unsqueeze(-1) if self.is_keypoints else values

    def forward(
        self,
        estimates: torch.Tensor,
        targets: torch.Tensor,
        guess: torch.Tensor,
        true: torch.Tensor,
        seen: torch.Tensor,
    ) -> torch.Tensor:
        config = self.config
        mean_error = (masked_mean(estimates, seen) - masked_mean(targets, seen)).square().mean()
        changes, both = velocity(targets, seen)
        loss = config.mean_weight * mean_error
        loss = loss + config.position_weight * _relative_error(centred(estimates, seen), centred(targets, seen), seen)
        loss = loss + config.velocity_weight * _relative_error(velocity(estimates, seen)[0], changes, both)
        moving, wanted = self.moving(guess), self.moving(true)
        steps, _ = velocity(moving, seen)
        wanted_steps, _ = velocity(wanted, seen)
        agreement = (correlation(moving, wanted, seen) + correlation(steps, wanted_steps, both)) / 2
        loss = loss + config.correlation_weight * (1 - agreement.mean())
        ratio = deviation(moving, seen).log() - deviation(wanted, seen).log()
        return loss + config.range_weight * ratio.square().mean()


def _relative_error(estimates: torch.Tensor, targets: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Squared error of (batch, frames, dim) over the power of the targets of the whole batch: a scalar."""
    power = masked_mean(targets.square(), seen).mean().clamp(min=1e-4)
    return masked_mean((estimates - targets).square(), seen).mean() / power
