"""Turn GRID, as it is distributed, into manifests; stage 1 then cuts the mouths.

Reads   CORPUS_DIR: videos below a folder for each speaker (s1/bbaf2n.mpg, s1/video/mpg_6000/bbaf2n.mpg, ...), and where it has
        them the separate sounds (s1/bbaf2n.wav, s1/audio/bbaf2n.wav, audio_25k/s1/bbaf2n.wav, ...)
Writes  DATA_DIR: what utils/corpora/raw_corpus.py says
Run     python egs/grid/prepare.py --data_dir data/grid --corpus_dir CORPUS_DIR --nj 8
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the recipe's root, wherever this is called from

from utils.corpora.raw_corpus import RawClip
from utils.corpora.raw_video import prepare_raw, raw_parser, split_clips
from utils.data.manifest import Problem
from utils.errors import UserError, flag, run_cli

VIDEO_SUFFIXES = (".mpg", ".mp4", ".avi", ".mkv", ".mov")  # the first counts where a clip is there in several
AUDIO_SUFFIXES = (".wav", ".flac")
_SPEAKER = re.compile(r"s[0-9]{1,2}")
# command, colour, preposition, letter, digit, adverb: "bin blue at f two now" is bbaf2n
_SENTENCE = re.compile(r"[blps][bgrw][abiw][a-z][z0-9][anps]")


def main() -> int:
    """Find the clips, give each speaker a split, and hand over."""
    parser = raw_parser(__doc__.splitlines()[0])
    parser.add_argument("--separate_audio", type=flag, default=True, help="take the separate sounds where there are any")
    args = parser.parse_args()
    clips, problems = find_clips(args.corpus_dir, args.separate_audio)
    if not clips:
        raise UserError(f"{args.corpus_dir}: no clip of GRID found; expected e.g. {args.corpus_dir}/s1/bbaf2n.mpg")
    prepare_raw(args, split_clips(clips, args), problems=problems)
    return 0


def find_clips(corpus_dir: Path, separate_audio: bool) -> tuple[list[RawClip], list[Problem]]:
    """Every sentence of every speaker; what lies between the speakers' folders and the clips does not matter."""
    videos = _by_clip(corpus_dir, VIDEO_SUFFIXES)
    sounds = _by_clip(corpus_dir, AUDIO_SUFFIXES)
    clips, problems = [], []
    for (speaker, sentence), paths in sorted(videos.items()):
        sound = sounds[speaker, sentence][0] if separate_audio and (speaker, sentence) in sounds else ""
        clips.append(RawClip(f"{speaker}_{sentence}", speaker, "", str(paths[0].absolute()), str(sound and sound.absolute())))
    for speaker, sentence in sorted(sounds.keys() - videos.keys()):
        path = sounds[speaker, sentence][0]
        problems.append(Problem(0, f"{speaker}_{sentence}", str(path), "a sound without a video; left out"))
    return clips, problems if clips and separate_audio else []


def _by_clip(corpus_dir: Path, suffixes: tuple[str, ...]) -> dict[tuple[str, str], list[Path]]:
    """The files of each (speaker, sentence), those with the first suffixes first."""
    found = defaultdict(list)
    for path, speaker in _files(corpus_dir):
        if path.suffix.lower() in suffixes and _SENTENCE.fullmatch(path.stem.lower()):
            found[speaker, path.stem.lower()].append(path)
    order = {suffix: number for number, suffix in enumerate(suffixes)}
    return {key: sorted(paths, key=lambda path: (order[path.suffix.lower()], path)) for key, paths in found.items()}


def _files(corpus_dir: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a speaker's folder, with the speaker: the last folder on its way that is named like one."""
    for path in sorted(corpus_dir.rglob("*")):
        speakers = [part for part in path.relative_to(corpus_dir).parts[:-1] if _SPEAKER.fullmatch(part)]
        if not speakers and _SPEAKER.fullmatch(corpus_dir.name):
            speakers = [corpus_dir.name]
        if speakers and path.is_file() and not path.name.startswith("."):
            yield path, speakers[-1]


if __name__ == "__main__":
    run_cli(main)
