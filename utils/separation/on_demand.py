"""What is made of the tracks of a video only where it is asked for, and noted in its tracks.json once it is whole.

--preview true        face1.mp4, ...: the video again with each face's track
--output_rate source  stems/face1.wav, ..., stems/rest.wav: the tracks at the sound's own rate and with its channels
--mux true            tracks.mp4 (or .mov, .mkv): the pictures as they are, with a named stream of sound for each track
--asr COMMAND         face1.vtt, ... and tracks.json with what a recogniser understood of each stretch of speech
"""

import logging
import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.data.audio import read_audio
from utils.data.constants import SAMPLE_RATE_HZ
from utils.data.estimates import are_complete, write_estimates
from utils.data.files import read_json, write_json
from utils.data.progress import progress_bar
from utils.errors import UserError
from utils.separation.options import VideoSetOptions
from utils.separation.speech import Speech, recognise, write_vtt
from utils.separation.stems import stem_blocks

if TYPE_CHECKING:
    from utils.video.preparation import PreparedVideo

logger = logging.getLogger(__name__)

RESIDUAL = "rest"  # the name of its file, and its key in tracks.json
REPORT = "tracks.json"
STEMS = "stems"
MUXED = "tracks"


def write_on_demand(video_path: Path, prepared: "PreparedVideo", folder: Path, options: VideoSetOptions) -> bool:
    """Make what the options ask for unless it is there; True if anything was made.

    Raises:
        UserError: some of it cannot be made; the rest was.
    """
    steps = [
        (options.preview, partial(_write_previews, video_path, prepared, folder)),
        (options.output_rate == "source", partial(_write_stems, video_path, folder, prepared.n_samples, options)),
        (options.mux, partial(_write_muxed, video_path, folder, options)),
        (bool(options.asr), partial(_recognise, folder, prepared.n_samples, options)),
    ]
    made, failures = False, []
    for is_wanted, step in steps:
        try:
            made |= is_wanted and step()
        except UserError as error:  # one does not keep the others from being made
            failures.append(error.reason_for(video_path))
    if failures:
        raise UserError("; ".join(failures))
    return made


def remove_on_demand(folder: Path) -> None:
    """Remove stems and muxed videos, which are of earlier tracks."""
    shutil.rmtree(folder / STEMS, ignore_errors=True)
    for path in folder.glob(f"{MUXED}.m*"):
        path.unlink()


def _write_previews(video_path: Path, prepared: "PreparedVideo", folder: Path) -> bool:
    from utils.video.preview import write_preview

    missing = [person for person in prepared.people if not (folder / f"{person.name}.mp4").is_file()]
    people = {person.name: person for person in prepared.landmarks()} if missing else {}
    for person in missing:
        seen = people[person.name]
        boxes = dict(zip(seen.frames.tolist(), seen.boxes, strict=True))
        write_preview(video_path, folder / f"{person.name}.wav", folder / f"{person.name}.mp4", boxes, prepared.n_frames)
        logger.info("stage 4: %s: preview -> %s", video_path, folder / f"{person.name}.mp4")
    return bool(missing)


def _names(facts: dict[str, Any]) -> list[str]:
    return [*(track["name"] for track in facts["tracks"]), RESIDUAL]


def has_stems(folder: Path, facts: dict[str, Any]) -> bool:
    """Tell if the stems that a tracks.json speaks of are there and whole; their owner may have removed them."""
    known = facts.get("stems")
    if not known:
        return False
    paths = [folder / path for path in known["wavs"].values()]
    return are_complete(paths, known["n_samples"], known["sample_rate_hz"], known["channels"])


