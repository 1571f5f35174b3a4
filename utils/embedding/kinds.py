"""The visual frontends that a conf asks for by `model.cues` or `model.target`: of lips, landmarks, faces."""

from functools import partial
from pathlib import Path

import torch

from utils.data.experiments import FrontendRecord
from utils.embedding.embed import AnyFrontend
from utils.embedding.face_frontends import load_face_frontend
from utils.embedding.frontends import Frontend, load_frontend, store_name
from utils.embedding.landmarks import FaceKeypoints, LipShapes
from utils.errors import UserError

_PROBED_FRAMES = 48  # who needs more of what comes after is of no use to a causal network
LANDMARK_KINDS = {"shape": LipShapes, "keypoints": FaceKeypoints}


def load_kind(
    kind: str, weights: str | Path, conf: str = "", layer: str = "trunk", device: torch.device | str = "cpu"
) -> AnyFrontend:
    """Load the visual frontend of lips, their shape, keypoints or faces; `conf` and `layer` are for lips.

    Its `load_again` loads it in another process, on the CPU.

    Raises:
        UserError: as `load_frontend` and `load_face_frontend`.
    """
    if kind in LANDMARK_KINDS:
        frontend = LANDMARK_KINDS[kind]()
    elif kind == "face":
        frontend = load_face_frontend(weights, device)
    else:
        frontend = load_frontend(weights, conf or None, layer, device)
    frontend.load_again = partial(load_kind, kind, weights, conf, layer)
    return frontend


def lookahead_frames(frontend: AnyFrontend) -> int:
    """Video frames after its own that an embedding depends on; 0 for precomputed embeddings, of which nobody knows.

    Raises:
        UserError: they are two seconds or more.
    """
    if not isinstance(frontend, Frontend):
        return 0  # landmarks and faces are embedded one by one
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(1, _PROBED_FRAMES, frontend.crop_size, frontend.crop_size, generator=generator)
    other = clips.clone()
    other[:, -1] += 1
    changed = (frontend(clips) != frontend(other)).any(dim=-1)[0]
    first = int(changed.int().argmax())
    if first == 0:
        raise UserError(
            f"the visual frontend {frontend.name} looks at two seconds or more of what comes after: no network can be causal "
            "with it; take --frontend_layer trunk, or another one"
        )
    return _PROBED_FRAMES - 1 - first


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
