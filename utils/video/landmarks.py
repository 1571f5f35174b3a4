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
from utils.video.landmark_formats import N_POINTS, read_npz, read_openface, tracks_of
from utils.video.safe_pickle import read_pickle

_COLUMNS = {"frame": (np.int64, ()), "person": (np.int64, ()), "points": (np.float32, (N_POINTS, 2)),
            "box": (np.float32, (4,)), "score": (np.float32, ())}  # fmt: skip
_SIZES = ("n_frames", "width", "height")
_KINDS = {"iu": "whole numbers", "f": "fractional numbers", "U": "texts"}
_LEAST_SHARE_AT = 0.25  # of the frames in which a face covers the point at which it is said to be
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
        parts: of how many tracks this is made, over cuts and absences.
        certainty: 0..1, how likely the least certain of the joins between them is right; 1 for a single one.
    """

    name: str
    frames: np.ndarray
    points: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    parts: int = 1
    certainty: float = 1.0

    @property
    def presence(self) -> float:
        """Face area summed over time, pixels times frames."""
        return float((self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1).sum(dtype=np.float64))


def most_present(people: Sequence[Person], count: int) -> tuple[list[Person], list[Person]]:
    """The people with the largest faces for the longest time, and the others, both in their order; all where `count` is 0."""
    most = set(sorted(people, key=lambda one: one.presence, reverse=True)[: count or None])
    return [one for one in people if one in most], [one for one in people if one not in most]


def people_at(people: Sequence[Person], place: str, size: tuple[int, int]) -> list[Person]:
    """The people whose faces cover a point of the picture in at least one frame in four of those in which they are seen.

    Args:
        people: of a video.
        place: "x y", shares of width and height.
        size: width and height, pixels.
    """
    point = np.array(place.split(), dtype=np.float64) * size

    def share(one: Person) -> float:
        return float(np.mean((one.boxes[:, :2] <= point).all(axis=1) & (point <= one.boxes[:, 2:]).all(axis=1)))

    return [one for one in people if share(one) >= _LEAST_SHARE_AT]


def write_people(path: Path | str, people: Sequence[Person], n_frames: int, width: int, height: int) -> None:
    """Write a landmark file, whole or not at all.

    Args:
        path: ends in `.npz`.
        people: may be empty; a person may have no frames.
        n_frames: frames of the video on the 25 fps grid.
        width, height: pixels, as a player would show the video.
    """
    columns = {
        "frame": [one.frames for one in people],
        "person": [np.full(len(one.frames), k) for k, one in enumerate(people)],
        "points": [one.points for one in people],
        "box": [one.boxes for one in people],
        "score": [one.scores for one in people],
    }
    arrays = {"names": np.array([one.name for one in people], dtype=np.str_)}
    arrays |= {name: np.int64(size) for name, size in zip(_SIZES, (n_frames, width, height), strict=True)}
    for name, (dtype, shape) in _COLUMNS.items():
        arrays[name] = np.concatenate([np.zeros((0, *shape), dtype), *columns[name]]).astype(dtype, copy=False)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def read_people(path: Path | str) -> list[Person]:
    """Read a landmark file.

    Raises:
        UserError: missing, damaged or another kind of file; columns of other shapes; frames that are not ascending or
            outside the video; points that are not finite.
    """
    if not Path(path).is_file():
        raise UserError("no such file", path)
    return _people_of(path, read_npz(path))


def _people_of(path: Path | str, arrays: Mapping[str, Any]) -> list[Person]:
    """The people of a landmark file's arrays."""
    missing = sorted({*_COLUMNS, *_SIZES, "names"} - set(arrays))
    if missing:
        raise UserError(f"not a landmark file, without {', '.join(missing)}; make it again", path)
    n_people, n_rows = np.shape(arrays["names"])[:1], np.shape(arrays["frame"])[:1]
    expected = dict.fromkeys(_SIZES, ("iu", ())) | {"names": ("U", n_people)}
    expected |= {name: ("f" if dtype is np.float32 else "iu", (*n_rows, *shape)) for name, (dtype, shape) in _COLUMNS.items()}
    for name, (kinds, shape) in expected.items():
        array = arrays[name]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds or array.shape != shape:
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise UserError(f"`{name}` is {found} where {_KINDS[kinds]} {shape} are expected; make it again", path)
        if kinds == "f" and not np.isfinite(array).all():
            raise UserError(f"`{name}` holds values that are not finite; make it again", path)
    names, owners, n_frames = arrays["names"], arrays["person"], int(arrays["n_frames"])
    if not ((owners >= 0) & (owners < len(names))).all():
        raise UserError(f"`person` points outside the {len(names)} names; make it again", path)
    people = []
    for k, name in enumerate(names.tolist()):
        frames = arrays["frame"][owners == k].astype(np.int64)
        if len(frames) and (frames[0] < 0 or frames[-1] >= n_frames or (np.diff(frames) <= 0).any()):
            raise UserError(f"frames of {name} are not ascending within the {n_frames} of the video; make it again", path)
        columns = (arrays[column][owners == k].astype(np.float32) for column in ("points", "box", "score"))
        people.append(Person(name, frames, *columns))
    return people


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
    path, n_shown = Path(path), n_shown or n_frames
    if not path.is_file():
        raise UserError("no such file", path)
    match path.suffix.lower():
        case ".npz":
            arrays = read_npz(path)
            if "points" in arrays:
                people = _people_of(path, arrays)
                _check_count(path, int(arrays["n_frames"]), n_frames, n_shown)
                return _seen(path, people, n_frames)
            if "data" not in arrays:
                found = ", ".join(sorted(arrays)[:8]) or "nothing"
                raise UserError(f"neither a landmark file nor landmarks under the key `data`, but {found}", path)
            tracks = tracks_of(arrays["data"], path)
        case ".pkl" | ".pickle" | ".p":
            tracks = tracks_of(read_pickle(path.read_bytes(), path), path)
        case ".csv":
            tracks = read_openface(path, n_shown)
        case _:
            raise UserError("landmarks of an unknown kind; .npz, .pkl and OpenFace's .csv are read", path)
    _check_count(path, tracks.shape[1], n_frames, n_shown)
    people = [_person(path, f"face{number}", track, size) for number, track in enumerate(tracks, start=1)]
    return _seen(path, people, n_frames)


