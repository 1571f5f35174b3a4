"""How well our mouth crops meet ready-made ones of the same clips: where the mouth lies, how large, how it is turned.

Reads the videos of --video_dir that have crops of the same name in --mouth_dir (npz, key `data`); looks for faces and
cuts the mouths as stage 1 does. Ready-made crops may show a part of a clip; where it starts is found by their movement.
Prints a table for each alignment, a row for each clip; with --sheet_dir writes a PNG a clip, ours above the ready-made.

    python -m utils.benchmarks.mouth_position --video_dir DIR --mouth_dir DIR

Shifts are those of our crop against the ready-made one, in pixels: positive where ours shows the mouth further right or
further down. `|dx|` and `|dy|` are means over frames, so is `apart`, the distance; `size` is 1.02 where ours shows the mouth
2 % larger, `turn` in degrees, clockwise. `corr` is the correlation of the grey levels, as the crops are.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from utils.data.files import atomic_path
from utils.data.mouths import MOUTH_SIZE, read_mouths
from utils.errors import OptionParser, UserError, run_cli
from utils.video.alignment import ALIGNMENTS
from utils.video.crops import cut_mouths
from utils.video.decoding import GRID_FPS, SOUND_RATE_HZ, extract_sound, read_pictures
from utils.video.landmarks import Person
from utils.video.people import find_people

_BLUR_PX = 1.5  # sigma: noise of the camera and of compression moves nothing
_ECC_STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-5)
_SHEET_FRAMES = 10


@dataclass(frozen=True)
class Position:
    """How our crops of a clip lie against the ready-made ones, means over frames; see the top of this file."""

    offset: float  # the clip's frame that the ready-made crops start with
    frames: float
    not_found: float  # frames that could not be compared: without our crop, or without any likeness
    dx: float
    dy: float
    abs_dx: float
    abs_dy: float
    apart: float
    size: float
    turn: float
    corr: float


def main() -> None:
    args = parse_args()
    clips = find_clips(args.video_dir, args.mouth_dir)
    rows: dict[str, dict[str, Position]] = {alignment: {} for alignment in args.alignment}
    for name, (video_path, mouth_path) in tqdm(clips.items(), desc="clips", disable=None):
        ready = read_mouths(mouth_path)
        for alignment, (crops, seen) in cut_clip(video_path, args.alignment).items():
            position = compare(crops, seen, ready, f"{video_path} and {mouth_path}")
            rows[alignment][name] = position
            if args.sheet_dir is not None:
                write_sheet(args.sheet_dir / f"{name}-{alignment}.png", crops[int(position.offset) :], ready)
    for alignment, positions in rows.items():
        print(f"{alignment}\n{table(positions)}\n")


def parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="mouth_position", description=__doc__.partition("\n")[0])
    parser.add_argument("--video_dir", type=Path, required=True, help="videos, NAME.mpg or of any other format")
    parser.add_argument("--mouth_dir", type=Path, required=True, help="ready-made crops, NAME.npz")
    parser.add_argument("--alignment", nargs="+", choices=ALIGNMENTS, default=list(ALIGNMENTS))
    parser.add_argument("--sheet_dir", type=Path, help="where to write pictures of both crops")
    return parser.parse_args()


def find_clips(video_dir: Path, mouth_dir: Path) -> dict[str, tuple[Path, Path]]:
    """The clips that are there both as video and as crops, by name.

    Raises:
        UserError: there are none.
    """
    for option, folder in (("--video_dir", video_dir), ("--mouth_dir", mouth_dir)):
        if not folder.is_dir():
            raise UserError(f"{option} {folder}: no such folder")
    pairs = {path.stem: (path, mouth_dir / f"{path.stem}.npz") for path in sorted(video_dir.iterdir()) if path.is_file()}
    clips = {name: pair for name, pair in pairs.items() if pair[1].is_file()}
    if not clips:
        raise UserError(f"--video_dir {video_dir}: none of its {len(pairs)} files has crops NAME.npz in {mouth_dir}")
    return clips


def cut_clip(video_path: Path, alignments: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The crops uint8 (frames, 96, 96) of the person seen longest, and where they were seen, for each alignment.

    Raises:
        UserError: the video cannot be read or shows nobody.
    """
    with tempfile.TemporaryDirectory() as folder:
        n_samples = extract_sound(video_path, Path(folder) / "sound.wav").n_samples
    n_frames = math.ceil(n_samples * GRID_FPS / SOUND_RATE_HZ)
    people = find_people(video_path, n_frames, None, min_sec=0.0).people
    if not people:
        raise UserError(f"{video_path}: no face found in {n_frames} frames")
    person: Person = max(people, key=lambda one: len(one.frames))
    cut = {}
    for alignment in alignments:
        found = [(crop, seen) for _, crop, seen in cut_mouths(read_pictures(video_path, n_frames), person, n_frames, alignment)]
        cut[alignment] = np.stack([crop for crop, _ in found]), np.array([seen for _, seen in found])
    return cut


