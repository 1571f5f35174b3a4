"""Accuracy of telling the people of videos apart, where it is known who is in which shot.

Reads   --video_dir: videos, and --people: a CSV video,first_frame,frames,speaker, a row for each shot with one face
Writes  a table on stdout; with --scan_dir the faces that were found, which another call takes
Run     python -m utils.tools.people --video_dir DIR [--people FILE] [--scan_dir DIR] [--show_differences true]

Counted are the pairs of shots of one video that were given to the same face; a shot belongs to the face that is seen in
most of its frames.
"""

import argparse
import csv
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from utils.data.constants import VIDEO_SUFFIXES
from utils.data.reports import markdown_table
from utils.errors import OptionParser, UserError, flag, run_cli
from utils.video.people import FoundPeople, find_people


@dataclass(frozen=True)
class Shot:
    """A stretch of a video with one person in it; frames of the 25 fps grid."""

    first_frame: int
    n_frames: int
    speaker: str


@dataclass(frozen=True)
class Outcome:
    """Counts of a video: people, and pairs of shots."""

    n_people: int
    n_found: int
    n_same: int
    n_same_joined: int
    n_different: int
    n_different_joined: int


def main() -> None:
    args = parse_args()
    shots = read_shots(args.people or args.video_dir / "people.csv")
    outcomes = []
    with tempfile.TemporaryDirectory() as passing:
        for name, of_video in shots.items():
            n_frames = max(shot.first_frame + shot.n_frames for shot in of_video)
            found = find_people(_video(args.video_dir, name), n_frames, (args.scan_dir or Path(passing)) / name)
            faces = [face_of(shot, found) for shot in of_video]
            outcomes.append(compare(of_video, faces, len(found.people)))
            if args.show_differences:
                print(f"{name}: {outcomes[-1].n_found} people for {outcomes[-1].n_people}")
                shots_of = defaultdict(list)
                for shot, face in zip(of_video, faces, strict=True):
                    shots_of[face].append(f"{shot.speaker}@{shot.first_frame}")
                for face, members in sorted(shots_of.items()):
                    print(f"  {face or 'nobody'}: {' '.join(sorted(members))}")
    print(table(outcomes), end="")


def parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="people", description=__doc__.partition("\n")[0])
    parser.add_argument("--video_dir", type=Path, required=True, help="folder of the videos")
    parser.add_argument("--people", type=Path, help="the CSV; empty: people.csv in that folder")
    parser.add_argument("--scan_dir", type=Path, help="keep the faces that were found here")
    parser.add_argument("--show_differences", type=flag, default=False, help="print which shot went to which face")
    return parser.parse_args()


def read_shots(path: Path) -> dict[str, list[Shot]]:
    """The shots of each video.

    Raises:
        UserError: no such file, or a row that cannot be read.
    """
    shots: dict[str, list[Shot]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            for number, row in enumerate(csv.DictReader(handle), start=2):
                try:
                    shot = Shot(int(row["first_frame"]), int(row["frames"]), row["speaker"])
                    shots.setdefault(row["video"], []).append(shot)
                except (KeyError, TypeError, ValueError):
                    raise UserError(f"{path}, row {number}: not video,first_frame,frames,speaker") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return shots


def _video(folder: Path, name: str) -> Path:
    found = [path for path in sorted(folder.glob(f"{name}.*")) if path.suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise UserError(f"{folder / name}: no video of this name")
    return found[0]


def face_of(shot: Shot, found: FoundPeople) -> str:
    """The face that is seen in most frames of a shot, "" where none is."""
    span = shot.first_frame, shot.first_frame + shot.n_frames
    counts = Counter({person.name: int(np.diff(np.searchsorted(person.frames, span))[0]) for person in found.people})
    name, count = counts.most_common(1)[0] if counts else ("", 0)
    return name if count else ""


def compare(shots: Sequence[Shot], faces: Sequence[str], n_found: int) -> Outcome:
    """Count pairs of shots; a shot without a face is joined with no other."""
    same, different = [], []
    for (one, face), (other, other_face) in combinations(zip(shots, faces, strict=True), 2):
        (same if one.speaker == other.speaker else different).append(bool(face) and face == other_face)
    return Outcome(len({shot.speaker for shot in shots}), n_found, len(same), sum(same), len(different), sum(different))


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: one row for all videos."""
    right = sum(one.n_found == one.n_people for one in outcomes)
    totals = {name: sum(getattr(one, name) for one in outcomes) for name in Outcome.__dataclass_fields__}
    joined, confused = (
        f"{100 * totals[f'n_{kind}_joined'] / max(totals[f'n_{kind}'], 1):.1f} %" for kind in ("same", "different")
    )
    head = ["videos", "with the right number of people", "pairs of one person joined", "pairs of two people joined"]
    return markdown_table([head, [str(len(outcomes)), str(right), joined, confused]], n_left=0)


if __name__ == "__main__":
    run_cli(main)
