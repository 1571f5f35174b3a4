"""Voices for new mixtures: who speaks, which stretch of each utterance, and how fast; a generator decides it all."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.signal import resample_poly

from utils.data.audio import read_audio
from utils.data.embedding_store import EmbeddingStore
from utils.data.manifest import Manifest, Utterance
from utils.data.mixing import MAX_DRAWS, SILENCE_POWER, frames_to_samples, power
from utils.data.segments import Clock, last_start, sample_range, usable_items
from utils.errors import UserError


class Voice(NamedTuple):
    """A voice for a segment, and where it is from."""

    audio: np.ndarray  # (time,)
    item: Utterance
    start_frame: int
    n_frames: int  # of the utterance, which the segment plays in its own number of frames


class VoicePool:
    """Utterances to make mixtures of.

    Args:
        manifest: utterances.
        segment_frames: length of a segment in video frames; shorter utterances are left out and counted.
        fps: video frames for each second.
        most_voices: the largest number of voices that will be asked for.
        same_speaker: share of the mixtures whose voices are all of one speaker; one voice alone always is.
        speed: voices are played at 1 - speed to 1 + speed of their speed, held to what the utterance is long enough for.
        stores: embedding stores, each with the mouths of all utterances.

    Attributes:
        left_out: the utterances that are too short, or whose mouths stage 2 could not embed.

    Raises:
        UserError: no utterance is long enough, or too few speakers for what is asked.
    """

    def __init__(
        self,
        manifest: Manifest,
        segment_frames: int,
        fps: float,
        *,
        most_voices: int,
        same_speaker: float = 0.0,
        speed: float = 0.0,
        stores: Sequence[EmbeddingStore] = (),
    ) -> None:
        self.manifest, self.segment_frames = manifest, segment_frames
        self.same_speaker, self.speed = same_speaker, speed
        self.clock = Clock(manifest.sample_rate, fps)
        self.items: list[Utterance]
        self.items, self.left_out = usable_items(manifest, segment_frames, self.clock, stores)
        self.by_speaker: dict[str, list[int]] = defaultdict(list)
        for index, item in enumerate(self.items):
            self.by_speaker[item.speaker or item.utterance_id].append(index)
        self.speakers = sorted(self.by_speaker)
        # The speakers that can fill a mixture of so many voices alone.
        self.talkative = {
            n: [s for s in self.speakers if len(self.by_speaker[s]) >= n] for n in range(2, most_voices + 1)
        }  # fmt: skip
        fewer = " ask for fewer voices (--three_voices 0 --off_screen 0)," if most_voices > 2 else ""
        if same_speaker < 1 and len(self.speakers) < most_voices:
            raise UserError(
                f"{manifest.path}: {len(self.speakers)} speaker(s) cannot make mixtures of {most_voices} different ones; "
                f"give more,{fewer} or mix utterances of one speaker (--same_speaker 1)"
            )
        if same_speaker > 0 and most_voices > 1 and not self.talkative[most_voices]:
            raise UserError(
                f"{manifest.path}: no speaker has {most_voices} utterances to be mixed with each other;{fewer} or set "
                "--same_speaker 0"
            )

    def draw(self, n_voices: int, rng: np.random.Generator) -> list[Voice]:
        """The voices of one mixture, in random order, each for a segment."""
        return [self.segment(index, rng) for index in self.draw_utterances(n_voices, rng)]

    def draw_utterances(self, n_voices: int, rng: np.random.Generator) -> list[int]:
        """Indices of the utterances of one mixture, in random order."""
        if n_voices > 1 and self.same_speaker and rng.random() < self.same_speaker:
            speakers = self.talkative[n_voices]
            speaker = speakers[rng.integers(len(speakers))]
            return [int(i) for i in rng.choice(self.by_speaker[speaker], n_voices, replace=False)]
        first = int(rng.integers(len(self.items)))  # every utterance is as likely, however many its speaker has
        own = self.items[first].speaker or self.items[first].utterance_id
        others = [s for s in self.speakers if s != own]
        chosen = rng.choice(others, n_voices - 1, replace=False)
        drawn = [first, *(int(rng.choice(self.by_speaker[s])) for s in chosen)]
        return [drawn[i] for i in rng.permutation(n_voices)]

    def segment(self, index: int, rng: np.random.Generator) -> Voice:
        """A stretch of an utterance in which somebody speaks.

        Raises:
            UserError: none is found, or the audio cannot be read.
        """
        item, rate = self.items[index], self.clock.sample_rate
        frames_there = last_start(item, self.clock, 0)
        length = frames_to_samples(self.segment_frames, rate, self.clock.fps)
        for _ in range(MAX_DRAWS):
            n_frames = self.segment_frames
            if self.speed:
                n_frames = min(round(n_frames * rng.uniform(1 - self.speed, 1 + self.speed)), frames_there)
            start_frame = int(rng.integers(last_start(item, self.clock, n_frames) + 1))
            path = self.manifest.resolve(item.audio_path)
            audio = read_audio(path, *sample_range(self.clock, start_frame, n_frames), rate)
            if power(audio) <= SILENCE_POWER:
                continue
            if n_frames != self.segment_frames:
                audio = resample_poly(audio, self.segment_frames, n_frames)[:length]
                audio = np.pad(audio, (0, length - len(audio)))
            return Voice(audio, item, start_frame, n_frames)
        raise UserError(
            f"{self.manifest.path}: utterance {item.utterance_id} is silent in {MAX_DRAWS} segments of "
            f"{self.segment_frames} frames; remove it from the manifest"
        )

    def face(self, voice: Voice, store: EmbeddingStore) -> np.ndarray:
        """The embeddings that go with a voice, played in the frames of a segment: (segment_frames, dim)."""
        cues = store.get(voice.item.mouth_path, voice.start_frame, voice.n_frames)
        if voice.n_frames == self.segment_frames:
            return cues
        positions = (np.arange(self.segment_frames) + 0.5) * voice.n_frames / self.segment_frames - 0.5
        before = np.clip(np.floor(positions).astype(int), 0, voice.n_frames - 2)
        weight = np.clip(positions - before, 0, 1)[:, None].astype(np.float32)
        return cues[before] * (1 - weight) + cues[before + 1] * weight
