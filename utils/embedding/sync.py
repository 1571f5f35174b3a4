"""The offset between faces and voices, in video frames: how much too late the pictures of a clip come.

A ridge regression from the embeddings of a few frames to the log energies of the sound in a few bands is fitted to clips
that are in step; the offset of a clip is the one at which prediction and sound correlate best. An offset is positive where
the video comes too late.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.data.audio import read_audio
from utils.data.clock import frames_to_samples
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.files import atomic_path
from utils.data.mouths import MouthFile
from utils.errors import UserError

if TYPE_CHECKING:
    from utils.embedding.frontends import Frontend

BAND_EDGES_HZ = (80.0, 300.0, 700.0, 1500.0, 3000.0, 7800.0)
CONTEXT_FRAMES = 3  # of the embeddings, on either side
RIDGE = 1000.0  # frames' worth of keeping the weights small
ENERGY_FLOOR = 1e-4
NEAR_FRAMES = 2  # around the best offset, where the second best does not count
LEAST_SHARED_FRAMES = 8
MOST_FRAMES = 10
SHIPPED = Path(__file__).resolve().parents[2] / "egs/grid/sync_lr_asd.npz"  # fitted to GRID, for embeddings of LR-ASD
SURE_MARGIN = 0.05  # of a corpus: mean correlation above any offset elsewhere


@dataclass(frozen=True)
class Offset:
    """The offset of one clip, or of several together."""

    frames: float  # the video comes so many frames too late; between whole ones by a parabola
    agreement: float  # mean correlation there, -1 to 1
    margin: float  # over the best offset elsewhere


@dataclass(frozen=True)
class CorpusOffset:
    """The offset that the clips of a corpus have in common.

    Attributes:
        frames: whole ones; the videos come so many too late.
        is_sure: both halves of the clips say the same to one frame, and clearly.
        n_clips: so many were looked at.
        share_near: of the clips whose own offset is at most a frame from it.
        agreement, margin: as of `Offset`, of all clips together.
    """

    frames: int
    is_sure: bool
    n_clips: int
    share_near: float
    agreement: float
    margin: float

    def __str__(self) -> str:
        direction = "late" if self.frames > 0 else "early"
        said = f"{abs(self.frames)} frames {direction}" if self.frames else "in step"
        return (
            f"the videos are {said} ({self.share_near:.0%} of {self.n_clips} clips to one frame; agreement "
            f"{self.agreement:.2f}, {self.margin:.2f} above any other offset)"
        )


@dataclass(frozen=True, eq=False)
class SyncModel:
    """Weights from visual embeddings to band energies: predicted = ((visual in context) - mean) / scale @ weights."""

    mean: np.ndarray  # (values,)
    scale: np.ndarray  # (values,)
    weights: np.ndarray  # (values, bands)

    def agreement(self, visual: np.ndarray, energies: np.ndarray, most_frames: int = MOST_FRAMES) -> np.ndarray:
        """Mean correlation of face and voice at each offset from -most_frames to most_frames.

        Args:
            visual: embeddings (frames, dim); frames of zeros, without a face, do not count.
            energies: of `band_energies`, (frames, bands).
            most_frames: the largest offset to try.

        Returns:
            (2 * most_frames + 1,), NaN where too few frames are shared.

        Raises:
            UserError: embeddings of another size than those of the fit.
        """
        if visual.shape[1] * (2 * CONTEXT_FRAMES + 1) != len(self.mean):
            dim = len(self.mean) // (2 * CONTEXT_FRAMES + 1)
            raise UserError(f"embeddings of {visual.shape[1]} values where the fit was of {dim}; take the same visual frontend")
        n_frames = min(len(visual), len(energies))
        predicted = (in_context(visual[:n_frames]) - self.mean) / self.scale @ self.weights
        seen = visual[:n_frames].any(axis=1)
        found = np.full(2 * most_frames + 1, np.nan)
        for place, late in enumerate(range(-most_frames, most_frames + 1)):
            shown = slice(max(late, 0), n_frames + min(late, 0))
            heard = slice(max(-late, 0), n_frames - max(late, 0))
            kept = seen[shown]
            if kept.sum() >= LEAST_SHARED_FRAMES:
                found[place] = _correlation(predicted[shown][kept], energies[heard][kept])
        return found

    def save(self, path: Path) -> None:
        """Write the weights as plain arrays."""
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, mean=self.mean, scale=self.scale, weights=self.weights)


def load_sync_model(path: Path) -> SyncModel:
    """Read what `SyncModel.save` wrote.

    Raises:
        UserError: no such file, or another one.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return SyncModel(arrays["mean"], arrays["scale"], arrays["weights"])
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: no weights of the offset estimator ({reason}); fit them again") from None


