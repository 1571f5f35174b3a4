"""Visual embeddings out of step, lost and frozen: exactly as much as asked, and unchanged where nothing is asked."""

import numpy as np
import pytest

from utils.training.augmentation import augment_visual, drop_frames, freeze_frames, shift_frames
from utils.training.config import DataConfig


@pytest.fixture
def visual():
    return (1 + np.arange(50 * 3)).reshape(50, 3).astype(np.float32)  # no frame is zero, all differ


def test_a_late_video_shows_what_was_to_be_seen_before(visual):
    late, early = shift_frames(visual, 3), shift_frames(visual, -2)
    np.testing.assert_array_equal(late[3:], visual[:-3])
    np.testing.assert_array_equal(late[:3], visual[[0, 0, 0]])
    np.testing.assert_array_equal(early[:-2], visual[2:])
    np.testing.assert_array_equal(early[-2:], visual[[-1, -1]])
    np.testing.assert_array_equal(shift_frames(visual, 99), visual[[0] * 50])


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_as_many_frames_are_lost_or_frozen_as_asked(visual, ratio, seed):
    dropped = drop_frames(visual, ratio, np.random.default_rng(seed))
    lost = ~dropped.any(axis=1)
    assert dropped.dtype == visual.dtype and lost.sum() == round(ratio * 50)
    np.testing.assert_array_equal(dropped[~lost], visual[~lost])
    frozen = freeze_frames(visual, ratio, np.random.default_rng(seed))
    expected = visual.copy()
    for frame in np.flatnonzero(lost):
        expected[frame] = expected[max(frame - 1, 0)]
    np.testing.assert_array_equal(frozen, expected)


def test_what_is_lost_is_lost_in_bursts_anywhere(visual):
    lengths, lost_count = [], np.zeros(50)
    for seed in range(200):
        lost = ~drop_frames(visual, 0.3, np.random.default_rng(seed)).any(axis=1)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], lost, [0]]).astype(int)))
        lengths += (edges[1::2] - edges[::2]).tolist()
        lost_count += lost
    assert np.mean(lengths) > 2.5 and len(set(lengths)) > 5
    assert lost_count.min() > 0.15 * 200 and lost_count.max() < 0.45 * 200


def test_nothing_asked_changes_nothing(visual):
    faces = np.stack([visual, -visual])
    np.testing.assert_array_equal(augment_visual(faces, DataConfig(), np.random.default_rng(0)), faces)


def test_each_face_is_shifted_for_itself_within_the_range(visual):
    config, faces = DataConfig(max_shift_frames=2), np.stack([visual, visual])
    shifts = set()
    for seed in range(300):
        shifted = augment_visual(faces, config, np.random.default_rng(seed))
        shifts.add(tuple(next(by for by in range(-2, 3) if np.array_equal(face, shift_frames(visual, by))) for face in shifted))
    assert len(shifts) == 25


def test_the_ratio_of_lost_frames_is_uniform_up_to_the_limit(visual):
    config, faces = DataConfig(max_dropped_ratio=0.4), np.stack([visual, visual])
    augmented = [augment_visual(faces, config, np.random.default_rng(seed)) for seed in range(100)]
    lost = [(~face.any(axis=1)).mean() for example in augmented for face in example]
    assert min(lost) < 0.05 and 0.35 < max(lost) <= 0.4 and np.mean(lost) == pytest.approx(0.2, abs=0.03)


def test_one_face_or_all_are_missing_as_often_as_asked(visual):
    faces = np.stack([visual, visual])

    def missing(**probs):
        drawn = [augment_visual(faces, DataConfig(**probs), np.random.default_rng(seed)) for seed in range(400)]
        return [tuple(not face.any() for face in example) for example in drawn]

    one = missing(missing_face_prob=0.25)
    assert (True, True) not in one
    assert one.count((True, False)) + one.count((False, True)) == pytest.approx(100, abs=30)
    assert min(one.count((True, False)), one.count((False, True))) > 25
    both = missing(no_visual_prob=0.25)
    assert set(both) == {(True, True), (False, False)} and both.count((True, True)) == pytest.approx(100, abs=30)


def test_no_face_is_missing_where_all_are_to_be_kept(visual):
    faces, config = np.stack([visual, visual]), DataConfig(missing_face_prob=1.0, no_visual_prob=1.0, max_shift_frames=1)
    for seed in range(20):
        kept = augment_visual(faces, config, np.random.default_rng(seed), keep_faces=True)
        other = augment_visual(faces, DataConfig(max_shift_frames=1), np.random.default_rng(seed))
        np.testing.assert_array_equal(kept, other)


def test_the_input_is_not_changed(visual):
    faces = np.stack([visual, visual])
    before = faces.copy()
    ratios = {"max_dropped_ratio": 0.5, "max_frozen_ratio": 0.5}
    config = DataConfig(max_shift_frames=3, missing_face_prob=1.0, no_visual_prob=1.0, **ratios)
    augment_visual(faces, config, np.random.default_rng(0))
    np.testing.assert_array_equal(faces, before)
