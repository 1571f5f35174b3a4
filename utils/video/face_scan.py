"""Look for faces all over a video, a minute at a time.

Reads a video; writes a folder with a part for every 1500 frames of the 25 fps grid, `part-000.npz` and so on, of plain
arrays: `frames` first and last+1, `cuts`, and for each face `frame`, `box`, `score`, `points`, `is_followed`; `descriptors`
are of the faces whose indices are in `described`. Each part begins afresh, so that a scan that was interrupted goes on after
the last part and ends with the same faces; people are always made of what the parts say.
"""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.data.files import atomic_path
from utils.errors import UserError
from utils.video.decoding import read_pictures
from utils.video.descriptors import DESCRIPTOR_DIM
from utils.video.faces import Face, FaceFinder
from utils.video.tracking import CutDetector

PART_FRAMES = 1500
_VERSION = 2  # of what is found and how it is written; parts of another one are made again
_N_POINTS = 68


class FaceScan:
    """The faces of a video, found once.

    Args:
        path: the video.
        n_frames: of it on the 25 fps grid.
        folder: for the parts; of this video only.
        part_frames: how many frames are found and written at a time.
    """

    def __init__(self, path: Path | str, n_frames: int, folder: Path | str, part_frames: int = PART_FRAMES) -> None:
        self._path = Path(path)
        self._folder = Path(folder)
        self._spans = [(start, min(start + part_frames, n_frames)) for start in range(0, n_frames, part_frames)]

    def run(self) -> int:
        """Look for faces in the parts that are missing, from the first of them on.

        Returns:
            How many frames were looked at.

        Raises:
            UserError: no video, or one that breaks off; mediapipe is not installed.
        """
        missing = [k for k, span in enumerate(self._spans) if _read_part(self._part(k), span) is None]
        if not missing:
            return 0
        todo = range(missing[0], len(self._spans))
        start, n_frames = self._spans[missing[0]][0], self._spans[-1][1]
        pictures = read_pictures(self._path, n_frames, first_frame=start)
        bar = tqdm(total=n_frames, initial=start, desc=f"faces of {self._path.name}", unit="frame", disable=None)
        with FaceFinder() as finder, bar:
            for k in todo:
                arrays = _scan_part(pictures, finder, self._spans[k], bar)
                with atomic_path(self._part(k)) as temporary:
                    np.savez_compressed(temporary, **arrays)
        return n_frames - start

    def frames(self) -> Iterator[tuple[int, list[Face], bool]]:
        """Every frame with faces or the beginning of a shot: frame, faces, whether a shot begins.

        Raises:
            UserError: a part is missing or damaged; `run` makes it.
        """
        for k, span in enumerate(self._spans):
            part = _read_part(self._part(k), span)
            if part is None:
                raise UserError(f"{self._part(k)}: missing or damaged; the same command makes it again")
            cuts = set(part["cuts"].tolist())
            descriptors = dict(zip(part["described"].tolist(), part["descriptors"], strict=True))
            rows: dict[int, list[int]] = {frame: [] for frame in cuts}
            for row, frame in enumerate(part["frame"].tolist()):
                rows.setdefault(frame, []).append(row)
            for frame in sorted(rows):
                yield frame, [_face(part, row, descriptors.get(row)) for row in rows[frame]], frame in cuts

    def _part(self, index: int) -> Path:
        return self._folder / f"part-{index:03d}.npz"


def _scan_part(
    pictures: Iterator[tuple[int, np.ndarray | None]], finder: FaceFinder, span: tuple[int, int], bar: tqdm
) -> dict[str, np.ndarray]:
    """The arrays of a part; takes the pictures of its frames, and no more, from `pictures`."""
    finder.reset()
    cuts, found = [], []
    detector = CutDetector()
    for _ in range(*span):
        frame, picture = next(pictures)
        if picture is not None:
            is_cut = detector.is_cut(picture)
            if is_cut:
                cuts.append(frame)
            found += [(frame, face) for face in finder.find(picture, frame, is_cut)]
        bar.update()
    described = [index for index, (_, face) in enumerate(found) if face.descriptor is not None]
    return {
        "version": np.int64(_VERSION),
        "frames": np.array(span, np.int64),
        "cuts": np.array(cuts, np.int64),
        "frame": np.array([frame for frame, _ in found], np.int64),
        "box": _stacked([face.box for _, face in found], 4),
        "score": np.array([face.score for _, face in found], np.float32),
        "points": _stacked([face.points for _, face in found], _N_POINTS, 2),
        "is_followed": np.array([face.is_followed for _, face in found], bool),
        "described": np.array(described, np.int64),
        "descriptors": _stacked([found[index][1].descriptor for index in described], DESCRIPTOR_DIM),
    }


def _stacked(arrays: Sequence[np.ndarray], *shape: int) -> np.ndarray:
    return np.array(arrays, np.float32).reshape(-1, *shape)


def _face(part: dict[str, np.ndarray], row: int, descriptor: np.ndarray | None) -> Face:
    box, score, points, is_followed = (part[name][row] for name in ("box", "score", "points", "is_followed"))
    return Face(box, float(score), points, descriptor, bool(is_followed))


def _read_part(path: Path, span: tuple[int, int]) -> dict[str, np.ndarray] | None:
    """The arrays of a part; None where it is missing, damaged, or of other frames."""
    names = ("frames", "cuts", "frame", "box", "score", "points", "is_followed", "described", "descriptors")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if int(archive["version"]) != _VERSION:
                return None
            part = {name: archive[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
        return None
    n_faces = len(part["frame"]) if part["frame"].ndim == 1 else -1
    shapes = {"box": (n_faces, 4), "score": (n_faces,), "points": (n_faces, _N_POINTS, 2), "is_followed": (n_faces,)}
    shapes["descriptors"] = (len(part["described"]) if part["described"].ndim == 1 else -1, DESCRIPTOR_DIM)
    whole = all(part[name].shape == shape for name, shape in shapes.items())
    return part if whole and part["frames"].tolist() == list(span) else None
