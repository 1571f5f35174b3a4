"""Tracks of one person over cuts and absences come together, those of two never; a scan that was broken off goes on."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from utils.video import face_scan
from utils.video.appearance import LOOK_DIM
from utils.video.face_scan import FaceScan
from utils.video.people import find_people, group_tracks, to_people
from utils.video.tracking import Track

needs_mediapipe = pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="mediapipe is not installed")


def look_of(person: int, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    look = np.random.default_rng(person).normal(size=LOOK_DIM)
    return (look + noise * np.random.default_rng(1000 + seed).normal(size=LOOK_DIM)).astype(np.float32)


def track(person: int, start: int, stop: int, x: float = 100.0, shot: int = 0, noise: float = 0.0, step: int = 1) -> Track:
    frames = np.arange(start, stop, step, dtype=np.int64)
    boxes = np.tile(np.array([x - 40, 60, x + 40, 140], np.float32), (len(frames), 1))
    points = np.full((len(frames), 68, 2), person, np.float32) + frames[:, None, None] / 4096
    return Track(frames, boxes, points, np.full(len(frames), 0.9, np.float32), look_of(person, noise, start), shot)


def owners(groups: Sequence[Sequence[Track]]) -> list[list[int]]:
    return [[int(one.points[0, 0, 0]) for one in group] for group in groups]


def test_tracks_of_one_person_come_together_and_those_of_others_do_not():
    tracks = [track(k % 3, 100 * k, 100 * k + 50, x=100 * k, shot=k, noise=0.15) for k in range(12)]
    groups = group_tracks(tracks)
    assert owners(groups) == [[0] * 4, [1] * 4, [2] * 4]
    assert all([one.frames[0] for one in group] == sorted(one.frames[0] for one in group) for group in groups)


def test_two_who_look_alike_and_were_seen_at_once_stay_two():
    twins = [track(0, 0, 50, x=100), track(0, 20, 70, x=400), track(0, 200, 250, x=100, shot=1)]
    groups = group_tracks(twins)
    assert len(groups) == 2 and sorted(map(len, groups)) == [1, 2]
    both = [{id(one) for one in group} for group in groups]
    assert not any({id(twins[0]), id(twins[1])} <= group for group in both)


def test_interlocking_tracks_without_a_common_frame_may_be_one_person():
    (group,) = group_tracks([track(0, 0, 60, step=2), track(0, 1, 61, step=2)])
    people, _ = to_people([group])
    assert people[0].frames.tolist() == list(range(60))
    assert np.array_equal(people[0].points[:, 0, 0], np.arange(60, dtype=np.float32) / 4096)


def test_a_face_that_comes_back_to_its_place_may_look_somewhat_different():
    noise = 0.6  # about a third off: too much for another place
    assert len(group_tracks([track(0, 0, 50), track(0, 90, 140, noise=noise)])) == 1
    assert len(group_tracks([track(0, 0, 50), track(0, 90, 140, noise=noise, x=400)])) == 2


def test_every_track_is_in_one_group_however_many_there_are():
    rng = np.random.default_rng(0)
    tracks = []
    for k in range(120):
        start = int(rng.integers(0, 3000))
        tracks.append(track(int(rng.integers(0, 6)), start, start + 40, x=float(rng.integers(0, 600)), shot=k, noise=0.2))
    groups = group_tracks(tracks)
    assert sorted(id(one) for group in groups for one in group) == sorted(map(id, tracks))
    for group in groups:
        assert len(set(owners([group])[0])) == 1
        frames = np.concatenate([one.frames for one in group])
        assert len(np.unique(frames)) == len(frames)


def test_people_are_named_from_left_to_right_and_passers_by_are_counted():
    groups = [[track(0, 0, 50, x=500)], [track(1, 10, 60, x=100), track(1, 80, 90, x=900)], [track(2, 0, 12, x=10)]]
    people, n_ignored = to_people(groups, min_sec=0.5)
    assert [person.name for person in people] == ["face1", "face2"] and n_ignored == 1
    assert [int(person.points[0, 0, 0]) for person in people] == [1, 0]
    assert people[0].frames.tolist() == [*range(10, 60), *range(80, 90)] and people[0].frames.dtype == np.int64
    assert people[0].points.shape == (60, 68, 2) and people[0].boxes.shape == (60, 4) and people[0].scores.shape == (60,)
    assert len(to_people(groups, min_sec=0.4)[0]) == 3


def test_nobody_gives_no_people():
    assert group_tracks([]) == [] and to_people([]) == ([], 0)


@pytest.fixture(scope="module")
def clips(shared_data: Path) -> dict[str, list[np.ndarray]]:
    from utils.video.decoding import read_pictures

    names = ("g2brbk7n", "g4lbbc2a", "s1bgbh4n", "s1lbak3a")
    return {name: [picture for _, picture in read_pictures(shared_data / "grid_video" / f"{name}.mpg", 30)] for name in names}


def beside(*pictures: np.ndarray) -> np.ndarray:
    """Pictures 640x240 of one or two people."""
    parts = [cv2.resize(picture, (300, 240), interpolation=cv2.INTER_AREA) for picture in pictures]
    whole = np.full((240, 640, 3), 60, np.uint8)
    for k, part in enumerate(parts):
        left = (640 // len(parts)) * k + 320 // len(parts) - 150
        whole[:, left : left + 300] = part
    return whole


@pytest.fixture(scope="module")
def video(clips, tmp_path_factory) -> tuple[Path, int]:
    """Two people; one of them; the two on exchanged sides, the one in another recording. 25 frames each."""
    pictures = [beside(clips["g2brbk7n"][k], clips["s1bgbh4n"][k]) for k in range(25)]
    pictures += [beside(clips["g2brbk7n"][k]) for k in range(25)]
    pictures += [beside(clips["s1lbak3a"][k], clips["g2brbk7n"][k]) for k in range(25)]
    path = tmp_path_factory.mktemp("video") / "talk.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = 640, 240, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path, len(pictures)


@pytest.fixture(scope="module")
def scanned(video, tmp_path_factory) -> Path:
    """The folder of a finished scan in one part."""
    folder = tmp_path_factory.mktemp("scan")
    find_people(*video, folder)
    return folder


@needs_mediapipe
def test_two_people_are_two_over_cuts_absences_and_exchanged_places(video, scanned):
    people, n_ignored = find_people(*video, scanned)
    assert [person.name for person in people] == ["face1", "face2"] and n_ignored == 0
    assert people[0].frames.tolist() == list(range(75))
    assert people[1].frames.tolist() == [*range(25), *range(50, 75)]
    left, right = (person.points[:, 48:68, 0].mean(axis=1) for person in people)
    assert left[:25].max() < 320 < left[50:].min() and right[25:].max() < 320 < right[:25].min()


@needs_mediapipe
def test_a_second_search_reads_what_the_first_one_found(video, scanned, monkeypatch):
    monkeypatch.setattr(face_scan, "read_pictures", None)
    monkeypatch.setattr(face_scan, "FaceFinder", None)
    assert len(find_people(*video, scanned)[0]) == 2


@needs_mediapipe
def test_an_interrupted_scan_goes_on_and_ends_with_the_same_faces(video, tmp_path, monkeypatch):
    path, n_frames = video
    whole = FaceScan(path, n_frames, tmp_path / "whole", part_frames=30)
    assert whole.run() == 75 and whole.run() == 0
    found = {frame: (len(faces), is_cut) for frame, faces, is_cut in whole.frames()}
    assert {frame: n for frame, (n, _) in found.items()} == {k: 1 if 25 <= k < 50 else 2 for k in range(75)}
    assert [frame for frame, (_, is_cut) in found.items() if is_cut] == [25, 50]

    read = face_scan.read_pictures

    def broken_off(*args, **kwargs):
        for frame, picture in read(*args, **kwargs):
            if frame == 52:
                raise KeyboardInterrupt
            yield frame, picture

    monkeypatch.setattr(face_scan, "read_pictures", broken_off)
    broken = FaceScan(path, n_frames, tmp_path / "broken", part_frames=30)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    assert sorted(part.name for part in (tmp_path / "broken").iterdir()) == ["part-000.npz"]
    monkeypatch.setattr(face_scan, "read_pictures", read)
    assert broken.run() == 45
    for part in (tmp_path / "whole").iterdir():
        with np.load(part) as one, np.load(tmp_path / "broken" / part.name) as other:
            assert all(np.array_equal(one[name], other[name]) for name in one.files), part.name

    (tmp_path / "broken" / "part-002.npz").write_bytes(b"PK damaged")
    assert broken.run() == 15


@needs_mediapipe
def test_a_video_without_faces_has_no_people(tmp_path):
    path = tmp_path / "wall.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(15):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((240, 320, 3), 90, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    assert find_people(path, 20) == ([], 0)  # the last five frames have no picture
