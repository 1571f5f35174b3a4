"""Turn LRS3 into manifests: LRS3-2Mix with its mouths, or the raw videos.

Reads   CORPUS_DIR/audio/wav16k/min/{tr,cv,tt}/{mix,s1,s2} and CORPUS_DIR/mouths/*.npz; or
        CORPUS_DIR/{trainval,test}/YOUTUBE_ID/00001.mp4 (pretrain/ where it is asked for)
Writes  DATA_DIR/{train,val,test}.csv, utterances.csv, failed.csv; of raw video also its sounds, mixtures and videos.csv, and
        held_out.csv: pretrain clips of videos that are validated on
Run     python egs/lrs3/prepare.py --data_dir data/lrs3 --corpus_dir CORPUS_DIR --nj 8
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.clip_tree import VIDEO_SUFFIXES, walk_tree
from utils.corpora.raw_corpus import RawClip
from utils.corpora.two_mix import LRS3
from utils.corpora.two_mix_recipe import PRETRAIN, corpus_parser, has_lists, is_prepared, prepare_corpus, prepare_two_mix
from utils.data.manifest import Problem, write_failed
from utils.errors import UserError, flag, run_cli
from utils.mixing.drawing import split_speakers

log = logging.getLogger(__name__)


def main() -> None:
    """Either layout to manifests."""
    parser = corpus_parser(__doc__.splitlines()[0])
    parser.add_argument("--pretrain", type=flag, default=False, help="raw: the pretrain part, too, for training")
    args = parser.parse_args()
    if is_prepared(args):
        prepare_two_mix(args, LRS3)
        return
    clips, problems = find_clips(args.corpus_dir.absolute(), args.pretrain)
    held_out: list[Problem] = []
    if not has_lists(args):  # a list says itself what is trained on
        clips, found, held_out = divide(clips, args.val_share, args.seed)
        problems += found
    write_failed(args.data_dir / "held_out.csv", held_out)
    if held_out:
        log.info("%s: %d pretrain clips of these videos are left out", args.data_dir / "held_out.csv", len(held_out))
    prepare_corpus(args, LRS3, clips, problems)


def find_clips(root: Path, pretrain: bool) -> tuple[list[RawClip], list[Problem]]:
    """The clips of each part, test's for test, all others for training."""
    parts = ["trainval", "test", *(["pretrain"] if pretrain else [])]
    if not any((root / part).is_dir() for part in parts):
        raise UserError(f"{root}: holds neither trainval/ nor test/, nor audio/wav16k/min; this is not LRS3")
    clips, problems = [], []
    for part in parts:
        if not (root / part).is_dir():
            continue
        tree, found = walk_tree(root / part, VIDEO_SUFFIXES, depth=1)
        problems += found
        prefix = PRETRAIN if part == "pretrain" else ""
        split = "test" if part == "test" else "train"
        clips += [RawClip(prefix + name, item.place[0], split, str(item.path)) for name, item in tree.items()]
    return clips, problems


def divide(clips: list[RawClip], val_share: float, seed: int) -> tuple[list[RawClip], list[Problem], list[Problem]]:
    """LRS3 has no validation list: a share of trainval's videos becomes one.

    Returns:
        The clips with their splits; what is tested on elsewhere; and pretrain clips of videos that are validated on.
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
