"""The conditions of the robustness benchmark: what a network is given in each, and what its estimates are held to.

Reads nothing but through `VoiceBank`; writes nothing. Imported by `utils.tools.robustness`. All that is drawn for a
mixture depends on (seed, mixture id): conditions that draw the same thing, such as a noise at two levels, draw it alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from utils.data.audio import EXTENSIONS, read_audio
from utils.errors import UserError
from utils.mixing.levels import MAX_DRAWS, SILENCE_POWER, mix_at_sir, power
from utils.scoring.metrics import best_permutation, si_snr_matrix
from utils.tools.robustness_voices import Example, VoiceBank
from utils.training.augmentation import drop_frames, freeze_frames, shift_frames

OFFSETS_FRAMES = (-5, -1, 1, 5)
MISSING_SHARES = (0.25, 0.5)
SNRS_DB = (10, 0)
LENGTHS_SEC = (1, 5, 30, 60)
N_BABBLE = 6
FEWEST_RECORDINGS = 4
QUIETEST_DB = -120.0  # an output that is quieter counts as this

SI_SNRI, SI_SNRI_BEST, SI_SNR = "SI-SNRi (dB)", "SI-SNRi, best order (dB)", "SI-SNR (dB)"
SILENT_FACE, RIGHT = "silent face's output over the mixture (dB)", "right (%)"
CLEAN, SWAPPED, ALL_MISSING = "clean", "faces exchanged, references too", "all faces missing"


@dataclass(frozen=True, eq=False)
class Trial:
    """One mixture in one condition."""

    mixture: np.ndarray  # float32 (time,)
    cues: np.ndarray  # float32 (n_faces, frames, dim)
    references: np.ndarray  # (n, time), n <= n_faces: estimate k is held to reference k
    changed_joins: float | None = None  # share of a joined recording's joins at which a face changes its speaker


Make = Callable[[Example, np.random.Generator], Trial | None]


@dataclass(frozen=True)
class Condition:
    """How to make the trials of a condition, and what to measure.

    `sound` names what is heard: the audio-only twin has one score for all conditions that sound alike; "" where the twin
    cannot be compared.
    """

    name: str
    make: Make  # None where the manifest does not allow this trial
    measures: tuple[str, ...] = (SI_SNRI,)
    sound: str = CLEAN
    n_most: int | None = None  # trials; None: one for each mixture

    def trial(self, example: Example, seed: int) -> Trial | None:
        """The trial of a mixture."""
        return self.make(example, np.random.default_rng([seed, *example.item.mixture_id.encode()]))


def all_conditions(bank: VoiceBank, noises: dict[str, np.ndarray], audio_sec: float) -> list[Condition]:
    """Every condition, in the order of the table.

    Args:
        bank: the voices.
        noises: more noises (time,) by name, at the bank's rate.
        audio_sec: of all mixtures that are tried; joined recordings are as many as fit in it, and four at least.
    """
    named = {"white noise": _white, f"babble of {N_BABBLE} voices": partial(_babble, bank)}
    named |= {f"noise {name}": partial(_excerpt, name, noise) for name, noise in noises.items()}
    noisy = [
        Condition(f"{name} at {snr_db} dB", partial(_noisy, draw, snr_db), sound=f"{name} {snr_db}")
        for name, draw in named.items()
        for snr_db in SNRS_DB
    ]
    long = [
        Condition(
            f"recordings of {sec} s",
            partial(_joined, bank, sec),
            sound=f"{sec} s",
            n_most=max(FEWEST_RECORDINGS, round(audio_sec / sec)),
        )
        for sec in LENGTHS_SEC
    ]
    swapped = Condition(SWAPPED, _swapped, (SI_SNRI, RIGHT))
    return [*visual_conditions(), *voice_conditions(bank), *noisy, *long, swapped]


def visual_conditions() -> list[Condition]:
    """The clean reference, and faces that are late, early, missing or frozen."""
    shifted = [Condition(offset_name(by), _each_face(lambda cues, rng, by=by: shift_frames(cues, by))) for by in OFFSETS_FRAMES]
    dropped = [
        Condition(missing_name(share), _each_face(lambda cues, rng, share=share: drop_frames(cues, share, rng)))
        for share in MISSING_SHARES
    ]
    return [
        Condition(CLEAN, _each_face(lambda cues, rng: cues), (SI_SNRI, RIGHT)),
        *shifted,
        Condition("second face 5 frames late", _last_face(lambda cues: shift_frames(cues, 5))),
        *dropped,
        Condition(ALL_MISSING, _each_face(lambda cues, rng: drop_frames(cues, 1.0, rng)), (SI_SNRI, SI_SNRI_BEST)),
        Condition("50 % of each face's frames frozen", _each_face(lambda cues, rng: freeze_frames(cues, 0.5, rng))),
        Condition("second face missing", _last_face(np.zeros_like)),
    ]


def voice_conditions(bank: VoiceBank) -> list[Condition]:
    """Fewer or more voices than the network was trained with, and faces without a voice or voices without a face."""
    return [
        Condition("one voice, its face", lambda example, rng: _one_voice(example, 1), (SI_SNR,), sound=""),
        Condition("one voice, two faces", lambda example, rng: _one_voice(example, 2), (SI_SNR, SILENT_FACE), sound=""),
        Condition("two voices, one face (the other off-screen)", _off_screen, sound=""),
        Condition("three voices, three faces", partial(_three_voices, bank), sound=""),
    ]


def offset_name(by: int) -> str:
    """Positive: the video comes too late."""
    return f"faces {abs(by)} frame{'s' * (abs(by) > 1)} {'late' if by > 0 else 'early'}"


def missing_name(share: float) -> str:
    return f"{100 * share:.0f} % of each face's frames missing"


def read_noises(folder: Path | None, sample_rate: int) -> dict[str, np.ndarray]:
    """The noise files of a folder, (time,) by name.

    Raises:
        UserError: no such folder, no audio in it, or a file that is silent or of another rate.
    """
    if folder is None:
        return {}
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in EXTENSIONS)
    if not paths:
        raise UserError(f"--noise_dir {folder}: holds no {', '.join(EXTENSIONS)} file")
    noises = {path.stem: read_audio(path, sample_rate=sample_rate) for path in paths}
    for path in paths:
        if not noises[path.stem].any():
            raise UserError(f"{path}: a silent file is no noise; take it out of --noise_dir")
    return noises


def score(measure: str, estimates: np.ndarray, trial: Trial) -> float:
    """What a measure says of the estimates (n_faces or more, time); NaN where one of them, or a reference, is silent."""
    references = trial.references
    matrix = si_snr_matrix(estimates, references)  # (estimates, references)
    in_place = np.diagonal(matrix)
    if measure == SI_SNR:
        return float(in_place.mean())
    if measure == RIGHT:
        return 100.0 * bool((in_place >= matrix.max(axis=1)).all())
    if measure == SILENT_FACE:
        return max(10 * np.log10(max(power(estimates[1]), 1e-30) / power(trial.mixture)), QUIETEST_DB)
    if measure == SI_SNRI_BEST:
        in_place = matrix[best_permutation(estimates, references), np.arange(len(references))]
    return float((in_place - si_snr_matrix(trial.mixture[None], references)[0]).mean())


def _each_face(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Make:
    def make(example: Example, rng: np.random.Generator) -> Trial:
        return Trial(example.mixture, np.stack([change(cues, rng) for cues in example.cues]), example.sources)

    return make


def _last_face(change: Callable[[np.ndarray], np.ndarray]) -> Make:
    def make(example: Example, rng: np.random.Generator) -> Trial:
        return Trial(example.mixture, np.stack([*example.cues[:-1], change(example.cues[-1])]), example.sources)

    return make


def _swapped(example: Example, rng: np.random.Generator) -> Trial:
    return Trial(example.mixture, example.cues[::-1].copy(), example.sources[::-1])


def _one_voice(example: Example, n_faces: int) -> Trial:
    return Trial(example.sources[0], example.cues[:n_faces], example.sources[:1])


def _off_screen(example: Example, rng: np.random.Generator) -> Trial:
    return Trial(example.mixture, example.cues[:1], example.sources[:1])


def _three_voices(bank: VoiceBank, example: Example, rng: np.random.Generator) -> Trial | None:
    """A third voice, where possible of another speaker, at the mean of the two levels in dB."""
    length, n_frames = example.sources.shape[1], example.cues.shape[1]
    for voice in bank.others(example, rng):
        source, cues = bank.read(voice)
        if len(source) < length or power(source[:length]) == 0:
            continue
        first, second = map(power, example.sources)
        source = source[:length] * np.float32((first * second) ** 0.25 / power(source[:length]) ** 0.5)
        sources = np.concatenate([example.sources, source[None]])
        return Trial(sources.sum(axis=0), np.concatenate([example.cues, cues[None, :n_frames]]), sources)
    return None


def _noisy(draw: Make, snr_db: float, example: Example, rng: np.random.Generator) -> Trial | None:
    """The mixture at `snr_db` over a noise, held to the clean sources."""
    noise = draw(example, rng)
    if noise is None:
        return None
    noisy, _ = mix_at_sir(np.stack([example.mixture, noise]), np.array([snr_db]))
    return Trial(noisy, example.cues, example.sources)


def _white(example: Example, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(example.sources.shape[1])


def _babble(bank: VoiceBank, example: Example, rng: np.random.Generator) -> np.ndarray | None:
    """Other utterances at one level, each repeated where it is too short; None where there are not enough."""
    voices = bank.others(example, rng)[:N_BABBLE]
    if len(voices) < N_BABBLE:
        return None
    sources = [np.resize(bank.read(voice)[0], example.sources.shape[1]) for voice in voices]
    return np.sum([source / max(power(source), 1e-12) ** 0.5 for source in sources], axis=0)


def _excerpt(name: str, noise: np.ndarray, example: Example, rng: np.random.Generator) -> np.ndarray:
    """A stretch of a recording that begins anywhere and can be heard, the recording repeated where it is too short."""
    for _ in range(MAX_DRAWS):
        stretch = np.resize(np.roll(noise, -int(rng.integers(len(noise)))), example.sources.shape[1])
        if power(stretch) > SILENCE_POWER:
            return stretch
    raise UserError(f"--noise_dir: the file '{name}' is silent in {MAX_DRAWS} stretches; take it out of the folder")


def _joined(bank: VoiceBank, length_sec: float, example: Example, rng: np.random.Generator) -> Trial:
    recording, changed_joins = bank.joined(example, rng, length_sec)
    return Trial(recording.mixture, recording.cues, recording.sources, changed_joins)
