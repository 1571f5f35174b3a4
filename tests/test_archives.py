"""Wanted members of archives, walks over trees of clips, and the disk that they need."""

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from utils.data.archives import extract_wanted
from utils.data.clip_tree import AUDIO_SUFFIXES, walk_tree
from utils.data.disk import readable_bytes, require_space
from utils.errors import UserError

MEMBERS = {
    "mp4/test/id00017/_8K1hWkir-o/00001.mp4": b"first" * 1000,
    "mp4/test/id00017/_8K1hWkir-o/00002.mp4": b"second",
    "mp4/test/id00170/_8K1hWkir-o/00001.mp4": b"third",
    "mp4/test/id00019/a b/00001.mp4": b"fourth",
}


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


MAKERS = {"tar.gz": make_tar, "zip": make_zip}


def found_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("wanted", ["id00017__8K1hWkir-o_00001", "id00017/_8K1hWkir-o/00001"])
def test_only_wanted_members_are_taken_out(tmp_path, kind, wanted):
    archive = MAKERS[kind](tmp_path / f"a.{kind}", MEMBERS)
    written, found = extract_wanted(archive, {wanted, "id09999_x_00001"}, tmp_path / "out")
    first = next(iter(MEMBERS))
    assert (written, found) == (1, {wanted})
    assert found_below(tmp_path / "out") == {first: MEMBERS[first]}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_speaker_wants_all_of_his_clips_and_nobody_elses(tmp_path, kind):
    archive = MAKERS[kind](tmp_path / f"a.{kind}", MEMBERS)
    extract_wanted(archive, {"id00017"}, tmp_path / "out")
    assert set(found_below(tmp_path / "out")) == {name for name in MEMBERS if "/id00017/" in name}


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_there_stays_and_what_was_cut_off_is_made_again(tmp_path, kind):
    archive = MAKERS[kind](tmp_path / f"a.{kind}", MEMBERS)
    extract_wanted(archive, {"id00017"}, tmp_path / "out")
    first = tmp_path / "out" / next(iter(MEMBERS))
    first.write_bytes(b"cut")
    assert extract_wanted(archive, {"id00017"}, tmp_path / "out")[0] == 1
    assert found_below(tmp_path / "out")[next(iter(MEMBERS))] == MEMBERS[next(iter(MEMBERS))]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", ["../id1.mp4", "/tmp/id1.mp4", "a/../../id1.mp4", "..\\id1.mp4"])
def test_a_member_that_leads_out_of_the_folder_is_refused(tmp_path, kind, name):
    archive = MAKERS[kind](tmp_path / f"a.{kind}", {name: b"x"})
    with pytest.raises(UserError, match="do not trust this archive"):
        extract_wanted(archive, {"id1", "..\\id1"}, tmp_path / "out" / "below")
    assert not list(tmp_path.rglob("*id1*"))


@pytest.mark.parametrize("kind", MAKERS)
def test_an_id_in_both_spellings_is_found_in_both(tmp_path, kind):
    archive = MAKERS[kind](tmp_path / f"a.{kind}", MEMBERS | ({".": b"x"} if kind == "zip" else {}))
    ids = {"id00017__8K1hWkir-o_00001", "id00017/_8K1hWkir-o/00001"}
    assert extract_wanted(archive, ids, tmp_path / "out") == (1, ids)


@pytest.mark.parametrize("name", ["C:/id1.mp4", "a\nb/id1.mp4"])
def test_a_member_with_a_name_for_no_disk_is_refused_for_that_reason(tmp_path, name):
    archive = make_tar(tmp_path / "a.tar", {name: b"x"})
    with pytest.raises(UserError, match="a colon or a control character") as caught:
        extract_wanted(archive, {"id1"}, tmp_path / "out")
    assert "\n" not in str(caught.value) and not list(tmp_path.rglob("*id1*"))


def test_a_link_in_a_tar_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("x/id1.mp4")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(UserError, match="is a link or a device"):
        extract_wanted(path, {"id1"}, tmp_path / "out")


@pytest.mark.parametrize("kind", MAKERS)
def test_a_damaged_archive_is_told_in_one_line(tmp_path, kind):
    archive = MAKERS[kind](tmp_path / f"a.{kind}", MEMBERS)
    archive.write_bytes(archive.read_bytes()[:120])
    with pytest.raises(UserError, match="damaged, or no tar or zip") as caught:
        extract_wanted(archive, {"id00017"}, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_the_program_lists_ids_that_no_archive_has(tmp_path, repo_root):
    archives = [make_zip(tmp_path / "a.zip", MEMBERS), make_tar(tmp_path / "b.tar", {"aac/id00018/x/00001.m4a": b"s"}, "w")]
    ids = tmp_path / "ids.txt"
    ids.write_bytes("\ufeffid00017__8K1hWkir-o_00002\r\nid00018_x_00001\r\nid00020_y_00001\r\n".encode())
    command = [sys.executable, "-m", "utils.data.archives", "--archive", *archives, "--ids", ids, "--out_dir", tmp_path / "out"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "1 ids are in none of the archives (first: id00020_y_00001)" in done.stderr
    assert (tmp_path / "out" / "a.zip.absent.txt").read_text() == "id00020_y_00001\n"
    assert (tmp_path / "out" / "aac/id00018/x/00001.m4a").read_bytes() == b"s"


# Trees


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def test_a_tree_names_clips_by_their_places(tmp_path):
    touch(tmp_path, "_a-/x/1.wav", "b/y.M4A", "b/notes.txt", ".hidden/z.wav", "b/.z.wav")
    clips, problems = walk_tree(tmp_path, AUDIO_SUFFIXES)
    assert {name: item.place for name, item in clips.items()} == {"_a-_x_1": ("_a-", "x", "1"), "b_y": ("b", "y")}
    assert not problems
    assert set(walk_tree(tmp_path, AUDIO_SUFFIXES, depth=1)[0]) == {"b_y"}


def test_two_files_of_one_id_are_told_and_neither_is_taken(tmp_path):
    touch(tmp_path, "a_b/c.wav", "a/b_c.wav", "d.wav", "d.m4a", "e.wav")
    clips, problems = walk_tree(tmp_path, AUDIO_SUFFIXES)
    assert set(clips) == {"e"}
    assert sorted(problem.item_id for problem in problems) == ["a_b_c", "d"]
    assert "a/b_c.wav" in problems[0].reason + problems[1].reason


# Disk


def test_a_stage_that_fits_goes_on_and_one_that_does_not_is_refused(tmp_path):
    require_space(tmp_path / "not" / "yet", 10**6, "10 files", "--out_dir")
    with pytest.raises(UserError, match="10 files need about 1e\\+06 TB where.*choose another --out_dir"):
        require_space(tmp_path / "not" / "yet", 10**18, "10 files", "--out_dir")
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (62.4e9, "62.4 GB"), (1e12, "1 TB")])
def test_sizes_are_readable(size, text):
    assert readable_bytes(size) == text
