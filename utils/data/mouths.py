"""Mouth crops on disk (`utils.data.crops`): 96x96 pixels, grey or RGB. Stage 1 writes them from videos; corpora ship them.

Those of stage 1 have the landmarks of the face, too, brought to the mean face: `points`, float16 (frames, 68, 2), iBUG 300-W,
in pixels of the crop but from the middle of the mean face's frame of 256x256; `to_picture`, float32 (frames, 2, 3), which takes
them to pixels of the picture; and `picture_frame`, float32 (frames,), which frame of the video that picture is (without it: the
crop itself). All are NaN where they are not known.
"""

from pathlib import Path
from types import MappingProxyType

import numpy as np

from utils.data.constants import MOUTH_SIZE
from utils.data.crops import CropFile, CropWriter

VERSION = 3  # of what stage 1 keeps in a file; those of another one are cut again
FRAME_BYTES = 6900  # a crop in its npz: 6000 to 6300 on average, 6630 at most, over 180 clips of four corpora; landmarks: 280
N_POINTS = 68
LIPS = slice(48, 68)  # of the points
FILL_FRAMES = 16  # as far as `fill_unseen` reaches
MOUTH_EXTRAS = MappingProxyType(
    {"points": (np.float16, (N_POINTS, 2)), "to_picture": (np.float32, (2, 3)), "picture_frame": (np.float32, ())}
)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as OpenCV turns RGB into grey


class MouthFile(CropFile):
    """The mouth crops of one clip; its blocks are grey, uint8 (block, 96, 96), whatever is stored."""

    what = "mouth crops"
    extras = MOUTH_EXTRAS

    @property
    def points(self) -> np.ndarray:
        """The landmarks, float32 (n_frames, 68, 2); NaN throughout where the file has none."""
        unknown = np.full((self.n_frames, N_POINTS, 2), np.nan, np.float32)
        return self.extra.get("points", unknown)

    def wanted_shape(self, shape: tuple[int, ...]) -> str:
        if shape[1:] in ((MOUTH_SIZE, MOUTH_SIZE), (MOUTH_SIZE, MOUTH_SIZE, 3)):
            return ""
        return f"(frames, {MOUTH_SIZE}, {MOUTH_SIZE}) or (frames, {MOUTH_SIZE}, {MOUTH_SIZE}, 3)"

    def _converted(self, crops: np.ndarray) -> np.ndarray:
        return crops if crops.ndim == 3 else np.rint(crops.astype(np.float32) @ _LUMA).astype(np.uint8)


def read_mouths(path: Path | str) -> np.ndarray:
    """Read all mouth crops of one clip: uint8 (frames, 96, 96), grey; at least one frame.

    Raises:
        UserError: as `CropFile`.
    """
    return MouthFile(path).all()


class MouthWriter(CropWriter):
    """Writes the mouth crops of one clip, uint8 (96, 96) each; arguments as of `CropWriter`."""

    extras = MOUTH_EXTRAS

    def __init__(self, path: Path | str, n_frames: int) -> None:
        super().__init__(path, n_frames, (MOUTH_SIZE, MOUTH_SIZE), FRAME_BYTES)


def fill_unseen(crops: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Give the frames around each seen stretch its outermost crops, so that a visual frontend meets no edge that is none.

    A visual frontend's trunk looks some frames to either side; next to black frames it would see a mouth that jumps.

    Args:
        crops: (frames, ...).
        mask: bool (frames,), True where a mouth was seen.

    Returns:
        The crops, where `mask` is False replaced by the nearest seen one if it is at most `FILL_FRAMES` away.
    """
    seen = np.flatnonzero(mask)
    if len(seen) in (0, len(mask)):
        return crops
    frames = np.arange(len(mask))
    after = np.searchsorted(seen, frames)
    left, right = seen[np.maximum(after - 1, 0)], seen[np.minimum(after, len(seen) - 1)]
    nearest = np.where(np.abs(frames - left) <= np.abs(right - frames), left, right)
    within = np.abs(nearest - frames) <= FILL_FRAMES
    return crops[np.where(within, nearest, frames)]
