"""The networks that find faces: two detectors of boxes and a mesh of 468 points, those of mediapipe 0.10.21.

They are run by LiteRT, which has wheels for every current Python and needs no graphics libraries: mediapipe's own later
releases have other networks and no way to fit a mesh where the last picture had the face.
LiteRT is imported here and nowhere else, and only when it is needed.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import cv2
import numpy as np

from utils.errors import UserError
from utils.video.crops import cut_piece
from utils.video.network_files import FAR, MESH, NEAR, network_file

_NEAR_ANCHORS, _FAR_ANCHORS = {8: 2, 16: 6}, {4: 1}  # pixels from cell to cell: anchors in each
_MIN_NEAR, _MIN_FAR = 0.5, 0.6  # scores
_SAME_FACE_IOU = 0.3  # of two boxes of one detector

N_LANES = 2  # threads that fit meshes beside the caller's: most of a video's time goes into these
_NOISE = re.compile(r"Created TensorFlow Lite XNNPACK delegate")  # what LiteRT writes to stderr though nothing is wrong


Region = tuple[np.ndarray, float, float]
"""A turned square of a picture: middle (2,) and side in pixels, angle in radians."""

Fit = tuple[np.ndarray, float, np.ndarray]
"""A mesh (468, 2), the belief in it, and what was seen; see `FaceNetworks.meshes`."""


Detection = tuple[np.ndarray, float, float]
"""A face that a detector sees: box (4,) in pixels of the picture, angle of the line of the eyes, score."""


class _Network:
    """A network on one thread, for square pictures.

    Attributes:
        side: of the pictures, pixels.
    """

    def __init__(self, name: str) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(network_file(name)), num_threads=1)
        self._interpreter.allocate_tensors()
        (entry,) = self._interpreter.get_input_details()
        self._entry, self.side = entry["index"], int(entry["shape"][1])
        self._exits = [exit_["index"] for exit_ in self._interpreter.get_output_details()]

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        """What the network says of a picture, float32 (side, side, 3)."""
        self._interpreter.set_tensor(self._entry, picture[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(exit_)[0] for exit_ in self._exits]


class _Detector:
    """A detector of faces: of each of its anchors, evenly spaced over the picture, a box, six points and a score."""

    def __init__(self, name: str, anchors: Mapping[int, int], min_score: float) -> None:
        self._network, self._min_score = _Network(name), min_score
        self.side = self._network.side
        self._anchors = np.concatenate([_cells(self.side, stride).repeat(n, axis=0) for stride, n in anchors.items()])

    def __call__(self, picture: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, float]]:
        """Box (4,), eyes (2, 2) and score of each face, the best first; shares of the side of an RGB picture, uint8.

        What lies over a better one is no other face: both are averaged, weighted by their scores.
        """
        places, logits = self._network(picture * np.float32(2 / 255) - 1)
        scores = _sigmoid(logits[:, 0])
        kept = np.flatnonzero(scores >= self._min_score)
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        scores, places = scores[kept], places[kept].reshape(-1, 8, 2) / self.side
        half = places[:, 1] / 2
        places += self._anchors[kept, None]  # all but the size are relative to the anchor's middle
        middle, eyes = places[:, 0], places[:, 2:4]
        boxes = np.concatenate([middle - half, middle + half], axis=1)
        faces = []
        while len(scores):
            same = iou(boxes[0], boxes) > _SAME_FACE_IOU
            same[0] = True
            box, pair = (np.average(values[same], axis=0, weights=scores[same]) for values in (boxes, eyes))
            faces.append((box, pair, float(scores[0])))
            boxes, eyes, scores = boxes[~same], eyes[~same], scores[~same]
        return faces


class FaceNetworks:
    """The far detector, the near one, and the mesh.

    Raises:
        UserError: LiteRT is not installed.
    """

    def __init__(self) -> None:
        with _quiet():
            try:
                self._near = _Detector(NEAR, _NEAR_ANCHORS, _MIN_NEAR)
                self._far = _Detector(FAR, _FAR_ANCHORS, _MIN_FAR)
                self._mesh, *self._lanes = (_Network(MESH) for _ in range(1 + N_LANES))
            except ImportError as error:
                raise UserError(
                    f"faces cannot be looked for, LiteRT is missing ({error}): "
                    "add it with utils/install_more.sh requirements-video.txt"
                ) from None
        self._following, self._detecting = [ThreadPoolExecutor(1) for _ in self._lanes], ThreadPoolExecutor(1)

    def close(self) -> None:
        for thread in (*self._following, self._detecting):
            thread.shutdown(cancel_futures=True)

    def fit(self, picture: np.ndarray, region: Region) -> Fit:
        """Fit the mesh to a turned square of a picture.

        Returns:
            Points (468, 2) in pixels of the picture; belief in a face there, 0..1; and the square itself, shrunk and grey,
            less its mean and of length one (256,), so that products of two are correlations.
        """
        return _fit(self._mesh, picture, *region)

    def fit_beside(self, lane: int, picture: np.ndarray, region: Callable[[], Region]) -> Future[Fit]:
        """As `fit`, in one of `N_LANES` threads, each of which does one after the other what it was given.

        Args:
            region: is called in that thread.
        """
        network = self._lanes[lane]
        return self._following[lane].submit(lambda: _fit(network, picture, *region()))

    def detect(self, picture: np.ndarray, left: float, top: float, side: float, is_near: bool) -> Future[list[Detection]]:
        """Look for faces in a square, beside whatever else is done meanwhile."""
        square = float(round(left)), float(round(top)), float(max(1, round(side)))
        return self._detecting.submit(self._detect, picture, *square, is_near)

    def _detect(self, picture: np.ndarray, left: float, top: float, side: float, is_near: bool) -> list[Detection]:
        detector = self._near if is_near else self._far
        faces = []
        for box, (one, other), score in detector(_shrunk(picture, left, top, side, detector.side)):
            angle = float(np.arctan2(other[1] - one[1], other[0] - one[0]))
            faces.append((box * side + np.array([left, top, left, top]), angle, score))
        return faces


def iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (4,) with each of others (..., 4)."""
    common = np.clip(np.minimum(box[2:], others[..., 2:]) - np.maximum(box[:2], others[..., :2]), 0, None).prod(axis=-1)
    areas = (others[..., 2:] - others[..., :2]).prod(axis=-1)
    return common / ((box[2:] - box[:2]).prod() + areas - common + 1e-9)


