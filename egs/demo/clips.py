"""One utterance of the demo corpus: its text, sound and mouth crops, and their files.

A clip depends only on the seed, its speaker and its number, so that more utterances never change the first ones.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from egs.demo.mouths import draw_mouths, make_face
from egs.demo.speech import Span, speak
from egs.demo.visemes import Motion, move_mouth
from egs.demo.voices import VOICES, Voice, draw_sentence
from utils.data.audio import write_wav
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.files import atomic_path, read_json, sha256_file, write_json
from utils.errors import UserError

CLIP_SEC = 2
CLIP_SAMPLES = CLIP_SEC * SAMPLE_RATE_HZ
CLIP_FRAMES = CLIP_SEC * VIDEO_FPS
PEAK = 0.9

_RMS = 0.06
_SOURCES = ("clips.py", "mouths.py", "speech.py", "visemes.py", "voices.py")


@dataclass(frozen=True)
class Clip:
    """Two seconds of a voice and its mouth."""

    samples: np.ndarray  # float32 (32000,), RMS 0.06
    mouths: np.ndarray  # uint8 (50, 96, 96)
    motion: Motion
    text: str
    words: tuple[Span, ...]  # those wholly inside, times from the clip's start
    phones: tuple[Span, ...]  # those at least partly inside


@dataclass(frozen=True)
class ClipJob:
    """An order for one clip, and where it goes."""

    voice: Voice
    number: int  # among the speaker's utterances
    seed: int
    data_dir: Path
    raw_dir: Path
    code: str  # fingerprint of the programs that make it

    @property
    def utterance_id(self) -> str:
        return f"{self.voice.speaker}u{self.number:04d}"

    @property
    def audio_path(self) -> Path:
        return self.data_dir / "utterances" / f"{self.utterance_id}.wav"

    @property
    def mouth_path(self) -> Path:
        return self.data_dir / "mouths" / f"{self.utterance_id}.npz"

    @property
    def stamp_path(self) -> Path:
        """Written last: the times of words and phonemes, and the hashes of the two files."""
        return self.raw_dir / "clips" / f"{self.utterance_id}.json"


def make_clip(voice: Voice, number: int, seed: int, face_number: int | None = None) -> Clip:
    """Synthesise and draw one clip, once in the life of this process (see `speech.speak`).

    Args:
        voice: who speaks.
        number: which of the speaker's utterances.
        seed: of the corpus.
        face_number: another face than the speaker's own.
    """
    own_number = VOICES.index(voice)
    rng = np.random.default_rng([seed, own_number, number])
    text = draw_sentence(rng)
    speech = speak(voice, text, seed=int(rng.integers(1, 2**31)))
    first, last = speech.phones[0].start_sec, speech.phones[-1].end_sec - CLIP_SEC
    if last < first:
        raise UserError(f"egs/demo/voices.py: {voice.speaker} says '{text}' in less than {CLIP_SEC} s; lower its rate")
    start = round(rng.uniform(first, last) * SAMPLE_RATE_HZ)
    start_sec = start / SAMPLE_RATE_HZ
    motion = move_mouth(speech.phones, speech.samples, start_sec, CLIP_FRAMES)
    face = make_face(own_number if face_number is None else face_number, voice.gender)
    samples = speech.samples[start : start + CLIP_SAMPLES]
    gain = min(_RMS / np.sqrt(np.mean(samples**2)), PEAK / np.abs(samples).max())
    return Clip(
        samples=samples * np.float32(gain),
        mouths=draw_mouths(face, motion, rng),
        motion=motion,
        text=text,
        words=_inside(speech.words, start_sec, whole=True),
        phones=_inside(speech.phones, start_sec, whole=False),
    )


def ensure_clip(job: ClipJob) -> dict:
    """Make the clip of a job unless it is there and right; gives its stamp."""
    order = {"voice": asdict(job.voice), "number": job.number, "seed": job.seed, "code": job.code}
    if job.stamp_path.is_file() and job.audio_path.is_file() and job.mouth_path.is_file():
        stamp = read_json(job.stamp_path)
        if stamp["order"] == order and stamp["files"] == _hashes(job):
            return stamp
    clip = make_clip(job.voice, job.number, job.seed)
    write_wav(job.audio_path, to_pcm16(clip.samples), SAMPLE_RATE_HZ, subtype="PCM_16")
    with atomic_path(job.mouth_path) as temporary:
        np.savez(temporary, data=clip.mouths)
    stamp = {
        "order": order,
        "files": _hashes(job),
        "text": clip.text,
        "words": [_rounded(span) for span in clip.words],
        "phones": [_rounded(span) for span in clip.phones],
    }
    write_json(job.stamp_path, stamp)
    return stamp


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """Float samples within full scale as int16."""
    return np.rint(samples * 32767).astype(np.int16)


def code_fingerprint() -> str:
    """Changes whenever a program that shapes the clips does."""
    return hashlib.sha256(b"".join((Path(__file__).parent / name).read_bytes() for name in _SOURCES)).hexdigest()[:16]


def _hashes(job: ClipJob) -> dict[str, str]:
    return {"audio": sha256_file(job.audio_path), "mouth": sha256_file(job.mouth_path)}


def _rounded(span: Span) -> list:
    return [span.label, round(span.start_sec, 4), round(span.end_sec, 4)]


def _inside(spans: tuple[Span, ...], start_sec: float, whole: bool) -> tuple[Span, ...]:
    """The spans of a sentence that are wholly or partly within the clip, with times from the clip's start."""
    moved = (Span(span.label, span.start_sec - start_sec, span.end_sec - start_sec) for span in spans)
    if whole:
        return tuple(span for span in moved if span.start_sec >= 0 and span.end_sec <= CLIP_SEC)
    return tuple(span for span in moved if span.end_sec > 0 and span.start_sec < CLIP_SEC)
