"""Lists of mixtures that are still to be made: our own CSV, and what all kinds of lists have in common.

Whatever a list looks like, a row becomes a `ListedMixture`: whose clips, and how loud each is beside the others. What
public lists call dB differs, so each reader says what it takes it for (`utils/mixing/public_lists.py` holds those
readers). Readers give a `Problem` in the place of a row that cannot be used.

Our own list is a CSV with the header

    mixture_ID,split,{utterance,speaker,level_db,response}_K for K = 1, 2, …,noise,noise_start,snr_db

and is, with the settings that hold for all of its mixtures (utils/mixing/options.py), all that making the audio again
needs, beside the clips, the noise and the room responses that it names: two runs give the same bytes. `level_db`:
sources are scaled so that their levels differ as these numbers do, hence the SIR of source 1 over source 2 is
`level_db_1 - level_db_2`. `response`: the room, see `utils/mixing/rooms.py`; empty: none. `noise`: a file below the
noise folder, from sample `noise_start`, at `snr_db` below all sources together; empty: none.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from utils.data.constants import SPLITS
from utils.data.files import write_text
from utils.data.manifest import Problem, as_number
from utils.errors import UserError
from utils.mixing.rooms import response_file

Row = TypeVar("Row")
MAX_LEVEL_DB = 40.0  # sources that differ by more cannot both be heard; the same for noise, either way
_MOST_DIGITS = 12  # of a sample's number
_SOURCE_COLUMNS = ("utterance", "speaker", "level_db", "response")


@dataclass(frozen=True)
class ListedSource:
    """One source of a mixture that is to be made."""

    utterance_id: str
    speaker: str  # "" where it is not known
    level_db: float  # relative to the other sources of the mixture
    response: str = ""  # its room, "" for none


@dataclass(frozen=True)
class ListedMixture:
    """A mixture that is to be made.

    Attributes:
        mixture_id, split, sources: what it is.
        noise, noise_start, snr_db: its noise, from that sample on, below all sources together; "" for none.
        row, source: its line in the list that it came from, and that list's file; 0 and "" where there is none.
        seconds: its duration in the list, where that gives one.
    """

    mixture_id: str
    split: str
    sources: tuple[ListedSource, ...]
    noise: str = ""
    noise_start: int = 0  # samples
    snr_db: float | None = None
    row: int = 0
    source: str = field(default="", compare=False)
    seconds: float | None = field(default=None, compare=False)

    @property
    def sir_db(self) -> float:
        """SIR of the first source over the second."""
        return self.sources[0].level_db - self.sources[1].level_db

    @property
    def has_rest(self) -> bool:
        """True where more than sources is heard: noise, or a room."""
        return bool(self.noise) or any(source.response for source in self.sources)

    def problem(self, reason: str) -> Problem:
        """The reason why it cannot be made, by its row."""
        return Problem(self.row, self.mixture_id, self.source, reason)


def mixture_name(sources: Iterable[ListedSource]) -> str:
    """The name that the 2Mix sets give a mixture: `id1_dB1_id2_dB2`, numbers with five significant digits."""
    return "_".join(f"{source.utterance_id}_{source.level_db:.5g}" for source in sources)


# Our own list


def is_own_list(path: Path) -> bool:
    """True for a list of mixtures that this recipe wrote.

    Raises:
        UserError: there is no such file.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as handle:
            return handle.readline(1000).startswith("mixture_ID,")
    except OSError:
        raise UserError("no such file; give the list of the mixtures", path) from None


def write_mix_list(path: Path | str, mixtures: Sequence[ListedMixture]) -> None:
    """Write our own list, atomically; `read_mix_list` gives the same mixtures back."""
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(_header(len(mixtures[0].sources)))
    for item in mixtures:
        sources = [(s.utterance_id, s.speaker, _text(s.level_db), s.response) for s in item.sources]
        columns = [text for column in zip(*sources, strict=True) for text in column]
        noise = (item.noise, item.noise_start, _text(item.snr_db)) if item.noise else ("", "", "")
        rows.writerow([item.mixture_id, item.split, *columns, *noise])
    write_text(path, buffer.getvalue())


