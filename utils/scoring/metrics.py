"""Metrics of separation quality, in numpy float64: SI-SNR, SDR, SNR, PESQ, STOI and ESTOI, and their improvements.

Conventions: an estimate is compared with one reference, both (time,), full scale 1.0. `DEFINITIONS` says what each
number is; it is printed in every score file. A metric that has no value for a pair (a silent estimate, a signal too
short) raises `UndefinedMetricError`; `score_mixture` turns that into NaN with the reason beside it, never into a 0.
"""

import contextlib
import warnings
from collections.abc import Callable

import numpy as np
import scipy.fft
import scipy.linalg
import scipy.optimize

SDR_TAPS = 512
PESQ_RATES_HZ = {"wb": (16000,), "nb": (8000, 16000)}
PESQ_LIMIT_SEC = 30.0  # P.862 speaks of signals up to here, and its C code overruns its tables above 50 utterances
SILENCE_POWER = 1e-16  # -160 dB of full scale, mean removed
_LIMIT = np.finfo(np.float64).eps  # a ratio beyond 1/eps (156.5 dB) is rounding, not quality

DEFINITIONS = {
    "si_snr": "SI-SNR, dB: both signals zero-mean, target a*s with a = <estimate, s>/|s|^2, "
    "10 log10(|a*s|^2 / |estimate - a*s|^2).",
    "sdr": f"SDR, dB: BSS Eval v3 (mir_eval), the reference may pass a {SDR_TAPS}-tap filter: energy of the estimate's "
    "projection on the filtered reference over the energy of the rest; it depends on this one reference only.",
    "snr": "SNR, dB: 10 log10(|s|^2 / |estimate - s|^2), nothing removed or rescaled, so the estimate's level counts.",
    "pesq_wb": "PESQ wide band, MOS-LQO 1.0 to 4.6: ITU-T P.862.2 at 16 kHz (package pesq).",
    "pesq_nb": "PESQ narrow band, MOS-LQO 1.0 to 4.5: ITU-T P.862.1 at 16 or 8 kHz (package pesq).",
    "stoi": "STOI, about 0 to 1: short-time objective intelligibility (package pystoi, which resamples to 10 kHz).",
    "estoi": "ESTOI, about 0 to 1: extended STOI (package pystoi).",
}
METRICS = tuple(DEFINITIONS)
INTERFERENCE_DEFINITIONS = {
    "sir": f"SIR, dB: BSS Eval v3 (mir_eval), each reference may pass a {SDR_TAPS}-tap filter: energy of the estimate's "
    "projection on its own filtered reference over that of what the others add to the projection on all of them.",
    "sar": "SAR, dB: BSS Eval v3 (mir_eval): energy of the estimate's projection on all filtered references over the rest.",
}
INTERFERENCE_METRICS = tuple(INTERFERENCE_DEFINITIONS)
SILENT_DEFINITIONS = {
    "silent_db": "Output where nothing is wanted, dB: mean power of the estimate of a silent reference, re full scale 1.0; "
    "such sources are in no other metric.",
    "silent_rel_db": "Output where nothing is wanted over what is heard, dB: power of the same estimate over that of the "
    "mixture; 0 leaves the mixture as it is, lower is better.",
}
SILENT_METRICS = tuple(SILENT_DEFINITIONS)
QUIETEST_DB = -120.0  # an output that is quieter counts as this, so that one of zeros has a mean with others
IMPROVEMENT = (
    "An improvement (`_imp`, the i in SI-SNRi) is the metric of the estimate minus the metric of the unprocessed "
    "mixture (`input_`) against the same reference. Ratios in dB end at +-156.5, the precision of float64."
)


class UndefinedMetricError(ValueError):
    """The metric has no value for these signals; the text says why.

    Attributes:
        silent: "estimate" or "reference" where that signal is silent, else "".
    """

    def __init__(self, reason: str, silent: str = "") -> None:
        super().__init__(reason)
        self.silent = silent


