"""What the preparations of raw-video corpora share: their options, and how a sound gets out of a video.

A corpus' own `prepare.py` walks its tree and makes a `RawClip` of each clip; the rest is here:

    parser = raw_parser(__doc__.splitlines()[0])
    args = parser.parse_args()
    prepare_raw(args, clips)

What is written is said in utils/corpora/raw_corpus.py. Stage 1 cuts the mouths. With --mix_list the mixtures are those of a list
that an earlier preparation wrote.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from utils.corpora.raw_corpus import SAMPLE_RATE_HZ, RawClip, RawOptions, VideoReader, prepare_raw_corpus
from utils.data.manifest import Problem
from utils.data.sound_checks import wrong_rate_hint
from utils.errors import OptionParser, UsageError, UserError, flag
from utils.mixing.drawing import ListOptions, split_speakers
from utils.mixing.list_settings import settle
from utils.mixing.lists import ListedMixture, read_mix_list
from utils.mixing.rendering import MIN, SUBTYPES, MixingOptions
from utils.mixing.rooms import RoomOptions, find_responses
from utils.mixing.speech_level import MEASURES, WHOLE

log = logging.getLogger(__name__)
# of the options that hold for a whole list; none is in the arguments where the user does not give it, for a list may say it
SETTINGS = {"min_sec": 2.0, "max_sec": float("inf"), "measure": WHOLE, "subtype": "PCM_16", "length": MIN}
_EVALUATED = ("test", "val", "train")  # a clip that is in several splits is kept out of training
_SAMPLES_PER_FRAME = (560, 720)  # 640 are true at 25 fps; beyond these sound and pictures cannot belong together


def raw_parser(description: str) -> OptionParser:
    """The options that every raw-video corpus has; a corpus adds its own."""
    parser = OptionParser(description=description)
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="gets the manifests and the audio; its name is the corpus'"
    )
    parser.add_argument("--corpus_dir", type=Path, required=True, help="where the raw corpus lies")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--max_failed", type=int, default=0, help="clips and mixtures that may be left out")
    parser.add_argument("--mix_list", type=Path, help="the mixtures of this list, mixtures.csv of an earlier preparation")
    add_raw_options(parser)
    return parser


def add_raw_options(parser: argparse.ArgumentParser) -> None:
    """The options of drawing lists and making audio."""
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    add_setting(parser, "min_sec", type=float, help="clips and mixtures that are shorter are listed, left out")
    add_setting(parser, "max_sec", type=float, help="mixtures are cut to this")
    parser.add_argument("--n_train", type=int, default=0, help="fixed training mixtures; 0: training mixes utterances.csv")
    parser.add_argument("--n_val", type=int, default=500, help="validation mixtures")
    parser.add_argument("--n_test", type=int, default=500, help="test mixtures")
    parser.add_argument("--val_share", type=float, default=0.1, help="of the speakers, where the corpus has no such split")
    parser.add_argument("--test_share", type=float, default=0.1, help="of the speakers, where the corpus has no such split")
    parser.add_argument("--n_src", type=int, choices=(2, 3), default=2, help="voices of a mixture")
    parser.add_argument("--sir_low_db", type=float, default=-5.0, help="the first voice over each other one")
    parser.add_argument("--sir_high_db", type=float, default=5.0, help="the first voice over each other one")
    parser.add_argument("--same_speaker", type=flag, default=False, help="mix speakers with themselves, too")
    add_setting(parser, "measure", choices=MEASURES, help="levels: whole clips, or while somebody speaks")
    add_setting(parser, "subtype", choices=SUBTYPES, help="of the mixtures' files")
    parser.add_argument("--noise_dir", type=Path, help="folder of noise, e.g. data/musan/noise/test")
    parser.add_argument("--noise_share", type=float, default=1.0, help="of the mixtures with noise, where there is --noise_dir")
    parser.add_argument("--snr_low_db", type=float, default=0.0, help="all voices over the noise")
    parser.add_argument("--snr_high_db", type=float, default=20.0, help="all voices over the noise")
    parser.add_argument("--rir_dir", type=Path, help="folder of room responses")
    parser.add_argument("--simulate_rooms", type=flag, default=False, help="rooms by pyroomacoustics, which you install")
    parser.add_argument("--room_share", type=float, default=0.0, help="of the mixtures that are in a room")


def add_setting(parser: argparse.ArgumentParser, name: str, *, help: str, **more: Any) -> None:
    """An option of `SETTINGS`."""
    text = f"{help} (default: {SETTINGS[name]}, or what --mix_list was made with)"
    parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=text, **more)


def list_settings(args: argparse.Namespace) -> dict[str, Any]:
    """`SETTINGS` as the user, or the list, or nobody says them.

    Raises:
        UserError: the user contradicts the list.
    """
    given = {name: getattr(args, name) for name in SETTINGS if hasattr(args, name)}
    path = getattr(args, "mix_list", None)
    if path is None or not is_own_list(path):
        return SETTINGS | given
    settings = settle(given, path, SETTINGS | {"sample_rate": SAMPLE_RATE_HZ})
    if settings.pop("sample_rate") != SAMPLE_RATE_HZ:
        raise UserError(f"{path}: its mixtures were not made at {SAMPLE_RATE_HZ} Hz; make another list")
    return settings


def raw_options(args: argparse.Namespace) -> RawOptions:
    """The options as the data package takes them.

    Raises:
        UserError: a folder of noise or of rooms cannot be used, or a range is empty.
    """
    settings = list_settings(args)
    values = vars(args) | settings
    for low, high in (("sir_low_db", "sir_high_db"), ("snr_low_db", "snr_high_db"), ("min_sec", "max_sec")):
        if not values[low] <= values[high]:
            raise UsageError(f"--{low} {values[low]:g} is above --{high} {values[high]:g}")
    for name in ("noise_share", "room_share", "val_share", "test_share"):
        if not 0 <= getattr(args, name) <= 1:
            raise UsageError(f"--{name} {getattr(args, name):g}: a share is between 0 and 1")
    noises = {}
    if args.noise_dir:
        from utils.mixing.recordings import recording_lengths  # imports scipy.signal, a second

        noises = recording_lengths("noise_dir", args.noise_dir, SAMPLE_RATE_HZ)
    rooms = RoomOptions(args.room_share, find_responses(args.rir_dir) if args.rir_dir else {}, args.simulate_rooms)
    draw = ListOptions(
        n_src=args.n_src,
        sir_low_db=args.sir_low_db,
        sir_high_db=args.sir_high_db,
        same_speaker=args.same_speaker,
        noises={path.relative_to(args.noise_dir).as_posix(): length for path, length in noises.items()},
        noise_share=args.noise_share,
        snr_low_db=args.snr_low_db,
        snr_high_db=args.snr_high_db,
        rooms=rooms,
    )
    mixing = MixingOptions(
        **settings,
        noise_dir=args.noise_dir,
        rir_dir=args.rir_dir,
        sample_rate=SAMPLE_RATE_HZ,
    )
    n_mixtures = {"train": args.n_train, "val": args.n_val, "test": args.n_test}
    return RawOptions(n_mixtures, draw, mixing, settings["min_sec"], args.seed, args.nj, args.max_failed)


def prepare_raw(
    args: argparse.Namespace,
    clips: Sequence[RawClip],
    *,
    listed: Sequence[ListedMixture] | None = None,
    problems: Sequence[Problem] = (),
    rows: Sequence[Problem] = (),
) -> None:
    """Prepare a raw corpus; see `utils.corpora.raw_corpus.prepare_raw_corpus`.

    Of a list, `listed` or that of --mix_list, only the clips that it names are taken, in its splits; what is wrong with others
    does not matter. `rows`: what is wrong with the list itself.
    """
    video_decoding()  # says at once what is not installed
    options = raw_options(args)
    if listed is None and getattr(args, "mix_list", None):
        found = read_mix_list(args.mix_list, same_speaker=args.same_speaker)
        listed, rows = found.mixtures, found.problems
    if listed is not None:
        clips = clips_of_lists(clips, listed)
        problems = _of_lists(problems, listed)
    reader = VideoReader(extract_clip, clip_duration_sec)
    prepare_raw_corpus(clips, args.data_dir, reader, options, listed=listed, problems=[*problems, *rows])


def clips_of_lists(clips: Sequence[RawClip], listed: Sequence[ListedMixture]) -> list[RawClip]:
    """The clips that lists name, in the split of the list; what is tested on is not trained on."""
    split_of: dict[str, str] = {}
    for item in sorted(listed, key=lambda item: _EVALUATED.index(item.split)):
        for voice in item.voices:
            split_of.setdefault(voice.utterance_id, item.split)
    return [replace(clip, split=split_of[clip.utterance_id]) for clip in clips if clip.utterance_id in split_of]


def _of_lists(problems: Sequence[Problem], listed: Sequence[ListedMixture]) -> list[Problem]:
    """What is wrong with clips that lists name, or with none by name."""
    named = {voice.utterance_id for item in listed for voice in item.voices}
    kept = [problem for problem in problems if not problem.item_id or problem.item_id in named]
    if len(kept) < len(problems):
        log.info("%d clips cannot be used, but no list names them; passed over", len(problems) - len(kept))
    return kept


def is_own_list(path: Path) -> bool:
    """Whether a list of mixtures is of the kind that this recipe writes.

    Raises:
        UserError: there is no such file.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as handle:
            return handle.readline(1000).startswith("mixture_ID,")
    except OSError:
        raise UserError(f"{path}: no such file; give the list of the mixtures") from None


