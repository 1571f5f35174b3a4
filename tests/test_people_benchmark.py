"""The benchmark of telling people apart: what it counts, and what it says of files that it cannot use."""

import importlib.util
import sys

import numpy as np
import pytest

from utils.errors import UserError
from utils.tools import people
from utils.tools.people import Outcome, Shot, compare, face_of, read_shots, table
from utils.video.landmarks import Person
from utils.video.people import FoundPeople


def seen(name: str, first: int, end: int) -> Person:
    n = end - first
    return Person(name, np.arange(first, end), np.zeros((n, 68, 2)), np.zeros((n, 4)), np.zeros(n))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_shot_belongs_to_the_face_that_is_seen_most_in_it():
    found = FoundPeople([seen("face1", 0, 14), seen("face2", 14, 30)], [], 0)
    shots = [Shot(0, 20, "a"), Shot(10, 20, "a"), Shot(40, 10, "b")]
    assert [face_of(shot, found) for shot in shots] == ["face1", "face2", ""]
    assert face_of(shots[0], FoundPeople([], [], 0)) == ""


def test_pairs_of_shots_are_counted():
    shots = [Shot(10 * k, 10, speaker) for k, speaker in enumerate("aaabb")]
    outcome = compare(shots, ["face1", "face1", "face2", "face2", ""], n_found=3)
    assert outcome == Outcome(2, 3, n_same=4, n_same_joined=1, n_different=6, n_different_joined=1)
    last = table([outcome, Outcome(2, 2, 4, 4, 6, 0)]).splitlines()[-1]
    assert cells(last) == ["2", "1", "62.5 %", "8.3 %"]


def test_files_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(UserError, match="people.csv: No such file"):
        read_shots(tmp_path / "people.csv")
    (tmp_path / "people.csv").write_text("video,first_frame,frames,speaker\na,0,x,G1\n")
    with pytest.raises(UserError, match="row 2: not video"):
        read_shots(tmp_path / "people.csv")


@pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="mediapipe is not installed")
def test_a_real_video_is_measured(tmp_path, shared_data, monkeypatch, capsys):
    (tmp_path / "people.csv").write_text("video,first_frame,frames,speaker\ns1bgbh4n,0,20,s1\ns1bgbh4n,20,20,s1\n")
    options = ["--video_dir", shared_data / "grid_video", "--people", tmp_path / "people.csv", "--show_differences", "true"]
    monkeypatch.setattr(sys, "argv", ["people", *map(str, options)])
    people.main()
    printed = capsys.readouterr().out
    assert "face1: s1@0 s1@20" in printed and cells(printed.splitlines()[-1]) == ["1", "1", "100.0 %", "0.0 %"]
