"""Make the demo corpus: synthetic voices with drawn mouths, in the DLA layout, and its manifests.

Writes data/demo/{audio,mouths,utterances}/, {train,val,test}.csv and utterances.csv (the training
speakers' utterances, for dynamic mixing), and in --raw_dir the times of words and phonemes.

    python egs/demo/prepare.py --data_dir data/demo --nj 2
"""

import argparse
import csv
import io
import logging
import multiprocessing
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from egs.demo.clips import CLIP_FRAMES, CLIP_SAMPLES, PEAK, ClipJob, code_fingerprint, ensure_clip, to_pcm16
from egs.demo.voices import voices_of
from utils.data.audio import read_audio, write_wav
from utils.data.constants import SAMPLE_RATE_HZ, SPLITS, VIDEO_FPS
from utils.data.files import remove_leftovers, write_text
from utils.data.manifest import Mixture, Utterance, write_manifest
from utils.errors import OptionParser, UsageError, run_cli
from utils.mixing.rendering import part_paths

SAME_VOICE, DIFFERENT_VOICES = "same_voice", "different_voices"
SAME_VOICE_SHARE = {"train": 0.25, "val": 0.25, "test": 0.4}
_SIR_RANGE_DB = (-5.0, 5.0)
_OURS = re.compile(r"[fm]\d\du\d{4}(_[fm]\d\du\d{4})?\.(wav|npz|json)")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """Two utterances to be mixed."""

    clips: tuple[ClipJob, ClipJob]
    sir_db: float  # power of the first over that of the second
    subset: str


