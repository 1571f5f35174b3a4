"""Lips drawn from their landmarks, and the opening of a mouth over time, to look at."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from utils.data.files import atomic_path
from utils.voice_to_mouth.motion import opening

PANEL_SIZE = 256  # pixels
_PIXELS = 32.0  # for each unit of the landmarks: ten pixels of a mouth crop
_OUTER, _INNER = slice(0, 12), slice(12, 20)
_SKIN, _LIPS, _MOUTH, _TEXT = (232, 205, 184), (178, 70, 84), (66, 22, 30), (40, 40, 40)  # RGB
_FRACTION_BITS = 4


def draw_lips(shape: np.ndarray, title: str = "") -> np.ndarray:
    """A picture of lips.

    Args:
        shape: landmarks (40,), x and y of 20 points around their middle, in tens of pixels of a mouth crop; zeros draw none.
        title: above them.

    Returns:
        RGB uint8 (PANEL_SIZE, PANEL_SIZE, 3).
    """
    picture = np.full((PANEL_SIZE, PANEL_SIZE, 3), _SKIN, np.uint8)
    if np.any(shape):
        points = np.asarray(shape, np.float64).reshape(-1, 2) * _PIXELS + PANEL_SIZE / 2
        fixed = np.rint(points * (1 << _FRACTION_BITS)).astype(np.int32)
        for part, colour in ((_OUTER, _LIPS), (_INNER, _MOUTH)):
            cv2.fillPoly(picture, [fixed[part]], colour, cv2.LINE_AA, _FRACTION_BITS)
    if title:
        cv2.putText(picture, title, (12, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.6, _TEXT, 1, cv2.LINE_AA)
    return picture


def write_lips_video(path: Path, wav_path: Path, shapes: dict[str, np.ndarray]) -> None:
    """Write an mp4 of drawn lips beside each other, with the sound.

    Args:
        path: the mp4; made whole or not at all.
        wav_path: 16 kHz, mono.
        shapes: title -> landmarks (frames, 40) at 25 frames/s, all of one length.
    """
    from utils.video.preview import write_video  # brings PyAV

    pictures = (
        np.concatenate([draw_lips(frame, title) for title, frame in zip(shapes, frames, strict=True)], axis=1)
        for frames in zip(*shapes.values(), strict=True)
    )
    write_video(path, pictures, wav_path, PANEL_SIZE * len(shapes), PANEL_SIZE)


def draw_openings(path: Path, panels: Sequence[tuple[str, np.ndarray, np.ndarray | None]], fps: float) -> None:
    """Draw the opening of mouths over time, prediction and truth, as PNG.

    Args:
        path: the picture.
        panels: title, estimate and truth (frames, 40) of each.
        fps: frames each second.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.9 * len(panels) + 0.6), layout="constrained")
    for panel, (title, estimate, true) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        for label, shapes, colour in (("seen", true, "tab:grey"), ("from the voice", estimate, "tab:red")):
            if shapes is not None:
                heights = opening(torch.from_numpy(shapes)).numpy()
                heights[~shapes.any(axis=1)] = np.nan
                panel.plot((np.arange(len(shapes)) + 0.5) / fps, heights, label=label, color=colour)
        panel.set_title(title, fontsize="small", parse_math=False)
        panel.set_ylabel("opening")
        panel.grid(alpha=0.3)
    panel.set_xlabel("seconds")
    panel.legend(frameon=False, fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
