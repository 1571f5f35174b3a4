"""What a conf's network costs: parameters, MACs, memory, disk and time, with and without the lip network.

Reads   conf/*.yml, and with --frontend_weights the lip network. Writes the numbers to --json F, and a Markdown table
        to the standard output.
Run     python -m utils.tools.complexity --conf conf/av_tfdprnn.yml conf/av_tfdprnn_audio_only.yml --frontend_weights egs/demo/lipreader.pth.tar
        python -m utils.tools.complexity --conf conf/av_tfdprnn.yml --json complexity.json

All is for one mixture of 2 s with its video (batch 1), without reading or preprocessing files. "With lip network" adds
its forward pass over the mouth crops of all faces, which the cache of embeddings otherwise saves; it is never trained.
MACs are those of `utils.tools.macs`, divided by the seconds. Times are the median of several runs after a warm-up; a training
step is forward, SI-SNR loss, backward and Adam. Memory is measured in a fresh process for each case: weights, plus the
growth of the process (CPU) or of torch's allocations (GPU) at its peak.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.data.files import write_json
from utils.errors import OptionParser, UserError, run_cli
from utils.training.config import Config, read_config, write_config

if TYPE_CHECKING:
    import torch

    from utils.embedding.frontends import Frontend

MIXTURE_SEC = 2.0
WARM_UP_RUNS = 2
CASES = ("inference", "training")

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
    confs = {path: read_config(path) for path in args.conf}
    if args.frontend_weights and not args.frontend_weights.is_file():
        raise UserError(f"--frontend_weights {args.frontend_weights}: no such file")
    if args.probe:
        print(probe_memory(confs[args.conf[0]], args.frontend_weights, args.probe, args.device, args.threads))
        return 0
    results = {str(path): measure_conf(path, conf, args) for path, conf in confs.items()}
    print(markdown_table(results, args.threads))
    if args.json:
        write_json(args.json, next(iter(results.values())) if len(results) == 1 else results)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="complexity", description="What a conf's network costs.")
    parser.add_argument("--conf", type=Path, nargs="+", default=[Path("conf/av_tfdprnn.yml")], help="conf/*.yml")
    parser.add_argument("--frontend_weights", type=Path, help="lip network, for the numbers that include it")
    parser.add_argument("--json", type=Path, help="also write the numbers here (by conf, if there are several)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=7, help="runs of which the median time is taken")
    parser.add_argument("--probe", choices=CASES, help="print the peak memory of this case alone, in bytes")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of --probe")
    args = parser.parse_args()
    for name in ("threads", "repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)} must be at least 1")
    return args


def measure_conf(path: Path, conf: Config, args: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one conf: those of the separation network on top, `with_lip_network` and `gpu` below."""
    import torch

    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {"conf": str(path), "n_src": conf.nested["model"]["n_src"], "threads": args.threads}
    weights = args.frontend_weights if conf.n_cues else None
    if weights:
        conf = conf.with_visual_dim(_load_frontend(weights).dim)
    for lip_weights in (None, weights) if weights else (None,):
        numbers = _sizes(conf, lip_weights) | _costs(conf, lip_weights, args, "cpu")
        if torch.cuda.is_available():
            numbers["gpu"] = _costs(conf, lip_weights, args, "cuda")
            numbers["gpu"]["device"] = torch.cuda.get_device_name()
        if lip_weights:
            result["with_lip_network"] = numbers
        else:
            result |= numbers
    return result


class Setup:
    """One mixture with its video, and the network of a conf, with the lip network before it or without.

    Args:
        conf: resolved conf, its `visual_dim` that of the embeddings.
        lip_weights: weights of the lip network; None where the embeddings are given.
        device: "cpu" or "cuda".
    """

    def __init__(self, conf: Config, lip_weights: Path | None, device: str) -> None:
        import torch

        from local_models.networks import build_network

        self.conf = nested = conf.nested
        try:
            self.network = build_network(nested).to(device)
        except ValueError as error:
            raise UserError(f"no network can be built from this conf: {error}") from None
        self.frontend = frontend = _load_frontend(lip_weights).to(device) if lip_weights else None
        generator = torch.Generator().manual_seed(0)
        model, visual = nested["model"], nested["visual"]
        length, frames = round(MIXTURE_SEC * model["sample_rate"]), round(MIXTURE_SEC * visual["video_fps"])
        shape = (frames, frontend.crop_size, frontend.crop_size) if frontend else (frames, visual["visual_dim"])
        self.sources = torch.randn(1, model["n_src"], length, generator=generator).to(device)
        self.faces = torch.randn(1, model["n_cues"], *shape, generator=generator).to(device) if conf.n_cues else None
        self.optimizer = torch.optim.Adam(self.network.parameters())

    def separate(self) -> "torch.Tensor":
        """Mixture and faces to voices, (1, n_src, time); the lip network, if any, first."""
        visual = self.faces
        if self.frontend is not None:
            visual = self.frontend(self.faces.flatten(0, 1)).unflatten(0, self.faces.shape[:2])
        return self.network(self.sources.sum(dim=1), visual)

    def infer(self) -> None:
        """One pass without gradients."""
        import torch

        self.network.eval()
        with torch.inference_mode():
            self.separate()

    def train(self) -> None:
        """One training step."""
        from asteroid.losses import multisrc_neg_sisdr

        self.network.train()
        self.optimizer.zero_grad()
        multisrc_neg_sisdr(self.separate(), self.sources).mean().backward()
        self.optimizer.step()

    def weight_bytes(self) -> int:
        """Of all networks here."""
        networks = [self.network, *([self.frontend] if self.frontend is not None else [])]
        tensors = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _load_frontend(weights: Path) -> "Frontend":
    from utils.embedding.frontends import load_frontend

    return load_frontend(weights)


