"""The 2Mix sets (LRS2-2Mix, LRS3-2Mix, VoxCeleb2-2Mix): their layout, and the preparation that their corpora share.

The layout is that which CTCNet, RTFS-Net and IIANet take:

    audio/wav16k/min/{tr,cv,tt}/{mix,s1,s2}/ID1_GAIN1_ID2_GAIN2.wav      three sources: one more id and gain, and s3
    mouths/ID.npz
    <json folder>/{tr,cv,tt}/{mix,s1,s2}.json      optional: [[path, samples], …] or [[path, mouth, samples], …]

Ids hold `_` and `-` and gains are decimals that may be negative, so that no name can be cut at its underscores: the rule
of each corpus (`IdRule`) says what an id looks like. The lists' absolute paths are those of another machine; files are
found by their names below the corpus' folder.

The same corpora also come as raw video; `run_preparation` is the program of both.
"""

import argparse
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from utils.corpora.output import (
    keep_usable,
    label_mixtures,
    print_summary,
    refuse_failures,
    too_short,
    training_utterances,
    write_corpus,
)
from utils.corpora.raw_corpus import (
    SETTINGS,
    add_raw_options,
    is_own_list,
    list_settings,
    prepare_raw,
    raw_options,
    raw_parser,
    split_clips,
)
from utils.data.audio import probe_audio
from utils.data.clip_tree import walk_tree
from utils.data.clock import samples_to_frames
from utils.data.constants import LOSSLESS_SUFFIXES, SAMPLE_RATE_HZ, SPLITS, VIDEO_FPS, VIDEO_SUFFIXES
from utils.data.manifest import Mixture, Problem, Utterance
from utils.errors import OptionParser, UsageError, UserError, flag, name_problem
from utils.mixing.lists import MixtureList, read_mix_list
from utils.mixing.public_lists import SIR_CONVENTIONS, read_extraction_csv, read_gain_list

log = logging.getLogger(__name__)
SPLIT_FOLDERS = {"train": "tr", "val": "cv", "test": "tt"}
PRETRAIN = "pretrain_"  # before the ids of LRS2's and LRS3's pretrain parts
_OF_BOTH = ("seed", "min_sec")  # options of raw video that do no harm beside a 2Mix folder
_RAW = ("pretrain", "audio_dir", "sir_convention", "mix_list", "train_gains", "val_gains", "test_gains")
_GAIN = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"


@dataclass(frozen=True)
class IdRule:
    """The ids of a corpus. The mouth of an id is mouths/ID.npz.

    Attributes:
        corpus: its name.
        pattern: regular expression of a whole id; its group `speaker` is the speaker.
        example: of an id.
        has_pretrain: a clip of its pretrain part may have the name of another one; `PRETRAIN` stands before its id.
    """

    corpus: str
    pattern: str
    example: str
    has_pretrain: bool = False

    def ids_of_name(self, stem: str) -> list[tuple[str, float]] | None:
        """The ids and gains (dB) in a mixture's name, two or three of them; None for any other name."""
        one = rf"({self._nameless})_({_GAIN})"
        match = re.fullmatch(rf"{one}_{one}(?:_{one})?", stem, re.ASCII)
        if not match:
            return None
        found = [text for text in match.groups() if text is not None]
        return [(name, float(gain)) for name, gain in zip(found[::2], found[1::2], strict=True)]

    def id_of_path(self, path: str) -> str:
        """The id of a clip by its path without suffix, `…/VIDEO/00001` as well as `…/VIDEO_00001`; "" where it has none."""
        match = re.search(rf"(?:^|(?<=_))({self._nameless})$", path.replace("/", "_"), re.ASCII)
        if not match:
            return ""
        in_pretrain = self.has_pretrain and "pretrain" in PurePosixPath(path).parts
        return PRETRAIN + match.group(1) if in_pretrain else match.group(1)

    def speaker_of_id(self, name: str) -> str:
        """The speaker of an id; "" where the id is none of this corpus."""
        match = re.fullmatch(self.pattern, name.removeprefix(PRETRAIN) if self.has_pretrain else name, re.ASCII)
        return match["speaker"] if match else ""

    @property
    def _nameless(self) -> str:
        return self.pattern.replace("?P<speaker>", "?:")


LRS2 = IdRule("lrs2", r"(?P<speaker>[0-9]+)_[0-9]{5}", "6339077953587836416_00025", has_pretrain=True)
LRS3 = IdRule("lrs3", r"(?P<speaker>[\w-]{11})_[0-9]{5}", "NCJTV5KaJJc_00001", has_pretrain=True)
VOXCELEB2 = IdRule("voxceleb2", r"(?P<speaker>id[0-9]{5})_[\w-]{11}_[0-9]{5}", "id00017_01dfn2spqyE_00001")


