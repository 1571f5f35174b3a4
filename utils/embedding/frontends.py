"""Visual frontends: frozen pretrained networks that turn mouth crops into one vector a frame.

Reads a weights file, `--frontend_weights` (see utils/embedding/checkpoints.py); a folder of that name holds precomputed
embeddings (utils/embedding/precomputed.py). A frontend's description holds all that its embeddings depend on; its
fingerprint names the store that keeps them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import affine_grid, grid_sample

from local_models.lipreading.model import LAYERS
from utils.data.constants import MOUTH_SIZE, VIEWS
from utils.data.files import sha256_file
from utils.data.fingerprints import hash_json
from utils.data.mouths import MouthFile
from utils.embedding.checkpoints import Checkpoint, load_lipreading, load_lr_asd, read_checkpoint
from utils.embedding.precomputed import PrecomputedEmbeddings
from utils.errors import UserError

PRECISIONS = ("float16", "float32")
VERSION = 1  # of the computation below: raise it when the same weights would give other vectors


class Frontend(nn.Module):
    """A frozen visual frontend: always in eval mode, without gradients, its result independent of the batch.

    Args:
        network: clips (batch, frames, crop, crop) -> vectors (batch, frames, dim); None of its weights is changed.
        name: What it is called in messages and folder names.
        dim: Values a frame.
        normalisation: (mean, standard deviation) of pixels in 0..1.
        description: What identifies network and weights (plain JSON).
    """

    crop_file = MouthFile
    crop_size = 88  # pixels, what the networks see of a mouth crop

    def __init__(self, network: nn.Module, name: str, dim: int, normalisation: tuple[float, float], description: dict) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.name = name
        self.dim = dim
        self.normalisation = normalisation
        self.description = description
        self.eval()

    @property
    def device(self) -> torch.device:
        return next((each.device for each in self.network.parameters()), torch.device("cpu"))  # of onnxruntime: none

    def train(self, mode: bool = True) -> "Frontend":
        """Stay in eval mode, whatever the model around is set to: stored and fresh vectors must agree."""
        return super().train(False)

    def describe(self, view: str = "centre", precision: str = "float16") -> dict:
        """All that stored vectors depend on, as plain JSON.

        Raises:
            UserError: an unknown view or precision.
        """
        _check_choice("--views", view, VIEWS)
        check_precision(precision)
        mean, std = self.normalisation
        preprocessing = {"mouth_size": MOUTH_SIZE, "crop_size": self.crop_size, "scale": 255, "mean": mean, "std": std}
        facts = {"dim": self.dim, "preprocessing": preprocessing, "view": view, "precision": precision, "version": VERSION}
        return self.description | facts

    def preprocess(self, mouths: np.ndarray, view: str = "centre") -> torch.Tensor:
        """Crop and normalise grey mouth pictures.

        Args:
            mouths: uint8, (frames, 96, 96).
            view: one of `utils.data.constants.VIEWS`.

        Returns:
            float32, (frames, 88, 88).

        Raises:
            UserError: an unknown view.
            ValueError: `mouths` has another type or shape.
        """
        _check_choice("--views", view, VIEWS)
        if mouths.dtype != np.uint8 or mouths.shape[1:] != (MOUTH_SIZE, MOUTH_SIZE):
            raise ValueError(f"mouths are uint8 (frames, {MOUTH_SIZE}, {MOUTH_SIZE}), not {mouths.dtype} {mouths.shape}")
        mean, std = self.normalisation
        if view.startswith("varied"):
            rng = np.random.default_rng(int(view.removeprefix("varied")))
            return vary(mouths, self.crop_size, rng).sub_(mean).div_(std)
        offset = (MOUTH_SIZE - self.crop_size) // 2
        inside = slice(offset, offset + self.crop_size)
        crop = torch.tensor(mouths[:, inside, inside])
        if view == "flip":
            crop = crop.flip(-1)
        return crop.float().div_(255).sub_(mean).div_(std)

    @torch.no_grad()
    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Preprocessed clips of one length, (batch, frames, crop, crop) -> float32 vectors (batch, frames, dim).

        Clips of several lengths must not be padded into one batch: the padding would leak into the last frames.
        """
        # in full precision: TF32 would make the vectors depend on the batch and the machine
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            return self.network(clips.float())


@dataclass(frozen=True)
class Geometry:
    """How a crop is moved: turned, scaled, shifted and mirrored around its middle."""

    angle: float = 0.0  # radians
    scale: float = 1.0  # of what is looked at: above 1 the mouth gets smaller
    right: float = 0.0  # shares of half a side
    down: float = 0.0
    mirror: float = 1.0  # or -1

    @property
    def matrix(self) -> np.ndarray:
        """What becomes of a point of the crop, seen from the middle: (2, 2), without the shift."""
        turn = np.array([[np.cos(self.angle), np.sin(self.angle)], [-np.sin(self.angle), np.cos(self.angle)]])
        return np.diag([self.mirror, 1.0]) @ turn / self.scale


def draw_geometry(rng: np.random.Generator) -> Geometry:
    """Draw how a crop is moved, by as much as another camera or finder might."""
    angle, scale, (right, down) = rng.uniform(-0.15, 0.15), rng.uniform(0.85, 1.15), rng.uniform(-0.08, 0.08, 2)
    return Geometry(angle, scale, right, down, rng.choice([-1.0, 1.0]))


