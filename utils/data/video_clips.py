"""`videos.csv`: which video each mouth of a corpus is cut from, for corpora that come as raw video.

Stage 0 of such a corpus writes it beside the manifests, stage 1 reads it and cuts the mouths. Columns:

    utterance_ID    a name without path separators, unique; a video with several people has a row for each of them
    video_path      the raw video
    landmarks_path  landmarks that somebody else found in it, or empty: stage 1 finds them
    audio_path      the sound that stage 0 took from the video, 16 kHz mono wav: utterances/<id>.wav
    mouth_path      the file that stage 1 writes the crops to: mouths/<id>.npz, the same text as in the manifests

Relative paths start at the folder of `videos.csv`, which is the `data_root` of the manifests beside it.
"""

from collections.abc import Sequence
from pathlib import Path

from utils.data.files import write_text
from utils.data.manifest_rows import Utterance, format_rows, parse_rows, read_csv
from utils.errors import UserError

FILE_NAME = "videos.csv"


def write_videos(path: Path | str, clips: Sequence[Utterance]) -> None:
    """Write `videos.csv`, atomically; `read_videos` gives the same columns back.

    Raises:
        UserError: a row breaks a rule, e.g. two have the same id.
    """
    text = format_rows(clips, "videos", 1)
    parse_rows(text, Path(path), "videos")
    write_text(path, text)


def read_videos(path: Path | str) -> tuple[Utterance, ...]:
    """Read `videos.csv`, in the order of its rows; further columns are ignored.

    Raises:
        UserError: missing, not UTF-8, no row, a column or field is missing, an id is no name or is listed twice.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("no such file; stage 0 (--stage 0) of a raw corpus makes it", path)
    return parse_rows(read_csv(path), path, "videos")[0]
