"""Separation of planned mixtures into a folder of voices: the heart of stage 4.

Reads the mixtures and the embeddings of their mouths; writes voices and the journal of `utils.data.estimates`. What
lies there already, made from the same files by the same network, is left alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from utils.data.audio import read_audio
from utils.data.clock import frames_covering
from utils.data.disk import require_space
from utils.data.estimates import SAMPLE_BYTES, Journal, Made, are_complete, voice_paths, write_voices
from utils.data.files import remove_leftovers
from utils.data.manifest import Problem
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.separation.overlap_add import check_windows, separate_blocks, separate_window
from utils.separation.tasks import SeparationOptions, Task


@dataclass(frozen=True)
class Separated:
    """What `separate_tasks` did."""

    journal: Journal
    problems: list[Problem]
    audio_sec: float  # of the mixtures that were separated now


def require_room(folder: Path, by_folder: Mapping[Path, Sequence[Task]], n_src: int, options: SeparationOptions) -> None:
    """Refuse to separate where the disk cannot take the voices that are still to come, of all folders together.

    Args:
        folder: of the test; the others are this one or lie in it.
        by_folder: the tasks of each folder of voices.
        n_src: voices of a mixture.
        options: they say how large a sample is.

    Raises:
        UserError: it has not enough room.
    """
    n_bytes, n_mixtures = 0, 0
    for place, tasks in by_folder.items():
        journal = Journal(place)
        for task in tasks:
            if not _is_done(task, journal, place, n_src):
                n_mixtures += 1
                n_bytes += n_src * task.length * SAMPLE_BYTES[options.subtype]
                old = [path for path in voice_paths(place, task.item.mixture_id, n_src) if path.is_file()]
                n_bytes -= sum(path.stat().st_size for path in old)  # the new ones take their place
    require_space(folder, n_bytes, f"the voices of {n_mixtures} mixtures", "--exp_dir")


def separate_tasks(
    tasks: Sequence[Task], folder: Path, store: EmbeddingStore | None, n_src: int, options: SeparationOptions
) -> Separated:
    """Bring a folder of voices up to date; voices of mixtures that have no task any more are removed.

    Batches are cut before the tasks that are done are taken out: a run that goes on after a kill computes the batches
    of an undisturbed one, and so the same values.
    """
    remove_leftovers(folder)
    journal = Journal(folder)
    for mixture_id in journal.keep_only(task.item.mixture_id for task in tasks):
        _remove(voice_paths(folder, mixture_id, n_src))
    pending = {task for task in tasks if not _is_done(task, journal, folder, n_src)}
    problems: list[Problem] = []
    done_sec = 0.0
    with tqdm(total=len(tasks), initial=len(tasks) - len(pending), disable=None, unit="mix", desc=folder.name) as progress:
        for batch in _batches(tasks, options):
            if pending.isdisjoint(batch):
                continue
            for task, voices in _voices(batch, store, options):
                if task not in pending:
                    continue
                try:
                    _write(task, voices, folder, n_src, options.subtype, journal)
                    done_sec += task.length / task.separator.sample_rate
                except UserError as error:
                    problems.append(task.problem(error))
                    _remove(voice_paths(folder, task.item.mixture_id, n_src))
                progress.update()
    return Separated(journal, problems, done_sec)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _is_done(task: Task, journal: Journal, folder: Path, n_src: int) -> bool:
    made = journal.made.get(task.item.mixture_id)
    paths = voice_paths(folder, task.item.mixture_id, n_src)
    return bool(made and made.stamp == task.stamp) and are_complete(paths, task.length, task.separator.sample_rate)


def _batches(tasks: Sequence[Task], options: SeparationOptions) -> Iterator[list[Task]]:
    """Tasks that can go through a network together: equally long, and no longer than one window."""
    waiting: dict[tuple, list[Task]] = {}
    for task in tasks:
        window_frames, _ = check_windows(options.window_sec, options.hop_sec, task.separator.fps)
        if _n_frames(task) > window_frames:
            yield [task]
            continue
        key = (task.length, task.separator)
        waiting.setdefault(key, []).append(task)
        if len(waiting[key]) == options.batch_size:
            yield waiting.pop(key)
    yield from waiting.values()


def _write(task: Task, voices: Iterable[np.ndarray], folder: Path, n_src: int, subtype: str, journal: Journal) -> None:
    """Write the blocks (n_src, samples) of a mixture's voices, and what they are into the journal."""
    mixture_id, separated_by = task.item.mixture_id, task.separator.separated_by
    journal.write(Made(mixture_id, "", separated_by, 1.0))
    paths = voice_paths(folder, mixture_id, n_src)
    gain = write_voices(paths, voices, task.separator.sample_rate, subtype, task.length)
    journal.write(Made(mixture_id, task.stamp, separated_by, gain))


def _voices(
    batch: Sequence[Task], store: EmbeddingStore | None, options: SeparationOptions
) -> Iterator[tuple[Task, Iterable[np.ndarray]]]:
    """Each task with its voices; several are one pass, a single one, or each of those that hold a bad file, is streamed.

    A file that cannot be read is only met when its voices are asked for.
    """
    try:
        mixtures = torch.stack([_read_mixture(task, 0, task.length) for task in batch]) if len(batch) > 1 else None
    except UserError:
        mixtures = None
    if mixtures is None:
        yield from ((task, _stream(task, store, options)) for task in batch)
        return
    separator, n_frames = batch[0].separator, _n_frames(batch[0])
    visual = torch.stack([_read_faces(task, store, 0, n_frames) for task in batch]) if separator.needs_faces else None
    for task, voices in zip(batch, separate_window(separator.network, mixtures, visual).numpy(), strict=True):
        yield task, [voices]


def _stream(task: Task, store: EmbeddingStore | None, options: SeparationOptions) -> Iterator[np.ndarray]:
    """Separate from disk, window by window."""
    separator = task.separator
    blocks = separate_blocks(
        separator.network,
        partial(_read_mixture, task),
        partial(_read_faces, task, store) if separator.needs_faces else None,
        task.length,
        window_sec=options.window_sec,
        hop_sec=options.hop_sec,
        sample_rate=separator.sample_rate,
        fps=separator.fps,
    )
    for block in blocks:
        yield block.numpy()


def _n_frames(task: Task) -> int:
    return frames_covering(task.length, task.separator.sample_rate, task.separator.fps)


def _read_mixture(task: Task, start: int, count: int) -> torch.Tensor:
    samples = read_audio(task.path, start, count, task.separator.sample_rate)
    if len(samples) != count:
        raise UserError(f"{task.path}: cut off, it holds fewer samples than its header says; copy it again")
    return torch.from_numpy(samples)


def _read_faces(task: Task, store: EmbeddingStore, first: int, count: int) -> torch.Tensor:
    """The embeddings of a stretch, (faces, count, dim)."""
    stretches = []
    for face in task.faces:
        if task.repeats_faces:
            stretches.append(store.get(face)[np.arange(first, first + count) % store.frames(face)])
        else:
            stretches.append(store.get(face, first, count))
    return torch.from_numpy(np.stack(stretches))
