"""Alignment of faces to the mean face: the two published alignments of mouth crops, as transforms, without pictures.

Visual frontends know mouths from 96x96 crops of faces that were turned, scaled and shifted onto a mean face in a frame of
256x256. The published preprocessing did it in two ways, and a network wants the one that it was trained with:

- `centred8` (checkpoints since 2022): eight stable points, a robust similarity (least median of squares), landmarks
  averaged over up to 6 frames on either side, and the average moved back to where the face is now.
- `forward5` (before): five stable points, a similarity in least squares, landmarks averaged over the frame and the
  11 that follow; the last 11 frames keep the last transform.

Both put the crop's middle on the mean of the mouth's landmarks (`centred8`: of the averaged ones, `forward5`: of the
frame's own), rounded to whole pixels of that frame and kept inside it.

Where this differs from the published programs: they give nothing for less than 12 frames; here `centred8` needs no
exception and `forward5` averages over the whole run. They bridge gaps of any length; here longer ones end a run.
"""

from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np

from utils.data.constants import ALIGNMENTS, MOUTH_SIZE
from utils.data.faces import CHIP_POINTS, CHIP_SIZE

FACE_SIZE = 256  # pixels, height and width of the mean face's frame
_WINDOW_FRAMES = 12
_MAX_GAP_FRAMES = 12  # without landmarks that are bridged
_MOUTH = slice(48, 68)

# Where the stable points lie in the mean face of the published preprocessing (`20words_mean_face.npy`), x and y in
# pixels of its 256x256 frame, rounded to 0.01: bridge and tip of the nose, corners of the eyes and of the mouth.
_MEAN_FACE = {28: (128.49, 106.92), 33: (128.87, 137.30), 36: (92.52, 94.37), 39: (112.77, 94.94),
              42: (145.53, 94.53), 45: (166.68, 93.57), 48: (107.17, 157.20), 54: (152.19, 156.99)}  # fmt: skip
_STABLE = {"centred8": (28, 33, 36, 39, 42, 45, 48, 54), "forward5": (33, 36, 39, 42, 45)}


def mouth_transforms(frames: np.ndarray, points: np.ndarray, n_frames: int, alignment: str) -> np.ndarray:
    """The transforms that take the pictures of a video to the crops of a person's mouth.

    Gaps of up to 12 frames are interpolated; up to that many frames at the video's beginning and end repeat the nearest
    landmarks, as the published preprocessing does. Nothing is smoothed over longer gaps.

    Args:
        frames: int (n,), ascending; those at or after `n_frames` are of no interest.
        points: (n, 68, 2) pixels, finite.
        n_frames: of the video.
        alignment: one of `ALIGNMENTS`.

    Returns:
        float64 (n_frames, 2, 3), from a picture's pixels to those of its crop; NaN in frames without the face.
    """
    transforms, corners = mean_face_transforms(frames, points, n_frames, alignment)
    transforms[:, :, 2] -= corners
    return transforms


def mean_face_transforms(
    frames: np.ndarray, points: np.ndarray, n_frames: int, alignment: str
) -> tuple[np.ndarray, np.ndarray]:
    """The transforms that take the pictures of a video to the frame of the mean face, and where in it the crops lie.

    Args:
        frames, points, n_frames, alignment: as of `mouth_transforms`.

    Returns:
        float64 (n_frames, 2, 3), and the upper left corner of each crop of the mouth, float64 (n_frames, 2); NaN in frames
        without the face.
    """
    if alignment not in ALIGNMENTS:
        raise ValueError(f"alignment {alignment!r}: not one of {', '.join(ALIGNMENTS)}")
    transforms, corners = np.full((n_frames, 2, 3), np.nan), np.full((n_frames, 2), np.nan)
    needed = _needed(points, alignment)
    align = _centred if alignment == "centred8" else _forward
    reference = np.array([_MEAN_FACE[point] for point in _STABLE[alignment]])
    for start, run in _runs(frames, needed, n_frames):
        for k in range(len(run)):
            transforms[start + k], mouth = align(run, k, reference)
            corners[start + k] = _corner(transforms[start + k], mouth)
    return transforms, corners


