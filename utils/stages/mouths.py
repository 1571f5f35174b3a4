"""Stage 1: the mouths of a corpus, cut from its videos if it comes as raw video, and every file of them opened and checked.

Reads   data/<corpus>/*.csv and the mouth crops that they name; data/<corpus>/videos.csv where stage 0 wrote one
Writes  data/<corpus>/failed_mouths.csv and the done mark .done-1.json; from videos see also utils/video/corpus_mouths.py
Run     python -m utils.stages.mouths --data_dir data/dla --nj 8
"""

import argparse
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from utils.data.cluster import add_cluster_option, use_cluster
from utils.data.constants import ALIGNMENTS
from utils.data.devices import n_cores
from utils.data.fingerprints import StageMark, hash_contents, hash_stats
from utils.data.manifest import VIDEOS_NAME, Manifest, Problem, Utterance, find_manifests, read_manifest
from utils.data.mouths import VERSION
from utils.data.validation import check_files, check_mouths, find_mouth_problems
from utils.environment import add_missing
from utils.errors import OptionParser, UsageError, UserError, flag, run_cli
from utils.training.preflight import check_weights, read_train_config
from utils.video.corpus_mouths import cut_corpus, refuse_failures, require_faces, require_mouths, without_mouths

log = logging.getLogger(__name__)


def main() -> int:
    """Cut the mouths of videos and open every mouth crop, unless nothing changed; list those that cannot be used."""
    args = _parse_args()
    use_cluster(args.cluster)
    kinds = read_train_config(args.conf, args.train_args).kinds_of_frontends if args.conf else ("lips",)
    if "face" not in kinds and args.frontend_weights and args.frontend_weights.is_dir():
        log.info("stage 1: skipped, %s holds precomputed embeddings", args.frontend_weights)
        return 0
    if not args.data_dir.is_dir():
        raise UserError(f"--data_dir {args.data_dir}: no such folder; stage 0 (utils/stages/0_prepare.sh) makes it")
    paths = find_manifests(args.data_dir)
    if not paths:
        raise UserError("no manifest there; stage 0 (--stage 0) makes them", args.data_dir)
    manifests = [read_manifest(path) for path in paths]
    for manifest in manifests:
        require_mouths(manifest)
    videos = args.data_dir / VIDEOS_NAME
    inputs = {"max_failed": str(args.max_failed)}
    size = _face_size(args) if "face" in kinds else 0
    if size:
        inputs["face_size"] = str(size)
    if videos.is_file():
        inputs |= {VIDEOS_NAME: hash_contents([videos]), "alignment": args.alignment, "fix_av_offset": args.fix_av_offset}
        inputs["version"] = str(VERSION)
    elif args.fix_av_offset:
        raise UserError(f"--fix_av_offset {args.fix_av_offset}: only for raw video; this corpus ships its mouth crops")
    mark = _mark(args.data_dir, paths, _crops(manifests), inputs)
    changes = mark.changed()
    if changes == [] and not args.force:
        log.info("stage 1: up to date (%s)", args.data_dir)
        return 0
    for change in changes or []:
        log.info("stage 1: runs again, %s", change)
    uncut: list[Problem] = []
    if videos.is_file():
        add_missing("requirements-video.txt")
        late_frames = _late_frames(args, manifests)
        uncut = cut_corpus(args.data_dir, manifests, args.alignment, args.nj, late_frames, face_size=size)
        refuse_failures(args.data_dir, uncut, args.max_failed, "clips")
        manifests = [without_mouths(manifest, uncut) for manifest in manifests]
    crops = _crops(manifests)
    if not videos.is_file():
        log.info("stage 1: the corpus ships its mouth crops; none to make, %d to check", len(crops))
        if size:
            require_faces(crops, size)
    checks = check_files(check_mouths, crops, args.nj, "mouths")
    broken = [
        replace(problem, manifest=manifest.path.name)
        for manifest in manifests
        for problem in find_mouth_problems(manifest, checks)
    ]
    refuse_failures(args.data_dir, uncut + broken, args.max_failed, "rows")
    _mark(args.data_dir, paths, crops, inputs).write()
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="the folder of the manifests")
    parser.add_argument("--conf", type=Path, help="of the training to come, which may ask for faces")
    parser.add_argument("--train_args", default="", help="keys of the conf to change")
    parser.add_argument("--face_weights", default="", help="of the face frontend, which says how large faces are; or dlib")
    parser.add_argument("--frontend_weights", type=Path, help="of stage 2: a folder of precomputed embeddings needs no mouths")
    parser.add_argument("--nj", type=int, default=n_cores(), help="threads that open files")
    add_cluster_option(parser)
    parser.add_argument("--max_failed", type=int, default=0, help="rows with broken mouths that are let pass")
    parser.add_argument("--alignment", default=ALIGNMENTS[0], choices=ALIGNMENTS, help="raw video: how mouths are aligned")
    parser.add_argument("--fix_av_offset", default="", help="raw video: auto, or FRAMES that all videos come too late")
    parser.add_argument("--force", type=flag, nargs="?", const=True, default=False, help="run even if nothing changed")
    return parser.parse_args()


def _face_size(args: argparse.Namespace) -> int:
    """Pixels of the face crops that the face frontend wants."""
    check_weights("face", args.face_weights)
    from utils.embedding.face_frontends import face_size

    return face_size(args.face_weights)


def _late_frames(args: argparse.Namespace, manifests: Sequence[Manifest]) -> int:
    """How many frames too late the videos come, as far as that is to be corrected."""
    if args.fix_av_offset != "auto":
        if not re.fullmatch(r"[+-]?[0-9]|", args.fix_av_offset):
            raise UsageError(f"--fix_av_offset {args.fix_av_offset}: neither auto nor whole frames, -9 to 9")
        return int(args.fix_av_offset or 0)
    if not args.frontend_weights:
        raise UsageError("--fix_av_offset auto needs the visual frontend: --frontend_weights FILE (LR-ASD)")
    from utils.embedding.corpus_offset import find_offset

    def cut(clips: Sequence[Utterance]) -> list[Problem]:
        return cut_corpus(args.data_dir, manifests, args.alignment, args.nj, clips=clips)

    found = find_offset(args.data_dir, args.frontend_weights, args.alignment, cut)
    return found.frames if found.is_sure else 0


def _crops(manifests: Sequence[Manifest]) -> list[Path]:
    return sorted({manifest.resolve(path) for manifest in manifests for path in manifest.mouth_paths()})


def _mark(data_dir: Path, manifests: Sequence[Path], crops: Sequence[Path], inputs: dict[str, str]) -> StageMark:
    files = [*manifests, *(path.with_suffix(".json") for path in manifests)]
    found = {"manifests": hash_contents(files), "mouth crops": hash_stats(crops)}
    return StageMark(data_dir / ".done-1.json", found | inputs)


if __name__ == "__main__":
    run_cli(main)
