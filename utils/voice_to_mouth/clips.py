"""Training examples: stretches of single clips, a voice and what is seen of its mouth.

An example is a dict of tensors: `voice` (time,) and `targets` (frames, dim), zeros where no mouth is seen. Example `index` of
epoch `epoch` depends only on the seed.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import torch
from torch.utils.data import Dataset

from utils.corpora.joined import clips_by_speaker
from utils.data.audio import read_audio
from utils.data.manifest import Manifest, Utterance
from utils.embedding.joined import AnyStore
from utils.errors import UserError
from utils.training.config import Config
from utils.training.datasets import Example, check_rates, one_batch
from utils.training.utterances import Segments, read_visual

logger = logging.getLogger(__name__)

_MAX_LEVEL_DB = 10.0


def single_clips(manifest: Manifest) -> Manifest:
    """The clips of a manifest that have a mouth: its utterances, or each source of its mixtures once.

    Raises:
        UserError: there are none.
    """
    if manifest.items and isinstance(manifest.items[0], Utterance):
        clips = [item for item in manifest.items if item.mouth_path]
    else:
        clips = _named_apart([clip for own in clips_by_speaker(manifest).values() for clip in own])
    if not clips:
        raise UserError(f"{manifest.path}: no clip has a mouth and a speaker; run stage 1, or give another corpus")
    return replace(manifest, items=tuple(clips), n_src=1)


def _named_apart(clips: Sequence[Utterance]) -> list[Utterance]:
    """Clips of mixtures have the names of their mouth files; where two are alike, those of the folders too."""
    counts, named = Counter(clip.utterance_id for clip in clips), []
    for clip in clips:
        if counts[clip.utterance_id] > 1:
            parts = PurePath(clip.mouth_path).with_suffix("").parts
            clip = replace(clip, utterance_id="_".join(part for part in parts if part != "/"))
        named.append(clip)
    return named


def with_targets(manifest: Manifest, store: AnyStore) -> Manifest:
    """The clips of which the store has something to learn: a frame at least on which a face is seen.

    Raises:
        UserError: there are none.
    """
    clips = [clip for clip in manifest.items if clip.mouth_path not in store or store.get(clip.mouth_path).any()]
    if not clips:
        raise UserError(
            f"{manifest.path}: the mouth crops of all {len(manifest.items)} clips came without landmarks, which there are for "
            "raw video only; take such a corpus, or predict embeddings: --train_args '--target lips'"
        )
    n_left_out = len(manifest.items) - len(clips)
    if n_left_out:
        logger.warning("%s: %d of %d clips left out, no face is seen", manifest.path, n_left_out, len(manifest.items))
    return replace(manifest, items=tuple(clips))


class ClipDataset(Dataset):
    """Stretches of clips, drawn anew in every epoch, or the beginning of each clip.

    Args:
        manifest: single clips.
        stores: what is seen of them, a store for each view; a mirrored mouth belongs to the same voice.
        segment_sec, fps: length of an example, and its video frames for each second.
        size: examples in an epoch; 0: as many as clips.
        seed: of everything that is drawn; None takes the beginning of each clip, in the first view.

    Raises:
        UserError: as `utils.training.utterances.Segments`.
    """

    n_with_extra_speaker = 0
    n_together = 1

    def __init__(
        self,
        manifest: Manifest,
        stores: Sequence[AnyStore],
        segment_sec: float,
        fps: float,
        size: int = 0,
        seed: int | None = None,
    ) -> None:
        self.manifest, self.stores, self.seed = manifest, stores, seed
        self.segments = Segments(manifest, stores, segment_sec, fps)
        self.left_out = self.segments.left_out
        self.size = size or len(self.segments.items)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        segments, start_frame, view, gain = self.segments, 0, 0, 1.0
        if self.seed is None:
            item = segments.items[index]
        else:
            rng = np.random.default_rng([self.seed, epoch, index])
            item = segments.items[index if self.size == len(segments.items) else int(rng.integers(len(segments.items)))]
            start_frame = int(rng.integers(segments.last_start(item) + 1))
            view = int(rng.integers(len(self.stores)))
            gain = 10 ** (rng.uniform(-_MAX_LEVEL_DB, _MAX_LEVEL_DB) / 20)
        rate_hz = segments.sample_rate
        voice = read_audio(self.manifest.resolve(item.audio_path), *segments.sample_range(start_frame), rate_hz)
        targets = read_visual(self.stores[view], item.mouth_path, start_frame, segments.n_frames)
        return {"voice": torch.from_numpy(voice * np.float32(gain)), "targets": torch.from_numpy(targets)}


def make_clip_datasets(
    config: Config,
    train_manifest: Manifest,
    val_manifest: Manifest,
    train_stores: Sequence[AnyStore],
    val_stores: Sequence[AnyStore],
) -> tuple[Dataset, Dataset]:
    """Make the data sets of training and of validation; the arguments are those of `utils.training.trainer.train`.

    Raises:
        UserError: data that the conf cannot be trained on.
    """
    model, data = config.model, config.data
    check_rates(config, train_manifest, val_manifest)
    train_clips = with_targets(single_clips(train_manifest), train_stores[0])
    val_clips = with_targets(single_clips(val_manifest), val_stores[0])
    mouths = [{clips.resolve(item.mouth_path) for item in clips.items} for clips in (train_clips, val_clips)]
    shared = mouths[0] & mouths[1]  # the sounds may be copies: a corpus renders the sources of its mixtures
    if shared:
        raise UserError(f"{val_manifest.path}: {len(shared)} clips are in {train_manifest.path}, too (first: {min(shared)})")
    length = (data.segment_sec, model.video_fps)
    train_set = ClipDataset(train_clips, train_stores, *length, data.epoch_size, config.training.seed)
    val_set = ClipDataset(val_clips, val_stores, *length)
    return one_batch(config, train_set) if config.training.overfit_batch else (train_set, val_set)