class StreamingAlignment:
    """The mouth of a person whose landmarks come frame by frame: as `centred8`, averaged over the frames before only.

    Args:
        alignment: one of `ALIGNMENTS`, for its stable points.
    """

    def __init__(self, alignment: str) -> None:
        self._alignment = alignment
        self._reference = np.array([_MEAN_FACE[point] for point in _STABLE[alignment]])
        self._recent: deque[np.ndarray] = deque(maxlen=_WINDOW_FRAMES // 2 + 1)

    def forget(self) -> None:
        """Begin anew: the face was lost."""
        self._recent.clear()

    def add(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The next landmarks (68, 2), pixels: transform (2, 3) to the crop, and they as of `on_mean_face`."""
        self._recent.append(_needed(points[None], self._alignment)[0])
        to_face, mouth = _smoothed(np.stack(self._recent), self._recent[-1], self._reference)
        to_crop = to_face.copy()
        to_crop[:, 2] -= _corner(to_face, mouth)
        return to_crop, moved(points[None], to_face[None])[0] - FACE_SIZE / 2


def _needed(points: np.ndarray, alignment: str) -> np.ndarray:
    """Of landmarks (n, 68, 2) the stable points, and the means of the mouth and of the face: float64 (n, points, 2)."""
    means = [part.mean(axis=1, keepdims=True, dtype=np.float64) for part in (points[:, _MOUTH], points)]
    return np.concatenate([points[:, _STABLE[alignment]], *means], axis=1)


def _corner(to_face: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """The upper left corner of a crop in the mean face's frame; the mouth is a point of the picture."""
    half = MOUTH_SIZE // 2
    middle = to_face[:, :2] @ mouth + to_face[:, 2]
    return np.rint(np.clip(middle, half, FACE_SIZE - half)) - half


def on_mean_face(
    frames: np.ndarray, points: np.ndarray, n_frames: int, transforms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The landmarks of a person brought to the mean face, and the way back into the picture.

    Args:
        frames, points, n_frames: as of `mouth_transforms`.
        transforms: those of `mean_face_transforms`.

    Returns:
        float64 (n_frames, 68, 2), pixels from the middle of the mean face's frame, and float64 (n_frames, 2, 3), which takes
        these to pixels of the picture; NaN in frames without the face.
    """
    middle = FACE_SIZE / 2
    found = np.full((n_frames, *points.shape[1:]), np.nan)
    for start, run in _runs(frames, points, n_frames):
        found[start : start + len(run)] = moved(run, transforms[start : start + len(run)]) - middle
    back, known = np.full_like(transforms, np.nan), np.isfinite(transforms).all(axis=(1, 2))
    turns = np.linalg.inv(transforms[known, :, :2])
    shifts = turns @ (middle - transforms[known, :, 2:])
    back[known] = np.concatenate([turns, shifts], axis=2)
    return found, back


def moved(points: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Points (n_frames, points, 2) under a transform (n_frames, 2, 3) for each frame."""
    return np.einsum("fij,fpj->fpi", transforms[:, :, :2], points) + transforms[:, None, :, 2]


def face_transforms(frames: np.ndarray, points: np.ndarray, n_frames: int, size: int) -> np.ndarray:
    """The transforms that take the pictures of a video to crops of a person's face: eyes and nose lie in their places.

    These are the places of dlib's face descriptor; networks that were trained on faces cut by a detector's box see about
    the same part of a face. Gaps are bridged as for mouths; nothing is averaged.

    Args:
        frames, points, n_frames: as of `mouth_transforms`.
        size: pixels, height and width of a crop.

    Returns:
        float64 (n_frames, 2, 3), from a picture's pixels to those of its crop; NaN in frames without the face.
    """
    transforms = np.full((n_frames, 2, 3), np.nan)
    reference = (np.array(list(CHIP_POINTS.values())) + 0.5) * (size / CHIP_SIZE) - 0.5
    for start, run in _runs(frames, points[:, list(CHIP_POINTS)].astype(np.float64), n_frames):
        transforms[start : start + len(run)] = similarities(run - 0.5, reference)
    return transforms


def _runs(frames: np.ndarray, points: np.ndarray, n_frames: int) -> Iterator[tuple[int, np.ndarray]]:
    """Stretches of a video in which somebody is seen, with short gaps and ends filled.

    Args:
        frames: int (n,), ascending; those at or after `n_frames` are of no interest.
        points: (n, points, 2).
        n_frames: of the video.

    Yields:
        The first frame, and the points of all frames from it on, (length, points, 2).
    """
    frames = frames[frames < n_frames]
    if not len(frames):
        return
    points = points[: len(frames)]
    for rows in np.split(np.arange(len(frames)), np.flatnonzero(np.diff(frames) - 1 > _MAX_GAP_FRAMES) + 1):
        first, last = frames[rows[0]], frames[rows[-1]]
        start = 0 if first <= _MAX_GAP_FRAMES else first
        stop = n_frames if n_frames - 1 - last <= _MAX_GAP_FRAMES else last + 1
        filled = [np.interp(np.arange(start, stop), frames[rows], column) for column in points[rows].reshape(len(rows), -1).T]
        yield int(start), np.stack(filled, axis=1).reshape(stop - start, -1, 2)


def _centred(run: np.ndarray, k: int, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The transform of frame k of a run to the mean face's frame, and the smoothed mouth in the picture."""
    margin = min(_WINDOW_FRAMES // 2, k, len(run) - 1 - k)
    return _smoothed(run[k - margin : k + margin + 1], run[k], reference)


def _smoothed(window: np.ndarray, now: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The transform of the mean of some frames, moved to where the face is now, and its mouth in the picture."""
    smoothed = window.mean(axis=0)
    smoothed += now[-1] - smoothed[-1]
    matrix, _ = cv2.estimateAffinePartial2D(smoothed[:-2], reference, method=cv2.LMEDS)
    if matrix is None:  # OpenCV finds none that fits most of the points
        matrix = similarities(smoothed[None, :-2], reference)[0]
    return matrix, smoothed[-2]


def _forward(run: np.ndarray, k: int, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The transform of frame k of a run to the mean face's frame, and the mouth as it is in this frame's picture."""
    start = min(k, max(len(run) - _WINDOW_FRAMES, 0))
    smoothed = run[start : start + _WINDOW_FRAMES, :-2].mean(axis=0)
    return similarities(smoothed[None], reference)[0], run[k, -2]


def similarities(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The similarities (no mirroring) that bring points to a reference in least squares.

    Args:
        points: (n, points, 2).
        reference: (points, 2).

    Returns:
        float64 (n, 2, 3); NaN where all points of a set are one.
    """
    z = points[..., 0] + 1j * points[..., 1]
    w = reference[:, 0] + 1j * reference[:, 1]
    z_mean, w_mean = z.mean(axis=1), w.mean()
    z_centred = z - z_mean[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = (z_centred.conj() * (w - w_mean)).sum(axis=1) / (np.abs(z_centred) ** 2).sum(axis=1)
    shift = w_mean - turn * z_mean
    rows = [[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]]
    return np.array(rows).transpose(2, 0, 1)