def main() -> int:
    args = _parse_args()
    jobs = {split: _jobs(args, split) for split in SPLITS}
    flat = [job for split in SPLITS for job in jobs[split]]
    for folder in (args.data_dir, args.raw_dir):
        remove_leftovers(folder)
    logger.info("making %d utterances in %s", len(flat), args.data_dir)
    # a process speaks only once (see egs/demo/speech.py), hence a fresh one for each utterance
    with multiprocessing.get_context("fork").Pool(args.nj, maxtasksperchild=1) as pool:
        stamps = list(tqdm(pool.imap(ensure_clip, flat), total=len(flat), desc="utterances", disable=None))
    _write_words(args.raw_dir / "words.csv", flat, stamps)
    mixtures = {split: _mix(args, split, jobs[split]) for split in SPLITS}
    _remove_others(args, flat, [item.mixture_id for split in SPLITS for item in mixtures[split]])
    _write_manifests(args.data_dir, mixtures, jobs["train"])
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="egs/demo/prepare.py", description="Makes the demo corpus.")
    parser.add_argument("--data_dir", type=Path, default=Path("data/demo"), help="gets the corpus")
    parser.add_argument("--raw_dir", type=Path, default=Path("dump/demo_corpus"), help="gets the times of words and phonemes")
    parser.add_argument("--nj", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another corpus of the same speakers")
    parser.add_argument("--n_train", type=int, default=600, help="training utterances, and as many mixtures of them")
    parser.add_argument("--n_val", type=int, default=60, help="the same of the validation part")
    parser.add_argument("--n_test", type=int, default=100, help="the same of the test part")
    parser.add_argument("--max_failed", type=int, default=0, help="for stage 0; none of the demo's own clips may fail")
    args = parser.parse_args()
    for name, least in (("nj", 1), ("seed", 0), ("n_train", 4), ("n_val", 4), ("n_test", 4)):
        if getattr(args, name) < least:
            raise UsageError(f"--{name} {getattr(args, name)}: at least {least} is needed")
    return args


def _jobs(args: argparse.Namespace, split: str) -> list[ClipJob]:
    """The utterances of a part: as many from each speaker, and at least two, so that a voice can be mixed with itself."""
    code = code_fingerprint()
    n_clips = getattr(args, f"n_{split}")
    voices = voices_of(split)[: n_clips // 2]
    return [
        ClipJob(voices[index % len(voices)], index // len(voices), args.seed, args.data_dir, args.raw_dir, code)
        for index in range(n_clips)
    ]


def _mix(args: argparse.Namespace, split: str, jobs: list[ClipJob]) -> list[Mixture]:
    """Draw the pairs of a part and write them; made again on each run, which takes seconds."""
    rng = np.random.default_rng([args.seed, 1 + SPLITS.index(split)])
    pairs = draw_pairs(jobs, int(SAME_VOICE_SHARE[split] * len(jobs)), rng)
    return [write_mixture(args.data_dir, split, pair) for pair in tqdm(pairs, desc=f"{split} mixtures", disable=None)]


def draw_pairs(jobs: Sequence[ClipJob], n_same: int, rng: np.random.Generator) -> list[Pair]:
    """Draw as many different pairs as there are utterances, `n_same` of one voice, that use all of them equally often."""
    speaker = np.array([job.voice.speaker for job in jobs])
    uses = np.zeros(len(jobs), dtype=int)
    taken = np.eye(len(jobs), dtype=bool)
    pairs = []
    for subset in rng.permutation([SAME_VOICE] * n_same + [DIFFERENT_VOICES] * (len(jobs) - n_same)):
        allowed = (speaker[:, None] == speaker) == (subset == SAME_VOICE)
        allowed &= ~taken
        first = _least_used(uses, allowed.any(axis=1), rng)
        uses[first] += 1
        second = _least_used(uses, allowed[first], rng)
        uses[second] += 1
        taken[first, second] = taken[second, first] = True
        pairs.append(Pair((jobs[first], jobs[second]), float(rng.uniform(*_SIR_RANGE_DB)), str(subset)))
    return pairs


def _least_used(uses: np.ndarray, allowed: np.ndarray, rng: np.random.Generator) -> int:
    """One of the least used among the allowed, by chance."""
    candidates = np.flatnonzero(allowed)
    return int(rng.choice(candidates[uses[candidates] == uses[candidates].min()]))


def write_mixture(data_dir: Path, split: str, pair: Pair) -> Mixture:
    """Mix a pair at its SIR, write mixture and sources, and give its row; the SIR in it is that of the files."""
    first, second = (read_audio(clip.audio_path).astype(float) for clip in pair.clips)
    second *= np.sqrt(np.mean(first**2) / np.mean(second**2)) * 10 ** (-pair.sir_db / 20)
    gain = PEAK / max(np.abs(signal).max() for signal in (first, second, first + second))
    sources = [to_pcm16(signal * gain) for signal in (first, second)]
    ids = [clip.utterance_id for clip in pair.clips]
    paths = part_paths(f"audio/{split}", "_".join(ids), 2)
    for path, samples in zip(paths, (sources[0] + sources[1], *sources), strict=True):
        write_wav(data_dir / path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
    powers = [np.mean(samples.astype(float) ** 2) for samples in sources]
    return Mixture(
        mixture_id="_".join(ids),
        mixture_path=paths[0],
        source_paths=tuple(paths[1:]),
        noise_path="",
        length=CLIP_SAMPLES,
        mouth_paths=tuple(f"mouths/{name}.npz" for name in ids),
        frames=CLIP_FRAMES,
        fps=float(VIDEO_FPS),
        speakers=tuple(clip.voice.speaker for clip in pair.clips),
        sir_db=round(10 * float(np.log10(powers[0] / powers[1])), 3),
        subset=pair.subset,
    )


def _write_words(path: Path, jobs: list[ClipJob], stamps: list[dict]) -> None:
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(("utterance", "split", "speaker", "word", "start_sec", "end_sec"))
    for job, stamp in zip(jobs, stamps, strict=True):
        rows.writerows((job.utterance_id, job.voice.split, job.voice.speaker, *word) for word in stamp["words"])
    write_text(path, buffer.getvalue())


def _remove_others(args: argparse.Namespace, jobs: list[ClipJob], mixture_ids: list[str]) -> None:
    """Remove the files of an earlier run with other numbers: a folder in the DLA layout is read by its files."""
    wanted = {job.utterance_id for job in jobs} | set(mixture_ids)
    folders = [args.data_dir / "mouths", args.data_dir / "utterances", args.raw_dir / "clips"]
    folders += [args.data_dir / "audio" / split / part for split in SPLITS for part in ("mix", "s1", "s2")]
    for folder in folders:
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and path.stem not in wanted:
                path.unlink()


def _write_manifests(data_dir: Path, mixtures: dict[str, list[Mixture]], train_jobs: list[ClipJob]) -> None:
    common = {"corpus": data_dir.name, "data_root": data_dir, "sample_rate": SAMPLE_RATE_HZ}
    utterances = [
        Utterance(
            utterance_id=job.utterance_id,
            speaker=job.voice.speaker,
            audio_path=f"utterances/{job.utterance_id}.wav",
            mouth_path=f"mouths/{job.utterance_id}.npz",
            length=CLIP_SAMPLES,
            frames=CLIP_FRAMES,
            fps=float(VIDEO_FPS),
        )
        for job in train_jobs
    ]
    write_manifest(data_dir / "utterances.csv", split="utterances", n_src=1, items=utterances, **common)
    for split, items in mixtures.items():
        write_manifest(data_dir / f"{split}.csv", split=split, n_src=2, items=items, **common)
        logger.info("%s: %d mixtures -> %s", split, len(items), data_dir / f"{split}.csv")


if __name__ == "__main__":
    run_cli(main)
