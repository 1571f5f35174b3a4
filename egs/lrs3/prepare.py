"""Turn LRS3 into manifests: LRS3-2Mix with its mouths, or the raw videos.

Reads   CORPUS_DIR/audio/wav16k/min/{tr,cv,tt}/{mix,s1,s2} and CORPUS_DIR/mouths/*.npz; or
        CORPUS_DIR/{trainval,test}/YOUTUBE_ID/00001.mp4 (pretrain/ where it is asked for)
Writes  DATA_DIR/{train,val,test}.csv, utterances.csv, failed.csv; of raw video also its sounds, mixtures and videos.csv, and
        held_out.csv: pretrain clips of videos that are used for validation
Run     python egs/lrs3/prepare.py --data_dir data/lrs3 --corpus_dir CORPUS_DIR --nj 8
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.two_mix import LRS3, PRETRAIN, add_pretrain_option, find_part, run_preparation
from utils.data.manifest import Problem, Utterance, write_failed
from utils.errors import UserError, run_cli
from utils.mixing.drawing import split_speakers

log = logging.getLogger(__name__)


def main() -> None:
    """Either layout to manifests."""
    run_preparation(LRS3, __doc__.splitlines()[0], _find_clips, add_pretrain_option)


def _find_clips(args: argparse.Namespace, with_lists: bool) -> tuple[list[Utterance], list[Problem]]:
    clips, problems = find_clips(args.corpus_dir.absolute(), args.pretrain)
    held_out: list[Problem] = []
    if not with_lists:  # a list says itself what is trained on
        clips, found, held_out = divide(clips, args.val_share, args.seed)
        problems += found
    write_failed(args.data_dir / "held_out.csv", held_out)
    if held_out:
        log.info("%s: %d pretrain clips of these videos are left out", args.data_dir / "held_out.csv", len(held_out))
    return clips, problems


def find_clips(root: Path, pretrain: bool) -> tuple[list[Utterance], list[Problem]]:
    """The clips of each part, test's for test, all others for training."""
    parts = [part for part in ("trainval", "test", "pretrain") if (root / part).is_dir() and (pretrain or part != "pretrain")]
    if not parts:
        raise UserError("holds neither trainval/ nor test/, nor audio/wav16k/min; this is not LRS3", root)
    clips, problems = [], []
    for part in parts:
        found, part_problems = find_part(root, part)
        problems += part_problems
        clips += [replace(clip, split="test" if part == "test" else "train") for clip in found.values()]
    return clips, problems


def divide(clips: list[Utterance], val_share: float, seed: int) -> tuple[list[Utterance], list[Problem], list[Problem]]:
    """LRS3 has no validation list: a share of trainval's videos becomes one.

    Returns:
        The clips with their splits; clips of videos that the test part has, too; and pretrain clips of validation videos.
    """
    tested = {clip.speaker for clip in clips if clip.split == "test"}
    open_speakers = sorted({clip.speaker for clip in clips if clip.split == "train"} - tested)
    chosen = split_speakers(open_speakers, {"train": 1 - val_share, "val": val_share}, seed) if open_speakers else {}
    kept, problems, held_out = [], [], []
    for clip in clips:
        if clip.split == "train" and clip.speaker in tested:
            problems.append(Problem(0, clip.utterance_id, clip.video_path, "the test part has clips of this video, too"))
            continue
        split = clip.split if clip.split == "test" else chosen[clip.speaker]
        if clip.utterance_id.startswith(PRETRAIN) and split == "val":
            reason = "held out of training, for its video is in the validation split"
            held_out.append(Problem(0, clip.utterance_id, clip.video_path, reason))
        else:
            kept.append(replace(clip, split=split))
    return kept, problems, held_out


if __name__ == "__main__":
    run_cli(main)
