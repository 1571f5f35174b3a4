"""Mouth crops: the right patch at any size, place and turn, one pass for several people, gaps, borders, short videos."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from test_video_alignment import apply, mean_face, placed, talking

from utils.video.alignment import ALIGNMENTS, mouth_transforms
from utils.video.crops import cut_crop, cut_people
from utils.video.landmarks import Person

HEIGHT, WIDTH = 240, 320


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth RGB picture without any symmetry."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 6.0)
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def person(points: np.ndarray, frames: np.ndarray | None = None, name: str = "a") -> Person:
    frames = np.arange(len(points)) if frames is None else frames
    return Person(name, frames.astype(np.int64), points.astype(np.float32), np.zeros((len(points), 4)), np.ones(len(points)))


def scene(place: np.ndarray) -> np.ndarray:
    """A picture in which the mean face's frame lies somewhere, its content the texture of seed 7."""
    back, face = texture(HEIGHT, WIDTH, 3), texture(256, 256, 7)
    inside = cv2.warpAffine(np.full((256, 256), 255, np.uint8), place, (WIDTH, HEIGHT))
    drawn = cv2.warpAffine(face, place, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.where(inside[..., None] > 127, drawn, back)


def grey_mouth() -> np.ndarray:
    """Where the mouth is in the frame of the mean face."""
    return cv2.cvtColor(texture(256, 256, 7), cv2.COLOR_RGB2GRAY)[158 - 48 : 158 + 48, 129 - 48 : 129 + 48]


def numbered(pictures) -> list[tuple[int, np.ndarray | None]]:
    return list(enumerate(pictures))


def cut_mouths(pictures, person: Person, *args, **options) -> Iterator[tuple[int, np.ndarray, bool]]:
    """Of one person: frame, crop (zeros for one that was not seen), and whether it was seen."""
    for frame, _, [crop] in cut_people(pictures, [person], *args, **options):
        yield frame, np.zeros((96, 96), np.uint8) if crop is None else crop, crop is not None


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("place", [(0, 0.9, (30, 5)), (25, 0.8, (120, -10)), (-40, 0.7, (30, 150)), (8, 0.55, (100, 50))])
def test_the_crop_shows_the_mean_faces_mouth_at_any_size_place_and_turn(alignment, place):
    matrix = placed(*place)
    points = np.repeat(apply(matrix, mean_face())[None], 3, axis=0)
    found = list(cut_mouths(numbered([scene(matrix)] * 3), person(points), 3, alignment))
    assert [(frame, seen) for frame, _, seen in found] == [(0, True), (1, True), (2, True)]
    for _, crop, _ in found:
        assert crop.shape == (96, 96) and crop.dtype == np.uint8
        difference = np.abs(crop.astype(int) - grey_mouth())
        assert difference.mean() < 1.5 and difference.max() < 16  # of 60 grey levels of contrast, drawn and warped


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_a_head_that_moves_leaves_the_same_patch_in_the_crop(alignment):
    """Slow enough for the average over half a second."""
    matrices = [placed(10 + 0.05 * k, 0.8 + 0.0005 * k, (80 + 0.04 * k, 5)) for k in range(30)]
    points = np.stack([apply(matrix, mean_face()) for matrix in matrices])
    for _, crop, _ in cut_mouths(numbered(map(scene, matrices)), person(points), 30, alignment):
        assert np.abs(crop.astype(int) - grey_mouth()).mean() < 4.0


def whole_frame_crop(picture: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """As the published programs do it: the whole frame of 256x256 from the whole grey picture, then the patch."""
    shift = np.array([37.0, 101.0])
    to_frame = transform.copy()
    to_frame[:, 2] += shift
    frame = cv2.warpAffine(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), to_frame, (256, 256), flags=cv2.INTER_LINEAR)
    return frame[101 : 101 + 96, 37 : 37 + 96]


@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_computing_only_the_crop_gives_what_cutting_it_from_the_whole_frame_gives(kind):
    """Up to OpenCV's rounding of places to 1/32 of a pixel: a grey level, and 8 where white noise or a border jumps by 255."""
    rng = np.random.default_rng(0)
    smooth = texture(HEIGHT, WIDTH)
    noise = rng.integers(0, 256, smooth.shape, dtype=np.uint8)
    picture, limit = (smooth, 1) if kind == "smooth" else (noise, 16)
    inside = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    worst, mean = 0, []
    for k in range(40):
        transforms = mouth_transforms(np.arange(40), talking(40, k) * rng.uniform(0.5, 2.5), 40, "centred8")
        transform = transforms[rng.integers(40)]
        crop = cut_crop(picture, transform)
        if crop is not None:
            difference = np.abs(crop.astype(int) - whole_frame_crop(picture, transform))
            at_border = cut_crop(inside, transform) < 255
            assert difference[at_border].max(initial=0) <= 16
            worst = max(worst, int(difference[~at_border].max(initial=0)))
            mean.append(float(difference.mean()))
    assert len(mean) > 20
    assert worst <= limit and np.mean(mean) < limit / 10, (worst, np.mean(mean))


def test_grey_is_that_of_opencv_for_rgb():
    picture = np.zeros((300, 300, 3), np.uint8)
    picture[...] = (200, 100, 50)
    assert np.unique(cut_crop(picture, np.array([[1.0, 0, -50], [0, 1, -50]]))).tolist() == [124]


def test_outside_the_picture_the_crop_is_black():
    picture = np.full((100, 100, 3), 200, np.uint8)
    crop = cut_crop(picture, np.array([[1.0, 0, 40], [0, 1, -30]]))
    assert (crop[:70, 40:] == 200).all() and (crop[:, :39] == 0).all() and (crop[71:] == 0).all()


@pytest.mark.parametrize("shift", [(200, 0), (0, 200), (-200, 0), (0, -200)])
def test_a_mouth_wholly_outside_the_picture_was_not_seen(shift):
    picture = np.full((100, 100, 3), 200, np.uint8)
    assert cut_crop(picture, np.array([[1.0, 0, shift[0]], [0, 1, shift[1]]])) is None


def test_landmarks_that_are_all_in_one_place_give_no_crop():
    points = np.full((3, 68, 2), 50.0)
    found = list(cut_mouths(numbered([texture(HEIGHT, WIDTH)] * 3), person(points), 3, "forward5"))
    assert [seen for _, _, seen in found] == [False] * 3 and not any(crop.any() for _, crop, _ in found)


# Several people, gaps, missing pictures


def test_several_people_in_one_pass_get_the_crops_that_each_gets_alone():
    pictures = [texture(HEIGHT, WIDTH, k) for k in range(40)]
    one, two = person(talking(40, 1)), person(talking(12, 2) * 0.7, np.arange(14, 26), "b")
    taken = []

    def once():
        for frame, picture in enumerate(pictures):
            taken.append(frame)
            yield frame, picture

    together = cut_people(once(), [one, two], 40)
    for k, (frame, picture, crops) in enumerate(together):
        assert (
            frame == k and picture is pictures[k] and taken == list(range(k + 1))
        )  # a picture is not asked for before it is needed
        for of_person, crop in zip((one, two), crops, strict=True):
            _, alone, seen = list(cut_mouths(numbered(pictures), of_person, 40))[k]
            assert np.array_equal(crop, alone) if seen else crop is None
        assert (crops[1] is not None) == (14 <= k < 26)
    assert taken == list(range(40))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_starting_late_gives_the_same_crops(alignment):
    pictures = numbered(texture(HEIGHT, WIDTH, k) for k in range(40))
    frames = np.r_[0:8, 28:40]
    somebody = person(talking(40)[frames], frames)
    whole = list(cut_mouths(pictures, somebody, 40, alignment))
    late = list(cut_mouths(pictures[30:], somebody, 40, alignment))
    for (frame, crop, seen), (late_frame, late_crop, late_seen) in zip(whole[30:], late, strict=True):
        assert frame == late_frame and seen == late_seen and np.array_equal(crop, late_crop)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_a_short_gap_is_bridged_and_a_long_one_is_zeros_that_were_not_seen(alignment):
    frames = np.r_[0:10, 15:30, 50:60]
    somebody = person(np.repeat(apply(placed(0, 0.9, (30, 5)), mean_face())[None], len(frames), axis=0), frames)
    found = list(cut_mouths(numbered([scene(placed(0, 0.9, (30, 5)))] * 60), somebody, 60, alignment))
    seen = np.array([one[2] for one in found])
    assert np.flatnonzero(~seen).tolist() == list(range(30, 50))
    for _, crop, is_seen in found:
        if is_seen:
            assert np.abs(crop.astype(int) - grey_mouth()).mean() < 1.5
        else:
            assert not crop.any()


def test_where_the_video_shows_nothing_nothing_was_seen():
    pictures = numbered([None, texture(HEIGHT, WIDTH), None])
    found = list(cut_mouths(pictures, person(np.repeat(mean_face()[None] * 0.8, 3, axis=0)), 3))
    assert [seen for _, _, seen in found] == [False, True, False]
    assert not found[0][1].any() and found[1][1].any()


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_a_video_of_one_frame_gives_its_crop(alignment):
    matrix = placed(5, 0.8, (60, 10))
    ((frame, crop, seen),) = cut_mouths(numbered([scene(matrix)]), person(apply(matrix, mean_face())[None]), 1, alignment)
    assert frame == 0 and seen and np.abs(crop.astype(int) - grey_mouth()).mean() < 1.5


def test_nobody_gives_no_crops():
    ((frame, _, crops),) = cut_people(numbered([texture(50, 50)]), [], 1)
    assert (frame, crops) == (0, [])
    ((_, crop, seen),) = cut_mouths(numbered([texture(50, 50)]), person(np.zeros((0, 68, 2)), np.zeros(0)), 1)
    assert not seen and not crop.any()
