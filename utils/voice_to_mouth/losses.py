"""The loss of voice to mouth.

The least squares of what a voice tells hardly anything of is a mouth that hardly moves. So beside the error of the targets and
of their change there is a loss on how they go with the true ones, whatever their size, and one on the size itself.
"""

import torch
from torch import nn

from utils.training.config import MotionLossConfig
from utils.voice_to_mouth.motion import correlation, deviation, masked_mean, opening, velocity


class MotionLoss(nn.Module):
    """Position, velocity, correlation and range, each weighted.

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
        position = masked_mean((estimates - targets).square(), seen).mean()
        changes, both = velocity(targets, seen)
        error = masked_mean((velocity(estimates, seen)[0] - changes).square(), both).mean()
        change_variance = masked_mean(changes.square(), both).mean().detach().clamp(min=1e-4)
        loss = config.position_weight * position + config.velocity_weight * error / change_variance
        moving, wanted = self.moving(guess), self.moving(true)
        steps, _ = velocity(moving, seen)
        wanted_steps, _ = velocity(wanted, seen)
        agreement = (correlation(moving, wanted, seen) + correlation(steps, wanted_steps, both)) / 2
        loss = loss + config.correlation_weight * (1 - agreement.mean())
        ratio = deviation(moving, seen).log() - deviation(wanted, seen).log()
        return loss + config.range_weight * ratio.square().mean()
