"""Training and validation examples: fixed mixtures, or single utterances mixed anew in every epoch.

An example is a dict of tensors: `mixture` (time,), `sources` (n_src, time), with visual embeddings `visual`
(n_faces, frames, dim) and, of single utterances, `speakers` (n_src,), whose numbers they are; -1 is noise, or somebody without
a face. Example `index` of epoch `epoch` depends only on the seed: not on the number of workers or processes, and not on where a
training was interrupted.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.data.audio import read_audio
from utils.data.manifest import Manifest
from utils.embedding.joined import AnyStore
from utils.errors import UserError
from utils.mixing.levels import sir_gains
from utils.training.augmentation import Acoustics, augment_visual
from utils.training.config import Config, DataConfig
from utils.training.utterances import DrawnSource, Segments, UtterancePool, read_visual

Example = dict[str, torch.Tensor]

# Purposes of random numbers. Each has a generator of its own, so that switching on inactive targets, rooms, noise or
# visual augmentation changes nothing else (a further speaker, speed and interferer_prob 1 do: they change what is drawn
# with the mixture).
MIXING, FIXED, EXTRAS, ROOM, NOISE, FACES, OTHERS, TARGET_ONLY, SHARED = range(1, 10)


_MOST_CANDIDATES = 8  # for a partner, of whom the face that is least like the first's is taken


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
    n_together = 1

    def __init__(
        self,
        manifest: Manifest,
        stores: Sequence[AnyStore],
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
            visual = np.stack([read_visual(store, path, start_frame, self.segments.n_frames) for path in item.mouth_paths])
            if self.seed is not None:
                visual = augment_visual(visual, self.config, np.random.default_rng([self.seed, FACES, epoch, index]))
            example["visual"] = torch.from_numpy(visual)
        return example


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
        face_dim: numbers of an embedding, the last ones, that are of the face; for `curriculum_epochs`.

    Attributes:
        n_with_extra_speaker: so many of the examples, the first of each epoch, have n_src + 1 targets.
        n_together: so many examples, from a multiple of it on, belong into one batch.
        left_out: the utterances that are too short, or whose mouths stage 2 could not embed.

    Raises:
        UserError: no utterance is long enough, too few speakers or room responses for what is asked, folders or files
            of noise, rooms or interferers that cannot be used, or embeddings are missing.
    """

    def __init__(
        self,
        manifest: Manifest,
        stores: Sequence[AnyStore],
        config: DataConfig,
        *,
        n_src: int,
        fps: float = 25.0,
        seed: int = 0,
        face_dim: int = 0,
    ) -> None:
        self.stores, self.config, self.n_src, self.seed = stores, config, n_src, seed
        most_targets = n_src + (config.extra_speaker_prob > 0)
        most_sources = max(most_targets, 2) + (config.off_screen_prob > 0)
        # Where every source without a face is from elsewhere, a corpus needs no second speaker.
        self.draws_others = config.interferer_prob < 1
        most_drawn = most_sources if self.draws_others else most_targets
        self.pool = UtterancePool(manifest, stores, config, fps, most_drawn)
        if config.curriculum_epochs:
            self.pool.describe_speakers(stores[0], face_dim)
        if config.shared_speaker and not self.pool.speakers_with[2]:
            raise UserError(f"{manifest.path}: no speaker has two utterances; set --shared_speaker false")
        self.numbers = {speaker: number for number, speaker in enumerate(self.pool.speakers)}
        self.acoustics = Acoustics(config, manifest.sample_rate)
        self.acoustics.check_sources(most_sources)
        self.size = config.epoch_size or len(self.pool.items)
        self.left_out = self.pool.segments.left_out
        self.n_together = 2 if config.shared_speaker else 1
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
        first = None
        if config.shared_speaker:
            first = self.pool.draw_shared(np.random.default_rng([self.seed, SHARED, epoch, index // 2]))[index % 2]
        n_candidates = 1
        if epoch < config.curriculum_epochs:
            n_candidates = max(round(_MOST_CANDIDATES * (1 - epoch / config.curriculum_epochs)), 1)
        drawn = self.pool.draw(n_sources if self.draws_others else n_targets, rngs[MIXING], first, n_candidates)
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
        speakers = [self.numbers.get(source.speaker, -1) for source in drawn[:n_targets]]
        if is_noise is not None:
            speakers[is_noise] = -1
        example["speakers"] = torch.tensor(speakers)
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

    def __init__(self, examples: list[Example], size: int, n_together: int = 1) -> None:
        self.examples, self.size, self.n_together = examples, size, n_together

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
        n_together: so many examples that follow each other, from a multiple of it on, stay in one batch of one process.
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
        n_together: int = 1,
    ) -> None:
        self.n_together = n_together
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
        together = rng.permutation(self.size // self.n_together)[:, None] * self.n_together + np.arange(self.n_together)
        order, n_extra = together.ravel(), self.n_with_extra_speaker
        groups = [order[order < n_extra], order[order >= n_extra]]
        whole = [group[: len(group) // self.step * self.step] for group in groups]
        batches = np.concatenate(whole).reshape(-1, self.step)
        if 0 < n_extra < self.size:
            batches = rng.permutation(batches)
        parts = batches.reshape(len(batches), -1, self.world_size, self.n_together)  # of the processes
        return iter([(self.epoch, int(index)) for index in parts[:, :, self.rank].ravel()])

    def __len__(self) -> int:
        if self.seed is None:
            return len(range(self.rank, self.size, self.world_size))
        n_extra = self.n_with_extra_speaker
        size = self.size // self.n_together * self.n_together
        return sum(n // self.step for n in (n_extra, size - n_extra)) * self.batch_size


def make_datasets(
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
    model, data, seed = config.model, config.data, config.training.seed
    check_rates(config, train_manifest, val_manifest)
    if val_manifest.n_src != model.n_src and not config.is_extraction:  # which takes each face for itself
        raise UserError(f"{val_manifest.path}: {val_manifest.n_src} sources in a mixture, the conf says {model.n_src}")
    val_set = MixtureDataset(val_manifest, val_stores, data.val_segment_sec or data.segment_sec, model.video_fps)
    if data.dynamic:
        facts = {"n_src": model.n_src, "fps": model.video_fps, "seed": seed, "face_dim": model.face_dim}
        train_set = DynamicMixtureDataset(train_manifest, train_stores, data, **facts)
    else:
        train_set = MixtureDataset(train_manifest, train_stores, data.segment_sec, model.video_fps, seed, data)
    return one_batch(config, train_set) if config.training.overfit_batch else (train_set, val_set)


def check_rates(config: Config, *manifests: Manifest) -> None:
    """Refuse manifests of another sample rate than the network's.

    Raises:
        UserError: there is one.
    """
    wanted_hz = config.model.sample_rate
    for manifest in manifests:
        if manifest.sample_rate != wanted_hz:
            raise UserError(f"{manifest.path}: {manifest.sample_rate} Hz, the conf says {wanted_hz} Hz")


def one_batch(config: Config, train_set: Dataset) -> tuple[RepeatedBatch, RepeatedBatch]:
    """The first batch of a data set over and over, for training and for validation (`training.overfit_batch`)."""
    batch = [train_set[0, index] for index in range(min(config.training.batch_size, len(train_set)))]
    return RepeatedBatch(batch, len(train_set), train_set.n_together), RepeatedBatch(batch, len(batch))


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
    groups = {"n_with_extra_speaker": n_extra, "n_together": train_set.n_together}
    sampler = EpochSampler(len(train_set), seed, *place, batch_size=batch_size, **groups)
    if len(train_set) < sampler.step:
        raise UserError(
            f"{path}: {len(train_set)} examples are too few for a step of {batch_size} mixtures x "
            f"{world_size} processes; lower --batch_size"
        )
    prob = 0.0 if config.is_voice_to_mouth else config.data.extra_speaker_prob
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
