"""Visual frontends as ONNX graphs, and run by onnxruntime: `--runtime onnx`, and those that an experiment brings in 8 bits.

Vectors of the two runtimes differ by less than what float16 keeps of them, as do those of a CPU and a GPU: they share a store.
Those of 8 bits have a store of their own.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from utils.data.experiments import DLIB
from utils.data.files import sha256_file
from utils.data.fingerprints import hash_json
from utils.embedding.embed import AnyFrontend
from utils.embedding.face_frontends import FaceFrontend
from utils.embedding.frontends import Frontend
from utils.export.graphs import Graph, OnnxModule, is_written, write_graphs

NAME = "frontend"
_TRIALS = ((2, 7), (1, 75), (1, 1), (3, 25))  # clips and frames that it is held against torch for; the first are traced
_N_PICTURES = (2, 1, 5)


def frontend_graph(frontend: Frontend | FaceFrontend) -> Graph:
    """The graph of a visual frontend's network; its input is preprocessed, as `description` in export.json says."""
    if isinstance(frontend, FaceFrontend):
        size = frontend.kind.size
        trials = [(torch.randn(count, 3, size, size),) for count in _N_PICTURES]
        return Graph(frontend.network, {"pictures": ("batch", 3, size, size)}, {"embeddings": ("batch", frontend.dim)}, trials)
    size = frontend.crop_size
    trials = [(torch.randn(*count, size, size),) for count in _TRIALS]
    axes = {"clips": ("batch", "frames", size, size)}
    return Graph(frontend.network, axes, {"embeddings": ("batch", "frames", frontend.dim)}, trials)


def frontend_facts(frontend: Frontend | FaceFrontend) -> dict[str, Any]:
    """What export.json says of a visual frontend."""
    return {"frontend": frontend.name, "description": frontend.describe()}


def can_be_exported(frontend: AnyFrontend) -> bool:
    """Tell a network of torch from stored vectors, and from dlib."""
    return isinstance(frontend, Frontend) or (isinstance(frontend, FaceFrontend) and frontend.name != DLIB)


def run_by_onnx(frontend: AnyFrontend, onnx_dir: Path) -> None:
    """Let onnxruntime run a visual frontend's network, if it has one; its graph is made in `onnx_dir` unless it is there.

    Raises:
        UserError: it cannot be exported, or its graph differs from it.
    """
    if not can_be_exported(frontend):
        return
    folder = onnx_dir / f"{frontend.name}-{hash_json(frontend.description)[:12]}"
    if not is_written(folder):
        write_graphs(folder, {NAME: frontend_graph(frontend)}, frontend_facts(frontend))
    frontend.network = OnnxModule(folder / f"{NAME}.onnx", n_threads=1)  # several clips go through it at once


def run_in_8_bits(frontend: Frontend, path: Path) -> None:
    """Let onnxruntime run a visual frontend in 8 bits; its vectors are other ones, and their store has another name.

    Args:
        frontend: as it was loaded.
        path: of its graph, as `utils.tools.export` writes it.

    Raises:
        UserError: the graph cannot be read.
    """
    frontend.network = OnnxModule(path, n_threads=1)
    frontend.description |= {"graph_sha256": sha256_file(path)}
    frontend.load_again = partial(_loaded_in_8_bits, frontend.load_again, path.absolute())


def _loaded_in_8_bits(load: Callable[[], Frontend], path: Path) -> Frontend:
    frontend = load()
    run_in_8_bits(frontend, path)
    return frontend
