"""The audio of listed mixtures: sources at exact ratios, in rooms, in noise; the same list gives the same bytes.

A mixture is written as audio/<split>/{mix,s1,s2,…}/<mixture>.wav, and noise/<mixture>.wav where there is noise or a room.
All files of a mixture are scaled by one factor, so that none clips (the loudest peak of them is 0.9), and are rounded
before they are added: mix = s1 + s2 + … + noise holds to the bit, in PCM16 as in float32.

Ratios are those of what is heard, over the mixture's length: with its whole reverberation where a speaker is in a room. The
source is then only the early part, up to 50 ms after the direct sound; late reverberation is in `noise`.

The list says what differs from one mixture to the next; mixtures.mixing.json beside it says what holds for all of them.
Both together, with the clips, noises and room responses that the list names, give the same bytes again; of FLOAT files the
same samples, for libsndfile writes the time into their headers.
"""

import hashlib
import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.audio import probe_audio, read_audio, write_wav
from utils.data.clock import frames_covering
from utils.data.constants import SAMPLE_RATE_HZ, SPLITS, VIDEO_FPS
from utils.data.files import read_json, require_space, write_json
from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, Journal, pending, run_jobs
from utils.data.manifest import Mixture, Problem, Utterance
from utils.errors import UsageError, UserError
from utils.mixing.levels import MEASURES, SILENCE_POWER, WHOLE, level_db, noise_gain, power
from utils.mixing.lists import ListedMixture, read_mix_list
from utils.mixing.recordings import reverberate
from utils.mixing.rooms import load_response, response_file

log = logging.getLogger(__name__)
PEAK = 0.9
MIN, MAX = "min", "max"
SUBTYPES = ("PCM_16", "FLOAT")
JOURNAL = ".made.jsonl"  # below audio/
_WAV_HEADER_BYTES = 128
_PART = re.compile(r"mix|noise|s[0-9]+")
_PCM16_STEP = 1 / 32768
_CHOICES = {"measure": MEASURES, "length": (MIN, MAX), "subtype": SUBTYPES}
_NUMBERS = ("min_sec", "max_sec", "sample_rate")


@dataclass(frozen=True)
class MixingOptions:
    """Options that hold for all mixtures; what differs from one to the next is in the list.

    Attributes:
        length: `min` cuts all sources to the shortest clip, `max` pads them to the longest with silence at their ends.
        measure: of levels, `whole` or `active` (see utils/mixing/levels.py).
        subtype: of the files, PCM_16 or FLOAT.
        noise_dir, rir_dir: the folders that the list's noises and rooms are below.
        min_sec, max_sec: mixtures that would be shorter fail with the reason; longer ones are cut.
        sample_rate: Hz, of all files.
        fps: video frames for each second.
    """

    length: str = MIN
    measure: str = WHOLE
    subtype: str = "PCM_16"
    noise_dir: Path | None = None
    rir_dir: Path | None = None
    min_sec: float = 0.0
    max_sec: float = float("inf")
    sample_rate: int = SAMPLE_RATE_HZ
    fps: float = float(VIDEO_FPS)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"the {name} of mixtures is '{getattr(self, name)}', none of {', '.join(choices)}")

    def mixed_length(self, lengths: Iterable[int]) -> int:
        """Samples of a mixture of clips of these lengths, before it is cut to `max_sec`."""
        return min(lengths) if self.length == MIN else max(lengths)


def make_mixtures(
    data_dir: Path, mixtures: Sequence[ListedMixture], clips: Mapping[str, Utterance], options: MixingOptions, nj: int = 1
) -> tuple[list[Mixture], list[Problem]]:
    """Make the audio of listed mixtures below `data_dir`, in processes; files that are up to date stay.

    Args:
        data_dir: gets audio/<split>/…; paths of the result start there.
        mixtures: a list; all their clips are in `clips`.
        clips: by id; their paths start at `data_dir`.
        options: how.
        nj: processes.

    Returns:
        Rows for manifests, in the order of the list, and the mixtures that could not be made, with reasons.

    Raises:
        UserError: the disk has not enough room.
    """
    jobs = [_job(data_dir, item, clips, options) for item in mixtures]
    journal = data_dir / "audio" / JOURNAL
    todo = {job.name for job in pending(jobs, journal)[0]}
    size = 0
    for item in mixtures:
        if _job_name(item) in todo:
            samples = options.mixed_length(clips[source.utterance_id].length for source in item.sources)
            size += mixture_bytes(len(item.sources), samples, has_rest(item), options)
    require_space(data_dir, size, f"{len(todo)} mixtures", "--data_dir")
    results, reasons = run_jobs(_make, jobs, journal, nj, "mixtures", "mixture")
    made, problems = [], []
    for item in mixtures:
        name = _job_name(item)
        if name in reasons:
            problems.append(Problem(item.row, item.mixture_id, item.source, reasons[name]))
        else:
            made.append(_row(item, clips, options, results[name]))
    return made, problems


