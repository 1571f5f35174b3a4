"""Score many mixtures over the cores, so that neither a killed run nor a crashed worker costs more than one of them.

PESQ is C code that can end its process: that is why mixtures are never scored in this one. (Nothing heavy is imported at
the top: the workers set their threads first.)
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, run_jobs
from utils.scoring.items import ScoreItem


def score_all(
    function: Callable[[ScoreItem], dict],
    items: Sequence[ScoreItem],
    nj: int,
    journal: Path,
    version: str,
    title: str = "score",
) -> tuple[list[dict], list[str]]:
    """Apply `function` to each item, or take its result from the journal.

    Args:
        function: picklable; returns plain JSON data, or raises `UserError` where the item cannot be scored.
        items: the mixtures, of different ids.
        nj: processes.
        journal: the file that finished results are kept in.
        version: changes whenever `function` would give other results; older lines of the journal are then ignored.
        title: of the progress bar.

    Returns:
        For each item its result ({} where it failed) and the reason of its failure ("" where it did not).
    """
    jobs = [Job(item.mixture_id, f"{version} {hash_stats(item.paths)}", (), item) for item in items]
    results, reasons = run_jobs(function, jobs, journal, nj, title, "mixture", in_own_process=True)
    return [results.get(job.name, {}) for job in jobs], [reasons.get(job.name, "") for job in jobs]
