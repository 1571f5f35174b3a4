"""Stage 4: separate the mixtures of a test set, or videos.

Reads   exp/<tag>/best_model.pth and frontend.json, and --test_dir: a prepared CSV, or a folder in the DLA layout (audio/mix,
        mouths), of which data/<test name>/test.csv is made; or a video or a folder of videos.
Writes  exp/<tag>/separated/<test name>/: {s1,s2,...}/<mixture id>.wav, separated.csv, failed.csv; the same with other visual
        embeddings in folders below it (--cue_test, --av_offset_sweep). Of videos: a folder of tracks each.
Run     python -m utils.stages.separate --exp_dir exp/demo_demo --test_dir data/demo/test.csv --cue_test true
        python -m utils.stages.separate --exp_dir exp/av_tfdprnn_grid --test_dir talk.mp4 --out_dir talk

Estimates made from the same files by the same network and options are kept (utils/separation/{test_sets,videos}.py).
"""

import argparse
import logging
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TypeVar

from utils.data.cluster import add_cluster_option, use_cluster
from utils.data.constants import ALIGNMENTS
from utils.data.devices import n_cores
from utils.data.estimates import SUBTYPES
from utils.data.experiments import DLIB, open_experiment
from utils.data.hub import experiment_folder
from utils.environment import add_missing
from utils.errors import OptionParser, UserError, flag, run_cli
from utils.separation.options import (
    OUTPUT_RATES,
    RUNTIMES,
    StageOptions,
    TestSetOptions,
    VideoSetOptions,
    is_video_set,
    offsets,
)
from utils.separation.test_sets import separate_test_set
from utils.separation.videos import separate_videos
from utils.training.config import is_voice_to_mouth

logger = logging.getLogger(__name__)

Options = TypeVar("Options", bound=StageOptions)


