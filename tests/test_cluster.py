"""Jobs on the workers of a dask scheduler, or of Slurm: the results of one machine, whatever dies."""

import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("distributed", reason="needs requirements-cluster.txt")
from cluster_helpers import ROOT, LocalEngine, jobs, mistaken, slow_work, slowest_work, work
from separation_helpers import Stage, make_experiment, make_lips, samples_hash
from test_stage_videos import make_video

from utils.data import cluster
from utils.data.cluster import CLUSTER_NAME, WAIT_NAME, open_cluster
from utils.data.jobs import run_jobs
from utils.data.manifest import Utterance
from utils.data.progress import INTERVAL_NAME
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.mixing.lists import ListedMixture, ListedSource
from utils.mixing.options import MixOptions
from utils.mixing.rendering import make_mixtures
from utils.stages import embed, mouths, prepare, score, separate

N_JOBS = 60
RATE_HZ = 16000
PROGRAM = (
    sys.executable,
    "-c",
    "import sys, cluster_helpers as helpers; from pathlib import Path; from utils.data.jobs import run_jobs\n"
    "from utils.errors import run_cli\n"
    "function, folder, count = getattr(helpers, sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])\n"
    "todo = helpers.jobs(folder, *['some'] * count)\n"
    "run_cli(lambda: print(len(run_jobs(function, todo, folder / 'j', 2, 'test')[0])))",
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    running = LocalEngine(tmp_path_factory.mktemp("engine"), 3)
    yield running
    running.close()


@pytest.fixture
def on_cluster(engine, monkeypatch):
    monkeypatch.setenv(CLUSTER_NAME, engine.name)
    return engine


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


def test_progress_is_shown_while_nothing_is_finished(on_cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "_LOOK_SEC", 0.1)
    monkeypatch.setenv(INTERVAL_NAME, "0.25")
    run_jobs(slowest_work, jobs(tmp_path, "some"), tmp_path / "j", 1, "videos", "video")
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if re.match(r"videos: +0% 0/1 \[00:0", line)]) >= 2


def test_videos_show_how_many_are_prepared_and_separated(on_cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "_LOOK_SEC", 0.1)
    monkeypatch.setenv(INTERVAL_NAME, "0.1")
    make_video(tmp_path / "videos")
    experiment = make_experiment(tmp_path / "exp/av", make_lips(tmp_path / "lips.pth"))
    landmarks = ("--landmarks_dir", tmp_path / "landmarks")
    Stage(tmp_path, monkeypatch)(experiment, tmp_path / "videos", *landmarks, "--out_dir", tmp_path / "out")
    shown = capsys.readouterr().err
    assert re.search(r"^videos: +0% 0/1 ", shown, re.MULTILINE) and re.search(r"^tracks: +0% 0/1 ", shown, re.MULTILINE)
    assert (tmp_path / "out/talk/tracks.json").is_file()


def make_voices(folder: Path) -> dict[str, Utterance]:
    """Four clips of noise, of three seconds."""
    clips = {}
    for name in "abcd":
        path = folder / f"{name}.wav"
        samples = 0.1 * np.random.default_rng(ord(name)).standard_normal(3 * RATE_HZ)
        soundfile.write(path, samples, RATE_HZ)
        clips[name] = Utterance(name, name, str(path), f"mouths/{name}.npz", len(samples))
    return clips


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob(pattern)}


def sounds_below(folder: Path) -> dict[str, str]:
    """The samples of all sounds; the header of a float WAV holds the time."""
    return {str(path.relative_to(folder)): samples_hash(path) for path in folder.rglob("*.wav") if "examples" not in path.parts}


def lines_of(journal: Path) -> int:
    return len(journal.read_bytes().splitlines()) if journal.is_file() else 0


def kill_one_worker(engine: LocalEngine, journal: Path, after: int) -> threading.Thread:
    """Kill a worker process, as the system would, once the journal has so many lines."""
    from distributed import Client

    with Client(engine.name.removeprefix("dask://"), set_as_default=False) as client:
        pid = min(client.run(os.getpid).values())

    def wait_and_kill() -> None:
        while lines_of(journal) < after:
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


def test_mixtures_are_the_same_bytes_as_on_one_machine_though_a_worker_is_killed(engine, tmp_path, monkeypatch):
    clips = make_voices(tmp_path)
    pairs = [("abcd"[k % 4], "abcd"[(k + 1 + k % 3) % 4]) for k in range(400)]
    listed = [
        ListedMixture(f"m{k:03}", "test", (ListedSource(one, one, k / 100), ListedSource(two, two, 0)))
        for k, (one, two) in enumerate(pairs)
    ]
    local, distant = tmp_path / "local", tmp_path / "distant"
    rows = make_mixtures(local, listed, clips, MixOptions(nj=2))
    monkeypatch.setenv(CLUSTER_NAME, engine.name)
    killer = kill_one_worker(engine, distant / "audio/.made.jsonl", 20)
    assert make_mixtures(distant, listed, clips, MixOptions(nj=2)) == rows
    assert not killer.is_alive()
    assert hashes(distant, "*.wav") == hashes(local, "*.wav")
    entries = [sorted((folder / "audio/.made.jsonl").read_text().splitlines()) for folder in (local, distant)]
    assert entries[0] == entries[1] and len(entries[0]) == len(listed)
    assert not list(distant.rglob(".tmp-*"))


