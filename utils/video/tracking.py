"""Follow faces from picture to picture: faces of single frames become tracks, each of one person within one shot.

A track goes on where its face should be by now; where the finder is not sure that it followed the same face, descriptors
decide, also who is who after two faces have passed one another. It survives losses of a second, ends with its shot, and what
was seen for a moment only is dropped and counted.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from utils.video.descriptors import DESCRIPTOR_DIM, is_turned
from utils.video.faces import Face

_MAX_LOST_FRAMES = 25
_MIN_FRAMES = 5  # with a face; shorter tracks are dropped
_MIN_SEEN = 0.3  # of its frames; tracks that flicker more are dropped

_REACH = 0.6  # sizes of a face, from where it should be to where it is, at most
_REACH_GROWS = 0.04  # ... and more for every further frame that it was lost
_LARGEST_REACH = 1.5
_LARGEST_RATIO = 1.8  # of sizes
_MOMENTUM_FRAMES = 8  # a lost face is taken to move on for so long
_DIFFERENT = 0.6  # distance of descriptors at which a face is another person's, whatever its place, if it was not followed
_DIFFERENT_TURNED = 0.75  # ... where only a face turned aside is known of one of both
_UNLIKE_WEIGHT = 0.8  # sizes of a face that a distance of descriptors of 1 counts as
_RATIO_WEIGHT = 0.5

_THUMB = (64, 36)  # pixels, width and height
_FINEST = 144  # pixels of height; thumbnails are made of pictures thinned out to about this
_SAME_EDGES, _SAME_SHADES = 0.45, 0.8  # correlations of thumbnails; below both is a cut
_SUDDEN = 1.5  # ... if it changes the edges so many times as much as the liveliest of the last pictures
_QUIET_EDGES = 0.75  # among quiet pictures a cut is below this already
_QUIET_SUDDEN = 5.0
_QUIET_CHANGE = 0.02  # quieter is no quieter
_RECENT_FRAMES = 5


class Track:
    """One face through one shot, as it grows.

    Args:
        shot: which one; they are counted from 0.

    Attributes:
        frames: ascending; gaps are losses.
        faces: of each of these frames.
        n_described: of how many descriptors `descriptor` is the mean; of faces turned aside only where there is no other.
        is_turned: it is of such.
    """

    def __init__(self, shot: int) -> None:
        self.shot = shot
        self.frames: list[int] = []
        self.faces: list[Face] = []
        self.n_described, self.is_turned = 0, True
        self._descriptor_sum = np.zeros(DESCRIPTOR_DIM)
        self._velocity = np.zeros(2)  # pixels a frame

    def add(self, frame: int, face: Face) -> None:
        """Go on with this face."""
        middle = (face.box[:2] + face.box[2:]).astype(np.float64) / 2
        if self.frames:
            step = (middle - self.middle) / (frame - self.frames[-1])
            share = 0.4 if len(self.frames) > 1 else 1.0
            self._velocity = (1 - share) * self._velocity + share * step
        self.middle, self.size = middle, float(max(face.box[2:] - face.box[:2]))
        self.frames.append(frame)
        self.faces.append(face)
        if face.descriptor is None:
            return
        turned = is_turned(face.points)
        if self.is_turned and not turned:  # now there is a better one
            self._descriptor_sum, self.n_described, self.is_turned = np.zeros(DESCRIPTOR_DIM), 0, False
        if turned == self.is_turned:
            self._descriptor_sum += face.descriptor
            self.n_described += 1

    @property
    def descriptor(self) -> np.ndarray:
        """float64 (DESCRIPTOR_DIM,); zeros where none was made."""
        return self._descriptor_sum / max(self.n_described, 1)

    def unlike(self, face: Face) -> float:
        """Distance of the descriptors; 0 where one of both has none."""
        if face.descriptor is None or not self.n_described:
            return 0.0
        return float(np.linalg.norm(self.descriptor - face.descriptor))

    def expected(self, frame: int) -> np.ndarray:
        """The expected middle of the face."""
        return self.middle + self._velocity * min(frame - self.frames[-1], _MOMENTUM_FRAMES)

    @property
    def flaw(self) -> str:
        """Why this is no track to be kept, "" where it is one."""
        if len(self.frames) < _MIN_FRAMES:
            return "too short"
        return "flickers" if len(self.frames) < _MIN_SEEN * (self.frames[-1] - self.frames[0] + 1) else ""


class FaceFollower:
    """Joins the faces of consecutive frames to tracks, frame by frame."""

    def __init__(self) -> None:
        self._going_on: list[Track] = []
        self._shot = 0

    def follow(self, frame: int, faces: Sequence[Face], is_cut: bool) -> list[Track]:
        """The track of each face of a frame, which it now ends with; frames ascend, `is_cut` begins a shot."""
        self._shot += is_cut
        self._going_on = [one for one in self._going_on if not is_cut and frame - one.frames[-1] <= _MAX_LOST_FRAMES]
        tracks = []
        for face, track in zip(faces, _assigned(frame, faces, self._going_on), strict=True):
            if track is None:
                track = Track(self._shot)
                self._going_on.append(track)
            track.add(frame, face)
            tracks.append(track)
        return tracks


def follow_faces(frames: Iterable[tuple[int, Sequence[Face], bool]]) -> tuple[list[Track], Counter[str]]:
    """Join the faces of consecutive frames.

    Args:
        frames: grid frame, its faces, whether a shot begins; ascending, those without faces may be left out.

    Returns:
        The tracks, ordered by their first frame, from left to right within it; how many others were dropped, by reason.
    """
    tracks: list[Track] = []
    follower = FaceFollower()
    for frame, faces, is_cut in frames:
        tracks += [track for track in follower.follow(frame, faces, is_cut) if len(track.frames) == 1]
    dropped = Counter(track.flaw for track in tracks if track.flaw)
    kept = [track for track in tracks if not track.flaw]
    return sorted(kept, key=lambda track: (track.frames[0], track.faces[0].box[0])), dropped


def _assigned(frame: int, faces: Sequence[Face], tracks: Sequence[Track]) -> list[Track | None]:
    """The track that each face goes on with: the cheapest assignment as a whole."""
    if not tracks or not faces:
        return [None] * len(faces)
    boxes = np.stack([face.box for face in faces]).astype(np.float64)
    middles, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    expected = np.stack([track.expected(frame) for track in tracks])
    last_sizes = np.array([track.size for track in tracks])
    lost = np.array([frame - track.frames[-1] for track in tracks])
    size = np.sqrt(np.outer(last_sizes, sizes))
    apart = np.linalg.norm(expected[:, None] - middles[None], axis=-1) / size
    ratio = np.abs(np.log(last_sizes[:, None] / sizes))
    unlike = np.array([[track.unlike(face) for face in faces] for track in tracks])
    followed = (lost == 1)[:, None] & np.array([face.is_followed for face in faces])
    turned = np.logical_or.outer([track.is_turned for track in tracks], [is_turned(face.points) for face in faces])
    different = np.where(turned, _DIFFERENT_TURNED, _DIFFERENT)
    reach = np.minimum(_REACH + _REACH_GROWS * (lost - 1), _LARGEST_REACH)
    possible = (apart < reach[:, None]) & (ratio < np.log(_LARGEST_RATIO)) & ((unlike < different) | followed)
    cost = apart + _RATIO_WEIGHT * ratio + _UNLIKE_WEIGHT * unlike
    taken: list[Track | None] = [None] * len(faces)
    for row, column in zip(*linear_sum_assignment(np.where(possible, cost, 1e6)), strict=True):
        if possible[row, column]:
            taken[column] = tracks[row]
    return taken


class CutDetector:
    """Finds the first picture of every shot, by the edges and shades of small thumbnails of consecutive pictures.

    Both are correlations, so that flashes and fades change little; a fast pan changes much, but not suddenly.
    """

    def __init__(self) -> None:
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._recent: deque[float] = deque(maxlen=_RECENT_FRAMES)

    def is_cut(self, picture: np.ndarray) -> bool:
        """Tell if this picture, uint8 (height, width, 3), begins a new shot."""
        last, now = self._last, _thumbnail(picture)
        self._last = now
        if last is None:
            return False
        shades, edges = (_correlation(before, after) for before, after in zip(last, now, strict=True))
        change = 1.0 - edges
        liveliest = max(self._recent, default=0.0)
        is_clear = edges < _SAME_EDGES and shades < _SAME_SHADES and change > _SUDDEN * liveliest
        is_quiet = len(self._recent) == _RECENT_FRAMES
        is_sudden = is_quiet and edges < _QUIET_EDGES and change > _QUIET_SUDDEN * max(liveliest, _QUIET_CHANGE)
        if is_clear or is_sudden:
            self._recent.clear()
        else:
            self._recent.append(change)
        return is_clear or is_sudden


def _thumbnail(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shades less their mean, and their gradients."""
    height, width = picture.shape[:2]
    every = max(1, min(height, width) // _FINEST)
    thinned = cv2.resize(picture, (-(-width // every), -(-height // every)), interpolation=cv2.INTER_NEAREST)
    small = cv2.resize(thinned, _THUMB, interpolation=cv2.INTER_AREA)
    shades = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    edges = np.stack([cv2.Sobel(shades, cv2.CV_32F, 1, 0), cv2.Sobel(shades, cv2.CV_32F, 0, 1)])
    return shades - shades.mean(), edges


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of two arrays; 1 where both are empty of structure, such as two black pictures."""
    floor = one.size * 1.0  # a grey level of structure in each pixel
    return float(((one * other).sum() + floor) / (np.sqrt((one**2).sum() + floor) * np.sqrt((other**2).sum() + floor)))
