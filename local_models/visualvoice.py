"""VisualVoice: a U-Net over the complex spectrogram with the lip motion and the facial attributes of each face.

Attributes of a face, such as those of a face recognition network, tell what a voice may sound like; lips tell what it says
when. In training voices are mapped to attributes as well, so that an estimate can be held against the faces, and against
another estimate of the same person (`utils.training.attributes`).
"""

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import avg_pool1d, normalize, pad, scaled_dot_product_attention

from local_models.configs import VisualVoiceConfig
from local_models.separator import EPS, AVSeparator, for_each_stream, own_and_others
from local_models.visual import VisualNet

_SLOPE = 0.2  # of LeakyReLU
_TIME_STRIDE = 4  # spectral frames for each frame of the bottleneck: 25 frames/s, as the video has
_GOLDEN_RATIO = 0.6180339887
_VOICE_CHANS = (2, 32, 64, 128, 256)


class UNetMasker(nn.Module):
    """Complex masks: convolutions down to one frequency, what is seen beside that, and the way up again.

    | layer | channels | kernel | frequencies | frames |
    |---|---|---|---|---|
    | down, two | chan, 2 chan | 4x4, stride 2 | 1/2, 1/4 | 1/2, 1/4 |
    | down, log2(n_bins - 1) - 2 | 4 chan, then 8 chan each | 3x3, then the maxima of two frequencies | halved each | 1/4 |
    | bottleneck | 8 chan + visual_chan | attention, where asked for | 1 | 1/4 |
    | up, as many | as down | 3x3, after repeating frequencies | doubled each | 1/4 |
    | up, two | chan, 2 * n_masks | 4x4 transposed, stride 2 | 1/2, 1 | 1/2, 1 |

    Each layer but the last has batch normalisation and LeakyReLU (down) or ReLU (up); on the way up it gets what the
    layer of that size gave on the way down. The last one has `mask_limit` * tanh. The uppermost frequency is masked as its
    neighbour.

    Args:
        config: see `VisualVoiceConfig`.
        n_bins (int): Frequency bins of the spectrum; one more than a power of two.
        n_masks (int): Masks that each stream gives: 1 with faces, n_src without.
        visual_chan (int): Channels of what is seen of a face; 0 makes the audio-only network.

    Shape:
        - features: (batch, 3 * n_bins, frames): real and imaginary part, and magnitude, which is not used
        - visual: (batch, n_faces, visual_chan, frames), or None
        - output: (batch, n_faces or n_masks, 2 * n_bins, frames)

    References
        [1] Gao, Grauman, "VisualVoice: Audio-visual speech separation with cross-modal consistency", CVPR 2021, Sec. 3.2.
    """

    def __init__(self, config: VisualVoiceConfig, n_bins: int, n_masks: int, visual_chan: int) -> None:
        super().__init__()
        self.n_masks, self.mask_limit = n_masks, config.mask_limit
        chan, n_pooled = config.unet_chan, (n_bins - 1).bit_length() - 3
        chans = [chan, 2 * chan, 4 * chan, *(8 * chan for _ in range(n_pooled - 1))]
        self.down = nn.ModuleList([_layer(nn.Conv2d, 2, chan), _layer(nn.Conv2d, chan, 2 * chan)])
        self.down.extend(_pooled(before, after) for before, after in pairwise(chans[1:]))
        self.attention = TimeAttention(chans[-1] + visual_chan) if config.attention == "self" else nn.Identity()
        ways = [chans[-1] + visual_chan, *(2 * each for each in reversed(chans[1:-1]))]  # channels that the layers up get
        self.up = nn.ModuleList(
            _repeated(before, after) for before, after in zip(ways[:-1], reversed(chans[1:-1]), strict=True)
        )
        self.up.append(_layer(nn.ConvTranspose2d, ways[-1], chan))
        self.masks = nn.ConvTranspose2d(2 * chan, 2 * n_masks, 4, 2, 1)
        # Estimates start as an equal share of the mixture. Torch's own first weights give masks that are noise up to the limit,
        # and a thousand mixtures to forget them.
        nn.init.zeros_(self.masks.weight)
        share = math.atanh(min(1 / (config.n_src * self.mask_limit), 0.5))
        self.masks.bias.data = torch.tensor([share, 0.0]).repeat(n_masks)

    def forward(self, features: torch.Tensor, visual: torch.Tensor | None = None) -> torch.Tensor:
        n_frames, n_streams = features.shape[-1], 1
        missing = -n_frames % _TIME_STRIDE
        x = pad(features.unflatten(1, (3, -1))[:, :2, :-1], (0, missing))  # (batch, 2, n_bins - 1, frames)
        passed = []
        for layer in self.down:
            x = layer(x)
            passed.append(x)
        x = passed.pop().squeeze(2)  # (batch, 8 chan, frames / 4)
        if visual is not None:
            n_streams = visual.shape[1]
            seen = avg_pool1d(pad(visual.flatten(0, 1), (0, missing), "replicate"), _TIME_STRIDE)
            x = torch.cat([for_each_stream(x, n_streams), seen], dim=1)
        x = self.attention(x).unsqueeze(2)  # (streams, 8 chan + visual_chan, 1, frames / 4)
        for layer in self.up:
            beside = for_each_stream(passed.pop(), n_streams)
            x = torch.cat([layer(x), beside], dim=1)
        masks = self.mask_limit * torch.tanh(self.masks(x))[..., :n_frames]  # (streams, n_masks * 2, n_bins - 1, frames)
        masks = torch.cat([masks, masks[:, :, -1:]], dim=2)
        masks = masks.unflatten(1, (self.n_masks, 2)).flatten(2, 3)  # (streams, n_masks, 2 * n_bins, frames)
        return masks.unflatten(0, (-1, n_streams)).flatten(1, 2)


