"""Manifests: the contents of a corpus, as a CSV of mixtures or of single utterances with a JSON side file.

`data/<corpus>/<split>.csv` has a row for each mixture, in the columns of Asteroid's LibriMix CSVs and a few more;
`<split>.json` beside it says where the paths start (`data_root`), the sample rate and how many rows there are. Every
field is text (ids such as "00000002026" or "NA" stay as they are), an empty one means "absent". The side file is
written last: a CSV without it is one that was never finished.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from utils.data.files import read_json, write_json, write_text
from utils.data.manifest_rows import Mixture, Utterance, format_rows, item_mouths, parse_rows, read_csv
from utils.errors import UserError, printable


@dataclass(frozen=True)
class Problem:
    """An item that cannot be used, and the reason.

    Attributes:
        row: the line of the CSV (the header is line 1), 0 where there is none.
        item_id: of a mixture or an utterance, "" where there is none.
        path: the file at fault.
        reason: what is wrong with it.
        manifest: the name of the CSV, where the problems of several stand in one list.
    """

    row: int
    item_id: str
    path: str
    reason: str
    manifest: str = ""


@dataclass(frozen=True)
class Manifest:
    """A manifest in memory, in the order of its rows."""

    path: Path
    corpus: str
    split: str
    data_root: Path
    sample_rate: int  # Hz
    n_src: int
    items: tuple[Mixture, ...] | tuple[Utterance, ...]
    mouths_go_on: bool = False  # mixtures are cut to their shortest clip, whose mouths are those of whole clips

    def resolve(self, path: str) -> Path:
        """The full path of a path of this manifest; absolute ones stay as they are."""
        return self.data_root / path

    def mouth_paths(self) -> list[str]:
        """Every mouth once, as written in the CSV, in order: the keys of the embedding store."""
        return list(dict.fromkeys(path for item in self.items for path in item_mouths(item) if path))

    def with_items(self, items: Sequence[Mixture] | Sequence[Utterance]) -> "Manifest":
        """The same manifest with other rows, on disk too; gives what `read_manifest` would.

        Raises:
            UserError: as `write_manifest`.
        """
        return _write(replace(self, items=tuple(items)))

    @property
    def has_references(self) -> bool:
        """Tell if every item is a mixture with all its source paths."""
        return all(isinstance(item, Mixture) and all(item.source_paths) for item in self.items)


def read_manifest(path: Path | str) -> Manifest:
    """Read a CSV and its side file, and check everything that needs no other file.

    Raises:
        UserError: a file is missing, or a row or column is wrong; says where and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; stage 0 (--stage 0) makes it")
    side_path = path.with_suffix(".json")
    if not side_path.is_file():
        raise UserError(f"{path}: its side file {side_path.name} is missing; run stage 0 again (--stage 0)")
    side = _read_side(side_path)
    items, n_src = parse_rows(read_csv(path), path, side["kind"])
    for name, found in (("rows", len(items)), ("n_src", n_src)):
        if side[name] != found:
            raise UserError(
                f"{path}: {name} is {found} where {side_path.name} says {side[name]}; "
                f"run stage 0 again, or correct {side_path.name} if you changed the CSV yourself"
            )
    root = Path(side["data_root"])
    go_on = side.get("mouths_go_on", False)
    return Manifest(path, side["corpus"], side["split"], root, side["sample_rate"], n_src, items, go_on)


def find_manifests(data_dir: Path | str) -> list[Path]:
    """The finished manifests of a prepared corpus: its CSVs that have a side file, by name."""
    return sorted(path for path in Path(data_dir).glob("*.csv") if path.with_suffix(".json").is_file())


