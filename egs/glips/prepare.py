"""Turn GLips, as it is distributed, into manifests; stage 1 then cuts the mouths.

Reads   CORPUS_DIR/lipread_files/<word>/{train,val,test}/<word>_dddd-dddd.mp4, beside each its sound as wav or flac (or in
        the mp4); --speakers, or else CORPUS_DIR/clips.csv where there is one: `id,speaker[,part]`
Writes  into DATA_DIR, see utils/corpora/raw_corpus.py; where nobody says who speaks, speakers.csv, made from the faces
Run     python egs/glips/prepare.py --data_dir data/glips --corpus_dir CORPUS_DIR --nj 8

The corpus' own splits are by clips: its speakers are in all of them. Here no speaker is in two.
"""

import argparse
import csv
import io
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.raw_corpus import raw_parser, require_video_packages, run_raw
from utils.data.constants import LOSSLESS_SUFFIXES, SPLITS
from utils.data.files import write_text
from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, run_jobs
from utils.data.manifest import Problem, Utterance
from utils.errors import UserError, run_cli
from utils.mixing.drawing import split_speakers
from utils.mixing.options import MixOptions

_CLIP = re.compile(r".+_[0-9]{4}-[0-9]{4}")
_MIN_SEC = 1.0  # a clip lasts 1.16 s

Labels = Mapping[str, tuple[str, str]]
"""Speaker and split of a clip by its id; the split is "" where it is not said."""


def main() -> None:
    """The tree to manifests."""
    parser = raw_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--speakers",
        type=Path,
        help="CSV id,speaker[,part]: who speaks; clips of other parts than train, val, test are left out",
    )
    parser.set_defaults(min_sec=_MIN_SEC)
    args = parser.parse_args()
    run_raw(args, find_clips)


def find_clips(args: argparse.Namespace, options: MixOptions) -> Iterator[Utterance | Problem]:
    """Every clip whose speaker is known, or can be told by the face."""
    clips = _clips(args.corpus_dir)
    given = args.speakers or args.corpus_dir / "clips.csv"
    if args.speakers or given.is_file():
        labels, problems = _read_labels(given), []
    else:
        labels, problems = _labels_of_faces(clips, args.data_dir, options)
    yield from problems
    failed = {problem.item_id for problem in problems}
    for name, clip in clips.items():
        if name in failed:
            continue
        if name not in labels:
            yield Problem(0, name, clip.video_path, f"{given} does not say who speaks")
            continue
        speaker, split = labels[name]
        if not split or split in SPLITS:
            yield replace(clip, speaker=speaker, split=split)


def _clips(corpus_dir: Path) -> dict[str, Utterance]:
    """The clips of the tree by their ids, without speakers."""
    clips: dict[str, Utterance] = {}
    for video in sorted(corpus_dir.rglob("*.mp4")):
        if not _CLIP.fullmatch(video.stem):
            continue
        if video.stem in clips:
            raise UserError(f"{video}: {clips[video.stem].video_path} has this name too; ids must tell clips apart")
        sounds = (video.with_suffix(suffix) for suffix in LOSSLESS_SUFFIXES)
        sound = next((str(path.absolute()) for path in sounds if path.is_file()), "")
        clips[video.stem] = Utterance(video.stem, "", sound, video_path=str(video.absolute()))
    if not clips:
        raise UserError(f"{corpus_dir}: no clip of GLips found; expected e.g. lipread_files/aber/train/aber_0001-0001.mp4")
    return clips


def _read_labels(path: Path) -> dict[str, tuple[str, str]]:
    """The speakers that a CSV names."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a CSV with the columns id,speaker") from None
    rows = csv.DictReader(io.StringIO(text))
    if not {"id", "speaker"} <= set(rows.fieldnames or ()):
        raise UserError(f"{path}: has the columns {rows.fieldnames}; id and speaker are needed, part is optional")
    labels = {}
    for line, row in enumerate(rows, start=2):
        if not row["id"] or not row["speaker"] or row["id"] in labels:
            raise UserError(f"{path}, row {line}: id and speaker must be given, once for each clip; correct the row")
        labels[row["id"]] = row["speaker"], row.get("part") or ""
    return labels


def _labels_of_faces(clips: Mapping[str, Utterance], data_dir: Path, options: MixOptions) -> tuple[Labels, list[Problem]]:
    """Speakers by their faces, in splits that share nobody, not even of those who only look alike; writes speakers.csv."""
    require_video_packages()
    from utils.video.speakers import PERHAPS_SAME, SAME_PERSON, describe_speaker, group_speakers

    jobs = [Job(name, hash_stats([clip.video_path]), (), clip.video_path) for name, clip in clips.items()]
    found, reasons = run_jobs(describe_speaker, jobs, data_dir / ".faces.jsonl", options.nj, "speakers", "clip")
    problems = [Problem(0, name, clips[name].video_path, reason) for name, reason in reasons.items()]
    names = [name for name in clips if name not in reasons]
    if not names:
        return {}, problems
    descriptors = np.array([found[name] for name in names], np.float32)
    people = [f"G{number + 1:04d}" for number in group_speakers(descriptors, SAME_PERSON)]
    # Groups of the coarser grouping that share a speaker of the finer one are one.
    look = [str(number) for number in _joined(people, group_speakers(descriptors, PERHAPS_SAME))]
    shares = {"train": 1 - options.val_share - options.test_share, "val": options.val_share, "test": options.test_share}
    splits = split_speakers(look, shares, options.seed, options.n_src)
    rows = [(name, person, splits[group]) for name, person, group in zip(names, people, look, strict=True)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("id", "speaker", "part"), *rows])
    write_text(data_dir / "speakers.csv", text.getvalue())
    print(f"{data_dir}: speakers: {len(set(people))} by their faces, see speakers.csv; correct it and give it with --speakers")
    return {name: (person, split) for name, person, split in rows}, problems


def _joined(people: list[str], coarse: np.ndarray) -> list[int]:
    """The coarse groups, those that hold a clip of the same person made one."""
    group_of = {number: number for number in coarse.tolist()}

    def root(number: int) -> int:
        while group_of[number] != number:
            number = group_of[number]
        return number

    first: dict[str, int] = {}
    for person, number in zip(people, coarse.tolist(), strict=True):
        group_of[root(number)] = root(first.setdefault(person, number))
    return [root(number) for number in coarse.tolist()]


if __name__ == "__main__":
    run_cli(main)
