"""The flagship: an audio-visual dual-path RNN over time and frequency, and its audio-only twin from the same code.

Reads nothing and writes nothing. The spectrum is compressed to a grid of bands and frames by a strided convolution; one
recurrent path runs along the bands of a frame, one along the frames of a band, with the same weights for all bands: what
is learned of a voice's harmonics at one pitch holds at every other. Then frames may attend to each other. The first blocks
hear the mixture alone and run once; then every face gets a stream, steered by its cues before every block, and the streams
tell each other what they hold.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from asteroid.masknn import norms
from asteroid.masknn.recurrent import DPRNNBlock
from torch import nn
from torch.nn.functional import avg_pool1d

from local_models.attention import FrameAttention
from local_models.bands import BandMerge, BandSplit
from local_models.separator import SHARED_ARGUMENTS, AVSeparator, mean_of_others, own_and_others

FUSIONS = ("film", "concat")
MASKS = ("complex", "real", "mapping")


class FiLM(nn.Module):
    """A stream scaled and shifted by its cues, in every band; starts as identity.

    Args:
        chan (int): Channels of the stream.
        n_bands (int): Bands of the grid.
        cue_chan (int): Channels of the cues.

    Shape:
        - grid: (streams, chan, n_bands, frames)
        - cues: (streams, cue_chan, frames)
        - output: as grid

    References
        Perez et al., "FiLM: Visual reasoning with a general conditioning layer", AAAI 2018, Eq. 2.
    """

    def __init__(self, chan: int, n_bands: int, cue_chan: int) -> None:
        super().__init__()
        self.chan, self.n_bands = chan, n_bands
        self.affine = _zero(nn.Conv1d(cue_chan, 2 * chan * n_bands, 1))

    def forward(self, grid: torch.Tensor, cues: torch.Tensor) -> torch.Tensor:
        scale, shift = self.affine(cues).unflatten(1, (2, self.chan, self.n_bands)).unbind(1)
        return grid + grid * scale + shift


class Concat(nn.Module):
    """A stream plus a projection of itself beside its cues; starts as identity. Arguments and shapes as `FiLM`."""

    def __init__(self, chan: int, n_bands: int, cue_chan: int) -> None:
        super().__init__()
        self.join = _zero(nn.Conv2d(chan + cue_chan, chan, 1))

    def forward(self, grid: torch.Tensor, cues: torch.Tensor) -> torch.Tensor:
        cues = cues.unsqueeze(2).expand(-1, -1, grid.shape[2], -1)
        return grid + self.join(torch.cat([grid, cues], dim=1))


class Exchange(nn.Module):
    """Every stream adds a projection of the mean of the mixture's other streams; starts as identity.

    Shape:
        - grid: (batch * n_streams, chan, n_bands, frames), the streams of a mixture side by side; output the same
    """

    def __init__(self, chan: int) -> None:
        super().__init__()
        self.project = _zero(nn.Conv2d(chan, chan, 1))

    def forward(self, grid: torch.Tensor, n_streams: int) -> torch.Tensor:
        if n_streams == 1:
            return grid
        return grid + self.project(mean_of_others(grid.unflatten(0, (-1, n_streams))).flatten(0, 1))


class TFDPRNN(nn.Module):
    """Masks from a grid of bands and frames, by dual-path blocks whose intra path is frequency and inter path is time.

    Args:
        n_bins (int): Frequency bins of the spectrum.
        n_feats (int): Features of each bin (real and imaginary part, magnitude).
        n_out (int): Numbers for each bin and mask: 2 for complex masks, 1 for real ones.
        n_masks (int): Masks that each stream gives: 1 with faces (one stream for each), n_src without.
        visual_chan (int): Channels of a face's cues; 0 makes the audio-only network.
        bn_chan (int): Channels of the grid.
        hid_size (int): Hidden size of the recurrent layers, in each direction.
        n_repeats (int): Dual-path blocks.
        n_audio_repeats (int): How many of them, the first ones, run on the mixture before there is a stream for each face.
        bands (str): The bands, see `local_models.bands.parse_bands`.
        grid_stride (int): Spectral frames from one frame of the grid to the next.
        fusion (str): `film` or `concat`.
        fuse_every_block (bool): Fuse the cues before every block of a stream instead of before its first one only.
        exchange (bool): Streams of a mixture hear each other before every block of theirs but the first, and see each
            other's cues.
        share_repeats (bool): The blocks of the mixture have the same weights, and so have those of the streams.
        attention_heads (int): Heads of an attention over the frames after each block; 0: none.
        norm_type, rnn_type, bidirectional: Those of Asteroid's `DPRNNBlock`.

    Shape:
        - features: (batch, n_feats * n_bins, frames)
        - cues: (batch, n_cues, visual_chan, frames), or None
        - output: (batch, n_cues or n_masks, n_out * n_bins, frames)

    References
        [1] Luo, Chen, Yoshioka, "Dual-path RNN", ICASSP 2020, Sec. 2.2 (the block).
        [2] Luo, Yu, "Music source separation with band-split RNN", IEEE/ACM TASLP 2023, Sec. II (bands and frames).
        [3] Pegg, Li, Hu, "RTFS-Net: Recurrent time-frequency modelling for efficient audio-visual speech separation",
        ICLR 2024, Sec. 3.2 (a compressed grid).
    """

    def __init__(
        self,
        n_bins: int,
        n_feats: int,
        n_out: int,
        n_masks: int,
        visual_chan: int,
        bn_chan: int,
        hid_size: int,
        n_repeats: int,
        n_audio_repeats: int,
        bands: str,
        grid_stride: int,
        fusion: str,
        fuse_every_block: bool,
        exchange: bool,
        share_repeats: bool,
        attention_heads: int,
        norm_type: str,
        rnn_type: str,
        bidirectional: bool,
    ) -> None:
        super().__init__()
        self.n_feats, self.n_out, self.n_masks = n_feats, n_out, n_masks
        self.n_repeats, self.n_audio_repeats = n_repeats, n_audio_repeats
        self.grid_stride, self.share_repeats, self.sees_others = grid_stride, share_repeats, exchange
        self.split = BandSplit(bands, n_bins, n_feats, bn_chan, grid_stride)
        n_bands = self.split.n_bands
        norm = _norm(norm_type)
        self.split_norm = norm(bn_chan)
        n_distinct = len({self._own_weights(index) for index in range(n_repeats)})
        self.net = nn.ModuleList(DPRNNBlock(bn_chan, hid_size, norm, bidirectional, rnn_type) for _ in range(n_distinct))
        n_attentions = n_distinct if attention_heads else 0
        self.attentions = nn.ModuleList(FrameAttention(bn_chan, attention_heads) for _ in range(n_attentions))
        n_stream_repeats = n_repeats - n_audio_repeats
        n_fusions = (n_stream_repeats if fuse_every_block else 1) if visual_chan else 0
        cue_chan = visual_chan * (2 if exchange else 1)
        kind = {"film": FiLM, "concat": Concat}[fusion]
        self.fusions = nn.ModuleList(kind(bn_chan, n_bands, cue_chan) for _ in range(n_fusions))
        n_exchanges = n_stream_repeats - 1 if exchange and visual_chan else 0
        self.exchanges = nn.ModuleList(Exchange(bn_chan) for _ in range(n_exchanges))
        self.merge_act = nn.PReLU()
        self.merge = BandMerge(bands, n_bins, bn_chan, n_masks * n_out, grid_stride)

    def _own_weights(self, index: int) -> int:
        """Which weights block `index` has."""
        if not self.share_repeats:
            return index
        return int(index >= self.n_audio_repeats > 0)

    def forward(self, features: torch.Tensor, cues: torch.Tensor | None = None) -> torch.Tensor:
        n_frames = features.shape[-1]
        grid = self._split(features)
        n_streams = 1
        for index in range(self.n_repeats):
            if cues is not None and index == self.n_audio_repeats:
                n_streams = cues.shape[1]
                cues = self._on_grid(cues, grid.shape[-1])
                grid = grid.repeat_interleave(n_streams, dim=0)
            if cues is not None and index >= self.n_audio_repeats:
                grid = self._steer(grid, cues, index - self.n_audio_repeats, n_streams)
            grid = self.net[self._own_weights(index)](grid)
            grid = self.attentions[self._own_weights(index)](grid) if self.attentions else grid
        return self._merge(grid, n_frames).unflatten(0, (-1, n_streams)).flatten(1, 2)

    def _split(self, features: torch.Tensor) -> torch.Tensor:
        """Spectrum (batch, n_feats * n_bins, frames) -> grid (batch, bn_chan, n_bands, grid frames)."""
        return self.split_norm(self.split(features.unflatten(1, (self.n_feats, -1))))

    def _on_grid(self, cues: torch.Tensor, grid_frames: int) -> torch.Tensor:
        """Cues on the spectrum's frames -> (batch * n_cues, cue_chan, grid frames), with those of the others if wanted."""
        cues = (own_and_others(cues) if self.sees_others else cues).flatten(0, 1)
        if self.grid_stride > 1:
            cues = avg_pool1d(cues, self.grid_stride, ceil_mode=True)
        return cues[..., :grid_frames]

    def _steer(self, grid: torch.Tensor, cues: torch.Tensor, stream_block: int, n_streams: int) -> torch.Tensor:
        """What a stream hears from the others and sees of its face before a block."""
        if 0 < stream_block <= len(self.exchanges):
            grid = self.exchanges[stream_block - 1](grid, n_streams)
        return self.fusions[stream_block](grid, cues) if stream_block < len(self.fusions) else grid

    def _merge(self, grid: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Grids -> masks (streams, n_masks, n_out * n_bins, frames)."""
        masks = self.merge(self.merge_act(grid))[..., :n_frames]
        return masks.unflatten(1, (self.n_masks, self.n_out)).flatten(2, 3)


class AVTFDPRNN(AVSeparator):
    """Spectrum, masks from an audio-visual time-frequency DPRNN, voices.

    Args:
        mask (str): `complex` (a complex product), `real` (a gain for each bin), or `mapping` (the spectrum itself).
        bn_chan, hid_size, n_repeats, n_audio_repeats, bands, grid_stride, fusion, fuse_every_block, exchange,
            share_repeats, attention_heads, norm_type, rnn_type, bidirectional: See `TFDPRNN`.
        Others: See `AVSeparator`; the filterbank is an STFT.

    Raises:
        ValueError: values that no such network can have, or a call with the wrong cues.
    """

    def __init__(
        self,
        n_src: int = 2,
        n_cues: int = 2,
        sample_rate: int = 16000,
        fit_to_mixture: bool = False,
        n_filters: int = 512,
        kernel_size: int = 512,
        stride: int = 256,
        mask: str = "complex",
        bn_chan: int = 48,
        hid_size: int = 48,
        n_repeats: int = 4,
        n_audio_repeats: int = 2,
        bands: str = "8x4 4x8 2x32 2x64",
        grid_stride: int = 2,
        fusion: str = "film",
        fuse_every_block: bool = True,
        exchange: bool = True,
        share_repeats: bool = False,
        attention_heads: int = 0,
        norm_type: str = "gLN",
        rnn_type: str = "LSTM",
        bidirectional: bool = True,
        visual_dim: int = 512,
        visual_chan: int = 64,
        visual_hid: int = 128,
        visual_blocks: int = 3,
        visual_dropout: float = 0.0,
        video_fps: float = 25.0,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        for problem in _problems(config):
            raise ValueError(problem)
        shared = {name: config[name] for name in SHARED_ARGUMENTS if name in config}
        super().__init__(fb_name="stft", **shared)
        self._config, self.mask = config, mask
        self.masker = TFDPRNN(
            n_bins=self.n_feats // 2,
            n_feats=3,
            n_out=1 if mask == "real" else 2,
            n_masks=1 if n_cues else n_src,
            visual_chan=visual_chan if n_cues else 0,
            bn_chan=bn_chan,
            hid_size=hid_size,
            n_repeats=n_repeats,
            n_audio_repeats=n_audio_repeats,
            bands=bands,
            grid_stride=grid_stride,
            fusion=fusion,
            fuse_every_block=fuse_every_block,
            exchange=exchange and n_cues != 1,
            share_repeats=share_repeats,
            attention_heads=attention_heads,
            norm_type=norm_type,
            rnn_type=rnn_type,
            bidirectional=bidirectional,
        )

    def _masked(self, masks: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        if self.mask == "mapping":
            return masks
        if self.mask == "real":
            return masks.repeat(1, 1, 2, 1) * encoded
        return super()._masked(masks, encoded)


def _problems(config: dict) -> Iterator[str]:
    """What is wrong with the arguments, one line each."""
    if config["fusion"] not in FUSIONS:
        yield f"fusion is '{config['fusion']}'; one of: {', '.join(FUSIONS)}"
    if config["mask"] not in MASKS:
        yield f"mask is '{config['mask']}'; one of: {', '.join(MASKS)}"
    if config["n_audio_repeats"] >= config["n_repeats"]:
        yield f"n_audio_repeats ({config['n_audio_repeats']}) must be below n_repeats ({config['n_repeats']})"
    if config["attention_heads"] and config["bn_chan"] % config["attention_heads"]:
        yield f"attention_heads ({config['attention_heads']}) must divide bn_chan ({config['bn_chan']})"
    if config["grid_stride"] > 1 and config["grid_stride"] % 2:
        yield f"grid_stride is {config['grid_stride']}; 1 or an even number"


def _norm(norm_type: str) -> Callable[[int], nn.Module]:
    """Asteroid's norm of that name; global layer norm as torch's fused one, which saves a tenth of a training step."""
    return partial(nn.GroupNorm, 1, eps=norms.EPS) if norm_type == "gLN" else norms.get(norm_type)


def _zero(layer: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """The layer with all weights zero: what it steers starts as if it were not there."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
