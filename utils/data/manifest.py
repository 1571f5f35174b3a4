"""Manifests: the contents of a corpus, as a CSV of mixtures or of single utterances with a JSON side file.

`data/<corpus>/<split>.csv` has a row for each mixture, in the columns of Asteroid's LibriMix CSVs and a few more;
`<split>.json` beside it says where the paths start (`data_root`), the sample rate and how many rows there are. Every
field is text (ids such as "00000002026" or "NA" stay as they are), an empty one means "absent". The side file is
written last: a CSV without it is one that was never finished.

A corpus of raw video has `videos.csv` beside the manifests: which video (`video_path`, and `landmarks_path` where somebody
has found landmarks in it) the mouths of each clip are cut from by stage 1, with the `audio_path` and `mouth_path` of the
manifests, and where in the picture the speaker's face is (`face_at`), if the corpus says that. A video with several people
has a row for each of them. Its relative paths start at its folder.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from utils.data.files import read_json, write_json, write_text
from utils.errors import UserError, name_problem, printable

VIDEOS_NAME = "videos.csv"

_COLUMNS = {  # in their order; {} counts the sources
    "mixtures": (
        "mixture_ID", "mixture_path", "source_{}_path", "noise_path", "length", "mouth_{}_path", "frames", "fps",
        "speaker_{}", "sir_db", "subset",
    ),
    "utterances": ("utterance_ID", "speaker", "audio_path", "mouth_path", "length", "frames", "fps"),
    "videos": ("utterance_ID", "video_path", "landmarks_path", "face_at", "audio_path", "mouth_path"),
}  # fmt: skip
_REQUIRED = {
    "mixtures": ("mixture_ID", "mixture_path"),
    "utterances": ("utterance_ID", "audio_path"),
    "videos": ("utterance_ID", "video_path", "audio_path", "mouth_path"),
}
_OPTIONAL = ("face_at",)  # columns that a file of before they were there lacks
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NUMBERED = re.compile(r"(source|mouth)_[0-9]+_path|speaker_[0-9]+")


@dataclass(frozen=True)
class Mixture:
    """A mixture of speakers with what is known of its parts; "" stands for what is absent."""

    mixture_id: str
    mixture_path: str
    source_paths: tuple[str, ...]
    noise_path: str
    length: int  # samples of the mixture
    mouth_paths: tuple[str, ...]
    frames: int  # video frames; a mouth crop may have one more or one less
    fps: float
    speakers: tuple[str, ...]
    sir_db: float | None  # first source over the second
    subset: str  # scores are also reported by this label


@dataclass(frozen=True)
class Utterance:
    """A clip of one speaker; "" and 0 stand for what is absent, or is not known yet.

    Attributes:
        utterance_id: unique, and a file name; where names repeat across speakers it includes the speaker.
        speaker: "" where the corpus does not say.
        audio_path: its sound. Of raw video that stage 0 has not prepared yet, the recording that is used instead of the
            video's own sound; the two start together.
        mouth_path: its mouth crops.
        length: samples.
        frames: video frames.
        fps: video frames per second.
        video_path: the raw video that the mouth crops are cut from.
        landmarks_path: landmarks that the corpus ships for that video; "": stage 1 finds them.
        face_at: a point of the speaker's face as "x y", shares of the picture's width and height; "": the largest face is
            the speaker's.
        split: train, val or test; only while a corpus is prepared.
    """

    utterance_id: str
    speaker: str = ""
    audio_path: str = ""
    mouth_path: str = ""
    length: int = 0
    frames: int = 0
    fps: float = 0.0
    video_path: str = ""
    landmarks_path: str = ""
    face_at: str = ""
    split: str = ""


def item_id(item: Mixture | Utterance) -> str:
    """The id, of either kind of item."""
    return item.mixture_id if isinstance(item, Mixture) else item.utterance_id


def item_mouths(item: Mixture | Utterance) -> tuple[str, ...]:
    """The mouth paths, of either kind of item, "" where absent."""
    return item.mouth_paths if isinstance(item, Mixture) else (item.mouth_path,)


def item_audio(item: Mixture | Utterance) -> tuple[str, ...]:
    """The audio paths, of either kind of item, the mixture's first."""
    if isinstance(item, Utterance):
        return (item.audio_path,)
    return tuple(path for path in (item.mixture_path, *item.source_paths, item.noise_path) if path)


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
    items, n_src = _read_csv(path, side["kind"])
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
        items = _read_csv(path, "utterances")[0]
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
    text = _format_rows(manifest.items, kind, manifest.n_src)
    parsed, found = _parse_rows(text, manifest.path, kind)
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


def write_videos(path: Path | str, clips: Sequence[Utterance]) -> None:
    """Write `videos.csv`, atomically; `read_videos` gives the same columns back.

    Raises:
        UserError: a row breaks a rule, e.g. two have the same id.
    """
    text = _format_rows(clips, "videos", 1)
    _parse_rows(text, Path(path), "videos")
    write_text(path, text)


def read_videos(path: Path | str) -> tuple[Utterance, ...]:
    """Read `videos.csv`, in the order of its rows; further columns are ignored.

    Raises:
        UserError: missing, not UTF-8, no row, a column or field is missing, an id is no name or is listed twice.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("no such file; stage 0 (--stage 0) of a raw corpus makes it", path)
    return _read_csv(path, "videos")[0]


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


def as_number(text: str) -> float | None:
    """A finite number in plain notation, else None."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def _numbered(column: str, n_src: int) -> list[str]:
    """`source_{}_path` -> [`source_1_path`, ...]; a column without a number by itself."""
    return [column.format(k) for k in range(1, n_src + 1)] if "{}" in column else [column]


