"""Levels of signals, over the whole clip or while somebody speaks (ITU-T P.56, method B), and mixing at true ratios."""

import numpy as np

from utils.errors import UserError

SILENCE_POWER = 1e-8  # mean square, -80 dB re full scale
MAX_DRAWS = 20  # of a stretch with sound in it, before a file counts as silent
WHOLE, ACTIVE = "whole", "active"
MEASURES = (WHOLE, ACTIVE)
_SMOOTHING_SEC = 0.03
_HANGOVER_SEC = 0.2
_MARGIN_DB = 15.9  # between the active level and the threshold that tells speech from pauses
# of the envelope, relative to the signal's own RMS: 0.75 dB apart. P.56's 6 dB, for meters of its time, are up to 2 dB
# off
_THRESHOLDS = 2.0 ** np.arange(-15, 5.01, 0.125)


def power(signal: np.ndarray) -> float:
    """Mean square of a signal (time,)."""
    return float(np.mean(np.square(signal, dtype=np.float64)))


def sir_db(target: np.ndarray, interferer: np.ndarray) -> float:
    """True SIR: 10 log10 of the power of `target` over that of `interferer`, over the whole signals (time,).

    Raises:
        UserError: one of the two is silent.
    """
    return float(10 * np.log10(_power_ratio(target, interferer)))


def sir_gains(sources: np.ndarray, sirs_db: np.ndarray) -> np.ndarray:
    """Factors for sources (n_src, time), so that the first has the asked SIR over each other one.

    Args:
        sources: (n_src, time) float; none silent.
        sirs_db: (n_src - 1,) SIR of the first source over each other one, dB.

    Returns:
        (n_src, 1); the first is 1.

    Raises:
        UserError: a source is silent.
    """
    found_db = np.array([sir_db(sources[0], other) for other in sources[1:]])
    return 10 ** (np.array([0.0, *(found_db - sirs_db)]) / 20)[:, None]


def mix_at_sir(sources: np.ndarray, sirs_db: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale all sources but the first so that the first has the asked SIR over each of them, and add them.

    Args:
        sources, sirs_db: as for `sir_gains`.

    Returns:
        The mixture (time,) and the scaled sources (n_src, time), float32; they add up to the mixture.
    """
    scaled = np.array(sources, dtype=np.float32)
    scaled *= sir_gains(scaled, sirs_db)
    return scaled.sum(axis=0), scaled


def add_noise(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise at a true signal-to-noise ratio.

    Args:
        speech, noise: (time,), neither silent.
        snr_db: power of `speech` over that of the added noise, over the whole signals.

    Returns:
        The mixture (time,), float32.
    """
    return (speech + noise * noise_gain(speech, noise, snr_db)).astype(np.float32)


def noise_gain(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> float:
    """The factor for `noise` with which `speech` is `snr_db` above it; arguments as for `add_noise`."""
    return float(np.sqrt(_power_ratio(speech, noise)) * 10 ** (-snr_db / 20))


def _power_ratio(first: np.ndarray, second: np.ndarray) -> float:
    powers = power(first), power(second)
    if min(powers) <= 0.0:
        raise UserError("a silent source has no signal-to-interference ratio")
    return powers[0] / powers[1]


def level_db(signal: np.ndarray, sample_rate: int, measure: str) -> float:
    """The level of speech, dB re full scale.

    Args:
        signal: (time,).
        sample_rate: Hz.
        measure: `whole`: mean power of the clip; `active`: mean power while somebody speaks, after ITU-T P.56. A gain
            of x dB changes both by exactly x dB: thresholds follow the signal's own RMS.

    Raises:
        UserError: the signal is silent, below -80 dB.
    """
    whole = power(signal)
    if whole <= SILENCE_POWER:
        raise UserError("is silent: below -80 dB re full scale")
    whole_db = 10 * float(np.log10(whole))
    if measure == WHOLE:
        return whole_db
    return whole_db + _active_gain_db(signal / np.sqrt(whole), sample_rate)


def _active_gain_db(signal: np.ndarray, sample_rate: int) -> float:
    """Level of the active speech over that of the whole clip (of RMS 1), dB."""
    from scipy.signal import lfilter  # takes a second to import, which whole-clip levels need not wait for

    pole = np.exp(-1 / (sample_rate * _SMOOTHING_SEC))
    envelope = np.abs(signal.astype(np.float64))
    for _ in range(2):
        envelope = lfilter([1 - pole], [1, -pole], envelope)
    shares = _active_shares(envelope, round(_HANGOVER_SEC * sample_rate))
    thresholds_db = 20 * np.log10(_THRESHOLDS[shares > 0])
    levels_db = -10 * np.log10(shares[shares > 0])  # of what is above each threshold
    margins_db = levels_db - thresholds_db  # falls as the threshold rises
    if margins_db[-1] > _MARGIN_DB:
        return float(levels_db[-1])
    above = int(np.argmax(margins_db <= _MARGIN_DB))
    if above == 0:
        return float(levels_db[0])
    share = (margins_db[above - 1] - _MARGIN_DB) / (margins_db[above - 1] - margins_db[above])
    return float(levels_db[above - 1] + share * (levels_db[above] - levels_db[above - 1]))


def _active_shares(envelope: np.ndarray, hangover: int) -> np.ndarray:
    """The share of the time in which the envelope is above each threshold, or was within the hangover before."""
    from scipy.ndimage import maximum_filter1d

    # a sample counts at the thresholds up to the loudest of the samples that are no more than a hangover before it
    padded = np.concatenate([np.zeros(hangover - 1), envelope])
    loudest = maximum_filter1d(padded, hangover)[hangover // 2 :][: len(envelope)]
    return 1 - np.searchsorted(np.sort(loudest), _THRESHOLDS) / len(envelope)
