"""Scores of a trained network under adverse conditions: late, missing or wrong faces, more speakers, noise, length.

Reads   exp/<tag>/best_model.pth and frontend.json, the sources that a manifest names, and the embeddings of stage 2
        (dump/embeddings); with --baseline_exp_dir an audio-only baseline that separates the same mixtures.
Writes  --out_dir (exp/<tag>/robustness/<test name>): robustness.{json,md,png}; the table also to the standard output,
        and with --results into a section of that file.
Run     python -m utils.tools.robustness --exp_dir exp/demo_demo --baseline_exp_dir exp/demo_audio_only_demo \\
            --manifest data/demo/test.csv --results RESULTS.md --section robustness-demo

Mixtures are the sums of their sources, without the manifest's noise. SI-SNRi is the mean over a mixture's sources of
SI-SNR of the estimate less that of the mixture, then the mean over mixtures: stage 5's, but for mixtures with a silent
estimate, which has no SI-SNR. Stage 5 takes the mean over their other sources; here they have no value, and n counts
them.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from utils.data.experiments import open_experiment
from utils.data.files import atomic_path, write_json, write_text
from utils.data.manifest import Manifest, read_manifest
from utils.data.reports import markdown_table
from utils.embedding.store import EmbeddingStore
from utils.errors import OptionParser, UserError, run_cli
from utils.tools.long_recordings import HOP_SEC, WINDOW_SEC, check_window_options
from utils.tools.robustness_conditions import (
    ACCURACY,
    ALL_MISSING,
    CLEAN,
    MISSING_SHARES,
    OFFSETS_FRAMES,
    SI_SNRI,
    SI_SNRI_BEST,
    SWAPPED,
    Condition,
    Example,
    SourceBank,
    Trial,
    all_conditions,
    check_manifest,
    missing_name,
    offset_name,
    read_noises,
    score,
    spread,
)
from utils.tools.sections import add_results_options, origin, publish

if TYPE_CHECKING:
    from utils.separation.mixtures import Separator

BOTH_ACCURACY = "assignment accuracy with own and with swapped faces (%)"
NOTE = (
    "Mean ± standard error over mixtures. The audio-only baseline is always scored in the best order; where only the "
    "faces differ it has the score of the clean mixtures. Assignment accuracy: share of the mixtures in which every "
    "estimate is nearest (SI-SNR) to the source of the face that was given."
)


@dataclass(frozen=True)
class Settings:
    """Windows, batches and seed of a separation."""

    window_sec: float = WINDOW_SEC
    hop_sec: float = HOP_SEC
    batch_size: int = 8
    seed: int = 0


@dataclass(eq=False)
class Outcome:
    """Scores of a condition."""

    condition: Condition
    n_trials: int = 0
    scores: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))  # by measure and mixture
    baseline: dict[str, float] = field(default_factory=dict)  # SI-SNRi in the best order, by mixture
    missing_frames: float = 0.0  # share of the video frames without embedding, over all faces and trials
    changed_joins: float | None = None  # share of the joins at which a face changes its speaker


class Statistic(NamedTuple):
    """Of the values that are numbers."""

    mean: float | None
    standard_error: float | None
    n: int

    def __str__(self) -> str:
        if self.mean is None:
            return "–"
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2f}"
        return f"{round(self.mean, 2) + 0.0:.2f}{error}"  # + 0.0: no minus zeros


def main() -> int:
    """Check everything that is cheap to check, then measure."""
    args = parse_args()
    frontend = open_experiment(args.exp_dir, needs_weights=False).frontend
    if frontend is None:
        raise UserError(f"--exp_dir {args.exp_dir}: audio-only, it takes no faces; give it as --baseline_exp_dir")
    baseline_options = {"option": "--baseline_exp_dir", "needs_weights": False}
    if args.baseline_exp_dir and open_experiment(args.baseline_exp_dir, **baseline_options).frontend:
        raise UserError(f"--baseline_exp_dir {args.baseline_exp_dir}: needs faces itself; give an audio-only one")
    manifest = read_manifest(args.manifest)
    check_manifest(manifest)
    store = EmbeddingStore(args.dump_dir / "embeddings" / frontend.store_name / manifest.corpus)
    noises = read_noises(args.noise_dir, manifest.sample_rate)

    import torch  # only now, after the paths were found good

    torch.set_num_threads(args.threads)
    separator = _load(args.exp_dir, manifest, args.device)
    baseline = _load(args.baseline_exp_dir, manifest, args.device) if args.baseline_exp_dir else None
    bank = SourceBank(manifest, store, separator.fps)
    examples = bank.examples(args.max_mixtures)
    audio_sec = sum(example.sources.shape[1] for example in examples) / manifest.sample_rate
    settings = Settings(args.window_sec, args.hop_sec, args.batch_size, args.seed)
    outcomes = measure(all_conditions(bank, noises, audio_sec), examples, separator, baseline, settings)
    report(outcomes, args, manifest)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="robustness", description="Scores of a trained network under adverse conditions.")
    parser.add_argument("--exp_dir", type=Path, required=True, help="experiment of an audio-visual network")
    parser.add_argument("--baseline_exp_dir", type=Path, help="experiment of an audio-only network, to compare with")
    parser.add_argument("--manifest", type=Path, required=True, help="CSV of mixtures of two sources with references")
    parser.add_argument("--max_mixtures", type=int, default=40, help="mixtures to try, spread evenly over the manifest")
    parser.add_argument("--noise_dir", type=Path, help="noise files to try, at the manifest's sample rate")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="stores are in dump_dir/embeddings")
    parser.add_argument("--window_sec", type=float, default=WINDOW_SEC, help="of longer recordings")
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
        raise UserError(f"--device {device}: torch finds no such device; give cpu") from None
    separator = load_separator(exp_dir, device)
    if separator.sample_rate != manifest.sample_rate:
        raise UserError(
            f"{manifest.path}: {manifest.sample_rate} Hz where {exp_dir} was trained for {separator.sample_rate} Hz"
        )
    if not separator.needs_faces and separator.n_src != manifest.n_src:
        raise UserError(
            f"{exp_dir}: gives {separator.n_src} estimates where the mixtures of {manifest.path} have {manifest.n_src} sources"
        )
    return separator


def measure(
    conditions: Sequence[Condition],
    examples: Sequence[Example],
    separator: "Separator",
    baseline: "Separator | None",
    settings: Settings,
) -> dict[str, Outcome]:
    """Try every condition on the examples; outcomes by the condition's name."""
    outcomes: dict[str, Outcome] = {}
    baseline_scores: dict[str, dict[str, float]] = {}  # by mixtures: all else that differs are faces
    for condition in tqdm(conditions, disable=None, unit="condition"):
        chosen = spread(examples, condition.n_most or len(examples))
        made = {example.item.mixture_id: condition.trial(example, settings.seed) for example in chosen}
        trials = {name: trial for name, trial in made.items() if trial is not None}
        outcome = outcomes[condition.name] = Outcome(condition, len(trials))
        for name, estimates in separate_trials(separator, trials, settings):
            for kind in condition.measures:
                outcome.scores[kind][name] = score(kind, estimates, trials[name])
        if baseline is not None and condition.sound:
            if condition.sound not in baseline_scores:
                separated = separate_trials(baseline, trials, settings)
                scores = {name: score(SI_SNRI_BEST, estimates, trials[name]) for name, estimates in separated}
                baseline_scores[condition.sound] = scores
            outcome.baseline = baseline_scores[condition.sound]
        if trials:
            outcome.missing_frames = float(np.mean([np.mean(~trial.visual.any(axis=-1)) for trial in trials.values()]))
            joins = [trial.changed_joins for trial in trials.values() if trial.changed_joins is not None]
            outcome.changed_joins = float(np.mean(joins)) if joins else None
    return outcomes


