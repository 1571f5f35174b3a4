"""Trees of clips: one file for each clip, somewhere below a folder, named by its place.

`id00017/01dfn2spqyE/00001.mp4` is the clip `id00017/01dfn2spqyE/00001`, whatever the suffix and the tree (video, sound,
landmarks), so that the parts of a clip are found by it. Its id is the same with `_` for `/`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.data.manifest import Problem
from utils.errors import UserError, name_problem


@dataclass(frozen=True)
class TreeFile:
    """A file of a tree; `place` is its path below the tree, without suffix, cut at the folders."""

    place: tuple[str, ...]
    path: Path

    @property
    def clip_id(self) -> str:
        return "_".join(self.place)


def walk_tree(root: Path, suffixes: Sequence[str], depth: int | None = None) -> tuple[dict[str, TreeFile], list[Problem]]:
    """Find the files of a tree.

    Args:
        root: its top.
        suffixes: of the files that count, lower case; others are ignored, as are hidden files and folders.
        depth: folders above each file; files at other depths are ignored. None: any.

    Returns:
        The files by id, in the order of their places; and those whose ids are the same, or no text.

    Raises:
        UserError: there is no such folder.
        OSError: a folder cannot be read.
    """
    if not root.is_dir():
        raise UserError("no such folder", root)
    found: dict[str, list[TreeFile]] = {}
    for folder, folders, names in os.walk(root, onerror=_stop, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        above = Path(folder).relative_to(root).parts
        if depth is not None and len(above) >= depth:
            folders.clear()
        if depth is not None and len(above) != depth:
            continue
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes and not name.startswith("."):
                item = TreeFile((*above, stem), Path(folder, name))
                found.setdefault(item.clip_id, []).append(item)
    clips, problems = {}, []
    for clip_id, items in found.items():
        if reason := name_problem(clip_id):
            problems.append(Problem(0, clip_id, str(items[0].path), reason))
        elif len(items) == 1:
            clips[clip_id] = items[0]
        else:
            paths = ", ".join(item.path.relative_to(root).as_posix() for item in items)
            problems.append(Problem(0, clip_id, str(root), f"{len(items)} files make this id: {paths}"))
    return clips, problems


def _stop(error: OSError) -> None:
    raise error  # else `os.walk` passes over a folder that it cannot read
