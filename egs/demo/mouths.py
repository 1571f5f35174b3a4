"""Speaking mouths: 96x96 grey crops of a drawn face whose lips, jaw, teeth and tongue follow a `Motion`.

A face is drawn on a canvas a little larger than the crop, so that head motion never shows its edge. Coordinates are
pixels from the middle of the closed mouth, x to the right and y down. Lips are the region between curves y(x), so that
every edge has an exact coverage and no supersampling is needed. Skin is pulled down by the jaw. The whole is then moved
with the head, lit and given a sensor's noise.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from egs.demo.visemes import Motion
from utils.data.constants import MOUTH_SIZE

CANVAS = 112  # pixels; the crop is 96
MIDDLE = CANVAS / 2

X = (np.arange(CANVAS, dtype=np.float32) + 0.5 - MIDDLE)[None, :]
Y = (np.arange(CANVAS, dtype=np.float32) + 0.5 - MIDDLE)[:, None]

_BEARDS = ("none", "stubble", "moustache", "full")
_BEARD_CHANCES = (0.45, 0.25, 0.12, 0.18)
_FRAMES_AT_ONCE = 10
# Where points 48 to 54, 55 to 59, 60 to 64 and 65 to 67 of iBUG 300-W lie, in half widths of the mouth.
_OUTER_UPPER = (-1.0, -0.6, -0.22, 0.0, 0.22, 0.6, 1.0)
_OUTER_LOWER = (0.62, 0.3, 0.0, -0.3, -0.62)
_INNER_UPPER = (-0.88, -0.3, 0.0, 0.3, 0.88)
_INNER_LOWER = (0.3, 0.0, -0.3)
# Where the others lie that are not of the jaw, as the mean face has the corners of the eyes: brows, bridge and wings of the
# nose, eyes; those of the nose from its own height.
_BROWS = [(-46, -70), (-40, -76), (-31, -78), (-22, -77), (-13, -73), (12, -73), (21, -77), (30, -78), (39, -76), (46, -70)]
_NOSE = [(0, -46), (0, -33), (0, -20), (0, -7), (-9, 1), (-5, 3), (0, 4), (5, 3), (9, 1)]
_RIGHT_EYE = [(-37, -63), (-31, -66), (-23, -66), (-17, -62), (-23, -60), (-31, -60)]
_LEFT_EYE = [(16, -62), (22, -66), (30, -66), (37, -63), (30, -60), (22, -60)]
_EAR_Y = -58
_CLOSE_UP = 1.12  # a lip-reading crop shows little more than the mouth


class Face(SimpleNamespace):
    """One speaker's lower face, as `make_face` draws it; lengths in pixels, tones in grey levels."""


def make_face(number: int, gender: str) -> Face:
    """Draw a face's geometry and skin; the same `number` and `gender` ("f" or "m") give the same face."""
    rng = np.random.default_rng([20240, number])
    uniform = rng.uniform
    male = gender == "m"
    face = Face(
        half_width=uniform(19.5, 24.5) + (0.8 if male else 0.0),  # of the closed mouth
        upper_lip=uniform(3.2, 6.4) - (0.6 if male else 0.0),
        lower_lip=uniform(5.0, 8.6) - (0.7 if male else 0.0),
        cupid_bow=uniform(0.1, 0.45),  # depth, 0..1
        corner_drop=uniform(-1.6, 1.4),
        seam_wave=uniform(0.2, 1.2),
        skin_tone=uniform(88, 178),
        lip_contrast=uniform(-50, -26) + (1 if male else -4),  # lips minus skin
        gloss=uniform(4, 22),
        teeth_tone=uniform(180, 225),
        tooth_width=uniform(3.6, 5.0),
        upper_teeth_y=uniform(1.6, 3.2),  # their edge
        nose_y=uniform(-31, -25),
        nose_width=uniform(8.0, 11.5) + (1.0 if male else 0.0),
        chin_y=uniform(33, 40) + (2.0 if male else 0.0),
        jaw_width=uniform(38, 50) + (3.0 if male else 0.0),
        fold_depth=uniform(3, 17),
        background=uniform(30, 190),
        jaw_reach=uniform(13.5, 17.5),  # of a fully open jaw
        liveliness=uniform(0.88, 1.12),  # how far the lips travel
        light_x=uniform(-0.5, 0.5),
        light_y=uniform(-0.35, 0.1),
        beard=str(rng.choice(_BEARDS, p=_BEARD_CHANCES)) if male else "none",
        beard_tone=uniform(35, 60),
    )
    face.lip_contrast *= 0.6 + face.skin_tone / 350  # dark skin shows less contrast
    face.skin = _draw_skin(face, rng)
    return face


