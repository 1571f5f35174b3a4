"""Turn LRS3 into manifests: LRS3-2Mix with its mouths, or the raw videos.

Reads   CORPUS_DIR/audio/wav16k/min/{tr,cv,tt}/{mix,s1,s2} and CORPUS_DIR/mouths/*.npz; or
        CORPUS_DIR/{trainval,test}/YOUTUBE_ID/00001.mp4 (pretrain/ where it is asked for)
Writes  DATA_DIR/{train,val,test}.csv, utterances.csv, failed.csv; of raw video also its sounds, mixtures, videos.csv
        and held_out.csv: pretrain clips of videos that are used for validation
Run     python egs/lrs3/prepare.py --data_dir data/lrs3 --corpus_dir CORPUS_DIR --nj 8
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.output import usable
from utils.corpora.two_mix import LRS3, PRETRAIN, add_pretrain_option, find_part, run_preparation
from utils.data.manifest import Problem, Utterance, write_failed
from utils.errors import UserError, run_cli
from utils.mixing.drawing import split_speakers
from utils.mixing.options import MixOptions

log = logging.getLogger(__name__)


def main() -> None:
    """Either layout to manifests."""
    run_preparation(LRS3, __doc__.splitlines()[0], _find_clips, add_pretrain_option)


def _find_clips(args: argparse.Namespace, options: MixOptions) -> Iterator[Utterance | Problem]:
    """The clips of each part, test's for test, all others for training.

    LRS3 has no validation list: a share of trainval's videos becomes one, unless a list says what is trained on.
    """
    root = args.corpus_dir.absolute()
    wanted = ("trainval", "test", *(["pretrain"] if args.pretrain else []))
    parts = [part for part in wanted if (root / part).is_dir()]
    if not parts:
        raise UserError("holds neither trainval/ nor test/, nor audio/wav16k/min; this is not LRS3", root)
    problems: list[Problem] = []
    clips = [
        replace(clip, split="test" if part == "test" else "train")
        for part in parts
        for clip in usable(find_part(root, part), problems)
    ]
    yield from problems
    tested = {clip.speaker for clip in clips if clip.split == "test"}
    speakers = sorted({clip.speaker for clip in clips} - tested)
    shares = {"train": 1 - options.val_share, "val": options.val_share}
    chosen = split_speakers(speakers, shares, options.seed) if speakers and not options.is_listed else {}
    held_out: list[Problem] = []
    for clip in clips:
        split = chosen.get(clip.speaker, clip.split)
        if split == "train" and clip.speaker in tested and not options.is_listed:
            yield Problem(0, clip.utterance_id, clip.video_path, "the test part has clips of this video, too")
        elif split == "val" and clip.utterance_id.startswith(PRETRAIN):
            reason = "held out of training, for its video is in the validation split"
            held_out.append(Problem(0, clip.utterance_id, clip.video_path, reason))
        else:
            yield replace(clip, split=split)
    path = args.data_dir / "held_out.csv"
    write_failed(path, held_out)
    if held_out:
        log.info("%s: pretrain clips of these videos that are left out: %d", path, len(held_out))


if __name__ == "__main__":
    run_cli(main)
