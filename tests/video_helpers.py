"""Synthetic videos whose pictures carry their number, made with PyAV; what the tests of utils/video are measured against."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

from utils.video.decoding import read_pictures
from utils.video.sound import extract_sound

SIZE = (128, 96)  # width, height of the pictures
_COLUMNS, _ROWS = 4, 3  # a block for each of the 12 bits of the number
_DARK, _LIGHT = 40, 210
VP9 = {"codec": "libvpx-vp9", "codec_options": {"deadline": "realtime", "cpu-used": "8"}}
_CLOCK = 90_000  # Hz, of the pictures' time stamps


def numbered_picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A grey picture, RGB uint8 (height, width, 3), of 4x3 blocks: the bits of `number`, lowest first, row by row."""
    bits = np.array([number >> k & 1 for k in range(_COLUMNS * _ROWS)]).reshape(_ROWS, _COLUMNS)
    rows = np.arange(size[1]) * _ROWS // size[1]
    columns = np.arange(size[0]) * _COLUMNS // size[0]
    grey = np.where(bits[rows][:, columns], _LIGHT, _DARK).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def number_of(picture: np.ndarray | None) -> int | None:
    """What `numbered_picture` wrote, whatever the picture's size; None for no picture.

    Raises:
        AssertionError: a block is neither dark nor light: two pictures are mixed up in one, or it is damaged.
    """
    if picture is None:
        return None
    height, width = picture.shape[:2]
    number = 0
    for bit in range(_COLUMNS * _ROWS):
        row, column = divmod(bit, _COLUMNS)
        y, x = int((row + 0.5) * height / _ROWS), int((column + 0.5) * width / _COLUMNS)
        level = float(picture[y - 3 : y + 3, x - 3 : x + 3].mean())
        assert abs(level - _DARK) < 40 or abs(level - _LIGHT) < 40, f"block {bit} has the grey level {level:.0f}"
        number |= (level > (_DARK + _LIGHT) / 2) << bit
    return number


