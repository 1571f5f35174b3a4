"""The lip-reading network: a 3-D convolution, a trunk over each frame, a temporal network, one word for a clip."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from local_models.lipreading.dense_tcn import DenseTrunk
from local_models.lipreading.layers import make_activation
from local_models.lipreading.resnet import ResNetTrunk
from local_models.lipreading.shufflenet import ShuffleNetTrunk
from local_models.lipreading.tcn import BlockStack, MultibranchBlock, PlainBlock, TemporalNetwork

HIDDEN_DIM = 256  # TCN channels of one kernel size at width 1
NUM_CLASSES = 500  # words of LRW, what the public networks tell apart
LAYERS = ("trunk", "tcn")

COMMON_FIELDS = {"backbone_type", "relu_type", "width_mult", "use_boundary"}
TCN_FIELDS = {"tcn_num_layers", "tcn_kernel_size", "tcn_dropout", "tcn_dwpw", "tcn_width_mult"}
DENSE_FIELDS = {
    "densetcn_block_config",
    "densetcn_growth_rate_set",
    "densetcn_reduced_size",
    "densetcn_kernel_size_set",
    "densetcn_dilation_size_set",
    "densetcn_se",
    "densetcn_dropout",
}


class Lipreading(nn.Module):
    """A lip-reading network for words of the mpc001 family; its state dict fits the public checkpoints key by key.

    Args:
        conf: The fields of a `conf/lipreading/*.json`: `backbone_type`, `relu_type`, `width_mult`, then either the
            `tcn_*` or the `densetcn_*` fields, and `use_boundary` (absent: false).
        num_classes: Number of words.

    Attributes:
        conf: `conf`, as given.
        use_boundary: The temporal network reads one more value a frame: 1 inside the word, 0 outside.
        layer_dims: {layer: values a frame} of what `features` gives.

    Raises:
        ValueError: a field is missing, unknown, or has a value that no network can be built from.
    """

    def __init__(self, conf: Mapping[str, Any], num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        _check_fields(conf)
        self.conf = dict(conf)
        self.use_boundary = bool(conf.get("use_boundary", False))
        relu_type = conf["relu_type"]
        if conf["backbone_type"] == "resnet":
            self.trunk = ResNetTrunk(relu_type)
        elif conf["backbone_type"] == "shufflenet":
            self.trunk = ShuffleNetTrunk(conf["width_mult"])
        else:
            raise ValueError(f"backbone_type '{conf['backbone_type']}' is neither resnet nor shufflenet")
        self.frontend3D = nn.Sequential(
            nn.Conv3d(1, self.trunk.in_channels, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False),
            nn.BatchNorm3d(self.trunk.in_channels),
            make_activation(relu_type, self.trunk.in_channels),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        self.tcn = _temporal_network(conf, self.trunk.out_channels + int(self.use_boundary), num_classes)
        self.layer_dims = {"trunk": self.trunk.out_channels, "tcn": self.tcn.out_channels}
        self._initialise()

    def forward(
        self, clips: torch.Tensor, lengths: torch.Tensor | None = None, boundaries: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Classify clips.

        Args:
            clips: Normalised grey frames, (batch, frames, 88, 88).
            lengths: Frames of each clip that are not padding, (batch,); all by default.
            boundaries: 1 where the word is spoken, else 0, (batch, frames); for networks with `use_boundary` only.

        Returns:
            Logits, (batch, num_classes), from the mean of the features over the valid frames.
        """
        features = self.features(clips, "tcn", boundaries)
        if lengths is None:
            return self.tcn.tcn_output(features.mean(dim=1))
        valid = torch.arange(features.shape[1], device=features.device) < lengths.to(features.device)[:, None]
        mean = (features * valid[..., None]).sum(dim=1) / valid.sum(dim=1, keepdim=True)
        return self.tcn.tcn_output(mean)

    def features(self, clips: torch.Tensor, layer: str = "trunk", boundaries: torch.Tensor | None = None):
        """Frame vectors: those of the trunk (before the temporal network) or of the temporal network.

        Args:
            clips: Normalised grey frames, (batch, frames, 88, 88).
            layer: `trunk` or `tcn`.
            boundaries: As in `forward`; not read for `trunk`.

        Returns:
            (batch, frames, layer_dims[layer]).

        Raises:
            ValueError: an unknown layer, or boundaries missing or given without use.
        """
        if layer not in LAYERS:
            raise ValueError(f"layer '{layer}' is none of {', '.join(LAYERS)}")
        margin = self._depth // 2
        vectors = self._trunk(functional.pad(clips, (0, 0, 0, 0, margin, margin)))
        if layer == "trunk":
            return vectors
        if self.use_boundary != (boundaries is not None):
            raise ValueError("word boundaries are needed by networks with use_boundary, and by no others")
        if boundaries is not None:
            vectors = torch.cat((vectors, boundaries[..., None].to(vectors)), dim=-1)
        return self.tcn(vectors.transpose(1, 2)).transpose(1, 2)

    def stream(self, clips: torch.Tensor, state: Sequence[torch.Tensor] = ()) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Vectors of the trunk for frames as they come: that of frame k comes with frame k + `lookahead_frames`.

        Args:
            clips: as of `forward`, the next frames.
            state: of the call before; none at the beginning.

        Returns:
            (batch, frames, layer_dims["trunk"]), the first `lookahead_frames` of which are no frame's, and the state for the
            next call.
        """
        batch, _, *size = clips.shape
        clips = torch.cat([*(state or [clips.new_zeros(batch, self._depth - 1, *size)]), clips], dim=1)
        return self._trunk(clips), [clips[:, clips.shape[1] - self._depth + 1 :]]

    @property
    def lookahead_frames(self) -> int:
        """Frames after its own that a vector of the trunk depends on."""
        return self._depth // 2

    @property
    def _depth(self) -> int:
        return self.frontend3D[0].kernel_size[0]

    def _trunk(self, clips: torch.Tensor) -> torch.Tensor:
        """(batch, frames and `_depth` - 1 more, H, W) -> vectors (batch, frames, channels)."""
        n_frames = clips.shape[1] - self._depth + 1
        return self.trunk(self._front(clips)).view(len(clips), n_frames, -1)

    def _front(self, clips: torch.Tensor) -> torch.Tensor:
        """(batch, frames and `_depth` - 1 more, H, W) -> (batch * frames, channels, H / 4, W / 4).

        The 3-D convolution has one input channel, so it equals a 2-D convolution over five neighbouring frames as
        channels; from there on each frame is a clip of its own. With the channels last in memory, convolution and
        pooling so take a third of the time that the plain form takes on a CPU.
        """
        conv, *rest = self.frontend3D
        windows = clips.unfold(1, self._depth, 1).flatten(0, 1).permute(0, 3, 1, 2)
        x = functional.conv2d(windows, conv.weight.squeeze(1), None, conv.stride[1:], conv.padding[1:]).unsqueeze(2)
        for module in rest:
            x = module(x)
        return x.squeeze(2)

    def _initialise(self) -> None:
        """Normal weights of variance 2 / fan (outgoing for convolutions, incoming for linear layers), no biases."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                fan_out = math.prod(module.kernel_size) * module.out_channels
                nn.init.normal_(module.weight, 0.0, math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, math.sqrt(2 / module.in_features))


