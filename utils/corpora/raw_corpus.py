"""Corpora of raw video: from clips to all that stage 0 writes.

    <data_dir>/utterances/<id>.wav      the sound of each clip, 16 kHz mono
    <data_dir>/audio/<split>/{mix,s1,s2,…}/<mixture>.wav
    <data_dir>/mixtures.csv             the list that they were made from (utils/mixing/lists.py), and
    <data_dir>/mixtures.mixing.json     its settings (utils/mixing/options.py)
    <data_dir>/{train,val,test}.csv     the mixtures; train only where a list or `n_train` asks for it, single clips in val
                                        and test where no mixtures are wanted (`n_val`, `n_test` 0)
    <data_dir>/utterances.csv           the clips of the training speakers, for dynamic mixing
    <data_dir>/clips.csv                the clips of the other splits: stage 1 compares their mouths with their sounds
    <data_dir>/videos.csv               which video each mouth is cut from, by stage 1; without the clips whose mouths the
                                        corpus has (hdf5), which are converted here
    <data_dir>/failed.csv               what was left out and why

The mouths, mouths/<id>.npz, are made by stage 1. A mixture begins where its clips begin; their mouths may be longer.

A corpus' own `prepare.py` walks its tree and makes an `Utterance` of each clip; the rest is here:

    run_raw(raw_parser(__doc__.splitlines()[0]).parse_args(), find_clips)
"""

import argparse
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from utils.corpora.mouth_roi import convert_mouth_roi
from utils.corpora.output import label_mixtures, print_summary, refuse_failures, too_short, usable, write_corpus
from utils.data.clock import frames_covering
from utils.data.constants import SAMPLE_RATE_HZ, SPLITS, VIDEO_FPS
from utils.data.files import require_space
from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, pending, run_jobs
from utils.data.manifest import VIDEOS_NAME, Problem, Utterance, write_videos
from utils.data.sound_checks import wrong_rate_hint
from utils.errors import OptionParser, UsageError, UserError, name_problem
from utils.mixing.drawing import draw_mixtures, split_speakers
from utils.mixing.lists import ListedMixture, read_mix_list, write_mix_list
from utils.mixing.options import MixOptions, add_options, mix_options, settings_path, write_settings
from utils.mixing.rendering import made_before, make_mixtures, remove_mixtures

log = logging.getLogger(__name__)
Clips = Mapping[str, Utterance]  # by id
FindClips = Callable[[argparse.Namespace, MixOptions], Iterable[Utterance | Problem]]
ReadLists = Callable[[argparse.Namespace], list[ListedMixture | Problem] | None]
_SECONDS_APART = 0.1  # a list's duration and that of the mixture that it names
_PROBED = 40  # clips whose durations stand for all, in the estimate of the disk
_EVALUATED = ("test", "val", "train")  # a clip that is in several splits is kept out of training
_SAMPLES_PER_FRAME = (560, 720)  # 640 at 25 fps; beyond these sound and pictures cannot belong together


def raw_parser(
    description: str,
    corpus: str = "folder of the raw corpus",
    mix_list: str = "the mixtures of this list, mixtures.csv of an earlier preparation",
) -> OptionParser:
    """The options that every raw-video corpus has, two of them with help of their own; a corpus adds its own."""
    parser = OptionParser(description=description)
    parser.add_argument("--data_dir", type=Path, required=True, help="gets manifests and audio; names the corpus")
    parser.add_argument("--corpus_dir", type=Path, required=True, help=corpus)
    parser.add_argument("--mix_list", type=Path, help=mix_list)
    add_options(parser)
    return parser


def _own_list(args: argparse.Namespace) -> list[ListedMixture | Problem] | None:
    return read_mix_list(args.mix_list) if args.mix_list else None


def run_raw(args: argparse.Namespace, find_clips: FindClips, read_lists: ReadLists = _own_list) -> None:
    """Run the preparation of a corpus of raw video.

    Args:
        args: of `raw_parser`.
        find_clips: gives all clips of the corpus; those without a split ("") get one by their speakers, no speaker two.
        read_lists: gives the mixtures that are made instead of drawn ones; None: there is no list.
    """
    options = mix_options(args)
    lists = read_lists(args)
    options = replace(options, is_listed=lists is not None)
    problems: list[Problem] = []
    clips = usable(find_clips(args, options), problems)
    prepare_raw(clips, args.data_dir, options, lists=lists, problems=problems)


