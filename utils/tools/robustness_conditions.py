"""Conditions of the robustness tool: the input of a network in each, and the references of its estimates.

Imported by `utils.tools.robustness`. All that is drawn for a mixture depends on (seed, mixture id): conditions that
draw the same thing, such as a noise at two levels, draw it alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.audio import read_audio
from utils.data.clock import frames_covering, frames_to_samples
from utils.data.constants import AUDIO_SUFFIXES
from utils.data.manifest import Manifest, Mixture
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.mixing.levels import MAX_DRAWS, SILENCE_POWER, mix_at_sir, power
from utils.scoring.metrics import best_permutation, si_snr_matrix
from utils.training.augmentation import drop_frames, freeze_frames, shift_frames

OFFSETS_FRAMES = (-5, -1, 1, 5)
MISSING_SHARES = (0.25, 0.5)
SNRS_DB = (10, 0)
LENGTHS_SEC = (1, 5, 30, 60)
N_BABBLE = 6
FEWEST_RECORDINGS = 4
QUIETEST_DB = -120.0  # an output that is quieter counts as this

SI_SNRI, SI_SNRI_BEST, SI_SNR = "SI-SNRi (dB)", "SI-SNRi, best order (dB)", "SI-SNR (dB)"
INACTIVE, ACCURACY = "inactive face's estimate over the mixture (dB)", "assignment accuracy (%)"
CLEAN, SWAPPED, ALL_MISSING = "clean", "faces swapped, references too", "all faces missing"


@dataclass(frozen=True, eq=False)
class Example:
    """A mixture's sources and faces."""

    item: Mixture
    sources: np.ndarray  # float32 (n_src, time)
    visual: np.ndarray  # float32 (n_src, frames, dim)

    @property
    def mixture(self) -> np.ndarray:
        """The sum of the sources, (time,)."""
        return self.sources.sum(axis=0)


class BankSource(NamedTuple):
    """One source of the manifest: number `place` (from 0) of a mixture."""

    item: Mixture
    place: int

    @property
    def speaker(self) -> str:
        return self.item.speakers[self.place]

    @property
    def mouth_path(self) -> str:
        """Tells utterances apart: the same one may be a source of several mixtures."""
        return self.item.mouth_paths[self.place]


