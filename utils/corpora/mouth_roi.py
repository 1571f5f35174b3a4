"""Mouth regions as VisualVoice keeps them: an hdf5 file for each clip, dataset `data`, and an index of videos, `videos_path`.

h5py is imported here only, where it is needed; egs/voxceleb2/requirements.txt has it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from utils.data.constants import MOUTH_SIZE
from utils.data.mouths import MouthWriter
from utils.errors import UserError


def convert_mouth_roi(given: tuple[Path, Path]) -> int:
    """Write the mouth crops of an hdf5 file as npz, whole or not at all; gives the frames.

    Args:
        given: the hdf5 file, and the npz file.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    source, target = given
    with _opened(source) as file:
        if "data" not in file:
            raise UserError(f"no dataset `data`, only {sorted(file)}; give mouth regions as VisualVoice has them", source)
        data = file["data"]
        shape = tuple(getattr(data, "shape", ()))
        if shape[1:] != (MOUTH_SIZE, MOUTH_SIZE) or not shape[0]:
            raise UserError(f"`data` has the shape {shape} where (frames, {MOUTH_SIZE}, {MOUTH_SIZE}) is expected", source)
        crops = data[:]
    if crops.dtype.kind not in "uif" or not (crops.min() >= 0 and crops.max() <= 255):
        raise UserError(f"`data` is {crops.dtype} and not grey levels from 0 to 255", source)
    target.parent.mkdir(parents=True, exist_ok=True)
    with MouthWriter(target, len(crops)) as writer:
        for crop in crops:
            writer.add(np.rint(crop).astype(np.uint8), True)
    return len(crops)


def read_index(path: Path) -> list[tuple[str, str]]:
    """The videos of an index, as (speaker, video): the last two folders of each path, whatever is before them.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    with _opened(path) as file:
        if "videos_path" not in file:
            raise UserError(f"no dataset `videos_path`, only {sorted(file)}; give an index as VisualVoice has it", path)
        found = file["videos_path"]
        if len(getattr(found, "shape", ())) != 1:
            raise UserError("`videos_path` is no list of paths; give an index as VisualVoice has it", path)
        texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in found[:]]
    places = [tuple(part for part in text.replace("\\", "/").split("/") if part)[-2:] for text in texts]
    wrong = next((text for text, place in zip(texts, places, strict=True) if len(place) != 2), None)
    if wrong is not None:
        raise UserError(f"'{wrong}' is no folder of a video, e.g. /data/mp4/train/id00017/01dfn2spqyE", path)
    return places


@contextmanager
def _opened(path: Path) -> Iterator:
    try:
        import h5py
    except ImportError:
        raise UserError("hdf5 files need h5py; add it with utils/install_more.sh egs/voxceleb2/requirements.txt") from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise UserError("no such file", path) from None
    except OSError as error:
        raise UserError(f"not an hdf5 file, or cut off ({str(error).splitlines()[0]}); copy it again", path) from None