def si_snr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-noise ratio, dB; both (time,).

    Raises:
        UndefinedMetricError: one of the two is silent.
        ValueError: the shapes do not fit.
    """
    estimate, reference = _validate(estimate, reference)
    estimate, reference = estimate - estimate.mean(), reference - reference.mean()
    target = (estimate @ reference) / (reference @ reference) * reference
    return _decibels(target, estimate - target)


def snr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Plain signal-to-noise ratio, dB; both (time,). Raises as `si_snr`."""
    estimate, reference = _validate(estimate, reference)
    return _decibels(reference, estimate - reference)


def sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Signal-to-distortion ratio of BSS Eval v3, dB; both (time,). Raises as `si_snr`, and where under 512 samples.

    mir_eval's SDR of a source is the part of the estimate explained by a filtered copy of that source against the
    rest; the other sources only divide the rest into interference and artifacts. So one reference suffices, and the
    filter comes from one symmetric 512 x 512 Toeplitz system. (mir_eval's module is deprecated; the tests hold this
    function to it.)
    """
    estimate, reference = _validate(estimate, reference)
    if len(reference) < SDR_TAPS:
        raise UndefinedMetricError(f"{len(reference)} samples are fewer than the filter's {SDR_TAPS} taps")
    n_out = len(reference) + SDR_TAPS - 1
    n_fft = scipy.fft.next_fast_len(n_out, real=True)
    reference_spectrum = scipy.fft.rfft(reference, n_fft)
    estimate_spectrum = scipy.fft.rfft(estimate, n_fft)
    autocorrelation = scipy.fft.irfft(np.abs(reference_spectrum) ** 2, n_fft)[:SDR_TAPS]
    correlation = scipy.fft.irfft(reference_spectrum.conj() * estimate_spectrum, n_fft)[:SDR_TAPS]
    distortion_filter = _solve_toeplitz(autocorrelation, correlation)
    filtered = scipy.fft.irfft(scipy.fft.rfft(distortion_filter, n_fft) * reference_spectrum, n_fft)[:n_out]
    rest = -filtered
    rest[: len(estimate)] += estimate
    return _decibels(filtered, rest)


def sir_and_sar(estimates: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signal-to-interference and signal-to-artifacts ratio of BSS Eval v3, dB, of estimate k as reference k.

    The projection on all filtered references is one system of (n_src * 512) equations, the same for all estimates. (As for
    `sdr`, the tests hold this to mir_eval, whose module is deprecated.)

    Args:
        estimates, references: (n_src, time); at least two sources.

    Returns:
        (n_src,) twice; NaN where the estimate is silent, and everywhere where a reference is, or all are too short.
    """
    n_src, length = references.shape
    undefined = np.full(n_src, np.nan)
    if n_src < 2 or length < SDR_TAPS or (references.var(axis=1) < SILENCE_POWER).any():
        return undefined, undefined
    n_out = length + SDR_TAPS - 1
    n_fft = scipy.fft.next_fast_len(n_out + SDR_TAPS, real=True)
    spectra, of_estimates = scipy.fft.rfft(references, n_fft), scipy.fft.rfft(estimates, n_fft)
    crossed = scipy.fft.irfft(spectra[:, None].conj() * spectra[None], n_fft)  # (n_src, n_src, lags)
    lags = np.arange(SDR_TAPS)
    blocks = [[crossed[i, j][(lags[:, None] - lags) % n_fft] for j in range(n_src)] for i in range(n_src)]
    right = scipy.fft.irfft(spectra[:, None].conj() * of_estimates[None], n_fft)[..., :SDR_TAPS]  # (n_src, estimates, taps)
    filters = _solve(np.block(blocks), right.transpose(0, 2, 1).reshape(n_src * SDR_TAPS, n_src))
    filters = filters.reshape(n_src, SDR_TAPS, n_src).transpose(2, 0, 1)  # (estimates, n_src, taps)
    sirs, sars = undefined.copy(), undefined.copy()
    for k in np.flatnonzero(estimates.var(axis=1) >= SILENCE_POWER):
        projected = scipy.fft.irfft((scipy.fft.rfft(filters[k], n_fft) * spectra).sum(axis=0), n_fft)[:n_out]
        own_filter = _solve_toeplitz(crossed[k, k, :SDR_TAPS], right[k, k])
        own = scipy.fft.irfft(scipy.fft.rfft(own_filter, n_fft) * spectra[k], n_fft)[:n_out]
        rest = -projected
        rest[:length] += estimates[k]
        sirs[k], sars[k] = _decibels(own, projected - own), _decibels(projected, rest)
    return sirs, sars


