"""Costs of the way from a raw video of two faces to their tracks: time for each part, and memory.

Reads   two clips of one speaker each (--left, --right) and an experiment
Writes  --work_dir: videos of both, repeated to --minutes, at each of --heights; prints a table, also to --results
Run     python -m utils.tools.video_speed --left A.mpg --right B.mpg --exp_dir exp/av_tfdprnn_grid \\
            [--frontend_weights FILE] [--minutes 1,60] [--heights 360,720] [--results RESULTS.md]

The parts run one after the other, on --threads threads, in a process of its own for each video; seconds of a part over
seconds of video are its real-time factor. The pictures are decoded twice, once for the faces and once for the mouth
crops: `decoding` is both, and `faces` and `mouth crops` are without it. `memory` is the largest resident set of the
process, with all packages loaded.
"""

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile

from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.experiments import open_experiment
from utils.data.files import atomic_path
from utils.data.reports import markdown_table
from utils.errors import OptionParser, UsageError, UserError, at_least, run_cli
from utils.tools.long_recordings import HOP_SEC, WINDOW_SEC
from utils.tools.processes import in_own_process
from utils.tools.sections import add_results_options, origin, publish
from utils.video.decoding import read_pictures
from utils.video.sound import extract_sound

_FRAME_SAMPLES = SAMPLE_RATE_HZ // VIDEO_FPS
PARTS = ("sound", "decoding", "faces", "mouth crops", "visual frontend", "separation")


def main() -> None:
    """Make the videos, measure them, print the table."""
    args = parse_args()
    if open_experiment(args.exp_dir, args.frontend_weights).frontend is None:
        raise UserError(f"--exp_dir {args.exp_dir}: audio-only, it takes no faces; give an audio-visual one")
    rows = []
    for height in args.heights:
        piece = args.work_dir / f"piece-{height}p.mkv"
        write_piece(piece, args.left, args.right, height)
        for minutes in args.minutes:
            video = args.work_dir / f"two-faces-{height}p-{minutes:g}min.mkv"
            repeat(piece, video, minutes * 60)
            costs = in_own_process(measure, video, args.exp_dir, args.frontend_weights, args.threads)
            rows.append((height, minutes, costs))
            print(table(rows[-1:]))
    publish(f"{table(rows)}\n{origin('utils.tools.video_speed', args.threads)}", args.results, args.section)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="video_speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--left", type=Path, required=True, help="a clip of one speaker")
    parser.add_argument("--right", type=Path, required=True, help="another")
    parser.add_argument("--exp_dir", type=Path, required=True, help="experiment that separates")
    parser.add_argument("--frontend_weights", default="", help="where the visual frontend's weights are now, if moved")
    parser.add_argument("--minutes", type=_numbers, default=[1.0], help="lengths of the videos")
    parser.add_argument("--heights", type=_numbers, default=[360.0, 720.0], help="pixels, 16:9")
    parser.add_argument("--threads", type=at_least(1), default=2, help="of PyTorch")
    parser.add_argument("--work_dir", type=Path, default=Path("dump/video_speed"), help="the videos are kept here")
    add_results_options(parser, "video-speed")
    args = parser.parse_args()
    args.heights = [int(height) for height in args.heights]
    if min(args.heights) < 144 or min(args.minutes) <= 0:
        raise UsageError("--heights are at least 144, --minutes above 0")
    return args


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers with commas") from None


