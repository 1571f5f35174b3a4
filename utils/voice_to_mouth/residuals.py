"""What a network cannot tell of visual embeddings by the voice: differences from the real ones, clip by clip.

exp/<tag>/residuals.npz, which stage 3 writes after the training of a network for embeddings (`model.target: lips`):
    residuals    float16 (frames, dim), the true embeddings less the predicted ones, of clips that follow each other
    lengths      int32 (clips,), frames of each
    people       int32 (clips,), whose clip it is
    and of the true embeddings mean and variance, float32 (dim,) each, and autocorrelation, float32 (N_LAGS + 1,)

They are of the clips that were trained on, so that nothing of validation or test is in them. A network knows these clips
better than others, so that its differences are somewhat small.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from local_models.voice_to_mouth import VoiceToMouth
from utils.data.audio import read_audio
from utils.data.files import atomic_path
from utils.data.manifest import Manifest
from utils.embedding.joined import AnyStore
from utils.errors import UserError
from utils.training.experiment import load_model
from utils.voice_to_mouth.clips import single_clips

NAME = "residuals.npz"
N_LAGS = 10  # frames
_STRETCH_FRAMES = 25  # over which autocorrelation is measured: the mean that is taken off counts in it
_MOST_CLIPS = 2000
_FEWEST_FRAMES = 10


class Statistics(NamedTuple):
    """Of embeddings over time."""

    mean: np.ndarray  # (dim,)
    variance: np.ndarray  # (dim,)
    autocorrelation: np.ndarray  # (N_LAGS + 1,), over all numbers together, of stretches less their mean


class Residuals(NamedTuple):
    """The content of residuals.npz."""

    clips: list[np.ndarray]  # (frames, dim) each
    people: np.ndarray  # (clips,)
    real: Statistics


def statistics(sequences: Iterable[np.ndarray]) -> Statistics:
    """Measure sequences (frames, dim), of which at least one has two frames."""
    count, total, squares = 0, 0.0, 0.0
    products, pairs = np.zeros(N_LAGS + 1), np.zeros(N_LAGS + 1)
    for sequence in sequences:
        sequence = sequence.astype(np.float64)
        count, total, squares = count + len(sequence), total + sequence.sum(axis=0), squares + (sequence**2).sum(axis=0)
        for start in range(0, max(len(sequence) - _STRETCH_FRAMES, 0) + 1, _STRETCH_FRAMES):
            stretch = sequence[start : start + _STRETCH_FRAMES]
            stretch = stretch - stretch.mean(axis=0)
            for lag in range(min(N_LAGS + 1, len(stretch))):
                n_pairs = len(stretch) - lag
                products[lag] += (stretch[:n_pairs] * stretch[lag:]).sum()
                pairs[lag] += n_pairs
    mean = total / count
    powers = products / np.maximum(pairs, 1)
    return Statistics(mean, squares / count - mean**2, powers / max(powers[0], 1e-12))


def write_residuals(exp_dir: Path, manifest: Manifest, stores: Sequence[AnyStore]) -> None:
    """Compare a trained network with the clips that it was trained on.

    Args:
        exp_dir: of the network.
        manifest: what was trained on.
        stores: the first holds the true embeddings.
    """
    network: VoiceToMouth = load_model(exp_dir / "best_model.pth")
    clips = [clip for clip in single_clips(manifest).items if clip.mouth_path in stores[0]]
    chosen = np.random.default_rng(0).permutation(len(clips))[:_MOST_CLIPS]
    people: dict[str, int] = {}
    residuals, owners, real = [], [], []
    for index in sorted(chosen):
        clip = clips[index]
        true = stores[0].get(clip.mouth_path)
        guess = network.predict(read_audio(manifest.resolve(clip.audio_path), sample_rate=manifest.sample_rate))
        n_frames = min(len(true), len(guess))
        true, guess = true[:n_frames], guess[:n_frames]
        seen = _longest_run(true.any(axis=1))
        if seen.stop - seen.start >= _FEWEST_FRAMES:
            residuals.append((true - guess)[seen])
            owners.append(people.setdefault(clip.speaker or clip.utterance_id, len(people)))
            real.append(true[seen])
    if not residuals:
        raise UserError(f"{manifest.path}: no clip shows a mouth for {_FEWEST_FRAMES} frames; nothing to learn what is missing")
    arrays = {name: values.astype(np.float32) for name, values in statistics(real)._asdict().items()}
    arrays["residuals"] = np.concatenate(residuals).astype(np.float16)
    arrays["lengths"], arrays["people"] = (np.array(values, np.int32) for values in (list(map(len, residuals)), owners))
    with atomic_path(exp_dir / NAME) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, **arrays)


def read_residuals(exp_dir: Path) -> Residuals:
    """Read what `write_residuals` wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    path = exp_dir / NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; stage 3 makes it with --train_args '--target lips'")
    try:
        with np.load(path) as file:
            ends = np.cumsum(file["lengths"])[:-1]
            clips = np.split(file["residuals"].astype(np.float32), ends)
            real = Statistics(*(file[name] for name in Statistics._fields))
            return Residuals(clips, file["people"], real)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: damaged ({error}); run stage 3 again with --force true") from None


def _longest_run(seen: np.ndarray) -> slice:
    """The longest stretch of True in (frames,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], seen, [False]]).astype(np.int8))).reshape(-1, 2)
    if not len(edges):
        return slice(0, 0)
    start, stop = edges[np.argmax(edges[:, 1] - edges[:, 0])]
    return slice(int(start), int(stop))
