"""Stretches of items: which ones last a segment, where one may begin, and that every face has its embeddings."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from utils.data.embedding_store import EmbeddingStore
from utils.data.manifest import Manifest, Problem
from utils.data.manifest_rows import Mixture, Utterance, item_id
from utils.data.mixing import frames_to_samples, samples_to_frames
from utils.errors import UserError

log = logging.getLogger(__name__)


class Clock(NamedTuple):
    """What audio and video count by."""

    sample_rate: int  # Hz
    fps: float  # video frames for each second


def long_enough(manifest: Manifest, segment_frames: int, clock: Clock) -> list:
    """The items that last a segment; the others are counted in the log, and `too_short` lists them.

    Raises:
        UserError: there are none, or the video runs at another rate than the clock.
    """
    segment_sec = segment_frames / clock.fps
    if segment_frames < 1:
        raise UserError(f"{manifest.path}: a segment must last a video frame at least; choose a larger --segment_sec")
    for item in manifest.items:
        has_mouth = any(item.mouth_paths) if isinstance(item, Mixture) else bool(item.mouth_path)
        if has_mouth and item.fps != clock.fps:
            raise UserError(f"{manifest.path}: video of {item.fps:g} frames/s where the conf's video_fps is {clock.fps:g}")
    kept = [item for item in manifest.items if last_start(item, clock, segment_frames) >= 0]
    if not kept:
        raise UserError(f"{manifest.path}: nothing lasts {segment_sec:g} s; choose a smaller --segment_sec")
    if len(kept) < len(manifest.items):
        short = len(manifest.items) - len(kept)
        log.warning("%s: %d of %d are shorter than %g s, left out", manifest.path, short, len(manifest.items), segment_sec)
    return kept


def too_short(manifest: Manifest, segment_frames: int, clock: Clock) -> list[Problem]:
    """The items that do not last a segment, each with its reason."""
    rate, found = clock.sample_rate, []
    for row, item in enumerate(manifest.items, start=2):
        if last_start(item, clock, segment_frames) < 0:
            reason = f"lasts {item.length / rate:.2f} s, shorter than a segment of {segment_frames / clock.fps:g} s"
            path = item.mixture_path if isinstance(item, Mixture) else item.audio_path
            found.append(Problem(row, item_id(item), path, reason))
    return found


def last_start(item: Mixture | Utterance, clock: Clock, n_frames: int) -> int:
    """The last video frame on which a stretch of `n_frames` can begin; negative where the item is too short."""
    frames_there = samples_to_frames(item.length, clock.sample_rate, clock.fps)
    last = (min(item.frames, frames_there) if item.frames else frames_there) - n_frames
    while last >= 0 and sum(sample_range(clock, last, n_frames)) > item.length:
        last -= 1
    return last


def sample_range(clock: Clock, start_frame: int, n_frames: int) -> tuple[int, int]:
    """First sample and length of a stretch; the length is the same wherever it begins."""
    start, length = (frames_to_samples(frames, clock.sample_rate, clock.fps) for frames in (start_frame, n_frames))
    return start, length


def check_embeddings(manifest: Manifest, stores: Sequence[EmbeddingStore], paths: Sequence[str]) -> None:
    """Look for the embeddings of mouth crops.

    Raises:
        UserError: some have none.
    """
    for store in stores:
        missing = sorted({path for path in paths if path not in store})
        if missing:
            raise UserError(
                f"{manifest.path}: {len(missing)} mouth crops have no embeddings in {store.root} (first: {missing[0]}); "
                "run stage 2 with the same front end"
            )
