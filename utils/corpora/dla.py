"""The layout of the DLA set: audio/[{train,val,test}/]{mix,s1,s2}/ID1_ID2.{wav,flac,mp3,ogg} and mouths/ID.npz.

`scan_dla` opens every file of a split; it gives the mixtures that can be used, and the reasons why others cannot. Files
that do not belong to the layout (`.DS_Store`, `Thumbs.db`, notes, folders) are ignored.
"""

import re
from pathlib import Path

from utils.corpora.output import usable
from utils.corpora.ready_mixtures import NamedMixture, files_by_stem, open_mixtures, pair_files
from utils.data.constants import AUDIO_SUFFIXES, SPLITS
from utils.data.manifest import Mixture, Problem
from utils.errors import UserError


def dla_splits(root: Path) -> list[str | None]:
    """The splits of a folder in the DLA layout: some of train, val, test, or [None] for the flat form.

    Raises:
        UserError: the folder is not in the layout, or in both forms at once.
    """
    if not root.is_dir():
        raise UserError("no such folder", root)
    splits: list[str | None] = [split for split in SPLITS if (root / "audio" / split / "mix").is_dir()]
    flat = (root / "audio" / "mix").is_dir()
    if flat and splits:
        raise UserError(f"holds both audio/mix and audio/{splits[0]}/mix; move one of them elsewhere", root)
    if not flat and not splits:
        raise UserError("holds neither audio/mix nor audio/{train,val,test}/mix; this is not the DLA layout", root)
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
    if not (root / "mouths").is_dir():
        raise UserError("no such folder; the DLA layout keeps the mouth crops there", root / "mouths")
    mouths = files_by_stem(root, "mouths", (".npz",))
    if mouths and not any(map(pattern.search, mouths)):  # said before any file is opened
        reason = f"finds no speaker in any id, e.g. {min(mouths)}; correct it"
        raise UserError(f"--speaker_pattern '{speaker_pattern}' {reason}")
    folders = [f"audio/{split}/{part}" if split else f"audio/{part}" for part in ("mix", "s1", "s2")]
    files = dict.fromkeys(folders)  # sources may be absent
    files |= {folder: files_by_stem(root, folder, AUDIO_SUFFIXES) for folder in folders if (root / folder).is_dir()}
    if not files[folders[0]]:
        raise UserError(f"holds no {', '.join(AUDIO_SUFFIXES)} file", root / folders[0])
    pairs = pair_files(files[folders[0]], files)
    named = (pair if isinstance(pair, Problem) else _named(*pair, set(mouths), pattern) for pair in pairs)
    problems: list[Problem] = []
    return usable(open_mixtures(root, named, nj, split or "flat"), problems), problems


def _compile(pattern: str | None) -> re.Pattern[str]:
    """The speaker pattern; without one, a pattern that finds the speaker "" in every id."""
    try:
        compiled = re.compile(pattern or "()")
    except re.error as error:
        raise UserError(f"--speaker_pattern '{pattern}': no regular expression ({error})") from None
    if compiled.groups != 1:
        said = f"{compiled.groups} groups where one is needed, as in '^(s[0-9]+)'"
        raise UserError(f"--speaker_pattern '{pattern}': {said}")
    return compiled


def _named(stem: str, paths: tuple[str, ...], mouths: set[str], pattern: re.Pattern[str]) -> NamedMixture | Problem:
    """The ids in a name, and their speakers. Ids may hold "_" where the mouths tell where one ends."""
    cuts = [(stem[:at], stem[at + 1 :]) for at, letter in enumerate(stem) if letter == "_"]
    cuts = [cut for cut in cuts if all(cut)]
    if not cuts:
        return Problem(0, stem, paths[0], "the name is not ID1_ID2")
    if len(cuts) > 1:  # else, if its mouths are missing, that is said of the mouths
        cuts = [cut for cut in cuts if mouths.issuperset(cut)]
    if len(cuts) != 1:
        ways = f"{len(cuts)} ways" if cuts else "no way"
        reason = f"the name is not ID1_ID2: {ways} to split it at a '_' into two ids that both have mouths"
        return Problem(0, stem, paths[0], reason)
    mouth_paths = tuple(f"mouths/{name}.npz" for name in cuts[0])
    found = [pattern.search(name) for name in cuts[0]]
    speakers = tuple(match.group(1) or "" if match else "" for match in found)
    for name, path, speaker in zip(cuts[0], mouth_paths, speakers, strict=True):
        if pattern.pattern != "()" and not speaker:
            reason = f"--speaker_pattern '{pattern.pattern}' finds no speaker in the id {name}"
            return Problem(0, stem, path, reason)
    return NamedMixture(stem, paths, mouth_paths, speakers)
