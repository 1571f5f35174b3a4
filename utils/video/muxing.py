"""A video again with other sound: its pictures as they are, and a named stream of sound for each track."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

from utils.data.files import atomic_path
from utils.errors import UserError
from utils.video.containers import open_video, picture_stream, sound_start, sound_streams

_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov"}  # by the video's suffix; all others become Matroska
_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1")  # by the number of channels, where the video has none
_AAC_LAYOUTS = (*_LAYOUTS, "2.1", "quad")  # a decoder of AAC tells the places of these only
_AAC_BITS_PER_CHANNEL = 96_000  # each second
_AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_BLOCK_SEC = 1


def muxed_suffix(video_path: Path) -> str:
    """The suffix of the video that `write_muxed` makes of another."""
    suffix = video_path.suffix.lower()
    return suffix if suffix in _MUXERS else ".mkv"


def write_muxed(video_path: Path, out_path: Path, tracks: Sequence[tuple[str, Path]], audio_stream: int = 0) -> float:
    """Write a video with the pictures of another, packet by packet as they are, and a stream of sound for each track.

    Sound is AAC in MP4 and QuickTime, which everything plays, and FLAC, 24 bits, in Matroska. Its channels have the places
    of those of the video's sound, where these are as many.

    Args:
        video_path: the video.
        out_path: the result, of the suffix that `muxed_suffix` gives; made whole or not at all.
        tracks: name and wav of each, of one rate and one number of channels, beginning with the video's sound.
        audio_stream: of the video, that the tracks are of; 1 is the first, 0: the preferred one.

    Returns:
        The gain of all tracks, 1.0 where none is beyond full scale.

    Raises:
        UserError: such pictures or such sound do not go into this container.
    """
    muxer = _MUXERS.get(out_path.suffix, "matroska")
    start_sec = sound_start(video_path)
    gain = 1 / max(1.0, *(_peak(path) for _, path in tracks))
    with ExitStack() as stack:
        source = stack.enter_context(open_video(video_path))
        pictures = picture_stream(video_path, source)
        temporary = stack.enter_context(atomic_path(out_path))
        target = stack.enter_context(av.open(str(temporary), "w", format=muxer, options={"fflags": "+bitexact"}))
        try:
            copy = target.add_stream_from_template(pictures)
            copy.metadata.update(pictures.metadata)
            if pictures.codec_context.name == "hevc" and muxer != "matroska":
                copy.codec_context.codec_tag = "hvc1"  # FFmpeg's own choice, hev1, is not played by all
            layouts = _layouts(source, audio_stream)
            sounds = [_Sound(target, name, path, muxer, start_sec, gain, layouts) for name, path in tracks]
            for packet in source.demux(pictures):
                if packet.size == 0:
                    continue
                time_sec = packet.dts if packet.dts is not None else packet.pts
                packet.stream = copy
                if time_sec is not None:
                    _write_sounds(sounds, time_sec * pictures.time_base)
                target.mux(packet)
            _write_sounds(sounds, None)
            for sound in sounds:
                sound.end()
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"its pictures ({pictures.codec_context.name}) or sound do not go into {out_path.suffix}: {reason}; convert it "
                "to mp4 (H.264) first",
                video_path,
            ) from None
    return gain


def _peak(path: Path) -> float:
    with soundfile.SoundFile(str(path)) as file:
        return max((float(np.abs(block).max(initial=0)) for block in file.blocks(1 << 18, dtype="float32")), default=0.0)


def _layouts(source, audio_stream: int) -> dict[int, str]:
    """The layout of a video's sound by its number of channels; without those that say nothing of the channels' places."""
    streams = [source.streams.audio[audio_stream - 1]] if audio_stream else sound_streams(source)
    found = [stream.layout for stream in reversed(streams)]  # the preferred one comes last, and counts
    return {layout.nb_channels: layout.name for layout in found if " " not in layout.name}  # as "4 channels", "ambisonic 1"


class _Sound:
    """A track on its way into a container."""

    def __init__(
        self, target, name: str, path: Path, muxer: str, start_sec: Fraction, gain: float, layouts: Mapping[int, str]
    ) -> None:
        self.target = target
        with soundfile.SoundFile(str(path)) as file:
            rate_hz, n_channels = file.samplerate, file.channels
        if n_channels > len(_LAYOUTS):
            raise ValueError(f"{n_channels} channels, at most {len(_LAYOUTS)} go into a video")
        is_aac = muxer != "matroska"
        own = layouts.get(n_channels)
        self.layout = own if own and (not is_aac or own in _AAC_LAYOUTS) else _LAYOUTS[n_channels - 1]
        self.rate_hz, self.start_sec = rate_hz, start_sec
        own_hz = rate_hz if not is_aac or rate_hz in _AAC_RATES_HZ else 48_000
        self.stream = target.add_stream("aac" if is_aac else "flac", rate=own_hz, layout=self.layout)
        if is_aac:
            self.stream.bit_rate = _AAC_BITS_PER_CHANNEL * n_channels
        else:
            self.stream.codec_context.format = "s32"
        self.stream.metadata["title"] = name
        if is_aac:
            self.stream.metadata["handler_name"] = name  # what players of MP4 show
        self.resampler = av.AudioResampler(format="fltp" if is_aac else "s32", layout=self.layout, rate=own_hz)
        self.frames = self._frames(path, gain)
        self.waiting: av.AudioFrame | None = next(self.frames, None)

    def _frames(self, path: Path, gain: float) -> Iterator[av.AudioFrame]:
        position = round(self.start_sec * self.rate_hz)
        with soundfile.SoundFile(str(path)) as file:
            for block in file.blocks(self.rate_hz * _BLOCK_SEC, dtype="float32", always_2d=True):
                samples = (block * np.float32(gain)).reshape(1, -1)  # interleaved: PyAV 18.1 takes no eight planes
                frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=self.layout)
                frame.sample_rate, frame.pts, frame.time_base = self.rate_hz, position, Fraction(1, self.rate_hz)
                position += len(block)
                yield frame

    @property
    def waiting_sec(self) -> Fraction:
        """When the waiting block begins on the container's clock."""
        return self.waiting.pts * self.waiting.time_base

    def write_block(self) -> None:
        """Encode the waiting block."""
        for frame in self.resampler.resample(self.waiting):
            self.target.mux(self.stream.encode(frame))
        self.waiting = next(self.frames, None)

    def end(self) -> None:
        """Encode what resampler and encoder still hold."""
        for frame in self.resampler.resample(None):
            self.target.mux(self.stream.encode(frame))
        self.target.mux(self.stream.encode(None))


def _write_sounds(sounds: Sequence[_Sound], time_sec: Fraction | None) -> None:
    """Encode the blocks that begin before a time of the container, the earliest of all sounds first; None: all there are.

    Between pictures that are far apart, too, players then find in one place what they play at one time.
    """
    while waiting := [sound for sound in sounds if sound.waiting is not None]:
        earliest = min(waiting, key=lambda sound: sound.waiting_sec)
        if time_sec is not None and earliest.waiting_sec >= time_sec:
            return
        earliest.write_block()
