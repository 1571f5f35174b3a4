"""Machines and folders: what the system may refuse, names in any bytes, terminals, homes, clocks, read-only installs."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from separation_helpers import Stage, make_experiment, make_folder, make_lips, rows_of
from shell_helpers import ROOT, bash, calls, copy_recipe, write_script

from egs.own_video.prepare import find_clips
from utils.corpora.clip_tree import walk_tree
from utils.corpora.raw_corpus import _checked_clips
from utils.data.estimates import write_estimates
from utils.data.files import atomic_path, exclusive_lock, read_json, write_json, write_text
from utils.data.fingerprints import StageMark
from utils.data.manifest import Problem, read_manifest, write_failed
from utils.data.mouths import MouthWriter
from utils.embedding.precomputed import PrecomputedEmbeddings
from utils.embedding.store import EmbeddingStore, EmbeddingWriter, Source
from utils.errors import UserError, WriteError, name_problem, printable, system_error
from utils.mixing.recordings import recording_lengths
from utils.scoring.items import read_separated, scan_folders
from utils.separation.options import is_video_set, name_of_test
from utils.stages.prepare import fingerprint_tree
from utils.stages.train import _unused
from utils.training.trainer import AtomicCheckpoints

LIMIT_BYTES = 50_000
LATIN_1 = os.fsdecode(b"gr\xfc\xdfe")
TRACKED = subprocess.run(["git", "ls-files", "*.sh", ".ci/run"], cwd=ROOT, capture_output=True, text=True).stdout.split()
SCRIPTS = TRACKED or [str(path.relative_to(ROOT)) for path in ROOT.glob("**/*.sh") if ".venv" not in path.parts]
SOURCED = ("utils/log.sh", "utils/parse_options.sh", "utils/recipe.sh", "path.sh")


def unprivileged(*command: object) -> list[str]:
    """A command for whose process rights of files hold, also where the tests run as root. Skips where that cannot be had."""
    words = [str(word) for word in command]
    if os.geteuid() != 0:
        return words
    if subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode:
        pytest.skip("the tests run as root, and this machine has no user namespaces: nothing is read-only for root")
    return ["unshare", "--user", *words]


def on_small_disk(folder: Path, size: str, *command: object) -> list[str]:
    """A command that finds a small disk at `folder`; nobody else sees it, and it goes with the command."""
    mount = ["unshare", "--mount", "bash", "-c", 'mount -t tmpfs -o "size=$2" none "$1" && shift 2 && exec "$@"', "mount"]
    if subprocess.run([*mount, str(folder), size, "true"], capture_output=True).returncode:
        pytest.skip("no file systems can be mounted here")
    return [*mount, str(folder), size, *map(str, command)]


def read_only(folder: Path) -> Path:
    for path in (folder, *filter(Path.is_dir, folder.rglob("*"))):
        path.chmod(0o555)
    return folder


# -------------------------------------------------------------------------------------------------- a system that refuses


def write_sound(path: Path) -> None:
    soundfile.write(str(path), np.zeros(100_000, np.float32), 16000, format="WAV")


def write_video(path: Path) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 160
        for picture in np.random.default_rng(0).integers(0, 256, (20, 160, 160, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def write_figure(path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().imshow(np.random.default_rng(0).random((400, 400)))
    figure.savefig(path, dpi=200)


def write_table(path: Path) -> None:
    import pandas as pd

    pd.DataFrame(np.zeros(100_000)).to_csv(path)


WRITERS = {
    "x.wav": write_sound,
    "x.pth": lambda path: torch.save({"weight": torch.rand(100_000)}, path),
    "x.npz": lambda path: np.savez(path, data=np.random.default_rng(0).random(100_000)),
    "x.mp4": write_video,
    "x.png": write_figure,
    "x.csv": write_table,
    "x.bin": lambda path: shutil.copyfile(ROOT / "egs/own_video/pretrained/best_model.pth", path),
    "x.txt": lambda path: path.write_text("x" * 100_000),
}


@pytest.mark.parametrize("name", WRITERS)
def test_whatever_writes_the_message_names_the_file_and_its_size_and_nothing_is_left(tmp_path, limited, name):
    write_text(tmp_path / name, "before")
    limited(LIMIT_BYTES)
    with pytest.raises(WriteError) as caught, atomic_path(tmp_path / name) as temporary:
        WRITERS[name](temporary)
    text = system_error(caught.value)
    assert text.startswith(
        f"{tmp_path / name}: File too large (it needs more than 50 kB, files may have 50 kB); raise the limit"
    )
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "before"


def test_a_full_disk_is_told_with_what_is_needed_and_what_is_there(tmp_path):
    code = (
        "import sys; from pathlib import Path; from utils.errors import run_cli; from utils.data.files import write_text\n"
        "from utils.data.audio import write_wav; import numpy as np\n"
        "def main():\n"
        "    write_text(Path(sys.argv[1]) / 'first.txt', 'x' * 100_000)\n"
        "    write_wav(Path(sys.argv[1]) / 'second.wav', np.zeros(100_000, np.float32), 16000)\n"
        "try:\n    run_cli(main)\nfinally:\n    print(sorted(p.name for p in Path(sys.argv[1]).iterdir()))"
    )
    done = bash(*on_small_disk(tmp_path, "200k", sys.executable, "-c", code, tmp_path), cwd=ROOT)
    wanted = rf"error: {tmp_path}/second\.wav: No space left on device \(it needs 400 kB, 0 B are free\); make room there;.*\n"
    assert done.returncode == 1 and re.fullmatch(wanted, done.stderr)
    assert done.stdout == "['first.txt']\n"


def test_a_mouth_file_that_does_not_fit_says_how_large_it_will_be_and_goes(tmp_path, limited):
    limited(LIMIT_BYTES)
    rng = np.random.default_rng(0)
    with (
        pytest.raises(WriteError, match="it needs 660 kB, files may have 50 kB"),
        MouthWriter(tmp_path / "m.npz", 100) as mouths,
    ):
        for _ in range(100):
            mouths.add(rng.integers(0, 256, (96, 96), np.uint8), True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("subtype", ["float", "pcm16"])
def test_voices_that_do_not_fit_are_named_by_their_own_names(tmp_path, limited, subtype):
    limited(300_000 if subtype == "float" else 450_000)  # the second is written as float first
    paths = [tmp_path / "s1/a.wav", tmp_path / "s2/a.wav"]
    if subtype == "pcm16":
        limited(LIMIT_BYTES)
    with pytest.raises(WriteError, match=r"it needs 400 kB, files may have") as caught:
        write_estimates(paths, [np.zeros((2, 100_000), np.float32)], 16000, subtype, 100_000)
    assert caught.value.filename in map(str, paths)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_checkpoint_and_embeddings_that_do_not_fit_leave_the_last_ones(tmp_path, limited):
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    AtomicCheckpoints().save_checkpoint({"epoch": 1}, checkpoint)
    with EmbeddingWriter(tmp_path / "store", "float32") as writer:
        writer.add("a", np.ones((10, 8), np.float32), Source(0, 0, ""))
    limited(LIMIT_BYTES)
    with pytest.raises(WriteError, match="last.ckpt"):
        AtomicCheckpoints().save_checkpoint({"epoch": 2, "weight": torch.rand(100_000)}, checkpoint)
    with pytest.raises(WriteError, match=r"part-\w+\.npy"), EmbeddingWriter(tmp_path / "store", "float32") as writer:
        writer.add("b", np.ones((10_000, 8), np.float32), Source(0, 0, ""))
    assert torch.load(checkpoint)["epoch"] == 1
    assert set(EmbeddingStore(tmp_path / "store").keys()) == {"a"}
    assert not list(tmp_path.rglob(".tmp-*"))


def test_an_error_of_another_file_keeps_its_name_and_one_of_ours_its_traceback(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "x") as temporary:
        shutil.copyfile(tmp_path / "nix", temporary)
    assert caught.value.filename == str(tmp_path / "nix") and not isinstance(caught.value, WriteError)
    for mistake in (RuntimeError("a mistake"), OSError("a mistake"), OSError(errno.EINVAL, "a mistake")):
        with pytest.raises(type(mistake), match="a mistake") as caught, atomic_path(tmp_path / "x"):
            raise mistake
        assert caught.value is mistake
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_rights_is_written_all_the_same(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "chmod", refuse)  # as FAT does
    monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))))
    with exclusive_lock(tmp_path / "x", "this"):
        write_text(tmp_path / "x/y", "text")
    assert (tmp_path / "x/y").read_text() == "text"


def test_a_name_that_is_too_long_is_the_fault_of_the_item(tmp_path):
    with pytest.raises(UserError, match="the name is too long for this file system; give shorter names"):
        write_text(tmp_path / ("x" * 300), "")


def test_a_quota_counts_as_a_full_disk_whoever_is_named_by_the_library(tmp_path):
    with pytest.raises(WriteError) as caught, atomic_path(tmp_path / "x", 10**6):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "source of the copy")
    wanted = (
        rf"{tmp_path}/x: Disk quota exceeded \(it needs 1 MB, .* are free\); make room in your quota; the same command goes on"
    )
    assert re.fullmatch(wanted, system_error(caught.value))


def test_every_known_error_has_a_remedy_and_others_are_ours():
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE):
        assert "; " in system_error(OSError(number, os.strerror(number), "file"))
    assert system_error(OSError(errno.ENOSPC, "No space left on device")).startswith("No space left on device; make room")
    assert system_error(OSError(errno.EINVAL, "Invalid argument")) == "" == system_error(OSError("a text alone"))


def test_separation_stops_at_a_full_disk_and_goes_on_after_it(tmp_path, monkeypatch, limited):
    experiment = make_experiment(tmp_path / "exp/av", make_lips(tmp_path / "lips.pth"))
    folder, stage = make_folder(tmp_path / "-my meetings\n$x^"), Stage(tmp_path, monkeypatch)
    limited(20_000)
    with pytest.raises(WriteError, match=r"it needs 123 kB, files may have 20 kB.*part-\w+\.npy"):
        stage(experiment, folder)
    limited(1_000_000)
    assert len(rows_of(stage(experiment, folder) / "separated.csv")) == 3
    limited(20_000)
    with pytest.raises(WriteError, match=r"it needs 25.6 kB, files may have 20 kB.*/s2/a_b\.wav"):
        stage(experiment, folder, "--subtype", "pcm16")
    limited(1_000_000)
    voices = stage(experiment, folder, "--subtype", "pcm16")
    assert len(rows_of(voices / "separated.csv")) == 3 and soundfile.info(voices / "s1/a_b.wav").subtype == "PCM_16"
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_program_goes_on_without_a_log_that_cannot_be_written(tmp_path):
    program = "import sys; print('x' * 3000); print('last words', file=sys.stderr); sys.exit(3)"
    words = [ROOT / "utils/stages/logged.py", "log/1.log", sys.executable, "-c", program]
    done = bash("bash", "-c", 'ulimit -f 1; exec "$@"', "bash", sys.executable, *words, cwd=tmp_path)
    assert done.returncode == 3 and done.stdout == "x" * 3000 + "\n"
    assert "log/1.log: File too large; what follows is not in the log\n" in done.stderr and "last words" in done.stderr


def test_a_log_where_nothing_can_be_written_is_one_line(tmp_path):
    read_only(tmp_path)
    done = bash(*unprivileged(sys.executable, ROOT / "utils/stages/logged.py", "log/1.log", "true"), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: log: Permission denied; the log goes there: give a folder that can be written\n"


# -------------------------------------------------------------------------------------------------------- terminals, homes


def run_main(body: str, *words: str, before: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess:
    """A program of the recipe whose `main` does this."""
    code = "from utils.errors import OptionParser, UserError, run_cli\nimport os, sys, logging\n"
    code += f"def main():\n    {body}\nrun_cli(main)"
    return bash(*before, sys.executable, "-c", code, *words, cwd=ROOT, **environment)


def test_a_terminal_that_knows_ascii_alone_gets_escapes_instead_of_a_crash():
    body = "print('Gespräche ± 1'); print(chr(0xdcfc)); logging.info('Gespräche'); raise UserError('Grüße' + chr(10) + 'x')"
    done = run_main(body, PYTHONIOENCODING="ascii")
    assert done.returncode == 1 and done.stdout == "Gespr\\xe4che \\xb1 1\n\\udcfc\n"
    assert "INFO Gespr\\xe4che" in done.stderr and done.stderr.endswith("error: Gr\\xfc\\xdfe\\nx\n")
    assert run_main("print('Gespräche')", PYTHONIOENCODING="").stdout == "Gespräche\n"


def test_an_error_of_the_system_is_one_line_and_a_mistake_of_ours_is_not():
    done = run_main("open('/nix/x')")
    assert (done.returncode, done.stderr) == (
        1, "error: /nix/x: No such file or directory; look whether it is still there\n"
    )  # fmt: skip
    assert "Traceback" in run_main("raise OSError(22, 'Invalid argument')").stderr


@pytest.mark.parametrize("home", [None, "/nonexistent", "relative"])
def test_without_a_home_nothing_fails_or_complains_and_none_is_made(home):
    body = "import matplotlib; from matplotlib.figure import Figure; Figure().savefig(os.devnull, format='png'); " \
           "print(matplotlib.get_configdir())"  # fmt: skip
    dropped = ("HOME", "USER", "LOGNAME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")
    before = ["env", *(f"--unset={name}" for name in dropped), *([f"HOME={home}"] if home else [])]
    done = run_main(body, before=tuple(before) if home else tuple(unprivileged(*before)))
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path("/nonexistent").exists() and not (ROOT / "relative").exists()
    assert "avsep-" not in done.stdout or not Path(done.stdout.strip()).exists()


# ---------------------------------------------------------------------------------------------------- names in any bytes


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


def touch_all(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_every_way_to_read_a_folder_lists_such_names_and_takes_the_others(tmp_path):
    bad = f"{LATIN_1}/b\nc.mp4"
    tree, problems = walk_tree(touch_all(tmp_path / "tree", "a/b.mp4", bad), (".mp4",))
    assert list(tree) == ["a_b"] and len(problems) == 1
    clips = find_clips(touch_all(tmp_path / "own", "anna/b.mp4", bad, "anna/b\nc.mkv", f"anna/{LATIN_1}.mkv"))
    kept, problems = _checked_clips([clip.__class__(**{**clip.__dict__, "split": "train"}) for clip in clips])
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
    body = "from utils.corpora.clip_tree import walk_tree; from pathlib import Path; walk_tree(Path(sys.argv[1]), ('.mp4',))"
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
                HOME="/nonexistent", TMPDIR="/nonexistent", CDPATH=".")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Gespr\\xe4che" in done.stdout
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
        done = bash(sys.executable, ROOT / "utils/stages/logged.py", "log", "echo", "done", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "done\n")
    finally:
        process.kill()
        process.wait()


# ------------------------------------------------------------------------------------------------------------------ clocks


def test_files_count_as_changed_whatever_the_clock_says(tmp_path):
    path = touch_all(tmp_path / "corpus", "a.wav") / "a.wav"
    seen = set()
    for time_sec in (2_000_000_000, 1_000_000_000, 5_000_000_000, 86_400):  # forwards and back, before the mark and after it
        os.utime(path, (time_sec, time_sec))
        mark = StageMark(tmp_path / ".done.json", {"files": fingerprint_tree(tmp_path / "corpus")})
        assert mark.changed() != []
        mark.write()
        assert StageMark(tmp_path / ".done.json", {"files": fingerprint_tree(tmp_path / "corpus")}).changed() == []
        seen.add(mark.inputs["files"])
    assert len(seen) == 4


def test_nothing_asks_which_file_is_newer():
    python = [path for folder in ("utils", "egs", "local_models") for path in (ROOT / folder).rglob("*.py")]
    for path in (*python, *(ROOT / name for name in SCRIPTS)):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"mtime\w*\s*[<>]|[<>]=?\s*[\w.()]*mtime|\s-(nt|ot)\s|getmtime", text), path


def test_what_was_trained_is_never_moved_onto_what_was_trained_at_the_same_time_of_a_clock_set_back(tmp_path):
    path = tmp_path / "previous-20250101-020000"
    for name in ("previous-20250101-020000", "previous-20250101-020000-2", "previous-20250101-020000-3"):
        assert _unused(path) == tmp_path / name
        (tmp_path / name).mkdir()


# ----------------------------------------------------------------------------------------------------------- shell scripts


@pytest.fixture(scope="module")
def odd_place(tmp_path_factory) -> Path:
    """The scripts in a folder whose name begins with a dash and holds spaces."""
    root = copy_recipe(tmp_path_factory.mktemp("place") / "-a checkout")
    for name in SCRIPTS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root.parent / root.name[1:]).symlink_to(root)
    write_script(root / "utils/run_tests.sh", "#!/usr/bin/env bash\npwd\n")
    return root


@pytest.mark.parametrize("how", ["plainly", "with a dot", "by bash"])
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in SOURCED])
def test_every_script_finds_its_folder_with_cdpath_and_odd_names(odd_place, name, how):
    inside = f"{odd_place.name}/{name}"
    start = {"plainly": [f"{inside[1:]}"], "with a dot": [f"./{inside}"], "by bash": ["bash", "--", inside]}[how]
    words = {
        ".ci/run": [],
        "utils/make_venv.sh": [(odd_place / ".venv/.requirements").read_text().strip()],
        "utils/install_more.sh": ["requirements.txt"],
        "utils/run_tests.sh": [],
        "utils/train_slurm.sh": [],
    }.get(name, ["--help"])
    done = bash(*start, *words, cwd=odd_place.parent, CDPATH=".")
    if name == "utils/train_slurm.sh":
        assert done.returncode == 2 and done.stderr.startswith("usage:")
        return
    assert done.returncode == 0, done.stderr
    assert not re.search(r"^(?!path\.sh: using |to stderr$).", done.stderr, re.MULTILINE)
    if words == ["--help"]:
        assert done.stdout and not done.stdout.startswith(("/", "."))


def test_the_environment_is_found_with_cdpath_and_a_stage_runs(odd_place):
    script = f". -- {odd_place.name!r}/path.sh && printf '%s\\n' \"$PYTHONPATH\""
    done = bash("bash", "-c", script, cwd=odd_place.parent, CDPATH=".")
    assert done.returncode == 0 and done.stdout == f"{odd_place}\n"
    (odd_place / "-data dir").mkdir()
    for name in ("run.sh", "egs/dla/run.sh"):
        words = ["--stop_stage", 0, "--data_dir", "-data dir", "--corpus_args", "-x"]
        (odd_place / "egs/dla/prepare.py").touch()
        done = bash("bash", "--", f"{odd_place.name}/{name}", *words, cwd=odd_place.parent, CDPATH=".")
        assert done.returncode == 0, done.stderr
        assert "--data_dir=-data dir" in calls(odd_place)[-1] and (odd_place / "-data dir/log/0_prepare.log").is_file()


def test_no_script_changes_its_folder_by_way_of_cdpath_or_takes_a_name_for_an_option():
    for name in SCRIPTS:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            code = line.partition(" # ")[0]
            if re.search(r"(^|[\s(;&])cd\s", code) and not code.startswith("#"):
                assert re.search(r"CDPATH='' cd -- |^cd -- \"\$(ROOT|\{SLURM)", code), f"{name}: {line}"
            assert not re.search(r"\b(basename|dirname) (?!-- |\"\$\((dirname|command) )\"?\$", code), f"{name}: {line}"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--stage", "4", "--test_dir", "my talk"], r"./run.sh --test_dir my\ talk --stage 4"),
        (["--test_dir", "x", "--stage=4"], r"./run.sh --test_dir x --stage 4"),
        (["--stage", "1", "--train_args=--stage 3", "--tag", "$x"], r"./run.sh --train_args=--stage\ 3 --tag \$x --stage 4"),
        (["--tag", "a\nb"], r"./run.sh --tag $'a\nb' --stage 4"),
    ],
)
def test_the_command_to_continue_has_one_stage_and_can_be_pasted(given, wanted):
    script = '. utils/recipe.sh; continue_command 4 ./run.sh "$@"'
    assert bash("bash", "-euc", script, "bash", *given, cwd=ROOT).stdout == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("-x/-y.csv", "-x_-y"), ("a b/c\n", "c\n"), ("-v.mkv", "-v"), ("d.e", "d.e"), ("x.csv", "x.csv"), ("link", "link"),
     ("-x/../-v.mkv", "-v"), ("-x/", "-x")],
)  # fmt: skip
def test_the_name_of_a_test_is_that_of_its_folder_whatever_it_holds(tmp_path, monkeypatch, given, wanted):
    for name in ("-x/-y.csv", "-v.mkv"):
        touch_all(tmp_path, name)
    (tmp_path / "x.csv").mkdir()
    (tmp_path / "link").symlink_to("-x")
    monkeypatch.chdir(tmp_path)
    assert name_of_test(Path(given)) == wanted


def test_videos_are_found_in_a_folder_whose_name_begins_with_a_dash(tmp_path, monkeypatch):
    touch_all(tmp_path / "-name", "a.MKV")
    monkeypatch.chdir(tmp_path)
    assert is_video_set(Path("-name"))


def test_weights_in_a_folder_with_a_backslash_are_known_by_their_digest(tmp_path):
    touch_all(tmp_path, "a\\b/lr_asd_talkset.pth.tar")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    done = bash(ROOT / "utils/download_weights.sh", "--sha256", empty, "lr_asd_talkset", tmp_path / "a\\b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------------ read-only installs


@pytest.fixture
def install(tmp_path) -> Path:
    """The scripts with a stub for Python, in a folder where nothing can be written but what the stub notes."""
    root = copy_recipe(tmp_path / "install")
    shutil.copy(ROOT / "separate.sh", root)
    touch_all(root, "calls.txt", "cuda.txt", "requirements-video.txt", "egs/own_video/pretrained/best_model.pth",
              "dump/weights/lr_asd_talkset.pth.tar", "exp/mine/best_model.pth")  # fmt: skip
    touch_all(tmp_path, "home/x", "here/talk.mkv")
    return root


def separate(install: Path, *words: object, **environment: str) -> tuple[subprocess.CompletedProcess, dict[str, str]]:
    here = install.parent / "here"
    places = {"HOME": str(install.parent / "home"), "XDG_CACHE_HOME": ""} | environment
    done = bash(*unprivileged(install / "separate.sh", "talk.mkv", *words), cwd=here, **places)
    options = (
        re.findall(r"--(\w+)=(\S*)", [line for line in calls(install) if "separate" in line][-1]) if calls(install) else []
    )
    return done, dict(options)


def test_a_read_only_install_writes_to_the_out_dir_and_the_users_cache(install):
    read_only(install)
    out = install.parent / "here/out"
    done, options = separate(install, "--out_dir", "out")
    assert done.returncode == 0, done.stderr
    assert (options["out_dir"], options["dump_dir"]) == (str(out), str(install.parent / "home/.cache/avsep"))
    assert options["exp_dir"] == "egs/own_video/pretrained"
    assert options["frontend_weights"] == "dump/weights/lr_asd_talkset.pth.tar"
    assert (out / "log/4_separate.log").is_file()
    _, options = separate(install, "--out_dir", "out", XDG_CACHE_HOME=str(install.parent / "cache"))
    assert options["dump_dir"] == str(install.parent / "cache/avsep")
    _, options = separate(install, "--out_dir", "out", HOME=str(install.parent / "nix"))
    assert options["dump_dir"] == f"{out}/.cache" and not (install.parent / "nix").exists()


def test_a_read_only_install_or_experiment_puts_the_tracks_where_the_user_is(install):
    read_only(install)
    for words in ([], ["--exp_dir", install / "exp/mine"]):
        done, options = separate(install, *words)
        assert done.returncode == 0, done.stderr
        assert options["out_dir"] == str(install.parent / "here/separated/talk")
    done, _ = separate(install, "--out_dir", install / "out")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "--out_dir" in done.stderr and "give another folder" in done.stderr


def test_an_install_that_can_be_written_keeps_its_places_and_copies_no_network(install):
    done, options = separate(install)
    assert done.returncode == 0, done.stderr
    assert (options["out_dir"], options["dump_dir"]) == ("exp/pretrained/separated/talk", "dump")
    assert not list((install / "exp/pretrained").rglob("*.pth"))
    _, options = separate(install, "--exp_dir", install / "exp/mine")
    assert options["out_dir"] == str(install / "exp/mine/separated/talk")


def test_an_environment_that_cannot_be_made_is_one_line(install):
    shutil.rmtree(install / ".venv")
    read_only(install)
    done = bash(*unprivileged("bash", install / "utils/make_venv.sh", "0" * 64), cwd=install)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{install} cannot be written: its .venv cannot be made or mended; activate an environment" in done.stderr


def test_an_environment_whose_python_is_gone_is_not_taken_for_whole(install):
    wanted = (install / ".venv/.requirements").read_text().strip()
    (install / ".venv/bin/python3").unlink()
    (install / ".venv/bin/python3").symlink_to("/nix/python3")
    read_only(install)
    done = bash(*unprivileged("bash", install / "utils/make_venv.sh", wanted), cwd=install)
    assert done.returncode == 1 and "cannot be made or mended" in done.stderr


def test_a_video_is_separated_by_a_read_only_checkout(tmp_path, shared_data):
    """The real thing: the checkout is mounted read-only, and there is no home."""
    checkout, out = touch_all(tmp_path / "checkout"), tmp_path / "out"
    mount = 'mount --bind "$1" "$2" && mount -o remount,ro,bind "$2" && shift 2 && exec "$@"'
    words = ["unshare", "--mount", "bash", "-c", mount, "mount", ROOT, checkout]
    if subprocess.run([*map(str, words), "true"], capture_output=True).returncode:
        pytest.skip("no folder can be mounted read-only here")
    weights = shared_data / "weights/lr_asd_talkset.model"
    video = shared_data / "grid_video/g2brbk7n.mpg"
    done = bash(*words, checkout / "separate.sh", video, "--out_dir", out, "--frontend_weights", weights, "--id", "cpu",
                cwd=tmp_path, timeout_sec=300, HOME="/nonexistent", CDPATH=".")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (out / "g2brbk7n/tracks.json").is_file() and (out / "log/4_separate.log").is_file()
    assert "Traceback" not in done.stderr and not Path("/nonexistent").exists()
