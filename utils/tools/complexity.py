"""Costs of a conf's network: parameters, MACs, memory, disk and time, with and without the visual frontend.

Reads   conf/*.yml, and with --frontend_weights the visual frontend. Writes the numbers to --json F, and a Markdown
        table to the standard output.
Run     python -m utils.tools.complexity --conf conf/av_tfdprnn.yml conf/av_tfdprnn_audio_only.yml \\
            --frontend_weights egs/demo/lipreader.pth.tar [--json complexity.json]

All is for one mixture of 2 s with its video (batch 1), without reading or preprocessing files. "With visual frontend"
adds its forward pass over the mouth crops of all faces, which the store of embeddings otherwise saves; it is never
trained. MACs are for each second of audio. Times are the median of several runs after a warm-up; a training step is
forward, SI-SNR loss, backward and Adam. Memory is measured in a fresh process for each case: weights, plus the growth
of the process (CPU) or of torch's allocations (GPU) at its peak.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from asteroid.losses import multisrc_neg_sisdr
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from local_models.networks import build_network
from utils.data.files import write_json
from utils.data.reports import markdown_table
from utils.embedding.face_frontends import DLIB_DIM
from utils.embedding.frontends import load_frontend
from utils.embedding.landmarks import LipShapes
from utils.errors import OptionParser, UserError, at_least, run_cli
from utils.tools.memory import in_own_process, peak_bytes
from utils.tools.sections import cpu_name
from utils.training.config import Config, read_separation_config
from utils.training.experiment import save_model

MIXTURE_SEC = 2.0
WARM_UP_RUNS, RUNS = 2, 7

ROWS = (
    ("Parameters (M)", "params", 1e6, "{:.3f}"),
    ("MACs a second of audio (G)", "macs_per_audio_second", 1e9, "{:.3f}"),
    ("On disk (MB)", "disk_bytes", 1e6, "{:.1f}"),
    ("Inference, 2 s mixture, {device} (ms)", "inference_seconds_per_2s_mixture", 1e-3, "{:.1f}"),
    ("Real-time factor, {device}", "real_time_factor", 1, "{:.3f}"),
    ("Training step, batch 1, {device} (ms)", "train_step_seconds", 1e-3, "{:.1f}"),
    ("Peak memory, inference, {device} (MB)", "peak_memory_bytes", 1e6, "{:.0f}"),
    ("Peak memory, training step, {device} (MB)", "train_peak_memory_bytes", 1e6, "{:.0f}"),
)


def main() -> int:
    """Measure every conf, print the table."""
    args = parse_args()
    configs = {path: read_separation_config(path) for path in args.conf}
    if args.frontend_weights and not args.frontend_weights.is_file():
        raise UserError(f"--frontend_weights {args.frontend_weights}: no such file")
    torch.set_num_threads(args.threads)
    results = {str(path): measure(path, config, args.frontend_weights) for path, config in configs.items()}
    print(table(results, args.threads))
    if args.json:
        write_json(args.json, next(iter(results.values())) if len(results) == 1 else results)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="complexity", description="Costs of a conf's network.")
    parser.add_argument("--conf", type=Path, nargs="+", default=[Path("conf/av_tfdprnn.yml")], help="conf/*.yml")
    parser.add_argument("--frontend_weights", type=Path, help="visual frontend, for the numbers that include it")
    parser.add_argument("--json", type=Path, help="also write the numbers here (by conf, if there are several)")
    parser.add_argument("--threads", type=at_least(1), default=2, help="CPU threads")
    return parser.parse_args()


class Setup(nn.Module):
    """The network of a conf, with or without the visual frontend before it, and one mixture with its video.

    Args:
        config: its `visual_dim` is that of the embeddings.
        frontend_weights: weights of the visual frontend; None where the embeddings are given.
        device: "cpu" or "cuda".
    """

    def __init__(self, config: Config, frontend_weights: Path | None = None, device: str = "cpu") -> None:
        super().__init__()
        model = config.model
        self.network = build_network(model)
        self.frontend = load_frontend(frontend_weights) if frontend_weights else None
        self.to(device)
        length, n_frames = round(MIXTURE_SEC * model.sample_rate), round(MIXTURE_SEC * model.video_fps)
        crop = (model.visual_dim,) if self.frontend is None else (self.frontend.crop_size,) * 2
        self.sources = torch.randn(1, model.n_src, length, device=device)
        self.faces = torch.randn(1, model.n_faces, n_frames, *crop, device=device) if model.n_faces else None
        self.optimizer = torch.optim.Adam(self.network.parameters())

    def forward(self, mixture: torch.Tensor, visual: torch.Tensor | None) -> torch.Tensor:
        """Mixture and faces to estimates, (1, n_src, time); the visual frontend, if any, first."""
        if self.frontend is not None:
            visual = self.frontend(visual.flatten(0, 1)).unflatten(0, visual.shape[:2])
        return self.network(mixture, visual)

    def infer(self) -> None:
        """Run one pass without gradients."""
        self.eval()
        with torch.inference_mode():
            self(self.sources.sum(dim=1), self.faces)

    def train_step(self) -> None:
        """Run one training step."""
        self.train()
        self.optimizer.zero_grad()
        multisrc_neg_sisdr(self(self.sources.sum(dim=1), self.faces), self.sources).mean().backward()
        self.optimizer.step()

    def sizes(self) -> dict[str, int]:
        """Parameters, and MACs for each second of audio."""
        macs = count_macs(self.eval(), self.sources.sum(dim=1), self.faces)
        n_params = sum(parameter.numel() for parameter in self.parameters())
        return {"params": n_params, "macs_per_audio_second": round(macs / MIXTURE_SEC)}


def count_macs(network: nn.Module, *inputs: torch.Tensor | None) -> int:
    """The multiply-accumulate operations of one pass, by torch's counter.

    Counted are the products with weights and between signals: convolutions, linear and recurrent layers, matrix
    products and attention. Biases, norms, activations and element-wise masks are not. Nothing is computed: only on the
    meta device does the counter see the products of an LSTM.
    """
    inputs = [None if tensor is None else tensor.to("meta") for tensor in inputs]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(network).to("meta")(*inputs)
    return counter.get_total_flops() // 2


def measure(path: Path, config: Config, frontend_weights: Path | None) -> dict[str, Any]:
    """All numbers of one conf: those of the separation network on top, `with_visual_frontend` and `gpu` below."""
    result = {"conf": str(path), "n_src": config.model.n_src, "threads": torch.get_num_threads()}
    kinds = config.kinds_of_frontends
    if kinds:
        lips_dim = load_frontend(frontend_weights).dim if frontend_weights else config.model.visual_dim
        dims = {"lips": lips_dim, "shape": LipShapes.dim, "face": DLIB_DIM}
        given = [dims[kind] if kind in kinds else 0 for kind in dims]
        config = config.with_visual_dim(sum(given), given[2], given[1])
    if not (frontend_weights and kinds == ("lips",)):  # a frontend for faces sees a frame in sixteen, or is the user's own
        return result | _numbers(config, None)
    return result | _numbers(config, None) | {"with_visual_frontend": _numbers(config, frontend_weights)}


def _numbers(config: Config, frontend_weights: Path | None) -> dict[str, Any]:
    setup = Setup(config, frontend_weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best_model.pth"
        save_model(path, setup.network, {})
        disk_bytes = path.stat().st_size + (frontend_weights.stat().st_size if frontend_weights else 0)
    numbers = setup.sizes() | {"disk_bytes": disk_bytes} | _costs(config, frontend_weights, "cpu")
    if torch.cuda.is_available():
        numbers["gpu"] = {"device": torch.cuda.get_device_name(), **_costs(config, frontend_weights, "cuda")}
    return numbers


def _costs(config: Config, frontend_weights: Path | None, device: str) -> dict[str, float]:
    """Times and memory on one device."""
    setup = Setup(config, frontend_weights, device)
    infer_sec, train_sec = (median_seconds({"": run}, device)[""] for run in (setup.infer, setup.train_step))
    how, cases = (device, torch.get_num_threads()), ("infer", "train_step")
    peaks = [in_own_process(peak_memory_bytes, config, frontend_weights, case, *how) for case in cases]
    return {
        "inference_seconds_per_2s_mixture": infer_sec,
        "real_time_factor": infer_sec / MIXTURE_SEC,
        "train_step_seconds": train_sec,
        "peak_memory_bytes": peaks[0],
        "train_peak_memory_bytes": peaks[1],
    }


def peak_memory_bytes(config: Config, frontend_weights: Path | None, case: str, device: str, threads: int) -> int:
    """Peak memory of one call of `Setup.infer` or `Setup.train_step`, in a process that has done nothing else."""
    torch.set_num_threads(threads)
    setup = Setup(config, frontend_weights, device)
    run = getattr(setup, case)
    if device == "cpu":
        return peak_bytes(setup, run)
    run()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated()


def inference_costs(configs: dict[str, Config], threads: int) -> dict[str, dict[str, float]]:
    """Parameters, MACs and time of several networks, timed in turns, so that a noisy machine is so for all of them.

    Args:
        configs: by name, each with the `visual_dim` that it was trained with.
        threads: CPU threads.

    Returns:
        By name: `params`, `macs_per_audio_second`, and `inference_sec` for a mixture of `MIXTURE_SEC`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    setups = {name: Setup(config) for name, config in configs.items()}
    seconds = median_seconds({name: setup.infer for name, setup in setups.items()})
    torch.set_num_threads(before)
    return {name: setup.sizes() | {"inference_sec": seconds[name]} for name, setup in setups.items()}


