"""The documents: what they name exists, their commands are accepted by the scripts, and the Python example runs."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from matplotlib.image import imread

from local_models.configs import NETWORK_CONFIGS
from utils.training.config import ClipsConfig, DataConfig, LossConfig, MotionLossConfig, OptimConfig, TrainingConfig

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("egs/*/README.md")),
             *sorted(ROOT.glob("egs/*/*/README.md"))]  # fmt: skip
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RECORD = re.compile(r"<!-- begin ([\w-]+) -->.*?<!-- end \1 -->", re.DOTALL)  # of the revision that it names
OPTION = re.compile(r"(?<![\w-])--([a-z][a-z0-9_]*)")
SCRIPT = re.compile(r"(?:\./)?((?:egs/[\w<>]+/)?run\.sh|separate\.sh|demo\.sh|utils/[\w/]+\.sh)")
SECTIONS = (DataConfig, ClipsConfig, LossConfig, MotionLossConfig, TrainingConfig, OptimConfig)
KEYS = {"name"} | {field.name for kind in (*NETWORK_CONFIGS.values(), *SECTIONS) for field in fields(kind)}
OF_OTHER_PROGRAMS = {"nproc_per_node", "logdir", "nthreads", "nworkers", "port"} | {  # torchrun, tensorboard, dask
    "build", "gpus", "index", "install", "prefix", "rm", "shm", "user",  # of docs/install.md docker, pip, brew
}  # fmt: skip


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _text(document: Path) -> str:
    return RECORD.sub("", document.read_text(encoding="utf-8"))


def _code(text: str) -> Iterator[str]:
    """Everything that is set as code, a command in each: lines of fenced blocks (continued ones joined), inline code."""
    for _, block in FENCED.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    prose = FENCED.sub("", text)
    yield from (line.strip() for line in re.sub(r"\\\n", " ", prose).splitlines() if line.startswith("    "))
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose))


def _commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """(script, words) of each call of one of the recipe's shell scripts."""
    for code in _code(text):
        found = SCRIPT.match(code) or re.match(r"sbatch (?:\./)?()", code) and SCRIPT.search(code)
        if found:
            yield found[1], shlex.split(re.sub(r"[\[\]]", " ", code[found.end() :]), comments=True)


def _programs(text: str) -> Iterator[tuple[str, list[str]]]:
    """(module, words) of each `python -m utils....`."""
    for code in _code(text):
        for found in re.finditer(r"-m (utils[\w.]+\w)(.*)", code):
            yield found[1], shlex.split(re.sub(r"[\[\]]", " ", found[2]), comments=True)


def _options_of_script(script: Path) -> set[str]:
    """Names of the options that a script takes: its header's variables, or what it compares its words with."""
    text = script.read_text(encoding="utf-8")
    header, sourced, _ = text.partition("/utils/parse_options.sh")
    return set(re.findall(r"^([a-z][a-z0-9_]*)=", header, re.MULTILINE)) if sourced else set(OPTION.findall(text))


def _source_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def _options_of_program(module: str) -> set[str]:
    """Names of the options in the source of a program and of the recipe's modules that it imports names from."""
    text = _source_of(module).read_text(encoding="utf-8")
    imported = [_source_of(name) for name in re.findall(r"^from (utils[\w.]+) import", text, re.MULTILINE)]
    texts = [text, *(path.read_text(encoding="utf-8") for path in imported if path.is_file())]
    return {name for text in texts for name in re.findall(r"\"--([a-z][a-z0-9_]*)\"", text)}


@cache
def _options_of_corpus(corpus: str) -> set[str]:
    """Names of the options of `egs/<corpus>/prepare.py`, as its --help has them."""
    command = [sys.executable, ROOT / "egs" / corpus / "prepare.py", "--help"]
    return set(OPTION.findall(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout))


def _unknown(words: list[str], known: set[str]) -> list[str]:
    """The words that are options of none of the known names; values that are options themselves are left out."""
    options = [word for before, word in zip(["", *words], words, strict=False) if not before.endswith("_args")]
    return [word for word in options if (found := OPTION.match(word)) and found[1] not in known]


def _after(words: list[str], option: str, otherwise: str) -> str:
    return words[words.index(option) + 1] if option in words[:-1] else otherwise