def write_piece(path: Path, left: Path, right: Path, height: int) -> None:
    """Both clips side by side in 16:9, H.264 and PCM at 25 fps, cut to the shorter; unless it exists.

    Without pictures that come before their time (B) and sound that needs a run-up, so that it can be repeated as it is.
    """
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        voices = []
        for clip in (left, right):
            extract_sound(clip, Path(folder) / "sound.wav")
            voices.append(soundfile.read(str(Path(folder) / "sound.wav"), dtype="float32")[0])
    n_frames = min(map(len, voices)) // _FRAME_SAMPLES
    sound = sum(voice[: n_frames * _FRAME_SAMPLES] for voice in voices) / 2
    width = height * 16 // 9 // 4 * 4
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=VIDEO_FPS, options={"crf": "20", "preset": "veryfast", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("pcm_f32le", rate=SAMPLE_RATE_HZ, layout="mono")
        for frame, ((_, one), (_, other)) in enumerate(
            zip(read_pictures(left, n_frames), read_pictures(right, n_frames), strict=True)
        ):
            canvas = np.hstack([_fitted(picture, width // 2, height) for picture in (one, other)])
            image = av.VideoFrame.from_ndarray(canvas, format="rgb24")
            image.pts, image.time_base = frame, Fraction(1, VIDEO_FPS)
            container.mux(stream.encode(image))
            piece = av.AudioFrame.from_ndarray(sound[None, frame * _FRAME_SAMPLES :][:, :_FRAME_SAMPLES], "flt", "mono")
            piece.sample_rate, piece.time_base = SAMPLE_RATE_HZ, Fraction(1, SAMPLE_RATE_HZ)
            piece.pts = frame * _FRAME_SAMPLES
            container.mux(audio.encode(piece))
        container.mux(stream.encode(None))
        container.mux(audio.encode(None))


def _fitted(picture: np.ndarray | None, width: int, height: int) -> np.ndarray:
    """The picture in the middle of a black one of that size."""
    canvas = np.zeros((height, width, 3), np.uint8)
    if picture is not None:
        scale = min(width / picture.shape[1], height / picture.shape[0])
        small = cv2.resize(picture, (int(picture.shape[1] * scale), int(picture.shape[0] * scale)))
        top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
        canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas


def repeat(piece: Path, path: Path, seconds: float) -> None:
    """The piece over and over until `seconds`, without encoding it again, unless it exists."""
    if path.is_file():
        return
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="matroska") as out:
        with av.open(str(piece)) as source:
            streams = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
            length = source.duration / av.time_base
        for round_number in range(math.ceil(seconds / length)):
            with av.open(str(piece)) as source:
                for packet in source.demux():
                    if packet.dts is None:
                        continue
                    shift = round(round_number * length / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = streams[packet.stream.index]
                    out.mux(packet)


def measure(video: Path, exp_dir: Path, frontend_weights: str, threads: int) -> dict[str, float]:
    """Seconds of each part, those of the video, the number of faces, and the process' peak memory in MB."""
    import torch

    from utils.data.audio import read_audio
    from utils.data.mouths import MouthFile
    from utils.embedding.embed import embed_file
    from utils.embedding.frontends import load_frontend
    from utils.separation.mixtures import load_separator
    from utils.separation.overlap_add import FacesOnScreen, separate_blocks
    from utils.video.people import find_people
    from utils.video.preparation import VideoOptions, write_mouths

    torch.set_num_threads(threads)
    record = open_experiment(exp_dir, frontend_weights).frontend
    frontend = load_frontend(record.weights, record.conf or None, record.layer)
    separator = load_separator(exp_dir, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        sound_path = Path(folder) / "sound.wav"
        sound_sec, n_samples = _timed(lambda: extract_sound(video, sound_path).n_samples)
        n_frames = math.ceil(n_samples / _FRAME_SAMPLES)
        decode_sec, _ = _timed(lambda: sum(1 for _ in read_pictures(video, n_frames)))
        scan_sec, found = _timed(lambda: find_people(video, n_frames, Path(folder) / "scan"))
        people = found.people
        mouths = [Path(folder) / f"{person.name}.npz" for person in people]
        cut_sec, _ = _timed(lambda: write_mouths(video, people, n_frames, mouths, VideoOptions()))
        embed_sec, visual = _timed(lambda: torch.stack([embed_file(frontend, MouthFile(path)) for path in mouths]))

        def separate() -> None:
            blocks: Iterator = separate_blocks(
                FacesOnScreen(separator.network),
                lambda start, count: torch.from_numpy(read_audio(sound_path, start, count, SAMPLE_RATE_HZ)),
                lambda first, count: visual[:, first : first + count],
                n_samples, window_sec=WINDOW_SEC, hop_sec=HOP_SEC, sample_rate=SAMPLE_RATE_HZ, fps=float(VIDEO_FPS),
            )  # fmt: skip
            for _ in blocks:
                pass

        separate_sec, _ = _timed(separate)
    seconds = (sound_sec, 2 * decode_sec, scan_sec - decode_sec, cut_sec - decode_sec, embed_sec, separate_sec)
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lengths = {"video_sec": n_samples / SAMPLE_RATE_HZ, "n_faces": len(people), "memory_mb": memory_mb}
    return dict(zip(PARTS, seconds, strict=True)) | lengths


def _timed(work: Callable):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def table(rows: list[tuple[int, float, dict[str, float]]]) -> str:
    """Markdown: a row for each video, real-time factors."""
    cells = [["pictures", "minutes", "faces", *PARTS, "all", "memory (MB)"]]
    for height, minutes, found in rows:
        factors = [found[part] / found["video_sec"] for part in PARTS]
        parts = [*(f"{factor:.3f}" for factor in factors), f"**{sum(factors):.3f}**"]
        cells.append([f"{height}p", f"{minutes:g}", str(found["n_faces"]), *parts, f"{found['memory_mb']:.0f}"])
    return markdown_table(cells)


if __name__ == "__main__":
    run_cli(main)
