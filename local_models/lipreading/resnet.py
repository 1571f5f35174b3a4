"""ResNet-18 without its stem: the trunk that turns one frame's feature map into one vector."""

import torch
from torch import nn

from local_models.lipreading.layers import make_activation


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; the second activation comes after the addition."""

    def __init__(self, in_channels: int, channels: int, stride: int, relu_type: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = make_activation(relu_type, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = make_activation(relu_type, channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, in_channels, H, W) -> (frames, channels, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + shortcut)


class ResNetTrunk(nn.Module):
    """Four stages of two basic blocks, then the mean over the picture: 512 values a frame."""

    in_channels = 64
    out_channels = 512

    def __init__(self, relu_type: str) -> None:
        super().__init__()
        self.layer1 = self._stage(64, 64, 1, relu_type)
        self.layer2 = self._stage(64, 128, 2, relu_type)
        self.layer3 = self._stage(128, 256, 2, relu_type)
        self.layer4 = self._stage(256, 512, 2, relu_type)
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    @staticmethod
    def _stage(in_channels: int, channels: int, stride: int, relu_type: str) -> nn.Sequential:
        return nn.Sequential(BasicBlock(in_channels, channels, stride, relu_type), BasicBlock(channels, channels, 1, relu_type))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, 64, H, W) -> (frames, 512)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).flatten(1)
