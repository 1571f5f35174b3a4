"""run.sh with a stub in place of the stages' programs, and the stage scripts with their programs."""

import os
import re
import resource
import shutil
import sys
from pathlib import Path

import pytest
from shell_helpers import ROOT, bash, calls, copy_recipe

from utils.data.devices import show_only
from utils.errors import UsageError
from utils.stages.logged import log_path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return copy_recipe(tmp_path / "recipe")


def make_experiment(recipe: Path, name: str) -> None:
    (recipe / "exp" / name).mkdir(parents=True)
    (recipe / "exp" / name / "best_model.pth").touch()


def run(recipe: Path, *words: object, **environment: str):
    return bash("./run.sh", *words, cwd=recipe, **environment)


def test_without_options_all_stages_run_in_order_on_the_demo(recipe: Path) -> None:
    result = run(recipe)
    assert result.returncode == 0, result.stderr
    modules = [line.split()[1].removeprefix("utils.stages.") for line in calls(recipe)]
    assert modules == ["prepare", "mouths", "embed", "train", "separate", "score"]
    assert "experiment exp/demo_demo" in result.stderr


def programs(recipe: Path) -> dict[str, str]:
    """The options of every program that was called, by the program's name."""
    return dict(line.removeprefix("-m utils.stages.").split(" ", 1) for line in calls(recipe))


def test_each_stage_gets_its_options(recipe: Path) -> None:
    assert run(recipe, "--nj", 3, "--max_failed", 2, "--train_args=--lr 0.0005", "--tag", "mine").returncode == 0
    lines = programs(recipe)
    assert list(lines) == ["prepare", "mouths", "embed", "train", "separate", "score"]
    assert lines["prepare"] == "--corpus=demo --data_dir=data/demo --nj=3 --max_failed=2 --force=false"
    weights = "--frontend_weights=egs/demo/lipreader.pth.tar --face_weights=dlib"
    assert f"--conf=conf/demo.yml --train_args=--lr 0.0005 {weights} --alignment=centred8" in lines["mouths"]
    assert "--conf=conf/demo.yml --train_args=--lr 0.0005 --frontend_weights=egs/demo/lipreader.pth.tar" in lines["embed"]
    assert "--conf=conf/demo.yml --data_dir=data/demo --exp_dir=exp/mine --train_args=--lr 0.0005" in lines["train"]
    assert "--test_dir=data/demo/test.csv" in lines["separate"] and "--test_name" not in lines["separate"]
    assert "--frontend_weights" not in lines["separate"], "the experiment knows its own visual frontend"
    assert lines["score"].startswith("--exp_dir=exp/mine --test_dir=data/demo/test.csv --permute=false --nj=3")


def test_every_option_of_run_sh_reaches_a_program_that_knows_it(recipe: Path, repo_root: Path) -> None:
    header = (repo_root / "run.sh").read_text().split("\nCOMMAND=")[0]
    declared = set(re.findall(r"^([a-z_]+)=", header, re.MULTILINE)) - {"stage", "stop_stage", "tag"}
    known = {name: bash(sys.executable, "-m", f"utils.stages.{name}", "--help", cwd=repo_root).stdout
             for name in ("prepare", "mouths", "embed", "train", "separate", "score")}  # fmt: skip
    values = dict.fromkeys(declared, "1") | {"conf": "conf/demo.yml", "corpus": "toy"}
    values |= dict.fromkeys(("force", "cue_test", "preview", "permute", "mux"), "true")
    values |= {"corpus_dir": "egs", "test_dir": "egs", "frontend_weights": "weights.pth", "train_args": "--lr 0.1"}
    values["output_rate"] = "source"
    result = run(recipe, *(f"--{name}={value}" for name, value in values.items()))
    assert result.returncode == 0, result.stderr
    passed = {stage: set(re.findall(r"--(\w+)=", line.replace("--train_args=--lr 0.1", "--train_args="))) for stage, line in
              programs(recipe).items()}  # fmt: skip
    assert set.union(*passed.values()) == declared
    for stage, names in passed.items():
        assert not [name for name in names if f"--{name}" not in known[stage]], stage


def test_only_the_stages_asked_for_run(recipe: Path) -> None:
    (recipe / "data/demo").mkdir(parents=True)
    assert run(recipe, "--stage", 1, "--stop-stage", 2).returncode == 0
    assert [line.split()[1] for line in calls(recipe)] == ["utils.stages.mouths", "utils.stages.embed"]


def test_stage_4_gets_the_weights_only_where_they_are_given(recipe: Path) -> None:
    (recipe / "lips").mkdir()
    result = run(recipe, "--corpus", "toy", "--frontend_weights", "lips", "--tag", "mine")
    assert result.returncode == 0, result.stderr
    assert all("--frontend_weights=lips " in programs(recipe)[name] for name in ("mouths", "embed", "train", "separate"))


