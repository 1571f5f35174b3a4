"""Faces of the demo's speakers around their drawn mouths, RGB, as `utils.data.faces` keeps them.

A face is drawn once, with eyes and nose where face frontends want them; the mouth of each frame, which is drawn at the same
scale, is blended in. So a face tells who speaks, and nothing but its mouth moves.
"""

from types import SimpleNamespace

import numpy as np
from scipy.ndimage import gaussian_filter

from egs.demo.mouths import Face, bump, soft_step
from utils.data.constants import MOUTH_SIZE
from utils.data.faces import CHIP_POINTS, CHIP_SIZE

_MOUTH_X, _MOUTH_Y = 74, 107  # the middle of the mouth crop in the face
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as the mouths' grey is made of colours
_X = (np.arange(CHIP_SIZE, dtype=np.float32) + 0.5)[None, :]
_Y = (np.arange(CHIP_SIZE, dtype=np.float32) + 0.5)[:, None]
_EYES = [np.mean([CHIP_POINTS[one], CHIP_POINTS[other]], axis=0) for one, other in ((36, 39), (42, 45))]
_TOP = _MOUTH_Y - MOUTH_SIZE // 2  # of the mouth crop


def draw_faces(number: int, face: Face, mouths: np.ndarray) -> np.ndarray:
    """Draw the face of a clip.

    Args:
        number: of the speaker; it decides hair, eyes, brows and colours.
        face: what the mouth was drawn of.
        mouths: uint8 (frames, 96, 96).

    Returns:
        uint8 (frames, 150, 150, 3).
    """
    look = _look(number)
    still, colours = _draw_still(look, face, np.random.default_rng([number, 12]))  # grey (size, size), (size, size, 3)
    rows, columns = slice(_TOP, CHIP_SIZE), slice(_MOUTH_X - MOUTH_SIZE // 2, _MOUTH_X + MOUTH_SIZE // 2)
    near = soft_step(_Y[rows] - _TOP - 8, 14) * soft_step(44 - np.abs(_X[:, columns] - _MOUTH_X), 8)
    frames = np.repeat(still[None], len(mouths), axis=0)
    shown = mouths[:, : CHIP_SIZE - _TOP].astype(np.float32)
    frames[:, rows, columns] += near * (shown - frames[:, rows, columns])
    return np.clip(np.rint(frames[..., None] * colours), 0, 255).astype(np.uint8)


def _look(number: int) -> SimpleNamespace:
    """What is a speaker's own above the mouth."""
    rng = np.random.default_rng([number, 11])
    return SimpleNamespace(
        red=rng.uniform(1.08, 1.22),
        blue=rng.uniform(0.72, 0.9),
        hair_tone=rng.uniform(20, 190),
        hair_red=rng.uniform(1.0, 1.35),
        hair_line=rng.uniform(10, 30),
        hair_end=rng.uniform(70, 170),
        hair_side=rng.uniform(-3, 10),
        head_width=rng.uniform(54, 66),
        eye_width=rng.uniform(9.5, 12.5),
        eye_height=rng.uniform(3.4, 5.4),
        iris_tone=rng.uniform(25, 110),
        brow_y=rng.uniform(-15, -11),
        brow_height=rng.uniform(1.6, 3.6),
        brow_tilt=rng.uniform(-0.16, 0.12),
        brow_tone=rng.uniform(25, 90),
        bridge=rng.uniform(6, 16),
        has_glasses=rng.random() < 0.25,
    )


def _draw_still(look: SimpleNamespace, face: Face, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The face without its mouth: grey levels, and colours that leave them as bright as they are."""
    middle = CHIP_SIZE / 2
    blotches = gaussian_filter(rng.standard_normal((CHIP_SIZE, CHIP_SIZE)), 4)
    skin = face.skin_tone + 26 * (face.light_x * (_X - middle) + face.light_y * (_Y - _MOUTH_Y)) / 56
    skin = skin - 14 * np.square((_X - middle) / 46) + 3 * blotches / blotches.std()
    skin = skin + look.bridge * bump(_X - middle, 5) * soft_step(_Y - 44, 20) * soft_step(92 - _Y, 12)
    skin = skin - 10 * bump(np.abs(_X - middle) - 14, 6) * bump(_Y - 52, 9)  # beside the bridge of the nose
    for eye_x, eye_y in _EYES:
        skin = _draw_eye(skin, look, float(eye_x), float(eye_y))
    reach = np.where(_Y < 78, 70.0, _MOUTH_Y + face.chin_y - 66)  # from the ears to the top and to below the chin
    outside = np.hypot((_X - middle) / look.head_width, (_Y - 78) / reach) - 1
    head = soft_step(-outside * look.head_width, 4)
    line = look.hair_line + 0.006 * np.square(_X - middle - look.hair_side)
    hair = np.maximum(soft_step(line - _Y, 6), (1 - head) * soft_step(look.hair_end - _Y, 30) * soft_step(0.3 - outside, 0.1))
    picture = head * skin + (1 - head) * face.background
    strands = 1 + 0.12 * gaussian_filter(rng.standard_normal((CHIP_SIZE, CHIP_SIZE)), (3, 0.7))
    picture = picture + hair * (look.hair_tone * strands - picture)
    colour = np.array([look.red, 1.0, look.blue])
    hair_colour = np.array([look.hair_red, 1.0, 0.9])
    colours = np.where(hair[..., None] > 0.5, hair_colour / (hair_colour @ _LUMA), colour / (colour @ _LUMA))
    is_behind = (head * np.ones_like(hair) < 0.5) & (hair < 0.5)
    return picture.astype(np.float32), np.where(is_behind[..., None], 1.0, colours).astype(np.float32)


def _draw_eye(skin: np.ndarray, look: SimpleNamespace, eye_x: float, eye_y: float) -> np.ndarray:
    x, y = _X - eye_x, _Y - eye_y
    lid = look.eye_height * np.clip(1 - np.square(x / look.eye_width), 0, None)
    opened = soft_step(lid - np.abs(y), 1.5) * soft_step(look.eye_width - 1 - np.abs(x), 2)
    iris = soft_step(look.eye_height + 0.6 - np.hypot(x, y), 1.5)
    pupil = soft_step(2.0 - np.hypot(x, y), 1.2)
    eye = 200 + iris * (look.iris_tone - 200)
    eye = eye * (1 - 0.85 * pupil)
    skin = skin * (1 - 0.25 * bump(y + lid, 2.0) * soft_step(look.eye_width - np.abs(x), 2))  # lashes
    skin = skin + opened * (eye - skin)
    brow_y = look.brow_y + look.brow_tilt * np.abs(x) + 0.012 * np.square(x)
    brow = bump(y - brow_y, look.brow_height) * soft_step(look.eye_width + 4 - np.abs(x), 4)
    skin = skin + 0.85 * brow * (look.brow_tone - skin)
    if look.has_glasses:
        ring = bump(np.hypot(x / 1.15, y) - look.eye_width - 2.5, 1.3)
        skin = skin + 0.8 * ring * (30 - skin)
    return skin
