"""When each phoneme is said: data/<corpus>/phonemes.csv, of corpora that know it, such as the demo.

A row for each: utterance_ID, phoneme (IPA), start_sec, end_sec, from the beginning of the utterance.
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from utils.data.files import write_text
from utils.errors import UserError

PHONEMES_NAME = "phonemes.csv"
_COLUMNS = ("utterance_ID", "phoneme", "start_sec", "end_sec")


class Phoneme(NamedTuple):
    """A phoneme, and when it is said."""

    label: str
    start_sec: float
    end_sec: float


def write_phonemes(path: Path, phonemes: Iterable[tuple[str, Iterable[Phoneme]]]) -> None:
    """Write those of utterances, given by their ids."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((utterance_id, *phoneme) for utterance_id, own in phonemes for phoneme in own)
    write_text(path, text.getvalue())


def read_phonemes(path: Path) -> dict[str, list[Phoneme]]:
    """Read what `write_phonemes` wrote; empty where there is no such file.

    Raises:
        UserError: it cannot be read.
    """
    found: dict[str, list[Phoneme]] = {}
    if not path.is_file():
        return found
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                phoneme = Phoneme(row["phoneme"], float(row["start_sec"]), float(row["end_sec"]))
                found.setdefault(row["utterance_ID"], []).append(phoneme)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"cannot be read ({error}); columns {', '.join(_COLUMNS)} are expected", path) from None
    return found
