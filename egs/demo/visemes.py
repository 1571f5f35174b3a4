"""From phonemes to the motion of a mouth.

Each phoneme has a target for every articulator and a dominance that fades with the distance in time (the co-articulation
model of Cohen and Massaro): a vowel between two rounded consonants is rounded too. Contacts that the ear would miss are
not negotiated: p, b, m close the lips and f, v put the lower lip to the teeth, whatever their neighbours ask for. The
lips run ahead of the sound, and the loudness of the sound opens the jaw a little more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from egs.demo.speech import Span
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS

LEAD_SEC = 0.06  # how far the lips run ahead of the sound

_GRID_HZ = 200
_EXPOSURE_SEC = 0.02  # a frame is the mean over this time
_STOP_CLOSURE_SEC = 0.05  # espeak-ng marks a stop at its burst: the lips close this much earlier
_SHORTEST_CONTACT_SEC = 0.044  # more than a frame: every contact is seen
_CONTACT_RAMP_SEC = 0.05
_LOUDNESS_WINDOW_SEC = 0.05


@dataclass(frozen=True)
class Motion:
    """The articulators over time, float32 (frames,) each, 0..1 except `width` (-1 rounded .. 1 spread)."""

    jaw: np.ndarray
    width: np.ndarray
    protrusion: np.ndarray
    upper_raise: np.ndarray
    lower_drop: np.ndarray
    tongue_height: np.ndarray
    tongue_tip: np.ndarray
    closure: np.ndarray
    labiodental: np.ndarray


# IPA signs; jaw, width, protrusion, upper_raise, lower_drop, tongue_height, tongue_tip; weights on jaw, lips, tongue
_VISEMES: dict[str, tuple[str, tuple[float, ...], tuple[float, float, float]]] = {
    "rest": ("", (0.02, 0.0, 0.05, 0.0, 0.0, 0.30, 0.2), (0.7, 0.5, 0.5)),
    "closed": ("pbm", (0.05, 0.0, 0.05, 0.0, 0.0, 0.30, 0.2), (1.2, 0.5, 0.2)),
    "labiodental": ("fv", (0.12, 0.1, 0.0, 0.35, 0.0, 0.30, 0.2), (1.4, 0.8, 0.2)),
    "dental": ("θð", (0.22, 0.15, 0.0, 0.2, 0.35, 0.55, 1.0), (1.0, 0.6, 2.0)),
    "alveolar": ("tdnɾ", (0.18, 0.2, 0.0, 0.15, 0.35, 0.80, 0.6), (0.8, 0.4, 1.5)),
    "lateral": ("l", (0.32, 0.1, 0.0, 0.15, 0.35, 0.90, 0.8), (0.8, 0.4, 1.8)),
    "sibilant": ("sz", (0.06, 0.45, 0.0, 0.40, 0.75, 0.55, 0.4), (1.6, 0.8, 1.0)),
    "postalveolar": ("ʃʒ", (0.10, -0.55, 0.8, 0.45, 0.70, 0.50, 0.3), (1.5, 1.5, 0.8)),
    "rhotic": ("ɹr", (0.20, -0.45, 0.55, 0.1, 0.25, 0.50, 0.1), (0.8, 1.2, 1.0)),
    "labiovelar": ("wʍ", (0.12, -1.0, 1.0, 0.0, 0.05, 0.30, 0.0), (1.2, 2.2, 0.5)),
    "palatal": ("j", (0.20, 0.55, 0.0, 0.2, 0.45, 0.70, 0.3), (0.8, 0.9, 0.8)),
    "velar": ("kɡŋ", (0.28, 0.1, 0.0, 0.1, 0.25, 0.50, 0.0), (0.7, 0.3, 0.8)),
    "glottal": ("hʔ", (0.35, 0.1, 0.0, 0.1, 0.2, 0.25, 0.1), (0.3, 0.2, 0.3)),
    "i": ("iɪᵻ", (0.25, 0.95, 0.0, 0.40, 0.60, 0.60, 0.3), (1.0, 1.2, 0.8)),
    "e": ("eɛ", (0.50, 0.70, 0.0, 0.35, 0.50, 0.45, 0.3), (1.0, 1.0, 0.8)),
    "a": ("aɑ", (1.00, 0.25, 0.0, 0.30, 0.45, 0.15, 0.2), (1.3, 0.8, 0.8)),
    "ae": ("æ", (0.85, 0.65, 0.0, 0.40, 0.55, 0.25, 0.3), (1.2, 1.0, 0.8)),
    "uh": ("ʌɐ", (0.58, 0.10, 0.0, 0.15, 0.30, 0.25, 0.2), (1.0, 0.7, 0.8)),
    "schwa": ("ə", (0.36, 0.05, 0.0, 0.1, 0.25, 0.30, 0.2), (0.6, 0.4, 0.5)),
    "er": ("ɜɚ", (0.35, -0.40, 0.50, 0.1, 0.30, 0.45, 0.1), (1.0, 1.1, 0.8)),
    "o": ("o", (0.62, -0.75, 0.75, 0.05, 0.15, 0.20, 0.0), (1.2, 1.6, 0.8)),
    "open_o": ("ɔɒ", (0.85, -0.45, 0.50, 0.1, 0.20, 0.15, 0.0), (1.2, 1.3, 0.8)),
    "u": ("uʊʉ", (0.22, -1.0, 1.0, 0.0, 0.10, 0.30, 0.0), (1.1, 2.0, 0.8)),
}

VISEMES = tuple(_VISEMES)

_VISEME_OF = {sign: name for name, (signs, _, _) in _VISEMES.items() for sign in signs}
_MARKS = "ˈˌː:ʲ\u032a"  # stress, length, palatalised, dental: they move no lips


def visemes_of(label: str) -> list[str]:
    """The visemes of an IPA label: one, or two for a diphthong or an affricate.

    Raises:
        ValueError: the label holds a sign that has no viseme yet.
    """
    signs = [sign for sign in label if sign not in _MARKS]
    unknown = [sign for sign in signs if sign not in _VISEME_OF]
    if unknown:
        raise ValueError(f"no viseme for {unknown} in the phoneme '{label}'; add it to egs/demo/visemes.py")
    return [_VISEME_OF[sign] for sign in signs]


def label_frames(phones: Sequence[Span], n_frames: int) -> np.ndarray:
    """The viseme of each frame: its index in `VISEMES`, int64 (frames,); times from the first frame's start."""
    labels = np.zeros(n_frames, dtype=np.int64)  # rest
    times = (np.arange(n_frames) + 0.5) / VIDEO_FPS + LEAD_SEC
    for gesture in (gesture for phone in phones for gesture in _gestures_of(phone)):
        labels[(times >= gesture.start_sec) & (times < gesture.end_sec)] = VISEMES.index(gesture.label)
    return labels


