"""Stage 4 called again: what is kept, made again or refused; kills; wrong options."""

import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from separation_helpers import (
    RATE_HZ,
    Stage,
    copy_experiment,
    make_experiment,
    make_folder,
    make_lips,
    mixture_row,
    rows_of,
    state_of,
)

from utils.data.files import exclusive_lock, read_json, write_json
from utils.data.manifest import write_manifest
from utils.errors import UsageError, UserError


@pytest.fixture(autouse=True)
def one_thread():
    """Samples are compared between processes: all of them compute with one thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def lips(tmp_path_factory) -> Path:
    return make_lips(tmp_path_factory.mktemp("lips") / "lips.pth.tar")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, lips) -> Path:
    return make_experiment(tmp_path_factory.mktemp("av") / "exp" / "av", lips)


@pytest.fixture
def stage(tmp_path, monkeypatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


@pytest.fixture
def experiment(tmp_path, trained) -> Path:
    """A copy of the trained experiment, without outputs."""
    return copy_experiment(trained, tmp_path / "exp" / "av")


def test_only_what_is_missing_or_cut_off_is_made_again(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "mine")
    folder = stage(experiment, root)
    before = state_of(folder)
    (folder / "s2" / "a_b.wav").unlink()
    with open(folder / "s1" / "b_c.wav", "r+b") as handle:
        handle.truncate(9000)
    (folder / ".done-4.json").unlink()
    stage(experiment, root)
    after = state_of(folder)
    assert {name: digest for name, (_, digest) in after.items()} == {name: digest for name, (_, digest) in before.items()}
    assert {name for name in after if after[name] != before[name]} == {
        "s1/a_b.wav", "s2/a_b.wav", "s1/b_c.wav", "s2/b_c.wav",
    }  # fmt: skip


def test_a_full_disk_is_refused_before_an_estimate_is_written_and_not_asked_for_those_that_are_there(
    stage, experiment, tmp_path, monkeypatch, lips
):
    root = make_folder(tmp_path / "mine")
    folder = experiment / "separated/mine"
    monkeypatch.setattr("utils.data.files.free_bytes", lambda asked: 0 if experiment in Path(asked).parents else 10**9)
    for number, size, options in ((3, "154 kB", ()), (6, "154 kB", ("--cue_test", "true", "--subtype", "pcm16"))):
        wanted = f"mine: the estimates of {number} mixtures need about {size} where 0 B are free.*choose another --exp_dir"
        with pytest.raises(UserError, match=wanted):
            stage(experiment, root, *options)
    assert [path.name for path in folder.rglob("*")] == [".lock"]
    monkeypatch.undo()
    stage(experiment, root)
    monkeypatch.setattr("utils.data.files.free_bytes", lambda asked: 0)
    (folder / ".done-4.json").unlink()
    stage(experiment, root)
    make_experiment(experiment, lips, seed=1)  # its estimates take the place of the others
    stage(experiment, root)
    stage(experiment, root, "--force")
    (folder / "s1/a_b.wav").unlink()
    with pytest.raises(UserError, match="the estimates of 1 mixtures need about 25.[5-6] kB where 0 B"):
        stage(experiment, root)
    assert (folder / "separated.csv").is_file()


def test_another_network_remakes_all_estimates_and_another_mixture_only_its_own(stage, experiment, tmp_path, lips):
    root = make_folder(tmp_path / "mine")
    folder = stage(experiment, root)
    before = state_of(folder)
    make_experiment(experiment, lips, seed=1)
    stage(experiment, root)
    remade = state_of(folder)
    assert all(remade[name][1] != before[name][1] for name in before)
    data, _ = soundfile.read(root / "audio/mix/a_b.wav", dtype="float32")
    soundfile.write(root / "audio/mix/a_b.wav", -0.5 * data, RATE_HZ, subtype="FLOAT")
    stage(experiment, root)
    changed = {name for name, value in state_of(folder).items() if value != remade[name]}
    assert changed == {"s1/a_b.wav", "s2/a_b.wav"}


def test_estimates_of_mixtures_that_are_gone_are_removed(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "mine", references=False)
    folder = stage(experiment, root)
    (root / "audio/mix/c_a.wav").unlink()
    stage(experiment, root)
    assert sorted(state_of(folder)) == ["s1/a_b.wav", "s1/b_c.wav", "s2/a_b.wav", "s2/b_c.wav"]
    assert [row["mixture_ID"] for row in rows_of(folder / "separated.csv")] == ["a_b", "b_c"]


def test_a_visual_frontend_with_other_weights_is_refused(stage, experiment, tmp_path, lips):
    saved = torch.load(lips, weights_only=True)
    saved["model_state_dict"]["frontend3D.0.weight"] += 1
    torch.save(saved, tmp_path / "other.pth.tar")
    with pytest.raises(UserError, match="was trained on"):
        stage(experiment, make_folder(tmp_path / "mine"), "--frontend_weights", str(tmp_path / "other.pth.tar"))
    (tmp_path / "moved.pth.tar").write_bytes(lips.read_bytes())
    facts = read_json(experiment / "frontend.json") | {"weights": "gone.pth.tar"}
    write_json(experiment / "frontend.json", facts)
    with pytest.raises(UserError, match="say where with --frontend_weights"):
        stage(experiment, tmp_path / "mine")
    stage(experiment, tmp_path / "mine", "--frontend_weights", str(tmp_path / "moved.pth.tar"))


def test_a_manifest_of_another_corpus_is_never_overwritten(stage, experiment, tmp_path):
    first, second = make_folder(tmp_path / "one" / "mine"), make_folder(tmp_path / "two" / "mine")
    item = mixture_row("a_b", "a_b", 6400, ("a", "b"))
    path = tmp_path / "data" / "mine" / "test.csv"
    write_manifest(path, corpus="mine", split="test", data_root=first, sample_rate=RATE_HZ, n_src=2, items=[item])
    content = path.read_bytes()
    with pytest.raises(UserError, match="belongs to another corpus.*--test_name"):
        stage(experiment, second)
    folder = stage(experiment, first)
    assert [row["mixture_ID"] for row in rows_of(folder / "separated.csv")] == ["a_b"]
    assert path.read_bytes() == content


def test_two_processes_do_not_write_into_one_folder(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "mine")
    folder = experiment / "separated" / "mine"
    folder.mkdir(parents=True)
    with exclusive_lock(folder, "x"), pytest.raises(UserError, match="another process"):
        stage(experiment, root)


def test_a_network_that_gives_no_numbers_is_listed_not_written(stage, experiment, tmp_path):
    saved = torch.load(experiment / "best_model.pth", weights_only=True)
    saved["state_dict"] = {name: tensor * float("nan") for name, tensor in saved["state_dict"].items()}
    torch.save(saved, experiment / "best_model.pth")
    with pytest.raises(UserError, match="3 of 3"):
        stage(experiment, make_folder(tmp_path / "mine"))
    folder = experiment / "separated" / "mine"
    assert all("not finite" in row["reason"] for row in rows_of(folder / "failed.csv"))
    assert state_of(folder) == {}


@pytest.mark.parametrize(
    ("arguments", "message", "error"),
    [
        (["--exp_dir", "{exp}/nothing"], "no such experiment.*that are trained: .*av", UserError),
        (["--test_dir", "{root}/nowhere"], "no such file or folder", UserError),
        (["--test_dir", "{root}/nowhere.csv"], "no such file or folder", UserError),
        (["--test_dir", "{root}"], "not the DLA layout", UserError),
        (["--test_name", "../up"], "no path separator", UsageError),
        (["--hop_sec", "9"], "at least half", UsageError),
        (["--batch_size", "0"], "at least 1", UsageError),
        (["--subtype", "mp3"], "invalid choice", UsageError),
        (["--fallback_exp_dir", "{exp}/none"], "no such experiment", UserError),
    ],
)
def test_wrong_options_end_in_one_line(stage, experiment, tmp_path, arguments, message, error):
    root = make_folder(tmp_path / "mine")
    filled = [argument.format(exp=experiment.parent, root=tmp_path) for argument in arguments]
    with pytest.raises(error, match=message):
        stage(experiment, root, *filled)


def test_wrong_paths_fail_within_two_seconds_before_torch(repo_root, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", "-m", "utils.stages.separate", "--exp_dir", str(tmp_path / "no")]
    done = subprocess.run([*command, "--test_dir", "x"], cwd=repo_root, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 1
    assert len(errors) == 1
    assert errors[0].startswith(f"error: --exp_dir {tmp_path / 'no'}: no such experiment")
    assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2, "processor time, as machines are busy"


def test_a_run_that_is_killed_continues_with_the_same_result(stage, experiment, trained, tmp_path, repo_root):
    root = make_folder(tmp_path / "mine", references=False)
    data, _ = soundfile.read(root / "audio/mix/a_b.wav", dtype="float32")
    for face in "def":
        (root / "mouths" / f"{face}.npz").write_bytes((root / "mouths" / "a.npz").read_bytes())
    for index, (one, other) in enumerate(itertools.combinations("abcdef", 2), start=1):
        for name in (f"{one}_{other}", f"{other}_{one}"):
            soundfile.write(root / "audio/mix" / f"{name}.wav", data[::-1] * index, RATE_HZ, subtype="FLOAT")
    folder = experiment / "separated" / "mine"
    command = [sys.executable, "-m", "utils.stages.separate", "--exp_dir", experiment, "--test_dir", root, "--id", "cpu"]
    command += ["--dump_dir", tmp_path / "dump", "--data_root_dir", tmp_path / "data", "--subtype", "pcm16"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(list(map(str, command)), cwd=repo_root, stderr=subprocess.DEVNULL, env=environment)
    while len(list(folder.glob("s2/?_?.wav"))) < 5 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = state_of(folder)
    assert 10 <= len(killed) < 2 * 30, "the run was to be killed in the middle"
    assert not (folder / "separated.csv").exists()
    with open(folder / "made.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"name": "f_e", "ke')  # a line cut off
    (folder / "s1" / ".tmp-left.wav").write_bytes(b"half")
    stage(experiment, root, "--subtype", "pcm16")
    finished = state_of(folder)
    assert len(finished) == 2 * 30
    assert not list(folder.rglob(".tmp-*"))
    kept = [name for name in killed if killed[name][0] == finished[name][0]]
    assert len(kept) >= 8, "finished mixtures are not made twice"
    undisturbed = stage(copy_experiment(trained, tmp_path / "exp2" / "av"), root, "--subtype", "pcm16")
    assert {k: v[1] for k, v in state_of(undisturbed).items()} == {k: v[1] for k, v in finished.items()}
    assert (undisturbed / "separated.csv").read_text() == (folder / "separated.csv").read_text()
    assert all(json.loads(line)["key"] for line in (folder / "made.jsonl").read_text().splitlines()[-1:])


@pytest.mark.parametrize(
    ("value", "reason"),
    [(1e30, r"sample 3000 is 1e\+30, far beyond full scale"), (np.nan, "sample 3000 is nan"), (0.0, "silent")],
)
def test_a_mixture_whose_samples_can_be_no_sound_is_listed_and_the_others_are_separated(
    stage, experiment, tmp_path, value, reason
):
    root = make_folder(tmp_path / "mine", references=False)
    stage(experiment, root)  # the manifest knows all three
    data, _ = soundfile.read(root / "audio/mix/a_b.wav", dtype="float32")
    data[3000] = value
    manifest = tmp_path / "data/mine/test.csv"
    soundfile.write(root / "audio/mix/a_b.wav", data * (0 if value == 0 else 1), RATE_HZ, subtype="FLOAT")
    with pytest.raises(UserError, match="1 of 3 mixtures could not be separated"):
        stage(experiment, manifest, "--test_name", "mine")
    (row,) = rows_of(experiment / "separated/mine/failed.csv")
    assert row["id"] == "a_b" and re.search(reason, row["reason"])
    assert set(state_of(experiment / "separated/mine")) == {f"s{k}/{name}.wav" for k in (1, 2) for name in ("b_c", "c_a")}


def test_a_mixture_beyond_full_scale_is_separated_with_a_warning(stage, experiment, tmp_path, caplog):
    root = make_folder(tmp_path / "mine", references=False)
    data, _ = soundfile.read(root / "audio/mix/a_b.wav", dtype="float32")
    data[3000] = 40
    soundfile.write(root / "audio/mix/a_b.wav", data, RATE_HZ, subtype="FLOAT")
    folder = stage(experiment, root)
    assert "a_b.wav: sample 3000 lies 32.0 dB beyond full scale" in caplog.text
    assert (folder / "s1/a_b.wav").is_file() and rows_of(folder / "failed.csv") == []