def _sizes(conf: Config, lip_weights: Path | None) -> dict[str, int]:
    """Parameters, MACs and bytes on disk, which are the same on every device."""
    import torch

    from utils.tools.macs import MacCounter
    from utils.training.experiment import save_model

    setup = Setup(conf, lip_weights, "cpu")
    setup.network.eval()
    with torch.no_grad(), MacCounter() as counter:
        setup.separate()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best_model.pth"
        save_model(path, setup.network, setup.conf, {})
        disk_bytes = path.stat().st_size
    params = sum(parameter.numel() for parameter in setup.network.parameters())
    if setup.frontend is not None:
        params += sum(parameter.numel() for parameter in setup.frontend.parameters())
        disk_bytes += lip_weights.stat().st_size
    return {"params": params, "macs_per_audio_second": round(counter.macs / MIXTURE_SEC), "disk_bytes": disk_bytes}


def _costs(conf: Config, lip_weights: Path | None, args: argparse.Namespace, device: str) -> dict[str, Any]:
    """Times and memory on one device."""
    setup = Setup(conf, lip_weights, device)
    inference_sec = median_seconds(setup.infer, args.repeats, device)
    training_sec = median_seconds(setup.train, args.repeats, device)
    del setup
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "conf.yml"
        write_config(path, conf)
        probe = [sys.executable, "-m", "utils.tools.complexity", "--conf", str(path), "--device", device]
        probe += ["--threads", str(args.threads), *(["--frontend_weights", str(lip_weights)] if lip_weights else [])]
        peaks = [int(run_probe([*probe, "--probe", case])) for case in CASES]
    return {
        "inference_seconds_per_2s_mixture": inference_sec,
        "real_time_factor": inference_sec / MIXTURE_SEC,
        "train_step_seconds": training_sec,
        "peak_memory_bytes": peaks[0],
        "train_peak_memory_bytes": peaks[1],
    }


def median_seconds(run: Callable[[], None], repeats: int, device: str) -> float:
    """The median time of `run`, after a warm-up."""
    import torch

    times = []
    for _ in range(WARM_UP_RUNS + repeats):
        start_sec = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start_sec)
    return statistics.median(times[WARM_UP_RUNS:])


def run_probe(command: list[str]) -> str:
    """Measure in a process of its own, which is how memory can be told.

    Returns:
        The last line that the command prints.

    Raises:
        UserError: it failed; with the last line that it says of that.
    """
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"measuring failed: {reason}")
    return done.stdout.splitlines()[-1]


def probe_memory(conf: Config, lip_weights: Path | None, case: str, device: str, threads: int) -> int:
    """Peak memory of one pass or one step, bytes; right only in a process that has done nothing else."""
    import torch

    torch.set_num_threads(threads)
    setup = Setup(conf, lip_weights, device)
    run = setup.infer if case == "inference" else setup.train
    if device == "cuda":
        run()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated()
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here, not from the imports
    run()
    return setup.weight_bytes() + max(resident_bytes("VmHWM") - before, 0)


def resident_bytes(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (peak) of this process.

    Raises:
        UserError: this system does not tell (it is not Linux).
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        raise UserError("/proc/self/status: not there; memory can only be measured on Linux") from None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def markdown_table(results: dict[str, dict[str, Any]], threads: int) -> str:
    """The numbers as a table for a README: a row for each number, a column for each conf, with and without lips."""
    columns: list[tuple[str, dict[str, Any]]] = []
    for path, numbers in results.items():
        columns.append((Path(path).stem, numbers))
        if "with_lip_network" in numbers:
            columns.append((f"{Path(path).stem} with lip network", numbers["with_lip_network"]))
    lines = ["| | " + " | ".join(name for name, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    devices = {f"CPU, {threads} threads": [numbers for _, numbers in columns]}
    if all("gpu" in numbers for _, numbers in columns):
        devices[columns[0][1]["gpu"]["device"]] = [numbers["gpu"] for _, numbers in columns]
    for index, (device, cells) in enumerate(devices.items()):
        for title, key, unit, form in ROWS:
            if index == 0 or "{device}" in title:
                values = " | ".join(form.format(numbers[key] / unit) for numbers in cells)
                lines.append(f"| {title.format(device=device)} | {values} |")
    return "\n".join([*lines, "", f"CPU: {cpu_name()}"])


def cpu_name() -> str:
    """The CPU's name as Linux gives it, elsewhere its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    run_cli(main)
