"""Find the faces of a picture: boxes, 68 landmarks, and now and then a descriptor of the person.

A detector looks at the whole picture every few frames, at the start of a shot and where a face was lost, now and then at
tiles of it for small faces; in between the mesh of the last picture says where to look in this one. Descriptors take twenty
times as long as following a face, so they are made at its start, where it may have become somebody else's, and ever more
seldom in between.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from utils.video.descriptors import DescriberProcess, FaceDescriber, face_chip
from utils.video.face_networks import N_LANES, Detection, FaceNetworks, Fit, Region, iou

_MIN_FACE = 20.0  # pixels, the longer side of a face's box; lips are not to be read from smaller ones

_SEARCH_FRAMES = 10  # between two looks at the whole picture while all known faces are followed
_RETRY_FRAMES = 3  # ... while a lost face may come back
_EMPTY_FRAMES = 5  # ... while nobody is there
_TILES_FRAMES = 50  # between two looks at tiles
_LOST_FRAMES = 25  # for so long a lost face is looked for where it was
_CONFIRM_FRAMES = 25  # a face that no detector has seen for so long is looked at by the near one
_DESCRIBE_AFTER_FRAMES = (12, 60, 250, 1000)  # from each descriptor of a face to the next one; the last from then on
_DESCRIBE_NEAR_FRAMES = 25  # ... at most, while another face overlaps
_DESCRIBE_DOUBT_FRAMES = 5  # ... at least, where it may have become somebody else's: a flickering light would take all the time
_SAME_VIEW = 0.9  # correlation with the last view of a face; below it, it may be somebody else's

_MIN_CONFIRMED = 0.5
_MIN_PRESENCE = 0.5
_SAME_IOU = 0.3  # of a detection with a mesh's box
_MESH_MARGIN = 1.5  # what the mesh network wants to see: the longer side of the face times this
_NEAR_MARGIN = 2.2  # what the near detector is shown of a face
_WIDE_SCALE = 1.6  # of the picture's longer side: with so much black around it, detectors see faces cut by its border
_CLOSE_UP_SEARCHES = ((1.0, True), (_WIDE_SCALE, True), (_WIDE_SCALE, False))  # scale, near detector; where nobody was found
_SMALLEST_TILE = 360  # pixels; in it the far detector sees faces of 25

# Points of the mesh whose mean is each of the 68 (in the order of iBUG 300-W; left is left in the picture). Chosen so that
# meshes of real speakers, brought to the mean face by the transform of their published mouth crops, meet its points.
# fmt: off
_MESH_OF_POINT = (
    (127,), (234,), (93, 132), (132, 58), (172,), (136, 150), (150, 149), (176,), (152,),  # jaw, left ear to chin
    (400,), (379, 378), (365, 379), (397,), (361, 288), (323, 361), (454,), (356,),  # chin to right ear
    (70,), (63,), (105,), (66,), (107, 66), (336, 296), (296,), (334,), (293,), (300,),  # brows
    (168, 6), (197, 195), (5, 4), (4, 1), (98, 97), (97,), (2,), (326,), (327, 326),  # nose
    (33, 246), (160,), (158,), (133, 173), (153,), (144,),  # left eye
    (362, 398), (385,), (387,), (263, 466), (373,), (380,),  # right eye
    (61,), (40, 39), (37,), (0,), (267,), (270, 269), (291,), (321, 405), (314,), (17,), (84,), (91, 181),  # outer lips
    (78, 61), (81, 82), (13,), (311, 312), (308, 291), (402, 317), (14,), (178, 87),  # inner lips
)
# fmt: on
_FIRST = np.array([indices[0] for indices in _MESH_OF_POINT])
_SECOND = np.array([indices[-1] for indices in _MESH_OF_POINT])
_MOUTH = np.concatenate([_FIRST[48:], _SECOND[48:]])
_LEFT_EYE, _RIGHT_EYE = 33, 263  # outer corners in the mesh


@dataclass(frozen=True, eq=False)
class Face:
    """A face in one picture.

    Attributes:
        box: float32 (4,), pixels x0 y0 x1 y1, around brow, cheeks and chin.
        score: 0..1, the mesh network's belief in a face here times that of the last detector that looked.
        points: float32 (68, 2), pixels from the picture's upper left corner (the middle of its first pixel is 0.5, 0.5;
            mouths cut at them without a correction lie on published crops), x before y, in the order of iBUG 300-W.
        descriptor: float32 (DESCRIPTOR_DIM,) of this picture, see `descriptors.py`; None where none was made.
        is_followed: the last picture's face led to this one, and nothing speaks for another person: no face overlaps, and
            since the last descriptor the view never changed at once.
    """

    box: np.ndarray
    score: float
    points: np.ndarray
    descriptor: np.ndarray | None = None
    is_followed: bool = False


@dataclass(eq=False)
class _Known:
    """A face that is followed from picture to picture."""

    mesh: np.ndarray  # (468, 2), pixels of the last picture
    box: np.ndarray  # (4,), around it
    presence: float
    view: np.ndarray  # (256,), what the mesh network saw, in small
    confirmed: float  # score of the last detector that saw it
    confirmed_frame: int
    n_described: int = 0  # descriptors since it may have become somebody else's
    described_frame: int = -(10**9)
    lane: int = 0  # in which it is followed
    ahead: deque[Future[Fit]] = field(default_factory=deque)  # into the next pictures

    def look_ahead(self, networks: FaceNetworks, pictures: Sequence[np.ndarray]) -> None:
        """Begin to follow it into the next pictures, as far as that has not begun yet."""
        for picture in pictures[len(self.ahead) :]:
            last = self.ahead[-1] if self.ahead else None
            self.ahead.append(networks.fit_beside(self.lane, picture, partial(self._region_after, last)))

    def _region_after(self, last: Future[Fit] | None) -> Region:
        """Where to look for it after the last picture, or after that of a fit which the same lane has just done."""
        return _region_of(self.mesh if last is None else last.result()[0])

    def stop(self) -> None:
        """It is not followed any more."""
        for fit in self.ahead:
            fit.cancel()

    def update(self, mesh: np.ndarray, box: np.ndarray, presence: float, view: np.ndarray) -> None:
        if float(view @ self.view) < _SAME_VIEW:  # somebody else is there, or the light changed
            self.doubt()
        self.mesh, self.box, self.presence, self.view = mesh, box, presence, view

    def doubt(self) -> None:
        """Have it looked at again whose face this is."""
        self.n_described = 0

    def is_due(self, frame: int, is_near: bool) -> bool:
        """Tell if it is time for a descriptor."""
        waits = (_DESCRIBE_DOUBT_FRAMES, *_DESCRIBE_AFTER_FRAMES)
        after = waits[min(self.n_described, len(waits) - 1)]
        return frame - self.described_frame >= (min(after, _DESCRIBE_NEAR_FRAMES) if is_near else after)


class FaceFinder:
    """Finds the faces of consecutive pictures; a context manager, since the networks run in threads of their own.

    Args:
        describer: None: one that works in the caller's thread.

    Raises:
        UserError: LiteRT or dlib is not installed.
    """

    def __init__(self, describer: FaceDescriber | DescriberProcess | None = None) -> None:
        self._describer = describer or FaceDescriber()
        self._networks = FaceNetworks()
        self._known: list[_Known] = []
        self.reset()

    def __enter__(self) -> "FaceFinder":
        return self

    def __exit__(self, *_: object) -> None:
        self._networks.close()

    def reset(self) -> None:
        """Forget every face; the next picture is searched as the first one is."""
        for known in self._known:
            known.stop()
        self._known = []
        self._lost: list[tuple[np.ndarray, int]] = []  # box, frame in which it was last seen
        # looks that were begun: the upcoming frame, when there were tiles last, what they see
        self._ahead: tuple[tuple[int, int], list[Future[list[Detection]]]] = (-1, -1), []
        self._last_frame = self._search_frame = self._tiles_frame = -(10**9)

    def find(self, picture: np.ndarray, frame: int, is_cut: bool = False, upcoming: Sequence[np.ndarray] = ()) -> list[Face]:
        """The faces of a picture, in no particular order.

        Args:
            picture: uint8 (height, width, 3), RGB.
            frame: grid frame; where it does not follow the last one, all is searched anew.
            is_cut: this picture begins a new shot.
            upcoming: the pictures of the next frames, of the same shot, with which the next calls go on: known faces are
                followed into them beside whatever else is done. It saves time and changes nothing else.
        """
        if is_cut or frame != self._last_frame + 1:
            self.reset()
        self._last_frame = frame
        looks = self._looks(picture, frame) if self._is_due(frame) else []
        self._follow([picture, *upcoming], frame)
        self._search(picture, frame, looks)
        self._confirm(picture, frame)
        self._look_ahead(upcoming, frame)
        return [self._face(picture, known, frame) for known in self._known]

    def _follow(self, pictures: Sequence[np.ndarray], frame: int) -> None:
        """Fit the meshes of the last picture to the first of these; those that fail are lost, those that met are one."""
        picture, followed = pictures[0], []
        for known in self._known:
            known.look_ahead(self._networks, pictures)
        for known in self._known:
            mesh, presence, view = known.ahead.popleft().result()
            box = _box_of(mesh)
            if self._is_face(picture, mesh, box, presence):
                known.update(mesh, box, presence, view)
                followed.append(known)
            else:
                known.stop()
                self._lost.append((known.box, frame - 1))
        self._known = []
        for known in sorted(followed, key=lambda one: -one.confirmed * one.presence):
            rival = next((other for other in self._known if _is_same(known.box, other.box)), None)
            if rival is None:
                self._known.append(known)
            else:
                rival.doubt()
                known.stop()
                self._lost.append((known.box, frame - 1))
        self._lost = [(box, seen) for box, seen in self._lost if frame - seen <= _LOST_FRAMES]

    def _is_due(self, frame: int) -> bool:
        """Tell if it is time to look for faces that are not followed yet."""
        every = _SEARCH_FRAMES if self._known else _EMPTY_FRAMES
        return frame - self._search_frame >= (min(every, _RETRY_FRAMES) if self._lost else every)

    def _looks(self, picture: np.ndarray, frame: int) -> list[Future[list[Detection]]]:
        """What the far detector sees in the whole picture, now and then also in the tiles of it."""
        begun, looks = self._ahead
        if begun != (frame, self._tiles_frame):
            looks = self._begin_looks(picture, frame)
        self._search_frame = frame
        self._tiles_frame = frame if len(looks) > 1 else self._tiles_frame
        return looks

    def _begin_looks(self, picture: np.ndarray, frame: int) -> list[Future[list[Detection]]]:
        height, width = picture.shape[:2]
        regions = [(0.0, 0.0, float(max(height, width)))]
        if frame - self._tiles_frame >= _TILES_FRAMES:
            regions += [_around(width, height, _WIDE_SCALE), *tiles(width, height)]
        return [self._networks.detect(picture, *region, is_near=False) for region in regions]

    def _look_ahead(self, upcoming: Sequence[np.ndarray], frame: int) -> None:
        """Begin the next looks, if they are where they are due while no face is lost."""
        due = self._search_frame + _SEARCH_FRAMES
        if self._known and frame < due <= frame + len(upcoming) and self._ahead[0] != (due, self._tiles_frame):
            self._ahead = (due, self._tiles_frame), self._begin_looks(upcoming[due - frame - 1], due)

    def _search(self, picture: np.ndarray, frame: int, looks: list[Future[list[Detection]]]) -> None:
        """Take in what was seen, look around lost faces, and where nobody was found, for faces that fill the picture."""
        if any(seen == frame - 1 for _, seen in self._lost) and not looks:
            looks = self._looks(picture, frame)
        if not looks:
            return
        height, width = picture.shape[:2]
        for box, _ in self._lost:
            side = 5 * float(max(box[2:] - box[:2]))
            if side < 0.7 * max(height, width):
                middle = (box[:2] + box[2:]) / 2
                around = float(middle[0]) - side / 2, float(middle[1]) - side / 2, side
                looks.append(self._networks.detect(picture, *around, is_near=False))
        for look in looks:
            self._take_in(picture, look.result(), frame)
        for scale, is_near in _CLOSE_UP_SEARCHES:
            if not self._known:
                look = self._networks.detect(picture, *_around(width, height, scale), is_near)
                self._take_in(picture, look.result(), frame)
        self._lost = [(box, seen) for box, seen in self._lost if not any(_is_same(box, one.box) for one in self._known)]

    def _take_in(self, picture: np.ndarray, detections: Sequence[Detection], frame: int) -> None:
        """Follow from now on what a detector saw, if the mesh and the near detector believe in it, too."""
        for box, angle, score in detections:
            known = next((one for one in self._known if iou(box, one.box) > _SAME_IOU or _is_same(box, one.box)), None)
            if known is not None:
                known.confirmed, known.confirmed_frame = score, frame
                continue
            middle, side = (box[:2] + box[2:]) / 2, _MESH_MARGIN * float(max(box[2:] - box[:2]))
            mesh, presence, _ = self._networks.fit(picture, (middle, side, angle))
            if presence < _MIN_PRESENCE:
                continue
            mesh, presence, view = self._networks.fit(picture, _region_of(mesh))
            new = _Known(mesh, _box_of(mesh), presence, view, score, frame, lane=self._free_lane())
            is_there = self._is_face(picture, mesh, new.box, presence) and iou(box, new.box) >= _SAME_IOU
            is_new = is_there and not any(_is_same(new.box, one.box) for one in self._known)
            if is_new and self._near_score(picture, new.box) >= _MIN_CONFIRMED:
                self._known.append(new)

    def _free_lane(self) -> int:
        """The one that follows the fewest faces."""
        lanes = [known.lane for known in self._known]
        return min(range(N_LANES), key=lanes.count)

    def _confirm(self, picture: np.ndarray, frame: int) -> None:
        """Drop faces that no detector has seen for long and that the near one does not see, either."""
        kept = []
        for known in self._known:
            if frame - known.confirmed_frame >= _CONFIRM_FRAMES:
                score = self._near_score(picture, known.box)
                if score < _MIN_CONFIRMED:
                    known.stop()
                    continue
                known.confirmed, known.confirmed_frame = score, frame
            kept.append(known)
        self._known = kept

    def _near_score(self, picture: np.ndarray, box: np.ndarray) -> float:
        """The score of the near detector for this box, or of the far one where the border cuts it; 0 where nothing is seen."""
        side = _NEAR_MARGIN * float(max(box[2:] - box[:2]))
        left, top = (box[:2] + box[2:]) / 2 - side / 2
        is_cut = (box[:2] < 0).any() or (box[2:] > picture.shape[1::-1]).any()
        for is_near in (True, False) if is_cut else (True,):
            found = self._networks.detect(picture, float(left), float(top), side, is_near).result()
            score = max((score for other, _, score in found if iou(other, box) > _SAME_IOU), default=0.0)
            if score >= _MIN_CONFIRMED:
                return score
        return 0.0

    def _is_face(self, picture: np.ndarray, mesh: np.ndarray, box: np.ndarray, presence: float) -> bool:
        """Tell if a mesh may be a face whose mouth is in the picture."""
        size = box[2:] - box[:2]
        if presence < _MIN_PRESENCE or not np.isfinite(mesh).all() or max(size) < _MIN_FACE:
            return False
        mouth = mesh[_MOUTH].mean(axis=0)
        eyes = (mesh[_LEFT_EYE] + mesh[_RIGHT_EYE]) / 2
        across, down = mesh[_RIGHT_EYE] - mesh[_LEFT_EYE], mouth - eyes
        distance, drop = float(np.hypot(*across)), float(np.hypot(*down))
        upright = across[0] * down[1] - across[1] * down[0] > 0  # the mouth lies below the line of the eyes, not above it
        height, width = picture.shape[:2]
        inside = 0 <= mouth[0] < width and 0 <= mouth[1] < height
        return inside and upright and 0.1 * max(size) < distance < max(size) and 0.15 * max(size) < drop < 0.8 * max(size)

    def _face(self, picture: np.ndarray, known: _Known, frame: int) -> Face:
        points, descriptor = points_of(known.mesh), None
        is_near = any(other is not known and _overlap(known.box, other.box) for other in self._known)
        is_followed = known.n_described > 0 and not is_near
        if known.is_due(frame, is_near):
            descriptor = self._describer.describe(face_chip(picture, points))
            known.n_described, known.described_frame = known.n_described + 1, frame
        score = min(max(known.presence * known.confirmed, 0.0), 1.0)
        return Face(known.box.astype(np.float32), score, points.astype(np.float32), descriptor, is_followed)


def points_of(mesh: np.ndarray) -> np.ndarray:
    """The 68 points (68, 2) of a mesh (468, 2)."""
    return (mesh[_FIRST] + mesh[_SECOND]) / 2


def tiles(width: int, height: int) -> list[tuple[float, float, float]]:
    """Squares (left, top, side), in pixels, that cover a picture and overlap by a quarter at least; none for a small one."""
    side = max(_SMALLEST_TILE, round(0.6 * min(width, height)))
    if side > 0.8 * max(width, height):
        return []
    starts = []
    for length in (width, height):
        count = 1 if length <= side else 1 + int(np.ceil((length - side) / (0.75 * side)))
        starts.append(np.linspace(min(0.0, (length - side) / 2), max(length - side, (length - side) / 2), count))
    return [(float(left), float(top), float(side)) for top in starts[1] for left in starts[0]]


def _around(width: int, height: int, scale: float) -> tuple[float, float, float]:
    """The square (left, top, side), in pixels, around a picture's middle that is `scale` times as large."""
    side = scale * max(width, height)
    return (width - side) / 2, (height - side) / 2, side


def _box_of(mesh: np.ndarray) -> np.ndarray:
    return np.concatenate([mesh.min(axis=0), mesh.max(axis=0)])


def _region_of(mesh: np.ndarray) -> Region:
    """The square in which the mesh network looks for a face that had this mesh."""
    low, high = np.split(_box_of(mesh), 2)
    across = mesh[_RIGHT_EYE] - mesh[_LEFT_EYE]
    return (low + high) / 2, _MESH_MARGIN * float(max(high - low)), float(np.arctan2(across[1], across[0]))


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """The distance of the middles of two boxes, pixels."""
    return float(np.hypot(*((one[:2] + one[2:]) - (other[:2] + other[2:])) / 2))


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell if two faces are so close that one may be taken for the other."""
    return _apart(one, other) < 0.8 * max(max(one[2:] - one[:2]), max(other[2:] - other[:2]))


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell if two boxes of about the same size lie so close that only one face can be there."""
    sizes = max(one[2:] - one[:2]), max(other[2:] - other[:2])
    return bool(iou(one, other) > 0.5 or _apart(one, other) < 0.3 * min(sizes))
