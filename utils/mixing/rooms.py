"""Rooms of listed mixtures: a text in the list names the impulse response from one speaker to the microphone.

    rir3.wav#0                                                 channel 0 of a file below the folder of room responses
    shoebox 5.2 4.1 2.8 rt60 0.31 mic 2 1.5 1.4 voice 3.1 2 1.6    a room that is simulated: metres and seconds

Simulation is the image-source method of pyroomacoustics, which is only needed where such a room is asked for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.mixing.recordings import draw_positions, read_responses

_WALL_M = 0.5  # speakers and microphone keep this distance from the walls
_SIZES_M = ((3.5, 8.0), (3.0, 6.0), (2.4, 3.2))
_HEIGHT_M = (1.2, 1.9)
_RT60_SEC = (0.15, 0.5)
_NUMBERS = r"((?:\d+\.?\d*\s?){%d})"
_SHOEBOX = re.compile(rf"shoebox {_NUMBERS % 3} ?rt60 {_NUMBERS % 1} ?mic {_NUMBERS % 3} ?voice {_NUMBERS % 3}")


@dataclass(frozen=True)
class RoomOptions:
    """Rooms of a list of mixtures.

    Attributes:
        room_prob: probability that a mixture is in a room.
        files: files of room responses with their channels, by their names below the folder, all of one channel or all of
            several; they take precedence.
        simulated: draw rooms for pyroomacoustics where there are no files.
    """

    room_prob: float = 0.0
    files: Mapping[str, int] = field(default_factory=dict)
    simulated: bool = False


def draw_responses(options: RoomOptions, n_src: int, rng: np.random.Generator) -> list[str]:
    """The responses of a mixture's sources, "" for all of them where it is in no room.

    Raises:
        UserError: there are fewer responses than sources.
    """
    if not options.room_prob or rng.random() >= options.room_prob:
        return [""] * n_src
    if options.files:
        return [f"{name}#{channel}" for name, channel in draw_positions(options.files, n_src, rng)]
    if not options.simulated:
        raise UserError("--room_prob needs --rir_dir, or --simulate_rooms true; give one of them")
    size = [rng.uniform(*bounds) for bounds in _SIZES_M]
    room = f"shoebox {_metres(size)} rt60 {rng.uniform(*_RT60_SEC):.3f} mic {_metres(_place(size, rng))}"
    return [f"{room} voice {_metres(_place(size, rng))}" for _ in range(n_src)]


def response_file(response: str) -> str:
    """The file that a response names, "" where it names none."""
    return "" if not response or response.startswith("shoebox ") else response.rpartition("#")[0]


@lru_cache(maxsize=64)
def load_response(response: str, folder: Path | None, sample_rate: int) -> np.ndarray:
    """The impulse response from a speaker to the microphone.

    Args:
        response: as in a list, not empty.
        folder: of the room responses.
        sample_rate: Hz.

    Returns:
        (taps,) float32, not silent.

    Raises:
        UserError: the text is of no known kind, the file cannot be used, or pyroomacoustics is missing.
    """
    if response.startswith("shoebox "):
        return _simulate(response, sample_rate)
    name, _, channel = response.rpartition("#")
    if not name or not channel.isdigit() or folder is None:
        raise UserError(f"the room '{response}' is neither FILE#CHANNEL (with --rir_dir) nor a shoebox")
    responses = read_responses(folder / name, sample_rate)
    if int(channel) >= responses.shape[1]:
        raise UserError(f"--rir_dir: {folder / name} has no channel {channel}; give the folder of the list")
    return np.ascontiguousarray(responses[:, int(channel)])


def _place(size: list[float], rng: np.random.Generator) -> list[float]:
    return [*(rng.uniform(_WALL_M, side - _WALL_M) for side in size[:2]), rng.uniform(*_HEIGHT_M)]


def _metres(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def _simulate(response: str, sample_rate: int) -> np.ndarray:
    match = _SHOEBOX.fullmatch(response)
    if not match:
        raise UserError(f"the room '{response}' is not: shoebox X Y Z rt60 SEC mic X Y Z voice X Y Z")
    size, (rt60_sec,), mic, voice = ([float(number) for number in group.split()] for group in match.groups())
    try:
        import pyroomacoustics
    except ImportError:
        raise UserError(
            "simulated rooms need pyroomacoustics, which the recipe does not install; `pip install pyroomacoustics`, or use "
            "--rir_dir"
        ) from None
    try:
        absorption, max_order = pyroomacoustics.inverse_sabine(rt60_sec, size)
        material = pyroomacoustics.Material(absorption)
        room = pyroomacoustics.ShoeBox(size, fs=sample_rate, materials=material, max_order=max_order)
        room.add_source(voice)
        room.add_microphone(mic)
        room.compute_rir()
    except ValueError as error:
        raise UserError(f"the room '{response}' cannot be simulated ({str(error).splitlines()[0]})") from None
    return np.asarray(room.rir[0][0], dtype=np.float32)
