"""Separation of the mixtures of a manifest into a folder of estimates.

Reads the networks, the mixtures, and the visual embeddings of a store; writes estimates and their journal, see
`utils.data.estimates`. `plan_tasks` makes a task of each mixture that can be separated and a problem of each that cannot;
`separate_tasks` does the tasks. A task's stamp hashes all that its estimates depend on: estimates that are complete and have
the stamp of their task are kept.
"""

import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from utils.data.audio import check_sound, read_audio
from utils.data.clock import frames_covering
from utils.data.estimates import JOURNAL_NAME, ORDER_UNKNOWN, SAMPLE_BYTES, are_complete, estimate_paths, write_estimates
from utils.data.experiments import FRONTEND_OPTIONS, Experiment, experiment_name, network_path
from utils.data.files import remove_leftovers, require_space, sha256_file
from utils.data.fingerprints import hash_json
from utils.data.jobs import Job, Journal, work_through
from utils.data.manifest import Manifest, Mixture, Problem
from utils.data.progress import progress_bar
from utils.data.validation import lengths_differ
from utils.embedding.embed import AnyFrontend, embed_manifests
from utils.embedding.exported import run_in_8_bits
from utils.embedding.frontends import store_name
from utils.embedding.joined import AnyStore, joined
from utils.embedding.kinds import load_kind
from utils.errors import UserError
from utils.export.graphs import VERSION
from utils.separation.exported import run_by_onnx
from utils.separation.offsets import ShiftedStore
from utils.separation.options import SeparationOptions, StageOptions
from utils.separation.overlap_add import (
    FacesOnScreen,
    assign_recording,
    check_frames,
    check_windows,
    compares,
    separate_and_assign,
    separate_blocks,
)
from utils.training.config import read_config
from utils.training.experiment import load_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Separator:
    """A trained network, ready to separate; where it is pickled, it is loaded again, on the CPU."""

    exp_dir: Path
    network: nn.Module  # (batch, time), (batch, n_faces, frames, dim) | None -> (batch, n_src, time)
    separated_by: str
    sha256: str  # of the file it came from
    n_src: int
    needs_faces: bool
    sample_rate: int  # Hz
    fps: float
    onnx_dir: Path | None = None  # of exported networks; None: torch runs it

    def __reduce__(self) -> tuple:
        onnx_dir = self.onnx_dir and self.onnx_dir.absolute()
        return _loaded_again, (self.exp_dir.absolute(), self.sha256, isinstance(self.network, FacesOnScreen), onnx_dir)

    @property
    def stamp(self) -> str:
        """What its estimates depend on: the network, and what runs it."""
        return self.sha256 if self.onnx_dir is None else f"{self.sha256} onnx {VERSION}"


@dataclass(frozen=True, eq=False)
class Task:
    """One mixture to be separated."""

    row: int  # line of the manifest's CSV
    item: Mixture
    path: Path
    length: int  # samples; an MP3's may be a little more than the manifest says
    separator: Separator
    faces: tuple[str, ...]  # keys of the embedding store, one for each estimate; () for an audio-only network
    stamp: str  # of all that the estimates depend on
    repeats_faces: bool = False  # embeddings of other mixtures, which start again where they end too early


def load_separator(exp_dir: Path, device: str, onnx_dir: Path | None = None) -> Separator:
    """Load the network of an experiment.

    Args:
        exp_dir: its folder.
        device: where torch runs it.
        onnx_dir: let onnxruntime run it, on the CPU; its graphs are kept there.

    Raises:
        UserError: there is none, or it cannot be loaded or exported.
    """
    path = network_path(exp_dir)
    network, sha256 = load_model(path), sha256_file(path)
    conf = exp_dir / "conf.yml"
    # An audio-visual network that was only pretrained without faces separates without them.
    needs_faces = network.config.n_faces > 0 and not (conf.is_file() and not read_config(conf).needs_visual)
    name = experiment_name(exp_dir)
    return Separator(
        exp_dir=exp_dir,
        network=network.to(device) if onnx_dir is None else run_by_onnx(network, sha256, onnx_dir),
        separated_by=name if needs_faces else f"{name} {ORDER_UNKNOWN}",
        sha256=sha256,
        n_src=network.config.n_src,
        needs_faces=needs_faces,
        sample_rate=network.config.sample_rate,
        fps=network.config.video_fps,
        onnx_dir=onnx_dir,
    )


