"""Lists of mixtures as public code passes them around: gain lists of the 2Mix sets, and the extraction family's CSV.

Gain list (`.scp`, `.txt`), a line for each mixture, of 2 or 3 sources:

    PATH1 1.048 PATH2 -1.048

The numbers are gains in dB on clips of equal active level. They are taken as they stand: `level_db` of each source.

Extraction family (MuSE, USEV, SEANet, ClearerVoice), a CSV without header, of 2 or 3 speakers (10 or 14 fields):

    train,train,id08108,RCODGWdfzdY/00197,0,train,id07077,oi72_HHDWY4/00288,0.8976,4.096
    set,{folder, speaker, clip, dB} for each speaker, the target first,seconds

Public code reads the dB of an interferer with opposite signs: MuSE, USEV and ClearerVoice make the interferer louder by it,
SEANet takes the same number of the same file for the target's level over the interferer. No default can be right, so
the convention is always given.
"""

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from utils.data.constants import SPLITS
from utils.data.manifest import Problem, as_number
from utils.errors import UserError
from utils.mixing.lists import ListedMixture, ListedSource, MixtureList, checked_list, csv_rows, text_lines

TARGET_OVER_INTERFERER, INTERFERER_OVER_TARGET = "target_over_interferer", "interferer_over_target"
SIR_CONVENTIONS = (TARGET_OVER_INTERFERER, INTERFERER_OVER_TARGET)
MAX_SIR_DB = 10.0  # of the extraction family's lists
MAX_GAIN_DB = 5.0  # of the 2Mix lists, either way
_PATH_AND_GAIN = re.compile(r"(?P<path>\S.*?\.(?:wav|flac|mp3|m4a|mp4))\s+(?P<gain>[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(?:\s+|$)")
SPLIT_NAMES = {"tr": "train", "cv": "val", "tt": "test", "valid": "val", "dev": "val"} | {name: name for name in SPLITS}


def clip_id(*parts: str) -> str:
    """The id of a clip in a tree of folders: `id08108`, `RCODGWdfzdY/00197` -> `id08108_RCODGWdfzdY_00197`."""
    return "/".join(parts).strip("/").replace("/", "_")


def read_extraction_csv(
    path: Path | str, *, sir_convention: str, same_speaker: bool = False, max_db: float = MAX_SIR_DB
) -> MixtureList:
    """Read the extraction family's CSV.

    Args:
        path: the CSV, of 2 or of 3 speakers.
        sir_convention: what an interferer's dB means, one of `SIR_CONVENTIONS`.
        same_speaker: also take rows that mix clips of one speaker.
        max_db: largest dB of an interferer, either way.

    Raises:
        UserError: the convention is unknown, the file is missing, or no row has 10 or 14 fields.
    """
    path = Path(path)
    if sir_convention not in SIR_CONVENTIONS:
        raise UserError(
            f"--sir_convention {sir_convention}: give {' or '.join(SIR_CONVENTIONS)}; public code disagrees on {path}"
        )
    sign = 1.0 if sir_convention == INTERFERER_OVER_TARGET else -1.0
    rows = list(csv_rows(path))
    sizes = {len(fields) for _, fields in rows} & {10, 14}
    if rows and len(sizes) != 1:
        found = "both kinds" if sizes else f"{len(rows[0][1])} fields in row {rows[0][0]}"
        raise UserError(f"{path}: rows of 10 fields (2 speakers) or of 14 (3 speakers) are expected, here are {found}")
    found = [_extraction_row(line, fields, max(sizes), sign, max_db) for line, fields in rows]
    return checked_list(path, found, same_speaker=same_speaker, max_db=math.inf)


def read_gain_list(
    path: Path | str, *, split: str, id_of: Callable[[str], str], speaker_of: Callable[[str], str],
    same_speaker: bool = False, max_db: float = MAX_GAIN_DB,
) -> MixtureList:  # fmt: skip
    """Read a 2Mix gain list. Paths may hold spaces; a gain follows the suffix of its path.

    Args:
        path: the list.
        split: train, val or test; such a list does not say.
        id_of: the clip's id for a path of the list without its suffix; "" where the path is none of the corpus.
        speaker_of: the speaker of an id.
        same_speaker: also take lines that mix clips of one speaker.
        max_db: largest gain, either way.

    Raises:
        UserError: the file is missing or holds nothing.
    """
    path = Path(path)
    found = [_gain_row(line, text, split, id_of, speaker_of, max_db) for line, text in text_lines(path)]
    sizes = {len(item.sources) for item in found if isinstance(item, ListedMixture)}
    if len(sizes) > 1:
        raise UserError(f"{path}: lines of {' and of '.join(map(str, sorted(sizes)))} sources; give a list for each number")
    return checked_list(path, found, same_speaker=same_speaker, max_db=math.inf)


def _extraction_row(line: int, fields: list[str], size: int, sign: float, max_db: float) -> ListedMixture | Problem:
    name = "_".join(fields).replace("/", "_")[:200]
    if len(fields) != size:
        return Problem(line, name, "", f"{len(fields)} fields where the list has {size}")
    split = SPLIT_NAMES.get(fields[0], fields[0])
    levels = [as_number(text) for text in fields[4:-1:4]]
    seconds = as_number(fields[-1])
    if None in levels or seconds is None:
        return Problem(line, name, "", "a dB or the seconds are no number")
    if seconds <= 0:
        return Problem(line, name, "", f"lasts {seconds:g} s")
    if levels[0]:
        return Problem(line, name, "", f"the target's dB is {levels[0]:g} where 0 is expected, all others count from it")
    if max(map(abs, levels)) > max_db:
        return Problem(line, name, "", f"a dB of {max(levels, key=abs):g} is beyond ±{max_db:g} dB")
    sources = tuple(
        ListedSource(clip_id(*clip), clip[0], sign * level + 0.0)
        for clip, level in zip(zip(fields[2:-1:4], fields[3:-1:4], strict=True), levels, strict=True)
    )
    if any(not source.speaker or source.utterance_id == source.speaker for source in sources):
        return Problem(line, name, "", "a speaker or a clip is empty")
    return ListedMixture(mixture_name(sources), split, sources, row=line, seconds=seconds)


def _gain_row(
    line: int, text: str, split: str, id_of: Callable[[str], str], speaker_of: Callable[[str], str], max_db: float
) -> ListedMixture | Problem:
    words = [(match["path"], match["gain"]) for match in _PATH_AND_GAIN.finditer(text)]
    gains = [as_number(gain) for _, gain in words]
    if len(words) < 2 or None in gains or _PATH_AND_GAIN.sub("", text):
        return Problem(line, text[:200], "", "is not PATH GAIN PATH GAIN, each path with its suffix, e.g. .wav")
    ids = [id_of(str(PurePosixPath(path).with_suffix(""))) for path, _ in words]
    if not all(ids):
        return Problem(line, text[:200], "", f"{words[ids.index('')][0]} is no clip of this corpus by its name")
    if max(map(abs, gains)) > max_db:
        return Problem(line, text[:200], "", f"a gain of {max(gains, key=abs):g} dB is beyond ±{max_db:g} dB")
    sources = tuple(ListedSource(name, speaker_of(name), gain) for name, gain in zip(ids, gains, strict=True))
    return ListedMixture(mixture_name(sources), split, sources, row=line)


def mixture_name(sources: Iterable[ListedSource]) -> str:
    """The name that the 2Mix sets give a mixture: `id1_dB1_id2_dB2`, numbers with five significant digits."""
    return "_".join(f"{source.utterance_id}_{source.level_db:.5g}" for source in sources)
