"""Make the demo corpus: synthetic voices with drawn mouths, in the DLA layout, and its manifests.

Writes data/demo/{audio,mouths,utterances}/, faces/ where --face_size asks for them, {train,val,test}.csv and utterances.csv
(the training speakers' utterances, for dynamic mixing), phonemes.csv, and in --raw_dir words.csv, the times of words.

    python egs/demo/prepare.py --data_dir data/demo --nj 2
"""

import argparse
import csv
import io
import logging
import multiprocessing
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from egs.demo.clips import CLIP_FRAMES, CLIP_SAMPLES, PEAK, ClipFiles, to_pcm16
from egs.demo.voices import voices_of
from utils.data.audio import read_audio, write_wav
from utils.data.constants import SAMPLE_RATE_HZ, SPLITS, VIDEO_FPS
from utils.data.files import remove_leftovers, write_text
from utils.data.jobs import Journal
from utils.data.manifest import Mixture, Utterance, write_manifest
from utils.data.phonemes import PHONEMES_NAME, Phoneme, write_phonemes
from utils.data.progress import progress_bar
from utils.errors import OptionParser, at_least, run_cli
from utils.mixing.rendering import part_paths

SAME_VOICE, DIFFERENT_VOICES = "same_voice", "different_voices"
SAME_VOICE_SHARE = {"train": 0.25, "val": 0.25, "test": 0.4}
_SIR_RANGE_DB = (-5.0, 5.0)
_OURS = re.compile(r"[fm]\d\du\d{4}(_[fm]\d\du\d{4})?\.(wav|npz)")

logger = logging.getLogger(__name__)


def main() -> int:
    args = _parse_args()
    clips = {split: _clips_of(args, split) for split in SPLITS}
    for folder in (args.data_dir, args.raw_dir):
        remove_leftovers(folder)
    _make([clip for split in SPLITS for clip in clips[split]], args.raw_dir, args.data_dir, args.nj)
    mixtures = {split: _mix(args, split, clips[split]) for split in SPLITS}  # on each run: it takes seconds
    _remove_others(args.data_dir, clips, mixtures)
    _write_manifests(args.data_dir, mixtures, clips["train"])
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="egs/demo/prepare.py", description="Makes the demo corpus.")
    parser.add_argument("--data_dir", type=Path, default=Path("data/demo"), help="gets the corpus")
    parser.add_argument("--raw_dir", type=Path, default=Path("dump/demo_corpus"), help="gets the times of words")
    parser.add_argument("--nj", type=at_least(1), default=2, help="processes")
    parser.add_argument("--seed", type=at_least(0), default=0, help="another seed, another corpus of the same speakers")
    parser.add_argument("--n_train", type=at_least(4), default=600, help="training utterances, and as many mixtures of them")
    parser.add_argument("--n_val", type=at_least(4), default=60, help="the same of the validation part")
    parser.add_argument("--n_test", type=at_least(4), default=100, help="the same of the test part")
    parser.add_argument("--face_size", type=at_least(0), default=0, help="pixels of face crops to draw; 0: only mouths")
    parser.add_argument("--max_failed", type=int, default=0, help="for stage 0; none of the demo's own clips may fail")
    return parser.parse_args()


