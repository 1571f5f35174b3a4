"""Pictures for people to look at: a video again with frames around faces, with one voice or none; a small picture of a face."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile

from utils.data.audio import probe_audio
from utils.data.constants import FACE_COLOURS, SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.files import atomic_path
from utils.data.progress import progress_bar
from utils.errors import UserError
from utils.video.decoding import Picture, probe_video, read_pictures

_FRAME_SAMPLES = SAMPLE_RATE_HZ // VIDEO_FPS
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
    pictures, width, height = _framed(video_path, [boxes], n_frames, max_height)
    write_video(out_path, pictures, wav_path, width, height)


def write_faces_preview(
    video_path: Path | str,
    out_path: Path | str,
    faces: Sequence[Mapping[int, np.ndarray]],
    n_frames: int,
    max_height: int = 480,
) -> None:
    """Write the video again as silent mp4 of 25 fps, with a numbered rectangle around each face, the first is number 1.

    Args:
        video_path: the video.
        out_path: the mp4; made whole or not at all.
        faces: the boxes of each person, as `write_preview` takes them.
        n_frames: of the grid of 25 fps.
        max_height: higher pictures are scaled down to this, px.

    Raises:
        UserError: the video cannot be read.
    """
    pictures, width, height = _framed(video_path, faces, n_frames, max_height, numbered=True)
    write_video(out_path, progress_bar(pictures, desc="preview", total=n_frames, unit="frame"), None, width, height)


def _framed(
    video_path: Path | str, faces: Sequence[Mapping[int, np.ndarray]], n_frames: int, max_height: int, numbered: bool = False
) -> tuple[Iterator[np.ndarray], int, int]:
    """The pictures of a video with a rectangle around each face, black where it has none; and their width and height, even."""
    info = probe_video(video_path)
    scale = min(1.0, max_height / info.height)
    width, height = (max(2, int(length * scale + 0.5) // 2 * 2) for length in (info.width, info.height))  # even, for H.264

    def pictures() -> Iterator[np.ndarray]:
        for frame, picture in read_pictures(video_path, n_frames):
            canvas = np.zeros((height, width, 3), np.uint8)
            if picture is not None:
                canvas = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
                for number, boxes in enumerate(faces, start=1):
                    if frame in boxes:
                        corners = np.rint(np.reshape(boxes[frame], (2, 2)) * (width / info.width, height / info.height))
                        _draw_frame(canvas, corners.astype(int).tolist(), number, numbered)
            yield canvas

    return pictures(), width, height


def _draw_frame(canvas: np.ndarray, corners: list[list[int]], number: int, numbered: bool) -> None:
    colour, (left, top), height = FACE_COLOURS[(number - 1) % len(FACE_COLOURS)], corners[0], len(canvas)
    cv2.rectangle(canvas, *corners, colour, max(2, height // 160))
    if numbered:
        size = max(14, height // 16)
        left, top = max(left, 0), max(top, 0)  # of the tag, which stays in the picture
        style = cv2.FONT_HERSHEY_SIMPLEX, size / 30, max(1, size // 12)
        (text_width, text_height), _ = cv2.getTextSize(str(number), *style)
        cv2.rectangle(canvas, (left, top), (left + max(size, text_width + size // 2), top + size), colour, cv2.FILLED)
        at = left + (max(size, text_width + size // 2) - text_width) // 2, top + (size + text_height) // 2
        cv2.putText(canvas, str(number), at, style[0], style[1], (0, 0, 0), style[2], cv2.LINE_AA)


def write_video(
    out_path: Path | str, pictures: Iterable[np.ndarray], wav_path: Path | str | None, width: int, height: int, crf: int = 23
) -> None:
    """Write pictures and a sound as mp4 of 25 fps; the sound ends with the pictures.

    Args:
        out_path: the mp4; made whole or not at all.
        pictures: RGB uint8 (height, width, 3).
        wav_path: 16 kHz, mono; where it is short there is silence. None: the file has no sound.
        width, height: even, px.
        crf: of H.264; smaller is better.

    Raises:
        UserError: the sound cannot be read.
    """
    if wav_path is not None and (sound := probe_audio(wav_path)) and (sound.sample_rate, sound.channels) != (SAMPLE_RATE_HZ, 1):
        found = f"{sound.channels} channels at {sound.sample_rate} Hz"
        raise UserError(f"{found} where one at {SAMPLE_RATE_HZ} Hz is expected; convert it first", wav_path)
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(out_path))
        voice = stack.enter_context(soundfile.SoundFile(str(wav_path))) if wav_path is not None else None
        container = stack.enter_context(av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}))
        if "libx264" in av.codecs_available:  # some builds of FFmpeg leave it out for its licence
            shown = container.add_stream("libx264", rate=VIDEO_FPS, options={"preset": "veryfast", "crf": str(crf)})
        else:
            shown = container.add_stream("mpeg4", rate=VIDEO_FPS, options={"qscale": "4"})
        shown.width, shown.height, shown.pix_fmt = width, height, "yuv420p"
        if voice is not None:
            heard = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
            heard.bit_rate = 64_000
        for frame, picture in enumerate(pictures):
            image = av.VideoFrame.from_ndarray(picture, format="rgb24")
            image.pts, image.time_base = frame, Fraction(1, VIDEO_FPS)
            container.mux(shown.encode(image))
            if voice is not None:
                samples = np.clip(voice.read(_FRAME_SAMPLES, dtype="float32", fill_value=0.0), -1.0, 1.0)  # within full scale
                piece = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
                piece.sample_rate, piece.time_base = SAMPLE_RATE_HZ, Fraction(1, SAMPLE_RATE_HZ)
                piece.pts = frame * _FRAME_SAMPLES
                container.mux(heard.encode(piece))
        container.mux(shown.encode(None))
        if voice is not None:
            container.mux(heard.encode(None))


def save_thumbnail(picture: np.ndarray | Picture, box: np.ndarray, path: Path | str, size: int = 160) -> None:
    """Write a square picture of a face with some margin, as PNG or JPEG by the path's suffix.

    At the borders the square is moved inwards; where the picture is too small for it, it is made smaller.

    Args:
        picture: RGB uint8 (height, width, 3).
        box: x0, y0, x1, y1 of the face, px; may reach beyond the picture.
        path: the file; made whole or not at all.
        size: of the result, px.
    """
    height, width = picture.shape[:2]
    box = np.asarray(box, dtype=np.float64)
    side = max(1, min(round(max(box[2:] - box[:2]) * (1 + 2 * _MARGIN)), height, width))
    left, top = (box[:2] + box[2:] - side) / 2
    x, y = min(max(round(left), 0), width - side), min(max(round(top), 0), height - side)
    how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    small = cv2.resize(picture[y : y + side, x : x + side], (size, size), interpolation=how)
    done, data = cv2.imencode(Path(path).suffix, cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    assert done, f"OpenCV cannot write {path}"
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())
