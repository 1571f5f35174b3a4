"""What long recordings cost: peak memory and real-time factor of stage 4's windowed separation, by length.

Reads   exp/<tag>/best_model.pth (and frontend.json).
Writes  recordings of noise with noise for faces into a temporary folder that it removes; the table to the standard output,
        with --results also into a section of that file.
Run     python -m utils.tools.long_recordings --exp_dir exp/avdprnn_demo --minutes 1,10 --results RESULTS.md

Each length is separated in a fresh process, from files to files. Memory is what `utils.tools.complexity` measures: the weights,
and the growth of the process at its peak. A network costs the same whatever it hears.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from utils.data.experiments import open_experiment
from utils.data.manifest import Mixture, read_manifest, write_manifest
from utils.embedding.store import EmbeddingStore, EmbeddingWriter, Source
from utils.errors import OptionParser, UserError, run_cli
from utils.separation.options import SeparationOptions
from utils.tools.complexity import resident_bytes, run_probe
from utils.tools.sections import add_results_options, origin, write_section

WINDOW_SEC, HOP_SEC = 8.0, 6.0  # stage 4's defaults
STORE, MANIFEST, VOICES = "embeddings", "recording.csv", "voices"


def main() -> int:
    """Measure every length, print the table."""
    args = parse_args()
    frontend = open_experiment(args.exp_dir, needs_weights=False).frontend
    if args.probe:
        print(json.dumps(probe(args)))
        return 0

    from utils.separation.mixtures import load_separator  # torch comes only after the paths were found good

    network = load_separator(args.exp_dir, "cpu").network
    precision = frontend.precision if frontend else ""
    measured = []
    for minutes in args.minutes:
        with tempfile.TemporaryDirectory(prefix="long-recording-") as folder:
            shape = (network.config.n_src if frontend else 0, network.visual_dim)
            make_recording(Path(folder), 60 * minutes, network.sample_rate, network.video_fps, shape, network.n_src, precision)
            measured.append({"minutes": minutes, **separate_apart(args, Path(folder))})
    text = f"{table(measured)}\n"
    windows = f"{args.exp_dir}: windows of {args.window_sec:g} s every {args.hop_sec:g} s"
    text += origin("utils.tools.long_recordings", args.threads, windows)
    print(text)
    if args.results:
        write_section(args.results, args.section, text)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="long_recordings", description="What long recordings cost in memory and time.")
    parser.add_argument("--exp_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--minutes", type=_minutes, default="1,10", help="lengths, separated by commas")
    parser.add_argument("--window_sec", type=float, default=WINDOW_SEC, help="what the network hears at once")
    parser.add_argument("--hop_sec", type=float, default=HOP_SEC, help="from window to window")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--probe", type=Path, help="separate the recording in this folder, print what it took")
    add_results_options(parser, "long-recordings")
    args = parser.parse_args()
    if args.threads < 1:
        parser.error(f"--threads {args.threads} must be at least 1")
    check_window_options(parser, args)
    return args


def check_window_options(parser: OptionParser, args: argparse.Namespace) -> None:
    """Refuse windows that would not overlap, or of which more than two would."""
    if not 0 < args.hop_sec < args.window_sec <= 2 * args.hop_sec:
        parser.error("--hop_sec must be shorter than --window_sec and at least half of it")


def _minutes(text: str) -> list[float]:
    try:
        minutes = [float(word) for word in text.split(",")]
    except ValueError:
        minutes = []
    if not minutes or not all(0 < value < float("inf") for value in minutes):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of minutes such as 1,10")
    return minutes


def make_recording(
    folder: Path,
    length_sec: float,
    sample_rate: int,
    fps: float,
    faces: tuple[int, int],
    n_src: int,
    precision: str = "float16",
) -> None:
    """Write a recording of noise, an embedding of noise for each face, and the manifest that names them.

    Args:
        folder: where to.
        length_sec: of the recording.
        sample_rate: Hz.
        fps: video frames for each second.
        faces: how many, and values in a frame's embedding; (0, ...) for none.
        n_src: voices that the manifest speaks of.
        precision: of the embeddings.
    """
    n_faces, dim = faces
    rng = np.random.default_rng(0)
    length, n_frames = round(length_sec * sample_rate), round(length_sec * fps)
    with soundfile.SoundFile(folder / "mix.wav", "w", sample_rate, 1, "FLOAT") as handle:
        for start in range(0, length, 60 * sample_rate):
            handle.write(0.1 * rng.standard_normal(min(60 * sample_rate, length - start), dtype=np.float32))
    mouths = tuple(f"face{k}.npz" for k in range(n_faces))
    if mouths:
        with EmbeddingWriter(folder / STORE, precision) as writer:
            for mouth in mouths:
                writer.add(mouth, rng.standard_normal((n_frames, dim), dtype=np.float32), Source(0, 0, ""))
    blank = ("",) * n_src
    item = Mixture("recording", "mix.wav", blank, "", length, mouths or blank, n_frames, float(fps), blank, None, "")
    common = {"corpus": "long", "split": "recording", "data_root": folder, "sample_rate": sample_rate, "n_src": n_src}
    write_manifest(folder / MANIFEST, items=[item], **common)


def separate_apart(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Separate the recording of a folder in a process of its own; what `probe` says.

    Raises:
        UserError: the process failed.
    """
    command = [sys.executable, "-m", "utils.tools.long_recordings", "--probe", str(folder)]
    for name in ("exp_dir", "window_sec", "hop_sec", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    return json.loads(run_probe(command))


def probe(args: argparse.Namespace) -> dict[str, Any]:
    """Separate as stage 4 does; bytes are right only in a process that has done nothing else."""
    folder = args.probe
    manifest = read_manifest(folder / MANIFEST)

    import torch

    from utils.separation.mixtures import EstimateFolder, load_separator, plan_tasks, separate_tasks

    torch.set_num_threads(args.threads)
    separator = load_separator(args.exp_dir, "cpu")
    store = EmbeddingStore(folder / STORE) if separator.needs_faces else None
    options = SeparationOptions(args.window_sec, args.hop_sec)
    tasks, problems = plan_tasks(manifest, separator, None, store, {}, options)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in separator.network.state_dict().values())
    before, start_sec = resident_bytes("VmRSS"), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here, not from the imports
    done = separate_tasks(EstimateFolder(folder / VOICES, tasks, store), manifest.n_src, options)
    elapsed_sec = time.perf_counter() - start_sec
    for problem in (*problems, *done.problems):
        raise UserError(problem.reason)
    return {
        "peak_memory_bytes": weights + max(resident_bytes("VmHWM") - before, 0),
        "real_time_factor": elapsed_sec / done.audio_sec,
    }


def table(measured: list[dict[str, Any]]) -> str:
    """The Markdown table; memory also as a ratio to the first length's."""
    heads = ("recording (min)", "peak memory (MB)", f"over {measured[0]['minutes']:g} min's", "real-time factor")
    lines = ["| " + " | ".join(heads) + " |", "|---:" * len(heads) + "|"]
    for row in measured:
        peak = row["peak_memory_bytes"]
        cells = [f"{row['minutes']:g}", f"{peak / 1e6:.0f}", f"{peak / measured[0]['peak_memory_bytes']:.2f}"]
        lines.append("| " + " | ".join([*cells, f"{row['real_time_factor']:.3f}"]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_cli(main)
