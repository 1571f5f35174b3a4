"""Turn videos of talking heads into lists of clips, from whose voices the motion of their lips is to be learned.

Reads   CORPUS_DIR/**/<clip>.<any video>, one person in each; a folder below CORPUS_DIR is a speaker's. --split_list: csv or
        xlsx with the columns `video` and `set` (train, val or test); without it speakers are divided, clips where there is
        one speaker only
Writes  into DATA_DIR: utterances/<id>.wav, utterances.csv (training), val.csv, test.csv, videos.csv, failed.csv
Run     python egs/wav2kp/prepare.py --data_dir data/wav2kp --corpus_dir CORPUS_DIR --split_list split.xlsx --nj 8
"""

import argparse
import csv
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from egs.own_video.prepare import find_clips, split_by_clip
from utils.corpora.raw_corpus import raw_parser, run_raw
from utils.data.constants import SPLITS
from utils.data.manifest import Problem, Utterance
from utils.errors import UserError, run_cli
from utils.mixing.options import MixOptions

_COLUMNS = ("video", "set")
_SETS = {"train": "train", "val": "val", "validation": "val", "dev": "val", "test": "test"}
_FEWEST_SPEAKERS = 3


def main() -> None:
    """The folder to lists."""
    parser = raw_parser(__doc__.splitlines()[0], corpus="folder of videos, those of a speaker in a folder of their own")
    parser.add_argument("--split_list", type=Path, help="csv or xlsx, `video,set`: which clip is for training, val or test")
    parser.set_defaults(n_val=0, n_test=0, min_sec=1.0, same_speaker=True)
    run_raw(parser.parse_args(), _find_clips)


def _find_clips(args: argparse.Namespace, options: MixOptions) -> Iterator[Utterance | Problem]:
    clips = find_clips(args.corpus_dir, needs_folders=False)
    if args.split_list:
        yield from _split_by_list(clips, args.split_list)
    elif len({clip.speaker for clip in clips}) < _FEWEST_SPEAKERS:
        yield from split_by_clip(clips, options.val_share, options.test_share, options.seed)
    else:
        yield from clips


def _split_by_list(clips: list[Utterance], path: Path) -> Iterator[Utterance | Problem]:
    """The clips that a list names, in its splits; what it names and nobody has are problems."""
    by_name: dict[str, list[Utterance]] = {}
    for clip in clips:
        for name in {Path(clip.video_path).name, Path(clip.video_path).stem, clip.utterance_id}:
            by_name.setdefault(name, []).append(clip)
    named: set[str] = set()
    for row, (video, given) in enumerate(_read_list(path), start=2):
        split = _SETS.get(given.lower())
        found = by_name.get(video, [])
        if split is None:
            reason = f"'{given}' is none of {', '.join(SPLITS)}"
        elif not found:
            reason = "no such video in the corpus"
        elif len(found) > 1:
            reason = f"{len(found)} videos are called so; name it by its folders, e.g. {found[0].utterance_id}"
        elif found[0].utterance_id in named:
            reason = "listed twice"
        else:
            named.add(found[0].utterance_id)
            yield replace(found[0], split=split)
            continue
        yield Problem(row, video, path.name, reason)
    if not named:
        raise UserError(f"--split_list {path}: names no video of the corpus")


def _read_list(path: Path) -> list[tuple[str, str]]:
    """The rows of a list.

    Raises:
        UserError: it cannot be read, or lacks a column.
    """
    try:
        if path.suffix.lower() == ".xlsx":
            import pandas as pd

            rows = pd.read_excel(path, dtype=str, keep_default_na=False).to_dict("records")
        else:
            with open(path, newline="", encoding="utf-8-sig") as handle:
                rows = list(csv.DictReader(handle))
    except FileNotFoundError:
        raise UserError(f"--split_list {path}: no such file") from None
    except (OSError, ValueError, ImportError, KeyError, csv.Error, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise UserError(f"--split_list {path}: cannot be read ({' '.join(str(error).split())})") from None
    rows = [{str(key).strip().lower(): str(value or "").strip() for key, value in row.items()} for row in rows]
    if not rows or not all(column in rows[0] for column in _COLUMNS):
        raise UserError(f"--split_list {path}: columns {' and '.join(_COLUMNS)} with a row for each video are expected")
    return [(row["video"], row["set"]) for row in rows]


if __name__ == "__main__":
    run_cli(main)
