"""The sound of a video as a wav of 16 kHz, mono, float32: time zero is its first sample, and it stays in time.

Of several audio streams the default one is taken, or the first that has sound; of several channels the mean of those that
hold speech, or one of them where they cancel each other (`utils/data/sound_checks.py` decides).
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, groupby
from math import ceil
from operator import itemgetter
from pathlib import Path

import av
import numpy as np

from utils.data.audio import wav_writer
from utils.data.constants import SAMPLE_RATE_HZ
from utils.data.files import atomic_path
from utils.data.sound_checks import SILENCE_DB, ChannelMeter, SoundMeter, choose_channels
from utils.errors import UserError
from utils.video.containers import decoded, open_video, sound_start, sound_streams

_SLACK_SEC = Fraction(1, 20)  # time stamps may differ from the count of samples by this much
_RESTART_SEC = 1  # stamps that go back further belong to another recording
_LONGEST_GAP_SEC = 600  # a longer one is a clock that jumps
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractedSound:
    """The result of `extract_sound`."""

    n_samples: int  # at 16 kHz
    warnings: tuple[str, ...]  # what is unusual about the sound, a line each, without the file's name


def extract_sound(path: Path | str, wav_path: Path | str, audio_stream: int = 0) -> ExtractedSound:
    """Write the sound of a video as wav: 16 kHz, mono, float32, in constant memory.

    Gaps above 50 ms in its time stamps become silence, and sound that overlaps by more is cut, so that it stays in
    time with the pictures. The length is that of the decoded sound, rounded up to a whole sample of 16 kHz.

    Args:
        path: the video.
        wav_path: the wav; made whole or not at all.
        audio_stream: which audio stream, 1 is the first of the file; 0: the default one, or the first that has sound.

    Raises:
        UserError: no video, no sound, silence, encrypted, damaged, broken off, or its clock jumps.
    """
    start = sound_start(path)
    if start is None:
        raise UserError("has no sound that could be decoded; give a video with sound", path)
    index, channels, warnings = _choose(path, audio_stream)
    meter = SoundMeter(path)
    with open_video(path) as container, atomic_path(wav_path) as temporary:
        pieces = _gathered(_in_time(path, container, container.streams[index], start, channels, warnings))
        with wav_writer(temporary, SAMPLE_RATE_HZ) as file:
            for samples in _resampled(pieces):
                meter.add(samples)
                file.write(samples)
        meter.require_sound()
    return ExtractedSound(meter.length, (*warnings, *meter.warnings()))


def _choose(path: Path | str, audio_stream: int) -> tuple[int, list[int] | None, list[str]]:
    """The index of the stream, its channels (from 0; None: all), warnings. Nothing is decoded where there is no choice."""
    with open_video(path) as container:
        numbers = {stream.index: number for number, stream in enumerate(container.streams.audio, start=1)}
        found = {stream.index: stream.codec_context.channels for stream in sound_streams(container)}
    if audio_stream:
        found = {index: count for index, count in found.items() if numbers[index] == audio_stream}
        if not found:
            raise UserError(f"--audio_stream {audio_stream}: there is no such stream; it has {len(numbers)}", path)
    elif len(found) > 1:
        _log.info("%s: has %d audio streams; --audio_stream N chooses", path, len(found))
    if len(found) == 1 and set(found.values()) == {1}:
        return next(iter(found)), None, []
    silent: list[int] = []
    for index in found:
        meter = _survey(path, index)
        if meter.peak > 10 ** (SILENCE_DB / 20):
            channels, warnings = choose_channels(meter.products())
            if silent:
                before = ", ".join(str(numbers[other]) for other in silent)
                warnings.insert(0, f"audio stream {before} is silent; stream {numbers[index]} was taken")
            return index, channels, warnings
        silent.append(index)
    streams = f"in audio stream {audio_stream}" if audio_stream else f"in any of its {len(numbers)} audio streams"
    raise UserError(f"no sound above {SILENCE_DB:g} dB {streams}", path)


def _survey(path: Path | str, index: int) -> ChannelMeter:
    """The levels of the channels of a stream, from all of it."""
    meter = ChannelMeter()
    with open_video(path) as container:
        frames = decoded(path, container, container.streams[index])
        for rate_hz, samples in _gathered((frame.sample_rate, _channels(frame)) for frame in frames):
            meter.add(samples, rate_hz)
    return meter


def _in_time(
    path, container, stream, start: Fraction, channels: list[int] | None, warnings: list[str]
) -> Iterator[tuple[int, np.ndarray]]:
    """(rate in Hz, mono float32 samples) one after the other, silence where sound is missing; adds to `warnings`."""
    clock_sec, silence_sec, cut_sec = Fraction(0), Fraction(0), Fraction(0)
    cutting = False  # once begun, a surplus of many frames is cut down to its end
    for number, frame in enumerate(decoded(path, container, stream)):
        data, rate_hz = _channels(frame), frame.sample_rate
        if channels is not None and channels[-1] < len(data):
            data = data[channels]
        samples = (data.sum(axis=0) / len(data)).astype(np.float32)
        late_sec = Fraction(0) if frame.pts is None else frame.pts * stream.time_base - start - clock_sec
        if (late_sec < -_RESTART_SEC and number) or late_sec > _LONGEST_GAP_SEC:
            raise UserError(
                f"the clock of its sound jumps by {float(late_sec):.1f} s at {float(clock_sec):.2f} s, as where "
                "recordings were joined end to end; convert it to mp4 first, or cut it there",
                path,
            )
        slack_sec = _SLACK_SEC if number else Fraction(0)  # another stream than the preferred one may begin elsewhere
        if late_sec > slack_sec:
            n_missing = round(late_sec * rate_hz)
            for begin in range(0, n_missing, rate_hz):
                yield rate_hz, np.zeros(min(rate_hz, n_missing - begin), np.float32)
            clock_sec += Fraction(n_missing, rate_hz)
            silence_sec += late_sec
        cutting = late_sec < (0 if cutting else -slack_sec)
        if cutting:
            n_surplus = min(round(-late_sec * rate_hz), len(samples))
            samples = samples[n_surplus:]
            cut_sec += Fraction(n_surplus, rate_hz)
        clock_sec += Fraction(len(samples), rate_hz)
        yield rate_hz, samples
    if silence_sec > _SLACK_SEC:
        warnings.append(f"{float(silence_sec):.2f} s of its sound are missing; silence stands in for them")
    if cut_sec > _SLACK_SEC:
        warnings.append(f"{float(cut_sec):.2f} s of its sound overlapped with what came before and were cut")


def _channels(frame: av.AudioFrame) -> np.ndarray:
    """The channels of a frame, float64 (channels, samples), full scale 1.0."""
    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(frame.samples, -1).T
    if data.dtype == np.uint8:
        return (data.astype(np.float64) - 128) / 128
    return data / (-float(np.iinfo(data.dtype).min) if data.dtype.kind == "i" else 1.0)


def _gathered(pieces: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """The same in pieces of about a second: decoders give some 20 ms, and each piece costs calls."""
    held: list[np.ndarray] = []
    held_hz, n_held = 0, 0
    for rate_hz, samples in pieces:
        if held and (rate_hz != held_hz or n_held >= held_hz or samples.shape[:-1] != held[0].shape[:-1]):
            yield held_hz, np.concatenate(held, axis=-1)
            held, n_held = [], 0
        held.append(samples)
        held_hz, n_held = rate_hz, n_held + samples.shape[-1]
    if held:
        yield held_hz, np.concatenate(held, axis=-1)


def _resampled(pieces: Iterator[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
    """Samples at 16 kHz; after each stretch of one rate there are as many as its time, rounded up, asks for."""
    time_sec, n_written = Fraction(0), 0
    for rate_hz, stretch in groupby(pieces, itemgetter(0)):
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
        for _, samples in chain(stretch, [(rate_hz, None)]):  # None makes the resampler give what it still holds
            frame = None
            if samples is not None:
                if not len(samples):
                    continue
                time_sec += Fraction(len(samples), rate_hz)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
                frame.sample_rate = rate_hz
            n_due = ceil(time_sec * SAMPLE_RATE_HZ) - n_written
            given = [piece.to_ndarray()[0] for piece in resampler.resample(frame) if piece is not None]
            converted = np.concatenate([np.zeros(0, np.float32), *given])[:n_due]
            if frame is None:
                converted = np.pad(converted, (0, n_due - len(converted)))
            n_written += len(converted)
            yield converted
