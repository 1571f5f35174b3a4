"""Costs of long recordings: peak memory and real-time factor of windowed separation as in stage 4, by length.

Reads   exp/<tag>/best_model.pth.
Writes  recordings of noise and their estimates into a temporary folder that it removes; the table to the standard
        output, with --results also into a section of that file.
Run     python -m utils.tools.long_recordings --exp_dir exp/demo_demo --minutes 1,10 --results RESULTS.md

Each length is separated in a fresh process, from file to files; embeddings are noise, drawn window by window. Memory
is that of `utils.tools.complexity`: the weights, and the growth of the process at its peak. A network costs the same
for any sound.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from utils.data.audio import read_audio
from utils.data.estimates import write_estimates
from utils.data.experiments import open_experiment
from utils.data.hub import experiment_folder
from utils.data.reports import markdown_table
from utils.errors import OptionParser, at_least, run_cli
from utils.separation.options import SeparationOptions
from utils.tools.memory import in_own_process, peak_bytes
from utils.tools.sections import add_results_options, origin, publish


def main() -> int:
    """Measure every length, print the table."""
    args = parse_args()
    open_experiment(args.exp_dir, needs_weights=False)
    measured = {
        minutes: in_own_process(separate_noise, args.exp_dir, 60 * minutes, args.window_sec, args.hop_sec, args.threads)
        for minutes in args.minutes
    }
    windows = f"{args.exp_dir}: windows of {args.window_sec:g} s every {args.hop_sec:g} s"
    text = f"{table(measured)}\n" + origin("utils.tools.long_recordings", args.threads, windows)
    publish(text, args.results, args.section)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="long_recordings", description="Costs of long recordings in memory and time.")
    parser.add_argument("--exp_dir", type=experiment_folder, required=True, help="folder of the experiment")
    parser.add_argument("--minutes", type=_minutes, default="1,10", help="lengths, separated by commas")
    parser.add_argument("--window_sec", type=float, default=SeparationOptions.window_sec, help="separated at once")
    parser.add_argument("--hop_sec", type=float, default=SeparationOptions.hop_sec, help="from window to window")
    parser.add_argument("--threads", type=at_least(1), default=1, help="CPU threads")
    add_results_options(parser, "long-recordings")
    return parser.parse_args()


def _minutes(text: str) -> list[float]:
    try:
        minutes = [float(word) for word in text.split(",")]
    except ValueError:
        minutes = []
    if not minutes or not all(0 < value < float("inf") for value in minutes):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of minutes such as 1,10")
    return minutes


def separate_noise(
    exp_dir: Path, length_sec: float, window_sec: float, hop_sec: float, threads: int, folder: Path | None = None
) -> tuple[int, float]:
    """Separate a recording of noise as stage 4 does, in a process that has done nothing else.

    Args:
        exp_dir: the experiment.
        length_sec: of the recording.
        window_sec: that the network separates at once.
        hop_sec: from window to window.
        threads: CPU threads.
        folder: keeps mix.wav, s1.wav, ...; None keeps nothing.

    Returns:
        Peak memory in bytes, and the real-time factor.

    Raises:
        UserError: window and hop do not fit each other.
    """
    import torch

    from utils.separation.mixtures import load_separator
    from utils.separation.overlap_add import check_windows, separate_blocks

    torch.set_num_threads(threads)
    network = load_separator(exp_dir, "cpu").network
    config, rate_hz = network.config, network.config.sample_rate
    check_windows(window_sec, hop_sec, config.video_fps)
    with tempfile.TemporaryDirectory(prefix="long-recording-") as passing:
        path, length = Path(folder or passing) / "mix.wav", round(length_sec * rate_hz)
        rng = np.random.default_rng(0)
        with soundfile.SoundFile(path, "w", rate_hz, 1, "FLOAT") as handle:
            for start in range(0, length, rate_hz):
                handle.write(0.1 * rng.standard_normal(min(rate_hz, length - start), dtype=np.float32))

        blocks = separate_blocks(
            network,
            lambda start, count: torch.from_numpy(read_audio(path, start, count, rate_hz)),
            (lambda first, count: torch.randn(config.n_faces, count, config.visual_dim)) if config.n_faces else None,
            length, window_sec=window_sec, hop_sec=hop_sec, sample_rate=rate_hz, fps=config.video_fps,
        )  # fmt: skip
        estimates = [path.with_name(f"s{k}.wav") for k in range(1, config.n_src + 1)]
        arrays = (block.numpy() for block in blocks)
        write = partial(write_estimates, estimates, arrays, rate_hz, SeparationOptions.subtype, length)
        start_sec = time.perf_counter()
        peak = peak_bytes(network, write)
        return peak, (time.perf_counter() - start_sec) / length_sec


def table(measured: dict[float, tuple[int, float]]) -> str:
    """The Markdown table of memory and real-time factor by minutes; memory also as a ratio to the first length's."""
    first, (least, _) = next(iter(measured.items()))
    rows = [["recording (min)", "peak memory (MB)", f"over {first:g} min's", "real-time factor"]]
    for minutes, (peak, factor) in measured.items():
        rows.append([f"{minutes:g}", f"{peak / 1e6:.0f}", f"{peak / least:.2f}", f"{factor:.3f}"])
    return markdown_table(rows, n_left=0)


if __name__ == "__main__":
    run_cli(main)
