"""The store of visual embeddings, packed into a few large files.

Reads and writes `dump/embeddings/<visual frontend>-<fingerprint>/<corpus>/part-*.npy`, (sum of frames, dim) float16 or
float32, and `part-*.json`, the list of the part's clips `[{key, start, frames, source_size, source_mtime_ns,
source_sha256}]`. A part counts once its JSON is there, and that is written last. Filled by
`python -m utils.stages.embed` (stage 2) and by stage 4; read by stages 3 and 4.

Why packed: of 20 000 clips of 50 frames x 512 float16 (1 GB), random reads of whole clips take 70 to 79 us from 63 mapped
parts and 158 to 185 us from 20 000 files (cold cache: 290 to 380 and 460 to 490 us); not mapped, as now, they take a fifth
longer and keep memory flat. A cluster's file system has 126 files to look after. The store opens in 50 to 90 ms, so that a
database would bring nothing.
"""

import csv
import hashlib
import json
import os
import time
from collections.abc import Set
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.files import atomic_path, exclusive_lock, read_json, remove_leftovers, write_text
from utils.errors import UserError

PART_FRAMES = 16384  # a part is committed once it holds so many: 16 MB of 512 x float16, 11 minutes of video
_PART_SEC = 30.0  # or once it is so old: what a kill can cost on a slow machine


def made_key(utterance_id: str) -> str:
    """The key of embeddings that were made of a voice (`utils.voice_to_mouth.made`); no mouth file has such a path."""
    return f"made/{utterance_id}"


class Source(NamedTuple):
    """The mouth file, or the sound, that an embedding was made from, as it was then."""

    size: int  # bytes
    mtime_ns: int
    sha256: str


class Clip(NamedTuple):
    """The place of a clip's embedding within its part, and the file that it was made from."""

    key: str
    start: int  # frames
    frames: int
    source_size: int  # bytes
    source_mtime_ns: int
    source_sha256: str

    @property
    def source(self) -> Source:
        return Source(self.source_size, self.source_mtime_ns, self.source_sha256)


class _Part(NamedTuple):
    """The frames of one file."""

    path: Path
    offset: int  # bytes before the first frame
    dtype: np.dtype
    dim: int

    def read(self, first: int, count: int) -> np.ndarray:
        """Frames `first` to `first + count`, (count, dim).

        Raises:
            UserError: the file has gone or was cut off since the store was opened.
        """
        offset = self.offset + first * self.dim * self.dtype.itemsize
        try:
            numbers = np.fromfile(self.path, self.dtype, count * self.dim, offset=offset)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error}); run stage 2 again") from None
        if numbers.size != count * self.dim:
            raise UserError(f"{self.path}: cut off; remove it and run stage 2 again")
        return numbers.reshape(count, self.dim)


