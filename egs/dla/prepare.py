"""Turn a corpus in the DLA layout into manifests.

Reads   CORPUS_DIR/audio/{train,val,test}/{mix,s1,s2} or CORPUS_DIR/audio/{mix,s1,s2}, and CORPUS_DIR/mouths/*.npz
Writes  DATA_DIR/{train,val,test}.csv (the flat form: test.csv), utterances.csv for dynamic mixing, each with its JSON
        side file, and failed.csv with what was left out and why
Run     python egs/dla/prepare.py --data_dir data/dla --corpus_dir CORPUS_DIR --nj 8
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.dla import dla_splits, scan_dla
from utils.corpora.output import label_mixtures, refuse_failures, write_corpus
from utils.data.constants import SAMPLE_RATE_HZ
from utils.data.manifest import Manifest, Mixture, Problem, Utterance, read_utterances
from utils.data.validation import validate_manifest
from utils.errors import OptionParser, UserError, run_cli


@dataclass(frozen=True)
class Utterances:
    """The utterances for dynamic mixing, and counts of those of other folders."""

    items: list[Utterance]
    n_train: int  # of them, from the train split
    n_held_out: int  # left out: the clip is in val or test
    n_known: int  # left out: the id was there already
    problems: list[Problem]


def main() -> None:
    """Open everything, list what failed, write the manifests."""
    args = _parse_args()
    root = args.corpus_dir.absolute()
    splits = dla_splits(root)
    extras = [read_utterances(folder / "utterances.csv", SAMPLE_RATE_HZ) for folder in args.extra_utterances]
    mixtures: dict[str, list[Mixture]] = {}
    problems: dict[str, list[Problem]] = {}
    for split in splits:
        name = split or "test"
        mixtures[name], problems[name] = scan_dla(root, split, speaker_pattern=args.speaker_pattern, nj=args.nj)
    utterances = _collect_utterances(mixtures, extras, args.nj)
    problems["utterances"] = utterances.problems
    refuse_failures(args.data_dir / "failed.csv", [p for found in problems.values() for p in found], args.max_failed)
    for split, items in mixtures.items():
        if not items:
            raise UserError(f"the {split} split holds no mixture that can be used; see {args.data_dir / 'failed.csv'}", root)
    train_speakers = {name for item in mixtures["train"] for name in item.speakers} if "train" in mixtures else None
    mixtures = label_mixtures(mixtures, train_speakers)
    write_corpus(args.data_dir, root, SAMPLE_RATE_HZ, {**mixtures, "utterances": utterances.items})
    _print_summary(args.data_dir, mixtures, problems, utterances)


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="gets the manifests; its name is the corpus'")
    parser.add_argument("--corpus_dir", type=Path, required=True, help="the folder that holds audio/ and mouths/")
    parser.add_argument("--speaker_pattern", help="regular expression with one group, the speaker in an id")
    parser.add_argument(
        "--extra_utterances", type=Path, nargs="+", default=[], metavar="DIR", help="folders with an utterances.csv"
    )
    parser.add_argument("--nj", type=int, default=1, help="threads that open files")
    parser.add_argument("--max_failed", type=int, default=0, help="mixtures and utterances that may be left out")
    return parser.parse_args()


def _collect_utterances(mixtures: dict[str, list[Mixture]], extras: Sequence[Manifest], nj: int) -> Utterances:
    """The clips of the train split, each once, and the sound ones of other folders; none that is in val or test."""
    held_out = {name for split in ("val", "test") for mixture in mixtures.get(split, []) for name in _ids(mixture)}
    offered = [(utterance, True) for mixture in mixtures.get("train", []) for utterance in _parts(mixture)]
    problems = []
    for extra in extras:
        found = [replace(p, path=str(extra.resolve(p.path))) for p in validate_manifest(extra, deep=True, nj=nj)]
        broken = {problem.item_id for problem in found}
        problems += found
        for item in extra.items:
            if item.utterance_id not in broken:
                mouth_path = str(extra.resolve(item.mouth_path)) if item.mouth_path else ""
                offered.append((replace(item, audio_path=str(extra.resolve(item.audio_path)), mouth_path=mouth_path), False))
    kept: dict[str, Utterance] = {}
    dropped = Counter()
    for utterance, from_train in offered:
        name = utterance.utterance_id
        if name in held_out:
            dropped["held out"] += 1
        elif name not in kept:
            kept[name] = utterance
            dropped["train"] += from_train
        elif not from_train:
            dropped["known"] += 1
    return Utterances(list(kept.values()), dropped["train"], dropped["held out"], dropped["known"], problems)


def _ids(mixture: Mixture) -> list[str]:
    return [Path(path).stem for path in mixture.mouth_paths]


def _parts(mixture: Mixture) -> list[Utterance]:
    """The utterances of a mixture, as far as it has their sources."""
    return [
        Utterance(name, speaker, audio, mouth, mixture.length, mixture.frames, mixture.fps)
        for name, speaker, audio, mouth in zip(
            _ids(mixture), mixture.speakers, mixture.source_paths, mixture.mouth_paths, strict=True
        )
        if audio
    ]


def _print_summary(
    data_dir: Path, mixtures: dict[str, list[Mixture]], problems: dict[str, list[Problem]], utterances: Utterances
) -> None:
    left_out = {name: len({problem.item_id for problem in found}) for name, found in problems.items()}
    parts = []
    for split, items in mixtures.items():
        subsets = Counter(mixture.subset for mixture in items if mixture.subset)
        details = [f"{count} {name}" for name, count in sorted(subsets.items())]
        details += [f"{left_out[split]} left out"] if left_out[split] else []
        parts.append(f"{split} {len(items)}" + (f" ({', '.join(details)})" if details else ""))
    print(f"{data_dir}: mixtures: {', '.join(parts)}")
    others = len(utterances.items) - utterances.n_train
    print(
        f"{data_dir}: utterances: {len(utterances.items)} ({utterances.n_train} from train, {others} from other folders; "
        f"left out: {utterances.n_held_out} in val or test, {utterances.n_known} with an id that was there already, "
        f"{left_out['utterances']} broken)"
    )


if __name__ == "__main__":
    run_cli(main)
