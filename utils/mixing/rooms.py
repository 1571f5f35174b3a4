"""Rooms of listed mixtures: a text in the list names the impulse response from one speaker to the microphone.

    rir3.wav#0                                                 channel 0 of a file below the folder of room responses
    shoebox 5.2 4.1 2.8 rt60 0.31 mic 2 1.5 1.4 voice 3.1 2 1.6    a room that is simulated: metres and seconds

Simulation is the image-source method of pyroomacoustics, which is only needed where such a room is asked for.
"""

import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.mixing.recordings import read_responses

_NUMBERS = r"((?:\d+\.?\d*\s?){%d})"
_SHOEBOX = re.compile(rf"shoebox {_NUMBERS % 3} ?rt60 {_NUMBERS % 1} ?mic {_NUMBERS % 3} ?voice {_NUMBERS % 3}")


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


def _simulate(response: str, sample_rate: int) -> np.ndarray:
    match = _SHOEBOX.fullmatch(response)
    if not match:
        raise UserError(f"the room '{response}' is not: shoebox X Y Z rt60 SEC mic X Y Z voice X Y Z")
    size, (rt60_sec,), mic, voice = ([float(number) for number in group.split()] for group in match.groups())
    try:
        import pyroomacoustics
    except ImportError:
        raise UserError(
            "simulated rooms need pyroomacoustics, which the recipe does not install; `pip install pyroomacoustics`, "
            "or use --rir_dir"
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
