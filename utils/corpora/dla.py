"""The layout of the DLA set: audio/[{train,val,test}/]{mix,s1,s2}/ID1_ID2.{wav,flac,mp3,ogg} and mouths/ID.npz.

`scan_dla` opens every file of a split; it gives the mixtures that can be used, and the reasons why others cannot. Files that
do not belong to the layout (`.DS_Store`, `Thumbs.db`, notes, folders) are ignored.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from utils.data.clock import samples_to_frames
from utils.data.constants import AUDIO_SUFFIXES, SAMPLE_RATE_HZ, SPLITS, VIDEO_FPS
from utils.data.manifest import Mixture, Problem
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

_SOURCES = ("s1", "s2")


@dataclass(frozen=True)
class _Candidate:
    """A mixture of which only the file names are known; paths are relative to the corpus."""

    stem: str
    ids: tuple[str, str]
    mixture_path: str
    source_paths: tuple[str, ...]  # "" where the folder is absent

    @property
    def audio_paths(self) -> list[str]:
        return [path for path in (self.mixture_path, *self.source_paths) if path]

    @property
    def mouth_paths(self) -> tuple[str, ...]:
        return tuple(f"mouths/{name}.npz" for name in self.ids)


def dla_splits(root: Path) -> list[str | None]:
    """The splits of a folder in the DLA layout: some of train, val, test, or [None] for the flat form.

    Raises:
        UserError: the folder is not in the layout, or in both forms at once.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    splits: list[str | None] = [split for split in SPLITS if (root / "audio" / split / "mix").is_dir()]
    flat = (root / "audio" / "mix").is_dir()
    if flat and splits:
        raise UserError(f"{root}: holds both audio/mix and audio/{splits[0]}/mix; move one of them elsewhere")
    if not flat and not splits:
        raise UserError(f"{root}: holds neither audio/mix nor audio/{{train,val,test}}/mix; this is not the DLA layout")
    return splits or [None]


def scan_dla(
    root: Path, split: str | None, *, speaker_pattern: str | None = None, nj: int = 1
) -> tuple[list[Mixture], list[Problem]]:
    """Open every mixture of a split with its sources and mouths.

    Args:
        root: the folder that holds audio/ and mouths/.
        split: train, val or test; None for the flat form.
        speaker_pattern: a regular expression whose one group is the speaker, searched in each id;
            None leaves the speakers empty.
        nj: threads that open files.

    Returns:
        The mixtures that can be used, by name, their paths relative to `root`; and why others cannot.

    Raises:
        UserError: a folder is missing or holds nothing, or the pattern is wrong.
    """
    pattern = _compile(speaker_pattern)
    folder = Path("audio", split) if split else Path("audio")
    candidates, problems = _candidates(root, folder)
    names = [name for candidate in candidates for name in candidate.ids]
    if names and not any(pattern.search(name) for name in names):  # said before any file is opened
        raise UserError(f"--speaker_pattern '{pattern.pattern}' finds no speaker in any id, e.g. {names[0]}; correct it")
    title = split or "flat"
    audio_files = (root / path for candidate in candidates for path in candidate.audio_paths)
    audio = check_files(partial(check_audio, sample_rate=SAMPLE_RATE_HZ), audio_files, nj, f"{title} audio")
    mouth_files = (root / path for candidate in candidates for path in candidate.mouth_paths)
    mouths = check_files(check_mouths, mouth_files, nj, f"{title} mouths")
    mixtures = []
    for candidate in candidates:
        sounds = {path: audio[root / path] for path in candidate.audio_paths}
        crops = {path: mouths[root / path] for path in candidate.mouth_paths}
        found = [*_file_problems(sounds, crops)]
        for path, name in zip(candidate.mouth_paths, candidate.ids, strict=True):
            if pattern.pattern != "()" and not _speaker(name, pattern):
                found.append((path, f"--speaker_pattern '{pattern.pattern}' finds no speaker in the id {name}"))
        problems += [Problem(0, candidate.stem, path, reason) for path, reason in found]
        if not found:
            mixtures.append(_mixture(candidate, sounds, pattern))
    return mixtures, sorted(problems, key=lambda problem: problem.item_id)


def _compile(pattern: str | None) -> re.Pattern[str]:
    """The speaker pattern; without one, a pattern that finds the speaker "" in every id."""
    try:
        compiled = re.compile(pattern or "()")
    except re.error as error:
        raise UserError(f"--speaker_pattern '{pattern}': no regular expression ({error})") from None
    if compiled.groups != 1:
        raise UserError(f"--speaker_pattern '{pattern}': {compiled.groups} groups where one is needed, as in '^(s[0-9]+)'")
    return compiled


