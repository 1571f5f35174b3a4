"""How a trained network stands conditions that it may meet: late, missing or wrong faces, more voices, noise, length.

Reads   exp/<tag>/best_model.pth and frontend.json, the sources that a manifest names, and the embeddings of stage 2
        (dump/embeddings); with --twin_exp_dir an audio-only network that hears the same.
Writes  --out_dir (exp/<tag>/robustness/<test name>): robustness.{json,md,png}; the table also to the standard output, and
        with --results into a section of that file.
Run     python -m utils.tools.robustness --exp_dir exp/avdprnn_demo --twin_exp_dir exp/dprnn_demo \\
            --manifest data/demo/test.csv --results RESULTS.md --section robustness-demo

Mixtures are the sums of their sources, without the manifest's noise. SI-SNRi is the mean over a mixture's voices of SI-SNR
of the estimate less that of the mixture, then the mean over mixtures: stage 5's, but for mixtures with a silent estimate,
which has no SI-SNR. Stage 5 takes the mean over their other voices; here they have no value, and n counts them.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from utils.data.experiments import open_experiment
from utils.data.files import write_json, write_text
from utils.data.manifest import Manifest, read_manifest
from utils.embedding.store import EmbeddingStore
from utils.errors import OptionParser, UserError, run_cli
from utils.tools.long_recordings import HOP_SEC, WINDOW_SEC, check_window_options
from utils.tools.robustness_conditions import CLEAN, SI_SNRI_BEST, Condition, Trial, all_conditions, read_noises, score
from utils.tools.robustness_report import draw, gate, results_json, table
from utils.tools.robustness_voices import Example, VoiceBank, check_manifest, spread
from utils.tools.sections import add_results_options, origin, write_section

if TYPE_CHECKING:
    from utils.separation.mixtures import Separator


@dataclass(frozen=True)
class How:
    """How to separate."""

    window_sec: float = WINDOW_SEC
    hop_sec: float = HOP_SEC
    batch_size: int = 8
    seed: int = 0


@dataclass(eq=False)
class Outcome:
    """What came of a condition."""

    condition: Condition
    n_trials: int = 0
    scores: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))  # by measure and mixture
    twin: dict[str, float] = field(default_factory=dict)  # SI-SNRi in the best order, by mixture
    missing_frames: float = 0.0  # share of the video frames without embedding, over all faces and trials
    changed_joins: float | None = None  # share of the joins at which a face changes its speaker


def main() -> int:
    """Check everything that is cheap to check, then measure."""
    args = parse_args()
    frontend = open_experiment(args.exp_dir, needs_weights=False).frontend
    if frontend is None:
        raise UserError(f"--exp_dir {args.exp_dir}: audio-only, it sees no faces; give it as --twin_exp_dir")
    if args.twin_exp_dir and open_experiment(args.twin_exp_dir, option="--twin_exp_dir").frontend:
        raise UserError(f"--twin_exp_dir {args.twin_exp_dir}: needs faces itself; give an audio-only experiment")
    manifest = read_manifest(args.manifest)
    check_manifest(manifest)
    store = EmbeddingStore(args.dump_dir / "embeddings" / frontend.store_name / manifest.corpus)
    noises = read_noises(args.noise_dir, manifest.sample_rate)

    import torch  # only now, after the paths were found good

    torch.set_num_threads(args.threads)
    separator, twin = _load(args.exp_dir, manifest, args.device), None
    if args.twin_exp_dir:
        twin = _load(args.twin_exp_dir, manifest, args.device)
    bank = VoiceBank(manifest, store, separator.fps)
    examples = bank.examples(args.max_mixtures)
    audio_sec = sum(example.sources.shape[1] for example in examples) / manifest.sample_rate
    how = How(args.window_sec, args.hop_sec, args.batch_size, args.seed)
    outcomes = measure(all_conditions(bank, noises, audio_sec), examples, separator, twin, how)
    report(outcomes, args, manifest)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="robustness", description="How a trained network stands conditions that it may meet.")
    parser.add_argument("--exp_dir", type=Path, required=True, help="experiment of an audio-visual network")
    parser.add_argument("--twin_exp_dir", type=Path, help="experiment of an audio-only network, to compare with")
    parser.add_argument("--manifest", type=Path, required=True, help="CSV of two-voice mixtures with references and mouths")
    parser.add_argument("--max_mixtures", type=int, default=40, help="mixtures to try, spread evenly over the manifest")
    parser.add_argument("--noise_dir", type=Path, help="noise files to try, at the manifest's sample rate")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="stores are in dump_dir/embeddings")
    parser.add_argument("--window_sec", type=float, default=WINDOW_SEC, help="longer recordings are separated in windows")
    parser.add_argument("--hop_sec", type=float, default=HOP_SEC, help="from window to window")
    parser.add_argument("--batch_size", type=int, default=8, help="equally long mixtures separated at once")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--out_dir", type=Path, help="default: robustness/<test name> in the experiment")
    add_results_options(parser, "robustness")
    args = parser.parse_args()
    for name, least in (("max_mixtures", 2), ("batch_size", 1), ("threads", 1), ("seed", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name} {getattr(args, name)} must be at least {least}")
    check_window_options(parser, args)
    return args


def _load(exp_dir: Path, manifest: Manifest, device: str) -> "Separator":
    """A network that fits the manifest, on the device.

    Raises:
        UserError: it does not, or there is no such device.
    """
    import torch

    from utils.separation.mixtures import load_separator

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {device}: torch finds no such device; cpu is always there") from None
    separator = load_separator(exp_dir, device)
    if separator.sample_rate != manifest.sample_rate:
        raise UserError(
            f"{manifest.path}: {manifest.sample_rate} Hz where {exp_dir} was trained for {separator.sample_rate} Hz"
        )
    if not separator.needs_faces and separator.n_src != manifest.n_src:
        raise UserError(
            f"{exp_dir}: gives {separator.n_src} voices where the mixtures of {manifest.path} have {manifest.n_src}"
        )
    return separator


def measure(
    conditions: Sequence[Condition], examples: Sequence[Example], separator: "Separator", twin: "Separator | None", how: How
) -> dict[str, Outcome]:
    """Try every condition on the examples; outcomes by the condition's name."""
    outcomes: dict[str, Outcome] = {}
    twin_scores: dict[str, dict[str, float]] = {}  # by what is heard: the twin does not see what else differs
    for condition in tqdm(conditions, disable=None, unit="condition"):
        chosen = spread(examples, condition.n_most or len(examples))
        made = {example.item.mixture_id: condition.trial(example, how.seed) for example in chosen}
        trials = {name: trial for name, trial in made.items() if trial is not None}
        outcome = outcomes[condition.name] = Outcome(condition, len(trials))
        for name, estimates in separate_trials(separator, trials, how):
            for what in condition.measures:
                outcome.scores[what][name] = score(what, estimates, trials[name])
        if twin is not None and condition.sound:
            if condition.sound not in twin_scores:
                heard = separate_trials(twin, trials, how)
                twin_scores[condition.sound] = {name: score(SI_SNRI_BEST, voices, trials[name]) for name, voices in heard}
            outcome.twin = twin_scores[condition.sound]
        if trials:
            outcome.missing_frames = float(np.mean([np.mean(~trial.cues.any(axis=-1)) for trial in trials.values()]))
            joins = [trial.changed_joins for trial in trials.values() if trial.changed_joins is not None]
            outcome.changed_joins = float(np.mean(joins)) if joins else None
    return outcomes


