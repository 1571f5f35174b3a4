"""Costs of long recordings: peak memory and real-time factor of stage 4's windowed separation, by length.

Reads   exp/<tag>/best_model.pth (and frontend.json).
Writes  recordings of noise with noise for embeddings into a temporary folder that it removes; the table to the standard
        output, with --results also into a section of that file.
Run     python -m utils.tools.long_recordings --exp_dir exp/demo_demo --minutes 1,10 --results RESULTS.md

Each length is separated in a fresh process, from files to files. Memory is that of `utils.tools.complexity`: the
weights, and the growth of the process at its peak. A network costs the same for any sound.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from local_models.configs import SeparatorConfig
from utils.data.experiments import open_experiment
from utils.data.manifest import Mixture, read_manifest, write_manifest
from utils.data.reports import markdown_table
from utils.embedding.store import EmbeddingStore, EmbeddingWriter, Source
from utils.errors import OptionParser, UserError, at_least, run_cli
from utils.separation.options import SeparationOptions
from utils.tools.processes import in_own_process, peak_growth_bytes
from utils.tools.sections import add_results_options, origin, publish

WINDOW_SEC, HOP_SEC = SeparationOptions.window_sec, SeparationOptions.hop_sec  # of stage 4
STORE, MANIFEST, ESTIMATES = "embeddings", "recording.csv", "estimates"


def main() -> int:
    """Measure every length, print the table."""
    args = parse_args()
    frontend = open_experiment(args.exp_dir, needs_weights=False).frontend

    from utils.separation.mixtures import load_separator  # torch comes only after the paths were found good

    config = load_separator(args.exp_dir, "cpu").network.config
    precision = frontend.precision if frontend else "float16"
    measured = []
    for minutes in args.minutes:
        with tempfile.TemporaryDirectory(prefix="long-recording-") as name:
            folder = Path(name)
            make_recording(folder, 60 * minutes, config, precision)
            windows = (args.window_sec, args.hop_sec)
            costs = in_own_process(separate_recording, folder, args.exp_dir, *windows, args.threads)
            measured.append({"minutes": minutes, **costs})
    windows = f"{args.exp_dir}: windows of {args.window_sec:g} s every {args.hop_sec:g} s"
    text = f"{table(measured)}\n" + origin("utils.tools.long_recordings", args.threads, windows)
    publish(text, args.results, args.section)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="long_recordings", description="Costs of long recordings in memory and time.")
    parser.add_argument("--exp_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--minutes", type=_minutes, default="1,10", help="lengths, separated by commas")
    parser.add_argument("--window_sec", type=float, default=WINDOW_SEC, help="that the network separates at once")
    parser.add_argument("--hop_sec", type=float, default=HOP_SEC, help="from window to window")
    parser.add_argument("--threads", type=at_least(1), default=1, help="CPU threads")
    add_results_options(parser, "long-recordings")
    args = parser.parse_args()
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


def make_recording(folder: Path, length_sec: float, config: SeparatorConfig, precision: str = "float16") -> None:
    """Write a recording of noise, an embedding of noise for each face, and the manifest that names them.

    Args:
        folder: where to.
        length_sec: of the recording.
        config: of the network that will separate it.
        precision: of the embeddings.
    """
    rng, rate_hz = np.random.default_rng(0), config.sample_rate
    length, n_frames = round(length_sec * rate_hz), round(length_sec * config.video_fps)
    with soundfile.SoundFile(folder / "mix.wav", "w", rate_hz, 1, "FLOAT") as handle:
        for start in range(0, length, 60 * rate_hz):
            handle.write(0.1 * rng.standard_normal(min(60 * rate_hz, length - start), dtype=np.float32))
    mouths = tuple(f"face{k}.npz" for k in range(config.n_faces))
    if mouths:
        with EmbeddingWriter(folder / STORE, precision) as writer:
            for mouth in mouths:
                embedding = rng.standard_normal((n_frames, config.visual_dim), dtype=np.float32)
                writer.add(mouth, embedding, Source(0, 0, ""))
    blank, fps = ("",) * config.n_src, config.video_fps
    item = Mixture("recording", "mix.wav", blank, "", length, mouths or blank, n_frames, fps, blank, None, "")
    facts = {"corpus": "long", "split": "recording", "sample_rate": rate_hz, "n_src": config.n_src}
    write_manifest(folder / MANIFEST, items=[item], data_root=folder, **facts)


def separate_recording(folder: Path, exp_dir: Path, window_sec: float, hop_sec: float, threads: int) -> dict[str, float]:
    """Separate the recording of a folder as stage 4 does, in a process that has done nothing else.

    Returns:
        `peak_memory_bytes` and `real_time_factor`.

    Raises:
        UserError: it cannot be separated.
    """
    manifest = read_manifest(folder / MANIFEST)

    import torch

    from utils.separation.mixtures import EstimateFolder, load_separator, plan_tasks, separate_tasks

    torch.set_num_threads(threads)
    separator = load_separator(exp_dir, "cpu")
    store = EmbeddingStore(folder / STORE) if separator.needs_faces else None
    options = SeparationOptions(window_sec, hop_sec)
    tasks, problems = plan_tasks(manifest, separator, None, store, {}, options)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in separator.network.state_dict().values())
    done, start_sec = [], time.perf_counter()
    growth = peak_growth_bytes(
        lambda: done.append(separate_tasks(EstimateFolder(folder / ESTIMATES, tasks, store), manifest.n_src, options))
    )
    elapsed_sec = time.perf_counter() - start_sec
    for problem in (*problems, *done[0].problems):
        raise UserError(problem.reason)
    return {"peak_memory_bytes": weights + growth, "real_time_factor": elapsed_sec / done[0].audio_sec}


def table(measured: list[dict[str, Any]]) -> str:
    """The Markdown table; memory also as a ratio to the first length's."""
    first = measured[0]
    rows = [["recording (min)", "peak memory (MB)", f"over {first['minutes']:g} min's", "real-time factor"]]
    for row in measured:
        peak = row["peak_memory_bytes"]
        ratio = peak / first["peak_memory_bytes"]
        rows.append([f"{row['minutes']:g}", f"{peak / 1e6:.0f}", f"{ratio:.2f}", f"{row['real_time_factor']:.3f}"])
    return markdown_table(rows, n_left=0)


if __name__ == "__main__":
    run_cli(main)
