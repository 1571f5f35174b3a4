"""How well a predicted motion of a mouth is, by measures that a mouth which does not move fails.

Each measure compares a clip's prediction with what was seen of it. `KEYPOINT_DEFINITIONS` and `EMBEDDING_DEFINITIONS` say what
they are.
"""

import numpy as np
import torch

from utils.data.mouths import LIPS
from utils.errors import UserError
from utils.voice_to_mouth.motion import centred, correlation, masked_mean, opening, velocity

_CORNERS = (48, 54)  # of the mouth, iBUG 300-W
_RANGE = (0.05, 0.95)
N_CANDIDATES = 10
_AHEAD_FRAMES = 3
# A closing: the opening falls below a share of its 95th percentile for a few frames, as for p, b, m; not a pause.
_CLOSED, _LOOKS_CLOSED, _LONGEST_CLOSING_FRAMES = 0.2, 0.35, 5
KEYPOINT_DEFINITIONS = {
    "opening": "correlation of the mouth's opening (mean distance of the inner lips at three places) with the true one; 0 "
    "where the prediction does not move",
    "opening_velocity": "the same of its change from frame to frame",
    "range": "range of the opening (5th to 95th percentile) over the true one; its mean over the clips is the geometric one",
    "closings": f"share of the closings of the true mouth (below {_CLOSED:.0%} of the opening's 95th percentile) at which the "
    f"prediction is below {_LOOKS_CLOSED:.0%} of its own, a frame early or late: those at p, b and m where the corpus knows "
    f"its phonemes, else all that last at most {_LONGEST_CLOSING_FRAMES} frames; none where a clip has no closing",
    "error": "mean distance of the 20 points of the lips from the true ones over the width of the true mouth (mean over the "
    "clip), where a similarity has brought the whole face to the mean face",
    "error_of_motion": "the same after the prediction was moved to the person's own mouth: each point to its true mean over "
    "the clip",
}
EMBEDDING_DEFINITIONS = {
    "cosine": "cosine of predicted and true embeddings, both less their mean over the clip, in the mean over the frames",
    "correlation": "correlation over all numbers and frames, both less their mean over the clip",
    "deviation": "standard deviation of the prediction over time over that of the true embeddings",
    "right_of_ten": f"share of clips whose own voice predicts their embeddings best (correlation) among {N_CANDIDATES} voices",
}


def keypoint_measures(
    estimate: np.ndarray, true: np.ndarray, fps: float = 25.0, phonemes_sec: np.ndarray | None = None
) -> dict[str, float]:
    """The measures of `KEYPOINT_DEFINITIONS`.

    Args:
        estimate, true: landmarks (frames, 136); frames of zeros in `true` are not seen and do not count.
        fps: frames for each second.
        phonemes_sec: (n, 2), beginning and end of each p, b and m, if they are known.

    Raises:
        UserError: fewer than three frames are seen, or the mouth does not move.
    """
    guess, wanted, seen = _checked(estimate, true)
    openings = [opening(each).unsqueeze(-1) for each in (guess, wanted)]  # (frames, 1)
    steps = [velocity(each, seen) for each in openings]
    ranges = [np.subtract(*np.quantile(each[seen, 0].numpy(), _RANGE[::-1])) for each in openings]
    if ranges[1] < 1e-3:
        raise UserError("the mouth does not move; nothing to compare a motion with")
    points = [each.unflatten(-1, (-1, 2)) for each in (guess, wanted)]
    width = masked_mean((points[1][:, _CORNERS[0]] - points[1][:, _CORNERS[1]]).norm(dim=-1, keepdim=True), seen).item()
    moved = centred(guess, seen) + masked_mean(wanted, seen)
    heights = [each[:, 0].numpy() for each in openings]
    top = float(np.quantile(heights[1][seen], _RANGE[1]))
    is_closed = (heights[1] < _CLOSED * top) & seen.numpy()
    if phonemes_sec is None:
        spans = _short_closings(is_closed, seen.numpy())
    else:
        spans = _closings_at(phonemes_sec * fps, heights[1], is_closed)
    closings = _closings_met(heights[0], spans, seen.numpy())
    return {
        "opening": correlation(*openings, seen).item(),
        "opening_velocity": correlation(steps[0][0], steps[1][0], steps[0][1]).item(),
        "range": float(ranges[0] / ranges[1]),
        "closings": closings,
        "error": _distance(guess, wanted, seen) / width,
        "error_of_motion": _distance(moved, wanted, seen) / width,
    }