def fit(clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> SyncModel:
    """Fit the weights to clips that are in step, one at a time in memory.

    Args:
        clips: embeddings (frames, dim) and `band_energies` (frames, bands) of each.

    Raises:
        UserError: there are too few frames.
    """
    count, sums, products, crossed = 0, 0.0, 0.0, 0.0
    for visual, energies in clips:
        n_frames = min(len(visual), len(energies))
        seen = visual[:n_frames].any(axis=1)
        values = in_context(visual[:n_frames])[seen].astype(np.float64)
        wanted = energies[:n_frames][seen].astype(np.float64)
        wanted -= wanted.mean(axis=0) if len(wanted) else 0.0  # the level of a clip as a whole says nothing
        count += len(values)
        sums, products, crossed = sums + values.sum(axis=0), products + values.T @ values, crossed + values.T @ wanted
    if count < 100:
        raise UserError(f"{count} video frames are too few to fit the estimator to; give a corpus of some minutes")
    mean = sums / count
    scale = np.sqrt(np.maximum(np.diag(products) / count - mean**2, 0)) + 1e-6
    covariance = (products - count * np.outer(mean, mean)) / np.outer(scale, scale)
    weights = np.linalg.solve(covariance + RIDGE * np.eye(len(mean)), crossed / scale[:, None])
    return SyncModel(mean.astype(np.float32), scale.astype(np.float32), weights.astype(np.float32))


def corpus_offset(agreements: np.ndarray) -> CorpusOffset:
    """The offset that clips have in common.

    Args:
        agreements: of `SyncModel.agreement`, a row for each clip.

    Raises:
        UserError: no clip is long enough.
    """
    together = offset_of(_mean(agreements))
    frames = round(together.frames)
    halves = [round(offset_of(_mean(half)).frames) for half in (agreements[::2], agreements[1::2]) if len(half)]
    own = np.array([offset_of(each).frames for each in agreements if not np.isnan(each).all()])
    agree = len(halves) == 2 and all(abs(half - frames) <= 1 for half in halves)
    is_sure = agree and together.margin >= SURE_MARGIN
    near = float(np.mean(np.abs(np.rint(own) - frames) <= 1))
    return CorpusOffset(frames, is_sure, len(own), near, together.agreement, together.margin)


def clip_agreement(model: SyncModel, frontend: "Frontend", mouth_path: Path, audio_path: Path) -> np.ndarray:
    """`SyncModel.agreement` of the mouth crops and the sound of a clip.

    Raises:
        UserError: a file cannot be read, or the visual frontend is not that of the model.
    """
    from utils.embedding.embed import embed_file

    mouths = MouthFile(mouth_path)
    visual = embed_file(frontend, mouths).float().cpu().numpy() * mouths.mask[:, None]
    audio = read_audio(audio_path, sample_rate=SAMPLE_RATE_HZ)
    return model.agreement(visual, band_energies(audio, len(visual), SAMPLE_RATE_HZ, VIDEO_FPS))


def _mean(agreements: np.ndarray) -> np.ndarray:
    counts = (~np.isnan(agreements)).sum(axis=0)
    return np.where(counts > 0, np.nansum(agreements, axis=0) / np.maximum(counts, 1), np.nan)


def offset_of(agreement: np.ndarray) -> Offset:
    """The offset at which an agreement (of one clip, or the mean of several) is best.

    Raises:
        UserError: it has no value anywhere.
    """
    most_frames = len(agreement) // 2
    if np.isnan(agreement).all():
        raise UserError(f"fewer than {LEAST_SHARED_FRAMES} frames with a mouth: too short to tell an offset")
    values = np.where(np.isnan(agreement), -np.inf, agreement)
    best = int(values.argmax())
    others = np.delete(values, range(max(best - NEAR_FRAMES, 0), min(best + NEAR_FRAMES + 1, len(values))))
    step = 0.0
    if 0 < best < len(values) - 1 and np.isfinite(values[best - 1 : best + 2]).all():
        before, peak, after = values[best - 1 : best + 2]
        step = 0.5 * (before - after) / min(before - 2 * peak + after, -1e-12)
    margin = float(values[best] - others.max(initial=-1.0))
    return Offset(best - most_frames + step, float(values[best]), margin)


def band_energies(audio: np.ndarray, n_frames: int, sample_rate: int, fps: float) -> np.ndarray:
    """Log energies of the sound of each video frame, (n_frames, bands); beyond its end there is silence."""
    starts = np.array([frames_to_samples(frame, sample_rate, fps) for frame in range(n_frames)])
    length = frames_to_samples(1, sample_rate, fps)
    padded = np.pad(audio, (0, max(int(starts[-1]) + length - len(audio), 0)))
    windows = padded[starts[:, None] + np.arange(length)] * np.hanning(length)
    power = np.abs(np.fft.rfft(windows)) ** 2
    frequencies = np.fft.rfftfreq(length, 1 / sample_rate)
    bands = [(frequencies >= low) & (frequencies < high) for low, high in pairwise(BAND_EDGES_HZ)]
    return np.log(np.stack([power[:, band].sum(axis=1) for band in bands], axis=1) + ENERGY_FLOOR)


def in_context(visual: np.ndarray) -> np.ndarray:
    """Each frame with its neighbours, (frames, dim) -> (frames, (2 * CONTEXT_FRAMES + 1) * dim); ends are repeated."""
    padded = np.pad(visual, ((CONTEXT_FRAMES, CONTEXT_FRAMES), (0, 0)), mode="edge")
    return np.concatenate([padded[k : k + len(visual)] for k in range(2 * CONTEXT_FRAMES + 1)], axis=1)


def _correlation(predicted: np.ndarray, energies: np.ndarray) -> float:
    """The mean over bands of the correlation over time, both (frames, bands)."""
    ours, theirs = predicted - predicted.mean(axis=0), energies - energies.mean(axis=0)
    norms = np.sqrt(np.square(ours).sum(axis=0) * np.square(theirs).sum(axis=0))
    return float(((ours * theirs).sum(axis=0) / np.maximum(norms, 1e-9)).mean())
