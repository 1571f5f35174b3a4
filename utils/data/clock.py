"""Video frames and audio samples: frame f begins at sample f * sample_rate / fps, rounded down for each f."""

import math


def frames_to_samples(frames: int, sample_rate: int, fps: float) -> int:
    """Sample at which video frame `frames` begins; rounded down where a frame is no whole number of samples."""
    return int(frames * sample_rate / fps + 1e-6)


def samples_to_frames(samples: int, sample_rate: int, fps: float) -> int:
    """Video frames that `samples` last, to the nearest whole frame."""
    return round(samples * fps / sample_rate)


def frames_covering(samples: int, sample_rate: int, fps: float) -> int:
    """Video frames that `samples` reach into."""
    n_frames = max(math.floor(samples * fps / sample_rate) - 1, 0)  # too few, whichever way the division was rounded
    while frames_to_samples(n_frames, sample_rate, fps) < samples:
        n_frames += 1
    return n_frames
