"""Turn LRS2 into manifests: LRS2-2Mix with its mouths, or the raw videos.

Reads   CORPUS_DIR/audio/wav16k/min/{tr,cv,tt}/{mix,s1,s2} and CORPUS_DIR/mouths/*.npz; or CORPUS_DIR/main/VIDEO/00001.mp4
        (mvlrs_v1, pretrain/ where it is asked for) with train.txt, val.txt, test.txt, pretrain.txt in it or beside it
Writes  DATA_DIR/{train,val,test}.csv, utterances.csv, failed.csv; of raw video also its sounds, mixtures and videos.csv
Run     python egs/lrs2/prepare.py --data_dir data/lrs2 --corpus_dir CORPUS_DIR --nj 8
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.clip_tree import VIDEO_SUFFIXES, TreeFile, walk_tree
from utils.corpora.raw_corpus import RawClip
from utils.corpora.two_mix import LRS2
from utils.corpora.two_mix_recipe import PRETRAIN, corpus_parser, is_prepared, prepare_corpus, prepare_two_mix
from utils.data.manifest import Problem
from utils.errors import UserError, flag, run_cli
from utils.mixing.lists import text_lines

LISTS = {"train": "train", "val": "val", "test": "test", "pretrain": "train"}  # of clips, and the split that they make


def main() -> None:
    """Either layout to manifests."""
    parser = corpus_parser(__doc__.splitlines()[0])
    parser.add_argument("--pretrain", type=flag, default=False, help="raw: the pretrain part, too, for training")
    args = parser.parse_args()
    if is_prepared(args):
        prepare_two_mix(args, LRS2)
        return
    clips, problems = find_clips(args.corpus_dir.absolute(), args.pretrain)
    prepare_corpus(args, LRS2, clips, problems)


def find_clips(root: Path, pretrain: bool) -> tuple[list[RawClip], list[Problem]]:
    """The clips that LRS2's lists name; a list that names an absent clip is a problem, by its row."""
    main_clips, problems = walk_tree(root / "main", VIDEO_SUFFIXES, depth=1)
    trees = {"main": main_clips}
    if pretrain:
        trees["pretrain"], found = walk_tree(root / "pretrain", VIDEO_SUFFIXES, depth=1)
        problems += found
    clips: dict[str, RawClip] = {}
    for name, split in LISTS.items():
        if name == "pretrain" and not pretrain:
            continue
        tree = trees["pretrain" if name == "pretrain" else "main"]
        path = _find_list(root, name)
        for row, line in text_lines(path):
            place = line.split()[0]  # lines of the test list have a second word
            clip_id = (PRETRAIN if name == "pretrain" else "") + place.replace("/", "_")
            item = tree.get(place.replace("/", "_"))
            if item is None:
                problems.append(Problem(row, clip_id, str(path), f"names {place}, for which there is no video"))
            elif clip_id in clips:
                problems.append(Problem(row, clip_id, str(path), f"names {place} a second time, or another list does"))
            else:
                clips[clip_id] = _raw_clip(clip_id, item, split)
    return list(clips.values()), problems


def _find_list(root: Path, name: str) -> Path:
    for folder in (root, root.parent):
        if (folder / f"{name}.txt").is_file():
            return folder / f"{name}.txt"
    raise UserError(f"{root}: {name}.txt is neither in it nor beside it; LRS2 comes with its lists, put them there")


def _raw_clip(clip_id: str, item: TreeFile, split: str) -> RawClip:
    return RawClip(clip_id, item.place[0], split, str(item.path))  # speakers have no names; a programme stands for one


if __name__ == "__main__":
    run_cli(main)
