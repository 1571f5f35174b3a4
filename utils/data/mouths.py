"""Mouth crops on disk: an npz that holds one array `data` and, where not every frame shows a mouth, a second one `mask`.

`data` is uint8 (frames, 96, 96) grey or (frames, 96, 96, 3) RGB, 25 frames/s; `mask` is bool (frames,), True where the crop
shows a mouth (without it, everywhere). Stage 1 writes such files from videos (`MouthWriter`); corpora ship them. Files are
read and written block by block, so that an hour of video needs no more memory than a second.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from utils.data.constants import MOUTH_SIZE
from utils.data.files import atomic_path
from utils.errors import UserError, is_of_machine

FRAME_BYTES = 6600  # a crop in its npz: 6000 to 6300 on average, 6630 at most, over 180 clips of four corpora
FILL_FRAMES = 16  # as far as `fill_unseen` reaches
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as OpenCV turns RGB into grey
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class MouthFile:
    """The mouth crops of one clip, to be read from the first frame to the last. Opening reads the header and the mask.

    Args:
        path: the npz file.

    Attributes:
        n_frames: at least 1.
        mask: bool (n_frames,), True where a mouth was seen.

    Raises:
        UserError: missing, damaged or pickled file, no key `data`, another shape or dtype, no frame.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with _named_errors(self.path), self._open_data() as (archive, _, shape):
            self.n_frames = shape[0]
            self.mask = _read_mask(archive, self.path, self.n_frames)

    def blocks(self, n_frames: int) -> Iterator[np.ndarray]:
        """All crops in order, in blocks of `n_frames` (the last may be shorter): uint8 (block, 96, 96), grey.

        Raises:
            UserError: the file is damaged.
        """
        with _named_errors(self.path), self._open_data() as (_, stream, shape):
            frame_shape = shape[1:]
            frame_size = int(np.prod(frame_shape))
            for first in range(0, self.n_frames, n_frames):
                count = min(n_frames, self.n_frames - first)
                content = _read_all(stream, count * frame_size)
                yield _as_grey(np.frombuffer(content, np.uint8).reshape(count, *frame_shape))

    @contextmanager
    def _open_data(self) -> Iterator[tuple[zipfile.ZipFile, IO[bytes], tuple[int, ...]]]:
        """The archive, the stream of `data` behind its header, and its shape."""
        if self.path.exists() and not zipfile.is_zipfile(self.path):
            raise UserError("not an npz file, or one that was cut off; copy or cut the crops again", self.path)
        with zipfile.ZipFile(self.path) as archive:
            names = sorted(name.removesuffix(".npy") for name in archive.namelist())
            if "data" not in names:
                raise UserError(f"no key `data`, only {names}; save the crops under `data`", self.path)
            if "data.npy" not in archive.namelist():
                raise UserError("`data` is no array; save the crops under `data` with numpy", self.path)
            with archive.open("data.npy") as stream:
                shape, dtype = _read_header(stream)
                _check_crops(self.path, shape, dtype)
                yield archive, stream, shape


def read_mouths(path: Path | str) -> np.ndarray:
    """Read all mouth crops of one clip: uint8 (frames, 96, 96), grey; at least one frame.

    Raises:
        UserError: as `MouthFile`.
    """
    mouths = MouthFile(path)
    return next(mouths.blocks(mouths.n_frames))


