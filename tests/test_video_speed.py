"""Costs of the way from raw video to tracks: the parts, the table, and what is refused."""

import shutil
import sys

import pytest
from separation_helpers import make_experiment
from video_helpers import Video, speech_like

from utils.errors import UserError
from utils.tools import video_speed
from utils.tools.video_speed import COLUMNS, PARTS, table


@pytest.fixture
def run(monkeypatch):
    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["video_speed", *map(str, words)])
        video_speed.main()

    return run


@pytest.fixture
def experiment(tmp_path, shared_data):
    """An experiment on LR-ASD's embeddings."""
    weights = tmp_path / "lr_asd.model"
    shutil.copy(shared_data / "weights/lr_asd_talkset.model", weights)
    return make_experiment(tmp_path / "exp/av", weights)


def test_every_part_of_a_real_video_is_measured(experiment, shared_data, run, capsys):
    clip = shared_data / "grid_video/s1lbak3a.mpg"
    run("--videos", clip, "--exp_dir", experiment, "--threads", "1")
    row = next(line for line in capsys.readouterr().out.splitlines() if "s1lbak3a" in line and line.startswith("|"))
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    assert cells[1:3] == ["0.0496", "1"]
    factors = {column: float(cell.strip("*")) for column, cell in zip(COLUMNS, cells[3:-1], strict=True)}
    assert all(factor > 0 for factor in factors.values()), cells
    assert sum(factors[part] for part in PARTS) == pytest.approx(factors["all"], rel=0.05, abs=0.004)
    assert float(cells[-1]) > 100


def test_a_video_without_faces_is_named(experiment, tmp_path, run):
    video = Video(sound=speech_like(96_000, 48_000)).write(tmp_path / "empty.mp4")
    with pytest.raises(UserError, match="empty.mp4: no face was found"):
        run("--videos", video, "--exp_dir", experiment, "--threads", "1")


def test_the_table_gives_real_time_factors():
    found = dict.fromkeys(COLUMNS, 6.0) | {"video_sec": 60.0, "n_faces": 2, "memory_mb": 512.4}
    row = table({"a.mp4": found}).splitlines()[-1].replace(" ", "")
    assert row == "|a.mp4|1|2|" + "0.100|" * 5 + "**0.100**|0.100|0.100|512|"


def test_what_cannot_be_measured_is_refused_at_once(tmp_path, run, experiment):
    with pytest.raises(UserError, match="none.mp4: no such file"):
        run("--videos", tmp_path / "none.mp4", "--exp_dir", experiment)
    with pytest.raises(UserError, match="audio-only"):
        run("--videos", tmp_path / "none.mp4", "--exp_dir", make_experiment(tmp_path / "exp/audio", None))