def test_a_full_disk_or_a_mistake_of_ours_ends_the_run_and_what_was_done_stays(on_cluster, tmp_path):
    whats = [*["some"] * 20, "mistake", *["some"] * 20]
    with pytest.raises(ZeroDivisionError) as caught:
        run_jobs(mistaken, jobs(tmp_path, *whats), tmp_path / "j", 1, "test")
    assert "in mistaken" in "".join(caught.value.__notes__)
    assert 0 < lines_of(tmp_path / "j") <= 40


def test_one_clear_line_where_no_scheduler_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SEC", 0.5)
    monkeypatch.setenv(CLUSTER_NAME, "dask://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^--cluster dask://127.0.0.1:9: no scheduler answers there \(.*\); see docs"):
        run_jobs(work, jobs(tmp_path, "some"), tmp_path / "j", 1, "test")


def test_without_workers_or_with_unfit_ones_one_clear_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv(WAIT_NAME, "0.5")
    engine = LocalEngine(tmp_path, 0)
    monkeypatch.setenv(CLUSTER_NAME, engine.name)
    with pytest.raises(UserError, match=f"has had no worker for 0.5 s .{WAIT_NAME}.; start some"):
        run_jobs(work, jobs(tmp_path, "some"), tmp_path / "j", 1, "test")
    engine.add_workers(1, 2)
    open_cluster(1)._wait_sec = 30.0
    with pytest.raises(UserError, match="worker tcp://.*: it has several threads; start it with OMP_NUM_THREADS=1"):
        run_jobs(work, jobs(tmp_path, "some"), tmp_path / "j", 1, "test")
    engine.close()


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        ({"state": (("torch", "1.0"),)}, r"torch is [\d.]+\S* there and 1.0 here; start it again"),
        ({"folder": "/nowhere"}, "there is no /nowhere there; all machines must see it"),
        ({"probe": "/nowhere/file"}, "it does not see /nowhere; outputs must be on a file system that all share"),
    ],
)
def test_a_worker_of_another_state_or_without_the_folder_is_named(on_cluster, tmp_path, monkeypatch, fact, reason):
    place = cluster._Place
    monkeypatch.setattr(cluster, "_Place", lambda *facts: place(**{**vars(place(*facts)), **fact}))
    monkeypatch.setattr(cluster, "_VISIBLE_SEC", 0.1)
    with pytest.raises(UserError, match=f"^--cluster {on_cluster.name}: worker tcp://.*: {reason}"):
        run_jobs(work, jobs(tmp_path, "some"), tmp_path / "j", 1, "test")


def test_a_lost_scheduler_is_one_clear_line_and_the_next_call_goes_on_without(tmp_path, monkeypatch):
    engine = LocalEngine(tmp_path, 1)
    monkeypatch.setenv(CLUSTER_NAME, engine.name)
    todo = jobs(tmp_path, *["some"] * 9)

    def kill_scheduler() -> None:
        while lines_of(tmp_path / "j") < 2:
            time.sleep(0.01)
        engine.scheduler.kill()

    threading.Thread(target=kill_scheduler, daemon=True).start()
    with pytest.raises(UserError, match="the scheduler is lost; start it and its workers again"):
        run_jobs(slow_work, todo, tmp_path / "j", 1, "test")
    n_done = lines_of(tmp_path / "j")
    assert 2 <= n_done < 9
    engine.close()
    monkeypatch.delenv(CLUSTER_NAME)
    results, _ = run_jobs(work, todo, tmp_path / "j", 1, "test")
    assert sum(result["pid"] == os.getpid() for result in results.values()) == 9 - n_done


