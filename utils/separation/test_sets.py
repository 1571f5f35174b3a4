"""Stage 4 on a test set: its mixtures, and the folder of estimates that is made of them.

Reads   an experiment, and --test_dir: a prepared CSV, or a folder in the DLA layout. Visual embeddings that are missing are
        added to the store.
Writes  exp/<tag>/separated/<test name>/: {s1,s2,...}/<mixture id>.wav, separated.csv, failed.csv, the journal made.jsonl and
        the mark .done-4.json; the same with other visual embeddings in cues_swapped/ and cues_shuffled/ (--cue_test) and
        offset_<frames>/ (--av_offset_sweep) below it. For a folder also its manifest <data_root_dir>/<test name>/test.csv, with
        failed.csv and the mark .made-from.json.

Torch is imported only where there is something to separate, as wrong paths must fail at once.
"""

import contextlib
import csv
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from utils.corpora.dla import dla_splits, scan_dla
from utils.data.audio import probe_audio
from utils.data.constants import AUDIO_SUFFIXES, SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.devices import choose_device
from utils.data.estimates import CUE_FOLDERS, JOURNAL_NAME, offset_folder, offset_folders, write_separated
from utils.data.experiments import Experiment
from utils.data.faces import face_path_of
from utils.data.files import exclusive_lock, sha256_file
from utils.data.fingerprints import StageMark, hash_contents, hash_stats
from utils.data.manifest import Manifest, Mixture, Problem, read_manifest, write_failed, write_manifest
from utils.embedding.precomputed import PrecomputedEmbeddings
from utils.errors import UsageError, UserError
from utils.separation.options import TestSetOptions, name_of_test

if TYPE_CHECKING:
    from utils.separation.mixtures import EstimateFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TestSet:
    """Mixtures to separate, and the problems of those that a manifest cannot list."""

    __test__ = False  # its name is not meant for pytest

    name: str
    manifest: Manifest
    problems: list[Problem]


def separate_test_set(experiment: Experiment, fallback: Experiment | None, options: TestSetOptions) -> None:
    """Bring the estimates of a test set up to date.

    Args:
        experiment: the network.
        fallback: an audio-only one for mixtures whose visual embeddings cannot be used.
        options: of stage 4.

    Raises:
        UserError: experiment and test set do not belong together, or more than `max_failed` mixtures cannot be separated.
    """
    data_root_dir = _writable(options.data_root_dir, experiment.folder / "data")
    test_set = find_test_set(options.test_dir, options.test_name, data_root_dir, options.nj)
    folder = experiment.folder / "separated" / test_set.name
    if not experiment.frontends and (options.cue_test or options.av_offset_sweep):
        logger.info("stage 4: %s is audio-only: no visual embeddings to swap or to shift", experiment.folder)
        options = replace(options, cue_test=False, av_offset_sweep=())
    mark = StageMark(folder / ".done-4.json", _inputs(experiment, fallback, test_set, options))
    changes = mark.changed()
    if changes == [] and not options.force and _are_there(folder, options):
        logger.info("stage 4: up to date, the estimates are in %s", folder)
        return
    for change in changes or []:
        logger.info("stage 4: changed since the last separation: %s", change)
    with exclusive_lock(folder, "the estimates of this test set"):
        n_failed = _separate(experiment, fallback, test_set, folder, options)
        if n_failed > options.max_failed:
            raise UserError(
                f"{n_failed} of {len(test_set.manifest.items) + len(test_set.problems)} mixtures could not be separated "
                f"(--max_failed {options.max_failed}), see {folder / 'failed.csv'}; the others are in {folder}"
            )
        mark.write()


def _writable(wanted: Path, instead: Path) -> Path:
    """The first of the two folders that exists or can be made, and can be written to; the first where none can."""
    for folder in (wanted, instead):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    return wanted