class EmbeddingStore:
    """The read side: a snapshot of the parts that were complete when it was opened.

    Stretches are read from the files, which the page cache holds once for all loader processes; they are not mapped,
    since an hour of mapped embeddings would count as the memory of the process that walks through them. A fork may use
    the store as it is; a pickled store opens the folder again.

    Args:
        root: `dump/embeddings/<visual frontend>-<fingerprint>/<corpus>`.

    Raises:
        UserError: no such folder, or a damaged part.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such embedding store; stage 2 (embeddings) makes it")
        self.dim = 0  # of an embedding; 0 as long as nothing is stored
        self._parts: list[_Part] = []
        self._clips: dict[str, tuple[int, Clip]] = {}
        for index in sorted(self.root.glob("part-*.json")):
            self._open_part(index)

    def _open_part(self, index: Path) -> None:
        clips = _read_index(index)
        try:
            part = np.load(_data_path(index), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(index, str(error).splitlines()[0]) from None
        if part.ndim != 2 or part.dtype not in (np.float16, np.float32) or not part.flags.c_contiguous:
            wanted = "float16 or float32 (frames, dim), frame after frame, is expected"
            raise _damaged(index, f"holds {part.dtype} {part.shape} where {wanted}")
        if any(clip.start < 0 or clip.frames < 1 or clip.start + clip.frames > len(part) for clip in clips):
            raise _damaged(index, f"its index names frames beyond the {len(part)} of the data")
        if self._parts and part.shape[1] != self.dim:
            raise _damaged(index, f"holds {part.shape[1]}-d vectors where the other parts hold {self.dim}-d ones")
        self.dim = part.shape[1]
        self._clips.update((clip.key, (len(self._parts), clip)) for clip in clips)
        self._parts.append(_Part(_data_path(index), part.offset, part.dtype, self.dim))

    def __reduce__(self) -> tuple:
        root = self.root.absolute()
        return _opened, (root, root.stat().st_mtime_ns)  # a large index does not travel

    def __len__(self) -> int:
        return len(self._clips)

    def __contains__(self, key: str) -> bool:
        return key in self._clips

    def keys(self) -> Set[str]:
        """The keys of all clips: mouth paths as the manifests have them, and those of `made_key`."""
        return self._clips.keys()

    def failed(self) -> dict[str, str]:
        """The mouths that stage 2 could not embed the last time, by all its processes: mouth path -> reason."""
        reasons = {}
        for path in sorted(self.root.glob("failed*.csv")):
            with open(path, newline="", encoding="utf-8") as handle:
                reasons.update((row["path"], row["reason"]) for row in csv.DictReader(handle))
        return reasons

    def clip(self, key: str) -> Clip:
        """The entry of a clip in the index.

        Raises:
            UserError: the store does not hold it.
        """
        if key not in self._clips:
            raise UserError(f"{self.root}: no embedding of {key}; run stage 2 (embeddings) for this corpus")
        return self._clips[key][1]

    def frames(self, key: str) -> int:
        """The number of video frames of a clip.

        Raises:
            UserError: the store does not hold it.
        """
        return self.clip(key).frames

    def get(self, key: str, start_frame: int = 0, n_frames: int | None = None) -> np.ndarray:
        """The embedding of a clip, or of a stretch of it.

        Args:
            key: mouth path as the manifest has it.
            start_frame: first frame, >= 0.
            n_frames: how many; None takes all to the end. One frame past the clip's end repeats its last frame, as
                video and audio lengths differ by a rounding.

        Returns:
            float32 (n_frames, dim), a copy.

        Raises:
            UserError: the store does not hold the clip, or the stretch ends more than one frame past it.
        """
        clip = self.clip(key)
        n_frames = clip.frames - start_frame if n_frames is None else n_frames
        end_frame = start_frame + n_frames
        if start_frame < 0 or n_frames < 0 or end_frame > clip.frames + 1:
            raise UserError(
                f"{key}: frames {start_frame} to {end_frame} asked of an embedding of {clip.frames} frames "
                f"({self.root}); check this clip's frames in the manifest, or make its mouth crops again"
            )
        part = self._parts[self._clips[key][0]]
        stretch = part.read(clip.start + start_frame, min(end_frame, clip.frames) - start_frame)
        if end_frame > clip.frames:
            last = stretch[-1:] if len(stretch) else part.read(clip.start + clip.frames - 1, 1)
            stretch = np.concatenate([stretch, last])
        return stretch.astype(np.float32)


@lru_cache(maxsize=2)
def _opened(root: Path, mtime_ns: int) -> EmbeddingStore:
    """A store that was pickled; jobs of one store that follow each other in a process share it while no part is added."""
    return EmbeddingStore(root)


class EmbeddingWriter:
    """The write side: gathers clips and commits them part by part; a killed run loses at most the open part.

    Several writers, on several machines, may fill one store: they take turns by a lock on the folder, and no two of
    them should be given the same key. Leaving the `with` block well commits what is left.

    Args:
        root: the store's folder; made if absent. Temporary files that a killed run left are removed.
        precision: "float16" or "float32".
    """

    def __init__(self, root: Path | str, precision: str = "float16") -> None:
        self.root = Path(root)
        self._dtype = np.dtype(precision)
        self._clips: list[Clip] = []
        self._data: list[np.ndarray] = []
        self._frames = 0
        self._opened_sec = time.monotonic()  # of the open part
        with self._lock() as is_locked:
            if is_locked:  # live writers write only while they hold the lock: what else is there a killed one left
                remove_leftovers(self.root, below=False)
                for data in self.root.glob("part-*.npy"):
                    if not data.with_suffix(".json").exists():
                        data.unlink(missing_ok=True)

    def __enter__(self) -> "EmbeddingWriter":
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        if error_type is None:
            self.commit()

    def add(self, key: str, embedding: np.ndarray, source: Source) -> None:
        """Take one clip's embedding, float32 (frames, dim); it is stored at the next `commit`.

        Raises:
            UserError: it holds values that are not finite, or that this precision cannot hold.
        """
        if not np.abs(embedding).max() <= np.finfo(self._dtype).max:  # NaN is not, either
            raise UserError(f"the embedding is not finite in {self._dtype}; look at the weights, or take float32")
        rounded = np.ascontiguousarray(embedding, self._dtype)  # frame after frame, as `_Part.read` takes them
        self._clips.append(Clip(key, self._frames, len(rounded), *source))
        self._data.append(rounded)
        self._frames += len(rounded)

    def commit_if_due(self) -> None:
        """Commit once a part's worth is gathered. Called between batches, so that a part holds whole batches only."""
        if self._frames >= PART_FRAMES or time.monotonic() - self._opened_sec >= _PART_SEC:
            self.commit()

    def commit(self) -> None:
        """Write what was gathered as one part: the data, then the index that makes it count."""
        self._opened_sec = time.monotonic()
        if not self._clips:
            return
        text = json.dumps([clip._asdict() for clip in self._clips], ensure_ascii=False)
        index = self.root / f"part-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        with self._lock():
            data = np.concatenate(self._data)
            with atomic_path(_data_path(index), data.nbytes) as temporary, open(temporary, "wb") as handle:
                np.save(handle, data)
                handle.flush()
                os.fsync(handle.fileno())  # the index must not outlive its data when the power fails
            write_text(index, text)
        self._clips, self._data, self._frames = [], [], 0

    def forget(self, keys: Set[str]) -> None:
        """Drop clips from the index (their source changed); a part that holds nothing else is deleted."""
        with self._lock():
            for index in sorted(self.root.glob("part-*.json")) if keys else ():
                clips = _read_index(index)
                kept = [clip._asdict() for clip in clips if clip.key not in keys]
                if not kept:
                    index.unlink()
                    _data_path(index).unlink(missing_ok=True)
                elif len(kept) < len(clips):
                    write_text(index, json.dumps(kept, ensure_ascii=False))

    def _lock(self) -> AbstractContextManager[bool]:
        return exclusive_lock(self.root, "these embeddings", wait=True)


def _data_path(index: Path) -> Path:
    return index.with_suffix(".npy")


def _read_index(index: Path) -> list[Clip]:
    try:
        return [Clip(**entry) for entry in read_json(index)]
    except (UserError, TypeError) as error:
        raise _damaged(index, f"its index cannot be read: {error}") from None


def _damaged(index: Path, reason: str) -> UserError:
    return UserError(
        f"{_data_path(index)}: damaged part of the embedding store ({reason}); "
        f"delete it and {index.name}, then run stage 2 (embeddings) again: it makes the lost clips again"
    )
