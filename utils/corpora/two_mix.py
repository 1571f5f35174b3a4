"""The 2Mix sets (LRS2-2Mix, LRS3-2Mix, VoxCeleb2-2Mix): their layout, and the preparation that their corpora share.

The layout is that which CTCNet, RTFS-Net and IIANet take:

    audio/wav16k/min/{tr,cv,tt}/{mix,s1,s2}/ID1_GAIN1_ID2_GAIN2.wav      three sources: one more id and gain, and s3
    mouths/ID.npz
    <json folder>/{tr,cv,tt}/{mix,s1,s2}.json      optional: [[path, samples], …] or [[path, mouth, samples], …]

Ids hold `_` and `-` and gains are decimals that may be negative, so that no name can be cut at its underscores: the
rule of each corpus (`IdRule`) says what an id looks like. The lists' absolute paths are those of another machine; files
are found by their names below the corpus' folder.

The same corpora also come as raw video; `run_preparation` is the program of both.
"""

import argparse
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from utils.corpora.output import (
    label_mixtures,
    print_summary,
    refuse_failures,
    too_short,
    training_utterances,
    usable,
    write_corpus,
)
from utils.corpora.raw_corpus import FindClips, raw_parser, run_raw
from utils.corpora.ready_mixtures import NamedMixture, files_by_stem, open_mixtures, pair_files
from utils.data.clip_tree import walk_tree
from utils.data.constants import LOSSLESS_SUFFIXES, SPLITS, VIDEO_SUFFIXES
from utils.data.manifest import Mixture, Problem, Utterance
from utils.errors import OptionParser, UsageError, UserError, flag
from utils.mixing.lists import ListedMixture, is_own_list, read_mix_list
from utils.mixing.options import given_options, mix_options
from utils.mixing.public_lists import SIR_CONVENTIONS, read_extraction_csv, read_gain_list

log = logging.getLogger(__name__)
SPLIT_FOLDERS = {"train": "tr", "val": "cv", "test": "tt"}
PRETRAIN = "pretrain_"  # before the ids of LRS2's and LRS3's pretrain parts
_OF_BOTH = ("nj", "max_failed", "seed", "min_sec")  # options of raw video that have a use, or do no harm, beside 2Mix
_RAW = ("pretrain", "audio_dir", "sir_convention", "mix_list", *(f"{split}_gains" for split in SPLITS))
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
        """The id of a clip by its path without suffix, `…/VIDEO/00001` or `…/VIDEO_00001`; "" where it has none."""
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


def read_two_mix(
    root: Path, rule: IdRule, json_dir: Path | None = None, *, deep: bool = True, nj: int = 1
) -> dict[str, list[Mixture | Problem]]:
    """The mixtures of a 2Mix set, by split.

    Args:
        root: the folder that holds audio/ and mouths/.
        rule: of the corpus.
        json_dir: the folder of the json lists, whose mixtures are then taken; None: all mixtures of the folders.
        deep: decode every file; False reads only headers.
        nj: threads that open files.

    Returns:
        Mixtures whose paths start at `root`, by train, val, test; and what cannot be used, with rows of the json lists.

    Raises:
        UserError: the folder is not in the layout, or a json file is no such list.
    """
    audio = find_audio(root)
    if audio is None:
        raise UserError("holds no audio/wav16k/min/{tr,cv,tt}/mix; this is not the 2Mix layout", root)
    if json_dir and not any((json_dir / folder).is_dir() for folder in SPLIT_FOLDERS.values()):
        raise UserError("holds none of tr/, cv/, tt/; give the folder of the json lists, or none", json_dir)
    mixtures = {}
    for split, folder in SPLIT_FOLDERS.items():
        place = (audio / folder).relative_to(root).as_posix()
        is_listed = json_dir is not None and (json_dir / folder).is_dir()
        if not is_listed and not (audio / folder / "mix").is_dir():
            continue
        if json_dir and not is_listed:
            log.warning("%s: has no %s/; for %s all mixtures of %s are taken", json_dir, folder, split, audio / folder)
        found = _listed(json_dir / folder, place) if is_listed else _paired(root, place)
        named = (item if isinstance(item, Problem) else _named(rule, *item) for item in found)
        mixtures[split] = open_mixtures(root, named, nj, split, deep)
    return mixtures


class _Row(NamedTuple):
    """A row of a json list."""

    number: int
    name: str  # of the file
    length: int  # samples
    mouth: str = ""


