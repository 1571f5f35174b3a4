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
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from asteroid.losses import multisrc_neg_sisdr
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from local_models.networks import build_network
from utils.data.files import write_json
from utils.data.reports import markdown_table
from utils.embedding.frontends import load_frontend
from utils.errors import OptionParser, UserError, at_least, run_cli
from utils.tools.processes import in_own_process, peak_growth_bytes
from utils.tools.sections import cpu_name
from utils.training.config import Config, read_config
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
    configs = {path: read_config(path) for path in args.conf}
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


def measure(path: Path, config: Config, frontend_weights: Path | None) -> dict[str, Any]:
    """All numbers of one conf: those of the separation network on top, `with_visual_frontend` and `gpu` below."""
    result: dict[str, Any] = {"conf": str(path), "n_src": config.model.n_src, "threads": torch.get_num_threads()}
    weights = frontend_weights if config.model.n_faces else None
    if weights:
        config = config.with_visual_dim(load_frontend(weights).dim)
    for with_frontend in (False, True) if weights else (False,):
        used = weights if with_frontend else None
        numbers = _sizes(config, used) | _costs(config, used, "cpu")
        if torch.cuda.is_available():
            numbers["gpu"] = {"device": torch.cuda.get_device_name(), **_costs(config, used, "cuda")}
        result |= {"with_visual_frontend": numbers} if with_frontend else numbers
    return result


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
    setups = {name: Setup(config, None, "cpu") for name, config in configs.items()}
    seconds = median_seconds({name: setup.infer for name, setup in setups.items()})
    torch.set_num_threads(before)
    sizes = {name: (setup.n_params(), setup.macs_per_sec()) for name, setup in setups.items()}
    return {
        name: {"params": params, "macs_per_audio_second": macs, "inference_sec": seconds[name]}
        for name, (params, macs) in sizes.items()
    }