def _seen(path: Path, people: Sequence[Person], n_frames: int) -> list[Person]:
    """Those who have a frame of the video, without what lies after it."""
    seen, absent = [], []
    for one in people:
        arrays = (array[one.frames < n_frames] for array in (one.frames, one.points, one.boxes, one.scores))
        within = Person(one.name, *arrays)
        (seen if len(within.frames) else absent).append(within)
    if not seen:
        raise UserError("no frame has a face; leave the file out to have faces looked for", path)
    if absent:
        log.warning("%s: without a single frame, left out: %.200s", path, ", ".join(one.name for one in absent))
    return seen


def _check_count(path: Path, found: int, n_frames: int, n_shown: int) -> None:
    if min(abs(found - n_frames), abs(found - n_shown)) > 1:
        pictures = f" ({n_shown} with a picture)" if n_shown != n_frames else ""
        raise UserError(
            f"{path}: landmarks of {found} frames where the video has {n_frames} at 25 frames a second{pictures}; give "
            "landmarks of its pictures at that rate (nan or None for a frame without a face)"
        )


def _person(path: Path, name: str, track: np.ndarray, size: tuple[int, int] | None) -> Person:
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
    frames = np.flatnonzero(usable)
    boxes = np.concatenate([low, high], axis=1)[frames]
    scores = np.ones(len(frames), np.float32)
    return Person(name, frames.astype(np.int64), points[frames].astype(np.float32), boxes.astype(np.float32), scores)
