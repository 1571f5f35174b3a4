"""Look at one Python: packages of a requirements file that are missing, and tools to build packages.

Standard library only, since path.sh runs it before anything is installed:

    python3 utils/environment.py check requirements.txt   # exit 1 and what is missing, one a line, on stdout
    python3 utils/environment.py build                    # exit 1 and the missing tools with their remedy, on stdout
"""

import importlib
import importlib.metadata
import importlib.util
import operator
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

OLDEST_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(==|<=|>=|<|>)\s*([0-9][^\s#;,]*)")
_COMPARE = {"==": operator.eq, "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


def requirements(path: Path) -> Iterator[tuple[str, str, str]]:
    """The (name, operator, version) of each line of a requirements file, with those of the files it includes.

    Raises:
        ValueError: a line is neither `name==version` (or `<`, `<=`, `>`, `>=`), nor `-r file`, nor a comment.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            yield from requirements(path.parent / line[3:].strip())
        elif line:
            match = _REQUIREMENT.fullmatch(line)
            if match is None:
                raise ValueError(f"{path}, line {number}: '{line}' is not 'name==version'")
            yield match.groups()


def unmet(path: Path) -> list[str]:
    """The packages that this Python lacks of a requirements file, as texts such as `torch==2.11.0 (is 2.9.1)`."""
    problems = []
    if sys.version_info < OLDEST_PYTHON:
        problems.append(f"Python >= {_dotted(OLDEST_PYTHON)} (is {_dotted(sys.version_info[:2])})")
    for name, sign, version in requirements(path):
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name}{sign}{version} (is not installed)")
            continue
        if not _COMPARE[sign](_release(installed), _release(version)):
            problems.append(f"{name}{sign}{version} (is {installed})")
    return problems


def add_missing(requirements_file: str) -> None:
    """Add the packages of a requirements file to this environment unless it has them; pip's failure ends the program.

    Args:
        requirements_file: its path from the root of the recipe.
    """
    if unmet(ROOT / requirements_file):
        code = subprocess.run([ROOT / "utils/install_more.sh", requirements_file], check=False).returncode
        if code:
            sys.exit(code)
        importlib.invalidate_caches()


def missing_build_tools() -> list[str]:
    """The tools that are missing to make a virtual environment here and build pesq in it, each with its remedy."""
    here = f"python{_dotted(sys.version_info[:2])}"
    problems = []
    if sys.version_info < OLDEST_PYTHON:
        problems.append(f"{sys.executable} is Python {_dotted(sys.version_info[:3])}; install Python 3.11 or later")
    if importlib.util.find_spec("ensurepip") is None:
        problems.append(f"{sys.executable} cannot make virtual environments; e.g. apt-get install {here}-venv")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        problems.append(f"no C compiler ('{compiler}'), needed to build pesq; e.g. apt-get install gcc, or set CC")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        problems.append(f"no {header}, needed to build pesq; e.g. apt-get install {here}-dev")
    return problems


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version without its local part: '2.11.0+cu130' -> (2, 11)."""
    numbers = [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in numbers)


def main(argv: list[str]) -> int:
    """Run one of the two commands of the module's docstring."""
    problems = missing_build_tools() if argv[0] == "build" else unmet(Path(argv[1]))
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
