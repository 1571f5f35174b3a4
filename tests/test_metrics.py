"""Metrics against closed forms, mir_eval, asteroid's loss and asteroid's metrics."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import butter, sosfilt

from utils.scoring import metrics
from utils.scoring.metrics import METRICS, UndefinedMetricError, pesq, score_mixture, sdr, si_snr, sir_and_sar, snr, stoi

RATE_HZ = 16000


def speech_like(seed: int, seconds: float = 1.5) -> np.ndarray:
    """Noise with the slow modulation of syllables, (time,)."""
    rng = np.random.default_rng(seed)
    time_sec = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    envelope = np.clip(np.sin(2 * np.pi * (2 + rng.random()) * time_sec + 6 * rng.random()), 0, None) + 0.01
    noise = sosfilt(butter(2, [200, 3500], "bandpass", fs=RATE_HZ, output="sos"), rng.standard_normal(len(time_sec)))
    return 0.1 * envelope * noise


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mixture, references, estimates): two voices, and estimates with a rest of the other one."""
    first, second = speech_like(1), speech_like(2)
    estimates = np.stack([first + 0.1 * second, second + 0.2 * first])
    return first + second, np.stack([first, second]), estimates


def sine_and_orthogonal_noise(ratio_db: float) -> tuple[np.ndarray, np.ndarray]:
    """A sine, and the sine with another one orthogonal to it at `ratio_db` below."""
    time = np.arange(RATE_HZ) / RATE_HZ
    reference = np.sin(2 * np.pi * 100 * time)
    return reference, reference + 10 ** (-ratio_db / 20) * np.sin(2 * np.pi * 300 * time)


@pytest.mark.parametrize("ratio_db", [-20.0, 0.0, 3.5, 40.0])
def test_ratios_of_a_sine_with_orthogonal_noise_are_the_known_ones(ratio_db):
    reference, estimate = sine_and_orthogonal_noise(ratio_db)
    assert si_snr(estimate, reference) == pytest.approx(ratio_db, abs=1e-9)
    assert snr(estimate, reference) == pytest.approx(ratio_db, abs=1e-9)


def test_si_snr_ignores_scale_and_mean_but_snr_does_not(pair):
    _, references, estimates = pair
    value = si_snr(estimates[0], references[0])
    assert si_snr(-3.7 * estimates[0] + 0.4, references[0] - 0.2) == pytest.approx(value, abs=1e-9)
    assert snr(2 * references[0], references[0]) == pytest.approx(0.0, abs=1e-9)


def test_sdr_forgives_a_short_filter_but_si_snr_does_not(pair):
    reference = pair[1][0]
    filtered = np.convolve(reference, [0.0, 0.0, 1.0, 0.5])[: len(reference)]
    assert sdr(filtered, reference) > 25
    assert si_snr(filtered, reference) < 5


@pytest.mark.parametrize("cutoff_hz", [None, 1000, 100])
def test_sdr_equals_that_of_mir_eval_with_all_sources(pair, cutoff_hz):
    from mir_eval.separation import bss_eval_sources

    _, references, estimates = pair
    if cutoff_hz:  # band-limited references make the Toeplitz system nearly singular
        references = sosfilt(butter(8, cutoff_hz, fs=RATE_HZ, output="sos"), references)
    oracle = bss_eval_sources(references, estimates, compute_permutation=False)[0]
    ours = [sdr(estimate, reference) for estimate, reference in zip(estimates, references, strict=True)]
    assert ours == pytest.approx(oracle, abs=1e-6)


@pytest.mark.parametrize("noise", [1e-4, 1e-2, 0.3])
def test_sir_and_sar_equal_those_of_mir_eval(pair, noise):
    from mir_eval.separation import bss_eval_sources

    _, references, estimates = pair
    rng = np.random.default_rng(0)
    references, estimates = (each + noise * 0.1 * rng.standard_normal(each.shape) for each in (references, estimates))
    _, sirs, sars, _ = bss_eval_sources(references, estimates, compute_permutation=False)
    ours = sir_and_sar(estimates, references)
    assert ours[0] == pytest.approx(sirs, abs=1e-4) and ours[1] == pytest.approx(sars, abs=1e-4)