def pesq(estimate: np.ndarray, reference: np.ndarray, sample_rate: int, band: str) -> float:
    """PESQ as MOS-LQO; both (time,), `band` "wb" or "nb".

    Raises:
        UndefinedMetricError: silent, no utterance found, shorter than 1/4 s, longer than 30 s, or a rate that PESQ
            does not know.
    """
    from pesq import PesqError
    from pesq import pesq as p862

    estimate, reference = _validate(estimate, reference)
    if sample_rate not in PESQ_RATES_HZ[band]:
        rates = " and ".join(map(str, PESQ_RATES_HZ[band]))
        raise UndefinedMetricError(f"PESQ {band} is defined at {rates} Hz, not at {sample_rate} Hz")
    if len(reference) > PESQ_LIMIT_SEC * sample_rate:
        raise UndefinedMetricError(f"longer than the {PESQ_LIMIT_SEC:.0f} s that PESQ is made for")
    try:
        return float(p862(sample_rate, reference, estimate, band))
    except PesqError as error:
        text = error.args[0] if error.args else type(error).__name__
        raise UndefinedMetricError(text.decode() if isinstance(text, bytes) else str(text)) from None


def stoi(estimate: np.ndarray, reference: np.ndarray, sample_rate: int, extended: bool = False) -> float:
    """STOI, or ESTOI where `extended`; both (time,).

    Raises:
        UndefinedMetricError: silent, or fewer than 30 frames (about 0.4 s) of speech.
    """
    from pystoi import stoi as pystoi

    estimate, reference = _validate(estimate, reference)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns and returns 1e-5 where it has no value
        try:
            return float(pystoi(reference, estimate, sample_rate, extended))
        except RuntimeWarning as warning:
            raise UndefinedMetricError(str(warning).split(". ")[0]) from None
        except ValueError:
            raise UndefinedMetricError("shorter than one STOI frame") from None


def score_mixture(
    mixture: np.ndarray | None,
    references: np.ndarray,
    estimates: np.ndarray,
    sample_rate: int,
    permute: bool = False,
) -> list[dict]:
    """All metrics of a mixture's speakers.

    Args:
        mixture: (time,), the unprocessed mixture; None leaves the improvements out.
        references: (n_src, time).
        estimates: (n_src, time).
        sample_rate: Hz.
        permute: give each reference the estimate that makes the mean SI-SNR highest; otherwise estimate k is
            reference k's.

    Returns:
        A dict per reference, in order: `speaker` and `estimate` (counted from 1), each name of `METRICS`, the same
        with `input_` before (the mixture's) and with `_imp` after (the improvement), the names of `SILENT_METRICS`
        (NaN without a reason where the reference is heard), those of `INTERFERENCE_METRICS` (NaN without a reason where they
        have no value, as of a single source), `silent_output` (the reference is heard, the estimate is
        silent), and `reasons`, {name: why} of the metrics that are NaN.

    Raises:
        ValueError: the shapes do not fit, or a signal holds values that are not finite.
    """
    references, estimates = np.asarray(references, np.float64), np.asarray(estimates, np.float64)
    if references.ndim != 2 or references.shape != estimates.shape:
        raise ValueError(f"references and estimates must both be (n_src, time), not {references.shape} and {estimates.shape}")
    order = best_permutation(estimates, references) if permute else range(len(references))
    scores = []
    sirs, sars = sir_and_sar(estimates[list(order)], references)
    for k, estimate_index in enumerate(order):
        row = {"speaker": k + 1, "estimate": estimate_index + 1, "silent_output": False, "reasons": {}}
        _fill(row, "", "estimate", estimates[estimate_index], references[k], sample_rate)
        if mixture is not None:
            _fill(row, "input_", "mixture", mixture, references[k], sample_rate)
            row.update({f"{name}_imp": row[name] - row[f"input_{name}"] for name in METRICS})
        row |= {"sir": float(sirs[k]), "sar": float(sars[k])}
        scores.append(row | silent_output(mixture, references[k], estimates[estimate_index]))
    return scores


