"""Landmarks as others write them: npz and pkl of the public lip-reading preprocessing, and OpenFace's csv.

All come out as tracks: a name for each face and float64 (frames, 68, 2) pixels, NaN where it was not found.
"""

import csv
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.video.safe_pickle import plain, read_pickle

N_POINTS = 68  # of the iBUG scheme: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67
_POINT_KEYS = ("facial_landmarks", "landmarks")
_LIMIT_PEOPLE = 1000
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, MemoryError)
_OPENFACE = [f"x_{k}" for k in range(N_POINTS)] + [f"y_{k}" for k in range(N_POINTS)]

Tracks = dict[str, np.ndarray]


def read_tracks(path: Path, n_frames: int) -> Tracks:
    """Read the landmarks of a pkl or an OpenFace csv.

    Args:
        path: the file.
        n_frames: of the video; tells files that count frames from 1 from those that count from 0.

    Raises:
        UserError: missing, damaged, unknown or ill-shaped.
    """
    if not path.is_file():
        raise UserError("no such file", path)
    match path.suffix.lower():
        case ".pkl" | ".pickle" | ".p":
            return tracks_of(read_pickle(path.read_bytes(), path), path)
        case ".csv":
            return _read_openface(path, n_frames)
    raise UserError("landmarks of an unknown kind; .npz, .pkl and OpenFace's .csv are read", path)