def _value(words: list[str], option: str) -> list[str]:
    """The words of an option's value, a text of options."""
    return [part for before, word in zip(words, words[1:], strict=False) if before == option for part in shlex.split(word)]


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"\w+://", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(_slug, headings), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_files_that_are_named_exist(document: Path) -> None:
    named = {
        path.rstrip(".")
        for code in _code(_text(document))
        for path in re.findall(r"(?<![\w/.-])((?:utils|conf|egs|local_models|tests|docs)/[\w./*-]*)(?![\w<{…])", code)
    }
    assert [path for path in sorted(named) if not any(ROOT.glob(path))] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_confs_that_are_named_exist(document: Path) -> None:
    named = set(re.findall(r"conf/[\w/]+\.(?:yml|json)", _text(document)))
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_scripts_have_the_options_that_are_given_to_them(document: Path) -> None:
    for script, words in _commands(_text(document)):
        path = ROOT / ("run.sh" if script.startswith("egs/") else script)
        assert _unknown(words, _options_of_script(path) | {"help"}) == [], script
        assert _unknown(_value(words, "--train_args"), KEYS) == [], script
        corpus = script.split("/")[1] if script.startswith("egs/") else _after(words, "--corpus", "demo")
        assert _unknown(_value(words, "--corpus_args"), _options_of_corpus(corpus)) == [], script


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_programs_exist_and_have_the_options_that_are_given_to_them(document: Path) -> None:
    for module, words in _programs(_text(document)):
        assert _source_of(module).is_file(), module
        assert _unknown(words, _options_of_program(module)) == [], module
        assert _unknown(_value(words, "--train_args"), KEYS) == [], module


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_option_that_is_named_exists(document: Path) -> None:
    scripts = [*ROOT.glob("*.sh"), *ROOT.glob("utils/*.sh"), *ROOT.glob("utils/stages/*.sh")]
    sources = [*ROOT.glob("utils/**/*.py"), *ROOT.glob("egs/*/*.py")]
    known = KEYS | OF_OTHER_PROGRAMS | {"help"}
    known |= {option for path in ROOT.glob("egs/*/prepare.py") for option in _options_of_corpus(path.parent.name)}
    known |= {option for script in scripts for option in _options_of_script(script)}
    known |= {name for path in sources for name in re.findall(r"\"--([a-z][a-z0-9_]*)\"", path.read_text(encoding="utf-8"))}
    assert sorted({name for name in OPTION.findall(_text(document)) if name not in known}) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_keys_of_confs_that_are_named_exist(document: Path) -> None:
    text = _text(document)
    tables = re.findall(r"^\| key \|.*\n\|[-| :]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    named = {key for table in tables for row in table.splitlines() for key in re.findall(r"`(\w+)`", row.split("|")[1])}
    named |= set(re.findall(r"`(\w+_prob)\b", text))
    for code in _code(text):
        named |= {key for value in re.findall(r"--train_args[ =]+\"([^\"]*)", code) for key in OPTION.findall(value)}
    assert sorted(named - KEYS) == []


def test_the_readers_of_documents_see_what_is_wrong() -> None:
    text = (
        '```\n./run.sh --corps demo \\\n    --train_args "--lrr 1"   # --not an option\n```\n`python -m utils.tools.no_such\n'
        "--x 1` and `sbatch utils/train_slurm.sh A`\n<!-- begin a -->\n`./run.sh --of_then`\n<!-- end a -->\n"
    )
    (script, words), (slurm, _) = _commands(RECORD.sub("", text))
    assert (script, slurm) == ("run.sh", "utils/train_slurm.sh")
    assert _unknown(words, _options_of_script(ROOT / script)) == ["--corps"]
    assert _unknown(_value(words, "--train_args"), KEYS) == ["--lrr"]
    assert list(_programs(text)) == [("utils.tools.no_such", ["--x", "1"])]
    assert "results" in _options_of_program("utils.tools.comparison")


def test_the_readme_is_short_and_begins_with_the_three_commands() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120 and [line for line in lines if len(line) > 120] == []
    first = FENCED.search(README.read_text(encoding="utf-8"))[2]
    commands = [line.split("#")[0].split() for line in first.splitlines()]
    assert commands == [["./run.sh"], ["utils/run_tests.sh"], ["./separate.sh", "VIDEO"]]
    assert commands[1][0] in (ROOT / ".ci/run").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", sorted(ROOT.glob("docs/*.md")), ids=_name)
def test_lines_are_not_too_long(document: Path) -> None:
    lines = _text(document).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_the_python_example_runs_from_the_root_and_separates(tmp_path: Path) -> None:
    (example,) = [block for language, block in FENCED.findall(README.read_text(encoding="utf-8")) if language == "python"]
    assert len([line for line in example.splitlines() if line]) == 5
    check = "print(estimates.shape, bool(np.isfinite(estimates).all()))"
    again = "print(bool((network.separate(mixture, visual) == estimates).all()), bool((estimates[0] != estimates[1]).any()))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    nowhere = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https")}  # whatever it would download fails
    done = subprocess.run(
        [sys.executable, "-c", f"{example}\n{check}\n{again}"],
        cwd=ROOT, env=environment | nowhere | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["(2, 32000) True", "True True"]
    assert list(tmp_path.iterdir()) == []


def test_the_figures_are_drawn_by_their_script(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "docs/images/draw.py", tmp_path], check=True, timeout=300)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.png", "pipeline.png"]
    for path in tmp_path.iterdir():
        assert imread(path).shape == imread(ROOT / "docs/images" / path.name).shape
