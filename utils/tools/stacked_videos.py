"""Scores from raw video: the mixtures of a test set as videos of people side by side, separated and scored.

Reads   --data_dir: a corpus of raw video after stages 0 and 1 (test.csv, videos.csv, av_offset.json where there is one);
        --exp_dir, a trained network
Writes  --out_dir: videos/<mixture>.mp4 and the tracks of stage 4; the table also to the standard output, and with --results
        into a section of that file
Run     python -m utils.tools.stacked_videos --data_dir data/glips --exp_dir exp/av_tfdprnn_match_several \\
            --frontend_weights FILE --out_dir exp/stacked --n_mixtures 40

The whole way is measured: finding the faces, cutting the mouths, separating, giving each face a voice. Faces are numbered
from left to right, so the first speaker of a mixture is on the left. SI-SNRi is the mean over the speakers, then over the
mixtures; of a silent track it is 0 dB. With --alone each video shows the first speaker only, with nobody else to be
heard; then the level of the track under that of the sound is what counts.
"""

import argparse
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.audio import read_audio, write_wav
from utils.data.clock import frames_to_samples
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.devices import n_cores
from utils.data.files import read_json
from utils.data.hub import experiment_folder
from utils.data.manifest import VIDEOS_NAME, Manifest, Mixture, read_manifest, read_videos
from utils.data.reports import markdown_table
from utils.errors import OptionParser, UserError, at_least, run_cli
from utils.scoring.metrics import si_snr
from utils.tools.chains import stage
from utils.tools.sections import add_results_options, origin, publish


class Score(NamedTuple):
    """Of a mixture; dB."""

    si_snri: float
    best_si_snri: float
    is_silent: bool  # a track, for which 0 dB counts


def main() -> int:
    """Make the videos, separate them, print the table."""
    args = _parse_args()
    manifest = read_manifest(args.data_dir / "test.csv")
    pictures = {clip.mouth_path: clip.video_path for clip in read_videos(args.data_dir / VIDEOS_NAME)}
    late_frames = _late_frames(args.data_dir / "av_offset.json")
    mixtures = manifest.items[:: max(len(manifest.items) // args.n_mixtures, 1)][: args.n_mixtures]
    for item in mixtures:
        _write_video(args.out_dir / "videos" / f"{item.mixture_id}.mp4", manifest, item, pictures, late_frames, args.alone)
    options = {"exp_dir": args.exp_dir, "test_dir": args.out_dir / "videos", "out_dir": args.out_dir / "tracks"}
    options |= {"dump_dir": args.dump_dir, "max_failed": len(mixtures), "frontend_weights": args.frontend_weights}
    if subprocess.run(stage("separate", **options), check=False).returncode:
        raise UserError(f"the videos could not be separated, see {args.out_dir}/tracks/log/4_separate.log")
    report = (_levels if args.alone else _table)(manifest, mixtures, args.out_dir / "tracks", late_frames)
    publish(report + "\n" + origin("utils.tools.stacked_videos", n_cores()), args.results, args.section)
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="stacked_videos", description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="data/<corpus>, of raw video")
    parser.add_argument("--exp_dir", type=experiment_folder, required=True, help="a trained network")
    parser.add_argument("--frontend_weights", help="of its visual frontend; none: where they were in training")
    parser.add_argument("--out_dir", type=Path, required=True, help="gets videos and tracks")
    parser.add_argument("--n_mixtures", type=at_least(1), default=40, help="spread over test.csv")
    parser.add_argument("--alone", action="store_true", help="show the first speaker of each mixture, alone")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="keeps faces and embeddings")
    add_results_options(parser, "stacked-videos")
    return parser.parse_args()


def _late_frames(path: Path) -> int:
    found = read_json(path)["found"] if path.is_file() else {"is_sure": False}
    return found["frames"] if found["is_sure"] else 0


