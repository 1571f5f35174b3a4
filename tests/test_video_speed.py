"""Costs of the way from raw video to tracks: the videos, the parts, the table."""

import shutil
import sys

import pytest
from separation_helpers import make_experiment

from utils.errors import UsageError, UserError
from utils.tools import video_speed
from utils.tools.video_speed import PARTS, repeat, table, write_piece
from utils.video.decoding import probe_video, read_pictures
from utils.video.sound import extract_sound


def test_every_part_of_two_real_faces_is_measured(tmp_path, shared_data, monkeypatch, capsys):
    weights = tmp_path / "lr_asd.model"
    shutil.copy(shared_data / "weights/lr_asd_talkset.model", weights)
    clips = shared_data / "grid_video"
    options = ["--left", clips / "s1lbak3a.mpg", "--right", clips / "g4lbbc2a.mpg", "--work_dir", tmp_path / "work"]
    options += ["--exp_dir", make_experiment(tmp_path / "exp/av", weights)]
    options += ["--heights", "240", "--minutes", "0.1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["video_speed", *map(str, options)])
    video_speed.main()
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| 240p"))
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    assert cells[:3] == ["240p", "0.1", "2"]
    factors = [float(cell.strip("*")) for cell in cells[3:-1]]
    assert all(factor > 0 for factor in factors[:-1]) and sum(factors[:-1]) == pytest.approx(factors[-1], abs=0.004)
    assert float(cells[-1]) > 100


def test_a_piece_is_repeated_in_time(tmp_path, shared_data):
    clip = shared_data / "grid_video/s1lbak3a.mpg"
    write_piece(tmp_path / "piece.mkv", clip, clip, 144)
    repeat(tmp_path / "piece.mkv", tmp_path / "long.mkv", 7.0)
    assert (probe_video(tmp_path / "long.mkv").width, probe_video(tmp_path / "long.mkv").height) == (256, 144)
    n_frames = 3 * 74
    pictures = [picture for _, picture in read_pictures(tmp_path / "long.mkv", n_frames)]
    assert sum(picture is None for picture in pictures) <= 2
    assert abs(extract_sound(tmp_path / "long.mkv", tmp_path / "sound.wav").n_samples - n_frames * 640) < 3 * 1024
    for frame in (10, 50):
        difference = pictures[frame].astype(int) - pictures[frame + 74]
        assert abs(difference).mean() < 12


def test_the_table_gives_real_time_factors():
    found = dict.fromkeys(PARTS, 6.0) | {"video_sec": 60.0, "n_faces": 2, "memory_mb": 512.4}
    row = table([(360, 1.0, found)]).splitlines()[-1].replace(" ", "")
    assert row == "|360p|1|2|" + "0.100|" * 6 + "**0.600**|512|"


def test_a_height_that_no_video_has_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["video_speed", "--left", "a", "--right", "b", "--exp_dir", "c", "--heights", "10"])
    with pytest.raises(UsageError, match="at least 144"):
        video_speed.parse_args()


def test_an_experiment_without_faces_is_refused_before_videos_are_made(monkeypatch, tmp_path):
    exp_dir = make_experiment(tmp_path / "exp/audio", None)
    words = ["--left", "a", "--right", "b", "--exp_dir", exp_dir, "--work_dir", tmp_path / "work"]
    monkeypatch.setattr(sys, "argv", ["video_speed", *map(str, words)])
    with pytest.raises(UserError, match="audio-only"):
        video_speed.main()
    assert not (tmp_path / "work").exists()
