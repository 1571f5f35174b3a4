"""The tracks of one video, in a folder of its own.

face1.wav, face2.wav, ... and rest.wav (the residual), face1.png, ..., speech.rttm and face1.vtt, ... (who spoke when), and
tracks.json, which is written last and carries a stamp of all that the tracks depend on.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch

from utils.data.audio import read_audio
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.estimates import are_complete, write_estimates
from utils.data.files import atomic_path, read_json, remove_leftovers, write_json
from utils.data.fingerprints import hash_json, hash_stats
from utils.data.progress import progress_bar
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.separation.assignment import Assignment
from utils.separation.mixtures import Separator
from utils.separation.on_demand import REPORT, RESIDUAL, remove_on_demand, write_track_vtt
from utils.separation.options import VideoSetOptions
from utils.separation.overlap_add import FacesOnScreen, assign_recording, compares, separate_blocks
from utils.separation.speech import STILL, TALKING_MOTION, Speech, find_speech, lips_of, write_rttm

if TYPE_CHECKING:
    from utils.video.preparation import PreparedVideo

logger = logging.getLogger(__name__)

_VERSION = 1  # of what is written; raise it when the same video and options would give something else
_BLOCK_SAMPLES = 1 << 16
_LOST_DB = 6.0  # the residual above all tracks
_NOTHING_LEFT_DB = -20.0  # of the residual under the sound
_STILL_SEC = 0.5
_CERTAIN = 0.9  # joins of faces that are less certain are warned of
_CERTAIN_VOICE = 0.75  # voices that are less certain are: on GLips' validation part 46 % of those are wrong, 4 % of the others
_CONTRADICTED_NATS = -2.0  # between a voice and the mouth that it was given to; so little has one of ... talkers


def write_tracks(
    video_path: Path,
    prepared: "PreparedVideo",
    folder: Path,
    separator: Separator,
    store: EmbeddingStore,
    options: VideoSetOptions,
) -> bool:
    """Write the tracks of a video unless they exist; True if anything was made."""
    names = [person.name for person in prepared.people]
    wavs = [folder / f"{name}.wav" for name in (*names, RESIDUAL)]
    stamp = _stamp(video_path, prepared, separator, store, options)
    report = folder / REPORT
    if report.is_file() and not _is_of(video_path, report):
        of = read_json(report).get("video")
        raise UserError(f"{folder}: holds the tracks of another video, {of}; give another --out_dir, or remove it")
    made = not options.force and report.is_file() and read_json(report).get("stamp") == stamp
    if not made or not are_complete(wavs, prepared.n_samples, separator.sample_rate):
        report.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        _remove_other_people(folder, names)
        remove_on_demand(folder)
        blocks, assignment = _blocks(prepared, separator, store, options)
        gain = write_estimates(wavs, blocks, separator.sample_rate, options.subtype, prepared.n_samples)
        for person in prepared.people:
            with atomic_path(folder / f"{person.name}.png") as temporary:
                shutil.copyfile(prepared.thumbnail_path(person), temporary)
        speech = _speech(prepared, folder, gain)
        facts = _report(video_path, prepared, separator, folder, gain, options.subtype, assignment, speech)
        write_rttm(folder / "speech.rttm", folder.name, [(name, each) for name, found in speech.items() for each in found])
        for track in facts["tracks"]:
            write_track_vtt(folder, track)
        write_json(report, facts | {"stamp": stamp, "video_stats": _stats(video_path)})
        made = False
        logger.info("stage 4: %s: %s -> %s", video_path, _summary(prepared), folder)
        for warning in facts["warnings"]:
            logger.warning("stage 4: %s: %s", video_path, warning)
    return not made


def remove_tracks(video_path: Path, folder: Path) -> None:
    """Remove the tracks that an earlier call made of a video that now cannot be separated: they would pass for its own.

    Those of a video that has not changed since are its own and stay, whatever this call met.
    """
    report = folder / REPORT
    if report.is_file() and _is_of(video_path, report) and read_json(report).get("video_stats") != _stats(video_path):
        report.unlink()
        _remove_other_people(folder, [])
        remove_on_demand(folder)
        for name in (f"{RESIDUAL}.wav", "speech.rttm"):
            (folder / name).unlink(missing_ok=True)


def _is_of(video_path: Path, report: Path) -> bool:
    return read_json(report).get("video") == str(video_path)


def _stats(video_path: Path) -> str:
    return hash_stats([video_path]) if video_path.is_file() else ""


def _stamp(
    video_path: Path, prepared: "PreparedVideo", separator: Separator, store: EmbeddingStore, options: VideoSetOptions
) -> str:
    """Hash all that the tracks depend on."""
    visual = [(str(path), store.clip(str(path)).source_sha256) for path in map(prepared.mouth_path, prepared.people)]
    how = (_VERSION, options.audio_stream, options.window_sec, options.hop_sec, options.subtype, prepared.warnings)
    seen = ([asdict(person) for person in prepared.people], prepared.n_ignored, prepared.left_out)
    facts = [separator.stamp, store.root.parent.name, hash_stats([video_path]), how, seen, visual]
    return hash_json(facts)


def _remove_other_people(folder: Path, names: Sequence[str]) -> None:
    """Remove the tracks that an earlier call with other options made of people who are no longer in the list."""
    for path in folder.glob("face*"):
        is_ours = path.suffix in (".wav", ".png", ".mp4", ".vtt") and path.stem.removeprefix("face").isdecimal()
        if is_ours and (path.stem not in names or path.suffix == ".mp4"):
            path.unlink()


def _blocks(
    prepared: "PreparedVideo", separator: Separator, store: EmbeddingStore, options: VideoSetOptions
) -> tuple[Iterator[np.ndarray], Assignment | None]:
    """The tracks and the residual, (people + 1, samples), block by block from disk; and how sure it is whose they are."""
    keys = [str(prepared.mouth_path(person)) for person in prepared.people]

    def read_mixture(start: int, count: int) -> torch.Tensor:
        return torch.from_numpy(read_audio(prepared.sound_path, start, count, separator.sample_rate))

    def read_visual(first: int, count: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([store.get(key, first, count) for key in keys]))

    model = FacesOnScreen(separator.network)
    recording = (model, read_mixture, read_visual, prepared.n_samples)
    windows = {"window_sec": options.window_sec, "hop_sec": options.hop_sec}
    clocks = windows | {"sample_rate": separator.sample_rate, "fps": separator.fps}
    assignment = assign_recording(*recording, **clocks) if compares(model) else None

    def blocks() -> Iterator[np.ndarray]:
        seconds = prepared.n_samples // separator.sample_rate
        with progress_bar(total=seconds, unit="s", desc=f"separating {prepared.folder.name}") as progress:
            for block in separate_blocks(*recording, **clocks, assignment=assignment):
                yield block.numpy()
                progress.update(block.shape[1] // separator.sample_rate)

    return blocks(), assignment


def _report(
    video_path: Path,
    prepared: "PreparedVideo",
    separator: Separator,
    folder: Path,
    gain: float,
    subtype: str,
    assignment: Assignment | None,
    speech: dict[str, list[Speech]],
) -> dict[str, Any]:
    """The content of tracks.json."""
    duration_sec = round(prepared.n_samples / separator.sample_rate, 4)
    loudness_db = partial(_level_db, prepared.sound_path, gain)
    tracks = [
        {
            "name": person.name,
            "wav": f"{person.name}.wav",
            "thumbnail": f"{person.name}.png",
            "on_screen_sec": [[first, min(last, duration_sec)] for first, last in person.on_screen_sec],
            "confidence": person.confidence,
            "share_of_frames_with_mouth": person.share_with_mouth,
            "mouth_motion": person.mouth_motion,
            "level_db": loudness_db(folder / f"{person.name}.wav"),
            "parts": person.parts,
            "joined_with_certainty": person.joined_with_certainty,
            **_agreement(assignment, prepared, index),
            "speech": [each.as_json() for each in speech[person.name]],
        }
        for index, person in enumerate(prepared.people)
    ]
    return {
        "video": str(video_path),
        "separated_by": separator.separated_by,
        "runtime": "torch" if separator.onnx_dir is None else "onnx",
        "sample_rate_hz": separator.sample_rate,
        "n_samples": prepared.n_samples,
        "duration_sec": duration_sec,
        "grid_fps": separator.fps,
        "width": prepared.width,
        "height": prepared.height,
        "tracks": tracks,
        "rest": {"wav": f"{RESIDUAL}.wav", "level_db": loudness_db(folder / f"{RESIDUAL}.wav")},
        "faces_seen_too_shortly": prepared.n_ignored,
        "faces_left_out": [{"on_screen_sec": stretches} for stretches in prepared.left_out],
        "warnings": [
            *prepared.warnings,
            *people_warnings(prepared),
            *crowd_warnings(prepared, separator),
            *lost_speakers(prepared, separator.sample_rate, folder),
            *order_warnings(prepared, assignment, loudness_db(folder / f"{RESIDUAL}.wav")),
            *speech_warnings(speech),
        ],
        "subtype": subtype,
        "gain": gain,
        "definitions": {
            "level_db": "energy of the track over that of the video's sound, dB",
            "confidence": "mean score of the face's landmarks, 0 to 1",
            "mouth_motion": "standard deviation of the mouth's opening, in distances between the eyes",
            "on_screen_sec": "from, to; absences below 1 s are passed over",
            "parts": "stretches of following the face without a cut or an absence; they were joined by how alike the faces are",
            "joined_with_certainty": "0 to 1, how likely the least certain of these joins is right; 1 where there was none",
            "agreement": "of the track with the mouth of each face, nats for each second that both are seen; 0 is chance",
            "voice_certainty": "0 to 1, how likely the track is this face's voice, in the mean over the time that it is seen",
            "speech": "from, to, and whether the lips move then; detected in the track where it is not far below the sound",
            "stems": "the tracks at the sound's own rate and with its channels; together they are the sound",
            "faces_left_out": "people beyond the number that --people asked for",
            "rest": "the residual: the video's sound less all tracks, i.e. speakers off screen and noise",
            "gain": "what all tracks were multiplied with so that none is clipped",
        },
    }


def lost_speakers(prepared: "PreparedVideo", sample_rate: int, folder: Path) -> list[str]:
    """A warning where people on screen move their mouths while the residual is far louder than the tracks.

    Compared over the times in which any of them is on screen, as others may speak in the rest of the video.
    """
    talking = [person for person in prepared.people if person.mouth_motion >= TALKING_MOTION]
    stretches_sec = (stretch for person in talking for stretch in person.on_screen_sec)
    stretches = _merged(stretches_sec, sample_rate, prepared.n_samples)
    tracks = sum(_energy(folder / f"{person.name}.wav", stretches) for person in prepared.people)
    residual = _energy(folder / f"{RESIDUAL}.wav", stretches)
    below_db = 10 * float(np.log10(max(residual, 1e-12) / max(tracks, 1e-12)))
    if not talking or below_db <= _LOST_DB:
        return []
    names = ", ".join(person.name for person in talking)
    return [
        f"{names}: the mouth moves, but the residual is {below_db:.1f} dB louder than what was separated: the network seems "
        f"not to know this speaker, who is then in {RESIDUAL}.wav"
    ]


def people_warnings(prepared: "PreparedVideo") -> list[str]:
    """Warnings of uncertain joins of faces, and of people who were left out."""
    warnings = [
        f"{person.name}: joined of {person.parts} parts, the least certain join is right with a probability of "
        f"{person.joined_with_certainty:.2f}; --people says how many people there are at most"
        for person in prepared.people
        if person.joined_with_certainty < _CERTAIN
    ]
    if prepared.left_out:
        times = "; ".join(", ".join(f"{first:g} to {last:g} s" for first, last in one) for one in prepared.left_out)
        warnings.append(f"left out because of --people: {len(prepared.left_out)} more, on screen {times}")
    return warnings


def crowd_warnings(prepared: "PreparedVideo", separator: Separator) -> list[str]:
    """A warning of more people than the network heard at once in training, wherever they are in the video."""
    n_people, n_trained = len(prepared.people), separator.network.config.n_faces
    if not 1 < n_trained < n_people:
        return []
    return [
        f"{n_people} people, and the network was trained on {n_trained} voices at once: where more of them speak together, the "
        "tracks are worse"
    ]


def order_warnings(prepared: "PreparedVideo", assignment: Assignment | None, residual_db: float | None) -> list[str]:
    """Warnings of tracks that contradict the mouth, or of which it is doubtful whose voice they are.

    Where one person has all that is heard there is nothing to doubt, but it may be somebody else's.
    """
    if assignment is None:
        return []
    is_alone = len(prepared.people) == 1 and (residual_db is None or residual_db < _NOTHING_LEFT_DB)
    warnings = []
    for index, person in enumerate(prepared.people):
        nats = assignment.agreement[index, index] * assignment.n_frames[index]
        certainty = assignment.certainties[index]
        if nats < _CONTRADICTED_NATS:
            warnings.append(
                f"{person.name}: the track does not go with the movements of this mouth: somebody off screen may be speaking, "
                "or sound and pictures are out of step"
            )
        elif certainty < _CERTAIN_VOICE and not is_alone:
            warnings.append(
                f"{person.name}: whether this is the voice of this face is doubtful (probability {certainty:.2f}); compare the "
                "tracks"
            )
    return warnings


def _speech(prepared: "PreparedVideo", folder: Path, gain: float) -> dict[str, list[Speech]]:
    """Who spoke when, by the names of the faces."""
    seen = {person.name: person for person in prepared.landmarks()}
    speech = {}
    for person in prepared.people:
        lips = partial(lips_of, frames=seen[person.name].frames, points=seen[person.name].points)
        stretches = find_speech(folder / f"{person.name}.wav", prepared.sound_path, prepared.n_samples, gain)
        speech[person.name] = [Speech(*each, lips(each)) for each in stretches]
    return speech


def speech_warnings(speech: dict[str, list[Speech]]) -> list[str]:
    """Warnings of speech where the lips stand still."""
    warnings = []
    for name, found in speech.items():
        still_sec = sum(each.end_sec - each.start_sec for each in found if each.lips == STILL)
        if still_sec > _STILL_SEC:
            warnings.append(f"{name}: {still_sec:.1f} s of speech where these lips stand still: it may be somebody else's")
    return warnings


def _agreement(assignment: Assignment | None, prepared: "PreparedVideo", index: int) -> dict[str, Any]:
    """What tracks.json says of how well the voice of person `index` goes with each face."""
    if assignment is None:
        return {}
    per_sec = VIDEO_FPS * assignment.agreement[index]
    named = zip(prepared.people, per_sec, strict=True)
    return {
        "agreement": {person.name: round(float(value), 2) for person, value in named if np.isfinite(value)},
        "voice_certainty": round(assignment.certainties[index], 3),
    }


def _level_db(mixture_path: Path, gain: float, path: Path) -> float | None:
    """Energy over that of the mixture in dB, before the gain that the file has; None for silence."""
    ours, whole = _energy(path) / gain**2, _energy(mixture_path)
    return round(10 * float(np.log10(ours / whole)), 1) if ours > 0 and whole > 0 else None


def _energy(path: Path, stretches: Sequence[tuple[int, int]] | None = None) -> float:
    """Sum of squares of a file, or of stretches of it, first sample and last + 1."""
    with soundfile.SoundFile(str(path)) as file:
        energy = 0.0
        for first, stop in [(0, file.frames)] if stretches is None else stretches:
            file.seek(first)
            for block in file.blocks(_BLOCK_SAMPLES, frames=stop - first, dtype="float64"):
                energy += float(np.square(block).sum())
        return energy


def _merged(stretches_sec: Iterable[Sequence[float]], sample_rate: int, n_samples: int) -> list[tuple[int, int]]:
    """Stretches in samples, those that overlap made one."""
    merged: list[tuple[int, int]] = []
    for start_sec, stop_sec in sorted(stretches_sec):
        start, stop = (min(round(time_sec * sample_rate), n_samples) for time_sec in (start_sec, stop_sec))
        if merged and start <= merged[-1][1]:
            start, before = merged.pop()
            stop = max(stop, before)
        merged.append((start, stop))
    return merged


def _summary(prepared: "PreparedVideo") -> str:
    faces = f"{len(prepared.people)} face{'s' * (len(prepared.people) != 1)}"
    ignored = f" ({prepared.n_ignored} seen too shortly)" if prepared.n_ignored else ""
    return f"{faces}{ignored}, {prepared.n_samples / SAMPLE_RATE_HZ:.1f} s"
