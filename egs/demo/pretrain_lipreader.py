"""Pretrain the demo's small visual frontend to tell which word of the vocabulary is said.

It draws its own clips, of the training voices with faces that the corpus does not have. Writes
egs/demo/lipreader.pth.tar (a checkpoint of the lip-reading TCN family) and beside it lipreader_log.csv; the clips are
kept in --cache_dir for a second run. So that minutes on a CPU are enough, it learns in two steps: first convolution
and trunk, from frames drawn anywhere, by visemes and articulators (two linear layers that are not saved); then the
temporal network, from words, on the trunk's output. The committed file was made by

    python egs/demo/pretrain_lipreader.py --steps 240 --seed 0
"""

import argparse
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm, trange

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from egs.demo.lipreader_data import LipClips, corpus_clips, draw_windows, normalise, training_clips
from egs.demo.visemes import VISEMES
from egs.demo.voices import WORDS
from local_models.lipreading import Lipreading
from utils.data.files import atomic_path, write_text
from utils.embedding.checkpoints import read_lipreading_conf
from utils.errors import OptionParser, run_cli

HERE = Path(__file__).resolve().parent
CONFIG = "demo_snv05x"
WINDOW = 16  # frames around a word
LOG_FIELDS = ("phase", "step", "viseme_loss", "motion_loss", "word_loss", "val_word_accuracy", "wall_sec")

logger = logging.getLogger(__name__)


def main() -> int:
    args = _parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train = training_clips(args.n_clips, args.seed, args.nj, args.cache_dir)
    val = corpus_clips("val", 60, args.seed, args.nj, args.cache_dir)
    logger.info("%d training words, %d validation words, chance %.4f", len(train.words), len(val.words), 1 / len(WORDS))
    pretraining = Pretraining(args, train, val)
    pretraining.train_trunk()
    pretraining.train_temporal()
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="egs/demo/pretrain_lipreader.py", description="Pretrains the demo's visual frontend.")
    parser.add_argument("--out", type=Path, default=HERE / "lipreader.pth.tar", help="the checkpoint")
    parser.add_argument("--cache_dir", type=Path, default=Path("dump/demo_lipreader"), help="the clips are kept here")
    parser.add_argument("--n_clips", type=int, default=1000, help="clips of 2 s, each with a face of its own")
    parser.add_argument("--steps", type=int, default=240, help="steps of the trunk")
    parser.add_argument("--batch_size", type=int, default=128, help="frames a step")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate of the trunk")
    parser.add_argument("--tcn_epochs", type=int, default=40, help="epochs of the temporal network")
    parser.add_argument("--seed", type=int, default=0, help="of clips, weights and order")
    parser.add_argument("--nj", type=int, default=2, help="processes that draw clips")
    parser.add_argument("--threads", type=int, default=1, help="threads of the training")
    return parser.parse_args()


