"""Networks as ONNX graphs: written by torch, held against it, run by onnxruntime on the CPU.

A `Graph` says what is exported. `write_graphs` writes a folder of them: `<name>.onnx` each, and `export.json`, which is
written last: a folder without it was never finished. A graph that differs from torch is refused, for other lengths,
batches and numbers of faces than the one that was traced, too. `OnnxModule` runs one as a module of torch.

What torch cannot express for any length (recurrent layers, which it would unroll), and what onnxruntime computes slowly, is
replaced by other operators before.
"""

import copy
import importlib
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from asteroid.masknn.norms import GlobLN
from torch import nn
from torch.export import Dim
from torch.nn.functional import conv1d

from local_models.matching import PowerSpectrum
from utils.data.files import atomic_path, read_json, sha256_file, write_json
from utils.errors import UserError

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before onnxruntime is imported, which else reports its use to its makers

logger = logging.getLogger(__name__)

VERSION = 1  # of what is written; raise it when the same weights would give another graph
FACTS = "export.json"
TOLERANCE = 1e-4  # of an output's largest value, or of 1 where that is more
_OPSET = 20
_ONNX_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}  # the places in torch's order of ONNX's gates

Tensors = tuple[torch.Tensor, ...]
Quantiser = Callable[[Path, Path], float]
"""(graph, to be written): writes its form in 8 bits; gives how much louder its output is than what that changes, dB."""


@dataclass(frozen=True, eq=False)
class Graph:
    """What is exported.

    Attributes:
        network: called with the inputs in their order; gives a tensor, or a tuple of them. In eval mode, on the CPU.
        inputs: name -> axes; a number is a length that is fixed, a name one that is not.
        outputs: name -> axes.
        trials: inputs that it is held against torch for; the first are traced, none of their lengths is 1.
    """

    network: nn.Module
    inputs: Mapping[str, tuple[str | int, ...]]
    outputs: Mapping[str, tuple[str | int, ...]]
    trials: Sequence[Tensors]


