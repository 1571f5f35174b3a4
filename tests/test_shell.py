"""run.sh and the stage scripts, with a stub in place of the stages' programs."""

import os
import shutil
from pathlib import Path

import pytest
from shell_helpers import bash, calls, copy_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return copy_recipe(tmp_path / "recipe")


def make_experiment(recipe: Path, name: str) -> None:
    (recipe / "exp" / name).mkdir(parents=True)
    (recipe / "exp" / name / "best_model.pth").touch()


def run(recipe: Path, *words: object, **environment: str):
    return bash("./run.sh", *words, cwd=recipe, **environment)


def test_without_options_all_stages_run_in_order_on_the_demo(recipe: Path) -> None:
    make_experiment(recipe, "avdprnn_demo")  # what stage 3, a stub here, would leave behind
    result = run(recipe)
    assert result.returncode == 0, result.stderr
    modules = [line.split()[1].removeprefix("utils.stages.") for line in calls(recipe)]
    assert modules == ["prepare", "mouths", "embed", "train", "separate", "score"]
    assert result.stderr.splitlines()[-1].endswith("results: exp/avdprnn_demo/results/demo_test/RESULTS.md")


def test_each_stage_gets_its_options(recipe: Path) -> None:
    make_experiment(recipe, "mine")
    (recipe / "egs/demo/train_args").write_text("--epochs 3\n")
    assert run(recipe, "--nj", 3, "--max_failed", 2, "--train_args=--lr 0.0005", "--tag", "mine").returncode == 0
    lines = dict(line.removeprefix("-m utils.stages.").split(" ", 1) for line in calls(recipe))
    assert list(lines) == ["prepare", "mouths", "embed", "train", "separate", "score"]
    assert lines["prepare"] == "--corpus=demo --data_dir=data/demo --nj=3 --max_failed=2"
    assert lines["mouths"] == "--data_dir=data/demo --alignment=centred8 --nj=3 --max_failed=2"
    assert "--frontend_weights=egs/demo/lipreader.pth.tar --frontend_layer=trunk" in lines["embed"]
    assert (
        "--conf=conf/av_tfdprnn.yml --data_dir=data/demo --exp_dir=exp/mine --train_args=--epochs 3 --lr 0.0005" in lines["train"]
    )
    assert "--test_dir=data/demo/test.csv --test_name=demo_test" in lines["separate"]
    assert "--frontend_weights" not in lines["separate"], "the experiment knows its own front end"
    assert lines["score"] == "--exp_dir=exp/mine --test_name=demo_test --nj=3 --max_failed=2"


def test_only_the_stages_asked_for_run(recipe: Path) -> None:
    (recipe / "data/demo").mkdir(parents=True)
    assert run(recipe, "--stage", 1, "--stop-stage", 2).returncode == 0
    assert [line.split()[1] for line in calls(recipe)] == ["utils.stages.mouths", "utils.stages.embed"]


def test_a_folder_of_ready_made_features_needs_no_mouths_and_stage_4_may_be_given_another(recipe: Path) -> None:
    make_experiment(recipe, "mine")
    (recipe / "lips").mkdir()
    result = run(recipe, "--corpus", "toy", "--frontend_weights", "lips", "--tag", "mine")
    assert result.returncode == 0, result.stderr
    assert "stage 1_mouths: skipped, lips holds ready-made features" in result.stderr
    lines = dict(line.removeprefix("-m utils.stages.").split(" ", 1) for line in calls(recipe))
    assert list(lines) == ["prepare", "embed", "train", "separate", "score"]
    assert all("--frontend_weights=lips " in lines[name] for name in ("embed", "train", "separate"))


def test_an_audio_only_conf_skips_the_embeddings_and_says_so(recipe: Path) -> None:
    result = run(recipe, "--corpus", "toy", "--conf", "conf/av_tfdprnn_audio_only.yml", "--stop_stage", 3)
    assert result.returncode == 0, result.stderr
    assert "stage 2_embeddings: skipped, conf/av_tfdprnn_audio_only.yml is an audio-only model" in result.stderr
    assert [line.split()[1].split(".")[-1] for line in calls(recipe)] == ["prepare", "mouths", "train"]