def mix_sources(item: ListedMixture, clips: Sequence[np.ndarray], options: MixingOptions) -> tuple[np.ndarray, np.ndarray]:
    """Mix clips as a list says, before anything is scaled or rounded.

    Args:
        item: the row.
        clips: the sound of its utterances, (time,) each, of any lengths.
        options: how.

    Returns:
        The sources (n_src, time), and what else is heard (time,): noise and late reverberation, or zeros; float64 both.

    Raises:
        UserError: a clip is silent over the mixture's length, or a noise or room cannot be used.
    """
    length = _length([len(clip) for clip in clips], options)
    heard, early = np.zeros((2, len(clips), length))
    for k, (clip, listed) in enumerate(zip(clips, item.sources, strict=True)):
        part = clip[:length]
        try:
            level_db(part, options.sample_rate, WHOLE)
            wet = (part, part)
            if listed.response:
                response = load_response(listed.response, options.rir_dir, options.sample_rate)
                wet = reverberate(part, response, options.sample_rate)
            heard[k, : len(part)], early[k, : len(part)] = wet
            gain_db = listed.level_db - level_db(heard[k], options.sample_rate, options.measure)
        except UserError as error:
            raise UserError(f"{listed.utterance_id}: {error}") from None
        heard[k] *= 10 ** (gain_db / 20)
        early[k] *= 10 ** (gain_db / 20)
    rest = (heard - early).sum(axis=0)
    if item.noise:
        noise = _noise(item, length, options)
        rest += noise * noise_gain(heard.sum(axis=0), noise, item.snr_db)
    return early, rest


def made_before(data_dir: Path) -> set[tuple[str, str]]:
    """The mixtures, by split and id, whose audio earlier calls made below `data_dir`.

    These are those of their journal, which also holds what was made before a call failed, and those of mixtures.csv, which
    the last successful call wrote.
    """
    names = (str(name).partition("/") for name in Journal(data_dir / "audio" / JOURNAL).entries)
    found = {(split, mixture_id) for split, _, mixture_id in names}
    with suppress(UserError):  # there is none, or it is no longer the one that was written
        listed = read_mix_list(data_dir / "mixtures.csv", same_speaker=True)
        found |= {(item.split, item.mixture_id) for item in listed.mixtures}
    return {(split, name) for split, name in found if split in SPLITS and name and not {"/", "\\"} & set(name)}


def remove_mixtures(data_dir: Path, names: Collection[tuple[str, str]]) -> None:
    """Remove the audio of mixtures, by split and id; no other file."""
    for split, name in names:
        for folder in (data_dir / "audio" / split).glob("*"):
            if _PART.fullmatch(folder.name):
                (folder / f"{name}.wav").unlink(missing_ok=True)


def part_paths(folder: str, mixture_id: str, n_src: int, with_noise: bool = False) -> list[str]:
    """The files of a mixture below a folder: mix/ID.wav, s1/ID.wav, …, noise/ID.wav."""
    parts = ["mix", *(f"s{k}" for k in range(1, n_src + 1)), *(["noise"] if with_noise else [])]
    return [f"{folder}/{part}/{mixture_id}.wav" for part in parts]


def mixture_bytes(n_src: int, samples: float, has_rest: bool, options: MixingOptions) -> int:
    """Most bytes that the files of a mixture take."""
    samples = min(samples, options.max_sec * options.sample_rate)
    n_files = 1 + n_src + has_rest
    return int(n_files * (samples * (2 if options.subtype == "PCM_16" else 4) + _WAV_HEADER_BYTES))


def settings_path(list_path: Path | str) -> Path:
    """The file of a list's settings; not mixtures.json, by which mixtures.csv would be taken for a manifest."""
    return Path(list_path).with_suffix(".mixing.json")


def write_settings(list_path: Path | str, options: MixingOptions) -> None:
    """Write the settings of a list, atomically."""
    values = {name: getattr(options, name) for name in (*_CHOICES, *_NUMBERS)}
    write_json(settings_path(list_path), {name: None if value == math.inf else value for name, value in values.items()})


def read_settings(list_path: Path | str) -> dict[str, Any]:
    """The settings of a list; nothing where the file is missing, which is logged.

    Raises:
        UserError: the file is damaged.
    """
    path = settings_path(list_path)
    if not path.is_file():
        log.warning("%s is missing; the audio is the same again only with the options that it was made with", path)
        return {}
    values = read_json(path)
    if not isinstance(values, dict) or set(values) != {*_CHOICES, *_NUMBERS}:
        raise UserError(f"{path}: does not hold {', '.join((*_CHOICES, *_NUMBERS))}; copy it again, or remove it")
    values["max_sec"] = math.inf if values["max_sec"] is None else values["max_sec"]
    wrong = [name for name, choices in _CHOICES.items() if values[name] not in choices]
    wrong += [name for name in _NUMBERS if type(values[name]) not in (int, float) or not values[name] >= 0]
    if wrong:
        raise UserError(f"{path}: {wrong[0]} is {values[wrong[0]]!r}; copy it again, or remove it")
    return values


