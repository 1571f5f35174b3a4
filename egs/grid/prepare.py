"""Turn GRID, as it is distributed, into manifests; stage 1 then cuts the mouths.

Reads   CORPUS_DIR: videos below a folder for each speaker (s1/bbaf2n.mpg, s1/video/mpg_6000/bbaf2n.mpg, ...), and where
        it has them the separate sounds (s1/bbaf2n.wav, s1/audio/bbaf2n.wav, audio_25k/s1/bbaf2n.wav, ...)
Writes  into DATA_DIR, see utils/corpora/raw_corpus.py
Run     python egs/grid/prepare.py --data_dir data/grid --corpus_dir CORPUS_DIR --nj 8
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.raw_corpus import raw_parser, run_raw
from utils.data.constants import LOSSLESS_SUFFIXES, VIDEO_SUFFIXES
from utils.data.manifest import Problem, Utterance
from utils.errors import UserError, flag, run_cli

_PREFERRED = (".mpg", ".wav")  # of a clip that has several files: as GRID is distributed
_SPEAKER = re.compile(r"s[0-9]{1,2}")
# command, colour, preposition, letter, digit, adverb: "bin blue at f two now" is bbaf2n
_SENTENCE = re.compile(r"[blps][bgrw][abiw][a-z][z0-9][anps]")


def main() -> None:
    """The tree to manifests."""
    parser = raw_parser(__doc__.splitlines()[0])
    parser.add_argument("--separate_audio", type=flag, default=True, help="take separate sounds where there are any")
    run_raw(parser.parse_args(), lambda args, options: find_clips(args.corpus_dir, args.separate_audio))


def find_clips(corpus_dir: Path, separate_audio: bool) -> Iterator[Utterance | Problem]:
    """Every sentence of every speaker; what lies between the speakers' folders and the clips does not matter."""
    videos = _by_clip(corpus_dir, VIDEO_SUFFIXES)
    if not videos:
        raise UserError(f"{corpus_dir}: no clip of GRID found; expected e.g. {corpus_dir}/s1/bbaf2n.mpg")
    sounds = _by_clip(corpus_dir, LOSSLESS_SUFFIXES) if separate_audio else {}
    for name, (speaker, video) in sorted(videos.items()):
        sound = str(sounds[name][1].absolute()) if name in sounds else ""
        yield Utterance(name, speaker, sound, video_path=str(video.absolute()))
    for name in sorted(sounds.keys() - videos.keys()):
        yield Problem(0, name, str(sounds[name][1]), "a sound without a video; left out")


def _by_clip(corpus_dir: Path, suffixes: tuple[str, ...]) -> dict[str, tuple[str, Path]]:
    """The speaker and the file of each clip; the last folder named like a speaker is the speaker."""
    found = defaultdict(list)
    for path in corpus_dir.rglob("*"):
        folders = (corpus_dir.name, *path.relative_to(corpus_dir).parts[:-1])
        speakers = [part for part in folders if _SPEAKER.fullmatch(part)]
        sentence, suffix = path.stem.lower(), path.suffix.lower()
        if speakers and suffix in suffixes and _SENTENCE.fullmatch(sentence) and path.is_file():
            found[f"{speakers[-1]}_{sentence}"].append((suffix not in _PREFERRED, path))
    return {name: (name.partition("_")[0], min(files)[1]) for name, files in found.items()}


if __name__ == "__main__":
    run_cli(main)
