"""Turn AVSpeech, of which only a list is distributed, into manifests: download, cut, mix.

Reads   CORPUS_DIR/avspeech_train.csv, avspeech_test.csv as published (`id,start,end,x,y`, no header); the videos, by yt-dlp
Writes  --clips_dir: parts of 3 s as mp4 and wav, with made.jsonl, the journal of finished videos; into DATA_DIR, see
        utils/corpora/raw_corpus.py
Run     python egs/avspeech/prepare.py --data_dir data/avspeech --corpus_dir /data/avspeech --start 0 --end 2000 --nj 8

It may be interrupted at any time and goes on with the next video. A video that is gone is a line in failed.csv, and so is a
part that is silent; --max_failed allows them (egs/avspeech/run.sh does), and the next run asks for them again. The speaker of
a clip is its video: no mixture is of one video, and none is in two splits.
"""

import argparse
import csv
import io
import logging
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.raw_corpus import raw_parser, require_video_packages, run_raw
from utils.data.constants import VIDEO_FPS
from utils.data.files import require_space
from utils.data.fingerprints import hash_json
from utils.data.jobs import Job, Journal, pending, run_jobs
from utils.data.manifest import Problem, Utterance, as_number
from utils.errors import UserError, at_least, run_cli
from utils.mixing.options import MixOptions

log = logging.getLogger(__name__)
_LISTS = {"avspeech_train.csv": "", "avspeech_test.csv": "test"}  # the split of their clips; "": by --val_share
_ADDRESS = "https://www.youtube.com/watch?v={id}"
_FORMAT = "best[height<=480][ext=mp4]/best[height<=720]/best"  # one file with sound: nothing must be merged
_SECOND_BYTES = 220_000  # of a part: pictures of 480 rows (crf 18) and sound
_VIDEO_BYTES = 100_000_000  # of a video while it is cut


@dataclass(frozen=True)
class Clip:
    """A row of a list."""

    video: str
    start_sec: Fraction
    end_sec: Fraction
    face_at: str  # "x y", shares of width and height
    split: str

    @property
    def clip_id(self) -> str:
        """The video, and where in time and picture: rows of one video differ in one of them."""
        x, y = (round(10000 * float(share)) for share in self.face_at.split())
        return f"{self.video}_{round(1000 * self.start_sec)}_{x}_{y}"

    def starts_sec(self, part_sec: Fraction) -> list[Fraction]:
        """Where its parts begin; what is left at the end is not taken."""
        return [self.start_sec + k * part_sec for k in range(int((self.end_sec - self.start_sec) / part_sec))]


def main() -> None:
    """The lists to manifests."""
    parser = raw_parser(__doc__.splitlines()[0], corpus="folder of avspeech_train.csv and avspeech_test.csv")
    parser.add_argument("--start", type=at_least(0), default=0, help="first row of each list that is taken, from 0")
    parser.add_argument("--end", type=at_least(1), help="row of each list before which to stop; default: all")
    parser.add_argument("--part_sec", type=Fraction, default=Fraction(3), help="length of a part, s")
    parser.add_argument("--clips_dir", type=Path, default=Path("dump/avspeech"), help="gets the parts")
    parser.add_argument("--address", default=_ADDRESS, help="of a video, with {id} for its id")
    args = parser.parse_args()
    if (args.part_sec * VIDEO_FPS).denominator != 1 or args.part_sec <= 0:
        raise UserError(f"--part_sec {float(args.part_sec):g}: whole frames of 25 frames/s are needed, e.g. 3")
    if "{id}" not in args.address:
        raise UserError(f"--address {args.address}: it must hold {{id}} where the id of a video goes")
    run_raw(args, _find_parts)


def _find_parts(args: argparse.Namespace, options: MixOptions) -> Iterator[Utterance | Problem]:
    """Download and cut what is missing; gives all parts."""
    require_video_packages()
    clips, problems = _read_lists(args)
    yield from problems
    for clip in clips:
        if not clip.starts_sec(args.part_sec):
            lasts_sec = float(clip.end_sec - clip.start_sec)
            reason = f"lasts {lasts_sec:.2f} s, shorter than --part_sec {float(args.part_sec):g}"
            yield Problem(0, clip.clip_id, args.address.format(id=clip.video), reason)
    clips = [clip for clip in clips if clip.starts_sec(args.part_sec)]
    by_video: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_video[clip.video].append(clip)
    jobs = [_job(video, own, args) for video, own in by_video.items()]
    journal = args.clips_dir / "made.jsonl"
    _forget_lost(journal, by_video, args)
    todo = {job.name for job in pending(jobs, journal)[0]}
    seconds = sum(float(clip.end_sec - clip.start_sec) for clip in clips if clip.video in todo)
    n_bytes = round(seconds * _SECOND_BYTES) + options.nj * _VIDEO_BYTES * bool(todo)
    require_space(args.clips_dir, n_bytes, f"the parts of {len(todo)} videos, {seconds:.0f} s,", "--clips_dir")
    args.clips_dir.mkdir(parents=True, exist_ok=True)
    for left in args.clips_dir.glob(".tmp-*/"):  # by a killed run
        shutil.rmtree(left)
    made, reasons = run_jobs(_download_and_cut, jobs, journal, options.nj, "videos", "video")
    if len(reasons) == len(jobs):
        raise UserError(f"none of {len(jobs)} videos could be had; the first: {next(iter(reasons.values()))}")
    if reasons:
        log.warning("%d of %d videos could not be had; they are in failed.csv", len(reasons), len(jobs))
    for video, own in by_video.items():
        if video in reasons:
            yield Problem(0, video, args.address.format(id=video), reasons[video])
            continue
        parts = [(clip, part) for clip in own for part in _parts(clip, args)]
        for (clip, (name, video_path, audio_path, _)), reason in zip(parts, made[video], strict=True):
            if reason:
                yield Problem(0, name, args.address.format(id=video), reason)
            else:
                yield Utterance(
                    name, video, str(audio_path), video_path=str(video_path), face_at=clip.face_at, split=clip.split
                )


