"""Fingerprints of files and values, and done marks: which inputs a finished stage had.

A mark is a small JSON file beside a stage's outputs (`data/<corpus>/.done-0.json`, `exp/<tag>/.done-3.json`):
`{"inputs": {name: value}, "finished": ISO time}`. Each stage program does

    mark = StageMark(data_dir / ".done-0.json", {"corpus_dir": ..., "prepare.py": hash_contents([...])})
    changes = mark.changed()
    if changes == [] and not force: return 0     # up to date
    ...the work...
    mark.write()
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from utils.data.files import write_json
from utils.errors import UserError

_DIGITS_SHOWN = 12


class StageMark:
    """The inputs of a stage when it last finished, beside those of now.

    Args:
        path: the mark's file, beside the stage's outputs.
        inputs: name -> value of everything whose change must make the stage run again. Values are compared as text;
            for files give `hash_contents`.
    """

    def __init__(self, path: Path, inputs: dict[str, str]) -> None:
        self.path = Path(path)
        self.inputs = {name: str(value) for name, value in inputs.items()}

    def changed(self) -> list[str] | None:
        """Compare the inputs with those of the last finished run.

        Returns:
            None when the stage never finished (no mark, or one that cannot be read: the stage is then simply run
            again), an empty list when it is up to date, else one text `name: old -> new` for each difference.
        """
        old = self._finished_inputs()
        if old is None:
            return None
        names = [*self.inputs, *(name for name in old if name not in self.inputs)]
        return [
            f"{name}: {_short(old.get(name))} -> {_short(self.inputs.get(name))}"
            for name in names
            if old.get(name) != self.inputs.get(name)
        ]

    def write(self) -> None:
        """Mark the stage as finished with these inputs, atomically."""
        finished = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(self.path, {"inputs": self.inputs, "finished": finished})

    def _finished_inputs(self) -> dict[str, str] | None:
        try:
            inputs = json.loads(self.path.read_text(encoding="utf-8"))["inputs"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return inputs if isinstance(inputs, dict) else None


def hash_contents(paths: Iterable[Path | str]) -> str:
    """Hash the names and contents of some small files (manifests, confs, code).

    Args:
        paths: the files in any order; each counts with its own name, not with the folders above it, so that a tree
            that was moved keeps its fingerprint.

    Returns:
        A sha256 as 64 hex digits.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    total = hashlib.sha256()
    for name, digest in sorted((Path(path).name, _content_hash(Path(path))) for path in paths):
        total.update(os.fsencode(f"{len(name)}:{name}:{digest}\n"))
    return total.hexdigest()


def hash_stats(paths: Iterable[Path | str]) -> str:
    """Hash the names, sizes and times of many or large files, as 64 hex digits; a missing file counts as such.

    Times are compared for equality only, so that a clock that jumps back does no harm.
    """
    total = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "absent"
        total.update(f"{path}\0{state}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def hash_tree(folder: Path | str) -> str:
    """Hash the names, sizes and times of all files below a folder, which are not opened."""
    total = hashlib.sha256()
    for line in sorted(_stat_lines(str(folder), "")):
        total.update(line)
    return total.hexdigest()


def _stat_lines(folder: str, prefix: str) -> Iterator[bytes]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir():
                yield from _stat_lines(entry.path, name + "/")
            else:
                stat = entry.stat(follow_symlinks=entry.is_file())  # a broken link has only its own times
                yield os.fsencode(name) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode()


def hash_json(value: object) -> str:
    """Hash plain data, whatever the order of its keys, as 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _content_hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _short(value: str | None) -> str:
    """A value as shown to people: hashes are cut, an absent one is said to be so."""
    if value is None:
        return "(absent)"
    is_hash = len(value) == 64 and all(digit in "0123456789abcdef" for digit in value)
    return value[:_DIGITS_SHOWN] if is_hash else value
