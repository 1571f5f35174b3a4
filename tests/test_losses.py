"""Losses: against their definitions, with silent sources, and with sources that may change places."""

import math

import pytest
import torch

from utils.training.losses import SILENCE_FLOOR, SNR_FLOOR, SeparationLoss, si_snr_db, si_snri_db, without_visual


def signals(n_src: int = 2, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    sources = torch.randn(batch, n_src, 800)
    return sources + 0.1 * torch.randn(batch, n_src, 800), sources, sources.sum(dim=1)


def seen(*flags: bool) -> torch.Tensor:
    return ~torch.tensor(flags).expand(2, -1)


def test_si_snr_agrees_with_its_definition():
    estimates, sources, mixture = signals()
    loss, same = SeparationLoss("si_snr")(3 * estimates, sources, mixture, seen(True, True))
    s, e = (x - x.mean(dim=-1, keepdim=True) for x in (sources, estimates))
    projected = (e * s).sum(-1, keepdim=True) / s.square().sum(-1, keepdim=True) * s
    by_hand = 10 * torch.log10(projected.square().sum(-1) / (e - projected).square().sum(-1))
    assert loss.item() == pytest.approx(-by_hand.mean().item(), abs=1e-3)
    assert si_snr_db(estimates, sources).mean().item() == pytest.approx(by_hand.mean().item(), abs=1e-3)
    torch.testing.assert_close(same, 3 * estimates)


def test_snr_hears_level_and_si_snr_does_not():
    estimates, sources, mixture = signals()
    for kind, hears in (("si_snr", False), ("snr", True)):
        loss = SeparationLoss(kind)
        plain, halved = (loss(gain * estimates, sources, mixture, seen(True, True))[0].item() for gain in (1, 0.5))
        assert (halved - plain > 1.0) == hears


def test_sources_without_a_face_may_change_places_and_seen_ones_may_not():
    estimates, sources, mixture = signals()
    loss = SeparationLoss("si_snr")
    right = loss(estimates, sources, mixture, seen(True, True))[0].item()
    best, ordered = loss(estimates.flip(1), sources, mixture, seen(False, False))
    assert best.item() == pytest.approx(right, abs=1e-4)
    torch.testing.assert_close(ordered, estimates)
    # One face is enough to know both places of two.
    assert loss(estimates.flip(1), sources, mixture, seen(True, False))[0].item() > 0


def test_of_three_sources_only_those_without_a_face_change_places():
    estimates, sources, mixture = signals(3)
    turned = estimates[:, [0, 2, 1]]
    loss = SeparationLoss("si_snr")
    torch.testing.assert_close(loss(turned, sources, mixture, seen(True, False, False))[1], estimates)
    torch.testing.assert_close(loss(turned, sources, mixture, seen(True, True, True))[1], turned)
    torch.testing.assert_close(loss(estimates[:, [2, 0, 1]], sources, mixture, seen(False, False, False))[1], estimates)


def test_examples_of_a_batch_are_ordered_each_for_itself():
    estimates, sources, mixture = signals()
    given = torch.stack([estimates[0], estimates[1].flip(0)])
    mask = torch.tensor([[False, False], [True, True]])
    torch.testing.assert_close(SeparationLoss("si_snr")(given, sources, mixture, mask)[1], estimates)


@pytest.mark.parametrize("kind", ["si_snr", "snr"])
def test_a_silent_source_is_worth_what_its_estimate_leaves(kind):
    estimates, sources, mixture = signals()
    sources[:, 1] = 0
    loss = SeparationLoss(kind)
    estimates[:, 1] = 0
    quiet = loss(estimates, sources, mixture, seen(True, True))[0]
    estimates[:, 1] = mixture
    loud = loss(estimates, sources, mixture, seen(True, True))[0]
    assert loud.item() - quiet.item() == pytest.approx(-10 * math.log10(SILENCE_FLOOR) / 2, abs=0.01)
    assert si_snr_db(estimates, sources).shape == (2,) and si_snr_db(estimates, sources).min() > 15  # only of the other one


def test_snr_agrees_with_its_definition_and_ends_at_its_ceiling():
    estimates, sources, mixture = signals()
    loss = SeparationLoss("snr")
    error, energy = (estimates - sources).square().sum(-1), sources.square().sum(-1)
    by_hand = 10 * torch.log10((error + SNR_FLOOR * energy) / energy)
    assert loss(estimates, sources, mixture, seen(True, True))[0].item() == pytest.approx(by_hand.mean().item(), abs=1e-3)
    assert loss(sources, sources, mixture, seen(True, True))[0].item() == pytest.approx(10 * math.log10(SNR_FLOOR), abs=1e-3)


def test_a_single_source_has_no_improvement():
    """Regression: one silent source of two made the mean improvement of a batch some -80 dB."""
    estimates, sources, _ = signals()
    sources[0, 1] = 0
    mixture = sources.sum(dim=1)
    improvements = si_snri_db(estimates, sources, mixture)
    plain = si_snr_db(estimates[1:], sources[1:]) - si_snr_db(mixture[1:, None].expand_as(sources[1:]), sources[1:])
    torch.testing.assert_close(improvements, plain)
    assert si_snri_db(estimates[:1], sources[:1], mixture[:1]).shape == (0,)


def test_an_absent_target_has_no_improvement():
    """Regression: the mixtures of an absent target counted as 0 dB in the mean improvement."""
    estimates, sources, mixture = signals(n_src=1)
    mixture = mixture + torch.randn(2, 800)
    sources[0] = 0
    assert si_snri_db(estimates, sources, mixture).shape == (1,)
    assert si_snri_db(estimates[:1], sources[:1], mixture[:1]).shape == (0,)


@pytest.mark.parametrize("kind", ["si_snr", "snr"])
def test_gradients_are_finite_where_everything_is_silent(kind):
    estimates = torch.zeros(2, 2, 2000, requires_grad=True)
    nothing = torch.zeros(2, 2, 2000)
    loss, _ = SeparationLoss(kind)(estimates, nothing, nothing[:, 0], seen(True, False))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(estimates.grad).all()


def test_a_face_of_zeros_is_a_missing_face():
    visual = torch.ones(2, 2, 5, 3)
    visual[0, 1] = 0
    visual[1, 0, 1:] = 0  # one frame is enough
    assert without_visual(visual, torch.zeros(2, 2, 10)).tolist() == [[False, True], [False, False]]
    assert without_visual(None, torch.zeros(2, 3, 10)).all()
