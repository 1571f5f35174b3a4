"""The people of a video: who is to be seen in which frames.

Reads a video, by way of `face_scan.py`; writes nothing itself. Faces become tracks (`tracking.py`), tracks become people
(`grouping.py`). The scan of the faces depends on the video alone, so that other options take the same one.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.video.decoding import GRID_FPS
from utils.video.face_scan import FaceScan
from utils.video.grouping import Group, group_tracks
from utils.video.landmarks import Person
from utils.video.tracking import Tracker

MIN_SEC = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FoundPeople:
    """The people of a video.

    Attributes:
        people: named face1, face2, ... from left to right by where each was seen first.
        groups: the tracks of each of them, and how certain it is that they are one person's.
        left_out: further people, because no more were asked for.
        n_too_short: how many more were seen for too short a time.
    """

    people: list[Person]
    groups: list[Group]
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
        UserError: no video, or one that breaks off; mediapipe or dlib is not installed.
    """
    with tempfile.TemporaryDirectory() as passing:
        scan = FaceScan(path, n_frames, passing if folder is None else folder)
        scan.run()
        tracker = Tracker()
        for frame, faces, is_cut in scan.frames():
            tracker.update(frame, faces, is_cut)
    tracks = tracker.finish()
    found = to_people(group_tracks(tracks, at_most, min_sec * GRID_FPS), min_sec, at_most)
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(tracker.dropped.items())) or "none"
    log.info(
        "%s: %d people from %d tracks; %d were there for less than %g s; tracks dropped: %s",
        path, len(found.people), len(tracks), found.n_too_short, min_sec, dropped,
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
    seen = [group for group in groups if group.n_frames >= min_sec * GRID_FPS]
    by_presence = sorted(seen, key=_presence, reverse=True)
    kept = sorted(by_presence[: at_most or None], key=_place)
    others = sorted(by_presence[at_most:], key=_place) if at_most else []
    people = [_person(f"face{number}", group) for number, group in enumerate(kept, start=1)]
    left_out = [_person(f"left out {number}", group) for number, group in enumerate(others, start=1)]
    return FoundPeople(people, kept, left_out, len(groups) - len(seen))


def _person(name: str, group: Group) -> Person:
    frames = np.concatenate([track.frames for track in group.tracks])
    rows = np.argsort(frames, kind="stable")
    in_order = bool((np.diff(rows) == 1).all())  # tracks of one person may interlock; sorting costs a copy
    columns = [np.concatenate([getattr(track, name) for track in group.tracks]) for name in ("points", "boxes", "scores")]
    points, boxes, scores = columns if in_order else (column[rows] for column in columns)
    return Person(name, frames if in_order else frames[rows], points, boxes, scores)


def _presence(group: Group) -> float:
    """Face area summed over time, pixels times frames."""
    return float(sum((track.boxes[:, 2:] - track.boxes[:, :2]).prod(axis=1).sum() for track in group.tracks))


def _place(group: Group) -> tuple[float, int]:
    first = group.tracks[0]
    return float(first.boxes[:, [0, 2]].mean()), int(first.frames[0])
