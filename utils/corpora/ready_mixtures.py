"""Corpora that come as mixtures with their mouth crops: files are paired by their names, then opened.

    <folder>/{mix,s1,s2,…}/NAME.wav, mouths/ID.npz

What a name says differs: see `dla.py` and `two_mix.py`.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from utils.data.audio import probe_audio
from utils.data.clock import samples_to_frames
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.manifest import Mixture, Problem
from utils.data.mouths import MouthFile
from utils.data.validation import (
    AudioCheck,
    MouthCheck,
    check_audio,
    check_files,
    check_mouths,
    clock_problem,
    lengths_differ,
)
from utils.errors import UserError, name_problem


@dataclass(frozen=True)
class NamedMixture:
    """A mixture of which only the names are known; paths are relative to the corpus."""

    mixture_id: str
    paths: tuple[str, ...]  # of the mixture and its sources; "" where the corpus does not have them
    mouth_paths: tuple[str, ...]
    speakers: tuple[str, ...]
    sir_db: float | None = None  # first source over the second; None: it is measured
    length: int | None = None  # samples, where a list gives them
    row: int = 0  # of that list


def files_by_stem(root: Path, folder: str, suffixes: Sequence[str]) -> dict[str, list[str]]:
    """The files of a folder, relative to `root`, by stem. Hidden files are ignored; a broken link counts as a file."""
    found: dict[str, list[str]] = {}
    with os.scandir(root / folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in suffixes and not entry.name.startswith(".") and not entry.is_dir():
                found.setdefault(stem, []).append(f"{folder}/{entry.name}")
    return found


def pair_files(
    stems: Iterable[str], files: Mapping[str, Mapping[str, list[str]] | None]
) -> Iterator[tuple[str, tuple[str, ...]] | Problem]:
    """The names of mixtures with their paths, that of the mixture first.

    Args:
        stems: the names.
        files: the files by stem of each folder; None where the corpus does not have that folder.
    """
    for stem in sorted(stems):
        reason = name_problem(stem) or ("the name holds a backslash; rename the files" if "\\" in stem else "")
        paths = []
        for folder, found in files.items():
            there = [""] if found is None else found.get(stem, [])
            if len(there) > 1:
                names = ", ".join(os.path.basename(path) for path in there)
                reason = reason or f"more than one file of this name: {names}"
            reason = reason or ("" if there else f"{folder} holds no file of this name")
            paths += there[:1]
        yield Problem(0, stem, paths[0], reason) if reason else (stem, tuple(paths))


def open_mixtures(
    root: Path, found: Iterable[NamedMixture | Problem], nj: int, title: str, deep: bool = True
) -> list[Mixture | Problem]:
    """Open the files of mixtures.

    Args:
        root: where their paths start.
        found: mixtures, and problems, which stay as they are.
        nj: threads that open files.
        title: of the progress bars.
        deep: decode every file; False reads only headers.

    Returns:
        Rows for a manifest; problems for the mixtures of which a file cannot be used.
    """
    found = list(found)
    named = [item for item in found if isinstance(item, NamedMixture)]
    check_sound = partial(check_audio, sample_rate=SAMPLE_RATE_HZ) if deep else _audio_header
    audio_files = (root / path for item in named for path in item.paths if path)
    audio = check_files(check_sound, audio_files, nj, f"{title} audio")
    mouth_files = (root / path for item in named for path in item.mouth_paths)
    mouths = check_files(check_mouths if deep else _mouth_header, mouth_files, nj, f"{title} mouths")
    opened: list[Mixture | Problem] = []
    for item in found:
        if isinstance(item, Problem):
            opened.append(item)
            continue
        sounds = {path: audio[root / path] for path in item.paths if path}
        crops = {path: mouths[root / path] for path in item.mouth_paths}
        reasons = list(_reasons_against(item, sounds, crops))
        problems = [Problem(item.row, item.mixture_id, path, reason) for path, reason in reasons]
        opened += problems or [_mixture(item, sounds)]
    return opened


def _audio_header(path: Path) -> AudioCheck:
    try:
        info = probe_audio(path)
    except UserError as error:
        return AudioCheck(reason=error.reason)
    if info.sample_rate != SAMPLE_RATE_HZ:
        return AudioCheck(reason=f"sampled at {info.sample_rate} Hz where {SAMPLE_RATE_HZ} Hz is expected")
    return AudioCheck(info.length)


def _mouth_header(path: Path) -> MouthCheck:
    try:
        return MouthCheck(MouthFile(path).n_frames)
    except UserError as error:
        return MouthCheck(reason=error.reason)


def _reasons_against(
    item: NamedMixture, sounds: Mapping[str, AudioCheck], crops: Mapping[str, MouthCheck]
) -> Iterator[tuple[str, str]]:
    """The files that cannot be used, with the reasons."""
    broken = {path: check.reason for path, check in {**sounds, **crops}.items() if check.reason}
    yield from broken.items()
    if any(path in broken for path in sounds):
        return  # no length to compare with
    length = min(check.length for check in sounds.values())  # MP3s may have a little more
    for path, check in sounds.items():
        if lengths_differ(path, check.length, length):
            yield path, f"{check.length} samples, another file of this mixture has {length}"
    if item.length not in (None, length):
        yield item.paths[0], f"{length} samples where the list says {item.length}"
    for path, check in crops.items():
        reason = clock_problem(check.frames, length, SAMPLE_RATE_HZ, VIDEO_FPS)
        if reason and path not in broken:
            yield path, reason


def _mixture(item: NamedMixture, sounds: Mapping[str, AudioCheck]) -> Mixture:
    length = min(check.length for check in sounds.values())
    powers = [sounds[path].power for path in item.paths[1:] if path]
    sir_db = item.sir_db
    if sir_db is None and len(powers) == 2:
        sir_db = round(10 * math.log10(powers[0] / powers[1]), 4)
    return Mixture(
        mixture_id=item.mixture_id,
        mixture_path=item.paths[0],
        source_paths=item.paths[1:],
        noise_path="",
        length=length,
        mouth_paths=item.mouth_paths,
        frames=samples_to_frames(length, SAMPLE_RATE_HZ, VIDEO_FPS),  # a crop with one frame more or less is still read
        fps=float(VIDEO_FPS),
        speakers=item.speakers,
        sir_db=sir_db,
        subset="",
    )