def _candidates(root: Path, folder: Path) -> tuple[list[_Candidate], list[Problem]]:
    """Pair the files of a split by stem; no file is opened."""
    if not (root / "mouths").is_dir():
        raise UserError(f"{root / 'mouths'}: no such folder; the DLA layout keeps the mouth crops there")
    known_mouths = {entry.name[:-4] for entry in _files(root / "mouths") if entry.name.endswith(".npz")}
    mixes = _by_stem(root, folder / "mix")
    if not mixes:
        raise UserError(f"{root / folder / 'mix'}: holds no {', '.join(AUDIO_SUFFIXES)} file")
    parts = [_by_stem(root, folder / part) for part in _SOURCES]
    candidates, problems = [], []
    for stem, paths in sorted(mixes.items()):
        sources, trouble = [], _name_problem(stem, paths)
        for part, files in zip(_SOURCES, parts, strict=True):
            found = files.get(stem, []) if files is not None else [""]
            trouble = trouble or (f"{folder / part} holds no file of this name" if not found else "")
            trouble = trouble or _name_problem(stem, found)
            sources += found[:1]
        ids = _split_ids(stem, known_mouths)
        if not trouble and isinstance(ids, str):
            trouble = ids
        if trouble:
            problems.append(Problem(0, stem, paths[0], trouble))
        else:
            candidates.append(_Candidate(stem, ids, paths[0], tuple(sources)))
    return candidates, problems


def _files(folder: Path) -> Iterator[os.DirEntry]:
    """The entries of a folder except for hidden ones and folders; a broken link counts as a file."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
    except PermissionError:
        raise UserError("not readable by you; change its permissions", folder) from None


def _by_stem(root: Path, folder: Path) -> dict[str, list[str]] | None:
    """The audio files of a folder, relative to `root`, by stem; None if there is no such folder."""
    if not (root / folder).is_dir():
        return None
    found: dict[str, list[str]] = {}
    for entry in _files(root / folder):
        stem, suffix = os.path.splitext(entry.name)
        if suffix.lower() in AUDIO_SUFFIXES:
            found.setdefault(stem, []).append(str(folder / entry.name))
    return {stem: sorted(paths) for stem, paths in found.items()}


def _name_problem(stem: str, paths: list[str]) -> str:
    if len(paths) > 1:
        return f"more than one file of this name: {', '.join(Path(path).name for path in paths)}"
    return name_problem(stem) or ("the name holds a backslash; rename the files" if "\\" in stem else "")


def _split_ids(stem: str, known_mouths: set[str]) -> tuple[str, str] | str:
    """The two ids in a name, or why there are none. Ids may hold "_" where the mouths tell where one ends."""
    cuts = [(stem[:at], stem[at + 1 :]) for at, letter in enumerate(stem) if letter == "_"]
    cuts = [cut for cut in cuts if all(cut)]
    if len(cuts) == 1:
        return cuts[0]  # if its mouths are missing, that is said of the mouths
    if not cuts:
        return "the name is not ID1_ID2"
    fitting = [cut for cut in cuts if known_mouths.issuperset(cut)]
    if len(fitting) == 1:
        return fitting[0]
    ways = "no way" if not fitting else f"{len(fitting)} ways"
    return f"the name is not ID1_ID2: {ways} to split it at a '_' into two ids that both have mouths"


def _file_problems(sounds: dict[str, AudioCheck], crops: dict[str, MouthCheck]) -> Iterator[tuple[str, str]]:
    broken = {path: check.reason for path, check in (sounds | crops).items() if check.reason}
    yield from broken.items()
    if any(path in broken for path in sounds):
        return  # no length to compare with
    length = min(check.length for check in sounds.values())  # MP3s may have a little more
    for path, check in sounds.items():
        if lengths_differ(path, check.length, length):
            yield path, f"{check.length} samples, another file of this mixture has {length}"
    for path, check in crops.items():
        reason = clock_problem(check.frames, length, SAMPLE_RATE_HZ, VIDEO_FPS)
        if reason and path not in broken:
            yield path, reason


def _speaker(name: str, pattern: re.Pattern[str]) -> str:
    match = pattern.search(name)
    return (match.group(1) or "") if match else ""


def _mixture(candidate: _Candidate, sounds: dict[str, AudioCheck], pattern: re.Pattern[str]) -> Mixture:
    length = min(check.length for check in sounds.values())
    powers = [sounds[path].power for path in candidate.source_paths if path]
    sir_db = round(10 * math.log10(powers[0] / powers[1]), 4) if len(powers) == 2 else None
    return Mixture(
        mixture_id=candidate.stem,
        mixture_path=candidate.mixture_path,
        source_paths=candidate.source_paths,
        noise_path="",
        length=length,
        mouth_paths=candidate.mouth_paths,
        frames=samples_to_frames(length, SAMPLE_RATE_HZ, VIDEO_FPS),  # a crop with one frame more or less is still read
        fps=float(VIDEO_FPS),
        speakers=tuple(_speaker(name, pattern) for name in candidate.ids),
        sir_db=sir_db,
        subset="",
    )
