"""Faces out of step with their voices at test: an embedding store as it would be, and the tasks of stage 4 that read it.

Reads the embedding store; writes nothing. Imported by `utils.stages.offset_sweep`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from utils.data.estimates import Journal
from utils.data.fingerprints import hash_json
from utils.embedding.store import Clip, EmbeddingStore
from utils.errors import UserError
from utils.separation.tasks import SeparationOptions, Task


class ShiftedStore:
    """An embedding store whose faces all come too late; read as an `EmbeddingStore` is.

    The first or last frame fills what is missing, as in `utils.training.augmentation.shift_frames`.

    Args:
        store: the embeddings as they are.
        by: frames that the video comes too late; negative is too early.
    """

    def __init__(self, store: EmbeddingStore, by: int) -> None:
        self.store, self.by = store, by

    @property
    def root(self) -> Path:
        return self.store.root

    def __contains__(self, key: str) -> bool:
        return key in self.store

    def clip(self, key: str) -> Clip:
        """What the index says of a clip."""
        return self.store.clip(key)

    def frames(self, key: str) -> int:
        """The number of video frames of a clip."""
        return self.store.frames(key)

    def get(self, key: str, start_frame: int = 0, n_frames: int | None = None) -> np.ndarray:
        """The embedding that is shown in a stretch, (n_frames, dim); reads no more than it needs."""
        there = self.store.frames(key)
        count = there - start_frame if n_frames is None else n_frames
        shown = np.clip(np.arange(start_frame, start_frame + count) - self.by, 0, there - 1)
        return self.store.get(key, int(shown[0]), int(shown[-1] - shown[0]) + 1)[shown - shown[0]]


def with_late_faces(tasks: Sequence[Task], by: int) -> list[Task]:
    """The tasks for a `ShiftedStore` of that offset: their stamps tell it apart from others."""

    def stamp(task: Task) -> str:
        return hash_json([task.stamp, "faces late", by])

    return [replace(task, stamp=stamp(task)) for task in tasks if task.faces]


def check_made_alike(tasks: Sequence[Task], folder: Path, options: SeparationOptions) -> None:
    """Refuse voices of stage 4 beside which those of other offsets would tell more than the offset.

    Args:
        tasks: what would be separated now, as stage 4 plans it.
        folder: where stage 4 left its voices and their journal.
        options: those of `tasks`, for the message.

    Raises:
        UserError: some were made with other options, by another network or from other files, or not at all.
    """
    made = Journal(folder).made
    others = [task.item.mixture_id for task in tasks if getattr(made.get(task.item.mixture_id), "stamp", "") != task.stamp]
    if others:
        raise UserError(
            f"{folder}: {len(others)} of {len(tasks)} mixtures (first: {others[0]}) are not as --window_sec "
            f"{options.window_sec:g} --hop_sec {options.hop_sec:g} --subtype {options.subtype} and the files of today make "
            "them; give the options that stage 4 was given, or run stage 4 with these"
        )
