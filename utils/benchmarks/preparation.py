"""How fast corpora are prepared: rows a second for a list as long as the published ones, mixtures a second for their audio.

Reads   --speech_dir: 16 kHz mono wav or flac of at least --seconds, from which clips are cut
Writes  a Markdown table to the standard output, and into a section of --results; a miniature corpus in --work_dir, removed
        afterwards: the rows are links to a few hundred files
Run     python -m utils.benchmarks.preparation --speech_dir SPEECH --nj 2

Files that were read once come from memory; a disk that must seek for every one of them is slower.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.benchmarks.sections import add_results_options, origin, write_section
from utils.data.audio import EXTENSIONS, read_audio, write_wav
from utils.data.corpus_output import keep_usable, write_corpus
from utils.data.list_maker import ListClip, ListOptions, draw_mixtures
from utils.data.mix_lists import ListedMixture, read_mix_list, write_mix_list
from utils.data.mixture_making import MixClip, MixingOptions, make_mixtures
from utils.data.public_lists import INTERFERER_OVER_TARGET, mixture_name, read_extraction_csv
from utils.data.two_mix import VOXCELEB2, read_two_mix
from utils.errors import OptionParser, UserError, run_cli

RATE_HZ = 16000
FPS = 25


class Measured(NamedTuple):
    """A step, how many rows or mixtures it had, and what they took; CPU seconds count on a machine with other work."""

    step: str
    count: int
    seconds: float
    cpu_sec: float


def main() -> None:
    """Measure each step once, print the table."""
    args = _parse_args()
    with tempfile.TemporaryDirectory(dir=args.work_dir, prefix="preparation-") as folder:
        root = Path(folder)
        clips = _cut_clips(args.speech_dir, root / "clips", args.clips, args.seconds)
        measured = [*_rows(root, clips, args), *_mixtures(root, clips, args)]
    facts = f"clips of {args.seconds:g} s from {args.speech_dir}, {args.nj} threads or processes where the table says so"
    text = table(measured) + "\n" + origin("utils.benchmarks.preparation", 1, facts)
    print(text, end="")
    if args.results:
        write_section(args.results, args.section, text)


def _rows(root: Path, clips: dict[str, MixClip], args: argparse.Namespace) -> list[Measured]:
    """What is done with rows alone."""
    listed = _timed(lambda: draw_mixtures(_list_clips(clips), "train", args.rows, 0))
    _write_extraction_csv(root / "list.csv", listed[0])
    write_mix_list(root / "own.csv", listed[0])
    public = _timed(lambda: read_extraction_csv(root / "list.csv", sir_convention=INTERFERER_OVER_TARGET))
    own = _timed(lambda: read_mix_list(root / "own.csv"))
    if len(public[0].mixtures) != args.rows or len(own[0].mixtures) != args.rows:
        raise RuntimeError("a list of the benchmark was not read whole")
    corpus = root / "two_mix"
    _link_two_mix(corpus, listed[0], clips)
    quick = _timed(lambda: _prepare(corpus, root / "quick", args.rows, deep=False, nj=args.nj))
    deep = _timed(lambda: _prepare(corpus, root / "deep", args.deep_rows, deep=True, nj=args.nj))
    return [
        Measured("draw a list", args.rows, *listed[1:]),
        Measured("read the extraction family's CSV", args.rows, *public[1:]),
        Measured("read our own list", args.rows, *own[1:]),
        Measured("2Mix folder to manifests, headers of the mixtures alone", args.rows, *quick[1:]),
        Measured(f"2Mix folder to manifests, every file decoded, {args.nj} threads", args.deep_rows, *deep[1:]),
    ]


def _mixtures(root: Path, clips: dict[str, MixClip], args: argparse.Namespace) -> list[Measured]:
    """The making of audio."""
    kinds = {
        "2 voices": (ListOptions(), MixingOptions(), 1),
        f"2 voices, {args.nj} processes": (ListOptions(), MixingOptions(), args.nj),
        "2 voices, active level": (ListOptions(), MixingOptions(measure="active"), 1),
        "3 voices": (ListOptions(n_src=3), MixingOptions(), 1),
    }
    measured = []
    for number, (name, (draw, mixing, nj)) in enumerate(kinds.items()):
        listed = draw_mixtures(_list_clips(clips), "train", args.mixtures, 1, draw)
        folder = root / f"made-{number}"
        (made, problems), seconds, cpu_sec = _timed(lambda: make_mixtures(folder, listed, clips, mixing, nj))  # noqa: B023 called at once
        if problems or len(made) != args.mixtures:
            raise RuntimeError(f"the benchmark's mixtures failed: {problems[:1]}")
        measured.append(Measured(f"audio of mixtures of {args.seconds:g} s: {name}", args.mixtures, seconds, cpu_sec))
    return measured


def _prepare(corpus: Path, data_dir: Path, n_rows: int, *, deep: bool, nj: int) -> None:
    mixtures, problems = read_two_mix(corpus, VOXCELEB2)
    kept, found = keep_usable(mixtures["train"][:n_rows], corpus, RATE_HZ, deep=deep, nj=nj)
    if problems or found:
        raise RuntimeError(f"the benchmark's corpus is not whole: {(problems + found)[0]}")
    write_corpus(data_dir, corpus, RATE_HZ, {"train": kept})


def _timed(function: Callable) -> tuple[Any, float, float]:
    """What a function gives, the seconds that it took, and those of the processors, its processes included."""
    start_sec, start_cpu_sec = time.perf_counter(), sum(os.times()[:4])
    result = function()
    return result, time.perf_counter() - start_sec, sum(os.times()[:4]) - start_cpu_sec


def _cut_clips(speech_dir: Path, folder: Path, n_clips: int, seconds: float) -> dict[str, MixClip]:
    """Clips of real speech, each file's as those of a speaker, with mouths; named as VoxCeleb2's are."""
    paths = sorted(path for path in speech_dir.rglob("*") if path.suffix.lower() in EXTENSIONS)
    length = round(seconds * RATE_HZ)
    crops = np.random.default_rng(0).integers(0, 30, (round(seconds * FPS), 96, 96), dtype=np.uint8)
    clips: dict[str, MixClip] = {}
    for speaker, path in enumerate(paths):
        samples = read_audio(path, sample_rate=RATE_HZ)
        for part in range(min(len(samples) // length, -(-n_clips // len(paths)))):
            stretch = samples[part * length : (part + 1) * length]
            if len(clips) == n_clips or not np.abs(stretch).max() > 1e-3:
                continue
            name = f"id{speaker:05d}_abcdefghij-_{part:05d}"
            write_wav(folder / f"{name}.wav", stretch, RATE_HZ, "PCM_16")
            np.savez_compressed(folder / f"{name}.npz", data=crops)
            clips[name] = MixClip(folder / f"{name}.wav", f"mouths/{name}.npz", f"id{speaker:05d}", length)
    if len({clip.speaker for clip in clips.values()}) < 3:
        raise UserError(f"--speech_dir {speech_dir}: fewer than 3 files last {seconds:g} s; give more speech")
    return clips


def _list_clips(clips: dict[str, MixClip]) -> list[ListClip]:
    return [ListClip(name, clip.speaker, clip.length) for name, clip in clips.items()]


def _write_extraction_csv(path: Path, listed: Sequence[ListedMixture]) -> None:
    lines = []
    for item in listed:
        voices = []
        for voice in item.voices:
            speaker, video, clip = voice.utterance_id.split("_")
            voices.append(f"train,{speaker},{video}/{clip},{voice.level_db:g}")
        lines.append(f"train,{','.join(voices)},2.0\n")
    path.write_text("".join(lines), encoding="utf-8")


def _link_two_mix(root: Path, listed: Sequence[ListedMixture], clips: dict[str, MixClip]) -> None:
    """A 2Mix folder whose files are links: a row costs as many files to open as in a real one."""
    for part in ("mix", "s1", "s2"):
        (root / "audio/wav16k/min/tr" / part).mkdir(parents=True)
    (root / "mouths").mkdir()
    for name, clip in clips.items():
        os.symlink(clip.audio_path.with_suffix(".npz"), root / "mouths" / f"{name}.npz")
    for item in listed:
        first, second = (clips[voice.utterance_id].audio_path for voice in item.voices)
        for part, target in (("mix", first), ("s1", first), ("s2", second)):
            os.symlink(target, root / f"audio/wav16k/min/tr/{part}/{mixture_name(item.voices)}.wav")


def table(measured: Sequence[Measured]) -> str:
    """Markdown: what was done, how often, and how often a second.

    Args:
        measured: the steps.
    """
    lines = ["| step | rows or mixtures | seconds | a second | CPU seconds | a CPU second |", "|---" * 6 + "|"]
    lines += [
        f"| {m.step} | {m.count} | {m.seconds:.2f} | {m.count / m.seconds:.0f} | {m.cpu_sec:.2f} | {_per_second(m)} |"
        for m in measured
    ]
    return "\n".join([*lines, ""])


def _per_second(measured: Measured) -> str:
    return f"{measured.count / measured.cpu_sec:.0f}" if measured.cpu_sec >= 0.05 else "–"  # the clock ticks every 10 ms


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speech_dir", type=Path, required=True, help="folder of 16 kHz mono wav or flac")
    parser.add_argument("--rows", type=int, default=28000, help="rows of the list")
    parser.add_argument("--deep_rows", type=int, default=2000, help="of them, those whose files are all decoded")
    parser.add_argument("--mixtures", type=int, default=400, help="mixtures whose audio is made, of each kind")
    parser.add_argument("--clips", type=int, default=400, help="clips to cut")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a clip")
    parser.add_argument("--nj", type=int, default=2, help="threads and processes")
    parser.add_argument("--work_dir", type=Path, help="for the miniature corpus; default: the system's temporary folder")
    add_results_options(parser, "preparation")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
