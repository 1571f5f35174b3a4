"""Longer mixtures from a test set of short clips: several clips of each person, one after the other.

Reads   --data_dir: a corpus of single clips after stages 0 and 1 (<split>.csv with speakers and sources)
Writes  --out_dir in the DLA layout: audio/{mix,s1,s2}, mouths; each person's clips follow each other in both
Run     python -m utils.tools.joined_clips --data_dir data/glips --out_dir data/glips_joined --n_mixtures 100
        ./run.sh --stage 4 --test_dir data/glips_joined --exp_dir egs/own_video/pretrained --frontend_weights FILE

What a network reaches in a second it should keep up over a minute: a voice must stay in one estimate although the
recording changes, and more evidence must tell better whose it is. No clip is in a mixture twice.
"""

import argparse
from pathlib import Path

import numpy as np

from utils.corpora.joined import clips_by_speaker, joined_sound, whole_frames, write_joined_mouths
from utils.data.audio import write_wav
from utils.data.clock import frames_to_samples
from utils.data.manifest import read_manifest
from utils.errors import OptionParser, UserError, at_least, run_cli
from utils.mixing.levels import mix_at_sir

_MAX_SIR_DB = 5.0


def main() -> int:
    """Draw the mixtures and write them."""
    args = _parse_args()
    manifest = read_manifest(args.data_dir / f"{args.split}.csv")
    by_speaker = {speaker: clips for speaker, clips in clips_by_speaker(manifest).items() if len(clips) >= args.n_clips}
    if len(by_speaker) < 2:
        raise UserError(f"{manifest.path}: fewer than two speakers have {args.n_clips} clips; choose a smaller --n_clips")
    rng = np.random.default_rng(args.seed)
    for index in range(args.n_mixtures):
        speakers = rng.choice(sorted(by_speaker), 2, replace=False)
        names = [f"{speaker}-{index:04d}" for speaker in speakers]
        clips = [[by_speaker[speaker][i] for i in _draw(rng, len(by_speaker[speaker]), args.n_clips)] for speaker in speakers]
        frames = [whole_frames(manifest, each) for each in clips]
        n_frames = min(map(sum, frames))
        sources = [joined_sound(manifest, each, counts) for each, counts in zip(clips, frames, strict=True)]
        for name, own, counts in zip(names, clips, frames, strict=True):
            counts[-1] -= sum(counts) - n_frames
            write_joined_mouths(manifest, own, counts, args.out_dir / "mouths" / f"{name}.npz")
        length = frames_to_samples(n_frames, manifest.sample_rate, clips[0][0].fps)
        sir_db = rng.uniform(-_MAX_SIR_DB, _MAX_SIR_DB, 1)
        mixture, scaled = mix_at_sir(np.stack([sound[:length] for sound in sources]), sir_db)
        for part, samples in zip(("mix", "s1", "s2"), (mixture, *scaled), strict=True):
            write_wav(args.out_dir / "audio" / part / f"{'_'.join(names)}.wav", samples, manifest.sample_rate)
    print(f"{args.n_mixtures} mixtures of {len(by_speaker)} people, {args.n_clips} clips each: {args.out_dir}")
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="joined_clips", description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="data/<corpus> with mouth crops")
    parser.add_argument("--out_dir", type=Path, required=True, help="gets the mixtures")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="whose clips are taken")
    parser.add_argument("--n_clips", type=at_least(1), default=4, help="of each person, one after the other")
    parser.add_argument("--n_mixtures", type=at_least(1), default=100)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _draw(rng: np.random.Generator, size: int, count: int) -> list[int]:
    return rng.permutation(size)[:count].tolist()


if __name__ == "__main__":
    run_cli(main)