def compare(ours: np.ndarray, seen: np.ndarray, ready: np.ndarray, where: str) -> Position:
    """Compare crops of a clip with ready-made ones of it or of a part of it.

    Args:
        ours: uint8 (frames, 96, 96).
        seen: bool (frames,), where ours show a mouth.
        ready: uint8 (at most as many frames, 96, 96).
        where: the files, for errors.

    Raises:
        UserError: more ready-made frames than ours, or none of them resembles ours.
    """
    if len(ready) > len(ours):
        raise UserError(f"{where}: {len(ready)} ready-made crops where the clip has {len(ours)} frames of 1/25 s")
    offset = find_offset(ours, ready)
    pairs = zip(ours[offset : offset + len(ready)], seen[offset : offset + len(ready)], ready, strict=True)
    moves = [_move(one, other) if is_seen else None for one, is_seen, other in pairs]
    found = np.array([move for move in moves if move is not None])
    if not len(found):
        raise UserError(f"{where}: no frame of ours resembles the ready-made one; is it the same clip?")
    dx, dy = found[:, 0], found[:, 1]
    means = (dx, dy, np.abs(dx), np.abs(dy), np.hypot(dx, dy), *found[:, 2:].T)
    return Position(offset, len(ready), len(ready) - len(found), *(float(values.mean()) for values in means))


def find_offset(ours: np.ndarray, ready: np.ndarray) -> int:
    """The frame of ours with which the ready-made crops start: where both move alike."""
    one, other = (_movement(crops) for crops in (ours, ready))
    scores = []
    for offset in range(len(one) - len(other) + 1):
        part = one[offset : offset + len(other)]
        scores.append(float((part * other).sum() / (np.linalg.norm(part) * np.linalg.norm(other) + 1e-9)))
    return int(np.argmax(scores))


def _movement(crops: np.ndarray) -> np.ndarray:
    """What changes from frame to frame, blurred so that a few pixels of shift do not matter."""
    small = np.stack([cv2.resize(crop.astype(np.float32), (24, 24), interpolation=cv2.INTER_AREA) for crop in crops])
    if len(small) == 1:
        return small - small.mean()
    change = np.diff(small, axis=0, prepend=small[:1])
    return change - change.mean(axis=(1, 2), keepdims=True)


def _move(ours: np.ndarray, ready: np.ndarray) -> tuple[float, float, float, float, float] | None:
    """dx, dy at the crop's middle, size, turn and correlation; None where the two cannot be brought together."""
    one, other = (cv2.GaussianBlur(crop.astype(np.float32), (0, 0), _BLUR_PX) for crop in (ours, ready))
    matrix = np.eye(2, 3, dtype=np.float32)
    try:
        for motion in (cv2.MOTION_TRANSLATION, cv2.MOTION_AFFINE):
            _, matrix = cv2.findTransformECC(other, one, matrix, motion, _ECC_STEPS, None, 1)
    except cv2.error:
        return None
    middle = np.full(2, (MOUTH_SIZE - 1) / 2)
    dx, dy = matrix[:, :2] @ middle + matrix[:, 2] - middle
    size = math.sqrt(max(float(np.linalg.det(matrix[:, :2])), 1e-6))
    turn = math.degrees(math.atan2(matrix[1, 0] - matrix[0, 1], matrix[0, 0] + matrix[1, 1]))
    return float(dx), float(dy), size, turn, float(np.corrcoef(ours.ravel(), ready.ravel())[0, 1])


def table(positions: dict[str, Position]) -> str:
    """The clips and their mean as text."""
    names = [field.name.replace("abs_dx", "|dx|").replace("abs_dy", "|dy|") for field in fields(Position)]
    rows = [[name, *_cells(position)] for name, position in positions.items()]
    mean = Position(*(float(np.mean([getattr(one, field.name) for one in positions.values()])) for field in fields(Position)))
    rows.append(["mean", "", *_cells(mean)[1:]])
    lines = [["clip", *names], *rows]
    widths = [max(len(row[k]) for row in lines) for k in range(len(names) + 1)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in lines)


def _cells(position: Position) -> list[str]:
    formats = ("{:.0f}", "{:.0f}", "{:.0f}", *("{:.2f}",) * 5, "{:.3f}", "{:.2f}", "{:.3f}")
    values = (getattr(position, field.name) for field in fields(Position))
    return [text.format(value) for text, value in zip(formats, values, strict=True)]


def write_sheet(path: Path, ours: np.ndarray, ready: np.ndarray) -> None:
    """A PNG of some frames: ours above, ready-made below, each with a cross in its middle."""
    frames = np.unique(np.linspace(0, len(ready) - 1, _SHEET_FRAMES).astype(int))
    sheet = np.vstack([np.hstack([crops[k] for k in frames]) for crops in (ours, ready)])
    middle = MOUTH_SIZE // 2
    sheet[middle::MOUTH_SIZE, ::4] = 255
    sheet[::4, middle::MOUTH_SIZE] = 255
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), sheet)


if __name__ == "__main__":
    run_cli(main)
