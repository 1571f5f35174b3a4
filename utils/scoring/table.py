"""From the scores of single voices to the tables: a row per voice and a mean per mixture, then means by group."""

from collections import Counter

import pandas as pd

from utils.scoring.items import ScoreItem
from utils.scoring.metrics import METRICS, SILENT_ESTIMATE, SILENT_METRICS

UNMARKED = "(unmarked)"


def voice_table(items: list[ScoreItem], results: list[dict]) -> pd.DataFrame:
    """One row per scored voice, in the order of the items; failed items (result {}) are left out.

    Columns: mixture_ID, speaker, estimate, subset, separated_by, the metrics (`silent_` ones where a voice is silent),
    reasons, trimmed_samples.
    """
    rows = []
    for item, result in zip(items, results, strict=True):
        for scores in result.get("rows", []):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in scores["reasons"].items())
            labels = {"subset": item.subset, "separated_by": item.separated_by}
            values = {name: scores[name] for name in scores if name not in ("speaker", "estimate", "reasons")}
            rows.append(
                {"mixture_ID": item.mixture_id, "speaker": str(scores["speaker"]), "estimate": str(scores["estimate"])}
                | labels
                | values
                | {"reasons": reasons, "trimmed_samples": result["trimmed_samples"]}
            )
    table = pd.DataFrame(rows)
    return table if table.empty or table[SILENT_METRICS[0]].notna().any() else table.drop(columns=list(SILENT_METRICS))


def metric_columns(table: pd.DataFrame) -> list[str]:
    """The numeric columns that are metrics: plain, `input_` and `_imp` (only with mixtures), and those of silent voices."""
    wanted = [form.format(name) for name in METRICS for form in ("{}", "input_{}", "{}_imp")]
    return [name for name in (*wanted, *SILENT_METRICS) if name in table]


def has_silent_output(voices: pd.DataFrame) -> pd.Series:
    """True for each voice that is heard in its mixture and whose estimate is silence: no metric has a value for it."""
    return voices["reasons"].str.split("; ").map(lambda reasons: f"si_snr: {SILENT_ESTIMATE}" in reasons).astype(bool)


def mixture_means(voices: pd.DataFrame) -> pd.DataFrame:
    """One row per mixture: the mean over its voices, NaN left out (NaN where no voice has a value).

    A metric of the mixture (`input_`) counts only where that of the estimate has a value: both are means over the same
    voices, so that a silent output does not move the one against the other.
    """
    columns = metric_columns(voices)
    voices = voices.copy()
    for name in METRICS:
        if f"input_{name}" in columns:
            voices[f"input_{name}"] = voices[f"input_{name}"].where(voices[name].notna())
    groups = voices.groupby("mixture_ID", sort=False)
    means = groups[columns].mean()
    means[["subset", "separated_by", "trimmed_samples"]] = groups[["subset", "separated_by", "trimmed_samples"]].first()
    return means.reset_index()


def all_rows(voices: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """What `all_metrics.csv` holds: each mixture's voices, then its mean (speaker "mean")."""
    means = means.assign(speaker="mean", estimate="", reasons="")
    order = {name: number for number, name in enumerate(means["mixture_ID"])}
    both = pd.concat([voices, means[list(voices.columns)]])
    both = both.sort_values("mixture_ID", key=lambda ids: ids.map(order), kind="stable")
    columns = metric_columns(both)
    both[columns] = both[columns].round(6) + 0.0  # + 0.0: no minus zeros
    return both


def summarise(voices: pd.DataFrame, means: pd.DataFrame) -> dict:
    """Mean and standard error of each metric over all mixtures and by label.

    Returns:
        `overall`, `subsets` {label: ...}, `separated_by` {label: ...}; each of these groups is {"n": mixtures, "n_heard":
        those with an SI-SNR, "n_silent": absent voices, "n_silent_output": voices that are heard and whose estimate is
        silence, "metrics": {column: {"mean", "standard_error", "nan"}}}. A label
        that all mixtures share is no group of its own.
    """
    return {
        "overall": _group(voices, means),
        "subsets": _by_label(voices, means, "subset"),
        "separated_by": _by_label(voices, means, "separated_by"),
    }


def nan_reasons(voices: pd.DataFrame) -> dict[str, dict[str, int]]:
    """For each metric that is NaN somewhere: the reasons and how many voices each of them hit."""
    counts = Counter(text for reasons in voices["reasons"] if reasons for text in reasons.split("; "))
    found: dict[str, dict[str, int]] = {}
    for text, count in sorted(counts.items()):
        name, reason = text.split(": ", 1)
        found.setdefault(name, {})[reason] = count
    return found


def _by_label(voices: pd.DataFrame, means: pd.DataFrame, column: str) -> dict[str, dict]:
    labels = means[column].unique()
    if len(labels) < 2:
        return {}
    return {
        label or UNMARKED: _group(voices[voices[column] == label], means[means[column] == label])
        for label in sorted(labels, key=lambda label: (label == "", label))
    }


def _group(voices: pd.DataFrame, means: pd.DataFrame) -> dict:
    columns = metric_columns(voices)
    mean, error, missing = means[columns].mean(), means[columns].sem(), voices[columns].isna().sum()
    metrics = {
        name: {"mean": _number(mean[name]), "standard_error": _number(error[name]), "nan": int(missing[name])}
        for name in columns
    }
    n_silent = int(voices[SILENT_METRICS[0]].notna().sum()) if SILENT_METRICS[0] in voices else 0
    n_heard = int(means["si_snr"].notna().sum())
    counts = {"n_heard": n_heard, "n_silent": n_silent, "n_silent_output": int(has_silent_output(voices).sum())}
    return {"n": len(means), **counts, "metrics": metrics}


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if pd.isna(value) else round(float(value), 6) + 0.0
