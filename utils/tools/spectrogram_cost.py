"""Is it worth keeping spectrograms on the disk? What reading them costs, against reading the sound and computing them.

Reads   --manifest: utterances or mixtures of a prepared corpus
Writes  the table to --results, or prints it; the spectrograms lie in a temporary folder meanwhile
Run     python -m utils.tools.spectrogram_cost --manifest data/demo/utterances.csv [--n_clips 200]

Each clip is read and computed in turn with its stored spectrogram, float32 (bins, frames, 2), of windows of 512 samples every
160, so that both find the machine in the same state. The files were just written, so both come from the page cache: from a disk
the larger one loses more.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from utils.data.audio import read_audio
from utils.data.manifest import item_audio, read_manifest
from utils.data.reports import markdown_table
from utils.errors import OptionParser, at_least, run_cli
from utils.tools.sections import add_results_options, origin, publish

_N_FFT, _HOP = 512, 160  # samples


def main() -> int:
    """Measure, print the table."""
    args = _parse_args()
    torch.set_num_threads(1)
    manifest = read_manifest(args.manifest)
    paths = [manifest.resolve(item_audio(item)[0]) for item in manifest.items[: args.n_clips]]
    seconds: dict[str, list[float]] = {"read the sound": [], "and compute": [], "read the spectrogram": []}
    n_bytes = {"sound": 0, "spectrogram": 0}
    duration_sec = 0.0
    with tempfile.TemporaryDirectory() as name:
        stored = [Path(name, f"{number}.npy") for number in range(len(paths))]
        for path, target in zip(paths, stored, strict=True):
            samples = read_audio(path)
            np.save(target, _spectrogram(samples))
            n_bytes["sound"] += path.stat().st_size
            n_bytes["spectrogram"] += target.stat().st_size
            duration_sec += len(samples) / manifest.sample_rate
        for path, target in zip(paths, stored, strict=True):
            times = [time.perf_counter()]
            samples = read_audio(path)
            times.append(time.perf_counter())
            _spectrogram(samples)
            times.append(time.perf_counter())
            np.load(target)
            times.append(time.perf_counter())
            for part, cost in zip(seconds, np.diff(times), strict=True):
                seconds[part].append(float(cost))
    computed = [one + other for one, other in zip(seconds["read the sound"], seconds["and compute"], strict=True)]
    ratio = float(np.median(np.array(seconds["read the spectrogram"]) / np.array(computed)))
    rows = [["", "ms a clip (median)", "MB an hour"]]
    for part, key in zip(seconds, ("sound", "", "spectrogram"), strict=True):
        size = f"{n_bytes[key] / duration_sec * 3600 / 1e6:.0f}" if key else ""
        rows.append([part, f"{1000 * np.median(seconds[part]):.2f}", size])
    rows.append(["spectrogram read / computed (median of pairs)", f"{ratio:.2f}", ""])
    text = f"{markdown_table(rows)}\n{len(paths)} clips, {duration_sec / len(paths):.2f} s each.\n"
    publish(f"{text}{origin('utils.tools.spectrogram_cost', 1)}", args.results, args.section)
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="spectrogram_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, required=True, help="CSV of a prepared corpus")
    parser.add_argument("--n_clips", type=at_least(1), default=200, help="of the first rows")
    add_results_options(parser, "spectrogram-cost")
    return parser.parse_args()


def _spectrogram(samples: np.ndarray) -> np.ndarray:
    """float32 (bins, frames, 2)."""
    taper = torch.hann_window(_N_FFT)
    spectrum = torch.stft(torch.from_numpy(samples), _N_FFT, _HOP, window=taper, return_complex=True)
    return torch.view_as_real(spectrum).numpy()


if __name__ == "__main__":
    run_cli(main)