def separate_trials(separator: "Separator", trials: dict[str, Trial], settings: Settings) -> Iterator[tuple[str, np.ndarray]]:
    """Each trial's name with its estimates (n_src, time); trials longer than a window are separated in windows."""
    import torch

    from utils.separation.overlap_add import check_windows, separate_long, separate_window

    window_frames, _ = check_windows(settings.window_sec, settings.hop_sec, separator.fps)
    alike: dict[tuple, list[str]] = defaultdict(list)
    for name, trial in trials.items():
        alike[(len(trial.mixture), trial.visual.shape)].append(name)
    for (_, shape), names in alike.items():
        is_long = shape[1] > window_frames
        batch_size = 1 if is_long else settings.batch_size
        for batch in (names[start : start + batch_size] for start in range(0, len(names), batch_size)):
            mixtures = torch.from_numpy(np.stack([trials[name].mixture for name in batch]))
            visual = None
            if separator.needs_faces:
                visual = torch.from_numpy(np.stack([trials[name].visual for name in batch]))
            if is_long:
                clocks = {"sample_rate": separator.sample_rate, "fps": separator.fps}
                windows = {"window_sec": settings.window_sec, "hop_sec": settings.hop_sec}
                faces = None if visual is None else visual[0]
                yield batch[0], separate_long(separator.network, mixtures[0], faces, **windows, **clocks).numpy()
            else:
                yield from zip(batch, separate_window(separator.network, mixtures, visual).numpy(), strict=True)


