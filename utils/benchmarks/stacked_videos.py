"""Two clips side by side in one video, their sounds added: videos of two talkers that have references.

Reads   --video_dir, clips of one talker each; an experiment; with --mouth_dir ready-made crops of the same clips
Writes  --work_dir: videos/<left>_<right>.mkv, references/<clip>.wav, tracks/ (what stage 4 made of the videos); prints a table
Run     python -m utils.benchmarks.stacked_videos --video_dir DIR --exp_dir exp/avdprnn_grid --clips a,b,c \\
            [--mouth_dir DIR] [--frontend_weights FILE] [--results RESULTS.md]
        python -m utils.benchmarks.stacked_videos --video_dir DIR --clips a,b --only_stack true

Columns, SI-SNRi in dB over the sum of the two sounds, mean of both voices: `video` is the whole way from the raw video;
`raw crops` and `ready crops` give the network the stretch that the ready-made crops show, with our crops or with those, so
that their difference is what finding and cutting the mouths costs. Different scales of the two sounds are kept as they are.
"""

import argparse
import functools
import itertools
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
import torch

from utils.benchmarks.mouth_position import find_offset
from utils.benchmarks.sections import REPOSITORY, add_results_options, origin, write_section
from utils.data.files import atomic_path, read_json
from utils.data.mouths import MouthFile, read_mouths
from utils.engine.embedding import embed_file
from utils.engine.frontends import Frontend, load_frontend
from utils.engine.separation_plan import Separator, load_separator
from utils.errors import OptionParser, UsageError, UserError, flag, run_cli
from utils.metrics import si_snr
from utils.overlap_add import separate_window
from utils.video.alignment import ALIGNMENTS
from utils.video.decoding import GRID_FPS, SOUND_RATE_HZ, extract_sound, read_pictures

_FRAME_SAMPLES = SOUND_RATE_HZ // GRID_FPS


@dataclass(frozen=True)
class Score:
    """SI-SNRi of one stacked video, dB; NaN where there are no ready-made crops."""

    video: float
    raw_crops: float
    ready_crops: float


def main() -> None:
    args = parse_args()
    pairs = choose_pairs(args)
    for left, right in pairs:
        stack_videos(args.video_dir, left, right, args.work_dir)
    if args.only_stack:
        print(
            f"{len(pairs)} videos in {args.work_dir / 'videos'}, what each voice says alone in {args.work_dir / 'references'}"
        )
        return
    separate(args)
    scores = {f"{left}_{right}": score_pair(args, left, right) for left, right in pairs}
    text = table(scores)
    print(text)
    if args.results:
        write_section(
            args.results, args.section, f"{text}\n\n{origin('utils.benchmarks.stacked_videos', torch.get_num_threads())}"
        )


def parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="stacked_videos", description=__doc__.partition("\n")[0])
    parser.add_argument("--video_dir", type=Path, required=True, help="clips with one talker each")
    parser.add_argument("--clips", default="", help="names of clips, with commas; every pair of them is stacked; empty: all")
    parser.add_argument("--work_dir", type=Path, default=Path("dump/stacked"), help="videos, references and tracks go here")
    parser.add_argument("--only_stack", type=flag, default=False, help="make the videos and their references, no more")
    parser.add_argument("--exp_dir", type=Path, help="experiment that separates them")
    parser.add_argument("--frontend_weights", default="", help="where the experiment's front end lies now, if moved")
    parser.add_argument("--mouth_dir", type=Path, help="ready-made crops NAME.npz, of the clips or of a part of them")
    parser.add_argument("--alignment", default=ALIGNMENTS[0], choices=ALIGNMENTS, help="how mouths are aligned")
    add_results_options(parser, "stacked-videos")
    args = parser.parse_args()
    if not args.only_stack and args.exp_dir is None:
        raise UsageError("--exp_dir is needed: the experiment that separates the videos; or --only_stack true")
    return args