def silent_output(mixture: np.ndarray | None, reference: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    """`SILENT_METRICS` of an estimate: NaN where its reference is heard, the second also without a mixture; all (time,)."""
    values = dict.fromkeys(SILENT_METRICS, float("nan"))
    if reference.var() < SILENCE_POWER:
        values["silent_db"] = _power_db(estimate)
        if mixture is not None:
            values["silent_rel_db"] = max(values["silent_db"] - _power_db(mixture), QUIETEST_DB)
    return values


def _power_db(signal: np.ndarray) -> float:
    return max(float(10 * np.log10(max(np.mean(np.square(signal, dtype=np.float64)), 1e-30))), QUIETEST_DB)


def si_snr_matrix(estimates: np.ndarray, references: np.ndarray) -> np.ndarray:
    """SI-SNR of each estimate (row) against each reference (column), dB; NaN where undefined."""
    matrix = np.full((len(estimates), len(references)), np.nan)
    for row, estimate in enumerate(estimates):
        for column, reference in enumerate(references):
            with contextlib.suppress(UndefinedMetricError):
                matrix[row, column] = si_snr(estimate, reference)
    return matrix


def best_permutation(estimates: np.ndarray, references: np.ndarray) -> list[int]:
    """The estimate of each reference such that the mean SI-SNR is highest; an undefined pair is the worst."""
    matrix = np.nan_to_num(si_snr_matrix(estimates, references), nan=10 * np.log10(_LIMIT))
    rows, columns = scipy.optimize.linear_sum_assignment(matrix, maximize=True)
    return [int(row) for _, row in sorted(zip(columns, rows, strict=True))]


def _fill(row: dict, prefix: str, signal: str, estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> None:
    """Add each metric of a pair to `row` under its prefixed name, with the reasons of those that are NaN."""
    functions: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "si_snr": si_snr,
        "sdr": sdr,
        "snr": snr,
        "pesq_wb": lambda x, s: pesq(x, s, sample_rate, "wb"),
        "pesq_nb": lambda x, s: pesq(x, s, sample_rate, "nb"),
        "stoi": lambda x, s: stoi(x, s, sample_rate),
        "estoi": lambda x, s: stoi(x, s, sample_rate, extended=True),
    }
    for name in METRICS:
        try:
            row[prefix + name] = functions[name](estimate, reference)
        except UndefinedMetricError as error:
            row[prefix + name] = float("nan")
            is_silent = error.silent == "estimate"
            row["reasons"][prefix + name] = f"the {signal} is silent" if is_silent else str(error)
            row["silent_output"] |= is_silent and signal == "estimate"


def _validate(estimate: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    estimate, reference = np.asarray(estimate, np.float64), np.asarray(reference, np.float64)
    if estimate.ndim != 1 or estimate.shape != reference.shape or not estimate.size:
        raise ValueError(f"estimate and reference must both be (time,), not {estimate.shape} and {reference.shape}")
    for name, signal in (("estimate", estimate), ("reference", reference)):
        if not np.isfinite(signal).all():
            raise ValueError(f"the {name} {signal.shape} holds values that are not finite")
    if reference.var() < SILENCE_POWER:  # first: beside an absent target a silent estimate is no failure
        raise UndefinedMetricError("the reference is silent", "reference")
    if estimate.var() < SILENCE_POWER:
        raise UndefinedMetricError("the estimate is silent", "estimate")
    return estimate, reference


def _decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    signal_energy, noise_energy = signal @ signal, noise @ noise
    return float(10 * np.log10(max(signal_energy, _LIMIT * noise_energy) / max(noise_energy, _LIMIT * signal_energy)))


def _solve_toeplitz(first_column: np.ndarray, right_side: np.ndarray) -> np.ndarray:
    """Cholesky rather than Levinson, which fails without a word on band-limited references."""
    return _solve(scipy.linalg.toeplitz(first_column), right_side)


def _solve(matrix: np.ndarray, right_side: np.ndarray) -> np.ndarray:
    """The solution of a symmetric, positive (semi-)definite system."""
    try:
        return scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix), right_side)
    except scipy.linalg.LinAlgError:
        return scipy.linalg.lstsq(matrix, right_side)[0]