def split_clips(clips: Sequence[RawClip], args: argparse.Namespace) -> list[RawClip]:
    """Give clips without a split ("") one, by their speakers; clips that have a split keep it, and none is added to it.

    With --mix_list nothing is divided: the list says the split of the clips that it names, and no others are taken.
    """
    if getattr(args, "mix_list", None):
        return list(clips)
    open_speakers = [clip.speaker for clip in clips if not clip.split]
    if not open_speakers:
        return list(clips)
    shares = {"train": 1 - args.val_share - args.test_share, "val": args.val_share, "test": args.test_share}
    if shares["train"] < 0:
        raise UsageError("--val_share and --test_share are more than all speakers")
    shares |= {clip.split: 0.0 for clip in clips if clip.split}
    chosen = split_speakers(open_speakers, shares, args.seed, 1 if args.same_speaker else args.n_src)
    return [clip if clip.split else replace(clip, split=chosen[clip.speaker]) for clip in clips]


def extract_clip(clip: RawClip, wav_path: Path) -> int:
    """Take a clip's sound; its samples.

    Raises:
        UserError: the video or its sound cannot be used, or the two do not last equally long.
    """
    decoding = video_decoding()
    info = decoding.probe_video(Path(clip.video_path))
    source = Path(clip.audio_path or clip.video_path)
    sound = decoding.extract_sound(source, wav_path)
    length = sound.n_samples
    for warning in sound.warnings:
        log.warning("%s: %s", source, warning)
    if info.n_pictures and info.fps > 0:
        frames = info.n_pictures / info.fps * 25
        if not _SAMPLES_PER_FRAME[0] <= length / frames <= _SAMPLES_PER_FRAME[1]:
            sound_sec, picture_sec = length / SAMPLE_RATE_HZ, info.n_pictures / info.fps
            hint = wrong_rate_hint(length, SAMPLE_RATE_HZ, picture_sec)
            raise UserError(f"{clip.video_path}: the sound lasts {sound_sec:.2f} s, the pictures {picture_sec:.2f} s{hint}")
    return length


def clip_duration_sec(clip: RawClip) -> float:
    """How long a video says that it is."""
    return video_decoding().probe_video(Path(clip.video_path)).duration_sec


def video_decoding() -> ModuleType:
    """`utils.video.decoding`, which needs packages that are installed apart.

    Raises:
        UserError: they are not.
    """
    try:
        from utils.video import decoding
    except ImportError as error:
        raise UserError(
            f"videos need more packages ({error}); add them: utils/install_more.sh requirements-video.txt"
        ) from None
    return decoding