def choose_pairs(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Every pair of the clips.

    Raises:
        UserError: a clip is not there, or there are fewer than two.
    """
    there = {path.stem: path for path in sorted(args.video_dir.iterdir()) if path.is_file()} if args.video_dir.is_dir() else {}
    names = args.clips.split(",") if args.clips else list(there)
    missing = [name for name in names if name not in there]
    if missing or len(names) < 2:
        what = f"no clip {missing[0]}" if missing else f"{len(names)} clips, two are needed"
        raise UserError(f"--video_dir {args.video_dir}: {what}")
    return list(itertools.combinations(names, 2))


def stack_videos(video_dir: Path, left: str, right: str, work_dir: Path) -> Path:
    """Make one video of two, cut to the shorter sound: H.264 pictures side by side at 25 fps, the sounds' sum as float PCM.

    Returns:
        The video, `work_dir/videos/<left>_<right>.mkv`; the sounds alone are `work_dir/references/<clip>.wav`.
    """
    paths = [next(path for path in video_dir.iterdir() if path.stem == name) for name in (left, right)]
    references = [work_dir / "references" / f"{name}.wav" for name in (left, right)]
    for path, reference in zip(paths, references, strict=True):
        reference.parent.mkdir(parents=True, exist_ok=True)
        if not reference.is_file():
            extract_sound(path, reference)
    voices = [soundfile.read(str(reference), dtype="float32")[0] for reference in references]
    length = min(map(len, voices))
    out_path = work_dir / "videos" / f"{left}_{right}.mkv"
    out_path.parent.mkdir(parents=True, exist_ok=True)
    if not out_path.is_file():
        n_frames = math.ceil(length / _FRAME_SAMPLES)
        pictures = zip(*(read_pictures(path, n_frames) for path in paths), strict=True)
        write_video(
            out_path, (_side_by_side(one, other) for (_, one), (_, other) in pictures), voices[0][:length] + voices[1][:length]
        )
    return out_path


def write_video(path: Path, pictures, sound: np.ndarray) -> None:
    """Write RGB pictures (height, width, 3) of even size at 25 fps with 16 kHz mono sound, float PCM, as Matroska."""
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="matroska") as container:
        sounds = container.add_stream("pcm_f32le", rate=SOUND_RATE_HZ, layout="mono")
        stream = None
        for frame, picture in enumerate(pictures):
            if stream is None:
                stream = container.add_stream("libx264", rate=GRID_FPS, options={"crf": "14", "preset": "veryfast"})
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            image.pts, image.time_base = frame, Fraction(1, GRID_FPS)
            container.mux(stream.encode(image))
            piece = sound[frame * _FRAME_SAMPLES : (frame + 1) * _FRAME_SAMPLES]
            if len(piece):
                audio = av.AudioFrame.from_ndarray(piece[None], format="flt", layout="mono")
                audio.sample_rate, audio.pts, audio.time_base = (
                    SOUND_RATE_HZ,
                    frame * _FRAME_SAMPLES,
                    Fraction(1, SOUND_RATE_HZ),
                )
                container.mux(sounds.encode(audio))
        container.mux(stream.encode(None))
        container.mux(sounds.encode(None))


def _side_by_side(left: np.ndarray | None, right: np.ndarray | None) -> np.ndarray:
    """Two pictures of one height beside each other; one that is missing is black."""
    known = left if left is not None else right
    left, right = (np.zeros_like(known) if picture is None else picture for picture in (left, right))
    height, width = (max(left.shape[k], right.shape[k]) for k in (0, 1))
    canvas = np.zeros((height + height % 2, 2 * width, 3), np.uint8)
    canvas[: left.shape[0], : left.shape[1]] = left
    canvas[: right.shape[0], width : width + right.shape[1]] = right
    return canvas


def separate(args: argparse.Namespace) -> None:
    """Stage 4 on the stacked videos, as a program.

    Raises:
        UserError: it failed; it has said why.
    """
    command = [sys.executable, "-m", "utils.stages.separate", "--exp_dir", str(args.exp_dir.resolve())]
    command += ["--test_dir", str((args.work_dir / "videos").resolve()), "--test_name", "stacked", "--nj", "2"]
    command += ["--alignment", args.alignment]
    command += ["--out_dir", str((args.work_dir / "tracks").resolve()), "--dump_dir", str(args.work_dir.resolve() / "dump")]
    command += ["--frontend_weights", args.frontend_weights] if args.frontend_weights else []
    if subprocess.run(command, cwd=REPOSITORY, check=False).returncode:
        raise UserError(f"stage 4 failed on {args.work_dir / 'videos'}; its reason stands above")


def score_pair(args: argparse.Namespace, left: str, right: str) -> Score:
    """Score one stacked video.

    Raises:
        UserError: not exactly two faces were found in it.
    """
    folder = args.work_dir / "tracks" / f"{left}_{right}"
    names = [track["name"] for track in read_json(folder / "tracks.json")["tracks"]]
    if len(names) != 2:
        raise UserError(f"{folder}: {len(names)} faces where two were stacked")
    tracks = np.stack([soundfile.read(str(folder / f"{name}.wav"))[0] for name in names])
    references = [soundfile.read(str(args.work_dir / "references" / f"{clip}.wav"))[0] for clip in (left, right)]
    references = np.stack([reference[: tracks.shape[1]] for reference in references])
    if args.mouth_dir is None:
        return Score(improvement(tracks, references), math.nan, math.nan)
    separator, frontend = _networks(args.exp_dir, args.frontend_weights)
    (prepared,) = args.work_dir.glob(f"dump/videos/stacked-*/{left}_{right}/mouths")
    raw, ready, starts = [], [], []
    for name, clip in zip(names, (left, right), strict=True):
        ours, theirs = MouthFile(prepared / f"{name}.npz"), MouthFile(args.mouth_dir / f"{clip}.npz")
        starts.append(find_offset(read_mouths(ours.path), read_mouths(theirs.path)))
        raw.append(embed_file(frontend, ours))
        ready.append(embed_file(frontend, theirs))
    return Score(
        improvement(tracks, references),
        *(_stretch_score(separator, references, starts, cues) for cues in (_cut(raw, starts, ready), ready)),
    )


@functools.cache
def _networks(exp_dir: Path, frontend_weights: str) -> tuple[Separator, Frontend]:
    facts = read_json(exp_dir / "frontend.json")
    frontend = load_frontend(frontend_weights or facts["weights"], facts.get("conf") or None, facts["layer"])
    return load_separator(exp_dir, "cpu"), frontend


def _cut(cues: Sequence[torch.Tensor], starts: Sequence[int], like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [cue[start : start + len(other)] for cue, start, other in zip(cues, starts, like, strict=True)]


def _stretch_score(separator: Separator, references: np.ndarray, starts: Sequence[int], cues: Sequence[torch.Tensor]) -> float:
    """Separate the sum of the stretches that the ready-made crops show, each voice from its own start."""
    n_samples = min(len(cue) for cue in cues) * _FRAME_SAMPLES
    firsts = [start * _FRAME_SAMPLES for start in starts]
    n_samples = min(n_samples, *(references.shape[1] - first for first in firsts))
    voices = np.stack([voice[first : first + n_samples] for voice, first in zip(references, firsts, strict=True)])
    n_frames = math.ceil(n_samples / _FRAME_SAMPLES)
    visual = torch.stack([cue[:n_frames] for cue in cues])[None]
    estimates = separate_window(separator.network, torch.from_numpy(voices.sum(axis=0).astype(np.float32))[None], visual)
    return improvement(estimates[0].numpy().astype(np.float64), voices)


def improvement(estimates: np.ndarray, references: np.ndarray) -> float:
    """Mean SI-SNRi in dB over the sum of the references, both (voices, samples)."""
    mixture = references.sum(axis=0)
    pairs = zip(estimates, references, strict=True)
    return float(np.mean([si_snr(estimate, voice) - si_snr(mixture, voice) for estimate, voice in pairs]))


def table(scores: dict[str, Score]) -> str:
    """Markdown: a row for each video, the mean and its standard error."""
    names = [field.name for field in fields(Score)]
    values = np.array([[getattr(score, name) for name in names] for score in scores.values()])
    lines = ["| video | " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {video} | " + " | ".join(f"{value:.2f}" for value in row) + " |" for video, row in zip(scores, values, strict=True)
    ]
    errors = values.std(axis=0, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else np.full(len(names), math.nan)
    means = (f"**{mean:.2f}** ± {error:.2f}" for mean, error in zip(values.mean(axis=0), errors, strict=True))
    lines.append(f"| mean of {len(values)} | " + " | ".join(means) + " |")
    return "\n".join(lines).replace("nan", "–")


if __name__ == "__main__":
    run_cli(main)
