"""The audio-visual dual-path RNN in the time domain, and its audio-only baseline from the same code.

The masker is Asteroid's DPRNN (its modules and parameter names, so that weights can be copied both ways) with a visual
branch: every face has a stream of its own, a copy of the mixture's representation into which the face's visual features
are fused, and all streams run through the same weights.
"""

from typing import Any

import torch
from asteroid.masknn.recurrent import DPRNN
from torch import nn
from torch.nn.functional import fold, unfold

from local_models.configs import AVDPRNNConfig
from local_models.separator import AVSeparator, for_each_stream, own_and_others


class DPRNNMasker(DPRNN):
    """Asteroid's dual-path RNN mask estimator, conditioned on faces.

    Args:
        in_chan (int): Channels of the audio features.
        n_masks (int): Masks that each stream gives: 1 with faces (one stream for each), n_src without.
        visual_chan (int): Channels of a face's visual features; 0 makes the audio-only network, which is Asteroid's.
        fuse_every_block (bool): Fuse the visual features before each dual-path block, not only before the first one.
        see_others (bool): A face's stream gets the mean of the other faces' features too (zero where there are none).
        **kwargs: Those of `asteroid.masknn.recurrent.DPRNN`.

    Shape:
        - features: (batch, in_chan, frames)
        - visual: (batch, n_faces, visual_chan, frames), or None
        - output: (batch, n_faces or n_masks, out_chan, frames)

    Examples
        >>> net = DPRNNMasker(64, n_masks=1, visual_chan=32, bn_chan=16, hid_size=8, chunk_size=10, n_repeats=1)
        >>> net(torch.rand(1, 64, 200), torch.rand(1, 2, 32, 200)).shape
        torch.Size([1, 2, 64, 200])

    References
        [1] Luo, Chen, Yoshioka, "Dual-path RNN: efficient long sequence modeling for time-domain single-channel
        speech separation", ICASSP 2020, Sec. 2.
        [2] Pan et al., "USEV: Universal speaker extraction with visual cue", IEEE/ACM TASLP 2022.
    """

    def __init__(
        self,
        in_chan: int,
        n_masks: int,
        visual_chan: int = 0,
        fuse_every_block: bool = False,
        see_others: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_chan, n_masks, **kwargs)
        self.see_others = see_others
        n_fusions = (self.n_repeats if fuse_every_block else 1) if visual_chan else 0
        fused_chan = self.bn_chan + visual_chan * (2 if see_others else 1)
        self.fusions = nn.ModuleList(nn.Conv1d(fused_chan, self.bn_chan, 1) for _ in range(n_fusions))

    def forward(self, features: torch.Tensor, visual: torch.Tensor | None = None) -> torch.Tensor:
        return self._after_blocks(features, visual, {self.n_repeats - 1})[0]

    def after_each_block(self, features: torch.Tensor, visual: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The masks that the one output layer gives after each block; the last ones are those of `forward`."""
        return self._after_blocks(features, visual, set(range(self.n_repeats)))

    def _after_blocks(self, features: torch.Tensor, visual: torch.Tensor | None, wanted: set[int]) -> list[torch.Tensor]:
        """The masks after the blocks whose indices are wanted."""
        batch, _, n_frames = features.shape
        stream = self.bottleneck(features)  # (batch, bn_chan, frames)
        n_streams = 1
        if visual is not None:
            n_streams = visual.shape[1]
            visual = (own_and_others(visual) if self.see_others else visual).flatten(0, 1)  # (streams, chan, frames)
            stream = for_each_stream(stream, n_streams)  # (batch * n_faces, bn_chan, frames)
            stream = stream + self.fusions[0](torch.cat([stream, visual], dim=1))
        chunks, found = self._segment(stream), []  # (streams, bn_chan, chunk_size, n_chunks)
        for index, block in enumerate(self.net):
            if visual is not None and 0 < index < len(self.fusions):
                chunks = chunks + self._fuse_chunks(self.fusions[index], chunks, visual)
            chunks = block(chunks)
            if index in wanted:
                masks = self._masks(chunks, n_frames)  # (streams * n_masks, out_chan, frames)
                found.append(masks.reshape(batch, n_streams * self.n_src, self.out_chan, n_frames))
        return found

    def _segment(self, stream: torch.Tensor) -> torch.Tensor:
        """(batch, chan, frames) -> overlapping chunks (batch, chan, chunk_size, n_chunks); [1], Sec. 2.1."""
        chunk, hop = self.chunk_size, self.hop_size
        chunks = unfold(stream[..., None], (chunk, 1), padding=(chunk, 0), stride=(hop, 1))
        return chunks.reshape(stream.shape[0], stream.shape[1], chunk, -1)

    def _fuse_chunks(self, fusion: nn.Conv1d, chunks: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([chunks, self._segment(visual)], dim=1).flatten(2)
        return fusion(joined).unflatten(2, chunks.shape[2:])

    def _masks(self, chunks: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Chunks of all streams -> masks (streams * n_masks, out_chan, frames); [1], Sec. 2.3."""
        chunk, hop = self.chunk_size, self.hop_size
        chunks = self.first_out(chunks)
        chunks = chunks.reshape(-1, self.bn_chan * chunk, chunks.shape[-1])
        stream = fold(chunks, (n_frames, 1), (chunk, 1), padding=(chunk, 0), stride=(hop, 1)).squeeze(-1)
        return self.output_act(self.mask_net(self.net_out(stream) * self.net_gate(stream)))


class AVDPRNN(AVSeparator):
    """Learned filterbank, masks of a `DPRNNMasker`. Arguments and shapes: see `AVSeparator`."""

    config_type = AVDPRNNConfig
    fb_name = "free"

    def __init__(self, config: AVDPRNNConfig | None = None, **arguments: object) -> None:
        super().__init__(config, **arguments)
        self.masker = DPRNNMasker(**self.asteroid_masker_args())
