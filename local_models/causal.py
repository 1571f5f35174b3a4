"""The default model's causal form: separation while the sound comes in, a video frame at a time.

`CausalTFDPRNN.step` separates a whole number of video frames and carries all that it keeps of the past in a `State`. The
network over a whole recording is the same step over all of its frames, so that a stream gives what one pass gives.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from asteroid.masknn.recurrent import DPRNNBlock
from torch import nn
from torch.nn.functional import layer_norm, pad

from local_models.av_tfdprnn import SPECTRUM_FEATS, GridMasker
from local_models.configs import CausalTFDPRNNConfig
from local_models.separator import EPS, AVSeparator, for_each_stream, own_and_others


class State(NamedTuple):
    """What a network keeps of the past. The streams of a mixture are those of its faces, or one without faces."""

    samples: torch.Tensor  # (batch, kernel_size - stride): the mixture's last
    level: torch.Tensor  # (batch, 2): sums over frames, that of the power and that of the weights
    spectrum: torch.Tensor  # (batch, n_feats, lookahead frames): what no mask is known for yet
    features: torch.Tensor  # (batch, 3, n_bins, grid_stride): of the last frame of the grid
    visual: torch.Tensor  # (batch, n_faces, n_past, visual_dim): the last embeddings
    hidden: torch.Tensor  # (n_audio_repeats, 2, batch, n_bands, hid_size): of the blocks on the mixture
    stream_hidden: torch.Tensor  # (further blocks, 2, streams, n_bands, hid_size)
    grid: torch.Tensor  # (streams, bn_chan, n_bands, 1): the last frame before the masks
    overlap: torch.Tensor  # (batch, n_src, kernel_size - stride): what later frames add to


class FrameNorm(nn.Module):
    """Normalise each frame over its bands and channels; (..., frames, n_bands, chan) in and out."""

    def __init__(self, chan: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(chan))
        self.bias = nn.Parameter(torch.zeros(chan))

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        return layer_norm(grid, grid.shape[-2:], eps=EPS) * self.weight + self.bias


class CausalBlock(DPRNNBlock):
    """Asteroid's dual-path block whose path along time goes forward only and hands on its state.

    Shape:
        - grid: (streams, frames, n_bands, chan); output the same
        - state: (2, streams, n_bands, hid_size), of the LSTM along time; output the same
    """

    def __init__(self, chan: int, hid_size: int) -> None:
        super().__init__(chan, hid_size, FrameNorm, bidirectional=False)

    def forward(self, grid: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n_streams, n_frames, n_bands, _ = grid.shape
        across = self.intra_linear(self.intra_RNN.rnn(grid.flatten(0, 1))[0])  # (streams * frames, n_bands, chan)
        grid = grid + self.intra_norm(across.unflatten(0, (n_streams, n_frames)))
        along = grid.transpose(1, 2).flatten(0, 1)  # (streams * n_bands, frames, chan)
        hidden, cell = state.flatten(1, 2).split(1)
        along, last = self.inter_RNN.rnn(along, (hidden.contiguous(), cell.contiguous()))
        along = self.inter_linear(along).unflatten(0, (n_streams, n_bands)).transpose(1, 2)
        return grid + self.inter_norm(along), torch.cat(last).unflatten(1, (n_streams, n_bands))


class CausalMasker(GridMasker):
    """Complex masks as of `TFDPRNNMasker`, frame by frame of the grid.

    Args:
        config: see `CausalTFDPRNNConfig`.
        n_bins (int): Frequency bins of the spectrum.
        n_masks (int): Masks that each stream gives: 1 with faces (a stream for each), n_src without.
        visual_chan (int): Channels of a face's visual features; 0 makes the audio-only network.
    """

    def __init__(self, config: CausalTFDPRNNConfig, n_bins: int, n_masks: int, visual_chan: int) -> None:
        block = partial(CausalBlock, config.bn_chan, config.hid_size)
        super().__init__(config, n_bins, n_masks, visual_chan, FrameNorm, block, causal=True)

    def forward(
        self, features: torch.Tensor, visual: torch.Tensor | None, state: State
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Masks of some frames of the grid.

        Args:
            features: (batch, 3, n_bins, (grid frames + 1) * grid_stride), those of the frame before first.
            visual: (batch, n_faces, visual_chan, grid frames), or None.
            state: what is kept of the frames before.

        Returns:
            (batch, n_faces or n_masks, 2 * n_bins, grid frames * grid_stride), and `hidden`, `stream_hidden` and `grid` of the
            next state.
        """
        n_streams, n_audio = 1, self.config.n_audio_repeats
        grid = self.split_norm(self.split(features).permute(0, 3, 2, 1))  # (batch, grid frames, n_bands, chan)
        hidden, stream_hidden = [], []
        for block, past in zip(self.net[:n_audio], state.hidden, strict=True):
            grid, last = block(grid, past)
            hidden.append(last)
        if visual is not None:
            n_streams = visual.shape[1]
            visual = (own_and_others(visual) if self.sees_others else visual).flatten(0, 1)
            grid = for_each_stream(grid, n_streams)  # (batch * n_faces, grid frames, n_bands, chan)
        for index, (block, past) in enumerate(zip(self.net[n_audio:], state.stream_hidden, strict=True)):
            if visual is not None:
                grid = self.steer(grid.permute(0, 3, 2, 1), visual, index, n_streams).permute(0, 3, 2, 1)
            grid, last = block(grid, past)
            stream_hidden.append(last)
        grid = self.merge_act(grid.permute(0, 3, 2, 1))  # (streams, chan, n_bands, grid frames)
        stride = self.config.grid_stride
        masks = self.merge(torch.cat([state.grid, grid], dim=-1))[..., stride:-stride]
        masks = self.masks_of(masks, n_streams)
        return masks, _stacked(hidden, state.hidden), torch.stack(stream_hidden), grid[..., -1:]


