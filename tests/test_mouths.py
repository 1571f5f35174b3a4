"""Mouth crops: what is read, and that every damaged or hostile file is named and nothing in it is run."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from utils.data.mouths import MouthFile, MouthWriter, fill_unseen, read_mouths
from utils.errors import UserError


class Trap:
    """Running this on loading would show that a pickle was executed."""

    def __reduce__(self):
        return os.mkdir, ("trap-was-sprung",)


def crops(*shape: int, dtype=np.uint8, key: str = "data"):
    return lambda path: np.savez_compressed(path, **{key: np.zeros(shape, dtype)})


def pickled(path: Path) -> None:
    np.savez(path, data=np.array([Trap()], dtype=object))


def flip_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2000:2050] = bytes(255 - byte for byte in data[2000:2050])
    path.write_bytes(data)


def other_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "no array")


SPOILT_MOUTHS = [
    (pickled, "pickled objects"),
    (lambda path: path.write_bytes(path.read_bytes()[:3000]), "cut off"),
    (lambda path: path.write_bytes(b""), "not an npz"),
    (flip_bytes, "damaged npz"),
    (other_archive, "`data` is no array"),
    (crops(5, 96, 96, key="mouths"), "no key `data`, only .'mouths'"),
    (crops(5, 88, 88), "shape"),
    (crops(5, 96, 96, 4), "shape"),
    (crops(96, 96), "shape"),
    (crops(), "shape"),
    (crops(0, 96, 96), "no frame"),
    (crops(5, 96, 96, dtype=np.float32), "float32 where uint8"),
    (lambda path: path.unlink(), "no such file"),
]


@pytest.mark.parametrize(("spoil", "reason"), SPOILT_MOUTHS)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path, monkeypatch, spoil, reason):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, data=np.random.default_rng(0).integers(0, 256, (5, 96, 96), dtype=np.uint8))
    spoil(path)
    with pytest.raises(UserError, match=reason) as error:
        read_mouths(path)
    assert str(error.value).startswith(f"{path}: ")
    assert not (tmp_path / "trap-was-sprung").exists()


def test_grey_crops_come_back_as_they_are(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (5, 96, 96), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", data=grey, more=np.zeros(3))
    assert np.array_equal(read_mouths(tmp_path / "a.npz"), grey)


def test_colour_crops_become_grey_by_luma(tmp_path):
    rgb = np.zeros((2, 96, 96, 3), np.uint8)
    rgb[0] = (255, 0, 0)
    rgb[1] = (200, 200, 200)
    np.savez(tmp_path / "a.npz", data=rgb)
    grey = read_mouths(tmp_path / "a.npz")
    assert grey.shape == (2, 96, 96) and grey.dtype == np.uint8
    assert np.unique(grey[0]) == [76] and np.unique(grey[1]) == [200]


def test_what_the_writer_wrote_block_by_block_is_read_back_by_numpy_and_by_blocks(tmp_path):
    crops = np.random.default_rng(0).integers(0, 256, (7, 96, 96), dtype=np.uint8)
    mask = np.array([0, 1, 1, 0, 1, 1, 0], bool)
    with MouthWriter(tmp_path / "a.npz", 7) as writer:
        for crop, seen in zip(crops, mask, strict=True):
            writer.add(crop, seen)
        assert not (tmp_path / "a.npz").exists()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert np.array_equal(archive["data"], crops) and np.array_equal(archive["mask"], mask)
    mouths = MouthFile(tmp_path / "a.npz")
    blocks = list(mouths.blocks(3))
    assert [len(block) for block in blocks] == [3, 3, 1]
    assert np.array_equal(np.concatenate(blocks), crops) and np.array_equal(mouths.mask, mask)


@pytest.mark.parametrize("how", ["too few", "killed"])
def test_crops_that_were_not_all_written_leave_no_file(tmp_path, how):
    error = ValueError if how == "too few" else KeyboardInterrupt
    with pytest.raises(error), MouthWriter(tmp_path / "a.npz", 3) as writer:
        writer.add(np.zeros((96, 96), np.uint8), True)
        if how == "killed":
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mask", [np.ones(4, bool), np.ones(5, np.uint8), np.ones((5, 1), bool)])
def test_a_mask_that_is_not_one_flag_a_frame_is_refused(tmp_path, mask):
    np.savez(tmp_path / "a.npz", data=np.zeros((5, 96, 96), np.uint8), mask=mask)
    with pytest.raises(UserError, match="`mask` is"):
        MouthFile(tmp_path / "a.npz")


def test_unseen_frames_take_the_nearest_crop_that_is_near_enough():
    mask = np.zeros(60, bool)
    mask[[2, 7, 8]] = True
    filled = fill_unseen(np.arange(60), mask)
    assert filled[:9].tolist() == [2, 2, 2, 2, 2, 7, 7, 7, 8]
    assert filled[9:25].tolist() == [8] * 16 and filled[25:].tolist() == list(range(25, 60))
