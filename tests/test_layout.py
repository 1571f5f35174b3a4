"""The house rules: who may import whom, how long a file may be, and that every script and conf can be read."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = ("egs", "local_models", "utils", "conf", "tests", "docs", "run.sh", "separate.sh", "demo.sh", "live.sh", "path.sh",
             "requirements.txt", "requirements-dev.txt", "requirements-video.txt", "requirements-demo.txt",
             "requirements-cluster.txt", "requirements-live.txt", "requirements-onnx.txt", "requirements-onnxruntime.txt",
             "Dockerfile", ".dockerignore",
             "README.md", "LICENSE", ".ci/run")  # fmt: skip
OUTPUTS = {"data", "dump", "exp"}
STAGES = ("prepare", "mouths", "embed", "train", "separate", "score")
LONGEST = {"run.sh": 150} | dict.fromkeys((f"utils/stages/{name}.py" for name in STAGES), 150)
LONGEST_OTHERWISE = 600  # of a cohesive file; several short ones that only know each other read worse

# What the code of each room may import of the recipe itself; docs/architecture.md says the same in words.
GROUND = {"utils.errors", "utils.data"}
ALLOWED = {
    "local_models": {"local_models"},
    "utils.errors": set(),
    "utils.environment": set(),
    "utils.data": GROUND | {"utils.environment"},  # cluster.py adds its packages
    "utils.mixing": GROUND | {"utils.mixing"},
    "utils.video": GROUND | {"utils.video"},
    "utils.corpora": GROUND | {"utils.corpora", "utils.mixing", "utils.video"},
    "utils.export": GROUND | {"utils.export", "local_models"},
    "utils.embedding": GROUND | {"utils.embedding", "utils.export", "utils.video", "local_models"},
    "utils.training": GROUND | {"utils.training", "utils.mixing", "utils.embedding", "local_models"},
    "utils.scoring": GROUND | {"utils.scoring"},
    "utils.page": GROUND | {"utils.page", "utils.video"},  # the stage it runs is a program of its own
    "utils.voice_to_mouth": GROUND
    | {f"utils.{name}" for name in ("voice_to_mouth", "training", "embedding", "corpora", "separation", "scoring", "video")}
    | {"local_models"},
    "utils.separation": GROUND
    | {f"utils.{name}" for name in ("separation", "embedding", "export", "training", "corpora", "video")}
    | {"local_models"},
}
_NAMES = ("mixing", "video", "corpora", "export", "embedding", "training", "scoring", "separation", "voice_to_mouth")
ROOMS = {f"utils.{name}" for name in _NAMES}
ALLOWED |= {
    "utils.live": GROUND
    | {f"utils.{name}" for name in ("live", "environment", "separation", "embedding", "video")}
    | {"local_models"},
    "utils.tools": GROUND | ROOMS | {"utils.tools", "utils.environment", "local_models"},
    "utils.stages": GROUND | ROOMS | {"utils.environment"},  # no stage imports another
    "egs": {"egs"} | GROUND | ROOMS | {"local_models"},
}
NETWORKS = {"torch", "torchaudio", "asteroid", "asteroid_filterbanks", "pytorch_lightning", "torchmetrics"}
NETWORKS_ALLOWED = {
    "utils.data": {"torch"},  # in devices.py alone: see below
    "utils.mixing": set(),
    "utils.corpora": set(),
    "utils.video": set(),
    "utils.scoring": set(),
    "utils.page": set(),
    "utils.errors": set(),
    "utils.environment": set(),
    "local_models": {"torch", "torchaudio", "asteroid", "asteroid_filterbanks", "numpy", "scipy", "transformers"},
}


def _files(*suffixes: str) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(ROOT):
        here = Path(folder)
        hidden = [name for name in folders if name.startswith(".") and name != ".ci"]
        for name in [*hidden, *(OUTPUTS if here == ROOT else ()), "__pycache__"]:
            if name in folders:
                folders.remove(name)
        found += [here / name for name in names if name.endswith(suffixes)]
    return sorted(found)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


PYTHON = [path for path in _files(".py") if path.relative_to(ROOT).parts[0] in ("utils", "local_models", "egs")]
SHELL = [*_files(".sh"), ROOT / ".ci/run"]


def _place(module: str) -> str:
    """`utils.data.files` -> `utils.data`; `egs.demo.voices` -> `egs`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "utils" else parts[0]


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    package = _name(path).replace("/", ".").split(".")[:-2]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], node.module or ""]) if node.level else node.module
            whole_package = base in ("utils", "")
            yield from ((node.lineno, f"{base}.{alias.name}" if whole_package else base) for alias in node.names)


