"""Tracks of one person over cuts and absences come together, those of two never; a scan that was broken off goes on."""

import csv
import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from utils.data.files import read_json
from utils.video import face_scan, preparation
from utils.video.descriptors import DESCRIPTOR_DIM
from utils.video.face_scan import scan_faces
from utils.video.faces import Face
from utils.video.people import SAME_PERSON, Group, certainty, distances, find_people, group_tracks, to_people
from utils.video.preparation import VideoOptions, prepare_video
from utils.video.tracking import Track

needs_litert = pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is None, reason="LiteRT is not installed")


BOX = np.array([0, 0, 80, 80], np.float32)


def descriptor_of(person: int, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Two people are about 0.8 apart, a noisy track 0.57 times its noise from a clean one."""
    draw = np.random.default_rng(person).normal(size=DESCRIPTOR_DIM)
    return (0.05 * (draw + noise * np.random.default_rng(1000 + seed).normal(size=DESCRIPTOR_DIM))).astype(np.float32)


def track(
    person: int, start: int, stop: int, x: float = 100.0, shot: int = 0, noise: float = 0.0, step: int = 1, width: float = 80
) -> Track:
    """A face that stands still, with the same descriptor in every frame; its points say whose it is, and when."""
    one = Track(shot)
    box = np.array([x - width / 2, 60, x + width / 2, 140], np.float32)
    for frame in range(start, stop, step):
        points = np.full((68, 2), person, np.float32) + frame / 4096
        one.add(frame, Face(box, 0.9, points, descriptor_of(person, noise, start)))
    return one


def owners(groups: Sequence[Group]) -> list[list[int]]:
    return [[int(one.faces[0].points[0, 0]) for one in tracks] for tracks, _ in groups]


def test_tracks_of_one_person_come_together_and_those_of_others_do_not():
    tracks = [track(k % 3, 100 * k, 100 * k + 50, x=100 * k, shot=k, noise=0.15) for k in range(12)]
    groups = group_tracks(tracks)
    assert owners(groups) == [[0] * 4, [1] * 4, [2] * 4]
    assert all([one.frames[0] for one in tracks] == sorted(one.frames[0] for one in tracks) for tracks, _ in groups)


def test_two_who_look_alike_and_were_seen_at_once_stay_two():
    twins = [track(0, 0, 50, x=100), track(0, 20, 70, x=400), track(0, 200, 250, x=100, shot=1)]
    groups = group_tracks(twins)
    assert sorted(len(tracks) for tracks, _ in groups) == [1, 2]
    assert not any({twins[0], twins[1]} <= set(tracks) for tracks, _ in groups)


def test_interlocking_tracks_without_a_common_frame_may_be_one_person():
    (group,) = group_tracks([track(0, 0, 60, step=2), track(0, 1, 61, step=2)])
    people = to_people([group]).people
    assert people[0].frames.tolist() == list(range(60))
    assert np.array_equal(people[0].points[:, 0, 0], np.arange(60, dtype=np.float32) / 4096)


def test_a_face_that_comes_back_to_its_place_may_look_somewhat_different():
    noise = 0.95  # too much for another place
    assert len(group_tracks([track(0, 0, 50), track(0, 90, 140, noise=noise)])) == 1
    assert len(group_tracks([track(0, 0, 50), track(0, 90, 140, noise=noise, x=400)])) == 2


def test_every_track_is_in_one_group_however_many_there_are():
    rng = np.random.default_rng(0)
    tracks = []
    for k in range(120):
        start = int(rng.integers(0, 3000))
        tracks.append(track(int(rng.integers(0, 6)), start, start + 40, x=float(rng.integers(0, 600)), shot=k, noise=0.2))
    groups = group_tracks(tracks)
    assert sorted(id(one) for members, _ in groups for one in members) == sorted(map(id, tracks))
    for group in groups:
        assert len(set(owners([group])[0])) == 1
        frames = np.concatenate([one.frames for one in group[0]])
        assert len(np.unique(frames)) == len(frames)


def test_people_are_named_from_left_to_right_and_passers_by_are_counted():
    members = [[track(0, 0, 50, x=500)], [track(1, 10, 60, x=100), track(1, 80, 90, x=900)], [track(2, 0, 12, x=10)]]
    groups = [(tracks, 1.0) for tracks in members]
    found = to_people(groups, min_sec=0.5)
    people = found.people
    assert [person.name for person in people] == ["face1", "face2"] and found.n_too_short == 1 and not found.left_out
    assert [int(person.points[0, 0, 0]) for person in people] == [1, 0]
    assert people[0].frames.tolist() == [*range(10, 60), *range(80, 90)] and people[0].frames.dtype == np.int64
    assert people[0].points.shape == (60, 68, 2) and people[0].boxes.shape == (60, 4) and people[0].scores.shape == (60,)
    assert len(to_people(groups, min_sec=0.4).people) == 3


def test_nobody_gives_no_people():
    found = to_people([])
    assert group_tracks([]) == [] and found.people == [] == found.left_out and found.n_too_short == 0


def test_joins_are_as_certain_as_the_least_certain_of_them():
    alike, unlike = track(0, 0, 50), track(0, 100, 150, shot=1, noise=0.82)
    third = track(0, 200, 250, shot=2)
    (single,), (joined,), (three,) = (to_people(group_tracks(tracks)).people for tracks in
                                      ([alike], [alike, unlike], [alike, unlike, third]))  # fmt: skip
    assert [one.parts for one in (single, joined, three)] == [1, 2, 3]
    assert single.certainty == 1.0 and 0.4 < joined.certainty < 0.98
    assert joined.certainty <= three.certainty < 1.0  # the third is one of the two, on average they are closer
    assert certainty(0.3) > 0.99 and 0.4 < certainty(SAME_PERSON) < 0.6 and certainty(0.7) < 0.01


def test_more_descriptors_of_one_person_make_no_other_distance():
    rng = np.random.default_rng(5)
    spread = np.sqrt(0.05 / DESCRIPTOR_DIM)
    one, other = descriptor_of(0), descriptor_of(0, 0.4, 7)
    found = []
    for count in (1, 2, 20):
        apart = []
        for _ in range(200):
            means = [mean + rng.normal(size=(count, DESCRIPTOR_DIM)).mean(axis=0) * spread for mean in (one, other)]
            pair = [Track(shot=k) for k in range(2)]
            for k, mean in enumerate(means):
                for frame in range(100 * k, 100 * k + count):
                    pair[k].add(frame, Face(BOX, 0.9, np.zeros((68, 2)), mean.astype(np.float32)))
            apart.append(distances(pair)[0, 1])
        found.append(np.mean(apart))
    assert np.ptp(found) < 0.03


def test_no_more_people_than_asked_for_the_most_alike_are_joined_first():
    looks = [(0, 0.0), (0, 1.3), (1, 0.0), (1, 1.3)]  # two people, each so different in two shots that they stay apart
    tracks = [track(who, 100 * k, 100 * k + 50, shot=k, noise=noise) for k, (who, noise) in enumerate(looks)]
    assert len(group_tracks(tracks)) == 4 == len(group_tracks(tracks, at_most=4))
    assert owners(group_tracks(tracks, at_most=2)) == [[0, 0], [1, 1]]
    assert min(certain for _, certain in group_tracks(tracks, at_most=2)) < 0.5
    assert len(group_tracks(tracks, at_most=1)) == 1
    short = track(2, 400, 405, shot=4)
    assert len(group_tracks([tracks[0], tracks[2], short], at_most=2, min_frames=12)) == 3  # who is not shown does not count
    assert len(group_tracks([tracks[0], tracks[2], short], at_most=2)) == 2


def test_where_more_are_seen_at_once_the_largest_for_longest_stay():
    tracks = [track(0, 0, 100, x=50), track(1, 0, 30, x=200), track(2, 0, 80, x=350)]
    groups = group_tracks(tracks, at_most=2)
    assert len(groups) == 3
    found = to_people(groups, at_most=2)
    assert [int(person.points[0, 0, 0]) for person in found.people] == [0, 2]
    assert [int(person.points[0, 0, 0]) for person in found.left_out] == [1] and found.n_too_short == 0
    large = track(1, 0, 30, x=200, width=720)
    found = to_people(group_tracks([tracks[0], large, tracks[2]], at_most=2), at_most=2)
    assert {int(person.points[0, 0, 0]) for person in found.people} == {0, 1}


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


@needs_litert
def test_two_people_are_two_over_cuts_absences_and_exchanged_places(video, scanned):
    found = find_people(*video, scanned)
    people = found.people
    assert [person.name for person in people] == ["face1", "face2"] and found.n_too_short == 0
    assert people[0].frames.tolist() == list(range(75))
    assert people[1].frames.tolist() == [*range(25), *range(50, 75)]
    left, right = (person.points[:, 48:68, 0].mean(axis=1) for person in people)
    assert left[:25].max() < 320 < left[50:].min() and right[25:].max() < 320 < right[:25].min()


@needs_litert
def test_a_second_search_reads_what_the_first_one_found(video, scanned, monkeypatch):
    monkeypatch.setattr(face_scan, "read_pictures", None)
    monkeypatch.setattr(face_scan, "FaceFinder", None)
    assert len(find_people(*video, scanned).people) == 2
    (person,) = find_people(*video, scanned, at_most=1).people  # two at once cannot be one
    assert person.frames.tolist() == list(range(75))
    assert len(find_people(*video, scanned, at_most=1).left_out) == 1


@needs_litert
def test_an_interrupted_scan_goes_on_and_ends_with_the_same_faces(video, tmp_path, monkeypatch):
    path, n_frames = video

    def scan(folder: Path) -> list[tuple[int, int, bool]]:
        found = scan_faces(path, n_frames, folder, part_frames=30)
        return [(frame, len(faces), is_cut) for frame, faces, is_cut in found]

    looked_at = []
    read = face_scan.read_pictures

    def watched(*args, stop: int = n_frames, **kwargs):
        for frame, picture in read(*args, **kwargs):
            if frame == stop:
                raise KeyboardInterrupt
            looked_at.append(frame)
            yield frame, picture

    monkeypatch.setattr(face_scan, "read_pictures", watched)
    found = scan(tmp_path / "whole")
    assert found == scan(tmp_path / "whole") and looked_at == list(range(75))
    assert [(frame, n_faces) for frame, n_faces, _ in found] == [(k, 1 if 25 <= k < 50 else 2) for k in range(75)]
    assert [frame for frame, _, is_cut in found if is_cut] == [25, 50]

    monkeypatch.setattr(face_scan, "read_pictures", partial(watched, stop=52))
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        scan(broken)
    assert sorted(part.name for part in broken.iterdir()) == ["part-000.npz"]
    looked_at.clear()
    monkeypatch.setattr(face_scan, "read_pictures", watched)
    assert scan(broken) == found and looked_at == list(range(30, 75))
    for part in (tmp_path / "whole").iterdir():
        with np.load(part) as one, np.load(broken / part.name) as other:
            assert all(np.array_equal(one[name], other[name]) for name in one.files), part.name

    looked_at.clear()
    (broken / "part-002.npz").write_bytes(b"PK damaged")
    assert scan(broken) == found and looked_at == list(range(60, 75))


@needs_litert
def test_a_video_without_faces_has_no_people(tmp_path):
    path = tmp_path / "wall.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(15):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((240, 320, 3), 90, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    found = find_people(path, 20)
    assert found.people == [] and found.n_too_short == 0  # the last five frames have no picture


def write_video(path: Path, pictures: Sequence[np.ndarray]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18", "preset": "veryfast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def before_the_face(picture: np.ndarray, box: np.ndarray, share: float) -> np.ndarray:
    """Something of skin colour that rises before a face until it covers all of it (`share` 1)."""
    x0, y0, x1, y1 = box.astype(int)
    covered = picture.copy()
    top = int(y1 - share * 1.2 * (y1 - y0))
    covered[top : y1 + 30, x0 + 5 : x1 + 20] = (196, 150, 122)
    return covered


def turned(picture: np.ndarray, box: np.ndarray, angle: float) -> np.ndarray:
    """The head as a cylinder around a face's box, turned by an angle in radians; hair on its back."""
    middle, radius = (box[0] + box[2]) / 2, 0.62 * (box[2] - box[0])
    height = box[3] - box[1]
    x, y = np.meshgrid(*(np.arange(length, dtype=np.float32) for length in picture.shape[1::-1]))
    across = (x - middle) / radius
    is_head = (np.abs(across) < 1) & (y > box[1] - 0.35 * height) & (y < box[3] + 0.05 * height)
    around = np.arcsin(np.clip(across, -1, 1)) + angle
    is_seen = np.abs(around) < np.pi / 2
    source = np.where(is_head & is_seen, middle + radius * np.sin(around), x).astype(np.float32)
    head = cv2.remap(picture, source, y, cv2.INTER_LINEAR)
    head[is_head & ~is_seen] = (52, 40, 34)
    return head


@needs_litert
@pytest.mark.parametrize("what", ["hand", "profile", "profile and a cut"])
def test_an_interview_of_two_stays_one_of_two(clips, tmp_path, what):
    box = np.array([101, 120, 205, 254])  # of the left one's face
    pictures = []
    for k in range(90):
        there_and_back = k % 58  # 30 pictures are played to and fro
        index = min(there_and_back, 58 - there_and_back)
        left, right = clips["s1bgbh4n"][index], clips["g4lbbc2a"][index]
        share = float(np.clip((k - 20) / 10, 0, 1) * np.clip((70 - k) / 10, 0, 1))
        if what == "hand":
            left = before_the_face(left, box, share) if share else left
        elif what == "profile and a cut" and k >= 45:
            left = turned(left[:, ::-1], np.array([155, 120, 259, 254]), -1.2 * share)
        else:
            left = turned(left, box, 1.5 * share)
        pictures.append(np.concatenate([left, right], axis=1))
    found = find_people(write_video(tmp_path / "a.mp4", pictures), len(pictures))
    assert len(found.people) == 2
    left, right = found.people
    assert right.frames.tolist() == list(range(90))
    assert len(left.frames) < 85 and {*range(18), *range(75, 90)} <= set(left.frames.tolist())  # it was lost in between


@needs_litert
def test_people_who_change_places_over_cuts_are_known_again(clips, tmp_path):
    pictures = []
    for k in range(75):
        one, other = clips["s1bgbh4n"][k % 25], clips["g4lbbc2a"][k % 25]
        pictures.append(np.concatenate([other, one] if 25 <= k < 50 else [one, other], axis=1))
    found = find_people(write_video(tmp_path / "a.mp4", pictures), 75)
    assert [person.frames.tolist() for person in found.people] == [list(range(75))] * 2
    assert [one.parts for one in found.people] == [3, 3] and min(one.certainty for one in found.people) > 0.95
    left, right = (person.points[:, :, 0].mean(axis=1) for person in found.people)
    assert left[:25].max() < 360 < left[25:50].min() and right[25:50].max() < 360 < right[50:].min()


@needs_litert
def test_three_people_in_nine_shots_are_three(shared_data, tmp_path):
    """Real people on different days, in other clothes, other light: three shots of each, in turn."""
    from utils.video.decoding import read_pictures

    with open(shared_data / "glips/clips.csv", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["speaker"] in ("G100", "G056", "G008")]
    by_speaker = {speaker: [row for row in rows if row["speaker"] == speaker][:3] for speaker in ("G100", "G056", "G008")}
    shots = [by_speaker[speaker][k] for k in range(3) for speaker in by_speaker]
    pictures, first = [], [0]
    for row in shots:
        path = shared_data / "glips/lipread_files" / row["word"] / "test" / f"{row['id']}.mp4"
        pictures += [picture for _, picture in read_pictures(path, 29) if picture is not None]
        first.append(len(pictures))
    found = find_people(write_video(tmp_path / "a.mp4", pictures), len(pictures))
    assert len(found.people) == 3
    for person in found.people:
        counts = np.diff(np.searchsorted(person.frames, first))
        assert len({row["speaker"] for row, count in zip(shots, counts, strict=True) if count}) == 1
        assert (counts > 20).sum() == 3


@needs_litert
def test_other_people_are_asked_for_without_another_look_at_the_video(shared_data, tmp_path, monkeypatch):
    clip = shared_data / "grid_video/s1bgbh4n.mpg"
    made = prepare_video(clip, tmp_path / "a", VideoOptions())
    (person,) = made.people
    assert (person.parts, person.joined_with_certainty, made.left_out) == (1, 1.0, [])
    monkeypatch.setattr(face_scan, "FaceFinder", None)
    again = prepare_video(clip, tmp_path / "a", VideoOptions(people=1, alignment="forward5"))
    assert len(again.people) == 1 and read_json(tmp_path / "a/prepared.json")["stamp"]["people"] == 1
    monkeypatch.setattr(preparation, "_VERSION", 10**6)
    with pytest.raises(TypeError):  # what another version found is looked for again
        prepare_video(clip, tmp_path / "a", VideoOptions())
