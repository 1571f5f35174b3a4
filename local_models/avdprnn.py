"""The audio-visual dual-path RNN in the time domain, and its audio-only twin from the same code.

Reads nothing and writes nothing. The mask network is Asteroid's DPRNN (its modules and parameter names, so that weights
can be copied both ways) with a visual branch: every face has a stream of its own, a copy of the mixture's representation
into which the face's cues are fused, and all streams run through the same weights. So the order of the voices is the
order of the faces by construction, and any number of faces works with the same weights.
"""

from typing import Any

import torch
from asteroid.masknn.recurrent import DPRNN
from torch import nn
from torch.nn.functional import fold, unfold

from local_models.separator import SHARED_ARGUMENTS, AVSeparator, own_and_others


class AVDPRNN(DPRNN):
    """Asteroid's dual-path RNN mask estimator, conditioned on faces.

    Args:
        in_chan (int): Channels of the audio features.
        n_masks (int): Masks that each stream gives: 1 with faces (one stream for each), n_src without.
        visual_chan (int): Channels of a face's cues; 0 makes the audio-only network, which is Asteroid's DPRNN.
        fuse_every_block (bool): Fuse the cues before each dual-path block instead of before the first one only.
        see_others (bool): A face's stream sees the mean of the other faces' cues too (zero where it is alone).
        **kwargs: Those of `asteroid.masknn.recurrent.DPRNN`.

    Shape:
        - features: (batch, in_chan, frames)
        - cues: (batch, n_cues, visual_chan, frames), or None
        - output: (batch, n_cues or n_masks, out_chan, frames)

    Examples
        >>> net = AVDPRNN(64, n_masks=1, visual_chan=32, bn_chan=16, hid_size=8, chunk_size=10, n_repeats=1)
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

    def forward(self, features: torch.Tensor, cues: torch.Tensor | None = None) -> torch.Tensor:
        return self._after_blocks(features, cues, {self.n_repeats - 1})[0]

    def after_each_block(self, features: torch.Tensor, cues: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The masks that the one output layer gives after each block; the last ones are those of `forward`."""
        return self._after_blocks(features, cues, set(range(self.n_repeats)))

    def _after_blocks(self, features: torch.Tensor, cues: torch.Tensor | None, wanted: set[int]) -> list[torch.Tensor]:
        batch, _, n_frames = features.shape
        stream = self.bottleneck(features)
        n_streams = 1
        if cues is not None:
            n_streams = cues.shape[1]
            cues = (own_and_others(cues) if self.see_others else cues).flatten(0, 1)
            stream = stream.repeat_interleave(n_streams, dim=0)
            stream = stream + self.fusions[0](torch.cat([stream, cues], dim=1))
        chunks, found = self._segment(stream), []
        for index, block in enumerate(self.net):
            if cues is not None and 0 < index < len(self.fusions):
                chunks = chunks + self._fuse_chunks(self.fusions[index], chunks, cues)
            chunks = block(chunks)
            if index in wanted:
                masks = self._masks(chunks, n_frames)
                found.append(masks.reshape(batch, n_streams * self.n_src, self.out_chan, n_frames))
        return found

    def _segment(self, stream: torch.Tensor) -> torch.Tensor:
        """(batch, chan, frames) -> overlapping chunks (batch, chan, chunk_size, n_chunks); [1], Sec. 2.1."""
        chunks = unfold(stream[..., None], (self.chunk_size, 1), padding=(self.chunk_size, 0), stride=(self.hop_size, 1))
        return chunks.reshape(stream.shape[0], stream.shape[1], self.chunk_size, -1)

    def _fuse_chunks(self, fusion: nn.Conv1d, chunks: torch.Tensor, cues: torch.Tensor) -> torch.Tensor:
        cue_chunks = self._segment(cues)
        joined = torch.cat([chunks, cue_chunks], dim=1).flatten(2)
        return fusion(joined).unflatten(2, chunks.shape[2:])

    def _masks(self, chunks: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Chunks of all streams -> masks (streams * n_masks, out_chan, frames); [1], Sec. 2.3."""
        chunks = self.first_out(chunks)
        chunks = chunks.reshape(-1, self.bn_chan * self.chunk_size, chunks.shape[-1])
        stream = fold(
            chunks, (n_frames, 1), (self.chunk_size, 1), padding=(self.chunk_size, 0), stride=(self.hop_size, 1)
        ).squeeze(-1)
        return self.output_act(self.mask_net(self.net_out(stream) * self.net_gate(stream)))


class AVDPRNNTasNet(AVSeparator):
    """Encoder, audio-visual DPRNN masks, decoder.

    Args:
        bn_chan, hid_size, chunk_size, hop_size, n_repeats, norm_type, rnn_type, bidirectional: Those of
            Asteroid's DPRNN; chunk and hop in encoder frames.
        fuse_every_block (bool): See `AVDPRNN`.
        Others: See `AVSeparator`.

    Raises:
        ValueError: values that no such network can have, or a call with the wrong cues.
    """

    def __init__(
        self,
        n_src: int = 2,
        n_cues: int = 2,
        sample_rate: int = 16000,
        fit_to_mixture: bool = True,
        fb_name: str = "free",
        n_filters: int = 256,
        kernel_size: int = 40,
        stride: int = 20,
        bn_chan: int = 64,
        hid_size: int = 128,
        chunk_size: int = 100,
        hop_size: int | None = None,
        n_repeats: int = 6,
        norm_type: str = "gLN",
        rnn_type: str = "LSTM",
        bidirectional: bool = True,
        fuse_every_block: bool = False,
        visual_dim: int = 512,
        visual_chan: int = 256,
        visual_hid: int = 512,
        visual_blocks: int = 5,
        visual_dropout: float = 0.0,
        video_fps: float = 25.0,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(**{name: config[name] for name in SHARED_ARGUMENTS})
        self._config = config
        self.masker = AVDPRNN(
            in_chan=self.in_chan,
            out_chan=self.n_feats,
            n_masks=1 if n_cues else n_src,
            visual_chan=visual_chan if n_cues else 0,
            fuse_every_block=fuse_every_block,
            see_others=n_cues > 1,
            bn_chan=bn_chan,
            hid_size=hid_size,
            chunk_size=chunk_size,
            hop_size=hop_size,
            n_repeats=n_repeats,
            norm_type=norm_type,
            mask_act=self.mask_act,
            rnn_type=rnn_type,
            bidirectional=bidirectional,
        )
