"""The layout of the 2Mix sets (LRS2-2Mix, LRS3-2Mix, VoxCeleb2-2Mix), as CTCNet, RTFS-Net and IIANet take it.

    audio/wav16k/min/{tr,cv,tt}/{mix,s1,s2}/ID1_GAIN1_ID2_GAIN2.wav      three voices: one more id and gain, and s3
    mouths/ID.npz
    <json folder>/{tr,cv,tt}/{mix,s1,s2}.json      optional: [[path, samples], …] or [[path, mouth, samples], …]

Ids hold `_` and `-` and gains are decimals that may be negative, so that no name can be cut at its underscores: the rule
of each corpus (`MouthRule`) says what an id looks like. The lists' absolute paths are those of another machine; files are
found by their names below the corpus' folder.
"""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from utils.data.audio import probe_audio
from utils.data.manifest import Mixture, Problem
from utils.errors import UserError, name_problem

log = logging.getLogger(__name__)
SPLIT_FOLDERS = {"train": "tr", "val": "cv", "test": "tt"}
SAMPLE_RATE_HZ = 16000
FPS = 25.0
_SUFFIXES = (".wav", ".flac")
_GAIN = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"


@dataclass(frozen=True)
class MouthRule:
    """What the ids of a corpus look like. The mouth of an id is mouths/ID.npz.

    Attributes:
        corpus: its name.
        pattern: regular expression of a whole id; its group `speaker` is whose clip it is.
        example: of an id.
    """

    corpus: str
    pattern: str
    example: str

    def ids_of_name(self, stem: str) -> list[tuple[str, float]] | None:
        """The ids and gains (dB) in a mixture's name, two or three of them; None where the name is none."""
        one = rf"({self._nameless})_({_GAIN})"
        match = re.fullmatch(rf"{one}_{one}(?:_{one})?", stem, re.ASCII)
        if not match:
            return None
        found = [text for text in match.groups() if text is not None]
        return [(name, float(gain)) for name, gain in zip(found[::2], found[1::2], strict=True)]

    def id_of_path(self, path: str) -> str:
        """The id of a clip by its path without suffix, `…/VIDEO/00001` as well as `…/VIDEO_00001`; "" where it has none."""
        match = re.search(rf"(?:^|(?<=_))({self._nameless})$", path.replace("/", "_"), re.ASCII)
        return match.group(1) if match else ""

    def speaker_of_id(self, name: str) -> str:
        """Whose clip it is; "" where the id is none of this corpus."""
        match = re.fullmatch(self.pattern, name, re.ASCII)
        return match["speaker"] if match else ""

    @property
    def _nameless(self) -> str:
        return self.pattern.replace("?P<speaker>", "?:")


LRS2 = MouthRule("lrs2", r"(?P<speaker>[0-9]+)_[0-9]{5}", "6339077953587836416_00025")
LRS3 = MouthRule("lrs3", r"(?P<speaker>[\w-]{11})_[0-9]{5}", "NCJTV5KaJJc_00001")
VOXCELEB2 = MouthRule("voxceleb2", r"(?P<speaker>id[0-9]{5})_[\w-]{11}_[0-9]{5}", "id00017_01dfn2spqyE_00001")


def is_two_mix(root: Path) -> bool:
    """Whether a folder looks like a 2Mix set."""
    return find_audio(root) is not None


def find_audio(root: Path) -> Path | None:
    """The folder that holds tr, cv or tt: audio/wav16k/min, or one of its parents where the set was repacked."""
    for folder in ("audio/wav16k/min", "wav16k/min", "audio", "min", "."):
        if any((root / folder / name / "mix").is_dir() for name in SPLIT_FOLDERS.values()):
            return root / folder
    return None