class Setup:
    """One mixture with its video, and the network of a conf, with or without the visual frontend before it.

    Args:
        config: its `visual_dim` is that of the embeddings.
        frontend_weights: weights of the visual frontend; None where the embeddings are given.
        device: "cpu" or "cuda".
    """

    def __init__(self, config: Config, frontend_weights: Path | None, device: str) -> None:
        model = config.model
        self.network = build_network(model).to(device)
        self.frontend = load_frontend(frontend_weights).to(device) if frontend_weights else None
        generator = torch.Generator().manual_seed(0)
        length, n_frames = round(MIXTURE_SEC * model.sample_rate), round(MIXTURE_SEC * model.video_fps)
        crop = (self.frontend.crop_size,) * 2 if self.frontend is not None else (model.visual_dim,)
        self.sources = torch.randn(1, model.n_src, length, generator=generator).to(device)
        self.faces = None
        if model.n_faces:
            self.faces = torch.randn(1, model.n_faces, n_frames, *crop, generator=generator).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters())

    def separate(self) -> torch.Tensor:
        """Mixture and faces to estimates, (1, n_src, time); the visual frontend, if any, first."""
        visual = self.faces
        if self.frontend is not None:
            visual = self.frontend(self.faces.flatten(0, 1)).unflatten(0, self.faces.shape[:2])
        return self.network(self.sources.sum(dim=1), visual)

    def infer(self) -> None:
        """One pass without gradients."""
        self.network.eval()
        with torch.inference_mode():
            self.separate()

    def train(self) -> None:
        """One training step."""
        self.network.train()
        self.optimizer.zero_grad()
        multisrc_neg_sisdr(self.separate(), self.sources).mean().backward()
        self.optimizer.step()

    def macs_per_sec(self) -> int:
        """MACs for each second of audio."""
        self.network.eval()
        with torch.no_grad(), MacCounter() as counter:
            self.separate()
        return round(counter.macs / MIXTURE_SEC)

    def n_params(self) -> int:
        """Parameters of all networks here."""
        return sum(parameter.numel() for network in self._networks() for parameter in network.parameters())

    def weight_bytes(self) -> int:
        """Memory of the parameters and buffers of all networks here."""
        tensors = [tensor for network in self._networks() for tensor in (*network.parameters(), *network.buffers())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _networks(self) -> list[nn.Module]:
        return [self.network] if self.frontend is None else [self.network, self.frontend]


def _sizes(config: Config, frontend_weights: Path | None) -> dict[str, int]:
    """Parameters, MACs and bytes on disk, which are the same on every device."""
    setup = Setup(config, frontend_weights, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best_model.pth"
        save_model(path, setup.network, {})
        disk_bytes = path.stat().st_size + (frontend_weights.stat().st_size if frontend_weights else 0)
    return {"params": setup.n_params(), "macs_per_audio_second": setup.macs_per_sec(), "disk_bytes": disk_bytes}


def _costs(config: Config, frontend_weights: Path | None, device: str) -> dict[str, float]:
    """Times and memory on one device."""
    setup = Setup(config, frontend_weights, device)
    seconds = median_seconds({"inference": setup.infer}, device) | median_seconds({"training": setup.train}, device)
    del setup
    how = (device, torch.get_num_threads())
    peaks = {case: in_own_process(peak_memory_bytes, config, frontend_weights, case, *how) for case in seconds}
    return {
        "inference_seconds_per_2s_mixture": seconds["inference"],
        "real_time_factor": seconds["inference"] / MIXTURE_SEC,
        "train_step_seconds": seconds["training"],
        "peak_memory_bytes": peaks["inference"],
        "train_peak_memory_bytes": peaks["training"],
    }


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


def peak_memory_bytes(config: Config, frontend_weights: Path | None, case: str, device: str, threads: int) -> int:
    """Peak memory of one pass ("inference") or step ("training"), in a process that has done nothing else."""
    torch.set_num_threads(threads)
    setup = Setup(config, frontend_weights, device)
    run = setup.infer if case == "inference" else setup.train
    if device == "cpu":
        return setup.weight_bytes() + peak_growth_bytes(run)
    run()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated()


def table(results: dict[str, dict[str, Any]], threads: int) -> str:
    """The numbers as Markdown: a row for each number, a column for each conf, with and without the visual frontend."""
    columns: list[tuple[str, dict[str, Any]]] = []
    for path, numbers in results.items():
        columns.append((Path(path).stem, numbers))
        if "with_visual_frontend" in numbers:
            columns.append((f"{Path(path).stem} with visual frontend", numbers["with_visual_frontend"]))
    devices = {f"CPU, {threads} threads": [numbers for _, numbers in columns]}
    gpus = [numbers["gpu"] for _, numbers in columns if "gpu" in numbers]
    devices |= {gpus[0]["device"]: gpus} if gpus else {}
    rows = [["", *(name for name, _ in columns)]]
    for index, (device, cells) in enumerate(devices.items()):
        for title, key, unit, form in ROWS:
            if index == 0 or "{device}" in title:
                rows.append([title.format(device=device), *(form.format(numbers[key] / unit) for numbers in cells)])
    return f"{markdown_table(rows)}\nCPU: {cpu_name()}"


class MacCounter(TorchFunctionMode):
    """Count the multiply-accumulate operations (MACs) of all calls inside its `with` block.

    Counted are the products with weights and between signals: convolutions, linear layers, recurrent layers (for an
    LSTM of d inputs and h cells 4h(d + h) for each step and direction, and the projection if any) and matrix products.
    Biases, norms, activations and element-wise masks are not. torch's own FlopCounterMode counts 0 for an LSTM on a CPU
    or GPU (it sees its products on the meta device only), and recurrent layers do most of the work of these networks.

    Attributes:
        macs: MACs so far.

    Examples
        >>> with MacCounter() as counter:
        ...     _ = nn.Linear(3, 5)(torch.rand(7, 3))
        >>> counter.macs
        105
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _HIDING:
            raise NotImplementedError(f"{func.__name__} hides its products from this counter; write it out")
        result = func(*args, **kwargs)
        if func in _RULES:
            self.macs += _RULES[func](result, *args, **kwargs)
        return result


def _convolution(result: torch.Tensor, signal: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> int:
    return result.numel() * weight[0].numel()  # weight: (out, in / groups, *kernel)


def _transposed_convolution(result: torch.Tensor, signal: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> int:
    return signal.numel() * weight[0].numel()  # weight: (in, out / groups, *kernel)


def _recurrent(result: Any, signal: torch.Tensor, *arguments: Any) -> int:
    """Every weight is used once for each step: `arguments` holds the list of all layers' and directions' weights."""
    weights = next(argument for argument in arguments if isinstance(argument, (list, tuple)) and len(argument) > 2)
    steps = signal.shape[:-1].numel() if len(signal.shape) > 1 else 1
    return steps * sum(weight.numel() for weight in weights if weight.ndim == 2)


def _product(result: torch.Tensor, left: torch.Tensor, *_: Any, **__: Any) -> int:
    return result.numel() * left.shape[-1]


def _added_product(result: torch.Tensor, added: torch.Tensor, left: torch.Tensor, *_: Any, **__: Any) -> int:
    return result.numel() * left.shape[-1]


def _attention(result: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return pairs * (query.shape[-1] + value.shape[-1])


_RULES: dict[Callable, Callable[..., int]] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _transposed_convolution),
    functional.linear: _product,
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), _recurrent),
    **dict.fromkeys((torch.matmul, torch.mm, torch.bmm, torch.mv, torch.dot), _product),
    **dict.fromkeys((torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.mm, torch.Tensor.bmm), _product),
    **dict.fromkeys((torch.addmm, torch.baddbmm), _added_product),
    functional.scaled_dot_product_attention: _attention,
}

_HIDING = {
    torch.einsum,
    torch.tensordot,
    torch.bilinear,
    functional.multi_head_attention_forward,
    torch.lstm_cell,
    torch.gru_cell,
}


if __name__ == "__main__":
    run_cli(main)
