"""Tables of scores: a row for each source and a mean for each mixture, then means by group."""

from collections import Counter

import pandas as pd

from utils.scoring.items import ScoreItem
from utils.scoring.metrics import INTERFERENCE_METRICS, METRICS, SILENT_METRICS

UNMARKED = "(unmarked)"


def source_table(items: list[ScoreItem], results: list[dict]) -> pd.DataFrame:
    """One row per scored source, in the order of the items; failed items (result {}) are left out.

    Columns: mixture_ID, speaker, estimate, subset, separated_by, the metrics (SIR and SAR where there are several sources,
    `silent_` ones where one is silent), silent_output, reasons, trimmed_samples.
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
    for names in (SILENT_METRICS, INTERFERENCE_METRICS):
        if not table.empty and table[list(names)].isna().all(axis=None):
            table = table.drop(columns=list(names))
    return table


def metric_columns(table: pd.DataFrame) -> list[str]:
    """The numeric columns that are metrics: plain, `input_` and `_imp` (only with mixtures), SIR, SAR, those of silence."""
    wanted = [form.format(name) for name in METRICS for form in ("{}", "input_{}", "{}_imp")]
    return [name for name in (*wanted, *INTERFERENCE_METRICS, *SILENT_METRICS) if name in table]


def mixture_means(sources: pd.DataFrame) -> pd.DataFrame:
    """One row per mixture: the mean over its sources, NaN left out (NaN where no source has a value).

    A metric of the mixture (`input_`) counts only where that of the estimate has a value: both are means over the same
    sources, so that a silent output does not move the one against the other.
    """
    columns = metric_columns(sources)
    sources = sources.copy()
    for name in METRICS:
        if f"input_{name}" in columns:
            sources[f"input_{name}"] = sources[f"input_{name}"].where(sources[name].notna())
    groups = sources.groupby("mixture_ID", sort=False)
    means = groups[columns].mean()
    means[["subset", "separated_by", "trimmed_samples"]] = groups[["subset", "separated_by", "trimmed_samples"]].first()
    return means.reset_index()


def all_rows(sources: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """The rows of `all_metrics.csv`: each mixture's sources, then its mean (speaker "mean")."""
    means = means.assign(speaker="mean", estimate="", reasons="", silent_output="")
    order = {name: number for number, name in enumerate(means["mixture_ID"])}
    both = pd.concat([sources, means[list(sources.columns)]])
    both = both.sort_values("mixture_ID", key=lambda ids: ids.map(order), kind="stable")
    columns = metric_columns(both)
    both[columns] = both[columns].round(6) + 0.0  # + 0.0: no minus zeros
    return both


_COURSE_COLUMNS = {  # of eval.txt, and what the lines of means below call them
    "sdr": "sdr", "input_sdr": "sdr_mixed", "sdr_imp": "sdr - sdr_mixed", "sir": "sir", "sar": "sar",
    "pesq_nb": "pesq_score", "stoi": "stoi_score",
}  # fmt: skip


def course_text(means: pd.DataFrame) -> str:
    """The scores as VisualVoice's course project printed them: a line of seven numbers for each mixture, then the means.

    PESQ is narrow band, MOS-LQO; the project's own was the raw score with reference and estimate exchanged.

    Returns:
        The text; "" where a column is missing (a single source, no mixtures).
    """
    if not set(_COURSE_COLUMNS) <= set(means):
        return ""
    table = means[list(_COURSE_COLUMNS)]
    lines = [" ".join(f"{value:3f}" for value in row) for row in table.itertuples(index=False)]
    return "\n".join([*lines, *(f"{label}: {table[name].mean()}" for name, label in _COURSE_COLUMNS.items())]) + "\n"


def summarise(sources: pd.DataFrame, means: pd.DataFrame) -> dict:
    """Mean and standard error of each metric over all mixtures and by label.

    Returns:
        `overall`, `subsets` {label: ...}, `separated_by` {label: ...}; each of these groups is {"n": mixtures, "n_heard":
        those with an SI-SNR, "n_silent": absent targets, "n_silent_output": targets that are heard and whose estimate is
        silence, "metrics": {column: {"mean", "standard_error", "nan"}}}. A label
        that all mixtures share is no group of its own.
    """
    return {
        "overall": _group(sources, means),
        "subsets": _by_label(sources, means, "subset"),
        "separated_by": _by_label(sources, means, "separated_by"),
    }


def nan_reasons(sources: pd.DataFrame) -> dict[str, dict[str, int]]:
    """For each metric that is NaN somewhere: the reasons and how many sources each of them hit."""
    counts = Counter(text for reasons in sources["reasons"] if reasons for text in reasons.split("; "))
    found: dict[str, dict[str, int]] = {}
    for text, count in sorted(counts.items()):
        name, reason = text.split(": ", 1)
        found.setdefault(name, {})[reason] = count
    return found


def _by_label(sources: pd.DataFrame, means: pd.DataFrame, column: str) -> dict[str, dict]:
    labels = means[column].unique()
    if len(labels) < 2:
        return {}
    return {
        label or UNMARKED: _group(sources[sources[column] == label], means[means[column] == label])
        for label in sorted(labels, key=lambda label: (label == "", label))
    }


def _group(sources: pd.DataFrame, means: pd.DataFrame) -> dict:
    columns = metric_columns(sources)
    mean, error, missing = means[columns].mean(), means[columns].sem(), sources[columns].isna().sum()
    metrics = {
        name: {"mean": _number(mean[name]), "standard_error": _number(error[name]), "nan": int(missing[name])}
        for name in columns
    }
    n_silent = int(sources[SILENT_METRICS[0]].notna().sum()) if SILENT_METRICS[0] in sources else 0
    n_heard = int(means["si_snr"].notna().sum())
    counts = {"n_heard": n_heard, "n_silent": n_silent, "n_silent_output": int(sources["silent_output"].sum())}
    return {"n": len(means), **counts, "metrics": metrics}


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if pd.isna(value) else round(float(value), 6) + 0.0
