"""Corpora of raw video, from clips to everything that stage 0 leaves: sounds, mixtures, manifests, and `videos.csv`.

    <data_dir>/utterances/<id>.wav      the sound of each clip, 16 kHz mono
    <data_dir>/audio/<split>/{mix,s1,s2,…}/<mixture>.wav
    <data_dir>/mixtures.csv             the list that they were made from (utils/mixing/lists.py), and
    <data_dir>/mixtures.mixing.json     how (utils/mixing/list_settings.py)
    <data_dir>/{train,val,test}.csv     the mixtures; train only where a list or `n_train` asks for it
    <data_dir>/utterances.csv           the clips of the training speakers, for dynamic mixing
    <data_dir>/clips.csv                the clips of the other splits: stage 1 holds their mouths against their sounds
    <data_dir>/videos.csv               which video each mouth is cut from, by stage 1
    <data_dir>/failed.csv               what was left out and why

The mouths, mouths/<id>.npz, are not there yet. A mixture begins where its clips begin; their mouths may go on after it.
This module reads no video: how a sound gets out of one is a function that the caller gives.
"""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from utils.corpora.output import label_mixtures, print_summary, refuse_failures, write_corpus
from utils.data.disk import require_space
from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, pending, run_jobs
from utils.data.manifest import Problem, Utterance
from utils.data.video_clips import FILE_NAME, VideoClip, write_videos
from utils.errors import UserError, name_problem
from utils.mixing.drawing import ListClip, ListOptions, count_mixtures, draw_mixtures
from utils.mixing.list_settings import settings_path, write_settings
from utils.mixing.lists import SPLITS, ListedMixture, absent_clips, write_mix_list
from utils.mixing.rendering import (
    MAX,
    MixClip,
    MixingOptions,
    has_rest,
    made_before,
    make_mixtures,
    mixture_bytes,
    remove_mixtures,
)

log = logging.getLogger(__name__)
SAMPLE_RATE_HZ = 16000
FPS = 25
_SAMPLE_BYTES = 4  # the sounds are float32
_SECONDS_APART = 0.1  # a list's duration and that of the mixture that it names
_PROBED = 40  # clips whose durations stand for all, in the estimate of the disk


@dataclass(frozen=True)
class RawClip:
    """A clip of one speaking person.

    Attributes:
        utterance_id: unique, a file name; where names repeat across speakers it includes the speaker.
        speaker: "" where it is not known.
        split: train, val or test.
        video_path: the video, absolute.
        audio_path: a file with its sound, absolute; "": the sound is in the video. Sound and pictures start together.
        landmarks_path: landmarks that the corpus ships, absolute; "": stage 1 finds them.
    """

    utterance_id: str
    speaker: str
    split: str
    video_path: str
    audio_path: str = ""
    landmarks_path: str = ""


@dataclass(frozen=True)
class VideoReader:
    """What this module needs to know of videos; `utils/corpora/raw_video.py` has it ready.

    Attributes:
        extract: (clip, wav) writes a clip's sound, 16 kHz mono, atomically, and returns its samples; raises `UserError` where
            the clip cannot be used. Picklable.
        duration_sec: of a clip, for the estimate; raises `UserError` where it cannot tell.
    """

    extract: Callable[[RawClip, Path], int]
    duration_sec: Callable[[RawClip], float]


@dataclass(frozen=True)
class RawOptions:
    """How a raw corpus is prepared.

    Attributes:
        n_mixtures: mixtures to draw for each split that has none in a list.
        draw: what they hold.
        mixing: how their audio is made.
        min_sec: clips that are shorter are listed and left out.
        seed: of all that is drawn.
        nj: processes.
        max_failed: clips and mixtures that may be left out.
    """

    n_mixtures: dict[str, int] = field(default_factory=lambda: {"train": 0, "val": 500, "test": 500})
    draw: ListOptions = field(default_factory=ListOptions)
    mixing: MixingOptions = field(default_factory=MixingOptions)
    min_sec: float = 2.0
    seed: int = 0
    nj: int = 1
    max_failed: int = 0


