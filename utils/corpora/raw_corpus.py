"""Corpora of raw video: from clips to all that stage 0 writes, and the options that their preparations share.

    <data_dir>/utterances/<id>.wav      the sound of each clip, 16 kHz mono
    <data_dir>/audio/<split>/{mix,s1,s2,…}/<mixture>.wav
    <data_dir>/mixtures.csv             the list that they were made from (utils/mixing/lists.py), and
    <data_dir>/mixtures.mixing.json     its settings (utils/mixing/rendering.py)
    <data_dir>/{train,val,test}.csv     the mixtures; train only where a list or `n_train` asks for it
    <data_dir>/utterances.csv           the clips of the training speakers, for dynamic mixing
    <data_dir>/clips.csv                the clips of the other splits: stage 1 compares their mouths with their sounds
    <data_dir>/videos.csv               which video each mouth is cut from, by stage 1
    <data_dir>/failed.csv               what was left out and why

The mouths, mouths/<id>.npz, are made by stage 1. A mixture begins where its clips begin; their mouths may be longer.

A corpus' own `prepare.py` walks its tree and makes an `Utterance` of each clip; the rest is here:

    args = raw_parser(__doc__.splitlines()[0]).parse_args()
    options = raw_options(args)
    prepare_raw(split_clips(clips, options), args.data_dir, options)
"""

import argparse
import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from utils.corpora.output import label_mixtures, print_summary, refuse_failures, too_short, write_corpus
from utils.data.clock import frames_covering
from utils.data.constants import SAMPLE_RATE_HZ, SPLITS, VIDEO_FPS
from utils.data.files import require_space
from utils.data.fingerprints import hash_stats
from utils.data.jobs import Job, pending, run_jobs
from utils.data.manifest import VIDEOS_NAME, Problem, Utterance, write_videos
from utils.data.sound_checks import wrong_rate_hint
from utils.errors import OptionParser, UsageError, UserError, flag, name_problem
from utils.mixing.drawing import ListOptions, count_mixtures, draw_mixtures, split_speakers
from utils.mixing.levels import MEASURES, WHOLE
from utils.mixing.lists import ListedMixture, MixtureList, absent_clips, read_mix_list, write_mix_list
from utils.mixing.recordings import names_below, recording_lengths, response_channels
from utils.mixing.rendering import (
    MAX,
    MIN,
    SUBTYPES,
    MixingOptions,
    has_rest,
    made_before,
    make_mixtures,
    mixture_bytes,
    remove_mixtures,
    settings_path,
    settle,
    write_settings,
)
from utils.mixing.rooms import RoomOptions

log = logging.getLogger(__name__)
# options that hold for a whole list; none is in the arguments where the user does not give it, for a list may say it
SETTINGS = {"min_sec": 2.0, "max_sec": math.inf, "measure": WHOLE, "subtype": "PCM_16", "length": MIN}
_SAMPLE_BYTES = 4  # the sounds are float32
_SECONDS_APART = 0.1  # a list's duration and that of the mixture that it names
_PROBED = 40  # clips whose durations stand for all, in the estimate of the disk
_EVALUATED = ("test", "val", "train")  # a clip that is in several splits is kept out of training
_SAMPLES_PER_FRAME = (560, 720)  # 640 at 25 fps; beyond these sound and pictures cannot belong together


@dataclass(frozen=True)
class RawOptions:
    """Options of the preparation of a raw corpus.

    Attributes:
        n_mixtures: mixtures to draw for each split that has none in a list.
        draw: options of these mixtures.
        mixing: options of their audio; clips that are shorter than its `min_sec` are listed and left out.
        seed: of all that is drawn.
        nj: processes.
        max_failed: clips and mixtures that may be left out.
        val_share, test_share: of the speakers, where the corpus has no such split.
        mix_list: a list whose mixtures are made instead of drawn ones; None: there is none.
    """

    n_mixtures: dict[str, int] = field(default_factory=lambda: {"train": 0, "val": 500, "test": 500})
    draw: ListOptions = field(default_factory=ListOptions)
    mixing: MixingOptions = field(default_factory=lambda: MixingOptions(min_sec=SETTINGS["min_sec"]))
    seed: int = 0
    nj: int = 1
    max_failed: int = 0
    val_share: float = 0.1
    test_share: float = 0.1
    mix_list: Path | None = None


# Options


