"""Checks of the samples of a sound: one place for videos, for `--test_dir` and for corpora.

A sound that holds no usable signal is refused with one line (`UserError`); one that is usable,
but cannot be what its maker meant, gets one line of warning. Callers that have several channels or streams to choose from
ask `choose_channels`.
"""

from collections.abc import Sequence

import numpy as np

from utils.errors import UserError

SILENCE_DB = -80.0  # peak; below it are digital silence and the dither of 16 bits
LOUD_PEAK_DB = 3.0  # decoders of compressed sound exceed full scale by a little
LARGEST_PEAK_DB = 100.0  # 16-bit integers stored as floats have 90; what is beyond is no sound
CANCELLED_DB = 10.0  # a mean of channels that lies so far below them is not what they hold
SPEECH_BAND_HZ = (300.0, 3400.0)  # hum lies below it
QUIET_CHANNEL_DB = 20.0  # a channel whose loudest second lies so far below that of the loudest channel holds no speech
_LOUD_SECOND_DB = 20.0  # seconds above this, relative to the loudest one, count
_CANCELLED_SHARE = 0.1  # of the loud seconds
ENDS_EARLY_SEC = 1.0  # encoders leave some hundredths of a second
_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
_SAME_RATE = 0.01  # relative


class SoundMeter:
    """Length, level and peak of a sound that comes in pieces.

    Args:
        name: of the file, for messages.

    Attributes:
        length: samples so far.
        peak: the largest magnitude, full scale 1.0, and `peak_sample`, where it is.
    """

    def __init__(self, name: object) -> None:
        self.length = 0
        self.peak = 0.0
        self.peak_sample = 0
        self._name = name
        self._energy = 0.0

    def add(self, samples: np.ndarray) -> None:
        """Take the next samples, float (time,).

        Raises:
            UserError: one of them is no number, or so large that it can be no sound.
        """
        require_numbers(self._name, samples, self.length)
        if len(samples):
            magnitudes = np.abs(samples)
            loudest = int(magnitudes.argmax())
            if magnitudes[loudest] > self.peak:
                self.peak, self.peak_sample = float(magnitudes[loudest]), self.length + loudest
            self._energy += float(np.square(samples, dtype=np.float64).sum())
        self.length += len(samples)

    @property
    def power(self) -> float:
        """The mean square so far."""
        return self._energy / max(self.length, 1)

    @property
    def is_silent(self) -> bool:
        """Tell if no sample so far rises above `SILENCE_DB`."""
        return self.peak <= 10 ** (SILENCE_DB / 20)

    def require_sound(self) -> None:
        """Refuse a sound that holds nothing.

        Raises:
            UserError: no sample, or silence throughout.
        """
        if self.length == 0:
            raise UserError("holds no sample", self._name)
        if self.is_silent:
            raise UserError(f"is silent: no sound above {SILENCE_DB:g} dB", self._name)

    def warnings(self) -> list[str]:
        """Unusual properties of the sound, a line each."""
        over_db = 20 * float(np.log10(max(self.peak, 1e-9)))
        if over_db <= LOUD_PEAK_DB:
            return []
        return [f"sample {self.peak_sample} lies {over_db:.1f} dB beyond full scale; the sound may be damaged there"]


def require_numbers(name: object, samples: np.ndarray, first_sample: int = 0) -> None:
    """Refuse samples that are no numbers, or too large for any sound.

    Args:
        name: of the file.
        samples: float (time,).
        first_sample: of the file, where they begin.

    Raises:
        UserError: names the file and the first such sample.
    """
    largest = 10 ** (LARGEST_PEAK_DB / 20)
    if not len(samples) or max(float(samples.max()), -float(samples.min())) <= largest:  # both are nan if any sample is
        return
    where = int(np.argmax(~(np.abs(samples) <= largest)))
    value = float(samples[where])
    what = f"{value:.3g}, far beyond full scale" if np.isfinite(value) else f"{value}"
    raise UserError(f"sample {first_sample + where} is {what}; repair the file, or write it again", name)


