"""Face crops on disk (`utils.data.crops`): RGB, square; `faces/<size>/ID.npz` for the mouth of `mouths/ID.npz`.

Stage 1 writes them where a conf asks for faces (`model.cues`). They are upright, with eyes and nose in their places, see
`utils.video.alignment.face_transforms`.
"""

from pathlib import Path

from utils.data.crops import CropFile, CropWriter
from utils.errors import UserError

# Where dlib's face descriptor wants the outer and inner corners of the eyes and the base of the nose (points of iBUG 300-W), x
# and y in pixels of its chip of 150: the medians of 300 chips that dlib cuts by its own alignment (padding 0.25), to which
# this one is equal within a pixel.
CHIP_SIZE = 150
CHIP_POINTS = {36: (36.7, 45.7), 39: (58.4, 47.2), 42: (88.6, 47.4), 45: (110.3, 45.6), 33: (73.6, 87.8)}
_SMALLEST, _LARGEST = 32, 512  # pixels


def face_path_of(mouth_path: Path, size: int) -> Path:
    """The file of the face crops that belong to mouth crops: `faces/<size>` for the last folder that is called `mouths`.

    Raises:
        UserError: there is no such folder in the path.
    """
    folder, name = _faces_of(mouth_path)
    return folder / str(size) / name


def face_paths_of(mouth_path: Path) -> list[Path]:
    """The files, of all sizes that there are, of the face crops that belong to mouth crops; errors as of `face_path_of`."""
    folder, name = _faces_of(mouth_path)
    return sorted(path for size in folder.glob("*") if (path := size / name).is_file())


def _faces_of(mouth_path: Path) -> tuple[Path, Path]:
    """The folder of all faces that belong to the mouths, and the path of a file below that of a size."""
    parts = list(mouth_path.parts)
    if "mouths" not in parts[:-1]:
        raise UserError("has no face crops: they lie in `faces` beside `mouths`; take a conf with --cues lips", mouth_path)
    place = len(parts) - 1 - parts[::-1].index("mouths")
    return Path(*parts[:place], "faces"), Path(*parts[place + 1 :])


def face_bytes(size: int) -> int:
    """What a face crop of `size` pixels takes in its file, at most: hardly anything is saved by compression."""
    return 3 * size**2 + 16


class FaceFile(CropFile):
    """The face crops of one clip, uint8 (block, size, size, 3)."""

    what = "face crops"

    def wanted_shape(self, shape: tuple[int, ...]) -> str:
        is_square = len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3
        return "" if is_square and _SMALLEST <= shape[1] <= _LARGEST else "(frames, size, size, 3)"

    @property
    def size(self) -> int:
        """Pixels, height and width."""
        return self.frame_shape[0]


class FaceWriter(CropWriter):
    """Writes the face crops of one clip, uint8 (size, size, 3) each; arguments as of `CropWriter`."""

    def __init__(self, path: Path | str, n_frames: int, size: int) -> None:
        super().__init__(path, n_frames, (size, size, 3), face_bytes(size))
