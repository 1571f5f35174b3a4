"""Landmarks: the landmark file, counts of frames, and what counts as missing."""

import io
import logging
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from utils.errors import UserError
from utils.video.landmarks import Person, read_landmarks, read_people, write_people

N_FRAMES = 6
EYES, MOUTH = (36, 39, 42, 45), (48, 54)


def face(x: float = 100.0, y: float = 80.0) -> np.ndarray:
    """A face of 68 points: random, but for the stable ones, which lie as in a face."""
    points = np.random.default_rng(0).uniform(-30, 30, (68, 2))
    points[[28, 33, 36, 39, 42, 45, 48, 54]] = [(0, -20), (0, 10), (-36, -33), (-16, -33), (16, -33), (36, -33),
                                               (-22, 30), (22, 30)]  # fmt: skip
    return np.round(points + (x, y), 2)


TRACK = np.stack([face(100 + 2 * k, 80 + k) for k in range(N_FRAMES)])
WITH_GAP = [points if k != 2 else None for k, points in enumerate(TRACK)]
SEEN = [0, 1, 3, 4, 5]


def person(name: str, frames: list[int]) -> Person:
    n = len(frames)
    rng = np.random.default_rng(n)
    points = rng.uniform(0, 90, (n, 68, 2)).astype(np.float32)
    boxes, scores = rng.uniform(0, 90, (n, 4)).astype(np.float32), rng.uniform(0, 1, n).astype(np.float32)
    return Person(name, np.array(frames, np.int64), points, boxes, scores)


def assert_same(one: Person, other: Person) -> None:
    assert one.name == other.name
    for key in ("frames", "points", "boxes", "scores"):
        a, b = getattr(one, key), getattr(other, key)
        assert a.dtype == b.dtype and np.array_equal(a, b), key


def assert_track(people: list[Person], frames: list[int], atol: float = 1e-4) -> None:
    (found,) = people
    assert found.frames.dtype == np.int64 and found.frames.tolist() == frames
    assert found.points.dtype == np.float32
    np.testing.assert_allclose(found.points, TRACK[frames], atol=atol)
    np.testing.assert_allclose(found.boxes[:, :2], found.points.min(axis=1))
    np.testing.assert_allclose(found.boxes[:, 2:], found.points.max(axis=1))
    assert found.scores.tolist() == [1.0] * len(frames)


# The landmark file


def test_people_come_back_as_they_were_written(tmp_path):
    people = [person("anna", [0, 1, 5]), person("never seen", []), person("björn", [2])]
    write_people(tmp_path / "a.npz", people, 6, 320, 240)
    found = read_people(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        assert [int(archive[name]) for name in ("n_frames", "width", "height")] == [6, 320, 240]
    for one, other in zip(people, found, strict=True):
        assert_same(one, other)


def test_a_video_without_people_can_be_written(tmp_path):
    write_people(tmp_path / "a.npz", [], 6, 320, 240)
    assert read_people(tmp_path / "a.npz") == []


def test_a_landmark_file_is_read_as_landmarks_and_cut_to_the_video(tmp_path):
    write_people(tmp_path / "a.npz", [person("anna", [0, 1, 5]), person("b", [2])], 6, 320, 240)
    anna, b = read_landmarks(tmp_path / "a.npz", 5)
    assert anna.frames.tolist() == [0, 1] and len(anna.points) == len(anna.boxes) == len(anna.scores) == 2
    assert b.frames.tolist() == [2]
    with pytest.raises(UserError, match="of 6 frames where the video has 8"):
        read_landmarks(tmp_path / "a.npz", 8)


def test_people_without_a_frame_are_left_out_of_landmarks_and_named(tmp_path, caplog):
    write_people(tmp_path / "a.npz", [person("anna", [0, 1]), person("late", [5])], 6, 320, 240)
    assert [one.name for one in read_landmarks(tmp_path / "a.npz", 5)] == ["anna"]
    assert "left out: late" in caplog.text
    write_people(tmp_path / "a.npz", [person("late", [5])], 6, 320, 240)
    with pytest.raises(UserError, match="no frame has a face"):
        read_landmarks(tmp_path / "a.npz", 5)


def with_arrays(**changed):
    def spoil(path: Path) -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        arrays |= changed
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b""), "not an npz"),
        (lambda path: path.write_bytes(path.read_bytes()[:900]), "not an npz"),
        (with_arrays(points=None, names=None), "without names, points"),
        (
            with_arrays(points=np.zeros((3, 67, 2), np.float32)),
            "`points` is float32 .3, 67, 2. where fractional numbers .3, 68, 2.",
        ),
        (with_arrays(box=np.zeros((3, 4), np.int64)), "`box` is int64"),
        (with_arrays(score=np.array([1, np.nan, 1], np.float32)), "`score` holds values that are not finite"),
        (with_arrays(frame=np.array([0, 0, 5])), "anna are not ascending"),
        (with_arrays(frame=np.array([0, 1, 6])), "within the 6 of the video"),
        (with_arrays(person=np.array([0, 0, 1])), "`person` points outside the 1 names"),
        (with_arrays(names=np.array([3])), "`names` is int64 .* where texts"),
        (with_arrays(width=np.array([320])), r"`width` is int64 \(1,\) where whole numbers \(\) are"),
    ],
)
def test_a_spoilt_landmark_file_is_named_with_the_reason(tmp_path, spoil, reason):
    path = tmp_path / "a.npz"
    write_people(path, [person("anna", [0, 1, 5])], 6, 320, 240)
    spoil(path)
    with pytest.raises(UserError, match=reason) as error:
        read_people(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


# Counts of frames, and what counts as missing


@pytest.mark.parametrize(("n_frames", "expected"), [(5, [0, 1, 3, 4]), (6, SEEN), (7, SEEN)])
def test_one_frame_more_or_less_than_the_video_is_bridged(tmp_path, n_frames, expected):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(WITH_GAP))
    assert_track(read_landmarks(tmp_path / "a.pkl", n_frames), expected)


