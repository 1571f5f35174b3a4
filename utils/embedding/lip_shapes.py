"""The shape of the lips as embeddings: landmarks that stage 1 keeps with the crops, in place of a visual frontend.

The 20 points of a frame around their middle, x and y, in tens of pixels of the crop, whose faces are all of one size: 40
numbers.
A frame without landmarks is zeros, as one on which no mouth is seen.
"""

from pathlib import Path
from typing import Any

import numpy as np

from utils.data.mouths import N_LIP_POINTS, MouthFile
from utils.embedding.frontends import Geometry, check_precision, geometry_of

VERSION = 1  # of the computation below: raise it when the same landmarks would give other vectors
_PIXELS = 10.0
# Each point's place in the mirror image: points 48 to 67 of iBUG 300-W, outer lips from the right corner of the mouth over the
# upper lip to the left and back, then the inner ones.
_MIRRORED = [6, 5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 16, 15, 14, 13, 12, 19, 18, 17]


class LipShapes:
    """Used where a `Frontend` is whose vectors are only stored."""

    name = "lip_shape"
    dim = 2 * N_LIP_POINTS

    def describe(self, view: str = "centre", precision: str = "float16") -> dict[str, Any]:
        """All that stored vectors depend on, as plain JSON.

        Raises:
            UserError: an unknown view or precision.
        """
        geometry_of(view)  # refuses what is none
        check_precision(precision)
        facts = {"network": "landmarks of the lips", "layer": "trunk", "dim": self.dim}
        return {**facts, "view": view, "precision": precision, "version": VERSION}

    def path_of(self, mouth_path: Path) -> Path:
        """The file that holds the landmarks of a mouth: its own."""
        return mouth_path

    def read(self, path: Path, frames: int, goes_on: bool, view: str = "centre") -> np.ndarray:
        """The shapes of one clip.

        Args:
            path: the mouth file.
            frames, goes_on: as a manifest has them; the file is as it is.
            view: turned, scaled and mirrored as the crops are for this view.

        Returns:
            float32 (frames of the file, 40); zeros throughout where the file has no landmarks.

        Raises:
            UserError: the file cannot be read.
        """
        file = MouthFile(path)
        lips = file.extra.get("lips")
        if lips is None:
            return np.zeros((file.n_frames, self.dim), np.float32)
        return lip_shapes(lips, geometry_of(view))


def lip_shapes(lips: np.ndarray, geometry: Geometry | None = None) -> np.ndarray:
    """Landmarks (frames, 20, 2) in pixels of the crop, as they would be in moved crops -> float32 (frames, 40)."""
    shapes = (lips - lips.mean(axis=1, keepdims=True)) / _PIXELS
    if geometry is not None:
        shapes = shapes[:, _MIRRORED] if geometry.mirror < 0 else shapes
        shapes = shapes @ geometry.matrix.T
    return np.nan_to_num(shapes, nan=0.0).reshape(len(lips), -1).astype(np.float32)
