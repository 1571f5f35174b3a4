"""The audio of listed mixtures: voices at exact ratios, in rooms, in noise; the same list gives the same bytes.

A mixture is written as audio/<split>/{mix,s1,s2,…}/<mixture>.wav, and noise/<mixture>.wav where there is noise or a room.
All files of a mixture are scaled by one factor, so that none clips (the loudest peak of them is 0.9), and are rounded
before they are added: mix = s1 + s2 + … + noise holds to the bit, in PCM16 as in float32.

Ratios are those of what is heard, over the mixture's length: with its whole reverberation where a voice is in a room. The
source of such a voice is its early part alone, up to 50 ms after the direct sound; late reverberation is in `noise`.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from utils.data.audio import probe_audio, read_audio, write_wav
from utils.data.disk import require_space
from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, pending, run_jobs
from utils.data.manifest import Mixture, Problem
from utils.errors import UserError
from utils.mixing.levels import SILENCE_POWER, power
from utils.mixing.lists import SPLITS, ListedMixture, read_mix_list
from utils.mixing.rooms import load_response, response_file
from utils.mixing.speech_level import MEASURES, level_db

PEAK = 0.9
MIN, MAX = "min", "max"
SUBTYPES = ("PCM_16", "FLOAT")
JOURNAL = ".made.jsonl"  # below audio/
_WAV_HEADER_BYTES = 128
_PART = re.compile(r"mix|noise|s[0-9]+")
_PCM16_STEP = 1 / 32768


@dataclass(frozen=True)
class MixingOptions:
    """How the audio is made; what differs from one mixture to the next is in the list.

    Attributes:
        length: `min` cuts all voices to the shortest clip, `max` pads them to the longest with silence at their ends.
        measure: what levels are measured by, `whole` or `active` (see utils/mixing/speech_level.py).
        subtype: of the files, PCM_16 or FLOAT.
        noise_dir, rir_dir: the folders that the list's noises and rooms are below.
        min_sec, max_sec: mixtures that would be shorter fail with the reason; longer ones are cut.
        sample_rate: Hz, of all files.
        fps: video frames for each second.
    """

    length: str = MIN
    measure: str = "whole"
    subtype: str = "PCM_16"
    noise_dir: Path | None = None
    rir_dir: Path | None = None
    min_sec: float = 0.0
    max_sec: float = float("inf")
    sample_rate: int = 16000
    fps: float = 25.0

    def __post_init__(self) -> None:
        for name, choices in (("length", (MIN, MAX)), ("measure", MEASURES), ("subtype", SUBTYPES)):
            if getattr(self, name) not in choices:
                raise UserError(f"the {name} of mixtures is '{getattr(self, name)}', none of {', '.join(choices)}")


@dataclass(frozen=True)
class MixClip:
    """A clip that lists name: where its sound is, and where its mouth is or will be."""

    audio_path: Path
    mouth_path: str  # as it will stand in the manifest
    speaker: str
    length: int  # samples


@dataclass(frozen=True)
class _Work:
    """What a process needs for one mixture."""

    item: ListedMixture
    audio_paths: tuple[Path, ...]
    outputs: tuple[Path, ...]  # mix, sources, and the noise where there is one
    options: MixingOptions


def make_mixtures(
    data_dir: Path, mixtures: Sequence[ListedMixture], clips: Mapping[str, MixClip], options: MixingOptions, nj: int = 1
) -> tuple[list[Mixture], list[Problem]]:
    """Make the audio of listed mixtures below `data_dir`, in processes; what is there already stays.

    Args:
        data_dir: gets audio/<split>/…; paths of the result start there.
        mixtures: a list; all their clips are in `clips`.
        clips: by id.
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
    size = sum(_bytes(item, clips, options) for item in mixtures if _job_name(item) in todo)
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


def mix_voices(item: ListedMixture, voices: Sequence[np.ndarray], options: MixingOptions) -> tuple[np.ndarray, np.ndarray]:
    """Mix voices as a list says, before anything is scaled or rounded.

    Args:
        item: the row.
        voices: its clips, (time,) each, of any lengths.
        options: how.

    Returns:
        The sources (n_src, time), and what else is heard (time,): noise and late reverberation, or zeros; float64 both.

    Raises:
        UserError: a voice is silent over the mixture's length, or a noise or room cannot be used.
    """
    length = _length([len(voice) for voice in voices], options)
    heard, early = np.zeros((2, len(voices), length))
    for k, (voice, listed) in enumerate(zip(voices, item.voices, strict=True)):
        part = voice[:length]
        try:
            level_db(part, options.sample_rate, "whole")
            wet = (part, part)
            if listed.response:
                from utils.mixing.recordings import reverberate  # imports scipy.signal, a second for each process

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
        rest += noise * np.sqrt(power(heard.sum(axis=0)) / power(noise)) * 10 ** (-item.snr_db / 20)
    return early, rest


