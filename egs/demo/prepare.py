"""Make the demo corpus: synthetic voices with drawn mouths, in the DLA layout, and its manifests.

Writes data/demo/{audio,mouths,utterances}/, {train,val,test}.csv and utterances.csv (the training
speakers' utterances, for dynamic mixing), and in --raw_dir the times of words and phonemes.

    python egs/demo/prepare.py --data_dir data/demo --nj 2
"""

import csv
import io
import logging
import multiprocessing
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils.data.constants import SAMPLE_RATE_HZ, SPLITS, VIDEO_FPS
from utils.errors import OptionParser, UsageError, run_cli

SAME_VOICE_SHARE = {"train": 0.25, "val": 0.25, "test": 0.4}
_OURS = re.compile(r"[fm]\d\du\d{4}(_[fm]\d\du\d{4})?\.(wav|npz|json)")

logger = logging.getLogger(__name__)


def main() -> int:
    args = _parse_args()
    from tqdm import tqdm

    from egs.demo.clips import ensure_clip
    from utils.data.files import remove_leftovers

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


def _parse_args():
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


def _jobs(args, split: str) -> list:
    """The utterances of a part: as many from each speaker, and at least two, so that a voice can be mixed with itself."""
    from egs.demo.clips import ClipJob, code_fingerprint
    from egs.demo.voices import voices_of

    code = code_fingerprint()
    n_clips = getattr(args, f"n_{split}")
    voices = voices_of(split)[: n_clips // 2]
    return [
        ClipJob(voices[index % len(voices)], index // len(voices), args.seed, args.data_dir, args.raw_dir, code)
        for index in range(n_clips)
    ]


def _mix(args, split: str, jobs: list) -> list:
    """Draw the pairs of a part and write them; made again on each run, which takes seconds."""
    import numpy as np
    from tqdm import tqdm

    from egs.demo.mixing import draw_pairs, write_mixture

    rng = np.random.default_rng([args.seed, 1 + SPLITS.index(split)])
    ids, speakers = [job.utterance_id for job in jobs], [job.voice.speaker for job in jobs]
    pairs = draw_pairs(ids, speakers, len(jobs), int(SAME_VOICE_SHARE[split] * len(jobs)), rng)
    return [write_mixture(args.data_dir, split, pair) for pair in tqdm(pairs, desc=f"{split} mixtures", disable=None)]


def _write_words(path: Path, jobs: list, stamps: list[dict]) -> None:
    from utils.data.files import write_text

    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(("utterance", "split", "speaker", "word", "start_sec", "end_sec"))
    for job, stamp in zip(jobs, stamps, strict=True):
        rows.writerows((job.utterance_id, job.voice.split, job.voice.speaker, *word) for word in stamp["words"])
    write_text(path, buffer.getvalue())


def _remove_others(args, jobs: list, mixture_ids: list[str]) -> None:
    """Remove the files of an earlier run with other numbers: a folder in the DLA layout is read by its files."""
    wanted = {job.utterance_id for job in jobs} | set(mixture_ids)
    folders = [args.data_dir / "mouths", args.data_dir / "utterances", args.raw_dir / "clips"]
    folders += [args.data_dir / "audio" / split / part for split in SPLITS for part in ("mix", "s1", "s2")]
    for folder in folders:
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and path.stem not in wanted:
                path.unlink()


def _write_manifests(data_dir: Path, mixtures: dict[str, list], train_jobs: list) -> None:
    from egs.demo.clips import CLIP_FRAMES, CLIP_SAMPLES
    from utils.data.manifest import Utterance, write_manifest

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
