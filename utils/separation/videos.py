"""Stage 4 on videos: a track for each face, on the video's own timeline. Called by `utils.stages.separate`.

Reads   exp/<tag>/best_model.pth and frontend.json, and --test_dir: a video, or a folder of videos
Writes  dump/videos/<test name>-<hash of the path>/<video>/ (sound, faces, mouths: utils/video/preparation.py), and the mouths'
        embeddings; exp/<tag>/separated/<test name>/<video>/ or --out_dir/<video>/: face1.wav, face2.wav, ..., rest.wav (what no
        face said), face1.png, ..., tracks.json, with --preview true also face1.mp4, ...; failed.csv beside the videos' folders
Run     python -m utils.stages.separate --exp_dir exp/avdprnn_grid --test_dir talk.mp4 --out_dir talk

Every track has as many samples as the video's sound at 16 kHz and begins with it; all of them add up to it. A track whose
tracks.json is there is whole, and not made again as long as video, network and options are the same.
"""

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from utils.data.files import exclusive_lock
from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, run_jobs
from utils.data.manifest import Manifest, Problem, write_failed, write_manifest
from utils.data.manifest_rows import Utterance
from utils.data.video_clips import VIDEO_SUFFIXES
from utils.errors import UserError, is_of_machine, name_problem, printable, system_error

if TYPE_CHECKING:
    from utils.embedding.store import EmbeddingStore
    from utils.separation.tasks import Separator
    from utils.video.preparation import PreparedVideo, VideoOptions

logger = logging.getLogger(__name__)

LANDMARK_SUFFIXES = (".npz", ".pkl", ".csv")


@dataclass(frozen=True)
class Video:
    """A video to be separated; `name` is that of its folders."""

    name: str
    path: Path
    landmarks_path: Path | None


def is_video_set(test_dir: Path) -> bool:
    """Whether stage 4 was given a video (any file but a CSV), or a folder of videos (and not of the DLA layout)."""
    if test_dir.is_file():
        return test_dir.suffix.lower() != ".csv"
    return test_dir.is_dir() and not (test_dir / "audio").is_dir() and any(map(_is_video, test_dir.iterdir()))


def find_videos(test_dir: Path, landmarks_dir: str) -> list[Video]:
    """The videos of a folder in the order of their names; one path is a list of one.

    Raises:
        UserError: `landmarks_dir` is given and is no folder, or lacks landmarks of one of them.
    """
    paths = [test_dir] if test_dir.is_file() else sorted(filter(_is_video, test_dir.iterdir()))
    if landmarks_dir and not Path(landmarks_dir).is_dir():
        raise UserError(f"--landmarks_dir {landmarks_dir}: no such folder")
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [path.name for path in paths]
    return [
        Video(name, path.absolute(), _landmarks(Path(landmarks_dir), path, name) if landmarks_dir else None)
        for name, path in zip(names, paths, strict=True)
    ]


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not path.name.startswith(".")


