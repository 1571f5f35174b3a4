"""Prepare one video: its sound, the people on screen, and their mouths.

Reads   a video, and landmarks if somebody found them already
Writes  for `prepare_video` a folder: sound.wav (16 kHz mono) with source.json, scan/ (faces, minute by minute), people.npz
        (a landmark file), mouths/<person>.npz and .png, and prepared.json, which is written last;
        for `cut_clip`, where a corpus names one speaker for each video, only that speaker's mouths

Stages 1 and 4 call this in processes of their own.
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.clock import frames_covering
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.faces import FaceWriter, face_path_of
from utils.data.files import read_json, remove_leftovers, write_json
from utils.data.fingerprints import hash_stats
from utils.data.mouths import MouthWriter
from utils.data.progress import progress_bar
from utils.data.sound_checks import duration_warnings
from utils.data.threads import made_ahead
from utils.errors import UserError
from utils.video.alignment import mean_face_transforms, on_mean_face
from utils.video.crops import ALIGNMENTS, cut_people
from utils.video.decoding import VideoInfo, probe_video, read_pictures
from utils.video.landmarks import Person, most_present, people_at, read_landmarks, read_people, write_people
from utils.video.people import find_people
from utils.video.preview import save_thumbnail
from utils.video.sound import ExtractedSound, extract_sound

_MOST_APART = 12  # frames of the grid that sound and pictures of one video may differ by where landmarks are given
_VERSION = 6  # of what `prepare_video` makes; another one is made again


@dataclass(frozen=True)
class VideoOptions:
    """Which sound and whose mouths are taken, and how mouths are cut.

    Attributes:
        alignment: one of the two published ones, `centred8` or `forward5`.
        min_sec: people who are on screen for a shorter time are left out.
        audio_stream: which audio stream, 1 is the first; 0: the default one, or the first that has sound.
        people: at most so many; 0: no limit.
        face_size: pixels of the face crops that are written beside the mouths; 0: none.
    """

    alignment: str = ALIGNMENTS[0]
    min_sec: float = 0.5
    audio_stream: int = 0
    people: int = 0
    face_size: int = 0


@dataclass(frozen=True)
class SeenPerson:
    """A person of a video, as `prepared.json` has it."""

    name: str
    on_screen_sec: list[list[float]]  # stretches from, to; gaps below a second do not end one
    confidence: float  # mean score of the faces
    share_with_mouth: float  # of the video's frames
    mouth_motion: float  # see `mouth_motion`
    parts: int = 1  # tracks that were joined, over cuts and absences
    joined_with_certainty: float = 1.0  # 0..1, of the least certain join


@dataclass(frozen=True)
class PreparedVideo:
    """The result of `prepare_video` in `folder`."""

    folder: Path
    n_samples: int  # of sound.wav
    n_frames: int  # of the 25 fps grid
    width: int
    height: int
    people: Sequence[SeenPerson]
    n_ignored: int  # people seen too shortly
    warnings: Sequence[str]  # what is unusual about the video, a line each
    left_out: Sequence[list[list[float]]] = ()  # the stretches of each person beyond the number that was asked for

    @property
    def sound_path(self) -> Path:
        return self.folder / "sound.wav"

    def mouth_path(self, person: SeenPerson) -> Path:
        return self.folder / "mouths" / f"{person.name}.npz"

    def thumbnail_path(self, person: SeenPerson) -> Path:
        return self.folder / "mouths" / f"{person.name}.png"

    def is_whole(self) -> bool:
        """Tell if the folder holds all that it must."""
        of_people = [path(person) for person in self.people for path in (self.mouth_path, self.thumbnail_path)]
        return all(path.is_file() for path in (self.sound_path, self.folder / "people.npz", *of_people))

    def landmarks(self) -> list[Person]:
        """The face of each person in each frame."""
        return read_people(self.folder / "people.npz")


def prepare_video(path: Path, folder: Path, options: VideoOptions, landmarks_path: Path | None = None) -> PreparedVideo:
    """Prepare a video, or take what an earlier call made of the same video and options; a killed one is continued.

    Args:
        path: the video.
        folder: where all goes.
        options: which sound and whose mouths.
        landmarks_path: landmarks of the people in it, in any format of `read_landmarks`; None finds them.

    Raises:
        UserError: the video or the landmarks cannot be used, or nobody is on screen.
    """
    given = hash_stats([path, *filter(None, [landmarks_path])])
    source = {"version": _VERSION, "source": given, "audio_stream": options.audio_stream}
    stamp = source | asdict(options)
    done_path = folder / "prepared.json"
    facts = read_json(done_path) if done_path.is_file() else {}
    if facts.pop("stamp", None) == stamp:
        people = [SeenPerson(**person) for person in facts.pop("people")]
        done = PreparedVideo(folder, people=people, **facts)
        if done.is_whole():
            return done
    done_path.unlink(missing_ok=True)
    info = probe_video(path)
    sound = _sound(path, folder, source)
    for name in ("mouths", "faces"):
        shutil.rmtree(folder / name, ignore_errors=True)  # of other options
    remove_leftovers(folder)
    n_frames = frames_covering(sound.n_samples, SAMPLE_RATE_HZ, VIDEO_FPS)
    if landmarks_path is None:
        found = find_people(path, n_frames, folder / "scan", min_sec=options.min_sec, at_most=options.people)
        people, left_out, n_ignored = found.people, found.left_out, found.n_too_short
    else:
        people, left_out = most_present(_given_people(landmarks_path, info, n_frames), options.people)
        n_ignored = 0
    if not people:
        seen = f" ({n_ignored} faces were there for less than {options.min_sec:g} s)" if n_ignored else ""
        raise UserError(f"nobody is on screen{seen}, so no speaker can be separated", path)
    write_people(folder / "people.npz", people, n_frames, info.width, info.height)
    mouth_paths, thumbnail_paths = (
        [folder / "mouths" / f"{person.name}{suffix}" for person in people] for suffix in (".npz", ".png")
    )
    shares = write_mouths(path, people, n_frames, mouth_paths, options, thumbnail_paths)
    prepared = PreparedVideo(
        folder=folder,
        n_samples=sound.n_samples,
        n_frames=n_frames,
        width=info.width,
        height=info.height,
        people=[_seen_person(*one) for one in zip(people, shares, strict=True)],
        n_ignored=n_ignored,
        warnings=[*sound.warnings, *duration_warnings(sound.n_samples / SAMPLE_RATE_HZ, info.duration_sec)],
        left_out=[_stretches(person.frames) for person in left_out],
    )
    facts = asdict(prepared)
    del facts["folder"]  # it may be moved
    write_json(done_path, facts | {"stamp": stamp})
    return prepared


def _sound(path: Path, folder: Path, source: dict[str, Any]) -> ExtractedSound:
    """sound.wav, made once for each source; a folder of another one, or one where this was not finished, is emptied."""
    facts_path = folder / "source.json"
    facts = read_json(facts_path) if facts_path.is_file() else {}
    if facts.get("source") == source and (folder / "sound.wav").is_file():
        return ExtractedSound(**facts["sound"])
    if folder.exists():
        shutil.rmtree(folder)
    sound = extract_sound(path, folder / "sound.wav", source["audio_stream"])
    write_json(facts_path, {"source": source, "sound": asdict(sound)})
    return sound


def cut_clip(
    video_path: Path,
    n_samples: int,
    mouth_path: Path,
    options: VideoOptions,
    landmarks_path: Path | None = None,
    face_at: str = "",
) -> dict[str, Any]:
    """Cut the mouths of the one speaker of a corpus' clip: of all people in it, the one with the largest face for longest.

    Args:
        video_path: the clip.
        n_samples: of its sound as stage 0 took it, 16 kHz.
        mouth_path: the npz to write.
        options: how.
        landmarks_path: landmarks of the speaker; None finds them.
        face_at: a point of the speaker's face, as `Utterance` has it; "": the largest face is the speaker's.

    Returns:
        `people`, how many were seen, and `share_with_mouth` of the frames.

    Raises:
        UserError: the clip or the landmarks cannot be used, or no face is found.
    """
    n_frames = frames_covering(n_samples, SAMPLE_RATE_HZ, VIDEO_FPS)
    if landmarks_path is None:
        people = find_people(video_path, n_frames, min_sec=min(options.min_sec, n_frames / VIDEO_FPS / 2)).people
    else:
        people = _given_people(landmarks_path, probe_video(video_path), n_frames)
    if not people:
        raise UserError(f"no face found in {n_frames} frames", video_path)
    info = probe_video(video_path)
    candidates = people_at(people, face_at, (info.width, info.height)) if face_at else people
    if not candidates:
        raise UserError(f"{len(people)} faces are seen, but none at {face_at} of its width and height", video_path)
    (speaker,), _ = most_present(candidates, 1)
    shares = write_mouths(video_path, [speaker], n_frames, [mouth_path], options)
    return {"people": len(people), "share_with_mouth": shares[0]}


def _given_people(path: Path, info: VideoInfo, n_frames: int) -> list[Person]:
    """Landmarks that somebody found in a video's pictures, whose number the sound, in whole AAC frames, need not share."""
    n_shown = round(info.n_pictures / info.fps * VIDEO_FPS) if info.n_pictures and info.fps else n_frames
    if abs(n_shown - n_frames) > _MOST_APART:
        n_shown = n_frames  # what the container says of its pictures is not to be believed
    return read_landmarks(path, n_frames, (info.width, info.height), n_shown)