def main() -> int:
    """Open the experiments, then separate."""
    args = parse_args()
    use_cluster(args.cluster)
    experiment = open_experiment(args.exp_dir, args.frontend_weights, face_weights=args.face_weights)
    if args.runtime == "onnx":
        add_missing("requirements-onnx.txt")
    if is_voice_to_mouth(args.exp_dir):
        if args.runtime == "onnx":
            raise UserError(f"--exp_dir {args.exp_dir}: from a voice to a mouth, which torch alone runs; leave --runtime out")
        if args.test_dir.suffix != ".csv":
            add_missing("requirements-video.txt")
        from utils.voice_to_mouth.predict import predict

        predict(experiment, _options(TestSetOptions, args))
        return 0
    if is_video_set(args.test_dir):
        for name in ("cue_test", "fallback_exp_dir", "av_offset_sweep"):
            if getattr(args, name):
                logger.warning("stage 4: --%s has no meaning for videos", name)
        add_missing("requirements-video.txt")
        separate_videos(experiment, _options(VideoSetOptions, args))
        return 0
    if args.out_dir and args.test_dir.exists():
        raise UserError(
            f"--test_dir {args.test_dir}: neither a video nor a folder with videos, and --out_dir is for these; mixtures are "
            "separated by ./run.sh --stage 4 without it"
        )
    if any(record.weights == DLIB for record in experiment.frontends.values()):
        add_missing("requirements-video.txt")
    if any(record.int8 for record in experiment.frontends.values()):
        add_missing("requirements-onnxruntime.txt")
    fallback = open_experiment(args.fallback_exp_dir, option="--fallback_exp_dir") if args.fallback_exp_dir else None
    if fallback and fallback.frontends:
        raise UserError(f"--fallback_exp_dir {fallback.folder}: needs visual embeddings itself; give an audio-only experiment")
    separate_test_set(experiment, fallback, _options(TestSetOptions, args))
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="separate", description="Stage 4: separate the mixtures of a test set, or videos.")
    records = (*fields(TestSetOptions), *fields(VideoSetOptions))
    parser.set_defaults(**{field.name: field.default for field in records if field.default is not MISSING})
    parser.add_argument("--exp_dir", type=experiment_folder, required=True, help="folder of the experiment, or hf://USER/NAME")
    parser.add_argument("--test_dir", type=Path, required=True, help="CSV of mixtures, folder in the DLA layout, or videos")
    parser.add_argument("--test_name", help="name of the outputs; empty: made from --test_dir")
    parser.add_argument("--cue_test", type=flag, nargs="?", const=True,
                        help="also separate with swapped and with shuffled visual embeddings")  # fmt: skip
    parser.add_argument("--av_offset_sweep", type=offsets,
                        help="also separate with the video so many frames late: -5:5 or -5,-1,1,5")  # fmt: skip
    parser.add_argument("--fallback_exp_dir", type=experiment_folder, help="audio-only one for mixtures without good mouths")
    parser.add_argument("--frontend_weights", default="", help="where its visual frontend is now, or other features")
    parser.add_argument("--face_weights", default="", help="where its face frontend is now")
    parser.add_argument("--subtype", choices=tuple(SUBTYPES), help="sample format of the estimates")
    parser.add_argument("--window_sec", type=float, help="longer mixtures are separated in such windows")
    parser.add_argument("--hop_sec", type=float, help="from window to window")
    parser.add_argument("--batch_size", type=int, help="equally long mixtures separated at once")
    parser.add_argument("--dump_dir", type=Path, help="stores are in dump_dir/embeddings")
    parser.add_argument("--data_root_dir", type=Path, help="of a folder's manifest; <exp_dir>/data where that is read-only")
    parser.add_argument("--nj", type=int, default=n_cores(), help="processes and threads that read files")
    add_cluster_option(parser)
    parser.add_argument("--id", dest="device", help="GPU, e.g. 0; cpu; empty: a GPU if there is one")
    parser.add_argument("--runtime", choices=RUNTIMES, help="what runs the networks; onnx: onnxruntime, on the CPU")
    parser.add_argument("--max_failed", type=int, help="mixtures that may fail before the stage does")
    parser.add_argument("--out_dir", help="videos: the tracks go here; empty: <exp_dir>/separated/<test name>")
    parser.add_argument("--preview", type=flag, nargs="?", const=True, help="videos: also each again with each face's track")
    parser.add_argument("--output_rate", choices=OUTPUT_RATES, help="videos: source also writes stems like the video's sound")
    parser.add_argument("--mux", type=flag, nargs="?", const=True, help="videos: also one with a stream for each track")
    parser.add_argument("--asr", help="videos: command that prints what is said in a wav, its last word")
    parser.add_argument("--asr_dir", help="videos: where that command works; empty: here")
    parser.add_argument("--landmarks_dir", help="videos: landmarks found before, a file named as each video")
    parser.add_argument("--alignment", choices=ALIGNMENTS, help="videos: how mouths are aligned")
    parser.add_argument("--audio_stream", type=int, help="videos: 1 is the first; 0: the default, or one with sound")
    parser.add_argument("--min_on_screen_sec", type=float, help="videos: people seen for less are left out")
    parser.add_argument("--people", type=_people, help="videos: at most so many people; empty or 0: no limit")
    parser.add_argument("--force", type=flag, nargs="?", const=True, help="make everything again")
    args = parser.parse_args()
    for name in ("nj", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)} must be at least 1")
    if args.runtime == "onnx" and args.device not in ("", "cpu"):
        parser.error(f"--id {args.device}: with --runtime onnx the CPU does the work; leave it out")
    if args.audio_stream < 0:
        parser.error(f"--audio_stream {args.audio_stream} must be 0 or more")
    if not 0 <= args.min_on_screen_sec < float("inf"):
        parser.error(f"--min_on_screen_sec {args.min_on_screen_sec:g} must be 0 or more")
    if not 0 < args.hop_sec < args.window_sec <= 2 * args.hop_sec:
        parser.error("--hop_sec must be shorter than --window_sec and at least half of it")
    return args


def _people(text: str) -> int:
    if text and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of people")
    return int(text or 0)


def _options(kind: type[Options], args: argparse.Namespace) -> Options:
    """The fields of a record of options from the options of the same names."""
    return kind(**{field.name: getattr(args, field.name) for field in fields(kind)})


if __name__ == "__main__":
    run_cli(main)
