"""The tracks of a video at the sound's own rate and with all its channels.

A network works at 16 kHz and on one channel. What it found are gains: of track k at time t and frequency f

    G_k(t, f) = S_k M* / |M|^2,

where S_k is the spectrum of the track and M that of what the network heard, whose tracks add up to it. Every channel of
the source is multiplied with them in its own spectrum. Above `_TOP_HZ` nothing was heard; there each frame has one gain, that
of the power between `_LOW_HZ` and `_TOP_HZ`: the breath and hiss of a voice come and go with its highest bands. The residual
is the source less the stems, so that together they are the source.

The spectra have frames of 32 ms every 8 ms, with Hann windows; their clock is that of the source's samples.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import scipy.fft
from scipy.signal import get_window, resample_poly

from utils.data.constants import SAMPLE_RATE_HZ

_LOW_HZ, _TOP_HZ = 6000.0, 7500.0
_CHUNK_SEC = 10.0
_LARGEST_GAIN = 2.0  # where tracks cancel each other; a track has seldom more than the mixture
_MARGIN = 64  # samples at 16 kHz that the filter of the resampler reaches over, and more
_EPS = 1e-10  # of the mean power of a frame

TrackReader = Callable[[int, int], np.ndarray]
"""(first sample, samples) at 16 kHz -> float32 (n_tracks, samples)."""


def stem_blocks(pieces: Iterable[np.ndarray], rate_hz: int, read_tracks: TrackReader, length: int) -> Iterator[np.ndarray]:
    """The stems of a source piece by piece, in constant memory.

    Args:
        pieces: the source, float32 (n_channels, samples), one after the other.
        rate_hz: of the source.
        read_tracks: gives a stretch of all tracks, the residual among them as the last: together what the network heard.
        length: of the tracks, samples at 16 kHz.

    Yields:
        float32 (n_tracks, n_channels, samples), together as long as the source; the last stem is the residual.
    """
    hop = round(rate_hz * 0.008)
    n_fft = 4 * hop
    chunk = round(_CHUNK_SEC * rate_hz / hop) * hop
    start, held = 0, None  # held: the source from sample start - n_fft on
    waiting = iter(pieces)
    is_last = False
    while not is_last:
        while not is_last and (held is None or held.shape[1] < chunk + 2 * n_fft):
            piece = next(waiting, None)
            is_last = piece is None
            if held is None:
                held = np.zeros((1 if is_last else len(piece), n_fft), np.float32)
            if not is_last:
                held = np.concatenate([held, piece], axis=1)
        n_here = held.shape[1] - n_fft if is_last else chunk
        if n_here <= 0:
            return
        n_padded = -(-n_here // hop) * hop
        source = held[:, : n_padded + 2 * n_fft]
        source = np.pad(source, ((0, 0), (0, n_padded + 2 * n_fft - source.shape[1])))
        tracks = _at_rate(read_tracks, length, start - n_fft, source.shape[1], rate_hz)
        here = slice(n_fft, n_fft + n_here)
        stems = _filtered(source, tracks, n_fft, rate_hz)[..., here]
        residual = source[:, here] - stems.sum(axis=0)
        yield np.concatenate([stems, residual[None]])
        held, start = held[:, chunk:], start + chunk


def _at_rate(read_tracks: TrackReader, length: int, start: int, count: int, rate_hz: int) -> np.ndarray:
    """Stretch of the tracks at the rate of the source: float32 (n_tracks, count); zeros beyond their ends."""
    divisor = math.gcd(rate_hz, SAMPLE_RATE_HZ)
    up, down = rate_hz // divisor, SAMPLE_RATE_HZ // divisor
    margin = -(-_MARGIN // down)
    first = (start // up - margin) * down  # at 16 kHz, where both clocks meet
    stop = ((start + count) // up + 1 + margin) * down
    begin, end = max(first, 0), min(stop, length)
    given = read_tracks(begin, max(end - begin, 0))
    given = np.pad(given, ((0, 0), (begin - first, stop - begin - given.shape[1])))
    offset = start - first // down * up
    return resample_poly(given, up, down, axis=1)[:, offset : offset + count].astype(np.float32)


def _filtered(source: np.ndarray, tracks: np.ndarray, n_fft: int, rate_hz: int) -> np.ndarray:
    """Source (n_channels, time) by the gains of the tracks (n_tracks, time): (n_tracks - 1, n_channels, time), no residual."""
    window = get_window("hann", n_fft).astype(np.float32)
    heard = _spectrum(tracks.sum(axis=0), window)  # (frames, bins)
    power = np.square(np.abs(heard))
    floor = _EPS * power.mean(axis=-1, keepdims=True) + np.finfo(np.float32).tiny
    channels = _spectrum(source, window)
    frequency_hz = np.arange(heard.shape[-1]) * rate_hz / n_fft
    above, band = frequency_hz > _TOP_HZ, (frequency_hz > _LOW_HZ) & (frequency_hz <= _TOP_HZ)
    stems = np.empty((len(tracks) - 1, *source.shape), np.float32)
    for stem, track in zip(stems, tracks[:-1], strict=True):
        common = _spectrum(track, window) * heard.conj()
        gains = common / (power + floor)
        gains /= np.maximum(np.abs(gains) / _LARGEST_GAIN, 1)
        if above.any():
            of_frame = common.real[:, band].sum(axis=-1) / (power[:, band].sum(axis=-1) + floor[:, 0])
            gains[:, above] = np.clip(of_frame, 0, 1)[:, None]
        stem[...] = _signal(gains * channels, window)
    return stems


def _spectrum(signal: np.ndarray, window: np.ndarray) -> np.ndarray:
    """(..., time) -> complex64 (..., frames, bins), a frame every quarter of the window."""
    frames = np.lib.stride_tricks.sliding_window_view(signal, len(window), axis=-1)[..., :: len(window) // 4, :]
    return scipy.fft.rfft(frames * window, axis=-1)


def _signal(spectrum: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The signal of a spectrum by overlap and add; its first and last three quarters of a window are not whole."""
    n_fft, hop = len(window), len(window) // 4
    frames = scipy.fft.irfft(spectrum, n_fft, axis=-1) * (window / 1.5)  # squares of four Hann windows add up to 1.5
    n_frames = frames.shape[-2]
    signal = np.zeros((*frames.shape[:-2], (n_frames + 3) * hop), np.float32)
    quarters = frames.reshape(*frames.shape[:-1], 4, hop)
    for quarter in range(4):
        stretch = signal[..., quarter * hop : (quarter + n_frames) * hop]
        stretch += quarters[..., quarter, :].reshape(*frames.shape[:-2], -1)
    return signal
