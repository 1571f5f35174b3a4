"""path.sh: which Python it takes, when it makes .venv, and that a broken installation is never taken for a whole one."""

import hashlib
import sys
import time
from pathlib import Path

import pytest
from shell_helpers import bash, copy_scripts, write_script

from utils import environment

# A python3 that makes a `.venv` and "installs" by noting it: every call goes to calls.txt of the copied recipe.
BASE_PYTHON = """#!/usr/bin/env bash
root={root}
echo "$*" >>$root/calls.txt
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin && cp {root}/base/python3 .venv/bin/python3 ;;
    *"pip install"*)
        echo installing >>.venv/half
        sleep "$(cat $root/pip_seconds 2>/dev/null || echo 0)"
        exit "$(cat $root/pip_exit_code 2>/dev/null || echo 0)" ;;
    *"environment.py check"*) [[ $0 == */good/bin/python3 ]] || {{ echo "torch==2.11.0 (is not installed)"; exit 1; }} ;;
    *"environment.py build"*) exec {python} "$@" ;;
esac
"""
SOURCE = "set -euo pipefail; . ./path.sh; command -v python3; echo $PYTHONPATH $LC_ALL $OMP_NUM_THREADS"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    root = copy_scripts(tmp_path / "recipe")
    text = BASE_PYTHON.format(root=root, python=sys.executable)
    for folder in ("base", "good/bin", "lacking/bin"):
        write_script(root / folder / "python3", text)
    return root


def source(recipe: Path, script: str = SOURCE, **environment_variables: str):
    """Source path.sh with `base/python3` as the machine's Python."""
    path = f"{recipe / 'base'}:/usr/local/bin:/usr/bin:/bin"
    return bash("bash", "-c", script, cwd=recipe, **({"PATH": path} | environment_variables))


