"""Turn a corpus in the DLA layout into manifests.

Reads   CORPUS_DIR/audio/{train,val,test}/{mix,s1,s2} or CORPUS_DIR/audio/{mix,s1,s2}, and CORPUS_DIR/mouths/*.npz
Writes  DATA_DIR/{train,val,test}.csv (the flat form: test.csv), utterances.csv for dynamic mixing, each with its JSON
        side file, and failed.csv with what was left out and why
Run     python egs/dla/prepare.py --data_dir data/dla --corpus_dir CORPUS_DIR --nj 8
"""

import argparse
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.dla import dla_splits, scan_dla
from utils.corpora.output import label_mixtures, print_summary, refuse_failures, training_utterances, write_corpus
from utils.data.constants import SAMPLE_RATE_HZ
from utils.data.manifest import Manifest, Mixture, Problem, Utterance, read_utterances
from utils.data.validation import validate_manifest
from utils.errors import OptionParser, UserError, run_cli


def main() -> None:
    """Open everything, list what failed, write the manifests."""
    args = _parse_args()
    root, failed_path = args.corpus_dir.absolute(), args.data_dir / "failed.csv"
    splits = dla_splits(root)
    extras = [read_utterances(folder / "utterances.csv", SAMPLE_RATE_HZ) for folder in args.extra_utterances]
    mixtures: dict[str, list[Mixture]] = {}
    problems: list[Problem] = []
    for split in splits:
        found, broken = scan_dla(root, split, speaker_pattern=args.speaker_pattern, nj=args.nj)
        mixtures[split or "test"] = found
        problems += broken
    utterances, counts = _collect_utterances(mixtures, extras, args.nj, problems)
    refuse_failures(failed_path, problems, args.max_failed)
    for split, items in mixtures.items():
        if not items:
            raise UserError(f"the {split} split holds no mixture that can be used; see {failed_path}", root)
    contents = label_mixtures(mixtures) | {"utterances": utterances}
    write_corpus(args.data_dir, root, contents)
    print_summary(args.data_dir, contents, problems)
    print(
        f"{args.data_dir}: utterances: {counts['train']} from train, {counts['extra']} from other folders; left out: "
        f"{counts['held_out']} in val or test, {counts['known']} with an id that was there already"
    )


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


def _collect_utterances(
    mixtures: dict[str, list[Mixture]], extras: list[Manifest], nj: int, problems: list[Problem]
) -> tuple[list[Utterance], Counter[str]]:
    """The clips of the train split, and the sound ones of other folders; none that is in val or test.

    Returns:
        The utterances; and the numbers of those from `train` and from `extra` folders, and of those left out as
        `held_out` in val or test, or because an id was `known`. What is wrong with others is added to `problems`.
    """
    train, held_out = training_utterances(mixtures)
    kept = {item.utterance_id: item for item in train}
    in_train = {Path(path).stem for item in mixtures.get("train", []) for path in item.mouth_paths}
    counts = Counter(train=len(train), held_out=len(in_train & held_out))
    for extra in extras:
        found = [replace(p, path=str(extra.resolve(p.path))) for p in validate_manifest(extra, deep=True, nj=nj)]
        problems += found
        broken = {problem.item_id for problem in found}
        for item in extra.items:
            name = item.utterance_id
            if name in broken:
                continue
            outcome = "held_out" if name in held_out else "known" if name in kept else "extra"
            counts[outcome] += 1
            if outcome == "extra":
                paths = {"audio_path": item.audio_path, "mouth_path": item.mouth_path}
                kept[name] = replace(item, **{key: path and str(extra.resolve(path)) for key, path in paths.items()})
    return list(kept.values()), counts


if __name__ == "__main__":
    run_cli(main)