def report(outcomes: dict[str, Outcome], args: argparse.Namespace, manifest: Manifest) -> None:
    """Print the table, write it with its JSON and its picture."""
    test_name = f"{manifest.path.resolve().parent.name}_{manifest.path.stem}"
    out_dir = args.out_dir or args.exp_dir / "robustness" / test_name
    baseline = args.baseline_exp_dir.resolve().name if args.baseline_exp_dir else ""
    names = {"model": args.exp_dir.resolve().name, "baseline": baseline}
    n_mixtures = outcomes[CLEAN].n_trials
    facts = f"{n_mixtures} of the {len(manifest.items)} mixtures of {args.manifest}, seed {args.seed}"
    windows = f"windows of {args.window_sec:g} s every {args.hop_sec:g} s"
    text = f"{table(outcomes, **names)}\n{gate(outcomes)}\n\n"
    text += origin("utils.tools.robustness", args.threads, facts, windows, f"device: {args.device}")
    publish(text, args.results, args.section)
    write_text(out_dir / "robustness.md", text)
    numbers = {**names, "manifest": str(args.manifest), "seed": args.seed, **results_json(outcomes)}
    write_json(out_dir / "robustness.json", numbers)
    draw(outcomes, out_dir / "robustness.png", f"{names['model']}, {n_mixtures} mixtures of {test_name}", baseline)


def statistic(values: Iterable[float]) -> Statistic:
    """Mean and standard error of the mean; None where there are too few values."""
    finite = np.array([value for value in values if not np.isnan(value)])
    if not len(finite):
        return Statistic(None, None, 0)
    error = float(finite.std(ddof=1) / len(finite) ** 0.5) if len(finite) > 1 else None
    return Statistic(float(finite.mean()), error, len(finite))


def rows(outcomes: dict[str, Outcome]) -> list[tuple[str, str, Statistic, Statistic, int]]:
    """(condition, measure, model, baseline, trials) in order; the baseline has improvements only."""
    found = []
    for name, outcome in outcomes.items():
        if outcome.changed_joins is not None:
            name += f" (a face changes its speaker at {outcome.changed_joins:.0%} of the joins)".replace("%", " %")
        for measure in outcome.condition.measures:
            is_improvement = measure in (SI_SNRI, SI_SNRI_BEST)
            baseline = statistic(outcome.baseline.values() if is_improvement else ())
            found.append((name, measure, statistic(outcome.scores[measure].values()), baseline, outcome.n_trials))
    both = both_accurate(outcomes)
    return [*found, (f"{CLEAN} and swapped", BOTH_ACCURACY, both, statistic(()), both.n)]


