"""Faces out of step, lost and frozen: exactly as much as asked, and nothing where nothing is asked."""

import numpy as np
import pytest

from utils.training.augmentation import VisualAugmentation, drop_frames, freeze_frames, shift_frames


@pytest.fixture
def cues():
    return (1 + np.arange(50 * 3)).reshape(50, 3).astype(np.float32)  # no frame is zero, all differ


def test_a_late_video_shows_what_was_to_be_seen_before(cues):
    late, early = shift_frames(cues, 3), shift_frames(cues, -2)
    np.testing.assert_array_equal(late[3:], cues[:-3])
    np.testing.assert_array_equal(late[:3], cues[[0, 0, 0]])
    np.testing.assert_array_equal(early[:-2], cues[2:])
    np.testing.assert_array_equal(early[-2:], cues[[-1, -1]])
    np.testing.assert_array_equal(shift_frames(cues, 99), cues[[0] * 50])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_as_many_frames_are_lost_or_frozen_as_asked(cues, share, seed):
    dropped = drop_frames(cues, share, np.random.default_rng(seed))
    lost = ~dropped.any(axis=1)
    assert dropped.dtype == cues.dtype and lost.sum() == round(share * 50)
    np.testing.assert_array_equal(dropped[~lost], cues[~lost])
    frozen = freeze_frames(cues, share, np.random.default_rng(seed))
    expected = cues.copy()
    for frame in np.flatnonzero(lost):
        expected[frame] = expected[max(frame - 1, 0)]
    np.testing.assert_array_equal(frozen, expected)


def test_what_is_lost_is_lost_in_bursts_anywhere(cues):
    lengths, lost_count = [], np.zeros(50)
    for seed in range(200):
        lost = ~drop_frames(cues, 0.3, np.random.default_rng(seed)).any(axis=1)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], lost, [0]]).astype(int)))
        lengths += (edges[1::2] - edges[::2]).tolist()
        lost_count += lost
    assert np.mean(lengths) > 2.5 and len(set(lengths)) > 5
    assert lost_count.min() > 0.15 * 200 and lost_count.max() < 0.45 * 200


def test_nothing_asked_changes_nothing(cues):
    faces = np.stack([cues, -cues])
    np.testing.assert_array_equal(VisualAugmentation()(faces, np.random.default_rng(0)), faces)


def test_each_face_is_shifted_for_itself_within_the_range(cues):
    augment, faces = VisualAugmentation(shift_frames=2), np.stack([cues, cues])
    shifts = set()
    for seed in range(300):
        shifted = augment(faces, np.random.default_rng(seed))
        shifts.add(tuple(next(by for by in range(-2, 3) if np.array_equal(face, shift_frames(cues, by))) for face in shifted))
    assert len(shifts) == 25


def test_shares_of_lost_frames_are_uniform_up_to_the_limit(cues):
    augment, faces = VisualAugmentation(drop_frames=0.4), np.stack([cues, cues])
    lost = [(~face.any(axis=1)).mean() for seed in range(100) for face in augment(faces, np.random.default_rng(seed))]
    assert min(lost) < 0.05 and 0.35 < max(lost) <= 0.4 and np.mean(lost) == pytest.approx(0.2, abs=0.03)


def test_one_face_or_all_are_missing_as_often_as_asked(cues):
    faces = np.stack([cues, cues])

    def missing(augment):
        drawn = [augment(faces, np.random.default_rng(seed)) for seed in range(400)]
        return [tuple(not face.any() for face in example) for example in drawn]

    one = missing(VisualAugmentation(drop_face=0.25))
    assert (True, True) not in one
    assert one.count((True, False)) + one.count((False, True)) == pytest.approx(100, abs=30)
    assert min(one.count((True, False)), one.count((False, True))) > 25
    both = missing(VisualAugmentation(drop_all_faces=0.25))
    assert set(both) == {(True, True), (False, False)} and both.count((True, True)) == pytest.approx(100, abs=30)


def test_what_is_given_is_left_alone(cues):
    faces = np.stack([cues, cues])
    before = faces.copy()
    everything = VisualAugmentation(shift_frames=3, drop_frames=0.5, freeze_frames=0.5, drop_face=1.0, drop_all_faces=1.0)
    everything(faces, np.random.default_rng(0))
    np.testing.assert_array_equal(faces, before)
