"""Turn MUSAN, or any tree of recordings, into folders of noise that --noise_dir takes.

Reads   CORPUS_DIR/{noise,music}/**/*.wav of MUSAN; --select . takes a whole tree (AudioSet, WHAM). speech/ is not taken
Writes  DATA_DIR/noise/{train,test}/…: 16 kHz mono; links where nothing must be converted;
        DATA_DIR/noise_{train,test}.csv, which list them, and failed.csv. Recordings themselves are never changed: see
        `_refuse_overlap`, `_converted_files`
Run     python egs/musan/prepare.py --data_dir data/musan --corpus_dir /data/musan --nj 4
"""

import argparse
import hashlib
import json
import logging
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.output import print_summary, refuse_failures, write_corpus
from utils.corpora.raw_corpus import require_video_packages
from utils.data.audio import probe_audio
from utils.data.clip_tree import TreeFile, walk_tree
from utils.data.constants import CONVERTIBLE_SUFFIXES, LOSSLESS_SUFFIXES, SAMPLE_RATE_HZ
from utils.data.files import read_json, require_space, write_text
from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, pending, run_jobs
from utils.data.manifest import Problem, Utterance
from utils.data.validation import check_audio, check_files
from utils.errors import OptionParser, UsageError, UserError, run_cli

log = logging.getLogger(__name__)
Files = dict[str, TreeFile]  # recordings by id
PARTS = ("train", "test")
_EXPANSION = 12  # of a compressed file, at most, when it becomes float32 at 16 kHz
_HASH_RANGE = 10**8
CONVERTED = ".converted_files.json"  # below the data folder


def main() -> None:
    """Link or convert every recording, check that each can be heard, list them."""
    args = _parse_args()
    root, data_dir = args.corpus_dir.absolute(), args.data_dir.absolute()
    _refuse_overlap(root, args.select, data_dir)
    files, problems = _find_recordings(root, args.select)
    outputs, reasons = _bring_in(files, args)
    brought = [path for name, path in outputs.items() if name not in reasons]
    checks = check_files(partial(check_audio, sample_rate=SAMPLE_RATE_HZ), brought, args.nj, "noise")
    contents: dict[str, list[Utterance]] = {"noise_train": [], "noise_test": []}
    for name, path in sorted(outputs.items()):
        place, relative = files[name].place, path.relative_to(data_dir)
        if reason := reasons.get(name) or checks[path].reason:
            problems.append(Problem(0, name, str(files[name].path), reason))
            path.unlink(missing_ok=True)  # a folder of noise holds only noise
        else:
            kind = place[0] if len(place) > 1 else "noise"
            item = Utterance(name, kind, relative.as_posix(), length=checks[path].length)
            contents[f"noise_{relative.parts[1]}"].append(item)
    refuse_failures(data_dir / "failed.csv", problems, args.max_failed)
    _remove_others(data_dir, {data_dir / item.audio_path for items in contents.values() for item in items})
    write_corpus(data_dir, data_dir, contents)
    print_summary(data_dir, contents, problems)


def _refuse_overlap(root: Path, selected: list[str], data_dir: Path) -> None:
    """Refuse outputs among the recordings, and recordings among the outputs: files of one name would be confused.

    Raises:
        UsageError: a selected folder is none below `root`, or shares files with `data_dir`/noise.
    """
    outputs = [path.resolve() for path in (data_dir / "noise", *(data_dir / "noise" / part for part in PARTS))]
    for name in selected:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UsageError(f"--select {name}: give folders below --corpus_dir {root}, e.g. noise")
        source = (root / name).resolve()
        for output in outputs:
            if output == source or output in source.parents or source in output.parents:
                said = f"writes into {output}, which overlaps with the recordings in {source}"
                raise UsageError(f"--data_dir {data_dir}: {said}; choose another --data_dir")


def _find_recordings(root: Path, selected: list[str]) -> tuple[Files, list[Problem]]:
    """The recordings of the selected folders, by id."""
    files: Files = {}
    problems: list[Problem] = []
    for name in selected:
        tree, found = walk_tree(root / name, CONVERTIBLE_SUFFIXES)
        if not tree and not found:
            suffixes = ", ".join(CONVERTIBLE_SUFFIXES)
            raise UserError(f"no {suffixes} file in it; choose folders with --select", root / name)
        problems += found
        for item in tree.values():
            item = TreeFile((*Path(name).parts, *item.place), item.path)  # "." has no parts
            files[item.clip_id] = item
    return files, problems