def _forget_lost(journal: Path, by_video: dict[str, list[Clip]], args: argparse.Namespace) -> None:
    """Forget what was made of a video some of whose parts are no longer there."""
    made = Journal(journal)
    lost = set()
    for video, own in by_video.items():
        reasons = made.entries[video][1] if video in made.entries else []
        parts = [part for clip in own for part in _parts(clip, args)]
        files = [paths for (_, *paths, _), reason in zip(parts, reasons, strict=False) if not reason]
        if not all(path.is_file() for paths in files for path in paths):
            lost.add(video)
    if lost:
        made.keep_only(set(made.entries) - lost)


def _read_lists(args: argparse.Namespace) -> tuple[list[Clip], list[Problem]]:
    """The rows of both lists that are asked for; a row that cannot be used is a problem."""
    clips: dict[str, Clip] = {}
    problems = []
    paths = [path for name in _LISTS if (path := args.corpus_dir / name).is_file()]
    if not paths:
        raise UserError(
            f"--corpus_dir {args.corpus_dir}: holds neither {' nor '.join(_LISTS)}; take them from the corpus' site"
        )
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")  # a BOM would stick to the first id
        except UnicodeDecodeError:
            raise UserError(f"{path}: not UTF-8; take the list from the corpus' site") from None
        rows = list(csv.reader(io.StringIO(text)))
        for line, row in list(enumerate(rows, start=1))[args.start : args.end]:
            clip = _read_row(row, _LISTS[path.name])
            if isinstance(clip, str):
                problems.append(Problem(line, row[0] if row else "", path.name, clip))
            elif clip.clip_id in clips:
                problems.append(Problem(line, clip.clip_id, path.name, "listed twice"))
            else:
                clips[clip.clip_id] = clip
    if not clips:
        raise UserError(f"{paths[0]}: no row between --start and --end can be used; {len(problems)} cannot")
    tested = {clip.video for clip in clips.values() if clip.split == "test"}
    return [replace(clip, split="test") if clip.video in tested else clip for clip in clips.values()], problems


def _read_row(row: Sequence[str], split: str) -> Clip | str:
    """The clip of a row, or what is wrong with it."""
    if len(row) != 5:
        return f"{len(row)} fields where id,start,end,x,y are expected"
    video, *texts = (field.strip() for field in row)
    numbers = [as_number(text) for text in texts]
    if not video or not all(sign.isalnum() or sign in "_-" for sign in video):
        return f"'{video}' is no id of a video"
    if any(number is None for number in numbers):
        return "start, end, x, y are to be numbers"
    start, end, x, y = numbers
    if not (0 <= start < end and 0 <= x <= 1 and 0 <= y <= 1):
        return "start must be before end, x and y lie from 0 to 1"
    return Clip(video, Fraction(texts[0]), Fraction(texts[1]), f"{texts[2]} {texts[3]}", split)


def _parts(clip: Clip, args: argparse.Namespace) -> Iterator[tuple[str, Path, Path, Fraction]]:
    """Id, video file, sound file and start of each part."""
    folder = args.clips_dir.absolute()
    for number, start_sec in enumerate(clip.starts_sec(args.part_sec)):
        name = f"{clip.clip_id}_part{number}"
        yield name, folder / f"{name}.mp4", folder / f"{name}.wav", start_sec


def _job(video: str, clips: Sequence[Clip], args: argparse.Namespace) -> Job:
    parts = [part for clip in clips for part in _parts(clip, args)]
    key = hash_json([args.address, float(args.part_sec), [name for name, *_ in parts]])
    return Job(video, key, (), (args.address.format(id=video), parts, int(args.part_sec * VIDEO_FPS)))


def _download_and_cut(given: tuple) -> list[str]:
    """Make the parts of one video; gives the reason of each that could not be made, "" for the others."""
    from utils.video.cutting import Part, cut_parts

    address, parts, n_frames = given
    with tempfile.TemporaryDirectory(dir=parts[0][1].parent, prefix=".tmp-") as work_dir:
        path = _download(address, Path(work_dir))
        wanted = [Part(start_sec, n_frames, video, audio) for _, video, audio, start_sec in parts]
        return cut_parts(path, wanted, Path(work_dir))


def _download(address: str, folder: Path) -> Path:
    """Fetch a video into a folder.

    Raises:
        UserError: it is gone, or there is no network.
    """
    import yt_dlp

    options = {
        "format": _FORMAT, "outtmpl": f"{folder}/video.%(ext)s", "quiet": True, "no_warnings": True, "noprogress": True,
        "logger": logging.getLogger("yt_dlp.silent"), "cachedir": False, "retries": 3, "socket_timeout": 30,
    }  # fmt: skip
    options["logger"].setLevel(logging.CRITICAL + 1)
    try:
        with yt_dlp.YoutubeDL(options) as downloader:
            downloader.download([address])
    except yt_dlp.utils.DownloadError as error:
        raise UserError(f"cannot be downloaded: {' '.join(str(error).removeprefix('ERROR: ').split())}") from None
    found = sorted(folder.glob("video.*"))
    if not found:
        raise UserError("cannot be downloaded: no file came")
    return found[0]


if __name__ == "__main__":
    run_cli(main)
