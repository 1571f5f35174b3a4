"""Stretches of items: which ones last a segment and have their faces embedded, and where one may begin."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from utils.data.embedding_store import EmbeddingStore
from utils.data.manifest import Manifest, Problem
from utils.data.manifest_rows import Mixture, Utterance, item_id, item_mouths
from utils.data.mixing import frames_to_samples, samples_to_frames
from utils.errors import UserError

log = logging.getLogger(__name__)


class Clock(NamedTuple):
    """What audio and video count by."""

    sample_rate: int  # Hz
    fps: float  # video frames for each second


def usable_items(
    manifest: Manifest, segment_frames: int, clock: Clock, stores: Sequence[EmbeddingStore] = ()
) -> tuple[list, list[Problem]]:
    """The items that last a segment and whose mouths are embedded, and the others, each with its reason.

    A mouth that stage 2 tried and listed in a store's failed.csv, within its --max_failed, takes its item out.

    Args:
        manifest: mixtures or utterances.
        segment_frames: length of a segment in video frames.
        clock: of the training.
        stores: where every mouth must be, in each of them.

    Raises:
        UserError: nothing is left, the video runs at another rate than the clock, or stage 2 has not seen some mouths.
    """
    segment_sec = segment_frames / clock.fps
    if segment_frames < 1:
        raise UserError(f"{manifest.path}: a segment must last a video frame at least; choose a larger --segment_sec")
    failed = _not_embedded(manifest, stores)
    kept, left_out = [], []
    for row, item in enumerate(manifest.items, start=2):
        mouths = item_mouths(item)
        if any(mouths) and item.fps != clock.fps:
            raise UserError(f"{manifest.path}: video of {item.fps:g} frames/s where the conf's video_fps is {clock.fps:g}")
        reasons = [f"{path}: {failed[path]}" for path in mouths if path in failed]
        if last_start(item, clock, segment_frames) < 0:
            lasts_sec = item.length / clock.sample_rate
            reasons.insert(0, f"lasts {lasts_sec:.2f} s, shorter than a segment of {segment_sec:g} s")
        if reasons:
            path = item.mixture_path if isinstance(item, Mixture) else item.audio_path
            left_out.append(Problem(row, item_id(item), path, "; ".join(reasons)))
        else:
            kept.append(item)
    if not kept:
        raise UserError(f"{manifest.path}: nothing lasts {segment_sec:g} s and has its faces; choose a smaller --segment_sec")
    if left_out:
        log.warning("%s: %d of %d left out: %s", manifest.path, len(left_out), len(manifest.items), left_out[0].reason)
    return kept, left_out


def _not_embedded(manifest: Manifest, stores: Sequence[EmbeddingStore]) -> dict[str, str]:
    """The mouths of a manifest that stage 2 could not embed: path -> reason.

    Raises:
        UserError: others have no embedding either.
    """
    reasons: dict[str, str] = {}
    for store in stores:
        missing = sorted({path for item in manifest.items for path in item_mouths(item) if path and path not in store})
        failed = store.failed() if missing else {}
        unseen = [path for path in missing if path not in failed]
        if unseen:
            raise UserError(
                f"{manifest.path}: {len(unseen)} mouth crops have no embeddings in {store.root} (first: {unseen[0]}); "
                "run stage 2 with the same front end"
            )
        reasons.update((path, failed[path]) for path in missing)
    return reasons


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

