"""Stage 4 on tiny networks: outputs, lists, failures, resumption, cues."""

import csv
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from local_models import build_model
from local_models.lipreading import Lipreading
from utils.data.files import read_json, write_json
from utils.data.manifest import Mixture, write_manifest
from utils.engine.config import read_conf, write_conf
from utils.engine.experiment import save_model
from utils.engine.frontends import load_frontend, store_name
from utils.errors import UsageError, UserError
from utils.stages import separate

RATE_HZ, FPS = 16000, 25.0
TINY = "--n_filters 16 --bn_chan 8 --hid_size 4 --chunk_size 40 --hop_size 20 --n_repeats 1 --visual_chan 8 --visual_hid 8"
LENGTHS = {"a_b": 6400, "b_c": 6401, "c_a": 6399}  # samples; 10 video frames, a little more, a little less


def make_experiment(exp_dir: Path, frontend_weights: Path | None, seed: int = 0) -> Path:
    """A network with random weights as stage 3 leaves one; audio-only without a front end."""
    torch.manual_seed(seed)
    conf = read_conf("conf/avdprnn.yml", [*TINY.split(), "--visual_blocks", "1", "--n_cues", "2" if frontend_weights else "0"])
    if frontend_weights:
        frontend = load_frontend(frontend_weights)
        conf = conf.with_visual_dim(frontend.dim)
        name = store_name(frontend, "centre", "float32")
        facts = {"weights": str(frontend_weights), "conf": "", "layer": "trunk", "view": "centre", "precision": "float32"}
        write_json(exp_dir / "frontend.json", facts | {"store_name": name})
    save_model(exp_dir / "best_model.pth", build_model(conf.nested), conf.nested, {})
    write_conf(exp_dir / "conf.yml", conf)
    return exp_dir


@pytest.fixture(scope="module")
def lips(tmp_path_factory) -> Path:
    """Weights of a small lip reader."""
    path = tmp_path_factory.mktemp("lips") / "lips.pth.tar"
    torch.manual_seed(0)
    model = Lipreading(read_json("conf/lipreading/demo_snv05x.json"))
    torch.save({"model_state_dict": model.state_dict(), "config": "demo_snv05x"}, path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, lips) -> Path:
    return make_experiment(tmp_path_factory.mktemp("av") / "exp" / "av", lips)


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> Path:
    return make_experiment(tmp_path_factory.mktemp("twin") / "exp" / "twin", None)


def make_folder(root: Path, references: bool = True, split: str = "") -> Path:
    """Three mixtures of three faces in the DLA layout."""
    rng = np.random.default_rng(0)
    for name, length in LENGTHS.items():
        voices = 0.3 * rng.standard_normal((2, length)).astype(np.float32)
        for part, signal_ in (("mix", voices.sum(axis=0)), ("s1", voices[0]), ("s2", voices[1])):
            if part == "mix" or references:
                path = root / "audio" / split / part / f"{name}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, signal_, RATE_HZ, subtype="FLOAT")
    (root / "mouths").mkdir(parents=True)
    for face in "abc":
        np.savez(root / "mouths" / f"{face}.npz", data=rng.integers(0, 256, (10, 96, 96), dtype=np.uint8))
    return root


class Stage:
    """Runs the stage in this process, with all outputs below `root`."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch

    def __call__(self, exp_dir: Path, test_dir: Path, *more: str) -> Path:
        arguments = ["--exp_dir", exp_dir, "--test_dir", test_dir, "--dump_dir", self.root / "dump", "--id", "cpu"]
        arguments += ["--data_root_dir", self.root / "data", *more]
        self.monkeypatch.setattr(sys, "argv", ["separate", *map(str, arguments)])
        assert separate.main() == 0
        return exp_dir / "separated" / test_dir.name


@pytest.fixture
def stage(tmp_path, monkeypatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


@pytest.fixture
def experiment(tmp_path, trained) -> Path:
    """A copy of the trained experiment, without outputs."""
    return copy_experiment(trained, tmp_path / "exp" / "av")


def copy_experiment(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for name in ("best_model.pth", "conf.yml", "frontend.json"):
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())
    return target


def mixture_row(mixture_id: str, audio: str, length: int, faces: tuple[str, str], subset: str = "") -> Mixture:
    """A mixture of `make_folder` without references, as a row of a manifest."""
    mouths = tuple(f"mouths/{face}.npz" if face else "" for face in faces)
    frames = round(length / RATE_HZ * FPS)
    return Mixture(mixture_id, f"audio/mix/{audio}.wav", ("", ""), "", length, mouths, frames, FPS, ("", ""), None, subset)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def state_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Time and samples of every voice. (The header of a float WAV holds the time, so that files differ.)"""
    paths = sorted(path for path in folder.rglob("*.wav") if not path.name.startswith("."))
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, samples_hash(path)) for path in paths}