def test_a_conf_is_audio_only_where_its_base_is(recipe: Path) -> None:
    (recipe / "conf/mine.yml").write_text("base: dprnn.yml  # the twin\noptim: {lr: 0.1}\n")
    assert "skipped" in run(recipe, "--corpus", "toy", "--conf", "conf/mine.yml", "--stop_stage", 3).stderr
    (recipe / "conf/mine.yml").write_text("base: 'dprnn.yml'\n")
    assert "skipped" in run(recipe, "--corpus", "toy", "--conf", "conf/mine.yml", "--stop_stage", 3).stderr
    (recipe / "conf/mine.yml").write_text("base: mine.yml\n")  # the program that reads it says what is wrong
    assert run(recipe, "--corpus", "toy", "--conf", "conf/mine.yml", "--stop_stage", 3).returncode == 2
    (recipe / "conf/mine.yml").write_text("base: dprnn.yml\nmodel: {n_cues: 2}\n")
    assert run(recipe, "--corpus", "toy", "--conf", "conf/mine.yml", "--stop_stage", 3).returncode == 2


def test_n_cues_of_the_overrides_decides_over_the_conf(recipe: Path) -> None:
    result = run(recipe, "--corpus", "toy", "--train_args", "--lr 0.1 --n_faces 0", "--stop_stage", 3)
    assert "skipped" in result.stderr
    assert run(recipe, "--corpus", "toy", "--conf", "conf/av_tfdprnn_audio_only.yml", "--train_args=--n-cues=2").returncode == 2


