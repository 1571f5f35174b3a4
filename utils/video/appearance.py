"""How a person looks: numbers by which a face is known again after a cut or an absence.

Reads RGB pictures and landmarks, writes nothing. A network that tells faces apart would have to be downloaded, so these
are measured by hand: gradients and coarse shades of the face turned upright, and the colours of skin, hair and clothes.
Within one video they tell people well; they recognise nobody elsewhere.
"""

import cv2
import numpy as np

from utils.video.warping import cut_piece

_CHIP_WIDTH, _CHIP_HEIGHT = 48, 56  # pixels, the face turned upright
_PLACES = np.array([[13.0, 18.0], [35.0, 18.0], [24.0, 42.0]])  # in it: middles of the eyes, left first, and of the mouth
_CELLS_X, _CELLS_Y, _ORIENTATIONS = 6, 7, 8
_COSINES = 10  # a side
_LIGHTNESS_BINS, _TINT_BINS = 4, 6
_COLOURS = _LIGHTNESS_BINS * _TINT_BINS**2
_PATCH = 32  # pixels a side; colours are counted in patches shrunk to this

# Parts of a look: numbers of it, how much one minus the cosine is for pictures of one person (calibrated on GRID), weight.
_PARTS = {
    "gradients": (_CELLS_X * _CELLS_Y * _ORIENTATIONS, 0.05, 1.0),
    "shades": (_COSINES**2 - 1, 0.20, 1.0),
    "skin": (_COLOURS, 0.25, 0.25),
    "hair": (_COLOURS, 0.25, 0.5),
    "clothes": (_COLOURS, 0.25, 0.75),
}
_STARTS = np.cumsum([0, *(numbers for numbers, _, _ in _PARTS.values())])
_SPREADS = np.array([spread for _, spread, _ in _PARTS.values()])
_WEIGHTS = np.array([weight for _, _, weight in _PARTS.values()])
LOOK_DIM = int(_STARTS[-1])
_FARTHEST = 4.0  # distance of a part; what is more different than that is just different


def describe_look(picture: np.ndarray, box: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Describe a face and what is around it.

    Args:
        picture: uint8 (height, width, 3), RGB.
        box: (4,), pixels x0 y0 x1 y1 of the face.
        points: (68, 2), pixels.

    Returns:
        float32 (LOOK_DIM,): five parts, each of length one, or zeros where the picture does not show it.
    """
    chip = _upright(picture, points)
    x0, y0, x1, y1 = (float(value) for value in box)
    width, height = x1 - x0, y1 - y0
    parts = (
        _gradients(chip),
        _shades(chip),
        _colours(picture, x0 + 0.2 * width, y0 + 0.3 * height, x1 - 0.2 * width, y0 + 0.65 * height),
        _colours(picture, x0 - 0.1 * width, y0 - 0.35 * height, x1 + 0.1 * width, y0),
        _colours(picture, x0 - 0.3 * width, y1 + 0.25 * height, x1 + 0.3 * width, y1 + 0.9 * height),
    )
    return np.concatenate([part / max(float(np.linalg.norm(part)), 1e-6) for part in parts]).astype(np.float32)


def look_distance(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How different people look, for every pair: about 0.5 for one person, 2 and more for two.

    Args:
        ones: (n, LOOK_DIM), looks or means of looks.
        others: (m, LOOK_DIM).

    Returns:
        float64 (n, m): the weighted mean distance of the parts that both show.
    """
    total, weight = np.zeros((len(ones), len(others))), np.zeros((len(ones), len(others)))
    for k, (start, stop) in enumerate(zip(_STARTS[:-1], _STARTS[1:], strict=True)):
        a, b = np.asarray(ones, np.float64)[:, start:stop], np.asarray(others, np.float64)[:, start:stop]
        length_a, length_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        cosine = (a @ b.T) / np.maximum(np.outer(length_a, length_b), 1e-9)
        shown = _WEIGHTS[k] * np.outer(length_a > 0, length_b > 0)
        total += shown * np.minimum((1.0 - cosine) / _SPREADS[k], _FARTHEST)
        weight += shown
    return total / np.maximum(weight, 1e-9)


def _upright(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face in shades of grey, turned, scaled and shifted: float32 (56, 48), logarithmic so that light only adds."""
    found = np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[48:68].mean(axis=0)]).astype(np.float64)
    a, b = found - found.mean(axis=0), _PLACES - _PLACES.mean(axis=0)
    power = max(float((a**2).sum()), 1e-6)
    cosine, sine = float((a * b).sum()) / power, float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / power
    turn = np.array([[cosine, -sine], [sine, cosine]])
    to_chip = np.column_stack([turn, _PLACES.mean(axis=0) - turn @ found.mean(axis=0)])
    chip = cut_piece(picture, to_chip, (_CHIP_WIDTH, _CHIP_HEIGHT), cv2.BORDER_REPLICATE)
    return np.log1p(cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY).astype(np.float32))


def _gradients(chip: np.ndarray) -> np.ndarray:
    """Histograms of the gradients' directions, weighted by their size and normalised in each cell."""
    across, down = cv2.Sobel(chip, cv2.CV_32F, 1, 0), cv2.Sobel(chip, cv2.CV_32F, 0, 1)
    size, angle = cv2.cartToPolar(across, down)
    position = angle * (_ORIENTATIONS / (2 * np.pi))
    below = np.floor(position)
    above_share = position - below
    bins = below.astype(np.int64) % _ORIENTATIONS
    layers = np.arange(_ORIENTATIONS)[:, None, None]
    spread = (bins == layers) * (size * (1 - above_share)) + ((bins + 1) % _ORIENTATIONS == layers) * (size * above_share)
    cells = np.stack([cv2.resize(layer, (_CELLS_X, _CELLS_Y), interpolation=cv2.INTER_AREA) for layer in spread])
    power = (cells**2).sum(axis=0)
    return np.sqrt(cells / (np.sqrt(power) + 0.3 * np.sqrt(power.mean()) + 1e-6)).ravel()


def _shades(chip: np.ndarray) -> np.ndarray:
    """The lowest spatial frequencies of the face, brightness and contrast taken out."""
    even = (chip - chip.mean()) / (float(chip.std()) + 1e-3)
    return cv2.dct(even)[:_COSINES, :_COSINES].ravel()[1:]


def _colours(picture: np.ndarray, x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Shares of colours (CIE Lab) in a rectangle, as square roots, neighbours blurred; zeros outside of the picture."""
    left, top, right, bottom = (max(0, round(value)) for value in (x0, y0, x1, y1))
    patch = picture[top:bottom, left:right]
    if patch.size == 0 or patch.shape[0] * patch.shape[1] < 0.2 * (x1 - x0) * (y1 - y0):
        return np.zeros(_COLOURS)
    patch = cv2.resize(patch, (min(_PATCH, patch.shape[1]), min(_PATCH, patch.shape[0])), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], None, [_LIGHTNESS_BINS, _TINT_BINS, _TINT_BINS], [0, 256, 98, 158, 98, 158])
    for axis, bins in enumerate(counts.shape):
        kernel = np.maximum(0, 1 - 0.6 * np.abs(np.subtract.outer(np.arange(bins), np.arange(bins))))
        counts = np.moveaxis(np.tensordot(kernel, counts, axes=(1, axis)), 0, axis)
    return np.sqrt(counts / max(float(counts.sum()), 1e-6)).ravel()
