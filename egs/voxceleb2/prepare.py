"""Turn VoxCeleb2 into manifests: VoxCeleb2-2Mix with its mouths, or the raw videos, with a list or without.

Reads   CORPUS_DIR/audio/wav16k/min/{tr,cv,tt}/{mix,s1,s2} and CORPUS_DIR/mouths/*.npz; or raw
        CORPUS_DIR/mp4/{dev,test}/id00017/01dfn2spqyE/00001.mp4 (also without the part or mp4/), and where the sound is
        wanted from elsewhere --audio_dir aac/ or a tree of wav with the same places; --mouth_dir mouth_roi_hdf5/, mouths that
        somebody cut; --index_dir, splits by the hdf5 indices of VisualVoice; --mix_list, e.g. the extraction family's CSV
Writes  DATA_DIR/{train,val,test}.csv, utterances.csv, failed.csv; of raw video also its sounds, mixtures and videos.csv
Run     python egs/voxceleb2/prepare.py --data_dir data/voxceleb2 --corpus_dir CORPUS_DIR --nj 8 \\
            --mix_list mixture_data_list_2mix.csv --sir_convention interferer_over_target
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.mouth_roi import read_index
from utils.corpora.two_mix import VOXCELEB2, run_preparation
from utils.data.clip_tree import TreeFile, walk_tree
from utils.data.constants import CONVERTIBLE_SUFFIXES, VIDEO_SUFFIXES
from utils.data.manifest import Problem, Utterance
from utils.errors import OptionParser, UserError, run_cli
from utils.mixing.drawing import split_speakers
from utils.mixing.options import MixOptions

_PLACE = 3  # a clip is speaker/video/clip, below any folders
_SPLITS = {"train": "train", "val": "val", "seen_heard_test": "test", "unseen_unheard_test": "test"}  # of VisualVoice


def main() -> None:
    """Either layout to manifests."""
    run_preparation(VOXCELEB2, __doc__.splitlines()[0], _find_clips, _add_options)


def _add_options(parser: OptionParser) -> None:
    parser.add_argument("--audio_dir", type=Path, help="raw: tree of the sounds (m4a, wav), instead of the videos' own")
    parser.add_argument(
        "--mouth_dir", type=Path, help="raw: tree of mouth regions (h5), instead of cutting them from the videos"
    )
    parser.add_argument("--index_dir", type=Path, help=f"raw: folder of {', '.join(f'{name}.h5' for name in _SPLITS)}")
    parser.add_argument(
        "--seen_heard_share", type=float, default=0.0,
        help="raw, without index and list: test on this share of the training speakers' videos, too",
    )  # fmt: skip


def _find_clips(args: argparse.Namespace, options: MixOptions) -> Iterator[Utterance | Problem]:
    """The clips of a tree. Those of dev have no split yet: their speakers are divided, or a list does it."""
    root = args.corpus_dir.absolute()
    problems: list[Problem] = []
    videos = _by_clip(root / "mp4" if (root / "mp4").is_dir() else root, VIDEO_SUFFIXES, problems)
    if not videos and not problems:
        raise UserError("holds no video id00017/01dfn2spqyE/00001.mp4, with or without dev/ and test/ above", root)
    sounds = _by_clip(args.audio_dir.absolute(), CONVERTIBLE_SUFFIXES, problems) if args.audio_dir else None
    mouths = _by_clip(args.mouth_dir.absolute(), (".h5", ".hdf5"), problems) if args.mouth_dir else None
    yield from problems
    tested = {name for name, item in videos.items() if "test" in item.place[:-_PLACE]}
    if len(tested) == len(videos):  # only the test part was given: it is divided into all splits
        tested = set()
    splits = _indexed(args.index_dir, videos) if args.index_dir else dict.fromkeys(tested, "test")
    if args.seen_heard_share and not args.index_dir and not args.mix_list:
        splits |= _seen_and_heard(videos, splits, args.seen_heard_share, options)
    for name, item in videos.items():
        if args.index_dir and name not in splits:
            continue
        lacking = [
            (tree, what) for tree, what in ((sounds, "sound"), (mouths, "mouth")) if tree is not None and name not in tree
        ]
        if lacking:
            where = args.audio_dir if lacking[0][1] == "sound" else args.mouth_dir
            yield Problem(0, name, str(where), f"its {lacking[0][1]} is missing")
            continue
        sound, mouth = (str(tree[name].path) if tree else "" for tree in (sounds, mouths))
        speaker, video = item.place[-_PLACE], str(item.path)
        yield Utterance(name, speaker, sound, mouth, video_path=video, split=splits.get(name, ""))


def _indexed(folder: Path, videos: dict[str, TreeFile]) -> dict[str, str]:
    """The split of each clip whose video an index names, by the clip's id; folders before speaker and video do not count."""
    paths = [path for split in _SPLITS if (path := folder / f"{split}.h5").is_file()]
    if not paths:
        raise UserError(f"--index_dir {folder}: holds none of {', '.join(f'{name}.h5' for name in _SPLITS)}")
    of_video: dict[tuple[str, str], str] = {}
    for path in paths:
        for place in read_index(path):
            if of_video.setdefault(place, _SPLITS[path.stem]) != _SPLITS[path.stem]:
                raise UserError(f"{path}: {'/'.join(place)} is in another split too; take it out of one of them")
    found = {name: of_video[key] for name, item in videos.items() if (key := item.place[-_PLACE:-1]) in of_video}
    if not found:
        raise UserError(
            f"--index_dir {folder}: no video of the index is in the tree; the first is {'/'.join(next(iter(of_video)))}"
        )
    return found


def _seen_and_heard(videos: dict[str, TreeFile], splits: dict[str, str], share: float, options: MixOptions) -> dict[str, str]:
    """Clips of some videos of the speakers that are trained on, to be tested on; no video is in two splits."""
    speakers = [item.place[-_PLACE] for name, item in videos.items() if name not in splits]
    shares = {"train": 1 - options.val_share - (0 if splits else options.test_share), "val": options.val_share}
    shares |= {} if splits else {"test": options.test_share}
    chosen = split_speakers(speakers, shares, options.seed, options.n_src)
    own: dict[str, list[str]] = {}
    for name, item in videos.items():
        if name not in splits and chosen[item.place[-_PLACE]] == "train":
            own.setdefault("/".join(item.place[-_PLACE:-1]), []).append(name)
    rng = np.random.default_rng(options.seed)
    by_speaker: dict[str, list[str]] = {}
    for video in own:
        by_speaker.setdefault(video.partition("/")[0], []).append(video)
    tested = set()
    for names in by_speaker.values():  # at least one video of each stays in training
        count = min(round(share * len(names) + 0.5), len(names) - 1)
        tested.update(rng.choice(sorted(names), count, replace=False).tolist())
    given = {name: chosen[item.place[-_PLACE]] for name, item in videos.items() if name not in splits}
    return given | {name: "test" for video in tested for name in own[video]}


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