def samples_hash(path: Path) -> str:
    return hashlib.sha256(soundfile.read(path)[0].tobytes()).hexdigest()


@pytest.mark.parametrize(("split", "references"), [("", False), ("test", True)])
def test_a_folder_in_either_form_becomes_voices_of_the_same_length(stage, experiment, tmp_path, split, references):
    root = make_folder(tmp_path / "mine", references, split)
    folder = stage(experiment, root)
    rows = rows_of(folder / "separated.csv")
    assert list(rows[0]) == [
        "mixture_ID", "mixture_path", "source_1_path", "source_2_path", "estimate_1_path", "estimate_2_path", "subset",
        "separated_by", "gain",
    ]  # fmt: skip
    assert [row["mixture_ID"] for row in rows] == sorted(LENGTHS)
    for row in rows:
        mixture = soundfile.info(row["mixture_path"])
        assert Path(row["mixture_path"]).is_absolute()
        assert bool(row["source_1_path"]) == references
        assert row["separated_by"] == "av"
        for k in (1, 2):
            assert row[f"estimate_{k}_path"] == f"s{k}/{row['mixture_ID']}.wav"
            voice = soundfile.info(folder / row[f"estimate_{k}_path"])
            assert (voice.frames, voice.samplerate, voice.subtype) == (mixture.frames, RATE_HZ, "FLOAT")
    assert rows_of(folder / "failed.csv") == []
    assert (tmp_path / "data" / "mine" / "test.csv").is_file()


def test_batched_voices_are_those_of_single_mixtures_and_the_network_gets_the_right_faces(stage, experiment, tmp_path):
    from utils.data.embedding_store import EmbeddingStore
    from utils.engine.experiment import load_model

    rng = np.random.default_rng(1)
    root = make_folder(tmp_path / "mine")
    for part in ("mix", "s1", "s2"):
        for name in LENGTHS:  # all equally long, so that they are one batch
            soundfile.write(root / "audio" / part / f"{name}.wav", rng.standard_normal(6400) * 0.2, RATE_HZ)
    folder = stage(experiment, root)
    name = read_json(experiment / "frontend.json")["store_name"]
    store = EmbeddingStore(tmp_path / "dump" / "embeddings" / name / "mine")
    network, _ = load_model(experiment / "best_model.pth")
    for name in LENGTHS:
        mixture, _ = soundfile.read(root / "audio" / "mix" / f"{name}.wav", dtype="float32")
        visual = np.stack([store.get(f"mouths/{face}.npz") for face in name.split("_")])
        with torch.inference_mode():
            expected = network(torch.from_numpy(mixture)[None], torch.from_numpy(visual)[None])[0].numpy()
        for k in (0, 1):
            voice, _ = soundfile.read(folder / f"s{k + 1}" / f"{name}.wav", dtype="float32")
            assert np.abs(voice - expected[k]).max() < 1e-5


def test_long_mixtures_are_streamed_in_windows_to_the_same_length(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "mine")
    folder = stage(experiment, root, "--window_sec", "0.2", "--hop_sec", "0.12")
    for row in rows_of(folder / "separated.csv"):
        assert soundfile.info(folder / row["estimate_1_path"]).frames == soundfile.info(row["mixture_path"]).frames


def test_a_second_call_makes_nothing_and_does_not_import_the_network(stage, experiment, tmp_path, monkeypatch, caplog):
    root = make_folder(tmp_path / "mine")
    folder = stage(experiment, root)
    before = state_of(folder)
    monkeypatch.setattr(separate, "separate_test_set", lambda *_: pytest.fail("it was up to date"))
    caplog.set_level("INFO")
    stage(experiment, root)
    assert "up to date" in caplog.text
    assert state_of(folder) == before


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


def test_another_network_remakes_all_voices_and_another_mixture_only_its_own(stage, experiment, tmp_path, lips):
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