def for_single_faces(separator: Separator) -> Separator:
    """A network for several faces as one that extracts a single one: its other stream is for whoever else is heard."""
    if not separator.needs_faces or separator.network.config.n_faces == 1:
        return separator
    return replace(separator, network=FacesOnScreen(separator.network))


@lru_cache(maxsize=2)
def _loaded_again(exp_dir: Path, sha256: str, for_single: bool, onnx_dir: Path | None) -> Separator:
    """A network in another process, loaded once for all jobs there."""
    separator = load_separator(exp_dir, "cpu", onnx_dir)
    if separator.sha256 != sha256:
        raise UserError(f"{exp_dir}: the network has changed since the call; call again")
    return for_single_faces(separator) if for_single else separator


def embed_mouths(
    experiment: Experiment, manifest: Manifest, options: StageOptions, device: str
) -> tuple[AnyStore, dict[str, str]]:
    """Bring the visual embeddings of a manifest up to date.

    Returns:
        The store, and the reason why a mouth has no embedding, by the mouth's path in the manifest.

    Raises:
        UserError: a visual frontend is not the one that the network was trained with.
    """
    stores, reasons = [], {}
    for kind, frontend in load_frontends(experiment, device, options.onnx_dir).items():
        record = experiment.frontends[kind]
        where = {"view": record.view, "precision": record.precision, "nj": options.nj}
        store, problems = embed_manifests([manifest], frontend, options.dump_dir, **where)
        stores.append(store)
        reasons |= {problem.path: problem.reason for problem in problems}
    return joined(stores), reasons


def load_frontends(
    experiment: Experiment, device: str, onnx_dir: Path | None = None, in_float: bool = False
) -> dict[str, AnyFrontend]:
    """The visual frontends of an experiment by what they see; arguments as of `load_separator`.

    On the CPU those that the experiment also brings in 8 bits are run so, unless `in_float`.

    Raises:
        UserError: one is not that which the network was trained with.
    """
    frontends = {}
    for kind, record in experiment.frontends.items():
        frontend = load_kind(kind, record.weights, record.conf, record.layer, device, onnx_dir)
        name = store_name(frontend, record.view, record.precision)
        if name != record.store_name:
            remedy = f"give the weights it was trained with, {FRONTEND_OPTIONS[kind]}"
            if record.is_precomputed:
                remedy += "; precomputed embeddings are known by the name of their folder and the values of a frame"
            trained = f"{experiment.folder} was trained on {record.store_name}"
            raise UserError(f"{record.weights}: gives the embeddings {name}, but {trained}; {remedy}")
        if record.int8 and device == "cpu" and not in_float:
            run_in_8_bits(frontend, Path(record.int8))
        frontends[kind] = frontend
    return frontends


def plan_tasks(
    manifest: Manifest,
    separator: Separator,
    fallback: Separator | None,
    store: AnyStore | None,
    mouth_reasons: Mapping[str, str],
    options: SeparationOptions,
) -> tuple[list[Task], list[Problem]]:
    """Find out which mixtures can be separated, and by which network.

    Args:
        manifest: mixtures.
        separator: the network asked for.
        fallback: an audio-only network for the mixtures whose visual embeddings cannot be used.
        store: visual embeddings; None for an audio-only network.
        mouth_reasons: why a mouth of the manifest has no embedding, by its path.
        options: they are part of the stamps.

    Raises:
        UserError: network and manifest do not belong together.
    """
    for used in filter(None, (separator, fallback)):
        _check_fit(manifest, used)
    tasks, problems = [], []
    for row, item in enumerate(progress_bar(manifest.items, desc="mixtures read", unit="mix"), start=2):
        path = manifest.resolve(item.mixture_path)
        try:
            length = _checked_length(manifest, item, path)
        except UserError as error:
            problems.append(Problem(row, item.mixture_id, item.mixture_path, str(error)))
            continue
        chosen, faces = separator, item.mouth_paths if separator.needs_faces else ()
        problem = _visual_problem(row, item, faces, separator, store, mouth_reasons, manifest.mouths_go_on)
        if problem and fallback is None:
            problems.append(problem)
            continue
        if problem:
            logger.warning("%s: separated by %s, as %s", item.mixture_id, fallback.separated_by, problem.reason)
            chosen, faces = fallback, ()
        stamp = _stamp(chosen, options, path, faces, store)
        tasks.append(Task(row, item, path, length, chosen, faces, stamp))
    return tasks, problems


def with_swapped_faces(tasks: Sequence[Task]) -> list[Task]:
    """The tasks with the visual embeddings of each mixture rolled by one: the estimates must follow."""
    return [_with_faces(task, task.faces[1:] + task.faces[:1], False) for task in tasks if len(task.faces) > 1]


