"""Manifests: what is written is read back, and every mistake is named with its file, row and column."""

import csv
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.data.files import read_json, write_json
from utils.data.manifest import (
    Mixture,
    Problem,
    Utterance,
    find_manifests,
    read_manifest,
    read_utterances,
    write_failed,
    write_manifest,
)
from utils.data.validation import check_files, validate_manifest
from utils.errors import UserError

RATE = 16000
HEADER = "utterance_ID,speaker,audio_path,mouth_path,length,frames,fps"


def mixture(name: str, n_src: int = 2, **changes) -> Mixture:
    parts = range(1, n_src + 1)
    item = Mixture(
        mixture_id=name,
        mixture_path=f"mix/{name}.wav",
        source_paths=tuple(f"s{k}/{name}.wav" for k in parts),
        noise_path="",
        length=3200,
        mouth_paths=tuple(f"mouths/{name}{k}.npz" for k in parts),
        frames=5,
        fps=25.0,
        speakers=tuple(f"speaker, no. {k}" for k in parts),
        sir_db=-1.25,
        subset="same_voice",
    )
    return replace(item, **changes)


def write(path: Path, items, n_src: int = 2, root: Path | None = None):
    root = root or path.parent
    return write_manifest(path, corpus="tiny", split=path.stem, data_root=root, sample_rate=RATE, n_src=n_src, items=items)


def edit(path: Path, old: str, new: str) -> None:
    """Change the CSV as a user with an editor would."""
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())


def make_files(root: Path, items) -> None:
    """Noise and grey crops for every path of the mixtures."""
    rng = np.random.default_rng(0)
    for item in items:
        for path in (item.mixture_path, *item.source_paths):
            (root / path).parent.mkdir(exist_ok=True)
            soundfile.write(root / path, 0.1 * rng.standard_normal(item.length), RATE)
        for path in item.mouth_paths:
            (root / path).parent.mkdir(exist_ok=True)
            np.savez_compressed(root / path, data=rng.integers(0, 256, (item.frames, 96, 96), dtype=np.uint8))


@pytest.mark.parametrize("n_src", [1, 2, 3])
def test_mixtures_come_back_as_they_were_written(tmp_path, n_src):
    items = [mixture("00000002026", n_src), mixture("NA", n_src, sir_db=None, subset=""), mixture("1e5", n_src)]
    items.append(mixture("no parts", n_src, source_paths=("",) * n_src, mouth_paths=("",) * n_src, frames=0, fps=0.0))
    written = write(tmp_path / "test.csv", items, n_src)
    assert read_manifest(tmp_path / "test.csv") == written
    assert written.items == tuple(items)
    assert written.n_src == n_src
    assert not written.has_references
    assert written.mouth_paths()[0] == "mouths/000000020261.npz"
    assert len(written.mouth_paths()) == 3 * n_src


def test_utterances_come_back_as_they_were_written(tmp_path):
    items = [Utterance("007", "NA", "a/007.wav", "/elsewhere/007.npz", 3200, 5, 29.97)]
    written = write(tmp_path / "utterances.csv", items, 1)
    manifest = read_manifest(tmp_path / "utterances.csv")
    assert manifest == written
    assert manifest.items == tuple(items)
    assert manifest.resolve("a/007.wav") == tmp_path / "a" / "007.wav"
    assert manifest.resolve(items[0].mouth_path) == Path("/elsewhere/007.npz")


def test_a_manifest_with_all_sources_has_references(tmp_path):
    assert write(tmp_path / "test.csv", [mixture("a"), mixture("b")]).has_references


def test_the_columns_are_those_of_librimix_and_ours(tmp_path):
    write(tmp_path / "test.csv", [mixture("a")])
    assert (tmp_path / "test.csv").read_text().splitlines()[0] == (
        "mixture_ID,mixture_path,source_1_path,source_2_path,noise_path,length,mouth_1_path,mouth_2_path,frames,fps,"
        "speaker_1,speaker_2,sir_db,subset"
    )


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    path = tmp_path / "test.csv"
    written = write(path, [mixture("00000002026"), mixture("NA")])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert read_manifest(path) == written


