"""Face crops: where eyes and nose lie in them, their files, the demo's drawn ones, and corpora that have none."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from egs.demo.faces import draw_faces
from egs.demo.mouths import make_face
from utils.data.crops import write_shifted
from utils.data.faces import CHIP_POINTS, CHIP_SIZE, FaceFile, FaceWriter, face_bytes, face_path_of
from utils.errors import UserError
from utils.video.alignment import face_transforms
from utils.video.corpus_mouths import require_faces
from utils.video.crops import cut_people
from utils.video.landmarks import Person


def landmarks(turn: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """68 points (middle of the first pixel 0.5) of a face whose eyes and nose are turned, scaled and shifted chip points."""
    points = np.full((68, 2), 60.0)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for index, place in CHIP_POINTS.items():
        points[index] = matrix @ (np.array(place) + 0.5) + shift
    return points


@pytest.mark.parametrize("size", [150, 160, 224])
@pytest.mark.parametrize(("turn", "scale"), [(0.0, 1.0), (0.4, 1.3), (-0.2, 2.2)])
def test_eyes_and_nose_lie_where_face_frontends_want_them(size, turn, scale):
    points = landmarks(turn, scale, (90.0, 120.0))
    picture = np.zeros((700, 700, 3), np.uint8)
    for index in CHIP_POINTS:
        cv2.circle(picture, tuple(np.rint(points[index] - 0.5).astype(int)), 3, (255, 255, 255), -1)
    person = Person("a", np.array([0]), points[None], np.ones(1), np.zeros((1, 4)))
    ((_, _, (_, face)),) = cut_people([(0, picture)], [person], 1, face_size=size)
    assert face.shape == (size, size, 3)
    for place in CHIP_POINTS.values():
        x, y = (np.array(place) + 0.5) * size / CHIP_SIZE - 0.5
        near = face[round(y) - 6 : round(y) + 7, round(x) - 6 : round(x) + 7, 0].astype(float)
        rows, columns = np.mgrid[round(y) - 6 : round(y) + 7, round(x) - 6 : round(x) + 7]
        middle = (columns * near).sum() / near.sum(), (rows * near).sum() / near.sum()
        assert np.hypot(middle[0] - x, middle[1] - y) < 1.2


def test_short_gaps_are_bridged_and_long_ones_are_not():
    frames = np.array([0, 1, 6, 40])
    points = np.stack([landmarks(0, 1, (frame, 0.0)) for frame in frames])
    found = face_transforms(frames, points, 41, 150)
    assert np.isfinite(found[:7]).all() and np.isfinite(found[-1]).all() and np.isnan(found[20]).all()
    np.testing.assert_allclose(found[4, :, 2], [-4.0, 0.0], atol=1e-6)  # half way between frames 1 and 6


def test_a_file_is_found_by_its_mouth_and_size(tmp_path):
    assert face_path_of(Path("data/x/mouths/a/b.npz"), 160) == Path("data/x/faces/160/a/b.npz")
    assert face_path_of(Path("mouths/mouths/b.npz"), 150) == Path("mouths/faces/150/b.npz")
    with pytest.raises(UserError, match="--cues lips"):
        face_path_of(tmp_path / "lips/b.npz", 150)
    with pytest.raises(UserError, match="this corpus ships crops of mouths.*--cues lips"):
        require_faces([tmp_path / "mouths/b.npz"], 150)


def test_crops_are_read_back_and_moved_with_the_sound(tmp_path):
    faces = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8)
    path = tmp_path / "a.npz"
    with FaceWriter(path, 6, 40) as writer:
        for index, face in enumerate(faces):
            writer.add(face, index != 2)
    assert path.stat().st_size < 6 * face_bytes(40) + 1000
    file = FaceFile(path)
    assert (file.size, file.n_frames, file.mask.tolist()) == (40, 6, [True, True, False, True, True, True])
    np.testing.assert_array_equal(file.all(), faces)
    write_shifted(file, FaceWriter(path, 6, 40), -2)
    np.testing.assert_array_equal(FaceFile(path).all()[2:], faces[:4])
    assert FaceFile(path).mask.tolist() == [False, False, True, True, False, True]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 40, 40), np.uint8), r"\(frames, size, size, 3\) is expected"),
        (np.zeros((3, 40, 41, 3), np.uint8), r"\(frames, size, size, 3\) is expected"),
        (np.zeros((3, 40, 40, 3), np.float32), "uint8 is expected"),
        (np.zeros((0, 40, 40, 3), np.uint8), "hold no frame"),
        (np.array([{}], dtype=object), "pickled"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, array, said):
    np.savez(tmp_path / "a.npz", data=array)
    with pytest.raises(UserError, match=said) as caught:
        FaceFile(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_drawn_faces_show_the_speaker_above_and_the_mouth_below():
    rng = np.random.default_rng(0)
    mouths = rng.integers(60, 200, (3, 96, 96), dtype=np.uint8)
    one, again, other = (draw_faces(number, make_face(number, "f"), mouths) for number in (1, 1, 3))
    assert one.shape == (3, 150, 150, 3) and np.array_equal(one, again)
    assert np.array_equal(one[0, :50], one[1, :50])  # nothing moves above
    assert np.abs(one[:, :50].astype(int) - other[:, :50]).mean() > 10
    grey = one.astype(float) @ [0.299, 0.587, 0.114]
    middle = np.abs(grey[:, 85:130, 40:108] - mouths[:, 26:71, 14:82])
    assert middle.mean() < 1.0  # colours leave the mouth as bright as it is
