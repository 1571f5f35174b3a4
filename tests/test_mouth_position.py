"""The benchmark of mouth positions, on crops whose shift, size and turn against each other are known."""

import sys

import cv2
import numpy as np
import pytest

from utils.benchmarks import mouth_position
from utils.benchmarks.mouth_position import compare, find_clips, find_offset, table, write_sheet
from utils.errors import UserError


def talking_mouth(n_frames: int, seed: int = 0) -> np.ndarray:
    """Pictures (frames, 256, 256) of a textured face whose middle opens and closes in a rhythm of its own."""
    rng = np.random.default_rng(seed)
    face = cv2.GaussianBlur(rng.normal(0, 1, (256, 256)).astype(np.float32), (0, 0), 5.0)
    face = 120 + 40 * face / face.std()
    y, x = np.mgrid[0:256, 0:256] - 128.0
    openings = np.abs(np.convolve(rng.normal(0, 1, n_frames + 4), np.ones(5) / 2, "valid"))
    mouths = [100 * np.exp(-((x / 14) ** 2) - (y / (3 + 6 * opening)) ** 2) for opening in openings]
    return np.stack([np.clip(face - mouth, 0, 255) for mouth in mouths]).astype(np.uint8)


def crops_of(pictures: np.ndarray, dx: float = 0.0, dy: float = 0.0, size: float = 1.0, turn_deg: float = 0.0) -> np.ndarray:
    """The middle 96x96, in which the mouth lies `dx`, `dy` off the middle, larger and turned clockwise."""
    middle = (96 - 1) / 2
    matrix = cv2.getRotationMatrix2D((127.5, 127.5), -turn_deg, size)
    matrix[:, 2] += np.array([middle + dx, middle + dy]) - 127.5
    return np.stack([cv2.warpAffine(picture, matrix, (96, 96), flags=cv2.INTER_CUBIC) for picture in pictures])


SEEN = np.ones(40, dtype=bool)


@pytest.mark.parametrize(("dx", "dy", "size", "turn"), [
    (0, 0, 1, 0), (2.5, -1.25, 1, 0), (-4, 3, 1, 0), (0, 0, 1.05, 0), (1, 1, 0.96, 0), (0.5, 0, 1, 4),
])  # fmt: skip
def test_a_known_shift_size_and_turn_are_measured(dx, dy, size, turn):
    pictures = talking_mouth(40)
    position = compare(crops_of(pictures, dx, dy, size, turn), SEEN, crops_of(pictures[7:32]), "here")
    assert (position.offset, position.frames, position.not_found) == (7, 25, 0)
    assert position.dx == pytest.approx(dx, abs=0.1) and position.dy == pytest.approx(dy, abs=0.1)
    assert position.apart == pytest.approx(np.hypot(dx, dy), abs=0.15)
    assert position.size == pytest.approx(size, abs=0.005) and position.turn == pytest.approx(turn, abs=0.3)


def test_shifts_that_cancel_in_the_mean_do_not_in_the_distance():
    pictures = talking_mouth(40)
    ours = crops_of(pictures, 2.0)
    ours[::2] = crops_of(pictures, -2.0)[::2]
    position = compare(ours, SEEN, crops_of(pictures), "here")
    assert abs(position.dx) < 0.1 and position.abs_dx == pytest.approx(2.0, abs=0.1) == position.apart
    assert position.corr < compare(crops_of(pictures), SEEN, crops_of(pictures), "here").corr == pytest.approx(1.0)


@pytest.mark.parametrize("offset", [0, 3, 15])
def test_the_start_of_the_ready_made_crops_is_found_by_their_movement(offset):
    pictures = talking_mouth(40, seed=offset)
    assert find_offset(crops_of(pictures, 3.0, -2.0), crops_of(pictures[offset : offset + 25])) == offset