def test_columns_may_be_reordered_and_columns_of_the_users_own_added(tmp_path):
    path = tmp_path / "test.csv"
    written = write(path, [mixture("a"), mixture("b")])
    rows = list(csv.reader(path.open()))
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([*reversed(row), "note"] for row in rows)
    assert read_manifest(path) == written


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("3200", "3200.0", "row 3, column length: '3200.0' is no whole number"),
        ("3200", "0", "row 3, column length: '0' is no whole number of at least 1"),
        ("3200", "", "row 3, column length: ''"),
        (",5,", ",0,", "row 3, column frames: '0'"),
        (",25,", ",-25,", "row 3, column fps: '-25' is no frame rate"),
        ("-1.25", "nan", "row 3, column sir_db: 'nan' is no finite number"),
        ("-1.25", "1e999", "row 3, column sir_db: '1e999' is no finite number"),
        ("mix/b.wav", "", "row 3, column mixture_path: ''"),
        ("b,mix", "a,mix", "row 3, column mixture_ID: row 2 has the id 'a' too"),
        ("b,mix", "../b,mix", "row 3, column mixture_ID: '../b' cannot be an id"),
        ("b,mix", ",mix", "row 3, column mixture_ID: ''"),
        ("same_voice", "same_voice,more", "row 3: 15 fields, the header has 14"),
        ("b,mix", '"b,mix', "row 3: not CSV"),
        ("b,mix", "\nb,mix", "row 3: an empty line"),
        ("mix/b.wav", '"mix/b\nc.wav"', "column mixture_path: 'mix/b\nc.wav' holds a control character"),
    ],
)
def test_a_wrong_field_is_named_with_file_row_and_column(tmp_path, old, new, message):
    path = tmp_path / "test.csv"
    write(path, [mixture("a"), mixture("b")])
    lines = path.read_text().split("\n")
    assert old in lines[2]
    lines[2] = lines[2].replace(old, new)
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as error:
        read_manifest(path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("speaker_2", "speaker_1", "the column speaker_1 is listed twice"),
        ("speaker_2", "speakr_2", "no column speaker_2"),
        ("source_2_path", "source_3_path", "no column source_2_path"),
        ("source_1_path,source_2_path", "source,sauce", "no column source_1_path"),
        ("subset", "mouth_3_path", "no column subset"),
        ("mixture_ID", "mixture_ID;", "no column mixture_ID"),
    ],
)
def test_a_wrong_header_is_named(tmp_path, old, new, message):
    path = tmp_path / "test.csv"
    write(path, [mixture("a")])
    edit(path, old, new)
    with pytest.raises(UserError, match="row 1: .*" + message):
        read_manifest(path)


def test_a_mouth_without_a_source_is_an_error(tmp_path):
    path = tmp_path / "test.csv"
    write(path, [mixture("a")])
    edit(path, "subset", "subset,mouth_3_path")
    edit(path, "same_voice", "same_voice,m.npz")
    with pytest.raises(UserError, match="mouth_3_path has no source column"):
        read_manifest(path)


def test_a_csv_that_is_missing_empty_cut_or_not_text_is_an_error(tmp_path):
    path = tmp_path / "test.csv"
    with pytest.raises(UserError, match="no such file; stage 0"):
        read_manifest(path)
    write(path, [mixture("a"), mixture("b")])
    lines = path.read_text().splitlines(keepends=True)
    for content, message in [
        ("", "row 1: no column mixture_ID"),
        (lines[0], "holds no row"),
        ("".join(lines[:2]), "rows is 1 where test.json says 2"),
    ]:
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            read_manifest(path)
    path.write_bytes(b"\xff\xfe" + "".join(lines).encode("utf-16-le"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "value"), [("kind", "films"), ("rows", "1"), ("sample_rate", 0), ("n_src", True), ("data_root", None)]
)
def test_a_wrong_side_file_is_an_error(tmp_path, name, value):
    write(tmp_path / "test.csv", [mixture("a")])
    side = tmp_path / "test.json"
    write_json(side, {**read_json(side), name: value})
    with pytest.raises(UserError, match=f"test.json: '{name}'"):
        read_manifest(tmp_path / "test.csv")


def test_a_csv_whose_side_file_was_never_written_does_not_count_as_finished(tmp_path):
    write(tmp_path / "test.csv", [mixture("a")])
    write(tmp_path / "val.csv", [mixture("a")])
    (tmp_path / "test.json").unlink()
    with pytest.raises(UserError, match="side file test.json is missing"):
        read_manifest(tmp_path / "test.csv")
    assert find_manifests(tmp_path) == [tmp_path / "val.csv"]


