"""Taking wanted files out of big archives: tar (plain, gz, bz2, xz) and zip, read as a stream.

Nothing else of the archive is written, and nothing outside of the target folder: members with absolute names or `..`, links
and devices are refused. Files that are there with the right size stay, so that an interrupted call goes on.

Reads   archives, and a text of wanted ids, one a line (a CSV's first column does)
Writes  OUT_DIR/<member>
Run     python -m utils.data.archives --archive vox2_test_mp4.zip --ids ids.txt --out_dir /data/voxceleb2

An id wants a member when it is a run of whole parts of the member's name without suffix, `/` and `_` alike:
`id00017_01dfn2spqyE_00001` and `id00017/01dfn2spqyE/00001` both want mp4/test/id00017/01dfn2spqyE/00001.mp4, and `id00017`
wants all of that speaker. The ids that none of the archives has are listed in OUT_DIR/<first archive>.absent.txt. An
archive that comes in pieces must be joined first (`cat`).
"""

import argparse
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from utils.data.disk import free_bytes, readable_bytes, require_space
from utils.data.files import atomic_path, write_text
from utils.data.mix_lists import csv_rows
from utils.errors import OptionParser, UserError, WriteError, name_problem, run_cli

_READ_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


def main() -> None:
    """Take the wanted members out of each archive, say what was not found."""
    args = _parse_args()
    ids = {fields[0] for fields in _id_rows(args.ids)}
    seen: set[str] = set()
    for archive in args.archive:
        written, found = extract_wanted(archive, ids, args.out_dir)
        seen |= found
        print(f"{archive}: {written} files taken, {len(found)} of {len(ids)} ids found")
    absent = sorted(ids - seen)
    list_path = args.out_dir / f"{args.archive[0].name}.absent.txt"  # archives of sound and of video may share a folder
    write_text(list_path, "".join(f"{name}\n" for name in absent))
    if len(absent) > args.max_failed:
        raise UserError(
            f"{list_path}: {len(absent)} ids are in none of the archives (first: {absent[0]}); give the "
            f"missing archives, or --max_failed {len(absent)}"
        )


def extract_wanted(archive: Path, ids: Collection[str], out_dir: Path) -> tuple[int, set[str]]:
    """Take the members that ids want out of an archive.

    Args:
        archive: tar or zip.
        ids: see the module.
        out_dir: gets the members under their names.

    Returns:
        How many files were written, and the ids that were found.

    Raises:
        UserError: no archive, damaged, a wanted member has a name that leads out of `out_dir`, or the disk is too small
            (a zip says beforehand how large its members are, a tar as they come).
    """
    if not archive.is_file():
        raise UserError(f"{archive}: no such file; give an archive")
    wanted = _Wanted(ids)
    reader = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    written = 0
    try:
        for name, size, stream in reader(archive, wanted, out_dir):
            target = out_dir / _safe(archive, name)
            if target.is_file() and target.stat().st_size == size:
                continue
            with atomic_path(target, size) as temporary, open(temporary, "wb") as handle, stream() as source:
                shutil.copyfileobj(source, handle, 1 << 20)
                if handle.tell() != size:
                    raise UserError(f"{archive}: {name} is cut off; copy the archive again")
            written += 1
    except WriteError:
        raise
    except _READ_ERRORS as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{archive}: damaged, or no tar or zip ({text}); copy it again") from None
    return written, wanted.found


class _Wanted:
    """Which members are wanted, and by which ids."""

    def __init__(self, ids: Collection[str]) -> None:
        self.ids: dict[str, set[str]] = {}  # an id may be given in both spellings
        for name in ids:
            self.ids.setdefault(name.strip("/").replace("/", "_"), set()).add(name)
        self.found: set[str] = set()

    def wants(self, member: str) -> bool:
        """Whether an id wants this member; remembers which."""
        path = PurePosixPath(member)
        parts = (*path.parts[:-1], path.stem) if path.name else ()
        runs = ("_".join(parts[first:last]) for first in range(len(parts)) for last in range(first + 1, len(parts) + 1))
        hits = {name for run in runs for name in self.ids.get(run, ())}
        self.found |= hits
        return bool(hits)


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{archive}: the member {name!r} would lead out of the folder; do not trust this archive")
    if (path.parts and ":" in path.parts[0]) or name_problem(name):
        raise UserError(
            f"{archive}: the member {name!r} has a colon or a control character in its name, with which it is not taken out; "
            "leave its id out, or unpack the archive yourself"
        )
    return path


def _zip_members(archive: Path, wanted: _Wanted, out_dir: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    with zipfile.ZipFile(archive) as handle:
        members = [info for info in handle.infolist() if not info.is_dir() and wanted.wants(info.filename)]
        missing = [info for info in members if not (out_dir / _safe(archive, info.filename)).is_file()]
        n_bytes = sum(info.file_size for info in missing)
        require_space(out_dir, n_bytes, f"{len(missing)} files of {archive.name}", "--out_dir")
        for info in tqdm(members, desc=archive.name, unit="file", disable=None):
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise UserError(f"{archive}: {info.filename} is a link; links are not taken out")
            yield info.filename, info.file_size, lambda info=info: handle.open(info)


def _tar_members(archive: Path, wanted: _Wanted, out_dir: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    with tarfile.open(archive, "r|*") as handle:
        for member in tqdm(handle, desc=archive.name, unit="member", disable=None):
            handle.members = []  # else a million members stay in memory
            if member.isdir() or not wanted.wants(member.name):
                continue
            if not member.isreg():
                raise UserError(f"{archive}: {member.name} is a link or a device; these are not taken out")
            if member.size > (free := free_bytes(out_dir)):
                wanted_size, there = readable_bytes(member.size), readable_bytes(free)
                raise UserError(f"{out_dir}: {member.name} needs {wanted_size} where {there} are free; make room")
            yield member.name, member.size, lambda member=member: handle.extractfile(member)


def _id_rows(path: Path) -> list[list[str]]:
    rows = [fields for _, fields in csv_rows(path) if fields[0]]
    if not rows:
        raise UserError(f"{path}: names no id; give one a line")
    return rows


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, nargs="+", required=True, help="tar or zip files")
    parser.add_argument("--ids", type=Path, required=True, help="wanted ids, one a line")
    parser.add_argument("--out_dir", type=Path, required=True, help="gets the files")
    parser.add_argument("--max_failed", type=int, default=0, help="ids that may be in none of the archives")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
