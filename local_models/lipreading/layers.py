"""Small layers that the trunks and the temporal networks share."""

import torch
from torch import nn

ACTIVATIONS = ("relu", "prelu", "swish")


def make_activation(relu_type: str, channels: int) -> nn.Module:
    """The activation called `relu_type` in the configurations; only prelu has a parameter (one slope a channel).

    Raises:
        ValueError: `relu_type` is none of `ACTIVATIONS`.
    """
    if relu_type == "relu":
        return nn.ReLU()
    if relu_type == "prelu":
        return nn.PReLU(channels)
    if relu_type == "swish":
        return nn.SiLU()
    raise ValueError(f"relu_type '{relu_type}' is none of {', '.join(ACTIVATIONS)}")


class Chomp(nn.Module):
    """Cut the frames that a padding on both sides added: half of `size` from each end, so that time stays centred."""

    def __init__(self, size: int) -> None:
        super().__init__()
        if size % 2:
            raise ValueError(f"cannot cut {size} frames evenly from two ends: TCN kernel sizes must be odd")
        self.half = size // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames + size) -> (batch, channels, frames)."""
        return x[..., self.half : x.shape[-1] - self.half]
