"""Look for faces all over a video, a minute at a time.

Reads a video; writes a folder with a part for every 1500 frames of the 25 fps grid, `part-000.npz` and so on, of plain
arrays: `frames` first and last+1, `cuts`, and for each face `frame`, `box`, `score`, `points`, `is_followed`; `descriptors`
are of the faces whose indices are in `described`. Each part begins afresh, so that a scan that was interrupted goes on after
the last part and ends with the same faces; people are always made of what the parts say.
"""

import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice, takewhile
from pathlib import Path

import numpy as np

from utils.data.files import atomic_path
from utils.data.progress import progress_bar
from utils.data.threads import made_ahead
from utils.video.decoding import read_pictures
from utils.video.descriptors import DESCRIPTOR_DIM
from utils.video.faces import Face, FaceFinder
from utils.video.tracking import CutDetector

PART_FRAMES = 1500
_UPCOMING = 8  # pictures that are held in memory ahead
_VERSION = 4  # of what is found and how it is written; parts of another one are made again
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)


def scan_faces(
    path: Path | str, n_frames: int, folder: Path | str, part_frames: int = PART_FRAMES
) -> Iterator[tuple[int, list[Face], bool]]:
    """Find the faces of a video, or take what an earlier call found.

    Args:
        path: the video.
        n_frames: of it on the 25 fps grid.
        folder: for the parts; of this video only.
        part_frames: how many frames are found and written at a time.

    Yields:
        Every frame with faces or the beginning of a shot: frame, faces, whether a shot begins.

    Raises:
        UserError: no video, or one that breaks off; LiteRT is not installed.
    """
    with ExitStack() as stack:
        finder = None
        for k, start in enumerate(range(0, n_frames, part_frames)):
            span = (start, min(start + part_frames, n_frames))
            part_path = Path(folder) / f"part-{k:03d}.npz"
            part = _read_part(part_path, span) if finder is None else None  # after one that is made, all are
            if part is None:
                if finder is None:
                    finder = stack.enter_context(FaceFinder())
                    label = f"faces of {Path(path).name}"
                    pictures = stack.enter_context(closing(made_ahead(_pictures(path, n_frames, start, part_frames), 8)))
                    pictures = iter(progress_bar(pictures, desc=label, total=n_frames, initial=start, unit="frame"))
                part = _scan_part(pictures, finder, span)
                with atomic_path(part_path) as temporary:
                    np.savez_compressed(temporary, **part)
            yield from _frames_of(part)


def _pictures(path: Path | str, n_frames: int, start: int, part_frames: int) -> Iterator[tuple[int, np.ndarray | None, bool]]:
    """Frame, picture, whether it begins a shot, from `start` on, where a part begins."""
    detector = CutDetector()
    for frame, picture in read_pictures(path, n_frames, first_frame=start):
        if frame % part_frames == 0:
            detector = CutDetector()
        yield frame, picture, picture is not None and detector.is_cut(picture)


def _scan_part(
    pictures: Iterator[tuple[int, np.ndarray | None, bool]], finder: FaceFinder, span: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The arrays of a part; takes the pictures of its frames, and no more, from `pictures`."""
    finder.reset()
    cuts, found = [], []
    for frame, picture, is_cut, upcoming in _with_upcoming(islice(pictures, span[1] - span[0])):
        if is_cut:
            cuts.append(frame)
        if picture is not None:
            found += [(frame, face) for face in finder.find(picture, frame, is_cut, upcoming)]
    described = [index for index, (_, face) in enumerate(found) if face.descriptor is not None]
    return {
        "version": np.int64(_VERSION),
        "frames": np.array(span, np.int64),
        "cuts": np.array(cuts, np.int64),
        "frame": np.array([frame for frame, _ in found], np.int64),
        "box": _stacked([face.box for _, face in found], 4),
        "score": np.array([face.score for _, face in found], np.float32),
        "points": _stacked([face.points for _, face in found], 68, 2),
        "is_followed": np.array([face.is_followed for _, face in found], bool),
        "described": np.array(described, np.int64),
        "descriptors": _stacked([found[index][1].descriptor for index in described], DESCRIPTOR_DIM),
    }


def _with_upcoming(
    pictures: Iterator[tuple[int, np.ndarray | None, bool]],
) -> Iterator[tuple[int, np.ndarray | None, bool, list[np.ndarray]]]:
    """The same, each with the next pictures of its shot, `_UPCOMING` at most."""
    window = deque(islice(pictures, _UPCOMING))
    while window:
        now = window.popleft()
        window.extend(islice(pictures, 1))
        going_on = takewhile(lambda each: each[1] is not None and not each[2], window)
        yield *now, [picture for _, picture, _ in going_on]


def _stacked(arrays: Sequence[np.ndarray], *shape: int) -> np.ndarray:
    return np.array(arrays, np.float32).reshape(-1, *shape)


def _read_part(path: Path, span: tuple[int, int]) -> dict[str, np.ndarray] | None:
    """The arrays of a part; None where it is missing, damaged, of another version or of other frames."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            part = dict(archive)
            return part if int(part["version"]) == _VERSION and part["frames"].tolist() == list(span) else None
    except _DAMAGE:
        return None


def _frames_of(part: dict[str, np.ndarray]) -> Iterator[tuple[int, list[Face], bool]]:
    descriptors = dict(zip(part["described"].tolist(), part["descriptors"], strict=True))
    cuts = set(part["cuts"].tolist())
    faces: dict[int, list[Face]] = {frame: [] for frame in cuts}
    columns = (part["frame"].tolist(), part["box"], part["score"].tolist(), part["points"], part["is_followed"].tolist())
    for row, (frame, box, score, points, is_followed) in enumerate(zip(*columns, strict=True)):
        faces.setdefault(frame, []).append(Face(box, score, points, descriptors.get(row), is_followed))
    for frame in sorted(faces):
        yield frame, faces[frame], frame in cuts
