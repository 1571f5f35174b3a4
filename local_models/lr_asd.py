"""The visual half of LR-ASD, a network trained to see who is speaking; its frame vectors follow the speech."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

BN_EPS = 1e-3
CHANNELS = (32, 64, 128)  # of the three blocks


class VisualBlock(nn.Module):
    """Two convolutions over the picture, then two over time, each with batch normalisation and ReLU.

    The stored statistics are folded into the convolutions at every call, also in fine-tuning. The 3-D kernels are flat
    in time or in the picture, so they run as 2-D ones, with the channels last in memory, where going from pictures to
    time and back moves nothing: two to three times as fast on a CPU as the plain form.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        half = channels // 2
        self.s_1 = nn.Conv3d(in_channels, half, (1, 5, 5), (1, stride, stride), (0, 2, 2), bias=False)
        self.s_norm_1 = nn.BatchNorm3d(half, eps=BN_EPS)
        self.s_2 = nn.Conv3d(half, channels, (1, 3, 3), 1, (0, 1, 1), bias=False)
        self.s_norm_2 = nn.BatchNorm3d(channels, eps=BN_EPS)
        self.t_1 = nn.Conv3d(channels, channels, (5, 1, 1), 1, (2, 0, 0), bias=False)
        self.t_norm_1 = nn.BatchNorm3d(channels, eps=BN_EPS)
        self.t_2 = nn.Conv3d(channels, channels, (3, 1, 1), 1, (1, 0, 0), bias=False)
        self.t_norm_2 = nn.BatchNorm3d(channels, eps=BN_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, frames, H, W, in_channels) -> (batch, frames, H / stride, W / stride, channels)."""
        x, shape = self._over_pictures(x)
        x = _convolve(x, self.t_1, self.t_norm_1)
        x = _convolve(x, self.t_2, self.t_norm_2)
        return x.reshape(shape)

    def stream(
        self, x: torch.Tensor, first: torch.Tensor | int, pasts: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The same for frames as they come, three frames late.

        Args:
            x: (batch, frames, H, W, in_channels).
            first: the number of the first of these frames in the whole, below 0 for what is before it.
            pasts: what the two convolutions over time have seen last; none at the beginning.
        """
        x, shape = self._over_pictures(x)
        seen = []
        for index, (conv, norm) in enumerate(((self.t_1, self.t_norm_1), (self.t_2, self.t_norm_2))):
            is_there = torch.arange(x.shape[1], device=x.device) + first >= 0
            x = x * is_there[:, None, None]  # before the beginning there is nothing, as in the whole
            n_past = conv.kernel_size[0] - 1
            past = pasts[index] if pasts else x.new_zeros(x.shape[0], n_past, *x.shape[2:])
            x = torch.cat([past, x], dim=1)
            seen.append(x[:, x.shape[1] - n_past :])
            first = first - n_past // 2
            x = _convolve(x, conv, norm, padding=0)
        return x.reshape(shape), seen

    def _over_pictures(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """The convolutions over the picture: (batch, frames, height * width, channels), and its shape with the picture's."""
        batch, frames = x.shape[:2]
        x = _convolve(x.flatten(0, 1), self.s_1, self.s_norm_1)
        x = _convolve(x, self.s_2, self.s_norm_2)
        _, height, width, channels = x.shape
        return x.reshape(batch, frames, height * width, channels), (batch, frames, height, width, channels)


def _convolve(x: torch.Tensor, conv: nn.Conv3d, norm: nn.BatchNorm3d, padding: int | None = None) -> torch.Tensor:
    """Convolution, normalisation by the stored statistics, ReLU.

    Args:
        x: (n, rows, columns, channels): rows and columns are those of the picture for a kernel flat in time, else time
            and the flattened picture.
        padding: in time; None: the convolution's own.
    """
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = conv.weight * scale.view(-1, 1, 1, 1, 1)
    bias = norm.bias - norm.running_mean * scale
    if conv.kernel_size[0] == 1:
        stride, padding, weight = conv.stride[1:], conv.padding[1:], weight.squeeze(2)
    else:
        stride, padding, weight = 1, (conv.padding[0] if padding is None else padding, 0), weight.squeeze(4)
    out = functional.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding).relu_()
    return out.permute(0, 2, 3, 1).contiguous()


class LRASDVisual(nn.Module):
    """Three blocks, the picture halved between them, then the maximum over the picture: 128 values a frame.

    Its state dict is the part of a public LR-ASD checkpoint under `model.visualEncoder.`, 72 entries.
    """

    dim = CHANNELS[-1]
    lookahead_frames = 9  # three in each block

    def __init__(self) -> None:
        super().__init__()
        self.block1 = VisualBlock(1, CHANNELS[0], stride=2)
        self.block2 = VisualBlock(CHANNELS[0], CHANNELS[1], stride=1)
        self.block3 = VisualBlock(CHANNELS[1], CHANNELS[2], stride=1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Normalised grey frames of any size, (batch, frames, H, W) -> (batch, frames, 128)."""
        return self.last_block(self.before_last_block(clips))

    def stream(self, clips: torch.Tensor, state: Sequence[torch.Tensor] = ()) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """`forward` for frames as they come: the vector of frame k comes with frame k + `lookahead_frames`.

        Args:
            clips: as of `forward`, the next frames.
            state: of the call before; none at the beginning.

        Returns:
            (batch, frames, 128), the first `lookahead_frames` of which are no frame's, and the state for the next call.
        """
        first = state[0] if state else torch.zeros((), dtype=torch.long, device=clips.device)
        pasts, x, seen = state[1:], clips.unsqueeze(-1), [first + clips.shape[1]]
        for index, block in enumerate((self.block1, self.block2, self.block3)):
            x, last = block.stream(x, first, pasts[2 * index : 2 * index + 2])
            x = _halve(x) if index < 2 else x
            first, seen = first - 3, [*seen, *last]
        return x.amax(dim=(2, 3)), seen

    def before_last_block(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips as of `forward` -> (batch, frames, about H / 8, about W / 8, 64)."""
        return _halve(self.block2(_halve(self.block1(clips.unsqueeze(-1)))))

    def last_block(self, features: torch.Tensor) -> torch.Tensor:
        """What `before_last_block` gives -> (batch, frames, 128)."""
        return self.block3(features).amax(dim=(2, 3))


def _halve(x: torch.Tensor) -> torch.Tensor:
    """(batch, frames, H, W, channels) -> (batch, frames, H / 2, W / 2, channels), by maxima."""
    pooled = functional.max_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), 3, 2, 1)
    return pooled.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