def _inputs(experiment: Experiment, fallback: Experiment | None, test_set: TestSet, options: TestSetOptions) -> dict[str, str]:
    """All that the estimates depend on, for the mark; audio and mouths count by name, size and time."""
    manifest = test_set.manifest
    files = [manifest.resolve(path) for item in manifest.items for path in (item.mixture_path, *item.mouth_paths) if path]
    for kind, record in experiment.frontends.items():
        if record.is_precomputed:
            features = PrecomputedEmbeddings(record.weights)
            files += [features.path_of(path) for path in manifest.mouth_paths()]
        elif kind == "face":
            files += [face_path_of(manifest.resolve(path), experiment.face_size) for path in manifest.mouth_paths()]
    return {
        "network": sha256_file(experiment.network_path),
        "visual frontend": ",".join(record.store_name for record in experiment.frontends.values()),
        "fallback": sha256_file(fallback.network_path) if fallback else "",
        "test set": hash_contents([manifest.path, manifest.path.with_suffix(".json")]),
        "files of the test set": hash_stats(files),
        "window and hop": f"{options.window_sec:g} s, {options.hop_sec:g} s",
        "runtime": options.runtime,
        "subtype": options.subtype,
        "cue_test": str(options.cue_test).lower(),
        "av_offset_sweep": ",".join(f"{offset:+d}" for offset in options.av_offset_sweep),
        "max_failed": str(options.max_failed),
    }


def _more_folders(folder: Path, options: TestSetOptions) -> list[Path]:
    """The folders with other visual embeddings that are asked for."""
    swap_test = [folder / name for name in CUE_FOLDERS.values()] if options.cue_test else []
    return swap_test + [offset_folder(folder, offset) for offset in options.av_offset_sweep]


