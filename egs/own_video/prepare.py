"""Turn your own videos into manifests: a folder with a sub-folder of clips for each speaker. Stage 1 cuts the mouths.

Reads   CORPUS_DIR/<speaker>/**/<clip>.<any video>; one person speaks in a clip. A file <clip>.wav or <clip>.flac beside
        it is taken for its sound, a file <clip>.npz, .pkl or .landmarks.csv for landmarks of the face
Writes  into DATA_DIR, see utils/corpora/raw_corpus.py
Run     python egs/own_video/prepare.py --data_dir data/own_video --corpus_dir CORPUS_DIR --nj 8
"""

import argparse
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.raw_corpus import raw_parser, run_raw
from utils.data.constants import LOSSLESS_SUFFIXES, VIDEO_SUFFIXES
from utils.data.manifest import Utterance
from utils.errors import UserError, run_cli
from utils.mixing.options import MixOptions

LANDMARK_SUFFIXES = (".npz", ".pkl", ".landmarks.csv")
_FEWEST_SPEAKERS = 8  # four to train on, as confs mix up to four speakers, and two for each other split


def main() -> None:
    """The folders to manifests."""
    parser = raw_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--split_by", choices=("auto", "speaker", "clip"), default="auto",
        help=f"unit of the splits; auto: speakers, clips where there are fewer than {_FEWEST_SPEAKERS} speakers",
    )  # fmt: skip
    run_raw(parser.parse_args(), _find_clips)


def _find_clips(args: argparse.Namespace, options: MixOptions) -> list[Utterance]:
    clips = find_clips(args.corpus_dir)
    is_few = len({clip.speaker for clip in clips}) < _FEWEST_SPEAKERS
    if args.split_by == "clip" or (args.split_by == "auto" and is_few):
        return split_by_clip(clips, options.val_share, options.test_share, options.seed)
    return clips


def find_clips(corpus_dir: Path, needs_folders: bool = True) -> list[Utterance]:
    """A clip for each video below a speaker's folder, named after its path.

    Args:
        corpus_dir: the folder.
        needs_folders: videos that are in no speaker's folder are left out; else all of these are of one speaker.

    Raises:
        UserError: there is none.
    """
    clips: list[Utterance] = []
    for path in sorted(corpus_dir.glob("*/**/*" if needs_folders else "**/*")):
        parts = path.relative_to(corpus_dir).parts
        is_hidden = any(part.startswith(".") for part in parts)
        if path.suffix.lower() not in VIDEO_SUFFIXES or is_hidden or not path.is_file():
            continue
        name = re.sub(r"[^\w.-]", "-", "_".join((*parts[:-1], path.stem)))
        sound, landmarks = (_beside(path, suffixes) for suffixes in (LOSSLESS_SUFFIXES, LANDMARK_SUFFIXES))
        speaker = parts[0] if len(parts) > 1 else corpus_dir.absolute().name
        clips.append(Utterance(name, speaker, sound, video_path=str(path.absolute()), landmarks_path=landmarks))
    if not clips:
        if not needs_folders:
            raise UserError(f"{corpus_dir}: no video there")
        raise UserError(
            f"{corpus_dir}: no video in a sub-folder; put each speaker's clips into a folder of their own, e.g. "
            f"{corpus_dir}/anna/holiday.mp4"
        )
    return clips


def split_by_clip(clips: Sequence[Utterance], val_share: float, test_share: float, seed: int) -> list[Utterance]:
    """Give each speaker's clips to all splits; at least one to each where there are three or more."""
    chosen = []
    for speaker in sorted({clip.speaker for clip in clips}):
        own = sorted((clip for clip in clips if clip.speaker == speaker), key=lambda clip: clip.utterance_id)
        random.Random(f"{seed}:{speaker}").shuffle(own)
        splits = []
        for split, share in (("val", val_share), ("test", test_share)):
            splits += [split] * (max(round(share * len(own)), len(own) >= 3) if share else 0)
        splits += ["train"] * len(own)
        chosen += [replace(clip, split=split) for clip, split in zip(own, splits, strict=False)]
    return sorted(chosen, key=lambda clip: clip.utterance_id)


def _beside(video: Path, suffixes: Sequence[str]) -> str:
    found = (video.with_name(video.stem + suffix) for suffix in suffixes)
    return next((str(path.absolute()) for path in found if path.is_file()), "")


if __name__ == "__main__":
    run_cli(main)
