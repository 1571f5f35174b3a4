"""Temporal convolutional networks over frame vectors: TCN (one kernel size) and MS-TCN (several in parallel).

Both keep the number of frames: a layer pads both ends by (kernel - 1) * dilation and cuts as much again, half from
each end, after its batch normalisation (whose training statistics therefore see the padded frames).
"""

from collections.abc import Sequence

import torch
from torch import nn

from local_models.lipreading.layers import Chomp, make_activation


class BranchConv(nn.Module):
    """One branch of MS-TCN: a dilated convolution, plain or depthwise separable, with normalisation and activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int, relu_type: str, dwpw: bool):
        super().__init__()
        padding = (kernel - 1) * dilation
        self.separable = dwpw
        if not dwpw:
            self.conv = nn.Conv1d(in_channels, out_channels, kernel, padding=padding, dilation=dilation)
            self.batchnorm = nn.BatchNorm1d(out_channels)
            self.chomp = Chomp(padding)
            self.non_lin = make_activation(relu_type, out_channels)
            return
        inner = "prelu" if relu_type == "prelu" else "relu"  # the separable form never uses swish
        self.conv = nn.Sequential(
            nn.Conv1d(in_channels, in_channels, kernel, 1, padding, dilation, groups=in_channels, bias=False),
            nn.BatchNorm1d(in_channels),
            Chomp(padding),
            make_activation(inner, in_channels),
            nn.Conv1d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm1d(out_channels),
            make_activation(inner, out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, frames) -> (batch, out_channels, frames)."""
        x = self.conv(x)
        return x if self.separable else self.non_lin(self.chomp(self.batchnorm(x)))


class MultibranchBlock(nn.Module):
    """Two rounds of parallel branches, one for each kernel size, around a shortcut.

    The shortcut is a 1x1 convolution even where the widths agree: the public networks have it in every block.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernels: Sequence[int],
        dilation: int,
        dropout: float,
        relu_type: str,
        dwpw: bool,
    ) -> None:
        super().__init__()
        if channels % len(kernels):
            raise ValueError(f"{channels} TCN channels cannot be divided among {len(kernels)} kernel sizes")
        self.n_branches = len(kernels)
        for round_, inputs in enumerate((in_channels, channels)):
            for index, kernel in enumerate(kernels):
                branch = BranchConv(inputs, channels // len(kernels), kernel, dilation, relu_type, dwpw)
                self.add_module(f"cbcr{round_}_{index}", branch)
        self.dropout = nn.Dropout(dropout)
        self.downsample = nn.Conv1d(in_channels, channels, 1)
        self.relu_final = make_activation(relu_type, channels)

    def _round(self, round_: int, x: torch.Tensor) -> torch.Tensor:
        branches = (self.get_submodule(f"cbcr{round_}_{index}") for index in range(self.n_branches))
        return self.dropout(torch.cat([branch(x) for branch in branches], dim=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, frames) -> (batch, channels, frames)."""
        return self.relu_final(self._round(1, self._round(0, x)) + self.downsample(x))


class PlainBlock(nn.Module):
    """Two dilated convolutions around a shortcut.

    The public checkpoints hold its layers twice, under their own names and as `net.N`: `net` runs, the names register.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, dilation: int, dropout: float, relu_type: str) -> None:
        super().__init__()
        padding = (kernel - 1) * dilation
        self.conv1 = nn.Conv1d(in_channels, channels, kernel, padding=padding, dilation=dilation)
        self.batchnorm1 = nn.BatchNorm1d(channels)
        self.relu1 = make_activation(relu_type, channels)
        self.conv2 = nn.Conv1d(channels, channels, kernel, padding=padding, dilation=dilation)
        self.batchnorm2 = nn.BatchNorm1d(channels)
        self.relu2 = make_activation(relu_type, channels)
        first = (self.conv1, self.batchnorm1, Chomp(padding), self.relu1, nn.Dropout(dropout))
        second = (self.conv2, self.batchnorm2, Chomp(padding), self.relu2, nn.Dropout(dropout))
        self.net = nn.Sequential(*first, *second)
        self.downsample = nn.Conv1d(in_channels, channels, 1) if in_channels != channels else None
        self.relu = make_activation(relu_type, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, frames) -> (batch, channels, frames)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.net(x) + shortcut)


class BlockStack(nn.Module):
    """Blocks one after the other, dilations 1, 2, 4, ...; `network` is the name in the public checkpoints."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.network = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, frames) -> (batch, channels, frames)."""
        return self.network(x)


class TemporalNetwork(nn.Module):
    """A trunk over frame vectors, under its name in the public checkpoints, and the word classifier `tcn_output`."""

    def __init__(self, trunk_name: str, trunk: nn.Module, out_channels: int, num_classes: int) -> None:
        super().__init__()
        self.trunk_name, self.out_channels = trunk_name, out_channels
        self.add_module(trunk_name, trunk)
        self.tcn_output = nn.Linear(out_channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Frame features before the classifier: (batch, in_channels, frames) -> (batch, out_channels, frames)."""
        return self.get_submodule(self.trunk_name)(x)
