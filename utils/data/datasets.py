"""Training and validation examples: fixed mixtures, or single utterances mixed anew in every epoch.

An example is a dict of tensors: `mixture` (time,), `sources` (n_src, time) and, where faces are asked for, `visual`
(n_cues, frames, dim). What example `index` of epoch `epoch` holds depends on nothing but the seed: not on the number of
workers or processes, and not on where a training was interrupted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from utils.data.acoustics import AcousticOptions, Acoustics
from utils.data.audio import read_audio
from utils.data.dynamic_mixing import Voice, VoicePool
from utils.data.embedding_store import EmbeddingStore
from utils.data.manifest import Manifest, Mixture
from utils.data.mixing import sir_gains
from utils.data.segments import Clock, last_start, sample_range, usable_items
from utils.data.visual_augmentation import VisualAugmentation
from utils.errors import UserError

Example = dict[str, torch.Tensor]

# What random numbers are for. Each has a generator of its own, so that switching on silence, rooms, noise or what may go
# wrong with faces changes nothing else (a further voice, speed and interferer_share 1 do: they change what is drawn with
# the mixture).
MIXING, FIXED, EXTRAS, ROOM, NOISE, FACES, OTHERS, LONE = range(1, 9)


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
        one_more: the first so many examples hold a voice more than the others, so that each batch, on all processes
            at once, is made of them alone or of others alone. The batches of both come in random order.
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
        one_more: int = 0,
    ) -> None:
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        self.epoch, self.batch_size, self.one_more = epoch, batch_size, one_more

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
        order = rng.permutation(self.size)
        groups = [order[order < self.one_more], order[order >= self.one_more]]
        batches = np.concatenate([group[: len(group) // self.step * self.step] for group in groups]).reshape(-1, self.step)
        if 0 < self.one_more < self.size:
            batches = rng.permutation(batches)
        return iter([(self.epoch, int(index)) for index in batches[:, self.rank :: self.world_size].ravel()])

    def __len__(self) -> int:
        if self.seed is None:
            return len(range(self.rank, self.size, self.world_size))
        return sum(n // self.step for n in (self.one_more, self.size - self.one_more)) * self.batch_size


class MixtureDataset(Dataset):
    """The mixtures of a manifest, or a segment of each. A source that is silent there stays so: all zeros.

    Args:
        manifest: mixtures with references.
        stores: embedding stores to draw a view from (the first one in validation); empty for audio only.
        segment_sec: length of an example; shorter mixtures are left out and counted.
        seed: of the segments' starts, the views and the augmentation; None takes the beginning and the first view of
            faces that nothing is done to (validation).
        fps: video frames for each second.
        augmentation: what may go wrong with the faces.

    Attributes:
        left_out: the mixtures that are too short, or whose mouths stage 2 could not embed.

    Raises:
        UserError: no references, no mixture is long enough, or embeddings are missing.
    """

    one_more = 0  # all mixtures hold equally many voices

    def __init__(
        self,
        manifest: Manifest,
        stores: Sequence[EmbeddingStore],
        segment_sec: float,
        seed: int | None = None,
        fps: float = 25.0,
        augmentation: VisualAugmentation | None = None,
    ) -> None:
        if not manifest.has_references:
            raise UserError(f"{manifest.path}: mixtures without sources cannot be trained on or validated with")
        self.manifest, self.stores, self.seed = manifest, list(stores), seed
        self.augmentation = augmentation or VisualAugmentation()
        self.segment_frames = round(segment_sec * fps)
        self.clock = Clock(manifest.sample_rate, fps)
        self.items: list[Mixture]
        self.items, self.left_out = usable_items(manifest, self.segment_frames, self.clock, self.stores)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        item = self.items[index]
        start_frame, view = 0, 0
        if self.seed is not None:
            rng = np.random.default_rng([self.seed, FIXED, epoch, index])
            start_frame = int(rng.integers(last_start(item, self.clock, self.segment_frames) + 1))
            view = int(rng.integers(max(len(self.stores), 1)))
        start, length = sample_range(self.clock, start_frame, self.segment_frames)
        paths = [item.mixture_path, *item.source_paths]
        audio = [read_audio(self.manifest.resolve(p), start, length, self.manifest.sample_rate) for p in paths]
        example = {"mixture": torch.from_numpy(audio[0]), "sources": torch.from_numpy(np.stack(audio[1:]))}
        if self.stores:
            store = self.stores[view]
            faces = np.stack([store.get(path, start_frame, self.segment_frames) for path in item.mouth_paths])
            if self.seed is not None:
                faces = self.augmentation(faces, np.random.default_rng([self.seed, FACES, epoch, index]))
            example["visual"] = torch.from_numpy(faces)
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
        three_voices: share of the mixtures with n_src + 1 voices to separate. They are the first of each epoch, for
            `EpochSampler` to make batches of.
        off_screen: share of the mixtures with a further voice that is no target and has no face.
        lone_voice: share of the mixtures of one target in which nobody else talks; they are always noisy. Mixtures whose
            target is silent are none of them.
        silent_voice: share of the mixtures in which one target, any of them, is silent: it is left out of the mixture
            and its source is zeros, while its face is there. The other voices keep the levels they were drawn with.
        acoustics: rooms, noise and voices that are not of the corpus, see `utils.data.acoustics`.
        augmentation: what may go wrong with the faces.
        seed: of everything that is drawn.
        fps: video frames for each second.

    Attributes:
        left_out: the utterances that are too short, or whose mouths stage 2 could not embed.

    Raises:
        UserError: no utterance is long enough, too few speakers or room responses for what is asked, folders or files of
            `acoustics` that cannot be used, or embeddings are missing.
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
        three_voices: float = 0.0,
        off_screen: float = 0.0,
        lone_voice: float = 0.0,
        silent_voice: float = 0.0,
        acoustics: AcousticOptions | None = None,
        augmentation: VisualAugmentation | None = None,
        seed: int = 0,
        fps: float = 25.0,
    ) -> None:
        self.stores, self.n_src, self.seed = list(stores), n_src, seed
        self.sir_range_db, self.off_screen = sir_range_db, off_screen
        self.silent_voice, self.lone_voice = silent_voice, lone_voice
        self.augmentation = augmentation or VisualAugmentation()
        options = acoustics or AcousticOptions()
        most_voices = max(n_src + (three_voices > 0), 2) + (off_screen > 0)
        # Where every voice without a face is from elsewhere, a corpus needs no second speaker.
        self.draws_others = options.interferer_share < 1
        self.pool = VoicePool(
            manifest,
            round(segment_sec * fps),
            fps,
            most_voices=most_voices if self.draws_others else n_src + (three_voices > 0),
            same_speaker=same_speaker,
            speed=speed,
            stores=self.stores,
        )
        self.acoustics = Acoustics(options, manifest.sample_rate)
        self.acoustics.check_voices(most_voices)
        self.size = size or len(self.pool.items)
        self.left_out = self.pool.left_out
        self.one_more = round(three_voices * self.size)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        kinds = (MIXING, EXTRAS, ROOM, NOISE, FACES, OTHERS, LONE)
        rngs = {kind: np.random.default_rng([self.seed, kind, epoch, index]) for kind in kinds}
        n_targets = self.n_src + (index < self.one_more)
        off_screen, has_silent = rngs[EXTRAS].random(2) < (self.off_screen, self.silent_voice)
        silent = int(rngs[EXTRAS].integers(n_targets)) if has_silent else None
        is_alone = bool(rngs[LONE].random() < self.lone_voice) and silent is None

        view = int(rngs[MIXING].integers(max(len(self.stores), 1)))
        n_voices = max(n_targets, 2) + int(off_screen)
        voices = self.pool.draw(n_voices if self.draws_others else n_targets, rngs[MIXING])
        sirs_db = rngs[MIXING].uniform(-self.sir_range_db, self.sir_range_db, n_voices - 1)
        heard, early = self.acoustics.place(self._audio(voices, n_targets, n_voices, rngs[OTHERS]), rngs[ROOM])
        gains = sir_gains(heard, sirs_db)
        if silent is not None:
            gains[silent] = 0
        if is_alone:
            gains[n_targets:] = 0
        mixture = self.acoustics.add_noise((heard * gains).astype(np.float32).sum(axis=0), rngs[NOISE], always=is_alone)
        sources = (early[:n_targets] * gains[:n_targets]).astype(np.float32)
        example = {"mixture": torch.from_numpy(mixture), "sources": torch.from_numpy(sources)}
        if self.stores:
            faces = np.stack([self.pool.face(voice, self.stores[view]) for voice in voices[:n_targets]])
            # Beside a voice that is not wanted, a missing face would leave open which one that is.
            spared = {"drop_face": 0.0, "drop_all_faces": 0.0} if off_screen else {}
            example["visual"] = torch.from_numpy(replace(self.augmentation, **spared)(faces, rngs[FACES]))
        return example

    def _audio(self, voices: list[Voice], n_targets: int, n_voices: int, rng: np.random.Generator) -> np.ndarray:
        """What is heard, (n_voices, time): the targets, then the voices without a face, some of them from elsewhere."""
        audio = np.stack([voice.audio for voice in voices])
        if n_voices == n_targets:
            return audio
        others = np.zeros((n_voices - n_targets, audio.shape[1]), np.float32)
        others[: len(voices) - n_targets] = audio[n_targets:]
        return np.concatenate([audio[:n_targets], self.acoustics.interferers(others, rng)])


def collate(examples: list[Example]) -> Example:
    """Stack examples of one length and number of voices into a batch."""
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
