"""Turn VoxCeleb2 into manifests: VoxCeleb2-2Mix with its mouths, or the raw videos, with a list or without.

Reads   CORPUS_DIR/audio/wav16k/min/{tr,cv,tt}/{mix,s1,s2} and CORPUS_DIR/mouths/*.npz; or raw
        CORPUS_DIR/mp4/{dev,test}/id00017/01dfn2spqyE/00001.mp4 (also without the part or mp4/), and where the sound is wanted
        from elsewhere --audio_dir aac/ or a tree of wav with the same places; --mix_list, e.g. the extraction family's CSV
Writes  DATA_DIR/{train,val,test}.csv, utterances.csv, failed.csv; of raw video also its sounds, mixtures and videos.csv
Run     python egs/voxceleb2/prepare.py --data_dir data/voxceleb2 --corpus_dir CORPUS_DIR --nj 8 \\
            --mix_list mixture_data_list_2mix.csv --sir_convention interferer_over_target
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.two_mix import VOXCELEB2, run_preparation
from utils.data.clip_tree import TreeFile, walk_tree
from utils.data.constants import CONVERTIBLE_SUFFIXES, VIDEO_SUFFIXES
from utils.data.manifest import Problem, Utterance
from utils.errors import OptionParser, UserError, run_cli

_PLACE = 3  # a clip is speaker/video/clip, below any folders


def main() -> None:
    """Either layout to manifests."""
    run_preparation(VOXCELEB2, __doc__.splitlines()[0], _find_clips, _add_options)


def _add_options(parser: OptionParser) -> None:
    parser.add_argument("--audio_dir", type=Path, help="raw: take the sounds from this tree (m4a, wav), not from the videos")


def _find_clips(args: argparse.Namespace, with_lists: bool) -> tuple[list[Utterance], list[Problem]]:
    root = args.corpus_dir.absolute()
    clips, problems = find_clips(root / "mp4" if (root / "mp4").is_dir() else root)
    if args.audio_dir:
        clips, found = add_sounds(clips, args.audio_dir.absolute())
        problems += found
    return clips, problems


def find_clips(root: Path) -> tuple[list[Utterance], list[Problem]]:
    """The clips below a folder. Those of dev have no split yet: their speakers are divided, or a list does it."""
    files, problems = _walk(root, VIDEO_SUFFIXES)
    if not files and not problems:
        raise UserError("holds no video id00017/01dfn2spqyE/00001.mp4, with or without dev/ and test/ above", root)
    clips = []
    for name, item in files.items():
        split = "test" if "test" in item.place[:-_PLACE] else ""
        clips.append(Utterance(name, item.place[-_PLACE], video_path=str(item.path), split=split))
    if all(clip.split for clip in clips):  # only the test part was given: it is divided into all splits
        clips = [replace(clip, split="") for clip in clips]
    return clips, problems


def add_sounds(clips: list[Utterance], root: Path) -> tuple[list[Utterance], list[Problem]]:
    """Give the clips their files of sound; clips without one are listed."""
    files, problems = _walk(root, CONVERTIBLE_SUFFIXES)
    kept = []
    for clip in clips:
        if clip.utterance_id in files:
            kept.append(replace(clip, audio_path=str(files[clip.utterance_id].path)))
        else:
            problems.append(Problem(0, clip.utterance_id, str(root), "its sound is missing"))
    return kept, problems


def _walk(root: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, TreeFile], list[Problem]]:
    """The files of a tree by speaker, video and clip, whatever is above."""
    tree, problems = walk_tree(root, suffixes)
    files: dict[str, TreeFile] = {}
    for item in tree.values():
        name = "_".join(item.place[-_PLACE:])
        if VOXCELEB2.speaker_of_id(name) == "":
            problems.append(Problem(0, name, str(item.path), f"the place is not that of a clip, e.g. {VOXCELEB2.example}"))
        elif name in files:
            problems.append(Problem(0, name, str(item.path), f"this clip is also {files[name].path}"))
        else:
            files[name] = item
    return files, problems


if __name__ == "__main__":
    run_cli(main)
