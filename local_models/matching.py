"""Whose voice an estimate is: how well each estimate goes with the mouth movements of each face.

A mixture can be separated well by sound alone long before a network can tell from a second of video which estimate
belongs to which face. So the two are kept apart: estimates and faces are each mapped to a sequence of vectors, frame by
frame, whose products say how well they agree. Agreement is summed over as many frames as the same person and the same
voice go on, and the best assignment of the whole recording is taken.
"""

from itertools import permutations

import torch
import torchaudio
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, gelu, pad

from local_models.visual import resample_frames

_WINDOW_SEC, _HOP_SEC = 0.025, 0.010
_N_MELS = 32
_HIDDEN_SHARE = 0.2  # of the faces of a batch, whose lips' shape is hidden in training
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 7800.0
_FLOOR = 3e-4  # of the mixture's mean power: what lies 35 dB below says nothing, such as the rest of another voice


class FaceVoiceMatcher(nn.Module):
    """Compare faces with voices, frame by frame.

    Each branch is convolutions over time and a bidirectional GRU. A voice is seen through the log mel energies of its
    estimate and of the rest of the mixture, so that level and colour count for little, and what an estimate has of another
    voice can be told; a face through its visual embeddings and their deviation from their mean over the clip, so that what
    a face looks like counts for less than how it moves.

    Args:
        visual_dim (int): Numbers of a visual embedding that are of mouth crops, the first ones.
        chan (int): Numbers in which a frame of a face and one of a voice are compared.
        hid_chan (int): Channels inside.
        sample_rate (int): Hz.
        video_fps (float): Frames of the faces, and of the agreement, for each second.
        shape_dim (int): Numbers after those that are of the lips' shape; a network that was trained without them starts as it
            is. In training they are hidden now and then, as not every corpus has them.

    References
        van den Oord et al., "Representation learning with contrastive predictive coding", 2018, Eq. 4 (the loss).
        Chung, Zisserman, "Out of time: automated lip sync in the wild", ACCV workshops 2016 (comparing face and voice).
    """

    def __init__(
        self, visual_dim: int, chan: int, hid_chan: int, sample_rate: int, video_fps: float, shape_dim: int = 0
    ) -> None:
        super().__init__()
        self.visual_dim, self.shape_dim = visual_dim, shape_dim
        self.sample_rate, self.video_fps = sample_rate, video_fps
        self.window, self.hop = round(_WINDOW_SEC * sample_rate), round(_HOP_SEC * sample_rate)
        self.power = PowerSpectrum(self.window, self.hop)
        highest_hz = min(_HIGHEST_HZ, sample_rate / 2)
        mels = torchaudio.functional.melscale_fbanks(self.power.n_fft // 2 + 1, _LOWEST_HZ, highest_hz, _N_MELS, sample_rate)
        self.register_buffer("mels", mels, persistent=False)

        self.scale = nn.Parameter(torch.ones(()))
        self.own_stream = nn.Parameter(torch.zeros(()))

        if visual_dim:
            self.visual_norm = nn.LayerNorm(visual_dim)
            self.visual_in = nn.Sequential(nn.Conv1d(2 * visual_dim, hid_chan, 1), nn.Dropout1d(0.2))
        if shape_dim:
            self.shape_in = nn.Sequential(nn.Conv1d(2 * shape_dim, hid_chan, 1), nn.Dropout1d(0.2))
        if shape_dim and visual_dim:
            nn.init.zeros_(self.shape_in[0].weight)
            nn.init.zeros_(self.shape_in[0].bias)
        self.visual_convs = nn.ModuleList(nn.Conv1d(hid_chan, hid_chan, 5, padding=2) for _ in range(2))
        self.visual_gru = nn.GRU(hid_chan, hid_chan // 2, batch_first=True, bidirectional=True)
        self.visual_out = nn.Linear(hid_chan, chan)

        self.voice_in = nn.Sequential(nn.Conv1d(2 * _N_MELS, hid_chan, 5, padding=2), nn.GELU(), nn.Dropout1d(0.1))
        self.voice_convs = nn.ModuleList(nn.Conv1d(hid_chan, hid_chan, 5, padding=2, stride=2) for _ in range(2))
        self.voice_gru = nn.GRU(hid_chan, hid_chan // 2, batch_first=True, bidirectional=True)
        self.voice_out = nn.Linear(hid_chan, chan)
        self.alone_out = nn.Linear(hid_chan, 1)

    def faces(self, visual: torch.Tensor) -> torch.Tensor:
        """Vectors of faces: embeddings (n, frames, numbers) -> (n, frames, chan); zeros where no mouth is seen."""
        lips, shape = visual[..., : self.visual_dim], visual[..., self.visual_dim : self.visual_dim + self.shape_dim]
        if self.training and self.visual_dim and self.shape_dim:
            shape = shape * (torch.rand(len(shape), 1, 1, device=shape.device) >= _HIDDEN_SHARE)
        features, seen = 0, torch.cat([lips, shape], dim=-1).ne(0).any(dim=-1, keepdim=True)  # (n, frames, 1)
        if self.visual_dim:
            lips_seen = lips.ne(0).any(dim=-1, keepdim=True)
            features = features + self.visual_in(_with_deviation(self.visual_norm(lips) * lips_seen, lips_seen))
        if self.shape_dim:
            shape_seen = shape.ne(0).any(dim=-1, keepdim=True)
            features = features + self.shape_in(_with_deviation(shape, shape_seen))  # (n, hid_chan, frames)
        for conv in self.visual_convs:
            features = features + gelu(conv(features))
        vectors = self.visual_out(self.visual_gru(features.transpose(1, 2))[0])
        return _centred(vectors, seen)

    def voices(self, signals: torch.Tensor, mixture: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Vectors of voices: signals (n, time) of mixtures (n, time) -> (n, n_frames, chan), one for each video frame."""
        vectors = self.voice_out(self._heard(signals, mixture))  # (n, sound frames / 4, chan)
        # Frame k of these is centred on sample (4 k + 0.5) hop, video frame f on (f + 0.5) / fps.
        centres = (torch.arange(n_frames, device=signals.device) + 0.5) / self.video_fps
        positions = (centres * self.sample_rate / self.hop - 0.5) / 4
        vectors = resample_frames(vectors.transpose(1, 2), positions).transpose(1, 2)
        return _centred(vectors, torch.ones_like(vectors[..., :1], dtype=torch.bool))

    def alone(self, estimates: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
        """What speaks for a mixture being a single voice, whatever the estimates (batch, n_src, time): (batch,), nats."""
        mixtures = mixture.unsqueeze(1).expand_as(estimates).flatten(0, 1)
        heard = self._heard(estimates.flatten(0, 1), mixtures).mean(dim=1)  # (batch * n_src, hid_chan)
        return self.alone_out(heard).squeeze(-1).unflatten(0, estimates.shape[:2]).mean(dim=1)

    def forward(self, estimates: torch.Tensor, visual: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
        """Agreement of every estimate with every face of the same mixture, frame by frame.

        Args:
            estimates: (batch, n_src, time).
            visual: (batch, n_faces, frames, numbers); a frame of zeros is one without a mouth and says nothing.
            mixture: (batch, time).

        Returns:
            (batch, n_src, n_faces, frames); summed over frames, what speaks for the pair, in nats.
        """
        faces = self.faces(visual.flatten(0, 1)).unflatten(0, visual.shape[:2])
        mixtures = mixture.unsqueeze(1).expand_as(estimates).flatten(0, 1)
        voices = self.voices(estimates.flatten(0, 1), mixtures, visual.shape[2]).unflatten(0, estimates.shape[:2])
        return torch.einsum("bift,bkft->bikf", voices, faces) / voices.shape[-1] ** 0.5

    def evidence(self, estimates: torch.Tensor, visual: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
        """What speaks for each pair of an estimate and a face in each frame: (batch, n_src, n_faces, frames), nats.

        Agreement, and what the faces did to their own streams: a network that can use a face puts its voice there.
        """
        agreement = self(estimates, visual, mixture)
        own = torch.eye(*agreement.shape[1:3], device=agreement.device).unsqueeze(-1) / self.video_fps
        return self.scale * agreement + self.own_stream * own

    def order_loss(
        self,
        estimates: torch.Tensor,
        visual: torch.Tensor,
        mixture: torch.Tensor,
        order: torch.Tensor,
        is_active: torch.Tensor,
    ) -> torch.Tensor:
        """Cross entropy of the right order of the estimates among all orders.

        Args:
            estimates: (batch, n_src, time), as the network gives them.
            visual, mixture: as of `forward`.
            order: (batch, n_src), the estimate of each source.
            is_active: (batch, n_src); only mixtures all of whose speakers are heard and seen count.

        Returns:
            A scalar, nats; zero where no mixture counts.
        """
        counts = (is_active & visual.ne(0).flatten(2).any(dim=-1)).all(dim=1)  # (batch,)
        if not counts.any():
            return estimates.new_zeros(())
        evidence = self.evidence(estimates[counts], visual[counts], mixture[counts]).sum(dim=-1)
        faces = torch.arange(evidence.shape[-1], device=evidence.device)
        orders = torch.tensor(list(permutations(range(len(faces)))), device=evidence.device)  # (orders, n_src)
        right = (orders == order[counts].unsqueeze(1)).all(dim=-1).int().argmax(dim=-1)
        return cross_entropy(evidence[:, orders, faces].sum(dim=-1), right)

    def alone_loss(self, estimates: torch.Tensor, mixture: torch.Tensor, is_active: torch.Tensor) -> torch.Tensor:
        """Cross entropy of telling mixtures of which only one source is active: a scalar, nats; arguments as above."""
        is_single = (is_active.sum(dim=1) == 1).to(estimates.dtype)
        return binary_cross_entropy_with_logits(self.alone(estimates, mixture), is_single)

    def contrastive_loss(
        self, signals: torch.Tensor, visual: torch.Tensor, mixture: torch.Tensor, is_active: torch.Tensor
    ) -> torch.Tensor:
        """Cross entropy of finding, among all voices of the batch, that of a face, and the face of a voice.

        Args:
            signals: (batch, n, time), the voice of each face.
            visual: (batch, n, frames, numbers); faces that are not seen are left out.
            mixture: (batch, time).
            is_active: (batch, n), false where a speaker is silent: his estimate is nobody's voice, and his face is left out.

        Returns:
            A scalar, nats; zero where no face is left.
        """
        used = is_active & visual.ne(0).flatten(2).any(dim=-1)  # (batch, n)
        if not used.any():
            return signals.new_zeros(())
        mixtures = mixture.unsqueeze(1).expand_as(signals).flatten(0, 1)
        voices = self.voices(signals.flatten(0, 1), mixtures, visual.shape[2])  # (batch * n, frames, chan)
        faces = self.faces(visual[used])  # (used, frames, chan)
        agreement = torch.einsum("ift,kft->ik", faces, voices) / voices.shape[-1] ** 0.5
        own = used.flatten().nonzero().squeeze(1)  # the voice of each face
        of_voices = agreement[:, own].T  # (used, used)
        return (cross_entropy(agreement, own) + cross_entropy(of_voices, torch.arange(len(own), device=own.device))) / 2

    def _heard(self, signals: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
        """Features of what is heard in signals (n, time) of mixtures (n, time): (n, sound frames / 4, hid_chan)."""
        features = self.voice_in(self._log_mels(signals.float(), mixture.float()))  # (n, hid_chan, sound frames)
        for conv in self.voice_convs:
            features = gelu(conv(features))
        return self.voice_gru(features.transpose(1, 2))[0]

    def _log_mels(self, signals: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
        """Log mel energies of signals and of what else is in their mixtures, relative to the signals' mean over the clip.

        Returns:
            (n, 2 * _N_MELS, sound frames).
        """
        both = torch.stack([signals, mixture - signals], dim=1)  # (n, 2, time)
        both = both / (mixture.square().mean(dim=-1, keepdim=True).sqrt() + 1e-8).unsqueeze(1)
        margin = (self.window - self.hop) // 2
        energies = self.power(pad(both, (margin, self.window))) @ self.mels + _FLOOR * self.window / 2 * self.mels.sum(dim=0)
        logs = energies.log()
        logs = 0.5 * (logs - logs[:, :1].mean(dim=(2, 3), keepdim=True))
        return logs.transpose(2, 3).flatten(1, 2)


class PowerSpectrum(nn.Module):
    """Power of each bin in windows of a signal that are tapered by a cosine.

    Args:
        window (int): Samples of a window.
        hop (int): Samples from one to the next.

    Shape:
        - input: (..., time)
        - output: (..., frames, n_fft / 2 + 1)
    """

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        self.window, self.hop = window, hop
        self.n_fft = 1 << (window - 1).bit_length()
        self.register_buffer("taper", torch.hann_window(window), persistent=False)

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        frames = signals.unfold(-1, self.window, self.hop)  # (..., frames, window)
        return torch.fft.rfft(frames * self.taper, self.n_fft).abs().square()


def _with_deviation(embeddings: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Embeddings (n, frames, dim) and their deviation from the mean over the frames seen: (n, 2 * dim, frames)."""
    return torch.cat([embeddings, _centred(embeddings, seen)], dim=-1).transpose(1, 2)


def _centred(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Values (n, frames, chan) less their mean over the frames that count (n, frames, 1), and zero in the others."""
    mean = (values * counts).sum(dim=1, keepdim=True) / counts.sum(dim=1, keepdim=True).clamp(min=1)
    return (values - mean) * counts
