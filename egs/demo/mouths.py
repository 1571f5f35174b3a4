"""Draws speaking mouths: 96x96 grey crops of a face whose lips, jaw, teeth and tongue follow a `Motion`.

Lips are the region between curves y(x), so that every edge has an exact coverage and no supersampling is needed. Skin
is pulled down by the jaw. The whole is then moved with the head, lit and given a sensor's noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from egs.demo.faces import CANVAS, MIDDLE, Face, X, Y, bump, soft_step
from egs.demo.visemes import Motion
from utils.data.constants import MOUTH_SIZE

_FRAMES_AT_ONCE = 10
_CLOSE_UP = 1.12  # a lip-reading crop shows little more than the mouth


@dataclass(frozen=True)
class _Lips:
    """The curves of the lips, float32 (frames, 1, CANVAS): y at each x; and the mouth's half width (frames, 1, 1)."""

    half_width: np.ndarray
    upper_outer: np.ndarray
    upper_inner: np.ndarray
    lower_inner: np.ndarray
    lower_outer: np.ndarray
    jaw: np.ndarray  # (frames, 1, 1), pixels


def draw_mouths(face: Face, motion: Motion, rng: np.random.Generator) -> np.ndarray:
    """Draw a clip.

    Args:
        face: who speaks.
        motion: the articulators over time.
        rng: of head motion, lighting drift and sensor noise.

    Returns:
        uint8 (frames, 96, 96).
    """
    pieces = [_draw(face, piece) for piece in _pieces(motion)]
    return _film(np.concatenate(pieces), rng)


def _pieces(motion: Motion) -> Iterator[Motion]:
    """A few frames at a time: their arrays stay in the processor's cache, which halves the time."""
    for start in range(0, len(motion.jaw), _FRAMES_AT_ONCE):
        yield Motion(*(curve[start : start + _FRAMES_AT_ONCE] for curve in vars(motion).values()))


def _draw(face: Face, motion: Motion) -> np.ndarray:
    """The canvas, before it is filmed, float32 (frames, CANVAS, CANVAS)."""
    lips = _shape_lips(face, motion)
    picture = _pull_skin(face, lips)
    picture = _shade_around(face, lips, picture)
    mouth = _paint_inside(face, motion, lips)
    return _cover(picture, _paint_lips(face, motion, lips, mouth), _lip_coverage(lips)).astype(np.float32)


def opening_of(face: Face, motion: Motion) -> np.ndarray:
    """Distance of the lips in the middle of the mouth, pixels (frames,)."""
    lips = _shape_lips(face, motion)
    middle = CANVAS // 2
    return np.maximum(0, lips.lower_inner - lips.upper_inner)[:, 0, middle]


def _shape_lips(face: Face, motion: Motion) -> _Lips:
    def each(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)[:, None, None]

    closure, labiodental = each(motion.closure), each(motion.labiodental)
    width, protrusion = each(motion.width) * face.liveliness, each(motion.protrusion)
    free = (1 - closure) * (1 - labiodental)
    jaw = each(motion.jaw) * face.jaw_reach
    half_width = face.half_width * (1 + 0.12 * width - 0.17 * protrusion) - 0.03 * jaw
    along = np.clip(np.abs(X) / half_width, 0, 1)
    seam = face.corner_drop * along**2 + face.seam_wave * (0.6 * bump(along, 0.25) - bump(along - 0.45, 0.25))
    rise = free * (2.6 * each(motion.upper_raise) * face.liveliness + 0.10 * jaw) + labiodental * (1 - closure) * 1.8
    drop = free * (0.80 * np.maximum(jaw - 0.8, 0) + 3.2 * each(motion.lower_drop) * face.liveliness)
    # f and v: the lower lip comes up until it meets the edge of the upper teeth
    drop = drop + labiodental * (1 - closure) * (face.upper_teeth_y - 1.2)
    aperture = np.clip(1 - np.square(along / (0.90 + 0.05 * width)), 0, None) ** (0.62 - 0.14 * protrusion)
    pressed = 1 - 0.20 * closure
    upper = face.upper_lip * pressed * (1 + 0.30 * protrusion - 0.10 * np.clip(width, 0, 1)) * (1 - 0.02 * rise)
    lower = face.lower_lip * pressed * (1 + 0.25 * protrusion - 0.10 * np.clip(width, 0, 1)) * (1 - 0.22 * labiodental)
    upper_profile = np.clip(1 - along**1.7, 0, None) ** 0.9 * (
        1 + 0.12 * bump(along - 0.24, 0.14) - face.cupid_bow * bump(along, 0.13)
    )
    lower_profile = np.clip(1 - along**2.3, 0, None) ** 0.75
    corner_pull = 0.30 * drop * along**2  # the corners follow the jaw
    upper_inner = seam - rise * aperture + corner_pull
    lower_inner = seam + drop * aperture + corner_pull
    return _Lips(
        half_width,
        upper_inner - upper * upper_profile,
        upper_inner,
        lower_inner,
        lower_inner + lower * lower_profile,
        jaw,
    )