def prepare_raw(
    clips: Sequence[Utterance],
    data_dir: Path,
    options: MixOptions,
    *,
    lists: Iterable[ListedMixture | Problem] | None = None,
    problems: Iterable[Problem] = (),
) -> None:
    """Write all that stage 0 of a raw corpus writes. An interrupted call continues where it stopped.

    Args:
        clips: all clips of the corpus; no speaker in two splits, unless a list says so.
        data_dir: the corpus' folder below data/.
        options: how.
        lists: the mixtures of lists; None: they are drawn. Only the clips that a list names are taken, in its splits;
            problems of other clips do not matter.
        problems: of the clips.

    Raises:
        UserError: more fails than allowed, the disk is too small, or the clips are too few for the mixtures.
    """
    require_video_packages()  # says at once what is not installed
    data_dir, problems, listed = data_dir.absolute(), list(problems), None
    if not clips and not problems:
        raise UserError("no clip was found; give the folder of the corpus with --corpus_dir")
    if lists is None:
        clips = split_clips(clips, options)
    else:
        of_lists: list[Problem] = []
        listed = usable(lists, of_lists)
        clips, problems = _named_by_lists(clips, problems, listed)
        problems += of_lists
    clips = usable(_checked(clips), problems)
    known = {clip.utterance_id for clip in clips} | {problem.item_id for problem in problems}
    given = {clip.utterance_id: Path(clip.mouth_path) for clip in clips if clip.mouth_path}
    clips = usable(_extracted(clips, data_dir, options, listed), problems)
    clips = usable(_with_given_mouths(clips, given, data_dir, options), problems)
    by_id = {clip.utterance_id: clip for clip in clips}
    if listed is not None:
        listed = usable(_matching(listed, by_id, known, options), problems)
    refuse_failures(data_dir / "failed.csv", problems, options.max_failed)
    listed = _drawn(clips, options) if listed is None else listed
    earlier = made_before(data_dir)
    made = usable(make_mixtures(data_dir, listed, by_id, options), problems)
    refuse_failures(data_dir / "failed.csv", problems, options.max_failed)
    train = [clip for clip in clips if clip.split == "train"]
    by_split = {split: [item for item in made if item.mixture_path.startswith(f"audio/{split}/")] for split in SPLITS}
    contents = label_mixtures(by_split, {clip.speaker for clip in train})
    for split in ("val", "test"):
        if not getattr(options, f"n_{split}") and not contents[split]:  # no mixtures are wanted
            contents[split] = [clip for clip in clips if clip.split == split]
    contents |= {"utterances": train, "clips": [clip for clip in clips if clip.split != "train"]}
    list_path = data_dir / "mixtures.csv"
    if listed:
        write_mix_list(list_path, listed)
        write_settings(list_path, options)
    else:  # nothing stays of an earlier list
        list_path.unlink(missing_ok=True)
        settings_path(list_path).unlink(missing_ok=True)
    write_corpus(data_dir, data_dir, contents, mouths_go_on=True)
    cut = [clip for clip in clips if clip.utterance_id not in given]
    if cut:
        write_videos(data_dir / VIDEOS_NAME, cut)
    else:
        (data_dir / VIDEOS_NAME).unlink(missing_ok=True)
    remove_mixtures(data_dir, earlier - {(item.split, item.mixture_id) for item in listed})
    print_summary(data_dir, contents, problems)


# Clips and their splits


def split_clips(clips: Sequence[Utterance], options: MixOptions) -> list[Utterance]:
    """Give clips without a split one, by their speakers; clips that have a split keep it, and none is added to it."""
    open_speakers = [clip.speaker for clip in clips if not clip.split]
    if not open_speakers:
        return list(clips)
    shares = {"train": 1 - options.val_share - options.test_share, "val": options.val_share, "test": options.test_share}
    if shares["train"] < 0:
        raise UsageError("--val_share and --test_share are more than all speakers")
    shares |= {clip.split: 0.0 for clip in clips if clip.split}
    chosen = split_speakers(open_speakers, shares, options.seed, 1 if options.same_speaker else options.n_src)
    return [clip if clip.split else replace(clip, split=chosen[clip.speaker]) for clip in clips]


def _named_by_lists(
    clips: Sequence[Utterance], problems: Sequence[Problem], listed: Sequence[ListedMixture]
) -> tuple[list[Utterance], list[Problem]]:
    """The clips that lists name, in the split of the list, and the problems of these, or without an id.

    What is tested on is not trained on.
    """
    split_of: dict[str, str] = {}
    for item in sorted(listed, key=lambda item: _EVALUATED.index(item.split)):
        for source in item.sources:
            split_of.setdefault(source.utterance_id, item.split)
    kept = [problem for problem in problems if not problem.item_id or problem.item_id in split_of]
    if len(kept) < len(problems):
        log.info("clips that cannot be used, but that no list names: %d; ignored", len(problems) - len(kept))
    named = [clip for clip in clips if clip.utterance_id in split_of]
    return [replace(clip, split=split_of[clip.utterance_id]) for clip in named], kept


