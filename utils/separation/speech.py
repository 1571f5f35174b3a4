"""Who spoke when: the stretches of speech in each track, as tables that other programs read.

silero-vad listens to each track. What is far quieter there than in all that was heard is somebody else's voice that was left
in the track, and counts as silence. Each stretch is held against the lips: a mouth that is seen and does not move is not
speaking.
"""

import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import numpy as np
import soundfile
import torch

from utils.data.audio import read_audio, write_wav
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.files import write_text
from utils.data.progress import progress_bar
from utils.errors import UserError, printable

UNSEEN, STILL, MOVING = "unseen", "still", "moving"
TALKING_MOTION = 0.006  # three quarters of talking people have more, 19 of 20 pictures that stand still have less
_CHUNK = 512  # samples, those that silero-vad takes at once
_READ_CHUNKS = 2000
_AUDIBLE_DB = -15.0  # of a track over all that is heard, in the same _LEVEL_CHUNKS; of -40 to -4 the fewest errors
_LEVEL_CHUNKS = 7
_RMS = 0.1  # of a mixture, as the detector gets it; quiet speech it does not hear
_SEEN_SHARE = 0.5  # of the frames of a stretch
_ASR_MARGIN_SEC = 0.2


@dataclass(frozen=True)
class Speech:
    """A stretch of speech in a track; `lips` is one of `UNSEEN`, `STILL`, `MOVING`."""

    start_sec: float
    end_sec: float
    lips: str = UNSEEN
    text: str = ""  # what a recogniser understood

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "Speech":
        """What `as_json` gave."""
        return cls(facts["from_sec"], facts["to_sec"], facts["lips"], facts.get("text", ""))

    def as_json(self) -> dict[str, Any]:
        """The entry of tracks.json."""
        said = {"text": self.text} if self.text else {}
        return {"from_sec": round(self.start_sec, 3), "to_sec": round(self.end_sec, 3), "lips": self.lips} | said


@contextmanager
def _detector() -> Iterator:
    n_threads = torch.get_num_threads()
    import silero_vad  # which sets the number of torch's threads to one

    torch.set_num_threads(n_threads)
    yield silero_vad.VADIterator(silero_vad.load_silero_vad(), sampling_rate=SAMPLE_RATE_HZ)


