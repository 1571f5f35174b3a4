"""Looking to Listen: dilated convolutions over the compressed spectrogram and over the faces, a BLSTM over both together.

The faces of a mixture are seen together, each in its place, so a network separates exactly as many as it was trained for.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import relu

from local_models.configs import LookingToListenConfig
from local_models.separator import AVSeparator

# Kernels and dilations of the layers, as the paper's Table 1 has them.
_AUDIO_LAYERS = (  # time x frequency
    ((1, 7), (1, 1)), ((7, 1), (1, 1)), ((5, 5), (1, 1)), ((5, 5), (2, 1)), ((5, 5), (4, 1)), ((5, 5), (8, 1)),
    ((5, 5), (16, 1)), ((5, 5), (32, 1)), ((5, 5), (1, 1)), ((5, 5), (2, 2)), ((5, 5), (4, 4)), ((5, 5), (8, 8)),
    ((5, 5), (16, 16)), ((5, 5), (32, 32)), ((1, 1), (1, 1)),
)  # fmt: skip
_VISUAL_LAYERS = ((7, 1), (5, 1), (5, 2), (5, 4), (5, 8), (5, 16))  # over time
_LAST_AUDIO_CHAN = 8
_MOST_MASK = 10.0  # of either part of a complex mask


class DilatedVisualNet(nn.Module):
    """Six dilated convolutions over the frames of each face, the same for all faces.

    A frame of zeros is one on which no face was seen; it gets a learned vector.

    Args:
        visual_dim (int): Numbers of a visual embedding.
        chan (int): Filters of each convolution.

    Shape:
        - input: (batch, n_faces, video_frames, visual_dim)
        - output: (batch, n_faces, chan, video_frames)

    References
        [1] Ephrat et al., "Looking to listen at the cocktail party", SIGGRAPH 2018, Table 1 and Sec. 4 (visual streams).
    """

    def __init__(self, visual_dim: int, chan: int) -> None:
        super().__init__()
        self.unseen = nn.Parameter(torch.zeros(visual_dim))
        self.norm = nn.LayerNorm(visual_dim)
        sizes = (visual_dim, *(chan for _ in _VISUAL_LAYERS))
        pairs = zip(pairwise(sizes), _VISUAL_LAYERS, strict=True)
        self.net = nn.Sequential(*(_layer(nn.Conv1d, nn.BatchNorm1d, *chans, *layer) for chans, layer in pairs))

    def forward(self, visual: torch.Tensor) -> torch.Tensor:
        seen = visual.ne(0).any(dim=-1, keepdim=True)  # (batch, n_faces, video_frames, 1)
        faces = torch.where(seen, self.norm(visual), self.unseen.to(visual.dtype))
        return self.net(faces.flatten(0, 1).transpose(1, 2)).unflatten(0, visual.shape[:2])


class LookingToListenMasker(nn.Module):
    """Complex masks of all speakers from the mixture and all faces.

    | part | layers |
    |---|---|
    | mixture | 15 convolutions, kernels and dilations as `_AUDIO_LAYERS`, `audio_chan` filters, the last one 8 |
    | each face | `DilatedVisualNet`, brought to the spectrum's frames |
    | together | BLSTM of `hid_size` in each direction, three layers of `fc_size`, one of 2 * n_bins for each speaker |

    Every convolution and layer but the last has batch normalisation and ReLU. A mask's real and imaginary part lie within
    -10 and 10, by a hyperbolic tangent of slope 1 at zero.

    Args:
        config: see `LookingToListenConfig`.
        n_bins (int): Frequency bins of the spectrum.

    Shape:
        - features: (batch, 3 * n_bins, frames): real and imaginary part, compressed, and magnitude, which is not used
        - visual: (batch, n_faces, visual_chan, frames), or None for the audio-only baseline
        - output: (batch, n_src, 2 * n_bins, frames)

    References
        [1] Ephrat et al., "Looking to listen at the cocktail party", SIGGRAPH 2018, Fig. 3, Table 1, Sec. 4.
        [2] Williamson, Wang, Wang, "Complex ratio masking for monaural speech separation", IEEE/ACM TASLP 2016, Eq. 15
        (a bounded mask).
    """

    def __init__(self, config: LookingToListenConfig, n_bins: int) -> None:
        super().__init__()
        self.n_src = config.n_src
        chans = (2, *(config.audio_chan for _ in _AUDIO_LAYERS[:-1]), _LAST_AUDIO_CHAN)
        pairs = zip(pairwise(chans), _AUDIO_LAYERS, strict=True)
        self.audio_net = nn.Sequential(*(_layer(nn.Conv2d, nn.BatchNorm2d, *ends, *layer) for ends, layer in pairs))
        seen_chan = config.n_faces * config.visual_chan
        self.rnn = nn.LSTM(_LAST_AUDIO_CHAN * n_bins + seen_chan, config.hid_size, batch_first=True, bidirectional=True)
        sizes = (2 * config.hid_size, *(config.fc_size for _ in range(3)))
        self.layers = nn.Sequential(*(_layer(nn.Conv1d, nn.BatchNorm1d, *ends, 1, 1) for ends in pairwise(sizes)))
        self.masks = nn.Conv1d(config.fc_size, config.n_src * 2 * n_bins, 1)
        nn.init.zeros_(self.masks.weight)  # estimates start as an equal share of the mixture
        self.masks.bias.data = torch.tensor([1 / config.n_src, 0.0]).repeat_interleave(n_bins).repeat(config.n_src)

    def forward(self, features: torch.Tensor, visual: torch.Tensor | None = None) -> torch.Tensor:
        spectrum = features.unflatten(1, (3, -1))[:, :2].transpose(2, 3)  # (batch, 2, frames, n_bins)
        heard = self.audio_net(spectrum).transpose(2, 3).flatten(1, 2)  # (batch, 8 * n_bins, frames)
        both = heard if visual is None else torch.cat([heard, visual.flatten(1, 2)], dim=1)
        joined = relu(self.rnn(both.transpose(1, 2))[0]).transpose(1, 2)  # (batch, 2 * hid_size, frames)
        masks = _MOST_MASK * torch.tanh(self.masks(self.layers(joined)) / _MOST_MASK)
        return masks.unflatten(1, (self.n_src, -1))  # (batch, n_src, 2 * n_bins, frames)


class LookingToListen(AVSeparator):
    """STFT, compressed by the power 0.3; a mask for each speaker. Arguments and shapes: see `AVSeparator`.

    The paper's window of 400 samples every 160 does not add up to a constant; here it has 480.
    """

    config_type = LookingToListenConfig
    fb_name = "stft"
    compression = 0.3
    has_fixed_faces = True

    def __init__(self, config: LookingToListenConfig | None = None, **arguments: object) -> None:
        super().__init__(config, **arguments)
        self.masker = LookingToListenMasker(self.config, self.n_feats // 2)

    def make_visual_net(self) -> nn.Module:
        return DilatedVisualNet(self.config.visual_dim, self.config.visual_chan)


def _layer(
    conv: type[nn.Conv1d | nn.Conv2d],
    norm: type[nn.BatchNorm1d | nn.BatchNorm2d],
    in_chan: int,
    out_chan: int,
    kernel: int | tuple[int, int],
    dilation: int | tuple[int, int],
) -> nn.Sequential:
    """A convolution that keeps the size, batch normalisation, ReLU."""
    layer = conv(in_chan, out_chan, kernel, dilation=dilation, padding="same", bias=False)
    return nn.Sequential(layer, norm(out_chan), nn.ReLU())
