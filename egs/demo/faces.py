"""The demo's faces: the parts of a lower face that stay the same while it speaks.

A face is drawn on a canvas a little larger than the crop, so that head motion never shows its edge. Coordinates are
pixels from the middle of the closed mouth, x to the right and y down.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

CANVAS = 112  # pixels; the crop is 96
MIDDLE = CANVAS / 2

X = (np.arange(CANVAS, dtype=np.float32) + 0.5 - MIDDLE)[None, :]
Y = (np.arange(CANVAS, dtype=np.float32) + 0.5 - MIDDLE)[:, None]

_BEARDS = ("none", "stubble", "moustache", "full")
_BEARD_CHANCES = (0.45, 0.25, 0.12, 0.18)


@dataclass(frozen=True)
class Face:
    """One speaker's lower face; lengths in pixels, tones in grey levels."""

    half_width: float  # of the closed mouth
    upper_lip: float
    lower_lip: float
    cupid_bow: float  # depth, 0..1
    corner_drop: float
    seam_wave: float
    skin_tone: float
    lip_contrast: float  # lips minus skin
    gloss: float
    teeth_tone: float
    tooth_width: float
    upper_teeth_y: float  # edge of the upper teeth
    nose_y: float
    nose_width: float
    chin_y: float
    jaw_width: float
    fold_depth: float
    background: float
    beard: str
    beard_tone: float
    jaw_reach: float  # of a fully open jaw
    liveliness: float  # how far the lips travel
    light_x: float
    light_y: float
    skin: np.ndarray  # float32 (CANVAS, CANVAS), lit, at rest, without lips


def make_face(number: int, gender: str) -> Face:
    """Draw a face's geometry and skin; the same `number` and `gender` ("f" or "m") give the same face."""
    rng = np.random.default_rng([20240, number])
    uniform = rng.uniform
    male = gender == "m"
    values = {
        "half_width": uniform(19.5, 24.5) + (0.8 if male else 0.0),
        "upper_lip": uniform(3.2, 6.4) - (0.6 if male else 0.0),
        "lower_lip": uniform(5.0, 8.6) - (0.7 if male else 0.0),
        "cupid_bow": uniform(0.1, 0.45),
        "corner_drop": uniform(-1.6, 1.4),
        "seam_wave": uniform(0.2, 1.2),
        "skin_tone": uniform(88, 178),
        "lip_contrast": uniform(-50, -26) + (1 if male else -4),
        "gloss": uniform(4, 22),
        "teeth_tone": uniform(180, 225),
        "tooth_width": uniform(3.6, 5.0),
        "upper_teeth_y": uniform(1.6, 3.2),
        "nose_y": uniform(-31, -25),
        "nose_width": uniform(8.0, 11.5) + (1.0 if male else 0.0),
        "chin_y": uniform(33, 40) + (2.0 if male else 0.0),
        "jaw_width": uniform(38, 50) + (3.0 if male else 0.0),
        "fold_depth": uniform(3, 17),
        "background": uniform(30, 190),
        "jaw_reach": uniform(13.5, 17.5),
        "liveliness": uniform(0.88, 1.12),
        "light_x": uniform(-0.5, 0.5),
        "light_y": uniform(-0.35, 0.1),
        "beard": str(rng.choice(_BEARDS, p=_BEARD_CHANCES)) if male else "none",
        "beard_tone": uniform(35, 60),
    }
    values["lip_contrast"] *= 0.6 + values["skin_tone"] / 350  # dark skin shows less contrast
    return Face(**values, skin=_draw_skin(values, rng))