def _checked(clips: Sequence[Utterance]) -> Iterator[Utterance | Problem]:
    """The clips whose ids can be used, in the order of their ids."""
    counts = Counter(clip.utterance_id for clip in clips)
    for clip in sorted(clips, key=lambda clip: (clip.utterance_id, clip.video_path)):
        name = clip.utterance_id
        texts = (name, clip.speaker, clip.video_path, clip.audio_path, clip.landmarks_path)
        reason = next(filter(None, map(name_problem, texts)), "")
        if not reason and counts[name] > 1:
            reason = f"{counts[name]} clips have this id; ids must tell them apart"
        if not reason and (not name or "/" in name or "\\" in name):
            reason = "the name cannot be an id: it is empty, or holds a separator"
        if not reason and clip.split not in SPLITS:
            reason = f"the split is '{clip.split}', none of {', '.join(SPLITS)}"
        yield Problem(0, name, clip.video_path, reason) if reason else clip


# Sounds


def _extracted(
    clips: Sequence[Utterance], data_dir: Path, options: MixOptions, listed: Sequence[ListedMixture] | None
) -> Iterator[Utterance | Problem]:
    """Write the sounds of all clips; gives them as manifests have them, with the mouths that stage 1 will make."""
    jobs = []
    for clip in clips:
        output = data_dir / f"utterances/{clip.utterance_id}.wav"
        key = hash_stats([clip.video_path, clip.audio_path or clip.video_path])
        jobs.append(Job(clip.utterance_id, key, (output,), (clip, output)))
    journal = data_dir / "utterances/.made.jsonl"
    _require_room(data_dir, clips, len(pending(jobs, journal)[0]), options, listed)
    lengths, reasons = run_jobs(extract_clip, jobs, journal, options.nj, "sounds", "clip")
    for clip in clips:
        name, source = clip.utterance_id, clip.audio_path or clip.video_path
        reason = reasons.get(name) or too_short(lengths[name], options.min_sec)
        if reason:
            reason = reason.removeprefix(f"{source}: ")  # the list of failures has a column for the path
            yield Problem(0, name, source, reason)
            continue
        paths = {"audio_path": f"utterances/{name}.wav", "mouth_path": f"mouths/{name}.npz"}
        frames = frames_covering(lengths[name], SAMPLE_RATE_HZ, VIDEO_FPS)
        yield replace(clip, **paths, length=lengths[name], frames=frames, fps=float(VIDEO_FPS))


def _with_given_mouths(
    clips: Sequence[Utterance], given: Mapping[str, Path], data_dir: Path, options: MixOptions
) -> Iterator[Utterance | Problem]:
    """Convert the mouths that the corpus has, `given` by the ids of their clips; gives all clips."""
    jobs = []
    for clip in clips:
        if source := given.get(clip.utterance_id):
            target = data_dir / clip.mouth_path
            jobs.append(Job(clip.utterance_id, hash_stats([source]), (target,), (source, target)))
    if not jobs:
        yield from clips
        return
    frames, reasons = run_jobs(convert_mouth_roi, jobs, data_dir / "mouths/.given.jsonl", options.nj, "mouths", "clip")
    for clip in clips:
        reason = reasons.get(clip.utterance_id, "")
        there = frames.get(clip.utterance_id)
        if not reason and there is not None and abs(there - clip.frames) > 1:
            reason = f"{there} frames where the sound has {clip.frames}; it is of another clip, or of another frame rate"
        yield Problem(0, clip.utterance_id, str(given[clip.utterance_id]), reason) if reason else clip


def _require_room(
    data_dir: Path,
    clips: Sequence[Utterance],
    n_sounds: int,
    options: MixOptions,
    listed: Sequence[ListedMixture] | None,
) -> None:
    """Refuse a disk that cannot hold the sounds and the mixtures that are still to be made.

    Mixtures are taken to last as long as the mean clip; they will take less, for their shortest clips end them.
    """
    if listed is None:
        n_mixtures, n_src = options.n_train + options.n_val + options.n_test, options.n_src
        has_rest = bool(options.noises and options.noise_prob) or options.room_prob > 0
    else:
        n_mixtures, n_src = len(listed), max((len(item.sources) for item in listed), default=0)
        has_rest = any(item.has_rest for item in listed)
    there = sum(1 for split in SPLITS for _ in (data_dir / "audio" / split / "mix").glob("*.wav"))
    n_mixtures = max(n_mixtures - there, 0)
    clip_sec = _mean_duration_sec(clips)
    mixture_sec = min(clip_sec, options.max_sec) * n_mixtures * (1 + n_src + has_rest)
    sample_bytes = 2 if options.subtype == "PCM_16" else 4  # of mixtures; the sounds are float32
    n_bytes = math.ceil(SAMPLE_RATE_HZ * (4 * n_sounds * clip_sec + sample_bytes * mixture_sec))
    require_space(data_dir, n_bytes, f"the sounds of {n_sounds} clips and {n_mixtures} mixtures", "--data_dir")


