"""The visual frontends that a conf asks for by `model.cues` or `model.target`: of lips, landmarks, faces."""

from functools import partial
from pathlib import Path

import torch

from utils.data.experiments import FrontendRecord
from utils.embedding.embed import AnyFrontend
from utils.embedding.exported import run_by_onnx
from utils.embedding.face_frontends import load_face_frontend
from utils.embedding.frontends import Frontend, load_frontend, store_name
from utils.embedding.landmarks import FaceKeypoints, LipShapes
from utils.errors import UserError

LANDMARK_KINDS = {"shape": LipShapes, "keypoints": FaceKeypoints}


def load_kind(
    kind: str, weights: str | Path, conf: str = "", layer: str = "trunk", device: torch.device | str = "cpu",
    onnx_dir: Path | None = None,
) -> AnyFrontend:  # fmt: skip
    """Load the visual frontend of lips, their shape, keypoints or faces; `conf` and `layer` are for lips.

    Its `load_again` loads it in another process, on the CPU. With `onnx_dir` onnxruntime runs it, and its graph is kept there.

    Raises:
        UserError: as `load_frontend` and `load_face_frontend`; or it cannot be exported.
    """
    if kind in LANDMARK_KINDS:
        frontend = LANDMARK_KINDS[kind]()
    elif kind == "face":
        frontend = load_face_frontend(weights, device)
    else:
        frontend = load_frontend(weights, conf or None, layer, device)
    if onnx_dir is not None:
        run_by_onnx(frontend, onnx_dir)
    frontend.load_again = partial(load_kind, kind, weights, conf, layer, onnx_dir=onnx_dir and onnx_dir.absolute())
    return frontend


def lookahead_frames(frontend: AnyFrontend) -> int:
    """Video frames after its own that an embedding depends on; 0 for precomputed embeddings, of which nobody knows.

    Raises:
        UserError: so many that it is not to be streamed.
    """
    if not isinstance(frontend, Frontend):
        return 0  # landmarks and faces are embedded one by one
    if frontend.network.lookahead_frames is None:
        raise UserError(
            f"the visual frontend {frontend.name} looks at seconds of what comes after: no network can be causal with it; take "
            "--frontend_layer trunk"
        )
    return frontend.network.lookahead_frames


def record_of(frontend: AnyFrontend, weights: str, conf: str, layer: str, views: list[str], precision: str) -> FrontendRecord:
    """What an experiment keeps of a visual frontend whose embeddings it is trained on; the first view is for testing."""
    return FrontendRecord(
        weights=weights,
        conf=conf,
        layer=layer,
        view=views[0],
        precision=precision,
        store_name=store_name(frontend, views[0], precision),
        training_stores=[store_name(frontend, view, precision) for view in views],
        description=frontend.describe(views[0], precision),
    )
