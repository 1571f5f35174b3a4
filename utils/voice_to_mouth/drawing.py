"""Faces drawn from their landmarks, in the picture where there is one, and the opening of a mouth over time, to look at."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, islice, repeat
from pathlib import Path

import cv2
import numpy as np
import torch

from utils.data.constants import MOUTH_SIZE
from utils.data.files import atomic_path
from utils.data.mouths import LIPS, MouthFile
from utils.embedding.landmarks import PIXELS
from utils.video.alignment import FACE_SIZE
from utils.voice_to_mouth.motion import opening

PANEL_SIZE = 320  # pixels, height of a panel; also its width where there is no picture
_LINES = [slice(0, 17), slice(17, 22), slice(22, 27), slice(27, 31), slice(31, 36)]  # jaw, brows, nose; iBUG 300-W
_RINGS = [slice(36, 42), slice(42, 48), slice(48, 60), slice(60, 68)]  # eyes, outer and inner lips
_OUTER, _INNER = _RINGS[2:]
_SKIN, _LIPS, _MOUTH, _TEXT, _DRAWN = (232, 205, 184), (178, 70, 84), (66, 22, 30), (40, 40, 40), (60, 230, 90)  # RGB
_FRACTION_BITS = 4


def draw_face(
    keypoints: np.ndarray, title: str = "", picture: np.ndarray | None = None, to_picture: np.ndarray | None = None
) -> np.ndarray:
    """A picture of a face.

    Args:
        keypoints: landmarks (136,), x and y of 68 points as `FaceKeypoints` gives them; zeros draw none.
        title: above them.
        picture: RGB uint8 (height, width, 3), to draw upon; None: a plain ground on which the mouth is filled.
        to_picture: (2, 3) as in a mouth file: where in the picture they belong; NaN: nowhere.

    Returns:
        RGB uint8 (PANEL_SIZE, width, 3).
    """
    points = np.asarray(keypoints, np.float64).reshape(-1, 2) * PIXELS
    if picture is None:
        panel = np.full((PANEL_SIZE, PANEL_SIZE, 3), _SKIN, np.uint8)
        points = (points + FACE_SIZE / 2) * (PANEL_SIZE / FACE_SIZE)
    else:
        scale = PANEL_SIZE / picture.shape[0]
        panel = cv2.resize(picture, (panel_width(picture), PANEL_SIZE), interpolation=cv2.INTER_AREA)
        points = (points @ to_picture[:, :2].T + to_picture[:, 2]) * scale
    if np.any(keypoints) and np.isfinite(points).all():
        fixed = np.rint(points * (1 << _FRACTION_BITS)).astype(np.int32)
        if picture is None:
            for ring, colour in ((_OUTER, _LIPS), (_INNER, _MOUTH)):
                cv2.fillPoly(panel, [fixed[ring]], colour, cv2.LINE_AA, _FRACTION_BITS)
        colour = _TEXT if picture is None else _DRAWN
        for places, is_closed in [*((line, False) for line in _LINES), *((ring, True) for ring in _RINGS)]:
            if picture is not None or places.start < LIPS.start:
                cv2.polylines(panel, [fixed[places]], is_closed, colour, 1, cv2.LINE_AA, _FRACTION_BITS)
    if title:
        cv2.putText(panel, title, (12, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.6, _TEXT, 3, cv2.LINE_AA)
        cv2.putText(panel, title, (12, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    return panel


def write_face_video(
    path: Path, wav_path: Path, faces: dict[str, np.ndarray], mouth_path: str = "", video_path: str = ""
) -> None:
    """Write an mp4 of drawn faces beside each other, with the sound.

    Args:
        path: the mp4; made whole or not at all.
        wav_path: 16 kHz, mono.
        faces: title -> landmarks (frames, 136) at 25 frames/s, all of one length.
        mouth_path: the mouth file of the clip, which says where in the picture they belong; "": they are on plain ground.
        video_path: the video that the mouths were cut from, "" where they were drawn.

    Raises:
        UserError: the video or the mouth file cannot be read.
    """
    from utils.video.preview import write_video  # brings PyAV

    n_frames = len(next(iter(faces.values())))
    width, shown = _pictures(mouth_path, video_path, n_frames)
    panels = (
        np.concatenate([draw_face(points[frame], title, *where) for title, points in faces.items()], axis=1)
        for frame, where in zip(range(n_frames), shown, strict=False)
    )
    write_video(path, panels, wav_path, width * len(faces), PANEL_SIZE)


def _pictures(
    mouth_path: str, video_path: str, n_frames: int
) -> tuple[int, Iterator[tuple[np.ndarray | None, np.ndarray | None]]]:
    """The width of a panel, and what each frame is drawn upon and where in it."""
    file = MouthFile(mouth_path) if mouth_path and Path(mouth_path).is_file() else None
    places, numbers = (file.extra.get(name) if file else None for name in ("to_picture", "picture_frame"))
    if places is None or (numbers is not None and not (video_path and Path(video_path).is_file())):
        return PANEL_SIZE, repeat((None, None))
    if numbers is not None:
        from utils.video.decoding import probe_video, read_pictures

        info = probe_video(video_path)
        blank = np.zeros((info.height, info.width, 3), np.uint8)
        late = round(float(np.nanmedian(numbers - np.arange(len(numbers)))))  # as stage 1 has corrected it
        missing = repeat(blank, max(-late, 0))  # before the video
        shown = (picture for _, picture in read_pictures(video_path, n_frames + late, max(late, 0)))
        pictures = chain(missing, shown)
    else:
        blank = np.zeros((MOUTH_SIZE, MOUTH_SIZE, 3), np.uint8)
        pictures = (np.repeat(crop[..., None], 3, axis=-1) for crop in file.all())
    held = accumulate(pictures, lambda last, picture: last if picture is None else picture, initial=blank)
    return panel_width(blank), zip(islice(held, 1, None), places, strict=False)


def panel_width(picture: np.ndarray) -> int:
    """The width of a panel with a picture, even, as the encoder wants it."""
    return round(picture.shape[1] * PANEL_SIZE / picture.shape[0] / 2) * 2


def draw_openings(path: Path, panels: Sequence[tuple[str, np.ndarray, np.ndarray | None]], fps: float) -> None:
    """Draw the opening of mouths over time, prediction and truth, as PNG.

    Args:
        path: the picture.
        panels: title, estimate and truth (frames, 136) of each.
        fps: frames each second.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.9 * len(panels) + 0.6), layout="constrained")
    for panel, (title, estimate, true) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        for label, points, colour in (("seen", true, "tab:grey"), ("from the voice", estimate, "tab:red")):
            if points is not None:
                heights = opening(torch.from_numpy(points)).numpy()
                heights[~points.any(axis=1)] = np.nan
                panel.plot((np.arange(len(points)) + 0.5) / fps, heights, label=label, color=colour)
        panel.set_title(title, fontsize="small", parse_math=False)
        panel.set_ylabel("opening")
        panel.grid(alpha=0.3)
    panel.set_xlabel("seconds")
    panel.legend(frameon=False, fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
