"""Fine-tuning of LR-ASD's visual half by telling whose voice it is: its last block learns together with the comparison.

The frontend was trained to see who is speaking, not what is said when. Here faces and clean voices are compared frame by
frame (`local_models.matching`), and the gradient goes on into the last block of the frontend, so that its embeddings say
more of the voice. The pictures are moved, scaled, turned, mirrored, brightened and coarsened at random, or faces as few as
there are would be learned by heart. The blocks before it and all stored statistics stay as they are.
"""

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate, softplus
from torch.utils.data import DataLoader, Dataset

from local_models.lr_asd import LRASDVisual
from local_models.matching import FaceVoiceMatcher
from utils.data.files import atomic_path
from utils.data.manifest import Manifest
from utils.data.mouths import MouthFile
from utils.data.progress import progress_bar
from utils.embedding.frontends import Frontend, draw_geometry, vary
from utils.embedding.landmarks import LipShapes
from utils.errors import UserError
from utils.mixing.levels import sir_gains
from utils.training.config import DataConfig
from utils.training.utterances import Piece, UtterancePool

log = logging.getLogger(__name__)

_COARSE_PROB = 0.4  # of pictures of a half or a third of the resolution
_LEAK_PROB, _MOST_LEAK = 0.6, 0.4  # voices with a rest of the other one, as estimates have it
_MAX_SIR_DB = 5.0
_SHIFT_WEIGHT = 0.3
_MATCHER_LR_RATIO = 3.0  # of the comparison's learning rate over the last block's
_WARMUP_STEPS = 30
_MAX_NORM = 5.0