def _pull_skin(face: Face, lips: _Lips) -> np.ndarray:
    """The skin, stretched downwards below the mouth by the jaw, (frames, CANVAS, CANVAS)."""
    amount = np.clip((Y + 6) / 22, 0, 1) * (1 - 0.55 * np.clip(np.abs(X) / 50, 0, 1) ** 2)
    source = Y + MIDDLE - 0.5 - 0.85 * lips.jaw * amount
    low = np.clip(np.floor(source), 0, CANVAS - 2)
    part = np.clip(source - low, 0, 1)
    row = low.astype(np.intp)
    column = np.arange(CANVAS)[None, None, :]
    flat = face.skin.ravel()
    index = row * CANVAS + column
    above = flat[index]
    return above + part * (flat[index + CANVAS] - above)


def _shade_around(face: Face, lips: _Lips, picture: np.ndarray) -> np.ndarray:
    """The lips' effects on the skin: the shadow under the lower lip, the light rim above the upper, dark corners."""
    below = Y - lips.lower_outer
    bearded = 0.35 if face.beard == "full" else 1.0
    shadow = -0.15 * bump(below - 3.0, 3.6) * bump(X, 13) - 0.05 * bump(below - 1.0, 2.0) * bump(X, 18)
    rim = 0.07 * bump(Y - lips.upper_outer + 1.2, 1.4) * bump(X / lips.half_width, 0.8)
    corner = np.hypot(np.abs(X) - lips.half_width - 0.5, Y - face.corner_drop - 0.1 * lips.jaw)
    return picture * (1 + bearded * (shadow + rim) - 0.22 * bump(corner, 2.6))


def _paint_inside(face: Face, motion: Motion, lips: _Lips) -> np.ndarray:
    """The open mouth behind the lips: dark cavity, tongue, both rows of teeth."""

    def each(values: np.ndarray) -> np.ndarray:
        return values[:, None, None]

    side = bump(X / lips.half_width, 0.95)
    cavity = 0.14 * face.skin_tone + 10 + 0.6 * Y
    height, tip = each(motion.tongue_height), each(motion.tongue_tip)
    floor = face.upper_teeth_y + 0.9 * lips.jaw + 4.0
    tongue_top = floor - 3.5 - (0.75 * lips.jaw + 4.0) * height + 0.035 * np.square(X)
    tongue = soft_step(Y - tongue_top, 2.0) * (1 - soft_step(np.abs(X) - 0.62 * face.half_width, 5))
    tongue_tone = face.skin_tone * 0.52 + 24 + 10 * bump(Y - tongue_top - 2.5, 2.5) - 7 * bump(X, 1.2)
    inside = _cover(cavity, tongue_tone * (0.8 + 0.2 * tip), tongue)

    gaps = 1 - 0.16 * bump((X / face.tooth_width + 0.5) % 1.0 - 0.5, 0.10)
    teeth_tone = face.teeth_tone * (0.35 + 0.65 * side) * gaps
    arch = 0.006 * np.square(X)
    lower_edge = face.upper_teeth_y + 0.6 + 0.80 * lips.jaw - arch * 0.6
    lower_teeth = soft_step(Y - lower_edge, 1.0) * (1 - soft_step(np.abs(X) - 0.58 * face.half_width, 4))
    inside = _cover(inside, 0.80 * teeth_tone, lower_teeth)
    upper_edge = face.upper_teeth_y - arch
    upper_teeth = (1 - soft_step(Y - upper_edge, 1.0)) * (1 - soft_step(np.abs(X) - 0.70 * face.half_width, 4))
    inside = _cover(inside, teeth_tone, upper_teeth)

    # th: the tip of the tongue shows between the teeth
    blade = np.clip(tip - 0.7, 0, 1) / 0.3
    tip_y = face.upper_teeth_y + 1.0 + 0.15 * lips.jaw
    inside = _cover(inside, face.skin_tone * 0.55 + 28, blade * bump(Y - tip_y, 2.6) * bump(X, 8.5))
    overhang = 1 - 0.45 * bump(Y - lips.upper_inner, 2.2)  # the upper lip's shadow
    return inside * overhang


