"""The separation network as ONNX graphs, and run by onnxruntime: `--runtime onnx`.

`model` is the network's `forward`, or of a causal network `stream`, its `step` by one video frame; `matcher`, of a network
that compares faces with voices, gives the evidence and how likely a single voice is all that is heard. What is left to torch
moves samples only: orders, fades, sums.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from asteroid.models.base_models import BaseModel
from torch import nn

from local_models.causal import CausalTFDPRNN, State
from local_models.matching import FaceVoiceMatcher
from local_models.separator import AVSeparator
from utils.errors import UserError
from utils.export.graphs import Graph, OnnxModule, Tensors, is_written, write_graphs

Step = Callable[[torch.Tensor, torch.Tensor | None, State], tuple[torch.Tensor, State]]
"""`CausalTFDPRNN.step`."""

# Mixtures, faces and seconds of what the graphs are held against torch for; the first are traced. 8 s is stage 4's window.
_TRIALS = ((2, 3, 1.003), (1, 2, 2.0), (1, 1, 2.0), (3, 4, 0.5), (1, 2, 8.0))


def separator_graphs(network: AVSeparator) -> dict[str, Graph]:
    """The graphs of a network: `model` or `stream`, and `matcher` where it has one."""
    config, axes = network.config, {"mixture": ("batch", "time")}
    sources: int | str = config.n_src
    if config.n_faces:
        sources = config.n_faces if network.has_fixed_faces and config.n_faces > 1 else "faces"
        axes["visual"] = ("batch", sources, "frames", config.visual_dim)
    trials = [_trial(network, *sizes) for sizes in _TRIALS]
    if isinstance(network, CausalTFDPRNN):
        graphs = {"stream": _stream_graph(network)}
    else:
        graphs = {"model": Graph(network, axes, {"estimates": ("batch", sources, "time")}, trials)}
    if network.matcher is not None:
        axes = {"estimates": ("batch", "sources", "time"), **axes}
        outputs = {"evidence": ("batch", "sources", "faces", "frames"), "alone": ("batch",)}
        voiced = [(torch.rand_like(visual[:, :, :1, 0]) * mixture.unsqueeze(1), mixture, visual) for mixture, visual in trials]
        voiced.append((*voiced[1][:2], voiced[1][2][:, :1]))  # of one face, beside which there is an unseen stream
        graphs["matcher"] = Graph(_Matcher(network.matcher), axes, outputs, voiced)
    return graphs


def separator_facts(network: AVSeparator, sha256: str) -> dict[str, Any]:
    """What export.json says of a network; sha256 is that of its file."""
    config = network.config
    facts = {"network": type(network).__name__, "weights_sha256": sha256, "sample_rate_hz": config.sample_rate}
    return facts | {"n_src": config.n_src, "n_faces": config.n_faces, "video_fps": config.video_fps}


def run_by_onnx(network: AVSeparator, sha256: str, onnx_dir: Path) -> "OnnxSeparator":
    """The network run by onnxruntime; its graphs are made in `onnx_dir` unless they are there.

    Raises:
        UserError: it cannot be exported, or its graphs differ from it.
    """
    if isinstance(network, CausalTFDPRNN):
        where = "in ./live.sh only; separate whole recordings with --runtime torch"
        raise UserError(f"a causal network runs by onnxruntime {where}")
    return OnnxSeparator(network, _written(network, sha256, onnx_dir))


def stream_by_onnx(network: CausalTFDPRNN, sha256: str, onnx_dir: Path) -> Step:
    """`network.step`, run by onnxruntime on one thread; as `run_by_onnx`."""
    graph = OnnxModule(_written(network, sha256, onnx_dir) / "stream.onnx")

    def step(mixture: torch.Tensor, visual: torch.Tensor | None, state: State) -> tuple[torch.Tensor, State]:
        parts, size = [], network.config.step
        for frame, samples in enumerate(mixture.split(size, dim=1)):
            seen = () if visual is None else (visual[:, :, frame : frame + 1],)
            estimates, *after = graph(samples, *seen, *state)
            state = State(*after)
            parts.append(estimates)
        return torch.cat(parts, dim=-1), state

    return step


def _written(network: AVSeparator, sha256: str, onnx_dir: Path) -> Path:
    """The folder of a network's graphs, which are made unless they are there."""
    folder = onnx_dir / f"separator-{sha256[:12]}"
    if not is_written(folder):
        write_graphs(folder, separator_graphs(network), separator_facts(network, sha256))
    return folder


