"""Extract only the clips that are wanted from an archive of videos, sounds or mouth regions; the rest is never written.

Reads   --archive: zip, tar or tar.gz, e.g. vox2_test_mp4.zip, vox2_test_aac.zip, mouth_roi_unseen_unheard_test.tar.gz;
        --ids: a line for each speaker, video or clip, e.g. id00017, id00017/01dfn2spqyE or id00017/01dfn2spqyE/00001
Writes  --out_dir/id00017/01dfn2spqyE/00001.{mp4,m4a,h5}: the same places for every archive
Run     python egs/voxceleb2/extract.py --archive vox2_test_mp4.zip --ids ids.txt --out_dir /data/voxceleb2/mp4/test

What is there already in its size is left; ids that the archive does not hold are named at the end (exit code 1).
"""

import argparse
import gzip
import re
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from


from utils.data.files import atomic_path
from utils.data.progress import progress_bar
from utils.errors import OptionParser, UserError, run_cli

_PLACE = re.compile(r"(?:^|/)(id[0-9]{5})/([\w-]{11})/([0-9]{5})\.(mp4|m4a|wav|h5)$")
_BLOCK_BYTES = 1 << 20
_ID = re.compile(r"id[0-9]{5}(/[\w-]{11}(/[0-9]{5})?)?")


class Member(NamedTuple):
    """A file of an archive: its place below the output, its size in bytes, and what the archive knows it by."""

    place: str
    size: int
    entry: zipfile.ZipInfo | tarfile.TarInfo


def main() -> int:
    """Extract, name what is missing."""
    args = _parse_args()
    wanted = _read_ids(args.ids)
    found: set[str] = set()
    n_written = 0
    with _opened(args.archive) as (members, open_member):
        for member in progress_bar(members, desc=args.archive.name, unit="file"):
            match = [prefix for prefix in _prefixes(member.place) if prefix in wanted]
            if not match:
                continue
            found.update(match)
            target = args.out_dir / member.place
            if target.is_file() and target.stat().st_size == member.size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary, open_member(member.entry) as source, open(temporary, "wb") as handle:
                shutil.copyfileobj(source, handle)
            n_written += 1
    missing = sorted(wanted - found)
    print(f"{args.out_dir}: files written: {n_written}; ids found: {len(found)} of {len(wanted)}")
    for name in missing:
        print(f"{args.archive} does not hold {name}", file=sys.stderr)
    return 1 if missing else 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="egs/voxceleb2/extract.py", description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, required=True, help="zip, tar or tar.gz of videos, sounds or mouth regions")
    parser.add_argument("--ids", type=Path, required=True, help="text file: speakers, videos or clips, a line each")
    parser.add_argument("--out_dir", type=Path, required=True, help="gets speaker/video/clip")
    return parser.parse_args()


def _read_ids(path: Path) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--ids {path}: cannot be read ({error}); give a text file with an id on each line") from None
    wanted = set()
    for number, line in enumerate(lines, start=1):
        name = line.strip().strip("/")
        if name and not _ID.fullmatch(name):
            raise UserError(f"{path}, line {number}: '{name}' is neither id00017 nor id00017/01dfn2spqyE[/00001]; correct it")
        if name:
            wanted.add(name)
    if not wanted:
        raise UserError(f"--ids {path}: names nothing; give an id on each line")
    return wanted


def _prefixes(place: str) -> list[str]:
    """The speaker, video and clip of a place: what an id may name it by."""
    speaker, video, clip = place.rpartition(".")[0].split("/")
    return [speaker, f"{speaker}/{video}", f"{speaker}/{video}/{clip}"]


@contextmanager
def _opened(path: Path):
    """The members of an archive that are clips, in its order, and a function that opens one."""
    if not path.is_file():
        raise UserError(f"--archive {path}: no such file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield _members((info.filename, info.file_size, info) for info in archive.infolist()), archive.open
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                files = ((info.name, info.size, info) for info in archive if info.isfile())
                yield _members(files), archive.extractfile
                while archive.fileobj.read(_BLOCK_BYTES):  # tarfile takes a cut for the end
                    pass
        else:
            raise UserError(f"--archive {path}: neither zip nor tar; an archive in pieces is joined first (cat part* > whole)")
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"--archive {path}: damaged or cut off ({error}); fetch it again") from None


def _members(files: Iterator[tuple[str, int, zipfile.ZipInfo | tarfile.TarInfo]]) -> Iterator[Member]:
    """Those whose path ends as that of a clip; only that end is used, so that no path leads out of the output folder."""
    for name, size, entry in files:
        match = _PLACE.search(name.replace("\\", "/"))
        if match:
            speaker, video, clip, suffix = match.groups()
            yield Member(f"{speaker}/{video}/{clip}.{suffix}", size, entry)


if __name__ == "__main__":
    run_cli(main)
