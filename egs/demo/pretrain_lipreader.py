"""Pretrain the demo's small visual frontend to tell which word of the vocabulary is said.

It draws its own clips, of the training voices, each with a face that the corpus does not have, and writes
egs/demo/lipreader.pth.tar, a checkpoint of the lip-reading TCN family. So that minutes on a CPU are enough, it learns in
two steps: first convolution and trunk, from frames drawn anywhere, by visemes and articulators (two linear layers that
are not saved); then the temporal network, from words, on the trunk's output. The committed file was made by

    python egs/demo/pretrain_lipreader.py --seed 0
"""

import argparse
import logging
import multiprocessing
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from egs.demo.clips import CLIP_FRAMES, make_clip
from egs.demo.visemes import LEAD_SEC, VISEMES, label_frames
from egs.demo.voices import WORDS, voices_of
from local_models.lipreading import Lipreading
from utils.data.constants import MOUTH_SIZE, VIDEO_FPS
from utils.data.files import atomic_path
from utils.data.progress import progress_bar
from utils.embedding.checkpoints import read_lipreading_conf
from utils.errors import OptionParser, at_least, run_cli

CONFIG = "demo_snv05x"
N_VAL_CLIPS = 60
TRUNK_BATCH, WORD_BATCH = 128, 48
TRUNK_LR, WORD_LR = 3e-3, 1e-3
WINDOW_FRAMES = 16  # around a word
DEPTH_FRAMES = 5  # that the first convolution sees
INPUT = 88  # pixels, the visual frontend's crop

_FIRST_FACE = 1000  # the corpus' speakers have the faces below
_FIRST_NUMBER = 5000  # of utterances that the corpus does not hold
_MEAN, _STD = 0.421, 0.165

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LipClips:
    """Clips with what is said in them."""

    mouths: np.ndarray  # uint8 (clips, 50, 96, 96)
    visemes: np.ndarray  # index in `VISEMES` at each frame, (clips, 50)
    motions: np.ndarray  # the articulators, float32 (clips, 50, 9)
    words: np.ndarray  # (words, 3): clip, middle of the word in frames, index in `WORDS`


def main() -> int:
    parser = OptionParser(prog="egs/demo/pretrain_lipreader.py", description="Pretrains the demo's visual frontend.")
    out = Path(__file__).with_name("lipreader.pth.tar")
    parser.add_argument("--out", type=Path, default=out, help="the checkpoint")
    parser.add_argument("--n_clips", type=at_least(1), default=1000, help="clips of 2 s, each with a face of its own")
    parser.add_argument("--steps", type=at_least(1), default=240, help="of the trunk, on 128 frames each")
    parser.add_argument("--epochs", type=at_least(1), default=40, help="of the temporal network")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of clips, weights and order")
    parser.add_argument("--nj", type=at_least(1), default=2, help="processes that draw clips")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train = _draw_clips("train", args.n_clips, args, _FIRST_NUMBER, _FIRST_FACE)
    val = _draw_clips("val", N_VAL_CLIPS, args)
    logger.info("%d training words, %d validation words, chance %.4f", len(train.words), len(val.words), 1 / len(WORDS))
    network = Lipreading(read_lipreading_conf(CONFIG), len(WORDS))
    rng = np.random.default_rng([args.seed, 1])
    _train_trunk(network, train, args.steps, rng)
    accuracy = _train_temporal(network, train, val, args.epochs, rng)
    content = {"epoch_idx": args.epochs, "model_state_dict": _as_half(network.state_dict()), "config": CONFIG}
    with atomic_path(args.out) as temporary:
        torch.save(content | {"vocabulary": list(WORDS), "accuracy": accuracy}, temporary)
    return 0


