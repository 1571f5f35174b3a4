"""The separation network as ONNX graphs, and run by onnxruntime: `--runtime onnx`.

`model` is the network's `forward`; `matcher`, of a network that compares faces with voices, gives the evidence and how likely
a single voice is all that is heard. What is left to torch moves samples only: orders, fades, sums.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from asteroid.models.base_models import BaseModel
from torch import nn

from local_models.matching import FaceVoiceMatcher
from local_models.separator import AVSeparator
from utils.export.graphs import Graph, OnnxModule, Tensors, is_written, write_graphs

# Mixtures, faces and seconds of what the graphs are held against torch for; the first are traced. 8 s is stage 4's window.
_TRIALS = ((2, 3, 1.003), (1, 2, 2.0), (1, 1, 2.0), (3, 4, 0.5), (1, 2, 8.0))


def separator_graphs(network: AVSeparator) -> dict[str, Graph]:
    """The graphs of a network: `model`, and `matcher` where it has one."""
    config, axes = network.config, {"mixture": ("batch", "time")}
    sources: int | str = config.n_src
    if config.n_faces:
        sources = config.n_faces if network.has_fixed_faces and config.n_faces > 1 else "faces"
        axes["visual"] = ("batch", sources, "frames", config.visual_dim)
    trials = [_trial(network, *sizes) for sizes in _TRIALS]
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
    folder = onnx_dir / f"separator-{sha256[:12]}"
    if not is_written(folder):
        write_graphs(folder, separator_graphs(network), separator_facts(network, sha256))
    return OnnxSeparator(network, folder)


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
