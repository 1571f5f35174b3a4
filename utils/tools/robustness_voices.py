"""The voices and faces of a manifest, as the robustness benchmark takes them apart and joins them anew.

Reads the sources that a manifest names and the embeddings of their mouths; writes nothing. Imported by
`utils.tools.robustness`.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np

from utils.data.audio import read_audio
from utils.data.clock import frames_to_samples
from utils.data.manifest import Manifest
from utils.data.manifest_rows import Mixture
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError


@dataclass(frozen=True, eq=False)
class Example:
    """A mixture's voices and faces."""

    item: Mixture
    sources: np.ndarray  # float32 (n_src, time)
    cues: np.ndarray  # float32 (n_src, frames, dim)

    @property
    def mixture(self) -> np.ndarray:
        """The sum of the sources, (time,)."""
        return self.sources.sum(axis=0)


class Voice(NamedTuple):
    """One voice of the manifest: the source `place` (from 0) of a mixture."""

    item: Mixture
    place: int

    @property
    def speaker(self) -> str:
        return self.item.speakers[self.place]

    @property
    def mouth_path(self) -> str:
        """Tells utterances apart: the same one may be a source of several mixtures."""
        return self.item.mouth_paths[self.place]


class VoiceBank:
    """A manifest of two-voice mixtures with the embeddings of its mouths.

    Args:
        manifest: mixtures with references.
        store: the embeddings that the network was trained for.
        fps: video frames for each second that the network was trained for.

    Raises:
        UserError: references, mouths or embeddings are missing, the mixtures have not two voices, or the video has another
            rate.
    """

    def __init__(self, manifest: Manifest, store: EmbeddingStore, fps: float) -> None:
        self.manifest, self.store, self.fps = manifest, store, fps
        check_manifest(manifest)
        for row, item in enumerate(manifest.items, start=2):
            for path in item.mouth_paths:
                if not path:
                    raise UserError(f"{manifest.path}, row {row}: a voice without a mouth; leave the mixture out")
                store.clip(path)  # says which one is missing, and the remedy
            if abs(item.fps - fps) > 1e-3:
                raise UserError(
                    f"{manifest.path}, row {row}: video at {item.fps:g} frames/s where the network was trained at {fps:g}"
                )

    def examples(self, n_most: int) -> list[Example]:
        """At most `n_most` mixtures, spread evenly over the manifest."""
        return [self.example(item) for item in spread(self.manifest.items, n_most)]

    def example(self, item: Mixture) -> Example:
        """Read a mixture.

        Raises:
            UserError: a file is damaged, or the sources differ in length.
        """
        voices = [self.read(Voice(item, place)) for place in range(len(item.source_paths))]
        if len({len(source) for source, _ in voices}) > 1:
            raise UserError(f"{self.manifest.path}: the sources of {item.mixture_id} differ in length; make them again")
        return Example(item, np.stack([source for source, _ in voices]), np.stack([cues for _, cues in voices]))

    def read(self, voice: Voice) -> tuple[np.ndarray, np.ndarray]:
        """A source (time,) and the embedding of its mouth for all frames that the source reaches into, (frames, dim)."""
        from utils.data.clock import frames_covering  # brings torch, which a wrong path need not wait for

        path = self.manifest.resolve(voice.item.source_paths[voice.place])
        source = read_audio(path, sample_rate=self.manifest.sample_rate)
        n_frames = frames_covering(len(source), self.manifest.sample_rate, self.fps)
        return source, self.store.get(voice.mouth_path, 0, n_frames)

    def samples(self, n_frames: int) -> int:
        """The samples that `n_frames` last."""
        return frames_to_samples(n_frames, self.manifest.sample_rate, self.fps)

    def others(self, example: Example, rng: np.random.Generator) -> list[Voice]:
        """Every utterance of the manifest that is not in this mixture once, in random order, other speakers first."""
        found = {voice.mouth_path: voice for item in self.manifest.items for voice in map(Voice, [item] * 2, range(2))}
        others = [found[path] for path in sorted(found) if path not in example.item.mouth_paths]
        shuffled = [others[index] for index in rng.permutation(len(others))]
        return sorted(shuffled, key=lambda voice: not voice.speaker or voice.speaker in example.item.speakers)

    def joined(self, example: Example, rng: np.random.Generator, length_sec: float) -> tuple[Example, float | None]:
        """A recording of `length_sec` that begins with this mixture and goes on with others of the manifest, end to end.

        Each one that follows is the one that lets the most faces keep their speaker (its faces exchanged where that
        helps), drawn among equals, and no mixture comes twice before all were there.

        Returns:
            The recording, and the share of its joins at which a face changes its speaker; None where there is no join.
        """
        wanted = round(length_sec * self.fps)
        pieces = [self._whole_frames(example, (0, 1))]
        speakers, used, changes = example.item.speakers, [example.item.mixture_id], 0
        while sum(cues.shape[1] for _, cues in pieces) < wanted:
            item, order = self._successor(speakers, used, rng)
            pieces.append(self._whole_frames(self.example(item), order))
            follow = tuple(item.speakers[place] for place in order)
            changes += _kept(speakers, follow) < len(speakers)
            speakers, used = follow, [*used, item.mixture_id]
        sources = np.concatenate([sources for sources, _ in pieces], axis=1)[:, : self.samples(wanted)]
        cues = np.concatenate([cues for _, cues in pieces], axis=1)[:, :wanted]
        return Example(example.item, sources, cues), changes / (len(pieces) - 1) if len(pieces) > 1 else None

    def _successor(
        self, speakers: tuple[str, ...], used: list[str], rng: np.random.Generator
    ) -> tuple[Mixture, tuple[int, ...]]:
        """The mixture that comes next, and which of its voices is on which face."""
        times_used = {item.mixture_id: used.count(item.mixture_id) for item in self.manifest.items}
        fewest = min(times_used.values())
        fresh = [item for item in self.manifest.items if times_used[item.mixture_id] == fewest]
        choices = [(item, order) for item in fresh for order in permutations(range(2))]
        kept = np.array([_kept(speakers, tuple(item.speakers[place] for place in order)) for item, order in choices])
        return choices[rng.choice(np.flatnonzero(kept == kept.max()))]

    def _whole_frames(self, example: Example, order: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Sources and cues in this order, without the last frame where the sound does not fill it."""
        n_frames = example.cues.shape[1]
        n_frames -= self.samples(n_frames) > example.sources.shape[1]
        return example.sources[list(order), : self.samples(n_frames)], example.cues[list(order), :n_frames]


def check_manifest(manifest: Manifest) -> None:
    """What can be seen without opening another file.

    Raises:
        UserError: no mixtures of two voices with references.
    """
    if not manifest.has_references:
        raise UserError(f"{manifest.path}: mixtures without sources tell nothing of the quality; give a set with references")
    if manifest.n_src != 2:
        raise UserError(f"{manifest.path}: mixtures of {manifest.n_src} voices; the conditions are defined for two")


def spread(items: tuple | list, n_most: int) -> list:
    """At most `n_most` of the items, evenly spread."""
    n_kept = min(n_most, len(items))
    return [items[index * len(items) // n_kept] for index in range(n_kept)]


def _kept(before: tuple[str, ...], after: tuple[str, ...]) -> int:
    """How many faces keep their speaker; unknown speakers never do."""
    return sum(bool(old) and old == new for old, new in zip(before, after, strict=True))