def prepare_raw_corpus(
    clips: Sequence[RawClip],
    data_dir: Path,
    reader: VideoReader,
    options: RawOptions,
    *,
    listed: Sequence[ListedMixture] | None = None,
    problems: Sequence[Problem] = (),
) -> None:
    """Write all that stage 0 of a raw corpus writes. An interrupted call goes on where it stopped.

    Args:
        clips: all clips of the corpus; no speaker in two splits, unless a list says so.
        data_dir: the corpus' folder below data/.
        reader: gets sounds out of videos.
        options: how.
        listed: mixtures that somebody's list names, for any of the splits; the clips that it does not name are of use
            for dynamic mixing only. None: the mixtures are drawn.
        problems: what the caller found amiss already, e.g. rows of the list.

    Raises:
        UserError: more fails than allowed, the disk is too small, or the clips are too few for the mixtures.
    """
    data_dir = data_dir.absolute()
    problems = list(problems)
    clips, found = _checked_clips(clips)
    problems += found
    lengths, found = _extract(clips, data_dir, reader, options, listed)
    problems += found
    if listed is not None:
        known = {clip.utterance_id for clip in clips} | {problem.item_id for problem in problems}
        listed, found = _matching(listed, clips, lengths, known, options)
        problems += found
    refuse_failures(data_dir / "failed.csv", problems, options.max_failed)
    clips = [clip for clip in clips if clip.utterance_id in lengths]
    listed = _draw(clips, lengths, options) if listed is None else listed
    mix_clips = {clip.utterance_id: _mix_clip(clip, data_dir, lengths) for clip in clips}
    earlier = made_before(data_dir)
    made, found = make_mixtures(data_dir, listed, mix_clips, options.mixing, options.nj)
    problems += found
    refuse_failures(data_dir / "failed.csv", problems, options.max_failed)
    held_out = {voice.utterance_id for item in listed if item.split != "train" for voice in item.voices}
    train = [clip for clip in clips if clip.split == "train" and clip.utterance_id not in held_out]
    others = [clip for clip in clips if clip.split != "train" or clip.utterance_id in held_out]
    by_split = {split: [item for item in made if item.mixture_path.startswith(f"audio/{split}/")] for split in SPLITS}
    contents = label_mixtures(by_split, {clip.speaker for clip in train} if train else None)
    contents["utterances"] = [_utterance(clip, lengths) for clip in train]
    contents["clips"] = [_utterance(clip, lengths) for clip in others]
    _write_list(data_dir / "mixtures.csv", listed, options.mixing)
    write_corpus(data_dir, data_dir, SAMPLE_RATE_HZ, contents, mouths_go_on=True)
    write_videos(data_dir / FILE_NAME, [_video(clip) for clip in clips])
    remove_mixtures(data_dir, earlier - {(item.split, item.mixture_id) for item in listed})
    print_summary(data_dir, contents, problems)


def mouth_path(utterance_id: str) -> str:
    """Where the mouth of a clip will be, below the corpus' folder."""
    return f"mouths/{utterance_id}.npz"


def sound_path(utterance_id: str) -> str:
    """Where the sound of a clip is, below the corpus' folder."""
    return f"utterances/{utterance_id}.wav"


def _checked_clips(clips: Sequence[RawClip]) -> tuple[list[RawClip], list[Problem]]:
    """The clips whose ids can be used, in the order of their ids."""
    counts = Counter(clip.utterance_id for clip in clips)
    kept, problems = [], []
    for clip in sorted(clips, key=lambda clip: (clip.utterance_id, clip.video_path)):
        name = clip.utterance_id
        texts = (name, clip.speaker, clip.video_path, clip.audio_path, clip.landmarks_path)
        reason = next(filter(None, map(name_problem, texts)), "")
        if reason:
            pass
        elif counts[name] > 1:
            reason = f"{counts[name]} clips have this id; ids must tell them apart"
        elif not name or "/" in name or "\\" in name:
            reason = "the name cannot be an id: it is empty, or holds a separator"
        elif clip.split not in SPLITS:
            reason = f"the split is '{clip.split}', none of {', '.join(SPLITS)}"
        if reason:
            problems.append(Problem(0, name, clip.video_path, reason))
        else:
            kept.append(clip)
    if not clips:
        raise UserError("no clip was found; give the folder of the corpus with --corpus_dir")
    return kept, problems