class Pretraining:
    """One pretraining: the network, its auxiliary layers, its log and its checkpoint."""

    def __init__(self, args: argparse.Namespace, train: LipClips, val: LipClips) -> None:
        self.args, self.train, self.val = args, train, val
        self.rng = np.random.default_rng([args.seed, 1])
        self.network = Lipreading(read_lipreading_conf(CONFIG), len(WORDS))
        trunk_dim = self.network.layer_dims["trunk"]
        self.viseme_layer = nn.Linear(trunk_dim, len(VISEMES))
        self.motion_layer = nn.Linear(trunk_dim, train.motions.shape[2])
        self.log: list[dict] = []
        self.start = time.monotonic()

    def train_trunk(self) -> None:
        """Visemes and articulators of single frames, through first convolution and trunk."""
        args, network = self.args, self.network.train()
        layers = (network.frontend3D, network.trunk, self.viseme_layer, self.motion_layer)
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=args.steps, pct_start=0.15)
        mean, std = self.train.motions.mean((0, 1)), self.train.motions.std((0, 1))
        for step in trange(1, args.steps + 1, desc="trunk", disable=None):
            windows, visemes, motions = draw_windows(self.train, args.batch_size, self.rng)
            vectors = _middle_vectors(network, torch.from_numpy(windows))
            viseme_loss = functional.cross_entropy(self.viseme_layer(vectors), torch.from_numpy(visemes))
            motion_loss = functional.mse_loss(self.motion_layer(vectors), torch.from_numpy((motions - mean) / std))
            optimiser.zero_grad()
            (viseme_loss + 2 * motion_loss).backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimiser.step()
            schedule.step()
            if step % 10 == 0:
                self._note("trunk", step, viseme_loss=viseme_loss.item(), motion_loss=motion_loss.item())

    def train_temporal(self) -> None:
        """Words, through the temporal network, on the frozen trunk's output."""
        args, batch_size, tcn = self.args, 48, self.network.tcn
        vectors, val_vectors = self._trunk_vectors(self.train, mirror=True), self._trunk_vectors(self.val, mirror=False)
        n_batches = len(self.train.words) // batch_size
        optimiser = torch.optim.AdamW(tcn.parameters(), lr=1e-3, weight_decay=5e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=max(1, args.tcn_epochs * n_batches))
        for epoch in trange(1, args.tcn_epochs + 1, desc="temporal network", disable=None):
            tcn.train()
            losses = []
            for chosen in self.rng.permutation(len(self.train.words))[: n_batches * batch_size].reshape(n_batches, -1):
                words = self.train.words[chosen]
                windows = _word_windows(vectors, words, self.rng.integers(-1, 2, batch_size))
                loss = functional.cross_entropy(self._logits(windows), torch.from_numpy(words[:, 2]), label_smoothing=0.1)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                losses.append(loss.item())
            accuracy = self._accuracy(val_vectors)
            self._note("temporal", epoch, word_loss=sum(losses) / len(losses), val_word_accuracy=accuracy)
        self._save(args.tcn_epochs, accuracy)

    def _logits(self, windows: torch.Tensor) -> torch.Tensor:
        """Words from the trunk's output, (words, frames, 1024) -> (words, vocabulary)."""
        return self.network.tcn.tcn_output(self.network.tcn(windows.transpose(1, 2)).mean(dim=2))

    def _trunk_vectors(self, clips: LipClips, mirror: bool) -> torch.Tensor:
        """float16 (clips, 50, 1024): what the trunk makes of whole clips, as the recipe's stage 2 does."""
        self.network.eval()
        vectors = []
        with torch.no_grad():
            for mouths in tqdm(clips.mouths, desc="trunk's output", disable=None):
                mouths = mouths[:, :, ::-1] if mirror and self.rng.random() < 0.5 else mouths
                vectors.append(self.network.features(torch.from_numpy(normalise(mouths))[None])[0].half())
        return torch.stack(vectors)

    def _accuracy(self, vectors: torch.Tensor) -> float:
        """Share of the validation voices' words that are read right."""
        self.network.eval()
        words = self.val.words
        with torch.no_grad():
            guesses = self._logits(_word_windows(vectors, words, [0] * len(words))).argmax(dim=1)
        return float((guesses.numpy() == words[:, 2]).mean())

    def _note(self, phase: str, step: int, **values: float) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise RuntimeError(f"{phase} {step}: {bad[0]} is not finite; try a lower --lr")
        row = {name: round(value, 4) for name, value in values.items()}
        self.log.append({"phase": phase, "step": step, "wall_sec": round(time.monotonic() - self.start), **row})
        logger.info("%s", self.log[-1])

    def _save(self, step: int, accuracy: float) -> None:
        content = {
            "epoch_idx": step,
            "model_state_dict": _as_half(self.network.state_dict()),
            "config": CONFIG,
            "vocabulary": list(WORDS),
            "accuracy": accuracy,
        }
        with atomic_path(self.args.out) as temporary:
            torch.save(content, temporary)
        log = pd.DataFrame(self.log, columns=LOG_FIELDS)
        write_text(self.args.out.parent / "lipreader_log.csv", log.to_csv(index=False))


def _middle_vectors(network: Lipreading, windows: torch.Tensor) -> torch.Tensor:
    """The trunk's output for the middle frames of (n, 5, 88, 88): the 3-D convolution seen as one over five channels."""
    convolution, *rest = network.frontend3D
    x = functional.conv2d(windows, convolution.weight.squeeze(1), None, convolution.stride[1:], convolution.padding[1:])
    x = x.unsqueeze(2)
    for layer in rest:
        x = layer(x)
    return network.trunk(x.squeeze(2))


def _word_windows(vectors: torch.Tensor, words: np.ndarray, shifts: Sequence[int]) -> torch.Tensor:
    """The frames around each word, float32 (words, WINDOW, 1024), from the trunk's output of whole clips."""
    last = vectors.shape[1] - WINDOW
    starts = [min(max(int(word[1]) - WINDOW // 2 + int(shift), 0), last) for word, shift in zip(words, shifts, strict=True)]
    pieces = [vectors[word[0], start : start + WINDOW] for word, start in zip(words, starts, strict=True)]
    return torch.stack(pieces).float()


def _as_half(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices and kernels in float16, shared tensors still shared; the batch norms keep float32."""
    halves: dict[int, torch.Tensor] = {}

    def half(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim < 2 or not tensor.is_floating_point():
            return tensor
        return halves.setdefault(tensor.data_ptr(), tensor.half())

    return {key: half(value) for key, value in state.items()}


if __name__ == "__main__":
    run_cli(main)
