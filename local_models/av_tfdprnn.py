"""The default model: an audio-visual dual-path RNN over time and frequency, and its audio-only baseline.

The spectrum is compressed to a grid of bands and frames by a strided convolution. One recurrent path runs along the
bands of a frame, one along the frames of a band, with the same weights for all bands: what is learned of harmonics at
one pitch holds at every other. Then frames may attend to each other. The first blocks run once, on the mixture; then
every face gets a stream that is scaled and shifted by its visual features, and the streams exchange information.
"""

from collections.abc import Callable
from functools import partial

import torch
from asteroid.masknn import norms
from asteroid.masknn.recurrent import DPRNNBlock
from torch import nn
from torch.nn.functional import avg_pool1d, conv2d, scaled_dot_product_attention

from local_models.bands import BandMerge, BandSplit
from local_models.configs import AVTFDPRNNConfig, TFDPRNNConfig
from local_models.separator import AVSeparator, for_each_stream, mean_of_others, own_and_others

SPECTRUM_FEATS = 3  # of a bin: real and imaginary part, magnitude
MASK_FEATS = 2  # of a bin: real and imaginary part


class FiLM(nn.Module):
    """Scale and shift a stream by its visual features, in every band; starts as identity.

    Args:
        chan (int): Channels of the stream.
        n_bands (int): Bands of the grid.
        visual_chan (int): Channels of the visual features.

    Shape:
        - grid: (streams, chan, n_bands, frames)
        - visual: (streams, visual_chan, frames)
        - output: as grid

    References
        Perez et al., "FiLM: Visual reasoning with a general conditioning layer", AAAI 2018, Eq. 2.
    """

    def __init__(self, chan: int, n_bands: int, visual_chan: int) -> None:
        super().__init__()
        self.chan, self.n_bands = chan, n_bands
        self.affine = _zero(nn.Conv1d(visual_chan, 2 * chan * n_bands, 1))

    def forward(self, grid: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        affine = self.affine(visual).unflatten(1, (2, self.chan, self.n_bands))
        scale, shift = affine.unbind(1)  # (streams, chan, n_bands, frames) each
        return grid + grid * scale + shift


class Exchange(nn.Module):
    """Add to every stream a projection of the mean of the mixture's other streams; starts as identity.

    Shape:
        - grid: (batch * n_streams, chan, n_bands, frames), the streams of a mixture side by side; output the same
    """

    def __init__(self, chan: int) -> None:
        super().__init__()
        self.project = _zero(nn.Conv2d(chan, chan, 1))

    def forward(self, grid: torch.Tensor, n_streams: int) -> torch.Tensor:
        others = mean_of_others(grid.unflatten(0, (-1, n_streams)))  # (batch, n_streams, chan, n_bands, frames)
        bias = self.project.bias * min(n_streams - 1, 1)  # no branch: an exported network holds for one stream and for more
        return grid + conv2d(others.flatten(0, 1), self.project.weight, bias)


class FrameAttention(nn.Module):
    """Add to every frame of a stream a projection of what it attends to in all frames; starts as identity.

    A frame attends with all its bands together to all frames of its stream, however far away; a recurrent path has to
    carry the past through every frame between.

    Args:
        chan (int): Channels of the grid.
        n_heads (int): Heads; a divisor of chan.
        key_chan (int): Channels that a band gives to a head's query and key.

    Shape:
        - grid: (streams, chan, n_bands, frames); output the same

    References
        Wang et al., "TF-GridNet: Integrating full- and sub-band modeling for speech separation", IEEE/ACM TASLP 2023,
        Sec. III-D (cross-frame self-attention).
    """

    def __init__(self, chan: int, n_heads: int, key_chan: int = 4) -> None:
        super().__init__()
        self.n_heads, self.sizes = n_heads, (n_heads * key_chan, n_heads * key_chan, chan)
        self.norm = nn.GroupNorm(1, chan)
        self.queries_keys_values = nn.Conv2d(chan, sum(self.sizes), 1)
        self.project = _zero(nn.Conv2d(chan, chan, 1))

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        n_bands = grid.shape[2]
        parts = self.queries_keys_values(self.norm(grid)).split(self.sizes, dim=1)  # (streams, sizes, n_bands, frames)
        queries, keys, values = (self._by_head(part) for part in parts)
        attended = scaled_dot_product_attention(queries, keys, values)  # (streams, heads, frames, values)
        attended = attended.transpose(2, 3).unflatten(2, (-1, n_bands)).flatten(1, 2)  # as grid
        return grid + self.project(attended)

    def _by_head(self, part: torch.Tensor) -> torch.Tensor:
        """(streams, heads * chan, n_bands, frames) -> (streams, heads, frames, chan * n_bands)."""
        return part.unflatten(1, (self.n_heads, -1)).flatten(2, 3).transpose(2, 3)


class GridMasker(nn.Module):
    """What maskers on a grid of bands and frames have in common: the grid, what steers streams, and the masks.

    Args:
        config: see `AVTFDPRNNConfig` or `CausalTFDPRNNConfig`.
        n_bins (int): Frequency bins of the spectrum.
        n_masks (int): Masks that each stream gives: 1 with faces (a stream for each), n_src without.
        visual_chan (int): Channels of a face's visual features; 0 makes the audio-only network.
        norm (callable): A norm for so many channels.
        block (callable): A dual-path block.
        causal (bool): As of `BandSplit`.
    """

    def __init__(
        self,
        config: TFDPRNNConfig,
        n_bins: int,
        n_masks: int,
        visual_chan: int,
        norm: Callable[[int], nn.Module],
        block: Callable[[], nn.Module],
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.n_masks = config, n_masks
        self.sees_others = config.exchange and config.n_faces != 1  # an extraction network takes each face for itself
        chan, stride = config.bn_chan, config.grid_stride
        self.split = BandSplit(config.bands, n_bins, SPECTRUM_FEATS, chan, stride, causal)
        self.split_norm = norm(chan)
        self.net = nn.ModuleList(block() for _ in range(config.n_repeats))
        n_stream_repeats = config.n_repeats - config.n_audio_repeats
        n_fusions = (n_stream_repeats if config.fuse_every_block else 1) if visual_chan else 0
        fused_chan = visual_chan * (2 if self.sees_others else 1)
        self.fusions = nn.ModuleList(FiLM(chan, self.split.n_bands, fused_chan) for _ in range(n_fusions))
        n_exchanges = n_stream_repeats - 1 if self.sees_others and visual_chan else 0
        self.exchanges = nn.ModuleList(Exchange(chan) for _ in range(n_exchanges))
        self.merge_act = nn.PReLU()
        self.merge = BandMerge(config.bands, n_bins, chan, n_masks * MASK_FEATS, stride, causal)

    def steer(self, grid: torch.Tensor, visual: torch.Tensor, stream_block: int, n_streams: int) -> torch.Tensor:
        """Exchange between the streams, then fuse the visual features, as a block of the streams has it.

        Args:
            grid: (streams, chan, n_bands, grid frames), and so is the output.
            visual: (streams, fused chan, grid frames).
            stream_block: which of the blocks after the first `n_audio_repeats`.
            n_streams: of each mixture.
        """
        if 0 < stream_block <= len(self.exchanges):
            grid = self.exchanges[stream_block - 1](grid, n_streams)
        return self.fusions[stream_block](grid, visual) if stream_block < len(self.fusions) else grid

    def masks_of(self, merged: torch.Tensor, n_streams: int) -> torch.Tensor:
        """What `merge` gives, as masks: (batch, n_faces or n_masks, 2 * n_bins, frames)."""
        masks = merged.unflatten(1, (self.n_masks, MASK_FEATS)).flatten(2, 3)  # (streams, n_masks, 2 * n_bins, frames)
        return masks.unflatten(0, (-1, n_streams)).flatten(1, 2)


class TFDPRNNMasker(GridMasker):
    """Complex masks from a grid of bands and frames, by dual-path blocks over frequency (intra) and time (inter).

    Args:
        config: see `AVTFDPRNNConfig`.
        n_bins (int): Frequency bins of the spectrum.
        n_masks (int): Masks that each stream gives: 1 with faces (a stream for each), n_src without.
        visual_chan (int): Channels of a face's visual features; 0 makes the audio-only network.

    Shape:
        - features: (batch, 3 * n_bins, frames)
        - visual: (batch, n_faces, visual_chan, frames), or None
        - output: (batch, n_faces or n_masks, 2 * n_bins, frames)

    References
        [1] Luo, Chen, Yoshioka, "Dual-path RNN", ICASSP 2020, Sec. 2.2 (the block).
        [2] Luo, Yu, "Music source separation with band-split RNN", IEEE/ACM TASLP 2023, Sec. II (bands and frames).
        [3] Pegg, Li, Hu, "RTFS-Net: Recurrent time-frequency modelling for efficient audio-visual speech separation",
        ICLR 2024, Sec. 3.2 (a compressed grid).
    """

    def __init__(self, config: AVTFDPRNNConfig, n_bins: int, n_masks: int, visual_chan: int) -> None:
        chan, norm = config.bn_chan, _norm(config.norm_type)
        block = partial(DPRNNBlock, chan, config.hid_size, norm, config.bidirectional, config.rnn_type)
        super().__init__(config, n_bins, n_masks, visual_chan, norm, block)
        n_attentions = config.n_repeats if config.attention_heads else 0
        self.attentions = nn.ModuleList(FrameAttention(chan, config.attention_heads) for _ in range(n_attentions))

    def forward(self, features: torch.Tensor, visual: torch.Tensor | None = None) -> torch.Tensor:
        n_frames, n_streams = features.shape[-1], 1  # a mixture has one stream until the faces come in
        spectrum = features.unflatten(1, (SPECTRUM_FEATS, -1))  # (batch, 3, n_bins, frames)
        grid = self.split_norm(self.split(spectrum))  # (batch, bn_chan, n_bands, grid frames)
        for index, block in enumerate(self.net):
            if visual is not None and index == self.config.n_audio_repeats:
                n_streams = visual.shape[1]
                visual = self._on_grid(visual, grid.shape[-1])  # (batch * n_faces, fused chan, grid frames)
                grid = for_each_stream(grid, n_streams)  # (batch * n_faces, bn_chan, n_bands, grid frames)
            if visual is not None and index >= self.config.n_audio_repeats:
                grid = self.steer(grid, visual, index - self.config.n_audio_repeats, n_streams)
            grid = block(grid)
            grid = self.attentions[index](grid) if self.attentions else grid
        return self.masks_of(self.merge(self.merge_act(grid))[..., :n_frames], n_streams)

    def _on_grid(self, visual: torch.Tensor, grid_frames: int) -> torch.Tensor:
        """Visual features of each stream on the frames of the grid, with those of the other faces if it gets them."""
        visual = (own_and_others(visual) if self.sees_others else visual).flatten(0, 1)
        if self.config.grid_stride > 1:
            visual = avg_pool1d(visual, self.config.grid_stride, ceil_mode=True)
        return visual[..., :grid_frames]


class AVTFDPRNN(AVSeparator):
    """STFT, masks of a `TFDPRNNMasker`, inverse STFT. Arguments and shapes: see `AVSeparator`.

    Examples
        >>> network = AVTFDPRNN(bn_chan=16, hid_size=16)
        >>> network(torch.rand(1, 16000), torch.rand(1, 2, 25, 512)).shape
        torch.Size([1, 2, 16000])
    """

    config_type = AVTFDPRNNConfig
    fb_name = "stft"

    def __init__(self, config: AVTFDPRNNConfig | None = None, **arguments: object) -> None:
        super().__init__(config, **arguments)
        self.masker = TFDPRNNMasker(self.config, self.n_feats // 2, self.n_masks, self.masker_visual_chan)


def _norm(norm_type: str) -> Callable[[int], nn.Module]:
    """Asteroid's norm of that name; global layer norm as torch's fused one, which saves a tenth of a training step."""
    return partial(nn.GroupNorm, 1, eps=norms.EPS) if norm_type == "gLN" else norms.get(norm_type)


def _zero(layer: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """The layer with all weights zero, so that it changes nothing at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