def raw_parser(
    description: str,
    corpus: str = "folder of the raw corpus",
    mix_list: str = "the mixtures of this list, mixtures.csv of an earlier preparation",
) -> OptionParser:
    """The options that every raw-video corpus has, two of them with help of their own; a corpus adds its own."""
    parser = OptionParser(description=description)
    parser.add_argument("--data_dir", type=Path, required=True, help="gets manifests and audio; its name is the corpus'")
    parser.add_argument("--corpus_dir", type=Path, required=True, help=corpus)
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--max_failed", type=int, default=0, help="clips and mixtures that may be left out")
    parser.add_argument("--mix_list", type=Path, help=mix_list)
    add_raw_options(parser)
    return parser


def add_raw_options(parser: argparse.ArgumentParser) -> None:
    """The options of drawing lists and making audio."""
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    _add_setting(parser, "min_sec", type=float, help="clips and mixtures that are shorter are listed, left out")
    _add_setting(parser, "max_sec", type=float, help="mixtures are cut to this")
    parser.add_argument("--n_train", type=int, default=0, help="fixed training mixtures; 0: training mixes utterances.csv")
    parser.add_argument("--n_val", type=int, default=500, help="validation mixtures")
    parser.add_argument("--n_test", type=int, default=500, help="test mixtures")
    parser.add_argument("--val_share", type=float, default=0.1, help="of the speakers, where the corpus has no such split")
    parser.add_argument("--test_share", type=float, default=0.1, help="of the speakers, where the corpus has no such split")
    parser.add_argument("--n_src", type=int, choices=(2, 3), default=2, help="sources of a mixture")
    parser.add_argument("--sir_low_db", type=float, default=-5.0, help="lowest SIR of the first source over each other one")
    parser.add_argument("--sir_high_db", type=float, default=5.0, help="highest SIR of the first source over each other one")
    parser.add_argument("--same_speaker", type=flag, default=False, help="also mix clips of one speaker")
    _add_setting(parser, "measure", choices=MEASURES, help="levels: of whole clips, or only while somebody speaks")
    _add_setting(parser, "subtype", choices=SUBTYPES, help="of the mixtures' files")
    parser.add_argument("--noise_dir", type=Path, help="folder of noise, e.g. data/musan/noise/test")
    parser.add_argument("--noise_prob", type=float, default=1.0, help="probability of noise, where there is --noise_dir")
    parser.add_argument("--snr_low_db", type=float, default=0.0, help="lowest SNR of all sources over the noise")
    parser.add_argument("--snr_high_db", type=float, default=20.0, help="highest SNR of all sources over the noise")
    parser.add_argument("--rir_dir", type=Path, help="folder of room responses")
    parser.add_argument("--simulate_rooms", type=flag, default=False, help="rooms by pyroomacoustics, which you install")
    parser.add_argument("--room_prob", type=float, default=0.0, help="probability that a mixture is in a room")


def _add_setting(parser: argparse.ArgumentParser, name: str, *, help: str, **more: Any) -> None:
    """An option of `SETTINGS`."""
    text = f"{help} (default: {SETTINGS[name]}, or the setting of --mix_list)"
    parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=text, **more)


def raw_options(args: argparse.Namespace) -> RawOptions:
    """The options of a program, checked.

    Raises:
        UserError: a folder of noise or of rooms cannot be used, a range is empty, or the user contradicts the list.
    """
    settings = list_settings(args)
    values = vars(args) | settings
    for low, high in (("sir_low_db", "sir_high_db"), ("snr_low_db", "snr_high_db"), ("min_sec", "max_sec")):
        if not values[low] <= values[high]:
            raise UsageError(f"--{low} {values[low]:g} is above --{high} {values[high]:g}")
    kinds = {"noise_prob": "probability", "room_prob": "probability", "val_share": "share", "test_share": "share"}
    for name, kind in kinds.items():
        if not 0 <= values[name] <= 1:
            raise UsageError(f"--{name} {values[name]:g}: a {kind} is between 0 and 1")
    noises = recording_lengths("noise_dir", args.noise_dir, SAMPLE_RATE_HZ) if args.noise_dir else {}
    responses = response_channels(args.rir_dir, SAMPLE_RATE_HZ) if args.rir_dir else {}
    draw = ListOptions(
        n_src=args.n_src,
        sir_low_db=args.sir_low_db,
        sir_high_db=args.sir_high_db,
        same_speaker=args.same_speaker,
        noises=names_below(args.noise_dir, noises),
        noise_prob=args.noise_prob,
        snr_low_db=args.snr_low_db,
        snr_high_db=args.snr_high_db,
        rooms=RoomOptions(args.room_prob, names_below(args.rir_dir, responses), args.simulate_rooms),
    )
    return RawOptions(
        n_mixtures={split: values[f"n_{split}"] for split in SPLITS},
        draw=draw,
        mixing=MixingOptions(**settings, noise_dir=args.noise_dir, rir_dir=args.rir_dir),
        seed=args.seed,
        nj=args.nj,
        max_failed=args.max_failed,
        val_share=args.val_share,
        test_share=args.test_share,
        mix_list=args.mix_list,
    )


