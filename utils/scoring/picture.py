"""Picture of a separation: the mixture, and the mouth crops, source and estimate of each speaker.

Reads exp/<tag>/separated/<test name>/separated.csv, the sound it names and the mouth crops of the test set's CSV;
writes a PNG.

    python -m utils.scoring.picture --exp_dir exp/av_tfdprnn_demo --manifest data/demo/test.csv --out result.png
"""

import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.signal import stft

from utils.data.audio import read_audio
from utils.data.files import atomic_path
from utils.data.manifest import Manifest, Mixture, read_manifest
from utils.data.mouths import read_mouths
from utils.errors import OptionParser, UserError, run_cli
from utils.scoring.metrics import si_snr

N_FACES_SHOWN = 14
FLOOR_DB = -70.0


def main() -> None:
    parser = OptionParser(prog="picture", description="Draw one separated mixture.")
    parser.add_argument("--exp_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--manifest", type=Path, required=True, help="CSV of the test set that was separated")
    parser.add_argument("--mixture", default="", help="which one; empty: the first of one source, else the first")
    parser.add_argument("--out", type=Path, required=True, help="the PNG")
    args = parser.parse_args()
    manifest = read_manifest(args.manifest)
    folder = args.exp_dir / "separated" / f"{manifest.path.resolve().parent.name}_{manifest.path.stem}"
    item = _chosen(manifest, args.mixture)
    draw(manifest, item, _estimates(folder, item.mixture_id), args.out)


def draw(manifest: Manifest, item: Mixture, estimate_paths: list[Path], out: Path) -> None:
    """Draw the mixture on top and a row a source: face, reference, estimate with its SI-SNR and SI-SNRi."""
    rate = manifest.sample_rate
    mixture = read_audio(manifest.resolve(item.mixture_path), sample_rate=rate)
    figure = Figure(figsize=(11, 1.6 + 2.6 * len(estimate_paths)), layout="constrained")
    grid = figure.add_gridspec(1 + 2 * len(estimate_paths), 2, height_ratios=[3] + [1.3, 3] * len(estimate_paths))
    _spectrogram(figure.add_subplot(grid[0, :]), mixture, rate, f"mixture {item.mixture_id} {item.subset}")
    sources = zip(item.source_paths, item.mouth_paths, estimate_paths, strict=True)
    for k, (source_path, mouth_path, estimate_path) in enumerate(sources):
        source, estimate = read_audio(manifest.resolve(source_path)), read_audio(estimate_path)
        faces = figure.add_subplot(grid[1 + 2 * k, :])
        mouths = read_mouths(manifest.resolve(mouth_path))
        shown = np.linspace(0, len(mouths) - 1, N_FACES_SHOWN).round().astype(int)
        faces.imshow(np.concatenate(list(mouths[shown]), axis=1), cmap="gray", vmin=0, vmax=255)
        faces.set_axis_off()
        after, before = si_snr(estimate, source), si_snr(mixture, source)
        _spectrogram(figure.add_subplot(grid[2 + 2 * k, 0]), source, rate, f"source {k + 1}")
        title = f"estimate {k + 1}: SI-SNR {after:.1f} dB, SI-SNRi {after - before:.1f} dB"
        _spectrogram(figure.add_subplot(grid[2 + 2 * k, 1]), estimate, rate, title)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=100)


def _chosen(manifest: Manifest, mixture_id: str) -> Mixture:
    if not mixture_id:
        return next((item for item in manifest.items if item.subset == "same_voice"), manifest.items[0])
    for item in manifest.items:
        if item.mixture_id == mixture_id:
            return item
    raise UserError(f"{manifest.path}: no mixture '{mixture_id}'")


def _estimates(folder: Path, mixture_id: str) -> list[Path]:
    table = folder / "separated.csv"
    if not table.is_file():
        raise UserError(f"{table}: no such file; stage 4 makes it")
    with open(table, newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            if row["mixture_ID"] == mixture_id:
                return [folder / value for name, value in row.items() if name.startswith("estimate_")]
    raise UserError(f"{table}: no mixture '{mixture_id}'; failed.csv says why")


def _spectrogram(panel: Axes, signal: np.ndarray, rate_hz: int, title: str) -> None:
    _, _, spectrum = stft(signal, rate_hz, nperseg=512, noverlap=384)
    level_db = 20 * np.log10(np.abs(spectrum) / np.abs(spectrum).max().clip(1e-9) + 1e-9)
    extent = (0, len(signal) / rate_hz, 0, rate_hz / 2000)
    panel.imshow(level_db, origin="lower", aspect="auto", extent=extent, vmin=FLOOR_DB, vmax=0, cmap="magma")
    panel.set_title(title, fontsize=9, loc="left")
    panel.set_ylabel("kHz", fontsize=8)
    panel.tick_params(labelsize=7)


if __name__ == "__main__":
    run_cli(main)
