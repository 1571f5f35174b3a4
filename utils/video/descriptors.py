"""Descriptors of faces: 128 numbers that lie close together for pictures of one person, and apart for those of two.

The network is dlib's residual network for face recognition (29 layers, 128-d, trained on some 3 million faces; public domain,
CC0), whose weights come in the wheel of face_recognition_models. That package is not imported (it needs pkg_resources), only
its folder is looked up. dlib is imported here and nowhere else, and only when it is needed.
"""

import importlib.util
import multiprocessing
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.data.faces import CHIP_POINTS, CHIP_SIZE
from utils.errors import UserError
from utils.video.alignment import similarities
from utils.video.crops import cut_piece

DESCRIPTOR_DIM = 128
_WEIGHTS = ("models", "dlib_face_recognition_resnet_model_v1.dat")


class FaceDescriber:
    """The network that describes faces.

    Raises:
        UserError: dlib or the weights are not installed.
    """

    def __init__(self) -> None:
        try:
            import dlib

            spec = importlib.util.find_spec("face_recognition_models")
            if spec is None or spec.origin is None:
                raise ImportError("No module named 'face_recognition_models'")
            self._network = dlib.face_recognition_model_v1(str(Path(spec.origin).parent.joinpath(*_WEIGHTS)))
        except (ImportError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"faces cannot be told apart, dlib or its weights are missing ({' '.join(str(error).split())}): "
                "add them with utils/install_more.sh requirements-video.txt"
            ) from None

    def describe(self, chip: np.ndarray) -> np.ndarray:
        """The descriptor, float32 (128,), of a face as `face_chip` cuts it."""
        return np.array(self._network.compute_face_descriptor(chip), np.float32)


class DescriberProcess:
    """A `FaceDescriber` in a process of its own, for a caller with threads that must not wait: dlib keeps Python's lock for as
    long as it computes, some 75 ms. The process ends with the caller's.

    Attributes:
        pid: of the process.

    Raises:
        UserError: as of `FaceDescriber`.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_describe_all, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.pid = self._process.pid
        if problem := self._answer():
            raise UserError(problem)

    def describe(self, chip: np.ndarray) -> np.ndarray:
        """As `FaceDescriber.describe`."""
        with suppress(BrokenPipeError):
            self._pipe.send(chip)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def _answer(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise UserError("the process that tells faces apart was ended from outside; call again") from None


def _describe_all(pipe: Connection) -> None:
    """The process: says why there is no describer, or "", then gives a descriptor for each chip until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's, who closes the pipe
    try:
        describer = FaceDescriber()
    except UserError as error:
        pipe.send(str(error))
        return
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send("")
        while True:
            pipe.send(describer.describe(pipe.recv()))


def is_turned(points: np.ndarray) -> bool:
    """Tell if a face is turned so far aside that its descriptor says little of the person: one cheek three times the other.

    Args:
        points: (68, 2), pixels.
    """
    left, right = (float(np.hypot(*(points[27] - points[ear]))) for ear in (0, 16))
    return bool(abs(left - right) > 0.5 * (left + right))


def face_chip(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face as the network wants it: upright, eyes and nose in their places.

    Args:
        picture: uint8 (height, width, 3), RGB.
        points: (68, 2), pixels, the middle of the first pixel is 0.5, 0.5.

    Returns:
        uint8 (150, 150, 3); beyond the picture its border pixels are repeated.
    """
    indices, places = list(CHIP_POINTS), np.array(list(CHIP_POINTS.values()))
    to_chip = similarities(points[None, indices].astype(np.float64) - 0.5, places)[0]
    if not np.isfinite(to_chip).all():
        return np.zeros((CHIP_SIZE, CHIP_SIZE, 3), np.uint8)
    return cut_piece(picture, to_chip, (CHIP_SIZE, CHIP_SIZE), cv2.BORDER_REPLICATE)
