"""The networks that find faces: two detectors of boxes and a mesh of 468 points, all in mediapipe's wheel.

mediapipe is imported here and nowhere else, and only when it is needed. The mesh runs in a graph of our own: mediapipe's
would detect a face in every picture before it fits a mesh, at twice the time, and keeps its belief in the face to itself.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING

import cv2
import numpy as np

from utils.errors import UserError
from utils.video.crops import cut_piece

if TYPE_CHECKING:
    from mediapipe.python.solution_base import SolutionBase

_MIN_DETECTION = 0.5
_MESH_SIDE, _NEAR_SIDE, _FAR_SIDE = 192, 128, 192  # pixels, what the networks see

# What mediapipe and its parts write to stderr though nothing is wrong.
_NOISE = re.compile(
    r"'MessageFactory' object has no attribute 'GetPrototype'|Created TensorFlow Lite XNNPACK delegate|"
    r"All log messages before absl::InitializeLog|^[IW]\d{4} .*(inference_feedback_manager|landmark_projection|gl_context)|"
    r"^\s*$"
)

_MESH_GRAPH = """
input_stream: "image"
output_stream: "mesh"
output_stream: "presence"
node {
  calculator: "ImageToTensorCalculator"  input_stream: "IMAGE:image"  output_stream: "TENSORS:seen"
  node_options { [type.googleapis.com/mediapipe.ImageToTensorCalculatorOptions] {
    output_tensor_width: 192  output_tensor_height: 192  output_tensor_float_range { min: 0  max: 1 } } }
}
node {
  calculator: "InferenceCalculatorCpu"  input_stream: "TENSORS:seen"  output_stream: "TENSORS:found"
  node_options { [type.googleapis.com/mediapipe.InferenceCalculatorOptions] {
    model_path: "mediapipe/modules/face_landmark/face_landmark.tflite"  delegate { xnnpack { num_threads: 1 } } } }
}
node {
  calculator: "SplitTensorVectorCalculator"  input_stream: "found"  output_stream: "points"  output_stream: "flag"
  options { [mediapipe.SplitVectorCalculatorOptions.ext] { ranges { begin: 0  end: 1 }  ranges { begin: 1  end: 2 } } }
}
node { calculator: "TensorsToFloatsCalculator"  input_stream: "TENSORS:points"  output_stream: "FLOATS:mesh" }
node {
  calculator: "TensorsToFloatsCalculator"  input_stream: "TENSORS:flag"  output_stream: "FLOAT:presence"
  node_options { [type.googleapis.com/mediapipe.TensorsToFloatsCalculatorOptions] { activation: SIGMOID } }
}
"""


Region = tuple[np.ndarray, float, float]
"""A turned square of a picture: middle (2,) and side in pixels, angle in radians."""

Fit = tuple[np.ndarray, float, np.ndarray]
"""A mesh (468, 2), the belief in it, and what was seen; see `FaceNetworks.meshes`."""


class FaceNetworks:
    """The far detector, the near one, and the mesh.

    Raises:
        UserError: mediapipe is not installed, or another version of it.
    """

    def __init__(self) -> None:
        with _quiet():
            try:
                import mediapipe
                from google.protobuf import text_format
                from mediapipe.framework.calculator_pb2 import CalculatorGraphConfig
                from mediapipe.python.solution_base import SolutionBase

                detection = mediapipe.solutions.face_detection.FaceDetection
                _ = mediapipe.solutions.face_mesh  # registers the messages that the graph below is written in
            except (ImportError, AttributeError) as error:
                raise UserError(
                    f"faces cannot be looked for, mediapipe is missing or another version ({error}): "
                    "add it with utils/install_more.sh requirements-video.txt"
                ) from None
            self._pool = ThreadPoolExecutor(2)
            self._near = detection(model_selection=0, min_detection_confidence=_MIN_DETECTION)
            self._far = detection(model_selection=1, min_detection_confidence=_MIN_DETECTION)
            graph = text_format.Parse(_MESH_GRAPH, CalculatorGraphConfig())
            self._meshes = [SolutionBase(graph_config=graph) for _ in range(2)]
            sides = [(self._near, _NEAR_SIDE), (self._far, _FAR_SIDE), *((mesh, _MESH_SIDE) for mesh in self._meshes)]
            for network, side in sides:
                network.process(np.zeros((side, side, 3), np.uint8))  # some of the noise comes with the first picture

    def close(self) -> None:
        self._pool.shutdown()
        for network in (self._near, self._far, *self._meshes):
            network.close()

    def meshes(self, picture: np.ndarray, regions: Sequence[Region]) -> list[Fit]:
        """Fit the mesh to turned squares of a picture, two at a time: most of a video's time goes into this.

        Returns:
            For each: points (468, 2) in pixels of the picture; belief in a face there, 0..1; and the square itself, shrunk
            and grey, less its mean and of length one (256,), so that products of two are correlations.
        """
        shares = (regions[::2], regions[1::2])
        fits = self._pool.map(lambda net, share: [_fit(net, picture, *region) for region in share], self._meshes, shares)
        return [fit for pair in zip_longest(*fits) for fit in pair if fit is not None]

    def detect(
        self, picture: np.ndarray, left: float, top: float, side: float, is_near: bool
    ) -> list[tuple[np.ndarray, float, float]]:
        """Look for faces in a square: box in pixels of the picture, angle of the line of the eyes, score, of each."""
        left, top, side = float(round(left)), float(round(top)), float(max(1, round(side)))
        network, network_side = (self._near, _NEAR_SIDE) if is_near else (self._far, _FAR_SIDE)
        seen = _shrunk(picture, left, top, side, network_side)
        faces = []
        for detection in network.process(seen).detections or []:
            place = detection.location_data.relative_bounding_box
            eyes = detection.location_data.relative_keypoints[:2]
            box = np.array([place.xmin, place.ymin, place.xmin + place.width, place.ymin + place.height]) * side
            angle = float(np.arctan2(eyes[1].y - eyes[0].y, eyes[1].x - eyes[0].x))
            faces.append((box + np.array([left, top, left, top]), angle, min(1.0, float(detection.score[0]))))
        return faces


def _fit(network: "SolutionBase", picture: np.ndarray, middle: np.ndarray, side: float, angle: float) -> Fit:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scale = _MESH_SIDE / side
    shift = _MESH_SIDE / 2 - scale * turn @ middle
    seen = cut_piece(picture, np.column_stack([scale * turn, shift]), (_MESH_SIDE, _MESH_SIDE))
    found = network.process(seen)
    points = np.array(found.mesh, dtype=np.float32).reshape(-1, 3)[:, :2]
    points = (points - shift) @ turn / scale  # the transposed turn turns back, rows on its left
    view = cv2.cvtColor(cv2.resize(seen, (16, 16), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32)
    view = view.ravel() - view.mean()
    return points, float(found.presence), view / max(float(np.linalg.norm(view)), 1e-6)


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
    """Keep back what mediapipe is known to write to stderr when all is well; anything else is passed on afterwards."""
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
