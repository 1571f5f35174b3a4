"""Put several prepared corpora together, and speech without faces, to train one network on all of them.

Reads   CORPUS_DIR and the folders of --also: data/<corpus> of stages 0 and 1, with utterances.csv; below the folders of
        --speech_dir every wav, flac, mp3 or ogg, mono at 16 kHz
Writes  into DATA_DIR: utterances.csv (ids and speakers get the name of their corpus), val.csv and test.csv (the mixtures
        of all corpora; their subset is the corpus, so that scores are reported for each), sounds/ (what was no lossless
        file), failed.csv
Run     python egs/several/prepare.py --data_dir data/several --corpus_dir data/glips --also data/grid \\
            --speech_dir /data/LibriSpeech/train-clean-100
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.output import print_summary, refuse_failures, usable, write_corpus
from utils.corpora.speech import find_speech
from utils.data.constants import SAMPLE_RATE_HZ
from utils.data.manifest import Manifest, Mixture, Utterance, read_manifest, read_utterances
from utils.errors import OptionParser, UserError, run_cli


def main() -> None:
    """Prepared corpora and folders of speech to one corpus."""
    args = _parse_args()
    data_dir, problems = args.data_dir.absolute(), []
    corpora = [args.corpus_dir, *args.also]
    names = [folder.absolute().name for folder in corpora]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"two corpora have the name {twice}; their folders must be named differently")
    utterances = [item for folder in corpora for item in _utterances(folder)]
    utterances += usable(find_speech(args.speech_dir, data_dir, args.nj), problems)
    refuse_failures(data_dir / "failed.csv", problems, args.max_failed)
    mixtures = {split: [item for folder in corpora for item in _mixtures(folder, split)] for split in ("val", "test")}
    contents = mixtures | {"utterances": utterances}
    write_corpus(data_dir, data_dir, contents, mouths_go_on=True)
    print_summary(data_dir, contents, problems)


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="gets the manifests; its name is the corpus'")
    parser.add_argument("--corpus_dir", type=Path, required=True, help="data/<corpus> of the first corpus")
    parser.add_argument("--also", type=Path, nargs="+", default=[], metavar="DIR", help="those of further ones")
    parser.add_argument(
        "--speech_dir", type=Path, nargs="+", default=[], metavar="DIR",
        help="folders of speech without faces: a folder for each speaker, or files named as in LibriSpeech",
    )  # fmt: skip
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--max_failed", type=int, default=0, help="files of speech that may be left out")
    return parser.parse_args()


def _utterances(folder: Path) -> Iterator[Utterance]:
    """The clips of a prepared corpus for dynamic mixing, with full paths."""
    path, name = folder / "utterances.csv", folder.absolute().name
    manifest = read_utterances(path, SAMPLE_RATE_HZ)
    for item in manifest.items:
        yield replace(
            item,
            utterance_id=f"{name}_{item.utterance_id}",
            speaker=f"{name}_{item.speaker or item.utterance_id}",
            audio_path=_full(manifest, item.audio_path),
            mouth_path=_full(manifest, item.mouth_path),
        )


def _mixtures(folder: Path, split: str) -> Iterator[Mixture]:
    """The mixtures of a split of a prepared corpus, none where it has no such split."""
    path, name = folder / f"{split}.csv", folder.absolute().name
    if not path.is_file():
        return
    manifest = read_manifest(path)
    for item in manifest.items:
        yield replace(
            item,
            mixture_id=f"{name}_{item.mixture_id}",
            mixture_path=_full(manifest, item.mixture_path),
            source_paths=tuple(_full(manifest, path) for path in item.source_paths),
            noise_path=_full(manifest, item.noise_path),
            mouth_paths=tuple(_full(manifest, path) for path in item.mouth_paths),
            speakers=tuple(speaker and f"{name}_{speaker}" for speaker in item.speakers),
            subset=name,
        )


def _full(manifest: Manifest, path: str) -> str:
    return path and str(manifest.resolve(path).absolute())


if __name__ == "__main__":
    run_cli(main)
