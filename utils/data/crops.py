"""Crops of faces or mouths on disk: an npz that holds one array `data` and, where not every frame shows one, `mask`.

`data` is uint8 (frames, rows, columns) grey or (frames, rows, columns, 3) RGB, 25 frames/s; `mask` is bool (frames,), True
where the crop shows what it should (without it, everywhere). A kind of crops may have further arrays. Files are read and
written block by block, so that an hour of video needs no more memory than a second. `utils.data.mouths` and `utils.data.faces`
say which shapes are whose.
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO

import numpy as np
from numpy.lib import format as npy

from utils.data.files import atomic_path
from utils.errors import UserError, is_of_machine

Extras = Mapping[str, tuple[type[np.floating], tuple[int, ...]]]
"""Further arrays that a file may hold, by name: their type in the file, and the shape of a frame."""
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class CropFile:
    """The crops of one clip, to be read from the first frame to the last. Opening reads the header and the mask.

    Args:
        path: the npz file.

    Attributes:
        n_frames: at least 1.
        frame_shape: of a crop.
        mask: bool (n_frames,), True where the crop shows what it should.
        extra: further arrays of the file by name, float32, each (n_frames, ...), those of `extras` that are there.

    Raises:
        UserError: missing, damaged or pickled file, no key `data`, another shape or dtype, no frame.
    """

    what = "crops"  # for messages
    extras: Extras = MappingProxyType({})

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with _named_errors(self.path), self._open_data() as (archive, _, shape):
            self.n_frames, *frame_shape = shape
            self.frame_shape = tuple(frame_shape)
            self.mask = _read_mask(archive, self.path, self.n_frames)
            shapes = {name: (self.n_frames, *shape) for name, (_, shape) in self.extras.items()}
            found = {name: _read_extra(archive, self.path, name, shape) for name, shape in shapes.items()}
            self.extra = {name: array for name, array in found.items() if array is not None}

    def blocks(self, n_frames: int) -> Iterator[np.ndarray]:
        """All crops in order, in blocks of `n_frames` (the last may be shorter): uint8 (block, *frame_shape).

        Raises:
            UserError: the file is damaged.
        """
        with _named_errors(self.path), self._open_data() as (_, stream, shape):
            frame_shape = shape[1:]
            frame_size = int(np.prod(frame_shape))
            for first in range(0, self.n_frames, n_frames):
                count = min(n_frames, self.n_frames - first)
                content = _read_all(stream, count * frame_size)
                yield self._converted(np.frombuffer(content, np.uint8).reshape(count, *frame_shape))

    def all(self) -> np.ndarray:
        """All crops at once."""
        return next(self.blocks(self.n_frames))

    def wanted_shape(self, shape: tuple[int, ...]) -> str:
        """What the shape of `data` should be, "" where it is right."""
        raise NotImplementedError

    def _converted(self, crops: np.ndarray) -> np.ndarray:
        return crops

    def _check(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if dtype != np.uint8:
            raise UserError(f"{self.what} are {dtype} where uint8 is expected; save them as uint8, 0..255", self.path)
        wanted = self.wanted_shape(shape)
        if wanted:
            raise UserError(f"{self.what} have the shape {shape} where {wanted} is expected; cut them again", self.path)
        if shape[0] == 0:
            raise UserError(f"{self.what} hold no frame; cut them again", self.path)

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
                self._check(shape, dtype)
                yield archive, stream, shape


class CropWriter:
    """Write the crops of one clip, frame by frame; the file is there, whole, once the `with` block ended well.

    Args:
        path: the npz file.
        n_frames: how many will come.
        frame_shape: of a crop.
        frame_bytes: what a crop takes in the file, at most.

    Attributes:
        extra: further arrays by name, (n_frames, ...), to be written with the crops; of those of `extras`.
    """

    extras: Extras = MappingProxyType({})

    def __init__(self, path: Path | str, n_frames: int, frame_shape: tuple[int, ...], frame_bytes: int) -> None:
        self.path, self.n_frames, self.frame_shape, self.frame_bytes = Path(path), n_frames, frame_shape, frame_bytes
        self.mask = np.zeros(n_frames, bool)
        self.extra: dict[str, np.ndarray] = {}
        self._written = 0
        self._stack = ExitStack()

    def __enter__(self) -> "CropWriter":
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path, self.n_frames * self.frame_bytes))
            # crops hardly get smaller by trying harder, and an hour of video has 90 000 of them
            archive = zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
            self._archive = stack.enter_context(archive)
            self._stream = archive.open("data.npy", "w", force_zip64=True)
            header = {"descr": "|u1", "fortran_order": False, "shape": (self.n_frames, *self.frame_shape)}
            npy.write_array_header_1_0(self._stream, header)
            self._stack = stack.pop_all()
        return self

    def add(self, crop: np.ndarray, seen: bool) -> None:
        """Append a crop, uint8; `seen` says whether it shows what it should."""
        if crop.shape != self.frame_shape or crop.dtype != np.uint8:
            raise ValueError(f"a crop is uint8 {self.frame_shape}, not {crop.dtype} {crop.shape}")
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
            for name, array in {"mask": self.mask, **self.extra}.items():
                with self._archive.open(f"{name}.npy", "w") as stream:  # `writestr` would store the time: other bytes each time
                    npy.write_array(stream, array if name == "mask" else array.astype(self.extras[name][0]))


def write_shifted(source: CropFile, writer: CropWriter, late_frames: int) -> None:
    """Write crops again with the pictures where they belong, if they come `late_frames` too late (negative: early).

    There are as many frames as before; those at an end of which there is no picture are unseen.

    Args:
        source: the crops; of one clip of a corpus, for all are held in memory.
        writer: of as many frames, perhaps to the same file.
        late_frames: frames.
    """
    crops, n_frames = source.all(), source.n_frames
    shown = np.arange(n_frames) + late_frames
    seen = (shown >= 0) & (shown < n_frames)
    shown = np.clip(shown, 0, n_frames - 1)
    for name, array in source.extra.items():
        writer.extra[name] = np.where(seen.reshape(-1, *(1 for _ in array.shape[1:])), array[shown], np.nan)
    with writer:
        for frame, is_there in zip(shown, seen, strict=True):
            writer.add(crops[frame], bool(is_there and source.mask[frame]))


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


def _read_mask(archive: zipfile.ZipFile, path: Path, n_frames: int) -> np.ndarray:
    if "mask.npy" not in archive.namelist():
        return np.ones(n_frames, bool)
    with archive.open("mask.npy") as stream:
        shape, dtype = _read_header(stream)
        if shape != (n_frames,) or dtype.kind != "b":
            raise UserError(f"`mask` is {dtype} {shape} where bool ({n_frames},) is expected; cut the crops again", path)
        return np.frombuffer(_read_all(stream, n_frames), bool)


def _read_extra(archive: zipfile.ZipFile, path: Path, name: str, wanted: tuple[int, ...]) -> np.ndarray | None:
    """A further array of floats, None where there is none."""
    if f"{name}.npy" not in archive.namelist():
        return None
    with archive.open(f"{name}.npy") as stream:
        shape, dtype = _read_header(stream)
        if shape != wanted or dtype.kind != "f":
            raise UserError(f"`{name}` is {dtype} {shape} where float {wanted} is expected; cut the crops again", path)
        content = _read_all(stream, int(np.prod(wanted)) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(wanted).astype(np.float32)


def _read_all(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise ValueError(f"ends {size - len(content)} bytes too early")
    return content


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
