"""What `--test_dir` stands for: a prepared CSV, or a folder in the DLA layout whose manifest is made when missing.

Reads the CSV, or every file of the folder; writes `data/<test name>/test.csv` (with its side file), `failed.csv` and
the mark `.made-from.json` for a folder. Part of stage 4; imports no torch, as wrong paths must fail at once.
"""

import csv
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.corpora.dla import SAMPLE_RATE_HZ, VIDEO_FPS, dla_splits, scan_dla
from utils.data.audio import EXTENSIONS, probe_audio
from utils.data.fingerprints import StageMark, hash_stats
from utils.data.manifest import Manifest, Mixture, Problem, read_manifest, write_failed, write_manifest
from utils.errors import UsageError, UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TestSet:
    """Mixtures to separate, and what of the folder cannot even be listed as such."""

    __test__ = False  # its name is not meant for pytest

    name: str
    manifest: Manifest
    problems: list[Problem]


def find_test_set(test_dir: Path, test_name: str, data_root_dir: Path, nj: int) -> TestSet:
    """Read the manifest that `--test_dir` names, or make that of a folder.

    Args:
        test_dir: a CSV of mixtures, or a folder in the DLA layout (of several splits `test` is taken).
        test_name: what outputs are called; "" takes the folder's name, or `<corpus>_<split>` of `<corpus>/<split>.csv`.
        data_root_dir: a folder's manifest is `<data_root_dir>/<test name>/test.csv`.
        nj: processes that open files.

    Raises:
        UserError: no such file or folder, or nothing that can be separated.
        UsageError: `test_name` cannot name a folder.
    """
    if test_name in (".", "..") or os.path.basename(test_name) != test_name:
        raise UsageError(f"--test_name '{test_name}': it names a folder, so it holds no path separator")
    if test_dir.is_dir():
        return _folder(test_dir, test_name or test_dir.resolve().name, data_root_dir, nj)
    if not test_dir.exists():
        raise UserError(f"--test_dir {test_dir}: no such file or folder; a CSV of a corpus is made by stage 0")
    if test_dir.suffix != ".csv":
        raise UserError(f"--test_dir {test_dir}: neither a CSV of mixtures nor a folder in the DLA layout")
    manifest = read_manifest(test_dir)
    if not isinstance(manifest.items[0], Mixture):
        raise UserError(f"--test_dir {test_dir}: holds single utterances; give a CSV of mixtures")
    return TestSet(test_name or f"{test_dir.resolve().parent.name}_{test_dir.stem}", manifest, [])


def _folder(root: Path, name: str, data_root_dir: Path, nj: int) -> TestSet:
    try:
        splits = dla_splits(root)
    except UserError as error:
        raise UserError(f"--test_dir {error}; nor does it hold a video") from None
    split = "test" if "test" in splits else splits[0]
    if split != "test" and len(splits) > 1:
        raise UserError(f"--test_dir {root}: holds the splits {', '.join(splits)} but no test; name one of them test")
    path = data_root_dir / name / "test.csv"
    mark_path, failed_path = path.with_name(".made-from.json"), path.with_name("failed.csv")
    inputs = {"folder": str(root.resolve()), "files": _listing(root, split)}
    mark = StageMark(mark_path, inputs)
    changes = mark.changed()
    if changes is None and path.is_file():
        return TestSet(name, _manifest_of_stage_0(path, root), [])
    if changes != [] or not (path.is_file() and failed_path.is_file()):
        for change in changes or []:
            logger.info("stage 4: %s is made again: %s", path, change)
        StageMark(mark_path, inputs | {"files": "not finished"}).write()  # a kill must not leave it for stage 0's
        _make_manifest(path, root, split, name, nj)
        mark.write()
    return TestSet(name, read_manifest(path), _read_failed(failed_path))


def _manifest_of_stage_0(path: Path, root: Path) -> Manifest:
    """A manifest that a corpus' recipe made: right if of the same folder, and never overwritten."""
    manifest = read_manifest(path)
    if manifest.data_root.resolve() != root.resolve():
        raise UserError(
            f"{path}: belongs to another corpus, {manifest.data_root}; give --test_name to call {root} something else"
        )
    logger.info("stage 4: taking %s, which stage 0 made of this folder", path)
    return manifest


def _make_manifest(path: Path, root: Path, split: str | None, name: str, nj: int) -> None:
    mixtures, problems = scan_dla(root, split, nj=nj)
    faceless = _with_bad_mouths(root, split, problems)
    listed = {item.mixture_id for item in faceless}
    problems = [problem for problem in problems if problem.item_id not in listed]
    write_failed(path.with_name("failed.csv"), problems)
    if not (mixtures or faceless):
        raise UserError(
            f"--test_dir {root}: none of {len({p.item_id for p in problems})} mixtures can be used, the first for "
            f"{problems[0].path} ({problems[0].reason}); all are listed in {path.with_name('failed.csv')}"
        )
    items = sorted([*mixtures, *faceless], key=lambda item: item.mixture_id)
    root = root.resolve()
    write_manifest(path, corpus=name, split="test", data_root=root, sample_rate=SAMPLE_RATE_HZ, n_src=2, items=items)


def _with_bad_mouths(root: Path, split: str | None, problems: list[Problem]) -> list[Mixture]:
    """The mixtures that only their mouths keep from being used: an audio-only network needs none."""
    reasons: dict[str, list[str]] = {}
    for problem in problems:
        reasons.setdefault(problem.item_id, []).append(problem.path)
    names = [name for name, paths in reasons.items() if all(path.startswith("mouths/") for path in paths)]
    folder = Path("audio", split) if split else Path("audio")
    mixtures = []
    for name in names:
        audio = [next(_audio_files(root, folder / voice, name), "") for voice in ("mix", "s1", "s2")]
        length = min(probe_audio(root / path).length for path in audio if path)
        mouths = _mouths(name, reasons[name], root)
        frames = round(length / SAMPLE_RATE_HZ * VIDEO_FPS)
        mixtures.append(
            Mixture(name, audio[0], (audio[1], audio[2]), "", length, mouths, frames, VIDEO_FPS, ("", ""), None, "")
        )
    return mixtures


def _audio_files(root: Path, folder: Path, stem: str) -> Iterator[str]:
    for suffix in (*EXTENSIONS, *(suffix.upper() for suffix in EXTENSIONS)):
        if (root / folder / (stem + suffix)).is_file():
            yield str(folder / (stem + suffix))


def _mouths(name: str, bad_paths: list[str], root: Path) -> tuple[str, str]:
    """The mouths of `ID1_ID2`: of all ways to split the name, the one in which every mouth is there or known as bad."""
    for at, letter in enumerate(name):
        paths = (f"mouths/{name[:at]}.npz", f"mouths/{name[at + 1 :]}.npz")
        if letter == "_" and all(path in bad_paths or (root / path).is_file() for path in paths):
            return paths
    return "", ""


def _listing(root: Path, split: str | None) -> str:
    """Names, sizes and times of all files of the split and of the mouths."""
    folders = [Path("audio", split or "") / voice for voice in ("mix", "s1", "s2")] + [Path("mouths")]
    found = [root / folder / name for folder in folders for name in _names(root / folder)]
    return hash_stats(found)


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _read_failed(path: Path) -> list[Problem]:
    with open(path, newline="", encoding="utf-8") as handle:
        return [Problem(int(row["row"] or 0), row["id"], row["path"], row["reason"]) for row in csv.DictReader(handle)]
