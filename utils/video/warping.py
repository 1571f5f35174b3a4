"""Cut a turned and scaled piece out of a picture, without the false patterns that come from skipping pixels."""

import cv2
import numpy as np


def cut_piece(
    picture: np.ndarray, to_piece: np.ndarray, size: tuple[int, int], border: int = cv2.BORDER_CONSTANT
) -> np.ndarray:
    """Warp a picture; where more than half of the pixels would be skipped, they are averaged first.

    Args:
        picture: uint8 (height, width, 3).
        to_piece: (2, 3), a similarity from pixels of the picture to pixels of the piece.
        size: width and height of the piece, pixels.
        border: what lies outside of the picture, as OpenCV names it.

    Returns:
        uint8 (height, width, 3) of the piece.
    """
    turn, shift = to_piece[:, :2], to_piece[:, 2]
    every = int(1.0 / max(float(np.sqrt(abs(np.linalg.det(turn)))), 1e-6))
    if every < 2:
        return cv2.warpAffine(picture, to_piece, size, borderMode=border)
    corners = np.array([[0, 0], [size[0], 0], [0, size[1]], size], dtype=np.float64)
    there = (corners - shift) @ np.linalg.inv(turn).T
    limits = (picture.shape[1], picture.shape[0])
    x0, y0 = np.clip(np.floor(there.min(axis=0)) - every, 0, limits).astype(int)
    x1, y1 = np.clip(np.ceil(there.max(axis=0)) + every, 0, limits).astype(int)
    width, height = (x1 - x0) // every, (y1 - y0) // every
    if min(width, height) < 1:
        return np.zeros((size[1], size[0], 3), np.uint8)
    inner = picture[y0 : y0 + height * every, x0 : x0 + width * every]
    small = cv2.resize(inner, (width, height), interpolation=cv2.INTER_AREA)
    middle = np.array([x0, y0]) + (every - 1) / 2  # of the pixels that became the first one
    to_piece = np.column_stack([turn * every, shift + turn @ middle])
    return cv2.warpAffine(small, to_piece, size, borderMode=border)
