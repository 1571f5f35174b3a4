"""Mouth crops through a visual frontend into an embedding store: stage 2, also called by stage 4.

Reads the mouth crops that manifests name, or precomputed embeddings of them; writes
`dump/embeddings/<store name>/frontend.json` and below it, for each corpus, the store (`utils.embedding.store`) and
`failed.csv`.

    plan_embedding   which clips have no embedding yet, or one of a file that has changed since
    run_plan         loader threads read, unzip and preprocess whole batches ahead; the network runs; parts are written; on a
                     cluster the workers do so, each job some batches
    embed_manifests  both, with a look at the room on the disk between them
    embed_corpus     the same for every view of a corpus, by one process or several; marks <data_dir>/.done-2-<store name>.json

Batches are cut from the list of all clips, sorted by length, before those that are there are taken out: a resumed or a
sharded run forms the batches that an undisturbed run forms, and so the same bytes.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from utils.data.cluster import DIED, chosen_cluster
from utils.data.crops import CropFile
from utils.data.faces import face_path_of
from utils.data.files import require_space, sha256_file, write_json
from utils.data.fingerprints import StageMark, hash_contents
from utils.data.jobs import Job, work_through
from utils.data.manifest import Manifest, Problem, item_id, item_mouths, write_failed
from utils.data.mouths import FILL_FRAMES, fill_unseen
from utils.data.progress import progress_bar
from utils.embedding.face_frontends import FaceFrontend
from utils.embedding.frontends import Frontend, store_name
from utils.embedding.landmarks import Landmarks
from utils.embedding.precomputed import PrecomputedEmbeddings
from utils.embedding.store import PART_FRAMES, EmbeddingStore, EmbeddingWriter, Source
from utils.embedding.threads import map_in_threads, map_on_cores
from utils.errors import UserError

logger = logging.getLogger(__name__)
CropFrontend = Frontend | FaceFrontend  # they look at crops
StoredOnly = PrecomputedEmbeddings | Landmarks  # they give vectors as they are
AnyFrontend = CropFrontend | StoredOnly
Embedded = tuple["MouthClip", Source, np.ndarray]  # (frames, dim)

_LONG_FRAMES = 512  # a longer clip goes in pieces, read from disk as it goes
_PIECE_FRAMES = 112  # LR-ASD's largest tensor stays below the 32 MB from where each would be fetched from the system anew
_MAX_READERS = 8  # more threads wait for the interpreter and hold batches in memory
_CONTEXT_FRAMES = 9  # that a trunk sees to either side: LR-ASD 9, lip-reading networks 2
# From the last wanted frame to the end of what is read: more than the context and what unseen frames are filled from, and
# such that a piece with its context begins at a multiple of 16 frames, where face frontends look.
_AHEAD_FRAMES = 39
_BATCH_FRAMES = 2048  # frames that go through the network at once: bounds the memory
_SHARES, _SHARE_FRAMES = 64, 1024  # of a cluster's jobs: at least so many, none of them much smaller; a part each at most


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
        """This clip with the reason why it cannot be embedded; the path is named once."""
        return Problem(self.row, self.item_id, self.key, str(error).removeprefix(f"{self.path}: "))


@dataclass(frozen=True)
class EmbeddingPlan:
    """The work to be done for one view of one corpus; `groups` hold the clips that are missing or out of date."""

    root: Path
    view: str
    precision: str
    description: dict = field(repr=False)  # of the visual frontend, as written to frontend.json
    n_clips: int = 0  # of the manifests, or of this process' share of them
    groups: list[list[MouthClip]] = field(default_factory=list, repr=False)
    n_processes: int = 1  # that share the work, and the disk

    @property
    def n_pending(self) -> int:
        """The number of clips to embed."""
        return sum(len(group) for group in self.groups)

    @property
    def n_bytes(self) -> int:
        """The size on disk of the embeddings to come, those of the other processes too, whose shares are alike."""
        frames = sum(clip.frames for group in self.groups for clip in group)
        return frames * self.description["dim"] * np.dtype(self.precision).itemsize * self.n_processes


@dataclass(frozen=True)
class Batch:
    """Clips of equal length, preprocessed: `inputs` is float32 (batch, frames, height, width).

    A long clip is a batch of its own without inputs: it is read when its turn has come.
    """

    clips: list[MouthClip]
    sources: list[Source]
    masks: list[np.ndarray]  # bool (frames,) each, True where a mouth was seen
    inputs: torch.Tensor | None
    view: str


def embed_manifests(
    manifests: Sequence[Manifest],
    frontend: AnyFrontend,
    dump_dir: Path,
    view: str = "centre",
    precision: str = "float16",
    batch_size: int = 16,
    nj: int = 2,
) -> tuple[EmbeddingStore, list[Problem]]:
    """Embed every mouth of one corpus' manifests that the store does not hold yet.

    Args:
        manifests: of the same corpus.
        frontend: on the device that shall do the work.
        dump_dir: the store is `<dump_dir>/embeddings/<store name>/<corpus>`.
        view: one of `utils.data.constants.VIEWS`.
        precision: what is stored, "float16" or "float32".
        batch_size: clips a batch at most.
        nj: threads that read ahead.

    Returns:
        The store, and the mouths that could not be embedded (also written to `failed.csv` in the store).

    Raises:
        UserError: manifests that do not fit together, a damaged store, or a disk without room.
    """
    plan = plan_embedding(manifests, frontend, dump_dir, view, precision, batch_size, nj)
    require_room([plan])
    problems = run_plan(plan, frontend, nj)
    return EmbeddingStore(plan.root), problems


@dataclass(frozen=True)
class CorpusOptions:
    """The options of stage 2 on a corpus."""

    data_dir: Path  # the marks go there
    dump_dir: Path  # stores are in dump_dir/embeddings
    precision: str  # of the stored embeddings
    batch_size: int  # clips
    nj: int  # threads that read ahead
    max_failed: int  # mouths
    force: bool
    share: tuple[int, int]  # rank of this process, number of processes


def embed_corpus(manifests: Sequence[Manifest], frontend: AnyFrontend, views: Sequence[str], options: CorpusOptions) -> None:
    """Bring this process' share of every view's store up to date; mark a view once the whole of it is.

    Raises:
        UserError: no room on the disk, or more than `max_failed` mouths of a view could not be embedded.
    """
    how = {"precision": options.precision, "batch_size": options.batch_size, "nj": options.nj}
    plan_view = partial(plan_embedding, manifests, frontend, options.dump_dir, **how)
    plans = [plan_view(view, shard=options.share, force=options.force) for view in views]
    require_room(plans)
    for plan in plans:
        mark = _mark(manifests, plan.root.parent.name, plan.view, options)
        changes = mark.changed()
        if not plan.groups and changes == []:
            logger.info("stage 2: up to date (%s view, clips in %s: %d)", plan.view, plan.root, plan.n_clips)
            continue
        because = f" ({'; '.join(changes)})" if changes else ""
        logger.info("stage 2: %s view, clips to embed: %d of %d%s", plan.view, plan.n_pending, plan.n_clips, because)
        _embed_view(plan, frontend, options)
        # the last of several processes finds nothing missing
        if plan.n_processes == 1 or not plan_view(plan.view).groups:
            mark.write()


def _embed_view(plan: EmbeddingPlan, frontend: AnyFrontend, options: CorpusOptions) -> None:
    rank, n_processes = options.share
    failed_path = plan.root / ("failed.csv" if n_processes == 1 else f"failed-{rank}.csv")
    problems = run_plan(plan, frontend, options.nj, failed_path.name)
    counts = plan.n_clips, plan.n_clips - plan.n_pending, plan.n_pending - len(problems), len(problems)
    logger.info("stage 2: %s: clips: %d, %d already there, %d embedded now, %d failed", plan.root, *counts)
    for other in plan.root.glob("failed-*.csv" if n_processes == 1 else "failed.csv"):
        other.unlink(missing_ok=True)  # of an earlier run with another number of processes
    if len(problems) > options.max_failed:
        raise UserError(
            f"{failed_path}: {len(problems)} of {plan.n_clips} mouths could not be embedded, the first "
            f"{problems[0].path} ({problems[0].reason}); mend them, or allow so many with --max_failed"
        )


def _mark(manifests: Sequence[Manifest], name: str, view: str, options: CorpusOptions) -> StageMark:
    files = [path for manifest in manifests for path in (manifest.path, manifest.path.with_suffix(".json"))]
    inputs = {"manifests": hash_contents(files), "visual frontend": name, "view": view, "precision": options.precision}
    return StageMark(options.data_dir / f".done-2-{name}.json", inputs)


def plan_embedding(
    manifests: Sequence[Manifest],
    frontend: AnyFrontend,
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
    if isinstance(frontend, PrecomputedEmbeddings):
        clips = _with_features(clips, frontend)
    elif isinstance(frontend, FaceFrontend):
        clips = [replace(clip, path=face_path_of(clip.path, frontend.kind.size)) for clip in clips]
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


def _with_features(clips: list[MouthClip], features: PrecomputedEmbeddings) -> list[MouthClip]:
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
    """Tell if the store holds a clip, made from the same file: same size and time, else the same content.

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
    """The state of a mouth file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        status = path.stat()
        return Source(status.st_size, status.st_mtime_ns, sha256_file(path))
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def run_plan(plan: EmbeddingPlan, frontend: AnyFrontend, nj: int, failed_name: str = "failed.csv") -> list[Problem]:
    """Embed the clips of a plan; those that cannot be are returned and listed in `failed_name` beside the parts.

    Raises:
        UserError: a damaged store.
    """
    write_json(plan.root.parent / "frontend.json", plan.description)
    with EmbeddingWriter(plan.root, plan.precision) as writer:
        writer.forget({clip.key for group in plan.groups for clip in group})
    with progress_bar(total=plan.n_pending, unit="clip", desc=f"embeddings, {plan.view}") as progress:
        embed = _embed_on_cluster if chosen_cluster() else _embed
        problems = embed(plan, frontend, nj, progress.update)
    write_failed(plan.root / failed_name, problems)
    return problems


def _embed(plan: EmbeddingPlan, frontend: AnyFrontend, nj: int, tell: Callable[[int], object]) -> list[Problem]:
    """Fill the store in this process; `tell` is told of every few clips."""
    problems: list[Problem] = []
    with EmbeddingWriter(plan.root, plan.precision) as writer:
        for batch in _embedded(plan, frontend, nj, problems):
            for clip, source, embedding in batch:
                try:
                    writer.add(clip.key, embedding, source)
                except UserError as error:
                    problems.append(clip.problem(error))
            writer.commit_if_due()
            tell(len(batch))
    return problems


def _embed_on_cluster(plan: EmbeddingPlan, frontend: AnyFrontend, nj: int, tell: Callable[[int], object]) -> list[Problem]:
    """The same by the workers of a cluster; the store is the journal, for a plan lacks what it holds.

    A share whose workers die is done again clip by clip, so that only the clip at fault is lost.
    """
    shares = [replace(plan, groups=groups) for groups in _cut_shares(plan.groups)]
    problems: dict[str, Problem] = {}
    while shares:
        jobs = [Job(str(number), "", (), (frontend.load_again, share)) for number, share in enumerate(shares)]
        shares = []
        with closing(work_through(_embed_share, jobs, nj, plan.root.parent, tell)) as done:
            for job, failed, reason in done:
                _, share = job.given
                clips = [clip for group in share.groups for clip in group]
                if reason == DIED and len(clips) > 1:
                    shares += [replace(share, groups=[[clip]]) for clip in clips]
                    continue
                problems |= {problem.path: problem for problem in failed or ()}
                problems |= {clip.key: clip.problem(UserError(reason)) for clip in clips if reason}
                tell(len(clips))
    return [problems[clip.key] for group in plan.groups for clip in group if clip.key in problems]


def _cut_shares(groups: list[list[MouthClip]]) -> Iterator[list[list[MouthClip]]]:
    n_frames = [sum(clip.frames for clip in group) for group in groups]
    wanted = min(max(sum(n_frames) // _SHARES, _SHARE_FRAMES), PART_FRAMES)
    share, gathered = [], 0
    for group, count in zip(groups, n_frames, strict=True):
        share.append(group)
        gathered += count
        if gathered >= wanted:
            yield share
            share, gathered = [], 0
    if share:
        yield share


_loaded: list[tuple[dict, AnyFrontend]] = []  # of a worker: the last visual frontend, with what it must be


def _embed_share(given: tuple[Callable[[], AnyFrontend], EmbeddingPlan]) -> list[Problem]:
    load_again, plan = given
    if not _loaded or _loaded[0][0] != plan.description:
        frontend = load_again()
        if frontend.describe(plan.view, plan.precision) != plan.description:
            raise UserError("the weights of the visual frontend have changed since the call; call again")
        _loaded[:] = [(plan.description, frontend)]
    return _embed(plan, _loaded[0][1], 1, lambda _: None)


def _embedded(plan: EmbeddingPlan, frontend: AnyFrontend, nj: int, problems: list[Problem]) -> Iterator[list[Embedded]]:
    """The clips of a plan, batch by batch, each with its embedding (frames, dim); adds the problems met to `problems`."""
    if isinstance(frontend, StoredOnly):
        for found, failed in _read_ahead(lambda group: _read_features(group, frontend, plan.view), plan.groups, nj):
            problems.extend(failed)
            yield found
        return
    previous: tuple[Batch, torch.Tensor] | None = None  # a GPU works on one batch while another is stored
    for batches, failed in _read_ahead(lambda group: load_group(group, frontend, plan.view), plan.groups, nj):
        problems.extend(failed)
        for batch in batches:
            try:
                output = forward_batch(frontend, batch)
            except UserError as error:  # a long clip, read only now, is damaged
                problems.extend(clip.problem(error) for clip in batch.clips)
                continue
            if previous:
                yield _stored(*previous)
            previous = batch, output
    if previous:
        yield _stored(*previous)


def _stored(batch: Batch, output: torch.Tensor) -> list[Embedded]:
    return list(zip(batch.clips, batch.sources, output.cpu().numpy(), strict=True))


def _read_features(group: list[MouthClip], features: StoredOnly, view: str) -> tuple[list[Embedded], list[Problem]]:
    found, problems = [], []
    for clip in group:
        try:
            found.append((clip, source_of(clip.path), features.read(clip.path, clip.frames, clip.goes_on, view)))
        except UserError as error:  # names its file, which is not the mouth
            problems.append(Problem(clip.row, clip.item_id, clip.key, str(error)))
    return found, problems


def load_group(group: list[MouthClip], frontend: CropFrontend, view: str) -> tuple[list[Batch], list[Problem]]:
    """Read and preprocess clips; one batch for each length that occurs, which is one as a rule."""
    by_length: dict[int, list[tuple[MouthClip, Source, np.ndarray, torch.Tensor]]] = {}
    batches, problems = [], []
    for clip in group:
        try:
            source, crops = source_of(clip.path), frontend.crop_file(clip.path)
            inputs = _inputs(frontend, crops, view)
        except UserError as error:
            problems.append(clip.problem(error))
            continue
        if inputs is None:
            batches.append(Batch([clip], [source], [crops.mask], None, view))
        else:
            by_length.setdefault(len(inputs), []).append((clip, source, crops.mask, inputs))
    for loaded in by_length.values():
        clips, sources, masks, inputs = map(list, zip(*loaded, strict=True))
        batches.append(Batch(clips, sources, masks, torch.stack(inputs), view))
    return batches, problems


def _inputs(frontend: CropFrontend, crops: CropFile, view: str) -> torch.Tensor | None:
    """The preprocessed crops of a clip, None where it is too long to be taken whole, as a temporal network always takes it."""
    if crops.n_frames > _LONG_FRAMES and frontend.description["layer"] == "trunk":
        return None
    return frontend.preprocess(fill_unseen(crops.all(), crops.mask), view)


def embed_file(frontend: CropFrontend, crops: CropFile, view: str = "centre") -> torch.Tensor:
    """The visual frontend's vectors of one file of crops, float32 (frames, dim), as they would be stored in full precision.

    Raises:
        UserError: the file is damaged.
    """
    inputs = _inputs(frontend, crops, view)
    clip = MouthClip(str(crops.path), crops.path, crops.n_frames, 0, "")
    return forward_batch(frontend, Batch([clip], [], [crops.mask], None if inputs is None else inputs[None], view))[0]


def forward_batch(frontend: CropFrontend, batch: Batch) -> torch.Tensor:
    """The visual frontend's vectors of a batch, zeros where no mouth was seen.

    Returns:
        float32 (batch, frames, dim), on the visual frontend's device.

    Raises:
        UserError: the file of a long clip cannot be read to its end.
    """
    if batch.inputs is None:
        output = _forward_long(frontend, frontend.crop_file(batch.clips[0].path), batch.view)[None]
    else:
        output = _forward_whole(frontend, batch.inputs)
    for vectors, mask in zip(output, batch.masks, strict=True):
        if not mask.all():
            vectors[torch.from_numpy(~mask).to(vectors.device)] = 0  # what the networks know as "no mouth here"
    return output


def _forward_whole(frontend: CropFrontend, inputs: torch.Tensor) -> torch.Tensor:
    """Clips (batch, frames, ...) through the network: on a CPU one by one, several at once, with the same result."""
    passes = inputs.split(1) if frontend.device.type == "cpu" else [inputs.to(frontend.device)]
    return torch.cat(list(map_on_cores(frontend, passes, len(passes), frontend.device)))


def _forward_long(frontend: CropFrontend, file: CropFile, view: str) -> torch.Tensor:
    """A long clip from disk through the trunk, (frames, dim).

    A trunk sees a few frames around each one, so the clip goes through it in pieces that overlap by as many: ten minutes
    need the memory of a few pieces. On a CPU several pieces go at once.
    """

    def forward(piece: tuple[torch.Tensor, slice]) -> torch.Tensor:
        inputs, wanted = piece
        return frontend(inputs[None].to(frontend.device))[0, wanted]

    n_pieces = math.ceil(file.n_frames / _PIECE_FRAMES)
    return torch.cat(list(map_on_cores(forward, _pieces(frontend, file, view), n_pieces, frontend.device)))


def _pieces(frontend: CropFrontend, file: CropFile, view: str) -> Iterator[tuple[torch.Tensor, slice]]:
    """The preprocessed pieces of a long clip, and which frames of each are wanted: all that a trunk sees of those is there."""
    crops, first = np.empty((0, *file.frame_shape), np.uint8), 0  # those held, and the frame of the first of them
    done = 0
    for block in file.blocks(_PIECE_FRAMES):
        crops = np.concatenate([crops, block])
        there = first + len(crops)
        end = there if there == file.n_frames else there - _AHEAD_FRAMES
        filled = fill_unseen(crops, file.mask[first:there])
        left, right = max(done - _CONTEXT_FRAMES, 0), min(end + _CONTEXT_FRAMES, there)
        yield frontend.preprocess(filled[left - first : right - first], view), slice(done - left, end - left)
        done = end
        kept = max(done - _CONTEXT_FRAMES - FILL_FRAMES, 0)
        crops, first = crops[kept - first :], kept


def _read_ahead(load: Callable, groups: Iterable, nj: int) -> Iterator:
    """`map(load, groups)`, in order, computed by `nj` threads (`_MAX_READERS` at most), each of them one group ahead.

    Threads do, and nothing has to be copied between processes. Each computes with one thread: the cores are the network's.
    """
    return map_in_threads(load, groups, min(nj, _MAX_READERS), 1)
