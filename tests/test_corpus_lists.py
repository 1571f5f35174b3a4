"""Raw corpora with lists of mixtures: which clips a list means, what it needs, and the same audio made again."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora_helpers import copy_video, encode_clip, run_prepare, speech

from utils.data.manifest import find_manifests, read_manifest


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def with_video():
    return pytest.importorskip("av", reason="PyAV is not installed (requirements-video.txt)")


@pytest.fixture
def lrs3(tmp_path, shared_data) -> Path:
    """Two videos, each with a clip of one name in trainval and in pretrain."""
    for index, place in enumerate(("trainval/NCJTV5KaJJc/00001", "pretrain/NCJTV5KaJJc/00001", "trainval/vhVWzkbAW4I/00005",
                                   "pretrain/vhVWzkbAW4I/00005")):  # fmt: skip
        copy_video(shared_data, index, tmp_path / "raw" / f"{place}.mp4")
    return tmp_path / "raw"


def test_pretrain_clips_of_a_gain_list_are_not_taken_for_main_clips_of_the_same_name(tmp_path, lrs3, with_video):
    (tmp_path / "tr.scp").write_text("/x/pretrain/NCJTV5KaJJc/00001.wav 1 /x/trainval/vhVWzkbAW4I/00005.wav -1\n")
    run_prepare("lrs3", tmp_path / "out", lrs3, "--pretrain", "true", "--train_gains", tmp_path / "tr.scp")
    row = read_manifest(tmp_path / "out/train.csv").items[0]
    assert row.mouth_paths == ("mouths/pretrain_NCJTV5KaJJc_00001.npz", "mouths/vhVWzkbAW4I_00005.npz")
    assert row.speakers == ("NCJTV5KaJJc", "vhVWzkbAW4I")
    assert not rows_of(tmp_path / "out/failed.csv") and not rows_of(tmp_path / "out/held_out.csv")


def test_a_list_may_validate_on_a_pretrain_clip(tmp_path, lrs3, with_video):
    (tmp_path / "cv.scp").write_text("/x/pretrain/NCJTV5KaJJc/00001.wav 1 /x/pretrain/vhVWzkbAW4I/00005.wav -1\n")
    run_prepare("lrs3", tmp_path / "out", lrs3, "--pretrain", "true", "--val_gains", tmp_path / "cv.scp")
    assert len(read_manifest(tmp_path / "out/val.csv").items) == 1


def test_pretrain_clips_of_validated_videos_are_listed(tmp_path, lrs3, with_video):
    run_prepare("lrs3", tmp_path / "out", lrs3, "--pretrain", "true", "--val_share", 0.5, "--n_val", 0, "--n_test", 0)
    (row,) = rows_of(tmp_path / "out/held_out.csv")
    assert row["id"].startswith("pretrain_") and "validation split" in row["reason"]
    (kept,) = read_manifest(tmp_path / "out/clips.csv").items
    assert row["id"] == f"pretrain_{kept.utterance_id}"


def test_gain_lists_of_different_numbers_of_voices_are_refused_before_any_work(tmp_path, lrs3):
    pair = "x/NCJTV5KaJJc/00001.wav 1 x/vhVWzkbAW4I/00005.wav -1"
    (tmp_path / "tr.scp").write_text(pair + "\n")
    (tmp_path / "tt.scp").write_text(pair + " x/_8K1hWkirLo/00002.wav 0\n")
    options = ("--train_gains", tmp_path / "tr.scp", "--test_gains", tmp_path / "tt.scp")
    said = run_prepare("lrs3", tmp_path / "out", lrs3, *options, code=1)
    assert "--train_gains of 2 and --test_gains of 3" in said and not list((tmp_path / "out").rglob("*.wav"))


def test_sounds_that_a_list_does_not_need_may_be_missing(tmp_path, shared_data, with_video):
    places = ("id08108/RCODGWdfzdY/00197", "id07077/oi72_HHDWY4/00288", "id09999/xbcdefghij_/00099")
    for index, place in enumerate(places):
        copy_video(shared_data, index, tmp_path / "raw/mp4/dev" / f"{place}.mp4")
        if index < 2:
            samples = np.resize(speech(shared_data, index), round(2.98 * 44100))
            encode_clip(tmp_path / "aac/dev" / f"{place}.m4a", samples, 44100, None)
    row = "test,test,id08108,RCODGWdfzdY/00197,0,test,id07077,oi72_HHDWY4/00288,3.25,{}\n"
    (tmp_path / "l.csv").write_text(row.format(2.98))
    options = ("--mix_list", tmp_path / "l.csv", "--sir_convention", "target_over_interferer", "--audio_dir", tmp_path / "aac")
    run_prepare("voxceleb2", tmp_path / "out", tmp_path / "raw", *options)
    assert not rows_of(tmp_path / "out/failed.csv")
    (tmp_path / "l.csv").write_text(row.format(4.096))
    run_prepare("voxceleb2", tmp_path / "other", tmp_path / "raw", *options, code=1)
    (failed,) = rows_of(tmp_path / "other/failed.csv")
    assert "where the list says 4.096 s" in failed["reason"] and failed["path"] == str(tmp_path / "l.csv")


def test_a_list_makes_the_same_audio_again_in_every_raw_corpus(tmp_path, shared_data, with_video):
    for index in range(6):
        copy_video(shared_data, index, tmp_path / f"raw/0{index}M/Clips/straightcam/sx1.mpg")
    made = ("--measure", "active", "--subtype", "FLOAT", "--max_sec", 2.5, "--val_share", 0.4, "--test_share", 0)
    run_prepare("tcd_timit", tmp_path / "one", tmp_path / "raw", "--n_val", 1, "--n_test", 0, *made)
    again = ("--mix_list", tmp_path / "one/mixtures.csv")
    run_prepare("tcd_timit", tmp_path / "two", tmp_path / "raw", *again)
    one, two = (  # samples, for libsndfile writes the time into the header of float files
        {path.relative_to(root): soundfile.read(path)[0].tobytes() for path in (root / "audio").rglob("*.wav")}
        for root in (tmp_path / "one", tmp_path / "two")
    )
    assert len(one) == 3 and all(one.values())
    assert [name for name in one if one[name] != two[name]] == []
    assert (tmp_path / "two/mixtures.csv").read_bytes() == (tmp_path / "one/mixtures.csv").read_bytes()
    # the list beside its settings is taken for no manifest
    assert [path.stem for path in find_manifests(tmp_path / "two")] == ["clips", "val"]
    said = run_prepare("tcd_timit", tmp_path / "three", tmp_path / "raw", *again, "--measure", "whole", code=2)
    assert "--measure whole" in said and "were made with active" in said
