"""Embeddings of lips and of faces beside each other, read as one store is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.embedding.store import Clip, EmbeddingStore


class JoinedStore:
    """Several stores of the same clips as one, whose embeddings follow each other in every frame.

    A frame that one of them has not seen (zeros) is zeros in its part only.

    Args:
        stores: lips first.
    """

    def __init__(self, stores: Sequence[EmbeddingStore]) -> None:
        self.stores = list(stores)

    @property
    def root(self) -> Path:
        """The folder of the first store."""
        return self.stores[0].root

    @property
    def dim(self) -> int:
        """Numbers of an embedding."""
        return sum(store.dim for store in self.stores)

    def __contains__(self, key: str) -> bool:
        return all(key in store for store in self.stores)

    def failed(self) -> dict[str, str]:
        """Why clips have no embedding, by their keys."""
        return {key: reason for store in reversed(self.stores) for key, reason in store.failed().items()}

    def clip(self, key: str) -> Clip:
        """The index entry of a clip in the first store, with the sources of all in one digest."""
        entries = [store.clip(key) for store in self.stores]
        return entries[0]._replace(frames=self.frames(key), source_sha256="+".join(entry.source_sha256 for entry in entries))

    def frames(self, key: str) -> int:
        """The number of video frames of a clip: those that all stores have."""
        return min(store.frames(key) for store in self.stores)

    def get(self, key: str, start_frame: int = 0, n_frames: int | None = None) -> np.ndarray:
        """The embedding of a clip or a stretch of it, (n_frames, dim); as `EmbeddingStore.get`."""
        count = self.frames(key) - start_frame if n_frames is None else n_frames
        return np.concatenate([store.get(key, start_frame, count) for store in self.stores], axis=1)


AnyStore = EmbeddingStore | JoinedStore


def joined(stores: Sequence[EmbeddingStore]) -> AnyStore:
    """One store as it is, several as one."""
    return stores[0] if len(stores) == 1 else JoinedStore(stores)
