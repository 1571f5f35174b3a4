"""Pictures for people to look at: a video again with one voice and a frame around its face, and a small picture of a face."""

from collections.abc import Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile

from utils.data.audio import probe_audio
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.files import atomic_path
from utils.errors import UserError
from utils.video.decoding import probe_video, read_pictures

_FRAME_SAMPLES = SAMPLE_RATE_HZ // VIDEO_FPS
_COLOUR = (64, 220, 96)  # RGB of the frame around the face
_MARGIN = 0.25  # of the face's size, that a thumbnail shows on each side


def write_preview(
    video_path: Path | str,
    wav_path: Path | str,
    out_path: Path | str,
    boxes: Mapping[int, np.ndarray],
    n_frames: int,
    max_height: int = 480,
) -> None:
    """Write the video again as mp4 of 25 fps, with a rectangle around one person's face and that person's voice.

    Frames for which the video has no picture are black. One picture is in memory at a time.

    Args:
        video_path: the video.
        wav_path: 16 kHz, mono, of the video's clock; what is beyond `n_frames` is left out, what is short is silent.
        out_path: the mp4; made whole or not at all.
        boxes: frame -> x0, y0, x1, y1 of the face, in pixels of the video as it is; without the frames in which it is absent.
        n_frames: of the grid of 25 fps.
        max_height: higher pictures are scaled down to this, px.

    Raises:
        UserError: the video or the sound cannot be read.
    """
    info, sound = probe_video(video_path), probe_audio(wav_path)
    if (sound.sample_rate, sound.channels) != (SAMPLE_RATE_HZ, 1):
        found = f"{sound.channels} channels at {sound.sample_rate} Hz"
        raise UserError(f"{found} where one at {SAMPLE_RATE_HZ} Hz is expected; convert it first", wav_path)
    scale = min(1.0, max_height / info.height)
    size = _even(info.width * scale), _even(info.height * scale)
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(out_path))
        voice = stack.enter_context(soundfile.SoundFile(str(wav_path)))
        container = stack.enter_context(av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}))
        pictures, sounds = _add_streams(container, size)
        for frame, picture in read_pictures(video_path, n_frames, max_height=max_height):
            canvas = _canvas(picture, size)
            if frame in boxes and picture is not None:
                _draw_box(canvas, np.asarray(boxes[frame]) * scale)
            container.mux(pictures.encode(_picture_frame(canvas, frame)))
            container.mux(sounds.encode(_sound_frame(voice, frame)))
        container.mux(pictures.encode(None))
        container.mux(sounds.encode(None))


def save_thumbnail(picture: np.ndarray, box: np.ndarray, path: Path | str, size: int = 160) -> None:
    """Write a square picture of a face with some margin, as PNG or JPEG by the path's suffix.

    At the borders the square is moved inwards; where the picture is too small for it, it is made smaller.

    Args:
        picture: RGB uint8 (height, width, 3).
        box: x0, y0, x1, y1 of the face, px; may reach beyond the picture.
        path: the file; made whole or not at all.
        size: of the result, px.
    """
    x, y, side = _square(np.asarray(box, dtype=np.float64), picture.shape[0], picture.shape[1])
    cut = picture[y : y + side, x : x + side]
    how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    small = cv2.resize(cut, (size, size), interpolation=how)
    done, data = cv2.imencode(Path(path).suffix, cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    assert done, f"OpenCV cannot write {path}"
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _square(box: np.ndarray, height: int, width: int) -> tuple[int, int, int]:
    """Left, top and side of the square around a face, inside the picture."""
    longest = max(box[2] - box[0], box[3] - box[1])
    side = max(1, min(round(longest * (1 + 2 * _MARGIN)), height, width))
    left, top = (box[:2] + box[2:] - side) / 2
    return min(max(round(left), 0), width - side), min(max(round(top), 0), height - side), side


def _even(length: float) -> int:
    """The largest even number of pixels that fits: H.264 halves the colours' resolution."""
    return max(2, int(length + 0.5) // 2 * 2)


def _add_streams(container, size: tuple[int, int]):
    """The pictures' and the sound's stream of an mp4."""
    if "libx264" in av.codecs_available:  # some builds of FFmpeg leave it out for its licence
        pictures = container.add_stream("libx264", rate=VIDEO_FPS, options={"preset": "veryfast", "crf": "23"})
    else:
        pictures = container.add_stream("mpeg4", rate=VIDEO_FPS, options={"qscale": "4"})
    pictures.width, pictures.height = size
    pictures.pix_fmt = "yuv420p"
    sounds = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
    sounds.bit_rate = 64_000
    return pictures, sounds


def _canvas(picture: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """A picture of the even size that can be drawn on: less its odd row or column; black for None."""
    width, height = size
    part = np.zeros((0, 0, 3), np.uint8) if picture is None else picture[:height, :width]
    return np.pad(part, [(0, height - part.shape[0]), (0, width - part.shape[1]), (0, 0)])


def _draw_box(canvas: np.ndarray, box: np.ndarray) -> None:
    """The outline of a box, clipped at the borders."""
    height, width = canvas.shape[:2]
    thick = max(2, height // 160)
    x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
    for left, top, right, bottom in (
        (x0, y0, x1, y0 + thick),
        (x0, y1 - thick, x1, y1),
        (x0, y0, x0 + thick, y1),
        (x1 - thick, y0, x1, y1),
    ):
        canvas[max(0, top) : max(0, min(height, bottom)), max(0, left) : max(0, min(width, right))] = _COLOUR


def _picture_frame(canvas: np.ndarray, frame: int) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(canvas, format="rgb24")
    picture.pts, picture.time_base = frame, Fraction(1, VIDEO_FPS)
    return picture


def _sound_frame(voice: soundfile.SoundFile, frame: int) -> av.AudioFrame:
    """The sound of one grid frame, silent beyond the end, within full scale."""
    samples = np.clip(voice.read(_FRAME_SAMPLES, dtype="float32", fill_value=0.0), -1.0, 1.0)
    sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    sound.sample_rate = SAMPLE_RATE_HZ
    sound.pts, sound.time_base = frame * _FRAME_SAMPLES, Fraction(1, SAMPLE_RATE_HZ)
    return sound
