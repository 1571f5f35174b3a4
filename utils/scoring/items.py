"""List of the mixtures to score: read from the `separated.csv` of the separation stage, or found in folders.

Reads `exp/<tag>/separated/<test name>/separated.csv`, or folders with `s1/`, `s2/` ... whose files match by stem.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.data.constants import AUDIO_SUFFIXES
from utils.data.manifest import Problem
from utils.errors import UserError, name_problem


@dataclass(frozen=True)
class ScoreItem:
    """A mixture with its references and estimates, as paths; `mixture_path` is "" where there is none."""

    mixture_id: str
    mixture_path: str
    reference_paths: tuple[str, ...]
    estimate_paths: tuple[str, ...]
    subset: str = ""
    separated_by: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """All its files, in a fixed order."""
        return (*filter(None, (self.mixture_path,)), *self.reference_paths, *self.estimate_paths)


def read_separated(path: Path) -> tuple[list[ScoreItem], list[Problem], list[str]]:
    """Read a `separated.csv`; relative paths start at its own folder.

    Returns:
        The mixtures that have references, the problems of those that lack some, and the names of the reference
        columns that are absent or empty in every row: where that is not empty there is nothing to score.

    Raises:
        UserError: the file is missing, has no rows, or lacks the columns of mixtures and estimates.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; stage 4 (--stage 4) makes it")
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            table = csv.DictReader(handle)
            columns, rows = table.fieldnames or [], list(table)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save the CSV as UTF-8") from None
    estimates = _numbered(columns, "estimate")
    lacking = [name for name in ["mixture_ID", "mixture_path", *(estimates or ["estimate_1_path"])] if name not in columns]
    if lacking:
        raise UserError(f"{path}: column {', '.join(lacking)} is missing; run stage 4 again (--stage 4 --force true)")
    if not rows:
        raise UserError(f"{path}: holds no mixture; see the failed.csv beside it")
    references = _numbered(columns, "source")
    if not references:
        return [], [], [f"source_{k + 1}_path" for k in range(len(estimates))]
    if len(references) != len(estimates):
        raise UserError(f"{path}: {len(references)} references but {len(estimates)} estimates; nothing pairs them")
    repeated = [name for name, count in Counter(row["mixture_ID"] for row in rows).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: mixture_ID {repeated[0]} is listed twice; run stage 4 again (--stage 4 --force true)")
    absent = [name for name in references if not any(row.get(name) for row in rows)]
    items, problems = [], []
    for line, row in enumerate(rows, start=2):
        needed = ["mixture_path", *references, *estimates]
        empty = [name for name in needed if not row.get(name)]
        if empty:
            problems.append(Problem(line, row["mixture_ID"], str(path), f"{', '.join(empty)} is empty"))
        else:
            items.append(_item(row, path.parent, references, estimates))
    return items, problems, absent


def _numbered(columns: Sequence[str], kind: str) -> list[str]:
    count = sum(re.fullmatch(rf"{kind}_[1-9]\d*_path", name) is not None for name in columns)
    return [f"{kind}_{k + 1}_path" for k in range(count)]


def _item(row: dict[str, str], folder: Path, references: list[str], estimates: list[str]) -> ScoreItem:
    def resolve(names: list[str]) -> tuple[str, ...]:
        return tuple(str(folder / row[name]) for name in names)

    mixture = resolve(["mixture_path"])[0]
    labels = (row.get("subset") or "", row.get("separated_by") or "")
    return ScoreItem(row["mixture_ID"], mixture, resolve(references), resolve(estimates), *labels)


def scan_folders(mixture_dir: Path | None, reference_dir: Path, estimate_dir: Path) -> tuple[list[ScoreItem], list[Problem]]:
    """Match the files of `reference_dir/s<k>`, `estimate_dir/s<k>` and `mixture_dir` by stem.

    Returns:
        The complete mixtures in the order of their stems, and a problem for each stem that lacks a partner or has two.

    Raises:
        UserError: a folder is missing or empty, or the two have not the same `s1`, `s2` ...
    """
    speakers = _speaker_folders(reference_dir)
    found = _speaker_folders(estimate_dir)
    if speakers != found:
        raise UserError(
            f"{reference_dir} holds {', '.join(speakers)}, {estimate_dir} holds {', '.join(found)}; give both the same"
        )
    folders = [reference_dir / name for name in speakers] + [estimate_dir / name for name in speakers]
    folders = ([mixture_dir] if mixture_dir else []) + folders
    files = [_audio_by_stem(folder) for folder in folders]
    items, problems = [], []
    for stem in sorted(set().union(*files)):
        if reason := name_problem(stem):
            problems.append(Problem(0, stem, str(next(names[stem][0] for names in files if stem in names)), reason))
            continue
        wrong = [_partner_problem(stem, folder, names) for folder, names in zip(folders, files, strict=True)]
        wrong = [problem for problem in wrong if problem]
        if wrong:
            problems.extend(wrong)
            continue
        paths = [str(names[stem][0]) for names in files]
        mixture = paths.pop(0) if mixture_dir else ""
        items.append(ScoreItem(stem, mixture, tuple(paths[: len(speakers)]), tuple(paths[len(speakers) :])))
    return items, problems


def _speaker_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    numbers = sorted(int(path.name[1:]) for path in folder.iterdir() if re.fullmatch(r"s[1-9]\d*", path.name))
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise UserError(f"{folder}: must hold the folders s1, s2 ... without a gap, one for each speaker")
    return [f"s{number}" for number in numbers]


def _audio_by_stem(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("."):
            files.setdefault(path.stem, []).append(path)
    if not files:
        raise UserError(f"{folder}: no audio ({', '.join(AUDIO_SUFFIXES)})")
    return files


def _partner_problem(stem: str, folder: Path, files: dict[str, list[Path]]) -> Problem | None:
    found = files.get(stem, [])
    if len(found) == 1:
        return None
    if not found:
        return Problem(0, stem, str(folder), f"{folder} holds no file named {stem}")
    names = " and ".join(path.name for path in found)
    return Problem(0, stem, str(folder), f"{folder} holds {names}: which one is meant?")
