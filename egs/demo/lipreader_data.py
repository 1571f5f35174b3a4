"""Training data of the demo's visual frontend: clips of training voices, each with a face of its own, cut at words."""

import logging
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from egs.demo.clips import CLIP_FRAMES, code_fingerprint, make_clip
from egs.demo.visemes import LEAD_SEC, label_frames
from egs.demo.voices import WORDS, Voice, voices_of
from utils.data.constants import MOUTH_SIZE, VIDEO_FPS
from utils.data.files import atomic_path

DEPTH = 5  # frames that the first convolution sees
INPUT = 88  # the visual frontend's crop

_FIRST_FACE = 1000  # the corpus' speakers have the faces below
_FIRST_NUMBER = 5000  # utterances that the corpus does not hold
_MEAN, _STD = 0.421, 0.165

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LipClips:
    """Clips with what is said in them.

    Attributes:
        mouths: uint8 (clips, 50, 96, 96).
        visemes: Index in `visemes.VISEMES` at each frame, (clips, 50).
        motions: The articulators, float32 (clips, 50, 9).
        words: (words, 3): clip, middle of the word in frames, index in the vocabulary.
    """

    mouths: np.ndarray
    visemes: np.ndarray
    motions: np.ndarray
    words: np.ndarray


def training_clips(n_clips: int, seed: int, nj: int, cache_dir: Path) -> LipClips:
    """Clips of the training voices, each with a face of its own; kept in `cache_dir` for a second run."""
    voices = voices_of("train")
    orders = [
        (voices[index % len(voices)], _FIRST_NUMBER + index // len(voices), seed, _FIRST_FACE + index)
        for index in range(n_clips)
    ]
    return _cached(orders, cache_dir / f"train-{n_clips}-{seed}-{code_fingerprint()}.npz", nj)


def corpus_clips(split: str, n_clips: int, seed: int, nj: int, cache_dir: Path) -> LipClips:
    """The first utterances of a part of the demo corpus itself, voices and faces its own."""
    voices = voices_of(split)
    orders = [(voices[index % len(voices)], index // len(voices), seed, None) for index in range(n_clips)]
    return _cached(orders, cache_dir / f"{split}-{n_clips}-{seed}-{code_fingerprint()}.npz", nj)


def draw_windows(clips: LipClips, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw frames anywhere, each with its neighbours, as the first convolution of the visual frontend sees it.

    Returns:
        float32 (n, 5, 88, 88), augmented (crop, flip, brightness, contrast, noise); the visemes (n,) and the
        articulators (n, 9) of the middle frames.
    """
    chosen = rng.integers(0, len(clips.mouths), n)
    middles = rng.integers(DEPTH // 2, CLIP_FRAMES - DEPTH // 2, n)
    windows = np.empty((n, DEPTH, INPUT, INPUT), dtype=np.float32)
    for row, (clip, middle) in enumerate(zip(chosen, middles, strict=True)):
        windows[row] = _augment(clips.mouths[clip, middle - DEPTH // 2 : middle + DEPTH // 2 + 1], rng)
    return windows, clips.visemes[chosen, middles], clips.motions[chosen, middles]


def normalise(mouths: np.ndarray) -> np.ndarray:
    """The middle 88x88 of uint8 crops (frames, 96, 96), as the visual frontend takes them: float32."""
    edge = (MOUTH_SIZE - INPUT) // 2
    return (mouths[:, edge : edge + INPUT, edge : edge + INPUT].astype(np.float32) / 255 - _MEAN) / _STD


def _augment(mouths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(0, MOUTH_SIZE - INPUT + 1, 2)
    crop = mouths[:, top : top + INPUT, left : left + INPUT]
    crop = crop[:, :, ::-1] if rng.random() < 0.5 else crop
    gain, offset = rng.uniform(0.8, 1.25), rng.uniform(-0.10, 0.10)
    view = (crop.astype(np.float32) / 255 - 0.5) * np.float32(gain) + np.float32(0.5 + offset)
    view += rng.standard_normal(view.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.015))
    return (view - _MEAN) / _STD


def _cached(orders: list[tuple], path: Path, nj: int) -> LipClips:
    if path.is_file():
        with np.load(path, allow_pickle=False) as archive:
            return LipClips(**archive)
    logger.info("drawing %d clips for %s", len(orders), path)
    # a process speaks only once (see egs/demo/speech.py), hence a fresh one for each clip
    with multiprocessing.get_context("fork").Pool(nj, maxtasksperchild=1) as pool:
        parts = list(tqdm(pool.imap(_make, orders), total=len(orders), desc=path.stem, disable=None))
    words = [(clip, *word) for clip, part in enumerate(parts) for word in part[3]]
    clips = LipClips(*(np.stack([part[field] for part in parts]) for field in range(3)), np.array(words))
    with atomic_path(path) as temporary:
        np.savez(temporary, **vars(clips))
    return clips


def _make(order: tuple[Voice, int, int, int | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[int, int]]]:
    clip = make_clip(*order)
    middles = [round(((word.start_sec + word.end_sec) / 2 - LEAD_SEC) * VIDEO_FPS) for word in clip.words]
    words = [(middle, WORDS.index(word.label)) for middle, word in zip(middles, clip.words, strict=True)]
    return clip.mouths, label_frames(clip.phones, CLIP_FRAMES), clip.motion.stacked(), words