def _seen_person(person: Person, share_with_mouth: float) -> SeenPerson:
    return SeenPerson(
        name=person.name,
        on_screen_sec=_stretches(person.frames),
        confidence=round(float(person.scores.mean()), 3),
        share_with_mouth=share_with_mouth,
        mouth_motion=round(mouth_motion(person.points), 4),
        parts=person.parts,
        joined_with_certainty=round(person.certainty, 3),
    )


def write_mouths(
    path: Path,
    people: Sequence[Person],
    n_frames: int,
    mouth_paths: Sequence[Path],
    options: VideoOptions,
    thumbnail_paths: Sequence[Path] = (),
) -> list[float]:
    """Write a mouth file for each person, and a face file if there are to be any, in one pass over the pictures.

    Args:
        path: the video.
        people: whose mouths.
        n_frames: of the video, on the 25 fps grid.
        mouth_paths: a file for each of them.
        options: how.
        thumbnail_paths: a PNG for each of them, for the face as the finder was surest of it; or none.

    Returns:
        The share of frames with a mouth, for each of them.
    """
    best = [int(np.argmax(person.scores)) for person in people]
    waiting = set(range(len(thumbnail_paths)))
    last = None
    with ExitStack() as stack:
        writers = [stack.enter_context(MouthWriter(mouth_path, n_frames)) for mouth_path in mouth_paths]
        for person, writer in zip(people, writers, strict=True):
            seen = person.frames, person.points, n_frames
            turned, _ = mean_face_transforms(*seen, options.alignment)
            writer.extra["points"], writer.extra["to_picture"] = on_mean_face(*seen, turned)
            writer.extra["picture_frame"] = np.arange(n_frames)
        face_writers = []
        for mouth_path in mouth_paths if options.face_size else ():
            face_path = face_path_of(mouth_path, options.face_size)
            face_path.parent.mkdir(parents=True, exist_ok=True)
            face_writers.append(stack.enter_context(FaceWriter(face_path, n_frames, options.face_size)))
        pictures = read_pictures(path, n_frames, in_parts=not options.face_size)
        pictures = stack.enter_context(closing(made_ahead(pictures)))
        pictures = progress_bar(pictures, desc=f"mouths of {path.name}", total=n_frames, unit="frame")
        for frame, picture, crops in cut_people(pictures, people, n_frames, options.alignment, options.face_size):
            for writer, crop in zip([*writers, *face_writers], crops, strict=True):
                writer.add(np.zeros(writer.frame_shape, np.uint8) if crop is None else crop, crop is not None)
            last = last if picture is None else picture
            # where the video shows nothing at the best frame, the next picture is taken, or the last one
            due = {k for k in waiting if people[k].frames[best[k]] <= frame} if picture is not None else set()
            for k in due:
                save_thumbnail(picture, people[k].boxes[best[k]], thumbnail_paths[k])
            waiting -= due
    if waiting and last is None:
        raise UserError("shows no picture while there is sound", path)
    for k in waiting:
        save_thumbnail(last, people[k].boxes[best[k]], thumbnail_paths[k])
    return [round(float(writer.mask.mean()), 4) for writer in writers]


def mouth_motion(points: np.ndarray) -> float:
    """The motion of a mouth: the standard deviation of its opening, in distances between the eyes.

    Talking people have 0.002 to 0.07, half of them more than 0.023; pictures that stand still, with noise, 0.001 to 0.01.

    Args:
        points: (frames, 68, 2), in the order of iBUG 300-W.
    """
    eyes = points[:, 36:42].mean(axis=1) - points[:, 42:48].mean(axis=1)
    opening = points[:, 61:64].mean(axis=1) - points[:, 65:68].mean(axis=1)  # inner lips
    return float(np.std(np.linalg.norm(opening, axis=1) / np.maximum(np.linalg.norm(eyes, axis=1), 1e-6)))


def _stretches(frames: np.ndarray) -> list[list[float]]:
    """The times in which somebody is on screen, in seconds; absences below a second are passed over."""
    ends = np.flatnonzero(np.diff(frames) > VIDEO_FPS)
    firsts, lasts = frames[np.r_[0, ends + 1]], frames[np.r_[ends, len(frames) - 1]]
    return [[float(first / VIDEO_FPS), float((last + 1) / VIDEO_FPS)] for first, last in zip(firsts, lasts, strict=True)]
