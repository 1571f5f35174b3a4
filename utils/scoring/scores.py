"""One mixture's scores, from its files: what the worker processes run."""

import numpy as np

from utils.data.audio import probe_audio, read_audio
from utils.data.estimates import ORDER_UNKNOWN
from utils.errors import UserError
from utils.scoring.items import ScoreItem
from utils.scoring.metrics import score_mixture, si_snr_matrix

TRIM_SEC = 0.025  # files of a mixture may differ by this much; the longer ones lose their ends


def score_item(item: ScoreItem, permute: bool) -> dict:
    """All metrics of a mixture.

    Returns:
        `rows` as `score_mixture` gives them, `sample_rate` in Hz, `trimmed_samples`, how many samples the longest file
        lost, and `permuted`, whether the order of the estimates was searched for: where `permute`, and where stage 4
        says that it is not known.

    Raises:
        UserError: a file is missing, damaged or not mono, or rates or lengths differ; names the files.
    """
    signals, sample_rate, trimmed = _read(item)
    n_src = len(item.reference_paths)
    mixture = signals[0] if item.mixture_path else None
    permuted = permute or item.separated_by.endswith(ORDER_UNKNOWN)
    rows = score_mixture(mixture, signals[-2 * n_src : -n_src], signals[-n_src:], sample_rate, permuted)
    return {"rows": rows, "sample_rate": sample_rate, "trimmed_samples": trimmed, "permuted": permuted}


def cue_item(item: ScoreItem) -> dict:
    """`si_snr` of each estimate (row) against each reference (column), and `input_si_snr` of the mixture, dB.

    Raises as `score_item`.
    """
    signals, _, _ = _read(item)
    n_src = len(item.reference_paths)
    references, estimates = signals[-2 * n_src : -n_src], signals[-n_src:]
    matrix, of_mixture = si_snr_matrix(estimates, references), si_snr_matrix(signals[:1], references)
    return {"si_snr": matrix.tolist(), "input_si_snr": of_mixture[0].tolist()}


def _read(item: ScoreItem) -> tuple[np.ndarray, int, int]:
    """All files of a mixture as (files, time) in the order of `item.paths`, their rate and the samples trimmed."""
    infos = [probe_audio(path) for path in item.paths]
    rates = {info.sample_rate: path for info, path in zip(infos, item.paths, strict=True)}
    if len(rates) > 1:
        listed = ", ".join(f"{path} at {rate} Hz" for rate, path in rates.items())
        raise UserError(f"sample rates differ: {listed}; resample first")
    sample_rate = infos[0].sample_rate
    signals = [read_audio(path) for path in item.paths]
    lengths = {len(signal): path for signal, path in zip(signals, item.paths, strict=True)}
    shortest, longest = min(lengths), max(lengths)
    if shortest == 0:
        raise UserError(f"{lengths[0]}: holds no samples")
    if longest - shortest > TRIM_SEC * sample_rate:
        listed = ", ".join(f"{path} has {length} samples" for length, path in sorted(lengths.items()))
        raise UserError(f"lengths differ by more than {TRIM_SEC * 1000:.0f} ms: {listed}")
    return np.stack([signal[:shortest] for signal in signals]), sample_rate, longest - shortest
