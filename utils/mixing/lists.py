"""Lists of mixtures that are still to be made: our own CSV, and what all kinds of lists have in common.

Whatever a list looks like, a row becomes a `ListedMixture`: whose clips, and how loud each is beside the others. What
public lists call dB differs, so each reader says what it takes it for (`utils/mixing/public_lists.py` holds those readers).

Our own list is a CSV with the header

    mixture_ID,split,{utterance,speaker,level_db,response}_K for K = 1, 2, …,noise,noise_start,snr_db

and is, with the settings that hold for all of its mixtures (utils/mixing/rendering.py), all that making the audio again
needs, beside the clips, the noise and the room responses that it names: two runs give the same bytes. `level_db`: sources
are scaled so that their levels differ as these numbers do, hence the SIR of source 1 over source 2 is `level_db_1 -
level_db_2`. `response`: the room, see `utils/mixing/rooms.py`; empty: none. `noise`: a file below the noise folder, from
sample `noise_start`, at `snr_db` below all sources together; empty: none.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from utils.data.constants import SPLITS
from utils.data.files import write_text
from utils.data.manifest import Problem, as_number
from utils.errors import UserError
from utils.mixing.rooms import response_file

MAX_LEVEL_DB = 40.0  # sources that differ by more cannot both be heard
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


@dataclass(frozen=True)
class MixtureList:
    """The rows of a list that can be used, and why others cannot."""

    mixtures: tuple[ListedMixture, ...]
    problems: tuple[Problem, ...]

    @property
    def n_src(self) -> int:
        return len(self.mixtures[0].sources) if self.mixtures else 0


def write_mix_list(path: Path | str, mixtures: Sequence[ListedMixture]) -> None:
    """Write our own list, atomically; `read_mix_list` gives the same mixtures back."""
    n_src = len(mixtures[0].sources)
    numbers = range(1, n_src + 1)
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(_header(n_src))
    for item in mixtures:
        if len(item.sources) != n_src:
            raise ValueError(f"{item.mixture_id} has {len(item.sources)} sources, the first of the list {n_src}")
        sources = [(s.utterance_id, s.speaker, _text(s.level_db), s.response) for s in item.sources]
        fields = [sources[k - 1][column] for column in range(len(_SOURCE_COLUMNS)) for k in numbers]
        snr = "" if item.snr_db is None else _text(item.snr_db)
        rows.writerow([item.mixture_id, item.split, *fields, item.noise, item.noise_start if item.noise else "", snr])
    write_text(path, buffer.getvalue())


def read_mix_list(path: Path | str, *, same_speaker: bool = False, max_db: float = MAX_LEVEL_DB) -> MixtureList:
    """Read our own list.

    Args:
        path: the CSV.
        same_speaker: also take rows that mix clips of one speaker.
        max_db: largest difference of level, and of SNR from zero, dB.

    Raises:
        UserError: the file is missing or is no such list at all.
    """
    path = Path(path)
    rows = list(csv_rows(path))
    header = rows[0][1] if rows else []
    n_src = sum(bool(re.fullmatch(r"utterance_[0-9]+", name)) for name in header)
    if n_src < 2 or header != _header(n_src):
        raise UserError(f"{path}, row 1: no list of mixtures; its columns are {','.join(_header(max(n_src, 2)))}")
    found = [_own_row(line, fields, header, n_src) for line, fields in rows[1:]]
    return checked_list(path, found, same_speaker=same_speaker, max_db=max_db)


def checked_list(path: Path, found: Iterable[ListedMixture | Problem], *, same_speaker: bool, max_db: float) -> MixtureList:
    """Tell the rows that can be used from those that cannot, for any kind of list."""
    found = list(found)
    counts = Counter(item.mixture_id for item in found if isinstance(item, ListedMixture))
    mixtures, problems = [], []
    for item in found:
        if isinstance(item, Problem):
            problems.append(replace(item, path=str(path)))
            continue
        reason = _reason_against(item, same_speaker, max_db)
        if not reason and counts[item.mixture_id] > 1:
            reason = f"{counts[item.mixture_id]} rows of the list make a mixture of this name"
        if reason:
            problems.append(Problem(item.row, item.mixture_id, str(path), reason))
        else:
            mixtures.append(replace(item, source=str(path)))
    if not found:
        raise UserError(f"{path}: lists no mixture; give another list")
    return MixtureList(tuple(mixtures), tuple(problems))


def absent_clips(mixtures: Iterable[ListedMixture], usable: Collection[str], known: Collection[str] = ()) -> MixtureList:
    """Separate the mixtures whose clips are missing, or are known but cannot be used."""
    kept, problems = [], []
    for item in mixtures:
        missing = [source.utterance_id for source in item.sources if source.utterance_id not in usable]
        absent = [name for name in missing if name not in known]
        why = "which the corpus does not hold" if absent else "which could not be used (see its own row)"
        if missing:
            reason = f"the list names {', '.join(absent or missing)}, {why}"
            problems.append(Problem(item.row, item.mixture_id, item.source, reason))
        else:
            kept.append(item)
    return MixtureList(tuple(kept), tuple(problems))


def csv_rows(path: Path) -> Iterable[tuple[int, list[str]]]:
    """The rows of a CSV with their line numbers: BOM, CRLF and empty lines are accepted, fields lose outer spaces.

    Raises:
        UserError: missing, not UTF-8, or a field is longer than Python takes.
    """
    for line, text in text_lines(path):
        try:
            yield line, [field.strip() for field in next(csv.reader([text]))]
        except csv.Error as error:
            raise UserError(f"{path}, row {line}: no row of a CSV ({error}); give another list") from None


def text_lines(path: Path) -> Iterable[tuple[int, str]]:
    """The lines of a text that hold anything, with their numbers.

    Raises:
        UserError: missing, or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file; give the list of the mixtures") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save the list as UTF-8") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _own_row(line: int, fields: list[str], header: list[str], n_src: int) -> ListedMixture | Problem:
    row = dict(zip(header, fields, strict=False))
    name = row.get("mixture_ID", "")
    if len(fields) != len(header):
        return Problem(line, name, "", f"{len(fields)} fields, the header has {len(header)}")
    levels = [as_number(row[f"level_db_{k}"]) for k in range(1, n_src + 1)]
    snr_db, start = as_number(row["snr_db"] or "0"), row["noise_start"] or "0"
    if None in levels or snr_db is None or not start.isascii() or not start.isdigit() or len(start) > _MOST_DIGITS:
        return Problem(line, name, "", "level_db, snr_db or noise_start is no number that can be used")
    if row["noise"] and not row["snr_db"]:
        return Problem(line, name, "", "names a noise but no snr_db")
    sources = tuple(
        ListedSource(row[f"utterance_{k}"], row[f"speaker_{k}"], levels[k - 1], row[f"response_{k}"])
        for k in range(1, n_src + 1)
    )
    return ListedMixture(name, row["split"], sources, row["noise"], int(start), snr_db if row["noise"] else None, line)


