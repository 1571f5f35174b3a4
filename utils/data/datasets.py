"""Training and validation examples: fixed mixtures, or single utterances mixed anew in every epoch.

An example is a dict of tensors: `mixture` (time,), `sources` (n_src, time) and, where faces are asked for, `visual`
(n_cues, frames, dim). What example `index` of epoch `epoch` holds depends on nothing but the seed: not on the number of
workers or processes, and not on where a training was interrupted.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.signal import resample_poly
from torch.utils.data import Dataset, Sampler

from utils.data.audio import read_audio
from utils.data.embedding_store import EmbeddingStore
from utils.data.manifest import Manifest, Mixture, Utterance
from utils.data.mixing import frames_to_samples, mix_at_sir, power, samples_to_frames
from utils.errors import UserError

log = logging.getLogger(__name__)

Example = dict[str, torch.Tensor]
SILENCE_POWER = 1e-8  # -80 dB re full scale: no voice in it
MAX_DRAWS = 20


class Clock(NamedTuple):
    """What audio and video count by."""

    sample_rate: int  # Hz
    fps: float  # video frames for each second


class EpochSampler(Sampler[tuple[int, int]]):
    """Indices (epoch, index) for one process of several; every process draws its own part of the same order.

    Args:
        size: examples in an epoch, over all processes.
        seed: of the order; None keeps the given order and every example (validation), otherwise the order is shuffled
            anew in every epoch and the tail that does not fill all processes is left out (training).
        rank, world_size: this process and the number of processes.
        epoch: the one to begin with. Workers draw their first indices before anybody calls `set_epoch`, so a training
            that goes on must say where.
    """

    def __init__(self, size: int, seed: int | None, rank: int = 0, world_size: int = 1, epoch: int = 0) -> None:
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch`; Lightning calls it before each one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.seed is None:
            return iter([(0, index) for index in range(self.rank, self.size, self.world_size)])
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        mine = order[self.rank : len(self) * self.world_size : self.world_size]
        return iter([(self.epoch, int(index)) for index in mine])

    def __len__(self) -> int:
        if self.seed is None:
            return len(range(self.rank, self.size, self.world_size))
        return self.size // self.world_size


class MixtureDataset(Dataset):
    """The mixtures of a manifest, or a segment of each.

    Args:
        manifest: mixtures with references.
        stores: embedding stores to draw a view from (the first one in validation); empty for audio only.
        segment_sec: length of an example; shorter mixtures are left out and counted.
        seed: of the segments' starts and the views; None takes the beginning and the first view (validation).
        fps: video frames for each second.

    Raises:
        UserError: no references, no mixture is long enough, or embeddings are missing.
    """

    def __init__(
        self,
        manifest: Manifest,
        stores: Sequence[EmbeddingStore],
        segment_sec: float,
        seed: int | None = None,
        fps: float = 25.0,
    ) -> None:
        if not manifest.has_references:
            raise UserError(f"{manifest.path}: mixtures without sources cannot be trained on or validated with")
        self.manifest, self.stores, self.seed = manifest, list(stores), seed
        self.segment_frames = round(segment_sec * fps)
        self.clock = Clock(manifest.sample_rate, fps)
        self.items: list[Mixture] = _long_enough(manifest, self.segment_frames, self.clock)
        _check_embeddings(manifest, self.stores, [path for item in self.items for path in item.mouth_paths])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        item, rng = self.items[index], _generator(self.seed, epoch, index)
        start_frame, view = 0, 0
        if rng is not None:
            start_frame = int(rng.integers(_last_start(item, self.clock, self.segment_frames) + 1))
            view = int(rng.integers(max(len(self.stores), 1)))
        start, length = _samples(self.clock, start_frame, self.segment_frames)
        paths = [item.mixture_path, *item.source_paths]
        audio = [read_audio(self.manifest.resolve(p), start, length, self.manifest.sample_rate) for p in paths]
        example = {"mixture": torch.from_numpy(audio[0]), "sources": torch.from_numpy(np.stack(audio[1:]))}
        if self.stores:
            store = self.stores[view]
            cues = [store.get(path, start_frame, self.segment_frames) for path in item.mouth_paths]
            example["visual"] = torch.from_numpy(np.stack(cues))
        return example


class DynamicMixtureDataset(Dataset):
    """Single utterances, mixed anew in every epoch: random partners, true SIR, random whole-frame segments and views.

    Args:
        manifest: utterances.
        stores: embedding stores to draw a view from; empty for audio only.
        segment_sec: length of an example; shorter utterances are left out and counted.
        n_src: voices to separate. With one, the target, another voice is mixed in that is no target and has no face.
        size: mixtures in an epoch; 0 takes as many as there are utterances.
        sir_range_db: the first voice's SIR over each other one is uniform in ±sir_range_db.
        same_speaker: share of the mixtures whose voices are all of one speaker.
        speed: a voice and its face are played at 1 - speed to 1 + speed of their speed, which also moves pitch and
            formants: more voices than there are speakers. Held to what the utterance is long enough for.
        seed: of everything that is drawn.
        fps: video frames for each second.

    Raises:
        UserError: no utterance is long enough, too few speakers for what is asked, or embeddings are missing.
    """

    def __init__(
        self,
        manifest: Manifest,
        stores: Sequence[EmbeddingStore],
        segment_sec: float,
        *,
        n_src: int,
        size: int = 0,
        sir_range_db: float = 5.0,
        same_speaker: float = 0.0,
        speed: float = 0.0,
        seed: int = 0,
        fps: float = 25.0,
    ) -> None:
        self.manifest, self.stores, self.n_src, self.seed = manifest, list(stores), n_src, seed
        self.n_voices = max(n_src, 2)
        self.sir_range_db, self.same_speaker, self.speed = sir_range_db, same_speaker, speed
        self.segment_frames = round(segment_sec * fps)
        self.clock = Clock(manifest.sample_rate, fps)
        self.items: list[Utterance] = _long_enough(manifest, self.segment_frames, self.clock)
        self.size = size or len(self.items)
        self.by_speaker: dict[str, list[int]] = defaultdict(list)
        for index, item in enumerate(self.items):
            self.by_speaker[item.speaker or item.utterance_id].append(index)
        self.speakers = sorted(self.by_speaker)
        self.talkative = [s for s in self.speakers if len(self.by_speaker[s]) >= self.n_voices]
        if same_speaker < 1 and len(self.speakers) < self.n_voices:
            raise UserError(
                f"{manifest.path}: {len(self.speakers)} speaker(s) cannot make mixtures of {self.n_voices} different ones; "
                "--same_speaker 1 mixes utterances of one speaker"
            )
        if same_speaker > 0 and not self.talkative:
            raise UserError(f"{manifest.path}: no speaker has {self.n_voices} utterances, so --same_speaker must be 0")
        _check_embeddings(manifest, self.stores, [item.mouth_path for item in self.items])

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        rng = np.random.default_rng([self.seed, 1, epoch, index])
        view = int(rng.integers(max(len(self.stores), 1)))
        drawn = [self._segment(item_index, rng) for item_index in self._draw(rng)]
        sirs_db = rng.uniform(-self.sir_range_db, self.sir_range_db, self.n_voices - 1)
        mixture, sources = mix_at_sir(np.stack([audio for audio, _, _, _ in drawn]), sirs_db)
        example = {"mixture": torch.from_numpy(mixture), "sources": torch.from_numpy(sources[: self.n_src])}
        if self.stores:
            cues = [self._cues(self.stores[view], *where) for _, *where in drawn[: self.n_src]]
            example["visual"] = torch.from_numpy(np.stack(cues))
        return example

    def _cues(self, store: EmbeddingStore, item: Utterance, start_frame: int, n_frames: int) -> np.ndarray:
        """Embeddings of a stretch, played in the frames of a segment: (segment_frames, dim)."""
        cues = store.get(item.mouth_path, start_frame, n_frames)
        if n_frames == self.segment_frames:
            return cues
        positions = (np.arange(self.segment_frames) + 0.5) * n_frames / self.segment_frames - 0.5
        before = np.clip(np.floor(positions).astype(int), 0, n_frames - 2)
        weight = np.clip(positions - before, 0, 1)[:, None].astype(np.float32)
        return cues[before] * (1 - weight) + cues[before + 1] * weight

    def _draw(self, rng: np.random.Generator) -> list[int]:
        """Indices of the utterances of one mixture, in random order."""
        if self.same_speaker and rng.random() < self.same_speaker:
            speaker = self.talkative[rng.integers(len(self.talkative))]
            return [int(i) for i in rng.choice(self.by_speaker[speaker], self.n_voices, replace=False)]
        first = int(rng.integers(len(self.items)))  # every utterance is as likely, however many its speaker has
        own = self.items[first].speaker or self.items[first].utterance_id
        others = [s for s in self.speakers if s != own]
        chosen = rng.choice(others, self.n_voices - 1, replace=False)
        drawn = [first, *(int(rng.choice(self.by_speaker[s])) for s in chosen)]
        return [drawn[i] for i in rng.permutation(self.n_voices)]

    def _segment(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, Utterance, int, int]:
        """A voice for a segment: samples (time,), and the utterance, first frame and number of frames they are from."""
        item, rate = self.items[index], self.manifest.sample_rate
        frames_there = _last_start(item, self.clock, 0)
        length = frames_to_samples(self.segment_frames, rate, self.clock.fps)
        for _ in range(MAX_DRAWS):
            n_frames = self.segment_frames
            if self.speed:
                n_frames = min(round(n_frames * rng.uniform(1 - self.speed, 1 + self.speed)), frames_there)
            start_frame = int(rng.integers(_last_start(item, self.clock, n_frames) + 1))
            audio = read_audio(self.manifest.resolve(item.audio_path), *_samples(self.clock, start_frame, n_frames), rate)
            if power(audio) <= SILENCE_POWER:
                continue
            if n_frames != self.segment_frames:
                audio = resample_poly(audio, self.segment_frames, n_frames)[:length]
                audio = np.pad(audio, (0, length - len(audio)))
            return audio, item, start_frame, n_frames
        raise UserError(
            f"{self.manifest.path}: utterance {item.utterance_id} is silent in {MAX_DRAWS} segments of "
            f"{self.segment_frames} frames; remove it from the manifest"
        )


def collate(examples: list[Example]) -> Example:
    """Stack examples of one length into a batch."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def _generator(seed: int | None, epoch: int, index: int) -> np.random.Generator | None:
    return None if seed is None else np.random.default_rng([seed, 2, epoch, index])