def with_shuffled_faces(tasks: Sequence[Task], seed: int = 0) -> list[Task]:
    """The tasks with each visual embedding replaced by one of another mixture, which then tells nothing.

    The draw depends on the seed, the mixture and all mouths of the tasks, not on the order of the tasks.
    """
    pool = sorted({face for task in tasks for face in task.faces})
    shuffled = []
    for task in tasks:
        strangers = [face for face in pool if face not in task.faces]
        if len(strangers) >= len(task.faces) > 0:
            draw = random.Random(f"{seed}:{task.item.mixture_id}")
            shuffled.append(_with_faces(task, tuple(draw.sample(strangers, len(task.faces))), True))
    return shuffled


def with_late_faces(tasks: Sequence[Task], offset_frames: int) -> list[Task]:
    """The tasks for a `ShiftedStore` of that offset: their stamps tell it apart from others."""
    return [replace(task, stamp=hash_json([task.stamp, "faces late", offset_frames])) for task in tasks if task.faces]


def _check_fit(manifest: Manifest, separator: Separator) -> None:
    if manifest.sample_rate != separator.sample_rate:
        raise UserError(
            f"{manifest.path}: sampled at {manifest.sample_rate} Hz where {separator.separated_by} was trained for "
            f"{separator.sample_rate} Hz; resample the corpus"
        )
    sees_exactly = separator.network.has_fixed_faces and separator.n_src > 1
    if (not separator.needs_faces or sees_exactly) and separator.n_src != manifest.n_src:
        raise UserError(
            f"{manifest.path}: mixtures of {manifest.n_src} speakers where {separator.separated_by} gives {separator.n_src}"
        )


def _checked_length(manifest: Manifest, item: Mixture, path: Path) -> int:
    """The samples of a mixture, all of which are looked at.

    Raises:
        UserError: missing, not audio, silent, damaged, or other than the manifest says.
    """
    sound = check_sound(path, manifest.sample_rate)
    if lengths_differ(item.mixture_path, sound.length, item.length):
        raise UserError(f"{path}: {sound.length} samples where the manifest says {item.length}; make the manifest again")
    for warning in sound.warnings():
        logger.warning("%s: %s", path, warning)
    return sound.length


def _visual_problem(
    row: int,
    item: Mixture,
    faces: Sequence[str],
    separator: Separator,
    store: AnyStore | None,
    mouth_reasons: Mapping[str, str],
    mouths_go_on: bool,
) -> Problem | None:
    """Why the visual embeddings of a mixture cannot be used, None if they can."""

    def problem(reason: str, path: str = "") -> Problem:
        return Problem(row, item.mixture_id, path or item.mixture_path, f"{path}: {reason}" if path else reason)

    for k, face in enumerate(faces, start=1):
        if not face:
            return problem(f"speaker {k} has no mouth (mouth_{k}_path is empty)")
        if face not in store:
            return problem(mouth_reasons.get(face, "no embedding"), face)
        wanted = frames_covering(item.length, separator.sample_rate, separator.fps)
        try:
            check_frames(min(store.frames(face), wanted) if mouths_go_on else store.frames(face), wanted)
        except UserError as error:
            return problem(str(error), face)
    if faces and abs(item.fps - separator.fps) > 1e-3:
        return problem(f"video at {item.fps:g} frames/s where {separator.separated_by} was trained at {separator.fps:g}")
    return None


def _stamp(separator: Separator, options: SeparationOptions, path: Path, faces: Sequence[str], store: AnyStore | None) -> str:
    """Hash all that a mixture's estimates depend on; files count by size and time, embeddings by what was embedded."""
    status = path.stat()
    how = (options.window_sec, options.hop_sec, options.subtype)
    visual = [(store.root.parent.name, face, store.clip(face).source_sha256) for face in faces]
    return hash_json([separator.stamp, separator.separated_by, how, status.st_size, status.st_mtime_ns, visual])


def _with_faces(task: Task, faces: tuple[str, ...], repeats_faces: bool) -> Task:
    stamp = hash_json([task.stamp, faces])
    return replace(task, faces=faces, stamp=stamp, repeats_faces=repeats_faces)


@dataclass(frozen=True)
class EstimateFolder:
    """A folder of estimates: the tasks to be done there, and the store that they take visual embeddings from."""

    path: Path
    tasks: list[Task]
    store: AnyStore | ShiftedStore | None


