"""The sound of a video: time zero is its first sample, and it stays in time.

Of several audio streams the default one is taken, or the first that has sound. `extract_sound` makes a wav of 16 kHz, mono,
float32 of it: of several channels the mean of those that hold speech, or one of them where they cancel each other
(`utils/data/sound_checks.py` decides). `read_source` gives all channels at their own rate, on the same clock.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, groupby, repeat
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
    start = _start(path)
    index, channels, warnings = _choose(path, audio_stream)
    meter = SoundMeter(path)
    with open_video(path) as container, atomic_path(wav_path) as temporary:
        in_time = _in_time(path, container, container.streams[index], start, warnings)
        pieces = _gathered((rate_hz, _mean(data, channels)) for rate_hz, data in in_time)
        with wav_writer(temporary, SAMPLE_RATE_HZ) as file:
            for samples in _resampled(pieces, SAMPLE_RATE_HZ):
                meter.add(samples[0])
                file.write(samples[0])
        meter.require_sound()
    return ExtractedSound(meter.length, (*warnings, *meter.warnings()))


def read_source(path: Path | str, audio_stream: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """The sound that `extract_sound` takes, as it is: every channel, at the rate that the stream begins with.

    Yields:
        Rate in Hz, float32 (channels, samples), pieces of about a second, one after the other. All together they begin and
        end with the wav of `extract_sound`, to a sample of 16 kHz.

    Raises:
        UserError: as `extract_sound`.
    """
    start = _start(path)
    index, _, _ = _choose(path, audio_stream)
    with open_video(path) as container:
        pieces = _gathered(_with_channels_of_first(_in_time(path, container, container.streams[index], start, [])))
        first = next(pieces)
        for samples in _resampled(chain([first], pieces), first[0]):
            yield first[0], samples


def _start(path: Path | str) -> Fraction:
    start = sound_start(path)
    if start is None:
        raise UserError("has no sound that could be decoded; give a video with sound", path)
    return start


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


def _in_time(path, container, stream, start: Fraction, warnings: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    """(rate in Hz, (channels, samples)) one after the other, silence where sound is missing; adds to `warnings`."""
    clock_sec, silence_sec, cut_sec = Fraction(0), Fraction(0), Fraction(0)
    cutting = False  # once begun, a surplus of many frames is cut down to its end
    for number, frame in enumerate(decoded(path, container, stream)):
        data, rate_hz = _channels(frame), frame.sample_rate
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
                yield rate_hz, np.zeros((len(data), min(rate_hz, n_missing - begin)))
            clock_sec += Fraction(n_missing, rate_hz)
            silence_sec += late_sec
        cutting = late_sec < (0 if cutting else -slack_sec)
        if cutting:
            n_surplus = min(round(-late_sec * rate_hz), data.shape[1])
            data = data[:, n_surplus:]
            cut_sec += Fraction(n_surplus, rate_hz)
        clock_sec += Fraction(data.shape[1], rate_hz)
        yield rate_hz, data
    if silence_sec > _SLACK_SEC:
        warnings.append(f"{float(silence_sec):.2f} s of its sound are missing; silence stands in for them")
    if cut_sec > _SLACK_SEC:
        warnings.append(f"{float(cut_sec):.2f} s of its sound overlapped with what came before and were cut")


def _channels(frame: av.AudioFrame) -> np.ndarray:
    """The channels of a frame, float64 (channels, samples), full scale 1.0."""
    if frame.format.is_planar:
        planes = frame.planes[: frame.layout.nb_channels]  # PyAV 18.1 gives nine of eight channels, the last one no memory
        dtype = av.audio.frame.format_dtypes[frame.format.name]
        data = np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in planes])
    else:
        data = frame.to_ndarray().reshape(frame.samples, -1).T
    if data.dtype == np.uint8:
        return (data.astype(np.float64) - 128) / 128
    return data / (-float(np.iinfo(data.dtype).min) if data.dtype.kind == "i" else 1.0)


def _mean(data: np.ndarray, channels: list[int] | None) -> np.ndarray:
    """Of the chosen channels, float32 (1, samples)."""
    if channels is not None and channels[-1] < len(data):
        data = data[channels]
    return (data.sum(axis=0, keepdims=True) / len(data)).astype(np.float32)


def _with_channels_of_first(pieces: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """As float32; where the number of channels changes each gets the mean."""
    n_channels = 0
    for rate_hz, data in pieces:
        n_channels = n_channels or len(data)
        yield rate_hz, data.astype(np.float32) if len(data) == n_channels else _mean(data, None).repeat(n_channels, axis=0)


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


def _resampled(pieces: Iterator[tuple[int, np.ndarray]], rate_hz: int) -> Iterator[np.ndarray]:
    """(channels, samples) at one rate; after each stretch of another there are as many as its time, rounded up, asks for."""
    time_sec, n_written = Fraction(0), 0
    for own_hz, stretch in groupby(pieces, itemgetter(0)):
        resamplers: list[av.AudioResampler] = []
        for _, samples in chain(stretch, [(own_hz, None)]):  # None makes the resamplers give what they still hold
            if not (resamplers if samples is None else samples.size):
                continue
            if samples is not None:
                time_sec += Fraction(samples.shape[1], own_hz)
                resamplers = resamplers or [_resampler(rate_hz) for _ in samples]
            n_due = ceil(time_sec * rate_hz) - n_written
            if own_hz == rate_hz and samples is not None:
                converted = samples[:, :n_due]
            else:
                given = zip(resamplers, repeat(None) if samples is None else samples, strict=False)
                converted = np.stack([_through(resampler, channel, own_hz) for resampler, channel in given])[:, :n_due]
            if samples is None:
                converted = np.pad(converted, ((0, 0), (0, n_due - converted.shape[1])))
            n_written += converted.shape[1]
            yield converted


def _resampler(rate_hz: int) -> av.AudioResampler:
    return av.AudioResampler(format="flt", layout="mono", rate=rate_hz)


def _through(resampler: av.AudioResampler, samples: np.ndarray | None, rate_hz: int) -> np.ndarray:
    """What a resampler gives for samples, or at the end of them."""
    frame = None
    if samples is not None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
        frame.sample_rate = rate_hz
    given = [piece.to_ndarray()[0] for piece in resampler.resample(frame) if piece is not None]
    return np.concatenate([np.zeros(0, np.float32), *given])
