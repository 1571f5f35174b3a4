"""Example wavs of a scored test set: mixtures, references and estimates, to listen to."""

import hashlib
import re
from pathlib import Path

import numpy as np

from utils.data.audio import probe_audio, read_audio, write_wav
from utils.data.files import remove_leftovers
from utils.scoring.items import ScoreItem

N_EXAMPLES = 5
PEAK = 0.9


def write_examples(items: list[ScoreItem], folder: Path) -> None:
    """Write some mixtures with their sources as PCM16 wavs, each brought to the same peak.

    The mixtures are the first by the hash of their ids: a choice in which neither order nor score has a part, and the
    same one each time.
    """
    chosen = sorted(items, key=lambda item: hashlib.sha256(item.mixture_id.encode()).hexdigest())[:N_EXAMPLES]
    remove_leftovers(folder)
    written = set()
    for item in chosen:
        stem = re.sub(r"[^\w.+-]", "_", item.mixture_id)
        for name, source in _named_paths(item).items():
            target = folder / f"{stem}_{name}.wav"
            _write_normalised(source, target)
            written.add(target)
    for form in ("*_mixture.wav", "*_reference.wav", "*_estimate.wav"):  # of another test set, scored before
        for path in set(folder.glob(form)) - written:
            path.unlink()


def _named_paths(item: ScoreItem) -> dict[str, str]:
    named = {"mixture": item.mixture_path} if item.mixture_path else {}
    named |= {f"s{k}_reference": path for k, path in enumerate(item.reference_paths, start=1)}
    return named | {f"s{k}_estimate": path for k, path in enumerate(item.estimate_paths, start=1)}


def _write_normalised(source: str, target: Path) -> None:
    signal = read_audio(source)
    peak = float(np.abs(signal).max())
    write_wav(target, signal * (PEAK / peak) if peak else signal, probe_audio(source).sample_rate, "PCM_16")
