"""Face landmarks of the people of a video: the landmark file, and the entrance for every foreign format.

A landmark file is an npz of plain arrays, a row for each face that was seen: `frame` int64 (rows,) on the 25 fps grid,
`person` int64 (rows,) an index into `names`, `points` float32 (rows, 68, 2) and `box` float32 (rows, 4: x0 y0 x1 y1) in
pixels, `score` float32 (rows,); and `names` (people,), `n_frames`, `width`, `height` of the video.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.files import atomic_path
from utils.errors import UserError
from utils.video.landmark_formats import N_POINTS, read_npz, read_tracks, tracks_of

_COLUMNS = {"frame": (), "person": (), "points": (N_POINTS, 2), "box": (4,), "score": ()}
_SIZES = ("n_frames", "width", "height")
_FAR = 0.5  # of the picture's width or height: a landmark that is further outside was not found
_LARGEST = 1e5  # pixels; no picture is so wide

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Person:
    """The face of one person in all frames that show it.

    Attributes:
        name: unique in a video.
        frames: int64 (n,), frames of the 25 fps grid, ascending.
        points: float32 (n, 68, 2), pixels, x before y.
        boxes: float32 (n, 4), pixels: x0 y0 x1 y1.
        scores: float32 (n,), how sure the finder was, 0..1.
    """

    name: str
    frames: np.ndarray
    points: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True, eq=False)
class People:
    """The people of a video, and its size: frames of the 25 fps grid, and pixels."""

    people: tuple[Person, ...]
    n_frames: int
    width: int
    height: int


def write_people(path: Path | str, people: Sequence[Person], n_frames: int, width: int, height: int) -> None:
    """Write a landmark file, whole or not at all.

    Args:
        path: ends in `.npz`.
        people: may be empty; a person may have no frames.
        n_frames: frames of the video on the 25 fps grid.
        width, height: pixels, as a player would show the video.
    """
    counts = [len(person.frames) for person in people]
    rows = {
        "frame": _joined([person.frames for person in people], np.int64, ()),
        "person": np.repeat(np.arange(len(people), dtype=np.int64), counts),
        "points": _joined([person.points for person in people], np.float32, (N_POINTS, 2)),
        "box": _joined([person.boxes for person in people], np.float32, (4,)),
        "score": _joined([person.scores for person in people], np.float32, ()),
    }
    sizes = dict(zip(_SIZES, map(np.int64, (n_frames, width, height)), strict=True))
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, names=np.array([person.name for person in people], dtype=np.str_), **rows, **sizes)


def _joined(arrays: Sequence[np.ndarray], dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros((0, *shape), dtype), *arrays]).astype(dtype, copy=False)


def read_people(path: Path | str) -> People:
    """Read a landmark file.

    Raises:
        UserError: missing, damaged or another kind of file; columns of other shapes; frames that are not ascending or
            outside the video; points that are not finite.
    """
    return _people_of(path, read_npz(path))


def _people_of(path: Path | str, arrays: Mapping[str, Any]) -> People:
    """The people of a landmark file's arrays."""
    missing = sorted({*_COLUMNS, *_SIZES, "names"} - set(arrays))
    if missing:
        raise UserError(f"not a landmark file, without {', '.join(missing)}; make it again", path)
    n_frames, width, height = (_whole(path, name, arrays[name]) for name in _SIZES)
    columns = {name: arrays[name] for name in _COLUMNS}
    n_rows = np.shape(columns["frame"])[:1]
    for name, shape in _COLUMNS.items():
        kinds = "iu" if name in ("frame", "person") else "f"
        array = columns[name]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds or array.shape != (*n_rows, *shape):
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise UserError(f"`{name}` is {found} where {(*n_rows, *shape)} is expected; make it again", path)
        if kinds == "f" and not np.isfinite(array).all():
            raise UserError(f"`{name}` holds values that are not finite; make it again", path)
    names = arrays["names"]
    if not isinstance(names, np.ndarray) or names.ndim != 1 or (len(names) and names.dtype.kind != "U"):
        raise UserError("`names` is no list of texts; make it again", path)
    if not ((columns["person"] >= 0) & (columns["person"] < len(names))).all():
        raise UserError(f"`person` points outside the {len(names)} names; make it again", path)
    people = tuple(_person_of(path, columns, k, str(name), n_frames) for k, name in enumerate(names))
    return People(people, n_frames, width, height)


def _person_of(path: Path | str, columns: Mapping[str, np.ndarray], index: int, name: str, n_frames: int) -> Person:
    rows = columns["person"] == index
    frames = columns["frame"][rows].astype(np.int64)
    if len(frames) and (frames[0] < 0 or frames[-1] >= n_frames or (np.diff(frames) <= 0).any()):
        raise UserError(f"frames of {name} are not ascending within the {n_frames} of the video; make it again", path)
    points, boxes, scores = (columns[key][rows].astype(np.float32) for key in ("points", "box", "score"))
    return Person(name, frames, points, boxes, scores)


