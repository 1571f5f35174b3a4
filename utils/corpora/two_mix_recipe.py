"""What the preparations of LRS2-2Mix, LRS3-2Mix and VoxCeleb2-2Mix share: a folder with mixtures and mouths to manifests."""

import argparse
from functools import partial
from pathlib import Path

from utils.corpora.output import keep_usable, label_mixtures, print_summary, refuse_failures, write_corpus
from utils.corpora.raw_corpus import RawClip
from utils.corpora.raw_video import SETTINGS, add_raw_options, is_own_list, list_settings, prepare_raw, split_clips
from utils.corpora.two_mix import SAMPLE_RATE_HZ, MouthRule, is_two_mix, read_two_mix
from utils.data.manifest import Mixture, Problem, Utterance
from utils.errors import OptionParser, UsageError, UserError, flag
from utils.mixing.lists import MixtureList, read_mix_list
from utils.mixing.public_lists import SIR_CONVENTIONS, read_extraction_csv, read_gain_list

PRETRAIN = "pretrain_"  # before the ids of LRS2's and LRS3's pretrain parts
_WITH_PRETRAIN = ("lrs2", "lrs3")
_OF_BOTH = ("seed", "min_sec")  # options that drawing lists has, and that do no harm beside a 2Mix folder
_RAW = ("pretrain", "audio_dir", "sir_convention", "mix_list", "train_gains", "val_gains", "test_gains")


def corpus_parser(description: str) -> OptionParser:
    """The options of a corpus that comes as a 2Mix folder or as raw video."""
    parser = OptionParser(description=description)
    parser.add_argument("--data_dir", type=Path, required=True, help="gets the manifests; its name is the corpus'")
    parser.add_argument("--corpus_dir", type=Path, required=True, help="a 2Mix folder, or the raw corpus")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--max_failed", type=int, default=0, help="clips and mixtures that may be left out")
    parser.add_argument(
        "--json_dir", type=Path, help="2Mix: folder with {tr,cv,tt}/{mix,s1,s2}.json, which then say what there is"
    )
    parser.add_argument("--deep", type=flag, default=True, help="2Mix: decode every file; false only looks whether it is there")
    parser.add_argument("--mix_list", type=Path, help="raw: our own list, or the extraction family's CSV")
    parser.add_argument("--sir_convention", choices=SIR_CONVENTIONS, help="what the dB of such a CSV means; see the README")
    for split in ("train", "val", "test"):
        parser.add_argument(f"--{split}_gains", type=Path, help=f"raw: 2Mix gain list (.scp, .txt) of the {split} split")
    add_raw_options(parser)
    return parser


def prepare_two_mix(args: argparse.Namespace, rule: MouthRule) -> None:
    """A 2Mix folder to manifests."""
    root, min_sec = args.corpus_dir.absolute(), list_settings(args)["min_sec"]
    mixtures, problems = read_two_mix(root, rule, args.json_dir)
    for split, items in mixtures.items():
        mixtures[split], found = keep_usable(items, root, SAMPLE_RATE_HZ, deep=args.deep, nj=args.nj)
        problems += found
        short = [item for item in mixtures[split] if item.length < min_sec * SAMPLE_RATE_HZ]
        problems += [Problem(0, item.mixture_id, item.mixture_path, _too_short(item, min_sec)) for item in short]
        mixtures[split] = [item for item in mixtures[split] if item.length >= min_sec * SAMPLE_RATE_HZ]
    refuse_failures(args.data_dir / "failed.csv", problems, args.max_failed)
    train_speakers = {name for item in mixtures["train"] for name in item.speakers} if mixtures.get("train") else None
    contents = label_mixtures(mixtures, train_speakers)
    held_out = {path for split in ("val", "test") for item in contents.get(split, []) for path in item.mouth_paths}
    contents["utterances"] = _utterances(contents.get("train", []), held_out)
    write_corpus(args.data_dir, root, SAMPLE_RATE_HZ, contents)
    print_summary(args.data_dir, contents, problems)


def prepare_corpus(args: argparse.Namespace, rule: MouthRule, clips: list[RawClip], problems: list[Problem]) -> None:
    """A raw corpus to manifests: its own mixtures, or those of a list."""
    listed = read_lists(args, rule)
    if listed is None:
        prepare_raw(args, split_clips(clips, args), problems=problems)
        return
    prepare_raw(args, clips, listed=listed.mixtures, problems=problems, rows=listed.problems)