def test_an_audio_only_conf_needs_no_weights(recipe: Path) -> None:
    for words in (["--conf", "conf/av_tfdprnn_audio_only.yml"], ["--conf", "conf/demo.yml", "--train_args", "--n_faces 0"]):
        assert run(recipe, "--corpus", "toy", *words, "--stop_stage", 3).returncode == 0
    assert len(calls(recipe)) == 8


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "--frontend_weights FILE is needed"),
        (["--conf", "conf/av_tfdprnn_audio_only.yml", "--train_args=--n-faces=2"], 2, "--frontend_weights FILE is needed"),
        (["--train_args=--lrr 3"], 1, "unknown key 'lrr'; did you mean 'lr'?"),
        (["--train_args=--lr '3"], 2, "No closing quotation"),
        (["--conf", "broken.yml"], 1, "broken.yml: not valid YAML"),
    ],
)
def test_a_conf_that_cannot_be_trained_is_told_before_the_first_stage(
    recipe: Path, words: list[str], code: int, said: str
) -> None:
    (recipe / "broken.yml").write_text("model: [\n")
    result = run(recipe, "--corpus", "toy", *words)
    assert result.returncode == code and calls(recipe) == []
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr and not (recipe / "data").exists() and not (recipe / "exp").exists()


@pytest.mark.parametrize(
    ("words", "tag"),
    [
        ([], "demo_demo"),
        (["--corpus", "toy"], "av_tfdprnn_toy"),
        (["--conf", "conf/av_tfdprnn_audio_only.yml"], "av_tfdprnn_audio_only_demo"),
        (["--train_args", "--lr 0.0005"], "demo_demo_lr0.0005"),
        (["--train_args", "--lr=0.0005"], "demo_demo_lr0.0005"),
        (["--train_args", "--lr 1e-3 --batch_size 2"], "demo_demo_lr1e-3_batch_size2"),
        (["--tag", "mine"], "mine"),
        (["--exp_dir", "elsewhere/one"], "../elsewhere/one"),
    ],
)
def test_the_experiment_is_named_by_conf_corpus_and_overrides(recipe: Path, words: list[str], tag: str) -> None:
    for _ in range(2):
        result = run(recipe, "--stage", 4, *words)
        assert result.returncode == 1
        assert os.path.normpath(f"exp/{tag}/best_model.pth") + ": no such file; stage 3 makes it" in result.stderr


def test_long_or_odd_overrides_get_a_short_hash_that_tells_them_apart(recipe: Path) -> None:
    def tag(text: str) -> str:
        script = f'. utils/recipe.sh; experiment_tag conf/av_tfdprnn.yml demo "{text}"'
        return bash("bash", "-euc", script, cwd=recipe).stdout

    odd, other = tag("--logger a/b"), tag("--logger a:b")
    assert odd != other and odd.startswith("av_tfdprnn_demo_loggera-b_") and len(odd) < 40
    long = tag(" ".join(f"--key_{number} {number}" for number in range(20)))
    assert long == tag(" ".join(f"--key_{number} {number}" for number in range(20))) and len(long) < 60
    assert long != tag(" ".join(f"--key_{number} {number}" for number in range(21)))


def test_a_missing_experiment_is_answered_with_those_that_exist(recipe: Path) -> None:
    make_experiment(recipe, "one")
    make_experiment(recipe, "two")
    (recipe / "exp/untrained").mkdir()
    result = run(recipe, "--stage", 4, "--test_dir", recipe)
    assert result.returncode == 1
    assert "exp/demo_demo/best_model.pth: no such file; stage 3 makes it" in result.stderr
    assert "exp/: one, two. Choose one with --tag NAME or --exp_dir DIR" in result.stderr
    assert calls(recipe) == []