def _landmarks(folder: Path, video: Path, name: str) -> Path:
    """The landmarks of a video: a file of its name."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in LANDMARK_SUFFIXES and path.stem == name)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"--landmarks_dir {folder}: one file named {name} is needed for {video}; found: {names}")
    return found[0].absolute()


def separate_videos(args: argparse.Namespace, facts: dict, device: str) -> int:
    """Separate every video, list those that cannot be; gives the exit code.

    Raises:
        UserError: the experiment cannot be used, or more than `max_failed` videos cannot be separated.
    """
    from utils.separation.tasks import load_separator
    from utils.separation.tracks import remove_tracks, write_tracks

    options = _options(args)
    name = args.test_name or (args.test_dir.stem if args.test_dir.is_file() else args.test_dir.absolute().name)
    folder = Path(args.out_dir or args.exp_dir / "separated" / name)
    found = find_videos(args.test_dir, args.landmarks_dir)
    reasons = {video.name: reason for video in found if (reason := name_problem(str(video.path)))}
    videos = [video for video in found if video.name not in reasons]
    separator = load_separator(args.exp_dir, device)
    _check_clocks(args.exp_dir, separator)
    # the same name elsewhere is another video, and what was taken apart serves every experiment
    set_name = f"{name}-{hashlib.sha256(os.fsencode(args.test_dir.absolute())).hexdigest()[:8]}"
    work_dir = args.dump_dir / "videos" / set_name
    done = 0
    with exclusive_lock(folder, "these tracks"), exclusive_lock(work_dir, "these videos"):
        prepared, failed = prepare_all(videos, work_dir, options, args.nj)
        reasons |= failed
        if prepared:
            store, embed_reasons = _embed(prepared, args, facts, set_name, device)
        for video in videos:
            if video.name in prepared:
                try:
                    _check_embedded(prepared[video.name], embed_reasons)
                    done += write_tracks(video.path, prepared[video.name], folder / video.name, separator, store, args)
                except (UserError, OSError, RuntimeError, ValueError) as error:  # the others go on
                    if isinstance(error, OSError) and is_of_machine(error):
                        raise  # a full disk would end them as well; what was made stays
                    reasons[video.name] = _as_reason(video, error)
        for video in videos:
            if video.name in reasons:
                remove_tracks(video.path, folder / video.name)
        problems = [
            Problem(0, video.name, str(video.path), reasons[video.name].removeprefix(f"{video.path}: "))
            for video in found
            if video.name in reasons
        ]
        write_failed(folder / "failed.csv", problems)
    for problem in problems:
        logger.error("stage 4: %s: %s", printable(problem.path), problem.reason)
    if len(problems) > args.max_failed:
        raise UserError(
            f"{len(problems)} of {len(found)} videos could not be separated, listed in {folder / 'failed.csv'}"
            + (f"; the others are in {folder}" if len(problems) < len(found) else "")
        )
    if not done and prepared:
        logger.info("stage 4: up to date, the tracks are in %s", folder)
    return 0


def _as_reason(video: Video, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and (reason := system_error(error)):
        return reason
    logger.debug("%s", video.path, exc_info=error)
    return f"{video.path}: {type(error).__name__}: {' '.join(str(error).split())}"


def _options(args: argparse.Namespace) -> "VideoOptions":
    try:
        from utils.video.preparation import VideoOptions
    except ImportError as error:
        raise UserError(
            f"videos need more packages ({error}); add them with utils/install_more.sh requirements-video.txt"
        ) from None
    return VideoOptions(args.alignment, min_sec=args.min_sec, people=args.people, audio_stream=args.audio_stream)


def _check_clocks(exp_dir: Path, separator: "Separator") -> None:
    if (separator.sample_rate, separator.fps) != (16000, 25.0):
        raise UserError(
            f"{exp_dir}: trained at {separator.sample_rate} Hz and {separator.fps:g} frames/s; videos are brought to 16000 Hz "
            "and 25 frames/s, which needs a network trained at these"
        )


def prepare_all(
    videos: Sequence[Video], folder: Path, options: "VideoOptions", nj: int
) -> tuple[dict[str, "PreparedVideo"], dict[str, str]]:
    """Take every video apart, several at once; gives what was made, and the reasons of the others, by the videos' names."""
    from utils.video.preparation import prepare_video

    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(
            video.name,
            json.dumps([hash_stats([video.path, *filter(None, [video.landmarks_path])]), asdict(options)]),
            (folder / video.name / "prepared.json",),
            (video.path, folder / video.name, options, video.landmarks_path),
        )
        for video in videos
    ]
    done, reasons = run_jobs(_prepare, jobs, folder / "made.jsonl", nj, "videos", "video")
    prepared = {video.name: prepare_video(*job.given) for video, job in zip(videos, jobs, strict=True) if video.name in done}
    return prepared, reasons


def _prepare(given: tuple) -> int:
    from utils.video.preparation import prepare_video

    try:
        return len(prepare_video(*given).people)
    except (UserError, OSError):
        raise
    except Exception as error:  # of a decoder: one video's trouble must not be that of all
        raise UserError(f"{given[0]}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _embed(
    prepared: dict[str, "PreparedVideo"], args: argparse.Namespace, facts: dict, name: str, device: str
) -> tuple["EmbeddingStore", dict[str, str]]:
    """The embeddings of all mouths, and why some have none, by the mouths' paths."""
    from utils.stages.separate import embed_mouths

    faces = [
        Utterance(
            utterance_id=f"{video_name}_{person.name}",
            speaker=f"{video_name}_{person.name}",
            audio_path=str(video.sound_path),
            mouth_path=str(video.mouth_path(person)),
            length=video.n_samples,
            frames=video.n_frames,
            fps=25.0,
        )
        for video_name, video in prepared.items()
        for person in video.people
    ]
    path = args.dump_dir / "videos" / name / "faces.csv"
    where = {"corpus": f"videos_{name}", "split": "faces", "data_root": Path.cwd()}
    manifest: Manifest = write_manifest(path, **where, sample_rate=16000, n_src=1, items=faces)
    return embed_mouths(args, facts, manifest, device)


def _check_embedded(video: "PreparedVideo", reasons: dict[str, str]) -> None:
    for person in video.people:
        reason = reasons.get(str(video.mouth_path(person)))
        if reason:
            raise UserError(f"{video.mouth_path(person)}: {reason}")