def read_utterances(path: Path | str, sample_rate: int) -> Manifest:
    """Read an `utterances.csv` that somebody else may have made: without a side file its paths start at its folder.

    Args:
        path: the CSV.
        sample_rate: the rate that the audio must have, Hz; a side file must agree.

    Raises:
        UserError: as `read_manifest`; or these are no utterances, or of another rate.
    """
    path = Path(path)
    if path.is_file() and not path.with_suffix(".json").exists():
        items = parse_rows(read_csv(path), path, "utterances")[0]
        return Manifest(path, path.parent.name, path.stem, path.parent.absolute(), sample_rate, 1, items)
    manifest = read_manifest(path)
    if not isinstance(manifest.items[0], Utterance):
        raise UserError(f"{path}: lists mixtures where utterances are expected; give the CSV of single voices")
    if manifest.sample_rate != sample_rate:
        raise UserError(f"{path}: {manifest.sample_rate} Hz where {sample_rate} Hz is expected; resample that corpus")
    return manifest


def write_manifest(
    path: Path | str,
    *,
    corpus: str,
    split: str,
    data_root: Path | str,
    sample_rate: int,
    n_src: int,
    items: Sequence[Mixture] | Sequence[Utterance],
    mouths_go_on: bool = False,
) -> Manifest:
    """Write a CSV, then its side file, each atomically; what is written is what `read_manifest` gives back.

    Args:
        path: the CSV, `data/<corpus>/<split>.csv`.
        corpus: the corpus' name.
        split: the split's name, e.g. `train`.
        data_root: the folder that relative paths start from.
        sample_rate: of all audio, Hz.
        n_src: sources in each mixture (1 for utterances).
        items: mixtures or utterances, at least one, with unique ids.
        mouths_go_on: mouths begin with their mixtures, but may last longer.

    Raises:
        UserError: an item breaks a rule of manifests, e.g. two have the same id.
    """
    root = Path(data_root).absolute()
    return _write(Manifest(Path(path), corpus, split, root, sample_rate, n_src, tuple(items), mouths_go_on))


def _write(manifest: Manifest) -> Manifest:
    kind = "utterances" if manifest.items and isinstance(manifest.items[0], Utterance) else "mixtures"
    text = format_rows(manifest.items, kind, manifest.n_src)
    parsed, found = parse_rows(text, manifest.path, kind)
    if found != manifest.n_src:
        raise ValueError(f"{manifest.path}: n_src is {manifest.n_src}, the items have {found}")
    side = {"kind": kind, "corpus": manifest.corpus, "split": manifest.split, "data_root": str(manifest.data_root)}
    side |= {"sample_rate": manifest.sample_rate, "n_src": found, "rows": len(parsed)}
    side |= {"mouths_go_on": True} if manifest.mouths_go_on else {}
    side_path = manifest.path.with_suffix(".json")
    side_path.unlink(missing_ok=True)  # an old side file must never vouch for a new CSV
    write_text(manifest.path, text)
    write_json(side_path, side)
    return replace(manifest, items=parsed)


def write_failed(path: Path | str, problems: Sequence[Problem]) -> None:
    """Write the list of what cannot be used: row,id,path,reason, a line each; without a problem, only the header.

    A reason begins with the name of the problem's manifest, where that is given.
    """
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(("row", "id", "path", "reason"))
    for problem in problems:
        reason = f"{problem.manifest}: {problem.reason}" if problem.manifest else problem.reason
        rows.writerow((problem.row or "", *map(printable, (problem.item_id, problem.path, reason))))
    write_text(path, buffer.getvalue())


def _read_side(path: Path) -> dict:
    """The side file's values, each of its right type."""
    side = read_json(path)
    kinds = {"kind": str, "corpus": str, "split": str, "data_root": str, "sample_rate": int, "n_src": int, "rows": int}
    for name, kind in kinds.items():
        value = side.get(name) if isinstance(side, dict) else None
        if type(value) is not kind or (kind is int and value < 1):
            raise UserError(f"{path}: '{name}' is {value!r}, no {kind.__name__}; run stage 0 again (--stage 0)")
    if type(side.get("mouths_go_on", False)) is not bool:
        raise UserError(f"{path}: 'mouths_go_on' is neither true nor false; run stage 0 again (--stage 0)")
    if side["kind"] not in ("mixtures", "utterances"):
        raise UserError(f"{path}: 'kind' is '{side['kind']}', neither mixtures nor utterances; run stage 0 again")
    return side