def _clips_of(args: argparse.Namespace, split: str) -> list[ClipFiles]:
    """The clips of a part: as many of each speaker, and at least two, so that a voice can be mixed with itself."""
    n_clips = getattr(args, f"n_{split}")
    voices = voices_of(split)[: n_clips // 2]
    turns = [(voices[index % len(voices)], index // len(voices)) for index in range(n_clips)]
    return [ClipFiles(voice, number, args.seed, args.data_dir, args.face_size) for voice, number in turns]


def _make(clips: Sequence[ClipFiles], raw_dir: Path, data_dir: Path, nj: int) -> None:
    """Make the clips that are missing, damaged or outdated, and write the times of words and phonemes."""
    journal = Journal(raw_dir / "clips.jsonl")
    todo = []
    for clip in clips:
        key, result = journal.entries.get(clip.utterance_id, ("", {}))
        if key != clip.key or result["files"] != clip.hashes():
            todo.append(clip)
    journal.keep_only({clip.utterance_id for clip in clips} - {clip.utterance_id for clip in todo})
    logger.info("%s: %d of %d utterances to make", raw_dir, len(todo), len(clips))
    # a process speaks only once (see egs/demo/speech.py), hence a fresh one for each clip
    with multiprocessing.get_context("fork").Pool(nj, maxtasksperchild=1) as pool:
        results = progress_bar(pool.imap(ClipFiles.make, todo), total=len(todo), desc="utterances")
        for clip, result in zip(todo, results, strict=True):
            journal.add(clip.utterance_id, clip.key, result)
    made = {clip.utterance_id: journal.entries[clip.utterance_id][1] for clip in clips}
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(("utterance", "split", "speaker", "word", "start_sec", "end_sec"))
    for clip in clips:
        words = made[clip.utterance_id]["words"]
        rows.writerows((clip.utterance_id, clip.voice.split, clip.voice.speaker, *word) for word in words)
    write_text(raw_dir / "words.csv", buffer.getvalue())
    phonemes = [(name, [Phoneme(*phone) for phone in result["phones"]]) for name, result in made.items()]
    write_phonemes(data_dir / PHONEMES_NAME, phonemes)


def _mix(args: argparse.Namespace, split: str, clips: Sequence[ClipFiles]) -> list[Mixture]:
    rng = np.random.default_rng([args.seed, 1 + SPLITS.index(split)])
    pairs = draw_pairs(clips, int(SAME_VOICE_SHARE[split] * len(clips)), rng)
    progress = progress_bar(pairs, total=len(clips), desc=f"{split} mixtures")
    return [write_mixture(args.data_dir, split, *pair) for pair in progress]


def draw_pairs(
    clips: Sequence[ClipFiles], n_same: int, rng: np.random.Generator
) -> Iterator[tuple[tuple[ClipFiles, ClipFiles], float, str]]:
    """Draw as many different pairs as there are clips, `n_same` of one voice, that use all of them equally often.

    Yields:
        Two clips, the ratio of the first to the second in dB, and the subset.
    """
    speaker = np.array([clip.voice.speaker for clip in clips])
    uses = np.zeros(len(clips), dtype=int)
    taken = np.eye(len(clips), dtype=bool)
    for subset in rng.permutation([SAME_VOICE] * n_same + [DIFFERENT_VOICES] * (len(clips) - n_same)):
        allowed = (speaker[:, None] == speaker) == (subset == SAME_VOICE)
        allowed &= ~taken
        first = _least_used(uses, allowed.any(axis=1), rng)
        uses[first] += 1
        second = _least_used(uses, allowed[first], rng)
        uses[second] += 1
        taken[first, second] = taken[second, first] = True
        yield (clips[first], clips[second]), float(rng.uniform(*_SIR_RANGE_DB)), str(subset)


def _least_used(uses: np.ndarray, allowed: np.ndarray, rng: np.random.Generator) -> int:
    """One of the least used among the allowed, by chance."""
    candidates = np.flatnonzero(allowed)
    return int(rng.choice(candidates[uses[candidates] == uses[candidates].min()]))


def write_mixture(data_dir: Path, split: str, pair: tuple[ClipFiles, ClipFiles], sir_db: float, subset: str) -> Mixture:
    """Mix a pair at its SIR, write mixture and sources, and give its row; the SIR in it is that of the files."""
    first, second = (read_audio(data_dir / clip.audio_path).astype(float) for clip in pair)
    second *= np.sqrt(np.mean(first**2) / np.mean(second**2)) * 10 ** (-sir_db / 20)
    gain = PEAK / max(np.abs(signal).max() for signal in (first, second, first + second))
    sources = [to_pcm16(signal * gain) for signal in (first, second)]
    mixture_id = "_".join(clip.utterance_id for clip in pair)
    paths = part_paths(f"audio/{split}", mixture_id, 2)
    for path, samples in zip(paths, (sources[0] + sources[1], *sources), strict=True):
        write_wav(data_dir / path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
    powers = [np.mean(samples.astype(float) ** 2) for samples in sources]
    return Mixture(
        mixture_id=mixture_id,
        mixture_path=paths[0],
        source_paths=tuple(paths[1:]),
        noise_path="",
        length=CLIP_SAMPLES,
        mouth_paths=tuple(clip.mouth_path for clip in pair),
        frames=CLIP_FRAMES,
        fps=float(VIDEO_FPS),
        speakers=tuple(clip.voice.speaker for clip in pair),
        sir_db=round(10 * float(np.log10(powers[0] / powers[1])), 3),
        subset=subset,
    )


def _remove_others(data_dir: Path, clips: dict[str, list[ClipFiles]], mixtures: dict[str, list[Mixture]]) -> None:
    """Remove the files of an earlier run with other numbers: a folder in the DLA layout is read by its files."""
    wanted = {clip.utterance_id for split in SPLITS for clip in clips[split]}
    wanted |= {mixture.mixture_id for split in SPLITS for mixture in mixtures[split]}
    for pattern in ("mouths/*", "faces/*/*", "utterances/*", "audio/*/*/*"):
        for path in data_dir.glob(pattern):
            if _OURS.fullmatch(path.name) and path.stem not in wanted:
                path.unlink()


def _write_manifests(data_dir: Path, mixtures: dict[str, list[Mixture]], train_clips: list[ClipFiles]) -> None:
    common = {"corpus": data_dir.name, "data_root": data_dir, "sample_rate": SAMPLE_RATE_HZ}
    facts = {"length": CLIP_SAMPLES, "frames": CLIP_FRAMES, "fps": float(VIDEO_FPS)}
    utterances = [
        Utterance(clip.utterance_id, clip.voice.speaker, clip.audio_path, clip.mouth_path, **facts) for clip in train_clips
    ]
    write_manifest(data_dir / "utterances.csv", split="utterances", n_src=1, items=utterances, **common)
    for split, items in mixtures.items():
        write_manifest(data_dir / f"{split}.csv", split=split, n_src=2, items=items, **common)
        logger.info("%s: %d mixtures -> %s", split, len(items), data_dir / f"{split}.csv")


if __name__ == "__main__":
    run_cli(main)
