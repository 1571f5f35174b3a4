"""Stages 0 and 1 as programs, on small corpora in the DLA layout: outputs, done marks, failures, exit codes."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.data.fingerprints import hash_tree
from utils.data.manifest import read_manifest
from utils.data.validation import validate_manifest

RATE = 16000
LENGTH = 3200
TRAIN = ("s1a_s2b", "s2b_s1c", "s1a_s1c")
VAL = ("s1d_s2e",)
TEST = ("s1f_s1g", "s1f_s2h", "s3i_s1f")


def write_mixture(root: Path, split: str, stem: str) -> None:
    rng = np.random.default_rng(len(stem))
    s1, s2 = 0.1 * rng.standard_normal((2, LENGTH))
    for folder, samples in (("mix", s1 + s2), ("s1", s1), ("s2", s2)):
        path = root / "audio" / split / folder / f"{stem}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, RATE)
    (root / "mouths").mkdir(exist_ok=True)
    for name in stem.split("_"):
        np.savez_compressed(root / "mouths" / f"{name}.npz", data=np.full((5, 96, 96), 7, np.uint8))


def write_extra(folder: Path, *names: str) -> None:
    """Single utterances as another recipe leaves them, without a side file."""
    folder.mkdir()
    rows = ["utterance_ID,speaker,audio_path,mouth_path,length,frames,fps"]
    for name in names:
        soundfile.write(folder / f"{name}.wav", 0.1 * np.random.default_rng(5).standard_normal(LENGTH), RATE)
        np.savez_compressed(folder / f"{name}.npz", data=np.full((5, 96, 96), 7, np.uint8))
        rows.append(f"{name},s1,{name}.wav,{name}.npz,{LENGTH},5,25")
    (folder / "utterances.csv").write_text("\n".join(rows))


@pytest.fixture
def corpus(tmp_path) -> Path:
    root = tmp_path / "corpus"
    for split, stems in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        for stem in stems:
            write_mixture(root, split, stem)
    return root


@pytest.fixture
def run(tmp_path, repo_root):
    """Call a stage program as run.sh does."""

    def call(module: str, *options, code: int = 0) -> str:
        command = [sys.executable, "-m", f"utils.stages.{module}", *map(str, options)]
        done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return call


def options(corpus: Path, *more: str) -> list[str]:
    return ["--corpus", "dla", "--corpus_dir", corpus, "--data_dir", corpus.parent / "data" / "tiny", *more]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


SPEAKERS = "--corpus_args=--speaker_pattern '^(s.)'"


def test_stage_0_prepares_splits_subsets_and_utterances(corpus, run):
    said = run("prepare", *options(corpus, SPEAKERS))
    data = corpus.parent / "data" / "tiny"
    for line in ("train: 3 (2 different_voices, 1 same_voice)", "val: 1 (1 different_voices)", "test: 3 ", "utterances: 3"):
        assert f"tiny: {line}" in said
    assert {row["mixture_ID"]: row["subset"] for row in rows(data / "test.csv")} == {
        "s1f_s1g": "same_voice",
        "s1f_s2h": "different_voices",
        "s3i_s1f": "unseen_face",
    }
    utterances = rows(data / "utterances.csv")
    assert [(row["utterance_ID"], row["audio_path"]) for row in utterances] == [
        ("s1a", "audio/train/s1/s1a_s1c.wav"),
        ("s1c", "audio/train/s2/s1a_s1c.wav"),
        ("s2b", "audio/train/s2/s1a_s2b.wav"),
    ]
    assert rows(data / "failed.csv") == []
    for name in ("train", "val", "test", "utterances"):
        manifest = read_manifest(data / f"{name}.csv")
        assert (manifest.corpus, manifest.split, manifest.sample_rate) == ("tiny", name, RATE)
        assert validate_manifest(manifest, deep=True) == []


def test_stage_0_runs_again_only_when_something_changed_and_says_what(corpus, run):
    data = corpus.parent / "data" / "tiny"
    run("prepare", *options(corpus))
    before = (data / "test.csv").read_bytes(), (data / "test.csv").stat().st_mtime_ns
    assert "stage 0: up to date" in run("prepare", *options(corpus))
    assert ((data / "test.csv").read_bytes(), (data / "test.csv").stat().st_mtime_ns) == before
    assert "tiny: train: 3" in run("prepare", *options(corpus, "--force"))
    assert (data / "test.csv").read_bytes() == before[0]
    write_mixture(corpus, "test", "s7j_s7k")
    said = run("prepare", *options(corpus))
    assert f"runs again, files of {corpus}" in said and "test: 4" in said
    (data / "val.csv").unlink()
    assert "runs again, manifests" in run("prepare", *options(corpus))
    assert (data / "val.csv").is_file()
    assert "runs again, corpus_args" in run("prepare", *options(corpus, SPEAKERS))


def test_what_a_killed_run_left_half_written_is_removed(corpus, run):
    data = corpus.parent / "data" / "tiny"
    (data / "mouths").mkdir(parents=True)
    (data / "mouths/.tmp-half.npz").write_bytes(b"half")
    (data / ".tmp-half.csv").write_bytes(b"half")
    run("prepare", *options(corpus))
    assert not list(data.rglob(".tmp-*"))


def test_stage_0_reads_the_flat_form_without_sources_as_test(corpus, run):
    data = corpus.parent / "data" / "tiny"
    run("prepare", *options(corpus))
    flat = corpus.parent / "flat"
    shutil.copytree(corpus / "mouths", flat / "mouths")
    shutil.copytree(corpus / "audio" / "test" / "mix", flat / "audio" / "mix")
    run("prepare", *options(flat))
    assert [row["source_1_path"] for row in rows(data / "test.csv")] == ["", "", ""]
    assert sorted(path.name for path in data.glob("*.csv")) == ["failed.csv", "test.csv"]  # nothing of the old corpus


def test_stage_0_fails_above_max_failed_and_lists_why(corpus, run):
    data = corpus.parent / "data" / "tiny"
    (corpus / "mouths" / "s1f.npz").write_bytes(b"broken")
    said = run("prepare", *options(corpus), code=1)
    assert f"{data}/failed.csv: 3 items cannot be used" in said
    assert "--max_failed 3" in said
    assert not (data / "test.csv").exists()
    assert {row["id"] for row in rows(data / "failed.csv")} == set(TEST)
    assert run("prepare", *options(corpus, "--max_failed", "2"), code=1)
    assert "the test split holds no mixture" in run("prepare", *options(corpus, "--max_failed", "3"), code=1)
    write_mixture(corpus, "test", "s1x_s1y")
    said = run("prepare", *options(corpus, "--max_failed", "3"))
    assert "tiny: test: 1\n" in said and "tiny: 3 left out, see" in said


def test_extra_utterances_join_those_of_train_but_never_those_of_test(corpus, run, tmp_path):
    write_extra(tmp_path / "more", "s1a", "s1f", "s1z")  # one that is in train, one that is in test, a new one
    extra = f"--corpus_args=--extra_utterances {tmp_path / 'more'}"
    said = run("prepare", *options(corpus, extra))
    assert "3 from train, 1 from other folders; left out: 1 in val or test, 1 with an id" in said
    manifest = read_manifest(tmp_path / "data" / "tiny" / "utterances.csv")
    assert [item.utterance_id for item in manifest.items] == ["s1a", "s1c", "s2b", "s1z"]
    assert manifest.items[-1].audio_path == str(tmp_path / "more" / "s1z.wav")
    assert validate_manifest(manifest, deep=True) == []


def test_a_clip_of_two_train_mixtures_that_is_in_val_too_is_left_out_once(corpus, run):
    """Regression: it was counted once for each of its train mixtures."""
    write_mixture(corpus, "val", "s1a_s2x")
    said = run("prepare", *options(corpus))
    assert "utterances: 2 from train, 0 from other folders; left out: 1 in val or test, 0 with" in said
    assert [row["utterance_ID"] for row in rows(corpus.parent / "data/tiny/utterances.csv")] == ["s1c", "s2b"]


def test_broken_extra_utterances_are_listed_and_changed_ones_noticed(corpus, run, tmp_path):
    write_extra(tmp_path / "more", "s1y", "s1z")
    extra = f"--corpus_args=--extra_utterances {tmp_path / 'more'}"
    run("prepare", *options(corpus, extra))
    soundfile.write(tmp_path / "more" / "s1z.wav", np.zeros(LENGTH), RATE)
    said = run("prepare", *options(corpus, extra), code=1)
    assert f"runs again, files of {tmp_path / 'more'}" in said
    (failed,) = rows(tmp_path / "data" / "tiny" / "failed.csv")
    assert (failed["row"], failed["id"], failed["path"]) == ("3", "s1z", str(tmp_path / "more" / "s1z.wav"))
    assert "silent" in failed["reason"]


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["--corpus", "nope"], 1, "the corpora are avspeech, demo, dla"),
        (["--corpus", ".."], 1, "there is no egs/../prepare.py"),
        (["--corpus", "dla"], 2, "--corpus_dir"),
        (["--corpus", "dla", "--corpus_dir", "/nowhere"], 1, "--corpus_dir /nowhere: no such folder"),
        (["--corpus", "dla", "--corpus_args='"], 2, "correct the quotes"),
        (["--corpus", "dla", "--nj", "many"], 2, "--nj"),
        (["--corpus", "dla", "--corpus_dir", "."], 1, "not the DLA layout"),
    ],
)
def test_a_wrong_call_of_stage_0_ends_in_one_line(run, tmp_path, given, code, message):
    said = run("prepare", "--data_dir", tmp_path / "data", *given, code=code)
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_wrong_call_of_stage_0_waits_for_no_large_package(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # of the corpus' program too, which stage 0 calls
    said = run("prepare", "--data_dir", tmp_path / "data", "--corpus", "dla", "--corpus_dir", ".", code=1)
    loaded = set(re.findall(r"\| +(\w+)$", said, re.MULTILINE))
    heavy = {"torch", "torchaudio", "pandas", "scipy", "matplotlib", "av", "cv2", "ai_edge_litert"}
    assert "numpy" in loaded and not loaded & heavy


def test_an_extra_folder_without_utterances_is_named_before_anything_is_opened(corpus, run, tmp_path):
    (corpus / "mouths" / "s1f.npz").write_bytes(b"broken")
    said = run("prepare", *options(corpus, f"--corpus_args=--extra_utterances {tmp_path}"), code=1)
    assert f"{tmp_path}/utterances.csv: no such file" in said


def test_stage_1_checks_the_mouths_once_and_again_when_one_changed(corpus, run):
    data = corpus.parent / "data" / "tiny"
    run("prepare", *options(corpus))
    said = run("mouths", "--data_dir", data, "--nj", 2)
    assert "the corpus ships its mouth crops; none to make, 9 to check" in said
    assert rows(data / "failed_mouths.csv") == []
    assert "stage 1: up to date" in run("mouths", "--data_dir", data)
    np.savez(corpus / "mouths" / "s1a.npz", data=np.zeros((9, 96, 96), np.uint8))
    (corpus / "mouths" / "s1g.npz").unlink()
    said = run("mouths", "--data_dir", data, code=1)
    assert "runs again, mouth crops" in said
    assert "4 rows have mouth crops that cannot be used" in said
    found = {(row["id"], row["reason"].partition(":")[0]) for row in rows(data / "failed_mouths.csv")}
    assert found == {
        ("s1a_s2b", "train.csv"),
        ("s1a_s1c", "train.csv"),
        ("s1a", "utterances.csv"),
        ("s1f_s1g", "test.csv"),
    }
    assert "4 rows without usable mouth crops, see" in run("mouths", "--data_dir", data, "--max_failed", 4)


def test_stage_1_wants_manifests_and_a_mouth_in_every_row(corpus, run, tmp_path):
    assert "no manifest there; stage 0" in run("mouths", "--data_dir", tmp_path, code=1)
    run("prepare", *options(corpus))
    path = tmp_path / "data" / "tiny" / "test.csv"
    path.write_text(path.read_text().replace("mouths/s1g.npz", ""))
    said = run("mouths", "--data_dir", path.parent, code=1)
    assert f"{path}, row 2: s1f_s1g has no mouth path; stage 1 cuts mouths where stage 0 wrote a videos.csv" in said


def test_the_fingerprint_of_a_folder_sees_names_sizes_times_and_broken_links(tmp_path):
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "x.wav"
    file.write_bytes(b"1")
    seen = {hash_tree(tmp_path)}
    assert hash_tree(tmp_path) in seen
    for change in (
        lambda: file.write_bytes(b"22"),
        lambda: os.utime(file, (1, 1)),
        lambda: file.rename(tmp_path / "x.wav"),
        lambda: (tmp_path / "link").symlink_to("nowhere"),
    ):
        change()
        seen.add(hash_tree(tmp_path))
    assert len(seen) == 5


def test_the_recipes_own_script_hands_over_to_run_sh(repo_root):
    script = repo_root / "egs" / "dla" / "run.sh"
    assert os.access(script, os.X_OK)
    done = subprocess.run([script, "--help"], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--corpus_dir" in done.stdout
