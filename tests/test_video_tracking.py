"""Tracks of made-up faces through losses, crossings and cuts, and cuts between made-up and real pictures."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.video.descriptors import DESCRIPTOR_DIM
from utils.video.faces import Face
from utils.video.tracking import CutDetector, Track, follow_faces

SIZE = 80.0  # pixels of a face


def descriptor_of(person: int) -> np.ndarray:
    """Descriptors of two people are about 0.8 apart."""
    return (0.05 * np.random.default_rng(person).normal(size=DESCRIPTOR_DIM)).astype(np.float32)


def face(x: float, y: float = 100.0, person: int = 0, size: float = SIZE, shown: int | None = None) -> Face:
    """A face in doubt, with a descriptor; its points say whose it is (`shown`), which the tracker does not look at."""
    box = np.array([x - size / 2, y - size / 2, x + size / 2, y + size / 2], np.float32)
    points = np.full((68, 2), person if shown is None else shown, np.float32)
    return Face(box, 0.9, points, descriptor_of(person))


def people_of(tracks: list[Track]) -> list[set[float]]:
    return [{float(face.points[0, 0]) for face in track.faces} for track in tracks]


def tracked(frames: dict[int, list[Face]], cuts: tuple[int, ...] = ()) -> list[Track]:
    tracks, _ = follow_faces((frame, faces, frame in cuts) for frame, faces in frames.items())
    return tracks


def test_a_still_face_is_one_track_that_holds_all_of_it():
    (track,) = tracked({frame: [face(50 + frame % 3, person=3)] for frame in range(1000)})
    assert track.frames == list(range(1000))
    assert [face.box[0] for face in track.faces] == [10 + frame % 3 for frame in range(1000)]
    assert np.allclose(track.descriptor, descriptor_of(3), atol=1e-5) and track.shot == 0 and track.n_described == 1000


@pytest.mark.parametrize(("lost", "n_tracks"), [(1, 1), (20, 1), (25, 2), (60, 2)])
def test_a_track_goes_on_after_a_loss_of_less_than_a_second(lost, n_tracks):
    frames = {frame: [face(100)] for frame in range(20)} | {frame: [face(104)] for frame in range(20 + lost, 60 + lost)}
    assert len(tracked(frames)) == n_tracks


def test_a_moving_face_is_expected_where_it_went_while_it_was_lost():
    frames = {frame: [face(100 + 12 * frame)] for frame in range(40) if not 15 <= frame < 22}
    assert len(tracked(frames)) == 1


@pytest.mark.parametrize("looks", [(0, 1), (0, 0)])
def test_faces_that_pass_one_another_keep_their_tracks(looks):
    frames = {}
    for frame in range(60):
        one, other = 100 + 6 * frame, 460 - 6 * frame
        faces = [face(one, 100, looks[0], shown=0), face(other, 110, looks[1], shown=1)]
        frames[frame] = faces if abs(one - other) > 50 else faces[:1]  # the one in front hides the other
    tracks = tracked(frames)
    assert len(tracks) == 2 and people_of(tracks) == [{0.0}, {1.0}]


def test_faces_that_meet_and_turn_back_are_told_by_their_looks():
    frames = {}
    for frame in range(60):
        apart = 5 * abs(frame - 30)
        faces = [face(250 - apart, 100, 0), face(250 + apart, 100, 1)]
        frames[frame] = faces if apart > 30 else faces[1:]
    tracks = tracked(frames)
    assert people_of(tracks) == [{0.0}, {1.0}]


def test_the_order_of_the_faces_in_a_frame_means_nothing():
    rng = np.random.default_rng(0)
    frames = {}
    for frame in range(30):
        faces = [face(100 + 90 * k, person=0, shown=k) for k in range(5)]
        frames[frame] = [faces[k] for k in rng.permutation(5)]
    assert people_of(tracked(frames)) == [{float(k)} for k in range(5)]


def test_the_assignment_is_the_best_as_a_whole():
    # the middle face is nearest to the first track, but the first face has only that track to go on with
    frames = {frame: [face(100, shown=0), face(160, shown=1)] for frame in range(10)}
    frames |= {frame: [face(70, shown=0), face(128, shown=1)] for frame in range(10, 20)}
    assert people_of(tracked(frames)) == [{0.0}, {1.0}]


def test_a_cut_ends_every_track_and_begins_a_shot():
    tracks = tracked({frame: [face(100), face(300, person=1)] for frame in range(40)}, cuts=(20,))
    assert [(track.frames[0], track.frames[-1], track.shot) for track in tracks] == [(0, 19, 0)] * 2 + [(20, 39, 1)] * 2


def test_somebody_else_in_the_same_place_is_another_track_even_without_a_cut():
    tracks = tracked({frame: [face(100, person=frame // 20)] for frame in range(40)})
    assert people_of(tracks) == [{0.0}, {1.0}]


def followed(one: Face, descriptor: np.ndarray | None) -> Face:
    return replace(one, descriptor=descriptor, is_followed=True)


def test_a_face_that_was_followed_without_doubt_is_no_other_whatever_its_descriptor_says():
    faces = {frame: [face(100)] for frame in range(10)}
    faces |= {frame: [followed(face(100), descriptor_of(1) if frame == 15 else None)] for frame in range(10, 40)}
    (track,) = tracked(faces)
    assert track.n_described == 11 and len(track.frames) == 40
    assert len(tracked(faces | {15: [face(100, person=1)]})) == 1  # a single frame of somebody else is dropped
    assert len(tracked(faces | {frame: [face(100, person=1)] for frame in range(15, 25)})) == 2


def test_a_track_without_descriptors_goes_on_by_place_alone():
    bare = {frame: [replace(face(100 + frame), descriptor=None)] for frame in range(20)}
    (track,) = tracked(bare)
    assert track.n_described == 0 and not track.descriptor.any()


def test_a_face_far_away_or_of_another_size_is_another_track():
    frames = {frame: [face(100)] for frame in range(10)}
    assert len(tracked(frames | {frame: [face(300)] for frame in range(10, 20)})) == 2
    assert len(tracked(frames | {frame: [face(100, size=200)] for frame in range(10, 20)})) == 2


def test_a_late_arrival_begins_a_track_of_its_own():
    frames = {frame: [face(100)] + ([face(300, person=1)] if frame >= 33 else []) for frame in range(60)}
    assert [track.frames[0] for track in tracked(frames)] == [0, 33]


def test_moments_and_flicker_are_dropped_and_counted():
    frames = []
    for frame in range(100):
        faces = [face(100)]
        if frame in (10, 11, 12):
            faces.append(face(300, person=1))
        if frame % 12 == 0:
            faces.append(face(500, person=2))
        frames.append((frame, faces, False))
    tracks, n_dropped = follow_faces(frames)
    assert len(tracks) == 1 and n_dropped == {"too short": 1, "flickers": 1}


def test_nothing_gives_no_tracks():
    assert follow_faces((frame, [], frame == 5) for frame in range(10)) == ([], {})


def texture(seed: int, height: int = 360, width: int = 800) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def cuts_of(pictures: list[np.ndarray]) -> list[int]:
    detector = CutDetector()
    return [k for k, picture in enumerate(pictures) if detector.is_cut(picture)]


def test_every_cut_between_different_pictures_is_seen_and_nothing_else():
    assert cuts_of([texture(k // 4)[:, :640] for k in range(40)]) == list(range(4, 40, 4))


def test_flashes_and_fades_are_no_cuts():
    picture = texture(0).astype(float)
    light = [1.0] * 8 + [1.5] + [1.0] * 5 + list(np.linspace(1, 0.1, 12)) + list(np.linspace(0.1, 1, 12))
    assert cuts_of([np.clip(picture * gain + 40 * (gain > 1), 0, 255).astype(np.uint8) for gain in light]) == []


def test_a_pan_is_no_cut():
    wide = texture(0, width=2400)
    at = np.cumsum(np.concatenate([np.linspace(0, 14, 15), np.full(60, 14), np.linspace(14, 0, 15)])).astype(int)
    assert cuts_of([wide[:, x : x + 640] for x in at]) == []


def test_people_before_the_same_wall_are_told_apart_as_shots(shared_data: Path):
    from utils.video.decoding import read_pictures

    names = ["s1bgbh4n", "g2brbk7n", "g3lbax4n", "g4lbbc2a", "s1lbak3a", "g4lbbc2a", "g2brbk7n"]
    pictures = [picture for name in names for _, picture in read_pictures(shared_data / "grid_video" / f"{name}.mpg", 15)]
    assert cuts_of(pictures) == list(range(15, 15 * len(names), 15))