def test_voices_of_mixtures_that_are_gone_are_removed(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "mine", references=False)
    folder = stage(experiment, root)
    (root / "audio/mix/c_a.wav").unlink()
    stage(experiment, root)
    assert sorted(state_of(folder)) == ["s1/a_b.wav", "s1/b_c.wav", "s2/a_b.wav", "s2/b_c.wav"]
    assert [row["mixture_ID"] for row in rows_of(folder / "separated.csv")] == ["a_b", "b_c"]


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_bad_mouth_is_named_and_its_mixtures_are_skipped(stage, experiment, tmp_path, damage):
    root = make_folder(tmp_path / "mine")
    if damage == "missing":
        (root / "mouths" / "c.npz").unlink()
    else:
        (root / "mouths" / "c.npz").write_bytes(b"no archive at all")
    with pytest.raises(UserError, match=r"2 of 3 mixtures could not be separated.*failed.csv"):
        stage(experiment, root)
    folder = stage(experiment, root, "--max_failed", "2")
    assert [row["mixture_ID"] for row in rows_of(folder / "separated.csv")] == ["a_b"]
    failed = rows_of(folder / "failed.csv")
    assert [row["id"] for row in failed] == ["b_c", "c_a"]
    assert all(row["path"] == "mouths/c.npz" for row in failed)
    assert all(("no such file" if damage == "missing" else "not an npz") in row["reason"] for row in failed)


def test_the_audio_only_twin_takes_over_where_mouths_are_bad(stage, experiment, twin, tmp_path):
    root = make_folder(tmp_path / "mine")
    (root / "mouths" / "c.npz").unlink()
    folder = stage(experiment, root, "--fallback_exp_dir", str(twin), "--cue_test", "true")
    made_by = {row["mixture_ID"]: row["separated_by"] for row in rows_of(folder / "separated.csv")}
    unknown = "twin (audio-only, order unknown)"
    assert made_by == {"a_b": "av", "b_c": unknown, "c_a": unknown}
    assert rows_of(folder / "failed.csv") == []
    assert [row["mixture_ID"] for row in rows_of(folder / "cues_swapped" / "separated.csv")] == ["a_b"]
    with pytest.raises(UserError, match="needs faces itself"):
        stage(experiment, root, "--fallback_exp_dir", str(experiment))


def test_an_audio_only_experiment_separates_without_embeddings(stage, twin, tmp_path):
    root = make_folder(tmp_path / "mine")
    (root / "mouths" / "c.npz").write_bytes(b"")
    folder = stage(copy_experiment(twin, tmp_path / "exp" / "twin"), root, "--cue_test", "true")
    rows = rows_of(folder / "separated.csv")
    assert {row["separated_by"] for row in rows} == {"twin (audio-only, order unknown)"}
    assert len(rows) == 3
    assert not (tmp_path / "dump").exists()
    assert not (folder / "cues_swapped").exists()


def test_pcm16_has_one_gain_for_all_voices_and_never_clips(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "mine")
    for part in ("mix", "s1", "s2"):
        data, _ = soundfile.read(root / "audio" / part / "a_b.wav", dtype="float32")
        soundfile.write(root / "audio" / part / "a_b.wav", data * 100, RATE_HZ, subtype="FLOAT")
    folder = stage(experiment, root)
    loud = [soundfile.read(folder / f"s{k}" / "a_b.wav", dtype="float32")[0] for k in (1, 2)]
    peak = max(np.abs(voice).max() for voice in loud)
    assert peak > 1.0
    stage(experiment, root, "--subtype", "pcm16")
    gains = {row["mixture_ID"]: float(row["gain"]) for row in rows_of(folder / "separated.csv")}
    assert gains["a_b"] == pytest.approx(1.0 / peak, rel=1e-6)
    for voice, name in zip(loud, ("s1", "s2"), strict=True):
        data, _ = soundfile.read(folder / name / "a_b.wav", dtype="float64")
        assert soundfile.info(folder / name / "a_b.wav").subtype == "PCM_16"
        assert np.abs(data - voice * gains["a_b"]).max() < 2 / 32768
    quiet = [name for name in LENGTHS if gains[name] == 1.0]
    assert all(np.abs(soundfile.read(folder / "s1" / f"{name}.wav")[0]).max() < 1.0 for name in quiet)


