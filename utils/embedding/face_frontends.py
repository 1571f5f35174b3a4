"""Face frontends: frozen networks that tell faces apart, each picture for itself; one vector a frame.

Reads `--face_weights`: a checkpoint of FaceNet's InceptionResnetV1 or of VisualVoice's identity network, recognised by the
file, or the word `dlib` for the network whose weights come with requirements-video.txt. The crops are those of
`utils.data.faces`, in the size that the network wants.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from local_models.identity_resnet import IdentityResNet
from local_models.inception_resnet import InceptionResnetV1
from utils.data.experiments import DLIB
from utils.data.faces import CHIP_SIZE, FaceFile
from utils.data.files import sha256_file
from utils.embedding.checkpoints import load_plain, read_checkpoint
from utils.embedding.frontends import check_precision
from utils.errors import UserError

if TYPE_CHECKING:
    from utils.video.descriptors import FaceDescriber


DLIB_DIM = 128
VERSION = 1  # of the computation below: raise it when the same weights would give other vectors
_PICTURES = 32  # that go through a network at once: bounds the memory


@dataclass(frozen=True)
class _Kind:
    """What a network wants to see: pixels as (value - mean) / std, `hop_frames` frames from one picture to the next."""

    size: int  # pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hop_frames: int = 1


_KINDS = {
    "facenet": _Kind(160, (127.5,) * 3, (128.0,) * 3),
    "identity": _Kind(224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    DLIB: _Kind(CHIP_SIZE, (0.0,) * 3, (1.0,) * 3, hop_frames=16),  # it takes a tenth of a second for each picture
}
_NETWORKS = {"facenet": InceptionResnetV1, "identity": IdentityResNet}


class FaceFrontend(nn.Module):
    """A frozen face frontend; its vectors do not depend on the batch.

    Args:
        network: pictures float32 (n, 3, size, size), normalised -> (n, dim).
        name: one of `facenet`, `identity`, `dlib`.
        dim: values a frame.
        description: what identifies network and weights (plain JSON).
    """

    crop_file = FaceFile

    def __init__(self, network: nn.Module, name: str, dim: int, description: dict[str, Any]) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.name, self.dim, self.description = name, dim, description
        self.kind = _KINDS[name]
        self.register_buffer("mean", torch.tensor(self.kind.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.kind.std).view(3, 1, 1), persistent=False)
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def train(self, mode: bool = True) -> "FaceFrontend":
        """Stay in eval mode, whatever the model around is set to."""
        return super().train(False)

    def describe(self, view: str = "centre", precision: str = "float16") -> dict[str, Any]:
        """All that stored vectors depend on, as plain JSON.

        Raises:
            UserError: another view than the faces as they are, or an unknown precision.
        """
        if view != "centre":
            raise UserError(f"--views {view}: face frontends know one view, centre")
        check_precision(precision)
        facts = {"dim": self.dim, "preprocessing": asdict(self.kind), "view": view, "precision": precision, "version": VERSION}
        return self.description | facts

    def preprocess(self, faces: np.ndarray, view: str = "centre") -> torch.Tensor:
        """Crops of a clip as the network wants them: uint8 (frames, size, size, 3) twice; pixels are normalised later."""
        pictures = torch.tensor(faces)
        if pictures.shape[1] == self.kind.size:
            return pictures
        resized = interpolate(pictures.permute(0, 3, 1, 2).float(), (self.kind.size,) * 2, mode="bilinear", antialias=True)
        return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1)

    @torch.no_grad()
    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Crops uint8 (batch, frames, size, size, 3) -> float32 (batch, frames, dim).

        Where a network looks at every `hop_frames`-th frame only, the vectors between are interpolated.
        """
        return torch.stack([self._of_clip(clip) for clip in clips])

    def _of_clip(self, clip: torch.Tensor) -> torch.Tensor:
        n_frames, hop = len(clip), self.kind.hop_frames
        looked_at = list(range(0, n_frames, hop))
        if looked_at[-1] != n_frames - 1:
            looked_at.append(n_frames - 1)
        pictures = clip[looked_at].permute(0, 3, 1, 2)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            parts = [self.network((part.float() - self.mean) / self.std) for part in pictures.split(_PICTURES)]
        vectors = torch.cat(parts).float()
        if hop == 1:
            return vectors
        frames = torch.arange(n_frames, device=vectors.device)
        before = torch.bucketize(frames, torch.tensor(looked_at, device=frames.device), right=True) - 1
        after = (before + 1).clamp(max=len(looked_at) - 1)
        places = torch.tensor(looked_at, device=frames.device, dtype=torch.float32)
        weight = (frames - places[before]) / (places[after] - places[before]).clamp(min=1)
        return torch.lerp(vectors[before], vectors[after], weight[:, None])


class _Dlib(nn.Module):
    """dlib's descriptor as a network; it runs on the CPU."""

    dim = DLIB_DIM

    @cached_property
    def describer(self) -> "FaceDescriber":
        """Made when it is needed: where all embeddings are stored, dlib need not be there."""
        from utils.video.descriptors import FaceDescriber

        return FaceDescriber()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        chips = pictures.permute(0, 2, 3, 1).byte().cpu().contiguous().numpy()
        described = np.stack([self.describer.describe(chip) for chip in chips])
        return torch.from_numpy(described).to(pictures.device)


def load_face_frontend(weights: Path | str, device: torch.device | str = "cpu") -> FaceFrontend:
    """Load a face frontend.

    Args:
        weights: a checkpoint, or `dlib`.
        device: where it runs.

    Raises:
        UserError: the file cannot be used, or dlib is not installed; nothing is ever loaded in part.
    """
    if str(weights) == DLIB:
        return FaceFrontend(_Dlib(), DLIB, _Dlib.dim, {"network": DLIB, "layer": "trunk"}).to(device)
    checkpoint = read_checkpoint(weights, "--face_weights")
    family = checkpoint.family
    if family not in _NETWORKS:
        raise UserError(
            f"--face_weights {weights}: is a frontend for lips ({family}), which goes to --frontend_weights; give FaceNet's or "
            f"VisualVoice's face network, or {DLIB}"
        )
    network = load_plain(_NETWORKS[family], checkpoint)
    description = {"network": family, "weights_sha256": sha256_file(weights), "layer": "trunk"}
    return FaceFrontend(network, family, network.dim, description).to(device)


def face_size(weights: str) -> int:
    """Pixels of the crops that a face frontend wants; arguments and errors as of `load_face_frontend`."""
    name = DLIB if weights == DLIB else read_checkpoint(weights, "--face_weights").family
    if name not in _KINDS:
        load_face_frontend(weights)  # says what is wrong
    return _KINDS[name].size