def _draw_clips(
    split: str, n_clips: int, args: argparse.Namespace, first_number: int = 0, first_face: int | None = None
) -> LipClips:
    """Utterances of the voices of a part of the corpus; from `first_face` on each has a face of its own."""
    voices = voices_of(split)
    orders = [
        (voices[k % len(voices)], first_number + k // len(voices), args.seed, None if first_face is None else first_face + k)
        for k in range(n_clips)
    ]
    # a process speaks only once (see egs/demo/speech.py), hence a fresh one for each clip
    with multiprocessing.get_context("fork").Pool(args.nj, maxtasksperchild=1) as pool:
        drawn = list(progress_bar(pool.imap(_draw_clip, orders), total=len(orders), desc=f"{split} clips"))
    mouths, visemes, motions, words = zip(*drawn, strict=True)
    places = [(clip, *word) for clip, said in enumerate(words) for word in said]
    return LipClips(np.stack(mouths), np.stack(visemes), np.stack(motions), np.array(places))


def _draw_clip(order: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[int, int]]]:
    clip = make_clip(*order)
    middles = [round(((word.start_sec + word.end_sec) / 2 - LEAD_SEC) * VIDEO_FPS) for word in clip.words]
    words = [(middle, WORDS.index(word.label)) for middle, word in zip(middles, clip.words, strict=True)]
    motions = np.stack(list(vars(clip.motion).values()), axis=1)
    return clip.mouths, label_frames(clip.phones, CLIP_FRAMES), motions, words


def _train_trunk(network: Lipreading, clips: LipClips, n_steps: int, rng: np.random.Generator) -> None:
    """Learn visemes and articulators of single frames, through first convolution and trunk."""
    trunk_dim = network.layer_dims["trunk"]
    viseme_layer, motion_layer = nn.Linear(trunk_dim, len(VISEMES)), nn.Linear(trunk_dim, clips.motions.shape[2])
    layers = (network.frontend3D, network.trunk, viseme_layer, motion_layer)
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=TRUNK_LR, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, TRUNK_LR, total_steps=n_steps, pct_start=0.15)
    mean, std = clips.motions.mean((0, 1)), clips.motions.std((0, 1))
    network.train()
    for step in progress_bar(range(1, n_steps + 1), desc="trunk"):
        windows, visemes, motions = _draw_windows(clips, rng)
        vectors = _middle_vectors(network, torch.from_numpy(windows))
        viseme_loss = functional.cross_entropy(viseme_layer(vectors), torch.from_numpy(visemes))
        motion_loss = functional.mse_loss(motion_layer(vectors), torch.from_numpy((motions - mean) / std))
        optimiser.zero_grad()
        (viseme_loss + 2 * motion_loss).backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        schedule.step()
        if step % 10 == 0:
            logger.info("step %d: viseme loss %.4f, motion loss %.4f", step, viseme_loss.item(), motion_loss.item())