def _whole(path: Path | str, name: str, value: Any) -> int:
    if not isinstance(value, np.ndarray) or value.shape != () or value.dtype.kind not in "iu" or value < 0:
        raise UserError(f"`{name}` is no whole number; make it again", path)
    return int(value)


def read_landmarks(
    path: Path | str, n_frames: int, size: tuple[int, int] | None = None, n_shown: int | None = None
) -> list[Person]:
    """Read landmarks in any of the known formats, one set for each picture of the video at 25 frames a second.

    Known are: the landmark file; npz with key `data` and pkl as the public lip-reading preprocessing writes them (a list
    or object array with None, (68, 2), or the faces of each frame; an array (frames, 68, 2), (frames, 2, 68) or
    (frames, 3, 68)); OpenFace's csv. Nothing pickled in them is run.

    Args:
        path: the file.
        n_frames: of the video on the 25 fps grid; the landmarks may have one frame more, which is left out, or less.
        size: width and height of the video in pixels, where they are known; tells landmarks far outside the picture.
        n_shown: frames that have a picture, where the sound goes on after the last one or ends before it: landmarks may be
            for these. None: all have.

    Returns:
        The people who have a frame, the first face of every frame first. Frames whose points are not finite, far outside
        the picture or all in one place count as frames without the face; how many is logged.

    Raises:
        UserError: missing, damaged or hostile file; another shape; another number of frames; no face at all.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        arrays = read_npz(path)
        if "points" in arrays:
            return _seen(path, _shortened(path, _people_of(path, arrays), n_frames, n_shown))
        if "data" not in arrays:
            found = ", ".join(sorted(arrays)[:8])
            raise UserError(f"neither a landmark file nor landmarks under the key `data`, but {found or 'nothing'}", path)
        tracks = tracks_of(arrays["data"], path)
    else:
        tracks = read_tracks(path, n_shown or n_frames)
    for track in tracks.values():
        _check_count(path, len(track), n_frames, n_shown)
    return _seen(path, [_person(path, name, track, n_frames, size) for name, track in tracks.items()])


def _seen(path: Path, people: Sequence[Person]) -> list[Person]:
    """Those who have a frame."""
    seen = [person for person in people if len(person.frames)]
    if not seen:
        raise UserError("no frame has a face; leave the file out to have faces looked for", path)
    if len(seen) < len(people):
        absent = ", ".join(person.name for person in people if not len(person.frames))
        log.warning("%s: without a single frame, left out: %.200s", path, absent)
    return seen


def _shortened(path: Path, found: People, n_frames: int, n_shown: int | None) -> list[Person]:
    """The people of a landmark file, without what lies after the video."""
    _check_count(path, found.n_frames, n_frames, n_shown)
    people = []
    for person in found.people:
        kept = person.frames < n_frames
        arrays = (array[kept] for array in (person.frames, person.points, person.boxes, person.scores))
        people.append(Person(person.name, *arrays))
    return people


def _check_count(path: Path, found: int, n_frames: int, n_shown: int | None) -> None:
    n_shown = n_shown or n_frames
    if min(abs(found - n_frames), abs(found - n_shown)) > 1:
        pictures = f" ({n_shown} with a picture)" if n_shown != n_frames else ""
        raise UserError(
            f"{path}: landmarks of {found} frames where the video has {n_frames} at 25 frames a second{pictures}; give "
            "landmarks of its pictures at that rate (nan or None for a frame without a face)"
        )


def _person(path: Path, name: str, track: np.ndarray, n_frames: int, size: tuple[int, int] | None) -> Person:
    """A person from a track (frames, 68, 2), NaN where the face is missing."""
    given = ~np.isnan(track).all(axis=(1, 2))
    usable = np.isfinite(track).all(axis=(1, 2))
    points = np.where(usable[:, None, None], track, 0.0)
    if usable.any() and np.abs(points[usable]).max() <= 2.0:
        raise UserError(f"{path}: coordinates up to {np.abs(points[usable]).max():.2f}: fractions of the picture, it seems; "
                        "multiply x by its width and y by its height, pixels are expected")  # fmt: skip
    low, high = points.min(axis=1), points.max(axis=1)
    limits = np.array(size, dtype=np.float64) if size else np.full(2, _LARGEST)
    usable &= (low >= -_FAR * limits).all(axis=1) & (high <= (1 + _FAR) * limits).all(axis=1)
    usable &= (high - low > 1.0).all(axis=1)
    if (given & ~usable).any():
        log.warning(
            "%s: %d of %d frames of %s are left out, their landmarks are not finite, in one place or far outside the "
            "picture; the first is frame %d",
            path, (given & ~usable).sum(), len(track), name, np.flatnonzero(given & ~usable)[0],
        )  # fmt: skip
    frames = np.flatnonzero(usable[:n_frames])
    boxes = np.concatenate([low, high], axis=1)[frames]
    scores = np.ones(len(frames), np.float32)
    return Person(name, frames.astype(np.int64), points[frames].astype(np.float32), boxes.astype(np.float32), scores)
