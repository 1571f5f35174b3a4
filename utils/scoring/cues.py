"""The visual cue swap test: whether the estimates follow the faces.

Reads the separations that stage 4 made with the faces swapped (estimate k got the face of speaker k+1, the last one that
of the first) and with faces of other mixtures, `separated/<test name>/cues_swapped/` and `cues_shuffled/`, beside the
ordinary ones. A network that uses its visual embeddings gives swapped estimates, and loses score with faces of others.
"""

from pathlib import Path

import numpy as np

from utils.data.estimates import CUE_FOLDERS
from utils.scoring.items import ScoreItem, read_separated
from utils.scoring.pool import score_all
from utils.scoring.scores import cue_item

CUE_DEFINITIONS = {
    "si_snr_imp": "mean SI-SNRi of each estimate against the reference in its own place",
    "si_snr_imp_swapped_references": "the same against the reference of the speaker whose face was given",
    "assignment_accuracy": "share of mixtures in which every estimate is nearest (SI-SNR) to the source of the given face",
    "both_assignments_accuracy": "share of mixtures that are correct with their own faces and with swapped ones",
}


def cue_csvs(separated_dir: Path) -> dict[str, Path]:
    """The CSVs of the visual cue swap test that exist, by the name of the visual embeddings."""
    paths = {cues: separated_dir / folder / "separated.csv" for cues, folder in CUE_FOLDERS.items()}
    return {cues: path for cues, path in paths.items() if path.is_file()}


def cue_test(items: list[ScoreItem], csvs: dict[str, Path], nj: int, journal_dir: Path, version: str) -> dict:
    """Compare own, swapped and shuffled faces over the mixtures that all of them have.

    Returns:
        {"n": mixtures, "own": {...}, "swapped": {...}, "shuffled": {...}, "both_assignments_accuracy", "definitions"}; only
        what was made.

    Raises:
        UserError: a CSV is broken.
    """
    listed = {"own": items} | {cues: read_separated(path)[0] for cues, path in csvs.items()}
    matrices = {cues: _matrices(cues, found, nj, journal_dir, version) for cues, found in listed.items()}
    common = [item.mixture_id for item in items if all(item.mixture_id in found for found in matrices.values())]
    result: dict = {"n": len(common)}
    if not common:
        return result
    correct = {}
    for cues, found in matrices.items():
        si_snr, of_mixture = (np.array([found[name][key] for name in common]) for key in ("si_snr", "input_si_snr"))
        improvement = si_snr - of_mixture[:, np.newaxis, :]
        result[cues] = {"si_snr_imp": _mean(_at_shift(improvement, 0))}
        if cues == "swapped":
            result[cues]["si_snr_imp_swapped_references"] = _mean(_at_shift(improvement, 1))
        if cues != "shuffled" and improvement.shape[-1] > 1:  # a single source is always the nearest
            correct[cues] = _is_correct(si_snr, shift=int(cues == "swapped"))
            result[cues]["assignment_accuracy"] = round(float(correct[cues].mean()), 4)
    if "swapped" in correct:
        result["both_assignments_accuracy"] = round(float((correct["own"] & correct["swapped"]).mean()), 4)
    return result | {"definitions": CUE_DEFINITIONS}


def _matrices(cues: str, items: list[ScoreItem], nj: int, journal_dir: Path, version: str) -> dict[str, dict]:
    results, _ = score_all(cue_item, items, nj, journal_dir / f".scored-{cues}.jsonl", version, f"cues {cues}")
    return {item.mixture_id: result for item, result in zip(items, results, strict=True) if result}


def _at_shift(stack: np.ndarray, shift: int) -> np.ndarray:
    """From (mixtures, estimates, references): estimate k against reference k + shift, (mixtures, n_src)."""
    n_src = stack.shape[-1]
    return stack[:, np.arange(n_src), (np.arange(n_src) + shift) % n_src]


def _is_correct(si_snr: np.ndarray, shift: int) -> np.ndarray:
    """(mixtures,): every estimate is nearest to reference k + shift; a silent estimate (NaN) is never correct."""
    return (_at_shift(si_snr, shift) >= si_snr.max(axis=2)).all(axis=1)


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else round(float(np.nanmean(values)), 6)