def read_two_mix(root: Path, rule: MouthRule, json_dir: Path | None = None) -> tuple[dict[str, list[Mixture]], list[Problem]]:
    """The mixtures of a 2Mix set, by split. Of the audio only headers are read; `keep_usable` opens the files.

    Args:
        root: the folder that holds audio/ and mouths/.
        rule: of the corpus.
        json_dir: the folder of the json lists, which then say what there is; None: the folders do.

    Returns:
        Mixtures whose paths start at `root`, by train, val, test; and what cannot be used, with rows of the json lists.

    Raises:
        UserError: the folder is not in the layout, or a json is no such list at all.
    """
    audio = find_audio(root)
    if audio is None:
        raise UserError(f"{root}: holds no audio/wav16k/min/{{tr,cv,tt}}/mix; this is not the 2Mix layout")
    mixtures: dict[str, list[Mixture]] = {}
    problems: list[Problem] = []
    for split, folder in SPLIT_FOLDERS.items():
        place = audio / folder
        listed = _json_items(json_dir / folder) if json_dir and (json_dir / folder).is_dir() else None
        if listed is None and not (place / "mix").is_dir():
            continue
        if json_dir and listed is None:
            log.warning("%s: has no %s/; for %s the folders below %s say what there is", json_dir, folder, split, place)
        found = list(_listed_items(*listed) if listed else _folder_items(place))
        mixtures[split] = []
        for item in found:
            made = _mixture(item, root, place, rule) if isinstance(item, _Item) else item
            (problems if isinstance(made, Problem) else mixtures[split]).append(made)
    if json_dir and not any((json_dir / folder).is_dir() for folder in SPLIT_FOLDERS.values()):
        raise UserError(f"{json_dir}: holds none of tr/, cv/, tt/; give the folder of the json lists, or none")
    return mixtures, problems


@dataclass(frozen=True)
class _Item:
    """A mixture by name; what the json lists say besides."""

    stem: str
    file_names: tuple[str, ...]  # of mix, s1, s2, …
    mouths: tuple[str, ...] = ()  # the json's, one for each voice
    length: int | None = None  # samples, as the json says
    row: int = 0


def _folder_items(place: Path) -> Iterator[_Item | Problem]:
    """What lies in mix/, with its partners in s1/, s2/, and s3/ where there is one."""
    voices = ["s1", "s2", *(["s3"] if (place / "s3").is_dir() else [])]
    files = {part: _by_stem(place / part) for part in ("mix", *voices)}
    for stem in sorted({stem for found in files.values() for stem in found}):
        missing = [part for part, found in files.items() if stem not in found]
        if missing:
            yield Problem(0, stem, str(place), f"{', '.join(missing)} hold no file of this name")
        else:
            yield _Item(stem, tuple(found[stem] for found in files.values()))


