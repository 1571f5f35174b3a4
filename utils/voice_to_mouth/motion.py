"""What moves: the opening of a mouth, its change from frame to frame, and how two motions go together.

All functions take tensors (..., frames) or (..., frames, dim) with a mask (..., frames) of the frames that count.
"""

import torch

EPS = 1e-6
_INNER_LIPS = ((61, 67), (62, 66), (63, 65))  # points above each other, iBUG 300-W


def opening(keypoints: torch.Tensor) -> torch.Tensor:
    """How far a mouth is open: the mean distance of the inner lips at three places, in the units of the landmarks.

    Args:
        keypoints: landmarks (..., frames, 136), x and y of 68 points.

    Returns:
        (..., frames).
    """
    points = keypoints.unflatten(-1, (-1, 2))
    upper, lower = (points[..., list(side), :] for side in zip(*_INNER_LIPS, strict=True))
    return ((upper - lower).square().sum(dim=-1) + EPS).sqrt().mean(dim=-1)


def velocity(values: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The change from frame to frame of (..., frames, dim), and where both frames are seen: a frame less each."""
    return values[..., 1:, :] - values[..., :-1, :], seen[..., 1:] & seen[..., :-1]


def masked_mean(values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The mean of (..., frames, dim) over the frames that are seen, (..., dim); 0 where none is."""
    weight = seen.unsqueeze(-1).to(values.dtype)
    return (values * weight).sum(dim=-2) / weight.sum(dim=-2).clamp(min=1)


def centred(values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(..., frames, dim) less its mean over the frames that are seen, 0 in the others."""
    return (values - masked_mean(values, seen).unsqueeze(-2)) * seen.unsqueeze(-1)


def correlation(first: torch.Tensor, second: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation over the frames that are seen; of vectors that of all their numbers together.

    Args:
        first, second: (..., frames, dim).
        seen: bool (..., frames).

    Returns:
        (...,); 0 where one of them does not move.
    """
    first, second = centred(first, seen), centred(second, seen)
    product, *powers = ((a * b).sum(dim=(-1, -2)) for a, b in ((first, second), (first, first), (second, second)))
    moves = (powers[0] > EPS) & (powers[1] > EPS)
    return torch.where(moves, product / (powers[0] * powers[1]).clamp(min=EPS**2).sqrt(), 0.0)


def deviation(values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """The standard deviation of (..., frames, dim) over the frames that are seen, of all numbers together: (...,)."""
    count = seen.sum(dim=-1).clamp(min=1)
    return (centred(values, seen).square().sum(dim=(-1, -2)) / count + EPS).sqrt()
