"""What stems at the video's own rate and the tables of who spoke when are worth: two people who talk by turns, then at once.

Reads   --pairs: videos of one person each, LEFT,RIGHT; --exp_dir, a trained network
Writes  --out_dir: videos/<k>.mkv (pictures side by side; sound of 48 kHz, two channels, each person at a place of its own),
        the true sources, and what stage 4 makes of them; the tables also to the standard output, and with --results into a
        section of that file
Run     python -m utils.tools.conversations --exp_dir egs/own_video/pretrained --out_dir exp/conversations \\
            --pairs g2brbk7n.mpg,g3lbax4n.mpg g2brbk7n.mpg,g4lbbc2a.mpg

First the left person talks while the right one's picture stands still, then the other way round, then both. SDR is that of
all channels together, over the part in which both talk. Speech of the true sources, by the same detector, is the truth of
the second table: missed and false time over the time of speech.
"""

import argparse
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import butter, resample_poly, sosfiltfilt

from utils.data.audio import probe_audio, write_wav
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.devices import n_cores
from utils.data.files import atomic_path, read_json
from utils.data.reports import markdown_table
from utils.errors import OptionParser, UserError, run_cli
from utils.tools.chains import stage
from utils.tools.sections import add_results_options, origin, publish

RATE_HZ = 48_000
PLACES = np.array([[0.9, 0.5], [0.45, 0.85]])  # gains of each person in each channel
_ABOVE = butter(8, 8000, "high", fs=RATE_HZ, output="sos")


def main() -> int:
    """Make the videos, separate them, print the tables."""
    args = _parse_args()
    for number, pair in enumerate(args.pairs):
        _write_conversation(args.out_dir, number, pair)
    options = {"exp_dir": args.exp_dir, "test_dir": args.out_dir / "videos", "out_dir": args.out_dir / "tracks"}
    options |= {"dump_dir": args.dump_dir, "output_rate": "source", "frontend_weights": args.frontend_weights}
    if subprocess.run(stage("separate", **options), check=False).returncode:
        raise UserError(f"the videos could not be separated, see {args.out_dir}/tracks/log/4_separate.log")
    report = _stem_table(args.out_dir, len(args.pairs)) + "\n" + _speech_table(args.out_dir, len(args.pairs))
    publish(report + "\n" + origin("utils.tools.conversations", n_cores()), args.results, args.section)
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="conversations", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", type=_pair, required=True, help="LEFT,RIGHT: videos of one person each")
    parser.add_argument("--exp_dir", type=Path, required=True, help="a trained network")
    parser.add_argument("--frontend_weights", help="of its visual frontend; none: where they were in training")
    parser.add_argument("--out_dir", type=Path, required=True, help="gets videos and tracks")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="keeps faces and embeddings")
    add_results_options(parser, "conversations")
    return parser.parse_args()


def _pair(text: str) -> tuple[Path, Path]:
    paths = tuple(map(Path, text.split(",")))
    if len(paths) != 2 or not all(path.is_file() for path in paths):
        raise argparse.ArgumentTypeError(f"'{text}' is not LEFT,RIGHT, two videos that exist")
    return paths


def _write_conversation(out_dir: Path, number: int, pair: tuple[Path, Path]) -> None:
    from utils.video.decoding import probe_video, read_pictures
    from utils.video.muxing import write_muxed
    from utils.video.preview import write_video

    path = out_dir / "videos" / f"{number}.mkv"
    if path.is_file():
        return
    voices = [_voice(video) for video in pair]
    n_frames = min(map(len, voices)) * VIDEO_FPS // RATE_HZ
    n_samples = n_frames * RATE_HZ // VIDEO_FPS
    voices = [voice[:n_samples] / np.sqrt(np.mean(np.square(voice[:n_samples]))) for voice in voices]
    silence = np.zeros(n_samples)
    lines = np.stack([np.concatenate([voices[0], silence, voices[0]]), np.concatenate([silence, voices[1], voices[1]])])
    sources = lines[:, None] * PLACES[:, :, None]
    sources *= 0.9 / np.abs(sources.sum(axis=0)).max()
    sizes = [(info.width, info.height) for info in map(probe_video, pair)]
    width, height = sum(size[0] for size in sizes), max(size[1] for size in sizes)

    def canvases() -> Iterator[np.ndarray]:
        pictures = [[picture for _, picture in read_pictures(video, n_frames)] for video in pair]
        for still in (1, 0, None):  # whose picture
            for frame in range(n_frames):
                canvas = np.zeros((height + height % 2, width + width % 2, 3), np.uint8)
                shown = [pictures[k][0 if still == k else frame] for k in (0, 1)]
                canvas[: sizes[0][1], : sizes[0][0]], canvas[: sizes[1][1], sizes[0][0] : width] = shown
                yield canvas

    path.parent.mkdir(parents=True, exist_ok=True)
    for name, source in zip(("face1", "face2", "mixture"), (*sources, sources.sum(axis=0)), strict=True):
        with atomic_path(_source(out_dir, number, name)) as temporary:
            soundfile.write(str(temporary), source.T, RATE_HZ, subtype="FLOAT", format="WAV")
    mono = out_dir / f"{number}.pictures.wav"
    write_wav(mono, resample_poly(sources.sum(axis=(0, 1)) / 4, 1, 3).astype(np.float32), SAMPLE_RATE_HZ)
    write_video(mono.with_suffix(".mp4"), canvases(), mono, width + width % 2, height + height % 2, crf=16)
    write_muxed(mono.with_suffix(".mp4"), path, [("mixture", _source(out_dir, number, "mixture"))])