def read_lists(args: argparse.Namespace, rule: MouthRule) -> MixtureList | None:
    """The lists that were given, as one; None if none was.

    Raises:
        UserError: lists of both kinds or of unlike numbers of voices, or an extraction CSV without its convention.
    """
    gains = {split: getattr(args, f"{split}_gains") for split in ("train", "val", "test")}
    if args.mix_list and any(gains.values()):
        raise UsageError("--mix_list and gain lists exclude each other; give one kind")
    if args.mix_list:
        if is_own_list(args.mix_list):
            return read_mix_list(args.mix_list, same_speaker=args.same_speaker)
        if not args.sir_convention:
            raise UserError(
                f"{args.mix_list}: public code reads its dB with opposite signs; say which with --sir_convention "
                + " or ".join(SIR_CONVENTIONS)
            )
        return read_extraction_csv(args.mix_list, sir_convention=args.sir_convention, same_speaker=args.same_speaker)
    names = {"id_of": partial(id_in_part, rule), "speaker_of": partial(speaker_in_part, rule)}
    lists = {
        split: read_gain_list(path, split=split, **names, same_speaker=args.same_speaker)
        for split, path in gains.items()
        if path
    }
    if not lists:
        return None
    sizes = {found.n_src: split for split, found in lists.items() if found.n_src}
    if len(sizes) > 1:
        said = " and ".join(f"--{split}_gains of {size}" for size, split in sorted(sizes.items()))
        raise UserError(f"the gain lists differ in their voices: {said}; give lists of one number, each in its own --data_dir")
    mixtures = tuple(item for found in lists.values() for item in found.mixtures)
    return MixtureList(mixtures, tuple(problem for found in lists.values() for problem in found.problems))


def has_lists(args: argparse.Namespace) -> bool:
    """Whether the mixtures of a raw corpus are those of lists."""
    return bool(args.mix_list or args.train_gains or args.val_gains or args.test_gains)


def id_in_part(rule: MouthRule, path: str) -> str:
    """The id of a clip by its path; LRS2 and LRS3 may have the same name in their pretrain part and elsewhere."""
    name = rule.id_of_path(path)
    in_pretrain = rule.corpus in _WITH_PRETRAIN and "pretrain" in Path(path).parts
    return PRETRAIN + name if name and in_pretrain else name


def speaker_in_part(rule: MouthRule, name: str) -> str:
    """Whose clip an id of `id_in_part` is."""
    return rule.speaker_of_id(name.removeprefix(PRETRAIN) if rule.corpus in _WITH_PRETRAIN else name)


def is_prepared(args: argparse.Namespace) -> bool:
    """Whether the corpus comes as a 2Mix folder, and no option is of the other kind.

    Raises:
        UsageError: an option has no meaning for this folder.
    """
    two_mix = is_two_mix(args.corpus_dir)
    if two_mix and (given := _raw_given(args)):
        raise UsageError(f"{args.corpus_dir} holds mixtures already; {', '.join(given)}: for raw video")
    if not two_mix and (args.json_dir or not args.deep):
        option = "--json_dir" if args.json_dir else "--deep"
        raise UsageError(f"{option} belongs to a 2Mix folder, which {args.corpus_dir} is not")
    return two_mix


def _raw_given(args: argparse.Namespace) -> list[str]:
    """The options of raw video that differ from their defaults."""
    parser = argparse.ArgumentParser(add_help=False)
    add_raw_options(parser)
    defaults = vars(parser.parse_args([])) | dict.fromkeys(SETTINGS) | dict.fromkeys(_RAW)
    names = [name for name in defaults if name not in _OF_BOTH]
    given = {name: getattr(args, name, None) for name in names}
    return [
        f"--{name}" for name, value in given.items() if value is not None and value is not False and value != defaults[name]
    ]


def _utterances(mixtures: list[Mixture], held_out: set[str]) -> list[Utterance]:
    """Every clip of the training mixtures once; its sound is the source of one of them, cut and scaled as it is there."""
    found: dict[str, Utterance] = {}
    for item in mixtures:
        for speaker, audio, mouth in zip(item.speakers, item.source_paths, item.mouth_paths, strict=True):
            name = Path(mouth).stem
            if mouth not in held_out and name not in found:
                found[name] = Utterance(name, speaker, audio, mouth, item.length, item.frames, item.fps)
    return list(found.values())


def _too_short(item: Mixture, min_sec: float) -> str:
    return f"lasts {item.length / SAMPLE_RATE_HZ:.3f} s, less than --min_sec {min_sec:g}"
