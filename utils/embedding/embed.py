"""Mouth crops through a front end into an embedding store: the heart of stage 2, also called by stage 4.

Reads the mouth crops that manifests name, or ready-made features of them; writes
`dump/embeddings/<store name>/frontend.json` and below it, for each corpus, the store (`utils.embedding.store`) and
`failed.csv`.

    run_plan         loader threads read, unzip and preprocess whole batches ahead; the network runs; parts are written
    embed_manifests  the plan (`utils.embedding.plan`), room on the disk, and that
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from utils.data.files import write_json
from utils.data.manifest import Manifest, Problem, write_failed
from utils.data.mouths import FILL_FRAMES, MOUTH_SIZE, MouthFile, fill_unseen
from utils.embedding.frontends import Frontend
from utils.embedding.plan import EmbeddingPlan, MouthClip, plan_embedding, require_room, source_of
from utils.embedding.precomputed import ReadyFeatures
from utils.embedding.store import EmbeddingStore, EmbeddingWriter, Source
from utils.errors import UserError

logger = logging.getLogger(__name__)

_PIECE_FRAMES = 512  # a longer clip goes in pieces of so many, read from disk as it goes; more than the context below
_MAX_READERS = 8  # more threads wait for the interpreter and hold batches in memory
# More than any trunk sees to either side (LR-ASD 9, the lip readers 2), and as much again that unseen frames are filled from.
_CONTEXT_FRAMES = 2 * FILL_FRAMES


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
    frontend: Frontend | ReadyFeatures,
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
        view: "centre" or "flip".
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


def run_plan(
    plan: EmbeddingPlan, frontend: Frontend | ReadyFeatures, nj: int, failed_name: str = "failed.csv"
) -> list[Problem]:
    """Embed the clips of a plan; those that cannot be are returned and listed in `failed_name` beside the parts.

    Raises:
        UserError: a damaged store.
    """
    write_json(plan.root.parent / "frontend.json", plan.description)
    problems: list[Problem] = []
    with (
        EmbeddingWriter(plan.root, plan.precision) as writer,
        tqdm(total=plan.n_pending, disable=None, unit="clip", desc=f"embeddings, {plan.view}") as progress,
    ):
        writer.forget({clip.key for group in plan.groups for clip in group})
        for batch in _embedded(plan, frontend, nj, problems):
            for clip, source, embedding in batch:
                try:
                    writer.add(clip.key, embedding, source)
                except UserError as error:
                    problems.append(clip.problem(error))
            writer.commit_if_due()
            progress.update(len(batch))
    write_failed(plan.root / failed_name, problems)
    logger.info(
        "%s: %d clips, %d already there, %d embedded now, %d failed",
        plan.root,
        plan.n_clips,
        plan.n_clips - plan.n_pending,
        plan.n_pending - len(problems),
        len(problems),
    )
    return problems


def _embedded(
    plan: EmbeddingPlan, frontend: Frontend | ReadyFeatures, nj: int, problems: list[Problem]
) -> Iterator[list[tuple[MouthClip, Source, np.ndarray]]]:
    """The clips of a plan, batch by batch, each with its embedding (frames, dim); adds the problems met to `problems`."""
    if isinstance(frontend, ReadyFeatures):
        for found, failed in _read_ahead(lambda group: _read_features(group, frontend), plan.groups, nj):
            problems.extend(failed)
            yield found
        return
    for batch, embeddings in _embed_ahead(frontend, _load_batches(plan, frontend, nj, problems), problems):
        yield list(zip(batch.clips, batch.sources, embeddings, strict=True))


def _read_features(
    group: list[MouthClip], features: ReadyFeatures
) -> tuple[list[tuple[MouthClip, Source, np.ndarray]], list[Problem]]:
    found, problems = [], []
    for clip in group:
        try:
            found.append((clip, source_of(clip.path), features.read(clip.path, clip.frames, clip.goes_on)))
        except UserError as error:  # names its file, which is not the mouth
            problems.append(Problem(clip.row, clip.item_id, clip.key, str(error)))
    return found, problems


def load_group(group: list[MouthClip], frontend: Frontend, view: str) -> tuple[list[Batch], list[Problem]]:
    """Read and preprocess clips; one batch for each length that occurs, which is one as a rule."""
    by_length: dict[int, list[tuple[MouthClip, Source, np.ndarray, torch.Tensor]]] = {}
    batches, problems = [], []
    for clip in group:
        try:
            source, mouths = source_of(clip.path), MouthFile(clip.path)
            if _goes_in_pieces(mouths, frontend):
                batches.append(Batch([clip], [source], [mouths.mask], None, view))
                continue
            crops = fill_unseen(next(mouths.blocks(mouths.n_frames)), mouths.mask)
            inputs = frontend.preprocess(crops, view)
        except UserError as error:
            problems.append(clip.problem(error))
        else:
            by_length.setdefault(len(inputs), []).append((clip, source, mouths.mask, inputs))
    for loaded in by_length.values():
        clips, sources, masks, inputs = map(list, zip(*loaded, strict=True))
        batches.append(Batch(clips, sources, masks, torch.stack(inputs), view))
    return batches, problems


def _goes_in_pieces(mouths: MouthFile, frontend: Frontend) -> bool:
    """Whether a clip is too long to be taken whole; a temporal network gets its clips whole, however long."""
    return mouths.n_frames > _PIECE_FRAMES and frontend.description["layer"] == "trunk"


def embed_file(frontend: Frontend, mouths: MouthFile, view: str = "centre") -> torch.Tensor:
    """The front end's vectors of one mouth file, float32 (frames, dim), as they would be stored in full precision.

    Raises:
        UserError: the file is damaged.
    """
    if _goes_in_pieces(mouths, frontend):
        inputs = None
    else:
        crops = fill_unseen(next(mouths.blocks(mouths.n_frames)), mouths.mask)
        inputs = frontend.preprocess(crops, view)[None]
    clip = MouthClip(str(mouths.path), mouths.path, mouths.n_frames, 0, "")
    return forward_batch(frontend, Batch([clip], [], [mouths.mask], inputs, view))[0]


def forward_batch(frontend: Frontend, batch: Batch) -> torch.Tensor:
    """The front end's vectors of a batch, zeros where no mouth was seen.

    Returns:
        float32 (batch, frames, dim), on the front end's device.

    Raises:
        UserError: the file of a long clip cannot be read to its end.
    """
    if batch.inputs is None:
        output = _forward_long(frontend, MouthFile(batch.clips[0].path), batch.view)[None]
    else:
        output = frontend(batch.inputs.to(_device(frontend)))
    for vectors, mask in zip(output, batch.masks, strict=True):
        if not mask.all():
            vectors[torch.from_numpy(~mask).to(vectors.device)] = 0  # what the networks know as "no mouth here"
    return output


def _forward_long(frontend: Frontend, mouths: MouthFile, view: str) -> torch.Tensor:
    """A long clip from disk through the trunk, (frames, dim).

    A trunk sees a few frames around each one, so the clip goes through it in pieces that overlap by more than that: ten
    minutes need the memory of `_PIECE_FRAMES`.
    """
    pieces = []
    crops, first = np.empty((0, MOUTH_SIZE, MOUTH_SIZE), np.uint8), 0  # those held, and the frame of the first of them
    done = 0
    for block in mouths.blocks(_PIECE_FRAMES):
        crops = np.concatenate([crops, block])
        there = first + len(crops)
        end = there if there == mouths.n_frames else there - _CONTEXT_FRAMES
        filled = fill_unseen(crops, mouths.mask[first:there])
        vectors = frontend(frontend.preprocess(filled, view)[None].to(_device(frontend)))[0]
        pieces.append(vectors[done - first : end - first])
        done = end
        kept = max(done - _CONTEXT_FRAMES, 0)
        crops, first = crops[kept - first :], kept
    return torch.cat(pieces)


def _device(frontend: Frontend) -> torch.device:
    return next(frontend.parameters()).device


def _load_batches(plan: EmbeddingPlan, frontend: Frontend, nj: int, problems: list[Problem]) -> Iterator[Batch]:
    """The batches of a plan, read ahead; the problems met are added to `problems`."""
    for batches, failed in _read_ahead(lambda group: load_group(group, frontend, plan.view), plan.groups, nj):
        problems.extend(failed)
        yield from batches


def _read_ahead(load: Callable, groups: Iterable, nj: int) -> Iterator:
    """`map(load, groups)`, in order, computed by `nj` threads (`_MAX_READERS` at most), each of them one group ahead.

    Threads do, as unzipping, hashing and arithmetic release the interpreter's lock, and nothing has to be copied
    between processes. Each computes with one thread: the cores are the network's.
    """
    n_threads = torch.get_num_threads()
    nj = min(nj, _MAX_READERS)
    pool = ThreadPoolExecutor(nj, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque = deque()
    try:
        for group in groups:
            waiting.append(pool.submit(load, group))
            if len(waiting) > nj:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)  # threads that start later take the last value set


def _embed_ahead(frontend: Frontend, batches: Iterable[Batch], problems: list[Problem]) -> Iterator[tuple[Batch, np.ndarray]]:
    """Each batch with its embeddings, float32 (batch, frames, dim); a GPU works on one batch while another is stored.

    A long clip that turns out to be damaged is added to `problems`.
    """
    previous: tuple[Batch, torch.Tensor] | None = None
    for batch in batches:
        try:
            output = forward_batch(frontend, batch)
        except UserError as error:
            problems.extend(clip.problem(error) for clip in batch.clips)
            continue
        if previous:
            yield previous[0], previous[1].cpu().numpy()
        previous = batch, output
    if previous:
        yield previous[0], previous[1].cpu().numpy()
