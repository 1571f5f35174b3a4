"""A network and its visual frontend by torch, by onnxruntime, and in 8 bits: time, size, score.

Reads   an experiment, --export_dir of utils.tools.export --int8 true, and --test_dir: mixtures with sources and mouths
Writes  a table to the standard output, with --results also into a section of that file
Run     python -m utils.tools.export_speed --exp_dir egs/own_video/pretrained --export_dir exported --test_dir DIR

The runtimes take turns, in one process: times are medians, and what they are to torch's is the median of the quotients turn
by turn. `network` is a mixture of 2 s with two faces, and whose voices they are where the network tells. `frontend` is for one
frame of one face, of two clips of 2 s; `one frame` is a call with one frame of two faces. SI-SNRi is the mean over the
mixtures, in the order of the faces, ± its standard error, and ± that of the difference to torch.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from utils.data.audio import read_audio
from utils.data.experiments import Experiment, open_experiment
from utils.data.hub import experiment_folder
from utils.data.manifest import Manifest, Mixture
from utils.data.mouths import MouthFile
from utils.data.progress import progress_bar
from utils.data.reports import markdown_table
from utils.embedding.embed import AnyFrontend, embed_file
from utils.embedding.exported import NAME
from utils.embedding.frontends import Frontend
from utils.embedding.kinds import load_kind
from utils.environment import add_missing
from utils.errors import OptionParser, UserError, at_least, run_cli
from utils.export.graphs import OnnxModule
from utils.scoring.metrics import si_snr
from utils.separation.exported import OnnxSeparator
from utils.separation.overlap_add import compares, separate_window
from utils.separation.test_sets import find_test_set
from utils.tools.sections import add_results_options, origin, publish
from utils.training.experiment import load_model

RUNTIMES = ("torch", "onnxruntime", "onnxruntime, int8")
FILES = {"onnxruntime": ("model.onnx", f"{NAME}.onnx"), "onnxruntime, int8": ("model.int8.onnx", f"{NAME}.int8.onnx")}
_SEC = 2.0


class Setup(NamedTuple):
    """What a runtime needs."""

    network: torch.nn.Module
    frontends: dict[str, AnyFrontend]
    n_bytes: int


def main() -> None:
    """Measure, print the table."""
    args = _parse_args()
    add_missing("requirements-onnx.txt")
    experiment = open_experiment(args.exp_dir, args.frontend_weights)
    if set(experiment.frontends) - {"shape"} != {"lips"}:
        raise UserError(f"--exp_dir {args.exp_dir}: a network that sees lips, and no faces, is measured")
    test_set = find_test_set(args.test_dir, "", args.data_root_dir, 1)
    manifest: Manifest = test_set.manifest
    items = manifest.items[:: max(len(manifest.items) // args.n_mixtures, 1)][: args.n_mixtures]
    columns: list[list[str]] = []
    for n_threads in args.threads:
        torch.set_num_threads(n_threads)
        setups = {name: _setup(name, experiment, args.export_dir) for name in RUNTIMES}
        columns += _times(setups, n_threads, args.turns)
    sizes = ["size (MB)", *(f"{setup.n_bytes / 1e6:.1f}" for setup in setups.values())]
    names = ["", *RUNTIMES]
    scores = _scores(setups, experiment, manifest, items)
    rows = list(zip(names, *columns, sizes, *scores, strict=True))
    publish(f"{markdown_table(rows)}\n{origin('utils.tools.export_speed', max(args.threads))}", args.results, args.section)


def _setup(name: str, experiment: Experiment, folder: Path) -> Setup:
    network = load_model(experiment.network_path)
    frontends = {kind: load_kind(kind, each.weights, each.conf, each.layer) for kind, each in experiment.frontends.items()}
    if name not in FILES:
        files = (experiment.network_path, Path(experiment.frontends["lips"].weights))
        return Setup(network, frontends, sum(path.stat().st_size for path in files))
    file, frontend_file = FILES[name]
    matcher = ["matcher.onnx"] if network.matcher is not None else []
    n_bytes = sum((folder / each).stat().st_size for each in (file, frontend_file, *matcher))
    frontends["lips"].network = OnnxModule(folder / frontend_file)
    return Setup(OnnxSeparator(network, folder, file), frontends, n_bytes)


def _times(setups: dict[str, Setup], n_threads: int, turns: int) -> list[list[str]]:
    """A column for each part, its head first."""
    config = setups["torch"].network.config
    mixture = torch.randn(1, round(_SEC * config.sample_rate))
    n_frames = round(_SEC * config.video_fps)
    visual = torch.randn(1, 2, n_frames, config.visual_dim)
    size = setups["torch"].frontends["lips"].crop_size
    clips, frame = torch.randn(2, n_frames, size, size), torch.randn(2, 1, size, size)

    def network(setup: Setup) -> None:
        setup.network.streams(mixture, visual) if compares(setup.network) else setup.network(mixture, visual)

    parts: dict[str, tuple[Callable[[Setup], object], int]] = {
        "network": (network, 1),
        "frontend": (lambda setup: setup.frontends["lips"](clips), 2 * n_frames),
        "one frame": (lambda setup: setup.frontends["lips"](frame), 1),
    }
    columns = []
    for part, (run, count) in parts.items():
        found = _in_turn([lambda setup=setup, run=run: run(setup) for setup in setups.values()], turns)
        head = f"{part}, {n_threads} thread{'s' * (n_threads > 1)} (ms)"
        cells = [f"{1e3 * statistics.median(each) / count:.2f}" for each in found]
        ratios = [statistics.median(ours / torchs for ours, torchs in zip(each, found[0], strict=True)) for each in found]
        compared = (f"{cell} (× {ratio:.2f})" for cell, ratio in zip(cells[1:], ratios[1:], strict=True))
        columns.append([head, cells[0], *compared])
    return columns


@torch.inference_mode()
def _in_turn(runs: list[Callable[[], object]], turns: int) -> list[list[float]]:
    """Seconds of each, turn by turn, after two turns that do not count."""
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(turns + 2):
        for run, seconds in zip(runs, found, strict=True):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return [seconds[2:] for seconds in found]


def _scores(
    setups: dict[str, Setup], experiment: Experiment, manifest: Manifest, items: tuple[Mixture, ...]
) -> list[list[str]]:
    found = {name: [] for name in setups}
    for item in progress_bar(items, desc="mixtures", unit="mix"):
        paths = [manifest.resolve(path) for path in (item.mixture_path, *item.source_paths)]
        mixture, *sources = (read_audio(path, sample_rate=manifest.sample_rate) for path in paths)
        for name, setup in setups.items():
            visual = np.stack([_embedding(setup, experiment, manifest.resolve(path)) for path in item.mouth_paths])
            given = torch.from_numpy(mixture)[None], torch.from_numpy(visual)[None]
            estimates = separate_window(setup.network, *given)[0].numpy()
            gains = [si_snr(one, source) - si_snr(mixture, source) for one, source in zip(estimates, sources, strict=True)]
            found[name].append(np.mean(gains))
    own = [f"{np.mean(each):.2f} ± {_error(each):.2f}" for each in found.values()]
    losses = [np.subtract(each, found["torch"]) for each in found.values()]
    differences = ["", *(f"{np.mean(each):+.3f} ± {_error(each):.3f}" for each in losses[1:])]
    return [[f"SI-SNRi of {len(items)} (dB)", *own], ["to torch's (dB)", *differences]]


def _embedding(setup: Setup, experiment: Experiment, path: Path) -> np.ndarray:
    """As stage 2 stores it: float32 (frames, dim)."""
    parts, file = [], MouthFile(path)
    for kind, frontend in setup.frontends.items():
        is_network = isinstance(frontend, Frontend)
        vectors = embed_file(frontend, file).numpy() if is_network else frontend.read(path, file.n_frames, False)
        parts.append(vectors.astype(experiment.frontends[kind].precision).astype(np.float32))
    return np.concatenate(parts, axis=1)


def _error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="export_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--exp_dir", type=experiment_folder, required=True, help="experiment, or hf://USER/NAME")
    parser.add_argument("--frontend_weights", default="", help="where its visual frontend is now")
    parser.add_argument("--export_dir", type=Path, required=True, help="its graphs, in 8 bits too")
    parser.add_argument("--test_dir", type=Path, required=True, help="CSV of mixtures, or a folder in the DLA layout")
    parser.add_argument("--data_root_dir", type=Path, default=Path("data"), help="of a folder's manifest")
    parser.add_argument("--n_mixtures", type=at_least(2), default=40, help="spread over the test set")
    parser.add_argument("--threads", type=lambda text: [int(each) for each in text.split(",")], default=[1, 2])
    parser.add_argument("--turns", type=at_least(1), default=15, help="of the runtimes, for each time")
    add_results_options(parser, "export-speed")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
