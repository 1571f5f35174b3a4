"""The people of a video: which tracks of faces, over cuts and absences, are the same person.

Reads a video, by way of `face_scan.py`; writes nothing itself. Tracks are joined, the most alike first, while they look
alike on average; two that were ever seen in the same frame are different people. In doubt they stay apart: one person with
two names loses a little, two people under one name would get a mixture of voices.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.video.appearance import look_distance
from utils.video.decoding import GRID_FPS
from utils.video.face_scan import FaceScan
from utils.video.landmarks import Person
from utils.video.tracking import Track, Tracker

MIN_SEC = 0.5


_SAME_PERSON = 1.25  # look distance; on GRID one person had 1.31 at most, two people 1.46 at least
_SAME_PLACE = 0.8  # within a shot, where the one was lost and the other appears there: the distance counts so much
_SAME_FRAMING = 0.9  # ... and over a cut, where both are in the same place
_CLOSE = 0.4  # intersection over union that is the same place
_WEIGHED_FRAMES = 100  # longer tracks weigh no more in the mean over pairs

log = logging.getLogger(__name__)


def find_people(
    path: Path | str, n_frames: int, folder: Path | str | None = None, min_sec: float = MIN_SEC
) -> tuple[list[Person], int]:
    """Find the people of a video.

    Args:
        path: the video.
        n_frames: of it on the 25 fps grid.
        folder: for what was found so far: parts of a minute; an interrupted search goes on after the last one. None keeps
            nothing.
        min_sec: people who are seen for a shorter time are left out.

    Returns:
        The people, named face1, face2, ... from left to right by where each was seen first, and how many were left out.

    Raises:
        UserError: no video, or one that breaks off; mediapipe is not installed.
    """
    with tempfile.TemporaryDirectory() as passing:
        scan = FaceScan(path, n_frames, passing if folder is None else folder)
        scan.run()
        tracker = Tracker()
        for frame, faces, is_cut in scan.frames():
            tracker.update(frame, faces, is_cut)
    tracks = tracker.finish()
    groups = group_tracks(tracks)
    people, n_ignored = to_people(groups, min_sec)
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(tracker.dropped.items())) or "none"
    log.info(
        "%s: %d people from %d tracks; %d were there for less than %g s; tracks dropped: %s",
        path, len(people), len(tracks), n_ignored, min_sec, dropped,
    )  # fmt: skip
    return people, n_ignored


def group_tracks(tracks: Sequence[Track]) -> list[list[Track]]:
    """Join the tracks of each person: average linkage, closest first, never two that were seen at the same time.

    Returns:
        The tracks of each person, in their order of time.
    """
    if not tracks:
        return []
    distances = _distances(tracks)
    weights = np.array([min(len(track.frames), _WEIGHED_FRAMES) for track in tracks], dtype=np.float64)
    groups = [[k] for k in range(len(tracks))]
    nearest = distances.min(axis=1)
    while True:
        k = int(nearest.argmin())
        if not nearest[k] <= _SAME_PERSON:
            break
        other = int(distances[k].argmin())
        share = weights[k] / (weights[k] + weights[other])
        joined = share * distances[k] + (1 - share) * distances[other]  # infinite where either must stay apart
        joined[k] = joined[other] = np.inf
        stale = (distances[:, k] == nearest) | (distances[:, other] == nearest)
        distances[k], distances[:, k] = joined, joined
        distances[other], distances[:, other] = np.inf, np.inf
        weights[k] += weights[other]
        groups[k] += groups[other]
        groups[other] = []
        nearest = np.minimum(nearest, joined)
        stale[[k, other]] = True
        nearest[stale] = distances[stale].min(axis=1)
    return [[tracks[index] for index in sorted(group)] for group in groups if group]


def to_people(groups: Sequence[Sequence[Track]], min_sec: float = MIN_SEC) -> tuple[list[Person], int]:
    """Make people of groups of tracks.

    Args:
        groups: the tracks of each person, never two in one frame.
        min_sec: people who are seen for a shorter time are left out.

    Returns:
        The people, named face1, face2, ... from left to right by the middle of their first track, the earlier first where
        that is the same; and how many were left out.
    """
    kept = [group for group in groups if sum(len(track.frames) for track in group) >= min_sec * GRID_FPS]
    people = []
    for number, group in enumerate(sorted(kept, key=_place), start=1):
        order = sorted(group, key=lambda track: int(track.frames[0]))
        frames = np.concatenate([track.frames for track in order])
        rows = np.argsort(frames, kind="stable")
        in_order = bool((np.diff(rows) == 1).all())  # tracks of one person may interlock; sorting costs a copy
        columns = [np.concatenate([getattr(track, name) for track in order]) for name in ("points", "boxes", "scores")]
        points, boxes, scores = columns if in_order else (column[rows] for column in columns)
        people.append(Person(f"face{number}", frames if in_order else frames[rows], points, boxes, scores))
    return people, len(groups) - len(kept)


def _place(group: Sequence[Track]) -> tuple[float, int]:
    first = min(group, key=lambda track: int(track.frames[0]))
    return float(first.boxes[:, [0, 2]].mean()), int(first.frames[0])


def _distances(tracks: Sequence[Track]) -> np.ndarray:
    """How different the people of two tracks look, less where place speaks for one person; infinite for two at once."""
    looks = np.stack([track.look for track in tracks])
    distances = look_distance(looks, looks)
    firsts = np.array([track.frames[0] for track in tracks])
    lasts = np.array([track.frames[-1] for track in tracks])
    shots = np.array([track.shot for track in tracks])
    first_boxes, last_boxes = (np.stack([track.boxes[k] for track in tracks]).astype(np.float64) for k in (0, -1))
    middles = np.stack([np.median(track.boxes, axis=0) for track in tracks]).astype(np.float64)
    for k, track in enumerate(tracks):
        returns = (shots == track.shot) & (firsts > lasts[k])
        distances[k, returns & (_overlaps(last_boxes[k], first_boxes) > _CLOSE)] *= _SAME_PLACE
        elsewhere = shots != track.shot
        distances[k, elsewhere & (_overlaps(middles[k], middles) > _CLOSE)] *= _SAME_FRAMING
    distances = np.minimum(distances, distances.T)
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(firsts, kind="stable")
    for position, k in enumerate(order):
        for other in order[position + 1 :]:
            if firsts[other] > lasts[k]:
                break
            if np.isin(tracks[k].frames, tracks[other].frames, assume_unique=True).any():
                distances[k, other] = distances[other, k] = np.inf
    return distances


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with each of `boxes` (n, 4)."""
    common = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return common / ((box[2:] - box[:2]).prod() + areas - common + 1e-9)