def read_npz(path: Path | str) -> dict[str, Any]:
    """All arrays of an npz; those that hold objects come as lists, without running anything pickled.

    Raises:
        UserError: missing or damaged.
    """
    if not Path(path).is_file():
        raise UserError("no such file", path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    except _DAMAGE as error:
        raise UserError(f"not an npz file, or a damaged one ({error}); make it again", path) from None
    return {key: _array_of(content, path) for key, content in members.items()}


def _array_of(content: bytes, path: Path | str) -> Any:
    """The array of a member of an npz; nested lists where it is an array of objects."""
    handle = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(handle)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read_header(handle)
        if dtype.hasobject:
            return plain(read_pickle(content[handle.tell() :], path), path)
        handle.seek(0)
        return np.lib.format.read_array(handle, allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # anything may be wrong in what a stranger wrote; numpy says so in many ways
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"damaged numpy file ({text:.80}); make it again", path) from None


def tracks_of(data: Any, path: Path) -> Tracks:
    """The tracks of what a file held: a plain array, or a list with an entry for each frame.

    An entry is None, the points of one face (68, 2), a dict with the points under `facial_landmarks` or `landmarks`, or a
    list of these; the place in that list tells who is who, as in the public preprocessing.

    Raises:
        UserError: another shape; names the frame.
    """
    data = plain(data, path)
    if isinstance(data, np.ndarray):
        return {"face1": _plain_track(data, path)}
    if not isinstance(data, list | tuple):
        raise UserError(f"holds {_kind(data)} where a list with the landmarks of each frame is expected", path)
    faces = [_faces(entry, f"{path}, frame {k}") for k, entry in enumerate(data)]
    n_people = max(map(len, faces), default=0)
    if n_people > _LIMIT_PEOPLE:
        raise UserError(f"{n_people} faces in a frame; a list with the landmarks of each frame is expected", path)
    tracks = np.full((max(n_people, 1), len(faces), N_POINTS, 2), np.nan)
    for k, in_frame in enumerate(faces):
        for person, points in enumerate(in_frame):
            if points is not None:
                tracks[person, k] = points
    return {f"face{person + 1}": track for person, track in enumerate(tracks)}


def _plain_track(data: np.ndarray, path: Path) -> np.ndarray:
    """(T, 68, 2) of an array that may have x, y (and z) before the points."""
    if data.dtype.kind not in "iuf":
        raise UserError(f"landmarks are {data.dtype}; numbers of pixels are expected", path)
    if data.ndim == 3 and data.shape[1:] == (N_POINTS, 2):
        return data.astype(np.float64)
    if data.ndim == 3 and data.shape[1:] in ((2, N_POINTS), (3, N_POINTS)):
        return data[:, :2].transpose(0, 2, 1).astype(np.float64)
    raise UserError(
        f"{path}: landmarks have the shape {data.shape}; (frames, {N_POINTS}, 2), (frames, 2, {N_POINTS}) or "
        f"(frames, 3, {N_POINTS}) is expected"
    )


def _faces(entry: Any, where: str) -> Sequence[np.ndarray | None]:
    """The faces of a frame; None in the place of a person who is not seen."""
    entry = plain(entry, where)
    if entry is None:
        return ()
    if isinstance(entry, list | tuple) and not _looks_like_points(entry):
        return [_points(face, where) for face in entry]
    if isinstance(entry, np.ndarray) and entry.ndim == 3:
        return [_points(face, where) for face in entry]
    return (_points(entry, where),)


def _looks_like_points(entry: Sequence[Any]) -> bool:
    return bool(entry) and isinstance(entry[0], list | tuple) and len(entry[0]) == 2 and np.isscalar(entry[0][0])


def _points(face: Any, where: str) -> np.ndarray | None:
    """The (68, 2) points of one face."""
    face = plain(face, where)
    if isinstance(face, dict):
        keys = [key for key in _POINT_KEYS if key in face]
        if not keys:
            found = ", ".join(sorted(map(str, face))[:8])
            raise UserError(f"{where}: a face has the keys {found:.80} where `{_POINT_KEYS[0]}` is expected")
        face = plain(face[keys[0]], where)
    if face is None:
        return None
    if isinstance(face, list | tuple):
        face = _of_pairs(face, where)
    if not isinstance(face, np.ndarray) or face.dtype.kind not in "iuf" or face.shape != (N_POINTS, 2):
        raise UserError(f"{where}: a face is {_kind(face)} where {N_POINTS} points (x, y) are expected")
    return face


def _of_pairs(pairs: Sequence[Any], where: str) -> np.ndarray:
    pairs = [plain(pair, where) for pair in pairs[: N_POINTS + 1]]
    rows = [pair.tolist() if isinstance(pair, np.ndarray) else pair for pair in pairs]
    numbers = all(isinstance(row, list | tuple) and len(row) == 2 and
                  all(isinstance(value, int | float) for value in row) for row in rows)  # fmt: skip
    if len(rows) != N_POINTS or not numbers:
        raise UserError(f"{where}: a face is a list of {len(pairs)} entries where {N_POINTS} pairs (x, y) are expected")
    return np.array(rows, dtype=np.float64)


def _kind(value: Any) -> str:
    return f"an array {value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _read_openface(path: Path, n_frames: int) -> Tracks:
    """OpenFace's csv: `x_0` ... `x_67`, `y_0` ... `y_67`; where there are `frame`, `face_id` and `success`, they count."""
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError:
        raise UserError("not a text (UTF-8)", path) from None
    cells = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    header = [cell.lower() for cell in cells[0]] if cells else []
    column = {name: k for k, name in enumerate(header)}
    missing = [name for name in _OPENFACE if name not in column]
    if missing:
        raise UserError(f"{path}, row 1: no column {missing[0]}; OpenFace's x_0 ... x_67 and y_0 ... y_67 are expected")
    if len(cells) < 2:
        raise UserError("a header without rows", path)
    for k, row in enumerate(cells[1:], start=2):
        if len(row) != len(header):
            raise UserError(f"{path}, row {k}: {len(row)} cells where the header has {len(header)}")
    values = np.array([_numbers(row, f"{path}, row {k}") for k, row in enumerate(cells[1:], start=2)])
    points = values[:, [column[name] for name in _OPENFACE]].reshape(-1, 2, N_POINTS).transpose(0, 2, 1)
    if "success" in column:
        points = np.where(values[:, column["success"], None, None] > 0, points, np.nan)
    if "frame" not in column:
        return {"face1": points}
    frames = _whole(values[:, column["frame"]], f"{path}, column frame")
    first = _first_number(frames, n_frames, path)
    faces = _whole(values[:, column["face_id"]], f"{path}, column face_id") if "face_id" in column else [0] * len(frames)
    known = sorted(set(faces))
    tracks = np.full((len(known), max(frames) - first + 1, N_POINTS, 2), np.nan)
    seen: set[tuple[int, int]] = set()
    for face, frame, row in zip(faces, frames, points, strict=True):
        if (face, frame) in seen:
            raise UserError(f"{path}, face_id {face}: frame {frame} is listed twice; one row a frame is expected")
        seen.add((face, frame))
        tracks[known.index(face), frame - first] = row
    return {f"face{number}": track for number, track in enumerate(tracks, start=1)}


def _first_number(frames: Sequence[int], n_frames: int, path: Path) -> int:
    """The number of the first frame: OpenFace counts from 1, unless a frame 0 is there."""
    lowest, highest = min(frames), max(frames)
    if lowest < 0 or highest > n_frames + 1:
        raise UserError(
            f"{path}: frames {lowest} to {highest} where the video has {n_frames} at 25 frames a second; give landmarks "
            "of its pictures at that rate"
        )
    return min(lowest, 1)


def _numbers(cells: Sequence[str], where: str) -> list[float]:
    """Cells as numbers; an empty one is NaN."""
    numbers = []
    for cell in cells:
        try:
            numbers.append(float(cell) if cell else float("nan"))
        except ValueError:
            raise UserError(f"{where}: '{cell:.20}' where a number is expected") from None
    return numbers


def _whole(values: np.ndarray, where: str) -> list[int]:
    wrong = values[~np.isfinite(values) | (values != np.rint(values))]
    if wrong.size:
        raise UserError(f"{where}: {wrong[0]} where a whole number is expected")
    return [int(value) for value in values]
