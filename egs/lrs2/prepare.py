"""Turn LRS2 into manifests: LRS2-2Mix with its mouths, or the raw videos.

Reads   CORPUS_DIR/audio/wav16k/min/{tr,cv,tt}/{mix,s1,s2} and CORPUS_DIR/mouths/*.npz; or
        CORPUS_DIR/main/VIDEO/00001.mp4 (mvlrs_v1, pretrain/ where it is asked for) with train.txt, val.txt, test.txt,
        pretrain.txt in it or beside it
Writes  DATA_DIR/{train,val,test}.csv, utterances.csv, failed.csv; of raw video also its sounds, mixtures and videos.csv
Run     python egs/lrs2/prepare.py --data_dir data/lrs2 --corpus_dir CORPUS_DIR --nj 8
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.output import usable
from utils.corpora.two_mix import LRS2, PRETRAIN, add_pretrain_option, find_part, run_preparation
from utils.data.manifest import Problem, Utterance
from utils.errors import UserError, run_cli
from utils.mixing.lists import text_lines
from utils.mixing.options import MixOptions


def main() -> None:
    """Either layout to manifests."""
    run_preparation(LRS2, __doc__.splitlines()[0], _find_clips, add_pretrain_option)


def _find_clips(args: argparse.Namespace, options: MixOptions) -> Iterator[Utterance | Problem]:
    """The clips that LRS2's lists name; a list that names an absent clip is a problem, by its row."""
    root = args.corpus_dir.absolute()
    problems: list[Problem] = []
    parts = ("main", *(["pretrain"] if args.pretrain else []))
    known = {clip.utterance_id: clip for part in parts for clip in usable(find_part(root, part), problems)}
    yield from problems
    taken = set()
    for name in ("train", "val", "test", *parts[1:]):
        prefix, split = (PRETRAIN, "train") if name == "pretrain" else ("", name)
        path = next((path for folder in (root, root.parent) if (path := folder / f"{name}.txt").is_file()), None)
        if path is None:
            raise UserError(f"{name}.txt is neither in it nor beside it; LRS2 comes with lists, put them there", root)
        for row, line in text_lines(path):
            place = line.split()[0]  # lines of the test list have a second word
            clip_id = prefix + place.replace("/", "_")
            if clip_id not in known:
                yield Problem(row, clip_id, str(path), f"names {place}, for which there is no video")
            elif clip_id in taken:
                yield Problem(row, clip_id, str(path), f"names {place} a second time, or another list does")
            else:
                taken.add(clip_id)
                yield replace(known[clip_id], split=split)


if __name__ == "__main__":
    run_cli(main)