def test_sir_and_sar_need_several_sources_that_are_heard(pair):
    _, references, estimates = pair
    silent = np.stack([references[0], np.zeros_like(references[0])])
    for given in ((estimates[:1], references[:1]), (estimates, silent), (estimates[:, :100], references[:, :100])):
        assert np.isnan(sir_and_sar(*given)).all()
    sirs, sars = sir_and_sar(np.stack([estimates[0], np.zeros_like(estimates[0])]), references)
    assert np.isfinite([sirs[0], sars[0]]).all() and np.isnan([sirs[1], sars[1]]).all()
    row = score_mixture(references.sum(axis=0), references, estimates, RATE_HZ)[0]
    assert (row["sir"], row["sar"]) == pytest.approx([each[0] for each in sir_and_sar(estimates, references)])


def test_sdr_of_a_singular_reference_is_still_a_finite_number():
    reference = np.zeros(4000)
    reference[100:3900] = np.hanning(3800) * np.sin(2 * np.pi * 440 * np.arange(3800) / RATE_HZ)
    value = sdr(reference + 0.1 * speech_like(3)[:4000], reference)
    assert math.isfinite(value) and value > 10


def test_si_snr_equals_the_training_loss_of_asteroid(pair):
    from asteroid.losses import singlesrc_neg_sisdr

    _, references, estimates = pair
    loss = singlesrc_neg_sisdr(torch.from_numpy(estimates), torch.from_numpy(references))
    ours = [si_snr(estimate, reference) for estimate, reference in zip(estimates, references, strict=True)]
    assert ours == pytest.approx((-loss).tolist(), abs=1e-4)  # the loss adds 1e-8 to its energies


def test_scores_equal_those_of_asteroid_metrics(pair):
    from asteroid.metrics import get_metrics

    mixture, references, estimates = pair
    theirs = get_metrics(mixture, references, estimates, RATE_HZ, ["sdr", "stoi", "si_sdr", "pesq"], average=False)
    ours = score_mixture(mixture, references, estimates, RATE_HZ)
    for name, their_name in (("sdr", "sdr"), ("stoi", "stoi"), ("si_snr", "si_sdr"), ("pesq_wb", "pesq")):
        # pb_bss keeps the means in, which these signals nearly lack
        assert [row[name] for row in ours] == pytest.approx(list(theirs[their_name]), abs=1e-3), name
        assert [row[f"input_{name}"] for row in ours] == pytest.approx(np.ravel(theirs[f"input_{their_name}"]), abs=1e-3)


def test_the_mixture_as_estimate_improves_by_exactly_nothing(pair):
    mixture, references, _ = pair
    for row in score_mixture(mixture, references, np.stack([mixture, mixture]), RATE_HZ):
        assert [row[f"{name}_imp"] for name in METRICS] == pytest.approx([0.0] * len(METRICS), abs=1e-12)


def test_a_perfect_estimate_scores_the_highest_finite_ratios(pair):
    mixture, references, _ = pair
    for row in score_mixture(mixture, references, references, RATE_HZ):
        assert row["si_snr"] == row["snr"] == pytest.approx(156.5, abs=0.1)
        assert row["sdr"] > 100 and row["pesq_wb"] > 4.6 and row["stoi"] == pytest.approx(1.0)


def test_swapped_estimates_score_badly_unless_permutation_is_asked_for(pair):
    mixture, references, estimates = pair
    right = score_mixture(mixture, references, estimates, RATE_HZ)
    fixed = score_mixture(mixture, references, estimates[::-1], RATE_HZ)
    searched = score_mixture(mixture, references, estimates[::-1], RATE_HZ, permute=True)
    assert all(row["si_snr_imp"] < 0 for row in fixed)
    assert [row["estimate"] for row in searched] == [2, 1]
    for name in METRICS:
        assert [row[name] for row in searched] == pytest.approx([row[name] for row in right])


