"""Pieces cut out of pictures: mouth crops, and faces as the networks that look at them want them.

Mouth crops are 96x96 grey, aligned to the mean face, of all people in one pass over the pictures. Only their own pixels are
computed, from the part of the picture that they show: the mean face's frame of 256x256 of which the published preprocessing
cuts them is never made. The pixels are the same up to the rounding of places to 1/32 of a pixel in OpenCV. Both alignments
are warped so, though `forward5` was published with scikit-image, whose grey levels are cut off, not rounded: half a level
darker.
"""

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from utils.data.mouths import MOUTH_SIZE
from utils.video.alignment import ALIGNMENTS, face_transforms, mouth_transforms
from utils.video.decoding import Picture
from utils.video.landmarks import Person


def cut_people(
    pictures: Iterable[tuple[int, np.ndarray | Picture | None]],
    people: Sequence[Person],
    n_frames: int,
    alignment: str = ALIGNMENTS[0],
    face_size: int = 0,
) -> Iterator[tuple[int, np.ndarray | Picture | None, list[np.ndarray | None]]]:
    """Cut the mouths, and on wish the faces, of several people in one pass over the pictures.

    Args:
        pictures: (frame, picture) with ascending frames of the 25 fps grid; RGB uint8 (height, width, 3) of the size in
            which the landmarks were found, or None where the video shows nothing. Faces need whole ones.
        people: landmarks of all frames.
        n_frames: of the whole video, where people's landmarks end.
        alignment: of mouths, that of the visual frontend, see `utils.video.alignment`.
        face_size: pixels of a face crop; 0: none.

    Yields:
        frame, picture, and crops: the mouth of each person, uint8 (96, 96), then, if there are to be any, the face of each,
        uint8 (face_size, face_size, 3); None for one that was not seen: in a longer gap, without a picture or wholly
        outside it.
    """
    mouths = [mouth_transforms(one.frames, one.points, n_frames, alignment) for one in people]
    faces = [face_transforms(one.frames, one.points, n_frames, face_size) for one in people] if face_size else []
    for frame, picture in pictures:
        crops = [None if picture is None else cut_crop(picture, one[frame]) for one in mouths]
        crops += [None if picture is None else _cut_face(picture, one[frame], face_size) for one in faces]
        yield frame, picture, crops


def _cut_face(picture: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray | None:
    if not np.isfinite(transform).all():
        return None
    return cut_piece(picture, transform, (size, size), cv2.BORDER_REPLICATE)


def cut_crop(picture: np.ndarray | Picture, transform: np.ndarray) -> np.ndarray | None:
    """One crop, as OpenCV's: grey by luma, bilinear, black outside the picture.

    Args:
        picture: RGB uint8 (height, width, 3).
        transform: (2, 3) from the picture's pixels to the crop's.

    Returns:
        uint8 (96, 96), or None where the crop lies wholly outside the picture or the transform is none.
    """
    if not np.isfinite(transform).all():
        return None
    inverse = cv2.invertAffineTransform(transform)
    last = MOUTH_SIZE - 1
    corners = np.array([[0, 0, 1], [last, 0, 1], [0, last, 1], [last, last, 1]]) @ inverse.T
    height, width = picture.shape[:2]
    x_min, y_min = np.clip(np.floor(corners.min(axis=0)) - 1, 0, (width, height)).astype(int)
    x_max, y_max = np.clip(np.ceil(corners.max(axis=0)) + 2, 0, (width, height)).astype(int)
    if x_min >= x_max or y_min >= y_max:
        return None
    grey = cv2.cvtColor(picture[y_min:y_max, x_min:x_max], cv2.COLOR_RGB2GRAY)
    from_part = transform.copy()
    from_part[:, 2] += transform[:, :2] @ (x_min, y_min)
    size = (MOUTH_SIZE, MOUTH_SIZE)
    return cv2.warpAffine(grey, from_part, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


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
