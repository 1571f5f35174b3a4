"""How loud a voice is: over the whole clip, or while somebody speaks (ITU-T P.56, method B)."""

import numpy as np

from utils.errors import UserError
from utils.mixing.levels import SILENCE_POWER, power

WHOLE, ACTIVE = "whole", "active"
MEASURES = (WHOLE, ACTIVE)
_SMOOTHING_SEC = 0.03
_HANGOVER_SEC = 0.2
_MARGIN_DB = 15.9  # between the active level and the threshold that tells speech from pauses
# of the envelope, beside the signal's own RMS: 0.75 dB apart. P.56's 6 dB, for meters of its time, are up to 2 dB off
_THRESHOLDS = 2.0 ** np.arange(-15, 5.01, 0.125)


def level_db(signal: np.ndarray, sample_rate: int, measure: str) -> float:
    """The level of a voice, dB re full scale.

    Args:
        signal: (time,).
        sample_rate: Hz.
        measure: `whole`: mean power of the clip; `active`: mean power while somebody speaks, after ITU-T P.56. A gain of
            x dB changes either by x dB exactly: thresholds follow the signal's own RMS.

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
    """By how much speech is louder than the clip (of RMS 1) as a whole."""
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