def test_three_rotated_speakers_are_put_in_order(pair):
    references = np.stack([*pair[1], speech_like(5)])
    estimates = np.roll(references, 1, axis=0) + 0.05 * references.sum(axis=0)
    rows = score_mixture(references.sum(axis=0), references, estimates, RATE_HZ, permute=True)
    assert [(row["speaker"], row["estimate"]) for row in rows] == [(1, 2), (2, 3), (3, 1)]


def test_a_silent_estimate_is_nan_with_a_reason_and_spoils_nothing_else(pair):
    mixture, references, estimates = pair
    rows = score_mixture(mixture, references, np.stack([np.zeros(len(mixture)), estimates[1]]), RATE_HZ, permute=True)
    assert all(math.isnan(rows[0][name]) and math.isnan(rows[0][f"{name}_imp"]) for name in METRICS)
    assert rows[0]["reasons"] == dict.fromkeys(METRICS, "the estimate is silent")
    assert math.isfinite(rows[0]["input_si_snr"])
    assert rows[1]["reasons"] == {} and rows[1]["estimate"] == 2


def test_a_silent_mixture_and_a_silent_reference_are_named_as_such(pair):
    mixture, references, estimates = pair
    silence = np.zeros(len(mixture))
    rows = score_mixture(silence, np.stack([references[0], silence]), estimates, RATE_HZ)
    assert rows[0]["reasons"] == {f"input_{name}": "the mixture is silent" for name in METRICS}
    assert rows[1]["reasons"]["si_snr"] == "the reference is silent"


def test_a_signal_too_short_for_pesq_and_stoi_keeps_its_ratios(pair):
    mixture, references, estimates = (signal[..., 6000:8000] for signal in pair)
    row = score_mixture(mixture, references, estimates, RATE_HZ)[0]
    assert math.isfinite(row["si_snr"]) and math.isfinite(row["sdr"])
    assert {"pesq_wb", "pesq_nb", "stoi", "estoi"} <= set(row["reasons"])
    assert all(math.isnan(row[name]) for name in ("pesq_wb", "pesq_nb", "stoi", "estoi"))
    with pytest.raises(UndefinedMetricError, match="100 samples are fewer than the filter's 512 taps"):
        sdr(estimates[0][:100], references[0][:100])
    with pytest.raises(UndefinedMetricError, match="STOI"):
        stoi(estimates[0][:100], references[0][:100], RATE_HZ)


def test_pesq_says_which_rates_it_knows(pair):
    _, references, estimates = pair
    with pytest.raises(UndefinedMetricError, match="PESQ wb is defined at 16000 Hz, not at 8000 Hz"):
        pesq(estimates[0], references[0], 8000, "wb")
    assert 1 <= pesq(estimates[0][::2], references[0][::2], 8000, "nb") <= 4.6


def test_pesq_refuses_long_signals_whose_utterances_would_overrun_its_tables():
    """Regression: 80 utterances made PESQ's C code end the process with a segmentation fault."""
    burst = np.concatenate([speech_like(7, 0.5), np.zeros(RATE_HZ)])
    signal = np.tile(burst, 80)
    with pytest.raises(UndefinedMetricError, match="longer than the 30 s"):
        pesq(signal, signal, RATE_HZ, "wb")


def test_shapes_that_do_not_fit_are_quoted(pair):
    mixture, references, estimates = pair
    with pytest.raises(ValueError, match=r"\(10,\) and \(11,\)"):
        si_snr(np.ones(10), np.ones(11))
    with pytest.raises(ValueError, match=r"\(2, 24000\) and \(1, 24000\)"):
        score_mixture(mixture, references, estimates[:1], RATE_HZ)
    with pytest.raises(ValueError, match="not finite"):
        snr(np.full(10, np.nan), np.arange(10.0))


def test_every_metric_is_defined_in_one_sentence():
    assert set(metrics.DEFINITIONS) == {"si_snr", "sdr", "snr", "pesq_wb", "pesq_nb", "stoi", "estoi"}
    assert all(text.endswith(".") for text in metrics.DEFINITIONS.values())