class SourceBank:
    """A manifest of mixtures of two sources with the visual embeddings.

    Args:
        manifest: mixtures with references.
        store: the embeddings that the network was trained for.
        fps: video frames for each second that the network was trained for.

    Raises:
        UserError: references, mouth crops or embeddings are missing, the mixtures have not two sources, or the video has
            another rate.
    """

    def __init__(self, manifest: Manifest, store: EmbeddingStore, fps: float) -> None:
        self.manifest, self.store, self.fps = manifest, store, fps
        check_manifest(manifest)
        for row, item in enumerate(manifest.items, start=2):
            for path in item.mouth_paths:
                if not path:
                    raise UserError(f"{manifest.path}, row {row}: a source without a mouth; leave the mixture out")
                store.clip(path)  # says which one is missing, and the remedy
            if abs(item.fps - fps) > 1e-3:
                raise UserError(
                    f"{manifest.path}, row {row}: video at {item.fps:g} frames/s, the network was trained at {fps:g}"
                )

    def examples(self, n_most: int) -> list[Example]:
        """At most `n_most` mixtures, spread evenly over the manifest."""
        return [self.example(item) for item in spread(self.manifest.items, n_most)]

    def example(self, item: Mixture) -> Example:
        """Read a mixture.

        Raises:
            UserError: a file is damaged, or the sources differ in length.
        """
        read = [self.read(BankSource(item, place)) for place in range(len(item.source_paths))]
        if len({len(source) for source, _ in read}) > 1:
            raise UserError(f"{self.manifest.path}: the sources of {item.mixture_id} differ in length; make them again")
        return Example(item, np.stack([source for source, _ in read]), np.stack([visual for _, visual in read]))

    def read(self, of: BankSource) -> tuple[np.ndarray, np.ndarray]:
        """A source (time,) and its visual embeddings for all frames that it reaches into, (frames, dim)."""
        path = self.manifest.resolve(of.item.source_paths[of.place])
        source = read_audio(path, sample_rate=self.manifest.sample_rate)
        n_frames = frames_covering(len(source), self.manifest.sample_rate, self.fps)
        return source, self.store.get(of.mouth_path, 0, n_frames)

    def samples(self, n_frames: int) -> int:
        """The samples that `n_frames` last."""
        return frames_to_samples(n_frames, self.manifest.sample_rate, self.fps)

    def others(self, example: Example, rng: np.random.Generator) -> list[BankSource]:
        """Every utterance of the manifest that is not in this mixture once, in random order, other speakers first."""
        sources = [BankSource(item, place) for item in self.manifest.items for place in range(2)]
        found = {source.mouth_path: source for source in sources}
        others = [found[path] for path in sorted(found) if path not in example.item.mouth_paths]
        shuffled = [others[index] for index in rng.permutation(len(others))]
        return sorted(shuffled, key=lambda source: not source.speaker or source.speaker in example.item.speakers)

    def joined(self, example: Example, rng: np.random.Generator, length_sec: float) -> tuple[Example, float | None]:
        """A recording of `length_sec`: this mixture and then others of the manifest, end to end.

        Each one that follows is the one that lets the most faces keep their speaker (its faces exchanged where that
        helps), drawn among equals, and no mixture comes twice before all were there.

        Returns:
            The recording, and the share of its joins at which a face changes its speaker; None where there is no join.
        """
        wanted = round(length_sec * self.fps)
        pieces = [self._whole_frames(example, (0, 1))]
        speakers, used, changes = example.item.speakers, [example.item.mixture_id], 0
        while sum(visual.shape[1] for _, visual in pieces) < wanted:
            item, order = self._successor(speakers, used, rng)
            pieces.append(self._whole_frames(self.example(item), order))
            follow = tuple(item.speakers[place] for place in order)
            changes += _kept(speakers, follow) < len(speakers)
            speakers, used = follow, [*used, item.mixture_id]
        sources = np.concatenate([sources for sources, _ in pieces], axis=1)[:, : self.samples(wanted)]
        visual = np.concatenate([visual for _, visual in pieces], axis=1)[:, :wanted]
        return Example(example.item, sources, visual), changes / (len(pieces) - 1) if len(pieces) > 1 else None

    def _successor(
        self, speakers: tuple[str, ...], used: list[str], rng: np.random.Generator
    ) -> tuple[Mixture, tuple[int, ...]]:
        """The mixture that comes next, and which of its sources is on which face."""
        times_used = {item.mixture_id: used.count(item.mixture_id) for item in self.manifest.items}
        fewest = min(times_used.values())
        fresh = [item for item in self.manifest.items if times_used[item.mixture_id] == fewest]
        choices = [(item, order) for item in fresh for order in permutations(range(2))]
        kept = np.array([_kept(speakers, tuple(item.speakers[place] for place in order)) for item, order in choices])
        return choices[rng.choice(np.flatnonzero(kept == kept.max()))]

    def _whole_frames(self, example: Example, order: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Sources and visual in this order, without the last frame where the sound does not fill it."""
        n_frames = example.visual.shape[1]
        n_frames -= self.samples(n_frames) > example.sources.shape[1]
        return example.sources[list(order), : self.samples(n_frames)], example.visual[list(order), :n_frames]


@dataclass(frozen=True, eq=False)
class Trial:
    """One mixture in one condition."""

    mixture: np.ndarray  # float32 (time,)
    visual: np.ndarray  # float32 (n_faces, frames, dim)
    references: np.ndarray  # (n, time), n <= n_faces: estimate k is scored against reference k
    changed_joins: float | None = None  # share of a joined recording's joins at which a face changes its speaker


Make = Callable[[Example, np.random.Generator], Trial | None]


@dataclass(frozen=True)
class Condition:
    """Recipe for the trials of a condition, and what to measure.

    `sound` names the mixture: the audio-only baseline has one score for all conditions with the same mixtures; "" where
    the baseline cannot be compared.
    """

    name: str
    make: Make  # None where the manifest does not allow this trial
    measures: tuple[str, ...] = (SI_SNRI,)
    sound: str = CLEAN
    n_most: int | None = None  # trials; None: one for each mixture

    def trial(self, example: Example, seed: int) -> Trial | None:
        """The trial of a mixture."""
        return self.make(example, np.random.default_rng([seed, *example.item.mixture_id.encode()]))


def all_conditions(bank: SourceBank, noises: dict[str, np.ndarray], audio_sec: float) -> list[Condition]:
    """Every condition, in the order of the table.

    Args:
        bank: the sources.
        noises: more noises (time,) by name, at the bank's rate.
        audio_sec: of all mixtures that are tried; joined recordings are as many as fit in it, and four at least.
    """
    named = {"white noise": _white, f"babble of {N_BABBLE} speakers": partial(_babble, bank)}
    named |= {f"noise {name}": partial(_excerpt, name, noise) for name, noise in noises.items()}
    noisy = [
        Condition(f"{name} at {snr_db} dB", partial(_noisy, draw, snr_db), sound=f"{name} {snr_db}")
        for name, draw in named.items()
        for snr_db in SNRS_DB
    ]
    long = [
        Condition(
            f"recordings of {sec} s",
            partial(_joined, bank, sec),
            sound=f"{sec} s",
            n_most=max(FEWEST_RECORDINGS, round(audio_sec / sec)),
        )
        for sec in LENGTHS_SEC
    ]
    swapped = Condition(SWAPPED, _swapped, (SI_SNRI, ACCURACY))
    return [*visual_conditions(), *speaker_conditions(bank), *noisy, *long, swapped]


def visual_conditions() -> list[Condition]:
    """The clean reference, and faces that are late, early, missing or frozen."""
    shifted = [
        Condition(offset_name(by), _each_face(lambda visual, rng, by=by: shift_frames(visual, by))) for by in OFFSETS_FRAMES
    ]
    dropped = [
        Condition(missing_name(share), _each_face(lambda visual, rng, share=share: drop_frames(visual, share, rng)))
        for share in MISSING_SHARES
    ]
    return [
        Condition(CLEAN, _each_face(lambda visual, rng: visual), (SI_SNRI, ACCURACY)),
        *shifted,
        Condition("second face 5 frames late", _last_face(lambda visual: shift_frames(visual, 5))),
        *dropped,
        Condition(ALL_MISSING, _each_face(lambda visual, rng: drop_frames(visual, 1.0, rng)), (SI_SNRI, SI_SNRI_BEST)),
        Condition("50 % of each face's frames frozen", _each_face(lambda visual, rng: freeze_frames(visual, 0.5, rng))),
        Condition("second face missing", _last_face(np.zeros_like)),
    ]


def speaker_conditions(bank: SourceBank) -> list[Condition]:
    """Fewer or more speakers than the network was trained with, inactive faces and speakers off-screen."""
    return [
        Condition("one speaker, one face", lambda example, rng: _one_speaker(example, 1), (SI_SNR,), sound=""),
        Condition("one speaker, two faces", lambda example, _: _one_speaker(example, 2), (SI_SNR, INACTIVE), sound=""),
        Condition("two speakers, one face (the other off-screen)", _off_screen, sound=""),
        Condition("three speakers, three faces", partial(_three_speakers, bank), sound=""),
    ]


def offset_name(by: int) -> str:
    """Positive: the video comes too late."""
    return f"faces {abs(by)} frame{'s' * (abs(by) > 1)} {'late' if by > 0 else 'early'}"


def missing_name(share: float) -> str:
    return f"{100 * share:.0f} % of each face's frames missing"


def read_noises(folder: Path | None, sample_rate: int) -> dict[str, np.ndarray]:
    """The noise files of a folder, (time,) by name.

    Raises:
        UserError: no such folder, no audio in it, or a file that is silent or of another rate.
    """
    if folder is None:
        return {}
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not paths:
        raise UserError(f"--noise_dir {folder}: holds no {', '.join(AUDIO_SUFFIXES)} file")
    noises = {path.stem: read_audio(path, sample_rate=sample_rate) for path in paths}
    for path in paths:
        if not noises[path.stem].any():
            raise UserError(f"{path}: a silent file is no noise; take it out of --noise_dir")
    return noises


def score(measure: str, estimates: np.ndarray, trial: Trial) -> float:
    """Value of a measure for estimates (n_faces or more, time); NaN where one of them, or a reference, is silent."""
    references = trial.references
    matrix = si_snr_matrix(estimates, references)  # (estimates, references)
    in_place = np.diagonal(matrix)
    if measure == SI_SNR:
        return float(in_place.mean())
    if measure == ACCURACY:
        return 100.0 * bool((in_place >= matrix.max(axis=1)).all())
    if measure == INACTIVE:
        return max(10 * np.log10(max(power(estimates[1]), 1e-30) / power(trial.mixture)), QUIETEST_DB)
    if measure == SI_SNRI_BEST:
        in_place = matrix[best_permutation(estimates, references), np.arange(len(references))]
    return float((in_place - si_snr_matrix(trial.mixture[None], references)[0]).mean())


def _each_face(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Make:
    def make(example: Example, rng: np.random.Generator) -> Trial:
        return Trial(example.mixture, np.stack([change(visual, rng) for visual in example.visual]), example.sources)

    return make


def _last_face(change: Callable[[np.ndarray], np.ndarray]) -> Make:
    def make(example: Example, rng: np.random.Generator) -> Trial:
        return Trial(example.mixture, np.stack([*example.visual[:-1], change(example.visual[-1])]), example.sources)

    return make


def _swapped(example: Example, rng: np.random.Generator) -> Trial:
    return Trial(example.mixture, example.visual[::-1].copy(), example.sources[::-1])


def _one_speaker(example: Example, n_faces: int) -> Trial:
    return Trial(example.sources[0], example.visual[:n_faces], example.sources[:1])


def _off_screen(example: Example, rng: np.random.Generator) -> Trial:
    return Trial(example.mixture, example.visual[:1], example.sources[:1])


def _three_speakers(bank: SourceBank, example: Example, rng: np.random.Generator) -> Trial | None:
    """A third source, where possible of another speaker, at the mean of the two levels in dB."""
    length, n_frames = example.sources.shape[1], example.visual.shape[1]
    for other in bank.others(example, rng):
        source, visual = bank.read(other)
        if len(source) < length or power(source[:length]) == 0:
            continue
        first, second = map(power, example.sources)
        source = source[:length] * np.float32((first * second) ** 0.25 / power(source[:length]) ** 0.5)
        sources = np.concatenate([example.sources, source[None]])
        return Trial(sources.sum(axis=0), np.concatenate([example.visual, visual[None, :n_frames]]), sources)
    return None


def _noisy(draw: Make, snr_db: float, example: Example, rng: np.random.Generator) -> Trial | None:
    """The mixture at `snr_db` over a noise, scored against the clean sources."""
    noise = draw(example, rng)
    if noise is None:
        return None
    noisy, _ = mix_at_sir(np.stack([example.mixture, noise]), np.array([snr_db]))
    return Trial(noisy, example.visual, example.sources)


def _white(example: Example, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(example.sources.shape[1])


def _babble(bank: SourceBank, example: Example, rng: np.random.Generator) -> np.ndarray | None:
    """Other utterances at one level, each repeated where it is too short; None where there are not enough."""
    others = bank.others(example, rng)[:N_BABBLE]
    if len(others) < N_BABBLE:
        return None
    sources = [np.resize(bank.read(other)[0], example.sources.shape[1]) for other in others]
    return np.sum([source / max(power(source), 1e-12) ** 0.5 for source in sources], axis=0)


def _excerpt(name: str, noise: np.ndarray, example: Example, rng: np.random.Generator) -> np.ndarray:
    """A stretch of a recording that begins anywhere and is not silent, the recording repeated where it is too short."""
    for _ in range(MAX_DRAWS):
        stretch = np.resize(np.roll(noise, -int(rng.integers(len(noise)))), example.sources.shape[1])
        if power(stretch) > SILENCE_POWER:
            return stretch
    raise UserError(f"--noise_dir: the file '{name}' is silent in {MAX_DRAWS} stretches; take it out of the folder")


def _joined(bank: SourceBank, length_sec: float, example: Example, rng: np.random.Generator) -> Trial:
    recording, changed_joins = bank.joined(example, rng, length_sec)
    return Trial(recording.mixture, recording.visual, recording.sources, changed_joins)


def check_manifest(manifest: Manifest) -> None:
    """Check all that needs no other file.

    Raises:
        UserError: no mixtures of two sources with references.
    """
    if not manifest.has_references:
        raise UserError(f"{manifest.path}: mixtures without sources cannot be scored; give a set with references")
    if manifest.n_src != 2:
        raise UserError(f"{manifest.path}: mixtures of {manifest.n_src} sources; the conditions are defined for two")


def spread(items: tuple | list, n_most: int) -> list:
    """At most `n_most` of the items, evenly spread."""
    n_kept = min(n_most, len(items))
    return [items[index * len(items) // n_kept] for index in range(n_kept)]


def _kept(before: tuple[str, ...], after: tuple[str, ...]) -> int:
    """Count the faces that keep their speaker; unknown speakers never do."""
    return sum(bool(old) and old == new for old, new in zip(before, after, strict=True))
