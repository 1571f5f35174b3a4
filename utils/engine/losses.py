"""Losses: negative SI-SNR in the order of the faces, or over the best permutation where no face gives an order."""

from collections.abc import Callable

import torch
from asteroid.losses import PITLossWrapper, multisrc_neg_sisdr, pairwise_neg_sisdr

Loss = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def fixed_order_loss(estimates: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean negative SI-SNR, voice k against source k.

    Args:
        estimates, sources: (batch, n_src, time).

    Returns:
        The loss, a scalar in dB, and the estimates.
    """
    return multisrc_neg_sisdr(estimates, sources).mean(), estimates


_pit = PITLossWrapper(pairwise_neg_sisdr, pit_from="pw_mtx")


def permutation_loss(estimates: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean negative SI-SNR under the best order of the voices, found for each mixture.

    Args:
        estimates, sources: (batch, n_src, time).

    Returns:
        The loss, a scalar in dB, and the estimates in the sources' order.

    References
        Kolbæk et al., "Multitalker speech separation with utterance-level permutation invariant training", 2017.
    """
    return _pit(estimates, sources, return_est=True)


def make_loss(n_cues: int) -> Loss:
    """The loss for a network with `n_cues` faces."""
    return fixed_order_loss if n_cues else permutation_loss


def si_snr_db(estimates: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """Mean SI-SNR of each mixture's voices, dB: (batch, n_src, time) twice -> (batch,)."""
    return -multisrc_neg_sisdr(estimates, sources)