def _write_stems(video_path: Path, folder: Path, n_samples: int, options: VideoSetOptions) -> bool:
    from utils.video.sound import read_source

    facts = read_json(folder / REPORT)
    paths = [folder / STEMS / f"{name}.wav" for name in _names(facts)]
    if has_stems(folder, facts):
        return False
    tracks = [folder / path.name for path in paths]

    def read_tracks(start: int, count: int) -> np.ndarray:
        if count == 0:
            return np.zeros((len(tracks), 0), np.float32)
        return np.stack([read_audio(path, start, count, SAMPLE_RATE_HZ) for path in tracks]) / np.float32(facts["gain"])

    source = iter(read_source(video_path, options.audio_stream))
    rate_hz, first = next(source)
    n_written = 0

    def blocks():
        nonlocal n_written
        pieces = (piece for part in ([(rate_hz, first)], source) for _, piece in part)
        with progress_bar(total=n_samples // SAMPLE_RATE_HZ, unit="s", desc=f"stems of {video_path.name}") as progress:
            for block in stem_blocks(pieces, rate_hz, read_tracks, n_samples):
                n_written += block.shape[-1]
                yield block
                progress.update(block.shape[-1] // rate_hz)

    length = -(-n_samples * rate_hz // SAMPLE_RATE_HZ)
    (folder / STEMS).mkdir(exist_ok=True)
    gain = write_estimates(paths, blocks(), rate_hz, options.subtype, length, channels=len(first))
    facts["stems"] = {
        "wavs": {path.stem: path.relative_to(folder).as_posix() for path in paths},
        "sample_rate_hz": rate_hz,
        "channels": len(first),
        "n_samples": n_written,
        "gain": gain,
    }
    write_json(folder / REPORT, facts)
    logger.info("stage 4: %s: stems of %d Hz, channels: %d -> %s", video_path, rate_hz, len(first), folder / STEMS)
    return True


def _write_muxed(video_path: Path, folder: Path, options: VideoSetOptions) -> bool:
    """Of the stems where there are any, else of the tracks."""
    from utils.video.muxing import muxed_suffix, write_muxed

    facts = read_json(folder / REPORT)
    path = folder / f"{MUXED}{muxed_suffix(video_path)}"
    of_stems = has_stems(folder, facts)
    known = facts.get("muxed", {})
    if known and path.is_file() and known["of_stems"] == of_stems:
        return False
    tracks = [(name, folder / (STEMS if of_stems else "") / f"{name}.wav") for name in _names(facts)]
    gain = write_muxed(video_path, path, tracks, options.audio_stream)
    facts["muxed"] = {"video": path.name, "of_stems": of_stems, "gain": gain}
    write_json(folder / REPORT, facts)
    logger.info("stage 4: %s: all tracks in one video -> %s", video_path, path)
    return True


def _recognise(folder: Path, n_samples: int, options: VideoSetOptions) -> bool:
    """Each text is kept as it comes: what was interrupted goes on, and a stretch that fails costs no other."""
    facts = read_json(folder / REPORT)
    found = [(track, each) for track in facts["tracks"] for each in track["speech"]]
    if facts.get("asr") != options.asr:  # texts are of another recogniser
        facts["asr"] = options.asr
        for _, each in found:
            each.pop("text", None)
    todo = [(track, each) for track, each in found if "text" not in each]
    failures = []
    for track, each in progress_bar(todo, desc=f"recognise {folder.name}", unit="stretch"):
        try:
            each["text"] = recognise(options.asr, folder / track["wav"], Speech.from_json(each), n_samples, options.asr_dir)
        except UserError as error:
            failures.append(str(error))
        else:
            write_json(folder / REPORT, facts)
    if todo:
        for track in facts["tracks"]:
            write_track_vtt(folder, track)
        n_made = len(todo) - len(failures)
        logger.info("stage 4: %s: texts of %d stretches of speech -> %s/*.vtt", facts["video"], n_made, folder)
    if failures:
        raise UserError(f"{len(failures)} of {len(todo)} stretches of speech were not recognised: {failures[0]}")
    return bool(todo)


def write_track_vtt(folder: Path, track: dict[str, Any]) -> None:
    """Write the WebVTT of a track of tracks.json."""
    write_vtt(folder / f"{track['name']}.vtt", track["name"], list(map(Speech.from_json, track["speech"])))


def check_asr(command: str, folder: str = "") -> None:
    """Refuse a recogniser that cannot be run from a folder.

    Raises:
        UserError: its first word is no program.
    """
    if not command:
        return
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"--asr {command}: {error}; mind the quotes") from None
    program = words[0] if words else ""
    if shutil.which(Path(folder, program) if "/" in program else program) is None:
        raise UserError(f"--asr {command}: {program or 'this'} is no program that could be run; give its path")
