"""What it costs to give jobs to a cluster, for docs/cluster.md: jobs that compute for a while, here and there.

    python -m utils.tools.cluster_speed --cluster dask://HOST:PORT --nj 2

Prints a table in Markdown: jobs a second of this machine's processes and of the cluster's workers, the best of some rounds.
The two take turns, as other work may disturb them. Processes are started anew with each call of a stage and so here.
"""

import os
import tempfile
import time
from pathlib import Path

from utils.data.cluster import CLUSTER_NAME, add_cluster_option
from utils.data.devices import n_cores
from utils.data.jobs import Job, run_jobs
from utils.errors import OptionParser, UsageError, at_least, run_cli

SIZES = ((0.001, 1000), (0.02, 200), (0.5, 12))  # seconds of a job, jobs


def compute(job_sec: float) -> float:
    """Keep one core busy for so long."""
    end_sec = time.thread_time() + job_sec
    while time.thread_time() < end_sec:
        pass
    return job_sec


def jobs_per_sec(engine: str, job_sec: float, n_jobs: int, nj: int) -> float:
    """Work through jobs, with the journal of a stage."""
    os.environ[CLUSTER_NAME] = engine
    jobs = [Job(str(number), "", (), job_sec) for number in range(n_jobs)]
    with tempfile.TemporaryDirectory() as folder:
        start_sec = time.monotonic()
        run_jobs(compute, jobs, Path(folder) / "made.jsonl", nj, "jobs", "job")
        return n_jobs / (time.monotonic() - start_sec)


def main() -> int:
    """Print the table."""
    parser = OptionParser(description=__doc__.partition("\n")[0])
    add_cluster_option(parser)
    parser.add_argument("--nj", type=at_least(2), default=n_cores(), help="processes of this machine")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="the best one counts")
    args = parser.parse_args()
    if not args.cluster:
        raise UsageError("cluster_speed: which cluster? --cluster dask://HOST:PORT")
    jobs_per_sec(args.cluster, 0.0, 1, args.nj)
    print(f"| a job | {args.nj} processes here, jobs/s | the cluster's workers, jobs/s |\n|---|---|---|")
    for job_sec, n_jobs in SIZES:
        best = [0.0, 0.0]
        for _ in range(args.rounds):
            found = [jobs_per_sec(engine, job_sec, n_jobs, args.nj) for engine in ("", args.cluster)]
            best = list(map(max, best, found))
        print(f"| {1000 * job_sec:g} ms | {best[0]:.3g} | {best[1]:.3g} |", flush=True)
    return 0


if __name__ == "__main__":
    run_cli(main)
