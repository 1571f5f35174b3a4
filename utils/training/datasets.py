"""Training and validation examples: fixed mixtures, or single utterances mixed anew in every epoch.

An example is a dict of tensors: `mixture` (time,), `sources` (n_src, time) and, with visual embeddings, `visual`
(n_faces, frames, dim). Example `index` of epoch `epoch` depends only on the seed: not on the number of workers or
processes, and not on where a training was interrupted.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.signal import resample_poly
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.data.audio import read_audio
from utils.data.clock import frames_to_samples, samples_to_frames
from utils.data.manifest import Manifest, Mixture, Problem, Utterance, item_id, item_mouths
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.mixing.levels import MAX_DRAWS, SILENCE_POWER, power, sir_gains
from utils.training.augmentation import Acoustics, augment_visual
from utils.training.config import Config, DataConfig

log = logging.getLogger(__name__)

Example = dict[str, torch.Tensor]

# Purposes of random numbers. Each has a generator of its own, so that switching on inactive targets, rooms, noise or
# visual augmentation changes nothing else (a further speaker, speed and interferer_prob 1 do: they change what is drawn
# with the mixture).
MIXING, FIXED, EXTRAS, ROOM, NOISE, FACES, OTHERS, TARGET_ONLY = range(1, 9)

_SHORTEST_PIECE_SEC = 0.5  # of an utterance that others follow


class Segments:
    """The items of a manifest that last a segment and have their visual embeddings.

    Args:
        manifest: mixtures or utterances.
        stores: embedding stores, in each of which every mouth must be; empty for audio only.
        segment_sec: length of a segment; rounded to whole video frames.
        fps: video frames for each second.
        shortest_sec: what an item must last; None: a segment.

    Attributes:
        items: those that can be used.
        left_out: those that are too short, or whose mouths stage 2 tried and could not embed.

    Raises:
        UserError: nothing is left, the video runs at another rate, or stage 2 has not seen some mouths.
    """

    def __init__(
        self,
        manifest: Manifest,
        stores: Sequence[EmbeddingStore],
        segment_sec: float,
        fps: float,
        shortest_sec: float | None = None,
    ) -> None:
        self.sample_rate, self.fps, self.n_frames = manifest.sample_rate, fps, round(segment_sec * fps)
        shortest_frames = self.n_frames if shortest_sec is None else min(round(shortest_sec * fps), self.n_frames)
        if self.n_frames < 1:
            raise UserError(f"{manifest.path}: a segment shorter than a video frame; choose a larger --segment_sec")
        self.n_samples = frames_to_samples(self.n_frames, self.sample_rate, fps)
        not_embedded = _not_embedded(manifest, stores)
        self.items: list[Mixture | Utterance] = []
        self.left_out: list[Problem] = []
        for row, item in enumerate(manifest.items, start=2):
            mouths = item_mouths(item)
            if any(mouths) and item.fps != fps:
                rates = f"{item.fps:g} frames/s where the conf's video_fps is {fps:g}"
                raise UserError(f"{manifest.path}: video of {rates}")
            reasons = [f"{path}: {not_embedded[path]}" for path in mouths if path in not_embedded]
            if self.last_start(item, shortest_frames) < 0:
                lasts_sec, wanted_sec = item.length / self.sample_rate, shortest_frames / fps
                what = f"a segment of {wanted_sec:g} s" if shortest_sec is None else f"{wanted_sec:g} s"
                reasons.insert(0, f"lasts {lasts_sec:.2f} s, shorter than {what}")
            if reasons:
                path = item.mixture_path if isinstance(item, Mixture) else item.audio_path
                self.left_out.append(Problem(row, item_id(item), path, "; ".join(reasons)))
            else:
                self.items.append(item)
        if not self.items:
            lasts = f"nothing lasts {shortest_frames / fps:g} s and has its faces"
            raise UserError(f"{manifest.path}: {lasts}; choose a smaller --segment_sec")
        if self.left_out:
            n_left_out, first = len(self.left_out), self.left_out[0].reason
            log.warning("%s: %d of %d left out: %s", manifest.path, n_left_out, len(manifest.items), first)

    def last_start(self, item: Mixture | Utterance, n_frames: int | None = None) -> int:
        """The last video frame on which a stretch (a segment) can begin; negative where the item is too short."""
        n_frames = self.n_frames if n_frames is None else n_frames
        frames_there = samples_to_frames(item.length, self.sample_rate, self.fps)
        last = (min(item.frames, frames_there) if item.frames else frames_there) - n_frames
        while last >= 0 and sum(self.sample_range(last, n_frames)) > item.length:
            last -= 1
        return last

    def sample_range(self, start_frame: int, n_frames: int | None = None) -> tuple[int, int]:
        """First sample and length of a stretch (a segment); the length is the same wherever it begins."""
        n_frames = self.n_frames if n_frames is None else n_frames
        start, length = (frames_to_samples(frames, self.sample_rate, self.fps) for frames in (start_frame, n_frames))
        return start, length


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
                "run stage 2 with the same visual frontend"
            )
        reasons.update((path, failed[path]) for path in missing)
    return reasons


class MixtureDataset(Dataset):
    """The mixtures of a manifest, or a segment of each. A source that is silent there stays so: all zeros.

    Args:
        manifest: mixtures with references.
        stores: embedding stores to draw a view from (the first one in validation); empty for audio only.
        segment_sec: length of an example; shorter mixtures are left out and counted.
        fps: video frames for each second.
        seed: of the segments' starts, the views and the augmentation; None takes the beginning and the first view of
            faces that nothing is done to (validation).
        config: the augmentation, for training.

    Raises:
        UserError: no references, no mixture is long enough, or embeddings are missing.
    """

    n_with_extra_speaker = 0  # all mixtures hold equally many sources

    def __init__(
        self,
        manifest: Manifest,
        stores: Sequence[EmbeddingStore],
        segment_sec: float,
        fps: float = 25.0,
        seed: int | None = None,
        config: DataConfig | None = None,
    ) -> None:
        if not manifest.has_references:
            raise UserError(f"{manifest.path}: mixtures without sources cannot be trained on or validated with")
        self.manifest, self.stores, self.seed, self.config = manifest, stores, seed, config or DataConfig()
        self.segments = Segments(manifest, stores, segment_sec, fps)
        self.left_out = self.segments.left_out

    def __len__(self) -> int:
        return len(self.segments.items)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        item = self.segments.items[index]
        start_frame, view = 0, 0
        if self.seed is not None:
            rng = np.random.default_rng([self.seed, FIXED, epoch, index])
            start_frame = int(rng.integers(self.segments.last_start(item) + 1))
            view = int(rng.integers(max(len(self.stores), 1)))
        start, length = self.segments.sample_range(start_frame)
        paths = [item.mixture_path, *item.source_paths]
        audio = [read_audio(self.manifest.resolve(p), start, length, self.manifest.sample_rate) for p in paths]
        example = {"mixture": torch.from_numpy(audio[0]), "sources": torch.from_numpy(np.stack(audio[1:]))}
        if self.stores:
            store = self.stores[view]
            visual = np.stack([_visual(store, path, start_frame, self.segments.n_frames) for path in item.mouth_paths])
            if self.seed is not None:
                visual = augment_visual(visual, self.config, np.random.default_rng([self.seed, FACES, epoch, index]))
            example["visual"] = torch.from_numpy(visual)
        return example


def _visual(store: EmbeddingStore, mouth_path: str, start_frame: int, n_frames: int) -> np.ndarray:
    """Embeddings (n_frames, dim) of a mouth, zeros where there is none."""
    return store.get(mouth_path, start_frame, n_frames) if mouth_path else np.zeros((n_frames, store.dim), np.float32)


class Piece(NamedTuple):
    """A stretch of an utterance."""

    item: Utterance
    start_frame: int
    n_frames: int


class DrawnSource(NamedTuple):
    """A source for a segment, with the stretches that follow each other in it."""

    audio: np.ndarray  # (time,)
    pieces: list[Piece]  # the segment plays all their frames in its own number of frames


class UtterancePool:
    """Utterances to make mixtures of.

    Args:
        manifest: utterances.
        stores, fps: as for `Segments`.
        config: `segment_sec`, `join_clips`, `same_speaker_prob`, `faceless_prob`, `max_speed_change`.
        most_sources: the largest number of sources that will be asked for.

    Raises:
        UserError: no utterance is long enough, or too few speakers for what is asked.
    """

    def __init__(
        self, manifest: Manifest, stores: Sequence[EmbeddingStore], config: DataConfig, fps: float, most_sources: int
    ) -> None:
        self.manifest, self.config = manifest, config
        shortest_sec = _SHORTEST_PIECE_SEC if config.join_clips else None
        self.segments = Segments(manifest, stores, config.segment_sec, fps, shortest_sec)
        self.items: list[Utterance] = self.segments.items
        faceless = [index for index, item in enumerate(self.items) if not item.mouth_path]
        if config.faceless_prob and not faceless:
            raise UserError(f"{manifest.path}: every utterance has a face; add speech without faces, or set --faceless_prob 0")
        # To an audio-only network all utterances are alike, unless it is told how often to take those without a face.
        apart = set(faceless) if stores or config.faceless_prob else set()
        self.faceless = _by_speaker(self.items, apart)
        self.by_speaker = _by_speaker(self.items, set(range(len(self.items))) - apart)
        if not self.by_speaker and config.faceless_prob < 1:
            raise UserError(f"{manifest.path}: no utterance has a face; set --faceless_prob 1")
        self.speakers = list(self.by_speaker)
        # The speakers that have enough utterances to fill a mixture of so many sources.
        self.speakers_with = {
            n: [s for s in self.speakers if len(self.by_speaker[s]) >= n] for n in range(2, most_sources + 1)
        }  # fmt: skip
        fewer = " ask for fewer (--extra_speaker_prob 0 --off_screen_prob 0)," if most_sources > 2 else ""
        pools = [self.by_speaker] * (config.faceless_prob < 1) + [self.faceless] * (config.faceless_prob > 0)
        fewest = min(map(len, pools))
        if config.same_speaker_prob < 1 and fewest < most_sources:
            raise UserError(
                f"{manifest.path}: {fewest} speaker(s) cannot make mixtures of {most_sources} different "
                f"ones; give more,{fewer} or mix utterances of one speaker (--same_speaker_prob 1)"
            )
        if config.same_speaker_prob > 0 and most_sources > 1 and not self.speakers_with[most_sources]:
            raise UserError(
                f"{manifest.path}: no speaker has {most_sources} utterances to be mixed with each other;{fewer} or set "
                "--same_speaker_prob 0"
            )

    def draw(self, n_sources: int, rng: np.random.Generator) -> list[DrawnSource]:
        """Draw the sources of one mixture, in random order, each for a segment."""
        drawn = self.draw_utterances(n_sources, rng)
        return [self.segment(index, rng, taken=drawn) for index in drawn]

    def draw_utterances(self, n_sources: int, rng: np.random.Generator) -> list[int]:
        """Draw the indices of the utterances of one mixture, in random order."""
        same_speaker_prob = self.config.same_speaker_prob
        if n_sources > 1 and same_speaker_prob and rng.random() < same_speaker_prob:
            speaker = self._draw_speaker(n_sources, rng)
            return [int(i) for i in rng.choice(self.by_speaker[speaker], n_sources, replace=False)]
        is_faceless = np.zeros(n_sources, bool)
        if self.config.faceless_prob:
            is_faceless = rng.random(n_sources) < self.config.faceless_prob
        drawn: list[int] = []
        for pool, count in ((self.by_speaker, sum(~is_faceless)), (self.faceless, sum(is_faceless))):
            drawn += _draw_of_speakers(pool, int(count), rng)
        return [drawn[i] for i in rng.permutation(n_sources)]

    def _draw_speaker(self, n_sources: int, rng: np.random.Generator) -> str:
        """Draw a speaker who can fill a mixture; every utterance is as likely, however many its speaker has."""
        indices = [index for speaker in self.speakers_with[n_sources] for index in self.by_speaker[speaker]]
        return _speaker(self.items[indices[rng.integers(len(indices))]])

    def segment(self, index: int, rng: np.random.Generator, taken: Sequence[int] = ()) -> DrawnSource:
        """Draw a stretch of an utterance in which somebody speaks.

        Args:
            index: the utterance; one that is too short is followed by others of its speaker (`join_clips`).
            rng: of the stretch, the speed, and what follows.
            taken: utterances that are not to follow, as other sources of the mixture are made of them.

        Raises:
            UserError: none is found, or the audio cannot be read.
        """
        segments, change = self.segments, self.config.max_speed_change
        for _ in range(MAX_DRAWS):
            n_frames = segments.n_frames
            if change:
                n_frames = round(n_frames * rng.uniform(1 - change, 1 + change))
            pieces = self._pieces(index, n_frames, rng, taken)
            audio = np.concatenate([self._read(piece) for piece in pieces])
            if power(audio) <= SILENCE_POWER:
                continue
            n_there = sum(piece.n_frames for piece in pieces)
            if n_there != segments.n_frames:
                audio = resample_poly(audio, segments.n_frames, n_there)
            audio = np.pad(audio[: segments.n_samples], (0, max(segments.n_samples - len(audio), 0)))
            return DrawnSource(audio, pieces)
        raise UserError(
            f"{self.manifest.path}: utterance {self.items[index].utterance_id} is silent in {MAX_DRAWS} segments of "
            f"{segments.n_frames} frames; remove it from the manifest"
        )

    def _pieces(self, index: int, n_frames: int, rng: np.random.Generator, taken: Sequence[int]) -> list[Piece]:
        """Draw a stretch of n_frames; where the utterance is shorter, all of it and stretches of others of its speaker."""
        pieces, left, segments = [], n_frames, self.segments
        speaker = _speaker(self.items[index])
        own = self.by_speaker.get(speaker) or self.faceless[speaker]
        others = [other for other in own if other not in taken and other != index] or [index]
        while left > 0:
            item = self.items[index]
            count = min(left, segments.last_start(item, 0))
            pieces.append(Piece(item, int(rng.integers(segments.last_start(item, count) + 1)), count))
            if not self.config.join_clips:  # at a higher speed an utterance may end a little early
                break
            left -= count
            index = others[rng.integers(len(others))]
        return pieces

    def _read(self, piece: Piece) -> np.ndarray:
        path = self.manifest.resolve(piece.item.audio_path)
        return read_audio(path, *self.segments.sample_range(*piece[1:]), self.segments.sample_rate)

    def visual(self, source: DrawnSource, store: EmbeddingStore) -> np.ndarray:
        """The embeddings that go with a source, played in the frames of a segment: (frames, dim)."""
        visual = np.concatenate([_visual(store, piece.item.mouth_path, *piece[1:]) for piece in source.pieces])
        n_frames = len(visual)
        if n_frames == self.segments.n_frames:
            return visual
        positions = (np.arange(self.segments.n_frames) + 0.5) * n_frames / self.segments.n_frames - 0.5
        before = np.clip(np.floor(positions).astype(int), 0, n_frames - 2)
        weight = np.clip(positions - before, 0, 1)[:, None].astype(np.float32)
        return visual[before] * (1 - weight) + visual[before + 1] * weight


def _speaker(item: Utterance) -> str:
    return item.speaker or item.utterance_id


def _draw_of_speakers(pool: dict[str, list[int]], count: int, rng: np.random.Generator) -> list[int]:
    """Draw utterances of different speakers: of the first every utterance is as likely, of the others every speaker."""
    if not count:
        return []
    indices = sorted(index for own in pool.values() for index in own)
    first = indices[rng.integers(len(indices))]
    others = [speaker for speaker, own in pool.items() if first not in own]
    return [first, *(int(rng.choice(pool[speaker])) for speaker in rng.choice(others, count - 1, replace=False))]


def _by_speaker(items: Sequence[Utterance], indices: Collection[int]) -> dict[str, list[int]]:
    """The utterances of these indices by their speakers, in order."""
    found: dict[str, list[int]] = defaultdict(list)
    for index in sorted(indices):
        found[_speaker(items[index])].append(index)
    return dict(sorted(found.items()))


class DynamicMixtureDataset(Dataset):
    """Single utterances, mixed anew in every epoch: random partners, SIRs, whole-frame segments and views.

    With n_src 1 (extraction) another source is mixed in that is no target and has no face. A target that is inactive is
    left out of the mixture and its source is zeros, while its face is shown; the other sources keep the levels they were
    drawn with.

    Args:
        manifest: utterances.
        stores: embedding stores to draw a view from; empty for audio only.
        config: what is drawn, and how often.
        n_src: sources to separate.
        fps: video frames for each second.
        seed: of everything.

    Attributes:
        n_with_extra_speaker: so many of the examples, the first of each epoch, have n_src + 1 targets.
        left_out: the utterances that are too short, or whose mouths stage 2 could not embed.

    Raises:
        UserError: no utterance is long enough, too few speakers or room responses for what is asked, folders or files
            of noise, rooms or interferers that cannot be used, or embeddings are missing.
    """

    def __init__(
        self,
        manifest: Manifest,
        stores: Sequence[EmbeddingStore],
        config: DataConfig,
        *,
        n_src: int,
        fps: float = 25.0,
        seed: int = 0,
    ) -> None:
        self.stores, self.config, self.n_src, self.seed = stores, config, n_src, seed
        most_targets = n_src + (config.extra_speaker_prob > 0)
        most_sources = max(most_targets, 2) + (config.off_screen_prob > 0)
        # Where every source without a face is from elsewhere, a corpus needs no second speaker.
        self.draws_others = config.interferer_prob < 1
        most_drawn = most_sources if self.draws_others else most_targets
        self.pool = UtterancePool(manifest, stores, config, fps, most_drawn)
        self.acoustics = Acoustics(config, manifest.sample_rate)
        self.acoustics.check_sources(most_sources)
        self.size = config.epoch_size or len(self.pool.items)
        self.left_out = self.pool.segments.left_out
        self.n_with_extra_speaker = round(config.extra_speaker_prob * self.size)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        config = self.config
        kinds = (MIXING, EXTRAS, ROOM, NOISE, FACES, OTHERS, TARGET_ONLY)
        rngs = {kind: np.random.default_rng([self.seed, kind, epoch, index]) for kind in kinds}
        n_targets = self.n_src + (index < self.n_with_extra_speaker)
        off_screen, has_inactive = rngs[EXTRAS].random(2) < (config.off_screen_prob, config.inactive_target_prob)
        inactive = int(rngs[EXTRAS].integers(n_targets)) if has_inactive else None
        target_only = bool(rngs[TARGET_ONLY].random() < config.target_only_prob) and inactive is None

        view = int(rngs[MIXING].integers(max(len(self.stores), 1)))
        n_sources = max(n_targets, 2) + int(off_screen)
        drawn = self.pool.draw(n_sources if self.draws_others else n_targets, rngs[MIXING])
        sirs_db = rngs[MIXING].uniform(-config.max_sir_db, config.max_sir_db, n_sources - 1)
        audio = self._audio(drawn, n_targets, n_sources, rngs[OTHERS])  # (n_sources, time)
        is_noise = int(rngs[EXTRAS].integers(n_targets)) if rngs[EXTRAS].random() < config.noise_source_prob else None
        if is_noise is not None:
            audio[is_noise] = self.acoustics.noise(audio.shape[1], rngs[NOISE])
        whole, early = self.acoustics.reverberate(audio, rngs[ROOM])  # (n_sources, time) both
        gains = sir_gains(whole, sirs_db)  # (n_sources, 1)
        if inactive is not None:
            gains[inactive] = 0
        if target_only:
            gains[n_targets:] = 0
        speech = (whole * gains).astype(np.float32).sum(axis=0)
        mixture = self.acoustics.add_noise(speech, rngs[NOISE], always=target_only)
        sources = (early[:n_targets] * gains[:n_targets]).astype(np.float32)
        example = {"mixture": torch.from_numpy(mixture), "sources": torch.from_numpy(sources)}
        if self.stores:
            visual = np.stack([self.pool.visual(source, self.stores[view]) for source in drawn[:n_targets]])
            if is_noise is not None:
                visual[is_noise] = 0
            # Beside a source that is not wanted, a missing face would leave open which source is meant.
            visual = augment_visual(visual, config, rngs[FACES], keep_faces=bool(off_screen))
            example["visual"] = torch.from_numpy(visual)
        return example

    def _audio(self, drawn: list[DrawnSource], n_targets: int, n_sources: int, rng: np.random.Generator) -> np.ndarray:
        """Dry sources (n_sources, time): the targets, then those without a face, some of them of `interferer_dir`."""
        audio = np.stack([source.audio for source in drawn])
        if n_sources == n_targets:
            return audio
        others = np.zeros((n_sources - n_targets, audio.shape[1]), np.float32)
        others[: len(drawn) - n_targets] = audio[n_targets:]
        return np.concatenate([audio[:n_targets], self.acoustics.interferers(others, rng)])


class RepeatedBatch(Dataset):
    """The same few examples over and over, to see whether a network can overfit to them."""

    n_with_extra_speaker = 0
    left_out = ()

    def __init__(self, examples: list[Example], size: int) -> None:
        self.examples, self.size = examples, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> Example:
        return self.examples[key[1] % len(self.examples)]


class EpochSampler(Sampler[tuple[int, int]]):
    """Indices (epoch, index) for one process of several; every process draws its own part of the same order.

    Args:
        size: examples in an epoch, over all processes.
        seed: of the order; None keeps the given order and every example (validation), otherwise the order is shuffled
            anew in every epoch and the tail that does not fill a batch on all processes is left out (training).
        rank, world_size: this process and the number of processes.
        epoch: the one to begin with. Workers draw their first indices before anybody calls `set_epoch`, so a training
            that goes on must say where.
        batch_size: indices that the loader will stack, for each process.
        n_with_extra_speaker: the first so many examples hold a source more than the others, so that each batch, on all
            processes at once, is made of them only or of others only. The batches of both come in random order.
    """

    def __init__(
        self,
        size: int,
        seed: int | None,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        *,
        batch_size: int = 1,
        n_with_extra_speaker: int = 0,
    ) -> None:
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        self.epoch, self.batch_size, self.n_with_extra_speaker = epoch, batch_size, n_with_extra_speaker

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch`; Lightning calls it before each one."""
        self.epoch = epoch

    @property
    def step(self) -> int:
        """Examples of a batch, over all processes."""
        return self.batch_size * self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.seed is None:
            return iter([(0, index) for index in range(self.rank, self.size, self.world_size)])
        rng = np.random.default_rng([self.seed, self.epoch])
        order, n_extra = rng.permutation(self.size), self.n_with_extra_speaker
        groups = [order[order < n_extra], order[order >= n_extra]]
        whole = [group[: len(group) // self.step * self.step] for group in groups]
        batches = np.concatenate(whole).reshape(-1, self.step)
        if 0 < n_extra < self.size:
            batches = rng.permutation(batches)
        return iter([(self.epoch, int(index)) for index in batches[:, self.rank :: self.world_size].ravel()])

    def __len__(self) -> int:
        if self.seed is None:
            return len(range(self.rank, self.size, self.world_size))
        n_extra = self.n_with_extra_speaker
        return sum(n // self.step for n in (n_extra, self.size - n_extra)) * self.batch_size


def make_datasets(
    config: Config,
    train_manifest: Manifest,
    val_manifest: Manifest,
    train_stores: Sequence[EmbeddingStore],
    val_stores: Sequence[EmbeddingStore],
) -> tuple[Dataset, Dataset]:
    """Make the data sets of training and of validation; the arguments are those of `utils.training.trainer.train`.

    Raises:
        UserError: data that the conf cannot be trained on.
    """
    model, data, seed = config.model, config.data, config.training.seed
    for manifest in (train_manifest, val_manifest):
        if manifest.sample_rate != model.sample_rate:
            raise UserError(f"{manifest.path}: {manifest.sample_rate} Hz, the conf says {model.sample_rate} Hz")
    if val_manifest.n_src != model.n_src and not config.is_extraction:  # which takes each face for itself
        raise UserError(f"{val_manifest.path}: {val_manifest.n_src} sources in a mixture, the conf says {model.n_src}")
    val_set = MixtureDataset(val_manifest, val_stores, data.val_segment_sec or data.segment_sec, model.video_fps)
    if data.dynamic:
        train_set = DynamicMixtureDataset(train_manifest, train_stores, data, n_src=model.n_src, fps=model.video_fps, seed=seed)
    else:
        train_set = MixtureDataset(train_manifest, train_stores, data.segment_sec, model.video_fps, seed, data)
    if config.training.overfit_batch:
        batch = [train_set[0, index] for index in range(min(config.training.batch_size, len(train_set)))]
        return RepeatedBatch(batch, len(train_set)), RepeatedBatch(batch, len(batch))
    return train_set, val_set


def make_sampler(
    config: Config, train_set: Dataset, path: Path, rank: int = 0, world_size: int = 1, first_epoch: int = 0
) -> EpochSampler:
    """Make the order of the training examples, in whole batches of equally many sources.

    `train_set` is what `make_datasets` made of the manifest at `path`; the others are arguments of `EpochSampler`.

    Raises:
        UserError: too few examples for a batch.
    """
    batch_size, n_extra, seed = config.training.batch_size, train_set.n_with_extra_speaker, config.training.seed
    place = (rank, world_size, first_epoch)
    sampler = EpochSampler(len(train_set), seed, *place, batch_size=batch_size, n_with_extra_speaker=n_extra)
    if len(train_set) < sampler.step:
        raise UserError(
            f"{path}: {len(train_set)} examples are too few for a step of {batch_size} mixtures x "
            f"{world_size} processes; lower --batch_size"
        )
    prob = config.data.extra_speaker_prob
    if (prob and n_extra < sampler.step) or (prob < 1 and len(train_set) - n_extra < sampler.step):
        raise UserError(
            f"--extra_speaker_prob {prob:g} makes {n_extra} of {len(train_set)} mixtures; those and the others must "
            f"each fill a step of {batch_size} mixtures x {world_size} processes; raise --epoch_size, or set it to 0 or 1"
        )
    return sampler


def make_loader(config: Config, dataset: Dataset, sampler: EpochSampler) -> DataLoader:
    """Make batches of a data set, in the order of the sampler."""
    workers = config.data.num_workers
    return DataLoader(
        dataset,
        batch_size=config.training.batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        drop_last=sampler.seed is not None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, or the workers' seeds would shift the network's dropout
    )


def collate(examples: list[Example]) -> Example:
    """Stack examples of one length and number of sources into a batch."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
