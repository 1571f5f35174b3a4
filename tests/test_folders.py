"""Every script from every folder: CDPATH, spaces, dashes; and checkouts and experiments that cannot be written."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from machine_helpers import SCRIPTS, on_small_disk, read_only, touch_all, unprivileged
from separation_helpers import make_folder
from shell_helpers import ROOT, bash, calls, copy_recipe, write_script

from utils.data.manifest import read_manifest
from utils.separation.options import is_video_set, name_of_test

SOURCED = ("utils/log.sh", "utils/parse_options.sh", "utils/recipe.sh", "path.sh")


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
    (odd_place / "-data dir").mkdir()  # a log begins where its folder is made
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


@pytest.fixture
def install(tmp_path) -> Path:
    """The scripts with a stub for Python, in a folder where nothing can be written but what the stub notes."""
    root = copy_recipe(tmp_path / "install")
    shutil.copy(ROOT / "separate.sh", root)
    touch_all(root, "calls.txt", "cuda.txt", "requirements-video.txt", "egs/own_video/pretrained/best_model.pth",
              "exp/mine/best_model.pth")  # fmt: skip
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
    assert options["frontend_weights"] == ""  # the one that comes with the network
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
    assert (options["out_dir"], options["dump_dir"]) == (str(install / "exp/pretrained/separated/talk"), "dump")
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
    video = shared_data / "grid_video/g2brbk7n.mpg"
    done = bash(*words, checkout / "separate.sh", video, "--out_dir", out, "--id", "cpu",
                cwd=tmp_path, timeout_sec=300, HOME=str(tmp_path / "nix"), CDPATH=".")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (out / "g2brbk7n/tracks.json").is_file() and (out / "log/4_separate.log").is_file()
    assert "Traceback" not in done.stderr and not (tmp_path / "nix/.cache").exists()


def test_a_full_temporary_folder_on_another_disk_does_no_harm(tmp_path):
    """Stages write beside their targets: what is put in its place in one step never comes from another disk."""
    corpus, other, data = make_folder(tmp_path / "raw"), touch_all(tmp_path / "tmp"), tmp_path / "data/dla"
    fill = 'dd if=/dev/zero of="$TMPDIR/fill" bs=4k 2>/dev/null; exec "$@"'
    stage = ["bash", "-c", fill, "bash", ROOT / "utils/stages/0_prepare.sh", "--corpus", "dla", "--corpus_dir", corpus]
    done = bash(*on_small_disk(other, "64k", *stage, "--data_dir", data), cwd=ROOT, TMPDIR=str(other))
    assert done.returncode == 0, done.stderr
    assert len(read_manifest(data / "test.csv").items) == 3
