"""What all separation networks share: a filterbank, faces brought onto its frames, masks, voices.

Reads nothing and writes nothing. A network is this class with a mask estimator in its middle (`AVDPRNNTasNet`,
`AVConvTasNet`, `AVTFDPRNN`). Every face has a stream of its own through the same weights: the order of the voices is the
order of the faces by construction, and any number of faces works.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from asteroid_filterbanks import make_enc_dec
from torch import nn
from torch.nn.functional import pad

from local_models.visual import VisualNet, resample_frames

EPS = 1e-8
FILTERBANKS = ("free", "stft")
SHARED_ARGUMENTS = (
    "n_src", "n_cues", "sample_rate", "fit_to_mixture", "fb_name", "n_filters", "kernel_size", "stride", "visual_dim",
    "visual_chan", "visual_hid", "visual_blocks", "visual_dropout", "video_fps",
)  # fmt: skip


class AVSeparator(nn.Module):
    """Encoder, masks from sound and faces, decoder. Subclasses set `masker`.

    The masker is called with features (batch, in_chan, frames) and cues (batch, n_cues, visual_chan, frames) or None, and
    gives masks (batch, n_src, n_feats_out, frames).

    Args:
        n_src (int): Voices to give. With faces this is the number of faces that training shows; any other number of
            faces works too.
        n_cues (int): Faces for each mixture: n_src for separation, 1 with n_src 1 for target-speaker extraction, 0 for
            the audio-only twin (train it with PIT). A network for extraction may be shown several faces at once: it
            treats each as if it were alone.
        sample_rate (int): Hz.
        fb_name (str): Asteroid's filterbank: `free` (learned, real masks after a ReLU) or `stft` (fixed, complex masks
            by a complex product).
        n_filters, kernel_size, stride (int): The filterbank's size, in filters and samples.
        fit_to_mixture (bool): Scale the voices so that together they come nearest to the mixture. For losses that are
            blind to scale; a network that is to give silence for a silent face needs a loss that hears level instead.
        visual_dim (int): Size of a mouth embedding.
        visual_chan, visual_hid, visual_blocks, visual_dropout: The visual branch, see `VisualNet`.
        video_fps (float): Video frames for each second.

    Shape:
        - mixture: (batch, time)
        - visual: (batch, n_cues, video_frames, visual_dim), or None for the audio-only twin; a video frame of zeros
          is one on which no mouth was seen
        - output: (batch, n_src, time), with faces as many voices as faces

    Raises:
        ValueError: values that no such network can have, or a call with the wrong cues.
    """

    masker: nn.Module

    def __init__(
        self,
        n_src: int,
        n_cues: int,
        sample_rate: int,
        fb_name: str,
        n_filters: int,
        kernel_size: int,
        stride: int,
        fit_to_mixture: bool,
        visual_dim: int,
        visual_chan: int,
        visual_hid: int,
        visual_blocks: int,
        visual_dropout: float,
        video_fps: float,
    ) -> None:
        super().__init__()
        if n_cues not in (0, n_src):
            raise ValueError(f"n_cues is {n_cues} with n_src {n_src}; it is n_src (a face for each voice) or 0 (no video)")
        if kernel_size % stride:
            raise ValueError(f"kernel_size ({kernel_size}) must be a multiple of stride ({stride})")
        if fb_name not in FILTERBANKS:
            raise ValueError(f"fb_name is '{fb_name}'; known filterbanks: {', '.join(FILTERBANKS)}")
        self.n_src, self.n_cues, self.visual_dim = n_src, n_cues, visual_dim if n_cues else 0
        self.sample_rate, self.video_fps = sample_rate, video_fps
        self.fb_name, self.kernel_size, self.stride = fb_name, kernel_size, stride
        self.fit_to_mixture = fit_to_mixture
        self.encoder, self.decoder = make_enc_dec(fb_name, n_filters, kernel_size, stride, sample_rate=sample_rate)
        self.n_feats = self.encoder.n_feats_out
        self.in_chan = self.n_feats if fb_name == "free" else self.n_feats // 2 * 3
        self.mask_act = "relu" if fb_name == "free" else "linear"
        self.visual_net = None
        if n_cues:
            self.visual_net = VisualNet(visual_dim, visual_chan, visual_hid, visual_blocks, visual_dropout)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, plain types, to build the same network again."""
        return dict(self._config)

    def forward(self, mixture: torch.Tensor, visual: torch.Tensor | None = None) -> torch.Tensor:
        return self._separate(mixture, visual, lambda features, cues: [self.masker(features, cues)])[0]

    def after_each_block(self, mixture: torch.Tensor, visual: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The voices as the masker has them after each of its blocks, for deep supervision; the last are `forward`'s.

        Only for maskers with a method of that name.
        """
        return self._separate(mixture, visual, self.masker.after_each_block)

    def _separate(
        self,
        mixture: torch.Tensor,
        visual: torch.Tensor | None,
        masks_of: Callable[[torch.Tensor, torch.Tensor | None], list[torch.Tensor]],
    ) -> list[torch.Tensor]:
        """Voices (batch, n_src, time) for each of the masks (batch, n_src, n_feats_out, frames)."""
        self._check(mixture, visual)
        level = mixture.square().mean(dim=-1, keepdim=True).sqrt() + EPS  # the network hears every mixture equally loud
        encoded = self._encode(mixture / level)
        cues = None if visual is None else self._cues(visual, encoded.shape[-1])
        return [self._decoded(masks, encoded, mixture, level) for masks in masks_of(self._features(encoded), cues)]

    def _decoded(self, masks: torch.Tensor, encoded: torch.Tensor, mixture: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        voices = self.decoder(self._masked(masks, encoded.unsqueeze(1)))
        start = self.kernel_size - self.stride
        voices = voices[..., start : start + mixture.shape[-1]]
        return fit_to_mixture(voices, mixture) if self.fit_to_mixture else voices * level.unsqueeze(1)

    def _check(self, mixture: torch.Tensor, visual: torch.Tensor | None) -> None:
        if mixture.ndim != 2:
            raise ValueError(f"mixture is {tuple(mixture.shape)} where (batch, time) is expected")
        if (visual is None) != (self.n_cues == 0):
            raise ValueError("this network is audio-only and takes no faces" if visual is not None else "no faces given")
        if visual is not None and (visual.ndim != 4 or visual.shape[-1] != self.visual_dim):
            shape = tuple(visual.shape)
            raise ValueError(f"visual is {shape} where (batch, n_cues, frames, {self.visual_dim}) is expected")

    def _encode(self, mixture: torch.Tensor) -> torch.Tensor:
        """(batch, time) -> (batch, n_feats, frames); padded so that every sample is seen by as many frames as any other."""
        margin = self.kernel_size - self.stride
        frames = math.ceil(mixture.shape[-1] / self.stride) * self.stride
        encoded = self.encoder(pad(mixture, (margin, frames - mixture.shape[-1] + margin)).unsqueeze(1))
        return torch.relu(encoded) if self.fb_name == "free" else encoded

    def _features(self, encoded: torch.Tensor) -> torch.Tensor:
        """What the masker hears: the learned encoding, or the spectrum's power-compressed parts and magnitude."""
        if self.fb_name == "free":
            return encoded
        real, imag = encoded.chunk(2, dim=1)
        magnitude = (real.square() + imag.square() + EPS).sqrt()
        compress = magnitude.sqrt()
        return torch.cat([real / compress, imag / compress, compress], dim=1)

    def _masked(self, masks: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """Masks (batch, n, n_feats, frames) on the encoding: a product, complex for a spectrum."""
        if self.fb_name == "free":
            return masks * encoded
        mask_real, mask_imag = masks.chunk(2, dim=2)
        real, imag = encoded.chunk(2, dim=2)
        return torch.cat([mask_real * real - mask_imag * imag, mask_real * imag + mask_imag * real], dim=2)

    def _cues(self, visual: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Embeddings at the video's rate -> (batch, n_cues, visual_chan, frames) at the encoder's frame centres."""
        cues = self.visual_net(visual)
        samples = torch.arange(n_frames, device=visual.device) * self.stride + self.stride - self.kernel_size / 2
        positions = samples * (self.video_fps / self.sample_rate) - 0.5  # a video frame stands for its whole 1 / fps
        return resample_frames(cues.flatten(0, 1), positions).unflatten(0, visual.shape[:2])


def own_and_others(cues: torch.Tensor) -> torch.Tensor:
    """(batch, n_cues, chan, frames) -> own cue and mean of the other faces' cues (batch, n_cues, 2 * chan, frames)."""
    return torch.cat([cues, mean_of_others(cues)], dim=2)


def mean_of_others(streams: torch.Tensor) -> torch.Tensor:
    """(batch, n, ...) -> for each of the n the mean of the others, zero where it is alone."""
    return (streams.sum(dim=1, keepdim=True) - streams) / max(streams.shape[1] - 1, 1)


def fit_to_mixture(voices: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """Scale the voices of a mixture so that together they come nearest to it, in least squares.

    A loss that is blind to scale (SI-SNR) leaves loudness and sign of a voice to chance. Gradients do not pass through the
    gains, which change nothing that such a loss sees.

    Args:
        voices: (batch, n_src, time).
        mixture: (batch, time).

    Returns:
        (batch, n_src, time).
    """
    with torch.no_grad():
        signals = voices.float()
        inverse_level = 1 / (signals.square().mean(dim=-1, keepdim=True).sqrt() + EPS)
        unit = signals * inverse_level
        # Products and means rather than matrix products, which autocast would make in half precision.
        gram = (unit.unsqueeze(1) * unit.unsqueeze(2)).mean(dim=-1)
        gram = gram + 1e-3 * torch.eye(gram.shape[1], device=gram.device)  # voices that are alike share the mixture
        shared = (unit * mixture.float().unsqueeze(1)).mean(dim=-1, keepdim=True)
        gains = torch.linalg.solve(gram, shared)
    return voices * (gains * inverse_level)
