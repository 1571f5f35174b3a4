"""VoxCeleb2 as VisualVoice has it: mouths as hdf5, indices with the paths of another machine, archives taken in part."""

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from recipe_helpers import ROOT

from utils.corpora.mouth_roi import convert_mouth_roi, read_index
from utils.data.manifest import read_manifest
from utils.data.mouths import MouthFile
from utils.errors import UserError

h5py = pytest.importorskip("h5py")
SPEAKERS = [f"id0001{number}" for number in range(8)]
VIDEOS = ("_-_00001_-1", "RCODGWdfzdY")


def write_h5(path: Path, **arrays) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def test_mouth_regions_become_crops(tmp_path):
    crops = np.random.default_rng(0).integers(0, 256, (7, 96, 96), dtype=np.uint8)
    for dtype in (np.uint8, np.float32):
        assert convert_mouth_roi((write_h5(tmp_path / "a.h5", data=crops.astype(dtype)), tmp_path / "m/a.npz")) == 7
        np.testing.assert_array_equal(MouthFile(tmp_path / "m/a.npz").all(), crops)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mouth": np.zeros((3, 96, 96), np.uint8)}, "no dataset `data`, only .'mouth'."),
        ({"data": np.zeros((3, 88, 88), np.uint8)}, r"\(3, 88, 88\) where \(frames, 96, 96\) is expected"),
        ({"data": np.zeros((0, 96, 96), np.uint8)}, "is expected"),
        ({"data": np.full((3, 96, 96), -1.5)}, "not grey levels"),
        ({"data": np.full((3, 96, 96), np.nan)}, "not grey levels"),
    ],
)
def test_other_hdf5_files_are_refused_in_one_line(tmp_path, arrays, said):
    with pytest.raises(UserError, match=said) as caught:
        convert_mouth_roi((write_h5(tmp_path / "a.h5", **arrays), tmp_path / "a.npz"))
    assert "\n" not in str(caught.value) and not (tmp_path / "a.npz").exists()
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:500])
    with pytest.raises(UserError, match="not an hdf5 file, or cut off"):
        convert_mouth_roi((tmp_path / "b.h5", tmp_path / "b.npz"))


def test_an_index_is_read_whatever_its_root(tmp_path):
    texts = [b"/private/home/x/mp4/train/id00012/21Uxsk56VDQ", b"D:\\vox\\mp4\\id00017\\_-_00001_-1/"]
    assert read_index(write_h5(tmp_path / "train.h5", videos_path=texts)) == [
        ("id00012", "21Uxsk56VDQ"),
        ("id00017", "_-_00001_-1"),
    ]
    with pytest.raises(UserError, match="no folder of a video"):
        read_index(write_h5(tmp_path / "val.h5", videos_path=[b"id00012"]))


@pytest.fixture
def tree(tmp_path, shared_data) -> Path:
    """Eight speakers with two videos of one clip each, mouths of 75 frames beside."""
    source = shared_data / "grid_video/g2brbk7n.mpg"
    for index, speaker in enumerate(SPEAKERS):
        for video in VIDEOS:
            clip = tmp_path / f"vox/mp4/{speaker}/{video}/00001.mp4"
            clip.parent.mkdir(parents=True)
            shutil.copy(source, clip)
            crops = np.full((75, 96, 96), index, np.uint8)
            write_h5(tmp_path / f"vox/mouth_roi_hdf5/train/{speaker}/{video}/00001.h5", data=crops)
    return tmp_path / "vox"


def prepare(tree: Path, data_dir: Path, *more: str) -> subprocess.CompletedProcess:
    program = [sys.executable, str(ROOT / "egs/voxceleb2/prepare.py"), "--data_dir", str(data_dir), "--corpus_dir", str(tree)]
    words = [*program, "--n_val", "1", "--n_test", "3", "--nj", "2", *more]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_mouths_and_splits_of_visualvoice_make_a_corpus(tree, tmp_path):
    index = {
        "train": SPEAKERS[:4], "val": SPEAKERS[4:6], "unseen_unheard_test": SPEAKERS[6:],
    }  # fmt: skip
    for name, speakers in index.items():
        videos = VIDEOS[:1] if name == "train" else VIDEOS
        paths = [f"/their/mp4/{name}/{speaker}/{video}".encode() for speaker in speakers for video in videos]
        write_h5(tree / f"index/{name}.h5", videos_path=paths)
    seen = [f"/their/mp4/seen/{speaker}/{VIDEOS[1]}".encode() for speaker in SPEAKERS[:2]]
    write_h5(tree / "index/seen_heard_test.h5", videos_path=seen)
    (tree / f"mouth_roi_hdf5/train/{SPEAKERS[3]}/{VIDEOS[0]}/00001.h5").unlink()
    words = ("--mouth_dir", str(tree / "mouth_roi_hdf5"), "--index_dir", str(tree / "index"))
    done = prepare(tree, tmp_path / "data", *words)
    assert done.returncode == 1 and "--max_failed" in done.stderr and "Traceback" not in done.stderr
    done = prepare(tree, tmp_path / "data", *words, "--max_failed", "1")
    assert done.returncode == 0, done.stderr
    train = read_manifest(tmp_path / "data/utterances.csv").items
    assert {item.speaker for item in train} == set(SPEAKERS[:3])  # the fourth has no mouth, and is listed
    assert f"{SPEAKERS[3]}_{VIDEOS[0]}_00001" in (tmp_path / "data/failed.csv").read_text()
    tested = read_manifest(tmp_path / "data/test.csv").items
    assert {name for item in tested for name in item.speakers} <= {*SPEAKERS[:2], *SPEAKERS[6:]}
    for item in train:
        file = MouthFile(tmp_path / "data" / item.mouth_path)
        assert np.unique(file.all()).tolist() == [SPEAKERS.index(item.speaker)]
    assert not (tmp_path / "data/videos.csv").exists()  # there is nothing to cut


