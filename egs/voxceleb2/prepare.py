"""Turn VoxCeleb2 into manifests: VoxCeleb2-2Mix with its mouths, or the raw videos, with a list or without.

Reads   CORPUS_DIR/audio/wav16k/min/{tr,cv,tt}/{mix,s1,s2} and CORPUS_DIR/mouths/*.npz; or raw
        CORPUS_DIR/mp4/{dev,test}/id00017/01dfn2spqyE/00001.mp4 (also without the part or mp4/), and where the sound is
        wanted from elsewhere --audio_dir aac/ or a tree of wav with the same places; --mix_list, e.g. the extraction
        family's CSV
Writes  DATA_DIR/{train,val,test}.csv, utterances.csv, failed.csv; of raw video also its sounds, mixtures and videos.csv
Run     python egs/voxceleb2/prepare.py --data_dir data/voxceleb2 --corpus_dir CORPUS_DIR --nj 8 \\
            --mix_list mixture_data_list_2mix.csv --sir_convention interferer_over_target
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.two_mix import VOXCELEB2, run_preparation
from utils.data.clip_tree import TreeFile, walk_tree
from utils.data.constants import CONVERTIBLE_SUFFIXES, VIDEO_SUFFIXES
from utils.data.manifest import Problem, Utterance
from utils.errors import OptionParser, UserError, run_cli
from utils.mixing.options import MixOptions

_PLACE = 3  # a clip is speaker/video/clip, below any folders


def main() -> None:
    """Either layout to manifests."""
    run_preparation(VOXCELEB2, __doc__.splitlines()[0], _find_clips, _add_options)


def _add_options(parser: OptionParser) -> None:
    parser.add_argument("--audio_dir", type=Path, help="raw: tree of the sounds (m4a, wav), instead of the videos' own")


def _find_clips(args: argparse.Namespace, options: MixOptions) -> Iterator[Utterance | Problem]:
    """The clips of a tree. Those of dev have no split yet: their speakers are divided, or a list does it."""
    root = args.corpus_dir.absolute()
    problems: list[Problem] = []
    videos = _by_clip(root / "mp4" if (root / "mp4").is_dir() else root, VIDEO_SUFFIXES, problems)
    if not videos and not problems:
        raise UserError("holds no video id00017/01dfn2spqyE/00001.mp4, with or without dev/ and test/ above", root)
    sounds = _by_clip(args.audio_dir.absolute(), CONVERTIBLE_SUFFIXES, problems) if args.audio_dir else None
    yield from problems
    tested = {name for name, item in videos.items() if "test" in item.place[:-_PLACE]}
    if len(tested) == len(videos):  # only the test part was given: it is divided into all splits
        tested = set()
    for name, item in videos.items():
        if sounds is not None and name not in sounds:
            yield Problem(0, name, str(args.audio_dir), "its sound is missing")
            continue
        sound = str(sounds[name].path) if sounds else ""
        split = "test" if name in tested else ""
        yield Utterance(name, item.place[-_PLACE], sound, video_path=str(item.path), split=split)


def _by_clip(root: Path, suffixes: tuple[str, ...], problems: list[Problem]) -> dict[str, TreeFile]:
    """The files of a tree by speaker, video and clip, whatever is above."""
    tree, found = walk_tree(root, suffixes)
    problems += found
    files: dict[str, TreeFile] = {}
    for item in tree.values():
        name = "_".join(item.place[-_PLACE:])
        if VOXCELEB2.speaker_of_id(name) == "":
            reason = f"the place is not that of a clip, e.g. {VOXCELEB2.example}"
        else:
            reason = f"this clip is also {files[name].path}" if name in files else ""
        if reason:
            problems.append(Problem(0, name, str(item.path), reason))
        else:
            files[name] = item
    return files


if __name__ == "__main__":
    run_cli(main)