def _cells(side: int, stride: int) -> np.ndarray:
    """The middles (n, 2) of a picture's cells, row by row, shares of its side; x before y."""
    middles = (np.arange(side // stride, dtype=np.float32) + 0.5) * stride / side
    return np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(logits, -80.0, 80.0)))


def _fit(network: _Network, picture: np.ndarray, middle: np.ndarray, side: float, angle: float) -> Fit:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scale = network.side / side
    shift = network.side / 2 - scale * turn @ middle
    seen = cut_piece(picture, np.column_stack([scale * turn, shift]), (network.side, network.side))
    mesh, presence = network(seen / np.float32(255))
    points = mesh.reshape(-1, 3)[:, :2]
    points = (points - shift) @ turn / scale  # the transposed turn turns back, rows on its left
    view = cv2.cvtColor(cv2.resize(seen, (16, 16), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32)
    view = view.ravel() - view.mean()
    return points, float(_sigmoid(presence).item()), view / max(float(np.linalg.norm(view)), 1e-6)


def _shrunk(picture: np.ndarray, left: float, top: float, side: float, network_side: int) -> np.ndarray:
    """A square of the picture, black outside of it, as (network_side, network_side, 3)."""
    x, y, size = int(left), int(top), int(side)
    inner = picture[max(0, y) : max(0, y + size), max(0, x) : max(0, x + size)]
    scale = network_side / size
    canvas = np.zeros((network_side, network_side, 3), np.uint8)
    height, width = (max(1, min(network_side, round(length * scale))) for length in inner.shape[:2])
    if inner.size == 0:
        return canvas
    column, row = (min(network_side - 1, round(max(0, -start) * scale)) for start in (x, y))
    width, height = min(width, network_side - column), min(height, network_side - row)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[row : row + height, column : column + width] = cv2.resize(inner, (width, height), interpolation=method)
    return canvas


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what LiteRT is known to write to stderr when all is well; anything else is passed on afterwards."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            for line in kept.read().decode(errors="replace").splitlines():
                if not _NOISE.search(line):
                    print(line, file=sys.stderr)
