"""Landmarks as others write them, texts: csv (OpenFace's too), rows of 136 numbers, a folder with a text for each frame.

All come out as tracks: a name for each face and float64 (frames, 68, 2) pixels, NaN where it was not found. Rows of 136
numbers without names are x0 y0 x1 y1 ...; where they only make a face as x0 x1 ... y0 y1 ..., they are read so.
"""

import csv
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.video.alignment import distances_to_mean_face

N_POINTS = 68  # of the iBUG scheme: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67
_N_NUMBERS = 2 * N_POINTS
_SEPARATORS = re.compile(r"[,;\s]+")
_NAMES = [f"x_{k}" for k in range(N_POINTS)] + [f"y_{k}" for k in range(N_POINTS)]

log = logging.getLogger(__name__)


def read_rows(path: Path) -> dict[str, np.ndarray]:
    """A text with 136 numbers a row, a row for each frame, as those of GRID; an empty line is a frame without the face."""
    rows = []
    for k, line in enumerate(_lines(path), start=1):
        cells = _SEPARATORS.split(line.strip()) if line.strip() else [""] * _N_NUMBERS
        rows.append(_numbers(cells, f"{path}, line {k}"))
    for k, row in enumerate(rows, start=1):
        if len(row) != _N_NUMBERS:
            raise UserError(f"{path}, line {k}: {len(row)} numbers where {_N_NUMBERS} are expected (x and y of 68 points)")
    return {"face1": _pairs(np.array(rows).reshape(-1, _N_NUMBERS), path)}


def read_folder(path: Path, n_frames: int) -> dict[str, np.ndarray]:
    """A folder of `00000.txt`: 68 lines `x,y` or `x y` each; an empty file is a frame without the face."""
    frames, points = [], []
    for file in sorted(file for file in path.iterdir() if not file.name.startswith(".")):
        if file.suffix.lower() != ".txt" or not re.fullmatch(r"[0-9]{1,9}", file.stem):
            raise UserError(f"{file}: not named for a frame, as 00000.txt; take it out of the folder of landmarks")
        frames.append(int(file.stem))
        points.append(_read_points(file))
    if not frames:
        raise UserError(f"{path}: a folder without landmarks; 00000.txt, 00001.txt ... are expected")
    first = _first_number(frames, n_frames, path)
    return {"face1": _track(frames, first, np.stack(points), str(path))}


def _read_points(file: Path) -> np.ndarray:
    lines = _lines(file)
    if not lines:
        return np.full((N_POINTS, 2), np.nan)
    rows = [_numbers(_SEPARATORS.split(line.strip()), f"{file}, line {k}") for k, line in enumerate(lines, start=1)]
    wrong = [k for k, row in enumerate(rows, start=1) if len(row) != 2]
    if wrong:
        raise UserError(f"{file}, line {wrong[0]}: {len(rows[wrong[0] - 1])} numbers where x and y are expected")
    if len(rows) != N_POINTS:
        raise UserError(f"{file}: {len(rows)} lines where {N_POINTS} are expected, x and y of a point each")
    return np.array(rows)


def read_csv(path: Path, n_frames: int) -> dict[str, np.ndarray]:
    """A csv: 136 numbers a row, or frame and 136, with or without a header; or OpenFace's columns.

    OpenFace: `x_0` ... `x_67`, `y_0` ... `y_67`; where there are `frame`, `face_id` and `success`, they are heeded.
    """
    lines = _lines(path)
    delimiter = next((mark for mark in ",;\t" if mark in (lines or [""])[0]), ",")
    cells = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    if not cells:
        raise UserError(f"{path}: holds no row")
    header = [cell.lower() for cell in cells[0]] if not _is_row_of_numbers(cells[0]) else None
    numbered = list(enumerate(cells, start=1))[0 if header is None else 1 :]
    if not numbered:
        raise UserError(f"{path}: a header without rows")
    width = len(cells[0])
    for k, row in numbered:
        if len(row) != width:
            raise UserError(f"{path}, row {k}: {len(row)} cells where the first row has {width}")
    values = np.array([_numbers(row, f"{path}, row {k}") for k, row in numbered])
    if header is not None and "x_0" in header:
        return _read_named(values, header, path, n_frames)
    if width not in (_N_NUMBERS, _N_NUMBERS + 1):
        raise UserError(
            f"{path}, row 1: {width} cells where {_N_NUMBERS} numbers, a frame and {_N_NUMBERS} numbers, or the columns "
            f"x_0 ... x_{N_POINTS - 1}, y_0 ... y_{N_POINTS - 1} are expected"
        )
    points = _pairs(values[:, width - _N_NUMBERS :], path)
    if width == _N_NUMBERS:
        return {"face1": points}
    frames = _whole(values[:, 0], f"{path}, column 1")
    return {"face1": _track(frames, _first_number(frames, n_frames, path), points, str(path))}


