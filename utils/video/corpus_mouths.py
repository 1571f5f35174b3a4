"""Cut the mouths of a corpus that comes as raw video; the first half of stage 1, called by `utils.stages.mouths`.

Reads   data/<corpus>/videos.csv (stage 0), the videos, and landmarks where videos.csv names them
Writes  the mouth files that videos.csv names, below data/<corpus>/mouths/, with .made.jsonl, the journal of finished clips;
        the manifests again, without the rows whose mouths could not be cut
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from utils.data.audio import probe_audio
from utils.data.crops import write_shifted
from utils.data.faces import FaceFile, FaceWriter, face_bytes, face_path_of, face_paths_of
from utils.data.files import require_space
from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, Journal, pending, run_jobs
from utils.data.manifest import VIDEOS_NAME, Manifest, Problem, Utterance, item_id, item_mouths, read_videos, write_failed
from utils.data.mouths import FRAME_BYTES, VERSION, MouthFile, MouthWriter
from utils.errors import UserError

logger = logging.getLogger(__name__)

MIN_SHARE = 0.5  # of the frames that must show a mouth


def cut_corpus(
    data_dir: Path,
    manifests: Sequence[Manifest],
    alignment: str,
    nj: int,
    late_frames: int = 0,
    clips: Sequence[Utterance] | None = None,
    face_size: int = 0,
) -> list[Problem]:
    """Cut the mouths, and on wish the faces, that are missing, of every row of videos.csv; gives the rows that failed.

    Args:
        data_dir: of the corpus.
        manifests: all of the corpus; they hold the lengths of the clips.
        alignment: one of the two published ones.
        nj: processes.
        late_frames: the pictures come so much too late (negative: early), which is corrected.
        clips: of these rows only.
        face_size: pixels of the face crops that are written beside the mouths; 0: none.

    Raises:
        UserError: videos.csv cannot be used, the packages for videos are missing, or the disk has not enough room.
    """
    try:
        from utils.video.preparation import VideoOptions
    except ImportError as error:
        raise UserError(
            f"raw videos need more packages ({error}); add them with utils/install_more.sh requirements-video.txt"
        ) from None
    options = VideoOptions(alignment, face_size=face_size)
    clips = read_videos(data_dir / VIDEOS_NAME) if clips is None else clips
    jobs = [_job(data_dir, clip, options, late_frames) for clip in clips]
    journal = data_dir / "mouths/.made.jsonl"
    todo, _ = pending(jobs, journal)
    _remove_stale_faces(todo, Journal(journal), data_dir)
    names = {job.name for job in todo}
    frame_bytes = FRAME_BYTES + (face_bytes(face_size) if face_size else 0)
    n_bytes = frame_bytes * _count_frames(manifests, {clip.mouth_path for clip in clips if clip.utterance_id in names})
    what = "mouths and faces" if face_size else "mouths"
    require_space(data_dir, n_bytes, f"the {what} of {len(todo)} clips", "--data_dir")
    (data_dir / "mouths").mkdir(exist_ok=True)
    done, reasons = run_jobs(_cut, jobs, journal, nj, "mouths", "clip")
    problems = []
    for row, clip in enumerate(clips, start=2):
        reason = reasons.get(clip.utterance_id)
        if reason is None and done[clip.utterance_id]["share_with_mouth"] < MIN_SHARE:
            share = done[clip.utterance_id]["share_with_mouth"]
            reason = f"{clip.video_path}: a mouth is seen in {share:.0%} of the frames only; {MIN_SHARE:.0%} are needed"
        if reason:
            problems.append(Problem(row, clip.utterance_id, clip.mouth_path, reason))
    crowds = sum(result["people"] > 1 for result in done.values())
    if crowds:
        logger.info("stage 1: %d clips show several people; the largest face was taken for the speaker", crowds)
    return problems


def without_mouths(manifest: Manifest, problems: list[Problem]) -> Manifest:
    """The manifest, on disk too, without the rows whose mouths could not be cut.

    Raises:
        UserError: no row is left.
    """
    lost = {problem.path for problem in problems}
    items = [item for item in manifest.items if lost.isdisjoint(item_mouths(item))]
    if len(items) == len(manifest.items):
        return manifest
    if not items:
        raise UserError(f"{manifest.path}: no row is left, for no mouth could be cut; the first reason: {problems[0].reason}")
    logger.warning("stage 1: %s: %d rows left out for their mouths", manifest.path, len(manifest.items) - len(items))
    return manifest.with_items(items)


def require_mouths(manifest: Manifest) -> None:
    """Refuse mixtures without mouths, and lists of utterances none of which has one; speech without faces is let pass.

    Raises:
        UserError: a mixture has no mouth.
    """
    if isinstance(manifest.items[0], Utterance) and manifest.mouth_paths():
        return
    for row, item in enumerate(manifest.items, start=2):  # the header is line 1
        if not all(item_mouths(item)):
            raise UserError(
                f"{manifest.path}, row {row}: {item_id(item)} has no mouth path; stage 1 cuts mouths where stage 0 wrote a "
                "videos.csv (egs/own_video does), otherwise cut them beforehand and name them in the corpus"
            )


def require_faces(mouths: Sequence[Path], size: int) -> None:
    """Refuse a corpus that ships mouth crops without the face crops that a conf asks for.

    Raises:
        UserError: there are none.
    """
    for mouth in mouths[:1]:
        face = face_path_of(mouth, size)
        if not face.is_file():
            raise UserError(
                f"{face}: no such face crops, and the conf asks for faces; this corpus ships crops of mouths: "
                'take --train_args "--cues lips", or a corpus of raw video'
            )


def refuse_failures(data_dir: Path, problems: Sequence[Problem], max_failed: int, what: str) -> None:
    """List the problems, and stop where there are too many; a clip, or a row of a manifest, may have several.

    Raises:
        UserError: there are more than `max_failed`.
    """
    path = data_dir / "failed_mouths.csv"
    write_failed(path, problems)
    count = len({(problem.manifest, problem.row) for problem in problems})
    if count > max_failed:
        raise UserError(
            f"{count} {what} have mouth crops that cannot be used, for the reasons listed there; repair them, "
            f"or let them pass with --max_failed {count}",
            path,
        )
    logger.info("stage 1: %d %s without usable mouth crops%s", count, what, f", see {path}" if count else "")


def _count_frames(manifests: Sequence[Manifest], mouth_paths: set[str]) -> int:
    """The frames of these mouths. One that no manifest names could not be cut by an earlier call; it counts as none."""
    frames: dict[str, int] = {}
    for manifest in manifests:
        for item in manifest.items:
            for path in mouth_paths.intersection(item_mouths(item)):
                frames[path] = max(frames.get(path, 0), item.frames)  # a mixture may end before its clips
    return sum(frames.values())


def _job(data_dir: Path, clip: Utterance, options, late_frames: int) -> Job:
    video, audio, mouth = (data_dir / path for path in (clip.video_path, clip.audio_path, clip.mouth_path))
    landmarks = data_dir / clip.landmarks_path if clip.landmarks_path else None
    how, products = asdict(options), [mouth]
    if how.pop("face_size"):  # faces have their size in their path, and mouths do not depend on it
        products.append(face_path_of(mouth, options.face_size))
    made_of = [VERSION, hash_stats([video, audio, *filter(None, [landmarks])]), how, late_frames]
    key = json.dumps([*made_of, clip.face_at] if clip.face_at else made_of)
    return Job(clip.utterance_id, key, tuple(products), (video, audio, mouth, options, landmarks, late_frames, clip.face_at))


def _remove_stale_faces(todo: Sequence[Job], journal: Journal, data_dir: Path) -> None:
    """Remove the faces, of whatever size, that were cut with mouths which are now cut otherwise."""
    for job in todo:
        if job.name not in journal.entries or journal.entries[job.name][0] != job.key:
            for path in face_paths_of(job.outputs[0]):
                path.unlink()


def _cut(given: tuple) -> dict:
    from utils.video.preparation import cut_clip

    video, audio, mouth, options, landmarks, late_frames, face_at = given
    mouth.parent.mkdir(parents=True, exist_ok=True)
    found = cut_clip(video, probe_audio(audio).length, mouth, options, landmarks, face_at)
    if late_frames:  # a kill before this is done leaves a clip that the journal does not know: it is cut again
        mouths = MouthFile(mouth)
        write_shifted(mouths, MouthWriter(mouth, mouths.n_frames), late_frames)
    if late_frames and options.face_size:
        faces = FaceFile(face_path_of(mouth, options.face_size))
        write_shifted(faces, FaceWriter(faces.path, faces.n_frames, faces.size), late_frames)
    return found
