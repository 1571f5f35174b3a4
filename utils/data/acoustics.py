"""Rooms, noise and voices without faces for training mixtures: recordings of a folder, drawn by a generator.

Reads the folders `noise_dir` and `interferer_dir` (mono recordings of any length, of noise and of speech) and `rir_dir`
(room impulse responses), wav or flac, at the rate of the manifest; their subfolders, too.

What is heard and what is asked for: a mixture holds every voice with its whole reverberation, and SIR and SNR are those
of the reverberant voices. The target is the voice with the early part of its response alone, up to 50 ms after the direct
sound, scaled by the same factor as what is heard of it: sources and mixture are in time and in level, and what is left of
the mixture beside the sources is late reverberation, voices without a face, and noise.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import oaconvolve

from utils.data.audio import probe_audio, read_audio
from utils.data.mixing import MAX_DRAWS, SILENCE_POWER, add_noise, power
from utils.data.sound_checks import require_numbers
from utils.errors import UserError, name_problem

EXTENSIONS = (".wav", ".flac")
EARLY_SEC = 0.05
TALKS_POWER = 1e-5  # -50 dB re full scale: a stretch of speech with somebody talking in it


@dataclass(frozen=True)
class AcousticOptions:
    """What a mixture may sound like; the fields are keys of a conf's `data` section.

    Attributes:
        noise_dir, rir_dir: folders of noise and of room impulse responses, looked at where their share is not 0.
        noise_share, rir_share: shares of the mixtures with noise, and in a room.
        noise_snr_low_db, noise_snr_high_db: the SNR of all voices together over the noise is uniform between them.
        interferer_dir, interferer_share: folder of speech, and the share of the voices without a face that are from it.
    """

    noise_dir: str = ""
    noise_share: float = 0.0
    noise_snr_low_db: float = 0.0
    noise_snr_high_db: float = 20.0
    rir_dir: str = ""
    rir_share: float = 0.0
    interferer_dir: str = ""
    interferer_share: float = 0.0


class Acoustics:
    """Puts voices into rooms and noise around them. Making one checks the folders and reads no samples.

    Args:
        options: what is wanted.
        sample_rate: Hz; that of every file.

    Raises:
        UserError: a folder that is asked for is missing or empty, or a file cannot be used.
    """

    def __init__(self, options: AcousticOptions, sample_rate: int) -> None:
        self.options, self.sample_rate = options, sample_rate
        self.noises: dict[Path, int] = {}  # file -> samples
        self.rooms: dict[Path, int] = {}  # file -> positions in the room
        self.talkers: dict[Path, int] = {}  # file of speech -> samples
        if options.noise_share:
            self.noises = recording_lengths("noise_dir", Path(options.noise_dir), sample_rate)
        if options.interferer_share:
            self.talkers = recording_lengths("interferer_dir", Path(options.interferer_dir), sample_rate)
        if options.rir_share:
            self.rooms = _positions(Path(options.rir_dir), sample_rate)

    def fingerprint(self) -> str:
        """Tells one set of recordings from another, by their names and sizes; "" where none are used."""
        options = self.options
        used = ((self.noises, options.noise_dir), (self.rooms, options.rir_dir), (self.talkers, options.interferer_dir))
        found = [[str(path.relative_to(folder)), path.stat().st_size] for files, folder in used for path in files]
        return hashlib.sha256(json.dumps(found).encode()).hexdigest() if found else ""

    def check_voices(self, n_voices: int) -> None:
        """Look whether there is a response for each of `n_voices`.

        Raises:
            UserError: there is not.
        """
        if not self.rooms:
            return
        fewest = min(self.rooms, key=self.rooms.__getitem__)
        if self.rooms[fewest] == 1 and len(self.rooms) < n_voices:
            raise UserError(
                f"--rir_dir {self.options.rir_dir}: {len(self.rooms)} responses of one channel are too few for mixtures of "
                f"{n_voices} voices; add more or set --rir_share 0"
            )
        if 1 < self.rooms[fewest] < n_voices:
            raise UserError(
                f"--rir_dir: {fewest} has {self.rooms[fewest]} channels, too few for mixtures of {n_voices} voices; take it "
                "out of the folder or set --rir_share 0"
            )

    def place(self, voices: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Put the voices of a mixture into a room, or leave them as they are.

        Every voice stays as loud as it was, and its direct sound where it was.

        Args:
            voices: (n_voices, time), none silent.
            rng: whether, and into which room.

        Returns:
            What is heard of each voice, and its early part, (n_voices, time) float32 both.

        Raises:
            UserError: a response cannot be read or used.
        """
        if not rng.random() < self.options.rir_share:
            return voices, voices
        responses = self._draw_responses(len(voices), rng)
        heard, early = zip(*(reverberate(v, r, self.sample_rate) for v, r in zip(voices, responses, strict=True)), strict=True)
        return np.stack(heard), np.stack(early)

    def add_noise(self, speech: np.ndarray, rng: np.random.Generator, always: bool = False) -> np.ndarray:
        """Add noise to the voices of a mixture (time,), or leave them as they are.

        Args:
            speech: (time,), not silent.
            rng: whether, and which.
            always: never leave them as they are.

        Raises:
            UserError: a recording cannot be read, or is silent.
        """
        options = self.options
        if not (rng.random() < options.noise_share or always):
            return speech
        snr_db = rng.uniform(options.noise_snr_low_db, options.noise_snr_high_db)
        return add_noise(speech, draw_stretch("noise_dir", self.noises, len(speech), self.sample_rate, rng), snr_db)

    def interferers(self, voices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Voices that nobody wants, each one exchanged for speech of `interferer_dir` or left as it is.

        Args:
            voices: (n_voices, time).
            rng: which ones, and for what.

        Raises:
            UserError: a recording cannot be read, or is silent.
        """
        exchanged = rng.random(len(voices)) < self.options.interferer_share
        length = voices.shape[-1]
        return np.stack([
            draw_stretch("interferer_dir", self.talkers, length, self.sample_rate, rng, TALKS_POWER) if other else voice
            for voice, other in zip(voices, exchanged, strict=True)
        ])  # fmt: skip

    def _draw_responses(self, n_voices: int, rng: np.random.Generator) -> list[np.ndarray]:
        """A response (taps,) for each voice: positions of one room, or files of one channel each."""
        paths = list(self.rooms)
        path = paths[rng.integers(len(paths))]
        if self.rooms[path] > 1:
            return list(_read_response(path)[:, rng.choice(self.rooms[path], n_voices, replace=False)].T)
        return [_read_response(paths[index])[:, 0] for index in rng.choice(len(paths), n_voices, replace=False)]


def draw_stretch(
    key: str, files: dict[Path, int], length: int, sample_rate: int, rng: np.random.Generator, wanted_power: float = 0.0
) -> np.ndarray:
    """A stretch (length,) of a recording, float32; one that is too short is repeated.

    Args:
        key: the option that the files are from, for errors.
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
            return loudest
    if loudest is None:
        raise UserError(f"--{key}: {path} is silent in {MAX_DRAWS} stretches; take it out of the folder")
    return loudest


def reverberate(voice: np.ndarray, response: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """A voice in a room, without the time that its direct sound (the response's peak) takes.

    Args:
        voice: (time,), not silent.
        response: (taps,) from the speaker to the microphone, not silent.
        sample_rate: of both, Hz.

    Returns:
        What is heard, as loud as `voice`, and its part up to 50 ms after the direct sound: (time,) float32 both.
    """
    direct = int(np.abs(response).argmax())
    early_end = direct + round(EARLY_SEC * sample_rate) + 1
    heard, early = (oaconvolve(voice, taps)[direct : direct + len(voice)] for taps in (response, response[:early_end]))
    gain = np.sqrt(power(voice) / power(heard))
    return (gain * heard).astype(np.float32), (gain * early).astype(np.float32)


def recording_lengths(key: str, folder: Path, sample_rate: int) -> dict[Path, int]:
    """The mono recordings of a folder and of those below, with their samples; `key` is the option, for errors.

    Raises:
        UserError: there are none, or one of them is not mono, or not at `sample_rate` Hz.
    """
    lengths = {}
    for path, info in _files(key, folder, sample_rate).items():
        if info.channels != 1:
            raise UserError(f"--{key}: {path} has {info.channels} channels where mono is expected; mix it down first")
        lengths[path] = info.length
    return lengths


def _positions(folder: Path, sample_rate: int) -> dict[Path, int]:
    positions = {path: info.channels for path, info in _files("rir_dir", folder, sample_rate).items()}
    if len({count > 1 for count in positions.values()}) > 1:
        single = next(path for path, count in positions.items() if count == 1)
        raise UserError(f"--rir_dir: {single} has one channel, other files have more; keep the two kinds in two folders")
    return positions


def _files(key: str, folder: Path, sample_rate: int) -> dict:
    """The audio files of a folder and of those below, in the order of their names, with their headers."""
    if not folder.is_dir():
        raise UserError(f"--{key} {folder}: no such folder; give one of {' or '.join(EXTENSIONS)} files")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    if not paths:
        raise UserError(f"--{key} {folder}: no {' or '.join(EXTENSIONS)} files in it; give another folder")
    headers = {}
    for path in paths:
        if reason := name_problem(str(path.relative_to(folder))):
            raise UserError(f"--{key}: {path}: {reason}, or take it out of the folder")
        try:
            info = probe_audio(path)
        except UserError as error:
            raise UserError(f"--{key}: {error}; take it out of the folder") from None
        if info.sample_rate != sample_rate:
            raise UserError(f"--{key}: {path} is sampled at {info.sample_rate} Hz, the corpus at {sample_rate} Hz; resample it")
        if not info.length:
            raise UserError(f"--{key}: {path} is empty; take it out of the folder")
        headers[path] = info
    return headers


def _read_response(path: Path) -> np.ndarray:
    """A file of room impulse responses: (taps, positions)."""
    try:
        responses, _ = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise UserError(f"--rir_dir: {path} cannot be read ({str(error).splitlines()[0]}); take it out of the folder") from None
    for response in responses.T:
        require_numbers(f"--rir_dir: {path}", response)
    if not responses.any(axis=0).all():
        raise UserError(f"--rir_dir: {path} holds a silent response; take it out of the folder")
    return responses