def _mean_duration_sec(clips: Sequence[Utterance]) -> float:
    """The mean duration of clips, by the headers of some of their videos."""
    from utils.video.decoding import probe_video

    durations_sec = []
    for clip in clips[:: max(len(clips) // _PROBED, 1)]:
        try:
            durations_sec.append(probe_video(Path(clip.video_path)).duration_sec)
        except UserError:
            continue  # it will be listed when its sound is taken
    return sum(durations_sec) / max(len(durations_sec), 1)


def extract_clip(given: tuple[Utterance, Path]) -> int:
    """Write a clip's sound, 16 kHz mono, atomically; gives its samples.

    Raises:
        UserError: the video or its sound cannot be used, or the two do not last equally long.
    """
    from utils.video.decoding import probe_video
    from utils.video.sound import extract_sound

    clip, wav_path = given
    info = probe_video(Path(clip.video_path))
    source = Path(clip.audio_path or clip.video_path)
    sound = extract_sound(source, wav_path)
    length = sound.n_samples
    for warning in sound.warnings:
        log.warning("%s: %s", source, warning)
    if info.n_pictures and info.fps > 0:
        sound_sec, picture_sec = length / SAMPLE_RATE_HZ, info.n_pictures / info.fps
        if not _SAMPLES_PER_FRAME[0] <= length / (picture_sec * VIDEO_FPS) <= _SAMPLES_PER_FRAME[1]:
            hint = wrong_rate_hint(length, SAMPLE_RATE_HZ, picture_sec)
            said = f"the sound lasts {sound_sec:.2f} s, the pictures {picture_sec:.2f} s{hint}"
            raise UserError(said, clip.video_path)
    return length


def require_video_packages() -> None:
    """Check that the packages that read videos, which are installed separately, are there.

    Raises:
        UserError: they are not.
    """
    try:
        import utils.video.decoding
        import utils.video.sound  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"videos need more packages ({error}); add them: utils/install_more.sh requirements-video.txt"
        ) from None


# Lists


def _matching(
    listed: Sequence[ListedMixture], clips: Clips, known: Collection[str], options: MixOptions
) -> Iterator[ListedMixture | Problem]:
    """The mixtures of a list whose clips can be used and are as the list says.

    Args:
        listed: the list.
        clips: those that can be used, by id.
        known: ids of all clips that the corpus holds.
        options: of the mixtures.
    """
    for item in listed:
        reason = _reason_against(item, clips, known, options)
        yield item.problem(reason) if reason else item


def _reason_against(item: ListedMixture, clips: Clips, known: Collection[str], options: MixOptions) -> str:
    ids = [source.utterance_id for source in item.sources]
    if absent := [name for name in ids if name not in clips and name not in known]:
        return f"the list names {', '.join(absent)}, which the corpus does not hold"
    if broken := [name for name in ids if name not in clips]:
        return f"the list names {', '.join(broken)}, which could not be used (see its own row)"
    own = [clips[name] for name in ids]
    for source, clip in zip(item.sources, own, strict=True):
        if source.speaker and clip.speaker and source.speaker != clip.speaker:
            said = f"is of {source.speaker}, the corpus that it is of {clip.speaker}"
            return f"the list says that {clip.utterance_id} {said}"
    speaker, count = Counter(clip.speaker for clip in own).most_common(1)[0]
    if speaker and count > 1 and not options.same_speaker:
        return f"mixes the speaker {speaker} with themselves; --same_speaker true allows that"
    seconds = min(clip.length for clip in own) / SAMPLE_RATE_HZ
    if item.seconds is not None and abs(seconds - item.seconds) > _SECONDS_APART:
        return f"lasts {seconds:.3f} s by its clips where the list says {item.seconds:g} s; these are other clips"
    return ""


def _drawn(clips: Sequence[Utterance], options: MixOptions) -> list[ListedMixture]:
    """Lists for the splits of which mixtures are wanted."""
    listed = []
    for split in SPLITS:
        own = [clip for clip in clips if clip.split == split]
        listed += draw_mixtures(own, split, getattr(options, f"n_{split}"), options)
    return listed
