"""Mouth crops on disk: an npz whose key `data` holds uint8 (frames, 96, 96) grey or (frames, 96, 96, 3) RGB."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from utils.errors import UserError

MOUTH_SIZE = 96  # pixels, height and width
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as OpenCV turns RGB into grey


def read_mouths(path: Path | str) -> np.ndarray:
    """Read the mouth crops of one clip.

    Args:
        path: the npz file.

    Returns:
        uint8 (frames, 96, 96), grey; at least one frame.

    Raises:
        UserError: missing, damaged or pickled file, no key `data`, another shape or dtype, no frame.
    """
    data = _load(path)
    if data.dtype != np.uint8:
        raise UserError(f"{path}: mouth crops are {data.dtype} where uint8 is expected; save them as uint8, 0..255")
    grey = data.shape[1:] == (MOUTH_SIZE, MOUTH_SIZE)
    rgb = data.shape[1:] == (MOUTH_SIZE, MOUTH_SIZE, 3)
    if not (grey or rgb):
        raise UserError(
            f"{path}: mouth crops have the shape {data.shape} where (frames, {MOUTH_SIZE}, {MOUTH_SIZE}) or "
            f"(frames, {MOUTH_SIZE}, {MOUTH_SIZE}, 3) is expected; cut them again"
        )
    if len(data) == 0:
        raise UserError(f"{path}: mouth crops hold no frame; cut them again")
    return data if grey else np.rint(data.astype(np.float32) @ _LUMA).astype(np.uint8)


def _load(path: Path | str) -> np.ndarray:
    """The array `data` of an npz, whatever its shape and type; nothing pickled is ever loaded."""
    try:
        if not zipfile.is_zipfile(path) and Path(path).exists():
            raise UserError(f"{path}: not an npz file, or one that was cut off; copy or cut the crops again")
        with np.load(path, allow_pickle=False) as archive:
            if "data" not in archive:
                raise UserError(f"{path}: no key `data`, only {sorted(archive.files)}; save the crops under `data`")
            data = archive["data"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise UserError(f"{path}: holds pickled objects, which are never loaded; save plain uint8 crops") from None
        raise UserError(f"{path}: damaged npz ({error}); copy or cut the crops again") from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, MemoryError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: damaged npz ({text}); copy or cut the crops again") from None
    if not isinstance(data, np.ndarray):  # numpy hands over a member that is no array as its bytes
        raise UserError(f"{path}: `data` is no array; save the crops under `data` with numpy")
    return data