def python_calls(recipe: Path, word: str) -> int:
    path = recipe / "calls.txt"
    return sum(word in line for line in path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def test_the_first_call_makes_the_environment_and_says_how_big_it_is(recipe: Path) -> None:
    result = source(recipe)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == str(recipe / ".venv/bin/python3")
    assert "making .venv" in result.stderr and "5 GB" in result.stderr
    digest = hashlib.sha256((recipe / "requirements.txt").read_bytes()).hexdigest()
    assert (recipe / ".venv/.requirements").read_text(encoding="utf-8").strip() == digest


def test_afterwards_neither_pip_nor_any_python_is_called(recipe: Path) -> None:
    source(recipe)
    (recipe / "calls.txt").unlink()
    started = time.monotonic()
    result = source(recipe)
    print(f"path.sh afterwards: {time.monotonic() - started:.3f} s with the start of bash")
    assert result.returncode == 0, result.stderr
    assert not (recipe / "calls.txt").exists()


def test_sourcing_again_changes_nothing(recipe: Path) -> None:
    result = source(recipe, "set -euo pipefail; . ./path.sh; a=$(env); . ./path.sh; [[ $a == $(env) ]] && echo same")
    assert result.stdout == "same\n", result.stderr
    assert result.stderr.count("path.sh: using") == 1


def test_an_installation_that_failed_or_was_killed_is_made_anew(recipe: Path) -> None:
    (recipe / "pip_exit_code").write_text("1", encoding="utf-8")
    failed = source(recipe)
    assert failed.returncode == 1 and failed.stdout == ""
    assert "pip failed" in failed.stderr.splitlines()[-1]
    (recipe / "pip_exit_code").unlink()
    again = source(recipe)
    assert again.returncode == 0, again.stderr
    assert "making .venv" in again.stderr
    assert (recipe / ".venv/half").read_text(encoding="utf-8") == "installing\n", "nothing of the failed one is left"


def test_a_kill_in_the_middle_of_pip_is_made_good_by_the_next_call(recipe: Path) -> None:
    (recipe / "pip_seconds").write_text("30", encoding="utf-8")
    script = "(. ./path.sh) & job=$!; until [[ -e .venv/half ]]; do sleep 0.05; done; kill -9 -- -$$"
    assert source(recipe, script).returncode == -9
    (recipe / "pip_seconds").unlink()
    again = source(recipe)
    assert again.returncode == 0, again.stderr
    assert (recipe / ".venv/half").read_text(encoding="utf-8") == "installing\n"


def test_two_first_calls_at_once_install_once(recipe: Path) -> None:
    (recipe / "pip_seconds").write_text("1", encoding="utf-8")
    script = "(. ./path.sh) & first=$!; (. ./path.sh) & second=$!; wait $first; wait $second"
    result = source(recipe, f"set -e; {script}")
    assert result.returncode == 0, result.stderr
    assert python_calls(recipe, "pip install") == 1
    assert "waiting for it" in result.stderr


def test_changed_requirements_are_installed_over_the_old_ones(recipe: Path) -> None:
    source(recipe)
    with open(recipe / "requirements.txt", "a", encoding="utf-8") as handle:
        handle.write("six==1.17.0\n")
    result = source(recipe)
    assert "bringing .venv up to date" in result.stderr
    assert python_calls(recipe, "pip install") == 2 and python_calls(recipe, "-m venv") == 1


def test_an_active_environment_that_satisfies_the_requirements_is_used(recipe: Path) -> None:
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        result = source(recipe, **{variable: str(recipe / "good")})
        assert result.stdout.splitlines()[0] == str(recipe / "good/bin/python3"), result.stderr
    assert not (recipe / ".venv").exists()


def test_an_active_environment_that_does_not_is_named_and_left_alone(recipe: Path) -> None:
    result = source(recipe, VIRTUAL_ENV=str(recipe / "lacking"))
    assert result.stdout.splitlines()[0] == str(recipe / ".venv/bin/python3")
    assert f"{recipe}/lacking/bin/python3 does not satisfy requirements.txt: torch==2.11.0" in result.stderr


@pytest.mark.parametrize(("given", "seen"), [({}, None), ({"OMP_NUM_THREADS": "3"}, "3"), ({"SLURM_CPUS_PER_TASK": "2"}, "2")])
def test_path_and_threads_are_set(recipe: Path, given: dict[str, str], seen: str | None) -> None:
    *_, last = source(recipe, **given).stdout.splitlines()
    python_path, locale, threads = last.split()
    assert (python_path, locale) == (str(recipe), "C.UTF-8")
    assert threads == seen if seen else 1 <= int(threads) <= 16


def test_missing_build_tools_are_named_before_anything_is_made(recipe: Path) -> None:
    result = source(recipe, CC="no-such-compiler")
    assert result.returncode == 1
    assert "no C compiler ('no-such-compiler'), needed to build pesq" in result.stderr
    assert python_calls(recipe, "pip install") == 0 and not (recipe / ".venv").exists()


def test_missing_headers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda name: str(tmp_path))
    (problem,) = [text for text in environment.missing_build_tools() if "Python.h" in text]
    assert str(tmp_path / "Python.h") in problem and "-dev" in problem


def test_unmet_requirements_are_listed_with_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    versions = {"torch": "2.11.0+cu130", "numpy": "2.4.5", "setuptools": "81.0.0", "pip": "26.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise environment.importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(environment.importlib.metadata, "version", version)
    (tmp_path / "more.txt").write_text("pip==26\nsix>=1.0 # why\n", encoding="utf-8")
    path = tmp_path / "requirements.txt"
    path.write_text("# all\n-r more.txt\n\ntorch==2.11.0\nnumpy == 2.4.6\nsetuptools<81\n", encoding="utf-8")
    assert environment.unmet(path) == [
        "six>=1.0 (is not installed)",
        "numpy==2.4.6 (is 2.4.5)",
        "setuptools<81 (is 81.0.0)",
    ]


def test_a_requirement_that_is_not_understood_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("torch\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: 'torch'"):
        list(environment.requirements(tmp_path / "r.txt"))


def test_this_environment_satisfies_the_requirements_of_the_recipe(repo_root: Path) -> None:
    names = {name for name, _, _ in environment.requirements(repo_root / "requirements.txt")}
    assert {"torch", "torchaudio", "pytorch-lightning", "asteroid", "numpy", "scipy", "pandas", "soundfile", "pesq",
            "pystoi", "mir_eval"} <= names  # fmt: skip
    assert environment.unmet(repo_root / "requirements-dev.txt") == []
