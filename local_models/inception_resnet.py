"""InceptionResnetV1 as FaceNet's public PyTorch weights have it: a picture of a face to 512 numbers of length 1.

Faces of one person lie close together, those of two apart. Names and shapes of the weights are those of the checkpoints
`20180402-114759-vggface2.pt` and `20180408-102900-casia-webface.pt`.
"""

import torch
from torch import nn
from torch.nn.functional import normalize

_BN_EPS = 1e-3


class Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, in_chan: int, out_chan: int, kernel: int | tuple[int, int], stride: int = 1, pads: bool = False) -> None:
        super().__init__()
        padding = "same" if pads else 0
        self.conv = nn.Conv2d(in_chan, out_chan, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_chan, eps=_BN_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu()


class Branches(nn.Module):
    """Branches side by side, called `branch0` and so on; their channels follow each other."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.n_branches = len(branches)
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.get_submodule(f"branch{index}")(x) for index in range(self.n_branches)], dim=1)


class ResidualBranches(Branches):
    """Branches whose output is projected, scaled and added to the input; a ReLU unless `has_relu` is false."""

    def __init__(self, in_chan: int, branch_chan: int, scale: float, *branches: nn.Module, has_relu: bool = True) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(branch_chan, in_chan, 1)
        self.scale, self.has_relu = scale, has_relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x + self.scale * self.conv2d(super().forward(x))
        return out.relu() if self.has_relu else out


class InceptionResnetV1(nn.Module):
    """The network without its classifier.

    Shape:
        - input: (n, 3, 160, 160), RGB, (value - 127.5) / 128
        - output: (n, 512), of length 1

    References
        [1] Szegedy et al., "Inception-v4, Inception-ResNet and the impact of residual connections on learning", AAAI 2017,
        Fig. 10 to 15.
        [2] Schroff, Kalenichenko, Philbin, "FaceNet", CVPR 2015.
    """

    dim = 512

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a, self.conv2d_2a, self.conv2d_2b = Conv(3, 32, 3, 2), Conv(32, 32, 3), Conv(32, 64, 3, pads=True)
        self.pool = nn.MaxPool2d(3, 2)
        self.conv2d_3b, self.conv2d_4a, self.conv2d_4b = Conv(64, 80, 1), Conv(80, 192, 3), Conv(192, 256, 3, 2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        narrowed = nn.Sequential(Conv(256, 192, 1), Conv(192, 192, 3, pads=True), Conv(192, 256, 3, 2))
        self.mixed_6a = Branches(Conv(256, 384, 3, 2), narrowed, self.pool)
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = Branches(
            nn.Sequential(Conv(896, 256, 1), Conv(256, 384, 3, 2)),
            nn.Sequential(Conv(896, 256, 1), Conv(256, 256, 3, 2)),
            nn.Sequential(Conv(896, 256, 1), Conv(256, 256, 3, pads=True), Conv(256, 256, 3, 2)),
            self.pool,
        )
        self.repeat_3 = nn.Sequential(*(_block8(0.2) for _ in range(5)))
        self.block8 = _block8(1.0, has_relu=False)
        self.last_linear = nn.Linear(1792, self.dim, bias=False)
        self.last_bn = nn.BatchNorm1d(self.dim, eps=_BN_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x))))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(x)))  # (n, 256, 17, 17)
        x = self.repeat_2(self.mixed_6a(self.repeat_1(x)))  # (n, 896, 8, 8)
        x = self.block8(self.repeat_3(self.mixed_7a(x)))  # (n, 1792, 3, 3)
        return normalize(self.last_bn(self.last_linear(x.mean(dim=(2, 3)))), dim=1)


def _block35() -> ResidualBranches:
    return ResidualBranches(
        256, 96, 0.17,
        Conv(256, 32, 1),
        nn.Sequential(Conv(256, 32, 1), Conv(32, 32, 3, pads=True)),
        nn.Sequential(Conv(256, 32, 1), Conv(32, 32, 3, pads=True), Conv(32, 32, 3, pads=True)),
    )  # fmt: skip


def _block17() -> ResidualBranches:
    long = nn.Sequential(Conv(896, 128, 1), Conv(128, 128, (1, 7), pads=True), Conv(128, 128, (7, 1), pads=True))
    return ResidualBranches(896, 256, 0.1, Conv(896, 128, 1), long)


def _block8(scale: float, has_relu: bool = True) -> ResidualBranches:
    long = nn.Sequential(Conv(1792, 192, 1), Conv(192, 192, (1, 3), pads=True), Conv(192, 192, (3, 1), pads=True))
    return ResidualBranches(1792, 384, scale, Conv(1792, 192, 1), long, has_relu=has_relu)
