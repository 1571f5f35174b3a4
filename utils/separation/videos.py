"""Stage 4 on videos: a track for each face, on the video's own timeline.

Reads   an experiment, and --test_dir: a video, or a folder of videos
Writes  dump/videos/<test name>-<hash of the path>/<video>/ (sound, faces, mouths: utils/video/preparation.py), and the mouths'
        embeddings; exp/<tag>/separated/<test name>/<video>/ or --out_dir/<video>/: face1.wav, face2.wav, ..., rest.wav (the
        residual), face1.png, ..., tracks.json, speech.rttm, face1.vtt, ..., and what utils/separation/on_demand.py makes;
        failed.csv beside the videos' folders
Run     python -m utils.stages.separate --exp_dir exp/avdprnn_grid --test_dir talk.mp4 --out_dir talk

Every track has as many samples as the video's sound at 16 kHz and begins with it; all of them add up to it. A track whose
tracks.json exists is whole, and not made again as long as video, network and options are the same.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from utils.data.cluster import chosen_cluster
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.devices import choose_device
from utils.data.experiments import Experiment
from utils.data.files import exclusive_lock
from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, run_jobs, work_through
from utils.data.manifest import Manifest, Problem, Utterance, write_failed, write_manifest
from utils.data.progress import progress_bar
from utils.errors import UserError, is_of_machine, name_problem, printable, system_error
from utils.separation.options import VideoSetOptions, is_video

if TYPE_CHECKING:
    from utils.embedding.store import EmbeddingStore
    from utils.separation.mixtures import Separator
    from utils.video.preparation import PreparedVideo, VideoOptions

logger = logging.getLogger(__name__)

_FAILURES = (UserError, OSError, RuntimeError, ValueError)  # of one video: the others go on
LANDMARK_SUFFIXES = (".npz", ".pkl", ".csv")


@dataclass(frozen=True)
class Video:
    """A video to be separated; `name` is that of its folders."""

    name: str
    path: Path
    landmarks_path: Path | None


def find_videos(test_dir: Path, landmarks_dir: str) -> list[Video]:
    """The videos of a folder in the order of their names; one path is a list of one.

    Raises:
        UserError: `landmarks_dir` is given and is no folder, or lacks landmarks of one of them.
    """
    paths = [test_dir] if test_dir.is_file() else sorted(filter(is_video, test_dir.iterdir()))
    if landmarks_dir and not Path(landmarks_dir).is_dir():
        raise UserError(f"--landmarks_dir {landmarks_dir}: no such folder")
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [path.name for path in paths]
    return [
        Video(name, path.absolute(), _landmarks(Path(landmarks_dir), path, name) if landmarks_dir else None)
        for name, path in zip(names, paths, strict=True)
    ]


def _landmarks(folder: Path, video: Path, name: str) -> Path:
    """The landmarks of a video: a file of its name."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in LANDMARK_SUFFIXES and path.stem == name)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"--landmarks_dir {folder}: one file named {name} is needed for {video}; found: {names}")
    return found[0].absolute()


def separate_videos(experiment: Experiment, options: VideoSetOptions) -> None:
    """Separate every video, list those that cannot be.

    Raises:
        UserError: the experiment cannot be used, or more than `max_failed` videos cannot be separated.
    """
    found = find_videos(options.test_dir, options.landmarks_dir)
    if not experiment.frontends:
        raise UserError(f"{experiment.folder}: audio-only, it cannot tell whose an estimate is; give an audio-visual one")
    if any(record.is_precomputed for record in experiment.frontends.values()):
        raise UserError(f"{experiment.folder}: trained on precomputed embeddings, which videos lack; give prepared mixtures")
    from utils.separation.mixtures import load_separator  # torch comes only after what can be refused was
    from utils.separation.on_demand import check_asr
    from utils.separation.tracks import remove_tracks

    check_asr(options.asr, options.asr_dir)
    video_options = _video_options(options, experiment.face_size)
    if not options.landmarks_dir:
        from utils.video.network_files import fetch_networks

        fetch_networks()  # once, and before any video: that there are none is no fault of theirs
    folder = Path(options.out_dir or experiment.folder / "separated" / options.name)
    reasons = {video.name: reason for video in found if (reason := name_problem(str(video.path)))}
    videos = [video for video in found if video.name not in reasons]
    device = choose_device(options.device) if options.onnx_dir is None else "cpu"
    separator = load_separator(experiment.folder, device, options.onnx_dir)
    _check_clocks(experiment.folder, separator)
    # the same name elsewhere is another video, and what is prepared once serves every experiment
    set_name = f"{options.name}-{hashlib.sha256(os.fsencode(options.test_dir.absolute())).hexdigest()[:8]}"
    work_dir = options.dump_dir / "videos" / set_name
    n_made, separated = 0, set()
    with exclusive_lock(folder, "these tracks"), exclusive_lock(work_dir, "these videos"):
        prepared, failed = prepare_all(videos, work_dir, video_options, options.nj)
        reasons |= failed
        if prepared:
            store, embed_reasons = _embed(prepared, experiment, options, set_name, device)
            jobs = [
                Job(video.name, "", (), (video, prepared[video.name], folder, separator, store, embed_reasons, options))
                for video in videos
                if video.name in prepared
            ]
            here = not chosen_cluster()  # where each video shows a bar of its own
            with (
                progress_bar(total=len(jobs), desc="tracks", unit="video", disable=here) as progress,
                closing(work_through(_separate, jobs, options.nj, folder, progress.update, in_this_process=True)) as done,
            ):
                for job, result, reason in done:
                    progress.update()
                    if not reason:
                        made, reason = result
                        n_made += made
                        separated.add(job.name)
                    if reason:
                        reasons[job.name] = reason
        for video in videos:
            if video.name in reasons and video.name not in separated:
                remove_tracks(video.path, folder / video.name)
        problems = [Problem(0, video.name, str(video.path), reasons[video.name]) for video in found if video.name in reasons]
        write_failed(folder / "failed.csv", problems)
    for problem in problems:
        logger.error("stage 4: %s: %s", printable(problem.path), problem.reason)
    if len(problems) > options.max_failed:
        what = "could not be separated"
        if reasons.keys() & separated:
            what += ", or not all that was asked for could be made of them"
        raise UserError(
            f"{len(problems)} of {len(found)} videos {what}, listed in {folder / 'failed.csv'}"
            + (f"; the tracks of the others are in {folder}" if separated else "")
        )
    if not n_made and prepared:
        logger.info("stage 4: up to date, the tracks are in %s", folder)