def move_mouth(phones: Sequence[Span], samples: np.ndarray, start_sec: float, n_frames: int) -> Motion:
    """The motion of the lips over a piece of a sentence.

    Args:
        phones: of the whole sentence, with times from its start.
        samples: the whole sentence, float (time,) at 16 kHz.
        start_sec: where the piece starts.
        n_frames: how many frames at 25 fps it has.
    """
    n_points = round(n_frames / VIDEO_FPS * _GRID_HZ)
    times = start_sec + LEAD_SEC + np.arange(n_points) / _GRID_HZ
    targets = _blend(_gestures(phones), times)
    closure = _contact(_contact_spans(phones, "pbm"), times)
    labiodental = _contact(_contact_spans(phones, "fv"), times)
    targets[:, 0] *= 0.75 + 0.4 * _loudness(samples, times)
    frames = _expose(np.column_stack([targets, closure, labiodental]), n_frames)
    return Motion(*np.ascontiguousarray(frames.T, dtype=np.float32))


def _gestures(phones: Sequence[Span]) -> list[Span]:
    """The visemes of a sentence with their times: rest before it, in its pauses, and after it."""
    clock = phones[0].start_sec
    gestures = [Span("rest", clock - 0.4, clock)]
    for phone in phones:
        if phone.start_sec - clock > 0.08:
            gestures.append(Span("rest", clock, phone.start_sec))
        gestures += _gestures_of(phone)
        clock = phone.end_sec
    return [*gestures, Span("rest", clock, clock + 0.4)]