def find_audio(root: Path) -> Path | None:
    """The folder that holds tr, cv or tt: audio/wav16k/min, or one of its parents where the set was repacked."""
    for folder in ("audio/wav16k/min", "wav16k/min", "audio", "min", "."):
        if any((root / folder / name / "mix").is_dir() for name in SPLIT_FOLDERS.values()):
            return root / folder
    return None


def read_two_mix(root: Path, rule: IdRule, json_dir: Path | None = None) -> tuple[dict[str, list[Mixture]], list[Problem]]:
    """The mixtures of a 2Mix set, by split. Of the audio only headers are read; `keep_usable` opens the files.

    Args:
        root: the folder that holds audio/ and mouths/.
        rule: of the corpus.
        json_dir: the folder of the json lists, whose mixtures are then taken; None: all mixtures of the folders.

    Returns:
        Mixtures whose paths start at `root`, by train, val, test; and what cannot be used, with rows of the json lists.

    Raises:
        UserError: the folder is not in the layout, or a json file is no such list.
    """
    audio = find_audio(root)
    if audio is None:
        raise UserError(f"{root}: holds no audio/wav16k/min/{{tr,cv,tt}}/mix; this is not the 2Mix layout")
    mixtures: dict[str, list[Mixture]] = {}
    problems: list[Problem] = []
    for split, folder in SPLIT_FOLDERS.items():
        place = audio / folder
        listed = _json_items(json_dir / folder) if json_dir and (json_dir / folder).is_dir() else None
        if listed is None and not (place / "mix").is_dir():
            continue
        if json_dir and listed is None:
            log.warning("%s: has no %s/; for %s all mixtures of %s are taken", json_dir, folder, split, place)
        found = list(_listed_items(*listed) if listed else _folder_items(place))
        mixtures[split] = []
        for item in found:
            made = _mixture(item, root, place, rule) if isinstance(item, _Item) else item
            (problems if isinstance(made, Problem) else mixtures[split]).append(made)
    if json_dir and not any((json_dir / folder).is_dir() for folder in SPLIT_FOLDERS.values()):
        raise UserError(f"{json_dir}: holds none of tr/, cv/, tt/; give the folder of the json lists, or none")
    return mixtures, problems


@dataclass(frozen=True)
class _Item:
    """A mixture by name; what the json lists say besides."""

    stem: str
    file_names: tuple[str, ...]  # of mix, s1, s2, …
    mouths: tuple[str, ...] = ()  # the json's, one for each source
    length: int | None = None  # samples, from the json
    row: int = 0


def _folder_items(place: Path) -> Iterator[_Item | Problem]:
    """The files of mix/, with those of the same names in s1/, s2/, and s3/ where there is one."""
    sources = ["s1", "s2", *(["s3"] if (place / "s3").is_dir() else [])]
    files = {part: _by_stem(place / part) for part in ("mix", *sources)}
    for stem in sorted({stem for found in files.values() for stem in found}):
        missing = [part for part, found in files.items() if stem not in found]
        if missing:
            yield Problem(0, stem, str(place), f"{', '.join(missing)} hold no file of this name")
        else:
            yield _Item(stem, tuple(found[stem] for found in files.values()))