@pytest.mark.parametrize(
    ("words", "tag"),
    [
        ([], "avdprnn_demo"),
        (["--conf", "conf/av_tfdprnn_audio_only.yml"], "dprnn_demo"),
        (["--train_args", "--lr 0.0005"], "avdprnn_demo_lr0.0005"),
        (["--train_args", "--lr=0.0005"], "avdprnn_demo_lr0.0005"),
        (["--train_args", "--lr 1e-3 --batch_size 2"], "avdprnn_demo_lr1e-3_batch_size2"),
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
    assert odd != other and odd.startswith("avdprnn_demo_loggera-b_") and len(odd) < 40
    long = tag(" ".join(f"--key_{number} {number}" for number in range(20)))
    assert long == tag(" ".join(f"--key_{number} {number}" for number in range(20))) and len(long) < 60
    assert long != tag(" ".join(f"--key_{number} {number}" for number in range(21)))


def test_a_missing_experiment_is_answered_with_those_that_exist(recipe: Path) -> None:
    make_experiment(recipe, "one")
    make_experiment(recipe, "two")
    (recipe / "exp/untrained").mkdir()
    result = run(recipe, "--stage", 4, "--test_dir", recipe)
    assert result.returncode == 1
    assert "exp/avdprnn_demo/best_model.pth: no such file; stage 3 makes it" in result.stderr
    assert "exp/: one, two. Choose one with --tag NAME or --exp_dir DIR" in result.stderr
    assert calls(recipe) == []


def test_stage_4_with_a_folder_separates_and_scores_it_with_the_default_experiment(recipe: Path) -> None:
    make_experiment(recipe, "avdprnn_demo")
    (recipe / "my meetings").mkdir()
    result = run(recipe, "--stage", 4, "--test_dir", "my meetings/")
    assert result.returncode == 0, result.stderr
    assert "experiment exp/avdprnn_demo" in result.stderr
    separate, score = calls(recipe)
    assert "--exp_dir=exp/avdprnn_demo --test_dir=my meetings/ --test_name=my meetings --subtype=float" in separate
    assert "--test_name=my meetings" in score


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
        (["--corpus", "toy"], 2, "--frontend_weights FILE is needed"),
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
    result = run(recipe, "--stop_stage", 0)
    assert "log: data/demo/log/0_prepare.log" in result.stderr
    assert "to stdout" in result.stdout and "to stderr" in result.stderr
    log = (recipe / "data/demo/log/0_prepare.log").read_text(encoding="utf-8")
    assert "to stdout" in log and "to stderr" in log and "utils.stages.prepare" in log
    run(recipe, "--stop_stage", 0)
    assert (recipe / "data/demo/log/0_prepare.log").read_text(encoding="utf-8").startswith(log)


@pytest.mark.parametrize(("given", "seen"), [("0,1", "0,1"), ("cpu", "-1")])
def test_id_chooses_the_gpus(recipe: Path, given: str, seen: str) -> None:
    (recipe / "data/demo").mkdir(parents=True)
    run(recipe, "--stage", 2, "--stop_stage", 2, "--id", given)
    assert (recipe / "cuda.txt").read_text(encoding="utf-8") == f"cuda={seen}\n"


def test_run_sh_works_from_another_folder(recipe: Path, tmp_path: Path) -> None:
    result = bash(recipe / "run.sh", "--stop_stage", 0, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (recipe / "data/demo/log/0_prepare.log").is_file()


def test_a_value_with_shell_in_it_reaches_the_program_as_text(recipe: Path) -> None:
    value = "--x $(touch x) `touch y`; 'q' *"
    assert run(recipe, "--stop_stage", 0, f"--corpus_args={value}").returncode == 0
    assert f"--corpus_args={value} " in calls(recipe)[0]
    assert not (recipe / "x").exists() and not (recipe / "y").exists()


def test_a_stage_runs_alone_from_anywhere_and_from_sbatchs_copy(recipe: Path, tmp_path: Path) -> None:
    words = ("--exp_dir", "exp/a", "--data_dir", "data/demo", "--conf", "conf/av_tfdprnn_audio_only.yml", "--force")
    (recipe / "data/demo").mkdir(parents=True)
    alone = bash(recipe / "utils/stages/3_train.sh", *words, cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    spool = tmp_path / "spool/job1"
    spool.mkdir(parents=True)
    shutil.copy(recipe / "utils/stages/3_train.sh", spool / "slurm_script")
    batch = bash("bash", spool / "slurm_script", *words, cwd=tmp_path, SLURM_SUBMIT_DIR=str(recipe))
    assert batch.returncode == 0, batch.stderr
    first, second = calls(recipe)
    assert first == second and first.startswith("-m utils.stages.train --conf=conf/av_tfdprnn_audio_only.yml --data_dir=data/demo")
    assert first.endswith("--force")


@pytest.mark.parametrize(
    ("stage", "words", "code", "said"),
    [
        ("0_prepare", ["--corpus", "nix"], 1, "there is no egs/nix/prepare.py"),
        ("1_mouths", ["--data_dir", "nix"], 1, "--data_dir nix: no such folder; stage 0"),
        ("2_embeddings", ["--data_dir", "nix"], 1, "--data_dir nix: no such folder; stage 0"),
        ("3_train", [], 2, "--exp_dir is needed"),
        ("3_train", ["--exp_dir", "e", "--conf", "nix"], 1, "--conf nix: no such file"),
        ("4_separate", ["--exp_dir", "nix"], 1, "no best_model.pth there; stage 3 makes it"),
        ("5_score", [], 2, "are needed"),
        ("5_score", ["--exp_dir", "nix", "--test_name", "t"], 1, "--exp_dir nix: no such folder"),
    ],
)
def test_a_stage_alone_refuses_wrong_paths_and_writes_nothing(
    recipe: Path, stage: str, words: list[str], code: int, said: str
) -> None:
    before = sorted(recipe.rglob("*"))
    result = bash(f"utils/stages/{stage}.sh", *words, cwd=recipe)
    assert result.returncode == code
    assert said in result.stderr and result.stderr.count("\n") == 1
    assert sorted(recipe.rglob("*")) == before


def test_a_stage_that_fails_alone_says_so_last(recipe: Path) -> None:
    (recipe / "exit_code").write_text("3", encoding="utf-8")
    result = bash("utils/stages/0_prepare.sh", cwd=recipe)
    assert result.returncode == 3
    assert result.stderr.splitlines()[-1] == "0_prepare failed (exit code 3); log: data/demo/log/0_prepare.log"


def test_scoring_alone_takes_folders(recipe: Path) -> None:
    words = ("--mixture_dir", "m", "--reference_dir", "r", "--estimate_dir", "e", "--out_dir", "o", "--permute", "--nj", 2)
    assert bash("utils/stages/5_score.sh", *words, cwd=recipe).returncode == 0
    assert calls(recipe)[0].endswith(
        "--mixture_dir=m --reference_dir=r --estimate_dir=e --out_dir=o --permute=true --nj=2 --max_failed=0"
    )
    assert (recipe / "o/log/5_score.log").is_file()
