"""Two real clips stacked into one video: what the tool makes, and the whole way from such a video to tracks with scores."""

import math
import shutil
import sys

import numpy as np
import pytest
import soundfile
from separation_helpers import make_experiment

from utils.benchmarks import stacked_videos
from utils.benchmarks.stacked_videos import Score, improvement, stack_videos, table
from utils.data.files import read_json
from utils.errors import UserError
from utils.metrics import si_snr
from utils.video.decoding import extract_sound, probe_video, read_pictures

CLIPS = ("g3lbax4n", "s1lbak3a")


@pytest.fixture(scope="module")
def clips(shared_data):
    return shared_data / "grid_video"


def test_the_video_shows_both_clips_and_its_sound_is_their_sum_to_the_sample(tmp_path, clips):
    path = stack_videos(clips, *CLIPS, tmp_path)
    info = probe_video(path)
    assert (info.width, info.height) == (720, 288)
    references = [soundfile.read(str(tmp_path / f"references/{clip}.wav"))[0] for clip in CLIPS]
    n_samples = extract_sound(path, tmp_path / "sum.wav").n_samples
    assert n_samples == min(map(len, references)) == 47648
    np.testing.assert_allclose(soundfile.read(str(tmp_path / "sum.wav"))[0], sum(references), atol=1e-6)
    originals = [dict(read_pictures(clips / f"{clip}.mpg", 75)) for clip in CLIPS]
    for frame, picture in read_pictures(path, 75):
        if frame % 20 == 0:
            for picture_half, original in zip((picture[:, :360], picture[:, 360:]), originals, strict=True):
                difference = picture_half.astype(int) - original[frame]
                assert np.abs(difference).mean() < 4, "compression aside, the same picture"


def test_from_the_stacked_video_to_scored_tracks(tmp_path, clips, shared_data, monkeypatch, capsys):
    lips = tmp_path / "lips.model"
    shutil.copy(shared_data / "weights/lr_asd_talkset.model", lips)
    experiment = make_experiment(tmp_path / "exp/av", lips)
    options = ["--video_dir", clips, "--clips", ",".join(CLIPS), "--work_dir", tmp_path / "work", "--exp_dir", experiment]
    options += ["--mouth_dir", shared_data / "grid_dla/mouths", "--results", tmp_path / "RESULTS.md"]
    monkeypatch.setattr(sys, "argv", ["stacked_videos", *map(str, options)])
    stacked_videos.main()
    folder = tmp_path / "work/tracks" / "_".join(CLIPS)
    report = read_json(folder / "tracks.json")
    assert [track["name"] for track in report["tracks"]] == ["face1", "face2"]
    assert all(track["share_of_frames_with_mouth"] > 0.95 for track in report["tracks"])
    references = [soundfile.read(str(tmp_path / f"work/references/{clip}.wav"))[0] for clip in CLIPS]
    tracks = [soundfile.read(str(folder / f"face{k}.wav"))[0] for k in (1, 2)]
    gains = [si_snr(track, voice) - si_snr(sum(references), voice) for track, voice in zip(tracks, references, strict=True)]
    printed = capsys.readouterr().out
    assert f"{np.mean(gains):.2f}" in printed and "raw crops" in printed
    assert printed.strip() in (tmp_path / "RESULTS.md").read_text()


def test_improvement_is_that_over_the_sum_of_the_references():
    rng = np.random.default_rng(0)
    voices = rng.standard_normal((2, 16000))
    noisy = voices + 0.1 * rng.standard_normal((2, 16000))
    assert improvement(noisy, voices) == pytest.approx(20, abs=0.5)
    assert improvement(np.stack([voices.sum(axis=0)] * 2), voices) == pytest.approx(0, abs=1e-9)


def test_the_table_has_means_with_errors_and_dashes_where_nothing_was_measured():
    text = table({"a_b": Score(2.0, math.nan, math.nan), "a_c": Score(4.0, math.nan, math.nan)})
    assert "| a_b | 2.00 | – | – |" in text and "| mean of 2 | **3.00** ± 1.00 | **–** ± – | **–** ± – |" in text


def test_a_clip_that_is_not_there_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.mpg").touch()
    monkeypatch.setattr(sys, "argv", ["stacked_videos", "--video_dir", str(tmp_path), "--clips", "a,b", "--only_stack", "true"])
    with pytest.raises(UserError, match="no clip b"):
        stacked_videos.main()
