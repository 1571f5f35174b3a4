"""Turn GRID, as it is distributed, into manifests; stage 1 then cuts the mouths.

Reads   CORPUS_DIR: videos below a folder for each speaker (s1/bbaf2n.mpg, s1/video/mpg_6000/bbaf2n.mpg, ...), and where it has
        them the separate sounds (s1/bbaf2n.wav, s1/audio/bbaf2n.wav, audio_25k/s1/bbaf2n.wav, ...)
Writes  into DATA_DIR, see utils/corpora/raw_corpus.py
Run     python egs/grid/prepare.py --data_dir data/grid --corpus_dir CORPUS_DIR --nj 8
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.raw_corpus import prepare_raw, raw_options, raw_parser, split_clips
from utils.data.constants import LOSSLESS_SUFFIXES, VIDEO_SUFFIXES
from utils.data.manifest import Problem, Utterance
from utils.errors import UserError, flag, run_cli

_PREFERRED = (".mpg", ".wav")  # of a clip that has several files: as GRID is distributed
_SPEAKER = re.compile(r"s[0-9]{1,2}")
# command, colour, preposition, letter, digit, adverb: "bin blue at f two now" is bbaf2n
_SENTENCE = re.compile(r"[blps][bgrw][abiw][a-z][z0-9][anps]")


def main() -> int:
    """Find the clips, give each speaker a split, and hand over."""
    parser = raw_parser(__doc__.splitlines()[0])
    parser.add_argument("--separate_audio", type=flag, default=True, help="take the separate sounds where there are any")
    args = parser.parse_args()
    options = raw_options(args)
    clips, problems = find_clips(args.corpus_dir, args.separate_audio)
    if not clips:
        raise UserError(f"{args.corpus_dir}: no clip of GRID found; expected e.g. {args.corpus_dir}/s1/bbaf2n.mpg")
    prepare_raw(split_clips(clips, options), args.data_dir, options, problems=problems)
    return 0


def find_clips(corpus_dir: Path, separate_audio: bool) -> tuple[list[Utterance], list[Problem]]:
    """Every sentence of every speaker; what lies between the speakers' folders and the clips does not matter."""
    videos = _by_clip(corpus_dir, VIDEO_SUFFIXES)
    sounds = _by_clip(corpus_dir, LOSSLESS_SUFFIXES)
    clips, problems = [], []
    for (speaker, sentence), paths in sorted(videos.items()):
        sound = str(sounds[speaker, sentence][0].absolute()) if separate_audio and (speaker, sentence) in sounds else ""
        clips.append(Utterance(f"{speaker}_{sentence}", speaker, sound, video_path=str(paths[0].absolute())))
    for speaker, sentence in sorted(sounds.keys() - videos.keys()):
        path = sounds[speaker, sentence][0]
        problems.append(Problem(0, f"{speaker}_{sentence}", str(path), "a sound without a video; left out"))
    return clips, problems if clips and separate_audio else []


def _by_clip(corpus_dir: Path, suffixes: tuple[str, ...]) -> dict[tuple[str, str], list[Path]]:
    """The files of each (speaker, sentence), the preferred one first; the last folder named like a speaker is the speaker."""
    found = defaultdict(list)
    for path in sorted(corpus_dir.rglob("*")):
        folders = (corpus_dir.name, *path.relative_to(corpus_dir).parts[:-1])
        speakers = [part for part in folders if _SPEAKER.fullmatch(part)]
        sentence = path.stem.lower()
        if speakers and path.suffix.lower() in suffixes and _SENTENCE.fullmatch(sentence) and path.is_file():
            found[speakers[-1], sentence].append(path)
    return {key: sorted(paths, key=lambda path: (path.suffix.lower() not in _PREFERRED, path)) for key, paths in found.items()}


if __name__ == "__main__":
    run_cli(main)
