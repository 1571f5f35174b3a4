"""Losses between estimates and sources: in the order of the faces, and in the best order where no face gives one (PIT).

For a source that is silent (all zeros) the energy of its estimate counts instead.
"""

from itertools import permutations

import torch
from asteroid.losses import multisrc_neg_sisdr, pairwise_neg_sisdr
from torch import nn

EPS = 1e-8
SILENCE_FLOOR = 1e-3  # of the mixture's energy: 30 dB below it is silent enough
SNR_FLOOR = 1e-3  # of a source's energy: beyond 30 dB there is little to gain, and an easy source must not rule a batch
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


PAIRWISE = {"si_snr": pairwise_neg_sisdr, "snr": pairwise_neg_snr}


class SeparationLoss(nn.Module):
    """Negative SNR or SI-SNR of the estimates, dB.

    Args:
        signal_loss: `snr` or `si_snr`, see `utils.training.config.LossConfig`.

    References
        [1] Kolbæk et al., "Multitalker speech separation with utterance-level permutation invariant training", 2017.
        [2] Wisdom et al., "What's all the fuss about free universal sound separation data?", ICASSP 2021 (the ceiling
        of SNR, silent sources).
    """

    def __init__(self, signal_loss: str) -> None:
        super().__init__()
        self.pairwise = PAIRWISE[signal_loss]

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
            The loss, a scalar in dB, and the estimates in the order of the sources: that of the faces, the best order
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
        """Loss of estimate i for source k, dB: (batch, n_src, n_src)."""
        losses = self.pairwise(estimates, torch.where(silent.unsqueeze(-1), mixture.unsqueeze(1), sources))
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
