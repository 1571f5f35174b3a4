"""What stage 2 has to do: which mouths have no embedding yet, or one of a file that has changed since.

Reads the manifests, the embedding store's index, and size, time or content of the files; writes nothing. What is planned
here, `utils.embedding.embed` does.

Batches are cut from the list of all clips, sorted by length, before those that are there are taken out: a resumed or
a sharded run forms the batches that an undisturbed run forms, and so the same bytes.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from utils.data.disk import require_space
from utils.data.files import sha256_file
from utils.data.manifest import Manifest, Problem
from utils.data.manifest_rows import item_id, item_mouths
from utils.embedding.frontends import Frontend, store_name
from utils.embedding.precomputed import ReadyFeatures
from utils.embedding.store import EmbeddingStore, Source
from utils.errors import UserError

_BATCH_FRAMES = 2048  # frames that go through the network at once: bounds the memory


@dataclass(frozen=True)
class MouthClip:
    """A mouth file to embed, or the features of it, and the row of the manifest that named it first."""

    key: str  # as written in the manifest
    path: Path
    frames: int  # as the manifest has them; the file may differ by one
    row: int
    item_id: str
    goes_on: bool = False  # a mixture's mouth, which may last longer

    def problem(self, error: Exception) -> Problem:
        """Why this clip cannot be embedded; the path is named once."""
        return Problem(self.row, self.item_id, self.key, str(error).removeprefix(f"{self.path}: "))


@dataclass(frozen=True)
class EmbeddingPlan:
    """What has to be done for one view of one corpus; `groups` hold the clips that are missing or out of date."""

    root: Path
    view: str
    precision: str
    description: dict = field(repr=False)  # of the front end, as written to frontend.json
    n_clips: int = 0  # of the manifests, or of this process' share of them
    groups: list[list[MouthClip]] = field(default_factory=list, repr=False)
    n_processes: int = 1  # that share the work, and the disk

    @property
    def n_pending(self) -> int:
        """The number of clips to embed."""
        return sum(len(group) for group in self.groups)

    @property
    def n_bytes(self) -> int:
        """What the embeddings to come take on disk, those of the other processes too, whose shares are alike."""
        frames = sum(clip.frames for group in self.groups for clip in group)
        return frames * self.description["dim"] * np.dtype(self.precision).itemsize * self.n_processes


def plan_embedding(
    manifests: Sequence[Manifest],
    frontend: Frontend | ReadyFeatures,
    dump_dir: Path,
    view: str,
    precision: str,
    batch_size: int,
    nj: int,
    shard: tuple[int, int] = (0, 1),
    force: bool = False,
) -> EmbeddingPlan:
    """Find out which clips are to be embedded; arguments as in `utils.embedding.embed.embed_manifests`.

    Args:
        shard: (rank, number of processes) that share the work.
        force: all of them, as if the store were empty.

    Raises:
        UserError: manifests that do not fit together, a damaged store, or features that two mouths would share.
    """
    rank, world_size = shard
    corpora = {manifest.corpus for manifest in manifests}
    if len(corpora) != 1:
        raise UserError(f"{manifests[0].path.parent}: manifests of several corpora ({', '.join(sorted(corpora))}); part them")
    root = Path(dump_dir) / "embeddings" / store_name(frontend, view, precision) / manifests[0].corpus
    clips = collect_clips(manifests)
    if isinstance(frontend, ReadyFeatures):
        clips = _with_features(clips, frontend)
    groups = _cut_groups(clips, batch_size)[rank::world_size]
    n_clips = sum(len(group) for group in groups)
    if not force and root.is_dir():
        groups = _without_current(groups, EmbeddingStore(root), nj)
    return EmbeddingPlan(root, view, precision, frontend.describe(view, precision), n_clips, groups, world_size)


def require_room(plans: Sequence[EmbeddingPlan]) -> None:
    """Refuse plans that the disk cannot take together, before anything is written.

    Raises:
        UserError: it has not enough room.
    """
    folder = plans[0].root.parent.parent  # all stores lie there
    require_space(folder, sum(plan.n_bytes for plan in plans), "the missing embeddings", "--dump_dir")


def collect_clips(manifests: Iterable[Manifest]) -> list[MouthClip]:
    """Every mouth of these manifests once, the shortest first.

    Raises:
        UserError: one path means two files, as the manifests' data_root differ.
    """
    clips: dict[str, MouthClip] = {}
    for manifest in sorted(manifests, key=lambda manifest: manifest.mouths_go_on):  # those first that know a clip's frames
        for row, item in enumerate(manifest.items, start=2):
            for key in filter(None, item_mouths(item)):
                clip = MouthClip(key, manifest.resolve(key), item.frames, row, item_id(item), manifest.mouths_go_on)
                if clips.setdefault(key, clip).path != clip.path:
                    raise UserError(
                        f"{manifest.path}, row {row}: {key} is {clip.path} here but {clips[key].path} in another "
                        f"manifest of this corpus; give all its manifests the same data_root"
                    )
    return sorted(clips.values(), key=lambda clip: clip.frames)


def _with_features(clips: list[MouthClip], features: ReadyFeatures) -> list[MouthClip]:
    """The clips with the paths of their features for those of their crops."""
    found = [replace(clip, path=features.path_of(clip.key)) for clip in clips]
    keys: dict[Path, str] = {}
    for clip in found:
        if keys.setdefault(clip.path, clip.key) != clip.key:
            raise UserError(f"{clip.key}: {keys[clip.path]} has the same name, by which features are found; rename one")
    return found


def _cut_groups(clips: list[MouthClip], batch_size: int) -> list[list[MouthClip]]:
    """Runs of clips of the same length, none above `batch_size` clips or `_BATCH_FRAMES` frames."""
    groups: list[list[MouthClip]] = []
    for clip in clips:
        group = groups[-1] if groups else []
        fits = len(group) < batch_size and (len(group) + 1) * clip.frames <= _BATCH_FRAMES
        if group and fits and group[0].frames == clip.frames:
            group.append(clip)
        else:
            groups.append([clip])
    return groups


def _without_current(groups: list[list[MouthClip]], store: EmbeddingStore, nj: int) -> list[list[MouthClip]]:
    """Take out the clips whose embedding is there and was made from the file as it is now."""
    with ThreadPoolExecutor(nj) as pool:
        current = pool.map(lambda clip: _is_current(clip, store), [clip for group in groups for clip in group])
        remaining = [[clip for clip in group if not next(current)] for group in groups]
    return [group for group in remaining if group]


def _is_current(clip: MouthClip, store: EmbeddingStore) -> bool:
    """Whether the store holds a clip, made from the same file: same size and time, else the same content.

    A file that is gone since then leaves its embedding valid.
    """
    if clip.key not in store:
        return False
    source = store.clip(clip.key).source
    try:
        status = clip.path.stat()
        if (status.st_size, status.st_mtime_ns) == (source.size, source.mtime_ns):
            return True
        return status.st_size == source.size and sha256_file(clip.path) == source.sha256
    except FileNotFoundError:
        return True
    except OSError:
        return False  # loading it says what is wrong


def source_of(path: Path) -> Source:
    """What a mouth file is now.

    Raises:
        UserError: it cannot be read.
    """
    try:
        status = path.stat()
        return Source(status.st_size, status.st_mtime_ns, sha256_file(path))
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
