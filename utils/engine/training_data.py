"""What a training reads, as a conf describes it: data sets, the order of their examples, batches."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from utils.data.acoustics import AcousticOptions
from utils.data.datasets import DynamicMixtureDataset, EpochSampler, Example, MixtureDataset, collate
from utils.data.embedding_store import EmbeddingStore
from utils.data.manifest import Manifest
from utils.data.visual_augmentation import VisualAugmentation
from utils.engine.config import ResolvedConf
from utils.errors import UserError


def make_datasets(
    conf: ResolvedConf,
    train_manifest: Manifest,
    val_manifest: Manifest,
    train_stores: Sequence[EmbeddingStore],
    val_stores: Sequence[EmbeddingStore],
) -> tuple[Dataset, Dataset]:
    """What to train on and what to validate with; the arguments are those of `train`.

    Raises:
        UserError: data that the conf cannot be trained on.
    """
    model, data, seed, fps = conf.nested["model"], conf.data, conf.training.seed, conf.nested["visual"]["video_fps"]
    for manifest in (train_manifest, val_manifest):
        if manifest.sample_rate != model["sample_rate"]:
            raise UserError(f"{manifest.path}: {manifest.sample_rate} Hz, the conf says {model['sample_rate']} Hz")
    if val_manifest.n_src != model["n_src"] and model["n_cues"] != 1:  # an extraction network takes each face for itself
        raise UserError(f"{val_manifest.path}: {val_manifest.n_src} voices in a mixture, the conf says {model['n_src']}")
    val_set = MixtureDataset(val_manifest, val_stores, data.segment_sec, fps=fps)
    augmentation = data.part(VisualAugmentation)
    if data.dynamic:
        train_set = DynamicMixtureDataset(
            train_manifest,
            train_stores,
            data.segment_sec,
            n_src=model["n_src"],
            size=data.epoch_size,
            sir_range_db=data.sir_db,
            same_speaker=data.same_speaker,
            speed=data.speed,
            three_voices=data.three_voices,
            off_screen=data.off_screen,
            lone_voice=data.lone_voice,
            silent_voice=data.silent_voice,
            acoustics=data.part(AcousticOptions),
            augmentation=augmentation,
            seed=seed,
            fps=fps,
        )
    else:
        train_set = MixtureDataset(train_manifest, train_stores, data.segment_sec, seed, fps, augmentation)
    if conf.training.overfit_batch:
        batch = [train_set[0, index] for index in range(min(conf.training.batch_size, len(train_set)))]
        return RepeatedBatch(batch, len(train_set)), RepeatedBatch(batch, len(batch))
    return train_set, val_set


class RepeatedBatch(Dataset):
    """The same few examples over and over, to see whether a network can learn them by heart."""

    one_more = 0  # all examples hold equally many voices
    left_out = ()

    def __init__(self, examples: list[Example], size: int) -> None:
        self.examples, self.size = examples, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> Example:
        return self.examples[key[1] % len(self.examples)]


def make_sampler(
    conf: ResolvedConf, train_set: Dataset, path: Path, rank: int = 0, world_size: int = 1, first_epoch: int = 0
) -> EpochSampler:
    """The order of the training examples, in whole batches of equally many voices.

    Args:
        conf: the conf of the training.
        train_set: what `make_datasets` made of the manifest at `path`.
        path: named in errors.
        rank, world_size: this process and the number of processes.
        first_epoch: the one to begin with.

    Raises:
        UserError: too few examples for a batch.
    """
    batch_size, n_more = conf.training.batch_size, train_set.one_more
    sampler = EpochSampler(
        len(train_set), conf.training.seed, rank, world_size, first_epoch, batch_size=batch_size, one_more=n_more
    )
    if len(train_set) < sampler.step:
        raise UserError(
            f"{path}: {len(train_set)} examples are too few for a step of {batch_size} mixtures x "
            f"{world_size} processes; lower --batch_size"
        )
    share = conf.data.three_voices
    if (share and n_more < sampler.step) or (share < 1 and len(train_set) - n_more < sampler.step):
        raise UserError(
            f"--three_voices {share:g} makes {n_more} of {len(train_set)} mixtures; those and the others must each fill a "
            f"step of {batch_size} x {world_size} processes; raise --epoch_size, or set it to 0 or 1"
        )
    return sampler


def make_loader(conf: ResolvedConf, dataset: Dataset, sampler: EpochSampler) -> DataLoader:
    """Batches of a data set, in the order of the sampler."""
    workers = conf.data.num_workers
    return DataLoader(
        dataset,
        batch_size=conf.training.batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        drop_last=sampler.seed is not None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, or the workers' seeds would shift the network's dropout
    )
