"""Labels for the speakers of a corpus that has none, from their faces: one person in each clip."""

from pathlib import Path

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from utils.errors import UserError
from utils.video.decoding import read_pictures
from utils.video.faces import Face, FaceFinder

SAME_PERSON = 0.55  # distance of descriptors: mean over the pairs of two groups that are one person
PERHAPS_SAME = 0.62  # for keeping splits apart: up to here two groups might be one person
_CLOSE = 0.35  # clips this near to a group's mean are its own, before groups are compared
_MOST_COMPARED = 5000  # clips of which all pairs are compared
_PICTURES = (5, 14, 23)  # grid frames that are looked at


def describe_speaker(path: Path | str) -> list[float]:
    """The descriptor of the largest face of a clip, (128,), the mean over some of its pictures.

    Raises:
        UserError: no face is found, or the video cannot be read.
    """
    found = []
    with FaceFinder() as finder:
        for frame, picture in read_pictures(path, _PICTURES[-1] + 1):
            if picture is None or frame not in _PICTURES:
                continue
            finder.reset()
            faces = [face for face in finder.find(picture, frame) if face.descriptor is not None]
            if faces:
                found.append(max(faces, key=_area).descriptor)
    if not found:
        raise UserError("no face is found by which the speaker could be told", path)
    mean = np.mean(found, axis=0)
    return [float(value) for value in mean]


def group_speakers(descriptors: np.ndarray, distance: float) -> np.ndarray:
    """Group clips by who is seen, by average linkage.

    Args:
        descriptors: (clips, 128).
        distance: of groups that are joined, `SAME_PERSON` or `PERHAPS_SAME`. Of many clips those that are very close are
            joined first.

    Returns:
        The number of the group of each clip, from 0 in the order of their first clips.
    """
    leaders = np.arange(len(descriptors)) if len(descriptors) <= _MOST_COMPARED else _leaders(descriptors)
    means = np.stack([descriptors[leaders == leader].mean(axis=0) for leader in range(leaders.max() + 1)])
    groups = fcluster(linkage(means, "average"), distance, "distance") if len(means) > 1 else np.ones(1, int)
    labels = groups[leaders]
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels.tolist()))}
    return np.array([numbers[label] for label in labels.tolist()])


def _leaders(descriptors: np.ndarray) -> np.ndarray:
    """The number of the first group whose mean is close enough, for each clip."""
    sums: list[np.ndarray] = []
    counts: list[int] = []
    chosen = np.empty(len(descriptors), int)
    means = np.empty((0, descriptors.shape[1]), descriptors.dtype)
    for index, descriptor in enumerate(descriptors):
        distances = np.linalg.norm(means - descriptor, axis=1)
        nearest = int(distances.argmin()) if len(distances) else -1
        if nearest < 0 or distances[nearest] > _CLOSE:
            nearest = len(sums)
            sums.append(np.zeros_like(descriptor))
            counts.append(0)
            means = np.concatenate([means, descriptor[None]])
        sums[nearest] = sums[nearest] + descriptor
        counts[nearest] += 1
        means[nearest] = sums[nearest] / counts[nearest]
        chosen[index] = nearest
    return chosen


def _area(face: Face) -> float:
    return float((face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))