@dataclass(frozen=True)
class Separated:
    """The outcome of `separate_tasks`."""

    journal: Journal
    problems: list[Problem]
    audio_sec: float  # of the mixtures that were separated now


def journal_of(folder: Path) -> Journal:
    """The journal of a folder of estimates."""
    return Journal(folder / JOURNAL_NAME)


def require_room(folders: Sequence[EstimateFolder], n_src: int, options: SeparationOptions) -> None:
    """Refuse to separate where the disk cannot take the estimates that are still to come, of all folders together.

    Args:
        folders: the first is the test set's own, and holds the others.
        n_src: estimates of a mixture.
        options: they say how large a sample is.

    Raises:
        UserError: it has not enough room.
    """
    n_bytes, n_mixtures = 0, 0
    for folder in folders:
        journal = journal_of(folder.path)
        for task in folder.tasks:
            if not _is_done(task, journal, folder.path, n_src):
                n_mixtures += 1
                n_bytes += n_src * task.length * SAMPLE_BYTES[options.subtype]
                old = [path for path in estimate_paths(folder.path, task.item.mixture_id, n_src) if path.is_file()]
                n_bytes -= sum(path.stat().st_size for path in old)  # the new ones take their place
    require_space(folders[0].path, n_bytes, f"the estimates of {n_mixtures} mixtures", "--exp_dir")


def separate_tasks(folder: EstimateFolder, n_src: int, options: StageOptions) -> Separated:
    """Bring a folder of estimates up to date; those of mixtures that have no task any more are removed.

    Batches are cut before the tasks that are done are taken out: a run that goes on after a kill computes the batches
    of an undisturbed one, and so the same values.
    """
    path, tasks = folder.path, folder.tasks
    remove_leftovers(path)
    journal = journal_of(path)
    pending = {task.item.mixture_id: task for task in tasks if not _is_done(task, journal, path, n_src)}
    named = {task.item.mixture_id for task in tasks}
    for mixture_id in journal.keep_only(named - pending.keys()):  # a kill leaves no line of what was being made
        if mixture_id not in named:
            _remove(estimate_paths(path, mixture_id, n_src))
    jobs = []
    for batch in _batches(tasks, options):
        if wanted := [task.item.mixture_id for task in batch if task.item.mixture_id in pending]:
            jobs.append(Job(wanted[0], "", (), _Batch(batch, wanted, folder.store, path, n_src, options)))
    problems: list[Problem] = []
    done_sec = 0.0
    with (
        progress_bar(total=len(tasks), initial=len(tasks) - len(pending), unit="mix", desc=path.name) as progress,
        closing(work_through(_separate_batch, jobs, options.nj, path, progress.update, in_this_process=True)) as done,
    ):
        for job, outcomes, death in done:
            for mixture_id, result, reason in outcomes or [(name, {}, death) for name in job.given.wanted]:
                task = pending[mixture_id]
                if reason:
                    problems.append(Problem(task.row, mixture_id, task.item.mixture_path, reason))
                    _remove(estimate_paths(path, mixture_id, n_src))
                else:
                    journal.add(mixture_id, task.stamp, result)
                    done_sec += task.length / task.separator.sample_rate
            progress.update(len(job.given.wanted))
    return Separated(journal, sorted(problems, key=lambda problem: problem.row), done_sec)


@dataclass(frozen=True)
class _Batch:
    """A job: mixtures that go through a network together, of which the wanted are written."""

    tasks: list[Task]
    wanted: list[str]  # mixture ids
    store: AnyStore | ShiftedStore | None
    folder: Path
    n_src: int
    options: SeparationOptions


def _separate_batch(batch: _Batch) -> list[tuple[str, dict, str]]:
    """Write the estimates of a batch; what the journal keeps of each mixture, or the reason why there is nothing."""
    outcomes: list[tuple[str, dict, str]] = []
    for task, estimates in _estimates(batch.tasks, batch.store, batch.options):
        mixture_id = task.item.mixture_id
        if mixture_id not in batch.wanted:
            continue
        try:
            outcomes.append((mixture_id, _write(task, estimates, batch.folder, batch.n_src, batch.options.subtype), ""))
        except UserError as error:
            outcomes.append((mixture_id, {}, str(error)))
    return outcomes


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _is_done(task: Task, journal: Journal, folder: Path, n_src: int) -> bool:
    stamp, _ = journal.entries.get(task.item.mixture_id, ("", {}))
    paths = estimate_paths(folder, task.item.mixture_id, n_src)
    return stamp == task.stamp and are_complete(paths, task.length, task.separator.sample_rate)