def _separate(given: tuple) -> tuple[bool, str]:
    """Write the tracks of one video, and what else was asked for, unless they exist.

    Returns:
        Whether anything was made, and why something beside the tracks could not be, or "".

    Raises:
        UserError: it cannot be separated; the others go on.
        OSError: the others would meet it, too, as a full disk; what was made stays.
    """
    from utils.separation.on_demand import write_on_demand
    from utils.separation.tracks import write_tracks

    video, prepared, folder, separator, store, embed_reasons, options = given
    try:
        _check_number(prepared, separator)
        _check_embedded(prepared, embed_reasons)
        made = write_tracks(video.path, prepared, folder / video.name, separator, store, options)
    except _FAILURES as error:
        raise UserError(_as_reason(video, error)) from None
    try:
        return write_on_demand(video.path, prepared, folder / video.name, options) or made, ""
    except _FAILURES as error:
        return made, _as_reason(video, error)


def _as_reason(video: Video, error: Exception) -> str:
    """The reason of a failure, for the row of the video; what the others would meet, too, is raised again."""
    if isinstance(error, OSError) and is_of_machine(error):
        raise error
    if isinstance(error, UserError):
        return error.reason_for(video.path)
    if isinstance(error, OSError) and (reason := system_error(error)):
        return reason
    logger.debug("%s", video.path, exc_info=error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _video_options(options: VideoSetOptions, face_size: int) -> "VideoOptions":
    try:
        from utils.video.preparation import VideoOptions
    except ImportError as error:
        raise UserError(
            f"videos need more packages ({error}); add them with utils/install_more.sh requirements-video.txt"
        ) from None
    return VideoOptions(
        options.alignment,
        min_sec=options.min_on_screen_sec,
        people=options.people,
        audio_stream=options.audio_stream,
        face_size=face_size,
    )


def _check_clocks(exp_dir: Path, separator: "Separator") -> None:
    if (separator.sample_rate, separator.fps) != (SAMPLE_RATE_HZ, VIDEO_FPS):
        raise UserError(
            f"{exp_dir}: trained at {separator.sample_rate} Hz and {separator.fps:g} frames/s; videos are brought to "
            f"{SAMPLE_RATE_HZ} Hz and {VIDEO_FPS} frames/s, which needs a network trained at these"
        )


def prepare_all(
    videos: Sequence[Video], folder: Path, options: "VideoOptions", nj: int
) -> tuple[dict[str, "PreparedVideo"], dict[str, str]]:
    """Prepare every video, several at once; gives what was made, and the reasons of the others, by the videos' names."""
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
    except UserError as error:
        raise UserError(error.reason_for(given[0])) from None
    except OSError:
        raise
    except Exception as error:  # of a decoder: the other videos go on
        raise UserError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def _embed(
    prepared: dict[str, "PreparedVideo"], experiment: Experiment, options: VideoSetOptions, set_name: str, device: str
) -> tuple["EmbeddingStore", dict[str, str]]:
    """The embeddings of all mouths, and why some have none, by the mouths' paths."""
    from utils.separation.mixtures import embed_mouths

    faces = [
        Utterance(
            utterance_id=f"{video_name}_{person.name}",
            speaker=f"{video_name}_{person.name}",
            audio_path=str(video.sound_path),
            mouth_path=str(video.mouth_path(person)),
            length=video.n_samples,
            frames=video.n_frames,
            fps=float(VIDEO_FPS),
        )
        for video_name, video in prepared.items()
        for person in video.people
    ]
    path = options.dump_dir / "videos" / set_name / "faces.csv"
    where = {"corpus": f"videos_{set_name}", "split": "faces", "data_root": Path.cwd()}
    manifest: Manifest = write_manifest(path, **where, sample_rate=SAMPLE_RATE_HZ, n_src=1, items=faces)
    return embed_mouths(experiment, manifest, options, device)


def _check_number(video: "PreparedVideo", separator: "Separator") -> None:
    """Refuse more people than a network sees together; one that sees each by itself takes any number."""
    n_faces = separator.network.config.n_faces
    if separator.network.has_fixed_faces and 1 < n_faces < len(video.people):
        raise UserError(
            f"{len(video.people)} people where {separator.separated_by} separates {n_faces}: take those who are longest on "
            f"screen with --people {n_faces}, or another network"
        )


def _check_embedded(video: "PreparedVideo", reasons: dict[str, str]) -> None:
    for person in video.people:
        reason = reasons.get(str(video.mouth_path(person)))
        if reason:
            raise UserError(reason, video.mouth_path(person))