def _long_enough(manifest: Manifest, segment_frames: int, clock: Clock) -> list:
    """The items that last a segment; the others are counted in the log."""
    segment_sec = segment_frames / clock.fps
    if segment_frames < 1:
        raise UserError(f"{manifest.path}: a segment must last a video frame at least; choose a larger --segment_sec")
    for item in manifest.items:
        has_mouth = any(item.mouth_paths) if isinstance(item, Mixture) else bool(item.mouth_path)
        if has_mouth and item.fps != clock.fps:
            raise UserError(f"{manifest.path}: video of {item.fps:g} frames/s where the conf's video_fps is {clock.fps:g}")
    kept = [item for item in manifest.items if _last_start(item, clock, segment_frames) >= 0]
    if not kept:
        raise UserError(f"{manifest.path}: nothing lasts {segment_sec:g} s; choose a smaller --segment_sec")
    if len(kept) < len(manifest.items):
        short = len(manifest.items) - len(kept)
        log.warning("%s: %d of %d are shorter than %g s, left out", manifest.path, short, len(manifest.items), segment_sec)
    return kept


def _last_start(item: Mixture | Utterance, clock: Clock, n_frames: int) -> int:
    """The last video frame on which a stretch of `n_frames` can begin; negative where the item is too short."""
    frames_there = samples_to_frames(item.length, clock.sample_rate, clock.fps)
    last = (min(item.frames, frames_there) if item.frames else frames_there) - n_frames
    while last >= 0 and sum(_samples(clock, last, n_frames)) > item.length:
        last -= 1
    return last


def _samples(clock: Clock, start_frame: int, n_frames: int) -> tuple[int, int]:
    """First sample and length of a stretch; the length is the same wherever it begins."""
    start, length = (frames_to_samples(frames, clock.sample_rate, clock.fps) for frames in (start_frame, n_frames))
    return start, length


def _check_embeddings(manifest: Manifest, stores: Sequence[EmbeddingStore], paths: Sequence[str]) -> None:
    for store in stores:
        missing = sorted({path for path in paths if path not in store})
        if missing:
            raise UserError(
                f"{manifest.path}: {len(missing)} mouth crops have no embeddings in {store.root} (first: {missing[0]}); "
                "run stage 2 with the same front end"
            )