def test_the_import_reader_sees_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "utils/data/x.py"
    path.parent.mkdir(parents=True)
    path.write_text("import torch.nn as nn\nfrom utils import errors\ndef f():\n    from ..mixing import y\n", "utf-8")
    assert [name for _, name in _imports(path)] == ["torch.nn", "utils.errors", "utils.mixing"]


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_imports_go_downwards(path: Path) -> None:
    place = _place(_name(path)[:-3].replace("/", ".").removesuffix(".__init__"))
    if place == "utils":
        place = "utils.errors"  # utils/__init__.py imports nothing
    assert place in ALLOWED, f"{_name(path)}: say in this test what {place} may import"
    for line, module in _imports(path):
        top = module.split(".")[0]
        where = f"{_name(path)}, line {line}: {place} must not import {module}"
        if top in ("utils", "local_models", "egs"):
            assert _place(module) in ALLOWED[place], where
        if top in NETWORKS:
            assert top in NETWORKS_ALLOWED.get(place, NETWORKS), where
        if place == "local_models":
            allowed = sys.stdlib_module_names | NETWORKS_ALLOWED[place] | {"local_models"}
            assert top in allowed, where


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {_name(path)[:-3].replace("/", "."): path for path in PYTHON}
    arrows = {}
    for name, path in modules.items():
        found = {module for _, module in _imports(path)}
        with_names = {f"{node.module}.{alias.name}" for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                      if isinstance(node, ast.ImportFrom) and node.module for alias in node.names}  # fmt: skip
        arrows[name] = (found | with_names) & modules.keys()
    while leaves := {name for name, targets in arrows.items() if not targets & arrows.keys()}:
        arrows = {name: targets for name, targets in arrows.items() if name not in leaves}
    assert not arrows, f"these import each other: {', '.join(sorted(arrows))}"


def test_in_the_data_room_only_the_choice_of_a_device_knows_torch() -> None:
    users = {path.name for path in PYTHON if path.parent == ROOT / "utils/data"
             for _, module in _imports(path) if module.split(".")[0] == "torch"}  # fmt: skip
    assert users <= {"devices.py"}
    code = "import sys, utils.data.devices, utils.separation.test_sets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", [*_files(".py"), *SHELL], ids=_name)
def test_no_file_is_too_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST.get(_name(path), LONGEST_OTHERWISE)


@pytest.mark.parametrize("path", SHELL, ids=_name)
def test_every_script_is_valid_bash_and_clean_for_shellcheck(path: Path) -> None:
    syntax = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
    assert syntax.returncode == 0, syntax.stderr
    shellcheck = Path(sys.executable).parent / "shellcheck"
    style = subprocess.run([shellcheck, path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert style.returncode == 0, style.stdout


@pytest.mark.parametrize("path", SHELL, ids=_name)
def test_every_script_but_the_sourced_ones_can_be_executed(path: Path) -> None:
    sourced = not path.read_text(encoding="utf-8").startswith("#!")
    assert os.access(path, os.X_OK) != sourced


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_the_top_level_is_as_promised(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yml")), ids=_name)
def test_every_conf_is_a_table_of_sections_whose_keys_are_unique(path: Path) -> None:
    conf = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(conf.pop("base", ""), str)
    assert all(isinstance(section, dict) for section in conf.values())
    keys = [key for section in conf.values() for key in section]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("folder", sorted(path.parent for path in (ROOT / "egs").glob("*/prepare.py")), ids=_name)
def test_every_corpus_has_its_three_files(folder: Path) -> None:
    assert [name for name in ("README.md", "prepare.py", "run.sh") if not (folder / name).is_file()] == []
