"""The rows of a manifest: mixtures and utterances, their columns, and the way between them and a CSV's text."""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError, name_problem

_UTTERANCE_COLUMNS = ("utterance_ID", "speaker", "audio_path", "mouth_path", "length", "frames", "fps")
_VIDEO_COLUMNS = ("utterance_ID", "video_path", "landmarks_path", "audio_path", "mouth_path")
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
        split: train, val or test; only while a corpus is prepared.
    """

    utterance_id: str
    speaker: str
    audio_path: str = ""
    mouth_path: str = ""
    length: int = 0
    frames: int = 0
    fps: float = 0.0
    video_path: str = ""
    landmarks_path: str = ""
    split: str = ""


def item_id(item: Mixture | Utterance) -> str:
    """The id, of either kind of item."""
    return item.mixture_id if isinstance(item, Mixture) else item.utterance_id


def item_mouths(item: Mixture | Utterance) -> tuple[str, ...]:
    """The mouth paths, of either kind of item, "" where absent."""
    return item.mouth_paths if isinstance(item, Mixture) else (item.mouth_path,)


def item_audio(item: Mixture | Utterance) -> tuple[str, ...]:
    """The audio paths that are there, of either kind of item, the mixture's first."""
    if isinstance(item, Utterance):
        return (item.audio_path,)
    return tuple(path for path in (item.mixture_path, *item.source_paths, item.noise_path) if path)


def as_number(text: str) -> float | None:
    """A finite number in plain notation, else None."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def format_rows(items: Sequence[Mixture] | Sequence[Utterance], kind: str, n_src: int) -> str:
    """The text of a CSV, of kind `mixtures`, `utterances` or `videos`: header and a row for each item."""
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(_columns(kind, n_src))
    rows.writerows(_fields(item, kind) for item in items)
    return buffer.getvalue()


def read_csv(path: Path) -> str:
    """The text of a CSV.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # spreadsheets write a BOM; it must not stick to the first column
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start}); save the CSV as UTF-8", path) from None


def _columns(kind: str, n_src: int) -> tuple[str, ...]:
    """The columns of a CSV, in order."""
    if kind != "mixtures":
        return _VIDEO_COLUMNS if kind == "videos" else _UTTERANCE_COLUMNS
    numbers = range(1, n_src + 1)
    return (
        "mixture_ID",
        "mixture_path",
        *(f"source_{k}_path" for k in numbers),
        "noise_path",
        "length",
        *(f"mouth_{k}_path" for k in numbers),
        "frames",
        "fps",
        *(f"speaker_{k}" for k in numbers),
        "sir_db",
        "subset",
    )


def parse_rows(text: str, path: Path, kind: str) -> tuple[tuple[Mixture, ...] | tuple[Utterance, ...], int]:
    """The items of a CSV's text, and the number of sources; `path` is named in errors.

    Raises:
        UserError: a row or column is wrong.
    """
    table = _table(text, path)
    header = next(table, (1, []))[1]
    n_src = sum(bool(re.fullmatch(r"source_\d+_path", name)) for name in header) if kind == "mixtures" else 1
    _check_header(header, path, _columns(kind, max(n_src, 1)))
    make = {"mixtures": _mixture, "utterances": _utterance, "videos": _video}[kind]
    items, lines = [], {}
    for line, fields in table:
        if len(fields) != len(header):
            raise UserError(f"{path}, row {line}: {len(fields)} fields, the header has {len(header)}; correct the row")
        item = make(_Row(path, line, dict(zip(header, fields, strict=True))), n_src)
        name = item_id(item)
        first = lines.setdefault(name, line)
        if first != line:
            raise UserError(f"{path}, row {line}, column {header[0]}: row {first} has the id '{name}' too; rename one")
        items.append(item)
    if not items:
        raise UserError(f"{path}: holds no row below its header; run stage 0 again (--stage 0)")
    return tuple(items), n_src


