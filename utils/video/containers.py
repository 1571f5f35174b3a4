"""Video files opened with PyAV: the streams that count, their decoded frames, and what is wrong with a file, in one line.

Only containers of moving pictures are opened, and only from disk: play lists, scripts of the `concat` kind and texts, which
FFmpeg would take for videos too, could name other files or addresses.
"""

import logging
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from av.stream import Disposition

from utils.errors import UserError

_CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,live_flv,asf,ogg,nut,mxf,gxf,dv,rm,ivf,wtv,nsv,swf,gif,m4v,h264,hevc,obu,"
    "av1,yuv4mpegpipe,wav,mp3,flac,aac,aiff,au,amr,ac3,eac3,caf,w64,ape,wv,mpc,tta,dts,truehd,tak"  # of sound alone
)
_STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_CHECKED_FRAMES = 256  # of sound, that are asked for their time before the stream's own start is believed
_log = logging.getLogger(__name__)


def open_video(path: Path | str) -> av.container.InputContainer:
    """Open a file; close what you get.

    Raises:
        UserError: no such file, a folder, empty, or nothing that could be decoded as a video.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError("a folder where a video is expected; name a file", path)
    try:
        if path.stat().st_size == 0:
            raise UserError("an empty file; copy it again", path)
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        return av.open(f"file:{path}", "r", options=options, metadata_errors="replace")
    except FileNotFoundError:
        raise UserError("no such file", path) from None
    except OSError as error:  # those of FFmpeg are, as well, where the system has a number for them
        raise UserError(f"cannot be opened ({error.strerror})", path) from None
    except (av.FFmpegError, ValueError):
        reason = "not a video that can be decoded, or one that was cut off; copy it again or convert it to mp4"
        raise UserError(reason, path) from None


def picture_stream(path: Path | str, container: av.container.InputContainer) -> av.video.stream.VideoStream:
    """The stream of moving pictures: the default one, else the first; covers and thumbnails are none.

    Raises:
        UserError: there is none, or no decoder for it.
    """
    moving = [stream for stream in container.streams.video if not stream.disposition & _STILL]
    if not moving:
        only = "only a still picture" if container.streams.video else "sound or other data"
        raise UserError(f"has no moving pictures, {only}; give a video", path)
    usable = _preferred(moving)
    if not usable or not usable[0].codec_context.width:
        raise UserError("its pictures are of a kind that cannot be decoded; convert it to mp4 (H.264)", path)
    stream = usable[0]
    stream.thread_type = "AUTO"
    return stream


def sound_streams(container: av.container.InputContainer) -> list[av.audio.stream.AudioStream]:
    """The streams of sound that can be decoded, in the order in which they are preferred: the default one first."""
    return _preferred(container.streams.audio)


def _preferred(streams):
    usable = [stream for stream in streams if stream.codec_context is not None]
    return sorted(usable, key=lambda stream: not stream.disposition & Disposition.default)


def decoded(path: Path | str, container, stream) -> Iterator[av.frame.Frame]:
    """The frames of a stream, to its end, in the order in which they are presented.

    Single packets that cannot be decoded are left out, as players do, and counted in the log.

    Raises:
        UserError: encrypted; nothing, or less than half, could be decoded; the file breaks off, after the frames
            that are there.
    """
    n_damaged, n_good, last_sec, complete = 0, 0, None, True
    packets = container.demux(stream)
    try:
        while complete:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.FFmpegError:
                complete = False
                packet = av.packet.Packet()  # an empty packet makes a decoder give what it still holds
                packet.stream = stream
            if packet.has_sidedata("encryption_info"):
                raise UserError("encrypted; give a video without copy protection", path)
            try:
                frames = packet.decode()
            except av.FFmpegError:
                n_damaged += 1
                continue
            for frame in frames:
                n_good += 1
                last_sec = float(frame.pts * stream.time_base) if frame.pts is not None else last_sec
                yield frame
    finally:
        if n_damaged:
            _log.warning("%s: damaged packets of its %s that were left out: %d", path, stream.type, n_damaged)
    if not complete or ends_early(path, container.format.name):
        began_sec = (container.start_time or 0) / av.time_base
        where = "before anything could be decoded" if last_sec is None else f"at {last_sec - began_sec:.2f} s"
        raise UserError(f"breaks off {where}; copy it again, or convert what is there to another file", path)
    if n_damaged > n_good:
        kind = {"video": "pictures", "audio": "sound"}[stream.type]
        raise UserError(f"{n_damaged} packets of its {kind} cannot be decoded ({n_good} can); damaged or encrypted", path)


def sound_start(path: Path | str) -> Fraction | None:
    """The time of the first sample of the sound on the file's own clock, s; None where there is no sound.

    It is that of the preferred stream, whichever is taken later: all streams of a file share its clock.

    Raises:
        UserError: as `open_video`, and where the sound cannot be decoded.
    """
    with open_video(path) as container:
        indices = [stream.index for stream in sound_streams(container)]
    for index in indices:
        with open_video(path) as container:
            stream = container.streams[index]
            before_sec = Fraction(0)  # of the frames that do not say when they begin
            for frame in islice(decoded(path, container, stream), _CHECKED_FRAMES):
                if frame.pts is not None:
                    return frame.pts * stream.time_base - before_sec
                before_sec += Fraction(frame.samples, frame.sample_rate)
            if before_sec:
                return (stream.start_time or 0) * stream.time_base
    return None


def ends_early(path: Path | str, format_name: str) -> bool:
    """Tell if a file is shorter than its own outermost structure says; False where a container does not say."""
    size = os.stat(path).st_size
    with open(path, "rb") as handle:
        if format_name.startswith("matroska"):
            return _segment_end(handle) > size
        if format_name.startswith("mov") or format_name == "avi":
            return _parts_end(handle, size, is_avi=format_name == "avi") > size
    return False


def _parts_end(handle, size: int, is_avi: bool) -> int:
    """The end of the last box of an MP4 or QuickTime file, or of the last RIFF chunk of an AVI file."""
    end = 0
    while end + 8 <= size:
        handle.seek(end)
        if is_avi:
            kind, length = struct.unpack("<4sI", handle.read(8))
            is_part = kind == b"RIFF" and length not in (0, 0xFFFFFFFF)  # never finished by the recorder
            length += 8
        else:
            length, kind = struct.unpack(">I4s", handle.read(8))
            length = int.from_bytes(handle.read(8), "big") if length == 1 else length
            is_part = length >= 8 and kind.isascii()  # 0: as long as the file
        if not is_part:  # or something that was appended
            return end
        end += length
    return end


def _segment_end(handle) -> int:
    """The end of the segment of a Matroska or WebM file, 0 where it does not say (live recordings)."""
    for wanted in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # the header, then the segment
        if handle.read(4) != wanted:
            return 0
        first = handle.read(1)
        if not first or not first[0]:
            return 0
        n_bytes = 9 - first[0].bit_length()  # the leading zeros tell how long the number is
        rest = handle.read(n_bytes - 1)
        length = int.from_bytes(first + rest, "big") & ((1 << 7 * n_bytes) - 1)
        if len(rest) < n_bytes - 1 or length == (1 << 7 * n_bytes) - 1:
            return 0
        handle.seek(length, os.SEEK_CUR)
    return handle.tell()