def _by_stem(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; the 2Mix layout has mix, s1 and s2")
    names = (path.name for path in folder.iterdir() if not path.name.startswith("."))
    return {PurePosixPath(name).stem: name for name in sorted(names) if name.lower().endswith(_SUFFIXES)}


def _json_items(folder: Path) -> tuple[Path, dict[str, list]]:
    """The json lists of a split by part: mix, s1, s2, and s3 where there is one."""
    parts = ["mix", "s1", "s2", *(["s3"] if (folder / "s3.json").is_file() else [])]
    lists = {part: _read_list(folder / f"{part}.json") for part in parts}
    for part, rows in lists.items():
        if not isinstance(rows, list) or not rows:
            raise UserError(f"{folder / part}.json: no list of [path, samples]; copy it again")
    return folder, lists


def _read_list(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file; copy the lists of this split again, or give no --json_dir") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); copy it again") from None


def _listed_items(folder: Path, lists: dict[str, list]) -> Iterator[_Item | Problem]:
    """Match the rows of the lists by the names of their files; what has no partner is a problem, whatever its place."""
    by_part: dict[str, dict[str, tuple[int, str, str, int]]] = {}
    for part, rows in lists.items():
        by_part[part] = {}
        for number, row in enumerate(rows, start=1):
            parsed = _json_row(row)
            if parsed is None:
                yield Problem(
                    number, str(row)[:100], f"{folder / part}.json", "is neither [path, samples] nor [path, mouth, samples]"
                )
                continue
            stem = PurePosixPath(parsed[0]).stem
            if stem in by_part[part]:
                yield Problem(number, stem, f"{folder / part}.json", f"row {by_part[part][stem][0]} lists this name, too")
                continue
            by_part[part][stem] = (number, *parsed)
    for stem in sorted({stem for rows in by_part.values() for stem in rows}):
        rows = {part: found[stem] for part, found in by_part.items() if stem in found}
        number = next(iter(rows.values()))[0]
        missing = [f"{part}.json ({len(lists[part])} rows)" for part in lists if part not in rows]
        lengths = {row[3] for row in rows.values()}
        if missing:
            yield Problem(number, stem, str(folder), f"not in {', '.join(missing)}, but in {', '.join(rows)}.json")
        elif len(lengths) > 1:
            yield Problem(
                number, stem, str(folder), f"the lists say that it has {' and '.join(map(str, sorted(lengths)))} samples"
            )
        else:
            names = tuple(PurePosixPath(row[1]).name for row in rows.values())
            mouths = tuple(row[2] for part, row in rows.items() if part != "mix")
            yield _Item(stem, names, mouths if all(mouths) else (), lengths.pop(), number)


def _json_row(row: object) -> tuple[str, str, int] | None:
    """Path, mouth ("" where there is none) and samples of a row of 2 or 3 items."""
    if not isinstance(row, list) or len(row) not in (2, 3):
        return None
    path, mouth, length = row[0], row[1] if len(row) == 3 else "", row[-1]
    if not isinstance(path, str) or not isinstance(mouth, str) or type(length) is not int or not path:
        return None
    return path.replace("\\", "/"), mouth.replace("\\", "/"), length


def _mixture(item: _Item, root: Path, place: Path, rule: MouthRule) -> Mixture | Problem:
    """A row for the manifest, from the names and the mixture's header."""
    parts = rule.ids_of_name(item.stem)
    folder = place.relative_to(root).as_posix()
    mixture_path = f"{folder}/mix/{item.file_names[0]}"
    if reason := name_problem(item.stem):
        return Problem(item.row, item.stem, mixture_path, reason)
    if parts is None:
        return Problem(
            item.row, item.stem, mixture_path, f"the name is no ID_GAIN_ID_GAIN of {rule.corpus} (an id: {rule.example})"
        )
    if len(parts) != len(item.file_names) - 1:
        return Problem(item.row, item.stem, mixture_path, f"{len(parts)} ids in the name of {len(item.file_names) - 1} voices")
    ids = [name for name, _ in parts]
    if len(set(ids)) < len(ids):
        return Problem(item.row, item.stem, mixture_path, "mixes a clip with itself")
    for name, mouth in zip(ids, item.mouths, strict=bool(item.mouths)):
        if PurePosixPath(mouth).stem != name:
            return Problem(item.row, item.stem, mouth, f"the list names this mouth, the mixture's name {name}")
    try:
        info = probe_audio(root / mixture_path)
    except UserError as error:
        return Problem(item.row, item.stem, mixture_path, str(error).removeprefix(f"{root / mixture_path}: "))
    if info.sample_rate != SAMPLE_RATE_HZ:
        return Problem(
            item.row, item.stem, mixture_path, f"sampled at {info.sample_rate} Hz where {SAMPLE_RATE_HZ} Hz is expected"
        )
    if item.length is not None and info.length != item.length:
        reason = f"{info.length} samples where the list says {item.length}"
        return Problem(item.row, item.stem, mixture_path, reason)
    return Mixture(
        mixture_id=item.stem,
        mixture_path=mixture_path,
        source_paths=tuple(f"{folder}/s{k}/{name}" for k, name in enumerate(item.file_names[1:], start=1)),
        noise_path="",
        length=info.length,
        mouth_paths=tuple(f"mouths/{name}.npz" for name in ids),
        frames=round(info.length * FPS / SAMPLE_RATE_HZ),
        fps=FPS,
        speakers=tuple(rule.speaker_of_id(name) for name in ids),
        sir_db=parts[0][1] - parts[1][1],
        subset="",
    )
