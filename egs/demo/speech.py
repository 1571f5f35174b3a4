"""Speech by espeak-ng with the time of every word and phoneme.

The library comes in the wheel of `espeakng-loader` and is called through ctypes. Its state (oscillator phases, random
numbers) carries over from one sentence to the next, so that the same sentence would sound a little different later on:
a process may therefore speak only once. Give each sentence a fresh process (`multiprocessing.Pool(maxtasksperchild=1)`).
"""

import ctypes
import tempfile
from dataclasses import dataclass
from pathlib import Path

import espeakng_loader
import numpy as np
from scipy.signal import resample_poly

from egs.demo.voices import Voice
from utils.data.constants import SAMPLE_RATE_HZ
from utils.errors import UserError

_RETRIEVE_IN_CALLING_THREAD = 2
_PHONEME_EVENTS_IPA_DONT_EXIT = 0x0001 | 0x0002 | 0x8000
_EVENT_END_OF_LIST, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_RATE, _VOLUME, _PITCH, _PITCH_RANGE = 1, 2, 3, 4
_LOUDNESS = 40  # of 0..200: the loudest variants clip above it
_POSITION_CHARACTER, _TEXT_UTF8 = 1, 1
_LONGEST_DATA_PATH = 120  # the library keeps the path in a short buffer


@dataclass(frozen=True)
class Span:
    """A word or a phoneme (IPA) and when it is said."""

    label: str
    start_sec: float
    end_sec: float


@dataclass(frozen=True)
class Speech:
    """A spoken sentence: float32 samples at 16 kHz, its words and its phonemes."""

    samples: np.ndarray
    words: tuple[Span, ...]
    phones: tuple[Span, ...]


class _Identity(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identity),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))

_has_spoken = False


def speak(voice: Voice, text: str, seed: int) -> Speech:
    """Let `voice` say `text`, once in the life of this process.

    Args:
        voice: the speaker.
        text: words separated by single spaces.
        seed: of espeak-ng's noise source.

    Raises:
        UserError: espeak-ng does not start, or refuses the voice.
        RuntimeError: this process has spoken before.
    """
    global _has_spoken
    if _has_spoken:
        raise RuntimeError("espeak-ng has spoken in this process before: its output would depend on what it said")
    _has_spoken = True
    with tempfile.TemporaryDirectory(prefix="espeak-") as scratch:
        library, rate_hz = _start(Path(scratch))
        samples, events = _synthesise(library, voice, text, seed)
    resampled = resample_poly(samples.astype(np.float64) / 32768, SAMPLE_RATE_HZ, rate_hz).astype(np.float32)
    phones = _spans(events, _EVENT_PHONEME, rate_hz, len(samples) / rate_hz)
    return Speech(resampled, _spans(events, _EVENT_WORD, rate_hz, phones[-1].end_sec), phones)


def _start(scratch: Path) -> tuple[ctypes.CDLL, int]:
    """Load and initialise the library; gives it and its sample rate in Hz."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path()
    if len(data.encode()) > _LONGEST_DATA_PATH:
        short = scratch / "espeak-ng-data"
        short.symlink_to(data)
        data = str(short)
    rate_hz = library.espeak_Initialize(_RETRIEVE_IN_CALLING_THREAD, 0, data.encode(), _PHONEME_EVENTS_IPA_DONT_EXIT)
    if rate_hz <= 0:
        raise UserError(f"{data}: espeak-ng does not start with these voices; reinstall espeakng-loader")
    return library, rate_hz


def _synthesise(library: ctypes.CDLL, voice: Voice, text: str, seed: int) -> tuple[np.ndarray, list[tuple]]:
    """Samples (int16, at the library's rate) and events (type, sample, text) of a sentence."""
    chunks: list[np.ndarray] = []
    events: list[tuple[int, int, str]] = []

    def collect(wave, n_samples, event) -> int:
        if wave and n_samples > 0:
            chunks.append(np.ctypeslib.as_array(wave, (n_samples,)).copy())
        index = 0
        while event[index].type != _EVENT_END_OF_LIST:
            kind, place = event[index].type, event[index].text_position - 1
            if kind == _EVENT_PHONEME:
                events.append((kind, event[index].sample, event[index].id.string.decode("utf-8", "replace")))
            elif kind == _EVENT_WORD:
                events.append((kind, event[index].sample, text[place : place + event[index].length]))
            index += 1
        return 0

    callback = _Callback(collect)  # kept alive in this frame while the library calls it
    library.espeak_SetSynthCallback(callback)
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    spoken = text.encode("utf-8")
    library.espeak_Synth.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
        *(ctypes.c_void_p, ctypes.c_void_p),
    ]
    _check(library.espeak_ng_SetRandSeed(seed), "the seed", str(seed))
    _check(library.espeak_SetVoiceByName(voice.name.encode()), "the voice", voice.name)
    settings = ((_RATE, voice.rate_wpm), (_PITCH, voice.pitch), (_PITCH_RANGE, voice.pitch_range), (_VOLUME, _LOUDNESS))
    for parameter, value in settings:
        _check(library.espeak_SetParameter(parameter, value, 0), f"parameter {parameter} of {voice.name}", str(value))
    code = library.espeak_Synth(spoken, len(spoken) + 1, 0, _POSITION_CHARACTER, 0, _TEXT_UTF8, None, None)
    _check(code, "the text", text)
    _check(library.espeak_Synchronize(), "to finish the text", text)
    return np.concatenate(chunks), events


def _check(code: int, what: str, value: str) -> None:
    """espeak-ng keeps its last voice silently after an error: no return code may be missed."""
    if code != 0:
        raise UserError(f"espeak-ng refuses {what} '{value}' (code {code}); install espeakng-loader==0.2.4")


def _spans(events: list[tuple], kind: int, rate_hz: int, end_sec: float) -> tuple[Span, ...]:
    """Events of one kind, each lasting until the next of its kind, the last until `end_sec`; pauses are left out."""
    starts = [(sample / rate_hz, label) for event_kind, sample, label in events if event_kind == kind]
    ends = [start for start, _ in starts[1:]] + [end_sec]
    pairs = zip(starts, ends, strict=True)
    return tuple(Span(label, start, end) for (start, label), end in pairs if label and end > start)