def _paint_lips(face: Face, motion: Motion, lips: _Lips, mouth: np.ndarray) -> np.ndarray:
    """Both lips with their light, and the mouth where they are apart."""
    middle = (lips.upper_inner + lips.lower_inner) / 2
    is_lower = soft_step(Y - middle, 1.2)
    depth_upper = (Y - lips.upper_outer) / np.maximum(lips.upper_inner - lips.upper_outer, 0.8)
    depth_lower = (Y - lips.lower_inner) / np.maximum(lips.lower_outer - lips.lower_inner, 0.8)
    base = face.skin_tone + face.lip_contrast + 20 * face.light_x * X / MIDDLE
    upper = base - 10 - 9 * np.clip(depth_upper, 0, 1)
    lower = base + face.gloss * bump(depth_lower - 0.42, 0.24) * bump(X, 11) - 9 * np.clip(depth_lower, 0, 1) ** 3
    creases = 2.6 * np.sin(X * 1.9 + 1.3 * np.sin(X * 0.7 + face.gloss)) * bump(X, 16)
    tone = upper + is_lower * (lower - upper) + creases + 6 * motion.protrusion[:, None, None]
    gap = lips.lower_inner - lips.upper_inner
    contact = np.clip(1 - gap / 2.0, 0, 1)
    seam = contact * bump(Y - middle, 1.15) * soft_step(0.97 * lips.half_width - np.abs(X), 2.5)
    tone = tone * (1 - 0.55 * seam)
    tone = tone * (1 - 0.16 * (1 - contact) * bump(Y - middle - gap / 2, 1.2))  # the wet inner edge
    opened = soft_step(Y - lips.upper_inner, 1.2) * soft_step(lips.lower_inner - Y, 1.2) * np.clip(gap / 1.2, 0, 1)
    return _cover(tone, mouth, opened)


def _lip_coverage(lips: _Lips) -> np.ndarray:
    vertical = soft_step(Y - lips.upper_outer, 1.8) * soft_step(lips.lower_outer - Y, 2.0)
    return vertical * soft_step(lips.half_width - np.abs(X), 2.0)


def _cover(below: np.ndarray, above: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    return below + coverage * (above - below)


def _film(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Head motion, lighting drift, a lens and a sensor: canvas to crop."""
    n_frames = len(picture)
    sway = _drift(rng, n_frames, 5) * np.array([0.9, 0.8, 0.012, 0.010, 1.0])
    still = rng.uniform(-1, 1, 5) * np.array([1.8, 2.0, 0.035, 0.045, 0.0])
    shift_x, shift_y, roll, zoom, light = (sway + still).T.astype(np.float32)[:, :, None, None]
    pose = np.stack([shift_x, shift_y, roll, _CLOSE_UP + zoom])
    pieces = [slice(start, start + _FRAMES_AT_ONCE) for start in range(0, n_frames, _FRAMES_AT_ONCE)]
    moved = np.concatenate([_move(picture[piece], *pose[:, piece]) for piece in pieces])
    gain = 1 + 0.025 * light + rng.uniform(-0.06, 0.06)
    across = np.arange(MOUTH_SIZE, dtype=np.float32) / MOUTH_SIZE - 0.5
    tilt = 4.0 * _drift(rng, n_frames, 1).astype(np.float32)[:, :, None] * across
    noise = rng.standard_normal(moved.shape, dtype=np.float32) * rng.uniform(1.2, 2.6)
    return np.clip(np.rint(moved * gain.astype(np.float32) + tilt + noise), 0, 255).astype(np.uint8)


def _drift(rng: np.random.Generator, n_frames: int, n_signals: int) -> np.ndarray:
    """Slow random signals of unit size, (frames, signals)."""
    padded = gaussian_filter1d(rng.standard_normal((n_frames + 60, n_signals)), 9, axis=0)[30:-30]
    return padded / 0.178  # the deviation that such a filter leaves


def _move(picture: np.ndarray, shift_x, shift_y, roll, zoom) -> np.ndarray:
    """Bilinear sampling of the canvas under a similarity transform of each frame, float32 (frames, 96, 96)."""
    grid = np.arange(MOUTH_SIZE, dtype=np.float32) + 0.5 - MOUTH_SIZE / 2
    x, y = grid[None, None, :], grid[None, :, None]
    cosine, sine = np.cos(roll) / zoom, np.sin(roll) / zoom
    source_x = np.clip(cosine * x - sine * y + shift_x + MIDDLE - 0.5, 0, CANVAS - 1.001)
    source_y = np.clip(sine * x + cosine * y + shift_y + MIDDLE - 0.5, 0, CANVAS - 1.001)
    column, row = source_x.astype(np.intp), source_y.astype(np.intp)
    part_x, part_y = source_x - column, source_y - row
    index = (np.arange(len(picture))[:, None, None] * CANVAS + row) * CANVAS + column
    flat = np.ascontiguousarray(picture, dtype=np.float32).ravel()
    top = flat[index] + part_x * (flat[index + 1] - flat[index])
    low = flat[index + CANVAS] + part_x * (flat[index + CANVAS + 1] - flat[index + CANVAS])
    return top + part_y * (low - top)