def _bring_in(files: Files, args: argparse.Namespace) -> tuple[dict[str, Path], dict[str, str]]:
    """Link what fits as it is, convert the rest; gives the file to be of each recording, and why some failed."""
    data_dir, outputs, jobs, links = args.data_dir.absolute(), {}, [], []
    for name, item in files.items():
        folder = data_dir / "noise" / ("test" if _draw(name) < args.test_share else "train")
        fits = _fits(item.path)
        suffix = item.path.suffix.lower() if fits else ".wav"
        outputs[name] = folder.joinpath(*item.place).with_name(item.place[-1] + suffix)
        if fits:
            links.append((item.path, outputs[name]))
        else:
            jobs.append(Job(name, hash_stats([item.path]), (outputs[name],), (item.path, outputs[name])))
    journal = data_dir / ".converted.jsonl"
    todo, done = pending(jobs, journal)
    ours = _converted_files(data_dir) | {job.outputs[0] for job in jobs if job.name in done}
    _refuse_foreign_files(data_dir, files, outputs, ours)
    if todo:
        require_video_packages()  # says at once what is not installed
    sources = [job.given[0] for job in todo]
    grows = {path: 2 if path.suffix.lower() in LOSSLESS_SUFFIXES else _EXPANSION for path in sources}
    n_bytes = sum(factor * path.stat().st_size for path, factor in grows.items())
    require_space(data_dir, n_bytes, f"{len(todo)} recordings, converted", "--data_dir")
    _write_converted(data_dir, ours | {job.outputs[0] for job in jobs})  # beforehand, for a run may be killed
    for source, target in links:
        _link(source, target, ours)
    return outputs, run_jobs(_convert, jobs, journal, args.nj, "convert")[1]


def _fits(path: Path) -> bool:
    """True for a recording that can be used as it is."""
    if path.suffix.lower() not in LOSSLESS_SUFFIXES:
        return False
    try:
        info = probe_audio(path)
    except UserError:
        return False  # the conversion says what is wrong with it
    return info.sample_rate == SAMPLE_RATE_HZ and info.channels == 1


def _convert(given: tuple[Path, Path]) -> int:
    from utils.video.sound import extract_sound  # PyAV decodes what soundfile does not

    sound = extract_sound(*given)
    for warning in sound.warnings:
        log.warning("%s: %s", given[0], warning)
    return sound.n_samples


def _converted_files(data_dir: Path) -> set[Path]:
    """The files that this program converted into `data_dir`, or began to; it overwrites and removes no others."""
    path = data_dir / CONVERTED
    return {data_dir / name for name in read_json(path)} if path.is_file() else set()


def _write_converted(data_dir: Path, paths: set[Path]) -> None:
    names = sorted(path.relative_to(data_dir).as_posix() for path in paths)
    write_text(data_dir / CONVERTED, json.dumps(names, indent=2))  # escaped: names of files need not be UTF-8


def _refuse_foreign_files(data_dir: Path, files: Files, outputs: dict[str, Path], ours: set[Path]) -> None:
    """Stop before anything is written where that would replace a file of the user.

    Raises:
        UserError: a recording lies in the folders of noise, or another file in the way of one that is to be written.
    """
    noise_dir = (data_dir / "noise").resolve()
    for item in files.values():
        folder = item.path.parent.resolve()
        if folder == noise_dir or noise_dir in folder.parents:  # by way of a link
            raise UserError(f"lies in {noise_dir}, which this program writes; choose another --data_dir", item.path)
    for path in outputs.values():
        if path.is_file() and not path.is_symlink() and path not in ours:
            raise UserError("is in the way, and not of this program; move it away, or choose another --data_dir", path)


def _link(source: Path, target: Path, ours: set[Path]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() and os.readlink(target) == str(source):
        return
    if target.is_symlink() or target in ours:
        target.unlink(missing_ok=True)
    target.symlink_to(source)  # fails where somebody's file is


def _remove_others(data_dir: Path, wanted: set[Path]) -> None:
    """Remove the links and the converted files of an earlier preparation with other choices; no other files."""
    ours, foreign = _converted_files(data_dir), []
    for part in PARTS:
        for path in (data_dir / "noise" / part).rglob("*"):
            if path in wanted:
                continue
            if (path.is_symlink() and not path.is_dir()) or path in ours:
                path.unlink()
            elif path.is_file():
                foreign.append(path)
    if foreign:
        said = "files that are not of this program, stay, and count as noise"
        log.warning("%s: %s: %d", foreign[0].parent, said, len(foreign))
    _write_converted(data_dir, {path for path in wanted if not path.is_symlink()})


def _draw(name: str) -> float:
    """A number in [0, 1) that depends only on the name: added recordings never move one to the other folder."""
    return int(hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest(), 16) % _HASH_RANGE / _HASH_RANGE


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="gets noise/train and noise/test")
    parser.add_argument("--corpus_dir", type=Path, required=True, help="the folder that holds noise/, music/, …")
    parser.add_argument("--select", nargs="+", default=["noise", "music"], metavar="DIR", help="folders taken; .: all")
    parser.add_argument("--test_share", type=float, default=0.1, help="recordings that go to noise/test, by name")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--max_failed", type=int, default=0, help="recordings that may be left out")
    args = parser.parse_args()
    if not 0 <= args.test_share <= 1:
        raise UsageError(f"--test_share {args.test_share:g}: a share is between 0 and 1")
    return args


if __name__ == "__main__":
    run_cli(main)
