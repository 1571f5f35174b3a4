"""Stretches of utterances and mixtures, with their visual embeddings: what training examples are made of."""

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from scipy.signal import resample_poly

from utils.data.audio import read_audio
from utils.data.clock import frames_to_samples, samples_to_frames
from utils.data.manifest import Manifest, Mixture, Problem, Utterance, item_id, item_mouths
from utils.embedding.joined import AnyStore
from utils.embedding.store import made_key
from utils.errors import UserError
from utils.mixing.levels import MAX_DRAWS, SILENCE_POWER, power
from utils.training.config import DataConfig

log = logging.getLogger(__name__)

_SHORTEST_PIECE_SEC = 0.5  # of an utterance that others follow
_CLIPS_OF_IDENTITY = 4


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
        stores: Sequence[AnyStore],
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


def _not_embedded(manifest: Manifest, stores: Sequence[AnyStore]) -> dict[str, str]:
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


def read_visual(store: AnyStore, mouth_path: str, start_frame: int, n_frames: int) -> np.ndarray:
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

    @property
    def speaker(self) -> str:
        return _speaker(self.pieces[0].item)


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
        self, manifest: Manifest, stores: Sequence[AnyStore], config: DataConfig, fps: float, most_sources: int
    ) -> None:
        self.manifest, self.config = manifest, config
        self.identities: dict[str, np.ndarray] = {}
        shortest_sec = _SHORTEST_PIECE_SEC if config.join_clips else None
        self.segments = Segments(manifest, stores, config.segment_sec, fps, shortest_sec)
        self.items: list[Utterance] = self.segments.items
        faceless = [index for index, item in enumerate(self.items) if not item.mouth_path]
        if config.faceless_prob and not faceless:
            raise UserError(f"{manifest.path}: every utterance has a face; add speech without faces, or set --faceless_prob 0")
        if config.made_embeddings:
            self._require_made(faceless, stores)
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

    def _require_made(self, faceless: Sequence[int], stores: Sequence[AnyStore]) -> None:
        for store in stores:
            lacking = [key for index in faceless if (key := made_key(self.items[index].utterance_id)) not in store]
            if lacking:
                raise UserError(
                    f"{store.root}: {len(lacking)} of {len(faceless)} voices have no made embeddings (first: {lacking[0]}); "
                    "stage 2 makes them, of the centre view (--views centre --voice_to_mouth_dir DIR)"
                )

    def draw(
        self, n_sources: int, rng: np.random.Generator, first: int | None = None, n_candidates: int = 1
    ) -> list[DrawnSource]:
        """Draw the sources of one mixture, in random order, each for a segment; arguments as of `draw_utterances`."""
        drawn = self.draw_utterances(n_sources, rng, first, n_candidates)
        return [self.segment(index, rng, taken=drawn) for index in drawn]

    def draw_shared(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw two utterances of one speaker, who has at least two and a face."""
        speaker = self._draw_speaker(2, rng)
        one, other = rng.choice(self.by_speaker[speaker], 2, replace=False)
        return int(one), int(other)

    def draw_utterances(
        self, n_sources: int, rng: np.random.Generator, first: int | None = None, n_candidates: int = 1
    ) -> list[int]:
        """Draw the indices of the utterances of one mixture, in random order.

        Args:
            n_sources: how many.
            rng: of the draw.
            first: an utterance that is one of them; the others are of other speakers, with faces, or, as often as
                `same_speaker_prob` says, of its speaker, where there are enough.
            n_candidates: the others are of those speakers, out of so many for each, whose faces are least like the first's.
        """
        same_speaker_prob = self.config.same_speaker_prob
        if n_sources > 1 and same_speaker_prob and rng.random() < same_speaker_prob:
            speaker = self._draw_speaker(n_sources, rng) if first is None else _speaker(self.items[first])
            own = self.by_speaker[speaker]
            if first is None:
                return [int(i) for i in rng.choice(own, n_sources, replace=False)]
            if len(own) >= n_sources:
                drawn = [first, *rng.choice([i for i in own if i != first], n_sources - 1, replace=False)]
                return [int(drawn[i]) for i in rng.permutation(n_sources)]
        if first is not None or n_candidates > 1:
            drawn = self._draw_others(n_sources, rng, first, n_candidates)
            return [drawn[i] for i in rng.permutation(n_sources)]
        is_faceless = np.zeros(n_sources, bool)
        if self.config.faceless_prob:
            is_faceless = rng.random(n_sources) < self.config.faceless_prob
        drawn: list[int] = []
        for pool, count in ((self.by_speaker, sum(~is_faceless)), (self.faceless, sum(is_faceless))):
            drawn += _draw_of_speakers(pool, int(count), rng)
        return [drawn[i] for i in rng.permutation(n_sources)]

    def _draw_others(self, n_sources: int, rng: np.random.Generator, first: int | None, n_candidates: int) -> list[int]:
        """Draw utterances of speakers with faces; arguments as of `draw_utterances`."""
        if first is None:
            first = int(rng.choice([index for own in self.by_speaker.values() for index in own]))
        own = _speaker(self.items[first])
        others = [speaker for speaker in self.speakers if speaker != own]
        count = n_sources - 1
        candidates = [str(speaker) for speaker in rng.choice(others, min(count * n_candidates, len(others)), replace=False)]
        if n_candidates > 1:
            unlike = [-float(np.linalg.norm(self.identities[speaker] - self.identities[own])) for speaker in candidates]
            candidates = [candidates[i] for i in np.argsort(unlike, kind="stable")]
        return [first, *(int(rng.choice(self.by_speaker[speaker])) for speaker in candidates[:count])]

    def describe_speakers(self, store: AnyStore, face_dim: int) -> None:
        """Remember what the face of each speaker is like, for `n_candidates`: the mean over the first clips, (face_dim,).

        Args:
            store: embeddings whose last numbers are of faces.
            face_dim: so many.
        """
        self.identities = {}
        for speaker, own in self.by_speaker.items():
            clips = [store.get(self.items[index].mouth_path)[:, -face_dim:] for index in own[:_CLIPS_OF_IDENTITY]]
            frames = np.concatenate(clips)
            seen = frames[frames.any(axis=1)]
            self.identities[speaker] = seen.mean(axis=0) if len(seen) else np.zeros(face_dim, np.float32)

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
        own = next(pool[speaker] for pool in (self.by_speaker, self.faceless) if index in pool.get(speaker, ()))
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

    def visual(self, source: DrawnSource, store: AnyStore) -> np.ndarray:
        """The embeddings that go with a source, played in the frames of a segment: (frames, dim)."""
        visual = np.concatenate([read_visual(store, self._key(piece.item), *piece[1:]) for piece in source.pieces])
        n_frames = len(visual)
        if n_frames == self.segments.n_frames:
            return visual
        positions = (np.arange(self.segments.n_frames) + 0.5) * n_frames / self.segments.n_frames - 0.5
        before = np.clip(np.floor(positions).astype(int), 0, n_frames - 2)
        weight = np.clip(positions - before, 0, 1)[:, None].astype(np.float32)
        return visual[before] * (1 - weight) + visual[before + 1] * weight

    def _key(self, item: Utterance) -> str:
        """Where a store has the embeddings of an utterance, "" for none."""
        return item.mouth_path or (made_key(item.utterance_id) if self.config.made_embeddings else "")


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
