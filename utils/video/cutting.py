"""Parts of a video as files of their own, cut by exact seconds: pictures at 25 frames/s as mp4, sound at 16 kHz as wav.

The two files of a part begin together. The seconds are those of the video's sound, as everywhere in this recipe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from utils.data.audio import read_audio, write_wav
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.files import atomic_path
from utils.errors import UserError
from utils.video.decoding import read_pictures
from utils.video.sound import extract_sound

_MOST_WITHOUT_FRAMES = 12  # of a part, that repeat the picture before; a face that stands still says nothing
_ENCODER, _QUALITY = "libx264", {"crf": "18", "preset": "veryfast"}


@dataclass(frozen=True)
class Part:
    """A part of a video, and where it goes."""

    start_sec: Fraction
    n_frames: int  # of 25 frames/s
    video_path: Path  # mp4, without sound
    audio_path: Path  # wav, float32


def cut_parts(path: Path, parts: Sequence[Part], work_dir: Path) -> list[str]:
    """Write parts of a video, each whole or not at all.

    Args:
        path: the video.
        parts: what to cut.
        work_dir: gets the sound of the whole video while it is cut.

    Returns:
        For each part the reason why it could not be cut, "" where it was.

    Raises:
        UserError: the video cannot be read, or has no sound.
    """
    whole = work_dir / "sound.wav"
    n_there = extract_sound(path, whole).n_samples
    reasons = []
    for part in parts:
        start, length = round(part.start_sec * SAMPLE_RATE_HZ), round(Fraction(part.n_frames, VIDEO_FPS) * SAMPLE_RATE_HZ)
        if start + length > n_there:
            lasts_sec = n_there / SAMPLE_RATE_HZ
            reasons.append(f"ends at {float(part.start_sec) + part.n_frames / VIDEO_FPS:.2f} s, the video at {lasts_sec:.2f} s")
            continue
        samples = read_audio(whole, start, length, SAMPLE_RATE_HZ)
        if not np.any(samples):
            reasons.append("silent")
            continue
        try:
            _write_pictures(path, part)
        except UserError as error:
            reasons.append(str(error).removeprefix(f"{path}: "))
            continue
        write_wav(part.audio_path, samples, SAMPLE_RATE_HZ)
        reasons.append("")
    whole.unlink()
    return reasons


def _write_pictures(path: Path, part: Part) -> None:
    with atomic_path(part.video_path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = None
        last, n_without = None, 0
        for frame, picture in read_pictures(path, part.n_frames, start_sec=part.start_sec):
            n_without += picture is None
            picture = last if picture is None else picture
            if picture is None or n_without > _MOST_WITHOUT_FRAMES:
                raise UserError(f"shows no picture at {float(part.start_sec) + frame / VIDEO_FPS:.2f} s")
            if stream is None:
                height, width = (side // 2 * 2 for side in picture.shape[:2])  # the encoder takes even sides
                stream = container.add_stream(_ENCODER, rate=VIDEO_FPS, options=_QUALITY)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            shown.pts, last = frame, picture
            container.mux(stream.encode(shown))
        container.mux(stream.encode())