def _reason_against(item: ListedMixture, same_speaker: bool, max_db: float) -> str:
    """The reason why a row cannot be made, "" if it can."""
    ids = [source.utterance_id for source in item.sources]
    speakers = [source.speaker for source in item.sources if source.speaker]
    levels = [source.level_db for source in item.sources]
    if any(not name or "/" in name or "\\" in name or name in (".", "..") for name in (item.mixture_id, *ids)):
        return "an id is empty or holds a path separator"
    if any(_leads_out(name) for name in (item.noise, *(response_file(source.response) for source in item.sources))):
        return "its noise or its room response is no file below the folder of these"
    if item.split not in SPLITS:
        return f"the split is '{item.split}', none of {', '.join(SPLITS)}"
    if len(set(ids)) < len(ids):
        return "mixes a clip with itself"
    if len(set(speakers)) < len(speakers) and not same_speaker:
        twice = Counter(speakers).most_common(1)[0][0]
        return f"mixes the speaker {twice} with themselves; --same_speaker true allows that"
    if max(levels) - min(levels) > max_db:
        return f"levels differ by {max(levels) - min(levels):g} dB, more than {max_db:g} dB"
    if item.snr_db is not None and abs(item.snr_db) > max_db:
        return f"an SNR of {item.snr_db:g} dB is beyond ±{max_db:g} dB"
    return ""


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or not name.isprintable()


def _header(n_src: int) -> list[str]:
    numbered = [f"{column}_{k}" for column in _SOURCE_COLUMNS for k in range(1, n_src + 1)]
    return ["mixture_ID", "split", *numbered, "noise", "noise_start", "snr_db"]


def _text(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
