"""Where sound and pictures come from: a file, played in real time or as fast as it goes, or a microphone and a camera.

A source gives sound in blocks of `BLOCK` samples at 16 kHz, and a picture for each frame of the 25 fps grid whose time zero is
the first sample. Both are read by threads of their own.
"""

import logging
import queue
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.data.audio import read_audio
from utils.data.clock import frames_covering
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.errors import UserError
from utils.video.decoding import read_pictures
from utils.video.sound import extract_sound

BLOCK = 160  # samples: 10 ms
_AHEAD_FRAMES = 4  # that a file's pictures are decoded before they are due

log = logging.getLogger(__name__)

Picture = np.ndarray | None
"""RGB, uint8 (height, width, 3); None where the source shows nothing."""


class FileSource:
    """A video with sound, as a camera and a microphone would have given it.

    Args:
        path: the video.
        realtime: blocks and pictures come when they are due; else as fast as they are taken.
        audio_stream: which audio stream, as of `./separate.sh`.
        max_sec: of it; 0: to its end.

    Raises:
        UserError: no video, or one without sound.
    """

    def __init__(self, path: Path, realtime: bool = True, audio_stream: int = 0, max_sec: float = 0.0) -> None:
        self.path, self.realtime = path, realtime
        self._folder = tempfile.TemporaryDirectory()
        self._sound_path = Path(self._folder.name, "sound.wav")
        self.n_samples = extract_sound(path, self._sound_path, audio_stream).n_samples
        if max_sec:
            self.n_samples = min(self.n_samples, round(max_sec * SAMPLE_RATE_HZ))
        self._started_sec = 0.0
        self._pictures: queue.Queue = queue.Queue(_AHEAD_FRAMES)
        self._closed = threading.Event()

    def start(self) -> None:
        """Let time begin."""
        threading.Thread(target=self._decode, daemon=True).start()
        while self.realtime and self._pictures.empty():  # a camera has its first picture at once
            time.sleep(0.005)
        self._started_sec = time.monotonic()

    def now_sec(self) -> float:
        """Time since the first sample."""
        return time.monotonic() - self._started_sec

    def sound(self) -> Iterator[np.ndarray]:
        """Blocks of sound, float32 (samples,), each when its last sample is there."""
        for start in range(0, self.n_samples, BLOCK):
            count = min(BLOCK, self.n_samples - start)
            self._wait_until((start + count) / SAMPLE_RATE_HZ)
            if self._closed.is_set():
                return
            yield read_audio(self._sound_path, start, count, SAMPLE_RATE_HZ)

    def pictures(self) -> Iterator[tuple[int, Picture]]:
        """(frame, picture) in their order, none before its time."""
        while not self._closed.is_set():
            with suppress(queue.Empty):
                item = self._pictures.get(timeout=0.1)
                if item is None:
                    return
                if isinstance(item, UserError):
                    raise item
                self._wait_until(item[0] / VIDEO_FPS)
                yield item

    def stop(self) -> None:
        """End it: what reads it ends soon."""
        self._closed.set()

    def close(self) -> None:
        """Stop it, and remove what it made."""
        self.stop()
        self._folder.cleanup()

    def _decode(self) -> None:
        try:
            for item in read_pictures(self.path, frames_covering(self.n_samples, SAMPLE_RATE_HZ, VIDEO_FPS)):
                if not self._put(item):
                    return
        except UserError as error:
            self._put(error)
        self._put(None)

    def _put(self, item: Any) -> bool:
        while not self._closed.is_set():
            try:
                self._pictures.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _wait_until(self, due_sec: float) -> None:
        if self.realtime:
            self._closed.wait(max(0.0, due_sec - self.now_sec()))


class DeviceSource:
    """A microphone and a camera.

    Args:
        camera: its number, or a path such as /dev/video0; "": the first one.
        microphone: as PortAudio names it, or its number; "": the system's.
        max_sec: ends after so long; 0: only when it is closed.

    Raises:
        UserError: there is no PortAudio, no microphone or no camera.
    """

    realtime = True

    def __init__(self, camera: str = "", microphone: str = "", max_sec: float = 0.0) -> None:
        self._sounddevice = sound_devices()
        self.n_samples = round(max_sec * SAMPLE_RATE_HZ) or None
        self._camera = _open_camera(camera)
        self._blocks: queue.Queue = queue.Queue()
        self._newest: tuple[float, Picture] = (0.0, None)
        self._closed = threading.Event()
        self._started_sec = 0.0
        device = int(microphone) if microphone.isdigit() else microphone or None
        try:
            self._stream = self._sounddevice.InputStream(
                SAMPLE_RATE_HZ, BLOCK, device, channels=1, dtype="float32", latency="low", callback=self._heard
            )
        except (self._sounddevice.PortAudioError, ValueError) as error:
            raise UserError(f"--microphone {microphone or 'of the system'}: cannot be opened ({error})") from None

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()
        self._started_sec = time.monotonic()
        self._stream.start()

    def now_sec(self) -> float:
        return time.monotonic() - self._started_sec

    def sound(self) -> Iterator[np.ndarray]:
        n_left = self.n_samples
        while (block := self._blocks.get()) is not None and (n_left is None or n_left > 0):
            yield block[:n_left]
            n_left = None if n_left is None else n_left - len(block)

    def pictures(self) -> Iterator[tuple[int, Picture]]:
        frame = 0
        while not self._closed.wait(max(0.0, (frame + 0.5) / VIDEO_FPS - self.now_sec())):
            taken_sec, picture = self._newest
            yield frame, picture if self.now_sec() - taken_sec < 1 else None
            frame += 1

    def stop(self) -> None:
        self._closed.set()
        self._blocks.put(None)

    def close(self) -> None:
        self.stop()
        self._stream.close()

    def _heard(self, block: np.ndarray, _n: int, _times: Any, status: Any) -> None:
        if status:
            log.warning("microphone: %s", status)
        self._blocks.put(block[:, 0].copy())

    def _watch(self) -> None:
        while not self._closed.is_set():
            is_there, picture = self._camera.read()  # waits for the next one
            if not is_there:
                if not self._closed.is_set():
                    log.warning("the camera gives no more pictures: from now on nobody is seen")
                break
            self._newest = (self.now_sec(), cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        self._camera.release()


def sound_devices() -> Any:
    """The package `sounddevice`.

    Raises:
        UserError: it, or PortAudio, is missing.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise UserError(
            f"no sound devices here ({error}): sounddevice needs PortAudio, e.g. apt-get install libportaudio2, and "
            "utils/install_more.sh requirements-live.txt; --source FILE needs neither"
        ) from None
    return sounddevice


def _open_camera(name: str) -> cv2.VideoCapture:
    """OpenCV's, as PyAV's wheels know no cameras on Linux."""
    cv2.setLogLevel(0)
    camera = cv2.VideoCapture(int(name or 0) if not name or name.isdigit() else name)
    for what, value in ((cv2.CAP_PROP_FRAME_WIDTH, 640), (cv2.CAP_PROP_FRAME_HEIGHT, 360), (cv2.CAP_PROP_FPS, VIDEO_FPS)):
        camera.set(what, value)
    if not camera.isOpened():
        raise UserError(f"--camera {name or 0}: cannot be opened; plug one in, name another, or give --source FILE")
    return camera
