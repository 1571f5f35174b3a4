"""Lists of mixtures as public code passes them around: gain lists of the 2Mix sets, and the extraction family's CSV.

Gain list (`.scp`, `.txt`), a line for each mixture, of 2 or 3 sources:

    PATH1 1.048 PATH2 -1.048

The numbers are gains in dB on clips of equal active level. They are taken as they stand: `level_db` of each source.

Extraction family (MuSE, USEV, SEANet, ClearerVoice), a CSV without header, of 2 or 3 speakers (10 or 14 fields):

    train,train,id08108,RCODGWdfzdY/00197,0,train,id07077,oi72_HHDWY4/00288,0.8976,4.096
    set,{folder, speaker, clip, dB} for each speaker, the target first,seconds

Public code reads the dB of an interferer with opposite signs: MuSE, USEV and ClearerVoice make the interferer louder by
it, SEANet takes the same number of the same file for the target's level over the interferer. No default can be right:
the convention is always given.
"""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from utils.data.manifest import Problem, as_number
from utils.errors import UserError
from utils.mixing.lists import ListedMixture, ListedSource, checked_rows, csv_rows, mixture_name, text_lines

TARGET_OVER_INTERFERER, INTERFERER_OVER_TARGET = "target_over_interferer", "interferer_over_target"
SIR_CONVENTIONS = (TARGET_OVER_INTERFERER, INTERFERER_OVER_TARGET)
_MAX_SIR_DB = 10.0  # of an interferer in the extraction family's lists, either way
_MAX_GAIN_DB = 5.0  # of the 2Mix lists, either way
_GAIN = r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?"
_PATH_AND_GAIN = re.compile(rf"(?P<path>\S.*?\.(?:wav|flac|mp3|m4a|mp4))\s+(?P<gain>{_GAIN})(?:\s+|$)")
_SPLIT_NAMES = {"tr": "train", "cv": "val", "tt": "test", "valid": "val", "dev": "val"}


def read_extraction_csv(path: Path | str, sir_convention: str | None) -> list[ListedMixture | Problem]:
    """Read the extraction family's CSV.

    Args:
        path: the CSV, of 2 or of 3 speakers.
        sir_convention: what an interferer's dB means, one of `SIR_CONVENTIONS`.

    Raises:
        UserError: the convention is unknown, the file is missing, or no row has 10 or 14 fields.
    """
    path = Path(path)
    if sir_convention not in SIR_CONVENTIONS:
        said = f"say which with --sir_convention {' or '.join(SIR_CONVENTIONS)}"
        raise UserError(f"public code reads its dB with opposite signs; {said}", path)
    sign = 1.0 if sir_convention == INTERFERER_OVER_TARGET else -1.0
    rows = list(csv_rows(path))
    sizes = {len(fields) for _, fields in rows} & {10, 14}
    if rows and len(sizes) != 1:
        found = "both kinds" if sizes else f"{len(rows[0][1])} fields in row {rows[0][0]}"
        raise UserError(f"rows of 10 fields (2 speakers) or of 14 (3 speakers) are expected, here are {found}", path)

    def parse(fields: list[str]) -> ListedMixture:
        if len(fields) not in sizes:
            raise UserError(f"{len(fields)} fields where the list has {max(sizes)}")
        speakers, clips = fields[2:-1:4], fields[3:-1:4]
        levels = [as_number(text) for text in fields[4:-1:4]]
        seconds = as_number(fields[-1])
        if None in levels or seconds is None:
            raise UserError("a dB or the seconds are no number")
        if seconds <= 0:
            raise UserError(f"lasts {seconds:g} s")
        if levels[0]:
            raise UserError(f"the target's dB is {levels[0]:g} where 0 is expected, all others count from it")
        if max(map(abs, levels)) > _MAX_SIR_DB:
            raise UserError(f"a dB of {max(levels, key=abs):g} is beyond ±{_MAX_SIR_DB:g} dB")
        if not all((*speakers, *clips)):
            raise UserError("a speaker or a clip is empty")
        sources = tuple(
            ListedSource(f"{speaker}/{clip}".strip("/").replace("/", "_"), speaker, sign * level + 0.0)
            for speaker, clip, level in zip(speakers, clips, levels, strict=True)
        )
        split = _SPLIT_NAMES.get(fields[0], fields[0])
        return ListedMixture(mixture_name(sources), split, sources, seconds=seconds)

    return checked_rows(path, rows, parse, lambda fields: "_".join(fields).replace("/", "_")[:200])


def read_gain_list(
    path: Path | str, split: str, id_of: Callable[[str], str], speaker_of: Callable[[str], str]
) -> list[ListedMixture | Problem]:
    """Read a 2Mix gain list. Paths may hold spaces; a gain follows the suffix of its path.

    Args:
        path: the list.
        split: train, val or test; such a list does not say.
        id_of: the clip's id for a path of the list without its suffix; "" where the path is none of the corpus.
        speaker_of: the speaker of an id.

    Raises:
        UserError: the file is missing or holds nothing.
    """

    def parse(text: str) -> ListedMixture:
        words = [(match["path"], match["gain"]) for match in _PATH_AND_GAIN.finditer(text)]
        gains = [as_number(gain) for _, gain in words]
        if len(words) < 2 or None in gains or _PATH_AND_GAIN.sub("", text):
            raise UserError("is not PATH GAIN PATH GAIN, each path with its suffix, e.g. .wav")
        ids = [id_of(str(PurePosixPath(path).with_suffix(""))) for path, _ in words]
        if not all(ids):
            raise UserError(f"{words[ids.index('')][0]} is no clip of this corpus by its name")
        if max(map(abs, gains)) > _MAX_GAIN_DB:
            raise UserError(f"a gain of {max(gains, key=abs):g} dB is beyond ±{_MAX_GAIN_DB:g} dB")
        sources = tuple(ListedSource(name, speaker_of(name), gain) for name, gain in zip(ids, gains, strict=True))
        return ListedMixture(mixture_name(sources), split, sources)

    return checked_rows(Path(path), text_lines(Path(path)), parse, lambda text: text[:200])