def _short_closings(is_closed: np.ndarray, seen: np.ndarray) -> list[tuple[int, int]]:
    """First and last frame + 1 of the closings that no pause makes, of (frames,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_closed, [False]]).astype(int)))
    spans = [(start, stop) for start, stop in edges.reshape(-1, 2) if stop - start <= _LONGEST_CLOSING_FRAMES]
    return [(start, stop) for start, stop in spans if start > 0 and stop < len(seen) and seen[start - 1] and seen[stop]]


def _closings_at(phonemes_frames: np.ndarray, wanted: np.ndarray, is_closed: np.ndarray) -> list[tuple[int, int]]:
    """The frame at which lips are closest for each phoneme, if they close; from a little before, as lips run ahead."""
    spans = []
    for start, stop in phonemes_frames:
        first, last = max(int(start) - _AHEAD_FRAMES, 0), min(int(np.ceil(stop)), len(wanted))
        if is_closed[first:last].any():
            frame = first + int(np.argmin(np.where(is_closed, wanted, np.inf)[first:last]))
            spans.append((frame, frame + 1))
    return spans


def _closings_met(guess: np.ndarray, spans: list[tuple[int, int]], seen: np.ndarray) -> float:
    """The share of closings, (first frame, last frame + 1) each, that `guess` (frames,) shows; NaN where there are none."""
    if not spans:
        return float("nan")
    low = _LOOKS_CLOSED * np.quantile(guess[seen], _RANGE[1])
    is_still = np.ptp(guess[seen]) < 1e-3
    return float(np.mean([not is_still and guess[max(start - 1, 0) : stop + 1].min() < low for start, stop in spans]))


def _distance(guess: torch.Tensor, wanted: torch.Tensor, seen: torch.Tensor) -> float:
    """Mean distance of the points of the lips over the frames that are seen."""
    distances = (guess - wanted).unflatten(-1, (-1, 2))[:, LIPS].norm(dim=-1)  # (frames, 20)
    return masked_mean(distances, seen).mean().item()


def embedding_measures(estimate: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The measures of `EMBEDDING_DEFINITIONS` that are of one clip; arguments and errors as of `keypoint_measures`."""
    guess, wanted, seen = _checked(estimate, true)
    first, second = centred(guess, seen), centred(wanted, seen)
    cosines = torch.nn.functional.cosine_similarity(first, second, dim=-1)
    deviations = [each.square().sum().sqrt().item() for each in (first, second)]
    if deviations[1] < 1e-6:
        raise UserError("the embeddings do not change; nothing to compare a motion with")
    return {
        "cosine": masked_mean(cosines.unsqueeze(-1), seen).item(),
        "correlation": correlation(guess, wanted, seen).item(),
        "deviation": deviations[0] / deviations[1],
    }


def right_of_ten(estimates: list[np.ndarray], trues: list[np.ndarray], seed: int = 0) -> list[bool]:
    """For each clip: do its own embeddings go best with its own prediction, among those of `N_CANDIDATES` - 1 other clips?

    Clips are compared over the frames that both have. Empty where there are fewer clips than candidates.
    """
    if len(estimates) < N_CANDIDATES:
        return []
    rng, told = np.random.default_rng(seed), []
    for own, true in enumerate(trues):
        others = [int(index) for index in rng.permutation(len(estimates)) if index != own][: N_CANDIDATES - 1]
        agreements = []
        for index in (own, *others):
            n_frames = min(len(estimates[index]), len(true))
            guess, wanted = (torch.tensor(each[:n_frames], dtype=torch.float32) for each in (estimates[index], true))
            agreements.append(correlation(guess, wanted, wanted.ne(0).any(dim=-1)).item())
        told.append(int(np.argmax(agreements)) == 0)
    return told


def _checked(estimate: np.ndarray, true: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both as tensors of one length, and which frames are seen."""
    n_frames = min(len(estimate), len(true))
    guess, wanted = (torch.tensor(each[:n_frames], dtype=torch.float32) for each in (estimate, true))
    if guess.shape != wanted.shape:
        raise ValueError(f"estimate is {tuple(estimate.shape)} where {tuple(true.shape)} is expected")
    seen = wanted.ne(0).any(dim=-1)
    if seen.sum() < 3:
        raise UserError("the mouth is seen on fewer than three frames")
    return guess, wanted, seen
