"""ShuffleNet v2 without its stem: the light trunk; its activations are ReLU whatever the rest of the network uses."""

import torch
from torch import nn

STAGE_REPEATS = (4, 8, 4)
STAGE_CHANNELS = {  # width multiplier -> channels of the three stages and of the last convolution
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (224, 488, 976, 2048),
}


class ShuffleUnit(nn.Module):
    """One unit: half of the channels pass (or shrink in `banch1`), half are convolved in `banch2`, then both are mixed.

    "banch" is how the public checkpoints spell it.
    """

    def __init__(self, in_channels: int, out_channels: int, first_of_stage: bool) -> None:
        super().__init__()
        half = out_channels // 2
        stride = 2 if first_of_stage else 1
        self.banch1 = None
        if first_of_stage:
            self.banch1 = nn.Sequential(*_depthwise(in_channels, stride), *_pointwise(in_channels, half))
        worked = in_channels if first_of_stage else half
        self.banch2 = nn.Sequential(*_pointwise(worked, half), *_depthwise(half, stride), *_pointwise(half, half))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, in_channels, H, W) -> (frames, out_channels, H or H / 2, W or W / 2)."""
        if self.banch1 is None:
            kept, worked = x.chunk(2, dim=1)
            worked = self.banch2(worked)
        else:
            kept, worked = self.banch1(x), self.banch2(x)
        # channels 0, half, 1, half + 1, ...: the shuffle of two groups
        return torch.stack((kept, worked), dim=2).flatten(1, 2)


def _pointwise(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()


def _depthwise(channels: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)


class ShuffleNetTrunk(nn.Sequential):
    """Sixteen shuffle units, a last convolution, the mean over a 3x3 picture: 1024 values a frame (2048 at width 2).

    Args:
        width_mult: One of `STAGE_CHANNELS`.

    Raises:
        ValueError: another width.
    """

    in_channels = 24

    def __init__(self, width_mult: float) -> None:
        if width_mult not in STAGE_CHANNELS:
            raise ValueError(f"width_mult {width_mult} is none of {', '.join(map(str, STAGE_CHANNELS))}")
        *stages, last = STAGE_CHANNELS[width_mult]
        units, channels = [], self.in_channels
        for out_channels, repeats in zip(stages, STAGE_REPEATS, strict=True):
            for index in range(repeats):
                units.append(ShuffleUnit(channels, out_channels, first_of_stage=index == 0))
                channels = out_channels
        last_conv = nn.Sequential(*_pointwise(channels, last))
        super().__init__(nn.Sequential(*units), last_conv, nn.AvgPool2d(3), nn.Flatten())
        self.out_channels = last