def test_frames_that_were_not_seen_are_counted_and_left_out():
    pictures = talking_mouth(40)
    ours, seen = crops_of(pictures, 1.0), SEEN.copy()
    ours[5:9], seen[5:9] = 0, False
    position = compare(ours, seen, crops_of(pictures), "here")
    assert position.not_found == 4 and position.dx == pytest.approx(1.0, abs=0.1)


def test_more_ready_made_frames_than_the_clip_has_are_an_error():
    crops = crops_of(talking_mouth(40))
    with pytest.raises(UserError, match="here: 40 ready-made crops where the clip has 39 frames"):
        compare(crops[:39], SEEN[:39], crops, "here")


def test_crops_without_any_likeness_are_an_error():
    ours = crops_of(talking_mouth(40))
    with pytest.raises(UserError, match="here: no frame of ours resembles the ready-made one"):
        compare(ours, SEEN, np.zeros_like(ours), "here")


def test_clips_are_those_with_both_files_and_folders_without_any_are_an_error(tmp_path):
    for name in ("videos/a.mpg", "videos/b.mpg", "mouths/b.npz", "mouths/c.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clips = find_clips(tmp_path / "videos", tmp_path / "mouths")
    assert clips == {"b": (tmp_path / "videos/b.mpg", tmp_path / "mouths/b.npz")}
    (tmp_path / "mouths/b.npz").unlink()
    with pytest.raises(UserError, match="none of its 2 files has crops"):
        find_clips(tmp_path / "videos", tmp_path / "mouths")
    with pytest.raises(UserError, match="--video_dir .*: no such folder"):
        find_clips(tmp_path / "video", tmp_path / "mouths")


def test_the_table_has_a_row_for_each_clip_and_their_mean():
    pictures = talking_mouth(40)
    ready = crops_of(pictures)
    positions = {name: compare(crops_of(pictures, dx), SEEN, ready, name) for name, dx in (("a", 1.0), ("b", 3.0))}
    header, a, b, mean = (line.split() for line in table(positions).splitlines())
    assert header[:7] == ["clip", "offset", "frames", "not_found", "dx", "dy", "|dx|"]
    assert (a[0], b[0], mean[0]) == ("a", "b", "mean")
    values = [float(row[header.index("apart")]) for row in (a, b)] + [float(mean[header.index("apart") - 1])]
    assert values == pytest.approx([1.0, 3.0, 2.0], abs=0.1)


def test_a_sheet_shows_ours_above_the_ready_made(tmp_path):
    ours, ready = np.full((20, 96, 96), 50, np.uint8), np.full((12, 96, 96), 90, np.uint8)
    write_sheet(tmp_path / "sheets" / "a.png", ours, ready)
    sheet = cv2.imread(str(tmp_path / "sheets" / "a.png"), cv2.IMREAD_GRAYSCALE)
    assert sheet.shape == (2 * 96, 10 * 96)
    assert np.median(sheet[:96]) == 50 and np.median(sheet[96:]) == 90


def test_a_real_clip_lies_within_2_pixels_of_its_ready_made_crops(shared_data, monkeypatch, capsys):
    """The whole program, on one clip of GRID; skipped where there is nothing to look for faces with."""
    pytest.importorskip("mediapipe")
    folders = ["--video_dir", str(shared_data / "grid_video"), "--mouth_dir", str(shared_data / "grid_dla" / "mouths")]
    found = find_clips(shared_data / "grid_video", shared_data / "grid_dla" / "mouths")
    assert len(found) == 14
    monkeypatch.setattr(mouth_position, "find_clips", lambda *_: {"s1lbak3a": found["s1lbak3a"]})
    monkeypatch.setattr(sys, "argv", ["mouth_position", *folders, "--alignment", "centred8"])
    mouth_position.main()
    title, header, row, _ = capsys.readouterr().out.strip().splitlines()
    values = dict(zip(header.split(), row.split(), strict=True))
    assert title == "centred8" and values["clip"] == "s1lbak3a" and values["not_found"] == "0"
    assert float(values["apart"]) < 2.0 and float(values["corr"]) > 0.9