def _by_stem(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; the 2Mix layout has mix, s1 and s2")
    names = (path.name for path in folder.iterdir() if not path.name.startswith("."))
    return {PurePosixPath(name).stem: name for name in sorted(names) if name.lower().endswith(LOSSLESS_SUFFIXES)}


def _json_items(folder: Path) -> tuple[Path, dict[str, list]]:
    """The json lists of a split by part: mix, s1, s2, and s3 where there is one."""
    parts = ["mix", "s1", "s2", *(["s3"] if (folder / "s3.json").is_file() else [])]
    lists = {part: _read_list(folder / f"{part}.json") for part in parts}
    for part, rows in lists.items():
        if not isinstance(rows, list) or not rows:
            raise UserError(f"{folder / part}.json: no list of [path, samples]; copy it again")
    return folder, lists


def _read_list(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file; copy the lists of this split again, or give no --json_dir") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); copy it again") from None


def _listed_items(folder: Path, lists: dict[str, list]) -> Iterator[_Item | Problem]:
    """Match the rows of the lists by the names of their files; an item that a list lacks is a problem."""
    by_part: dict[str, dict[str, tuple[int, str, str, int]]] = {}
    for part, rows in lists.items():
        path, by_part[part] = f"{folder / part}.json", {}
        for number, row in enumerate(rows, start=1):
            parsed = _json_row(row)
            if parsed is None:
                yield Problem(number, str(row)[:100], path, "is neither [path, samples] nor [path, mouth, samples]")
                continue
            stem = PurePosixPath(parsed[0]).stem
            if stem in by_part[part]:
                yield Problem(number, stem, path, f"row {by_part[part][stem][0]} lists this name, too")
                continue
            by_part[part][stem] = (number, *parsed)
    for stem in sorted({stem for rows in by_part.values() for stem in rows}):
        rows = {part: found[stem] for part, found in by_part.items() if stem in found}
        number = next(iter(rows.values()))[0]
        missing = [f"{part}.json ({len(lists[part])} rows)" for part in lists if part not in rows]
        lengths = {row[3] for row in rows.values()}
        if missing:
            yield Problem(number, stem, str(folder), f"not in {', '.join(missing)}, but in {', '.join(rows)}.json")
        elif len(lengths) > 1:
            said = " and ".join(map(str, sorted(lengths)))
            yield Problem(number, stem, str(folder), f"the lists say that it has {said} samples")
        else:
            names = tuple(PurePosixPath(row[1]).name for row in rows.values())
            mouths = tuple(row[2] for part, row in rows.items() if part != "mix")
            yield _Item(stem, names, mouths if all(mouths) else (), lengths.pop(), number)


def _json_row(row: object) -> tuple[str, str, int] | None:
    """Path, mouth ("" where there is none) and samples of a row of 2 or 3 items."""
    if not isinstance(row, list) or len(row) not in (2, 3):
        return None
    path, mouth, length = row[0], row[1] if len(row) == 3 else "", row[-1]
    if not isinstance(path, str) or not isinstance(mouth, str) or type(length) is not int or not path:
        return None
    return path.replace("\\", "/"), mouth.replace("\\", "/"), length


def _mixture(item: _Item, root: Path, place: Path, rule: IdRule) -> Mixture | Problem:
    """A row for the manifest, from the names and the mixture's header."""
    parts = rule.ids_of_name(item.stem)
    folder = place.relative_to(root).as_posix()
    mixture_path = f"{folder}/mix/{item.file_names[0]}"
    problem = partial(Problem, item.row, item.stem, mixture_path)
    if reason := name_problem(item.stem):
        return problem(reason)
    if parts is None:
        return problem(f"the name is no ID_GAIN_ID_GAIN of {rule.corpus} (an id: {rule.example})")
    n_src = len(item.file_names) - 1
    if len(parts) != n_src:
        return problem(f"{len(parts)} ids in the name of {n_src} sources")
    ids = [name for name, _ in parts]
    if len(set(ids)) < len(ids):
        return problem("mixes a clip with itself")
    for name, mouth in zip(ids, item.mouths, strict=bool(item.mouths)):
        if PurePosixPath(mouth).stem != name:
            return Problem(item.row, item.stem, mouth, f"the list names this mouth, the mixture's name {name}")
    try:
        info = probe_audio(root / mixture_path)
    except UserError as error:
        return problem(error.reason)
    if info.sample_rate != SAMPLE_RATE_HZ:
        return problem(f"sampled at {info.sample_rate} Hz where {SAMPLE_RATE_HZ} Hz is expected")
    if item.length is not None and info.length != item.length:
        return problem(f"{info.length} samples where the list says {item.length}")
    return Mixture(
        mixture_id=item.stem,
        mixture_path=mixture_path,
        source_paths=tuple(f"{folder}/s{k}/{name}" for k, name in enumerate(item.file_names[1:], start=1)),
        noise_path="",
        length=info.length,
        mouth_paths=tuple(f"mouths/{name}.npz" for name in ids),
        frames=samples_to_frames(info.length, SAMPLE_RATE_HZ, VIDEO_FPS),
        fps=float(VIDEO_FPS),
        speakers=tuple(rule.speaker_of_id(name) for name in ids),
        sir_db=parts[0][1] - parts[1][1],
        subset="",
    )


# Programs


FindClips = Callable[[argparse.Namespace, bool], tuple[list[Utterance], list[Problem]]]


def run_preparation(
    rule: IdRule, description: str, find_clips: FindClips, add_options: Callable[[OptionParser], object]
) -> None:
    """Run the program of a corpus that comes as a 2Mix folder or as raw video, to manifests.

    Args:
        rule: of the corpus.
        description: of the program.
        find_clips: (arguments, whether lists name the mixtures) -> the raw corpus' clips, and why others cannot be used.
        add_options: adds the corpus' own options.
    """
    parser = _corpus_parser(description)
    add_options(parser)
    args = parser.parse_args()
    if is_prepared(args):
        _prepare_two_mix(rule, args)
        return
    options = raw_options(args)
    lists = read_lists(args, rule)
    clips, problems = find_clips(args, lists is not None)
    clips = clips if lists else split_clips(clips, options)
    prepare_raw(clips, args.data_dir, options, lists=lists, problems=problems)


def add_pretrain_option(parser: OptionParser) -> None:
    """The option of LRS2 and LRS3."""
    parser.add_argument("--pretrain", type=flag, default=False, help="raw: also the pretrain part, for training")


def find_part(root: Path, part: str) -> tuple[dict[str, Utterance], list[Problem]]:
    """The clips PART/VIDEO/00001.mp4 of raw LRS2 or LRS3, by id.

    Speakers have no names there; clips of one video count as one speaker.
    """
    tree, problems = walk_tree(root / part, VIDEO_SUFFIXES, depth=1)
    prefix = PRETRAIN if part == "pretrain" else ""
    clips = [Utterance(prefix + name, item.place[0], video_path=str(item.path)) for name, item in tree.items()]
    return {clip.utterance_id: clip for clip in clips}, problems


def _corpus_parser(description: str) -> OptionParser:
    lists = "raw: our own list, or the extraction family's CSV"
    parser = raw_parser(description, corpus="a 2Mix folder, or the raw corpus", mix_list=lists)
    parser.add_argument(
        "--json_dir", type=Path, help="2Mix: folder with {tr,cv,tt}/{mix,s1,s2}.json, whose mixtures are then taken"
    )
    parser.add_argument("--deep", type=flag, default=True, help="2Mix: decode every file; false only looks for the files")
    parser.add_argument("--sir_convention", choices=SIR_CONVENTIONS, help="meaning of the dB of such a CSV; see the README")
    for split in SPLITS:
        parser.add_argument(f"--{split}_gains", type=Path, help=f"raw: 2Mix gain list (.scp, .txt) of the {split} split")
    return parser


def _prepare_two_mix(rule: IdRule, args: argparse.Namespace) -> None:
    """Turn a 2Mix folder into manifests."""
    root, min_sec = args.corpus_dir.absolute(), list_settings(args)["min_sec"]
    mixtures, problems = read_two_mix(root, rule, args.json_dir)
    for split, items in mixtures.items():
        usable, found = keep_usable(items, root, SAMPLE_RATE_HZ, deep=args.deep, nj=args.nj)
        problems += found
        mixtures[split] = []
        for item in usable:
            if reason := too_short(item.length, min_sec):
                problems.append(Problem(0, item.mixture_id, item.mixture_path, reason))
            else:
                mixtures[split].append(item)
    refuse_failures(args.data_dir / "failed.csv", problems, args.max_failed)
    contents = label_mixtures(mixtures)
    contents["utterances"], _ = training_utterances(mixtures)
    write_corpus(args.data_dir, root, SAMPLE_RATE_HZ, contents)
    print_summary(args.data_dir, contents, problems)


def read_lists(args: argparse.Namespace, rule: IdRule) -> MixtureList | None:
    """The lists that were given, as one; None if none was.

    Raises:
        UserError: lists of both kinds or of different numbers of sources, or an extraction CSV without its convention.
    """
    gains = {split: getattr(args, f"{split}_gains") for split in SPLITS}
    if args.mix_list and any(gains.values()):
        raise UsageError("--mix_list and gain lists exclude each other; give one kind")
    if args.mix_list:
        if is_own_list(args.mix_list):
            return read_mix_list(args.mix_list, same_speaker=args.same_speaker)
        if not args.sir_convention:
            conventions = " or ".join(SIR_CONVENTIONS)
            reason = f"public code reads its dB with opposite signs; say which with --sir_convention {conventions}"
            raise UserError(reason, args.mix_list)
        return read_extraction_csv(args.mix_list, sir_convention=args.sir_convention, same_speaker=args.same_speaker)
    names = {"id_of": rule.id_of_path, "speaker_of": rule.speaker_of_id, "same_speaker": args.same_speaker}
    lists = {split: read_gain_list(path, split=split, **names) for split, path in gains.items() if path}
    if not lists:
        return None
    sizes = {found.n_src: split for split, found in lists.items() if found.n_src}
    if len(sizes) > 1:
        said = " and ".join(f"--{split}_gains of {size}" for size, split in sorted(sizes.items()))
        raise UserError(
            f"the gain lists differ in their numbers of sources: {said}; give lists of one number, each in its own --data_dir"
        )
    mixtures = tuple(item for found in lists.values() for item in found.mixtures)
    return MixtureList(mixtures, tuple(problem for found in lists.values() for problem in found.problems))


def is_prepared(args: argparse.Namespace) -> bool:
    """True where the corpus comes as a 2Mix folder, False where it is raw video.

    Raises:
        UsageError: an option has no meaning for this folder.
    """
    two_mix = find_audio(args.corpus_dir) is not None
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
    given = {name: getattr(args, name, None) for name in defaults if name not in _OF_BOTH}
    given = {name: value for name, value in given.items() if value is not None and value is not False}  # 0 is given
    return [f"--{name}" for name, value in given.items() if value != defaults[name]]