class TimeAttention(nn.Module):
    """Add to every frame a projection of what it attends to in all frames; starts as identity.

    Where a frame is in time is added to it as sines for that, so that near frames can be told from far ones.

    Args:
        chan (int): Channels of the frames; even.
        other_chan (int): Channels of the frames that are attended to; 0: they are the frames themselves.

    Shape:
        - frames: (batch, chan, frames)
        - others: (batch, other_chan, frames), or None for the frames themselves
        - seen: bool (batch, frames), the others that are attended to; where there are none, nothing is added. None: all
        - output: as frames

    References
        [1] Vaswani et al., "Attention is all you need", NeurIPS 2017, Sec. 3.2.1 and 3.5.
    """

    _KEY_CHAN = 64

    def __init__(self, chan: int, other_chan: int = 0) -> None:
        super().__init__()
        self.queries = nn.Conv1d(chan, self._KEY_CHAN, 1)
        self.keys = nn.Conv1d(other_chan or chan, self._KEY_CHAN, 1)
        self.values = nn.Conv1d(other_chan or chan, chan, 1)
        self.project = nn.Conv1d(chan, chan, 1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(
        self, frames: torch.Tensor, others: torch.Tensor | None = None, seen: torch.Tensor | None = None
    ) -> torch.Tensor:
        others = frames if others is None else others
        places = _sines(frames.shape[-1], self._KEY_CHAN, frames)
        queries, keys, values = self.queries(frames) + places, self.keys(others) + places, self.values(others)
        given = [each.transpose(1, 2) for each in (queries, keys, values)]
        if seen is None:
            return frames + self.project(scaled_dot_product_attention(*given).transpose(1, 2))
        is_any = seen.any(dim=-1)[:, None, None]  # (batch, 1, 1)
        attended = scaled_dot_product_attention(*given, attn_mask=seen.unsqueeze(1) | ~is_any)
        return frames + self.project(attended.transpose(1, 2)) * is_any


class VoiceAttributes(nn.Module):
    """Attributes of a voice, whatever its level, to be held against those of a face; only training needs them.

    Strided convolutions over the compressed spectrum, and the mean over it. The published network is a ResNet-18; this one
    has a fiftieth of its weights.

    Args:
        attribute_chan (int): Attributes.

    Shape:
        - signals: (n, time)
        - output: (n, attribute_chan), of length 1
    """

    _N_FFT, _WINDOW, _HOP = 512, 400, 160  # samples

    def __init__(self, attribute_chan: int) -> None:
        super().__init__()
        self.register_buffer("taper", torch.hann_window(self._WINDOW), persistent=False)
        self.net = nn.Sequential(*(_layer(nn.Conv2d, before, after) for before, after in pairwise(_VOICE_CHANS)))
        self.project = nn.Linear(_VOICE_CHANS[-1], attribute_chan)

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        level = signals.square().mean(dim=-1, keepdim=True).sqrt() + EPS
        how = {"win_length": self._WINDOW, "window": self.taper, "pad_mode": "constant", "return_complex": True}
        spectra = torch.stft(signals.float() / level, self._N_FFT, self._HOP, **how)  # (n, bins, frames)
        spectra = spectra * (spectra.abs().square() + EPS) ** -0.25
        features = self.net(torch.stack([spectra.real, spectra.imag], dim=1))
        return normalize(self.project(features.mean(dim=(2, 3))), dim=-1)


class LipsAndFace(nn.Module):
    """What is seen of each face: how its lips move, and, the same in all frames, its attributes.

    Attributes are those of the mean over `num_identity_frames` frames on which the face is seen: random ones in training,
    otherwise frames spread over the clip, always the same.

    Args:
        config: see `VisualVoiceConfig`.

    Attributes:
        out_chan (int): Channels of the output.

    Shape:
        - input: (batch, n_faces, video_frames, visual_dim), the last `face_dim` numbers those of the face
        - output: (batch, n_faces, out_chan, video_frames)
    """

    def __init__(self, config: VisualVoiceConfig) -> None:
        super().__init__()
        self.config = config
        self.lips_dim = config.visual_dim - config.face_dim
        self.lips_net = self.face_net = self.attention = None
        self.out_chan = 0
        if self.lips_dim:
            sizes = (config.visual_chan, config.visual_hid, config.visual_blocks, config.visual_dropout)
            self.lips_net = VisualNet(self.lips_dim, *sizes)
            self.out_chan += config.visual_chan
        if config.face_dim:
            self.face_net = nn.Linear(config.face_dim, config.attribute_chan)
            self.unseen = nn.Parameter(torch.randn(VisualNet.N_POSITIONS, config.attribute_chan))
            self.out_chan += config.attribute_chan
        if config.attention == "lips_to_face":
            self.attention = TimeAttention(config.visual_chan, config.attribute_chan)
        self.sees_others = config.with_context and config.n_faces != 1  # extraction takes each face for itself
        self.out_chan *= 2 if self.sees_others else 1

    def forward(self, visual: torch.Tensor) -> torch.Tensor:
        n_frames, parts = visual.shape[2], []
        if self.lips_net is not None:
            parts.append(self.lips_net(visual[..., : self.lips_dim]))  # (batch, n_faces, visual_chan, video_frames)
        if self.attention is not None:
            faces = self.face_net(visual[..., self.lips_dim :]).transpose(2, 3)  # as they are frame by frame
            seen = visual[..., self.lips_dim :].ne(0).any(dim=-1)
            attended = self.attention(parts[0].flatten(0, 1), faces.flatten(0, 1), seen.flatten(0, 1))
            parts[0] = attended.unflatten(0, visual.shape[:2])
        if self.face_net is not None:
            parts.append(self.attributes(visual).unsqueeze(-1).expand(-1, -1, -1, n_frames))
        features = torch.cat(parts, dim=2)
        return own_and_others(features) if self.sees_others else features

    def seen_faces(self, visual: torch.Tensor) -> torch.Tensor:
        """Whether a face is seen at all: embeddings (batch, n_faces, video_frames, visual_dim) -> (batch, n_faces)."""
        return visual[..., self.lips_dim :].ne(0).flatten(2).any(dim=-1)

    def attributes(self, visual: torch.Tensor) -> torch.Tensor:
        """Attributes of faces: embeddings (batch, n_faces, video_frames, visual_dim) -> (batch, n_faces, attribute_chan)."""
        faces = visual[..., self.lips_dim :]
        seen = faces.ne(0).any(dim=-1)  # (batch, n_faces, video_frames)
        n_frames = faces.shape[2]
        if self.training:
            priority = torch.rand(seen.shape, device=faces.device)
        else:  # multiples of the golden ratio: however many are taken, they are spread
            priority = (torch.arange(n_frames, device=faces.device) * _GOLDEN_RATIO % 1).expand(seen.shape)
        count = min(self.config.num_identity_frames or n_frames, n_frames)
        chosen = torch.where(seen, priority, -1.0).topk(count, dim=-1).indices  # unseen frames come last
        weights = torch.zeros_like(faces[..., 0]).scatter_(-1, chosen, 1.0) * seen  # (batch, n_faces, video_frames)
        mean = (faces * weights.unsqueeze(-1)).sum(dim=2) / weights.sum(dim=-1, keepdim=True).clamp(min=1)
        positions = torch.arange(visual.shape[1], device=visual.device) % len(self.unseen)
        unseen = self.unseen[positions].to(mean.dtype)  # (n_faces, attribute_chan), so that no two of them are alike
        return torch.where(seen.any(dim=-1, keepdim=True), self.face_net(mean), unseen)


class VisualVoice(AVSeparator):
    """STFT, masks of a `UNetMasker`. Arguments and shapes: see `AVSeparator`.

    The published window of 400 samples every 160 does not add up to a constant; here it has 480.
    """

    config_type = VisualVoiceConfig
    fb_name = "stft"
    compression = 1.0

    def __init__(self, config: VisualVoiceConfig | None = None, **arguments: object) -> None:
        super().__init__(config, **arguments)
        config = self.config
        visual_chan = self.visual_net.out_chan if config.n_faces else 0
        self.masker = UNetMasker(config, self.n_feats // 2, self.n_masks, visual_chan)

    def make_visual_net(self) -> nn.Module:
        return LipsAndFace(self.config)


def _layer(kind: type[nn.Conv2d | nn.ConvTranspose2d], in_chan: int, out_chan: int) -> nn.Sequential:
    """A 4x4 convolution of stride 2, down (`Conv2d`) or up (`ConvTranspose2d`)."""
    act = nn.LeakyReLU(_SLOPE) if kind is nn.Conv2d else nn.ReLU()
    return nn.Sequential(kind(in_chan, out_chan, 4, 2, 1, bias=False), nn.BatchNorm2d(out_chan), act)


def _pooled(in_chan: int, out_chan: int) -> nn.Sequential:
    """A layer down that halves the frequencies."""
    conv = nn.Conv2d(in_chan, out_chan, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_chan), nn.LeakyReLU(_SLOPE), nn.MaxPool2d((2, 1)))


def _repeated(in_chan: int, out_chan: int) -> nn.Sequential:
    """A layer up that doubles the frequencies."""
    conv = nn.Conv2d(in_chan, out_chan, 3, padding=1, bias=False)
    return nn.Sequential(nn.Upsample(scale_factor=(2.0, 1.0)), conv, nn.BatchNorm2d(out_chan), nn.ReLU())


def _sines(n_frames: int, chan: int, like: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of the place of each frame, wavelengths from 2 pi to 20,000 pi frames: (chan, n_frames)."""
    places = torch.arange(n_frames, device=like.device, dtype=torch.float32)
    rates = 10000 ** (-torch.arange(0, chan, 2, device=like.device) / chan)
    angles = rates[:, None] * places
    return torch.cat([angles.sin(), angles.cos()]).to(like.dtype)
