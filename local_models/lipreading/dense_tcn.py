"""DC-TCN: densely connected temporal convolutions with squeeze-and-excitation over frame vectors."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from local_models.lipreading.layers import Chomp, make_activation

SE_REDUCTION = 16


class SqueezeExcitation(nn.Module):
    """Weigh the channels by what their means over all frames say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // SE_REDUCTION, bias=False),
            nn.SiLU(),  # swish, whatever the activation elsewhere
            nn.Linear(channels // SE_REDUCTION, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames) -> the same shape."""
        return x * self.fc(x.mean(dim=-1)).unsqueeze(-1)


class TemporalConv(nn.Module):
    """A dilated convolution, normalised, cut to the input's length, activated."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int, relu_type: str) -> None:
        super().__init__()
        padding = (kernel - 1) * dilation
        self.net = nn.Sequential(
            nn.Conv1d(in_channels, out_channels, kernel, padding=padding, dilation=dilation),
            nn.BatchNorm1d(out_channels),
            Chomp(padding),
            make_activation(relu_type, out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, frames) -> (batch, out_channels, frames)."""
        return self.net(x)


class DenseLayer(nn.Module):
    """Two rounds of parallel branches around a shortcut: it adds `growth` channels to what its dense block holds."""

    def __init__(
        self,
        in_channels: int,
        growth: int,
        kernels: Sequence[int],
        dilation: int,
        dropout: float,
        relu_type: str,
        squeeze: bool,
    ) -> None:
        super().__init__()
        if growth % len(kernels):
            raise ValueError(f"a growth of {growth} channels cannot be divided among {len(kernels)} kernel sizes")
        width = growth // len(kernels)
        self.n_branches = len(kernels)
        for index, kernel in enumerate(kernels):
            self.add_module(f"cbcr0_se_{index}", SqueezeExcitation(in_channels) if squeeze else nn.Identity())
            self.add_module(f"cbcr0_{index}", TemporalConv(in_channels, width, kernel, dilation, relu_type))
        for index, kernel in enumerate(kernels):
            self.add_module(f"cbcr1_{index}", TemporalConv(growth, width, kernel, dilation, relu_type))
        self.dropout = nn.Dropout(dropout)
        self.downsample = nn.Conv1d(in_channels, growth, 1) if in_channels != growth else None
        self.relu_final = make_activation(relu_type, growth)

    def _branch(self, name: str, index: int, x: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(f"{name}_{index}")(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, frames) -> (batch, growth, frames), the new channels only."""
        branches = range(self.n_branches)
        first = [self._branch("cbcr0", index, self._branch("cbcr0_se", index, x)) for index in branches]
        out = self.dropout(torch.cat(first, dim=1))
        out = self.dropout(torch.cat([self._branch("cbcr1", index, out) for index in branches], dim=1))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu_final(out + shortcut)


class DenseBlock(nn.Sequential):
    """Dense layers, each of which reads the block's input and everything its predecessors made."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, frames) -> (batch, in_channels + layers * growth, frames)."""
        for layer in self:
            x = torch.cat((x, layer(x)), dim=1)
        return x


def _transition(in_channels: int, out_channels: int, relu_type: str) -> nn.Sequential:
    layers = (
        ("conv", nn.Conv1d(in_channels, out_channels, 1, bias=False)),
        ("norm", nn.BatchNorm1d(out_channels)),
        (relu_type, make_activation(relu_type, out_channels)),
    )
    return nn.Sequential(OrderedDict(layers))


class DenseTrunk(nn.Module):
    """Transitions that reduce the width and dense blocks that grow it, in turn.

    The arguments are the `densetcn_*` fields of a configuration; `se` switches squeeze-and-excitation on.
    """

    def __init__(
        self,
        in_channels: int,
        block_config: Sequence[int],
        growth_rate_set: Sequence[int],
        reduced_size: int,
        kernel_size_set: Sequence[int],
        dilation_size_set: Sequence[int],
        dropout: float,
        se: bool,
        relu_type: str,
    ) -> None:
        super().__init__()
        parts, width = OrderedDict(), in_channels
        for block, (n_layers, growth) in enumerate(zip(block_config, growth_rate_set, strict=True)):
            # the first transition is a PReLU in every public network, also in those of swish
            parts[f"transition{block}"] = _transition(width, reduced_size, relu_type if block else "prelu")
            layers = OrderedDict()
            for index in range(n_layers):
                inputs = reduced_size + index * growth
                dilation = dilation_size_set[index % len(dilation_size_set)]
                layer = DenseLayer(inputs, growth, kernel_size_set, dilation, dropout, relu_type, se)
                layers[f"denselayer{index + 1}"] = layer
            parts[f"denseblock{block + 1}"] = DenseBlock(layers)
            width = reduced_size + n_layers * growth
        parts["norm5"] = nn.BatchNorm1d(width)
        self.features = nn.Sequential(parts)
        self.out_channels = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, frames) -> (batch, out_channels, frames)."""
        return self.features(x)