def settle(given: Mapping[str, Any], list_path: Path | str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a list, which options may repeat, but not contradict.

    Args:
        given: options that the user gave.
        list_path: the list.
        defaults: what holds where neither says anything.

    Raises:
        UserError: the file is damaged, or an option contradicts it.
    """
    listed = read_settings(list_path)
    for name, value in given.items():
        if name in listed and listed[name] != value:
            raise UsageError(
                f"--{name} {value}: the mixtures of {list_path} were made with {listed[name]} (see "
                f"{settings_path(list_path).name}); leave the option out, or remove that file to make others"
            )
    return {**defaults, **listed, **given}


def _job_name(item: ListedMixture) -> str:
    return f"{item.split}/{item.mixture_id}"


def _job(data_dir: Path, item: ListedMixture, clips: Mapping[str, Utterance], options: MixingOptions) -> Job:
    paths = part_paths(f"audio/{item.split}", item.mixture_id, len(item.sources), has_rest(item))
    outputs = tuple(data_dir / path for path in paths)
    sounds = tuple(data_dir / clips[source.utterance_id].audio_path for source in item.sources)
    used = [options.noise_dir / item.noise] if item.noise and options.noise_dir else []
    responses = filter(None, (response_file(source.response) for source in item.sources))
    used += [options.rir_dir / name for name in responses if options.rir_dir]
    text = f"{astuple(replace(item, row=0, source='', seconds=None))} {options} {hash_stats([*sounds, *used])}"
    return Job(_job_name(item), hashlib.sha256(text.encode()).hexdigest(), outputs, (item, sounds, outputs, options))


def _make(given: tuple[ListedMixture, tuple[Path, ...], tuple[Path, ...], MixingOptions]) -> dict[str, int]:
    """Write the files of one mixture; its length in samples."""
    item, sounds, outputs, options = given
    if item.noise and options.noise_dir is None:
        raise UserError(f"the list names the noise {item.noise}; give its folder with --noise_dir")
    sources, rest = mix_sources(item, [read_audio(path, sample_rate=options.sample_rate) for path in sounds], options)
    signals = _rounded(sources, rest, options.subtype)
    for path, signal in zip(outputs, signals, strict=False):  # without noise, the rest is zeros and has no file
        write_wav(path, signal, options.sample_rate, options.subtype)
    return {"length": sources.shape[1]}


def _rounded(sources: np.ndarray, rest: np.ndarray, subtype: str) -> list[np.ndarray]:
    """Mixture, sources and rest on the grid of their files, so that they add up to the bit and none clips."""
    parts = np.concatenate([sources, rest[None]])
    mixture = parts.sum(axis=0)
    parts *= PEAK / max(np.abs(parts).max(), np.abs(mixture).max())
    # a sum of float32 numbers is exact where all are multiples of one step and below 2^24 of it
    step = _PCM16_STEP if subtype == "PCM_16" else 2.0**-23
    units = np.rint(parts / step)
    numbers = [units.sum(axis=0), *units]
    if subtype == "PCM_16":
        return [signal.astype(np.int16) for signal in numbers]
    return [(signal * step).astype(np.float32) for signal in numbers]


def _noise(item: ListedMixture, length: int, options: MixingOptions) -> np.ndarray:
    """A stretch of the noise's file; what is too short goes on from its beginning."""
    path = options.noise_dir / item.noise
    there = probe_audio(path).length
    if there == 0 or item.noise_start >= there:
        raise UserError(f"{path}: {there} samples where the list starts at {item.noise_start}")
    noise = read_audio(path, item.noise_start, min(length, there - item.noise_start), options.sample_rate)
    if len(noise) < length:
        noise = np.resize(np.roll(read_audio(path, sample_rate=options.sample_rate), -item.noise_start), length)
    if power(noise) <= SILENCE_POWER:
        raise UserError(f"{path}: the noise is silent from sample {item.noise_start} on")
    return noise.astype(np.float64)


def _length(lengths: Sequence[int], options: MixingOptions) -> int:
    length = options.mixed_length(lengths)
    if length < max(options.min_sec * options.sample_rate, 1):
        raise UserError(f"would last {length / options.sample_rate:.3f} s where {options.min_sec:g} s are the least")
    return int(min(length, options.max_sec * options.sample_rate))


def has_rest(item: ListedMixture) -> bool:
    """True where more than sources is heard: noise, or a room."""
    return bool(item.noise) or any(source.response for source in item.sources)


def _row(item: ListedMixture, clips: Mapping[str, Utterance], options: MixingOptions, result: Mapping[str, int]) -> Mixture:
    n_src = len(item.sources)
    paths = part_paths(f"audio/{item.split}", item.mixture_id, n_src, with_noise=True)
    return Mixture(
        mixture_id=item.mixture_id,
        mixture_path=paths[0],
        source_paths=tuple(paths[1 : n_src + 1]),
        noise_path=paths[-1] if has_rest(item) else "",
        length=result["length"],
        mouth_paths=tuple(clips[source.utterance_id].mouth_path for source in item.sources),
        frames=frames_covering(result["length"], options.sample_rate, options.fps),
        fps=options.fps,
        speakers=tuple(clips[source.utterance_id].speaker for source in item.sources),
        sir_db=item.sir_db,
        subset="",
    )