def read_mix_list(path: Path | str) -> list[ListedMixture | Problem]:
    """Read our own list.

    Raises:
        UserError: the file is missing or is no such list at all.
    """
    path = Path(path)
    rows = list(csv_rows(path))
    header = rows[0][1] if rows else []
    n_src = sum(bool(re.fullmatch(r"utterance_[0-9]+", name)) for name in header)
    if n_src < 2 or header != _header(n_src):
        raise UserError(f"{path}, row 1: no list of mixtures; its columns are {','.join(_header(max(n_src, 2)))}")

    def parse(fields: list[str]) -> ListedMixture:
        if len(fields) != len(header):
            raise UserError(f"{len(fields)} fields, the header has {len(header)}")
        row = dict(zip(header, fields, strict=True))
        levels = [as_number(row[f"level_db_{k}"]) for k in range(1, n_src + 1)]
        snr_db, start = as_number(row["snr_db"] or "0"), row["noise_start"] or "0"
        if None in levels or snr_db is None or not re.fullmatch(rf"[0-9]{{1,{_MOST_DIGITS}}}", start):
            raise UserError("level_db, snr_db or noise_start is no number that can be used")
        if row["noise"] and not row["snr_db"]:
            raise UserError("names a noise but no snr_db")
        sources = tuple(
            ListedSource(row[f"utterance_{k}"], row[f"speaker_{k}"], level, row[f"response_{k}"])
            for k, level in enumerate(levels, start=1)
        )
        noise = (row["noise"], int(start), snr_db if row["noise"] else None)
        return ListedMixture(row["mixture_ID"], row["split"], sources, *noise)

    return checked_rows(path, rows[1:], parse, lambda fields: fields[0])


def _header(n_src: int) -> list[str]:
    numbered = [f"{column}_{k}" for column in _SOURCE_COLUMNS for k in range(1, n_src + 1)]
    return ["mixture_ID", "split", *numbered, "noise", "noise_start", "snr_db"]


def _text(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


# All kinds of lists


def checked_rows(
    path: Path, rows: Iterable[tuple[int, Row]], parse: Callable[[Row], ListedMixture], name_of: Callable[[Row], str]
) -> list[ListedMixture | Problem]:
    """Read the rows of a list.

    Args:
        path: the list.
        rows: line numbers, and what the lines hold.
        parse: makes a mixture of a row; a `UserError` says why that cannot be.
        name_of: the name of a row that is no mixture.

    Raises:
        UserError: there is no row.
    """
    found: list[ListedMixture | Problem] = []
    for line, row in rows:
        name = name_of(row)
        try:
            item = replace(parse(row), row=line, source=str(path))
            name = item.mixture_id
            _check(item)
            found.append(item)
        except UserError as error:
            found.append(Problem(line, name, str(path), error.reason))
    if not found:
        raise UserError("lists no mixture; give another list", path)
    counts = Counter(item.mixture_id for item in found if isinstance(item, ListedMixture))
    for place, item in enumerate(found):
        if isinstance(item, ListedMixture) and counts[item.mixture_id] > 1:
            found[place] = item.problem(f"{counts[item.mixture_id]} rows of the list make a mixture of this name")
    return found


def _check(item: ListedMixture) -> None:
    ids = [source.utterance_id for source in item.sources]
    levels = [source.level_db for source in item.sources]
    if any(not name or "/" in name or "\\" in name or name in (".", "..") for name in (item.mixture_id, *ids)):
        raise UserError("an id is empty or holds a path separator")
    if any(_leads_out(name) for name in (item.noise, *(response_file(source.response) for source in item.sources))):
        raise UserError("its noise or its room response is no file below the folder of these")
    if item.split not in SPLITS:
        raise UserError(f"the split is '{item.split}', none of {', '.join(SPLITS)}")
    if len(set(ids)) < len(ids):
        raise UserError("mixes a clip with itself")
    if max(levels) - min(levels) > MAX_LEVEL_DB:
        raise UserError(f"levels differ by {max(levels) - min(levels):g} dB, more than {MAX_LEVEL_DB:g} dB")
    if item.snr_db is not None and abs(item.snr_db) > MAX_LEVEL_DB:
        raise UserError(f"an SNR of {item.snr_db:g} dB is beyond ±{MAX_LEVEL_DB:g} dB")


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or not name.isprintable()


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV with their line numbers: BOM, CRLF and empty lines are accepted, fields lose outer spaces.

    Raises:
        UserError: missing, not UTF-8, or a field is longer than Python takes.
    """
    for line, text in text_lines(path):
        try:
            yield line, [field.strip() for field in next(csv.reader([text]))]
        except csv.Error as error:
            raise UserError(f"{path}, row {line}: no row of a CSV ({error}); give another list") from None


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text that hold anything, with their numbers.

    Raises:
        UserError: missing, or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError("no such file; give the list of the mixtures", path) from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start}); save the list as UTF-8", path) from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()