def _batches(tasks: Sequence[Task], options: SeparationOptions) -> Iterator[list[Task]]:
    """Tasks that can go through a network together: equally long, and no longer than one window."""
    waiting: dict[tuple, list[Task]] = {}
    for task in tasks:
        window_frames, _ = check_windows(options.window_sec, options.hop_sec, task.separator.fps)
        if _n_frames(task) > window_frames or isinstance(task.separator.network, FacesOnScreen):
            yield [task]
            continue
        key = (task.length, task.separator)
        waiting.setdefault(key, []).append(task)
        if len(waiting[key]) == options.batch_size:
            yield waiting.pop(key)
    yield from waiting.values()


@dataclass(eq=False)
class _Estimates:
    """Estimates of a mixture that are made while they are read.

    Attributes:
        blocks: (n_src, samples), one after the other.
        certainty: the probability that their order is right, known when the first block is; None where it is not decided.
    """

    blocks: Iterable[np.ndarray]
    certainty: float | None = None


def _write(task: Task, estimates: _Estimates, folder: Path, n_src: int, subtype: str) -> dict:
    """Write a mixture's estimates; what the journal keeps of them."""
    paths = estimate_paths(folder, task.item.mixture_id, n_src)
    gain = write_estimates(paths, estimates.blocks, task.separator.sample_rate, subtype, task.length)
    return {"separated_by": task.separator.separated_by, "order_certainty": estimates.certainty, "gain": gain}


def _estimates(
    batch: Sequence[Task], store: AnyStore | ShiftedStore | None, options: SeparationOptions
) -> Iterator[tuple[Task, _Estimates]]:
    """Each task with its estimates; several tasks are one pass through the network.

    A single task is streamed, and so is each of several where one has a bad file, which is met when its blocks are read.
    """
    try:
        mixtures = torch.stack([_read_mixture(task, 0, task.length) for task in batch]) if len(batch) > 1 else None
    except UserError:
        mixtures = None
    if mixtures is None:
        yield from ((task, _stream(task, store, options)) for task in batch)
        return
    separator, n_frames = batch[0].separator, _n_frames(batch[0])
    visual = torch.stack([_read_visual(task, store, 0, n_frames) for task in batch]) if separator.needs_faces else None
    separated, assignments = separate_and_assign(separator.network, mixtures, visual)
    certainties = [min(assignment.certainties) for assignment in assignments] or [None] * len(batch)
    for task, estimates, certainty in zip(batch, separated.numpy(), certainties, strict=True):
        yield task, _Estimates([estimates], certainty)


def _stream(task: Task, store: AnyStore | ShiftedStore | None, options: SeparationOptions) -> _Estimates:
    """Separate from disk, window by window."""
    separator = task.separator
    read_visual = partial(_read_visual, task, store) if separator.needs_faces else None
    recording = (separator.network, partial(_read_mixture, task), read_visual, task.length)
    windows = {"window_sec": options.window_sec, "hop_sec": options.hop_sec}
    clocks = windows | {"sample_rate": separator.sample_rate, "fps": separator.fps}
    estimates = _Estimates([])

    def blocks() -> Iterator[np.ndarray]:
        assignment = assign_recording(*recording, **clocks) if read_visual and compares(separator.network) else None
        estimates.certainty = min(assignment.certainties) if assignment else None
        for block in separate_blocks(*recording, **clocks, assignment=assignment):
            yield block.numpy()[: len(task.faces) or None]  # without the residual of a single face

    estimates.blocks = blocks()
    return estimates


def _n_frames(task: Task) -> int:
    return frames_covering(task.length, task.separator.sample_rate, task.separator.fps)


def _read_mixture(task: Task, start: int, count: int) -> torch.Tensor:
    samples = read_audio(task.path, start, count, task.separator.sample_rate)
    if len(samples) != count:
        raise UserError(f"{task.path}: cut off, it holds fewer samples than its header says; copy it again")
    return torch.from_numpy(samples)


def _read_visual(task: Task, store: AnyStore | ShiftedStore, first: int, count: int) -> torch.Tensor:
    """The embeddings of a stretch, (n_faces, count, dim)."""
    stretches = []
    for face in task.faces:
        if task.repeats_faces:
            stretches.append(store.get(face)[np.arange(first, first + count) % store.frames(face)])
        else:
            stretches.append(store.get(face, first, count))
    return torch.from_numpy(np.stack(stretches))