def test_without_an_index_speakers_are_divided_and_some_videos_of_the_trained_ones_tested(tree, tmp_path):
    done = prepare(tree, tmp_path / "data", "--val_share", "0.25", "--test_share", "0.25", "--seen_heard_share", "0.5")
    assert done.returncode == 0, done.stderr
    train = {item.utterance_id: item.speaker for item in read_manifest(tmp_path / "data/utterances.csv").items}
    clips = {item.utterance_id: item.speaker for item in read_manifest(tmp_path / "data/clips.csv").items}
    assert len(train) == 4 and not set(train) & set(clips) and len(set(train.values())) == 4
    assert set(train.values()) <= set(clips.values())  # each of them is tested on by another video


def test_an_index_that_contradicts_itself_is_refused(tree, tmp_path):
    for name in ("train", "val"):
        write_h5(tree / f"index/{name}.h5", videos_path=[f"/x/{SPEAKERS[0]}/{VIDEOS[0]}".encode()])
    done = prepare(tree, tmp_path / "data", "--index_dir", str(tree / "index"))
    assert done.returncode == 1 and "is in another split too" in done.stderr


def archive_of(path: Path, names: list[str]) -> Path:
    contents = {name: f"content of {name}".encode() for name in names}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def extract(archive: Path, ids: Path, out: Path) -> subprocess.CompletedProcess:
    words = ["--archive", archive, "--ids", ids, "--out_dir", out]
    program = [sys.executable, str(ROOT / "egs/voxceleb2/extract.py"), *map(str, words)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("name", "suffix"), [("mp4.zip", "mp4"), ("aac.zip", "m4a"), ("roi.tar.gz", "h5")])
def test_only_what_is_wanted_is_taken_from_an_archive(tmp_path, name, suffix):
    places = [f"{speaker}/{video}/0000{k}" for speaker in SPEAKERS[:3] for video in VIDEOS for k in (1, 2)]
    names = [f"dev/mp4/{place}.{suffix}" for place in places] + ["../../evil.mp4", "readme.txt", f"x/../{places[0]}.exe"]
    archive, ids = archive_of(tmp_path / name, names), tmp_path / "ids.txt"
    ids.write_text(f"{SPEAKERS[0]}\n{SPEAKERS[1]}/{VIDEOS[0]}\n\n{places[-1]}\n")
    done = extract(archive, ids, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    wanted = sorted(f"{place}.{suffix}" for place in [*places[:4], *places[4:6], places[-1]])
    assert found == wanted and "files written: 7" in done.stdout and not (tmp_path.parent / "evil.mp4").exists()
    assert "files written: 0" in extract(archive, ids, tmp_path / "out").stdout
    ids.write_text(f"{SPEAKERS[0]}/{VIDEOS[0]}/00009\n{SPEAKERS[0]}\n")
    done = extract(archive, ids, tmp_path / "out")
    assert done.returncode == 1 and "does not hold id00010/_-_00001_-1/00009" in done.stderr


def test_bad_lists_and_archives_are_one_line(tmp_path):
    (tmp_path / "ids.txt").write_text("id00017\nid17\n")
    (tmp_path / "half.zip").write_bytes(archive_of(tmp_path / "a.zip", ["id00017/01dfn2spqyE/00001.mp4"]).read_bytes()[:40])
    assert "line 2: 'id17' is neither" in extract(tmp_path / "a.zip", tmp_path / "ids.txt", tmp_path / "o").stderr
    (tmp_path / "ids.txt").write_text("id00017\n")
    done = extract(tmp_path / "half.zip", tmp_path / "ids.txt", tmp_path / "o")
    assert done.returncode == 1 and "neither zip nor tar" in done.stderr and "Traceback" not in done.stderr
    whole = archive_of(tmp_path / "a.tar.gz", [f"id00017/01dfn2spqyE/{k:05d}.mp4" for k in range(50)]).read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "torn.tar.gz").write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 2))
    for name in ("half.tar.gz", "torn.tar.gz"):
        done = extract(tmp_path / name, tmp_path / "ids.txt", tmp_path / "o2")
        assert done.returncode == 1 and "damaged or cut off" in done.stderr and "Traceback" not in done.stderr