def _paired(root: Path, place: str) -> Iterator[tuple | Problem]:
    """The files of mix/, with those of the same names in s1/, s2/, and s3/ where there is one."""
    parts = ["mix", "s1", "s2", *(["s3"] if (root / place / "s3").is_dir() else [])]
    for part in parts:
        if not (root / place / part).is_dir():
            raise UserError("no such folder; the 2Mix layout has mix, s1 and s2", root / place / part)
    files = {f"{place}/{part}": files_by_stem(root, f"{place}/{part}", LOSSLESS_SUFFIXES) for part in parts}
    return pair_files(set(chain(*files.values())), files)


def _listed(folder: Path, place: str) -> Iterator[tuple | Problem]:
    """Match the rows of the lists by the names of their files; an item that a list lacks is a problem."""
    lists: dict[str, dict[str, _Row]] = {}
    for part in ("mix", "s1", "s2", *(["s3"] if (folder / "s3.json").is_file() else [])):
        path, lists[part] = folder / f"{part}.json", {}
        for number, content in enumerate(_read_list(path), start=1):
            match content:
                case [str(sound), int(length)]:
                    row = _Row(number, _posix(sound).name, length)
                case [str(sound), str(mouth), int(length)]:
                    row = _Row(number, _posix(sound).name, length, mouth)
                case _:
                    reason = "is neither [path, samples] nor [path, mouth, samples]"
                    yield Problem(number, str(content)[:100], str(path), reason)
                    continue
            first = lists[part].setdefault(PurePosixPath(row.name).stem, row)
            if first is not row:
                reason = f"row {first.number} lists this name, too"
                yield Problem(number, PurePosixPath(row.name).stem, str(path), reason)
    for stem in sorted(set(chain(*lists.values()))):
        rows = {part: found[stem] for part, found in lists.items() if stem in found}
        number = next(iter(rows.values())).number
        missing = [f"{part}.json ({len(found)} rows)" for part, found in lists.items() if stem not in found]
        lengths = sorted({row.length for row in rows.values()})
        if missing:
            yield Problem(number, stem, str(folder), f"not in {', '.join(missing)}, but in {', '.join(rows)}.json")
        elif len(lengths) > 1:
            said = " and ".join(map(str, lengths))
            yield Problem(number, stem, str(folder), f"the lists say that it has {said} samples")
        else:
            mouths = [row.mouth for part, row in rows.items() if part != "mix"]
            paths = tuple(f"{place}/{part}/{row.name}" for part, row in rows.items())
            yield stem, paths, mouths if all(mouths) else [], lengths[0], number


def _posix(path: str) -> PurePosixPath:
    return PurePosixPath(path.replace("\\", "/"))


def _read_list(path: Path) -> list:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError("no such file; copy the lists of this split again, or give no --json_dir", path) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"not valid JSON ({error}); copy it again", path) from None
    if not isinstance(rows, list) or not rows:
        raise UserError("no list of [path, samples]; copy it again", path)
    return rows


def _named(
    rule: IdRule, stem: str, paths: tuple[str, ...], mouths: list[str] = (), length: int | None = None, row: int = 0
) -> NamedMixture | Problem:
    """A mixture by its name; `mouths`, `length` and `row` are what a list says of it."""
    parts = rule.ids_of_name(stem)
    if parts is None:
        reason = f"the name is no ID_GAIN_ID_GAIN of {rule.corpus} (an id: {rule.example})"
        return Problem(row, stem, paths[0], reason)
    ids = [name for name, _ in parts]
    if len(ids) != len(paths) - 1:
        return Problem(row, stem, paths[0], f"{len(ids)} ids in the name of {len(paths) - 1} sources")
    if len(set(ids)) < len(ids):
        return Problem(row, stem, paths[0], "mixes a clip with itself")
    for name, mouth in zip(ids, mouths, strict=False):
        if _posix(mouth).stem != name:
            return Problem(row, stem, mouth, f"the list names this mouth, the mixture's name {name}")
    mouth_paths = tuple(f"mouths/{name}.npz" for name in ids)
    speakers = tuple(map(rule.speaker_of_id, ids))
    return NamedMixture(stem, paths, mouth_paths, speakers, parts[0][1] - parts[1][1], length, row)


# Programs