def _field(column: str) -> str:
    """The field of an item that a column, or a numbered group of columns, is read into."""
    return column.lower().replace("_{}", "") + ("s" if "{}" in column else "")


def _format_rows(items: Sequence[Mixture] | Sequence[Utterance], kind: str, n_src: int) -> str:
    """The text of a CSV: header and a row for each item."""
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow([name for column in _COLUMNS[kind] for name in _numbered(column, n_src)])
    for item in items:
        row = []
        for column in _COLUMNS[kind]:
            value = getattr(item, _field(column))
            if column == "fps":
                value = repr(float(value)).removesuffix(".0")
            elif column == "sir_db" and value is not None:
                value = repr(float(value))
            row += value if isinstance(value, tuple) else [value]
        rows.writerow(row)
    return buffer.getvalue()


def _read_csv(path: Path, kind: str) -> tuple[tuple[Mixture, ...] | tuple[Utterance, ...], int]:
    """The items of a CSV, and the number of sources."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a BOM; it must not stick to the first column
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start}); save the CSV as UTF-8", path) from None
    return _parse_rows(text, path, kind)


def _parse_rows(text: str, path: Path, kind: str) -> tuple[tuple[Mixture, ...] | tuple[Utterance, ...], int]:
    """The items of a CSV's text, and the number of sources; `path` is named in errors."""
    table = _table(text, path)
    header = next(table, (1, []))[1]
    n_src = sum(bool(re.fullmatch(r"source_\d+_path", name)) for name in header) if kind == "mixtures" else 1
    columns = [column for column in _COLUMNS[kind] if column not in _OPTIONAL or column in header]
    _check_header(header, path, [name for column in columns for name in _numbered(column, max(n_src, 1))])
    items, lines = [], {}
    for line, fields in table:
        if len(fields) != len(header):
            raise UserError(f"{path}, row {line}: {len(fields)} fields, the header has {len(header)}; correct the row")
        texts = dict.fromkeys(_OPTIONAL, "") | dict(zip(header, fields, strict=True))
        item = _parse_row(texts, f"{path}, row {line}", kind, n_src)
        name = item_id(item)
        first = lines.setdefault(name, line)
        if first != line:
            raise UserError(f"{path}, row {line}, column {header[0]}: row {first} has the id '{name}' too; rename one")
        items.append(item)
    if not items:
        raise UserError(f"{path}: holds no row below its header; run stage 0 again (--stage 0)")
    return tuple(items), n_src


def _parse_row(texts: dict[str, str], where: str, kind: str, n_src: int) -> Mixture | Utterance:
    has_mouth = any(texts[name] for name in _numbered("mouth_{}_path" if kind == "mixtures" else "mouth_path", n_src))
    values = {}
    for column in _COLUMNS[kind]:
        read = []
        for name in _numbered(column, n_src):
            try:
                read.append(_value(name, texts[name], name in _REQUIRED[kind], has_mouth))
            except ValueError as error:
                raise UserError(f"{where}, column {name}: '{texts[name]}' {error}") from None
        values[_field(column)] = tuple(read) if "{}" in column else read[0]
    return Mixture(**values) if kind == "mixtures" else Utterance(**values)


def _value(column: str, text: str, is_required: bool, has_mouth: bool) -> str | int | float | None:
    """A field by its column; without a mouth, frames and frame rate may be 0.

    Raises:
        ValueError: what is wrong with it.
    """
    if is_required and not text:
        raise ValueError("where a value is required; fill it in")
    if reason := name_problem(text):
        raise ValueError(f"{reason.removeprefix('the name ')}, or correct the row")
    if column.endswith("_ID") and ("/" in text or "\\" in text or text in (".", "..")):
        raise ValueError("cannot be an id: ids name files, so they hold no path separator; rename it")
    if column in ("length", "frames"):
        least = int(column == "length" or has_mouth)
        if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) < least:
            raise ValueError(f"is no whole number of at least {least}; correct the row")
        return int(text)
    if column == "fps" or (column == "sir_db" and text):
        number = as_number(text)
        if number is None:
            raise ValueError("is no finite number; correct the row")
        if column == "fps" and (number < 0 or (has_mouth and number == 0)):
            raise ValueError("is no frame rate; frames per second are a positive number, e.g. 25")
        return number
    return None if column == "sir_db" else text


def _table(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV with their line numbers; empty lines are only allowed at the end."""
    reader = csv.reader(io.StringIO(text.rstrip("\n")), strict=True)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}, row {reader.line_num}: not CSV ({error}); correct the quotes of this row") from None
        if not fields:
            raise UserError(f"{path}, row {reader.line_num}: an empty line; remove it")
        yield reader.line_num, fields


def _check_header(header: list[str], path: Path, wanted: list[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise UserError(f"{path}, row 1: the column {name} is listed twice; keep one of them")
    missing = [name for name in wanted if name not in header]
    if missing:
        raise UserError(f"{path}, row 1: no column {', '.join(missing)}; the columns are {','.join(wanted)}")
    for name in header:  # columns of the user's own are ignored, but not a speaker that has no source
        if _NUMBERED.fullmatch(name) and name not in wanted:
            raise UserError(f"{path}, row 1: the column {name} has no source column of its number; add or remove it")
