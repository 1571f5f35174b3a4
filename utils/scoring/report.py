"""Text of `RESULTS.md`, made from `final_metrics.json`, and the provenance of scores."""

import importlib.metadata
import shlex
import sys
from collections.abc import Iterable
from datetime import datetime

from utils.data.reports import git_revision, markdown_table

PACKAGES = ("numpy", "scipy", "pesq", "pystoi", "soundfile", "pandas")
# heading, column, decimals; the improvements are left out where there are no mixtures
TABLE = (
    ("SI-SNR", "si_snr", 2), ("SI-SNRi", "si_snr_imp", 2), ("SDR", "sdr", 2), ("SDRi", "sdr_imp", 2),
    ("SIR", "sir", 2), ("SAR", "sar", 2), ("SNR", "snr", 2), ("SNRi", "snr_imp", 2), ("PESQ wb", "pesq_wb", 2),
    ("PESQ nb", "pesq_nb", 2), ("STOI", "stoi", 3), ("ESTOI", "estoi", 3),
)  # fmt: skip
SHORT_TABLE = tuple(entry for entry in TABLE if entry[1] in ("si_snr", "si_snr_imp", "sdr_imp", "pesq_wb", "stoi"))


def provenance(argv: list[str]) -> dict:
    """Date, command, git hash and the versions of the packages that scores depend on."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "utils.stages.score", *argv]),
        "git": git_revision(40),
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Python's version and those of the packages that scores depend on."""
    return {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in PACKAGES}


def definitions() -> dict[str, str]:
    """Definitions of the numbers, by name."""
    from utils.scoring.metrics import DEFINITIONS, IMPROVEMENT, INTERFERENCE_DEFINITIONS, SILENT_DEFINITIONS  # brings scipy

    return DEFINITIONS | {"improvement": IMPROVEMENT} | INTERFERENCE_DEFINITIONS | SILENT_DEFINITIONS


def results_text(final: dict) -> str:
    """The whole of RESULTS.md."""
    parts = [
        f"# Scores of {final['title']}",
        results_table(final),
        _lines(_notes(final)),
        "![histogram](histogram.png)",
    ]
    if final["overall"].get("n_silent"):
        parts += ["## Absent targets: how quiet is the output?", silent_table(final)]
    if final["cue_test"]:
        parts += ["## Visual cue swap test: do the estimates follow the faces?", cue_text(final["cue_test"])]
    parts += ["## Metrics without a value (NaN)", _lines(_nan_lines(final["nan_reasons"]))]
    parts += ["## Definitions", _lines(final["definitions"].values())]
    parts += ["## Where this comes from", _lines(_provenance_lines(final))]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def results_table(final: dict) -> str:
    """The Markdown table of all groups, the unprocessed mixtures' row under each; below it, what is in no mean.

    "mixtures" are those with an SI-SNR: absent targets and silent outputs have none.
    """
    groups = {"all": final["overall"]} | final["subsets"]
    groups |= {f"separated by {name}": group for name, group in final["separated_by"].items()}
    of_silence = [label for label, group in groups.items() if group["n_silent"] and not has_targets(group)]
    groups = {label: group for label, group in groups.items() if label == "all" or label not in of_silence}
    columns = [entry for entry in TABLE if entry[1] in final["overall"]["metrics"]]
    rows = [["", "mixtures", *(heading for heading, _, _ in columns)]]
    for label, group in groups.items():
        count = str(group["n_heard"])
        rows.append([label, count, *(_cell(group, name, digits) for _, name, digits in columns)])
        if "input_si_snr" in group["metrics"]:
            rows.append([f"{label}, unprocessed", count, *(_input_cell(group, name, digits) for _, name, digits in columns)])
    note = silent_output_note(final)
    return markdown_table(rows) + (f"\n{note}\n" if note else "")


def has_targets(group: dict) -> bool:
    """Tell if a group has a mean, or would have one but for silent outputs: not all of its targets are absent."""
    return group["metrics"]["si_snr"]["mean"] is not None or group.get("n_silent_output", 0) > 0


def silent_output_note(final: dict) -> str:
    """Count the outputs that are silence where a target is heard, in all and by subset; "" where none is."""
    total = final["overall"]["n_silent_output"]
    if not total:
        return ""
    of = {label: group["n_silent_output"] for label, group in final["subsets"].items() if group["n_silent_output"]}
    where = f" ({', '.join(f'{label}: {count}' for label, count in of.items())})" if of else ""
    return f"**{total} heard targets got a silent output**{where}; they are in no mean, neither above nor elsewhere."