def _are_there(folder: Path, options: TestSetOptions) -> bool:
    """Tell if all files of the lists exist. (A further list may be missing where there are no faces to exchange.)"""
    lists = [path / "separated.csv" for path in (folder, *_more_folders(folder, options))]
    for path in [lists[0], *filter(Path.is_file, lists[1:])]:
        if not path.is_file():
            return False
        with open(path, newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                estimates = [value for name, value in row.items() if name.startswith("estimate_")]
                if not all((path.parent / estimate).is_file() for estimate in estimates):
                    return False
    return True


def _separate(
    experiment: Experiment, fallback: Experiment | None, test_set: TestSet, folder: Path, options: TestSetOptions
) -> int:
    """Separate and list; gives the number of mixtures that failed."""
    from utils.separation.mixtures import (
        EstimateFolder,
        embed_mouths,
        for_single_faces,
        load_separator,
        plan_tasks,
        with_late_faces,
        with_shuffled_faces,
        with_swapped_faces,
    )
    from utils.separation.offsets import ShiftedStore

    device = choose_device(options.device) if options.onnx_dir is None else "cpu"
    separator = load_separator(experiment.folder, device, options.onnx_dir)
    if separator.needs_faces and not experiment.frontends:
        raise UserError(f"{experiment.folder / 'frontend.json'}: missing, but the network needs it; run stage 3 again")
    if test_set.manifest.n_src == 1:
        separator = for_single_faces(separator)
    instead = load_separator(fallback.folder, device, options.onnx_dir) if fallback else None
    store, reasons = None, {}
    if experiment.frontends:
        store, reasons = embed_mouths(experiment, test_set.manifest, options, device)
    tasks, problems = plan_tasks(test_set.manifest, separator, instead, store, reasons, options)
    folders = [EstimateFolder(folder, tasks, store)]
    if options.cue_test:
        folders.append(EstimateFolder(folder / CUE_FOLDERS["swapped"], with_swapped_faces(tasks), store))
        folders.append(EstimateFolder(folder / CUE_FOLDERS["shuffled"], with_shuffled_faces(tasks), store))
    for offset in options.av_offset_sweep:
        late = with_late_faces(tasks, offset)
        folders.append(EstimateFolder(offset_folder(folder, offset), late, ShiftedStore(store, offset)))
    problems = test_set.problems + problems + _fill(folders, test_set.manifest, options)
    write_failed(folder / "failed.csv", problems)
    _report(folder, problems, device)
    return len({problem.item_id for problem in problems})


def _fill(folders: Sequence["EstimateFolder"], manifest: Manifest, options: TestSetOptions) -> list[Problem]:
    """Separate into each folder; a folder's separated.csv exists only while the folder is up to date."""
    from utils.separation.mixtures import require_room, separate_tasks

    main = folders[0].path
    require_room(folders, manifest.n_src, options)
    for path in (main, *(main / name for name in CUE_FOLDERS.values()), *offset_folders(main).values()):
        (path / "separated.csv").unlink(missing_ok=True)
    problems: list[Problem] = []
    for folder in folders:
        if not folder.tasks and folder.path != main:
            logger.warning("stage 4: %s: left out, no mixture has faces to exchange", folder.path.name)
            continue
        folder.path.mkdir(parents=True, exist_ok=True)
        if options.force:
            (folder.path / JOURNAL_NAME).unlink(missing_ok=True)
        start_sec = time.monotonic()
        done = separate_tasks(folder, manifest.n_src, options)
        elapsed_sec = time.monotonic() - start_sec
        problems += done.problems
        write_separated(folder.path, manifest, done.journal)
        if done.audio_sec:
            logger.info(
                "stage 4: %s: %.1f s of sound in %.1f s, real-time factor %.3f (embeddings not counted)",
                folder.path.name, done.audio_sec, elapsed_sec, elapsed_sec / done.audio_sec,
            )  # fmt: skip
    return problems


def _report(folder: Path, problems: Sequence[Problem], device: str) -> None:
    with open(folder / "separated.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    for name in sorted({row["separated_by"] for row in rows}):
        count = sum(row["separated_by"] == name for row in rows)
        logger.info("stage 4: mixtures separated by %s on %s: %d", name, device, count)
    for problem in problems[:5]:
        logger.warning("stage 4: %s: not separated: %s", problem.item_id, problem.reason)
    if len(problems) > 5:
        logger.warning("stage 4: ... and %d more, see %s", len(problems) - 5, folder / "failed.csv")
    logger.info("stage 4: the estimates are in %s", folder)


def find_test_set(test_dir: Path, test_name: str, data_root_dir: Path, nj: int) -> TestSet:
    """Read the manifest that `--test_dir` names, or make that of a folder.

    Args:
        test_dir: a CSV of mixtures, or a folder in the DLA layout (of several splits `test` is taken).
        test_name: the name of the outputs; "" takes that of `name_of_test`.
        data_root_dir: a folder's manifest is `<data_root_dir>/<test name>/test.csv`.
        nj: processes that open files.

    Raises:
        UserError: no such file or folder, or nothing that can be separated.
        UsageError: `test_name` cannot name a folder.
    """
    if test_name in (".", "..") or os.path.basename(test_name) != test_name:
        raise UsageError(f"--test_name '{test_name}': it names a folder, so it holds no path separator")
    name = test_name or name_of_test(test_dir)
    if test_dir.is_dir():
        return _folder(test_dir, name, data_root_dir, nj)
    if not test_dir.exists():
        raise UserError(f"--test_dir {test_dir}: no such file or folder; a CSV of a corpus is made by stage 0")
    if test_dir.suffix != ".csv":
        raise UserError(f"--test_dir {test_dir}: neither a CSV of mixtures nor a folder in the DLA layout")
    manifest = read_manifest(test_dir)
    if not isinstance(manifest.items[0], Mixture):
        raise UserError(f"--test_dir {test_dir}: holds single utterances; give a CSV of mixtures")
    return TestSet(name, manifest, [])


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
        audio = [next(_audio_files(root, folder / part, name), "") for part in ("mix", "s1", "s2")]
        length = min(probe_audio(root / path).length for path in audio if path)
        mouths = _mouths(name, reasons[name], root)
        frames = round(length / SAMPLE_RATE_HZ * VIDEO_FPS)
        mixtures.append(
            Mixture(name, audio[0], (audio[1], audio[2]), "", length, mouths, frames, VIDEO_FPS, ("", ""), None, "")
        )
    return mixtures


def _audio_files(root: Path, folder: Path, stem: str) -> Iterator[str]:
    for suffix in (*AUDIO_SUFFIXES, *(suffix.upper() for suffix in AUDIO_SUFFIXES)):
        if (root / folder / (stem + suffix)).is_file():
            yield str(folder / (stem + suffix))


def _mouths(name: str, bad_paths: list[str], root: Path) -> tuple[str, str]:
    """The mouths of `ID1_ID2`: of all ways to split the name, the one in which every mouth exists or is known as bad."""
    for at, letter in enumerate(name):
        paths = (f"mouths/{name[:at]}.npz", f"mouths/{name[at + 1 :]}.npz")
        if letter == "_" and all(path in bad_paths or (root / path).is_file() for path in paths):
            return paths
    return "", ""


def _listing(root: Path, split: str | None) -> str:
    """Names, sizes and times of all files of the split and of the mouths."""
    folders = [Path("audio", split or "") / part for part in ("mix", "s1", "s2")] + [Path("mouths")]
    found = [root / folder / name for folder in folders for name in _names(root / folder)]
    return hash_stats(found)


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _read_failed(path: Path) -> list[Problem]:
    with open(path, newline="", encoding="utf-8") as handle:
        return [Problem(int(row["row"] or 0), row["id"], row["path"], row["reason"]) for row in csv.DictReader(handle)]