class _Row:
    """One row's fields by column, each read with an error that names file, row and column."""

    def __init__(self, path: Path, line: int, fields: dict[str, str]) -> None:
        self.path, self.line, self.fields = path, line, fields

    def fail(self, column: str, what: str) -> UserError:
        return UserError(f"{self.path}, row {self.line}, column {column}: '{self.fields[column]}' {what}")

    def text(self, column: str, required: bool = False) -> str:
        value = self.fields[column]
        if required and not value:
            raise self.fail(column, "where a value is required; fill it in")
        if reason := name_problem(value):
            raise self.fail(column, f"{reason.removeprefix('the name ')}, or correct the row")
        return value

    def name(self, column: str) -> str:
        """An id: it becomes a file name, so it must not lead anywhere else."""
        value = self.text(column, required=True)
        if "/" in value or "\\" in value or value in (".", ".."):
            raise self.fail(column, "cannot be an id: ids name files, so they hold no path separator; rename it")
        return value

    def count(self, column: str, least: int) -> int:
        value = self.text(column)
        if not re.fullmatch(r"[0-9]{1,15}", value) or int(value) < least:
            raise self.fail(column, f"is no whole number of at least {least}; correct the row")
        return int(value)

    def number(self, column: str) -> float:
        value = as_number(self.text(column))
        if value is None:
            raise self.fail(column, "is no finite number; correct the row")
        return value

    def clock(self, has_mouth: bool) -> tuple[int, float]:
        """frames and fps; 0 is allowed where the row has no mouth."""
        frames, fps = self.count("frames", least=int(has_mouth)), self.number("fps")
        if fps < 0 or (has_mouth and fps == 0):
            raise self.fail("fps", "is no frame rate; frames per second are a positive number, e.g. 25")
        return frames, fps


def _mixture(row: _Row, n_src: int) -> Mixture:
    numbers = range(1, n_src + 1)
    mouths = tuple(row.text(f"mouth_{k}_path") for k in numbers)
    frames, fps = row.clock(any(mouths))
    return Mixture(
        mixture_id=row.name("mixture_ID"),
        mixture_path=row.text("mixture_path", required=True),
        source_paths=tuple(row.text(f"source_{k}_path") for k in numbers),
        noise_path=row.text("noise_path"),
        length=row.count("length", least=1),
        mouth_paths=mouths,
        frames=frames,
        fps=fps,
        speakers=tuple(row.text(f"speaker_{k}") for k in numbers),
        sir_db=row.number("sir_db") if row.fields["sir_db"] else None,
        subset=row.text("subset"),
    )


def _utterance(row: _Row, n_src: int) -> Utterance:
    mouth = row.text("mouth_path")
    frames, fps = row.clock(bool(mouth))
    audio, length = row.text("audio_path", required=True), row.count("length", least=1)
    return Utterance(row.name("utterance_ID"), row.text("speaker"), audio, mouth, length, frames, fps)


def _video(row: _Row, n_src: int) -> Utterance:
    required = {name: row.text(name, required=True) for name in ("video_path", "audio_path", "mouth_path")}
    return Utterance(row.name("utterance_ID"), "", landmarks_path=row.text("landmarks_path"), **required)


def _fields(item: Mixture | Utterance, kind: str) -> list[str]:
    """An item as the fields of its row."""
    if kind == "videos":
        return [item.utterance_id, item.video_path, item.landmarks_path, item.audio_path, item.mouth_path]
    length, frames, fps = str(item.length), str(item.frames), repr(float(item.fps)).removesuffix(".0")
    if isinstance(item, Utterance):
        return [item.utterance_id, item.speaker, item.audio_path, item.mouth_path, length, frames, fps]
    sir = "" if item.sir_db is None else repr(float(item.sir_db))
    head = [item.mixture_id, item.mixture_path, *item.source_paths, item.noise_path, length]
    return [*head, *item.mouth_paths, frames, fps, *item.speakers, sir, item.subset]


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


def _check_header(header: list[str], path: Path, wanted: tuple[str, ...]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise UserError(f"{path}, row 1: the column {name} is listed twice; keep one of them")
    missing = [name for name in wanted if name not in header]
    if missing:
        raise UserError(f"{path}, row 1: no column {', '.join(missing)}; the columns are {','.join(wanted)}")
    for name in header:  # columns of the user's own are ignored, but not a speaker that has no source
        if _NUMBERED.fullmatch(name) and name not in wanted:
            raise UserError(f"{path}, row 1: the column {name} has no source column of its number; add or remove it")