def silent_table(final: dict) -> str:
    """The Markdown table of the sources that are silent in their mixtures, by group."""
    groups = {"all": final["overall"]} | final["subsets"]
    rows = [["", "silent sources", "output (dB re full scale)", "output over the mixture (dB)"]]
    for label, group in groups.items():
        if group["n_silent"]:
            means = [group["metrics"][name]["mean"] for name in ("silent_db", "silent_rel_db")]
            rows.append([label, str(group["n_silent"]), *(number_text(mean, 1) for mean in means)])
    return markdown_table(rows) + "\nThese sources have no SI-SNR and no other metric, and are in none of the means above."


def _cell(group: dict, name: str, digits: int) -> str:
    metric = group["metrics"][name]
    return mean_text(metric["mean"], metric["standard_error"] if name == "si_snr_imp" else None, digits)


def _input_cell(group: dict, name: str, digits: int) -> str:
    if name.endswith("_imp"):
        return f"{0:.{digits}f}"
    return _cell(group, f"input_{name}", digits) if f"input_{name}" in group["metrics"] else ""


def number_text(value: float | None, digits: int, none: str = "NaN") -> str:
    """A number with so many decimals; the text `none` for None."""
    return none if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus zeros


def mean_text(mean: float | None, standard_error: float | None, digits: int = 2, none: str = "NaN") -> str:
    """A mean with its standard error, if that is known."""
    text = number_text(mean, digits, none)
    return text if standard_error is None else f"{text} ± {standard_error:.{digits}f}"


def _notes(final: dict) -> list[str]:
    notes = [
        f"{final['n_src']} sources a mixture, {', '.join(map(str, final['sample_rates_hz']))} Hz; estimates assigned to "
        + ("references by the best mean SI-SNR." if final["permute"] else "references in their given order."),
        "Each number is the mean over the mixtures of the mean over a mixture's sources; ± is the standard error over "
        "mixtures. dB for SI-SNR, SDR, SIR, SAR and SNR.",
    ]
    if "si_snr_imp" not in final["overall"]["metrics"]:
        notes.append("No mixtures were given, so there are no improvements.")
    if final["n_order_unknown"]:
        notes.append(f"In {final['n_order_unknown']} mixtures no face told the sources' order: there the estimates are "
                     "assigned by the best mean SI-SNR.")  # fmt: skip
    if final["n_failed"]:
        notes.append(f"**{final['n_failed']} mixtures could not be scored** and are in no number: see failed.csv.")
    if final["n_not_separated"]:
        notes.append(f"**{final['n_not_separated']} mixtures were not separated** and are in no number: see the "
                     "failed.csv beside separated.csv.")  # fmt: skip
    if final["n_trimmed"]:
        notes.append(f"In {final['n_trimmed']} mixtures the files' lengths differed a little; the longer ones were cut "
                     "(trimmed_samples in all_metrics.csv).")  # fmt: skip
    return notes


def _nan_lines(reasons: dict[str, dict[str, int]]) -> list[str]:
    found = [f"{name}: {count} x {reason}" for name, by_reason in reasons.items() for reason, count in by_reason.items()]
    return found or ["none"]


def cue_text(cue_test: dict) -> str:
    """The visual cue swap test as a table and a sentence."""
    if not cue_test["n"]:
        return "No mixture was separated with all faces."
    rows = [["faces", "SI-SNRi", "SI-SNRi to the given face's source", "assignment accuracy"]]
    for cues in ("own", "swapped", "shuffled"):
        if cues in cue_test:
            entry = cue_test[cues]
            given = entry.get("si_snr_imp_swapped_references", entry["si_snr_imp"] if cues == "own" else None)
            accuracy = f"{entry['assignment_accuracy']:.1%}" if "assignment_accuracy" in entry else ""
            rows.append(
                [cues, number_text(entry["si_snr_imp"], 2), "" if cues == "shuffled" else number_text(given, 2), accuracy]
            )
    text = f"{cue_test['n']} mixtures, separated with each set of faces.\n\n{markdown_table(rows)}\n"
    if "both_assignments_accuracy" in cue_test:
        both = cue_test["both_assignments_accuracy"]
        text += f"Correct with their own faces and with swapped ones: {both:.1%} of the mixtures. "
    if "assignment_accuracy" not in cue_test["own"]:
        return text.rstrip()
    return text + "A mixture is correct when every estimate is nearest to the source of the face that was given for it."


def _provenance_lines(final: dict) -> list[str]:
    source = final["provenance"]
    lines = [f"{name}: {value}" for name, value in final["experiment"].items()]
    lines += [f"training, {name}: {value}" for name, value in _flat(final["training"])]
    lines += [f"date: {source['date']}", f"git: {source['git']}", f"command: `{source['command']}`"]
    return [*lines, "versions: " + ", ".join(f"{name} {version}" for name, version in source["versions"].items())]


def _flat(values: dict) -> Iterable[tuple[str, object]]:
    """Only the plain values: lists (a history, say) have files of their own."""
    return ((name, value) for name, value in values.items() if isinstance(value, str | int | float))


def _lines(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)
