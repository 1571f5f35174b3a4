"""Files that are whole or absent: atomic writes, JSON and hashes; room on the disk, and what the system says where it refuses.

Estimates of a stage's outputs are refused before it begins where the disk cannot take them.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.errors import UserError, WriteError, system_error

log = logging.getLogger(__name__)
_PREFIX = ".tmp-"  # of files that are being written
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PROBE_BYTES = 1 << 20
_WORTH_SAYING = 0.01  # of what is free
_RESERVE, _RESERVE_BYTES = 0.05, 16 * 2**20  # of an estimate, for file systems count in blocks


@contextmanager
def atomic_path(path: Path | str, n_bytes: int = 0) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well it takes the place of `path` in one step.

    A block that fails or is killed leaves `path` as it was. (On network file systems `rename` is only nearly atomic.)

    Args:
        path: the file to be.
        n_bytes: how large it will be, where that is known; for the message where there is no room.

    Raises:
        WriteError: the system refuses to write it, be it told by an `OSError` or by a library's own error.
        UserError: its name is too long.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        with contextlib.suppress(PermissionError):  # on FAT and some shares nobody has such rights to give
            temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; results are for the group to read
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        found = error
        if not isinstance(error, OSError) or error.errno is None:
            found = _probe(temporary)  # libsndfile, torch and numpy do not say what the system told them: it is asked once more
            if found is None:
                raise
        raise _refused(found, path, temporary, n_bytes) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def temporary_file(folder: Path | str) -> Iterator[Path]:
    """An empty file in `folder` for the time of a block; `remove_leftovers` knows it, too."""
    handle, name = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def append_line(path: Path | str, line: str) -> None:
    """Add a line of ASCII to a journal; it is with the system when this returns.

    Raises:
        WriteError: there is no room. What was written of the line cannot be read, and the next run drops it.
    """
    try:
        with open(path, "ab") as handle:
            handle.write(line.encode("ascii") + b"\n")
    except OSError as error:
        raise _refused(error, Path(path), None, 0) from None


def _probe(path: Path) -> OSError | None:
    """The error of the system on more bytes behind a file that could not be written, None where it takes them."""
    try:
        with open(path, "ab", buffering=0) as handle:
            left = _PROBE_BYTES
            while left:
                left -= handle.write(bytes(left))  # it takes what there is room for, and complains the next time
    except OSError as error:
        return error
    return None


def _refused(error: OSError, path: Path, temporary: Path | None, n_bytes: int) -> Exception:
    """The error with the name of the file that was to be written; one of another file stays as it is."""
    named = os.fsdecode(error.filename) if error.filename else ""
    of_ours = named in ("", str(path), str(temporary))
    if isinstance(error, WriteError):  # of a block within this one, which may have written to our temporary path
        return WriteError(error.errno, error.strerror, str(path)) if named == str(temporary) else error
    is_ours = error.errno in (*_FULL, errno.EROFS) or (of_ours and system_error(error))  # `copyfile` names what it reads
    if temporary is not None and not is_ours:
        return error
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"{path}: the name is too long for this file system; give shorter names")
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        reason += f" ({_room(error.errno, path, temporary, n_bytes)})"
    is_folder = temporary is None and not of_ours and not os.path.basename(named).startswith(_PREFIX)
    return WriteError(error.errno, reason, named if is_folder else str(path))


def _room(number: int, path: Path, temporary: Path | None, n_bytes: int) -> str:
    """The room that is needed, and the room that there is."""
    written = 0
    with contextlib.suppress(OSError):
        written = temporary.stat().st_size if temporary else 0
    needed = f"it needs {readable_bytes(n_bytes)}, " if n_bytes else ""
    if written > n_bytes:
        needed = f"it needs more than {readable_bytes(written)}, "
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if number == errno.EFBIG and limit != resource.RLIM_INFINITY:
        return f"{needed}files may have {readable_bytes(limit)}"
    return f"{needed}{readable_bytes(free_bytes(path.parent))} are free"


def remove_leftovers(folder: Path | str, below: bool = True) -> None:
    """Remove the temporary files that killed runs left in `folder` (and below); nobody may be writing there now."""
    pattern = f"**/{_PREFIX}*" if below else f"{_PREFIX}*"
    for temporary in Path(folder).glob(pattern):
        if temporary.is_file():
            temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically. Bytes of names that are not UTF-8 become `\\udcfc`, as JSON has them."""
    content = text.encode("utf-8", "backslashreplace")
    with atomic_path(path, len(content)) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and run the stage that makes it again") from None


def sha256_file(path: Path | str) -> str:
    """The sha256 of a file's content, as 64 hex digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def exclusive_lock(folder: Path | str, what: str, wait: bool = False) -> Iterator[bool]:
    """Let one process at a time write into a folder, which is made if it is missing; a kill releases the lock.

    Gives False on a file system without locks.

    Args:
        folder: the folder.
        what: is written there, for the message, e.g. "these tracks".
        wait: for the other process, instead of refusing.

    Raises:
        UserError: another process is at it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as handle:
        is_locked = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is writing {what}; wait for it") from None
        except OSError as error:
            log.warning("%s: no file locks here (%s): let no other process work there meanwhile", folder, error.strerror)
            is_locked = False
        yield is_locked


def require_space(folder: Path | str, n_bytes: int, what: str, option: str) -> None:
    """Log how much will be written, where that is much of what is free, and stop where there is less room than that.

    Args:
        folder: where it will be written; it need not exist yet.
        n_bytes: the estimate; where it is 0 nothing is asked.
        what: is written, for the message, e.g. "28000 mixtures".
        option: that says where it goes, for the message, e.g. "--data_dir".

    Raises:
        UserError: the disk has not enough room.
    """
    if n_bytes <= 0:
        return
    free = free_bytes(folder)
    if n_bytes > _WORTH_SAYING * free:
        log.info("%s: %s need about %s, %s are free", folder, what, readable_bytes(n_bytes), readable_bytes(free))
    if n_bytes * (1 + _RESERVE) + _RESERVE_BYTES > free:
        raise UserError(
            f"{folder}: {what} need about {readable_bytes(n_bytes)} where {readable_bytes(free)} are free; make room, or "
            f"choose another {option}"
        )


def free_bytes(folder: Path | str) -> int:
    """The room on the disk that a folder is on, or will be on once it is made."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def readable_bytes(n_bytes: float) -> str:
    """`2.1 GB`; decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