def separate_trials(separator: "Separator", trials: dict[str, Trial], how: How) -> Iterator[tuple[str, np.ndarray]]:
    """Each trial's name with its estimates (voices, time); what lasts longer than a window goes stage 4's way."""
    import torch

    from utils.separation.overlap_add import check_windows, separate_long, separate_window

    window_frames, _ = check_windows(how.window_sec, how.hop_sec, separator.fps)
    alike: dict[tuple, list[str]] = defaultdict(list)
    for name, trial in trials.items():
        alike[(len(trial.mixture), trial.cues.shape)].append(name)
    for (_, shape), names in alike.items():
        is_long = shape[1] > window_frames
        batch_size = 1 if is_long else how.batch_size
        for batch in (names[start : start + batch_size] for start in range(0, len(names), batch_size)):
            mixtures = torch.from_numpy(np.stack([trials[name].mixture for name in batch]))
            cues = torch.from_numpy(np.stack([trials[name].cues for name in batch])) if separator.needs_faces else None
            if is_long:
                clocks = {"sample_rate": separator.sample_rate, "fps": separator.fps}
                windows = {"window_sec": how.window_sec, "hop_sec": how.hop_sec}
                faces = None if cues is None else cues[0]
                yield batch[0], separate_long(separator.network, mixtures[0], faces, **windows, **clocks).numpy()
            else:
                yield from zip(batch, separate_window(separator.network, mixtures, cues).numpy(), strict=True)


def report(outcomes: dict[str, Outcome], args: argparse.Namespace, manifest: Manifest) -> None:
    """Print the table, write it with its JSON and its picture."""
    test_name = f"{manifest.path.resolve().parent.name}_{manifest.path.stem}"
    out_dir = args.out_dir or args.exp_dir / "robustness" / test_name
    twin_name = args.twin_exp_dir.resolve().name if args.twin_exp_dir else ""
    names = {"model": args.exp_dir.resolve().name, "twin": twin_name}
    n_mixtures = outcomes[CLEAN].n_trials
    facts = f"{n_mixtures} of the {len(manifest.items)} mixtures of {args.manifest}, seed {args.seed}"
    windows = f"windows of {args.window_sec:g} s every {args.hop_sec:g} s"
    text = f"{table(outcomes, **names)}\n{gate(outcomes)}\n\n"
    text += origin("utils.tools.robustness", args.threads, facts, windows, f"device: {args.device}")
    print(text)
    write_text(out_dir / "robustness.md", text)
    write_json(
        out_dir / "robustness.json", {**names, "manifest": str(args.manifest), "seed": args.seed} | results_json(outcomes)
    )
    draw(outcomes, out_dir / "robustness.png", f"{names['model']}, {n_mixtures} mixtures of {test_name}", twin_name)
    if args.results:
        write_section(args.results, args.section, text)


if __name__ == "__main__":
    run_cli(main)
