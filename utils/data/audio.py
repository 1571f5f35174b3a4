"""Audio files in and out, through soundfile: wav, flac, mp3, ogg; mono float32 in memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from utils.data.files import atomic_path
from utils.errors import UserError, system_error

EXTENSIONS = (".wav", ".flac", ".mp3", ".ogg")


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

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
        raise UserError(_unreadable(path, error)) from None
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
        UserError: missing, not audio, not mono, another rate, or not finite.
    """
    try:
        data, rate = soundfile.read(str(path), frames=length, start=start, dtype="float32")
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise UserError(_unreadable(path, error)) from None
    if data.ndim != 1:
        raise UserError(f"{path}: {data.shape[1]} channels where mono is expected; mix it down first")
    if sample_rate is not None and rate != sample_rate:
        raise UserError(f"{path}: sampled at {rate} Hz where {sample_rate} Hz is expected; resample it first")
    if not np.isfinite(data).all():
        raise UserError(f"{path}: holds samples that are not finite numbers")
    return data


def write_wav(path: Path | str, data: np.ndarray, sample_rate: int, subtype: str = "FLOAT") -> None:
    """Write mono samples atomically; `subtype` is soundfile's (`FLOAT`, `PCM_16`).

    The caller keeps PCM data within full scale: this function does not rescale.
    """
    with atomic_path(path, data.nbytes) as temporary:
        soundfile.write(str(temporary), data, sample_rate, subtype=subtype, format="WAV")


def _unreadable(path: Path | str, error: Exception) -> str:
    if not Path(path).exists():
        return f"{path}: no such file"
    try:  # libsndfile keeps to itself what the system said
        open(path, "rb").close()
    except OSError as found:
        return system_error(found) or f"{path}: {found}"
    return f"{path}: cannot be read as audio ({str(error).splitlines()[0]})"
