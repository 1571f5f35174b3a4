"""The grammar of options: what is accepted, what is refused and how, and that no value is ever run."""

from pathlib import Path

import pytest
from shell_helpers import ROOT, bash, write_script

SCRIPT = f"""#!/usr/bin/env bash
# Does a thing.
#
# And explains it.
set -euo pipefail

stage=0       # the first stage
tag=none      # a name
force=false   # again
train_args=   # overrides
home_dir=$(pwd) # where

NOT_AN_OPTION=1
. {ROOT}/utils/parse_options.sh
below=1
printf '%s|%s|%s|%s' "$stage" "$tag" "$force" "$train_args"
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return write_script(tmp_path / "script.sh", SCRIPT)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "0|none|false|"),
        (["--stage", "4"], "4|none|false|"),
        (["--stage=4", "--tag=a"], "4|a|false|"),
        (["--train-args", "--lr 0.0005"], "0|none|false|--lr 0.0005"),
        (["--train-args=--lr=1", "--force", "true"], "0|none|true|--lr=1"),
        (["--force"], "0|none|true|"),
        (["--force", "--stage", "2"], "2|none|true|"),
        (["--force", "false"], "0|none|false|"),
        (["--stage", "-1"], "-1|none|false|"),
        (["--tag", ""], "0||false|"),
        (["--tag="], "0||false|"),
        (["--tag", "a b"], "0|a b|false|"),
        (["--tag", "*"], "0|*|false|"),
        (["--tag", "--x"], "0|--x|false|"),
        (["--tag=--stage"], "0|--stage|false|"),
        (["--tag", "5", "--tag", "abc"], "0|abc|false|"),
        (["--tag", "a=b"], "0|a=b|false|"),
        (["--tag", "x\ny"], "0|x\ny|false|"),
        (["--tag", 'it\'s "é" \\n'], '0|it\'s "é" \\n|false|'),
    ],
)
def test_values_arrive_as_they_were_written(script: Path, words: list[str], expected: str) -> None:
    result = bash(script, *words, cwd=script.parent)
    assert (result.returncode, result.stdout) == (0, expected), result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stge", "3"], "unknown option --stge;"),
        (["--train", "3"], "unknown option --train (did you mean --train_args?)"),
        (["--sta=3"], "unknown option --sta (did you mean --stage?)"),
        (["--zzzzzzz", "3"], "unknown option --zzzzzzz;"),
        (["--below", "3"], "unknown option --below"),
        (["--NOT_AN_OPTION", "3"], "unknown option --NOT_AN_OPTION"),
        (["--=3"], "unknown option --"),
        (["--tag"], "option --tag needs a value"),
        (["--tag", "--stage", "3"], "option --tag needs a value"),
        (["--tag", "--help"], "option --tag needs a value"),
        (["stage", "4"], "stray word 'stage'"),
        (["--stage", "4", "X"], "stray word 'X'"),
        (["-s", "4"], "stray word '-s'"),
        (["--"], "stray word '--'"),
        ([""], "stray word ''"),
        (["a\nb"], "stray word"),
        (["--a\nb", "1"], "unknown option"),
        (["--stage", "abc"], "option --stage takes a whole number, not 'abc'"),
        (["--stage", "1.5"], "option --stage takes a whole number"),
        (["--stage", "08"], "option --stage takes a whole number"),
        (["--stage", "99999999999999999999"], "option --stage takes a whole number"),
        (["--stage", "$(echo 1)"], "option --stage takes a whole number"),
        (["--stage", "a[$(touch x)]"], "option --stage takes a whole number"),
        (["--stage="], "option --stage takes a whole number"),
        (["--force", "maybe"], "option --force takes true or false, not 'maybe'"),
        (["--force="], "option --force takes true or false"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(script: Path, words: list[str], said: str) -> None:
    result = bash(script, *words, cwd=script.parent)
    assert result.returncode == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert sorted(path.name for path in script.parent.iterdir()) == ["script.sh"]


@pytest.mark.parametrize(
    "attack",
    ["$(touch x)", "`touch x`", "'; touch x; '", '"; touch x; "', "a[$(touch x)]", "${IFS}$(touch${IFS}x)", "x; touch x",
     "%s%n", "<(touch x)", "~", "!!"],
)  # fmt: skip
@pytest.mark.parametrize("form", ["--tag={}", "--{}=1", "{}", "--stage={}", "--force={}"])
def test_nothing_in_a_call_is_ever_run(script: Path, attack: str, form: str) -> None:
    result = bash(script, form.format(attack), cwd=script.parent)
    assert not (script.parent / "x").exists()
    if form == "--tag={}":
        assert (result.returncode, result.stdout) == (0, f"0|{attack}|false|")
    else:
        assert result.returncode == 2


@pytest.mark.parametrize("path", ["run.sh", "separate.sh", "utils/run_tests.sh"])
def test_help_lists_every_option_of_every_script_with_its_meaning(path: str) -> None:
    header = (ROOT / path).read_text(encoding="utf-8").split("\nROOT=")[0].splitlines()
    names = [line.split("=")[0] for line in header if line[:1].islower() and "=" in line.split()[0]]
    result = bash(ROOT / path, "--help", cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.startswith("  --")}
    assert list(lines) == [f"--{name}" for name in names]
    for line in lines.values():
        assert len(line.split()) >= 3, f"no meaning: {line}"
        assert line.endswith("]")
    assert header[1].lstrip("# ") in result.stdout


def test_help_shows_defaults(script: Path) -> None:
    result = bash(script, "--stage", "3", "--help", cwd=script.parent)
    assert result.returncode == 0
    assert result.stdout.startswith("Does a thing.\n\nAnd explains it.\n")
    assert "--tag                a name [none]" in result.stdout
    assert f"where [{script.parent}]" in result.stdout
