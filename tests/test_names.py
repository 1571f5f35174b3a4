"""Names in any bytes: listed with the remedy, the others go on; and folders with all that a name may hold."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from machine_helpers import LATIN_1, run_main, touch_all, unprivileged
from separation_helpers import make_folder, rows_of
from shell_helpers import ROOT, bash

from egs.own_video.prepare import find_clips
from utils.corpora.output import usable
from utils.corpora.raw_corpus import _checked
from utils.data.clip_tree import walk_tree
from utils.data.files import read_json, write_json
from utils.data.manifest import Problem, read_manifest, write_failed
from utils.embedding.precomputed import PrecomputedEmbeddings
from utils.errors import UserError, name_problem, printable
from utils.mixing.recordings import recording_lengths
from utils.scoring.items import read_separated, scan_folders


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (LATIN_1, r"gr\udcfc\udcdfe"),
        ("a\nb", r"a\nb"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\x85b", r"a\x85b"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_a_name_that_cannot_stand_in_a_table_is_told_and_shown_in_escapes(name, shown):
    assert name_problem(name).endswith("; rename the file or folder") and printable(name) == shown


@pytest.mark.parametrize("name", ["Gespräche", "日本語", "a b", "-rf", "no\u00a0break", "$x^", "a'\"`;*", "a\\b"])
def test_odd_names_are_names(name):
    assert name_problem(name) == "" and printable(name) == name


def test_json_keeps_any_name_and_lists_show_it(tmp_path):
    write_json(tmp_path / "x.json", {"path": LATIN_1, "other": "ä"})
    assert read_json(tmp_path / "x.json") == {"path": LATIN_1, "other": "ä"}
    write_failed(tmp_path / "failed.csv", [Problem(0, LATIN_1, "a\nb", "is bad")])
    assert (tmp_path / "failed.csv").read_text() == "row,id,path,reason\n,gr\\udcfc\\udcdfe,a\\nb,is bad\n"


@pytest.mark.parametrize("word", [f"--out_dir=/tmp/{LATIN_1}", LATIN_1])
def test_a_path_of_the_command_line_that_is_not_utf_8_is_refused_at_once(word):
    done = run_main("OptionParser(prog='x').parse_args()", word)
    assert done.returncode == 1 and "\\udcfc\\udcdfe: the path is not UTF-8; rename" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_working_folder_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / LATIN_1).mkdir()
    done = run_main(f"os.chdir({str(tmp_path / LATIN_1)!a}); OptionParser(prog='x').parse_args()")
    assert done.returncode == 1 and "the path is not UTF-8" in done.stderr


def test_every_way_to_read_a_folder_lists_such_names_and_takes_the_others(tmp_path):
    bad = f"{LATIN_1}/b\nc.mp4"
    tree, problems = walk_tree(touch_all(tmp_path / "tree", "a/b.mp4", bad), (".mp4",))
    assert list(tree) == ["a_b"] and len(problems) == 1
    clips = find_clips(touch_all(tmp_path / "own", "anna/b.mp4", bad, "anna/b\nc.mkv", f"anna/{LATIN_1}.mkv"))
    problems = []
    kept = usable(_checked([clip.__class__(**{**clip.__dict__, "split": "train"}) for clip in clips]), problems)
    assert [clip.utterance_id for clip in kept] == ["anna_b"] and len(problems) == 3
    assert all("; rename" in problem.reason for problem in problems)
    for folder in ("m", "r/s1", "e/s1"):
        touch_all(tmp_path / folder, "a.wav", f"{LATIN_1}.wav")
    items, problems = scan_folders(tmp_path / "m", tmp_path / "r", tmp_path / "e")
    assert [item.mixture_id for item in items] == ["a"]
    assert [(problem.item_id, "; rename" in problem.reason) for problem in problems] == [(LATIN_1, True)]
    np.save(touch_all(tmp_path / "features", f"{LATIN_1}.npy") / "a.npy", np.ones((2, 3), np.float32))
    assert PrecomputedEmbeddings(tmp_path / "features").dim == 3
    touch_all(tmp_path / "noise", f"{LATIN_1}.wav")
    with pytest.raises(UserError, match="rename the file or folder, or take it out"):
        recording_lengths("noise_dir", tmp_path / "noise", 16000)


def test_a_table_in_latin_1_is_one_line(tmp_path):
    (tmp_path / "separated.csv").write_bytes(b"mixture_ID,mixture_path\ngr\xfc\xdfe,x\n")
    with pytest.raises(UserError, match="not UTF-8 .*; save the CSV as UTF-8"):
        read_separated(tmp_path / "separated.csv")


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path):
    touch_all(tmp_path / "tree", "a/b.mp4", "c/d.mp4")
    (tmp_path / "tree/c").chmod(0)
    body = "from utils.data.clip_tree import walk_tree; from pathlib import Path; walk_tree(Path(sys.argv[1]), ('.mp4',))"
    done = run_main(body, str(tmp_path / "tree"), before=tuple(unprivileged()))
    assert done.returncode == 1 and done.stderr.startswith(f"error: {tmp_path}/tree/c: Permission denied; make it accessible")


def test_folders_are_scored_whatever_they_and_their_files_are_called(tmp_path):
    """Stage 5 as from cron: an ascii terminal, no home, and a folder with all that a name may hold."""
    home = tmp_path / "-Gespräche $x^ 'q'\nnew"
    rng = np.random.default_rng(0)
    for part in ("s1", "s2"):
        for name in ("a b", "-c", LATIN_1):
            voice = 0.1 * rng.standard_normal(16000)
            for folder in ("references", "estimates"):
                (home / folder / part).mkdir(parents=True, exist_ok=True)
                soundfile.write(home / "x.wav", voice + 0.01 * rng.standard_normal(16000), 16000)
                os.rename(home / "x.wav", home / folder / part / f"{name}.wav")
    words = ["--reference_dir", home / "references", "--estimate_dir", home / "estimates", "--out_dir", home / "out"]
    done = bash("utils/stages/5_score.sh", *words, "--max_failed", 1, "--nj", 1, cwd=ROOT, PYTHONIOENCODING="ascii",
                HOME=str(tmp_path / "nix"), TMPDIR=str(tmp_path / "nix"), CDPATH=".")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "nix").exists() and "Gespr\\xe4che" in done.stdout
    assert {row["mixture_ID"] for row in rows_of(home / "out/all_metrics.csv")} == {"a b", "-c"}
    (failed,) = rows_of(home / "out/failed.csv")
    assert failed["id"] == printable(LATIN_1) and "rename" in failed["reason"]
    assert (home / "out/histogram.png").is_file() and (home / "out/log/5_score.log").is_file()
    again = bash("utils/stages/5_score.sh", *words, "--max_failed", 1, cwd=ROOT)
    assert "stage 5: up to date" in again.stderr


def test_a_corpus_with_odd_names_is_prepared(tmp_path):
    home = tmp_path / "-my corpus\nnew"
    make_folder(home / "raw")
    for part in ("mix", "s1", "s2"):
        shutil.copy(home / "raw/audio" / part / "a_b.wav", home / "raw/audio" / part / f"{LATIN_1}_a.wav")
    words = ["--corpus", "dla", "--corpus_dir", home / "raw", "--data_dir", home / "dla", "--max_failed", 1]
    done = bash("./run.sh", "--stop_stage", 1, *words, "--frontend_weights", "egs/demo/lipreader.pth.tar", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(read_manifest(home / "dla/test.csv").items) == 3
    assert [row["id"] for row in rows_of(home / "dla/failed.csv")] == [printable(f"{LATIN_1}_a")]


def test_processes_with_names_in_any_bytes_do_no_harm_to_the_log(tmp_path):
    odd = tmp_path / os.fsdecode(b"s\xfcleep")
    shutil.copy(shutil.which("sleep"), odd)
    process = subprocess.Popen([odd, "60"])
    try:
        done = bash(sys.executable, ROOT / "utils/stages/logged.py", "1", "echo", "done", cwd=tmp_path, AVSEP_LOG_DIR=".")
        assert (done.returncode, done.stdout) == (0, "done\n")
    finally:
        process.kill()
        process.wait()
