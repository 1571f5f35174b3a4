"""egs/grid and egs/own_video: raw clips become a corpus with mouths, through stages 0 and 1 as a user calls them."""

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np

from egs.grid import prepare as grid
from egs.own_video import prepare as own_video
from utils.corpora.output import usable
from utils.data.manifest import read_manifest
from utils.data.mouths import MouthFile
from utils.data.validation import validate_manifest


def run(repo_root: Path, corpus: str, corpus_dir: Path, data_dir: Path, *more: str) -> subprocess.CompletedProcess:
    command = ["./run.sh", "--corpus", corpus, "--corpus_dir", corpus_dir, "--data_dir", data_dir]
    command += ["--stop_stage", "1", "--nj", "2"]
    return subprocess.run(list(map(str, [*command, *more])), cwd=repo_root, capture_output=True, text=True, check=False)


def test_grid_as_distributed_becomes_a_corpus_with_mouths(tmp_path, repo_root, shared_data):
    clips = sorted((shared_data / "grid_video").glob("*.mpg"))[:12]
    for index, clip in enumerate(clips):  # six speakers of two clips, each in another of the published trees
        folder = tmp_path / "grid" / f"s{index // 2 + 1}" / ("video/mpg_6000" if index % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, folder / f"{clip.stem[2:]}.mpg")
    (tmp_path / "grid/s1/readme.txt").touch()
    done = run(repo_root, "grid", tmp_path / "grid", tmp_path / "data/grid", "--corpus_args", "--n_val 2 --n_test 2")
    assert done.returncode == 0, done.stderr
    data = tmp_path / "data/grid"
    for name, rows in (("utterances", 4), ("clips", 8), ("val", 2), ("test", 2)):
        manifest = read_manifest(data / f"{name}.csv")
        assert len(manifest.items) == rows
        assert validate_manifest(manifest, deep=True) == []
    mouths = sorted((data / "mouths").glob("*.npz"))
    assert len(mouths) == 12
    for path in mouths:
        file = MouthFile(path)
        assert file.n_frames == 75 and file.mask.mean() > 0.95
    again = run(repo_root, "grid", tmp_path / "grid", data, "--corpus_args", "--n_val 2 --n_test 2")
    assert again.stderr.count("up to date") == 2, again.stderr


def test_own_videos_of_few_speakers_are_split_by_clip_and_one_that_shows_nobody_is_listed(tmp_path, repo_root, shared_data):
    names = ("s1lbak3a", "s1pbap1a", "s1lgbs8p", "g2brbk7n", "g3lbax4n", "g4lbbc2a")
    for index, name in enumerate(names):
        folder = tmp_path / "own" / ("anna" if index < 3 else "bert 2")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared_data / f"grid_video/{name}.mpg", folder / f"{name}.mpg")
    (tmp_path / "own/carl").mkdir()
    (tmp_path / "own/carl/broken.MTS").write_bytes(b"no video")
    options = ["--corpus_args", "--n_val 1 --n_test 1", "--max_failed", "1"]
    done = run(repo_root, "own_video", tmp_path / "own", tmp_path / "data/own", *options)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "data/own/failed.csv", newline="") as handle:
        assert [row["id"] for row in csv.DictReader(handle)] == ["carl_broken"]
    speakers = {item.speaker for item in read_manifest(tmp_path / "data/own/utterances.csv").items}
    assert speakers == {"anna", "bert 2"}
    assert len(list((tmp_path / "data/own/mouths").glob("*.npz"))) == 6


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_grid_takes_separate_sounds_and_lists_those_without_a_video(tmp_path):
    root = touch(
        tmp_path, "s1/bbaf2n.mpg", "s1/bbaf2n.mp4", "audio_25k/s1/bbaf2n.wav", "audio_25k/s2/lwbz9a.wav", "s1/notes.mpg"
    )
    problems = []
    (clip,) = usable(grid.find_clips(root, separate_audio=True), problems)
    assert (clip.utterance_id, clip.speaker) == ("s1_bbaf2n", "s1")
    assert clip.video_path.endswith("s1/bbaf2n.mpg") and clip.audio_path.endswith("audio_25k/s1/bbaf2n.wav")
    assert [problem.item_id for problem in problems] == ["s2_lwbz9a"]
    (clip,) = grid.find_clips(root, separate_audio=False)
    assert clip.audio_path == ""


def test_own_clips_are_named_after_the_way_to_them_and_take_what_lies_beside(tmp_path):
    names = ["anna/a b.mp4", "anna/a b.wav", "anna/2024/x.MTS", "anna/2024/x.csv"]
    names += ["bert/y.mkv", "bert/y.landmarks.csv", "z.mp4"]
    clips = own_video.find_clips(touch(tmp_path, *names))
    assert [clip.utterance_id for clip in clips] == ["anna_2024_x", "anna_a-b", "bert_y"]
    assert [Path(clip.audio_path).name for clip in clips] == ["", "a b.wav", ""]
    assert [Path(clip.landmarks_path).name for clip in clips] == ["", "", "y.landmarks.csv"], "another csv is no landmarks"
    touch(tmp_path, "anna/a-b.mp4")
    named = [clip.utterance_id for clip in own_video.find_clips(tmp_path)]
    assert named.count("anna_a-b") == 2  # both are listed as failures, see utils/corpora/raw_corpus.py
    everywhere = own_video.find_clips(tmp_path, needs_folders=False)
    assert {clip.utterance_id: clip.speaker for clip in everywhere}["z"] == tmp_path.name


def test_a_split_by_clip_gives_every_speaker_to_every_split(tmp_path):
    clips = own_video.find_clips(touch(tmp_path, *(f"{who}/{k}.mp4" for who in ("anna", "bert") for k in range(10))))
    chosen = own_video.split_by_clip(clips, 0.1, 0.2, seed=0)
    counts = {(who, split): sum((c.speaker, c.split) == (who, split) for c in chosen) for who in ("anna", "bert") for split in
              ("train", "val", "test")}  # fmt: skip
    assert np.array_equal(list(counts.values()), [7, 1, 2] * 2)
    assert chosen == own_video.split_by_clip(clips[::-1], 0.1, 0.2, seed=0)