class VoicePairs(Dataset):
    """Two clips of different people, the mixture of their voices, and their pictures, drawn anew in every epoch.

    An example is a dict of tensors: `voices` (2, time), each with or without a rest of the other, `mixture` (time,),
    `pictures` (2, frames, crop, crop), normalised for the frontend, `seen` (2, frames), and `shapes` (2, frames, 40) of the
    lips, zeros where there are no landmarks.

    Args:
        manifest: utterances; those without a face are left out.
        frontend: LR-ASD.
        segment_sec: length of an example.
        fps: video frames for each second.
        size: examples of an epoch.
        seed: of everything that is drawn.

    Raises:
        UserError: fewer than two people are left, or none of their clips is long enough.
    """

    def __init__(self, manifest: Manifest, frontend: Frontend, *, segment_sec: float, fps: float, size: int, seed: int) -> None:
        self.frontend, self.size, self.seed = frontend, size, seed
        faces = replace(manifest, items=tuple(item for item in manifest.items if item.mouth_path))
        if not faces.items:
            raise UserError(f"{manifest.path}: no utterance has a face; give a corpus with mouth crops")
        self.pool = UtterancePool(faces, [], DataConfig(segment_sec=segment_sec), fps, most_sources=2)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, *key])
        drawn = self.pool.draw(2, rng)
        sources = np.stack([source.audio for source in drawn])
        sources = sources * sir_gains(sources, rng.uniform(-_MAX_SIR_DB, _MAX_SIR_DB, 1))
        leaks = rng.uniform(0, _MOST_LEAK, (2, 1)) * (rng.random((2, 1)) < _LEAK_PROB)
        voices = (1 - leaks) * sources + leaks * sources[::-1]
        pictures, seen, shapes = zip(*(self._pictures(source.pieces[0], rng) for source in drawn), strict=True)
        return {
            "voices": torch.from_numpy(voices.astype(np.float32)),
            "mixture": torch.from_numpy(sources.sum(axis=0).astype(np.float32)),
            "pictures": torch.stack(pictures),
            "seen": torch.from_numpy(np.stack(seen)),
            "shapes": torch.from_numpy(np.stack(shapes)),
        }

    def _pictures(self, piece: Piece, rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Another picture of each crop (frames, crop, crop), where a mouth is seen (frames,), and its shape (frames, 40)."""
        file = MouthFile(self.pool.manifest.resolve(piece.item.mouth_path))
        stretch = slice(piece.start_frame, piece.start_frame + piece.n_frames)
        mouths, (mean, std) = file.all()[stretch], self.frontend.normalisation
        mouths = coarsened(mouths, int(rng.integers(2, 4))) if rng.random() < _COARSE_PROB else mouths
        geometry = draw_geometry(rng)
        pictures = vary(mouths, self.frontend.crop_size, rng, geometry).sub_(mean).div_(std)
        return pictures, file.mask[stretch], LipShapes().vectors(file.points[stretch], geometry)


def coarsened(mouths: np.ndarray, factor: int) -> np.ndarray:
    """Crops of a factor less resolution, at their size: uint8 (frames, rows, columns)."""
    pictures = torch.tensor(mouths).float().unsqueeze(1)
    coarse = interpolate(avg_pool2d(pictures, factor), size=pictures.shape[2:], mode="bilinear")
    return coarse.squeeze(1).round().byte().numpy()


def tune(
    frontend: Frontend,
    matcher: FaceVoiceMatcher,
    pairs: VoicePairs,
    checkpoint: Path,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    num_workers: int,
) -> None:
    """Train the frontend's last block and the comparison, in place. An interrupted training goes on from its last epoch.

    Args:
        frontend: LR-ASD, on the device to train on, like `matcher`.
        matcher: the comparison, for embeddings of this frontend.
        pairs: training examples.
        checkpoint: file that keeps an unfinished training.
        epochs, batch_size: how many, of examples.
        lr: of the last block, at the start; a cosine takes it to zero.
        num_workers: loader processes.

    Raises:
        UserError: another frontend than LR-ASD.
    """
    network = frontend.network
    if not isinstance(network, LRASDVisual):
        raise UserError(f"visual frontend {frontend.name}: only LR-ASD can be tuned")
    n_batches = len(pairs) // batch_size
    block, device = network.block3.requires_grad_(True), next(matcher.parameters()).device
    groups = [
        {"params": list(block.parameters()), "lr": lr},
        {"params": list(matcher.parameters()), "lr": _MATCHER_LR_RATIO * lr},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
    total = epochs * n_batches

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / total))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    parts = {"block": block, "matcher": matcher, "optimizer": optimizer, "schedule": schedule}
    first = _resume(checkpoint, parts)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for epoch in range(first, epochs):
        torch.manual_seed(pairs.seed * 100003 + epoch)
        order = np.random.default_rng([pairs.seed, epoch]).permutation(n_batches * batch_size).reshape(n_batches, -1)
        keys = [[(epoch, int(index)) for index in batch] for batch in order]
        losses: list[float] = []
        matcher.train()
        loader = DataLoader(pairs, batch_sampler=keys, num_workers=num_workers)
        for batch in progress_bar(loader, desc=f"epoch {epoch + 1} of {epochs}", unit="batch"):
            loss = matching_loss(network, matcher, {name: each.to(device) for name, each in batch.items()})
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, _MAX_NORM)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        with atomic_path(checkpoint) as temporary:
            torch.save({"epoch": epoch} | {name: part.state_dict() for name, part in parts.items()}, temporary)
        log.info("epoch %d of %d: loss %.3f nats", epoch + 1, epochs, np.mean(losses))
    block.requires_grad_(False)
    matcher.eval()


def _resume(checkpoint: Path, parts: dict) -> int:
    """Load an unfinished training, if there is one; the epoch to go on with."""
    if not checkpoint.is_file():
        return 0
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return saved["epoch"] + 1


def embedded(network: LRASDVisual, pictures: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Embeddings with gradients of the last block only: pictures (n, frames, H, W) -> (n, frames, 128), 0 where unseen."""
    with torch.no_grad():
        features = network.before_last_block(pictures)
    return network.last_block(features) * seen.unsqueeze(-1)


def matching_loss(network: LRASDVisual, matcher: FaceVoiceMatcher, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Finding the voice of a face among those of the batch, and telling it from itself out of step; a scalar, nats.

    Args:
        network, matcher: in training.
        batch: stacked examples of `VoicePairs`.
    """
    voices, mixture, seen = batch["voices"], batch["mixture"], batch["seen"]
    visual = embedded(network, batch["pictures"].flatten(0, 1), seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
    if matcher.shape_dim:
        visual = torch.cat([visual, batch["shapes"]], dim=-1)
    loss = matcher.contrastive_loss(voices, visual, mixture, torch.ones_like(seen[..., 0], dtype=torch.bool))
    faces = matcher.faces(visual.flatten(0, 1))  # (batch * 2, frames, chan)
    heard = matcher.voices(voices.flatten(0, 1), mixture.repeat_interleave(2, dim=0), faces.shape[1])
    n_frames = faces.shape[1]
    shift = int(torch.randint(n_frames // 5, n_frames // 2 + 1, ())) * (1 if torch.rand(()) < 0.5 else -1)
    moved = torch.roll(heard, shift, dims=1)
    advantage = ((heard - moved) * faces).sum(dim=(1, 2)) / faces.shape[2] ** 0.5  # (batch * 2,), of being in step
    return loss + _SHIFT_WEIGHT * softplus(-advantage).mean()
