"""The identity network of VisualVoice: a ResNet-18 that maps a picture of a face to 128 attributes."""

import torch
from torch import nn

from local_models.lipreading.resnet import BasicBlock

_STAGES = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))  # channels in, channels, stride


class IdentityResNet(nn.Module):
    """ResNet-18 with a maximum over the picture and a linear layer, named as in the public `facial_best.pth`.

    Shape:
        - input: (n, 3, 224, 224), RGB, normalised as for ImageNet
        - output: (n, 128)

    References
        [1] Gao, Grauman, "VisualVoice: Audio-visual speech separation with cross-modal consistency", CVPR 2021, Sec. 3.2
        (facial attributes).
    """

    dim = 128

    def __init__(self) -> None:
        super().__init__()
        stages = (
            nn.Sequential(BasicBlock(before, chan, stride, "relu"), BasicBlock(chan, chan, 1, "relu"))
            for before, chan, stride in _STAGES
        )
        self.feature_extraction = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *stages
        )
        self.fc = nn.Linear(512, self.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.feature_extraction(x).amax(dim=(2, 3)))
