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

from dataclasses import dataclass

import cv2
import numpy as np

from utils.data.constants import ALIGNMENTS, MOUTH_SIZE

_FACE_SIZE = 256  # pixels, height and width of the mean face's frame
_WINDOW_FRAMES = 12
_MOUTH = slice(48, 68)

# Where the stable points lie in the mean face of the published preprocessing (`20words_mean_face.npy`), x and y in
# pixels of its 256x256 frame, rounded to 0.01: bridge and tip of the nose, corners of the eyes and of the mouth.
_MEAN_FACE = {28: (128.49, 106.92), 33: (128.87, 137.30), 36: (92.52, 94.37), 39: (112.77, 94.94),
              42: (145.53, 94.53), 45: (166.68, 93.57), 48: (107.17, 157.20), 54: (152.19, 156.99)}  # fmt: skip
_STABLE = {"centred8": (28, 33, 36, 39, 42, 45, 48, 54), "forward5": (33, 36, 39, 42, 45)}


@dataclass(frozen=True, eq=False)
class Run:
    """A face through consecutive frames, gaps filled; only what an alignment asks of its landmarks, in pixels.

    Attributes:
        first_frame: of the 25 fps grid.
        alignment: one of `ALIGNMENTS`.
        stable: float64 (n, points, 2), the stable points.
        mouths: float64 (n, 2), the mean of the mouth's landmarks.
        centres: float64 (n, 2), the mean of all landmarks.
    """

    first_frame: int
    alignment: str
    stable: np.ndarray
    mouths: np.ndarray
    centres: np.ndarray

    def __len__(self) -> int:
        return len(self.mouths)

    @property
    def end_frame(self) -> int:
        """The first frame after the run."""
        return self.first_frame + len(self)

    def transform(self, frame: int) -> np.ndarray:
        """The (2, 3) matrix that takes a picture's pixels to those of its mouth crop, float64.

        Args:
            frame: of the grid, `first_frame` <= frame < `end_frame`.
        """
        k = frame - self.first_frame
        to_face, mouth = self._centred(k) if self.alignment == "centred8" else self._forward(k)
        middle = to_face[:, :2] @ mouth + to_face[:, 2]
        half = MOUTH_SIZE // 2
        corner = np.rint(np.clip(middle, half, _FACE_SIZE - half)) - half
        to_face[:, 2] -= corner
        return to_face

    def _centred(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The transform to the mean face's frame, and the smoothed mouth in the picture."""
        margin = min(_WINDOW_FRAMES // 2, k, len(self) - 1 - k)
        window = slice(k - margin, k + margin + 1)
        shift = self.centres[k] - self.centres[window].mean(axis=0)
        stable = self.stable[window].mean(axis=0) + shift
        return _robust_similarity(stable, _reference(self.alignment)), self.mouths[window].mean(axis=0) + shift

    def _forward(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The transform to the mean face's frame, and the mouth as it is in this frame's picture."""
        start = min(k, max(len(self) - _WINDOW_FRAMES, 0))
        stable = self.stable[start : start + _WINDOW_FRAMES].mean(axis=0)
        return similarities(stable[None], _reference(self.alignment))[0], self.mouths[k]


def find_runs(frames: np.ndarray, points: np.ndarray, n_frames: int, alignment: str, max_gap_frames: int) -> list[Run]:
    """Cut a person's landmarks into runs of consecutive frames.

    Gaps of up to `max_gap_frames` are interpolated; up to that many frames at the video's beginning and end repeat the
    nearest landmarks, as the published preprocessing does. Nothing is smoothed over longer gaps.

    Args:
        frames: int (n,), ascending; those at or after `n_frames` are of no interest.
        points: (n, 68, 2) pixels, finite.
        n_frames: of the video.
        alignment: one of `ALIGNMENTS`.
        max_gap_frames: the longest gap to fill.
    """
    if alignment not in ALIGNMENTS:
        raise ValueError(f"alignment {alignment!r}: not one of {', '.join(ALIGNMENTS)}")
    inside = frames < n_frames
    frames, points = frames[inside], points[inside]
    if not len(frames):
        return []
    ends = np.flatnonzero(np.diff(frames) - 1 > max_gap_frames) + 1
    stretches = np.split(np.arange(len(frames)), ends)
    return [_run(frames[rows], points[rows], n_frames, alignment, max_gap_frames) for rows in stretches]


def _run(frames: np.ndarray, points: np.ndarray, n_frames: int, alignment: str, max_gap_frames: int) -> Run:
    mouths, centres = (part.mean(axis=1, dtype=np.float64) for part in (points[:, _MOUTH], points))
    needed = np.concatenate([points[:, _STABLE[alignment]], mouths[:, None], centres[:, None]], axis=1)
    before, after = int(frames[0]), n_frames - 1 - int(frames[-1])
    repeats = [count if count <= max_gap_frames else 0 for count in (before, after)]
    needed = np.pad(_fill_gaps(frames, needed), [repeats, (0, 0), (0, 0)], mode="edge")
    return Run(before - repeats[0], alignment, needed[:, :-2], needed[:, -2], needed[:, -1])


def _fill_gaps(frames: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`values` (n, ...) at `frames` (n,), interpolated at every frame from the first to the last."""
    wanted = np.arange(frames[0], frames[-1] + 1)
    columns = [np.interp(wanted, frames, column) for column in values.reshape(len(frames), -1).T]
    return np.stack(columns, axis=1).reshape(len(wanted), *values.shape[1:])


def _reference(alignment: str) -> np.ndarray:
    return np.array([_MEAN_FACE[point] for point in _STABLE[alignment]])


def _robust_similarity(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The similarity that fits most of the points; in least squares for all where OpenCV finds none."""
    matrix, _ = cv2.estimateAffinePartial2D(points, reference, method=cv2.LMEDS)
    return similarities(points[None], reference)[0] if matrix is None else matrix


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
