"""The people of a video, and the frames that show each of them.

Faces (`face_scan.py`) become tracks (`tracking.py`), tracks become people by average linkage of their descriptors. Two tracks
that were ever seen in the same frame are different people. In doubt tracks stay apart: one person with two names loses a
little, two people under one name would get a mixture of voices. The scan of the faces depends on the video only, so that
other options take the same one.

The constants were fitted on the train part of GLips (838 clips of 120 people, 10 clips of each at most; its labels are
clusters themselves), by joining casts of two, three and six people with four clips each.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from utils.data.constants import VIDEO_FPS
from utils.video.face_networks import iou
from utils.video.face_scan import scan_faces
from utils.video.landmarks import Person, most_present
from utils.video.tracking import Track, follow_faces

MIN_SEC = 0.5
SAME_PERSON = 0.50  # distance; of three people 95.8 % of the pairs of one were joined and 1.6 % of those of two
_WITHIN = 0.05  # mean squared distance of a descriptor from the mean of those of the same track
_RIGHT_MIDDLE, _RIGHT_WIDTH = 0.498, 0.0294  # of the logistic curve that gives the share of right joins at a distance
_SAME_PLACE = 0.85  # within a shot, where the one was lost and the other appears there: the distance counts so much
_CLOSE = 0.4  # intersection over union that is the same place
_UNKNOWN = 0.7  # distance of tracks without a descriptor: that of two people
_APART = 1e9  # of tracks that were seen at once; in every mean over pairs it stays far above any true distance
_APART_MEAN = 100.0

log = logging.getLogger(__name__)


Group = tuple[list[Track], float]
"""The tracks of one person in their order of time, and how likely the least certain of the joins between them is right."""


@dataclass(frozen=True, eq=False)
class FoundPeople:
    """The people of a video.

    Attributes:
        people: named face1, face2, ... from left to right by where each was seen first.
        left_out: further people, because no more were asked for.
        n_too_short: how many more were seen for too short a time.
    """

    people: list[Person]
    left_out: list[Person]
    n_too_short: int


def find_people(
    path: Path | str, n_frames: int, folder: Path | str | None = None, min_sec: float = MIN_SEC, at_most: int = 0
) -> FoundPeople:
    """Find the people of a video.

    Args:
        path: the video.
        n_frames: of it on the 25 fps grid.
        folder: for what was found so far: parts of a minute; an interrupted search goes on after the last one. None keeps
            nothing.
        min_sec: people who are seen for a shorter time are left out.
        at_most: so many people; the most alike tracks are joined until there are no more, and where those were seen at the
            same time, the people with the largest faces for the longest time stay. 0: no limit.

    Raises:
        UserError: no video, or one that breaks off; LiteRT or dlib is not installed.
    """
    with tempfile.TemporaryDirectory() as passing:
        tracks, n_dropped = follow_faces(scan_faces(path, n_frames, folder or passing))
    found = to_people(group_tracks(tracks, at_most, min_sec * VIDEO_FPS), min_sec, at_most)
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(n_dropped.items())) or "none"
    log.debug(
        "%s: people: %d, of tracks: %d; people there for less than %g s: %d; tracks dropped: %s",
        path, len(found.people), len(tracks), min_sec, found.n_too_short, dropped,
    )  # fmt: skip
    return found


def to_people(groups: Sequence[Group], min_sec: float = MIN_SEC, at_most: int = 0) -> FoundPeople:
    """Make people of groups of tracks, named from left to right by the middle of their first track, the earlier first where
    that is the same.

    Args:
        groups: the tracks of each person, never two in one frame.
        min_sec: people who are seen for a shorter time are left out.
        at_most: keep so many of them, those with the largest faces for the longest time; 0: all.
    """
    seen = [group for group in groups if sum(len(track.frames) for track in group[0]) >= min_sec * VIDEO_FPS]
    kept, left_out = most_present([_person(*group) for group in sorted(seen, key=_place)], at_most)
    people = [replace(person, name=f"face{number}") for number, person in enumerate(kept, start=1)]
    return FoundPeople(people, left_out, len(groups) - len(seen))


def _place(group: Group) -> tuple[float, int]:
    first = group[0][0]
    return float(np.mean([face.box[[0, 2]] for face in first.faces])), first.frames[0]


def _person(tracks: Sequence[Track], certain: float) -> Person:
    frames = np.concatenate([track.frames for track in tracks])
    rows = np.argsort(frames, kind="stable")  # tracks of one person may interlock
    faces = [face for track in tracks for face in track.faces]
    faces = [faces[row] for row in rows]
    columns = [(face.points, face.box, face.score) for face in faces]
    points, boxes, scores = (np.array(column, np.float32) for column in zip(*columns, strict=True))
    return Person("", frames[rows], points, boxes, scores, len(tracks), certain)


def group_tracks(tracks: Sequence[Track], at_most: int = 0, min_frames: float = 0.0) -> list[Group]:
    """Join the tracks of each person, the most alike first, never two that were seen at the same time.

    Args:
        tracks: of a whole video.
        at_most: go on joining until there are no more people than this, if tracks may be joined at all; 0: no limit.
        min_frames: people who are seen in fewer frames do not count for that.
    """
    if not tracks:
        return []
    groups = {k: [k] for k in range(len(tracks))}
    farthest = dict.fromkeys(groups, 0.0)
    lengths = {k: len(track.frames) for k, track in enumerate(tracks)}
    n_people = sum(length >= min_frames for length in lengths.values())
    joins = linkage(squareform(distances(tracks), checks=False), "average") if len(tracks) > 1 else []
    for number, (one, other, distance, _) in enumerate(joins, start=len(tracks)):
        is_wanted = distance <= SAME_PERSON or 0 < at_most < n_people
        if not is_wanted or distance > _APART_MEAN:
            break
        pair = int(one), int(other)
        n_people -= sum(lengths[k] >= min_frames for k in pair)
        groups[number] = [index for k in pair for index in groups.pop(k)]
        farthest[number] = max(float(distance), *(farthest[k] for k in pair))
        lengths[number] = sum(lengths.pop(k) for k in pair)
        n_people += lengths[number] >= min_frames
    return [
        ([tracks[index] for index in sorted(members)], certainty(farthest[number]) if len(members) > 1 else 1.0)
        for number, members in sorted(groups.items(), key=lambda item: min(item[1]))
    ]


def certainty(distance: float) -> float:
    """The probability that two groups of tracks at this mean distance are one person."""
    return float(1.0 / (1.0 + np.exp((distance - _RIGHT_MIDDLE) / _RIGHT_WIDTH)))


def distances(tracks: Sequence[Track]) -> np.ndarray:
    """The distance of the people of every two tracks: float64 (n, n), zeros on the diagonal.

    It is the distance of the mean descriptors less what their number makes it larger; smaller where a face comes back to its
    place within a shot, and 1e9 for two who were seen at once.
    """
    means = np.stack([track.descriptor for track in tracks])
    counts = np.array([track.n_described for track in tracks], dtype=np.float64)
    squares = (means**2).sum(axis=1)
    noise = _WITHIN / np.maximum(counts, 1.0)
    apart = squares[:, None] + squares - 2 * means @ means.T - noise[:, None] - noise
    apart = np.sqrt(np.maximum(apart, 0.0))
    apart[np.minimum.outer(counts, counts) == 0] = _UNKNOWN
    firsts = np.array([track.frames[0] for track in tracks])
    lasts = np.array([track.frames[-1] for track in tracks])
    shots = np.array([track.shot for track in tracks])
    first_boxes, last_boxes = (np.stack([track.faces[k].box for track in tracks]).astype(np.float64) for k in (0, -1))
    for k, track in enumerate(tracks):
        later = np.flatnonzero((shots == track.shot) & (firsts > lasts[k]))
        back = later[iou(last_boxes[k], first_boxes[later]) > _CLOSE]
        apart[k, back] *= _SAME_PLACE
        apart[back, k] = apart[k, back]
    overlap = (firsts[:, None] <= lasts) & (firsts <= lasts[:, None])
    for k, other in np.argwhere(np.triu(overlap, 1)):
        if not set(tracks[k].frames).isdisjoint(tracks[other].frames):
            apart[k, other] = apart[other, k] = _APART
    np.fill_diagonal(apart, 0.0)
    return apart
