"""The pictures of a video on the grid of 25 frames/s that sound, lips and embeddings share.

Time zero is the first sample of the sound. Grid frame k covers [k/25, (k+1)/25) s and shows the picture whose display
interval contains its middle, so that a file of 25 fps gives its own pictures one to one whatever the rounding of its time
stamps, and any other rate works alike. The grid has ceil(samples/640) frames of the sound at 16 kHz.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from utils.data.constants import VIDEO_FPS
from utils.errors import UserError
from utils.video.containers import decoded, ends_early, open_video, picture_stream, sound_start

_TILE = 16  # pixels; the conversion to RGB computes so many at once, a rest of them otherwise
_LARGE = 800_000  # pixels, from where parts are faster: those of smaller pictures keep the caller from its work
_RESTART_SEC = 1  # time stamps that go back further belong to another recording
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


class Picture:
    """A picture of which only the parts that are asked for become RGB: `picture[top:bottom, left:right]`, read-only.

    Attributes:
        shape: height, width, 3.
    """

    def __init__(self, frame: av.VideoFrame, conversion: "_Conversion") -> None:
        self._frame, self._conversion = frame, conversion
        self.shape = conversion.shape

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        return self._conversion.part(self._frame, *place)


def read_pictures(
    path: Path | str, n_frames: int, first_frame: int = 0, start_sec: Fraction = Fraction(0), in_parts: bool = False
) -> Iterator[tuple[int, np.ndarray | Picture | None]]:
    """The picture of each grid frame, in order, one decoded at a time.

    Where there is no sound, time zero is the first picture. The shape of pixels is not looked at: a picture is as wide as
    it is coded, as OpenCV has it. Pictures whose time goes back are left out, as players do, and named in the log.

    Args:
        path: the video.
        n_frames: the grid's frames; those after the last picture are given as None.
        first_frame: where to begin. All pictures before are decoded, too: seeks would be inexact in many containers, and
            decoding takes little beside what is done with the pictures.
        start_sec: where the grid's frame 0 begins, for a part of a video.
        in_parts: give large pictures as `Picture` instead of an array where that can be: conversion takes as long as decoding.

    Yields:
        (grid frame, RGB uint8 (height, width, 3) or None); read-only, and the same array for frames that show the same.

    Raises:
        UserError: not a video, encrypted, damaged, broken off, or its clock jumps.
    """
    start = sound_start(path)
    with open_video(path) as container:
        pictures = _timed(path, container, picture_stream(path, container), start)
        current, upcoming = None, next(pictures, None)
        if upcoming is None and n_frames > first_frame:
            raise UserError("holds no picture that could be decoded; give another video", path)
        conversion = shown = rgb = None
        for frame in range(first_frame, n_frames):
            middle_sec = start_sec + Fraction(2 * frame + 1, 2 * VIDEO_FPS)
            while upcoming is not None and upcoming.start_sec <= middle_sec:
                current, upcoming = upcoming, next(pictures, None)
                conversion = conversion or _Conversion(current.frame)
            if current is None or (upcoming is None and middle_sec >= current.end_sec):
                yield frame, None
                continue
            if shown is not current:
                is_whole = not in_parts or not conversion.is_worth_parts(current.frame)
                shown, rgb = current, conversion(current.frame) if is_whole else Picture(current.frame, conversion)
            yield frame, rgb


@dataclass(eq=False)
class _Picture:
    start_sec: Fraction  # on the grid's clock
    end_sec: Fraction  # where no other picture follows
    frame: av.VideoFrame


def _timed(path, container, stream, start: Fraction | None) -> Iterator[_Picture]:
    """The decoded pictures and their times; the first defines time zero where `start` is None."""
    nominal_sec = _nominal_sec(stream)
    last = delay = None
    for frame in decoded(path, container, stream):
        units = frame.pts
        if container.format.name == "avi":  # it has no times but the order of its packets, less the decoder's delay
            if delay is None and frame.dts is not None:
                delay = frame.dts - (stream.start_time or 0)
            units = None if frame.dts is None else frame.dts - delay
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
        last = _Picture(start_sec, start_sec + length_sec, frame)
        yield last


def _nominal_sec(stream) -> Fraction:
    """The length of a picture where nothing else says it."""
    rates = (stream.guessed_rate, stream.average_rate, stream.base_rate)
    return 1 / next((rate for rate in rates if rate and 1 <= rate <= 240), Fraction(VIDEO_FPS))


def _measured_sec(path: Path | str) -> float:
    """The length of all pictures, by their packets."""
    stamps = []
    with open_video(path) as container, suppress(av.FFmpegError):
        stream = picture_stream(path, container)
        nominal_sec, unit_sec = _nominal_sec(stream), stream.time_base
        for packet in container.demux(stream):
            if packet.size:
                stamps.append(packet.pts)
    known = [stamp for stamp in stamps if stamp is not None]
    return float((max(known) - min(known)) * unit_sec + nominal_sec if known else len(stamps) * nominal_sec)


class _Conversion:
    """Decoded frames as RGB arrays of the size of the first one, turned as a player would show them.

    Attributes:
        shape: of the arrays.
    """

    def __init__(self, first: av.VideoFrame) -> None:
        self._width, self._height, self._turn = first.width, first.height, _turn(first)
        self.shape = (self._width, self._height, 3) if self._turn[0] else (self._height, self._width, 3)
        self._reformatter, self._pieces = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        how = "AREA" if self._height < frame.height else "BILINEAR"
        size = (self._width, self._height)
        rgb = self._reformatter.reformat(frame, *size, "rgb24", interpolation=how, threads=1).to_ndarray()
        transposed, mirrored, upended = self._turn
        rgb = rgb.transpose(1, 0, 2) if transposed else rgb
        rgb = np.ascontiguousarray(rgb[:: -1 if upended else 1, :: -1 if mirrored else 1])
        rgb.flags.writeable = False
        return rgb

    def is_worth_parts(self, frame: av.VideoFrame) -> bool:
        """Tell if `part` may be used: a large picture whose planes can be cut without resampling."""
        width, height = frame.width, frame.height
        is_plain = (width, height) == (self._width, self._height) and not any(self._turn) and frame.format.name == "yuv420p"
        is_even = width % 2 == 0 and height % 2 == 0
        return width * height >= _LARGE and is_plain and is_even and all(each.line_size > 0 for each in frame.planes)

    def part(self, frame: av.VideoFrame, rows: slice, columns: slice) -> np.ndarray:
        """The same pixels as of the whole, converted alone."""
        bounds = [(int(each.start) // _TILE * _TILE, -(-int(each.stop) // _TILE) * _TILE) for each in (rows, columns)]
        (top, bottom), (left, right) = bounds
        bottom, right = min(bottom, frame.height), min(right, frame.width)
        planes = []
        for plane, every in zip(frame.planes, (1, 2, 2), strict=True):
            pixels = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            planes.append(pixels[top // every : bottom // every, left // every : right // every].ravel())
        height, width = bottom - top, right - left
        piece = av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(-1, width), format="yuv420p")
        piece.colorspace, piece.color_range = frame.colorspace, frame.color_range
        how = {"interpolation": "BILINEAR", "threads": 1}
        rgb = self._pieces.reformat(piece, width, height, "rgb24", **how).to_ndarray()
        return rgb[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Tell if rows and columns are exchanged, then left and right mirrored, then top and bottom."""
    data = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if data is None:
        return False, False, False
    x_by_x, y_by_x, _, x_by_y, y_by_y = np.frombuffer(data, np.int32)[:5].tolist()
    if abs(x_by_x) >= abs(x_by_y):
        return False, x_by_x < 0, y_by_y < 0
    return True, x_by_y < 0, y_by_x < 0