def test_ctrl_c_takes_back_what_is_queued_and_keeps_the_journal(on_cluster, tmp_path):
    command = [*PROGRAM, "slow_work", str(tmp_path), "60"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while lines_of(tmp_path / "j") < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stderr.read().splitlines()[-1] == "error: interrupted; the same command continues"
    time.sleep(0.7)  # what was in work ends
    n_made = len(list((tmp_path / "out").iterdir()))
    time.sleep(0.7)
    assert 3 <= lines_of(tmp_path / "j") <= n_made == len(list((tmp_path / "out").iterdir())) < 60


SBATCH = """#!/bin/bash
echo "$@" >>"$FAKE_SLURM/calls"
cp "${@: -1}" "$FAKE_SLURM/script"
setsid bash "$FAKE_SLURM/script" >>"$FAKE_SLURM/log" 2>&1 </dev/null &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
echo "scancel $*" >>"$FAKE_SLURM/calls"
for job in "$@"; do kill -- "-$job" 2>/dev/null; done
true
"""


def test_slurm_gets_jobs_that_become_workers_and_are_ended(tmp_path):
    """Slurm is a stand-in: sbatch starts the script as a process, scancel kills it."""
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "FAKE_SLURM": str(tmp_path),
        "DASK_CONFIG": str(tmp_path / "dask"),
        CLUSTER_NAME: "slurm",
    }

    def call() -> subprocess.CompletedProcess:
        command = [*PROGRAM, "work", str(tmp_path), "40"]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    without = call()
    assert without.returncode == 1 and "jobqueue.yaml must say cores and memory of a job" in without.stderr
    (tmp_path / "dask/jobqueue.yaml").write_text(
        "jobqueue:\n  slurm:\n    cores: 1\n    memory: 2GB\n    walltime: '00:10:00'\n    queue: mine\n"
        f"    log-directory: {tmp_path}\n    interface: lo\n"
    )
    done = call()
    assert (done.returncode, done.stdout) == (0, "40\n"), done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len([line for line in calls if not line.startswith("scancel")]) == 2
    assert len([line for line in calls if line.startswith("scancel")]) >= 1
    script = (tmp_path / "script").read_text()
    assert "#SBATCH -p mine" in script and ". ./path.sh" in script and "--nthreads 1" in script


class Recipe:
    """The stages on a folder of clips, all outputs below `root`."""

    def __init__(self, root: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.clips, self.monkeypatch = root, clips, monkeypatch

    def call(self, stage, **options: object) -> None:
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.monkeypatch.setattr(sys, "argv", [stage.__name__, *words])
        assert not stage.main()

    def run(self, engine: str) -> None:
        """All stages but training; a network with random weights stands for that."""
        data_dir, exp_dir, weights = self.root / "data/mine", self.root / "exp/av", ROOT / "egs/demo/lipreader.pth.tar"
        more = {"nj": 2, "cluster": engine}
        sizes = "--n_val 0 --n_test 3 --val_share 0 --test_share 1 --split_by clip"
        self.call(prepare, corpus="own_video", corpus_dir=self.clips, corpus_args=sizes, data_dir=data_dir, **more)
        self.call(mouths, data_dir=data_dir, **more)
        dump_dir = self.root / "dump"
        self.call(embed, data_dir=data_dir, frontend_weights=weights, dump_dir=dump_dir, id="cpu", **more)
        make_experiment(exp_dir, weights)
        test = {"exp_dir": exp_dir, "test_dir": data_dir / "test.csv"}
        self.call(separate, **test, cue_test="true", dump_dir=dump_dir, id="cpu", **more)
        self.call(score, **test, **more)


def test_all_stages_give_what_one_machine_gives(engine, tmp_path, monkeypatch, shared_data):
    pytest.importorskip("ai_edge_litert", reason="needs requirements-video.txt")
    monkeypatch.delenv(CLUSTER_NAME, raising=False)
    clips = tmp_path / "clips"
    for name in ("g2brbk7n", "g3lbax4n", "g4lbbc2a"):
        (clips / name[:2]).mkdir(parents=True)
        (clips / name[:2] / f"{name}.mpg").symlink_to(shared_data / f"grid_video/{name}.mpg")
    local, distant = (Recipe(tmp_path / name, clips, monkeypatch) for name in ("local", "distant"))
    local.run("")
    monkeypatch.setenv(CLUSTER_NAME, "")  # is put back, whatever the programs set
    distant.run(engine.name)
    assert sounds_below(distant.root) == sounds_below(local.root)
    assert len(sounds_below(local.root)) == 3 + 3 * 3 + 2 * 3 * 2  # clips; mixtures; estimates of own and of swapped faces
    for pattern in ("audio/*/*/*.wav", "mouths/*.npz", "*.csv"):
        found = hashes(distant.root / "data", f"mine/{pattern}")
        assert found and found == hashes(local.root / "data", f"mine/{pattern}"), pattern
    names = sorted(path.relative_to(local.root) for path in (local.root / "dump/embeddings").glob("*/mine"))
    assert len(names) == 2  # float16 by stage 2, float32 as the network wants them by stage 4
    for name in names:
        ours, theirs = (EmbeddingStore(recipe.root / name) for recipe in (local, distant))
        assert ours.keys() == theirs.keys() and len(ours) == 3
        for key in ours.keys():  # noqa: SIM118 (a store is no mapping)
            np.testing.assert_array_equal(theirs.get(key), ours.get(key))
    results = "exp/av/results/mine_test/all_metrics.csv"
    assert (distant.root / results).read_bytes() == (local.root / results).read_bytes()
