"""Jobs on the workers of a dask scheduler: the results of one machine, whatever dies."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="needs requirements-cluster.txt")
from cluster_helpers import LocalEngine

from utils.data.cluster import CLUSTER_NAME, WAIT_NAME, open_cluster
from utils.data.jobs import Job, run_jobs
from utils.errors import UserError

N_JOBS = 60


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    running = LocalEngine(tmp_path_factory.mktemp("engine"), 3)
    yield running
    running.close()


@pytest.fixture
def on_cluster(engine, monkeypatch):
    monkeypatch.setenv(CLUSTER_NAME, engine.name)
    return engine


def work(given: tuple[str, str]) -> dict:
    what, path = given
    Path(path).parent.mkdir(exist_ok=True)
    if what == "fail":
        raise UserError("it cannot be done")
    if what == "die":
        Path(path).with_name(".tmp-half").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    Path(path).write_text(what, encoding="utf-8")
    return {"length": len(what), "pid": os.getpid()}


def jobs(folder: Path, *whats: str) -> list[Job]:
    return [Job(f"job{k:02}", what, (folder / f"out/{k}",), (what, str(folder / f"out/{k}"))) for k, what in enumerate(whats)]


def test_jobs_run_in_all_workers_with_rows_for_errors_and_for_jobs_that_kill(on_cluster, tmp_path):
    whats = ["some" + "x" * k for k in range(N_JOBS)]
    whats[7], whats[20] = "fail", "die"
    results, reasons = run_jobs(work, jobs(tmp_path, *whats), tmp_path / "j", 1, "test")
    assert reasons == {
        "job07": "it cannot be done",
        "job20": "the workers that worked on it died (out of memory, or a crash in C code)",
    }
    assert list(results) == [f"job{k:02}" for k in range(N_JOBS) if k not in (7, 20)]
    assert len({result["pid"] for result in results.values()}) >= 3
    assert {json.loads(line)["name"] for line in (tmp_path / "j").read_text().splitlines()} == set(results)
    assert not list(tmp_path.rglob(".tmp-*"))