def _voice(video: Path) -> np.ndarray:
    from utils.video.sound import read_source

    pieces = list(read_source(video))
    ratio = Fraction(RATE_HZ, pieces[0][0])
    return resample_poly(np.concatenate([data for _, data in pieces], axis=1).mean(axis=0), ratio.numerator, ratio.denominator)


def _source(out_dir: Path, number: int, name: str) -> Path:
    return out_dir / f"{number}.{name}.wav"


def _stem_table(out_dir: Path, n_videos: int) -> str:
    scores = []
    for number in range(n_videos):
        folder = out_dir / "tracks" / str(number)
        mixture = soundfile.read(str(_source(out_dir, number, "mixture")))[0].T
        both = slice(2 * mixture.shape[1] // 3, mixture.shape[1])
        for name in ("face1", "face2"):
            source = soundfile.read(str(_source(out_dir, number, name)))[0].T[:, both]
            stem = soundfile.read(str(folder / "stems" / f"{name}.wav"))[0].T[:, both]
            track = resample_poly(soundfile.read(str(folder / f"{name}.wav"))[0], RATE_HZ // SAMPLE_RATE_HZ, 1)[both]
            rows = (mixture[:, both], np.stack([track, track]), stem)
            scores.append([_sdr_db(row, source) for row in rows])
            above = sosfiltfilt(_ABOVE, source)
            scores[-1] += [_sdr_db(sosfiltfilt(_ABOVE, row), above) for row in rows]
    means = np.mean(scores, axis=0)
    head = [f"{len(scores)} sources, 48 kHz, two channels: SDR (dB)", "all", "above 8 kHz"]
    names = ("the mixture", "the track of 16 kHz, resampled", "the stem")
    return markdown_table([head, *([name, f"{means[k]:.2f}", f"{means[k + 3]:.2f}"] for k, name in enumerate(names))])


def _sdr_db(estimate: np.ndarray, source: np.ndarray) -> float:
    return 10 * float(np.log10(np.square(source).sum() / max(np.square(source - estimate).sum(), 1e-20)))


def _speech_table(out_dir: Path, n_videos: int) -> str:
    from utils.separation.speech import MOVING, find_speech

    missed = false = moving = total = 0.0
    for number in range(n_videos):
        tracks = read_json(out_dir / "tracks" / str(number) / "tracks.json")["tracks"]
        for track in tracks[:2]:
            name = track["name"]
            path = out_dir / f"{number}.{name}.16k.wav"
            source = soundfile.read(str(_source(out_dir, number, name)))[0].mean(axis=1)
            write_wav(path, resample_poly(source, 1, RATE_HZ // SAMPLE_RATE_HZ).astype(np.float32), SAMPLE_RATE_HZ)
            n_samples = probe_audio(path).length
            truth = _mask(find_speech(path, path, n_samples), n_samples)
            found = _mask([(each["from_sec"], each["to_sec"]) for each in track["speech"]], n_samples)
            missed, false, total = missed + (truth & ~found).sum(), false + (found & ~truth).sum(), total + truth.sum()
            right = [(each["from_sec"], each["to_sec"]) for each in track["speech"] if each["lips"] == MOVING]
            moving += (_mask(right, n_samples) & truth).sum()
    head = ["speech (s)", "missed", "false", "of the speech: lips seen moving"]
    return markdown_table([head, [f"{total / 100:.1f}", *(f"{100 * part / total:.1f} %" for part in (missed, false, moving))]])


def _mask(stretches: list[tuple[float, float]], n_samples: int) -> np.ndarray:
    """Speech or not, in hundredths of a second."""
    mask = np.zeros(n_samples * 100 // SAMPLE_RATE_HZ, bool)
    for start_sec, end_sec in stretches:
        mask[round(100 * start_sec) : round(100 * end_sec)] = True
    return mask


if __name__ == "__main__":
    run_cli(main)
