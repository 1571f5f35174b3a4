"""Audio files in and out, through soundfile: wav, flac, mp3, ogg; mono float32 in memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from utils.data.files import atomic_path
from utils.data.sound_checks import SoundMeter, require_numbers
from utils.errors import UserError, system_error

_BLOCK_SAMPLES = 1 << 20
_ADD_PEAK_CHUNK = 0x1050  # SFC_SET_ADD_PEAK_CHUNK, a command of libsndfile
_UPDATE_HEADER_NOW = 0x1060  # SFC_UPDATE_HEADER_NOW


@dataclass(frozen=True)
class AudioInfo:
    """The facts of a file's header."""

    sample_rate: int
    length: int  # samples
    channels: int


def probe_audio(path: Path | str) -> AudioInfo:
    """Read a file's header.

    Raises:
        UserError: the file is missing or is not audio.
    """
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    return AudioInfo(info.samplerate, info.frames, info.channels)


def read_audio(path: Path | str, start: int = 0, length: int = -1, sample_rate: int | None = None) -> np.ndarray:
    """Read a mono file, or a piece of it.

    Args:
        path: the file.
        start: first sample.
        length: samples to read; -1 reads to the end.
        sample_rate: the rate the file must have, Hz; None takes any.

    Returns:
        float32 (time,), full scale 1.0.

    Raises:
        UserError: missing, not audio, not mono, another rate, or samples that can be no sound.
    """
    try:
        data, rate = soundfile.read(str(path), frames=length, start=start, dtype="float32")
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    _require_kind(path, 1 if data.ndim == 1 else data.shape[1], rate, sample_rate)
    require_numbers(path, data, start)
    return data


def check_sound(path: Path | str, sample_rate: int | None = None) -> SoundMeter:
    """Read a whole mono file in constant memory, and judge what it holds (`sound_checks.py`).

    Args:
        path: the file.
        sample_rate: the rate the file must have, Hz; None takes any.

    Returns:
        Its length, level, peak and warnings.

    Raises:
        UserError: as `read_audio`; or it is empty or silent.
    """
    meter = SoundMeter(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            _require_kind(path, file.channels, file.samplerate, sample_rate)
            for block in file.blocks(_BLOCK_SAMPLES, dtype="float32"):
                meter.add(block)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise _unreadable(path, error) from None
    meter.require_sound()
    return meter


def write_wav(path: Path | str, data: np.ndarray, sample_rate: int, subtype: str = "FLOAT") -> None:
    """Write mono samples atomically; `subtype` is soundfile's (`FLOAT`, `PCM_16`).

    The caller keeps PCM data within full scale: this function does not rescale.
    """
    with atomic_path(path, data.nbytes) as temporary, wav_writer(temporary, sample_rate, subtype) as file:
        file.write(data)


def wav_writer(
    path: Path | str, sample_rate: int, subtype: str = "FLOAT", channels: int = 1, file_format: str = "WAV"
) -> soundfile.SoundFile:
    """A WAV, or RF64, that is written block by block; the same samples give the same bytes at any time."""
    file = soundfile.SoundFile(str(path), "w", sample_rate, channels, subtype, format=file_format)
    soundfile._snd.sf_command(file._file, _ADD_PEAK_CHUNK, soundfile._ffi.NULL, 0)  # of float files: it holds the time of day
    return file


def flush_wav(file: soundfile.SoundFile) -> None:
    """Have a file that is being written hold all that it was given, with a header that says so."""
    soundfile._snd.sf_command(file._file, _UPDATE_HEADER_NOW, soundfile._ffi.NULL, 0)
    file.flush()


def _require_kind(path: Path | str, channels: int, rate: int, wanted_rate: int | None) -> None:
    if channels != 1:
        raise UserError(f"{channels} channels where mono is expected; mix it down first", path)
    if wanted_rate is not None and rate != wanted_rate:
        raise UserError(f"sampled at {rate} Hz where {wanted_rate} Hz is expected; resample it first", path)


def _unreadable(path: Path | str, error: Exception) -> UserError:
    if not Path(path).exists():
        return UserError("no such file", path)
    try:  # libsndfile keeps to itself what the system said
        open(path, "rb").close()
    except OSError as found:
        return UserError(system_error(OSError(found.errno, found.strerror)) or found.strerror, path)
    return UserError(f"cannot be read as audio ({str(error).splitlines()[0]})", path)