def test_an_old_side_file_never_vouches_for_a_new_csv(tmp_path, monkeypatch):
    path = tmp_path / "test.csv"
    write(path, [mixture("a")])

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("utils.data.manifest.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        write(path, [mixture("b")])
    assert find_manifests(tmp_path) == []


def test_a_manifest_that_could_not_be_read_back_is_not_written(tmp_path):
    path = tmp_path / "test.csv"
    written = write(path, [mixture("a")])
    for items in ([mixture("b"), mixture("b")], [mixture("b", length=0)], [mixture("x/y")], []):
        with pytest.raises(UserError):
            write(path, items)
    assert read_manifest(path) == written


def test_reading_needs_neither_pandas_nor_numpy():
    code = "import utils.data.manifest, sys; print(*{'pandas', 'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_utterances_of_others_need_no_side_file(tmp_path):
    path = tmp_path / "utterances.csv"
    path.write_text(f"{HEADER}\n0001,s1,audio/0001.wav,mouths/0001.npz,3200,5,25\n")
    manifest = read_utterances(path, RATE)
    assert manifest.resolve(manifest.items[0].audio_path) == tmp_path / "audio" / "0001.wav"
    write(path, manifest.items, 1, root=tmp_path / "elsewhere")
    assert read_utterances(path, RATE).data_root == tmp_path / "elsewhere"
    with pytest.raises(UserError, match="16000 Hz where 8000 Hz"):
        read_utterances(path, 8000)
    write(path, [mixture("a")])
    with pytest.raises(UserError, match="lists mixtures where utterances"):
        read_utterances(path, RATE)


@pytest.mark.parametrize("nj", [1, 2])
def test_a_sound_corpus_has_no_problem(tmp_path, nj):
    items = [mixture(f"m{k}") for k in range(10)]
    make_files(tmp_path, items)
    manifest = write(tmp_path / "test.csv", items)
    assert validate_manifest(manifest) == []
    assert validate_manifest(manifest, deep=True, nj=nj) == []


def test_the_cheap_validation_finds_missing_files_and_clocks_that_disagree(tmp_path):
    items = [mixture("a"), mixture("b", frames=6), mixture("c", frames=7)]
    make_files(tmp_path, items)
    (tmp_path / "mouths" / "a2.npz").unlink()
    problems = validate_manifest(write(tmp_path / "test.csv", items))
    assert [(p.row, p.item_id) for p in problems] == [(2, "a"), (4, "c")]
    assert problems[0].path == "mouths/a2.npz"
    assert "7 video frames where 3200 samples at 16000 Hz and 25 fps make 5.00" in problems[1].reason


def test_a_corpus_that_was_moved_is_one_problem_not_thousands(tmp_path):
    manifest = write(tmp_path / "test.csv", [mixture("a"), mixture("b")], root=tmp_path / "gone")
    assert [p.path for p in validate_manifest(manifest, deep=True)] == [str(tmp_path / "gone")]


def audio_of(samples: np.ndarray, rate: int = RATE):
    return lambda path: soundfile.write(path, samples, rate, subtype="FLOAT")


NOISE = 0.1 * np.random.default_rng(1).standard_normal(3200)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (audio_of(NOISE, 8000), "8000 Hz where 16000 Hz"),
        (audio_of(np.stack([NOISE, NOISE], 1)), "2 channels"),
        (audio_of(NOISE[:3199]), "3199 samples where column length says 3200"),
        (audio_of(np.append(NOISE, 0.1)), "3201 samples where column length says 3200"),
        (audio_of(NOISE[:0]), "holds no sample"),
        (audio_of(np.zeros(3200)), "silent"),
        (audio_of(np.where(np.arange(3200) == 9, np.nan, NOISE)), "is nan"),
        (lambda path: path.write_bytes(b""), "cannot be read as audio"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "samples where column length says"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_the_deep_validation_finds_broken_audio(tmp_path, spoil, reason):
    items = [mixture("a"), mixture("b")]
    make_files(tmp_path, items)
    spoil(tmp_path / "s2" / "b.wav")
    (problem,) = validate_manifest(write(tmp_path / "test.csv", items), deep=True)
    assert (problem.row, problem.item_id, problem.path) == (3, "b", "s2/b.wav")
    assert reason in problem.reason


def crops(*shape: int):
    return lambda path: np.savez_compressed(path, data=np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (crops(7, 96, 96), "7 video frames where 3200 samples"),
        (crops(3, 96, 96), "3 video frames where 3200 samples"),
        (crops(5, 88, 88), "have the shape (5, 88, 88)"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_the_deep_validation_finds_broken_mouths(tmp_path, spoil, reason):
    items = [mixture("a"), mixture("b")]
    make_files(tmp_path, items)
    spoil(tmp_path / "mouths" / "b1.npz")
    (problem,) = validate_manifest(write(tmp_path / "test.csv", items), deep=True)
    assert (problem.row, problem.item_id, problem.path) == (3, "b", "mouths/b1.npz")
    assert reason in problem.reason


def test_an_interrupted_check_does_not_work_through_its_queue():
    seen = []

    def interrupted(path):
        seen.append(path)
        time.sleep(0.01)
        if len(seen) >= 3:
            raise KeyboardInterrupt
        return path

    with pytest.raises(KeyboardInterrupt):
        check_files(interrupted, [Path(str(k)) for k in range(1000)], 2, "test")
    assert len(seen) < 100


@pytest.mark.parametrize("frames", [4, 6])
def test_one_frame_more_or_less_is_let_pass(tmp_path, frames):
    items = [mixture("a")]
    make_files(tmp_path, items)
    crops(frames, 96, 96)(tmp_path / "mouths" / "a1.npz")
    assert validate_manifest(write(tmp_path / "test.csv", items), deep=True) == []


def test_the_list_of_failures_replaces_the_last_one(tmp_path):
    path = tmp_path / "failed.csv"
    write_failed(path, [Problem(3, "00012", "a,b.wav", "is silent"), Problem(0, "x\udcff", "p", "q")])
    rows = list(csv.reader(path.open(encoding="utf-8")))
    assert rows == [["row", "id", "path", "reason"], ["3", "00012", "a,b.wav", "is silent"], ["", "x\\udcff", "p", "q"]]
    write_failed(path, [])
    assert path.read_text() == "row,id,path,reason\n"
