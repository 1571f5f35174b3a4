"""Base of the separation networks: filterbank, visual branch, masks, level.

A network is `AVSeparator` with a masker. Every face has a stream of its own through the same weights: the order of the
estimates is the order of the faces by construction, and any number of faces works.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from asteroid.models.base_models import BaseModel
from asteroid_filterbanks import make_enc_dec
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn.functional import pad

from local_models.configs import SeparatorConfig
from local_models.matching import FaceVoiceMatcher
from local_models.visual import VisualNet, resample_frames

EPS = 1e-8


class Streams(NamedTuple):
    """The estimates of a window before it is decided whose they are."""

    estimates: torch.Tensor  # (batch, n_streams, time)
    evidence: np.ndarray  # float64 (batch, n_streams, n_faces, frames), nats
    seen: np.ndarray  # bool (batch, n_faces): the faces that get a stream
    alone: float | None = None  # nats, for a face having the last stream, which is all that is heard, and no other any


class AVSeparator(BaseModel):
    """Encoder, masks from audio and visual embeddings, decoder; an Asteroid model (`serialize`, `from_pretrained`).

    Subclasses set `config_type`, `fb_name` and `masker`. The masker is called with features (batch, in_chan, frames)
    and visual features (batch, n_faces, visual_chan, frames) or None, and gives masks (batch, n_src, n_feats, frames).

    Args:
        config: the arguments as one object; None takes `config_type(**arguments)`.
        arguments: fields of `config_type`.

    Shape:
        - mixture: (batch, time)
        - visual: (batch, n_faces, video_frames, visual_dim); a video frame of zeros is one on which no mouth was seen.
          None for the audio-only baseline, and where no face of n_src is seen: then in an order left to chance
        - output: (batch, n_src, time), with visual embeddings as many estimates as faces

    Raises:
        ValueError: arguments that no such network can have, or a call with the wrong inputs.
    """

    config_type: type[SeparatorConfig]
    fb_name: str
    """Asteroid's filterbank: `free` (learned, real masks after a ReLU) or `stft` (fixed, complex masks)."""
    masker: nn.Module
    compression = 0.5
    """Power to which the magnitudes of a spectrum are raised before the masker gets it."""
    has_fixed_faces = False
    """The masker needs exactly `n_faces` faces."""
    is_causal = False
    """The visual branch sees no frame before its time."""

    def __init__(self, config: SeparatorConfig | None = None, **arguments: Any) -> None:
        config = config or self.config_type(**arguments)
        super().__init__(sample_rate=config.sample_rate, in_channels=None)
        self.config = config
        self.encoder, self.decoder = make_enc_dec(
            self.fb_name, config.n_filters, config.kernel_size, config.stride, sample_rate=config.sample_rate
        )
        self.n_feats = self.encoder.n_feats_out
        self.visual_net = self.matcher = None
        has_matcher = config.match_chan > 0 and config.n_faces > 1
        if config.n_faces:
            self.visual_net = self.make_visual_net()
        if has_matcher:
            clocks = (config.sample_rate, config.video_fps)
            lips_dim = config.visual_dim - config.shape_dim - config.face_dim
            sizes = (lips_dim, config.match_chan, config.match_hid)
            self.matcher = FaceVoiceMatcher(*sizes, *clocks, shape_dim=config.shape_dim)

    def make_visual_net(self) -> nn.Module:
        """The visual branch: embeddings (batch, n_faces, video_frames, visual_dim) -> (batch, n_faces, chan, video_frames)."""
        config = self.config
        sizes = (config.visual_chan, config.visual_hid, config.visual_blocks, config.visual_dropout)
        adds_to_position = config.match_chan > 0 and config.n_faces > 1
        return VisualNet(config.visual_dim, *sizes, adds_to_position=adds_to_position, causal=self.is_causal)

    @property
    def n_masks(self) -> int:
        """Masks that each stream of the masker gives."""
        return 1 if self.config.n_faces else self.config.n_src

    @property
    def masker_visual_chan(self) -> int:
        """Channels of the visual features that the masker gets; 0 for the audio-only baseline."""
        return self.config.visual_chan if self.config.n_faces else 0

    def asteroid_masker_args(self) -> dict[str, Any]:
        """Arguments of a masker that extends one of Asteroid's: common ones, and the fields that only `config_type` has."""
        common = {field.name for field in dataclasses.fields(SeparatorConfig)}
        own = {name: value for name, value in dataclasses.asdict(self.config).items() if name not in common}
        masks = {"n_masks": self.n_masks, "visual_chan": self.masker_visual_chan, "see_others": self.config.n_faces > 1}
        return {"in_chan": self.n_feats, "out_chan": self.n_feats, "mask_act": "relu"} | masks | own

    def get_model_args(self) -> dict[str, Any]:
        """The constructor's arguments, plain types; Asteroid's `serialize` keeps them with the weights."""
        return dataclasses.asdict(self.config)

    def separate(
        self, mixture: np.ndarray | torch.Tensor, visual: np.ndarray | torch.Tensor | None = None
    ) -> np.ndarray | torch.Tensor:
        """Estimate the sources of one mixture; Asteroid's method of this name takes no visual embeddings.

        Args:
            mixture: (time,), at `sample_rate`.
            visual: (n_faces, video_frames, visual_dim), at `config.video_fps`; None for the audio-only baseline, and
                where no face is seen.

        Returns:
            (n_src, time), of the kind of `mixture`, at its level.
        """
        as_batch = {"dtype": torch.float32, "device": next(self.parameters()).device}
        given = [None if each is None else torch.as_tensor(each, **as_batch)[None] for each in (mixture, visual)]
        was_training = self.training
        self.eval()  # Asteroid's `from_pretrained` leaves dropout switched on
        with torch.inference_mode():
            estimates = self.in_order_of_faces(self(*given), given[1], given[0])[0]
        self.train(was_training)
        return estimates.cpu().numpy() if isinstance(mixture, np.ndarray) else estimates.to(mixture.device)

    def forward(self, mixture: torch.Tensor, visual: torch.Tensor | None = None) -> torch.Tensor:
        return self._separate(mixture, visual, lambda features, visual: [self.masker(features, visual)])[0]

    def streams(self, mixture: torch.Tensor, visual: torch.Tensor) -> Streams:
        """Separate, and say how well each estimate goes with each face; for a network with `match_chan`.

        Args:
            mixture, visual: as of `forward`.
        """
        estimates = self(mixture, visual)
        seen = np.ones(visual.shape[:2], bool)
        return Streams(estimates, self.evidence(estimates, visual, mixture), seen)

    def evidence(self, estimates: torch.Tensor, visual: torch.Tensor, mixture: torch.Tensor) -> np.ndarray:
        """What speaks for each estimate being the voice of each face, nats: (batch, n_src, n_faces, frames)."""
        return self.matcher.evidence(estimates, visual, mixture).double().cpu().numpy()

    def alone(self, estimates: torch.Tensor, mixture: torch.Tensor) -> np.ndarray:
        """What speaks for a mixture being a single voice, whatever its estimates, nats: (batch,)."""
        return self.matcher.alone(estimates, mixture).double().cpu().numpy()

    def arrange(self, estimates: torch.Tensor, orders: Sequence[Sequence[int]], mixture: torch.Tensor) -> torch.Tensor:
        """Estimates (batch, n_src, time) in the orders given: of each mixture the estimate of each face."""
        index = torch.from_numpy(np.array(orders)).to(estimates.device)
        return estimates.gather(1, index.unsqueeze(-1).expand(-1, -1, estimates.shape[-1]))

    def in_order_of_faces(self, estimates: torch.Tensor, visual: torch.Tensor | None, mixture: torch.Tensor) -> torch.Tensor:
        """Estimates (batch, n_src, time) in the order of the faces (batch, n_faces, frames, visual_dim).

        A network that compares faces with voices decides by all frames given; another has them in order already.
        """
        if self.matcher is None or visual is None:
            return estimates
        evidence = self.evidence(estimates, visual, mixture).sum(axis=-1)
        return self.arrange(estimates, [linear_sum_assignment(each.T, maximize=True)[1] for each in evidence], mixture)

    def after_each_block(self, mixture: torch.Tensor, visual: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The estimates after each block of the masker, for deep supervision; the last are those of `forward`.

        Only for maskers with a method of that name.
        """
        return self._separate(mixture, visual, self.masker.after_each_block)

    def _separate(
        self,
        mixture: torch.Tensor,
        visual: torch.Tensor | None,
        masks_of: Callable[[torch.Tensor, torch.Tensor | None], list[torch.Tensor]],
    ) -> list[torch.Tensor]:
        """Estimates (batch, n_src, time) for each of the masks (batch, n_src, n_feats, frames)."""
        self._check(mixture, visual)
        if self.has_fixed_faces and self.config.n_faces == 1 and visual.shape[1] > 1:  # each as if it were the only one
            n_faces = visual.shape[1]
            alone = self._separate(for_each_stream(mixture, n_faces), visual.flatten(0, 1).unsqueeze(1), masks_of)
            return [each.squeeze(1).unflatten(0, (-1, n_faces)) for each in alone]
        if visual is None and self.config.n_faces:
            visual = self.unseen_faces(mixture)
        level = mixture.square().mean(dim=-1, keepdim=True).sqrt() + EPS  # (batch, 1); the masker gets all at one level
        encoded = self._encode(mixture / level)  # (batch, n_feats, frames)
        if visual is not None:
            visual = self._visual_features(visual, encoded.shape[-1])  # (batch, n_faces, visual_chan, frames)
        masks = masks_of(self._features(encoded), visual)
        return [self._decoded(each, encoded, mixture, level) for each in masks]

    def unseen_faces(self, mixture: torch.Tensor) -> torch.Tensor:
        """What stands for the visual embeddings of mixtures (batch, time) of which no face is seen."""
        n_frames = math.ceil(mixture.shape[-1] * self.config.video_fps / self.config.sample_rate)
        return mixture.new_zeros(len(mixture), self.config.n_src, n_frames, self.config.visual_dim)

    def _decoded(self, masks: torch.Tensor, encoded: torch.Tensor, mixture: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Estimates (batch, n_src, time) from masks (batch, n_src, n_feats, frames), at the mixture's level."""
        estimates = self.decoder(self._masked(masks, encoded.unsqueeze(1)))  # (batch, n_src, time and margins)
        start = self.config.kernel_size - self.config.stride
        estimates = estimates[..., start : start + mixture.shape[-1]]
        return fit_to_mixture(estimates, mixture) if self.config.fit_to_mixture else estimates * level.unsqueeze(1)

    def _check(self, mixture: torch.Tensor, visual: torch.Tensor | None) -> None:
        if mixture.ndim != 2:
            raise ValueError(f"mixture is {tuple(mixture.shape)} where (batch, time) is expected")
        if visual is None and self.config.n_faces == 1:
            raise ValueError("visual is None, but extraction needs the visual embeddings of its target")
        if visual is not None and self.config.n_faces == 0:
            raise ValueError(f"visual is {tuple(visual.shape)}, but this network is audio-only")
        dim = self.config.visual_dim
        if visual is not None and (visual.ndim != 4 or visual.shape[-1] != dim):
            raise ValueError(f"visual is {tuple(visual.shape)} where (batch, n_faces, video_frames, {dim}) is expected")
        if visual is not None and self.has_fixed_faces and self.config.n_faces not in (1, visual.shape[1]):
            raise ValueError(f"{visual.shape[1]} faces for a network that sees exactly {self.config.n_faces} together")

    def _encode(self, mixture: torch.Tensor) -> torch.Tensor:
        """(batch, time) -> (batch, n_feats, frames); padded so that every sample is in as many frames as any other."""
        stride = self.config.stride
        margin = self.config.kernel_size - stride
        length = mixture.shape[-1]
        missing = (length + stride - 1) // stride * stride - length  # samples to a whole number of frames
        encoded = self.encoder(pad(mixture, (margin, missing + margin)).unsqueeze(1))
        return torch.relu(encoded) if self.fb_name == "free" else encoded

    def _features(self, encoded: torch.Tensor) -> torch.Tensor:
        """Input of the masker: the learned encoding, or the spectrum's power-compressed parts and magnitude."""
        if self.fb_name == "free":
            return encoded
        real, imag = encoded.chunk(2, dim=1)
        magnitude = (real.square() + imag.square() + EPS).sqrt()
        compress = magnitude ** (1 - self.compression)
        return torch.cat([real / compress, imag / compress, magnitude**self.compression], dim=1)

    def _masked(self, masks: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """Masks (batch, n, n_feats, frames) on the encoding: a product, complex for a spectrum."""
        if self.fb_name == "free":
            return masks * encoded
        mask_real, mask_imag = masks.chunk(2, dim=2)
        real, imag = encoded.chunk(2, dim=2)
        return torch.cat([mask_real * real - mask_imag * imag, mask_real * imag + mask_imag * real], dim=2)

    def _visual_features(self, visual: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Embeddings at the video's rate -> (batch, n_faces, visual_chan, frames) at the encoder's frame centres."""
        config = self.config
        features = self.visual_net(visual)  # (batch, n_faces, visual_chan, video_frames)
        samples = torch.arange(n_frames, device=visual.device) * config.stride + config.stride - config.kernel_size / 2
        # A video frame lasts 1 / fps, and its position is its middle.
        positions = samples * (config.video_fps / config.sample_rate) - 0.5
        return resample_frames(features.flatten(0, 1), positions).unflatten(0, visual.shape[:2])


def for_each_stream(features: torch.Tensor, n_streams: int) -> torch.Tensor:
    """Copies of each mixture's features side by side: (batch, ...) -> (batch * n_streams, ...).

    As `repeat_interleave`, which makes a length that an exported network could not know beforehand.
    """
    return features.unsqueeze(1).expand(-1, n_streams, *features.shape[1:]).flatten(0, 1)


def own_and_others(visual: torch.Tensor) -> torch.Tensor:
    """Features (batch, n_faces, chan, frames), and the mean of the other faces': (batch, n_faces, 2 * chan, frames)."""
    return torch.cat([visual, mean_of_others(visual)], dim=2)


def mean_of_others(streams: torch.Tensor) -> torch.Tensor:
    """Mean of the other streams of a mixture, zero where there are none: (batch, n_streams, ...) twice."""
    return (streams.sum(dim=1, keepdim=True) - streams) / max(streams.shape[1] - 1, 1)


def fit_to_mixture(estimates: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """Scale the estimates of a mixture so that together they come nearest to it, in least squares.

    A loss that is blind to scale (SI-SNR) leaves level and sign of an estimate to chance. Gradients do not pass through
    the gains, on which such a loss does not depend.

    Args:
        estimates: (batch, n_src, time).
        mixture: (batch, time).

    Returns:
        (batch, n_src, time).
    """
    with torch.no_grad():
        signals = estimates.float()
        inverse_level = 1 / (signals.square().mean(dim=-1, keepdim=True).sqrt() + EPS)
        unit = signals * inverse_level
        # Products and means rather than matrix products, which autocast would make in half precision.
        gram = (unit.unsqueeze(1) * unit.unsqueeze(2)).mean(dim=-1)
        gram = gram + 1e-3 * torch.eye(gram.shape[1], device=gram.device)  # estimates that are alike share the mixture
        shared = (unit * mixture.float().unsqueeze(1)).mean(dim=-1, keepdim=True)
        gains = torch.linalg.solve(gram, shared)
    return estimates * (gains * inverse_level)