def find_speech(track: Path, mixture: Path, n_samples: int, gain: float = 1.0) -> list[tuple[float, float]]:
    """The stretches of speech in a track, from and to in seconds, in constant memory.

    Args:
        track: wav of 16 kHz, mono.
        mixture: what was separated, as long.
        n_samples: of both.
        gain: what the track was multiplied with.
    """
    found: list[tuple[float, float]] = []
    start = None
    with _detector() as detector:
        chunks = _audible_chunks(track, mixture, n_samples, gain)
        for chunk in progress_bar(chunks, total=-(-n_samples // _CHUNK), desc=f"speech of {track.stem}", unit="chunk"):
            event = detector(torch.from_numpy(chunk)) or {}
            start = event.get("start", start)
            if "end" in event and start is not None:
                found.append((start / SAMPLE_RATE_HZ, min(event["end"], n_samples) / SAMPLE_RATE_HZ))
                start = None
    if start is not None:
        found.append((start / SAMPLE_RATE_HZ, n_samples / SAMPLE_RATE_HZ))
    return [(max(first, 0.0), last) for first, last in found]


def _audible_chunks(track: Path, mixture: Path, n_samples: int, track_gain: float) -> Iterator[np.ndarray]:
    """The track in chunks, with silence where it is far below the mixture."""
    margin = _LEVEL_CHUNKS // 2
    n_chunks = -(-n_samples // _CHUNK)
    gain = _gain(mixture)
    for first in range(0, n_chunks, _READ_CHUNKS):
        begin, end = max(first - margin, 0), min(first + _READ_CHUNKS + margin, n_chunks)
        ours, whole = (_chunks(path, begin, end, n_samples) for path in (track, mixture))
        ours /= np.float32(track_gain)
        levels = [_smooth(np.square(chunks).sum(axis=1)) for chunks in (ours, whole)]
        ours *= (levels[0] >= 10 ** (_AUDIBLE_DB / 10) * levels[1])[:, None] * gain
        yield from ours[first - begin : first - begin + _READ_CHUNKS][: n_chunks - first]


def _gain(mixture: Path) -> np.float32:
    """What brings a recording to the level that silero-vad expects."""
    energy, peak, n_samples = 0.0, 1e-9, 1
    with soundfile.SoundFile(str(mixture)) as file:
        for block in file.blocks(_READ_CHUNKS * _CHUNK, dtype="float32"):
            energy, peak = energy + float(np.square(block, dtype=np.float64).sum()), max(peak, float(np.abs(block).max()))
            n_samples += len(block)
    return np.float32(min(_RMS / max((energy / n_samples) ** 0.5, 1e-9), 1 / peak))


def _chunks(path: Path, first: int, last: int, n_samples: int) -> np.ndarray:
    start, end = first * _CHUNK, min(last * _CHUNK, n_samples)
    samples = read_audio(path, start, end - start, SAMPLE_RATE_HZ)
    return np.pad(samples, (0, (last - first) * _CHUNK - len(samples))).reshape(-1, _CHUNK)


def _smooth(values: np.ndarray) -> np.ndarray:
    return np.convolve(values, np.ones(_LEVEL_CHUNKS), "full")[_LEVEL_CHUNKS // 2 :][: len(values)]


def lips_of(stretch: tuple[float, float], frames: np.ndarray, points: np.ndarray) -> str:
    """Whether the mouth moves in a stretch.

    Args:
        stretch: from, to, in seconds.
        frames: in which the face is seen, on the grid of 25 fps.
        points: landmarks in these frames, (frames, 68, 2).
    """
    from utils.video.preparation import mouth_motion

    first, last = (round(time_sec * VIDEO_FPS) for time_sec in stretch)
    inside = (frames >= first) & (frames < max(last, first + 1))
    if inside.sum() < _SEEN_SHARE * max(last - first, 1):
        return UNSEEN
    return MOVING if mouth_motion(points[inside]) >= TALKING_MOTION else STILL


def write_rttm(path: Path, recording: str, speech: Iterable[tuple[str, Speech]]) -> None:
    """Write the speech of all speakers in NIST's Rich Transcription Time Marked format, in the order of time.

    Args:
        path: the file.
        recording: its name in the table, where blanks, which part its fields, and "%" are percent-encoded as in a URL.
        speech: (speaker, stretch).
    """
    name = re.sub(r"[\s%]", lambda found: quote(found[0]), recording)
    ordered = sorted(speech, key=lambda one: (one[1].start_sec, one[0]))
    rows = (
        f"SPEAKER {name} 1 {each.start_sec:.3f} {each.end_sec - each.start_sec:.3f} <NA> <NA> {speaker} <NA> <NA>\n"
        for speaker, each in ordered
    )
    write_text(path, "".join(rows))


def write_vtt(path: Path, speaker: str, speech: Sequence[Speech]) -> None:
    """Write the speech of a speaker as WebVTT; where nothing was recognised a cue holds an ellipsis."""
    spans = (f"{_time(each.start_sec)} --> {_time(each.end_sec)}" for each in speech)
    said = (f"<v {speaker}>{_escaped(each.text) or '…'}</v>" for each in speech)
    write_text(path, "WEBVTT\n" + "".join(f"\n{span}\n{text}\n" for span, text in zip(spans, said, strict=True)))


def _time(time_sec: float) -> str:
    milliseconds = round(time_sec * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _escaped(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def recognise(command: str, track: Path, stretch: Speech, n_samples: int, folder: str = "") -> str:
    """What a recogniser prints for a stretch of a track, which it gets as the last word of its command: a wav of 16 kHz.

    It works in `folder`; "" is the present one.

    Raises:
        UserError: it ended with an error.
    """
    start = max(round((stretch.start_sec - _ASR_MARGIN_SEC) * SAMPLE_RATE_HZ), 0)
    end = min(round((stretch.end_sec + _ASR_MARGIN_SEC) * SAMPLE_RATE_HZ), n_samples)
    with TemporaryDirectory() as scratch:
        path = Path(scratch, "speech.wav")
        write_wav(path, np.clip(read_audio(track, start, end - start, SAMPLE_RATE_HZ), -1, 1), SAMPLE_RATE_HZ, "PCM_16")
        how = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "errors": "replace", "cwd": folder or None}
        try:
            done = subprocess.run([*shlex.split(command), str(path)], check=False, **how)
        except OSError as error:
            raise UserError(f"--asr {command}: {error.strerror}; give a command that can be run") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise UserError(f"--asr {command}: ended with exit code {done.returncode}, and said: {said}")
    return done.stdout.strip()
