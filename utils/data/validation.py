"""Checks of the files of a corpus against its manifest: audio and mouth crops opened one by one, in parallel."""

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from utils.data.audio import check_sound
from utils.data.cluster import chosen_cluster
from utils.data.jobs import Job, work_through
from utils.data.manifest import Manifest, Mixture, Problem, Utterance, item_audio, item_id, item_mouths
from utils.data.mouths import read_mouths
from utils.data.progress import progress_bar
from utils.data.sound_checks import wrong_rate_hint
from utils.errors import UserError

log = logging.getLogger(__name__)
MP3_SLACK_SAMPLES = 2 * 1152  # decoders without gapless information add up to two MP3 frames; other formats add nothing
Check = TypeVar("Check")


@dataclass(frozen=True)
class AudioCheck:
    """The facts of an audio file; a `reason` says why it cannot be used."""

    length: int = 0  # samples
    power: float = 0.0  # mean square
    reason: str = ""


@dataclass(frozen=True)
class MouthCheck:
    """The facts of a file of mouth crops; a `reason` says why it cannot be used."""

    frames: int = 0
    reason: str = ""


def check_audio(path: Path, sample_rate: int) -> AudioCheck:
    """Decode a whole file: mono, `sample_rate` Hz, neither empty nor silent nor damaged; warnings go to the log."""
    try:
        meter = check_sound(path, sample_rate)
    except UserError as error:
        return AudioCheck(reason=error.reason)
    for warning in meter.warnings():
        log.warning("%s: %s", path, warning)
    return AudioCheck(meter.length, meter.power)


def check_mouths(path: Path) -> MouthCheck:
    """Decode a whole file of mouth crops."""
    try:
        return MouthCheck(len(read_mouths(path)))
    except UserError as error:
        return MouthCheck(reason=error.reason)


def check_files(check: Callable[[Path], Check], paths: Iterable[Path], nj: int, title: str) -> dict[Path, Check]:
    """Run `check` on every path once, in `nj` threads or on a cluster, with a progress bar.

    Threads do: nine tenths of the time is decoding in C, which runs in parallel, and there is no process to outlive us.

    Raises:
        UserError: the cluster cannot be used, or a file kills its workers.
    """
    unique = list(dict.fromkeys(paths))
    if chosen_cluster():
        return _check_on_cluster(check, unique, nj, title)
    pool = ThreadPoolExecutor(max(nj, 1))
    try:
        results = progress_bar(pool.map(check, unique), total=len(unique), desc=title, unit="file")
        return dict(zip(unique, results, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not work through all that is queued


def _check_on_cluster(check: Callable[[Path], Check], paths: list[Path], nj: int, title: str) -> dict[Path, Check]:
    jobs = [Job(str(path), "", (), path) for path in paths]
    there = next((path for path in paths if path.is_file()), Path())
    found: dict[Path, Check] = {}
    with (
        progress_bar(total=len(jobs), desc=title, unit="file") as progress,
        closing(work_through(check, jobs, nj, there, progress.update)) as done,
    ):
        for job, result, reason in done:
            progress.update()
            if reason:
                raise UserError(reason, job.given)
            found[job.given] = result
    return {path: found[path] for path in paths}


def lengths_differ(path: str, length: int, wanted: int) -> bool:
    """Tell if a file is shorter or longer than it may be; only an MP3 may be longer, by its decoder's padding."""
    slack = MP3_SLACK_SAMPLES if path.lower().endswith(".mp3") else 0
    return not wanted <= length <= wanted + slack


def clock_problem(frames: int, length: int, sample_rate: int, fps: float) -> str:
    """The reason why video and audio cannot belong together; "" when they last the same, give or take one frame."""
    expected = length / sample_rate * fps
    if abs(frames - expected) <= 1:
        return ""
    hint = wrong_rate_hint(length, sample_rate, frames / fps)
    return f"{frames} video frames where {length} samples at {sample_rate} Hz and {fps:g} fps make {expected:.2f}{hint}"


def validate_manifest(manifest: Manifest, deep: bool = False, nj: int = 1) -> list[Problem]:
    """Check a manifest against its files.

    Args:
        manifest: what `read_manifest` gave.
        deep: False looks whether the files exist; True opens and decodes each of them.
        nj: threads of the deep check.

    Returns:
        The problems in the order of the rows; none when all is well.
    """
    if not manifest.data_root.is_dir():
        reason = "data_root is no folder; if the corpus was moved, run stage 0 on its new place"
        return [Problem(0, "", str(manifest.data_root), reason)]
    if not deep:
        present = {p: manifest.resolve(p).is_file() for i in manifest.items for p in (*item_audio(i), *item_mouths(i)) if p}
        return _each_row(manifest, lambda item: _missing(item, present) + _clock(manifest, item))
    audio_paths = (manifest.resolve(path) for item in manifest.items for path in item_audio(item))
    audio = check_files(partial(check_audio, sample_rate=manifest.sample_rate), audio_paths, nj, "audio")
    mouths = check_files(check_mouths, map(manifest.resolve, manifest.mouth_paths()), nj, "mouths")
    return _each_row(
        manifest,
        lambda item: _clock(manifest, item) + _audio(manifest, item, audio) + _mouths(manifest, item, mouths),
    )


def find_mouth_problems(manifest: Manifest, mouths: Mapping[Path, MouthCheck]) -> list[Problem]:
    """The rows whose mouth crops are wrong, given the checks of all their files."""
    return _each_row(manifest, lambda item: _mouths(manifest, item, mouths))


def _each_row(manifest: Manifest, find: Callable[[Mixture | Utterance], list[tuple[str, str]]]) -> list[Problem]:
    return [
        Problem(row, item_id(item), path, reason)
        for row, item in enumerate(manifest.items, start=2)  # the header is line 1
        for path, reason in find(item)
    ]


def _missing(item: Mixture | Utterance, present: Mapping[str, bool]) -> list[tuple[str, str]]:
    return [(path, "no such file") for path in (*item_audio(item), *item_mouths(item)) if path and not present[path]]


def _clock(manifest: Manifest, item: Mixture | Utterance) -> list[tuple[str, str]]:
    if not any(item_mouths(item)):
        return []
    reason = clock_problem(item.frames, item.length, manifest.sample_rate, item.fps)
    return [(str(manifest.path), f"columns length and frames: {reason}")] if reason else []


def _audio(manifest: Manifest, item: Mixture | Utterance, checks: Mapping[Path, AudioCheck]) -> list[tuple[str, str]]:
    found = []
    for path in item_audio(item):
        check = checks[manifest.resolve(path)]
        if check.reason:
            found.append((path, check.reason))
        elif lengths_differ(path, check.length, item.length):
            found.append((path, f"{check.length} samples where column length says {item.length}"))
    return found


def _mouths(manifest: Manifest, item: Mixture | Utterance, checks: Mapping[Path, MouthCheck]) -> list[tuple[str, str]]:
    found = []
    for path in filter(None, item_mouths(item)):
        check = checks[manifest.resolve(path)]
        frames = min(check.frames, item.frames) if manifest.mouths_go_on else check.frames
        reason = check.reason or clock_problem(frames, item.length, manifest.sample_rate, item.fps)
        if not reason and abs(frames - item.frames) > 1:
            reason = f"{check.frames} frames where column frames says {item.frames}"
        if reason:
            found.append((path, reason))
    return found
