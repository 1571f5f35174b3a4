"""Video out of step with the sound at test: an embedding store as it would be then."""

from pathlib import Path

import numpy as np

from utils.embedding.store import Clip, EmbeddingStore


class ShiftedStore:
    """An embedding store whose video is late everywhere; read as an `EmbeddingStore` is.

    The first or last frame fills what is missing, as in `utils.training.augmentation.shift_frames`.

    Args:
        store: the embeddings as they are.
        offset_frames: video frames that the video is late; negative is early.
    """

    def __init__(self, store: EmbeddingStore, offset_frames: int) -> None:
        self.store, self.offset_frames = store, offset_frames

    @property
    def root(self) -> Path:
        """The folder of the store."""
        return self.store.root

    def __contains__(self, key: str) -> bool:
        return key in self.store

    def clip(self, key: str) -> Clip:
        """The index entry of a clip."""
        return self.store.clip(key)

    def frames(self, key: str) -> int:
        """The number of video frames of a clip."""
        return self.store.frames(key)

    def get(self, key: str, start_frame: int = 0, n_frames: int | None = None) -> np.ndarray:
        """The embedding that is shown in a stretch, (n_frames, dim); reads no more than it needs."""
        n_stored = self.store.frames(key)
        count = n_stored - start_frame if n_frames is None else n_frames
        shown = np.clip(np.arange(start_frame, start_frame + count) - self.offset_frames, 0, n_stored - 1)
        return self.store.get(key, int(shown[0]), int(shown[-1] - shown[0]) + 1)[shown - shown[0]]
