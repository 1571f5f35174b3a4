"""The preparations of LRS2, LRS3, VoxCeleb2, TCD-TIMIT and MUSAN, on their layouts in miniature from real parts."""

import csv
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora_helpers import (
    LRS2_IDS,
    LRS3_IDS,
    RATE_HZ,
    VOX_IDS,
    copy_video,
    encode_clip,
    make_two_mix,
    run_prepare,
    speech,
    write_audio,
    write_crops,
)
from shell_helpers import bash

from utils.data.manifest import find_manifests, read_manifest, read_videos
from utils.mixing.levels import power
from utils.mixing.recordings import recording_lengths

RAW = ("--n_val", 1, "--n_test", 1)


def stage_0(repo_root: Path, corpus: str, data_dir: Path, corpus_dir: Path, corpus_args: str = "") -> str:
    """Stage 0 as run.sh calls it; what it said."""
    options = ["--corpus", corpus, "--data_dir", data_dir, "--corpus_dir", corpus_dir, "--nj", "1"]
    done = bash(repo_root / "utils/stages/0_prepare.sh", *options, "--corpus_args", corpus_args, cwd=repo_root, timeout_sec=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def names(data_dir: Path) -> list[str]:
    return [path.stem for path in find_manifests(data_dir)]


def failed(data_dir: Path) -> dict[str, str]:
    with open(data_dir / "failed.csv", encoding="utf-8", newline="") as handle:
        return {row["id"]: row["reason"] for row in csv.DictReader(handle)}


@pytest.fixture
def with_video():
    return pytest.importorskip("av", reason="PyAV is not installed (requirements-video.txt)")


# 2Mix folders


@pytest.mark.parametrize(("corpus", "ids"), [("lrs2", LRS2_IDS), ("lrs3", LRS3_IDS), ("voxceleb2", VOX_IDS)])
def test_a_2mix_folder_becomes_manifests_by_stage_0(repo_root, tmp_path, shared_data, corpus, ids):
    stems = make_two_mix(tmp_path / "raw", shared_data, ids)
    said = stage_0(repo_root, corpus, tmp_path / corpus, tmp_path / "raw")
    assert names(tmp_path / corpus) == ["test", "train", "utterances", "val"]
    row = read_manifest(tmp_path / corpus / "train.csv").items[0]
    assert row.mixture_id == stems[0]
    assert row.mouth_paths == (f"mouths/{ids[0]}.npz", f"mouths/{ids[1]}.npz")
    assert row.sir_db == pytest.approx(2.096)
    assert {item.utterance_id for item in read_manifest(tmp_path / corpus / "utterances.csv").items} == set(ids[:2])
    assert "stage 0:" in said and "train.csv: rows: 1" in said
    assert corpus != "lrs3" or "up to date" in stage_0(repo_root, corpus, tmp_path / corpus, tmp_path / "raw")


def test_what_is_wrong_in_a_2mix_folder_is_listed_with_its_reason(tmp_path, shared_data):
    raw, out = tmp_path / "raw", tmp_path / "lrs3"
    stems = make_two_mix(raw, shared_data, LRS3_IDS)
    write_crops(raw / "mouths" / f"{LRS3_IDS[1]}.npz", 60)  # as many as 2 s have at 30 frames/s
    (raw / f"audio/wav16k/min/tt/s2/{stems[2]}.wav").unlink()
    path = raw / f"audio/wav16k/min/cv/s1/{stems[1]}.wav"
    write_audio(path, soundfile.read(path)[0], 16384)
    said = run_prepare("lrs3", out, raw, code=1)
    assert "3 items cannot be used" in said and "--max_failed 3" in said and not find_manifests(out)
    reasons = failed(out)
    assert "60 video frames where 32000 samples at 16000 Hz and 25 fps make 50.00" in reasons[stems[0]]
    assert "sampled at 16384 Hz" in reasons[stems[1]]
    assert reasons[stems[2]] == "audio/wav16k/min/tt/s2 holds no file of this name"


def test_clips_shorter_than_wanted_are_listed(tmp_path, shared_data):
    stems = make_two_mix(tmp_path / "raw", shared_data, LRS2_IDS)
    run_prepare("lrs2", tmp_path / "lrs2", tmp_path / "raw", "--min_sec", 2.5, code=1)
    assert failed(tmp_path / "lrs2")[stems[0]] == "lasts 2.000 s, less than --min_sec 2.5"


def test_options_of_the_other_layout_are_refused(tmp_path, shared_data):
    make_two_mix(tmp_path / "raw", shared_data, LRS2_IDS)
    said = run_prepare("lrs2", tmp_path / "lrs2", tmp_path / "raw", "--train_gains", tmp_path / "x", code=2)
    assert "holds mixtures already" in said
    for option in (("--n_val", 0), ("--measure", "active"), ("--noise_dir", tmp_path), ("--pretrain", "true")):
        assert f"{option[0]}: for raw" in run_prepare("lrs2", tmp_path / "lrs2", tmp_path / "raw", *option, code=2)
    (tmp_path / "empty").mkdir()
    assert "--json_dir belongs to a 2Mix folder" in run_prepare(
        "lrs2", tmp_path / "lrs2", tmp_path / "empty", "--json_dir", tmp_path, code=2
    )


# Raw video


def make_voxceleb2(root: Path, shared_data: Path) -> None:
    """Six clips of six speakers, two of them in the test part."""
    places = ("dev/id08108/RCODGWdfzdY/00197", "dev/id07077/oi72_HHDWY4/00288", "dev/id08249/-sn2lLxlZb_/00252",
              "dev/id00017/_1dfn2spq-E/00001", "test/id08000/xbcdefghij_/00011", "test/id08001/xbcdefghij_/00011")  # fmt: skip
    for index, place in enumerate(places):
        copy_video(shared_data, index, root / "mp4" / f"{place}.mp4")


def write_list(path: Path) -> Path:
    rows = (
        "train,train,id08108,RCODGWdfzdY/00197,0,train,id07077,oi72_HHDWY4/00288,3.25,2.9",
        "val,train,id08249,-sn2lLxlZb_/00252,0,train,id00017,_1dfn2spq-E/00001,-6.5,2.9",
        "test,test,id08000,xbcdefghij_/00011,0,test,id08001,xbcdefghij_/00011,1.125,2.9",
    )
    path.write_bytes(("\ufeff" + "\r\n".join(rows) + "\r\n").encode())
    return path


def test_the_extraction_familys_list_is_made_of_raw_voxceleb2(repo_root, tmp_path, shared_data, with_video):
    make_voxceleb2(tmp_path / "raw", shared_data)
    path, out = write_list(tmp_path / "list.csv"), tmp_path / "voxceleb2"
    arguments = f"--mix_list {path} --sir_convention interferer_over_target"
    stage_0(repo_root, "voxceleb2", out, tmp_path / "raw", arguments)
    assert names(out) == ["clips", "test", "train", "utterances", "val"]
    for split, ratio_db in (("train", -3.25), ("val", 6.5), ("test", -1.125)):
        row = read_manifest(out / f"{split}.csv").items[0]
        sources = [soundfile.read(out / source)[0] for source in row.source_paths]
        assert 10 * np.log10(power(sources[0]) / power(sources[1])) == pytest.approx(ratio_db, abs=1e-2)
        assert row.sir_db == ratio_db
    assert {clip.utterance_id for clip in read_videos(out / "videos.csv")} >= {
        VOX_IDS[0],
        VOX_IDS[1],
        "id08249_-sn2lLxlZb__00252",
    }
    assert {item.utterance_id for item in read_manifest(out / "utterances.csv").items} == set(VOX_IDS[:2])


def test_such_a_list_needs_its_convention_and_its_clips(tmp_path, shared_data, with_video):
    make_voxceleb2(tmp_path / "raw", shared_data)
    path, out = write_list(tmp_path / "list.csv"), tmp_path / "vox"
    assert "public code reads its dB with opposite signs" in run_prepare(
        "voxceleb2", out, tmp_path / "raw", "--mix_list", path, code=1
    )
    (tmp_path / "raw/mp4/test/id08001/xbcdefghij_/00011.mp4").unlink()
    options = ("--mix_list", path, "--sir_convention", "target_over_interferer")
    said = run_prepare("voxceleb2", out, tmp_path / "raw", *options, code=1)
    assert "row 3" in said and "names id08001_xbcdefghij__00011, which the corpus does not hold" in said
    run_prepare("voxceleb2", out, tmp_path / "raw", *options, "--max_failed", 1)
    assert read_manifest(out / "train.csv").items[0].sir_db == 3.25


def test_sounds_from_m4a_are_used_and_missing_ones_listed(tmp_path, shared_data, with_video):
    make_voxceleb2(tmp_path / "raw", shared_data)
    for index, path in enumerate(sorted((tmp_path / "raw/mp4").rglob("*.mp4"))):
        place = path.relative_to(tmp_path / "raw/mp4").with_suffix(".m4a")
        if index:
            samples = np.resize(speech(shared_data, index), round(2.98 * 44100))
            encode_clip(tmp_path / "aac" / place, samples, 44100, None)
    out = tmp_path / "vox"
    options = ("--audio_dir", tmp_path / "aac", *RAW, "--val_share", 0.5, "--same_speaker", "true", "--max_failed", 1)
    run_prepare("voxceleb2", out, tmp_path / "raw", *options)
    assert list(failed(out).values()) == ["its sound is missing"]
    lengths = [item.length for name in ("utterances", "clips") for item in read_manifest(out / f"{name}.csv").items]
    assert len(lengths) == 5 and all(abs(length - 2.98 * RATE_HZ) < 2 * 1024 for length in lengths)


def test_raw_lrs2_goes_by_its_lists(tmp_path, shared_data, with_video):
    places = [f"{number}/0000{k}" for number in (5535415699068794046, 6330311066473698535) for k in (1, 2)]
    for index, place in enumerate(places):
        copy_video(shared_data, index, tmp_path / "mvlrs_v1/main" / f"{place}.mp4")
    copy_video(shared_data, 4, tmp_path / "mvlrs_v1/main/6330311066473698536/00001.mp4")
    lists = {
        "train": places[0],
        "val": f"{places[1]}\r\n{places[2]}",
        "test": f"{places[3]} MV\n6330311066473698536/00001 MV\n7/00001",
    }
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_bytes(text.encode())
    out = tmp_path / "lrs2"
    said = run_prepare("lrs2", out, tmp_path / "mvlrs_v1", *RAW, "--nj", 1, code=1)
    assert "row 3, 7_00001: names 7/00001, for which there is no video" in said
    run_prepare("lrs2", out, tmp_path / "mvlrs_v1", *RAW, "--max_failed", 1)
    assert [item.utterance_id for item in read_manifest(out / "utterances.csv").items] == ["5535415699068794046_00001"]
    assert read_manifest(out / "test.csv").items[0].subset == "unseen_face"


def test_raw_lrs3_is_divided_by_videos_and_a_gain_list_is_made(tmp_path, shared_data, with_video):
    for index, place in enumerate(("trainval/NCJTV5KaJJc/00001", "trainval/vhVWzkbAW4I/00005", "test/_8K1hWkirLo/00002",
                                   "test/aaEA__Js2u-/00010")):  # fmt: skip
        copy_video(shared_data, index, tmp_path / "raw" / f"{place}.mp4")
    path = tmp_path / "mix 2.scp"
    path.write_text("/home/x y/test/_8K1hWkirLo/00002.wav 2.6659 /home/x y/test/aaEA__Js2u-/00010.wav -2.6659\n")
    out = tmp_path / "lrs3"
    run_prepare("lrs3", out, tmp_path / "raw", "--test_gains", path, "--measure", "active")
    row = read_manifest(out / "test.csv").items[0]
    assert row.mixture_id == "_8K1hWkirLo_00002_2.6659_aaEA__Js2u-_00010_-2.6659"
    assert row.sir_db == pytest.approx(5.3318)
    run_prepare("lrs3", tmp_path / "own", tmp_path / "raw", "--n_val", 0, "--n_test", 1, "--val_share", 0.5)
    kinds = {
        name: {item.speaker for item in read_manifest(tmp_path / "own" / f"{name}.csv").items}
        for name in ("utterances", "clips")
    }
    assert len(kinds["utterances"]) == 1 and not kinds["utterances"] & kinds["clips"]


def test_tcd_timit_is_named_by_its_speakers_and_comes_onto_the_clock(repo_root, tmp_path, shared_data, with_video):
    rate = Fraction(30000, 1001)
    for index, speaker in enumerate(("volunteers/01M", "volunteers/02F", "volunteers/03F", "lipspeakers/Lipspkr1")):
        samples = np.resize(speech(shared_data, index), round(2.5 * 48000))
        for k in range(2):
            encode_clip(tmp_path / "raw" / speaker / f"Clips/straightcam/sx{k}.mp4", samples, 48000, rate)
    encode_clip(tmp_path / "raw/volunteers/01M/Clips/30degcam/sx0.mp4", samples, 48000, rate)
    out = tmp_path / "tcd_timit"
    stage_0(repo_root, "tcd_timit", out, tmp_path / "raw", "--n_val 1 --n_test 0 --val_share 0.5 --test_share 0")
    videos = {clip.utterance_id: clip for clip in read_videos(out / "videos.csv")}
    assert len(videos) == 8 and videos["01M_sx0"].video_path.endswith("volunteers/01M/Clips/straightcam/sx0.mp4")
    rows = [item for name in ("utterances", "clips") for item in read_manifest(out / f"{name}.csv").items]
    assert all(abs(item.length - 2.5 * RATE_HZ) < 1024 and item.frames == -(-item.length // 640) for item in rows)


def test_pictures_and_sound_that_do_not_last_equally_long_are_listed(tmp_path, shared_data, with_video):
    for index, speaker in enumerate(("01M", "02F", "03F")):
        copy_video(shared_data, index, tmp_path / "raw" / speaker / "Clips/straightcam/sx1.mpg")
    samples = np.resize(speech(shared_data, 0), 3 * 48000)
    path = encode_clip(tmp_path / "raw/04M/Clips/straightcam/sx1.mp4", samples, 48000, Fraction(25))
    encode_clip(path.with_name("sx2.mp4"), samples, 48000, Fraction(15))
    (path.with_name("sx3.mp4")).write_bytes(b"no video")
    import av

    with av.open(str(path)) as source, av.open(str(path.with_name("sx4.mp4")), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None and (packet.stream.type == "audio" or packet.pts * packet.time_base < 1):
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    run_prepare("tcd_timit", tmp_path / "out", tmp_path / "raw", *RAW, "--same_speaker", "true", code=1)
    reasons = failed(tmp_path / "out")
    assert set(reasons) == {"04M_sx3", "04M_sx4"}
    assert "the pictures 1.0" in reasons["04M_sx4"]


# MUSAN


def test_musan_becomes_folders_of_noise_that_mixing_takes(repo_root, tmp_path, shared_data, with_video):
    noise = soundfile.read(shared_data / "noise" / "noise1.wav")[0]
    for k in range(6):
        write_audio(tmp_path / "raw/noise/free-sound" / f"noise-free sound-{k}.wav", noise[k * 100 :])
    write_audio(tmp_path / "raw/music/fma/deep/music-fma-0001.wav", np.stack([noise, noise], axis=1), 44100)
    write_audio(tmp_path / "raw/speech/librivox/speech-0.wav", noise)
    (tmp_path / "raw/noise/free-sound/ANNOTATIONS").write_text("a note")
    out = tmp_path / "musan"
    stage_0(repo_root, "musan", out, tmp_path / "raw", "--test_share 0.3")
    files = sorted(path for path in (out / "noise").rglob("*.wav"))
    assert len(files) == 7 and sum(path.is_symlink() for path in files) == 6
    converted = next(path for path in files if not path.is_symlink())
    info = soundfile.info(converted)
    assert (info.samplerate, info.channels) == (RATE_HZ, 1)
    assert info.frames == pytest.approx(len(noise) * RATE_HZ / 44100, abs=2)
    assert set(names(out)) == {"noise_test", "noise_train"}
    noises = recording_lengths("noise_dir", out / "noise/train", RATE_HZ)
    assert noises and all("speech" not in str(path.relative_to(out)) for path in noises)


def test_silent_and_broken_noise_is_listed(tmp_path, shared_data, with_video):
    write_audio(tmp_path / "raw/noise/a.wav", np.zeros(1000))
    write_audio(tmp_path / "raw/noise/b.wav", np.full(1000, 0.1))
    (tmp_path / "raw/noise/c.wav").write_text("not a sound")
    said = run_prepare("musan", tmp_path / "musan", tmp_path / "raw", "--select", "noise", code=1)
    assert "--max_failed 2" in said
    run_prepare("musan", tmp_path / "musan", tmp_path / "raw", "--select", "noise", "--max_failed", 2)
    assert set(failed(tmp_path / "musan")) == {"noise_a", "noise_c"}
    assert [path.name for path in (tmp_path / "musan/noise").rglob("*.wav")] == ["b.wav"]


def originals(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.mark.parametrize("select", ["absolute", "above", "all", "noise"])
def test_recordings_below_the_data_folder_are_never_touched(tmp_path, shared_data, select):
    noise = soundfile.read(shared_data / "noise" / "noise1.wav")[0]
    musan = tmp_path / "data/musan"
    write_audio(musan / "noise/free-sound/a.wav", noise)
    write_audio(musan / "noise/sound-bible/b.wav", noise)
    write_audio(tmp_path / "data/other/c.wav", noise)
    before = originals(tmp_path)
    chosen = {"absolute": musan / "noise", "above": "../other", "all": ".", "noise": "noise"}[select]
    said = run_prepare("musan", musan, musan, "--select", chosen, code=2)
    assert ("choose another --data_dir" if select in ("all", "noise") else "give folders below --corpus_dir") in said
    assert originals(tmp_path) == before


def test_recordings_reached_by_links_are_never_touched(tmp_path, shared_data):
    noise = soundfile.read(shared_data / "noise" / "noise1.wav")[0]
    for name in "ab":
        write_audio(tmp_path / f"data/noise/train/{name}.wav", noise)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/noise").symlink_to(tmp_path / "data/noise/train")
    before = originals(tmp_path)
    run_prepare("musan", tmp_path / "data", tmp_path / "raw", "--select", "noise", code=2)
    (tmp_path / "raw/noise").unlink()
    (tmp_path / "raw/noise").mkdir()
    (tmp_path / "raw/noise/deep").symlink_to(tmp_path / "data/noise/train")
    said = run_prepare("musan", tmp_path / "data", tmp_path / "raw", "--select", "noise", code=1)
    assert "which this program writes" in said and originals(tmp_path) == before


def test_files_of_others_in_the_folders_of_noise_stay(tmp_path, shared_data, with_video):
    noise = soundfile.read(shared_data / "noise" / "noise1.wav")[0]
    write_audio(tmp_path / "raw/noise/a.wav", noise)
    write_audio(tmp_path / "raw/noise/b.wav", noise, 8000)
    mine = write_audio(tmp_path / "out/noise/train/noise/mine.wav", noise)
    for share in (0, 1, 0):  # all recordings change their folder
        run_prepare("musan", tmp_path / "out", tmp_path / "raw", "--select", "noise", "--test_share", share)
        found = {path.name for path in (tmp_path / "out/noise" / ("test" if share else "train")).rglob("*.wav")}
        assert found - {"mine.wav"} == {"a.wav", "b.wav"}
        assert len(list((tmp_path / "out/noise").rglob("*.wav"))) == 3 and mine.is_file()
    write_audio(tmp_path / "raw/noise/mine.wav", noise)
    before = originals(tmp_path)
    said = run_prepare("musan", tmp_path / "out", tmp_path / "raw", "--select", "noise", "--test_share", 0, code=1)
    assert "mine.wav: is in the way" in said and originals(tmp_path) == before


def test_every_corpus_says_how_it_is_used(repo_root):
    for corpus in ("lrs2", "lrs3", "voxceleb2", "tcd_timit", "musan"):
        text = (repo_root / "egs" / corpus / "README.md").read_text(encoding="utf-8")
        assert f"egs/{corpus}/run.sh --corpus_dir" in text and "icence" in text
        assert os.access(repo_root / "egs" / corpus / "run.sh", os.X_OK)