def test_stage_4_with_a_folder_separates_and_scores_it_with_the_default_experiment(recipe: Path) -> None:
    make_experiment(recipe, "demo_demo")
    (recipe / "my meetings").mkdir()
    result = run(recipe, "--stage", 4, "--test_dir", "my meetings/")
    assert result.returncode == 0, result.stderr
    assert "experiment exp/demo_demo" in result.stderr
    separate, score = calls(recipe)
    assert "--exp_dir=exp/demo_demo --test_dir=my meetings/ --cue_test=false --runtime=torch --subtype=float" in separate
    assert "--exp_dir=exp/demo_demo --test_dir=my meetings/" in score


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--stage", "9"], 2, "stages run from 0 to 5"),
        (["--stage", "3", "--stop_stage", "1"], 2, "stages run from 0 to 5"),
        (["--stage", "abc"], 2, "whole number"),
        (["--tag", "../up"], 2, "--tag ../up"),
        (["--corpus", "nix"], 1, "there is no egs/nix/prepare.py; corpora: demo, toy"),
        (["--corpus", "toy", "--corpus_dir", "nix"], 1, "--corpus_dir nix: no such folder"),
        (["--conf", "nix.yml"], 1, "--conf nix.yml: no such file"),
        (["--frontend_weights", "nix.pth"], 1, "--frontend_weights nix.pth: no such file"),
        (["--stage", "4", "--test_dir", "nix"], 1, "--test_dir nix: no such file or folder"),
    ],
)
def test_a_wrong_call_is_one_line_before_anything_is_started_or_written(
    recipe: Path, words: list[str], code: int, said: str
) -> None:
    shutil.rmtree(recipe / ".venv")  # a wrong call must not make an environment first
    before = sorted(recipe.rglob("*"))
    result = run(recipe, *words)
    assert result.returncode == code
    assert said in result.stderr and result.stderr.count("\n") == 1
    assert sorted(recipe.rglob("*")) == before


@pytest.mark.parametrize(("status", "code", "what"), [(1, 1, "failed"), (2, 2, "failed"), (130, 130, "interrupted")])
def test_the_last_line_of_a_failure_names_stage_log_and_the_command_to_continue(
    recipe: Path, status: int, code: int, what: str
) -> None:
    (recipe / "data/demo").mkdir(parents=True)
    (recipe / "exit_code").write_text(str(status), encoding="utf-8")
    result = run(recipe, "--stage", 1, "--train_args", "--lr 0.1")
    assert result.returncode == code
    last = result.stderr.splitlines()[-1]
    assert f"stage 1_mouths {what}; log: data/demo/log/1_mouths.log; to continue: ./run.sh" in last
    assert last.endswith(r"./run.sh --train_args --lr\ 0.1 --stage 1")
    assert len(calls(recipe)) == 1, "no stage after a failed one"


def test_stdout_and_stderr_are_shown_and_logged_and_the_log_is_named_at_the_start(recipe: Path) -> None:
    (recipe / "data/demo").mkdir(parents=True)
    result = run(recipe, "--stop_stage", 0)
    assert "log: data/demo/log/0_prepare.log" in result.stderr
    assert "to stdout" in result.stdout and "to stderr" in result.stderr
    log = (recipe / "data/demo/log/0_prepare.log").read_text(encoding="utf-8")
    assert "to stdout" in log and "to stderr" in log and "utils.stages.prepare" in log
    run(recipe, "--stop_stage", 0)
    assert (recipe / "data/demo/log/0_prepare.log").read_text(encoding="utf-8").startswith(log)


def test_the_log_of_a_stage_begins_when_its_folder_exists(tmp_path: Path) -> None:
    words = [sys.executable, ROOT / "utils/stages/logged.py", "4_separate", "bash", "-c"]
    refused = bash(*words, "echo refused; exit 1", "x", "--exp_dir", "new", cwd=tmp_path)
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "refused\n", "") and not list(tmp_path.iterdir())
    made = bash(*words, "echo first; sleep 1; mkdir new; sleep 1; echo last", "x", "--exp-dir=new", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "log: new/log/4_separate.log\n")
    assert re.findall("^(first|last)$", (tmp_path / "new/log/4_separate.log").read_text(), re.MULTILINE) == ["first", "last"]


@pytest.mark.parametrize(
    ("stage", "words", "folder"),
    [
        ("0_prepare", [], "data/demo"),
        ("0_prepare", ["--corpus", "toy"], "data/toy"),
        ("0_prepare", ["--data_dir=d", "--corpus", "toy"], "d"),
        ("3_train", ["--data_dir", "d", "--exp_dir", "e"], "e"),
        ("4_separate", ["--exp_dir", "e", "--out_dir=o"], "o"),
        ("4_separate", ["--exp_dir", "e", "--out_dir="], "e"),
        ("5_score", ["--permute"], None),
    ],
)
def test_each_stage_has_its_log_where_it_writes(stage: str, words: list[str], folder: str | None) -> None:
    assert log_path(stage, words) == (Path(folder, "log", f"{stage}.log") if folder else None)