def _extract(
    clips: Sequence[RawClip],
    data_dir: Path,
    reader: VideoReader,
    options: RawOptions,
    listed: Sequence[ListedMixture] | None,
) -> tuple[dict[str, int], list[Problem]]:
    """The sounds of all clips as files; their samples by id."""
    jobs = []
    for clip in clips:
        output = data_dir / sound_path(clip.utterance_id)
        key = hashlib.sha256(hash_stats([clip.video_path, clip.audio_path or clip.video_path]).encode()).hexdigest()
        jobs.append(Job(clip.utterance_id, key, (output,), (clip, output)))
    journal = data_dir / "utterances" / ".made.jsonl"
    todo, _ = pending(jobs, journal)
    mean_sec = _mean_duration_sec([job.given[0] for job in todo], reader)
    n_bytes = math.ceil(mean_sec * len(todo) * SAMPLE_RATE_HZ * _SAMPLE_BYTES)
    n_mixtures, mixtures_bytes = _mixtures_to_come(data_dir, mean_sec, options, listed)
    what = f"the sounds of {len(todo)} clips and {n_mixtures} mixtures"
    require_space(data_dir, n_bytes + mixtures_bytes, what, "--data_dir")
    results, reasons = run_jobs(partial(_extract_one, reader.extract), jobs, journal, options.nj, "sounds", "clip")
    lengths, problems = {}, []
    for clip in clips:
        name, path = clip.utterance_id, clip.audio_path or clip.video_path
        if name in reasons:
            problems.append(Problem(0, name, path, reasons[name].removeprefix(f"{path}: ")))
        elif results[name] < options.min_sec * SAMPLE_RATE_HZ:
            seconds = results[name] / SAMPLE_RATE_HZ
            problems.append(Problem(0, name, path, f"lasts {seconds:.3f} s, less than --min_sec {options.min_sec:g}"))
        else:
            lengths[name] = results[name]
    return lengths, problems


def _extract_one(extract: Callable[[RawClip, Path], int], given: tuple[RawClip, Path]) -> int:
    return int(extract(*given))


def _mixtures_to_come(
    data_dir: Path, mean_sec: float, options: RawOptions, listed: Sequence[ListedMixture] | None
) -> tuple[int, int]:
    """How many mixtures are still to be made, and their bytes where they last as long as the mean clip; that is more than
    they will take, for the shortest clip ends a mixture."""
    if listed is None:
        n_mixtures, n_voices = sum(options.n_mixtures.values()), options.draw.n_src
        rest = bool(options.draw.noises and options.draw.noise_share) or options.draw.rooms.share > 0
    else:
        n_mixtures = len(listed)
        n_voices, rest = max((len(item.voices) for item in listed), default=0), any(map(has_rest, listed))
    there = sum(1 for split in SPLITS for _ in (data_dir / "audio" / split / "mix").glob("*.wav"))
    n_mixtures = max(n_mixtures - there, 0)
    longest = n_voices if options.mixing.length == MAX else 1
    return n_mixtures, n_mixtures * mixture_bytes(n_voices, longest * mean_sec * SAMPLE_RATE_HZ, rest, options.mixing)


def _matching(
    listed: Sequence[ListedMixture],
    clips: Sequence[RawClip],
    lengths: Mapping[str, int],
    known: Collection[str],
    options: RawOptions,
) -> tuple[list[ListedMixture], list[Problem]]:
    """The mixtures of a list that are such as the list says by the clips that are there."""
    there = absent_clips(listed, lengths, known)
    speakers = {clip.utterance_id: clip.speaker for clip in clips}
    kept, problems = [], list(there.problems)
    for item in there.mixtures:
        reason = _reason_against(item, speakers, lengths, options)
        if reason:
            problems.append(Problem(item.row, item.mixture_id, item.source, reason))
        else:
            kept.append(item)
    return kept, problems