def run_preparation(
    rule: IdRule, description: str, find_clips: FindClips, add_options: Callable[[OptionParser], object]
) -> None:
    """Run the program of a corpus that comes as a 2Mix folder or as raw video, to manifests.

    Args:
        rule: of the corpus.
        description: of the program.
        find_clips: gives the raw corpus' clips.
        add_options: adds the corpus' own options.
    """
    lists = "raw: our own list, or the extraction family's CSV"
    parser = raw_parser(description, corpus="a 2Mix folder, or the raw corpus", mix_list=lists)
    parser.add_argument(
        "--json_dir", type=Path, help="2Mix: folder with {tr,cv,tt}/{mix,s1,s2}.json, whose mixtures are then taken"
    )
    parser.add_argument("--deep", type=flag, default=True, help="2Mix: decode every file; false reads only headers")
    conventions = "meaning of the dB of such a CSV; see the README"
    parser.add_argument("--sir_convention", choices=SIR_CONVENTIONS, help=conventions)
    for split in SPLITS:
        parser.add_argument(f"--{split}_gains", type=Path, help=f"raw: 2Mix gain list (.scp, .txt) of {split}")
    add_options(parser)
    args = parser.parse_args()
    if is_two_mix(args):
        _prepare_two_mix(rule, args)
    else:
        run_raw(args, find_clips, partial(read_lists, rule=rule))


def is_two_mix(args: argparse.Namespace) -> bool:
    """True where the corpus comes as a 2Mix folder, False where it is raw video.

    Raises:
        UsageError: an option has no meaning for this folder.
    """
    two_mix = find_audio(args.corpus_dir) is not None
    given = [name for name in given_options(args) if name not in _OF_BOTH]
    given += [name for name in _RAW if getattr(args, name, None)]
    if two_mix and given:
        said = ", ".join(f"--{name}" for name in given)
        raise UsageError(f"{args.corpus_dir} holds mixtures already; {said}: for raw video")
    if not two_mix and (args.json_dir or not args.deep):
        option = "--json_dir" if args.json_dir else "--deep"
        raise UsageError(f"{option} belongs to a 2Mix folder, which {args.corpus_dir} is not")
    return two_mix


def _prepare_two_mix(rule: IdRule, args: argparse.Namespace) -> None:
    root, options = args.corpus_dir.absolute(), mix_options(args)
    problems: list[Problem] = []
    mixtures: dict[str, list[Mixture]] = {}
    for split, found in read_two_mix(root, rule, args.json_dir, deep=args.deep, nj=options.nj).items():
        mixtures[split] = []
        for item in usable(found, problems):
            if reason := too_short(item.length, options.min_sec):
                problems.append(Problem(0, item.mixture_id, item.mixture_path, reason))
            else:
                mixtures[split].append(item)
    refuse_failures(args.data_dir / "failed.csv", problems, options.max_failed)
    contents = label_mixtures(mixtures) | {"utterances": training_utterances(mixtures)[0]}
    write_corpus(args.data_dir, root, contents)
    print_summary(args.data_dir, contents, problems)


def read_lists(args: argparse.Namespace, rule: IdRule) -> list[ListedMixture | Problem] | None:
    """The lists that were given, as one; None if none was.

    Raises:
        UserError: lists of both kinds or of different numbers of sources, or an extraction CSV without its convention.
    """
    gains = {split: path for split in SPLITS if (path := getattr(args, f"{split}_gains"))}
    if args.mix_list and gains:
        raise UsageError("--mix_list and gain lists exclude each other; give one kind")
    if args.mix_list:
        is_ours = is_own_list(args.mix_list)
        return read_mix_list(args.mix_list) if is_ours else read_extraction_csv(args.mix_list, args.sir_convention)
    readers = {"id_of": rule.id_of_path, "speaker_of": rule.speaker_of_id}
    found = [item for split, path in gains.items() for item in read_gain_list(path, split, **readers)]
    sizes = {len(item.sources): item.split for item in found if isinstance(item, ListedMixture)}
    if len(sizes) > 1:
        said = " and ".join(f"--{split}_gains of {size}" for size, split in sorted(sizes.items()))
        raise UserError(
            f"the gain lists differ in their numbers of sources: {said}; give those of each number a --data_dir of "
            "their own, so that all mixtures of a corpus have the same number"
        )
    return found or None


# Parts of LRS2 and LRS3


def add_pretrain_option(parser: OptionParser) -> None:
    """The option of LRS2 and LRS3."""
    parser.add_argument("--pretrain", type=flag, default=False, help="raw: also the pretrain part, for training")


def find_part(root: Path, part: str) -> Iterator[Utterance | Problem]:
    """The clips PART/VIDEO/00001.mp4 of raw LRS2 or LRS3.

    Speakers have no names there; clips of one video count as one speaker.
    """
    tree, problems = walk_tree(root / part, VIDEO_SUFFIXES, depth=1)
    yield from problems
    prefix = PRETRAIN if part == "pretrain" else ""
    for name, item in tree.items():
        yield Utterance(prefix + name, item.place[0], video_path=str(item.path))