def both_accurate(outcomes: dict[str, Outcome]) -> Statistic:
    """Share of the mixtures in which every estimate is nearest to the source of its face, both ways; percent."""
    own, swapped = (outcomes[name].scores[ACCURACY] for name in (CLEAN, SWAPPED))
    return statistic(min(own[name], swapped[name]) for name in own)


def table(outcomes: dict[str, Outcome], model: str, baseline: str) -> str:
    """The Markdown table; n says how many have a value where a silent output left some without one."""
    lines = [["condition", "measure", model, baseline or "no baseline", "n"]]
    for name, measure, of_model, of_baseline, n_trials in rows(outcomes):
        n = str(n_trials) if of_model.n == n_trials else f"{of_model.n} of {n_trials}"
        lines.append([name, measure, str(of_model), str(of_baseline), n])
    return f"{markdown_table(lines, n_left=2)}\n{NOTE}\n"


def gate(outcomes: dict[str, Outcome]) -> str:
    """The network without any face beside the audio-only baseline."""
    outcome = outcomes[ALL_MISSING]
    without_faces = outcome.scores[SI_SNRI_BEST]
    text = f"**All faces missing: {statistic(without_faces.values())} dB"
    if not outcome.baseline:
        return f"{text}** (SI-SNRi, best order; no baseline given)"
    difference = statistic(without_faces[name] - outcome.baseline[name] for name in without_faces)
    of_baseline = statistic(outcome.baseline.values())
    return f"{text}, baseline {of_baseline} dB, difference {difference} dB** (SI-SNRi, best order)"


def results_json(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """All numbers as plain JSON: the table's rows, and each condition's facts."""
    listed = [
        {"condition": name, "measure": measure, "model": model._asdict(), "baseline": other._asdict(), "n_trials": n}
        for name, measure, model, other, n in rows(outcomes)
    ]
    facts = {
        name: {"missing_frames": outcome.missing_frames, "changed_joins": outcome.changed_joins}
        for name, outcome in outcomes.items()
    }
    return {"rows": listed, "conditions": facts}


def draw(outcomes: dict[str, Outcome], path: Path, title: str, baseline: str) -> None:
    """Draw SI-SNRi over the offset of the faces and over the share of missing frames, the baseline as a line."""
    from matplotlib.figure import Figure

    def of(name: str, measure: str = SI_SNRI) -> Statistic:
        return statistic(outcomes[name].scores[measure].values())

    offsets = {by: of(offset_name(by)) for by in OFFSETS_FRAMES} | {0: of(CLEAN)}
    missing = {100 * share: of(missing_name(share)) for share in MISSING_SHARES}
    missing = {0.0: of(CLEAN), **missing, 100.0: of(ALL_MISSING)}
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, points in zip(panels, (offsets, missing), strict=True):
        _curve(panel, points, "in the order of the faces", "o-", "tab:blue")
        baseline_db = statistic(outcomes[CLEAN].baseline.values()).mean
        if baseline_db is not None:
            panel.axhline(baseline_db, color="tab:orange", linestyle="--", label=f"{baseline}, audio-only")
        panel.grid(alpha=0.3)
    _curve(panels[1], {100.0: of(ALL_MISSING, SI_SNRI_BEST)}, "in the best order", "D", "tab:green")
    panels[0].set(xlabel="faces late by (video frames)", ylabel="SI-SNRi (dB)", xticks=sorted(offsets))
    panels[1].set(xlabel="frames missing of every face (%)", xticks=sorted(missing))
    panels[1].legend(frameon=False)
    figure.suptitle(title, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _curve(panel: Any, points: dict[float, Statistic], label: str, form: str, color: str) -> None:
    """Means with their standard errors; points without a value are left out."""
    known = [(x, point) for x, point in sorted(points.items()) if point.mean is not None]
    means, errors = [point.mean for _, point in known], [point.standard_error or 0.0 for _, point in known]
    panel.errorbar([x for x, _ in known], means, errors, fmt=form, capsize=3, color=color, label=label)


if __name__ == "__main__":
    run_cli(main)