def _gestures_of(phone: Span) -> Iterator[Span]:
    """The visemes of a phoneme; those of a diphthong share its time."""
    visemes = visemes_of(phone.label)
    step = (phone.end_sec - phone.start_sec) / max(1, len(visemes))
    for index, viseme in enumerate(visemes):
        start = phone.start_sec + index * step
        yield Span(viseme, start, start + step)


def _blend(gestures: list[Span], times: np.ndarray) -> np.ndarray:
    """Targets weighted by dominance, (points, 7)."""
    values = np.array([_VISEMES[gesture.label][1] for gesture in gestures])
    weights = np.array([_VISEMES[gesture.label][2] for gesture in gestures])
    weights = np.repeat(weights, (1, 4, 2), axis=1)  # jaw; width, protrusion, raise, drop; tongue
    starts = np.array([gesture.start_sec for gesture in gestures])
    ends = np.array([gesture.end_sec for gesture in gestures])
    centres, reach = (starts + ends) / 2, (ends - starts) * 0.25
    distance = np.maximum(0, np.abs(times[:, None] - centres) - reach)
    fade_sec = np.array([0.035, 0.045, 0.05, 0.04, 0.04, 0.03, 0.03])  # the lips are slower than jaw and tongue
    dominance = weights * np.exp(-distance[:, :, None] / fade_sec)
    return (dominance * values).sum(axis=1) / (dominance.sum(axis=1) + 1e-9)


def _contact_spans(phones: Sequence[Span], signs: str) -> list[tuple[float, float]]:
    """When the lips must touch for the phonemes of `signs`, each span at least as long as a frame."""
    spans = []
    for phone in phones:
        if not set(phone.label) & set(signs):
            continue
        start, end = phone.start_sec, phone.end_sec
        if phone.label == "p":
            start, end = start - _STOP_CLOSURE_SEC, start
        elif phone.label == "b":
            start, end = start - 0.4 * _STOP_CLOSURE_SEC, min(end, start + _STOP_CLOSURE_SEC)
        missing = max(0.0, _SHORTEST_CONTACT_SEC - (end - start))
        spans.append((start - missing, end))
    return spans


def _contact(spans: list[tuple[float, float]], times: np.ndarray) -> np.ndarray:
    """1 within the spans, falling smoothly to 0 on both sides, (points,)."""
    level = np.zeros_like(times)
    for start, end in spans:
        outside = np.maximum(np.maximum(start - times, times - end), 0) / _CONTACT_RAMP_SEC
        near = np.clip(1 - outside, 0, 1)
        level = np.maximum(level, near * near * (3 - 2 * near))
    return level


def _loudness(samples: np.ndarray, times: np.ndarray) -> np.ndarray:
    """RMS around each time over the sentence's loud level, 0..1, (points,)."""
    window = round(_LOUDNESS_WINDOW_SEC * SAMPLE_RATE_HZ)
    total = np.concatenate([[0.0], np.cumsum(np.asarray(samples, dtype=np.float64) ** 2)])
    middle = np.round(times * SAMPLE_RATE_HZ).astype(int)
    low, high = (np.clip(middle + side * window // 2, 0, len(samples)) for side in (-1, 1))
    rms = np.sqrt((total[high] - total[low]) / window)
    loud = np.sqrt(np.mean(np.asarray(samples, dtype=np.float64) ** 2)) * 1.6 + 1e-9
    return np.clip(rms / loud, 0, 1)


def _expose(curves: np.ndarray, n_frames: int) -> np.ndarray:
    """Mean of the fine grid over each frame's exposure, which sits in the middle of the frame."""
    per_frame = _GRID_HZ // VIDEO_FPS
    exposed = round(_EXPOSURE_SEC * _GRID_HZ)
    first = (per_frame - exposed) // 2
    return curves.reshape(n_frames, per_frame, -1)[:, first : first + exposed].mean(axis=1)
