"""Scoring of a test set: SI-SNR, SDR, PESQ and STOI of every estimate, the visual cue test, the offset sweep.

Reads the audio that the lists of a `ScoringJob` name; writes all_metrics.csv, eval.txt, final_metrics.json, RESULTS.md,
histogram.png, examples/, failed.csv, and for an offset sweep offset_sweep.{csv,md,png}. Imports nothing heavy at the
top, so that stage 5 can tell at once that it is up to date.
"""

import csv
import hashlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from utils.data.estimates import offset_folders
from utils.data.experiments import experiment_name
from utils.data.files import atomic_path, read_json, write_json, write_text
from utils.data.fingerprints import hash_contents, hash_stats
from utils.data.manifest import Problem, write_failed
from utils.errors import UserError
from utils.scoring.items import ScoreItem, read_separated, scan_folders
from utils.scoring.pool import score_all
from utils.scoring.report import cue_text, definitions, package_versions, provenance, results_table, results_text, silent_table

if TYPE_CHECKING:
    from pandas import DataFrame

logger = logging.getLogger(__name__)

CODE = sorted(Path(__file__).parent.glob("*.py"))  # the results depend on it; the scores on a part of it:
SCORE_CODE = [Path(__file__).with_name("metrics.py"), Path(__file__).with_name("scores.py")]
OUTPUTS = ("all_metrics.csv", "final_metrics.json", "RESULTS.md", "histogram.png")
OFFSET_OUTPUTS = ("offset_sweep.csv", "offset_sweep.md", "offset_sweep.png")


@dataclass(frozen=True)
class ScoringJob:
    """The mixtures of a test set to be scored, the problems of others, and where the results go."""

    title: str
    out_dir: Path
    items: list[ScoreItem]
    problems: list[Problem]
    permute: bool = False
    cue_csvs: dict[str, Path] = field(default_factory=dict)  # separated.csv by the visual embeddings given
    offset_csvs: dict[int, Path] = field(default_factory=dict)  # separated.csv by how late the video is, frames
    experiment: dict[str, str] = field(default_factory=dict)
    experiment_files: tuple[Path, ...] = ()
    training: dict = field(default_factory=dict)
    n_not_separated: int = 0


def experiment_job(exp_dir: Path, test_name: str, permute: bool) -> ScoringJob | None:
    """The job of a test that stage 4 separated; None where it has no references."""
    folder = exp_dir / "separated" / test_name
    items, problems, absent = read_separated(folder / "separated.csv")
    if absent:
        logger.warning(
            "stage 5: cannot score %s: no references (%s absent or empty in %s); the estimates are in %s",
            test_name, ", ".join(absent), folder / "separated.csv", folder,
        )  # fmt: skip
        return None
    from utils.scoring.cues import cue_csvs

    training = exp_dir / "training.json"
    files = tuple(path for path in (exp_dir / "conf.yml", training) if path.is_file())
    return ScoringJob(
        title=f"{exp_dir.name} on {test_name}",
        out_dir=exp_dir / "results" / test_name,
        items=items,
        problems=problems,
        permute=permute,
        cue_csvs=cue_csvs(folder),
        offset_csvs={offset: path / "separated.csv" for offset, path in offset_folders(folder).items()},
        experiment={"experiment": experiment_name(exp_dir), "test": test_name},
        experiment_files=files,
        training=read_json(training) if training in files else {},
        n_not_separated=_count_ids(folder / "failed.csv"),
    )


def folder_job(mixture_dir: Path | None, reference_dir: Path, estimate_dir: Path, out_dir: Path, permute: bool) -> ScoringJob:
    """The job of folders whose files match by name."""
    items, problems = scan_folders(mixture_dir, reference_dir, estimate_dir)
    if mixture_dir is None:
        logger.info("stage 5: no --mixture_dir, so there will be no improvements")
    folders = {"estimates": estimate_dir, "references": reference_dir, "mixtures": mixture_dir}
    experiment = {name: str(path) for name, path in folders.items() if path}
    return ScoringJob(str(estimate_dir), out_dir, items, problems, permute, experiment=experiment)


def _count_ids(path: Path) -> int:
    """The number of mixtures that a failed.csv names."""
    if not path.is_file():
        return 0
    with open(path, newline="", encoding="utf-8") as handle:
        return len({row["id"] for row in csv.DictReader(handle)})


def job_inputs(job: ScoringJob) -> dict[str, str]:
    """All that the results depend on; audio files count by name, size and time."""

    def files(csvs: dict) -> str:
        return hash_stats(path for name in csvs for item in read_separated(csvs[name])[0] for path in item.paths)

    return {
        "list of mixtures": hashlib.sha256(repr((job.items, job.problems)).encode()).hexdigest(),
        "audio": hash_stats(path for item in job.items for path in item.paths),
        "cue test": files(job.cue_csvs),
        "offset sweep": files(job.offset_csvs),
        "permute": str(job.permute),
        "experiment": hash_contents(job.experiment_files),
        "not separated": str(job.n_not_separated),
        "scoring code": hash_contents(CODE),
    }


