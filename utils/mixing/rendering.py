"""The audio of listed mixtures: sources at exact ratios, in rooms, in noise; the same list gives the same bytes.

A mixture is written as audio/<split>/{mix,s1,s2,…}/<mixture>.wav, and noise/<mixture>.wav where there is noise or a
room. It ends with its shortest clip. All its files are scaled by one factor, so that none clips (the loudest peak of
them is 0.9), and are rounded before they are added: mix = s1 + s2 + … + noise holds to the bit, in PCM16 and float32.

Ratios are those of what is heard, over the mixture's length: with its whole reverberation where a speaker is in a room.
The source is then only the early part, up to 50 ms after the direct sound; late reverberation is in `noise`.

The list says what differs from one mixture to the next; mixtures.mixing.json beside it says what holds for all of them.
Both together, with the clips, noises and room responses that the list names, give the same bytes again; of FLOAT files
the same samples, for libsndfile writes the time into their headers.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np

from utils.data.audio import probe_audio, read_audio, write_wav
from utils.data.clock import frames_covering
from utils.data.constants import SAMPLE_RATE_HZ, SPLITS, VIDEO_FPS
from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, Journal, run_jobs
from utils.data.manifest import Mixture, Problem, Utterance
from utils.errors import UserError
from utils.mixing.levels import SILENCE_POWER, WHOLE, level_db, noise_gain, power
from utils.mixing.lists import ListedMixture, read_mix_list
from utils.mixing.options import MixOptions
from utils.mixing.recordings import reverberate
from utils.mixing.rooms import load_response, response_file

PEAK = 0.9
_JOURNAL = "audio/.made.jsonl"
_PART = re.compile(r"mix|noise|s[0-9]+")
_PCM16_STEP = 1 / 32768
_FLOAT_STEP = 2.0**-23  # a sum of float32 numbers is exact where all are multiples of one step and below 2^24 of it


def make_mixtures(
    data_dir: Path, mixtures: Sequence[ListedMixture], clips: Mapping[str, Utterance], options: MixOptions
) -> list[Mixture | Problem]:
    """Make the audio of listed mixtures below `data_dir`, in processes; files that are up to date stay.

    Args:
        data_dir: gets audio/<split>/…; paths of the result start there.
        mixtures: a list; all their clips are in `clips`.
        clips: by id; their paths start at `data_dir`.
        options: how.

    Returns:
        Rows for manifests, in the order of the list; problems for the mixtures that could not be made.
    """
    options = replace(options, noises={}, responses={})  # every job gets a copy
    jobs = [_job(data_dir, item, clips, options) for item in mixtures]
    lengths, reasons = run_jobs(_make, jobs, data_dir / _JOURNAL, options.nj, "mixtures", "mixture")
    found: list[Mixture | Problem] = []
    for item, job in zip(mixtures, jobs, strict=True):
        if job.name in reasons:
            found.append(item.problem(reasons[job.name]))
        else:
            found.append(_row(item, clips, lengths[job.name]["length"]))
    return found


def mix_sources(item: ListedMixture, clips: Sequence[np.ndarray], options: MixOptions) -> tuple[np.ndarray, np.ndarray]:
    """Mix clips as a list says, before anything is scaled or rounded.

    Args:
        item: the row.
        clips: the sound of its utterances, (time,) each, of any lengths.
        options: how.

    Returns:
        The sources (n_src, time), and what else is heard (time,): noise and late reverberation, or zeros; float64 both.

    Raises:
        UserError: the mixture would be too short, a clip is silent over its length, or a noise or room cannot be used.
    """
    length = min(map(len, clips))
    if length < max(options.min_sec * SAMPLE_RATE_HZ, 1):
        raise UserError(f"would last {length / SAMPLE_RATE_HZ:.3f} s where {options.min_sec:g} s are the least")
    length = int(min(length, options.max_sec * SAMPLE_RATE_HZ))
    heard, early = np.zeros((2, len(clips), length))
    for k, (clip, listed) in enumerate(zip(clips, item.sources, strict=True)):
        part = clip[:length]
        try:
            level_db(part, SAMPLE_RATE_HZ, WHOLE)
            heard[k] = early[k] = part
            if listed.response:
                response = load_response(listed.response, options.rir_dir, SAMPLE_RATE_HZ)
                heard[k], early[k] = reverberate(part, response, SAMPLE_RATE_HZ)
            gain_db = listed.level_db - level_db(heard[k], SAMPLE_RATE_HZ, options.measure)
        except UserError as error:
            raise UserError(f"{listed.utterance_id}: {error}") from None
        heard[k] *= 10 ** (gain_db / 20)
        early[k] *= 10 ** (gain_db / 20)
    rest = (heard - early).sum(axis=0)
    if item.noise:
        noise = _noise(item, length, options.noise_dir)
        rest += noise * noise_gain(heard.sum(axis=0), noise, item.snr_db)
    return early, rest


def made_before(data_dir: Path) -> set[tuple[str, str]]:
    """The mixtures, by split and id, whose audio earlier calls made below `data_dir`.

    These are those of their journal, which also holds what was made before a call failed, and those of mixtures.csv,
    which the last successful call wrote.
    """
    names = (str(name).partition("/") for name in Journal(data_dir / _JOURNAL).entries)
    found = {(split, mixture_id) for split, _, mixture_id in names}
    with suppress(UserError):  # there is none, or it is no longer the one that was written
        listed = read_mix_list(data_dir / "mixtures.csv")
        found |= {(item.split, item.mixture_id) for item in listed if isinstance(item, ListedMixture)}
    return {(split, name) for split, name in found if split in SPLITS and name and not {"/", "\\"} & set(name)}


def remove_mixtures(data_dir: Path, names: Iterable[tuple[str, str]]) -> None:
    """Remove the audio of mixtures, by split and id; no other file."""
    for split, name in names:
        for folder in (data_dir / "audio" / split).glob("*"):
            if _PART.fullmatch(folder.name):
                (folder / f"{name}.wav").unlink(missing_ok=True)


def part_paths(folder: str, mixture_id: str, n_src: int, with_noise: bool = False) -> list[str]:
    """The files of a mixture below a folder: mix/ID.wav, s1/ID.wav, …, noise/ID.wav."""
    parts = ["mix", *(f"s{k}" for k in range(1, n_src + 1)), *(["noise"] if with_noise else [])]
    return [f"{folder}/{part}/{mixture_id}.wav" for part in parts]


def _job(data_dir: Path, item: ListedMixture, clips: Mapping[str, Utterance], options: MixOptions) -> Job:
    paths = part_paths(f"audio/{item.split}", item.mixture_id, len(item.sources), item.has_rest)
    outputs = tuple(data_dir / path for path in paths)
    sounds = tuple(data_dir / clips[source.utterance_id].audio_path for source in item.sources)
    used = [options.noise_dir / item.noise] if item.noise and options.noise_dir else []
    responses = filter(None, (response_file(source.response) for source in item.sources))
    used += [options.rir_dir / name for name in responses if options.rir_dir]
    row = astuple(replace(item, row=0, source="", seconds=None))
    text = f"{row} {options.settings} {options.noise_dir} {options.rir_dir} {hash_stats([*sounds, *used])}"
    key = hashlib.sha256(text.encode()).hexdigest()
    return Job(f"{item.split}/{item.mixture_id}", key, outputs, (item, sounds, outputs, options))


def _make(given: tuple[ListedMixture, tuple[Path, ...], tuple[Path, ...], MixOptions]) -> dict[str, int]:
    """Write the files of one mixture; its length in samples."""
    item, sounds, outputs, options = given
    clips = [read_audio(path, sample_rate=SAMPLE_RATE_HZ) for path in sounds]
    sources, rest = mix_sources(item, clips, options)
    signals = _rounded(sources, rest, options.subtype)
    for path, signal in zip(outputs, signals, strict=False):  # without noise, the rest is zeros and has no file
        write_wav(path, signal, SAMPLE_RATE_HZ, options.subtype)
    return {"length": sources.shape[1]}


def _rounded(sources: np.ndarray, rest: np.ndarray, subtype: str) -> list[np.ndarray]:
    """Mixture, sources and rest on the grid of their files, so that they add up to the bit and none clips."""
    parts = np.concatenate([sources, rest[None]])
    parts *= PEAK / max(np.abs(parts).max(), np.abs(parts.sum(axis=0)).max())
    step = _PCM16_STEP if subtype == "PCM_16" else _FLOAT_STEP
    units = np.rint(parts / step)
    numbers = [units.sum(axis=0), *units]
    if subtype == "PCM_16":
        return [signal.astype(np.int16) for signal in numbers]
    return [(signal * step).astype(np.float32) for signal in numbers]


def _noise(item: ListedMixture, length: int, folder: Path | None) -> np.ndarray:
    """A stretch of the noise's file; what is too short goes on from its beginning."""
    if folder is None:
        raise UserError(f"the list names the noise {item.noise}; give its folder with --noise_dir")
    path = folder / item.noise
    there = probe_audio(path).length
    if item.noise_start >= there:
        raise UserError(f"{there} samples where the list starts at {item.noise_start}", path)
    if there - item.noise_start >= length:
        noise = read_audio(path, item.noise_start, length, SAMPLE_RATE_HZ)
    else:
        noise = np.resize(np.roll(read_audio(path, sample_rate=SAMPLE_RATE_HZ), -item.noise_start), length)
    if power(noise) <= SILENCE_POWER:
        raise UserError(f"the noise is silent from sample {item.noise_start} on", path)
    return noise.astype(np.float64)


def _row(item: ListedMixture, clips: Mapping[str, Utterance], length: int) -> Mixture:
    mixture_path, *parts = part_paths(f"audio/{item.split}", item.mixture_id, len(item.sources), item.has_rest)
    own = [clips[source.utterance_id] for source in item.sources]
    return Mixture(
        mixture_id=item.mixture_id,
        mixture_path=mixture_path,
        source_paths=tuple(parts[: len(own)]),
        noise_path=parts[-1] if item.has_rest else "",
        length=length,
        mouth_paths=tuple(clip.mouth_path for clip in own),
        frames=frames_covering(length, SAMPLE_RATE_HZ, VIDEO_FPS),
        fps=float(VIDEO_FPS),
        speakers=tuple(clip.speaker for clip in own),
        sir_db=item.sir_db,
        subset="",
    )