def test_swapped_cues_swap_the_voices_and_shuffled_ones_come_from_other_mixtures(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "mine")
    rng = np.random.default_rng(2)
    soundfile.write(root / "audio/mix/d_e.wav", rng.standard_normal(6400) * 0.1, RATE_HZ)
    for part in ("s1", "s2"):
        soundfile.write(root / f"audio/{part}/d_e.wav", rng.standard_normal(6400) * 0.1, RATE_HZ)
    for face in "de":
        np.savez(root / f"mouths/{face}.npz", data=rng.integers(0, 256, (10, 96, 96), dtype=np.uint8))
    folder = stage(experiment, root, "--cue_test", "true")
    for name in (*LENGTHS, "d_e"):
        for own, swapped in (("s1", "s2"), ("s2", "s1")):
            voice, _ = soundfile.read(folder / own / f"{name}.wav")
            other, _ = soundfile.read(folder / "cues_swapped" / swapped / f"{name}.wav")
            shuffled, _ = soundfile.read(folder / "cues_shuffled" / own / f"{name}.wav")
            scale = np.abs(voice).max()
            assert np.abs(voice - other).max() < 1e-5 * scale
            assert shuffled.shape == voice.shape
            assert np.abs(voice - shuffled).max() > 1e-4 * scale
    first = state_of(folder / "cues_shuffled")
    for path in folder.rglob("made.jsonl"):
        path.unlink()
    stage(experiment, root, "--cue_test", "true", "--force")
    assert {k: v[1] for k, v in state_of(folder / "cues_shuffled").items()} == {k: v[1] for k, v in first.items()}
    stage(experiment, root)
    assert not (folder / "cues_swapped" / "separated.csv").exists(), "stage 5 must not score a cue test not asked for"


def test_a_prepared_csv_is_separated_under_the_name_of_its_corpus(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "raw")
    items = [
        mixture_row("a_b", "a_b", 6400, ("a", "b"), "hard"),
        mixture_row("faceless", "b_c", 6401, ("a", "")),
        mixture_row("wrong", "c_a", 9000, ("a", "c")),
    ]
    path = tmp_path / "data" / "corpus" / "test.csv"
    write_manifest(path, corpus="corpus", split="test", data_root=root, sample_rate=RATE_HZ, n_src=2, items=items)
    stage(experiment, path, "--max_failed", "2")
    folder = experiment / "separated" / "corpus_test"
    assert [(row["mixture_ID"], row["subset"]) for row in rows_of(folder / "separated.csv")] == [("a_b", "hard")]
    reasons = {row["id"]: row["reason"] for row in rows_of(folder / "failed.csv")}
    assert "mouth_2_path is empty" in reasons["faceless"]
    assert "6399 samples" in reasons["wrong"]


def test_a_front_end_with_other_weights_is_refused(stage, experiment, tmp_path, lips):
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
    with separate._alone(folder), pytest.raises(UserError, match="another process"):
        stage(experiment, root)


def test_a_network_that_gives_no_numbers_is_listed_not_written(stage, experiment, tmp_path):
    saved = torch.load(experiment / "best_model.pth", weights_only=True)
    saved["model"] = {name: tensor * float("nan") for name, tensor in saved["model"].items()}
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
    start_sec = time.monotonic()
    command = [sys.executable, "-X", "importtime", "-m", "utils.stages.separate", "--exp_dir", str(tmp_path / "no")]
    done = subprocess.run([*command, "--test_dir", "x"], cwd=repo_root, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 1
    assert len(errors) == 1
    assert errors[0].startswith(f"error: --exp_dir {tmp_path / 'no'}: no such experiment")
    assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert time.monotonic() - start_sec < 2


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
    deadline_sec = time.monotonic() + 60
    while len(list(folder.glob("s2/?_?.wav"))) < 5 and time.monotonic() < deadline_sec:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = state_of(folder)
    assert 10 <= len(killed) < 2 * 30, "the run was to be killed in the middle"
    assert not (folder / "separated.csv").exists()
    with open(folder / "made.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"mixture_id": "f_e", "sta')  # a line cut off
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
    assert all(json.loads(line)["stamp"] for line in (folder / "made.jsonl").read_text().splitlines()[-1:])


def test_real_recordings_become_voices(shared_data, stage, experiment, tmp_path):
    root = tmp_path / "few"
    for name in sorted((shared_data / "grid_dla/audio/test/mix").glob("*.flac"))[:2]:
        for part in ("mix", "s1", "s2"):
            target = root / "audio/test" / part / name.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((shared_data / "grid_dla/audio/test" / part / name.name).read_bytes())
        for face in name.stem.split("_"):
            (root / "mouths").mkdir(exist_ok=True)
            (root / "mouths" / f"{face}.npz").write_bytes((shared_data / "grid_dla/mouths" / f"{face}.npz").read_bytes())
    folder = stage(experiment, root)
    assert len(rows_of(folder / "separated.csv")) == 2
    assert all(soundfile.info(folder / name).frames == 32000 for name in state_of(folder))
