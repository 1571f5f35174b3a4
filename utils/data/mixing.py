"""Mixing of voices at a true signal-to-interference ratio, and the clock that audio and video share."""

import numpy as np

from utils.errors import UserError


def frames_to_samples(frames: int, sample_rate: int, fps: float) -> int:
    """Sample at which video frame `frames` begins; rounded down where a frame is no whole number of samples."""
    return int(frames * sample_rate / fps + 1e-6)


def samples_to_frames(samples: int, sample_rate: int, fps: float) -> int:
    """Video frames that `samples` last, to the nearest whole frame."""
    return round(samples * fps / sample_rate)


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


def mix_at_sir(sources: np.ndarray, sirs_db: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale all sources but the first so that the first has the asked SIR over each of them, and add them.

    Args:
        sources: (n_src, time) float; none silent.
        sirs_db: (n_src - 1,) SIR of the first source over each other one, dB.

    Returns:
        The mixture (time,) and the scaled sources (n_src, time), float32; they add up to the mixture.
    """
    scaled = np.array(sources, dtype=np.float32)
    for index, wanted_db in enumerate(sirs_db, start=1):
        scaled[index] *= 10 ** ((sir_db(scaled[0], scaled[index]) - wanted_db) / 20)
    return scaled.sum(axis=0), scaled
