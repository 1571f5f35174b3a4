"""Folders of noise, of speech and of room impulse responses, and what a room does to a source.

A folder holds wav or flac at the rate of the corpus, in subfolders too: mono recordings of any length, and responses
whose channels are positions in one room. `key` is everywhere the option that gave the folder, for errors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile

from utils.data.audio import AudioInfo, probe_audio, read_audio
from utils.data.constants import LOSSLESS_SUFFIXES
from utils.data.sound_checks import require_numbers
from utils.errors import UserError, name_problem
from utils.mixing.levels import MAX_DRAWS, SILENCE_POWER, power

EARLY_SEC = 0.05
File = TypeVar("File", Path, str)
SPEECH_POWER = 1e-5  # mean square, -50 dB re full scale: a stretch of a recording in which somebody speaks


def draw_stretch(
    key: str, files: dict[Path, int], length: int, sample_rate: int, rng: np.random.Generator, wanted_power: float = 0.0
) -> np.ndarray:
    """A stretch (length,) of a recording, float32; one that is too short is repeated.

    Args:
        key: see above.
        files: file -> samples.
        length: samples wanted.
        sample_rate: of the files, Hz.
        rng: which file, and where.
        wanted_power: mean square; a file that has it nowhere gives the loudest stretch that was found.

    Raises:
        UserError: the recording cannot be read, or is silent.
    """
    path = list(files)[rng.integers(len(files))]
    there, loudest, most = files[path], None, SILENCE_POWER
    for _ in range(MAX_DRAWS):
        if there >= length:
            stretch = read_audio(path, int(rng.integers(there - length + 1)), length, sample_rate)
        else:
            stretch = np.resize(np.roll(read_audio(path, 0, there, sample_rate), rng.integers(there)), length)
        if power(stretch) > most:
            loudest, most = stretch, power(stretch)
        if loudest is not None and most > wanted_power:
            break
    if loudest is None:
        raise UserError(f"--{key}: {path} is silent in {MAX_DRAWS} stretches; take it out of the folder")
    return loudest


def reverberate(source: np.ndarray, response: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """A source in a room, without the time that its direct sound (the response's peak) takes.

    Args:
        source: (time,), not silent.
        response: (taps,) from the speaker to the microphone, not silent.
        sample_rate: of both, Hz.

    Returns:
        What is heard, as loud as `source`, and its part up to 50 ms after the direct sound: (time,) float32 both.
    """
    from scipy.signal import oaconvolve  # takes a second to import, which reading folders need not wait for

    direct = int(np.abs(response).argmax())
    early_end = direct + round(EARLY_SEC * sample_rate) + 1
    end = direct + len(source)
    heard, early = (oaconvolve(source, taps)[direct:end] for taps in (response, response[:early_end]))
    gain = np.sqrt(power(source) / power(heard))
    return (gain * heard).astype(np.float32), (gain * early).astype(np.float32)


def recording_lengths(key: str, folder: Path, sample_rate: int) -> dict[Path, int]:
    """The mono recordings of a folder and of those below, with their samples.

    Raises:
        UserError: there are none, or one of them is not mono, or not at `sample_rate` Hz.
    """
    lengths = {}
    for path, info in _files(key, folder, sample_rate).items():
        if info.channels != 1:
            raise UserError(f"--{key}: {path} has {info.channels} channels where mono is expected; mix it down first")
        lengths[path] = info.length
    return lengths


def response_channels(folder: Path, sample_rate: int) -> dict[Path, int]:
    """The files of room impulse responses of a folder and of those below, with their channels.

    Raises:
        UserError: there are none, or one cannot be used.
    """
    positions = {path: info.channels for path, info in _files("rir_dir", folder, sample_rate).items()}
    if len({count > 1 for count in positions.values()}) > 1:
        single = next(path for path, count in positions.items() if count == 1)
        raise UserError(f"--rir_dir: {single} has one channel, others have more; keep the two kinds in two folders")
    return positions


def draw_positions(files: Mapping[File, int], n_src: int, rng: np.random.Generator) -> list[tuple[File, int]]:
    """Draw a response for each source: positions of one room where files have several channels, else other files.

    Args:
        files: file -> channels, all of one or all of several.
        n_src: sources.
        rng: of the draw.

    Returns:
        File and channel of each source.

    Raises:
        UserError: there are fewer responses than sources.
    """
    names = sorted(files)
    name = names[rng.integers(len(names))]
    if files[name] > 1:
        if files[name] < n_src:
            raise UserError(f"--rir_dir: {name} has {files[name]} channels, too few for {n_src} sources; take it out")
        return [(name, int(channel)) for channel in rng.choice(files[name], n_src, replace=False)]
    if len(names) < n_src:
        raise UserError(f"--rir_dir: {len(names)} responses are too few for {n_src} sources; add more")
    others = [other for other in names if other != name]
    return [(name, 0), *((others[index], 0) for index in rng.choice(len(others), n_src - 1, replace=False))]


def _files(key: str, folder: Path, sample_rate: int) -> dict[Path, AudioInfo]:
    """The audio files of a folder and of those below, in the order of their names, with their headers."""
    if not folder.is_dir():
        raise UserError(f"--{key} {folder}: no such folder; give one of {' or '.join(LOSSLESS_SUFFIXES)} files")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in LOSSLESS_SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"--{key} {folder}: no {' or '.join(LOSSLESS_SUFFIXES)} files in it; give another folder")
    headers = {}
    for path in paths:
        if reason := name_problem(str(path.relative_to(folder))):
            raise UserError(f"--{key}: {path}: {reason}, or take it out of the folder")
        try:
            info = probe_audio(path)
        except UserError as error:
            raise UserError(f"--{key}: {error}; take it out of the folder") from None
        _require_rate(key, path, info.sample_rate, sample_rate)
        if not info.length:
            raise UserError(f"--{key}: {path} is empty; take it out of the folder")
        headers[path] = info
    return headers


def read_responses(path: Path, sample_rate: int | None = None) -> np.ndarray:
    """A file of room impulse responses.

    Args:
        path: the file.
        sample_rate: that it must have, Hz; None: any.

    Returns:
        (taps, positions) float32; no position is silent.

    Raises:
        UserError: it cannot be read, has another rate, or holds no numbers or a silent response.
    """
    try:
        responses, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"--rir_dir: {path} cannot be read ({said}); take it out of the folder") from None
    _require_rate("rir_dir", path, rate, sample_rate or rate)
    for response in responses.T:
        require_numbers(f"--rir_dir: {path}", response)
    if not responses.any(axis=0).all():
        raise UserError(f"--rir_dir: {path} holds a silent response; take it out of the folder")
    return responses


def _require_rate(key: str, path: Path, rate: int, wanted: int) -> None:
    if rate != wanted:
        raise UserError(f"--{key}: {path} is sampled at {rate} Hz, the corpus at {wanted} Hz; resample it")
