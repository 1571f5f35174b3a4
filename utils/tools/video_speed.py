"""Costs of the way from a raw video to its tracks: time for each part, and memory.

Reads   --videos, files separated by commas, and an experiment
Writes  a table to the standard output, with --results also into a section of that file
Run     python -m utils.tools.video_speed --videos A.mp4,B.mkv --exp_dir exp/av_tfdprnn_grid \\
            [--frontend_weights FILE] [--results RESULTS.md]

The parts run one after the other, in a process of its own for each video; seconds of a part over seconds of video are its
real-time factor. `all` is the time from the first to the last of them, `CPU` that of all cores together: within a part,
threads work at once. The pictures are decoded twice, for the faces and for the mouth crops, by a thread that is ahead of
what is done with them; `decoding` is the time to decode them once and do nothing else, and no part of `all`. `memory` is
the largest resident set of the process, with all packages loaded.
"""

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.experiments import Experiment, open_experiment
from utils.data.hub import experiment_folder
from utils.data.reports import markdown_table
from utils.errors import OptionParser, UserError, at_least, run_cli
from utils.separation.options import SeparationOptions
from utils.tools.memory import in_own_process
from utils.tools.sections import add_results_options, origin, publish

PARTS = ("sound", "faces", "mouth crops", "visual frontend", "separation")
COLUMNS = (*PARTS, "all", "CPU", "decoding")  # seconds


def main() -> None:
    """Measure every video, print the table."""
    args = parse_args()
    experiment = open_experiment(args.exp_dir, args.frontend_weights)
    if not experiment.frontends:
        raise UserError(f"--exp_dir {args.exp_dir}: audio-only, it takes no faces; give an audio-visual one")
    if "lips" not in experiment.frontends or "face" in experiment.frontends:
        raise UserError(f"--exp_dir {args.exp_dir}: sees whole faces, which are not measured; give a network that sees lips")
    for video in args.videos:
        if not video.is_file():
            raise UserError(f"--videos {video}: no such file")
    found = {str(video): in_own_process(measure, video, experiment, args.threads) for video in args.videos}
    publish(f"{table(found)}\n{origin('utils.tools.video_speed', args.threads)}", args.results, args.section)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="video_speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--videos", type=_paths, required=True, help="files, separated by commas")
    parser.add_argument("--exp_dir", type=experiment_folder, required=True, help="experiment that separates")
    parser.add_argument("--frontend_weights", default="", help="where the visual frontend's weights are now, if moved")
    parser.add_argument("--threads", type=at_least(1), default=2, help="of PyTorch")
    add_results_options(parser, "video-speed")
    return parser.parse_args()


def _paths(text: str) -> list[Path]:
    return [Path(word) for word in text.split(",") if word]


def measure(video: Path, experiment: Experiment, threads: int) -> dict[str, float]:
    """Seconds of each column, those of the video, the number of faces, and the process' peak memory in MB."""
    import torch

    from utils.data.audio import read_audio
    from utils.data.mouths import MouthFile
    from utils.embedding.embed import embed_file
    from utils.embedding.landmarks import LipShapes
    from utils.separation.mixtures import load_frontends, load_separator
    from utils.separation.overlap_add import FacesOnScreen, separate_blocks
    from utils.video.decoding import read_pictures
    from utils.video.people import find_people
    from utils.video.preparation import VideoOptions, write_mouths
    from utils.video.sound import extract_sound

    torch.set_num_threads(threads)
    frontend = load_frontends(experiment, "cpu")["lips"]
    network = FacesOnScreen(load_separator(experiment.folder, "cpu").network)
    seconds: dict[str, float] = {}

    def timed(part: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        seconds[part] = time.perf_counter() - start
        return result

    def embed(path: Path, n_frames: int) -> torch.Tensor:
        lips = embed_file(frontend, MouthFile(path))
        if "shape" not in experiment.frontends:
            return lips
        return torch.cat([lips, torch.from_numpy(LipShapes().read(path, n_frames, False))], dim=1)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sound = folder / "sound.wav"
        start_sec, start_cpu_sec = time.perf_counter(), time.process_time()
        n_samples = timed("sound", lambda: extract_sound(video, sound).n_samples)
        n_frames = math.ceil(n_samples * VIDEO_FPS / SAMPLE_RATE_HZ)
        people = timed("faces", lambda: find_people(video, n_frames, folder / "scan")).people
        if not people:
            raise UserError(f"{video}: no face was found in it; give a video with one")
        mouths = [folder / f"{person.name}.npz" for person in people]
        timed("mouth crops", lambda: write_mouths(video, people, n_frames, mouths, VideoOptions()))
        visual = timed("visual frontend", lambda: torch.stack([embed(path, n_frames) for path in mouths]))
        blocks = separate_blocks(
            network,
            lambda start, count: torch.from_numpy(read_audio(sound, start, count, SAMPLE_RATE_HZ)),
            lambda first, count: visual[:, first : first + count],
            n_samples, window_sec=SeparationOptions.window_sec, hop_sec=SeparationOptions.hop_sec,
            sample_rate=SAMPLE_RATE_HZ, fps=float(VIDEO_FPS),
        )  # fmt: skip
        timed("separation", lambda: sum(1 for _ in blocks))
        seconds |= {"all": time.perf_counter() - start_sec, "CPU": time.process_time() - start_cpu_sec}
        timed("decoding", lambda: sum(1 for _ in read_pictures(video, n_frames)))
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return seconds | {"video_sec": n_samples / SAMPLE_RATE_HZ, "n_faces": len(people), "memory_mb": memory_mb}


def table(measured: dict[str, dict[str, float]]) -> str:
    """Markdown: a row for each video, real-time factors."""
    rows = [["video", "minutes", "faces", *COLUMNS, "memory (MB)"]]
    for name, found in measured.items():
        factors = {column: f"{found[column] / found['video_sec']:.3f}" for column in COLUMNS}
        parts = (factors | {"all": f"**{factors['all']}**"}).values()
        minutes, memory_mb = f"{found['video_sec'] / 60:.3g}", f"{found['memory_mb']:.0f}"
        rows.append([name, minutes, str(found["n_faces"]), *parts, memory_mb])
    return markdown_table(rows)


if __name__ == "__main__":
    run_cli(main)
