"""Levels of signals, and mixing at true ratios."""

import numpy as np

from utils.errors import UserError

SILENCE_POWER = 1e-8  # mean square, -80 dB re full scale
MAX_DRAWS = 20  # of a stretch with sound in it, before a file is called silent


def power(signal: np.ndarray) -> float:
    """Mean square of a signal (time,)."""
    return float(np.mean(np.square(signal, dtype=np.float64)))


def sir_db(target: np.ndarray, interferer: np.ndarray) -> float:
    """True SIR: 10 log10 of the power of `target` over that of `interferer`, over the whole signals (time,).

    Raises:
        UserError: one of the two is silent.
    """
    powers = power(target), power(interferer)
    if min(powers) <= 0.0:
        raise UserError("a silent source has no signal-to-interference ratio")
    return float(10 * np.log10(powers[0] / powers[1]))


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
    others = zip(sources[1:], sirs_db, strict=True)
    return np.array([1.0, *(10 ** ((sir_db(sources[0], other) - wanted_db) / 20) for other, wanted_db in others)])[:, None]


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
    return (speech + noise * 10 ** ((sir_db(speech, noise) - snr_db) / 20)).astype(np.float32)
