"""What stage 4 has to do: a task for each mixture that can be separated, a problem for each that cannot.

Reads the networks, the mixtures and the index of the embedding store; writes nothing. A task's stamp
hashes all that its voices depend on, so that `utils.separation.run` knows which voices on disk are still right.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn
from tqdm import tqdm

from utils.data.audio import check_sound
from utils.data.clock import frames_covering
from utils.data.estimates import ORDER_UNKNOWN
from utils.data.files import sha256_file
from utils.data.fingerprints import hash_json
from utils.data.manifest import Manifest, Mixture, Problem
from utils.data.validation import lengths_differ
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.separation.overlap_add import check_frames
from utils.training.experiment import load_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeparationOptions:
    """How to separate, whatever the network."""

    window_sec: float
    hop_sec: float
    subtype: str = "float"
    batch_size: int = 4


@dataclass(frozen=True, eq=False)
class Separator:
    """A trained network, ready to separate."""

    network: nn.Module  # (batch, time), (batch, faces, frames, dim) | None -> (batch, voices, time)
    separated_by: str
    sha256: str  # of the file it came from
    n_src: int  # voices of the audio-only network; with faces there are as many voices as faces
    needs_faces: bool
    sample_rate: int  # Hz
    fps: float


@dataclass(frozen=True, eq=False)
class Task:
    """One mixture to be separated."""

    row: int  # line of the manifest's CSV
    item: Mixture
    path: Path
    length: int  # samples; an MP3's may be a little more than the manifest says
    separator: Separator
    faces: tuple[str, ...]  # keys of the embedding store, one for each voice; () for an audio-only network
    stamp: str  # of all that the voices depend on
    repeats_faces: bool = False  # a face's embedding is begun anew where it ends too early: it belongs elsewhere

    def problem(self, error: Exception) -> Problem:
        """Why this task failed."""
        return Problem(self.row, self.item.mixture_id, self.item.mixture_path, str(error))


def load_separator(exp_dir: Path, device: str) -> Separator:
    """Load the network of an experiment.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    path = exp_dir / "best_model.pth"
    network = load_model(path)
    needs_faces = network.config.n_faces > 0
    name = exp_dir.resolve().name
    return Separator(
        network=network.to(device),
        separated_by=name if needs_faces else f"{name} {ORDER_UNKNOWN}",
        sha256=sha256_file(path),
        n_src=network.config.n_src,
        needs_faces=needs_faces,
        sample_rate=network.config.sample_rate,
        fps=network.config.video_fps,
    )


def plan_tasks(
    manifest: Manifest,
    separator: Separator,
    fallback: Separator | None,
    store: EmbeddingStore | None,
    mouth_reasons: dict[str, str],
    options: SeparationOptions,
) -> tuple[list[Task], list[Problem]]:
    """Find out which mixtures can be separated, and by which network.

    Args:
        manifest: mixtures.
        separator: the network asked for.
        fallback: an audio-only network for the mixtures whose faces cannot be used.
        store: embeddings; None for an audio-only network.
        mouth_reasons: why a mouth of the manifest has no embedding, by its path.
        options: they are part of the stamps.

    Raises:
        UserError: network and manifest do not belong together.
    """
    for used in filter(None, (separator, fallback)):
        _check_fit(manifest, used)
    tasks, problems = [], []
    for row, item in enumerate(tqdm(manifest.items, desc="mixtures read", unit="mix", disable=None), start=2):
        chosen, faces = separator, item.mouth_paths if separator.needs_faces else ()
        try:
            path = manifest.resolve(item.mixture_path)
            length = _checked_length(manifest, item, path)
            reason = _face_problem(item, faces, separator, store, mouth_reasons, manifest.mouths_go_on)
            if reason and fallback is None:
                raise UserError(reason)
            if reason:
                logger.warning("%s: separated by %s, as %s", item.mixture_id, fallback.separated_by, reason)
                chosen, faces = fallback, ()
            stamp = _stamp(chosen, options, path, faces, store)
            tasks.append(Task(row, item, path, length, chosen, faces, stamp))
        except UserError as error:
            problems.append(Problem(row, item.mixture_id, _path_at_fault(item, str(error)), str(error)))
    return tasks, problems


def with_swapped_faces(tasks: Sequence[Task]) -> list[Task]:
    """The tasks with the faces of each mixture rolled by one: the voices must follow."""
    return [_with_faces(task, task.faces[1:] + task.faces[:1], False) for task in tasks if len(task.faces) > 1]


def with_shuffled_faces(tasks: Sequence[Task], seed: int = 0) -> list[Task]:
    """The tasks with each face replaced by one that is not of its mixture: the cues then say nothing.

    Which one depends on the seed, the mixture and the faces that there are, not on the order of the tasks.
    """
    pool = sorted({face for task in tasks for face in task.faces})
    shuffled = []
    for task in tasks:
        strangers = [face for face in pool if face not in task.faces]
        if len(strangers) >= len(task.faces) > 0:
            draw = random.Random(f"{seed}:{task.item.mixture_id}")
            shuffled.append(_with_faces(task, tuple(draw.sample(strangers, len(task.faces))), True))
    return shuffled


def _check_fit(manifest: Manifest, separator: Separator) -> None:
    if manifest.sample_rate != separator.sample_rate:
        raise UserError(
            f"{manifest.path}: sampled at {manifest.sample_rate} Hz where {separator.separated_by} was trained for "
            f"{separator.sample_rate} Hz; resample the corpus"
        )
    if not separator.needs_faces and separator.n_src != manifest.n_src:
        raise UserError(
            f"{manifest.path}: mixtures of {manifest.n_src} voices where {separator.separated_by} gives {separator.n_src}"
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


def _face_problem(
    item: Mixture,
    faces: Sequence[str],
    separator: Separator,
    store: EmbeddingStore | None,
    reasons: dict[str, str],
    mouths_go_on: bool,
) -> str:
    """Why the faces of a mixture cannot be used, "" if they can."""
    for k, face in enumerate(faces, start=1):
        if not face:
            return f"voice {k} has no mouth (mouth_{k}_path is empty)"
        if face not in store:
            return f"{face}: {reasons.get(face, 'no embedding')}"
        wanted = frames_covering(item.length, separator.sample_rate, separator.fps)
        try:
            check_frames(min(store.frames(face), wanted) if mouths_go_on else store.frames(face), wanted)
        except UserError as error:
            return f"{face}: {error}"
    if faces and abs(item.fps - separator.fps) > 1e-3:
        return f"video at {item.fps:g} frames/s where {separator.separated_by} was trained at {separator.fps:g}"
    return ""


def _path_at_fault(item: Mixture, reason: str) -> str:
    """The file that a reason speaks of: a mouth, or else the mixture."""
    return next((face for face in item.mouth_paths if face and reason.startswith(face)), item.mixture_path)


def _stamp(
    separator: Separator, options: SeparationOptions, path: Path, faces: Sequence[str], store: EmbeddingStore | None
) -> str:
    """Hash all that a mixture's voices depend on; files count by size and time, faces by what was embedded."""
    status = path.stat()
    how = (options.window_sec, options.hop_sec, options.subtype)
    cues = [(store.root.parent.name, face, store.clip(face).source_sha256) for face in faces]
    facts = [separator.sha256, separator.separated_by, how, status.st_size, status.st_mtime_ns, cues]
    return hash_json(facts)


def _with_faces(task: Task, faces: tuple[str, ...], repeats_faces: bool) -> Task:
    stamp = hash_json([task.stamp, faces])
    return replace(task, faces=faces, stamp=stamp, repeats_faces=repeats_faces)