def soft_step(distance: np.ndarray, width: float = 1.0) -> np.ndarray:
    """0 below, 1 above zero, smooth over `width` pixels: the coverage of an edge."""
    ramp = np.clip(distance / width + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def bump(value: np.ndarray, width: float) -> np.ndarray:
    """A bell around zero."""
    return np.exp(-np.square(value / width))


def _draw_skin(face: dict, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal((3, CANVAS, CANVAS)).astype(np.float32)
    skin = face["skin_tone"] + 26 * (face["light_x"] * X + face["light_y"] * Y) / MIDDLE
    skin = skin - 14 * np.square(X / 46) + 5 * bump(np.hypot(np.abs(X) - 27, Y + 14), 16)  # round head, cheeks
    skin = skin + _blotches(noise[0], 5.0, 3.5) + _blotches(noise[1], 1.1, 2.6) + 1.6 * noise[2]
    skin = skin + _folds(face) + _philtrum(face) + _chin(face)
    skin = _nose(face, skin)
    skin = _beard(face, skin, noise)
    return _outline(face, skin, noise).astype(np.float32)


def _blotches(noise: np.ndarray, size: float, strength: float) -> np.ndarray:
    smooth = gaussian_filter(noise, size)
    return strength * smooth / smooth.std()


def _folds(face: dict) -> np.ndarray:
    """The nasolabial folds, from the wings of the nose past the corners of the mouth."""
    start = face["nose_y"] + 4
    along = np.clip((Y - start) / (6 - start), 0, 1.3)
    path = face["nose_width"] + 4 + (face["half_width"] + 6 - face["nose_width"] - 4) * along**1.2
    present = soft_step(Y - start, 6) * (1 - soft_step(Y - 4, 14))
    side = np.abs(X) - path
    return face["fold_depth"] * present * (0.55 * bump(side - 3, 3.5) - bump(side, 2.2))


def _philtrum(face: dict) -> np.ndarray:
    top, bottom = face["nose_y"] + 5, -face["upper_lip"]
    present = soft_step(Y - top, 6) * (1 - soft_step(Y - bottom, 4))
    return present * (5 * bump(np.abs(X) - 4.2, 1.6) - 7 * bump(X, 2.6))


def _chin(face: dict) -> np.ndarray:
    return 9 * bump(np.hypot(X / 1.3, Y - face["chin_y"] + 10), 9) - 4 * bump(X, 1.8) * bump(Y - face["chin_y"] + 8, 6)


def _nose(face: dict, skin: np.ndarray) -> np.ndarray:
    y, width = Y - face["nose_y"], face["nose_width"]
    skin = skin + 12 * bump(X, 5) * (1 - soft_step(y - 1, 6)) - 16 * bump(np.abs(X) - width - 1.0, 2.2) * bump(y + 2, 6)
    skin = skin - 13 * bump(y - 4.5, 2.6) * bump(X, width * 0.9)  # shadow under the tip
    nostrils = bump((np.abs(X) - width * 0.48) / 1.5, 2.0) * bump(y - 1.5 + 0.12 * np.abs(X), 2.0)
    return skin * (1 - 0.72 * np.clip(nostrils * 1.25, 0, 1))


def _beard(face: dict, skin: np.ndarray, noise: np.ndarray) -> np.ndarray:
    if face["beard"] == "none":
        return skin
    bottom = -face["upper_lip"] * 0.5
    moustache = soft_step(Y - face["nose_y"] - 8 - 0.012 * np.square(X), 6) * (1 - soft_step(Y - bottom - 3, 6))
    moustache = moustache * (1 - soft_step(np.abs(X) - face["half_width"] + 0.2 * Y, 12)) * (1 - 0.35 * bump(X, 2.0))
    cheeks = soft_step(np.abs(X) - face["half_width"] - 4, 9) * soft_step(Y + 8, 14)
    jaw = np.maximum(cheeks, soft_step(Y - 10.5 - 0.01 * np.square(X), 6))
    chin = np.maximum(jaw * soft_step(Y + 4, 16), 0.9 * bump(X, 4) * soft_step(Y - 9, 5))
    area = {"stubble": 0.42 * np.maximum(moustache, chin), "moustache": 0.85 * moustache}
    cover = area.get(face["beard"], 0.82 * np.maximum(moustache, chin))
    hair = np.clip(0.8 + 0.3 * gaussian_filter(noise[0], (1.2, 0.5)) + 0.08 * noise[2], 0.3, 1.2)
    return skin + np.clip(cover * hair, 0, 1) * (face["beard_tone"] - skin)


def _outline(face: dict, skin: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Cheeks and jaw against neck and background."""
    chin, width = face["chin_y"], face["jaw_width"]
    reach = np.clip(1 - np.square(X / width), 0, None)
    edge = -12 + (chin + 12) * reach**0.55
    neck_tone = 0.62 * face["skin_tone"] + 8 * bump(Y - edge - 12, 10) + 1.5 * noise[2]
    neck = 1 - soft_step(np.abs(X) - 0.72 * width, 5)
    behind = neck * neck_tone + (1 - neck) * (face["background"] + 2 * noise[2] + 0.15 * Y)
    inside = 1 - soft_step(Y - edge, 3.0)
    inside = inside * (1 - soft_step(np.abs(X) - width + 1, 3.0))
    rim = 1 - 0.20 * bump(Y - edge + 1, 5.0)
    return inside * skin * rim + (1 - inside) * behind
