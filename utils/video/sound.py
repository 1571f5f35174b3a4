"""The sound of a video as a wav of 16 kHz, mono, float32: time zero is its first sample, and it stays in time.

Stereo and surround are mixed down to the mean of their channels.
"""

import logging
from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np
import soundfile

from utils.data.files import atomic_path
from utils.errors import UserError
from utils.video.containers import decoded, open_video, sound_start, sound_stream

SOUND_RATE_HZ = 16_000
_SLACK_SEC = Fraction(1, 20)  # time stamps may differ from the count of samples by this much
_RESTART_SEC = 1  # stamps that go back further belong to another recording
_LONGEST_GAP_SEC = 600  # a longer one is a clock that jumps
_FULL_SCALE = {np.dtype(np.int16): 1 << 15, np.dtype(np.int32): 1 << 31, np.dtype(np.int64): 1 << 63}
_log = logging.getLogger(__name__)


def extract_sound(path: Path | str, wav_path: Path | str) -> int:
    """Write the sound of a video (its default stream, else the first) as wav: 16 kHz, mono, float32, constant memory.

    Gaps above 50 ms in its time stamps become silence, and sound that overlaps by more is cut, so that it stays in
    time with the pictures. The length is that of the decoded sound, rounded up to a whole sample of 16 kHz.

    Args:
        path: the video.
        wav_path: the wav; made whole or not at all.

    Returns:
        Samples at 16 kHz.

    Raises:
        UserError: no video, no sound, encrypted, damaged, broken off, or its clock jumps.
    """
    start = sound_start(path)
    if start is None:
        raise UserError(f"{path}: has no sound that could be decoded; give a video with sound")
    with open_video(path) as container, atomic_path(wav_path) as temporary:
        pieces = _gathered(_in_time(path, container, sound_stream(container), start))
        with soundfile.SoundFile(str(temporary), "w", SOUND_RATE_HZ, 1, "FLOAT", format="WAV") as file:
            for samples in _resampled(pieces):
                file.write(samples)
            return file.tell()


def _in_time(path, container, stream, start: Fraction) -> Iterator[tuple[int, np.ndarray]]:
    """(rate in Hz, mono float32 samples) one after the other, silence where sound is missing."""
    clock_sec, silence_sec, cut_sec = Fraction(0), Fraction(0), Fraction(0)
    cutting = False  # once begun, a surplus of many frames is cut down to its end
    for frame in decoded(path, container, stream):
        samples, rate_hz = _mono(frame), frame.sample_rate
        late_sec = Fraction(0) if frame.pts is None else frame.pts * stream.time_base - start - clock_sec
        if late_sec < -_RESTART_SEC or late_sec > _LONGEST_GAP_SEC:
            raise UserError(
                f"{path}: the clock of its sound jumps by {float(late_sec):.1f} s at {float(clock_sec):.2f} s, as where "
                "recordings were joined end to end; convert it to mp4 first, or cut it there"
            )
        if late_sec > _SLACK_SEC:
            n_missing = round(late_sec * rate_hz)
            for begin in range(0, n_missing, rate_hz):
                yield rate_hz, np.zeros(min(rate_hz, n_missing - begin), np.float32)
            clock_sec += Fraction(n_missing, rate_hz)
            silence_sec += late_sec
        cutting = late_sec < (0 if cutting else -_SLACK_SEC)
        if cutting:
            n_surplus = min(round(-late_sec * rate_hz), len(samples))
            samples = samples[n_surplus:]
            cut_sec += Fraction(n_surplus, rate_hz)
        clock_sec += Fraction(len(samples), rate_hz)
        yield rate_hz, samples
    if silence_sec:
        _log.warning("%s: %.2f s of its sound are missing; silence stands in for them", path, float(silence_sec))
    if cut_sec:
        _log.warning("%s: %.2f s of its sound overlapped with what came before and were cut", path, float(cut_sec))


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """The mean of a frame's channels, float32 (samples,), full scale 1.0."""
    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(frame.samples, -1).T
    if data.dtype == np.uint8:
        return ((data.astype(np.float32) - 128) / 128).mean(axis=0)
    scale = _FULL_SCALE.get(data.dtype)
    mono = data[0] if len(data) == 1 else data.sum(axis=0, dtype=np.float64) / len(data)
    return (mono if scale is None else mono / scale).astype(np.float32)


def _gathered(pieces: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """The same in pieces of about a second: decoders give some 20 ms, and each piece costs calls."""
    held: list[np.ndarray] = []
    held_hz, n_held = 0, 0
    for rate_hz, samples in pieces:
        if held and (rate_hz != held_hz or n_held >= held_hz):
            yield held_hz, np.concatenate(held)
            held, n_held = [], 0
        held.append(samples)
        held_hz, n_held = rate_hz, n_held + len(samples)
    if held:
        yield held_hz, np.concatenate(held)


def _resampled(pieces: Iterator[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
    """Samples at 16 kHz; after each stretch of one rate there are as many as its time, rounded up, asks for."""
    resampler, source_hz, time_sec, n_written = None, None, Fraction(0), 0
    for rate_hz, samples in pieces:
        if rate_hz != source_hz:
            tail = _flushed(resampler, ceil(time_sec * SOUND_RATE_HZ) - n_written)
            n_written += len(tail)
            yield tail
            resampler, source_hz = av.AudioResampler(format="flt", layout="mono", rate=SOUND_RATE_HZ), rate_hz
        time_sec += Fraction(len(samples), rate_hz)
        for converted in _converted(resampler, rate_hz, samples):
            kept = converted[: ceil(time_sec * SOUND_RATE_HZ) - n_written]
            n_written += len(kept)
            yield kept
    yield _flushed(resampler, ceil(time_sec * SOUND_RATE_HZ) - n_written)


def _converted(resampler: av.AudioResampler, rate_hz: int, samples: np.ndarray) -> Iterator[np.ndarray]:
    if not len(samples):
        return
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
    frame.sample_rate = rate_hz
    for piece in resampler.resample(frame):
        yield piece.to_ndarray()[0]


def _flushed(resampler: av.AudioResampler | None, n_samples: int) -> np.ndarray:
    """The last samples of a resampler, exactly so many."""
    tail = np.zeros(n_samples, np.float32)
    rest = [] if resampler is None else [piece.to_ndarray()[0] for piece in resampler.resample(None) if piece is not None]
    if rest:
        last = np.concatenate(rest)[:n_samples]
        tail[: len(last)] = last
    return tail
