"""Precomputed visual features in place of a visual frontend: `DIR/ID.npy` for each mouth ID.

Reads the folder that `--frontend_weights` names where it is no file. Each file holds float (frames, dim) at the frame rate
of the manifest, e.g. (T, 512) of the extraction family (MuSE, USEV, SEANet). It may lie deeper:
`DIR/train/id08108/RCODGWdfzdY/00197.npy` is ID `id08108_RCODGWdfzdY_00197`. Nobody can tell from numbers what made them: the
folder's name is the name of the visual frontend, so that a model trained on `lips_a` never meets `lips_b`.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from utils.data.clip_tree import walk_tree
from utils.errors import UserError, name_problem

VERSION = 1  # of the reading below: raise it when the same files would give other vectors


class PrecomputedEmbeddings:
    """A folder of features, to be used where a `Frontend` is whose vectors are only stored.

    Args:
        folder: the features; its name is theirs.

    Attributes:
        name: what they are called in messages and folder names.
        dim: values a frame, those of the first file that can be read.

    Raises:
        UserError: no such folder, or no file in it that can be read.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.name = self.folder.absolute().name
        self._files: dict[str, list[Path]] = {}
        tree, doubles = walk_tree(self.folder, (".npy",))
        doubles = [problem for problem in doubles if not name_problem(problem.item_id)]  # those no manifest can ask for
        if doubles:
            raise UserError(f"{self.folder}: {doubles[0].item_id}: {doubles[0].reason}; leave one of them there")
        for item in tree.values():
            for first in range(len(item.place)):
                self._files.setdefault("_".join(item.place[first:]), []).append(item.path)
        self._example, self.dim = self._first(item.path for item in tree.values())

    def _first(self, paths: Iterable[Path]) -> tuple[Path, int]:
        reasons = [f"{self.folder}: holds no ID.npy; give a checkpoint, or a folder of features, a file for each mouth"]
        for path in paths:
            try:
                return path, _open(path).shape[1]
            except UserError as error:
                reasons.append(str(error))
        raise UserError(reasons[min(1, len(reasons) - 1)])

    def describe(self, view: str = "centre", precision: str = "float16") -> dict:
        """All that stored vectors depend on, as plain JSON.

        Raises:
            UserError: a view that features have not.
        """
        if view != "centre":
            raise UserError(f"--views {view}: {self.folder} holds precomputed embeddings, of which there is no mirror image")
        facts = {"network": "precomputed embeddings", "name": self.name, "dim": self.dim}
        return {**facts, "view": view, "precision": precision, "version": VERSION}

    def path_of(self, mouth_path: str) -> Path:
        """The file of a mouth, found by its name; where there is none, the place where it would be.

        Raises:
            UserError: several files may be meant.
        """
        name = Path(mouth_path).stem
        found = self._files.get(name, [self.folder / f"{name}.npy"])
        if len(found) > 1:
            raise UserError(f"{self.folder}: {found[0]} and {found[1]} may both be {name}; take one of them out")
        return found[0]

    def read(self, path: Path, frames: int, goes_on: bool, view: str = "centre") -> np.ndarray:
        """The vectors of one clip.

        Args:
            path: as `path_of` gives it.
            frames: as the manifest has them; the file may have one more or one less.
            goes_on: it may have any number more.
            view: centre, the only one that features have.

        Returns:
            float32 (frames, dim).

        Raises:
            UserError: it cannot be read, is no such array, or has not the frames.
        """
        vectors = _open(path)
        if vectors.shape[1] != self.dim:
            raise UserError(f"{path}: {vectors.shape[1]} values a frame where {self._example} has {self.dim}; make it again")
        n_frames = len(vectors)
        if n_frames < max(frames - 1, 1) or (n_frames > frames + 1 and not goes_on):
            raise UserError(f"{path}: {n_frames} frames where the manifest says {frames}; make it again, at 25 frames/s")
        if not np.isfinite(vectors).all():
            raise UserError(f"{path}: holds values that are not finite; make it again")
        return np.array(vectors, np.float32)


def _open(path: Path) -> np.ndarray:
    """An array of vectors, mapped, float (frames, dim).

    Raises:
        UserError: the file cannot be read, or holds something else; nothing pickled is ever loaded.
    """
    try:
        array = open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        what = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read ({what}); make it again") from None
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise UserError(f"{path}: {array.dtype} {array.shape} where float (frames, dim) is expected; save it so")
    return array