@pytest.mark.parametrize("n_frames", [4, 8])
def test_another_number_of_frames_is_an_error_that_names_both_and_the_remedy(tmp_path, n_frames):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(WITH_GAP))
    with pytest.raises(UserError, match=f"of 6 frames where the video has {n_frames} at 25 frames a second; give"):
        read_landmarks(tmp_path / "a.pkl", n_frames)


@pytest.mark.parametrize(("n_frames", "n_shown"), [(9, 6), (9, 5), (4, 7)])
def test_landmarks_may_be_of_the_pictures_where_the_sound_is_longer_or_shorter(tmp_path, n_frames, n_shown):
    """AAC fills its last frame: 2 s at 16 kHz last 53 frames of the grid beside 50 pictures."""
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(WITH_GAP))
    assert_track(read_landmarks(tmp_path / "a.pkl", n_frames, n_shown=n_shown), [k for k in SEEN if k < n_frames])
    write_people(tmp_path / "a.npz", [person("anna", [0, 1, 3])], 6, 320, 240)
    assert read_landmarks(tmp_path / "a.npz", n_frames, n_shown=n_shown)[0].frames.tolist() == [0, 1, 3]
    with pytest.raises(UserError, match=r"6 frames where the video has 12 at 25 frames a second \(10 with a picture\); give"):
        read_landmarks(tmp_path / "a.pkl", 12, n_shown=10)


def test_points_that_cannot_be_count_as_missing_and_are_reported(tmp_path, caplog):
    track = TRACK.copy()
    track[1, 7, 0] = np.nan
    track[2] = 0.0  # as some programs write "not found"
    track[3, 60] += 5000
    track[4, 60, 1] = -100.0  # a little outside a picture of 240 rows: a face at the border
    np.savez(tmp_path / "a.npz", data=track)
    with caplog.at_level(logging.WARNING):
        (found,) = read_landmarks(tmp_path / "a.npz", N_FRAMES, size=(320, 240))
    assert found.frames.tolist() == [0, 4, 5]
    assert "3 of 6 frames of face1 are left out" in caplog.text and "the first is frame 1" in caplog.text


def test_frames_that_were_given_as_missing_are_no_matter_for_a_warning(tmp_path, caplog):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(WITH_GAP))
    with caplog.at_level(logging.WARNING):
        read_landmarks(tmp_path / "a.pkl", N_FRAMES)
    assert caplog.text == ""


def test_fractions_of_the_picture_are_not_taken_for_pixels(tmp_path):
    np.savez(tmp_path / "a.npz", data=TRACK / 320)
    with pytest.raises(UserError, match="fractions of the picture, it seems; multiply"):
        read_landmarks(tmp_path / "a.npz", N_FRAMES)


def test_a_failed_write_leaves_the_former_file(tmp_path):
    path = tmp_path / "a.npz"
    write_people(path, [person("anna", [0])], 6, 320, 240)
    before = path.read_bytes()
    broken = Person("b", np.array([0]), np.zeros((1, 60, 2)), np.zeros((1, 4)), np.zeros(1))
    with pytest.raises(ValueError):
        write_people(path, [broken], 6, 320, 240)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.npz"]
    assert zipfile.is_zipfile(io.BytesIO(before))