def _draw_windows(clips: LipClips, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw frames anywhere, each with its neighbours, as the first convolution of the visual frontend sees it.

    Returns:
        float32 (batch, 5, 88, 88), augmented; the visemes (batch,) and the articulators (batch, 9) of the middle frames.
    """
    around = DEPTH_FRAMES // 2
    chosen = rng.integers(0, len(clips.mouths), TRUNK_BATCH)
    middles = rng.integers(around, CLIP_FRAMES - around, TRUNK_BATCH)
    windows = np.empty((TRUNK_BATCH, DEPTH_FRAMES, INPUT, INPUT), dtype=np.float32)
    for window, clip, middle in zip(windows, chosen, middles, strict=True):
        top, left = rng.integers(0, MOUTH_SIZE - INPUT + 1, 2)
        crop = clips.mouths[clip, middle - around : middle + around + 1, top : top + INPUT, left : left + INPUT]
        crop = crop[:, :, ::-1] if rng.random() < 0.5 else crop
        gain, offset = rng.uniform(0.8, 1.25), rng.uniform(-0.10, 0.10)
        view = (crop.astype(np.float32) / 255 - 0.5) * np.float32(gain) + np.float32(0.5 + offset)
        view += rng.standard_normal(view.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.015))
        window[:] = (view - _MEAN) / _STD
    return windows, clips.visemes[chosen, middles], clips.motions[chosen, middles]


def _middle_vectors(network: Lipreading, windows: torch.Tensor) -> torch.Tensor:
    """The trunk's output for the middle frames of (n, 5, 88, 88): the 3-D convolution seen as one over five channels."""
    convolution, *rest = network.frontend3D
    x = functional.conv2d(windows, convolution.weight.squeeze(1), None, convolution.stride[1:], convolution.padding[1:])
    return network.trunk(nn.Sequential(*rest)(x.unsqueeze(2)).squeeze(2))


def _train_temporal(
    network: Lipreading,
    train: LipClips,
    val: LipClips,
    n_epochs: int,
    rng: np.random.Generator,
) -> float:
    """Learn words, through the temporal network, on the frozen trunk's output; gives the share that is read right."""
    mirrored = (mouths[:, :, ::-1] if rng.random() < 0.5 else mouths for mouths in train.mouths)
    vectors = _trunk_vectors(network, mirrored)
    val_windows = _word_windows(_trunk_vectors(network, val.mouths), val.words, [0] * len(val.words))
    n_batches = len(train.words) // WORD_BATCH
    optimiser = torch.optim.AdamW(network.tcn.parameters(), lr=WORD_LR, weight_decay=5e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, WORD_LR, total_steps=max(1, n_epochs * n_batches))
    accuracy = 0.0
    for epoch in progress_bar(range(1, n_epochs + 1), desc="temporal network"):
        network.tcn.train()
        for chosen in rng.permutation(len(train.words))[: n_batches * WORD_BATCH].reshape(n_batches, -1):
            words = train.words[chosen]
            logits = _logits(network, _word_windows(vectors, words, rng.integers(-1, 2, WORD_BATCH)))
            loss = functional.cross_entropy(logits, torch.from_numpy(words[:, 2]), label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            guesses = _logits(network, val_windows).argmax(dim=1).numpy()
        accuracy = float((guesses == val.words[:, 2]).mean())
        logger.info("epoch %d: %.4f of the validation words are read right", epoch, accuracy)
    return accuracy


@torch.no_grad()
def _trunk_vectors(network: Lipreading, clips: Iterable[np.ndarray]) -> torch.Tensor:
    """float16 (clips, 50, 1024): what the trunk makes of whole clips, as the recipe's stage 2 does."""
    network.eval()
    return torch.stack([network.features(torch.from_numpy(normalise(mouths))[None])[0].half() for mouths in clips])


def normalise(mouths: np.ndarray) -> np.ndarray:
    """The middle 88x88 of uint8 crops (frames, 96, 96), as the visual frontend takes them: float32."""
    edge = (MOUTH_SIZE - INPUT) // 2
    return (mouths[:, edge : edge + INPUT, edge : edge + INPUT].astype(np.float32) / 255 - _MEAN) / _STD


def _word_windows(vectors: torch.Tensor, words: np.ndarray, shifts: Sequence[int]) -> torch.Tensor:
    """The frames around each word, float32 (words, WINDOW_FRAMES, 1024), from the trunk's output of whole clips."""
    starts = np.clip(words[:, 1] - WINDOW_FRAMES // 2 + np.asarray(shifts), 0, vectors.shape[1] - WINDOW_FRAMES)
    places = zip(words[:, 0], starts, strict=True)
    return torch.stack([vectors[clip, start : start + WINDOW_FRAMES] for clip, start in places]).float()


def _logits(network: Lipreading, windows: torch.Tensor) -> torch.Tensor:
    """Words from the trunk's output, (words, frames, 1024) -> (words, vocabulary)."""
    return network.tcn.tcn_output(network.tcn(windows.transpose(1, 2)).mean(dim=2))


def _as_half(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices and kernels in float16, shared tensors still shared; the batch norms keep float32."""
    halves: dict[int, torch.Tensor] = {}
    return {
        key: halves.setdefault(value.data_ptr(), value.half()) if value.ndim > 1 and value.is_floating_point() else value
        for key, value in state.items()
    }


if __name__ == "__main__":
    run_cli(main)