def _write_video(
    path: Path, manifest: Manifest, item: Mixture, video_paths: dict[str, str], late_frames: int, alone: bool
) -> None:
    """Show the speakers of a mixture side by side, in step with what is heard."""
    from utils.video.decoding import probe_video, read_pictures
    from utils.video.preview import write_video

    if path.is_file():
        return
    shown = item.mouth_paths[:1] if alone else item.mouth_paths
    videos = [Path(video_paths[mouth]) for mouth in shown]
    first, n_frames, start = _stretch(item, late_frames)
    sizes = [(info.width, info.height) for info in map(probe_video, videos)]
    width, height = sum(size[0] for size in sizes), max(size[1] for size in sizes)

    def canvases() -> Iterator[np.ndarray]:
        for pictures in zip(*(read_pictures(video, first + n_frames, first) for video in videos), strict=True):
            canvas = np.zeros((height + height % 2, width + width % 2, 3), np.uint8)
            left = 0
            for (_, picture), (own_width, own_height) in zip(pictures, sizes, strict=True):
                if picture is not None:
                    canvas[:own_height, left : left + own_width] = picture
                left += own_width
            yield canvas

    sound = manifest.resolve(item.source_paths[0] if alone else item.mixture_path)
    wav = path.with_suffix(".wav")
    samples = read_audio(sound, sample_rate=SAMPLE_RATE_HZ)[start:]
    write_wav(wav, samples / max(1.0, float(np.abs(samples).max())), SAMPLE_RATE_HZ)
    write_video(path, canvases(), wav, width + width % 2, height + height % 2, crf=18)
    wav.unlink()


def _stretch(item: Mixture, late_frames: int) -> tuple[int, int, int]:
    """First picture, number of pictures, and first sample, where pictures and sound are in step."""
    n_frames = item.length * VIDEO_FPS // SAMPLE_RATE_HZ - abs(late_frames)
    return max(late_frames, 0), n_frames, frames_to_samples(max(-late_frames, 0), SAMPLE_RATE_HZ, VIDEO_FPS)


def _table(manifest: Manifest, mixtures: list[Mixture], tracks_dir: Path, late_frames: int) -> str:
    scores = [_score(manifest, item, tracks_dir / item.mixture_id, late_frames) for item in mixtures]
    found = np.array([score for score in scores if score is not None])
    if not len(found):
        raise UserError(f"{tracks_dir}: of no mixture all faces were found")
    own, best, silent = found.T
    error = own.std(ddof=1) / len(own) ** 0.5 if len(own) > 1 else 0.0
    cells = [str(len(own)), str(len(scores) - len(own)), f"{own.mean():.2f} ± {error:.2f}", f"{best.mean():.2f}"]
    cells += [f"{np.mean(own >= best):.0%}", f"{np.mean(own < 0):.0%}"]
    cells.append(str(int(silent.sum())))
    head = ["videos", "faces not found", "SI-SNRi (dB)", "in the best order", "order right", "below zero", "a track silent"]
    return markdown_table([head, cells])


def _score(manifest: Manifest, item: Mixture, folder: Path, late_frames: int) -> Score | None:
    paths = [folder / f"face{number}.wav" for number in range(1, len(item.source_paths) + 1)]
    if not all(path.is_file() for path in paths) or (folder / f"face{len(paths) + 1}.wav").is_file():
        return None
    start = _stretch(item, late_frames)[2]
    sources = [read_audio(manifest.resolve(path), sample_rate=SAMPLE_RATE_HZ)[start:] for path in item.source_paths]
    mixture = read_audio(manifest.resolve(item.mixture_path), sample_rate=SAMPLE_RATE_HZ)[start:]
    tracks = [read_audio(path, sample_rate=SAMPLE_RATE_HZ) for path in paths]
    length = min(map(len, (*sources, mixture, *tracks)))

    def gain(order: list[int]) -> float:
        pairs = [(tracks[k][:length], source[:length]) for k, source in zip(order, sources, strict=True)]
        return float(np.mean([si_snr(t, s) - si_snr(mixture[:length], s) if t.any() else 0.0 for t, s in pairs]))

    order = list(range(len(tracks)))
    return Score(gain(order), max(gain(order), gain(order[::-1])), not all(track.any() for track in tracks))


def _levels(manifest: Manifest, mixtures: list[Mixture], tracks_dir: Path, late_frames: int) -> str:
    levels = []
    for item in mixtures:
        report = tracks_dir / item.mixture_id / "tracks.json"
        if report.is_file():
            level_db = read_json(report)["tracks"][0]["level_db"]
            levels.append(-99.0 if level_db is None else level_db)
    if not levels:
        raise UserError(f"{tracks_dir}: no face was found")
    head = [
        "videos",
        "faces not found",
        "level of the track under the sound (dB), median",
        "mean",
        "above -1 dB",
        "above -3 dB",
    ]
    cells = [str(len(levels)), str(len(mixtures) - len(levels)), f"{np.median(levels):.1f}", f"{np.mean(levels):.1f}"]
    cells += [f"{np.mean(np.array(levels) > limit):.0%}" for limit in (-1, -3)]
    return markdown_table([head, cells])


if __name__ == "__main__":
    run_cli(main)
