"""Losses between estimates and sources: in the order of the faces, and in the best order where no face gives one (PIT).

For a source that is silent (all zeros) a loss in dB is the energy of its estimate instead.
"""

from collections.abc import Callable
from functools import partial
from itertools import permutations

import torch
from asteroid.losses import multisrc_neg_sisdr, pairwise_neg_sisdr
from torch import nn

from utils.training.config import LossConfig

EPS = 1e-8
SILENCE_FLOOR = 1e-3  # of the mixture's energy: 30 dB below it is silent enough
SNR_FLOOR = 1e-3  # of a source's energy: beyond 30 dB there is little to gain, and an easy source must not rule a batch
_N_FFT, _WINDOW, _HOP = 512, 400, 160  # samples, of the losses of spectra and masks
_COMPRESSION = 0.3
_MOST_MASK = 5.0
SINGLE_SOURCE_DB = 40.0  # SI-SNR of a mixture that is a single source but for rounding


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


def pairwise_spectra(
    estimates: torch.Tensor, sources: torch.Tensor, mixture: torch.Tensor, discriminative_weight: float
) -> torch.Tensor:
    """Mean square error of complex spectra whose magnitudes are raised to 0.3, estimate i against source k.

    From the error, `discriminative_weight` times the mean of those against the other sources is taken away, so that an
    estimate is to be unlike them ([4], Eq. 8). The mixture has the mean power 1.

    Args:
        estimates, sources: (batch, n_src, time).
        mixture: (batch, time).

    Returns:
        (batch, n_src, n_src): row i, column k.
    """
    level = mixture.square().mean(dim=-1).sqrt()[:, None, None] + EPS
    ours, theirs = (_compressed(_spectra(each / level)) for each in (estimates, sources))
    errors = (ours.unsqueeze(2) - theirs.unsqueeze(1)).abs().square().mean(dim=(-2, -1))  # (batch, i, k)
    n_others = max(errors.shape[-1] - 1, 1)
    return errors - discriminative_weight * (errors.sum(dim=-1, keepdim=True) - errors) / n_others


