"""One utterance of the demo corpus: its text, sound and mouth crops, and their files.

A clip depends only on the seed, its speaker and its number, so that more utterances never change the first ones.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom

from egs.demo.faces import draw_faces
from egs.demo.mouths import draw_mouths, make_face
from egs.demo.speech import Span, speak
from egs.demo.visemes import Motion, move_mouth
from egs.demo.voices import VOICES, Voice, draw_sentence
from utils.data.audio import write_wav
from utils.data.constants import MOUTH_SIZE, SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.faces import FaceWriter, face_path_of
from utils.data.files import atomic_path, sha256_file
from utils.data.fingerprints import hash_contents, hash_json
from utils.errors import UserError

CLIP_SEC = 2
CLIP_SAMPLES = CLIP_SEC * SAMPLE_RATE_HZ
CLIP_FRAMES = CLIP_SEC * VIDEO_FPS
PEAK = 0.9

_RMS = 0.06
_MOUTH_ON_FACE = np.array([1.7, 29.1])  # where the mean face has it, pixels from the middle of its frame
_SOURCES = ("clips.py", "faces.py", "mouths.py", "speech.py", "visemes.py", "voices.py")
_CODE = hash_contents(Path(__file__).with_name(name) for name in _SOURCES)  # clips of other programs are made again


@dataclass(frozen=True)
class Clip:
    """Two seconds of a voice and its mouth."""

    samples: np.ndarray  # float32 (32000,), RMS 0.06
    mouths: np.ndarray  # uint8 (50, 96, 96)
    points: np.ndarray  # float32 (50, 68, 2), see draw_mouths
    motion: Motion
    words: tuple[Span, ...]  # those wholly inside, times from the clip's start
    phones: tuple[Span, ...]  # those at least partly inside


@dataclass(frozen=True)
class ClipFiles:
    """A clip of the corpus: who says which of his utterances, and where the files are."""

    voice: Voice
    number: int
    seed: int
    data_dir: Path
    face_size: int = 0  # pixels of the face crops that are drawn as well; 0: none

    @property
    def utterance_id(self) -> str:
        return f"{self.voice.speaker}u{self.number:04d}"

    @property
    def audio_path(self) -> str:
        return f"utterances/{self.utterance_id}.wav"

    @property
    def mouth_path(self) -> str:
        return f"mouths/{self.utterance_id}.npz"

    @property
    def key(self) -> str:
        """Changes whenever the clip would be another one."""
        return hash_json([asdict(self.voice), self.number, self.seed, self.face_size, _CODE])

    def hashes(self) -> list[str]:
        """The content of the files, "" where one is missing."""
        paths = [self.data_dir / self.audio_path, self.data_dir / self.mouth_path]
        paths += [face_path_of(paths[1], self.face_size)] if self.face_size else []
        return [sha256_file(path) if path.is_file() else "" for path in paths]

    def make(self) -> dict:
        """Make the files; gives their hashes, and words and phonemes with their times."""
        clip = make_clip(self.voice, self.number, self.seed)
        write_wav(self.data_dir / self.audio_path, to_pcm16(clip.samples), SAMPLE_RATE_HZ, subtype="PCM_16")
        with atomic_path(self.data_dir / self.mouth_path) as temporary:
            points = (clip.points - (MOUTH_SIZE - 1) / 2 + _MOUTH_ON_FACE).astype(np.float16)
            place = np.column_stack([np.eye(2), (MOUTH_SIZE - 1) / 2 - _MOUTH_ON_FACE])
            to_picture = np.repeat(place[None], len(points), axis=0).astype(np.float32)  # the picture is the crop
            np.savez(temporary, data=clip.mouths, points=points, to_picture=to_picture)
        if self.face_size:
            number = VOICES.index(self.voice)
            faces = draw_faces(number, make_face(number, self.voice.gender), clip.mouths)
            path = face_path_of(self.data_dir / self.mouth_path, self.face_size)
            path.parent.mkdir(parents=True, exist_ok=True)
            with FaceWriter(path, len(faces), self.face_size) as writer:
                scale = self.face_size / faces.shape[1]
                for picture in faces:
                    writer.add(picture if scale == 1 else zoom(picture, (scale, scale, 1), order=1), True)
        spans = {"words": clip.words, "phones": clip.phones}
        times = {
            name: [[span.label, round(span.start_sec, 4), round(span.end_sec, 4)] for span in found]
            for name, found in spans.items()
        }
        return {"files": self.hashes(), **times}


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
    words, phones = (
        [Span(span.label, span.start_sec - start_sec, span.end_sec - start_sec) for span in spans]
        for spans in (speech.words, speech.phones)
    )
    mouths, points = draw_mouths(face, motion, rng)
    return Clip(
        samples=samples * np.float32(gain),
        mouths=mouths,
        points=points,
        motion=motion,
        words=tuple(word for word in words if word.start_sec >= 0 and word.end_sec <= CLIP_SEC),
        phones=tuple(phone for phone in phones if phone.end_sec > 0 and phone.start_sec < CLIP_SEC),
    )


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """Float samples within full scale as int16."""
    return np.rint(samples * 32767).astype(np.int16)
