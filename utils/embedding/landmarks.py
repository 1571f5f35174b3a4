"""Landmarks as embeddings: those that stage 1 keeps with the crops, in place of a visual frontend.

Two kinds: the shape of the lips, the 20 points around their middle, which takes part in separation; and all 68 points of the
face where the mean face has them, which `utils.voice_to_mouth` predicts. x and y in tens of pixels of the crop, whose faces are
all of one size. A frame without landmarks is zeros, as one on which no mouth is seen.
"""

from pathlib import Path
from typing import Any

import numpy as np

from utils.data.mouths import LIPS, N_POINTS, MouthFile
from utils.embedding.frontends import Geometry, check_precision, geometry_of

PIXELS = 10.0  # of a unit
# Each point's place in the mirror image, iBUG 300-W: jaw, brows, nose, eyes, outer and inner lips.
_MIRRORED = [
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
]  # fmt: skip


class Landmarks:
    """Used where a `Frontend` is whose vectors are only stored."""

    name: str
    dim: int
    network: str  # as it is described
    version: int  # of the computation: raise it when the same landmarks would give other vectors

    def vectors(self, points: np.ndarray, geometry: Geometry | None = None) -> np.ndarray:
        """Landmarks (frames, 68, 2) as in `MouthFile.points`, of moved crops -> float32 (frames, dim)."""
        raise NotImplementedError

    def describe(self, view: str = "centre", precision: str = "float16") -> dict[str, Any]:
        """All that stored vectors depend on, as plain JSON.

        Raises:
            UserError: an unknown view or precision.
        """
        geometry_of(view)  # refuses what is none
        check_precision(precision)
        facts = {"network": self.network, "layer": "trunk", "dim": self.dim}
        return {**facts, "view": view, "precision": precision, "version": self.version}

    def path_of(self, mouth_path: Path) -> Path:
        """The file that holds the landmarks of a mouth: its own."""
        return mouth_path

    def read(self, path: Path, frames: int, goes_on: bool, view: str = "centre") -> np.ndarray:
        """The vectors of one clip.

        Args:
            path: the mouth file.
            frames, goes_on: as a manifest has them; the file is as it is.
            view: turned, scaled and mirrored as the crops are for this view.

        Returns:
            float32 (frames of the file, dim); zeros on frames that stage 1 marked as unseen, and throughout where the file
            has no landmarks.

        Raises:
            UserError: the file cannot be read.
        """
        file = MouthFile(path)
        return self.vectors(np.where(file.mask[:, None, None], file.points, np.nan), geometry_of(view))


class LipShapes(Landmarks):
    """The 20 points of the lips around their middle: 40 numbers."""

    name = "lip_shape"
    dim = 2 * (LIPS.stop - LIPS.start)
    network = "landmarks of the lips"
    version = 1

    def vectors(self, points: np.ndarray, geometry: Geometry | None = None) -> np.ndarray:
        lips = _of_view(points, geometry)[:, LIPS]
        return _flat(lips - lips.mean(axis=1, keepdims=True))


class FaceKeypoints(Landmarks):
    """All 68 points from the middle of the mean face's frame: 136 numbers."""

    name = "keypoints"
    dim = 2 * N_POINTS
    network = "landmarks of the face"
    version = 2

    def vectors(self, points: np.ndarray, geometry: Geometry | None = None) -> np.ndarray:
        return _flat(_of_view(points, geometry))


def _of_view(points: np.ndarray, geometry: Geometry | None) -> np.ndarray:
    if geometry is None:
        return points
    return (points[:, _MIRRORED] if geometry.mirror < 0 else points) @ geometry.matrix.T


def _flat(points: np.ndarray) -> np.ndarray:
    return np.nan_to_num(points / PIXELS, nan=0.0).reshape(len(points), -1).astype(np.float32)
