"""The audio-visual dual-path RNN in the time domain, and its audio-only twin from the same code.

Reads nothing and writes nothing. The mask network is Asteroid's DPRNN (its modules and parameter names, so that weights
can be copied both ways) with a visual branch: every face has a stream of its own, a copy of the mixture's representation
into which the face's cues are fused, and all streams run through the same weights. So the order of the voices is the
order of the faces by construction, and any number of faces works with the same weights.
"""

import math
from typing import Any

import torch
from asteroid.masknn.recurrent import DPRNN
from asteroid_filterbanks import make_enc_dec
from torch import nn
from torch.nn.functional import fold, pad, unfold

from local_models.visual import VisualNet, resample_frames

EPS = 1e-8


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
        batch, _, n_frames = features.shape
        stream = self.bottleneck(features)
        n_streams = 1
        if cues is not None:
            n_streams = cues.shape[1]
            cues = (_own_and_others(cues) if self.see_others else cues).flatten(0, 1)
            stream = stream.repeat_interleave(n_streams, dim=0)
            stream = stream + self.fusions[0](torch.cat([stream, cues], dim=1))
        chunks = self._segment(stream)
        for index, block in enumerate(self.net):
            if cues is not None and 0 < index < len(self.fusions):
                chunks = chunks + self._fuse_chunks(self.fusions[index], chunks, cues)
            chunks = block(chunks)
        masks = self._masks(chunks, n_frames)
        return masks.reshape(batch, n_streams * self.n_src, self.out_chan, n_frames)

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


def _own_and_others(cues: torch.Tensor) -> torch.Tensor:
    """(batch, n_cues, chan, frames) -> own cue and mean of the other faces' cues (batch, n_cues, 2 * chan, frames)."""
    n_cues = cues.shape[1]
    others = (cues.sum(dim=1, keepdim=True) - cues) / max(n_cues - 1, 1)
    return torch.cat([cues, others], dim=2)


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


class AVDPRNNTasNet(nn.Module):
    """Encoder, audio-visual DPRNN masks, decoder.

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
        bn_chan, hid_size, chunk_size, hop_size, n_repeats, norm_type, rnn_type, bidirectional: Those of
            Asteroid's DPRNN; chunk and hop in encoder frames.
        fuse_every_block (bool): See `AVDPRNN`.
        visual_dim (int): Size of a mouth embedding.
        visual_chan, visual_hid, visual_blocks, visual_dropout: The visual branch, see `VisualNet`.
        video_fps (float): Video frames for each second.

    Shape:
        - mixture: (batch, time)
        - visual: (batch, n_cues, video_frames, visual_dim), or None for the audio-only twin
        - output: (batch, n_src, time), with faces as many voices as faces

    Raises:
        ValueError: values that no such network can have, or a call with the wrong cues.
    """

    def __init__(
        self,
        n_src: int = 2,
        n_cues: int = 2,
        sample_rate: int = 16000,
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
        super().__init__()
        self._config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if n_cues not in (0, n_src):
            raise ValueError(f"n_cues is {n_cues} with n_src {n_src}; it is n_src (a face for each voice) or 0 (no video)")
        if kernel_size % stride:
            raise ValueError(f"kernel_size ({kernel_size}) must be a multiple of stride ({stride})")
        if fb_name not in ("free", "stft"):
            raise ValueError(f"fb_name is '{fb_name}'; known filterbanks: free, stft")
        self.n_src, self.n_cues, self.visual_dim = n_src, n_cues, visual_dim if n_cues else 0
        self.sample_rate, self.video_fps = sample_rate, video_fps
        self.fb_name, self.kernel_size, self.stride = fb_name, kernel_size, stride
        self.encoder, self.decoder = make_enc_dec(fb_name, n_filters, kernel_size, stride, sample_rate=sample_rate)
        n_feats = self.encoder.n_feats_out
        self.visual_net = None
        if n_cues:
            self.visual_net = VisualNet(visual_dim, visual_chan, visual_hid, visual_blocks, visual_dropout)
        self.masker = AVDPRNN(
            in_chan=n_feats if fb_name == "free" else n_feats // 2 * 3,
            out_chan=n_feats,
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
            mask_act="relu" if fb_name == "free" else "linear",
            rnn_type=rnn_type,
            bidirectional=bidirectional,
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, plain types, to build the same network again."""
        return dict(self._config)

    def forward(self, mixture: torch.Tensor, visual: torch.Tensor | None = None) -> torch.Tensor:
        self._check(mixture, visual)
        level = mixture.square().mean(dim=-1, keepdim=True).sqrt() + EPS  # the network hears every mixture equally loud
        encoded = self._encode(mixture / level)
        cues = None if visual is None else self._cues(visual, encoded.shape[-1])
        masks = self.masker(self._features(encoded), cues)
        voices = self.decoder(self._masked(masks, encoded.unsqueeze(1)))
        start = self.kernel_size - self.stride
        return fit_to_mixture(voices[..., start : start + mixture.shape[-1]], mixture)

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
        cues = self.visual_net(visual.flatten(0, 1))
        samples = torch.arange(n_frames, device=visual.device) * self.stride + self.stride - self.kernel_size / 2
        positions = samples * (self.video_fps / self.sample_rate) - 0.5  # a video frame stands for its whole 1 / fps
        return resample_frames(cues, positions).unflatten(0, visual.shape[:2])
