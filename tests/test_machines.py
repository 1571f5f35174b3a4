"""What the operating system may refuse, terminals, homes and clocks: one line, nothing half-written, the same call goes on."""

import errno
import os
import platform
import re
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from machine_helpers import SCRIPTS, on_small_disk, read_only, run_main, touch_all, unprivileged
from separation_helpers import Stage, make_experiment, make_folder, make_lips, rows_of
from shell_helpers import ROOT, bash

from utils.data.devices import n_cores
from utils.data.estimates import write_estimates
from utils.data.files import atomic_path, exclusive_lock, write_text
from utils.data.fingerprints import StageMark, hash_tree
from utils.data.mouths import MouthWriter
from utils.embedding.store import EmbeddingStore, EmbeddingWriter, Source
from utils.errors import UserError, WriteError, system_error
from utils.tools import sections
from utils.training.experiment import _unused
from utils.training.trainer import AtomicCheckpoints

LIMIT_BYTES = 50_000


def test_without_what_linux_tells_cores_are_counted_and_the_cpu_has_its_kind(monkeypatch, tmp_path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert n_cores() == 7
    monkeypatch.setattr(sections, "_CPU_FILE", tmp_path / "absent")
    assert sections.cpu_name() == platform.machine()


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
        pytest.raises(WriteError, match="it needs 690 kB, files may have 50 kB"),
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
    with exclusive_lock(tmp_path / "x", "x"):
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
    words = [ROOT / "utils/stages/logged.py", "1", sys.executable, "-c", program, "--exp_dir", "."]
    done = bash("bash", "-c", 'ulimit -f 1; exec "$@"', "bash", sys.executable, *words, cwd=tmp_path)
    assert done.returncode == 3 and done.stdout == "x" * 3000 + "\n"
    assert "log/1.log: File too large; what follows is not in the log\n" in done.stderr and "last words" in done.stderr


def test_a_log_where_nothing_can_be_written_is_one_line(tmp_path):
    read_only(tmp_path)
    words = [ROOT / "utils/stages/logged.py", "1", "true", "--exp_dir", "."]
    done = bash(*unprivileged(sys.executable, *words), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: log: Permission denied; the log goes there: give a folder that can be written\n"


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


@pytest.mark.parametrize("home", [None, "absent", "relative"])
def test_without_a_home_nothing_fails_or_complains_and_none_is_made(tmp_path, home):
    body = "import matplotlib; from matplotlib.figure import Figure; Figure().savefig(os.devnull, format='png'); " \
           "print(matplotlib.get_configdir())"  # fmt: skip
    dropped = ("HOME", "USER", "LOGNAME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")
    before = ["env", *(f"--unset={name}" for name in dropped)]
    before += {None: [], "absent": [f"HOME={tmp_path / 'home'}"], "relative": ["HOME=relative"]}[home]
    done = run_main(body, before=tuple(before) if home else tuple(unprivileged(*before)))
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "home").exists() and not (ROOT / "relative").exists()
    assert "avsep-" not in done.stdout or not Path(done.stdout.strip()).exists()


def test_files_count_as_changed_whatever_the_clock_says(tmp_path):
    path = touch_all(tmp_path / "corpus", "a.wav") / "a.wav"
    seen = set()
    for time_sec in (2_000_000_000, 1_000_000_000, 5_000_000_000, 86_400):  # forwards and back, before the mark and after it
        os.utime(path, (time_sec, time_sec))
        mark = StageMark(tmp_path / ".done.json", {"files": hash_tree(tmp_path / "corpus")})
        assert mark.changed() != []
        mark.write()
        assert StageMark(tmp_path / ".done.json", {"files": hash_tree(tmp_path / "corpus")}).changed() == []
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
