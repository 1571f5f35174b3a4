"""Alignment to the mean face: both published ways, restated here word by word, gaps, short runs and known transforms."""

import cv2
import numpy as np
import pytest

from utils.video.alignment import _MEAN_FACE, ALIGNMENTS, mouth_transforms, similarities

MOUTH_MIDDLE = (129.31, 157.82)  # of the mean face


def mean_face() -> np.ndarray:
    """68 points whose stable ones and middle of the mouth are those of the mean face; the others lie anywhere."""
    rng = np.random.default_rng(1)
    points = rng.uniform(80, 190, (68, 2))
    points[list(_MEAN_FACE)] = list(_MEAN_FACE.values())
    free = np.r_[49:54, 55:68]
    points[free] += (np.array(MOUTH_MIDDLE) * 20 - points[48:68].sum(axis=0)) / len(free)
    return points


def placed(turn_deg: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """The (2, 3) similarity that puts the mean face into a picture."""
    a, b = scale * np.cos(np.radians(turn_deg)), scale * np.sin(np.radians(turn_deg))
    return np.array([[a, -b, shift[0]], [b, a, shift[1]]])


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def talking(n: int, seed: int = 0) -> np.ndarray:
    """Landmarks (n, 68, 2) of a head that moves, with noise, as a finder gives them."""
    rng = np.random.default_rng(seed)
    moves = [placed(8 * np.sin(k / 9), 0.6 + 0.1 * np.sin(k / 13), (40 + 0.7 * k, 30 + 4 * np.sin(k / 5))) for k in range(n)]
    return np.stack([apply(move, mean_face()) for move in moves]) + rng.normal(0, 0.8, (n, 68, 2))


def transforms_of(points: np.ndarray, alignment: str) -> np.ndarray:
    """Of a face that is seen in every frame."""
    return mouth_transforms(np.arange(len(points)), points, len(points), alignment)


def seen(transforms: np.ndarray) -> list[int]:
    return np.flatnonzero(np.isfinite(transforms).all(axis=(1, 2))).tolist()


# The published programs, restated


def corner(middle: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        middle[axis] = 48 if middle[axis] - 48 < 0 else middle[axis]
        middle[axis] = 256 - 48 if middle[axis] + 48 > 256 else middle[axis]
    return np.array([round(value) - 48 for value in middle])


def published_centred(points: np.ndarray, k: int) -> np.ndarray:
    stable = (28, 33, 36, 39, 42, 45, 48, 54)
    margin = min(12 // 2, k, len(points) - 1 - k)
    smoothed = np.mean([points[j] for j in range(k - margin, k + margin + 1)], axis=0)
    smoothed += points[k].mean(axis=0) - smoothed.mean(axis=0)
    matrix = cv2.estimateAffinePartial2D(smoothed[list(stable)], np.array([_MEAN_FACE[s] for s in stable]), method=cv2.LMEDS)[0]
    matrix[:, 2] -= corner(apply(matrix, smoothed)[48:68].mean(axis=0))
    return matrix


def published_forward(points: np.ndarray, k: int) -> np.ndarray:
    stable = (33, 36, 39, 42, 45)
    reference = np.array([_MEAN_FACE[s] for s in stable])
    first = min(k, len(points) - 12)
    smoothed = np.mean(points[first : first + 12], axis=0)[list(stable)]
    # a least squares similarity (a, b, tx, ty), solved as a linear system
    rows = [row for x, y in smoothed for row in ((x, -y, 1, 0), (y, x, 0, 1))]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), reference.reshape(-1), rcond=None)[0]
    matrix = np.array([[a, -b, tx], [b, a, ty]])
    matrix[:, 2] -= corner(apply(matrix, points[k])[48:68].mean(axis=0))
    return matrix


PUBLISHED = {"centred8": published_centred, "forward5": published_forward}


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("n", [12, 13, 25, 60])
def test_every_frame_is_transformed_as_the_published_program_does(alignment, n):
    points = talking(n)
    transforms = transforms_of(points, alignment)
    assert transforms.shape == (n, 2, 3)
    for k in range(n):
        np.testing.assert_allclose(transforms[k], PUBLISHED[alignment](points, k), atol=1e-6)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize(("place", "middle"), [
    ((0.0, 1.0, (0.0, 0.0)), None), ((17.0, 0.5, (60.0, 40.0)), None), ((-30.0, 2.5, (-100.0, 30.0)), None),
])  # fmt: skip
def test_a_face_of_known_size_place_and_turn_is_brought_back_to_the_mean_face(alignment, place, middle):
    points = np.repeat(apply(placed(*place), mean_face())[None], 20, axis=0)
    transforms = transforms_of(points, alignment)
    for k in (0, 7, 19):
        brought = apply(transforms[k], points[k])
        np.testing.assert_allclose(brought, mean_face() - (129 - 48, 158 - 48), atol=1e-3)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_a_mouth_near_the_border_of_the_mean_faces_frame_stays_within_it(alignment):
    """A mouth far from where the stable points want it: the crop stops at the frame's end."""
    points = np.repeat(mean_face()[None], 20, axis=0)
    points[:, np.r_[49:54, 55:68], 1] += 95.0
    brought = apply(transforms_of(points, alignment)[3], mean_face())
    np.testing.assert_allclose(brought - mean_face(), np.tile((-(129 - 48), -(256 - 96)), (68, 1)), atol=1e-3)


def test_the_robust_alignment_ignores_a_landmark_that_went_astray():
    points = np.repeat(mean_face()[None], 20, axis=0)
    points[:, 36] += (40, -30)
    brought = apply(transforms_of(points, "centred8")[3], mean_face())
    np.testing.assert_allclose(brought, mean_face() - (81, 110), atol=0.05)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("n", [1, 2, 5, 11])
def test_runs_shorter_than_the_window_give_crops_too(alignment, n):
    points = np.repeat(apply(placed(10, 0.7, (30, 20)), mean_face())[None], n, axis=0)
    transforms = transforms_of(points, alignment)
    for k in range(n):
        np.testing.assert_allclose(apply(transforms[k], points[k]), mean_face() - (81, 110), atol=1e-3)


def test_a_short_forward_run_is_averaged_as_a_whole():
    points = talking(5)
    transforms = transforms_of(points, "forward5")
    assert (transforms[:, :, :2] == transforms[0, :, :2]).all()


# Gaps


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_short_gaps_are_interpolated_and_the_ends_repeated(alignment):
    """As if the landmarks had been there: all move evenly."""
    points = np.stack([mean_face() + (0.5 * k, -0.25 * k) for k in range(40)])
    frames = np.r_[0:10, 15:38]
    full = points.copy()
    full[38:] = points[37]
    found = mouth_transforms(frames, points[frames], 40, alignment)
    np.testing.assert_allclose(found, transforms_of(full, alignment), atol=1e-6)


def test_the_first_frames_repeat_the_first_landmarks():
    points = talking(20)
    whole = transforms_of(np.concatenate([np.repeat(points[:1], 5, axis=0), points]), "centred8")
    np.testing.assert_allclose(mouth_transforms(np.arange(5, 25), points, 25, "centred8"), whole, atol=1e-9)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_nothing_is_smoothed_over_a_longer_gap(alignment):
    """Both halves are transformed as if the other were not there."""
    points = talking(60)
    frames = np.r_[0:20, 33:60]
    found = mouth_transforms(frames, points[frames], 60, alignment)
    assert seen(found) == frames.tolist()
    np.testing.assert_array_equal(found[:20], transforms_of(points[:20], alignment))
    np.testing.assert_array_equal(found[33:], transforms_of(points[33:], alignment))


@pytest.mark.parametrize(("gap", "is_bridged"), [(0, True), (1, True), (12, True), (13, False)])
def test_the_longest_gap_that_is_bridged_counts_its_frames(gap, is_bridged):
    frames = np.r_[0:5, 5 + gap : 10 + gap]
    found = seen(mouth_transforms(frames, talking(10), 10 + gap, "centred8"))
    assert found == (list(range(10 + gap)) if is_bridged else frames.tolist())


def test_frames_at_the_ends_beyond_the_longest_gap_stay_without_a_face():
    assert seen(mouth_transforms(np.arange(13, 20), talking(7), 33, "centred8")) == list(range(13, 20))
    assert seen(mouth_transforms(np.arange(12, 20), talking(8), 32, "centred8")) == list(range(32))


def test_nobody_gives_no_transform_and_frames_after_the_video_are_of_no_interest():
    assert seen(mouth_transforms(np.zeros(0, int), np.zeros((0, 68, 2)), 10, "centred8")) == []
    found = mouth_transforms(np.arange(20), talking(20), 15, "centred8")
    np.testing.assert_array_equal(found, transforms_of(talking(20)[:15], "centred8"))


def test_an_unknown_alignment_is_refused():
    with pytest.raises(ValueError, match="'centered': not one of centred8, forward5"):
        mouth_transforms(np.arange(3), talking(3), 3, "centered")


# Numbers


def test_the_mean_face_is_that_of_the_published_preprocessing(shared_data):
    published = np.load(shared_data / "weights" / "mean_face_68.npy")
    for point, place in _MEAN_FACE.items():
        np.testing.assert_allclose(place, published[point], atol=0.00501)
    np.testing.assert_allclose(published[48:68].mean(axis=0), MOUTH_MIDDLE, atol=0.01)


def test_similarities_undo_what_was_done_and_mirror_nothing():
    reference = np.random.default_rng(0).uniform(0, 100, (8, 2))
    places = [placed(30, 2, (5, 6)), placed(-100, 0.3, (-50, 9))]
    for place, found in zip(places, similarities(np.stack([apply(p, reference) for p in places]), reference), strict=True):
        np.testing.assert_allclose(apply(found, apply(place, reference)), reference, atol=1e-9)
    mirrored = similarities(reference[None] * (-1, 1), reference)[0]
    assert np.linalg.det(mirrored[:, :2]) > 0
