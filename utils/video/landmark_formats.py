"""Landmarks as others write them: npz and pkl of the public lip-reading preprocessing, and OpenFace's csv.

All come out as float64 (people, frames, 68, 2), pixels, NaN where a face was not found.
"""

import csv
import io
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.video.safe_pickle import read_pickle

N_POINTS = 68  # of the iBUG scheme: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67
_POINT_KEYS = ("facial_landmarks", "landmarks")
_LIMIT_PEOPLE = 1000
_OPENFACE = [f"x_{k}" for k in range(N_POINTS)] + [f"y_{k}" for k in range(N_POINTS)]
_OPENFACE_MORE = ("frame", "face_id", "success")  # where they are there, they count


def read_npz(path: Path | str) -> dict[str, Any]:
    """All arrays of an npz; those that hold objects come as lists, without running anything pickled.

    Raises:
        UserError: damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy"): _array_of(archive.read(name), path) for name in archive.namelist()}
    except UserError:
        raise
    except Exception as error:  # anything may be wrong in what a stranger wrote; numpy and zipfile say so in many ways
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"not an npz file, or a damaged one ({text:.80}); make it again", path) from None


def _array_of(content: bytes, path: Path | str) -> Any:
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        return read_pickle(content[content.index(b"\n", 10) + 1 :], path)  # magic and length, a line of header, the pickle


def tracks_of(data: Any, path: Path) -> np.ndarray:
    """The tracks of what an npz or a pkl held: a plain array, or a list with an entry for each frame.

    An entry is None, the points of one face (68, 2), a dict with the points under `facial_landmarks` or `landmarks`, or a
    list of these; the place in that list tells who is who, as in the public preprocessing.

    Raises:
        UserError: another shape; names the frame.
    """
    if isinstance(data, np.ndarray):
        return _plain_track(data, path)[None]
    if not isinstance(data, list):
        raise UserError(f"holds {_kind(data)} where a list with the landmarks of each frame is expected", path)
    frames = [_faces(entry, f"{path}, frame {k}") for k, entry in enumerate(data)]
    n_people = max(map(len, frames), default=0)
    if n_people > _LIMIT_PEOPLE:
        raise UserError(f"{n_people} faces in a frame; a list with the landmarks of each frame is expected", path)
    tracks = np.full((max(n_people, 1), len(frames), N_POINTS, 2), np.nan)
    for k, faces in enumerate(frames):
        for person, points in enumerate(faces):
            if points is not None:
                tracks[person, k] = points
    return tracks


def _plain_track(data: np.ndarray, path: Path) -> np.ndarray:
    """(frames, 68, 2) of an array that may have x, y (and z) before the points."""
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


def _faces(entry: Any, where: str) -> list[np.ndarray | None]:
    """The faces of a frame; None in the place of a person who is not seen."""
    if entry is None:
        return []
    is_several = isinstance(entry, list) and not (entry and isinstance(entry[0], list) and len(entry[0]) == 2)  # x, y
    if is_several or (isinstance(entry, np.ndarray) and entry.ndim == 3):
        return [_points(face, where) for face in entry]
    return [_points(entry, where)]


def _points(face: Any, where: str) -> np.ndarray | None:
    """The (68, 2) points of one face."""
    if isinstance(face, dict):
        key = next((key for key in _POINT_KEYS if key in face), None)
        if key is None:
            found = ", ".join(sorted(map(str, face))[:8])
            raise UserError(f"{where}: a face has the keys {found:.80} where `{_POINT_KEYS[0]}` is expected")
        face = face[key]
    if face is None:
        return None
    points = face
    if isinstance(face, list) and len(face) == N_POINTS:
        try:
            points = np.array([(x + 0.0, y + 0.0) for x, y in face])  # + 0.0 takes numbers, and no text
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{where}: a face is {_kind(face)} where pairs of numbers (x, y) are expected") from None
    if not isinstance(points, np.ndarray) or points.dtype.kind not in "iuf" or points.shape != (N_POINTS, 2):
        raise UserError(f"{where}: a face is {_kind(face)} where {N_POINTS} points (x, y) are expected")
    return points


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {value.shape}"
    return f"a list of {len(value)} entries" if isinstance(value, list) else f"a {type(value).__name__}"


def read_openface(path: Path, n_frames: int) -> np.ndarray:
    """OpenFace's csv: `x_0` ... `x_67`, `y_0` ... `y_67`; where there are `frame`, `face_id` and `success`, they count.

    Args:
        path: the file.
        n_frames: of the video; tells what cannot be a number of one of its frames.

    Raises:
        UserError: no text, no such columns, or a row that cannot be read.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            rows = csv.reader(handle, skipinitialspace=True)
            header = [cell.strip().lower() for cell in next(rows, [])]
            missing = [name for name in _OPENFACE if name not in header]
            if missing:
                raise UserError(f"{path}, row 1: no column {missing[0]}; OpenFace's x_0 ... x_67 and y_0 ... y_67 are expected")
            names = [*_OPENFACE, *(name for name in _OPENFACE_MORE if name in header)]
            places = [header.index(name) for name in names]
            values = [_numbers(row, places, len(header), f"{path}, row {rows.line_num}") for row in rows if row]
    except (UnicodeDecodeError, csv.Error):
        raise UserError("not a text (UTF-8) of rows with commas", path) from None
    if not values:
        raise UserError("a header without rows", path)
    column = dict(zip(names, np.array(values).T, strict=True))
    points = np.stack([column[name] for name in _OPENFACE], axis=1).reshape(-1, 2, N_POINTS).transpose(0, 2, 1)
    if "success" in column:
        points = np.where(column["success"][:, None, None] > 0, points, np.nan)
    if "frame" not in column:
        return points[None]
    frames = _whole(column["frame"], f"{path}, column frame")
    faces = _whole(column.get("face_id", np.zeros(len(frames))), f"{path}, column face_id")
    if frames.min() < 0 or frames.max() > n_frames + 1:
        raise UserError(
            f"{path}: frames {frames.min()} to {frames.max()} where the video has {n_frames} at 25 frames a second; give "
            "landmarks of its pictures at that rate"
        )
    (face, frame), count = Counter(zip(faces.tolist(), frames.tolist(), strict=True)).most_common(1)[0]
    if count > 1:
        raise UserError(f"{path}, face_id {face}: frame {frame} is listed twice; one row a frame is expected")
    first = min(frames.min(), 1)  # OpenFace counts from 1, unless a frame 0 is there
    known, person = np.unique(faces, return_inverse=True)
    tracks = np.full((len(known), frames.max() - first + 1, N_POINTS, 2), np.nan)
    tracks[person, frames - first] = points
    return tracks


def _numbers(row: list[str], places: list[int], n_columns: int, where: str) -> list[float]:
    """The cells in these places as numbers; an empty one is NaN."""
    if len(row) != n_columns:
        raise UserError(f"{where}: {len(row)} cells where the header has {n_columns}")
    try:
        return [float(row[k].strip() or "nan") for k in places]
    except ValueError as error:
        raise UserError(f"{where}: {str(error):.60}; a number is expected") from None


def _whole(values: np.ndarray, where: str) -> np.ndarray:
    wrong = values[~np.isfinite(values) | (values != np.rint(values))]
    if wrong.size:
        raise UserError(f"{where}: {wrong[0]} where a whole number is expected")
    return values.astype(np.int64)
