"""What goes wrong with video, done to embeddings: faces out of step with their voices, frames lost or frozen, no face.

A lost frame or face is all zeros, which networks recognise. Training draws these at random; the robustness benchmark
calls the same functions with what it wants to know.
"""

from dataclasses import dataclass

import numpy as np

BURST_FRAMES = 5  # mean length of what is lost at a time: 0.2 s at 25 frames/s


def shift_frames(cues: np.ndarray, by: int) -> np.ndarray:
    """A face out of step with its voice.

    Args:
        cues: embeddings (frames, dim).
        by: frames that the video comes too late; negative is too early. The first or last frame fills what is missing.

    Returns:
        (frames, dim), as long as before.
    """
    last = len(cues) - 1
    return cues[np.clip(np.arange(len(cues)) - by, 0, last)]


def drop_frames(cues: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Frames without a usable mouth: a share of them becomes zeros, in bursts of random length.

    Args:
        cues: embeddings (frames, dim).
        share: of the frames that are lost, 0 to 1, to the nearest whole frame.
        rng: where the bursts fall.
    """
    return np.where(_bursts(len(cues), share, rng)[:, None], 0, cues).astype(cues.dtype)


def freeze_frames(cues: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A video that hangs: a share of the frames repeats the last good one, in bursts of random length.

    Args:
        cues: embeddings (frames, dim). One that begins within a burst repeats its first frame.
        share: of the frames that are repeated, 0 to 1, to the nearest whole frame.
        rng: where the bursts fall.
    """
    frozen = _bursts(len(cues), share, rng)
    return cues[np.maximum.accumulate(np.where(frozen, 0, np.arange(len(cues))))]


def _bursts(n_frames: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which frames are lost: bool (n_frames,), exactly round(share * n_frames) of them true."""
    lost = left = round(share * n_frames)
    lengths = []
    while left:
        lengths.append(min(int(rng.geometric(1 / BURST_FRAMES)), left))
        left -= lengths[-1]
    pieces = rng.permutation(lengths + [0] * (n_frames - lost))  # 0: a good frame
    in_a_ring = np.repeat(pieces > 0, np.maximum(pieces, 1))
    return np.roll(in_a_ring, rng.integers(n_frames))  # cut open anywhere, or the ends would be lost less often


@dataclass(frozen=True)
class VisualAugmentation:
    """What may go wrong with the faces of a training mixture; the fields are keys of a conf's `data` section.

    Attributes:
        shift_frames: each face is out of step by a whole number of frames, uniform in ±shift_frames.
        drop_frames: each face loses a share of its frames, uniform in 0 to drop_frames.
        freeze_frames: each face repeats its last good frame in a share of frames, uniform in 0 to freeze_frames.
        drop_face: probability that one face of the mixture, any of them, is missing altogether.
        drop_all_faces: probability that all are missing.
    """

    shift_frames: int = 0
    drop_frames: float = 0.0
    freeze_frames: float = 0.0
    drop_face: float = 0.0
    drop_all_faces: float = 0.0

    def __call__(self, cues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The faces of a mixture, (n_cues, frames, dim), with what `rng` lets go wrong; each kind draws for itself."""
        shifts, freezes, drops, missing = rng.spawn(4)
        one, everyone = missing.random(2) < (self.drop_face, self.drop_all_faces)
        faces = np.stack([self._face(face, shifts, freezes, drops) for face in cues])
        faces[missing.integers(len(faces))] *= not one
        return faces * np.float32(not everyone)

    def _face(
        self, cues: np.ndarray, shifts: np.random.Generator, freezes: np.random.Generator, drops: np.random.Generator
    ) -> np.ndarray:
        cues = shift_frames(cues, int(shifts.integers(-self.shift_frames, self.shift_frames + 1)))
        cues = freeze_frames(cues, freezes.uniform(0, self.freeze_frames), freezes)
        return drop_frames(cues, drops.uniform(0, self.drop_frames), drops)