def _check_fields(conf: Mapping[str, Any]) -> None:
    dense = any(field.startswith("densetcn_") for field in conf)
    wanted = COMMON_FIELDS | (DENSE_FIELDS if dense else TCN_FIELDS)
    missing = sorted(wanted - set(conf) - {"use_boundary"})
    unknown = sorted(set(conf) - wanted)
    if missing:
        raise ValueError(f"field {missing[0]} is missing")
    if unknown:
        raise ValueError(f"field {unknown[0]} is unknown, or does not go with {'densetcn_*' if dense else 'tcn_*'}")


def _temporal_network(conf: Mapping[str, Any], in_channels: int, num_classes: int) -> TemporalNetwork:
    relu_type = conf["relu_type"]
    if "densetcn_block_config" in conf:
        fields = {field.removeprefix("densetcn_"): conf[field] for field in DENSE_FIELDS}
        trunk = DenseTrunk(in_channels, relu_type=relu_type, **fields)
        return TemporalNetwork("tcn_trunk", trunk, trunk.out_channels, num_classes)
    if conf.get("use_boundary", False):
        raise ValueError("use_boundary goes with the densetcn_* fields only")
    kernels, dropout, dwpw = conf["tcn_kernel_size"], conf["tcn_dropout"], conf["tcn_dwpw"]
    if dwpw and len(kernels) == 1:
        raise ValueError("tcn_dwpw goes with several kernel sizes only")
    channels = int(HIDDEN_DIM * len(kernels) * conf["tcn_width_mult"])
    blocks, inputs = [], in_channels
    for layer in range(conf["tcn_num_layers"]):
        if len(kernels) > 1:
            blocks.append(MultibranchBlock(inputs, channels, kernels, 2**layer, dropout, relu_type, dwpw))
        else:
            blocks.append(PlainBlock(inputs, channels, kernels[0], 2**layer, dropout, relu_type))
        inputs = channels
    return TemporalNetwork("mb_ms_tcn" if len(kernels) > 1 else "tcn_trunk", BlockStack(blocks), channels, num_classes)