def write_graphs(
    folder: Path, graphs: Mapping[str, Graph], facts: Mapping[str, Any], quantisers: Mapping[str, Quantiser] | None = None
) -> dict[str, Any]:
    """Write graphs and what is to be known of them; nothing takes its place before all were held against torch.

    Args:
        folder: made if absent; other files there are left alone.
        graphs: by their names.
        facts: plain JSON for export.json.
        quantisers: of those that are also written in 8 bits, as `<name>.int8.onnx`.

    Returns:
        The content of export.json.

    Raises:
        UserError: a graph differs from torch by more than `TOLERANCE`, or cannot be made, or packages are missing.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _package(name)
    found = {}
    with ExitStack() as places:
        for name, graph in graphs.items():
            temporary = places.enter_context(atomic_path(folder / f"{name}.onnx"))
            _export(graph, temporary, name)
            found[name] = {
                "file": f"{name}.onnx",
                "sha256": sha256_file(temporary),
                "inputs": {key: list(axes) for key, axes in graph.inputs.items()},
                "outputs": {key: list(axes) for key, axes in graph.outputs.items()},
                "differs_from_torch_by": float(f"{check_graph(graph, temporary, name):.1e}"),
            }
            if quantise := (quantisers or {}).get(name):
                file = f"{name}.int8.onnx"
                target = places.enter_context(atomic_path(folder / file))
                sdr_db = quantise(temporary, target)
                found[name]["int8"] = {"file": file, "sha256": sha256_file(target), "sdr_db": round(sdr_db, 1)}
        _remove_earlier(folder)
    everything = {**facts, "graphs": found, "opset": _OPSET, "version": VERSION, "torch": torch.__version__}
    write_json(folder / FACTS, everything)
    return everything


def _remove_earlier(folder: Path) -> None:
    """Remove export.json and the files that it names."""
    if (folder / FACTS).is_file():
        for graph in read_json(folder / FACTS)["graphs"].values():
            for file in (graph["file"], graph.get("int8", graph)["file"]):
                (folder / Path(file).name).unlink(missing_ok=True)
        (folder / FACTS).unlink()


def is_written(folder: Path) -> bool:
    """Tell if a folder holds whole graphs, as this version writes them; a damaged file is not."""
    facts = read_json(folder / FACTS) if (folder / FACTS).is_file() else {}
    files = {folder / graph["file"]: graph["sha256"] for graph in facts.get("graphs", {}).values()}
    is_whole = all(path.is_file() and sha256_file(path) == sha256 for path, sha256 in files.items())
    return facts.get("version") == VERSION and is_whole


def check_graph(graph: Graph, path: Path, name: str, tolerance: float = TOLERANCE) -> float:
    """Hold a file against torch for all trials.

    Returns:
        The largest difference, as a share of the output's largest value (or of 1 where that is more).

    Raises:
        UserError: it is above the tolerance, or the file cannot be run.
    """
    module, largest = OnnxModule(path), 0.0
    for trial in graph.trials:
        with torch.inference_mode():
            wanted, given = _as_tuple(graph.network(*trial)), _as_tuple(module(*trial))
        for output, one, other in zip(graph.outputs, wanted, given, strict=True):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in trial)
            if one.shape != other.shape:
                raise UserError(f"{name}: {output} is {tuple(other.shape)} where torch gives {tuple(one.shape)} for {shapes}")
            if not one.numel():
                continue
            differs = float((one - other).abs().max() / one.abs().max().clamp(min=1))
            if not differs <= tolerance:  # NaN is not, either
                raise UserError(
                    f"{name}: {output} differs from torch by {differs:.1e} for inputs of {shapes}, where {tolerance:.0e} is "
                    "allowed; it is not written"
                )
            largest = max(largest, differs)
    return largest


class OnnxModule(nn.Module):
    """An ONNX file as a module: float32 tensors on the CPU in and out.

    Args:
        path: the file.
        n_threads: that work for one call; None: as many as torch has.

    Raises:
        UserError: it or onnxruntime is missing, or the one cannot read the other.
    """

    def __init__(self, path: Path, n_threads: int | None = None) -> None:
        super().__init__()
        onnxruntime = _package("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors; they are raised, too
        if not path.is_file():
            raise UserError(f"{path}: no such file; python -m utils.tools.export makes it")
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base
            raise UserError(f"{path}: onnxruntime cannot read it ({_line(error)}); make it again") from None
        self.names = [each.name for each in self.session.get_inputs()]

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | Tensors:
        """The outputs for the inputs in the order of the file."""
        given = {name: tensor.detach().cpu().numpy() for name, tensor in zip(self.names, inputs, strict=True)}
        outputs = tuple(torch.from_numpy(each) for each in self.session.run(None, given))
        return outputs[0] if len(outputs) == 1 else outputs


def _export(graph: Graph, path: Path, name: str) -> None:
    example = graph.trials[0]
    shapes = tuple({axis: Dim.DYNAMIC for axis, length in enumerate(axes) if isinstance(length, str)}
                   for axes in graph.inputs.values())  # fmt: skip
    logger.info("exporting %s: it takes a minute", name)
    with torch.no_grad(), quietly():
        try:
            program = torch.export.export(_in_onnx_operators(graph.network), example, dynamic_shapes=shapes, strict=False)
            names = {"input_names": list(graph.inputs), "output_names": list(graph.outputs)}
            how = {"opset_version": _OPSET, "dynamo": True, "verbose": False}
            # onnxscript's optimiser takes 1e-8 for zero, and removes what keeps silence from being divided by it
            exported = torch.onnx.export(program, example, **names, **how, optimize=False)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            raise UserError(f"{name}: this network cannot be exported ({_line(error)})") from error
        values = (*zip(exported.model.graph.inputs, graph.inputs.values(), strict=True),
                  *zip(exported.model.graph.outputs, graph.outputs.values(), strict=True))  # fmt: skip
        for value, axes in values:  # torch calls them s0, s1, ...
            value.shape = type(value.shape)(axes)
        exported.save(path)
    _package("onnx").checker.check_model(str(path))


def _in_onnx_operators(network: nn.Module) -> nn.Module:
    """A copy whose recurrent layers and global norms are those of ONNX."""
    network = copy.deepcopy(network).eval()
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.RNNBase):
            network.set_submodule(name, _OnnxRecurrent(module))
        elif isinstance(module, GlobLN):
            network.set_submodule(name, _group_norm(module))
        elif isinstance(module, PowerSpectrum):
            network.set_submodule(name, _ConvolvedPower(module))
    return network


def _group_norm(module: GlobLN) -> nn.GroupNorm:
    """Asteroid's global layer norm as torch's operator: its own code asks a tensor for its axes."""
    norm = nn.GroupNorm(1, module.channel_size, eps=1e-8)
    norm.weight, norm.bias = module.gamma, module.beta
    return norm


class _ConvolvedPower(nn.Module):
    """A `PowerSpectrum` by convolution: onnxruntime's Fourier transform takes three times as long."""

    def __init__(self, power: PowerSpectrum) -> None:
        super().__init__()
        self.hop = power.hop
        turns = torch.arange(power.n_fft // 2 + 1)[:, None] * torch.arange(power.window) / power.n_fft
        angles = 2 * math.pi * (turns % 1)
        self.register_buffer("waves", (torch.cat([angles.cos(), angles.sin()]) * power.taper).unsqueeze(1))

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        parts = conv1d(signals.flatten(0, -2).unsqueeze(1), self.waves, stride=self.hop).unflatten(1, (2, -1))
        return parts.square().sum(dim=1).transpose(1, 2).unflatten(0, signals.shape[:-1])


class _OnnxRecurrent(nn.Module):
    """An LSTM, GRU or RNN as ONNX's operator, with the interface of torch's; only for export.

    References
        https://onnx.ai/onnx/operators/onnx__LSTM.html (the gates' order, shapes).
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.kind = layer.mode.partition("_")[0]
        self.batch_first, self.n_directions = layer.batch_first, 1 + layer.bidirectional
        self.attributes = {"hidden_size": layer.hidden_size, "direction": "bidirectional" if layer.bidirectional else "forward"}
        if self.kind == "GRU":
            self.attributes["linear_before_reset"] = 1  # as torch has it
        self.n_layers = layer.num_layers
        for index in range(layer.num_layers):
            ends = (f"l{index}", f"l{index}_reverse")[: self.n_directions]
            for name in ("weight_ih", "weight_hh"):
                self._keep(f"{name}_{index}", [self._gates(getattr(layer, f"{name}_{end}")) for end in ends])
            biases = [[self._gates(getattr(layer, f"bias_{part}_{end}")) for part in ("ih", "hh")] for end in ends]
            self._keep(f"bias_{index}", [torch.cat(parts) for parts in biases])

    def _keep(self, name: str, directions: list[torch.Tensor]) -> None:
        self.register_buffer(name, torch.stack(directions).detach())

    def _gates(self, weights: torch.Tensor) -> torch.Tensor:
        order = _ONNX_GATES[self.kind]
        parts = weights.chunk(len(order))
        return torch.cat([parts[place] for place in order])

    def flatten_parameters(self) -> None:
        """Nothing: there is no such thing here."""

    def forward(self, sequence: torch.Tensor, state: torch.Tensor | Tensors | None = None) -> tuple[torch.Tensor, Any]:
        """As of torch: (batch, frames, chan) if batch_first, state (directions * layers, batch, hidden) -> output, state."""
        is_lstm = self.kind == "LSTM"
        if self.batch_first:
            sequence = sequence.transpose(0, 1)
        n_frames, n_batch, hidden = *sequence.shape[:2], self.attributes["hidden_size"]
        kept = (self.n_directions, n_batch, hidden)
        before = () if state is None else state if is_lstm else (state,)
        after = []
        for index in range(self.n_layers):
            weights = [getattr(self, f"{name}_{index}") for name in ("weight_ih", "weight_hh", "bias")]
            own = [part.unflatten(0, (self.n_layers, -1))[index] for part in before]
            output, *states = torch.onnx.ops.symbolic_multi_out(
                self.kind,
                (sequence, *weights, *([None, *own] if own else [])),
                self.attributes,
                dtypes=[sequence.dtype] * (2 + is_lstm),
                shapes=[(n_frames, *kept), *[kept] * (1 + is_lstm)],
            )
            sequence = output.transpose(1, 2).flatten(2)  # (frames, batch, directions * hidden)
            after.append(states)
        joined = tuple(torch.cat(parts) for parts in zip(*after, strict=True))
        return sequence.transpose(0, 1) if self.batch_first else sequence, joined if is_lstm else joined[0]


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"ONNX needs more packages ({error}); add them with utils/install_more.sh requirements-onnx.txt"
        ) from None


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings of torch's exporter, which concern its makers."""
    makers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in makers]
    try:
        for each in makers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for each, level in zip(makers, levels, strict=True):
            each.setLevel(level)


def _as_tuple(outputs: torch.Tensor | Tensors) -> Tensors:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _line(error: Exception) -> str:
    """The first line of what an error comes from; torch's exporter wraps it in advice."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