def test_run_sh_works_from_another_folder(recipe: Path, tmp_path: Path) -> None:
    (recipe / "data/demo").mkdir(parents=True)
    result = bash(recipe / "run.sh", "--stop_stage", 0, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (recipe / "data/demo/log/0_prepare.log").is_file()


def test_a_value_with_shell_in_it_reaches_the_program_as_text(recipe: Path) -> None:
    value = "--x $(touch x) `touch y`; 'q' *"
    assert run(recipe, "--stop_stage", 0, f"--corpus_args={value}").returncode == 0
    assert f"--corpus_args={value} " in calls(recipe)[0]
    assert not (recipe / "x").exists() and not (recipe / "y").exists()


def test_a_stage_runs_on_its_own_from_anywhere_and_from_sbatchs_copy(recipe: Path, tmp_path: Path) -> None:
    words = ("--exp_dir", "exp/a", "--data_dir", "data/demo", "--conf", "conf/av_tfdprnn_audio_only.yml", "--force")
    own = bash(recipe / "utils/stages/3_train.sh", *words, cwd=tmp_path)
    assert own.returncode == 0, own.stderr
    spool = tmp_path / "spool/job1"
    spool.mkdir(parents=True)
    shutil.copy(recipe / "utils/stages/3_train.sh", spool / "slurm_script")
    batch = bash("bash", spool / "slurm_script", *words, cwd=tmp_path, SLURM_SUBMIT_DIR=str(recipe))
    assert batch.returncode == 0, batch.stderr
    assert calls(recipe) == [" ".join(("-m utils.stages.train", *words))] * 2


@pytest.mark.parametrize(
    ("stage", "words", "code", "said"),
    [
        ("0_prepare", ["--corpus", "nix"], 1, "there is no egs/nix/prepare.py"),
        ("1_mouths", ["--data_dir", "{tmp}/nix"], 1, "nix: no such folder; stage 0"),
        ("2_embeddings", ["--data_dir", "{tmp}/nix", "--frontend_weights", "run.sh"], 1, "nix: no such folder; stage 0"),
        ("2_embeddings", ["--data_dir", "{tmp}/nix"], 2, "--frontend_weights FILE is needed"),
        ("3_train", [], 2, "--exp_dir"),
        ("3_train", ["--exp_dir", "{tmp}/e", "--data_dir", "{tmp}", "--conf", "nix.yml"], 1, "nix.yml: no such"),
        ("4_separate", ["--exp_dir", "{tmp}/nix", "--test_dir", "{tmp}"], 1, "no such experiment; stage 3 makes it"),
        ("5_score", [], 2, "are needed"),
        ("5_score", ["--exp_dir", "{tmp}/nix", "--test_name", "t"], 1, "nix: no such folder"),
    ],
)
def test_a_stage_on_its_own_refuses_wrong_paths_at_once_and_writes_nothing(
    tmp_path: Path, stage: str, words: list[str], code: int, said: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = bash(ROOT / f"utils/stages/{stage}.sh", *(word.format(tmp=tmp_path) for word in words), cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("path.sh: using")]
    assert result.returncode == code, result.stderr
    assert len(lines) == 1 and said in lines[0]
    assert not list(tmp_path.iterdir()) and not (ROOT / "data/nix").exists()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2, "processor time, as machines are busy"


@pytest.mark.parametrize("script", sorted((ROOT / "utils/stages").glob("*.sh")), ids=lambda path: path.stem)
def test_help_of_a_stage_is_that_of_its_program(script: Path) -> None:
    result = bash(script, "--help", cwd=ROOT)
    assert result.returncode == 0 and result.stdout.startswith("usage: ") and "--force" in result.stdout
    assert all(line.startswith("path.sh: using") for line in result.stderr.splitlines())


def test_a_stage_that_fails_on_its_own_says_so_last(recipe: Path) -> None:
    (recipe / "exit_code").write_text("3", encoding="utf-8")
    (recipe / "data/demo").mkdir(parents=True)
    result = bash("utils/stages/0_prepare.sh", cwd=recipe)
    assert result.returncode == 3
    assert result.stderr.splitlines()[-1] == "0_prepare failed (exit code 3); log: data/demo/log/0_prepare.log"


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("mouths", ["--data_dir", "x", "--frontend_weights", "conf"], "stage 1: skipped, conf holds precomputed embeddings"),
        ("embed", ["--data_dir", "x", "--conf", "conf/av_tfdprnn_audio_only.yml"], "stage 2: skipped, conf/av_tfdprnn_audio"),
        ("embed", ["--data_dir", "x", "--conf", "conf/demo.yml", "--train_args=--n-faces 0"], "stage 2: skipped, conf/demo"),
        ("score", ["--exp_dir", "conf", "--test_dir", "run.sh"], "stage 5: skipped, videos have no references"),
    ],
)
def test_a_program_with_nothing_to_do_says_so_and_succeeds(module: str, words: list[str], said: str) -> None:
    result = bash(sys.executable, "-m", f"utils.stages.{module}", *words, cwd=ROOT)
    assert result.returncode == 0 and said in result.stderr and result.stderr.count("\n") == 1


def test_gpus_are_chosen_for_programs_that_take_all_they_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    for given, seen in (("", "7"), ("0,1", "0,1"), ("cpu", "-1")):
        show_only(given)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
    with pytest.raises(UsageError, match="--id one: neither"):
        show_only("one")
