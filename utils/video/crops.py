"""Mouth crops from pictures and landmarks: 96x96 grey, aligned to the mean face, in one pass and in constant memory.

Only the 96x96 pixels of the crop are computed, from the part of the picture that they show: the mean face's frame of
256x256 of which the published preprocessing cuts them is never made. The pixels are the same up to the rounding of places
to 1/32 of a pixel in OpenCV. Both alignments are warped so, though `forward5` was published with scikit-image, whose grey
levels are cut off, not rounded: half a level darker.
"""

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from utils.data.mouths import MOUTH_SIZE
from utils.video.alignment import ALIGNMENTS, mouth_transforms
from utils.video.landmarks import Person


def cut_people(
    pictures: Iterable[tuple[int, np.ndarray | None]],
    people: Sequence[Person],
    n_frames: int,
    alignment: str = ALIGNMENTS[0],
) -> Iterator[tuple[int, np.ndarray | None, list[np.ndarray | None]]]:
    """Cut the mouths of several people in one pass over the pictures.

    Args:
        pictures: (frame, picture) with ascending frames of the 25 fps grid; RGB uint8 (height, width, 3) of the size in
            which the landmarks were found, or None where the video shows nothing.
        people: landmarks of all frames.
        n_frames: of the whole video, where people's landmarks end.
        alignment: that of the visual frontend, see `utils.video.alignment`.

    Yields:
        frame, picture, and for each person the crop, uint8 (96, 96); None for one that was not seen: in a longer gap,
        without a picture or wholly outside it.
    """
    transforms = [mouth_transforms(one.frames, one.points, n_frames, alignment) for one in people]
    for frame, picture in pictures:
        yield frame, picture, [None if picture is None else cut_crop(picture, one[frame]) for one in transforms]


def cut_crop(picture: np.ndarray, transform: np.ndarray) -> np.ndarray | None:
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