def geometry_of(view: str) -> Geometry:
    """How a view moves the crops; the same for all clips.

    Raises:
        UserError: an unknown view.
    """
    _check_choice("--views", view, VIEWS)
    if view.startswith("varied"):
        return draw_geometry(np.random.default_rng(int(view.removeprefix("varied"))))
    return Geometry(mirror=-1.0 if view == "flip" else 1.0)


def vary(mouths: np.ndarray, size: int, rng: np.random.Generator, geometry: Geometry | None = None) -> torch.Tensor:
    """Move and brighten the crops of a clip: uint8 (frames, 96, 96) -> (frames, size, size), 0..1.

    Args:
        mouths: the crops.
        size: pixels of what is looked at.
        rng: of the brightness, and of the geometry where that is not given.
        geometry: how they are moved.
    """
    moved = geometry or draw_geometry(rng)
    gain, offset = rng.uniform(0.7, 1.3), rng.uniform(-0.1, 0.1)
    pictures = torch.tensor(mouths).float().div_(255).unsqueeze(1)
    scale = moved.scale * size / MOUTH_SIZE
    cos, sin = scale * np.cos(moved.angle), scale * np.sin(moved.angle)
    rows = [[moved.mirror * cos, -sin, moved.right], [moved.mirror * sin, cos, moved.down]]
    turn = torch.tensor(rows, dtype=torch.float32)
    grid = affine_grid(turn.expand(len(pictures), 2, 3), [len(pictures), 1, size, size], align_corners=False)
    pictures = grid_sample(pictures, grid, padding_mode="border", align_corners=False).squeeze(1)
    return (pictures * gain + offset).clamp_(0, 1)


class _LipreadingLayer(nn.Module):
    """A lip-reading network up to one of its layers."""

    def __init__(self, lipreader: nn.Module, layer: str) -> None:
        super().__init__()
        self.lipreader = lipreader
        self.layer = layer

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.lipreader.features(clips, self.layer)

    @property
    def lookahead_frames(self) -> int | None:
        """Frames after its own that a vector depends on; None: not to be streamed."""
        return self.lipreader.lookahead_frames if self.layer == "trunk" else None

    def stream(self, clips: torch.Tensor, state: Sequence[torch.Tensor] = ()) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See `Lipreading.stream`."""
        return self.lipreader.stream(clips, state)


def load_frontend(
    weights: Path | str, conf: Path | str | None = None, layer: str = "trunk", device: torch.device | str = "cpu"
) -> Frontend | PrecomputedEmbeddings:
    """Load a visual frontend: a lip-reading network of the TCN family, or LR-ASD's visual half, recognised by the file.

    Args:
        weights: The weights file, or a folder of features that were made beforehand.
        conf: A visual frontend's configuration (JSON); by default the file's own, or the one in conf/lipreading that fits.
        layer: `trunk` (before the temporal network) or `tcn` (after it).
        device: Where it runs.

    Raises:
        UserError: the file, the configuration or the layer cannot be used; nothing is ever loaded in part.
    """
    _check_choice("--frontend_layer", layer, LAYERS)
    if Path(weights).is_dir():
        if conf is not None or layer != "trunk":
            raise UserError(f"{weights}: a folder of precomputed embeddings: leave --frontend_conf and --frontend_layer out")
        return PrecomputedEmbeddings(weights)
    checkpoint = read_checkpoint(weights)
    sha256 = sha256_file(weights)
    if checkpoint.family not in ("lr_asd", "lipreading"):
        raise UserError(f"--frontend_weights {weights}: is a face network ({checkpoint.family}); give it as --face_weights")
    make = _lr_asd if checkpoint.family == "lr_asd" else _lipreading
    return make(checkpoint, conf, layer, sha256).to(device)


def _lipreading(checkpoint: Checkpoint, conf: Path | str | None, layer: str, sha256: str) -> Frontend:
    name, model = load_lipreading(checkpoint, conf)
    if layer == "tcn" and model.use_boundary:
        raise UserError(
            f"{checkpoint.path}: a visual frontend with word boundaries, which running speech has not: its temporal network "
            f"cannot be used; take --frontend_layer trunk"
        )
    description = {"network": "lipreading", "conf": model.conf, "weights_sha256": sha256, "layer": layer}
    return Frontend(_LipreadingLayer(model, layer), name, model.layer_dims[layer], (0.421, 0.165), description)


def _lr_asd(checkpoint: Checkpoint, conf: Path | str | None, layer: str, sha256: str) -> Frontend:
    if conf is not None or layer != "trunk":
        raise UserError(
            f"{checkpoint.path}: is LR-ASD, which has one form and one layer: leave --frontend_conf out and "
            f"--frontend_layer at trunk"
        )
    model = load_lr_asd(checkpoint)
    description = {"network": "lr_asd", "conf": {}, "weights_sha256": sha256, "layer": layer}
    return Frontend(model, "lr_asd", model.dim, (0.4161, 0.1688), description)


def frontend_fingerprint(description: dict) -> str:
    """The first 12 hex digits of the sha256 of a description's canonical JSON."""
    return hash_json(description)[:12]


def store_name(frontend: Frontend | PrecomputedEmbeddings, view: str, precision: str) -> str:
    """The folder name of a visual frontend's embeddings: `<name>-<fingerprint>`."""
    name = re.sub(r"[^\w.-]", "_", frontend.name)
    return f"{name}-{frontend_fingerprint(frontend.describe(view, precision))}"


def check_precision(precision: str) -> None:
    """Refuse an unknown precision of stored embeddings.

    Raises:
        UserError: it is unknown.
    """
    _check_choice("--embedding_dtype", precision, PRECISIONS)


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{option} '{value}': it is one of {', '.join(choices)}")