def _reason_against(item: ListedMixture, speakers: Mapping[str, str], lengths: Mapping[str, int], options: RawOptions) -> str:
    ids = [voice.utterance_id for voice in item.voices]
    for voice in item.voices:
        speaker = speakers[voice.utterance_id]
        if voice.speaker and speaker and voice.speaker != speaker:
            return f"the list says that {voice.utterance_id} is of {voice.speaker}, the corpus that it is of {speaker}"
    counts = Counter(speakers[name] for name in ids if speakers[name])
    if max(counts.values(), default=0) > 1 and not options.draw.same_speaker:
        return f"mixes the speaker {counts.most_common(1)[0][0]} with himself; --same_speaker true allows that"
    chosen = max if options.mixing.length == MAX else min
    seconds = chosen(lengths[name] for name in ids) / SAMPLE_RATE_HZ
    if item.seconds is not None and abs(seconds - item.seconds) > _SECONDS_APART:
        return f"lasts {seconds:.3f} s by its clips where the list says {item.seconds:g} s; these are other clips"
    return ""


def _write_list(path: Path, listed: Sequence[ListedMixture], mixing: MixingOptions) -> None:
    """The list and how its audio was made; nothing stays of an earlier list where there is none now."""
    if listed:
        write_mix_list(path, listed)
        write_settings(path, mixing)
    else:
        path.unlink(missing_ok=True)
        settings_path(path).unlink(missing_ok=True)


def _mean_duration_sec(clips: Sequence[RawClip], reader: VideoReader) -> float:
    """How long clips last, from some of them."""
    durations_sec = []
    for clip in clips[:: max(len(clips) // _PROBED, 1)]:
        try:
            durations_sec.append(reader.duration_sec(clip))
        except UserError:
            continue  # it will be listed when its sound is taken
    if not durations_sec:
        return 0.0
    return sum(durations_sec) / len(durations_sec)


def _draw(clips: Sequence[RawClip], lengths: dict[str, int], options: RawOptions) -> list[ListedMixture]:
    """Lists for the splits that have clips and of which mixtures are wanted."""
    listed = []
    for split in SPLITS:
        wanted = options.n_mixtures.get(split, 0)
        chosen = [ListClip(c.utterance_id, c.speaker, lengths[c.utterance_id]) for c in clips if c.split == split]
        possible = count_mixtures([clip.speaker for clip in chosen], options.draw.n_src, options.draw.same_speaker)
        if wanted and not possible:
            speakers = len({clip.speaker for clip in chosen})
            raise UserError(
                f"the {split} split has {len(chosen)} clips of {speakers} speakers, of which no mixture can be made: give "
                f"more, or say --n_{split} 0, or change the splits (--{split}_share) or --same_speaker"
            )
        if possible < wanted:
            log.warning("%s: only %d different mixtures can be made where %d were wanted", split, possible, wanted)
        if wanted:
            listed += draw_mixtures(chosen, split, min(wanted, possible), options.seed, options.draw)
    return listed


def _mix_clip(clip: RawClip, data_dir: Path, lengths: dict[str, int]) -> MixClip:
    name = clip.utterance_id
    return MixClip(data_dir / sound_path(name), mouth_path(name), clip.speaker, lengths[name])


def _utterance(clip: RawClip, lengths: dict[str, int]) -> Utterance:
    name, length = clip.utterance_id, lengths[clip.utterance_id]
    frames = -(-length * FPS // SAMPLE_RATE_HZ)
    return Utterance(name, clip.speaker, sound_path(name), mouth_path(name), length, frames, float(FPS))


def _video(clip: RawClip) -> VideoClip:
    name = clip.utterance_id
    return VideoClip(name, clip.video_path, clip.landmarks_path, sound_path(name), mouth_path(name))
