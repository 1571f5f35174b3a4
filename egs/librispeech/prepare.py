"""Prepare LibriSpeech, or any folder of speech without faces, to be put together with corpora that have some.

Reads   CORPUS_DIR/**: every wav, flac, mp3 or ogg, mono at 16 kHz
Writes  DATA_DIR/utterances.csv, without mouths; sounds/ (what was no lossless file), failed.csv
Run     python egs/librispeech/prepare.py --data_dir data/librispeech --corpus_dir /data/LibriSpeech/train-clean-100
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.output import print_summary, refuse_failures, usable, write_corpus
from utils.corpora.speech import find_speech
from utils.data.manifest import Problem
from utils.errors import OptionParser, run_cli


def main() -> None:
    """A folder of speech to a corpus of utterances."""
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="gets the manifest; its name is the corpus'")
    parser.add_argument("--corpus_dir", type=Path, required=True, help="a folder for each speaker, or files of LibriSpeech")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--max_failed", type=int, default=0, help="files that may be left out")
    args = parser.parse_args()
    data_dir = args.data_dir.absolute()
    problems: list[Problem] = []
    contents = {"utterances": usable(find_speech([args.corpus_dir], data_dir, args.nj, "--corpus_dir"), problems)}
    refuse_failures(data_dir / "failed.csv", problems, args.max_failed)
    write_corpus(data_dir, data_dir, contents)
    print_summary(data_dir, contents, problems)


if __name__ == "__main__":
    run_cli(main)