@dataclass
class Video:
    """What to put into a file; `write` makes it.

    `stamps_sec` are the pictures' times where they are not evenly spaced, `sound` is (samples,) or (channels, samples).
    """

    fps: Fraction | int = 25
    n_pictures: int = 50
    stamps_sec: list[float] | None = None
    start_sec: float = 0.0  # of the pictures
    codec: str = "libx264"
    codec_tag: str = ""  # "": the container's own
    size: tuple[int, int] = SIZE
    pix_fmt: str = "yuv420p"
    b_frames: int = 2
    gop: int = 12
    codec_options: dict[str, str] = field(default_factory=dict)
    rotation: float = 0.0  # degrees, counter-clockwise, that a player turns the pictures by
    hflip: bool = False
    sound: np.ndarray | None = None
    sound_rate_hz: int = 48_000
    sound_start_sec: float = 0.0
    sound_codec: str = "aac"
    sound_layout: str = ""  # "": the usual one of so many channels
    more_sounds: list[np.ndarray] = field(default_factory=list)
    cuts_sec: tuple[tuple[float, float], ...] = ()  # spans of the file's clock whose sound packets are left out
    container_options: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        """Write the file; its name says which container."""
        with av.open(str(path), "w", container_options=self.container_options) as container:
            video = self._add_video(container, path.suffix) if self.n_pictures else None
            sounds = [] if self.sound is None else [self.sound, *self.more_sounds]
            streams = [self._add_sound(container, sound) for sound in sounds]
            if video is not None:
                self._write_pictures(container, video)
            for stream, sound in zip(streams, sounds, strict=True):
                self._write_sound(container, stream, sound)
        return path

    def _add_video(self, container, suffix: str):
        stream = container.add_stream(self.codec, rate=Fraction(self.fps))
        stream.width, stream.height = self.size
        stream.pix_fmt = self.pix_fmt
        stream.codec_context.gop_size = self.gop
        if self.codec in ("libx264", "mpeg1video", "mpeg2video", "mpeg4"):
            stream.codec_context.max_b_frames = self.b_frames
        if suffix != ".avi" and self.codec not in ("mpeg1video", "mpeg2video", "mpeg4"):  # these stamp by their rate alone
            stream.codec_context.time_base = Fraction(1, _CLOCK)
        fast = {"preset": "ultrafast", "bf": str(self.b_frames)} if self.codec == "libx264" else {}
        stream.options = fast | self.codec_options
        if self.codec_tag:
            stream.codec_context.codec_tag = self.codec_tag
        if self.rotation or self.hflip:
            stream.set_display_rotation(self.rotation, hflip=self.hflip)
        return stream

    def picture_stamps(self) -> list[Fraction]:
        """When each picture begins on the file's clock, s."""
        if self.stamps_sec is not None:
            return [Fraction(stamp).limit_denominator(_CLOCK) for stamp in self.stamps_sec]
        start = Fraction(self.start_sec).limit_denominator(_CLOCK)
        return [start + Fraction(number) / Fraction(self.fps) for number in range(self.n_pictures)]

    def _write_pictures(self, container, stream) -> None:
        clock = stream.codec_context.time_base or 1 / Fraction(self.fps)
        for number, stamp in enumerate(self.picture_stamps()):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, self.size), format="rgb24")
            frame.pts, frame.time_base = round(stamp / clock), clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    def _add_sound(self, container, sound: np.ndarray):
        layout = self.sound_layout or {1: "mono", 2: "stereo", 6: "5.1"}[len(np.atleast_2d(sound))]
        return container.add_stream(self.sound_codec, rate=self.sound_rate_hz, layout=layout)

    def _write_sound(self, container, stream, sound: np.ndarray) -> None:
        sound = np.atleast_2d(sound).astype(np.float32)
        start = round(self.sound_start_sec * self.sound_rate_hz)
        converter = av.AudioResampler(format=stream.format, layout=stream.layout, rate=self.sound_rate_hz,
                                      frame_size=stream.frame_size or 1024)  # fmt: skip
        frame = av.AudioFrame.from_ndarray(sound.T.reshape(1, -1), format="flt", layout=stream.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = self.sound_rate_hz, start, Fraction(1, self.sound_rate_hz)
        for piece in [*converter.resample(frame), *converter.resample(None), None]:
            packets = stream.encode(piece)
            container.mux([packet for packet in packets if not self._is_cut(packet)])

    def _is_cut(self, packet) -> bool:
        if packet.pts is None:
            return False
        return any(begin <= packet.pts * packet.time_base < end for begin, end in self.cuts_sec)


def speech_like(n_samples: int, rate_hz: int, seed: int = 0) -> np.ndarray:
    """Noise below 4 kHz that no shift of itself resembles, float32 (n_samples,), peak 0.5."""
    noise = np.random.default_rng(seed).standard_normal(n_samples)
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(n_samples, 1 / rate_hz) > 4000] = 0
    low = np.fft.irfft(spectrum, n_samples)
    return (0.5 * low / np.abs(low).max()).astype(np.float32)


def lag_samples(first: np.ndarray, second: np.ndarray) -> int:
    """How many samples `second` is later than `first`, by the peak of their cross-correlation."""
    n_fft = 1 << (len(first) + len(second)).bit_length()
    product = np.conj(np.fft.rfft(first, n_fft)) * np.fft.rfft(second, n_fft)
    peak = int(np.argmax(np.fft.irfft(product, n_fft)))
    return peak if peak < n_fft // 2 else peak - n_fft


def numbers(path: Path, n_frames: int, **options) -> list[int | None]:
    """The numbers of the pictures that `read_pictures` gives, after a look at its frames' order."""
    shown = list(read_pictures(path, n_frames, **options))
    assert [frame for frame, _ in shown] == list(range(options.get("first_frame", 0), n_frames))
    return [number_of(picture) for _, picture in shown]


def wav_of(path: Path) -> np.ndarray:
    """What `extract_sound` writes, float32 (samples,), after a look at the file's kind."""
    target = path.parent / f"{path.name}.wav"
    n_samples = extract_sound(path, target).n_samples
    data, rate = soundfile.read(target, dtype="float32")
    assert (rate, data.shape, soundfile.info(target).subtype) == (16_000, (n_samples,), "FLOAT")
    return data
