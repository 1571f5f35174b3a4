"""The pictures of a video on the grid of 25 frames/s that sound, lips and embeddings share.

Time zero is the first sample of the sound. Grid frame k covers [k/25, (k+1)/25) s and shows the picture whose display
interval contains its middle, so that a file of 25 fps gives its own pictures one to one whatever the rounding of its time
stamps, and any other rate works alike. The grid has ceil(samples/640) frames of the sound at 16 kHz.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from utils.data.constants import VIDEO_FPS
from utils.errors import UserError
from utils.video.containers import decoded, ends_early, open_video, packets_of, picture_stream, sound_start

_RESTART_SEC = 1  # time stamps that go back further belong to another recording
_EXACT_SEEKS = ("mov", "matroska")  # containers that have an index and a time for every picture
_FIRST_STEP_SEC = 1  # how far before the wanted time a second try of a seek begins; then twice as far, and so on
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """The facts of a video."""

    width: int  # px, as shown: after the turn
    height: int
    fps: float  # on average
    n_pictures: int | None  # None where the container does not say
    duration_sec: float


def probe_video(path: Path | str) -> VideoInfo:
    """Read the facts of a video; its first picture is decoded to see that it can be.

    Raises:
        UserError: not a video, no pictures, encrypted, broken off, empty.
    """
    with open_video(path) as container:
        stream = picture_stream(path, container)
        if ends_early(path, container.format.name):
            raise UserError("breaks off: shorter than it says itself; copy it again", path)
        first = next(decoded(path, container, stream), None)
        if first is None:
            raise UserError("holds no picture; give a video", path)
        transposed = _turn(first)[0]
        return VideoInfo(
            width=first.height if transposed else first.width,
            height=first.width if transposed else first.height,
            fps=float(1 / _nominal_sec(stream)),
            n_pictures=stream.frames or None,
            duration_sec=container.duration / av.time_base if container.duration else _measured_sec(path),
        )


def read_pictures(
    path: Path | str, n_frames: int, first_frame: int = 0, max_height: int | None = None
) -> Iterator[tuple[int, np.ndarray | None]]:
    """The picture of each grid frame, in order, one decoded at a time.

    Where there is no sound, time zero is the first picture. The shape of pixels is not looked at: a picture is as wide as
    it is coded, as OpenCV has it. Pictures whose time goes back are left out, as players do, and
    named in the log.

    Args:
        path: the video.
        n_frames: the grid's frames; those after the last picture are given as None.
        first_frame: where to begin; the pictures are those that decoding from the start would give.
        max_height: higher pictures are scaled down to this, px.

    Yields:
        (grid frame, RGB uint8 (height, width, 3) or None); read-only, and the same array for frames that show the same.

    Raises:
        UserError: not a video, encrypted, damaged, broken off, or its clock jumps.
    """
    start = sound_start(path)
    pictures = _pictures_from(path, start, _middle(first_frame) if first_frame else None)
    current, upcoming = None, next(pictures, None)
    if upcoming is None and n_frames > first_frame:
        raise UserError("holds no picture that could be decoded; give another video", path)
    conversion = None
    shown: tuple[int, np.ndarray] | None = None  # the picture converted last, by its number
    for frame in range(first_frame, n_frames):
        while upcoming is not None and upcoming.start_sec <= _middle(frame):
            current, upcoming = upcoming, next(pictures, None)
        if current is None or (upcoming is None and _middle(frame) >= current.end_sec):
            yield frame, None
            continue
        if shown is None or shown[0] != current.number:
            conversion = conversion or _Conversion(current.frame, max_height)
            shown = current.number, conversion(current.frame)
        yield frame, shown[1]


def _middle(frame: int) -> Fraction:
    return Fraction(2 * frame + 1, 2 * VIDEO_FPS)


@dataclass
class _Picture:
    number: int
    start_sec: Fraction  # on the grid's clock
    end_sec: Fraction  # where no other picture follows
    frame: av.VideoFrame


def _pictures_from(path, start: Fraction | None, wanted_sec: Fraction | None) -> Iterator[_Picture]:
    """The pictures from the one that is shown at `wanted_sec` or an earlier one; from the first where it is None."""
    if wanted_sec is not None and start is not None:
        with open_video(path) as container:
            exact = container.format.name.startswith(_EXACT_SEEKS)
        found = (_sought if exact else _skipped)(path, start, wanted_sec)
        first = next(found, None)
        if first is not None and first.start_sec <= wanted_sec:
            yield first
            yield from found
            return
    with open_video(path) as container:
        yield from _timed(path, container, picture_stream(path, container), start)


def _sought(path, start: Fraction, wanted_sec: Fraction) -> Iterator[_Picture]:
    """The pictures from a key picture that is shown at `wanted_sec` or before; nothing where seeking finds none."""
    step_sec = Fraction(0)
    while step_sec <= wanted_sec + _FIRST_STEP_SEC:
        with open_video(path) as container:
            stream = picture_stream(path, container)
            try:
                container.seek(int((start + wanted_sec - step_sec) / stream.time_base), stream=stream, backward=True)
            except av.FFmpegError:  # then without
                return
            pictures = _from_key_picture(_timed(path, container, stream, start))
            first = next(pictures, None)
            if first is not None and first.start_sec <= wanted_sec:
                yield first
                yield from pictures
                return
        step_sec = 2 * step_sec or Fraction(_FIRST_STEP_SEC)


def _skipped(path, start: Fraction, wanted_sec: Fraction) -> Iterator[_Picture]:
    """The same by reading packets from the start without decoding them.

    After a seek in an MPEG program stream the demuxer gives times of other pictures: most have none of their own.
    """
    n_skipped = 0
    with open_video(path) as container:
        stream = picture_stream(path, container)
        if container.format.name == "avi":  # its clock is a count of decoded pictures
            return
        last_units = (start + wanted_sec) / stream.time_base
        for number, packet in enumerate(packets_of(container, stream)):
            if packet is None or (packet.dts is not None and packet.dts > last_units):
                break
            if packet.is_keyframe and packet.pts is not None and packet.pts <= last_units:
                n_skipped = number
    with open_video(path) as container:
        yield from _from_key_picture(_timed(path, container, picture_stream(path, container), start, n_skipped))


def _from_key_picture(pictures: Iterator[_Picture]) -> Iterator[_Picture]:
    """Without what comes before the first picture that needs no other, and which says when it is shown."""
    for picture in pictures:
        if picture.frame.key_frame and picture.frame.pts is not None:
            yield picture
            yield from pictures


def _timed(path, container, stream, start: Fraction | None, n_skipped: int = 0) -> Iterator[_Picture]:
    """The decoded pictures and their times, less so many packets; the first defines time zero where `start` is None."""
    nominal_sec = _nominal_sec(stream)
    stamp = _counted_stamp(stream) if container.format.name == "avi" else (lambda frame: frame.pts)
    last = None
    for number, frame in enumerate(decoded(path, container, stream, n_skipped)):
        units = stamp(frame)
        if units is not None:
            time_sec = units * stream.time_base
        elif last is not None:
            time_sec = last.start_sec + start + nominal_sec
        else:
            time_sec = (stream.start_time or 0) * stream.time_base
        start = time_sec if start is None else start
        start_sec = time_sec - start
        if last is not None and start_sec < last.start_sec - _RESTART_SEC:
            raise UserError(
                f"the clock of its pictures jumps back by {float(last.start_sec - start_sec):.1f} s at "
                f"{float(last.start_sec):.2f} s, as where recordings were joined end to end; convert it to mp4 first",
                path,
            )
        if last is not None and start_sec < last.start_sec:
            _log.warning("%s: a picture that comes too late, at %.2f s, was left out", path, float(start_sec))
            continue
        length_sec = max(frame.duration * stream.time_base, nominal_sec)
        last = _Picture(number, start_sec, start_sec + length_sec, frame)
        yield last


def _counted_stamp(stream):
    """For AVI, which has no times but the order of its packets: that of a picture is its packet's, less the decoder's delay."""
    delay = None

    def stamp(frame: av.VideoFrame) -> int | None:
        nonlocal delay
        if frame.dts is None:
            return None
        if delay is None:
            delay = frame.dts - (stream.start_time or 0)
        return frame.dts - delay

    return stamp


def _nominal_sec(stream) -> Fraction:
    """The length of a picture where nothing else says it."""
    rates = (stream.guessed_rate, stream.average_rate, stream.base_rate)
    return 1 / next((rate for rate in rates if rate and 1 <= rate <= 240), Fraction(VIDEO_FPS))


def _measured_sec(path) -> float:
    """The length of all pictures, by their packets."""
    with open_video(path) as container:
        stream = picture_stream(path, container)
        stamps = [packet.pts for packet in packets_of(container, stream) if packet is not None and packet.size]
        known = [stamp for stamp in stamps if stamp is not None]
        nominal_sec = _nominal_sec(stream)
        length_sec = (max(known) - min(known)) * stream.time_base + nominal_sec if known else len(stamps) * nominal_sec
        return float(length_sec)


class _Conversion:
    """Decoded frames as RGB arrays of one size, turned as a player would show them.

    Args:
        first: a frame of the video, for size and turn.
        max_height: px, of the turned picture.
    """

    def __init__(self, first: av.VideoFrame, max_height: int | None) -> None:
        self.transposed, self.mirrored, self.upended = _turn(first)
        height = first.width if self.transposed else first.height
        scale = Fraction(1) if max_height is None or height <= max_height else Fraction(max_height, height)
        self.width, self.height = max(1, round(first.width * scale)), max(1, round(first.height * scale))
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        how = "AREA" if self.height < frame.height else "BILINEAR"
        rgb = self._reformatter.reformat(frame, self.width, self.height, "rgb24", interpolation=how, threads=1).to_ndarray()
        if self.transposed:
            rgb = rgb.transpose(1, 0, 2)
        if self.mirrored:
            rgb = rgb[:, ::-1]
        if self.upended:
            rgb = rgb[::-1]
        rgb = np.ascontiguousarray(rgb)
        rgb.flags.writeable = False
        return rgb


def _turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Tell if rows and columns are exchanged, then left and right mirrored, then top and bottom."""
    data = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if data is None:
        return False, False, False
    x_by_x, y_by_x, _, x_by_y, y_by_y = np.frombuffer(data, np.int32)[:5].tolist()
    if abs(x_by_x) >= abs(x_by_y):
        return False, x_by_x < 0, y_by_y < 0
    return True, x_by_y < 0, y_by_x < 0