def list_settings(args: argparse.Namespace) -> dict[str, Any]:
    """`SETTINGS`: the user's, else the list's, else the defaults.

    Raises:
        UserError: the user contradicts the list.
    """
    given = {name: getattr(args, name) for name in SETTINGS if hasattr(args, name)}
    if args.mix_list is None or not is_own_list(args.mix_list):
        return SETTINGS | given
    settings = settle(given, args.mix_list, SETTINGS | {"sample_rate": SAMPLE_RATE_HZ})
    if settings.pop("sample_rate") != SAMPLE_RATE_HZ:
        raise UserError(f"its mixtures were not made at {SAMPLE_RATE_HZ} Hz; make another list", args.mix_list)
    return settings


def is_own_list(path: Path) -> bool:
    """True for a list of mixtures that this recipe wrote.

    Raises:
        UserError: there is no such file.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as handle:
            return handle.readline(1000).startswith("mixture_ID,")
    except OSError:
        raise UserError("no such file; give the list of the mixtures", path) from None


# Clips and their splits


def split_clips(clips: Sequence[Utterance], options: RawOptions) -> list[Utterance]:
    """Give clips without a split ("") one, by their speakers; clips that have a split keep it, and none is added to it.

    With a list nothing is divided: the list says the split of the clips that it names, and no others are taken.
    """
    if options.mix_list:
        return list(clips)
    open_speakers = [clip.speaker for clip in clips if not clip.split]
    if not open_speakers:
        return list(clips)
    shares = {"train": 1 - options.val_share - options.test_share, "val": options.val_share, "test": options.test_share}
    if shares["train"] < 0:
        raise UsageError("--val_share and --test_share are more than all speakers")
    shares |= {clip.split: 0.0 for clip in clips if clip.split}
    fewest = 1 if options.draw.same_speaker else options.draw.n_src
    chosen = split_speakers(open_speakers, shares, options.seed, fewest)
    return [clip if clip.split else replace(clip, split=chosen[clip.speaker]) for clip in clips]


def _clips_of_lists(clips: Sequence[Utterance], listed: Sequence[ListedMixture]) -> list[Utterance]:
    """The clips that lists name, in the split of the list; what is tested on is not trained on."""
    split_of: dict[str, str] = {}
    for item in sorted(listed, key=lambda item: _EVALUATED.index(item.split)):
        for source in item.sources:
            split_of.setdefault(source.utterance_id, item.split)
    return [replace(clip, split=split_of[clip.utterance_id]) for clip in clips if clip.utterance_id in split_of]


def _problems_of_lists(problems: Sequence[Problem], listed: Sequence[ListedMixture]) -> list[Problem]:
    """The problems of clips that lists name, and those without an id."""
    named = {source.utterance_id for item in listed for source in item.sources}
    kept = [problem for problem in problems if not problem.item_id or problem.item_id in named]
    if len(kept) < len(problems):
        log.info("%d clips cannot be used, but no list names them; ignored", len(problems) - len(kept))
    return kept


def _checked_clips(clips: Sequence[Utterance]) -> tuple[list[Utterance], list[Problem]]:
    """The clips whose ids can be used, in the order of their ids."""
    counts = Counter(clip.utterance_id for clip in clips)
    kept, problems = [], []
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
        if reason:
            problems.append(Problem(0, name, clip.video_path, reason))
        else:
            kept.append(clip)
    if not clips:
        raise UserError("no clip was found; give the folder of the corpus with --corpus_dir")
    return kept, problems


# Preparation


def prepare_raw(
    clips: Sequence[Utterance],
    data_dir: Path,
    options: RawOptions,
    *,
    lists: MixtureList | None = None,
    problems: Sequence[Problem] = (),
) -> None:
    """Write all that stage 0 of a raw corpus writes. An interrupted call continues where it stopped.

    Args:
        clips: all clips of the corpus; no speaker in two splits, unless a list says so.
        data_dir: the corpus' folder below data/.
        options: how.
        lists: mixtures of lists that the caller has read; None: those of `options.mix_list`, where there is one, else they
            are drawn. Only the clips that a list names are taken, in its splits; problems of other clips do not matter.
        problems: of the clips.

    Raises:
        UserError: more fails than allowed, the disk is too small, or the clips are too few for the mixtures.
    """
    require_video_packages()  # says at once what is not installed
    data_dir = data_dir.absolute()
    if lists is None and options.mix_list:
        lists = read_mix_list(options.mix_list, same_speaker=options.draw.same_speaker)
    listed = None if lists is None else lists.mixtures
    if lists is not None:
        clips = _clips_of_lists(clips, listed)
        problems = [*_problems_of_lists(problems, listed), *lists.problems]
    clips, found = _checked_clips(clips)
    problems = [*problems, *found]
    known = {clip.utterance_id for clip in clips} | {problem.item_id for problem in problems}
    clips, found = _extract(clips, data_dir, options, listed)
    problems += found
    by_id = {clip.utterance_id: clip for clip in clips}
    if listed is not None:
        listed, found = _matching(listed, by_id, known, options)
        problems += found
    refuse_failures(data_dir / "failed.csv", problems, options.max_failed)
    listed = _draw(clips, options) if listed is None else listed
    earlier = made_before(data_dir)
    made, found = make_mixtures(data_dir, listed, by_id, options.mixing, options.nj)
    problems += found
    refuse_failures(data_dir / "failed.csv", problems, options.max_failed)
    train = [clip for clip in clips if clip.split == "train"]
    by_split = {split: [item for item in made if item.mixture_path.startswith(f"audio/{split}/")] for split in SPLITS}
    contents = label_mixtures(by_split, {clip.speaker for clip in train})
    contents |= {"utterances": train, "clips": [clip for clip in clips if clip.split != "train"]}
    _write_list(data_dir / "mixtures.csv", listed, options.mixing)
    write_corpus(data_dir, data_dir, SAMPLE_RATE_HZ, contents, mouths_go_on=True)
    write_videos(data_dir / VIDEOS_NAME, clips)
    remove_mixtures(data_dir, earlier - {(item.split, item.mixture_id) for item in listed})
    print_summary(data_dir, contents, problems)


def _extract(
    clips: Sequence[Utterance], data_dir: Path, options: RawOptions, listed: Sequence[ListedMixture] | None
) -> tuple[list[Utterance], list[Problem]]:
    """Write the sounds of all clips; gives the clips as manifests have them, without those that cannot be used."""
    jobs = []
    for clip in clips:
        output = data_dir / f"utterances/{clip.utterance_id}.wav"
        key = hash_stats([clip.video_path, clip.audio_path or clip.video_path])
        jobs.append(Job(clip.utterance_id, key, (output,), (clip, output)))
    journal = data_dir / "utterances" / ".made.jsonl"
    todo, _ = pending(jobs, journal)
    mean_sec = _mean_duration_sec([job.given[0] for job in todo])
    n_bytes = math.ceil(mean_sec * len(todo) * SAMPLE_RATE_HZ * _SAMPLE_BYTES)
    n_mixtures, mixtures_bytes = _mixtures_to_come(data_dir, mean_sec, options, listed)
    what = f"the sounds of {len(todo)} clips and {n_mixtures} mixtures"
    require_space(data_dir, n_bytes + mixtures_bytes, what, "--data_dir")
    lengths, reasons = run_jobs(_extract_one, jobs, journal, options.nj, "sounds", "clip")
    kept, problems = [], []
    for clip in clips:
        name = clip.utterance_id
        reason = reasons.get(name) or too_short(lengths[name], options.mixing.min_sec)
        if reason:
            problems.append(Problem(0, name, clip.audio_path or clip.video_path, reason))
        else:
            kept.append(_prepared(clip, lengths[name]))
    return kept, problems


def _extract_one(given: tuple[Utterance, Path]) -> int:
    clip, wav_path = given
    try:
        return extract_clip(clip, wav_path)
    except UserError as error:  # the list of failures names the path in a column of its own
        raise UserError(error.reason_for(clip.audio_path or clip.video_path)) from None


def _prepared(clip: Utterance, length: int) -> Utterance:
    """A clip with its sound, and the mouth crops that stage 1 will make; paths start at the corpus' folder."""
    name = clip.utterance_id
    frames = frames_covering(length, SAMPLE_RATE_HZ, VIDEO_FPS)
    paths = {"audio_path": f"utterances/{name}.wav", "mouth_path": f"mouths/{name}.npz"}
    return replace(clip, **paths, length=length, frames=frames, fps=float(VIDEO_FPS))