def soft_step(distance: np.ndarray, width: float = 1.0) -> np.ndarray:
    """0 below, 1 above zero, smooth over `width` pixels: the coverage of an edge."""
    ramp = np.clip(distance / width + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def bump(value: np.ndarray, width: float) -> np.ndarray:
    """A bell around zero."""
    return np.exp(-np.square(value / width))


def _draw_skin(face: Face, rng: np.random.Generator) -> np.ndarray:
    """The face at rest and lit, without lips, float32 (CANVAS, CANVAS)."""
    noise = rng.standard_normal((3, CANVAS, CANVAS)).astype(np.float32)
    skin = face.skin_tone + 26 * (face.light_x * X + face.light_y * Y) / MIDDLE
    skin = skin - 14 * np.square(X / 46) + 5 * bump(np.hypot(np.abs(X) - 27, Y + 14), 16)  # round head, cheeks
    for pattern, size, strength in ((noise[0], 5.0, 3.5), (noise[1], 1.1, 2.6)):
        blotches = gaussian_filter(pattern, size)
        skin = skin + strength * blotches / blotches.std()
    skin = skin + 1.6 * noise[2]

    # the nasolabial folds, from the wings of the nose past the corners of the mouth
    start = face.nose_y + 4
    along = np.clip((Y - start) / (6 - start), 0, 1.3)
    path = face.nose_width + 4 + (face.half_width + 6 - face.nose_width - 4) * along**1.2
    present = soft_step(Y - start, 6) * (1 - soft_step(Y - 4, 14))
    side = np.abs(X) - path
    skin = skin + face.fold_depth * present * (0.55 * bump(side - 3, 3.5) - bump(side, 2.2))

    present = soft_step(Y - face.nose_y - 5, 6) * (1 - soft_step(Y + face.upper_lip, 4))
    skin = skin + present * (5 * bump(np.abs(X) - 4.2, 1.6) - 7 * bump(X, 2.6))  # the philtrum
    chin = Y - face.chin_y
    skin = skin + (9 * bump(np.hypot(X / 1.3, chin + 10), 9) - 4 * bump(X, 1.8) * bump(chin + 8, 6))
    return _outline(face, _beard(face, _nose(face, skin), noise), noise).astype(np.float32)


def _nose(face: Face, skin: np.ndarray) -> np.ndarray:
    y, width = Y - face.nose_y, face.nose_width
    skin = skin + 12 * bump(X, 5) * (1 - soft_step(y - 1, 6)) - 16 * bump(np.abs(X) - width - 1.0, 2.2) * bump(y + 2, 6)
    skin = skin - 13 * bump(y - 4.5, 2.6) * bump(X, width * 0.9)  # shadow under the tip
    nostrils = bump((np.abs(X) - width * 0.48) / 1.5, 2.0) * bump(y - 1.5 + 0.12 * np.abs(X), 2.0)
    return skin * (1 - 0.72 * np.clip(nostrils * 1.25, 0, 1))


def _beard(face: Face, skin: np.ndarray, noise: np.ndarray) -> np.ndarray:
    if face.beard == "none":
        return skin
    bottom = -face.upper_lip * 0.5
    moustache = soft_step(Y - face.nose_y - 8 - 0.012 * np.square(X), 6) * (1 - soft_step(Y - bottom - 3, 6))
    moustache = moustache * (1 - soft_step(np.abs(X) - face.half_width + 0.2 * Y, 12)) * (1 - 0.35 * bump(X, 2.0))
    cheeks = soft_step(np.abs(X) - face.half_width - 4, 9) * soft_step(Y + 8, 14)
    jaw = np.maximum(cheeks, soft_step(Y - 10.5 - 0.01 * np.square(X), 6))
    chin = np.maximum(jaw * soft_step(Y + 4, 16), 0.9 * bump(X, 4) * soft_step(Y - 9, 5))
    area = {"stubble": 0.42 * np.maximum(moustache, chin), "moustache": 0.85 * moustache}
    cover = area.get(face.beard, 0.82 * np.maximum(moustache, chin))
    hair = np.clip(0.8 + 0.3 * gaussian_filter(noise[0], (1.2, 0.5)) + 0.08 * noise[2], 0.3, 1.2)
    return skin + np.clip(cover * hair, 0, 1) * (face.beard_tone - skin)


def _outline(face: Face, skin: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Cheeks and jaw against neck and background."""
    chin, width = face.chin_y, face.jaw_width
    reach = np.clip(1 - np.square(X / width), 0, None)
    edge = -12 + (chin + 12) * reach**0.55
    neck_tone = 0.62 * face.skin_tone + 8 * bump(Y - edge - 12, 10) + 1.5 * noise[2]
    neck = 1 - soft_step(np.abs(X) - 0.72 * width, 5)
    behind = neck * neck_tone + (1 - neck) * (face.background + 2 * noise[2] + 0.15 * Y)
    inside = 1 - soft_step(Y - edge, 3.0)
    inside = inside * (1 - soft_step(np.abs(X) - width + 1, 3.0))
    rim = 1 - 0.20 * bump(Y - edge + 1, 5.0)
    return inside * skin * rim + (1 - inside) * behind


@dataclass(frozen=True)
class Lips:
    """The curves of the lips, float32 (frames, 1, CANVAS): y at each x; and the mouth's half width (frames, 1, 1)."""

    half_width: np.ndarray
    upper_outer: np.ndarray
    upper_inner: np.ndarray
    lower_inner: np.ndarray
    lower_outer: np.ndarray
    jaw: np.ndarray  # (frames, 1, 1), pixels


def draw_mouths(face: Face, motion: Motion, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a clip, and tell where its lips are.

    Args:
        face: who speaks.
        motion: the articulators over time.
        rng: of head motion, lighting drift and sensor noise.

    Returns:
        Pictures, uint8 (frames, 96, 96), and the landmarks of the face, float32 (frames, 68, 2), iBUG 300-W, in pixels of
        the pictures; most lie outside of them.
    """
    n_frames = len(motion.jaw)
    sway = _drift(rng, n_frames, 5) * np.array([0.9, 0.8, 0.012, 0.010, 1.0])
    still = rng.uniform(-1, 1, 5) * np.array([1.8, 2.0, 0.035, 0.045, 0.0])
    shift_x, shift_y, roll, zoom, light = (sway + still).T.astype(np.float32)[:, :, None, None]
    pose = np.stack([shift_x, shift_y, roll, _CLOSE_UP + zoom])
    # a few frames at a time: their arrays stay in the processor's cache, which halves the time
    pieces = [slice(start, start + _FRAMES_AT_ONCE) for start in range(0, n_frames, _FRAMES_AT_ONCE)]
    moved = np.concatenate([_move(_draw(face, motion, piece), *pose[:, piece]) for piece in pieces])
    gain = 1 + 0.025 * light + rng.uniform(-0.06, 0.06)
    across = np.arange(MOUTH_SIZE, dtype=np.float32) / MOUTH_SIZE - 0.5
    tilt = 4.0 * _drift(rng, n_frames, 1).astype(np.float32)[:, :, None] * across
    noise = rng.standard_normal(moved.shape, dtype=np.float32) * rng.uniform(1.2, 2.6)
    pictures = np.clip(np.rint(moved * gain.astype(np.float32) + tilt + noise), 0, 255).astype(np.uint8)
    return pictures, _move_points(_landmarks(face, shape_lips(face, motion)), *pose)


def _draw(face: Face, motion: Motion, piece: slice) -> np.ndarray:
    """The canvas of some frames, before it is filmed, float32 (frames, CANVAS, CANVAS)."""
    motion = Motion(*(curve[piece] for curve in vars(motion).values()))
    lips = shape_lips(face, motion)
    picture = _shade_around(face, lips, _pull_skin(face, lips))
    painted = _paint_lips(face, motion, lips, _paint_inside(face, motion, lips))
    vertical = soft_step(Y - lips.upper_outer, 1.8) * soft_step(lips.lower_outer - Y, 2.0)
    coverage = vertical * soft_step(lips.half_width - np.abs(X), 2.0)
    return _cover(picture, painted, coverage).astype(np.float32)


def shape_lips(face: Face, motion: Motion) -> Lips:
    """The lips of each frame."""
    closure, labiodental = _each(motion.closure), _each(motion.labiodental)
    width, protrusion = _each(motion.width) * face.liveliness, _each(motion.protrusion)
    free = (1 - closure) * (1 - labiodental)
    jaw = _each(motion.jaw) * face.jaw_reach
    half_width = face.half_width * (1 + 0.12 * width - 0.17 * protrusion) - 0.03 * jaw
    along = np.clip(np.abs(X) / half_width, 0, 1)
    seam = face.corner_drop * along**2 + face.seam_wave * (0.6 * bump(along, 0.25) - bump(along - 0.45, 0.25))
    rise = free * (2.6 * _each(motion.upper_raise) * face.liveliness + 0.10 * jaw) + labiodental * (1 - closure) * 1.8
    drop = free * (0.80 * np.maximum(jaw - 0.8, 0) + 3.2 * _each(motion.lower_drop) * face.liveliness)
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
    return Lips(
        half_width,
        upper_inner - upper * upper_profile,
        upper_inner,
        lower_inner,
        lower_inner + lower * lower_profile,
        jaw,
    )


def _each(values: np.ndarray) -> np.ndarray:
    """A value for each frame, to be spread over the canvas."""
    return values[:, None, None]


def _landmarks(face: Face, lips: Lips) -> np.ndarray:
    """The 68 points of the face on the canvas, from its middle, (frames, 68, 2)."""
    around = np.pi * np.arange(17) / 16
    depth = np.sin(around) ** 0.8  # of the jaw: 0 at the ears, 1 at the chin
    chin_y = face.chin_y + 0.85 * lips.jaw[:, 0]  # (frames, 1)
    jaw_x = np.broadcast_to(-1.1 * face.jaw_width * np.cos(around), (len(chin_y), 17))
    jaw = np.stack([jaw_x, _EAR_Y + (chin_y - _EAR_Y) * depth], axis=2)
    still = np.array([*_BROWS, *(np.array(_NOSE) + (0, face.nose_y)), *_RIGHT_EYE, *_LEFT_EYE])
    return np.concatenate([jaw, np.repeat(still[None], len(jaw), axis=0), _lip_landmarks(lips)], axis=1)


def _lip_landmarks(lips: Lips) -> np.ndarray:
    """The 20 points of the lips, (frames, 20, 2)."""
    upper, lower = (lips.upper_outer, _OUTER_UPPER), (lips.lower_outer, _OUTER_LOWER)
    inner = (lips.upper_inner, _INNER_UPPER), (lips.lower_inner, _INNER_LOWER)
    points = []
    for curve, places in (upper, lower, *inner):
        for place in places:
            x = place * lips.half_width[:, 0, 0]
            column = np.clip(x + MIDDLE - 0.5, 0, CANVAS - 1.001)
            left = column.astype(np.intp)
            part, frames = column - left, np.arange(len(x))
            y = (1 - part) * curve[frames, 0, left] + part * curve[frames, 0, left + 1]
            points.append(np.stack([x, y], axis=1))
    return np.stack(points, axis=1)


def _pull_skin(face: Face, lips: Lips) -> np.ndarray:
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


def _shade_around(face: Face, lips: Lips, picture: np.ndarray) -> np.ndarray:
    """The lips' effects on the skin: the shadow under the lower lip, the light rim above the upper, dark corners."""
    below = Y - lips.lower_outer
    bearded = 0.35 if face.beard == "full" else 1.0
    shadow = -0.15 * bump(below - 3.0, 3.6) * bump(X, 13) - 0.05 * bump(below - 1.0, 2.0) * bump(X, 18)
    rim = 0.07 * bump(Y - lips.upper_outer + 1.2, 1.4) * bump(X / lips.half_width, 0.8)
    corner = np.hypot(np.abs(X) - lips.half_width - 0.5, Y - face.corner_drop - 0.1 * lips.jaw)
    return picture * (1 + bearded * (shadow + rim) - 0.22 * bump(corner, 2.6))


def _paint_inside(face: Face, motion: Motion, lips: Lips) -> np.ndarray:
    """The open mouth behind the lips: dark cavity, tongue, both rows of teeth."""
    side = bump(X / lips.half_width, 0.95)
    cavity = 0.14 * face.skin_tone + 10 + 0.6 * Y
    height, tip = _each(motion.tongue_height), _each(motion.tongue_tip)
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


def _paint_lips(face: Face, motion: Motion, lips: Lips, mouth: np.ndarray) -> np.ndarray:
    """Both lips with their light, and the mouth where they are apart."""
    middle = (lips.upper_inner + lips.lower_inner) / 2
    is_lower = soft_step(Y - middle, 1.2)
    depth_upper = (Y - lips.upper_outer) / np.maximum(lips.upper_inner - lips.upper_outer, 0.8)
    depth_lower = (Y - lips.lower_inner) / np.maximum(lips.lower_outer - lips.lower_inner, 0.8)
    base = face.skin_tone + face.lip_contrast + 20 * face.light_x * X / MIDDLE
    upper = base - 10 - 9 * np.clip(depth_upper, 0, 1)
    lower = base + face.gloss * bump(depth_lower - 0.42, 0.24) * bump(X, 11) - 9 * np.clip(depth_lower, 0, 1) ** 3
    creases = 2.6 * np.sin(X * 1.9 + 1.3 * np.sin(X * 0.7 + face.gloss)) * bump(X, 16)
    tone = upper + is_lower * (lower - upper) + creases + 6 * _each(motion.protrusion)
    gap = lips.lower_inner - lips.upper_inner
    contact = np.clip(1 - gap / 2.0, 0, 1)
    seam = contact * bump(Y - middle, 1.15) * soft_step(0.97 * lips.half_width - np.abs(X), 2.5)
    tone = tone * (1 - 0.55 * seam)
    tone = tone * (1 - 0.16 * (1 - contact) * bump(Y - middle - gap / 2, 1.2))  # the wet inner edge
    opened = soft_step(Y - lips.upper_inner, 1.2) * soft_step(lips.lower_inner - Y, 1.2) * np.clip(gap / 1.2, 0, 1)
    return _cover(tone, mouth, opened)


def _cover(below: np.ndarray, above: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    return below + coverage * (above - below)


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


def _move_points(points: np.ndarray, shift_x, shift_y, roll, zoom) -> np.ndarray:
    """Where `_move` takes points of the canvas: pixels of the picture, float32 (frames, points, 2)."""
    x, y = points[..., 0] - shift_x[:, 0], points[..., 1] - shift_y[:, 0]
    cosine, sine = (np.cos(roll) * zoom)[:, 0], (np.sin(roll) * zoom)[:, 0]
    moved = np.stack([cosine * x + sine * y, cosine * y - sine * x], axis=-1)
    return (moved + MOUTH_SIZE / 2 - 0.5).astype(np.float32)
