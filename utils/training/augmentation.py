"""Augmentation of training examples: visual embeddings late, lost or frozen; rooms, noise, interfering speech.

A lost frame or face is all zeros, which networks recognise. A mixture holds every source with its whole reverberation,
and SIR and SNR are those of the reverberant sources. The target is the source with only the early part of its response,
up to 50 ms after the direct sound, scaled by the same factor as the reverberant source.
"""

from pathlib import Path

import numpy as np

from utils.data.fingerprints import hash_json
from utils.errors import UserError
from utils.mixing.levels import add_noise
from utils.mixing.recordings import (
    SPEECH_POWER,
    draw_positions,
    draw_stretch,
    read_responses,
    recording_lengths,
    response_channels,
    reverberate,
)
from utils.training.config import DataConfig

BURST_FRAMES = 5  # mean length of what is lost at a time: 0.2 s at 25 frames/s


def shift_frames(visual: np.ndarray, by: int) -> np.ndarray:
    """Delay the video of a face, embeddings (frames, dim), by frames; negative is early.

    The first or last frame fills what is missing.
    """
    return visual[np.clip(np.arange(len(visual)) - by, 0, len(visual) - 1)]


def drop_frames(visual: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Replace a part of the frames by zeros, as where no mouth is seen, in bursts of random length.

    Args:
        visual: embeddings (frames, dim).
        ratio: of the frames that are lost, 0 to 1, to the nearest whole frame.
        rng: for length and place of the bursts.
    """
    return np.where(_bursts(len(visual), ratio, rng)[:, None], 0, visual).astype(visual.dtype)


def freeze_frames(visual: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Repeat the last good frame in a part of the frames, as a video that hangs; arguments as of `drop_frames`.

    A clip that begins within a burst repeats its first frame.
    """
    frozen = _bursts(len(visual), ratio, rng)
    return visual[np.maximum.accumulate(np.where(frozen, 0, np.arange(len(visual))))]


def _bursts(n_frames: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the frames that are lost: bool (n_frames,), exactly round(ratio * n_frames) of them true."""
    lost = left = round(ratio * n_frames)
    lengths = []
    while left:
        lengths.append(min(int(rng.geometric(1 / BURST_FRAMES)), left))
        left -= lengths[-1]
    pieces = rng.permutation(lengths + [0] * (n_frames - lost))  # 0: a good frame
    in_a_ring = np.repeat(pieces > 0, np.maximum(pieces, 1))
    return np.roll(in_a_ring, rng.integers(n_frames))  # begun anywhere, or the ends would be lost less often


def augment_visual(visual: np.ndarray, config: DataConfig, rng: np.random.Generator, keep_faces: bool = False) -> np.ndarray:
    """Delay, freeze and drop frames of the visual embeddings of a mixture, and drop whole faces.

    Args:
        visual: (n_faces, frames, dim).
        config: how much, and how often; each kind draws for itself.
        rng: for all that is drawn.
        keep_faces: drop no whole face.

    Returns:
        (n_faces, frames, dim).
    """
    shifts, freezes, drops, missing = rng.spawn(4)
    missing_face, no_visual = missing.random(2) < (config.missing_face_prob, config.no_visual_prob)
    augmented = []
    for face in visual:
        face = shift_frames(face, int(shifts.integers(-config.max_shift_frames, config.max_shift_frames + 1)))
        face = freeze_frames(face, freezes.uniform(0, config.max_frozen_ratio), freezes)
        augmented.append(drop_frames(face, drops.uniform(0, config.max_dropped_ratio), drops))
    faces, lost = np.stack(augmented), missing.integers(len(augmented))
    if missing_face and not keep_faces:
        faces[lost] = 0
    return np.zeros_like(faces) if no_visual and not keep_faces else faces


class Acoustics:
    """Put sources into rooms and add noise. Making one checks the folders and reads no samples.

    Args:
        config: which folders, and how often.
        sample_rate: Hz; that of every file.

    Raises:
        UserError: a folder that is asked for is missing or empty, or a file cannot be used.
    """

    def __init__(self, config: DataConfig, sample_rate: int) -> None:
        self.config, self.sample_rate = config, sample_rate
        self.noises: dict[Path, int] = {}  # file -> samples
        self.rooms: dict[Path, int] = {}  # file -> positions in the room
        self.interferer_files: dict[Path, int] = {}  # file of speech -> samples
        if config.noise_prob or config.noise_source_prob:
            self.noises = recording_lengths("noise_dir", Path(config.noise_dir), sample_rate)
        if config.interferer_prob:
            self.interferer_files = recording_lengths("interferer_dir", Path(config.interferer_dir), sample_rate)
        if config.rir_prob:
            self.rooms = response_channels(Path(config.rir_dir), sample_rate)

    def fingerprint(self) -> str:
        """Hash of the names and sizes of the recordings that are used; "" where there are none."""
        config = self.config
        folders = (config.noise_dir, config.rir_dir, config.interferer_dir)
        used = zip((self.noises, self.rooms, self.interferer_files), folders, strict=True)
        found = [[str(path.relative_to(folder)), path.stat().st_size] for files, folder in used for path in files]
        return hash_json(found) if found else ""

    def check_sources(self, n_sources: int) -> None:
        """Check that there is a response for each of `n_sources`.

        Raises:
            UserError: there are too few.
        """
        if not self.rooms:
            return
        fewest = min(self.rooms, key=self.rooms.__getitem__)
        if self.rooms[fewest] == 1 and len(self.rooms) < n_sources:
            raise UserError(
                f"--rir_dir {self.config.rir_dir}: {len(self.rooms)} responses of one channel are too few for mixtures "
                f"of {n_sources} sources; add more or set --rir_prob 0"
            )
        if 1 < self.rooms[fewest] < n_sources:
            raise UserError(
                f"--rir_dir: {fewest} has {self.rooms[fewest]} channels, too few for mixtures of {n_sources} sources; "
                "take it out of the folder or set --rir_prob 0"
            )

    def reverberate(self, sources: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Put the sources of a mixture into a room, or leave them as they are.

        Every source stays as loud as it was, and its direct sound where it was.

        Args:
            sources: (n_sources, time), none silent.
            rng: whether, and into which room.

        Returns:
            The reverberant sources and their early parts, (n_sources, time) float32 both.

        Raises:
            UserError: a response cannot be read or used.
        """
        if not rng.random() < self.config.rir_prob:
            return sources, sources
        drawn = draw_positions(self.rooms, len(sources), rng)
        files = {path: read_responses(path) for path in dict(drawn)}
        responses = [files[path][:, channel] for path, channel in drawn]
        pairs = [reverberate(s, r, self.sample_rate) for s, r in zip(sources, responses, strict=True)]
        whole, early = zip(*pairs, strict=True)
        return np.stack(whole), np.stack(early)

    def add_noise(self, speech: np.ndarray, rng: np.random.Generator, always: bool = False) -> np.ndarray:
        """Add noise to the sum of the sources of a mixture (time,), or leave them as they are.

        Args:
            speech: (time,), not silent.
            rng: whether, and which.
            always: never leave them as they are.

        Raises:
            UserError: a recording cannot be read, or is silent.
        """
        config = self.config
        if not (rng.random() < config.noise_prob or always):
            return speech
        snr_db = rng.uniform(config.noise_snr_low_db, config.noise_snr_high_db)
        return add_noise(speech, self.noise(len(speech), rng), snr_db)

    def noise(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """A random stretch of the recordings of noise, (length,); raises as `add_noise`."""
        return draw_stretch("noise_dir", self.noises, length, self.sample_rate, rng)

    def interferers(self, sources: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Replace interfering sources by speech of `interferer_dir`, each one or not.

        Args:
            sources: (n_sources, time).
            rng: which ones, and for what.

        Raises:
            UserError: a recording cannot be read, or is silent.
        """
        files, length = self.interferer_files, sources.shape[-1]
        replaced = sources.copy()
        for index in np.flatnonzero(rng.random(len(sources)) < self.config.interferer_prob):
            replaced[index] = draw_stretch("interferer_dir", files, length, self.sample_rate, rng, SPEECH_POWER)
        return replaced