def made_before(data_dir: Path) -> set[tuple[str, str]]:
    """The mixtures, by split and id, whose audio earlier calls made below `data_dir`: those of their journal, which holds
    also what was made before a call failed, and those of mixtures.csv, which the last call that went well has left."""
    found = set()
    journal, list_path = data_dir / "audio" / JOURNAL, data_dir / "mixtures.csv"
    lines = journal.read_text(encoding="utf-8", errors="replace").splitlines() if journal.is_file() else []
    for line in lines:
        try:
            split, _, mixture_id = json.loads(line)["name"].partition("/")
        except (ValueError, KeyError, TypeError, AttributeError):  # the line that a kill cut short
            continue
        found.add((split, mixture_id))
    with suppress(UserError):  # there is none, or it is no longer the one that was written
        found |= {(item.split, item.mixture_id) for item in read_mix_list(list_path, same_speaker=True).mixtures}
    return {(split, name) for split, name in found if split in SPLITS and name and not {"/", "\\"} & set(name)}


def remove_mixtures(data_dir: Path, names: Collection[tuple[str, str]]) -> None:
    """Remove the audio of mixtures, by split and id; no other file."""
    for split, name in names:
        for folder in (data_dir / "audio" / split).glob("*"):
            if _PART.fullmatch(folder.name):
                (folder / f"{name}.wav").unlink(missing_ok=True)


def mixture_bytes(n_voices: int, samples: float, has_rest: bool, options: MixingOptions) -> int:
    """What the files of a mixture take on the disk, at most."""
    samples = min(samples, options.max_sec * options.sample_rate)
    n_files = 1 + n_voices + has_rest
    return int(n_files * (samples * (2 if options.subtype == "PCM_16" else 4) + _WAV_HEADER_BYTES))


def _job_name(item: ListedMixture) -> str:
    return f"{item.split}/{item.mixture_id}"


def _job(data_dir: Path, item: ListedMixture, clips: Mapping[str, MixClip], options: MixingOptions) -> Job:
    parts = ["mix", *(f"s{k}" for k in range(1, len(item.voices) + 1)), *(["noise"] if has_rest(item) else [])]
    outputs = tuple(data_dir / "audio" / item.split / part / f"{item.mixture_id}.wav" for part in parts)
    sounds = tuple(clips[voice.utterance_id].audio_path for voice in item.voices)
    used = [options.noise_dir / item.noise] if item.noise and options.noise_dir else []
    responses = filter(None, (response_file(voice.response) for voice in item.voices))
    used += [options.rir_dir / name for name in responses if options.rir_dir]
    text = f"{astuple(replace(item, row=0, source='', seconds=None))} {options} {hash_stats([*sounds, *used])}"
    return Job(_job_name(item), hashlib.sha256(text.encode()).hexdigest(), outputs, _Work(item, sounds, outputs, options))


def _make(work: _Work) -> dict[str, int]:
    """Write the files of one mixture; its length in samples."""
    if work.item.noise and work.options.noise_dir is None:
        raise UserError(f"the list names the noise {work.item.noise}; say with --noise_dir where it lies")
    voices = [read_audio(path, sample_rate=work.options.sample_rate) for path in work.audio_paths]
    sources, rest = mix_voices(work.item, voices, work.options)
    signals = _rounded(sources, rest, work.options.subtype)
    for path, signal in zip(work.outputs, signals, strict=False):  # without noise, the rest is zeros and has no file
        write_wav(path, signal, work.options.sample_rate, work.options.subtype)
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
    length = min(lengths) if options.length == MIN else max(lengths)
    if length < max(options.min_sec * options.sample_rate, 1):
        raise UserError(f"would last {length / options.sample_rate:.3f} s where {options.min_sec:g} s are the least")
    return int(min(length, options.max_sec * options.sample_rate))


def has_rest(item: ListedMixture) -> bool:
    """Whether more than voices is heard: noise, or a room."""
    return bool(item.noise) or any(voice.response for voice in item.voices)


def _bytes(item: ListedMixture, clips: Mapping[str, MixClip], options: MixingOptions) -> int:
    lengths = [clips[voice.utterance_id].length for voice in item.voices]
    samples = min(lengths) if options.length == MIN else max(lengths)
    return mixture_bytes(len(lengths), samples, has_rest(item), options)


def _row(item: ListedMixture, clips: Mapping[str, MixClip], options: MixingOptions, result: Mapping[str, int]) -> Mixture:
    folder = f"audio/{item.split}"
    return Mixture(
        mixture_id=item.mixture_id,
        mixture_path=f"{folder}/mix/{item.mixture_id}.wav",
        source_paths=tuple(f"{folder}/s{k}/{item.mixture_id}.wav" for k in range(1, len(item.voices) + 1)),
        noise_path=f"{folder}/noise/{item.mixture_id}.wav" if has_rest(item) else "",
        length=result["length"],
        mouth_paths=tuple(clips[voice.utterance_id].mouth_path for voice in item.voices),
        frames=-(-result["length"] * round(options.fps) // options.sample_rate),
        fps=options.fps,
        speakers=tuple(clips[voice.utterance_id].speaker for voice in item.voices),
        sir_db=item.sir_db,
        subset="",
    )
