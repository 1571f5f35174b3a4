"""Pairs of utterances, and their mixtures in the DLA layout: audio/{split}/{mix,s1,s2}/ID1_ID2.wav."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from egs.demo.clips import CLIP_FRAMES, CLIP_SAMPLES
from utils.data.audio import read_audio, write_wav
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.manifest import Mixture
from utils.mixing.rendering import part_paths

SAME_VOICE, DIFFERENT_VOICES = "same_voice", "different_voices"

_PEAK = 0.9
_SIR_RANGE_DB = (-5.0, 5.0)


@dataclass(frozen=True)
class Pair:
    """Two utterances to be mixed."""

    first: str
    second: str
    speakers: tuple[str, str]
    sir_db: float  # power of the first over that of the second
    subset: str

    @property
    def mixture_id(self) -> str:
        return f"{self.first}_{self.second}"


def draw_pairs(ids: Sequence[str], speakers: Sequence[str], n: int, n_same: int, rng: np.random.Generator) -> list[Pair]:
    """Draw `n` different pairs that use all utterances equally often.

    Args:
        ids: utterance ids.
        speakers: of the utterances.
        n: pairs in all.
        n_same: how many of them are of one voice.
        rng: of the draw.
    """
    speaker = np.array(speakers)
    uses = np.zeros(len(ids), dtype=int)
    taken = np.eye(len(ids), dtype=bool)
    subsets = rng.permutation([SAME_VOICE] * n_same + [DIFFERENT_VOICES] * (n - n_same))
    pairs = []
    for subset in subsets:
        allowed = (speaker[:, None] == speaker) == (subset == SAME_VOICE)
        allowed &= ~taken
        first = _least_used(uses, allowed.any(axis=1), rng)
        uses[first] += 1
        second = _least_used(uses, allowed[first], rng)
        uses[second] += 1
        taken[first, second] = taken[second, first] = True
        sir_db = float(rng.uniform(*_SIR_RANGE_DB))
        pairs.append(Pair(ids[first], ids[second], (speakers[first], speakers[second]), sir_db, str(subset)))
    return pairs


def write_mixture(data_dir: Path, split: str, pair: Pair) -> Mixture:
    """Mix a pair at its SIR, write mixture and sources, and give its row; the SIR in it is that of the files."""
    first, second = (read_audio(data_dir / "utterances" / f"{name}.wav").astype(float) for name in (pair.first, pair.second))
    second *= np.sqrt(np.mean(first**2) / np.mean(second**2)) * 10 ** (-pair.sir_db / 20)
    gain = _PEAK / max(np.abs(signal).max() for signal in (first, second, first + second))
    sources = [np.rint(signal * gain * 32767).astype(np.int16) for signal in (first, second)]
    paths = part_paths(f"audio/{split}", pair.mixture_id, 2)
    for path, samples in zip(paths, (sources[0] + sources[1], *sources), strict=True):
        write_wav(data_dir / path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
    powers = [np.mean(samples.astype(float) ** 2) for samples in sources]
    return Mixture(
        mixture_id=pair.mixture_id,
        mixture_path=paths[0],
        source_paths=tuple(paths[1:]),
        noise_path="",
        length=CLIP_SAMPLES,
        mouth_paths=tuple(f"mouths/{name}.npz" for name in (pair.first, pair.second)),
        frames=CLIP_FRAMES,
        fps=float(VIDEO_FPS),
        speakers=pair.speakers,
        sir_db=round(10 * float(np.log10(powers[0] / powers[1])), 3),
        subset=pair.subset,
    )


def _least_used(uses: np.ndarray, allowed: np.ndarray, rng: np.random.Generator) -> int:
    """One of the least used among the allowed, by chance."""
    candidates = np.flatnonzero(allowed)
    candidates = candidates[uses[candidates] == uses[candidates].min()]
    return int(rng.choice(candidates))