class MouthWriter:
    """Writes the crops of one clip, frame by frame; the file is there, whole, once the `with` block ended well.

    Args:
        path: the npz file.
        n_frames: how many will come.
    """

    def __init__(self, path: Path | str, n_frames: int) -> None:
        self.path, self.n_frames = Path(path), n_frames
        self.mask = np.zeros(n_frames, bool)
        self._written = 0
        self._stack = ExitStack()

    def __enter__(self) -> "MouthWriter":
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path, self.n_frames * FRAME_BYTES))
            # crops hardly get smaller by trying harder, and an hour of video has 90 000 of them
            archive = zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
            self._archive = stack.enter_context(archive)
            self._stream = archive.open("data.npy", "w", force_zip64=True)
            header = {"descr": "|u1", "fortran_order": False, "shape": (self.n_frames, MOUTH_SIZE, MOUTH_SIZE)}
            npy.write_array_header_1_0(self._stream, header)
            self._stack = stack.pop_all()
        return self

    def add(self, crop: np.ndarray, seen: bool) -> None:
        """Append a crop, uint8 (96, 96); `seen` says whether it shows a mouth."""
        if crop.shape != (MOUTH_SIZE, MOUTH_SIZE) or crop.dtype != np.uint8:
            raise ValueError(f"a crop is uint8 ({MOUTH_SIZE}, {MOUTH_SIZE}), not {crop.dtype} {crop.shape}")
        self.mask[self._written] = seen
        self._written += 1
        self._stream.write(crop.tobytes())

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        with self._stack:  # it closes the archive and puts the file in its place, or removes it
            try:
                if error is not None:
                    raise error
            finally:
                self._stream.close()  # the archive cannot be closed before; on a full disk this is the next to fail
            if self._written != self.n_frames:
                raise ValueError(f"{self._written} crops where {self.n_frames} were announced")
            with self._archive.open("mask.npy", "w") as stream:  # `writestr` would store the time: other bytes each time
                npy.write_array(stream, self.mask)


def write_shifted(source: Path | str, target: Path | str, late_frames: int) -> None:
    """Write mouth crops again with the pictures where they belong, if they come `late_frames` too late (negative: early).

    The file has as many frames as before; those at an end of which there is no picture are unseen.
    """
    crops, mask = read_mouths(source), MouthFile(source).mask
    shown = np.arange(len(crops)) + late_frames
    seen = (shown >= 0) & (shown < len(crops))
    shown = np.clip(shown, 0, len(crops) - 1)
    with MouthWriter(target, len(crops)) as writer:
        for frame, is_there in zip(shown, seen, strict=True):
            writer.add(crops[frame], bool(is_there and mask[frame]))


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


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and dtype of an array, of which nothing is loaded.

    Raises:
        ValueError: no array, or one that cannot be read frame by frame.
    """
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"unknown version {version} of numpy's format")
    shape, fortran_order, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise ValueError("allow_pickle")
    if fortran_order and len(shape) > 1:
        raise ValueError("the array is stored in Fortran order")
    return shape, dtype


def _check_crops(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype != np.uint8:
        raise UserError(f"mouth crops are {dtype} where uint8 is expected; save them as uint8, 0..255", path)
    if shape[1:] not in ((MOUTH_SIZE, MOUTH_SIZE), (MOUTH_SIZE, MOUTH_SIZE, 3)):
        raise UserError(
            f"mouth crops have the shape {shape} where (frames, {MOUTH_SIZE}, {MOUTH_SIZE}) or "
            f"(frames, {MOUTH_SIZE}, {MOUTH_SIZE}, 3) is expected; cut them again",
            path,
        )
    if shape[0] == 0:
        raise UserError("mouth crops hold no frame; cut them again", path)


def _read_mask(archive: zipfile.ZipFile, path: Path, n_frames: int) -> np.ndarray:
    if "mask.npy" not in archive.namelist():
        return np.ones(n_frames, bool)
    with archive.open("mask.npy") as stream:
        shape, dtype = _read_header(stream)
        if shape != (n_frames,) or dtype.kind != "b":
            raise UserError(f"`mask` is {dtype} {shape} where bool ({n_frames},) is expected; cut the crops again", path)
        return np.frombuffer(_read_all(stream, n_frames), bool)


def _read_all(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise ValueError(f"ends {size - len(content)} bytes too early")
    return content


def _as_grey(crops: np.ndarray) -> np.ndarray:
    return crops if crops.ndim == 3 else np.rint(crops.astype(np.float32) @ _LUMA).astype(np.uint8)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turn what reading a broken or hostile file raises into one line; nothing pickled is ever loaded."""
    try:
        yield
    except FileNotFoundError:
        raise UserError("no such file", path) from None
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise UserError("holds pickled objects, which are never loaded; save plain uint8 crops", path) from None
        if "magic string" in str(error):
            raise UserError("`data` is no array; save the crops under `data` with numpy", path) from None
        raise UserError(f"damaged npz ({error}); copy or cut the crops again", path) from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, MemoryError) as error:
        if isinstance(error, OSError) and is_of_machine(error):
            raise  # too many open files, say: nothing is wrong with this one
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"damaged npz ({text}); copy or cut the crops again", path) from None