def _stream_graph(network: CausalTFDPRNN) -> Graph:
    """`network.step` by one video frame: of one mixture with any number of faces, or for extraction of any number with one."""
    config = network.config
    is_single = config.n_faces == 1

    def trial(count: int, used: bool = True) -> Tensors:
        batch, n_faces = (count, 1) if is_single else (1, count if config.n_faces else 0)
        state = network.initial_state(batch, n_faces)
        if used:
            state = State(*map(torch.randn_like, state))._replace(level=torch.full((batch, 2), 3.0))
        mixture = torch.randn(batch, config.step) * used
        visual = (torch.randn(batch, n_faces, 1, config.visual_dim),) if config.n_faces else ()
        return mixture, *visual, *state

    names = ["mixture", *(["visual"] if config.n_faces else []), *(f"{name}_before" for name in State._fields)]
    label = "batch" if is_single else "faces"
    inputs = {
        name: tuple(length if length == other else label for length, other in zip(one.shape, two.shape, strict=True))
        for name, one, two in zip(names, trial(3), trial(2), strict=True)
    }
    n_src: int | str = config.n_src if not config.n_faces else "faces"
    estimates = ("batch", 1, config.step) if is_single else (1, n_src, config.step)
    outputs = {"estimates": estimates} | {f"{name}_after": inputs[f"{name}_before"] for name in State._fields}
    counts = (3, 2, 1, 4) if config.n_faces else (1,)
    trials = [*map(trial, counts), trial(2, used=False)]
    return Graph((_VisualStep if config.n_faces else _AudioStep)(network), inputs, outputs, trials)


def _trial(network: AVSeparator, n_mixtures: int, n_faces: int, seconds: float) -> Tensors:
    """Random mixtures that end in silence, the last of several nothing else; their faces, the last of which goes off screen."""
    config = network.config
    mixture = torch.randn(n_mixtures, round(seconds * config.sample_rate))
    mixture[:, 3 * mixture.shape[1] // 4 :] = 0
    mixture[1:][-1:] = 0
    if not config.n_faces:
        return (mixture,)
    n_faces = config.n_faces if network.has_fixed_faces and config.n_faces > 1 else n_faces
    visual = torch.randn(n_mixtures, n_faces, math.ceil(seconds * config.video_fps), config.visual_dim)
    visual[:, -1, visual.shape[2] // 2 :] = 0
    return mixture, visual


class _VisualStep(nn.Module):
    """`network.step` with the state's parts one by one, as an exporter wants them."""

    def __init__(self, network: CausalTFDPRNN) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, mixture, visual, samples, level, spectrum, features, seen, hidden, stream_hidden, grid, overlap
    ) -> Tensors:
        state = State(samples, level, spectrum, features, seen, hidden, stream_hidden, grid, overlap)
        estimates, state = self.network.step(mixture, visual, state)
        return estimates, *state


class _AudioStep(_VisualStep):
    """The same of an audio-only network."""

    def forward(self, mixture, samples, level, spectrum, features, seen, hidden, stream_hidden, grid, overlap) -> Tensors:
        return super().forward(mixture, None, samples, level, spectrum, features, seen, hidden, stream_hidden, grid, overlap)


class OnnxSeparator(AVSeparator):
    """A network whose graphs onnxruntime runs, on the CPU; everything else is that of the network itself.

    Args:
        network: the same in torch, of which only the config is kept.
        folder: of its graphs.
        file: of the one that separates.

    Shape:
        as of `AVSeparator`
    """

    def __init__(self, network: AVSeparator, folder: Path, file: str = "model.onnx") -> None:
        BaseModel.__init__(self, sample_rate=network.config.sample_rate, in_channels=None)  # no layers
        self.config, self.has_fixed_faces = network.config, network.has_fixed_faces
        self.graph = OnnxModule(folder / file)
        self.matcher = None if network.matcher is None else OnnxModule(folder / "matcher.onnx")
        self.eval()

    def forward(self, mixture: torch.Tensor, visual: torch.Tensor | None = None) -> torch.Tensor:
        self._check(mixture, visual)
        if not self.config.n_faces:
            return self.graph(mixture)
        return self.graph(mixture, self.unseen_faces(mixture) if visual is None else visual)

    def evidence(self, estimates: torch.Tensor, visual: torch.Tensor, mixture: torch.Tensor) -> np.ndarray:
        return self.matcher(estimates, mixture, visual)[0].double().numpy()

    def alone(self, estimates: torch.Tensor, mixture: torch.Tensor) -> np.ndarray:
        no_faces = mixture.new_zeros(len(mixture), 1, 1, self.config.visual_dim)
        return self.matcher(estimates, mixture, no_faces)[1].double().numpy()


class _Matcher(nn.Module):
    """Evidence, and what speaks for a single voice being all that is heard, of what a `FaceVoiceMatcher` is given."""

    def __init__(self, matcher: FaceVoiceMatcher) -> None:
        super().__init__()
        self.matcher = matcher

    def forward(self, estimates: torch.Tensor, mixture: torch.Tensor, visual: torch.Tensor) -> Tensors:
        matcher = self.matcher
        return matcher.evidence(estimates, visual, mixture), matcher.alone(estimates, mixture)