class ChannelMeter:
    """Levels of the channels of a sound, and how far they cancel, second by second.

    Attributes:
        n_channels: of the first piece; pieces with another number of channels are passed over.
        peak: the largest magnitude of any channel.
    """

    def __init__(self) -> None:
        self.n_channels = 0
        self.peak = 0.0
        self._seconds: list[np.ndarray] = []  # (2 bands, channels, channels) each: mean products of two channels

    def add(self, samples: np.ndarray, rate_hz: int) -> None:
        """Take about a second of sound, float (channels, time)."""
        self.n_channels = self.n_channels or len(samples)
        if len(samples) != self.n_channels or samples.shape[1] < 2:
            return
        samples = np.nan_to_num(samples, posinf=0.0, neginf=0.0).clip(-1e6, 1e6)  # `SoundMeter` will name them
        self.peak = max(self.peak, float(np.abs(samples).max()))
        window = np.hanning(samples.shape[1])  # else strong hum would leak into the speech band
        spectra = np.fft.rfft(samples * window) / np.sqrt(len(window) * np.square(window).sum())
        frequencies_hz = np.fft.rfftfreq(samples.shape[1], 1 / rate_hz)
        low_hz, high_hz = SPEECH_BAND_HZ
        bands = (frequencies_hz > 0, (frequencies_hz >= low_hz) & (frequencies_hz <= high_hz))
        self._seconds.append(np.stack([2 * (spectra[:, band] @ spectra[:, band].conj().T).real for band in bands]))

    def products(self) -> np.ndarray:
        """float64 (seconds, 2 bands, channels, channels): all frequencies, then `SPEECH_BAND_HZ`."""
        shape = (0, 2, self.n_channels, self.n_channels)
        return np.stack(self._seconds) if self._seconds else np.zeros(shape)


def choose_channels(products: np.ndarray) -> tuple[list[int], list[str]]:
    """The channels whose mean is what was recorded.

    Channels without speech are left out: silent ones, hum, the low-frequency channel of surround sound. Where the others
    cancel each other (one is the inverse of another, be it late by some samples), the loudest is taken for all.

    Args:
        products: of a `ChannelMeter`.

    Returns:
        The channels, counted from 0, and a line of warning for what was left out.
    """
    n_channels = products.shape[-1]
    everything = list(range(n_channels))
    if n_channels < 2 or not len(products):
        return everything, []
    levels = np.einsum("sbcc->sbc", products)  # (seconds, bands, channels)
    loudest = levels[:, 1].max(axis=0)  # (channels,), in the speech band
    if not loudest.max() > 0:
        return everything, []
    kept = [k for k in everything if loudest[k] > loudest.max() * 10 ** (-QUIET_CHANNEL_DB / 10)]
    mean = products[:, :, kept][..., kept].sum(axis=(2, 3)) / len(kept) ** 2  # (seconds, bands), of the mean of channels
    single = levels[:, :, kept].mean(axis=2)
    loud = single >= single.max(axis=0) * 10 ** (-_LOUD_SECOND_DB / 10)
    cancelled = loud & (mean < single * 10 ** (-CANCELLED_DB / 10))
    shares = cancelled.sum(axis=0) / np.maximum(loud.sum(axis=0), 1)
    if shares.max() > _CANCELLED_SHARE:
        totals = levels[:, 1].sum(axis=0)
        best = next(k for k in kept if totals[k] > 0.8 * totals[kept].max())  # the first of those that are as loud
        return [best], [
            f"its channels {_numbers(kept)} cancel each other (one is the inverse of another); channel {best + 1} was taken"
        ]
    if len(kept) == n_channels:
        return everything, []
    left_out = [k for k in everything if k not in kept]
    return kept, [f"no speech in channel {_numbers(left_out)} of {n_channels}; channel {_numbers(kept)} was taken"]


def duration_warnings(sound_sec: float, picture_sec: float) -> list[str]:
    """Warnings of a sound that is shorter than its pictures, a line each."""
    if sound_sec >= picture_sec - ENDS_EARLY_SEC:
        return []
    return [f"its sound ends at {sound_sec:.2f} s, the pictures go on to {picture_sec:.2f} s"]


def wrong_rate_hint(length: int, sample_rate: int, picture_sec: float) -> str:
    """ "; its samples seem to be at 48000 Hz" where another usual rate explains that sound and pictures differ, else ""."""
    if picture_sec <= 0:
        return ""
    wanted_hz = length / picture_sec
    for rate_hz in _RATES_HZ:
        if abs(wanted_hz / rate_hz - 1) < _SAME_RATE and abs(rate_hz / sample_rate - 1) > 2 * _SAME_RATE:
            return f"; its samples seem to be at {rate_hz} Hz, so that its header is wrong"
    return ""


def _numbers(channels: Sequence[int]) -> str:
    return ", ".join(str(k + 1) for k in channels)