def _mixtures_to_come(
    data_dir: Path, mean_sec: float, options: RawOptions, listed: Sequence[ListedMixture] | None
) -> tuple[int, int]:
    """The number of mixtures that are still to be made, and their bytes if they last as long as the mean clip.

    That is more than they will take, for the shortest clip ends a mixture.
    """
    if listed is None:
        n_mixtures, n_src = sum(options.n_mixtures.values()), options.draw.n_src
        rest = bool(options.draw.noises and options.draw.noise_prob) or options.draw.rooms.room_prob > 0
    else:
        n_mixtures = len(listed)
        n_src, rest = max((len(item.sources) for item in listed), default=0), any(map(has_rest, listed))
    there = sum(1 for split in SPLITS for _ in (data_dir / "audio" / split / "mix").glob("*.wav"))
    n_mixtures = max(n_mixtures - there, 0)
    longest = n_src if options.mixing.length == MAX else 1
    return n_mixtures, n_mixtures * mixture_bytes(n_src, longest * mean_sec * SAMPLE_RATE_HZ, rest, options.mixing)


def _mean_duration_sec(clips: Sequence[Utterance]) -> float:
    """The mean duration of clips, from some of them."""
    durations_sec = []
    for clip in clips[:: max(len(clips) // _PROBED, 1)]:
        try:
            durations_sec.append(clip_duration_sec(clip))
        except UserError:
            continue  # it will be listed when its sound is taken
    return sum(durations_sec) / max(len(durations_sec), 1)


def _matching(
    listed: Sequence[ListedMixture], clips: Mapping[str, Utterance], known: Collection[str], options: RawOptions
) -> tuple[list[ListedMixture], list[Problem]]:
    """The mixtures of a list whose clips are as the list says, and why others are not."""
    there = absent_clips(listed, clips, known)
    kept, problems = [], list(there.problems)
    for item in there.mixtures:
        if reason := _reason_against(item, clips, options):
            problems.append(Problem(item.row, item.mixture_id, item.source, reason))
        else:
            kept.append(item)
    return kept, problems


def _reason_against(item: ListedMixture, clips: Mapping[str, Utterance], options: RawOptions) -> str:
    own = [clips[source.utterance_id] for source in item.sources]
    for source, clip in zip(item.sources, own, strict=True):
        if source.speaker and clip.speaker and source.speaker != clip.speaker:
            return f"the list says that {clip.utterance_id} is of {source.speaker}, the corpus that it is of {clip.speaker}"
    counts = Counter(clip.speaker for clip in own if clip.speaker)
    if max(counts.values(), default=0) > 1 and not options.draw.same_speaker:
        return f"mixes the speaker {counts.most_common(1)[0][0]} with themselves; --same_speaker true allows that"
    seconds = options.mixing.mixed_length(clip.length for clip in own) / SAMPLE_RATE_HZ
    if item.seconds is not None and abs(seconds - item.seconds) > _SECONDS_APART:
        return f"lasts {seconds:.3f} s by its clips where the list says {item.seconds:g} s; these are other clips"
    return ""


def _draw(clips: Sequence[Utterance], options: RawOptions) -> list[ListedMixture]:
    """Lists for the splits that have clips and of which mixtures are wanted."""
    listed = []
    for split in SPLITS:
        wanted = options.n_mixtures.get(split, 0)
        chosen = [clip for clip in clips if clip.split == split]
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


def _write_list(path: Path, listed: Sequence[ListedMixture], mixing: MixingOptions) -> None:
    """The list and its settings; nothing stays of an earlier list where there is none now."""
    if listed:
        write_mix_list(path, listed)
        write_settings(path, mixing)
    else:
        path.unlink(missing_ok=True)
        settings_path(path).unlink(missing_ok=True)


# Videos


def extract_clip(clip: Utterance, wav_path: Path) -> int:
    """Write a clip's sound, 16 kHz mono, atomically; gives its samples.

    Raises:
        UserError: the video or its sound cannot be used, or the two do not last equally long.
    """
    from utils.video.decoding import probe_video
    from utils.video.sound import extract_sound

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
            raise UserError(f"the sound lasts {sound_sec:.2f} s, the pictures {picture_sec:.2f} s{hint}", clip.video_path)
    return length


def clip_duration_sec(clip: Utterance) -> float:
    """The duration of a clip, by the header of its video."""
    from utils.video.decoding import probe_video

    return probe_video(Path(clip.video_path)).duration_sec


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
