"""Turn TCD-TIMIT into manifests.

Reads   CORPUS_DIR/volunteers/01M/Clips/straightcam/sa1.mp4 and
        CORPUS_DIR/lipspeakers/Lipspkr1/Clips/straightcam/sa1.mp4 (one of the two is enough; 30degcam on request);
        pictures of 29.97 or 30 a second, sound of 48 kHz
Writes  DATA_DIR/{val,test}.csv, utterances.csv, videos.csv, failed.csv, the sounds and the mixtures
Run     python egs/tcd_timit/prepare.py --data_dir data/tcd_timit --corpus_dir CORPUS_DIR --nj 8
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.raw_corpus import raw_parser, run_raw
from utils.data.clip_tree import walk_tree
from utils.data.constants import VIDEO_SUFFIXES
from utils.data.manifest import Problem, Utterance
from utils.errors import UserError, run_cli
from utils.mixing.options import MixOptions

CAMERAS = ("straightcam", "30degcam")
_SPEAKER = re.compile(r"[0-9]{2}[MF]|Lipspkr[0-9]+", re.IGNORECASE)


def main() -> None:
    """The tree to manifests."""
    parser = raw_parser(__doc__.splitlines()[0])
    parser.add_argument("--camera", choices=CAMERAS, default=CAMERAS[0], help="camera of the pictures")
    parser.add_argument(
        "--sentences", choices=("own", "all"), default="all", help="own: without sa1 and sa2, which all speakers say"
    )
    run_raw(parser.parse_args(), _find_clips)


def _find_clips(args: argparse.Namespace, options: MixOptions) -> Iterator[Utterance | Problem]:
    """The clips of a camera. File names repeat across speakers, so that an id is SPEAKER_SENTENCE."""
    tree, problems = walk_tree(args.corpus_dir.absolute(), VIDEO_SUFFIXES)
    clips = [item for item in tree.values() if args.camera in item.place[:-1]]
    if not clips and not problems:
        reason = f"holds no video SPEAKER/Clips/{args.camera}/SENTENCE.mp4; this is not TCD-TIMIT"
        raise UserError(reason, args.corpus_dir)
    yield from problems
    for item in clips:
        *folders, sentence = item.place
        speakers = [name for name in folders if _SPEAKER.fullmatch(name)]
        if len(speakers) != 1:
            reason = "no folder above it is a speaker, such as 01M or Lipspkr1"
            yield Problem(0, item.clip_id, str(item.path), reason)
        elif args.sentences == "all" or sentence.lower() not in ("sa1", "sa2"):
            yield Utterance(f"{speakers[0]}_{sentence}", speakers[0], video_path=str(item.path))


if __name__ == "__main__":
    run_cli(main)
