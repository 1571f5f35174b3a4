"""`videos.csv`: which video each mouth of a corpus is cut from, for corpora that come as raw video.

Stage 0 of such a corpus writes it beside the manifests, stage 1 reads it and cuts the mouths. Columns:

    utterance_ID    a name without path separators, unique; a video with several people has a row for each of them
    video_path      the raw video
    landmarks_path  landmarks that somebody else found in it, or empty: stage 1 finds them
    audio_path      the sound that stage 0 took from the video, 16 kHz mono wav: utterances/<id>.wav
    mouth_path      where stage 1 puts the crops: mouths/<id>.npz, the same text as in the manifests

Relative paths start at the folder of `videos.csv`, which is the `data_root` of the manifests beside it.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from utils.data.files import write_text
from utils.errors import UserError

FILE_NAME = "videos.csv"
ALIGNMENTS = ("centred8", "forward5")  # of utils/video/alignment.py, whose packages stages may do without
VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        "mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "mpe", "m2v", "vob", "ts", "mts", "m2ts", "flv", "f4v",
        "wmv", "asf", "ogv", "3gp", "3g2",
    )
)  # fmt: skip
COLUMNS = ("utterance_ID", "video_path", "landmarks_path", "audio_path", "mouth_path")
_MAY_BE_EMPTY = ("landmarks_path",)


@dataclass(frozen=True)
class VideoClip:
    """One row: a speaking person in a video; the fields are the columns, "" stands for what is absent."""

    utterance_id: str
    video_path: str
    landmarks_path: str
    audio_path: str
    mouth_path: str


def write_videos(path: Path | str, clips: Sequence[VideoClip]) -> None:
    """Write `videos.csv`, atomically; what is written is what `read_videos` gives back.

    Raises:
        UserError: a row breaks a rule, e.g. two have the same id.
    """
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows(astuple(clip) for clip in clips)
    _parse(buffer.getvalue(), Path(path))
    write_text(path, buffer.getvalue())


def read_videos(path: Path | str) -> tuple[VideoClip, ...]:
    """Read `videos.csv`, in the order of its rows; further columns are passed over.

    Raises:
        UserError: missing, not UTF-8, no row, a column or field is missing, an id twice or no name.
    """
    path = Path(path)
    try:
        return _parse(path.read_text(encoding="utf-8-sig"), path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; stage 0 (--stage 0) of a raw corpus makes it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save the CSV as UTF-8") from None


def _parse(text: str, path: Path) -> tuple[VideoClip, ...]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path}, row 1: no column {', '.join(missing)}; the columns are {','.join(COLUMNS)}")
    clips: list[VideoClip] = []
    lines: dict[str, int] = {}
    for row in reader:
        fields = [row[name] for name in COLUMNS]
        for name, value in zip(COLUMNS, fields, strict=True):
            if value is None or (not value and name not in _MAY_BE_EMPTY):
                raise UserError(f"{path}, row {reader.line_num}, column {name}: nothing where something must stand; fill it in")
        clip = VideoClip(*fields)
        if "/" in clip.utterance_id or "\\" in clip.utterance_id or clip.utterance_id in (".", ".."):
            raise UserError(f"{path}, row {reader.line_num}: '{clip.utterance_id}' cannot be an id, it names files; rename it")
        first = lines.setdefault(clip.utterance_id, reader.line_num)
        if first != reader.line_num:
            raise UserError(f"{path}, row {reader.line_num}: row {first} has the id '{clip.utterance_id}' too; rename one")
        clips.append(clip)
    if not clips:
        raise UserError(f"{path}: holds no row below its header; run stage 0 again (--stage 0)")
    return tuple(clips)