def job_outputs(job: ScoringJob) -> list[Path]:
    """The files that a finished job has left at least."""
    return [job.out_dir / name for name in (*OUTPUTS, *(OFFSET_OUTPUTS if job.offset_csvs else ()))]


def score_job(job: ScoringJob, nj: int) -> int:
    """Score, write everything, print the table; gives the number of mixtures that failed."""
    from utils.scoring.cues import cue_test
    from utils.scoring.offsets import offset_rows, write_offsets
    from utils.scoring.scores import score_item
    from utils.scoring.table import mixture_means, source_table

    source = provenance(sys.argv[1:])
    version = score_version(job.permute)
    function = partial(score_item, permute=job.permute)
    results, reasons = score_all(function, job.items, nj, job.out_dir / ".scored.jsonl", version)
    problems = job.problems + [
        Problem(0, item.mixture_id, item.estimate_paths[0], reason)
        for item, reason in zip(job.items, reasons, strict=True)
        if reason
    ]
    write_failed(job.out_dir / "failed.csv", problems)
    n_failed = len({problem.item_id for problem in problems})
    if not any(results):
        raise UserError(f"none of {n_failed} mixtures could be scored, see {job.out_dir / 'failed.csv'}")
    cues = cue_test(job.items, job.cue_csvs, nj, job.out_dir, version) if job.cue_csvs else None
    sources = source_table(job.items, results)
    means = mixture_means(sources)
    final = _final_metrics(job, results, sources, means, source) | {"n_failed": n_failed, "cue_test": cues}
    _write(job, final, sources, means, [item for item, result in zip(job.items, results, strict=True) if result])
    print(f"\n{job.title}\n\n{results_table(final)}", flush=True)
    if final["overall"]["n_silent"]:
        print(f"absent targets\n\n{silent_table(final)}\n", flush=True)
    if cues:
        print(cue_text(cues) + "\n", flush=True)
    if job.offset_csvs:
        rows = {0: offset_rows(0, job.items, results)}
        for offset, path in job.offset_csvs.items():
            rows[offset] = _offset_rows(offset, path, function, nj, job.out_dir, version)
        print(write_offsets([row for offset in sorted(rows) for row in rows[offset]], job.out_dir, job.title), flush=True)
    return n_failed


def _offset_rows(offset: int, path: Path, function: Callable, nj: int, out_dir: Path, version: str) -> list[dict]:
    """The rows of the offset sweep for the estimates of one offset."""
    from utils.scoring.offsets import offset_rows

    items, _, _ = read_separated(path)
    journal = out_dir / f".scored-offset{offset:+d}.jsonl"
    results, reasons = score_all(function, items, nj, journal, version, f"offset {offset:+d}")
    for item, reason in zip(items, reasons, strict=True):
        if reason:
            logger.warning("offset %+d: %s: not scored: %s", offset, item.mixture_id, reason)
    return offset_rows(offset, items, results)


def score_version(permute: bool) -> str:
    """A text that changes whenever a mixture could get other scores; part of the keys in the journals of scores."""
    packages = " ".join(f"{name}={version}" for name, version in package_versions().items())
    return f"{hash_contents(SCORE_CODE)[:12]} {packages} permute={permute}"


def _final_metrics(job: ScoringJob, results: list[dict], sources: "DataFrame", means: "DataFrame", source: dict) -> dict:
    from utils.scoring.table import nan_reasons, summarise

    scored = [result for result in results if result]
    return {
        "title": job.title,
        "n_src": int(sources["speaker"].astype(int).max()),
        "sample_rates_hz": sorted({result["sample_rate"] for result in scored}),
        "permute": job.permute,
        "n_order_unknown": sum(result["permuted"] for result in scored) if not job.permute else 0,
        "n_not_separated": job.n_not_separated,
        "n_trimmed": sum(result["trimmed_samples"] > 0 for result in scored),
        **summarise(sources, means),
        "nan_reasons": nan_reasons(sources),
        "definitions": definitions(),
        "experiment": job.experiment,
        "training": job.training,
        "provenance": source,
    }


def _write(job: ScoringJob, final: dict, sources: "DataFrame", means: "DataFrame", items: list[ScoreItem]) -> None:
    from utils.scoring.examples import write_examples
    from utils.scoring.plots import plot_histogram
    from utils.scoring.table import all_rows, course_text

    with atomic_path(job.out_dir / "all_metrics.csv") as temporary:
        all_rows(sources, means).to_csv(temporary, index=False)
    (job.out_dir / "eval.txt").unlink(missing_ok=True)
    if text := course_text(means):
        write_text(job.out_dir / "eval.txt", text)
    write_examples(items, job.out_dir / "examples")
    plot_histogram(sources, job.out_dir / "histogram.png", job.title)
    write_text(job.out_dir / "RESULTS.md", results_text(final))
    write_json(job.out_dir / "final_metrics.json", final)
