"""Losses: how far voices are from their sources, in the order of the faces, and in the best order where no face gives one.

For a voice that is silent (a source of zeros) the energy of its estimate counts instead.
"""

from itertools import permutations

import torch
from asteroid.losses import multisrc_neg_sisdr, pairwise_neg_sisdr
from torch import nn

from utils.engine.config import LossConf

EPS = 1e-8
SILENCE_FLOOR = 1e-3  # of the mixture's energy: a silent voice 30 dB below it is silent enough
SNR_FLOOR = 1e-3  # of a source's energy: beyond 30 dB there is little to gain, and one easy voice must not rule a batch
ALONE_DB = 40.0  # SI-SNR of a mixture that is a single voice but for rounding
STFT_SIZES = (256, 512, 1024)  # samples; windows, each with a hop of a quarter
LEVEL_FLOOR = 1e-3  # of magnitudes in logarithms, re the mixture's level


def pairwise_neg_snr(estimates: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """Negative SNR with a ceiling (`SeparationLoss`, [2]), dB, estimate i against source k.

    Args:
        estimates, sources: (batch, n_src, time).

    Returns:
        (batch, n_src, n_src): row i, column k.
    """
    energy = sources.square().sum(dim=-1).unsqueeze(1)
    error = (estimates.unsqueeze(2) - sources.unsqueeze(1)).square().sum(dim=-1)
    return 10 * torch.log10((error + SNR_FLOOR * energy + EPS) / (energy + EPS))


PAIRWISE = {"si_snr": pairwise_neg_sisdr, "snr": pairwise_neg_snr}


class SeparationLoss(nn.Module):
    """Negative (SI-)SNR, with a multi-resolution STFT loss if wanted.

    Args:
        conf: `signal_loss` and `stft_weight`.

    References
        [1] Kolbæk et al., "Multitalker speech separation with utterance-level permutation invariant training", 2017.
        [2] Wisdom et al., "What's all the fuss about free universal sound separation data?", ICASSP 2021 (the ceiling
        of SNR, silent sources).
        [3] Yamamoto, Song, Kim, "Parallel WaveGAN", ICASSP 2020, Sec. 2.3 (several resolutions).
    """

    def __init__(self, conf: LossConf) -> None:
        super().__init__()
        self.conf, self.pairwise = conf, PAIRWISE[conf.signal_loss]
        for size in STFT_SIZES if conf.stft_weight else ():
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(
        self, estimates: torch.Tensor, sources: torch.Tensor, mixture: torch.Tensor, faceless: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a batch.

        Args:
            estimates, sources: (batch, n_src, time); a silent source is all zeros.
            mixture: (batch, time).
            faceless: (batch, n_src), true where no face told which voice was wanted: such voices may change places.

        Returns:
            The loss, a scalar in dB, and the estimates in the order of the sources.
        """
        silent = sources.square().sum(dim=-1) == 0
        losses = self._pairs(estimates, sources, mixture, silent)
        order = _best_order(losses.detach(), faceless)
        loss = losses.gather(1, order.unsqueeze(1)).mean()
        ordered = estimates.gather(1, order.unsqueeze(-1).expand_as(estimates))
        if self.conf.stft_weight:
            loss = loss + self.conf.stft_weight * self._stft_distance(ordered, sources, mixture)
        return loss, ordered

    def _pairs(
        self, estimates: torch.Tensor, sources: torch.Tensor, mixture: torch.Tensor, silent: torch.Tensor
    ) -> torch.Tensor:
        """Loss of estimate i for source k, dB: (batch, n_src, n_src)."""
        losses = self.pairwise(estimates, torch.where(silent.unsqueeze(-1), mixture.unsqueeze(1), sources))
        if not silent.any():
            return losses
        energies = estimates.square().sum(dim=-1) / (mixture.square().sum(dim=-1, keepdim=True) + EPS)
        quiet = 10 * torch.log10(energies + SILENCE_FLOOR)
        return torch.where(silent.unsqueeze(1), quiet.unsqueeze(2), losses)

    def _stft_distance(self, estimates: torch.Tensor, sources: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
        """Mean absolute difference of log magnitudes over resolutions, in dB; levels count."""
        level = mixture.square().mean(dim=-1).sqrt().repeat_interleave(sources.shape[1]).unsqueeze(-1) + EPS
        ours, theirs = (voices.flatten(0, 1) / level for voices in (estimates, sources))
        return torch.stack([self._log_distance(ours, theirs, size) for size in STFT_SIZES]).mean()

    def _log_distance(self, ours: torch.Tensor, theirs: torch.Tensor, size: int) -> torch.Tensor:
        window = getattr(self, f"window_{size}")
        logs = []
        for voices in (ours, theirs):
            spectrum = torch.view_as_real(torch.stft(voices, size, size // 4, window=window, return_complex=True))
            energy = spectrum.square().sum(dim=-1) / window.square().sum()
            logs.append(10 * torch.log10(energy + LEVEL_FLOOR**2))
        return (logs[0] - logs[1]).abs().mean()


def faceless(visual: torch.Tensor | None, sources: torch.Tensor) -> torch.Tensor:
    """Which voices no face was given for: (batch, n_src); all of them for an audio-only network.

    Args:
        visual: (batch, n_src, frames, dim), a missing face all zeros, or None.
        sources: (batch, n_src, time).
    """
    if visual is None:
        return torch.ones(sources.shape[:2], dtype=torch.bool, device=sources.device)
    return ~visual.ne(0).flatten(2).any(dim=-1)


def _best_order(losses: torch.Tensor, faceless: torch.Tensor) -> torch.Tensor:
    """For each source the estimate, (batch, n_src), with the least sum of losses (batch, n_est, n_src) [1]."""
    n_src = losses.shape[-1]
    own = torch.arange(n_src, device=losses.device)
    if not faceless.any():
        return own.expand(len(losses), -1)
    orders = torch.tensor(list(permutations(range(n_src))), device=losses.device)  # (orders, n_src)
    allowed = ((orders == own) | faceless.unsqueeze(1)).all(dim=-1)  # (batch, orders)
    sums = losses[:, orders, own].sum(dim=-1)
    return orders[sums.masked_fill(~allowed, torch.inf).argmin(dim=-1)]


def si_snri_db(estimates: torch.Tensor, sources: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """Mean SI-SNRi of the mixtures in which there is something to improve: not of a voice that is alone, or of silence.

    Args:
        estimates, sources: (batch, n_src, time).
        mixture: (batch, time).

    Returns:
        (mixtures that count,), dB.
    """
    before = si_snr_db(mixture.unsqueeze(1).expand_as(sources), sources)
    counts = (before < ALONE_DB) & sources.ne(0).flatten(1).any(dim=-1)
    return (si_snr_db(estimates, sources) - before)[counts]


def si_snr_db(estimates: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """Mean SI-SNR of each mixture's voices, dB, silent sources left out: (batch, n_src, time) twice -> (batch,)."""
    sounding = sources.square().sum(dim=-1) > 0
    values = -multisrc_neg_sisdr(estimates.flatten(0, 1).unsqueeze(1), sources.flatten(0, 1).unsqueeze(1))
    return (values.unflatten(0, sounding.shape) * sounding).sum(dim=1) / sounding.sum(dim=1).clamp(min=1)