def pairwise_masks(estimates: torch.Tensor, sources: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """Weighted mean square error of complex ratio masks within -5 and 5, estimate i against source k.

    The mask of a signal is its spectrum over that of the mixture, whose mean power is 1; the weight of a bin is
    log(1 + |mixture|), from 0.001 to 10 ([5], Sec. 3.4 and its program).

    Args:
        estimates, sources: (batch, n_src, time).
        mixture: (batch, time).

    Returns:
        (batch, n_src, n_src): row i, column k.
    """
    level = mixture.square().mean(dim=-1)[:, None, None].sqrt() + EPS
    mixed = _spectra(mixture.unsqueeze(1) / level)  # (batch, 1, bins, frames)
    power = mixed.abs().square() + EPS
    weights = torch.log1p(power.sqrt()).clamp(1e-3, 10)
    ours, theirs = (
        torch.view_as_real(_spectra(each / level) * mixed.conj() / power).clamp(-_MOST_MASK, _MOST_MASK)
        for each in (estimates, sources)
    )  # (batch, n_src, bins, frames, 2)
    errors = (ours.unsqueeze(2) - theirs.unsqueeze(1)).square().mean(dim=-1)
    return (weights.unsqueeze(1) * errors).mean(dim=(-2, -1))


def _spectra(signals: torch.Tensor) -> torch.Tensor:
    """Complex spectra, 25 ms every 10 ms at 16 kHz: (batch, n, time) -> (batch, n, bins, frames)."""
    taper = torch.hann_window(_WINDOW, device=signals.device, dtype=signals.dtype)
    how = {"win_length": _WINDOW, "window": taper, "return_complex": True, "pad_mode": "constant"}
    return torch.stft(signals.flatten(0, 1), _N_FFT, _HOP, **how).unflatten(0, signals.shape[:2])


def _compressed(spectra: torch.Tensor) -> torch.Tensor:
    """Complex spectra with their magnitudes raised to 0.3."""
    return spectra * (spectra.abs().square() + EPS) ** ((_COMPRESSION - 1) / 2)


class SeparationLoss(nn.Module):
    """The loss of estimates: negative SNR or SI-SNR in dB, or an error of spectra or masks without a unit.

    Args:
        signal_loss, discriminative_weight: see `utils.training.config.LossConfig`.

    References
        [1] Kolbæk et al., "Multitalker speech separation with utterance-level permutation invariant training", 2017.
        [2] Wisdom et al., "What's all the fuss about free universal sound separation data?", ICASSP 2021 (the ceiling
        of SNR, silent sources).
        [3] Ephrat et al., "Looking to listen at the cocktail party", SIGGRAPH 2018, Sec. 4 (compressed spectra).
        [4] Huang et al., "Joint optimization of masks and deep recurrent neural networks for monaural source separation",
        IEEE/ACM TASLP 2015 (the discriminative term).
        [5] Gao, Grauman, "VisualVoice: Audio-visual speech separation with cross-modal consistency", CVPR 2021.
    """

    def __init__(self, signal_loss: str, discriminative_weight: float = LossConfig.discriminative_weight) -> None:
        super().__init__()
        self.is_in_db = signal_loss in ("snr", "si_snr")
        self.pairwise: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = {
            "snr": lambda estimates, sources, _: pairwise_neg_snr(estimates, sources),
            "si_snr": lambda estimates, sources, _: pairwise_neg_sisdr(estimates, sources),
            "spectra": partial(pairwise_spectra, discriminative_weight=discriminative_weight),
            "masks": pairwise_masks,
        }[signal_loss]

    def forward(
        self,
        estimates: torch.Tensor,
        sources: torch.Tensor,
        mixture: torch.Tensor,
        without_visual: torch.Tensor,
        order_weight: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a batch.

        Args:
            estimates, sources: (batch, n_src, time); a silent source is all zeros.
            mixture: (batch, time).
            without_visual: (batch, n_src), true where no face told which source was wanted: those may change places.
            order_weight: share of the loss in the order of the faces; the rest is in the best order.

        Returns:
            The loss, a scalar, and the estimates in the order of the sources: that of the faces, the best order
            where no face gave one or where it has a part in the loss.
        """
        silent = sources.square().sum(dim=-1) == 0
        losses = self._pairs(estimates, sources, mixture, silent)
        order = _best_order(losses.detach(), without_visual)
        loss = losses.gather(1, order.unsqueeze(1)).mean()
        if order_weight < 1:
            order = _best_order(losses.detach(), torch.ones_like(without_visual))
            best_loss = losses.gather(1, order.unsqueeze(1)).mean()
            loss = order_weight * loss + (1 - order_weight) * best_loss
        return loss, estimates.gather(1, order.unsqueeze(-1).expand_as(estimates))

    def best_orders(self, estimates: torch.Tensor, sources: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
        """The estimate of each source in the best order, (batch, n_src); arguments as of `forward`."""
        silent = sources.square().sum(dim=-1) == 0
        return _best_order(self._pairs(estimates, sources, mixture, silent), torch.ones_like(silent))

    def _pairs(
        self, estimates: torch.Tensor, sources: torch.Tensor, mixture: torch.Tensor, silent: torch.Tensor
    ) -> torch.Tensor:
        """Loss of estimate i for source k: (batch, n_src, n_src)."""
        if not self.is_in_db:
            return self.pairwise(estimates, sources, mixture)
        losses = self.pairwise(estimates, torch.where(silent.unsqueeze(-1), mixture.unsqueeze(1), sources), mixture)
        if not silent.any():
            return losses
        energies = estimates.square().sum(dim=-1) / (mixture.square().sum(dim=-1, keepdim=True) + EPS)
        quiet = 10 * torch.log10(energies + SILENCE_FLOOR)
        return torch.where(silent.unsqueeze(1), quiet.unsqueeze(2), losses)


def without_visual(visual: torch.Tensor | None, sources: torch.Tensor) -> torch.Tensor:
    """Find the sources for which no face was given: (batch, n_src); all of them for an audio-only network.

    Args:
        visual: (batch, n_src, frames, dim), a missing face all zeros, or None.
        sources: (batch, n_src, time).
    """
    if visual is None:
        return torch.ones(sources.shape[:2], dtype=torch.bool, device=sources.device)
    return ~visual.ne(0).flatten(2).any(dim=-1)


def _best_order(losses: torch.Tensor, without_visual: torch.Tensor) -> torch.Tensor:
    """The estimate for each source, (batch, n_src), with the least sum of losses (batch, n_src, n_src) [1]."""
    n_src = losses.shape[-1]
    own = torch.arange(n_src, device=losses.device)
    if not without_visual.any():
        return own.expand(len(losses), -1)
    orders = torch.tensor(list(permutations(range(n_src))), device=losses.device)  # (orders, n_src)
    allowed = ((orders == own) | without_visual.unsqueeze(1)).all(dim=-1)  # (batch, orders)
    sums = losses[:, orders, own].sum(dim=-1)
    return orders[sums.masked_fill(~allowed, torch.inf).argmin(dim=-1)]


def si_snri_db(estimates: torch.Tensor, sources: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """Mean SI-SNRi of the mixtures in which there is something to improve: not of a single source, or of silence.

    Args:
        estimates, sources: (batch, n_src, time).
        mixture: (batch, time).

    Returns:
        (mixtures that count,), dB.
    """
    before = si_snr_db(mixture.unsqueeze(1).expand_as(sources), sources)
    counts = (before < SINGLE_SOURCE_DB) & sources.ne(0).flatten(1).any(dim=-1)
    return (si_snr_db(estimates, sources) - before)[counts]


def si_snr_db(estimates: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """Mean SI-SNR of each mixture's estimates, dB, silent sources left out: (batch, n_src, time) twice -> (batch,)."""
    sounding = sources.square().sum(dim=-1) > 0
    values = -multisrc_neg_sisdr(estimates.flatten(0, 1).unsqueeze(1), sources.flatten(0, 1).unsqueeze(1))
    return (values.unflatten(0, sounding.shape) * sounding).sum(dim=1) / sounding.sum(dim=1).clamp(min=1)