class CausalTFDPRNN(AVSeparator):
    """STFT, masks of a `CausalMasker`, inverse STFT. Arguments and shapes: see `AVSeparator`.

    Examples
        >>> network = CausalTFDPRNN(bn_chan=16, hid_size=16).eval()
        >>> state = network.initial_state(batch=1, n_faces=2)
        >>> estimates, state = network.step(torch.rand(1, 640), torch.rand(1, 2, 1, 512), state)
        >>> estimates.shape
        torch.Size([1, 2, 640])
    """

    config_type = CausalTFDPRNNConfig
    fb_name = "stft"
    is_causal = True

    def __init__(self, config: CausalTFDPRNNConfig | None = None, **arguments: object) -> None:
        super().__init__(config, **arguments)
        self.masker = CausalMasker(self.config, self.n_feats // 2, self.n_masks, self.masker_visual_chan)
        self.decay = math.exp(-1 / self.config.level_frames)

    def initial_state(self, batch: int = 1, n_faces: int | None = None) -> State:
        """The state before the first sample.

        Args:
            batch: mixtures.
            n_faces: of each mixture; None: as in training.
        """
        config, masker = self.config, self.masker
        n_faces = config.n_faces if n_faces is None else n_faces
        n_streams, n_src = batch * max(n_faces, 1), n_faces or config.n_src
        n_bands, n_bins, overlap = masker.split.n_bands, self.n_feats // 2, config.kernel_size - config.stride
        n_past = self.visual_net.n_past if self.visual_net else 0
        zeros = next(self.parameters()).new_zeros
        return State(
            samples=zeros(batch, overlap),
            level=zeros(batch, 2),
            spectrum=zeros(batch, self.n_feats, config.lookahead_frames * config.grid_stride),
            features=zeros(batch, SPECTRUM_FEATS, n_bins, config.grid_stride),
            visual=zeros(batch, n_faces, n_past, config.visual_dim),
            hidden=zeros(config.n_audio_repeats, 2, batch, n_bands, config.hid_size),
            stream_hidden=zeros(config.n_repeats - config.n_audio_repeats, 2, n_streams, n_bands, config.hid_size),
            grid=zeros(n_streams, config.bn_chan, n_bands, 1),
            overlap=zeros(batch, n_src, overlap),
        )

    def step(self, mixture: torch.Tensor, visual: torch.Tensor | None, state: State) -> tuple[torch.Tensor, State]:
        """Separate what comes next.

        Args:
            mixture: (batch, video_frames * config.step).
            visual: (batch, n_faces, video_frames, visual_dim): with frame k of the mixture goes frame k -
                config.visual_delay_frames of the video; zeros where no mouth is seen. None for the audio-only network.
            state: of the step before, or `initial_state`.

        Returns:
            (batch, n_src, video_frames * config.step), which is `config.delay` samples later than the mixture, and the state
            for the next step.
        """
        config = self.config
        samples = torch.cat([state.samples, mixture], dim=1)
        encoded = self.encoder(samples.unsqueeze(1))  # (batch, n_feats, video_frames * grid_stride)
        levels, level = self._levels(mixture, state.level)
        spectrum = torch.cat([state.spectrum, encoded], dim=-1)
        features = self._features(encoded / levels.repeat_interleave(config.grid_stride, dim=1).unsqueeze(1))
        features = torch.cat([state.features, features.unflatten(1, (SPECTRUM_FEATS, -1))], dim=-1)
        seen = state.visual
        if visual is not None:
            seen = torch.cat([state.visual, visual], dim=2)
            visual = self.visual_net(seen)  # (batch, n_faces, visual_chan, video_frames)
            seen = seen[:, :, seen.shape[2] - self.visual_net.n_past :]
        masks, hidden, stream_hidden, grid = self.masker(features, visual, state)
        n_frames, overlap = encoded.shape[-1], config.kernel_size - config.stride
        estimates = self.decoder(self._masked(masks, spectrum[..., :n_frames].unsqueeze(1)))
        estimates = estimates + pad(state.overlap, (0, mixture.shape[1]))
        ahead = spectrum[..., n_frames:]
        next_state = State(
            samples[:, samples.shape[1] - overlap :], level, ahead, features[..., -config.grid_stride :], seen,
            hidden, stream_hidden, grid, estimates[..., mixture.shape[1] :],
        )  # fmt: skip
        return estimates[..., : mixture.shape[1]], next_state

    def _levels(self, mixture: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The level at each video frame, averaged over those before it, (batch, video_frames), and the next state."""
        with torch.no_grad():
            powers = mixture.unflatten(1, (-1, self.config.step)).square().mean(dim=-1)
            sums = [state]
            for power in powers.unbind(1):
                sums.append(self.decay * sums[-1] + torch.stack([power, torch.ones_like(power)], dim=1))
            summed = torch.stack(sums[1:], dim=1)  # (batch, video_frames, 2)
            return (summed[..., 0] / summed[..., 1]).sqrt() + EPS, sums[-1]

    def _separate(
        self,
        mixture: torch.Tensor,
        visual: torch.Tensor | None,
        masks_of: Callable[[torch.Tensor, torch.Tensor | None], list[torch.Tensor]],
    ) -> list[torch.Tensor]:
        """Estimates (batch, n_src, time) of a whole recording: all its frames are one step."""
        self._check(mixture, visual)
        config = self.config
        length = mixture.shape[-1]
        n_frames = math.ceil((length + config.delay) / config.step)
        if visual is None and config.n_faces:
            visual = mixture.new_zeros(len(mixture), config.n_src, n_frames, config.visual_dim)
        if visual is not None:  # late, as in a stream; beyond its end nothing is seen
            missing = n_frames - visual.shape[2] - config.visual_delay_frames
            visual = pad(visual, (0, 0, config.visual_delay_frames, missing))
        state = self.initial_state(len(mixture), 0 if visual is None else visual.shape[1])
        estimates, _ = self.step(pad(mixture, (0, n_frames * config.step - length)), visual, state)
        return [estimates[..., config.delay : config.delay + length]]


def _stacked(states: list[torch.Tensor], empty: torch.Tensor) -> torch.Tensor:
    return torch.stack(states) if states else empty