def _read_named(values: np.ndarray, header: Sequence[str], path: Path, n_frames: int) -> dict[str, np.ndarray]:
    column = {name: k for k, name in enumerate(header)}
    missing = [name for name in _NAMES if name not in column]
    if missing:
        raise UserError(f"{path}, row 1: no column {missing[0]}; x_0 ... x_67 and y_0 ... y_67 are expected")
    points = values[:, [column[name] for name in _NAMES]].reshape(-1, 2, N_POINTS).transpose(0, 2, 1)
    if "success" in column:
        points = np.where(values[:, column["success"], None, None] > 0, points, np.nan)
    if "frame" not in column:
        return {"face1": points}
    frames = _whole(values[:, column["frame"]], f"{path}, column frame")
    openface = bool({"success", "confidence"} & set(header))  # it counts from 1
    first = 1 if openface and _range(frames, n_frames, path)[0] > 0 else _first_number(frames, n_frames, path)
    faces = _whole(values[:, column["face_id"]], f"{path}, column face_id") if "face_id" in column else [0] * len(frames)
    tracks = {}
    for number, face in enumerate(sorted(set(faces)), start=1):
        rows = [k for k, found in enumerate(faces) if found == face]
        where = f"{path}, face_id {face}"
        tracks[f"face{number}"] = _track([frames[k] for k in rows], first, points[rows], where, max(frames))
    return tracks


def _track(frames: Sequence[int], first: int, points: np.ndarray, where: str, last: int | None = None) -> np.ndarray:
    """Rows with frame numbers as a track from frame `first` to the last."""
    last = max(frames) if last is None else last
    track = np.full((last - first + 1, N_POINTS, 2), np.nan)
    seen: set[int] = set()
    for frame, row in zip(frames, points, strict=True):
        if frame in seen:
            raise UserError(f"{where}: frame {frame} is there twice; one row for each frame is expected")
        seen.add(frame)
        track[frame - first] = row
    return track


def _first_number(frames: Sequence[int], n_frames: int, where: Path) -> int:
    """Whether frames are counted from 0 or from 1: from 1 where none is 0 and the last number is that of the last frame."""
    lowest, highest = _range(frames, n_frames, where)
    if lowest == 1 and highest == n_frames - 1:
        raise UserError(f"{where}: frames 1 to {highest} of {n_frames}: it is not clear whether they count from 0 or from 1; "
                        "add frame 0 (nan where there is no face)")  # fmt: skip
    return 1 if lowest >= 1 and highest >= n_frames else 0


def _range(frames: Sequence[int], n_frames: int, where: Path) -> tuple[int, int]:
    lowest, highest = min(frames), max(frames)
    if lowest < 0 or highest > n_frames + 1:
        raise UserError(f"{where}: frames {lowest} to {highest} where the video has {n_frames} at 25 frames a second; give "
                        "landmarks of its pictures at that rate")  # fmt: skip
    return lowest, highest


def _pairs(rows: np.ndarray, path: Path) -> np.ndarray:
    """(T, 136) as (T, 68, 2), in whichever of the two orders makes a face."""
    interleaved = rows.reshape(-1, N_POINTS, 2)
    planar = rows.reshape(-1, 2, N_POINTS).transpose(0, 2, 1)
    usable = np.isfinite(rows).all(axis=1)
    if not usable.any():
        return interleaved
    one, other = (float(np.median(distances_to_mean_face(points[usable]))) for points in (interleaved, planar))
    if other < one / 2:
        log.info("%s: read as x0 x1 ... y0 y1 ...; as x0 y0 x1 y1 ... the points make no face", path)
        return planar
    return interleaved


def _is_row_of_numbers(cells: Iterable[str]) -> bool:
    try:
        [float(cell) for cell in cells if cell]
    except ValueError:
        return False
    return True


def _numbers(cells: Sequence[str], where: str) -> list[float]:
    """Cells as numbers; an empty one is NaN."""
    try:
        return [float(cell) if cell else float("nan") for cell in cells]
    except ValueError:
        wrong = next(cell for cell in cells if not _is_row_of_numbers([cell]))
        raise UserError(f"{where}: '{wrong:.20}' where a number is expected") from None


def _whole(values: np.ndarray, where: str) -> list[int]:
    wrong = values[~np.isfinite(values) | (values != np.rint(values))]
    if wrong.size:
        raise UserError(f"{where}: {wrong[0]} where a whole number is expected")
    return [int(value) for value in values]


def _lines(path: Path) -> list[str]:
    """The lines of a text, without empty ones at its end."""
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text (UTF-8)") from None