def median_seconds(runs: dict[str, Callable[[], None]], device: str = "cpu") -> dict[str, float]:
    """The median times of several functions that run in turns, after a warm-up, by their names."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(WARM_UP_RUNS + RUNS):
        for name, run in runs.items():
            start_sec = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start_sec)
    return {name: statistics.median(times[WARM_UP_RUNS:]) for name, times in seconds.items()}


def table(results: dict[str, dict[str, Any]], threads: int) -> str:
    """The numbers as Markdown: a row for each number, a column for each conf, with and without the visual frontend."""
    columns: list[tuple[str, dict[str, Any]]] = []
    for path, numbers in results.items():
        columns.append((Path(path).stem, numbers))
        if "with_visual_frontend" in numbers:
            columns.append((f"{Path(path).stem} with visual frontend", numbers["with_visual_frontend"]))
    devices = {f"CPU, {threads} threads": [numbers for _, numbers in columns]}
    if torch.cuda.is_available():
        devices[torch.cuda.get_device_name()] = [numbers["gpu"] for _, numbers in columns]
    rows = [["", *(name for name, _ in columns)]]
    for index, (device, cells) in enumerate(devices.items()):
        for title, key, unit, form in ROWS:
            if index == 0 or "{device}" in title:
                rows.append([title.format(device=device), *(form.format(numbers[key] / unit) for numbers in cells)])
    return f"{markdown_table(rows)}\nCPU: {cpu_name()}"


if __name__ == "__main__":
    run_cli(main)
