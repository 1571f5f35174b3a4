"""Landmarks in every foreign format, and that nothing in a hostile file is run."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from test_video_landmarks import N_FRAMES, SEEN, TRACK, WITH_GAP, assert_track, face, person, with_arrays

from utils.errors import UserError
from utils.video.landmark_formats import tracks_of
from utils.video.landmarks import read_landmarks, write_people
from utils.video.safe_pickle import read_pickle

# Pickles and numpy files


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_pickled_list_of_the_public_preprocessing_is_read_in_every_protocol(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(WITH_GAP, protocol=protocol))
    assert_track(read_landmarks(path, N_FRAMES), SEEN)


def old_spelling(protocol: int) -> bytes:
    """As numpy before 2 wrote it."""
    return pickle.dumps(WITH_GAP, protocol=protocol).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_pickles_of_older_numpy_are_read(tmp_path):
    path = tmp_path / "a.pkl"
    content = old_spelling(2)
    assert b"numpy.core" in content and b"numpy._core" not in content
    path.write_bytes(content)
    assert_track(read_landmarks(path, N_FRAMES), SEEN)


def test_pickles_of_python_2_are_read():
    """[array([1., 2.])] as Python 2.7 and numpy 1.16 write it with protocol 2: bytes are text there."""
    numbers = np.array([1.0, 2.0]).tobytes()
    content = (b"\x80\x02]q\x00cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
               b"(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02f8K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff"
               b"\xffK\x00tb\x89U\x10" + numbers + b"tba.")  # fmt: skip
    (array,) = read_pickle(content, "a.pkl")
    assert array.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("array", [
    np.arange(6, dtype=">i2").reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((0, 3)),
    np.float32(3.5), np.array([True, False]), np.array(7),
])  # fmt: skip
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_arrays_of_numbers_come_out_of_pickles_as_they_were(array, protocol):
    found = read_pickle(pickle.dumps(array, protocol=protocol), "a.pkl")
    assert found.dtype == array.dtype and np.array_equal(found, array)


def objects(items: list) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    for k, item in enumerate(items):
        array[k] = item
    return array


def faces_of(entry: np.ndarray | None) -> list:
    return [] if entry is None else [{"id": 7, "facial_landmarks": entry, "box": [1, 2]}]


PER_FRAME = {
    "arrays": WITH_GAP,
    "lists": [None if points is None else points.tolist() for points in WITH_GAP],
    "faces": [faces_of(points) for points in WITH_GAP],
    "faces of arrays": [[] if points is None else [points] for points in WITH_GAP],
    "one dict": [None if points is None else {"landmarks": points} for points in WITH_GAP],
    "array of faces": [np.zeros((0, 68, 2)) if points is None else points[None] for points in WITH_GAP],
}


@pytest.mark.parametrize("kind", PER_FRAME)
def test_lists_with_an_entry_for_each_frame_are_read_from_pickles_and_object_arrays(tmp_path, kind):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(tuple(PER_FRAME[kind])))
    np.savez(tmp_path / "a.npz", data=objects(PER_FRAME[kind]))
    for name in ("a.pkl", "a.npz"):
        assert_track(read_landmarks(tmp_path / name, N_FRAMES), SEEN)


def test_an_object_array_with_one_face_in_every_frame_is_read(tmp_path):
    """numpy makes two axes of it."""
    data = np.array([[{"facial_landmarks": points}] for points in TRACK])
    assert data.shape == (N_FRAMES, 1)
    np.savez(tmp_path / "a.npz", data=data)
    assert_track(read_landmarks(tmp_path / "a.npz", N_FRAMES), list(range(N_FRAMES)))


def test_the_place_in_a_frame_tells_who_is_who(tmp_path):
    frames = [[face(100), face(200)], [face(102)], [], [None, face(203)], [face(104), None], [face(105), face(205)]]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(frames))
    one, two = read_landmarks(tmp_path / "a.pkl", N_FRAMES)
    assert (one.name, one.frames.tolist()) == ("face1", [0, 1, 4, 5])
    assert (two.name, two.frames.tolist()) == ("face2", [0, 3, 5])
    np.testing.assert_allclose(two.points[1], face(203), atol=1e-4)


@pytest.mark.parametrize("data", [
    TRACK, TRACK.astype(np.float32), TRACK.transpose(0, 2, 1),
    np.concatenate([TRACK.transpose(0, 2, 1), np.ones((N_FRAMES, 1, 68))], axis=1), np.rint(TRACK).astype(np.int16),
])  # fmt: skip
def test_plain_arrays_are_read(tmp_path, data):
    np.savez(tmp_path / "a.npz", data=data)
    assert_track(read_landmarks(tmp_path / "a.npz", N_FRAMES), list(range(N_FRAMES)), atol=0.51)


class Trap:
    """Running this on loading would show that a pickle was executed."""

    def __reduce__(self):
        return os.mkdir, ("trap-was-sprung",)


class EvalTrap:
    def __reduce__(self):
        return eval, ("__import__('os').mkdir('trap-was-sprung')",)


def hostile_npz(path: Path) -> None:
    np.savez(path, data=objects([Trap(), None]))


def hostile_npz_beside(path: Path) -> None:
    np.savez(path, data=TRACK, more=objects([Trap()]))


def hostile_people(path: Path) -> None:
    write_people(path, [person("anna", [0])], 6, 320, 240)
    with_arrays(names=objects([Trap()]))(path)


HOSTILE = [
    ("a.pkl", lambda path: path.write_bytes(pickle.dumps([Trap()])), "the name (posix|nt).mkdir"),
    ("a.pkl", lambda path: path.write_bytes(pickle.dumps([EvalTrap()], protocol=0)), "the name __builtin__.eval"),
    ("a.pkl", lambda path: path.write_bytes(b"cos\nsystem\n(S'mkdir trap-was-sprung'\ntR."), "the name os.system"),
    ("a.pkl", lambda path: path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x04load\x93."), "the name numpy.load"),
    ("a.pkl", lambda path: path.write_bytes(b"cnumpy\nndarray\n}S'array'\nI1\nsb."), "damaged pickle"),
    ("a.pkl", lambda path: path.write_bytes(pickle.dumps(np.array(["a"]))), "an array of the type 'U1'"),
    ("a.npz", hostile_npz, "the name (posix|nt).mkdir"),
    ("a.npz", hostile_npz_beside, "the name (posix|nt).mkdir"),
    ("a.npz", hostile_people, "the name (posix|nt).mkdir"),
    ("a.npz", lambda path: np.savez(path, data=objects([EvalTrap()])), "the name builtins.eval"),
]


@pytest.mark.parametrize(("name", "write", "reason"), HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_runs_nothing(tmp_path, monkeypatch, name, write, reason):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    with pytest.raises(UserError, match=reason) as error:
        read_landmarks(tmp_path / name, N_FRAMES)
    assert str(error.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(error.value)
    assert not (tmp_path / "trap-was-sprung").exists()


def test_a_shape_that_does_not_fit_its_bytes_is_refused():
    content = pickle.dumps(np.arange(4.0), protocol=2)
    changed = content.replace(b"K\x04\x85", b"K\x05\x85")
    assert changed != content
    with pytest.raises(UserError, match="a.pkl: damaged pickle .ValueError: cannot reshape"):
        read_pickle(changed, "a.pkl")


def test_lists_that_hold_one_another_over_and_over_take_no_time():
    nested: list = [1.0]
    for _ in range(60):
        nested = [nested] * 60
    nested.append(nested)
    with pytest.raises(UserError, match="a.pkl, frame 0: a face is a list of 60 entries"):
        tracks_of(read_pickle(pickle.dumps(nested), "a.pkl"), "a.pkl")


@pytest.mark.parametrize("cut", [0, 1, 10, 300])
def test_a_pickle_that_was_cut_off_is_refused(tmp_path, cut):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(WITH_GAP)[:cut])
    with pytest.raises(UserError, match="damaged pickle"):
        read_landmarks(path, N_FRAMES)


@pytest.mark.parametrize("name", ["a.pkl", "a.npz"])
def test_whatever_is_wrong_in_a_file_it_is_one_line(tmp_path, name):
    """Bytes changed at random: the file is read, or refused as a mistake of the user; nothing else is ever raised."""
    path, rng = tmp_path / name, np.random.default_rng(0)
    if name == "a.pkl":
        path.write_bytes(pickle.dumps(WITH_GAP))
    else:
        np.savez(path, data=objects(WITH_GAP))
    content, refused = path.read_bytes(), 0
    for _ in range(200):
        spoilt = bytearray(content)
        for place in rng.integers(0, rng.choice([60, 300, len(content)]), 3):
            spoilt[place] = rng.integers(256)
        path.write_bytes(spoilt)
        try:
            read_landmarks(path, N_FRAMES)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50


# OpenFace


def write_csv(path: Path, rows: list[list[str]], header: list[str], mark: str = ",") -> None:
    path.write_text("\n".join(mark.join(row) for row in [header, *rows]) + "\n", encoding="utf-8-sig")


OPENFACE = ["frame", "face_id", "timestamp", "confidence", "success", *(f"x_{k}" for k in range(68)),
            *(f"y_{k}" for k in range(68)), "AU45_c"]  # fmt: skip


def openface_row(frame: int, face_id: int, points: np.ndarray, success: int = 1) -> list[str]:
    return [str(frame), str(face_id), "0.0", "0.9", str(success), *(f"{value:.2f}" for value in points.T.reshape(-1)), "0"]


def test_the_columns_of_openface_are_read_whatever_else_is_there(tmp_path):
    rows = [openface_row(k + 1, 0, TRACK[k] if k != 2 else np.zeros((68, 2)), int(k != 2)) for k in range(N_FRAMES)]
    write_csv(tmp_path / "a.csv", rows, OPENFACE, ", ")
    assert_track(read_landmarks(tmp_path / "a.csv", N_FRAMES), SEEN)


def test_openface_counts_from_1_even_where_the_last_row_is_missing(tmp_path):
    write_csv(tmp_path / "a.csv", [openface_row(k + 1, 0, TRACK[k]) for k in range(N_FRAMES - 1)], OPENFACE)
    assert_track(read_landmarks(tmp_path / "a.csv", N_FRAMES), [0, 1, 2, 3, 4])


def test_openface_with_several_faces_gives_several_people(tmp_path):
    rows = [openface_row(k + 1, 0, TRACK[k]) for k in range(N_FRAMES)] + [openface_row(3, 4, face(200))]
    write_csv(tmp_path / "a.csv", rows, OPENFACE)
    one, two = read_landmarks(tmp_path / "a.csv", N_FRAMES)
    assert one.frames.tolist() == list(range(N_FRAMES)) and two.frames.tolist() == [2]


# What is refused


def text(content: str):
    return lambda path: path.write_text(content)


def array(data: np.ndarray):
    return lambda path: np.savez(path, data=data)


def pickled(data):
    return lambda path: path.write_bytes(pickle.dumps(data))


HEADER = ["frame", *(f"x_{k}" for k in range(68)), *(f"y_{k}" for k in range(68))]
NUMBERS = ["1", *["5"] * 136]


def csv_of(*rows: list[str]):
    return lambda path: write_csv(path, list(rows), HEADER)


REFUSED = [
    ("a.npz", array(np.zeros((6, 67, 2))), r"shape \(6, 67, 2\); \(frames, 68, 2\)"),
    ("a.npz", array(np.zeros((68, 2))), r"shape \(68, 2\)"),
    ("a.npz", array(np.zeros((6, 68, 2), bool)), r"landmarks are bool"),
    ("a.npz", text("nonsense"), "not an npz file"),
    ("a.npz", lambda path: np.savez(path, landmarks=TRACK), "neither a landmark file nor .* `data`, but landmarks"),
    ("a.pkl", pickled({"a": 1}), "holds a dict where a list"),
    ("a.pkl", pickled([None, np.zeros((67, 2))]), r"frame 1: a face is an array float64 \(67, 2\) where 68 points"),
    ("a.pkl", pickled([None, [[1, 2]] * 67]), "frame 1: a face is a list of 67 entries"),
    ("a.pkl", pickled([None, [[1, "2"]] * 68]), "frame 1: a face is a list of 68 entries where pairs of numbers"),
    ("a.pkl", pickled([[{"boxes": 1}]]), "frame 0: a face has the keys boxes where `facial_landmarks`"),
    ("a.pkl", pickled([7]), "frame 0: a face is a int"),
    ("a.pkl", pickled([None] * 6), "no frame has a face"),
    ("a.csv", text(""), "row 1: no column x_0"),
    ("a.csv", text(",".join(HEADER) + "\n"), "a header without rows"),
    ("a.csv", csv_of(NUMBERS, NUMBERS[:-1]), "row 3: 136 cells where the header has 137"),
    ("a.csv", csv_of(NUMBERS, ["1", "x", *NUMBERS[2:]]), "row 3: .*'x'; a number is expected"),
    ("a.csv", csv_of(["0.5", *NUMBERS[1:]]), "column frame: 0.5 where a whole number"),
    ("a.csv", csv_of(NUMBERS, NUMBERS), "frame 1 is listed twice"),
    ("a.csv", csv_of(["9999999999", *NUMBERS[1:]]), "frames 9999999999 to 9999999999 where the video has 6"),
    ("a.csv", text("frame,x_0\n1,2\n"), "row 1: no column x_1"),
    ("a.csv", lambda path: path.write_bytes(b"\xff\xfe\x00"), "not a text"),
    ("a.npy", text(""), "landmarks of an unknown kind"),
    ("a.mat", text(""), "landmarks of an unknown kind"),
    ("a.csv", lambda path: None, "no such file"),
]


@pytest.mark.parametrize(("name", "write", "reason"), REFUSED)
def test_what_cannot_be_read_is_named_with_the_reason(tmp_path, name, write, reason):
    write(tmp_path / name)
    with pytest.raises(UserError, match=reason) as error:
        read_landmarks(tmp_path / name, N_FRAMES)
    assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)
