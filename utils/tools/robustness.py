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

A condition turns a `Trial`, the mixture as it is, into another one; a recording longer than a window of stage 4 is
separated in windows as there. All that is drawn for a mixture depends on (seed, mixture id): conditions that draw the
same thing, such as a noise at two levels, draw it alike.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from utils.data.audio import read_audio
from utils.data.clock import frames_covering, frames_to_samples
from utils.data.experiments import open_experiment
from utils.data.files import atomic_path, write_json, write_text
from utils.data.hub import experiment_folder
from utils.data.manifest import Manifest, Mixture, read_manifest
from utils.data.progress import progress_bar
from utils.data.reports import markdown_table
from utils.embedding.joined import AnyStore, joined
from utils.embedding.store import EmbeddingStore
from utils.errors import OptionParser, UserError, at_least, run_cli
from utils.mixing.levels import add_noise, power
from utils.mixing.recordings import draw_stretch, recording_lengths
from utils.scoring.metrics import best_permutation, si_snr_matrix
from utils.scoring.report import mean_text
from utils.separation.options import SeparationOptions, name_of_test
from utils.tools.sections import add_results_options, origin, publish
from utils.training.augmentation import drop_frames, freeze_frames, shift_frames

if TYPE_CHECKING:
    from utils.separation.mixtures import Separator

OFFSETS_FRAMES = (-5, -1, 1, 5)
MISSING_SHARES = (0.25, 0.5)
SNRS_DB = (10, 0)
LENGTHS_SEC = (1, 5, 30, 60)
N_BABBLE = 6
FEWEST_RECORDINGS = 4
QUIETEST_DB = -120.0  # an output that is quieter counts as this

SI_SNRI, SI_SNRI_BEST, SI_SNR = "SI-SNRi (dB)", "SI-SNRi, best order (dB)", "SI-SNR (dB)"
INACTIVE, ACCURACY = "inactive face's estimate over the mixture (dB)", "assignment accuracy (%)"
BOTH_ACCURACY = "assignment accuracy with own and with swapped faces (%)"
CHANGED_JOINS = "joins at which a face changes its speaker (%)"
CLEAN, SWAPPED, ALL_MISSING = "clean", "faces swapped, references too", "all faces missing"
NOTE = (
    "Mean ± standard error over mixtures. The audio-only baseline is always scored in the best order; where only the "
    "faces differ it has the score of the clean mixtures. Assignment accuracy: share of the mixtures in which every "
    "estimate is nearest (SI-SNR) to the source of the face that was given."
)


class Trial(NamedTuple):
    """What a network is given, and what its estimates are scored against."""

    item: Mixture  # the mixture that it was made of
    mixture: np.ndarray  # float32 (time,)
    visual: np.ndarray  # float32 (n_faces, frames, dim)
    references: np.ndarray  # (n, time), n <= n_faces: estimate k is scored against reference k
    changed_joins: float = np.nan  # share of a joined recording's joins at which a face changes its speaker


Draw = Callable[[Trial, np.random.Generator], Any]


class Condition(NamedTuple):
    """Recipe for the trials of a condition, and what to measure.

    `sound` names the mixture: the audio-only baseline has one score for all conditions with the same mixtures; "" where
    the baseline cannot be compared.
    """

    make: Draw  # of a Trial; None where the manifest does not allow this one
    measures: tuple[str, ...] = (SI_SNRI,)
    sound: str = CLEAN
    n_most: int | None = None  # trials; None: one for each mixture

    def trial(self, example: Trial, seed: int) -> Trial | None:
        """The trial of a mixture."""
        return self.make(example, np.random.default_rng([seed, *example.item.mixture_id.encode()]))


class Statistic(NamedTuple):
    """Of the values that are numbers."""

    mean: float | None
    standard_error: float | None
    n: int

    def __str__(self) -> str:
        return mean_text(self.mean, self.standard_error, none="–")


class Result(NamedTuple):
    """A row of the table."""

    model: Statistic
    baseline: Statistic  # of improvements only
    n_trials: int


def main() -> int:
    """Check everything that is cheap to check, then measure."""
    args = parse_args()
    frontends = open_experiment(args.exp_dir, needs_weights=False).frontends
    if not frontends:
        raise UserError(f"--exp_dir {args.exp_dir}: audio-only, it takes no faces; give it as --baseline_exp_dir")
    baseline_options = {"option": "--baseline_exp_dir", "needs_weights": False}
    if args.baseline_exp_dir and open_experiment(args.baseline_exp_dir, **baseline_options).frontends:
        raise UserError(f"--baseline_exp_dir {args.baseline_exp_dir}: needs faces itself; give an audio-only one")
    manifest = read_manifest(args.manifest)
    folders = [args.dump_dir / "embeddings" / record.store_name / manifest.corpus for record in frontends.values()]
    bank = SourceBank(manifest, joined([EmbeddingStore(folder) for folder in folders]))
    noises = noise_draws(args.noise_dir, manifest.sample_rate) if args.noise_dir else {}

    import torch  # only now, after the paths were found good

    torch.set_num_threads(args.threads)
    separator = _load(args.exp_dir, bank, args.device)
    baseline = _load(args.baseline_exp_dir, bank, args.device) if args.baseline_exp_dir else None
    examples = [bank.example(item) for item in spread(manifest.items, args.max_mixtures)]
    audio_sec = sum(len(example.mixture) for example in examples) / manifest.sample_rate
    conditions = all_conditions(bank, noises, audio_sec)
    report(measure(conditions, examples, separator, baseline, args.seed), conditions, args, manifest)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="robustness", description="Scores of a trained network under adverse conditions.")
    parser.add_argument("--exp_dir", type=experiment_folder, required=True, help="experiment of an audio-visual network")
    parser.add_argument("--baseline_exp_dir", type=experiment_folder, help="that of an audio-only one, to compare with")
    parser.add_argument("--manifest", type=Path, required=True, help="CSV of mixtures of two sources with references")
    parser.add_argument("--max_mixtures", type=at_least(2), default=40, help="to try, spread evenly over the manifest")
    parser.add_argument("--noise_dir", type=Path, help="noise files to try, at the manifest's sample rate")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="stores are in dump_dir/embeddings")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of everything that is drawn")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument("--threads", type=at_least(1), default=2, help="CPU threads")
    parser.add_argument("--out_dir", type=Path, help="default: robustness/<test name> in the experiment")
    add_results_options(parser, "robustness")
    return parser.parse_args()


class SourceBank:
    """A manifest of mixtures of two sources with the visual embeddings.

    Raises:
        UserError: references, mouth crops or embeddings are missing, the mixtures have not two sources, or their videos
            have not one rate.
    """

    def __init__(self, manifest: Manifest, store: AnyStore) -> None:
        self.manifest, self.store = manifest, store
        if not manifest.has_references:
            raise UserError(f"{manifest.path}: mixtures without sources cannot be scored; give a set with references")
        if manifest.n_src != 2:
            raise UserError(f"{manifest.path}: mixtures of {manifest.n_src} sources; the conditions are for two")
        self.fps = manifest.items[0].fps
        for row, item in enumerate(manifest.items, start=2):
            for path in item.mouth_paths:
                if not path:
                    raise UserError(f"{manifest.path}, row {row}: a source without a mouth; leave the mixture out")
                store.clip(path)  # says which one is missing, and the remedy
            if abs(item.fps - self.fps) > 1e-3:
                raise UserError(f"{manifest.path}, row {row}: video at {item.fps:g} frames/s, in row 2 at {self.fps:g}")

    def read(self, item: Mixture, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Source number `place` (from 0) of a mixture (time,), and the embeddings (frames, dim) it reaches into."""
        source = read_audio(self.manifest.resolve(item.source_paths[place]), sample_rate=self.manifest.sample_rate)
        n_frames = frames_covering(len(source), self.manifest.sample_rate, self.fps)
        return source, self.store.get(item.mouth_paths[place], 0, n_frames)

    def example(self, item: Mixture, order: tuple[int, ...] = (0, 1)) -> Trial:
        """Read a mixture, its sources and faces in this order.

        Raises:
            UserError: a file is damaged, or the sources differ in length.
        """
        sources, visual = zip(*(self.read(item, place) for place in order), strict=True)
        if len(set(map(len, sources))) > 1:
            raise UserError(f"{self.manifest.path}: the sources of {item.mixture_id} differ in length; make them again")
        return _of_sources(item, np.stack(sources), np.stack(visual))

    def others(self, example: Trial, rng: np.random.Generator) -> list[tuple[Mixture, int]]:
        """Every utterance of the manifest that is not in this mixture once, in random order, other speakers first."""
        found = {item.mouth_paths[place]: (item, place) for item in self.manifest.items for place in range(2)}
        others = [found[path] for path in sorted(found) if path not in example.item.mouth_paths]
        speakers = {"", *example.item.speakers}
        shuffled = [others[index] for index in rng.permutation(len(others))]
        return sorted(shuffled, key=lambda other: other[0].speakers[other[1]] in speakers)

    def joined(self, length_sec: float, example: Trial, rng: np.random.Generator) -> Trial:
        """A recording of `length_sec`: this mixture and then others of the manifest, end to end.

        Each one that follows is the one that lets the most faces keep their speaker (its faces exchanged where that
        helps), drawn among equals, and no mixture comes twice before all were there.
        """
        n_frames, speakers, changes = round(length_sec * self.fps), example.item.speakers, []
        pieces = [self._whole_frames(example)]
        fresh = [item for item in self.manifest.items if item.mixture_id != example.item.mixture_id]
        while sum(piece.visual.shape[1] for piece in pieces) < n_frames:
            fresh = fresh or list(self.manifest.items)
            choices = [(item, order) for item in fresh for order in ((0, 1), (1, 0))]
            n_kept = np.array([_n_kept(speakers, item, order) for item, order in choices])
            item, order = choices[rng.choice(np.flatnonzero(n_kept == n_kept.max()))]
            fresh.remove(item)
            pieces.append(self._whole_frames(self.example(item, order)))
            speakers = tuple(item.speakers[place] for place in order)
            changes.append(n_kept.max() < len(speakers))
        sources = np.concatenate([piece.references for piece in pieces], axis=1)[:, : self._samples(n_frames)]
        visual = np.concatenate([piece.visual for piece in pieces], axis=1)[:, :n_frames]
        share = float(np.mean(changes)) if changes else np.nan
        return _of_sources(example.item, sources, visual)._replace(changed_joins=share)

    def _whole_frames(self, example: Trial) -> Trial:
        """The mixture without its last video frame where the sound does not fill that."""
        n_frames = example.visual.shape[1]
        n_frames -= self._samples(n_frames) > len(example.mixture)
        return _of_sources(example.item, example.references[:, : self._samples(n_frames)], example.visual[:, :n_frames])

    def _samples(self, n_frames: int) -> int:
        return frames_to_samples(n_frames, self.manifest.sample_rate, self.fps)


def _of_sources(item: Mixture, sources: np.ndarray, visual: np.ndarray) -> Trial:
    return Trial(item, sources.sum(axis=0), visual, sources)


def _n_kept(speakers: tuple[str, ...], item: Mixture, order: tuple[int, ...]) -> int:
    """Count the faces that keep their speaker when this mixture follows; unknown speakers never do."""
    return sum(bool(old) and old == item.speakers[place] for old, place in zip(speakers, order, strict=True))


def spread(items: Sequence, n_most: int | None) -> list:
    """At most `n_most` of the items, evenly spread."""
    n_kept = min(n_most or len(items), len(items))
    return [items[index * len(items) // n_kept] for index in range(n_kept)]


def all_conditions(bank: SourceBank, noises: dict[str, Draw], audio_sec: float) -> dict[str, Condition]:
    """Every condition by its name, in the order of the table.

    Args:
        bank: the sources.
        noises: more noises by name, of `noise_draws`.
        audio_sec: of all mixtures that are tried; joined recordings are as many as fit in it, and four at least.
    """
    late = {offset_name(by): _faces(lambda face, _, by=by: shift_frames(face, by)) for by in OFFSETS_FRAMES}
    second_late = _faces(lambda face, _: shift_frames(face, 5), only_last=True)
    gappy = {missing_name(share): _faces(partial(_dropped, share)) for share in MISSING_SHARES}
    frozen = _faces(lambda face, rng: freeze_frames(face, 0.5, rng))
    noises = {"white noise": _white, f"babble of {N_BABBLE} speakers": partial(_babble, bank), **noises}
    return {
        CLEAN: Condition(lambda example, _: example, (SI_SNRI, ACCURACY)),
        **{name: Condition(make) for name, make in late.items()},
        "second face 5 frames late": Condition(second_late),
        **{name: Condition(make) for name, make in gappy.items()},
        ALL_MISSING: Condition(_faces(partial(_dropped, 1.0)), (SI_SNRI, SI_SNRI_BEST)),
        "50 % of each face's frames frozen": Condition(frozen),
        "second face missing": Condition(_faces(partial(_dropped, 1.0), only_last=True)),
        "one speaker, one face": Condition(partial(_one_speaker, 1), (SI_SNR,), sound=""),
        "one speaker, two faces": Condition(partial(_one_speaker, 2), (SI_SNR, INACTIVE), sound=""),
        "two speakers, one face (the other off-screen)": Condition(_off_screen, sound=""),
        "three speakers, three faces": Condition(partial(_three_speakers, bank), sound=""),
        **{
            f"{name} at {snr_db} dB": Condition(partial(_noisy, draw, snr_db), sound=f"{name} {snr_db}")
            for name, draw in noises.items()
            for snr_db in SNRS_DB
        },
        **{
            f"recordings of {sec} s": Condition(
                partial(bank.joined, sec),
                (SI_SNRI, CHANGED_JOINS),
                sound=f"{sec} s",
                n_most=max(FEWEST_RECORDINGS, round(audio_sec / sec)),
            )
            for sec in LENGTHS_SEC
        },
        SWAPPED: Condition(_swapped, (SI_SNRI, ACCURACY)),
    }


def offset_name(by: int) -> str:
    """Positive: the video comes too late."""
    return f"faces {abs(by)} frame{'s' * (abs(by) > 1)} {'late' if by > 0 else 'early'}"


def missing_name(share: float) -> str:
    return f"{100 * share:.0f} % of each face's frames missing"


def _faces(change: Callable[[np.ndarray, np.random.Generator], np.ndarray], only_last: bool = False) -> Draw:
    """Recipe that changes the embeddings (frames, dim) of every face, or of the last one."""

    def make(example: Trial, rng: np.random.Generator) -> Trial:
        kept = list(example.visual[:-1] if only_last else ())
        return example._replace(visual=np.stack(kept + [change(face, rng) for face in example.visual[len(kept) :]]))

    return make


def _dropped(share: float, face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return drop_frames(face, share, rng)


def _swapped(example: Trial, _: np.random.Generator) -> Trial:
    return example._replace(visual=example.visual[::-1].copy(), references=example.references[::-1])


def _one_speaker(n_faces: int, example: Trial, _: np.random.Generator) -> Trial:
    return _of_sources(example.item, example.references[:1], example.visual[:n_faces])


def _off_screen(example: Trial, _: np.random.Generator) -> Trial:
    return example._replace(visual=example.visual[:1], references=example.references[:1])


def _three_speakers(bank: SourceBank, example: Trial, rng: np.random.Generator) -> Trial | None:
    """A third source, where possible of another speaker, at the mean of the two levels in dB."""
    length, n_frames = len(example.mixture), example.visual.shape[1]
    for item, place in bank.others(example, rng):
        source, visual = bank.read(item, place)
        if len(source) < length or power(source[:length]) == 0:
            continue
        first, second = map(power, example.references)
        source = source[:length] * np.float32((first * second) ** 0.25 / power(source[:length]) ** 0.5)
        sources = np.concatenate([example.references, source[None]])
        return _of_sources(example.item, sources, np.concatenate([example.visual, visual[None, :n_frames]]))
    return None


def _noisy(draw: Draw, snr_db: float, example: Trial, rng: np.random.Generator) -> Trial | None:
    """The mixture at `snr_db` over a noise, scored against the clean sources."""
    noise = draw(example, rng)
    return None if noise is None else example._replace(mixture=add_noise(example.mixture, noise, snr_db))


def _white(example: Trial, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(len(example.mixture))


def _babble(bank: SourceBank, example: Trial, rng: np.random.Generator) -> np.ndarray | None:
    """Other utterances at one level, each repeated where it is too short; None where there are not enough."""
    others = bank.others(example, rng)[:N_BABBLE]
    if len(others) < N_BABBLE:
        return None
    sources = [np.resize(bank.read(*other)[0], len(example.mixture)) for other in others]
    return np.sum([source / max(power(source), 1e-12) ** 0.5 for source in sources], axis=0)


def noise_draws(folder: Path, sample_rate: int) -> dict[str, Draw]:
    """The recordings of --noise_dir by name, each as a draw of a stretch that is not silent.

    Raises:
        UserError: no such folder, no recordings in it, or one that is silent or cannot be used.
    """
    lengths, draws = recording_lengths("noise_dir", folder, sample_rate), {}
    for path, length in lengths.items():
        only = {path: length}
        draw_stretch("noise_dir", only, sample_rate, sample_rate, np.random.default_rng(0))  # refuses silence at once
        draws[f"noise {path.relative_to(folder).as_posix()}"] = lambda example, rng, only=only: draw_stretch(
            "noise_dir", only, len(example.mixture), sample_rate, rng
        )
    return draws


def _load(exp_dir: Path, bank: SourceBank, device: str) -> "Separator":
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
    separator, manifest = load_separator(exp_dir, device), bank.manifest
    if separator.sample_rate != manifest.sample_rate:
        raise UserError(
            f"{manifest.path}: {manifest.sample_rate} Hz where {exp_dir} was trained for {separator.sample_rate} Hz"
        )
    if separator.needs_faces and abs(separator.fps - bank.fps) > 1e-3:
        raise UserError(f"{manifest.path}: {bank.fps:g} frames/s where {exp_dir} was trained for {separator.fps:g}")
    if not separator.needs_faces and separator.n_src != manifest.n_src:
        raise UserError(
            f"{exp_dir}: gives {separator.n_src} estimates where mixtures of {manifest.path} have {manifest.n_src} sources"
        )
    return separator


def measure(
    conditions: dict[str, Condition],
    examples: Sequence[Trial],
    separator: "Separator",
    baseline: "Separator | None" = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Try every condition on the examples.

    Returns:
        A row for each condition, measure and mixture, with the model's `value` and the `baseline`'s; NaN for none.
    """
    rows = []
    baseline_scores: dict[tuple[str, str], float] = {}  # by sound and mixture: all else that differs are faces
    for name, condition in progress_bar(conditions.items(), unit="condition"):
        for example in spread(examples, condition.n_most):
            trial = condition.trial(example, seed)
            if trial is None:
                continue
            estimates, key = separate(separator, trial), (condition.sound, trial.item.mixture_id)
            if baseline is not None and condition.sound and key not in baseline_scores:
                baseline_scores[key] = score(SI_SNRI_BEST, separate(baseline, trial), trial)
            for kind in condition.measures:
                of_baseline = baseline_scores.get(key, np.nan) if kind in (SI_SNRI, SI_SNRI_BEST) else np.nan
                rows.append((name, kind, trial.item.mixture_id, score(kind, estimates, trial), of_baseline))
    return pd.DataFrame(rows, columns=["condition", "measure", "mixture", "value", "baseline"])


def separate(separator: "Separator", trial: Trial) -> np.ndarray:
    """Estimates (n_src, time), with the windows of stage 4."""
    import torch

    from utils.separation.overlap_add import separate_long

    return separate_long(
        separator.network,
        torch.from_numpy(trial.mixture),
        torch.from_numpy(trial.visual) if separator.needs_faces else None,
        window_sec=SeparationOptions.window_sec, hop_sec=SeparationOptions.hop_sec,
        sample_rate=separator.sample_rate, fps=separator.fps,
    ).numpy()  # fmt: skip


def score(measure: str, estimates: np.ndarray, trial: Trial) -> float:
    """Value of a measure for estimates (n_faces or more, time); NaN where one of them, or a reference, is silent."""
    if measure == CHANGED_JOINS:
        return 100 * trial.changed_joins
    if measure == INACTIVE:
        return max(10 * np.log10(max(power(estimates[1]), 1e-30) / power(trial.mixture)), QUIETEST_DB)
    references = trial.references
    matrix = si_snr_matrix(estimates, references)  # (estimates, references)
    in_place = np.diagonal(matrix)
    if measure == SI_SNR:
        return float(in_place.mean())
    if measure == ACCURACY:
        return 100.0 * bool((in_place >= matrix.max(axis=1)).all())
    if measure == SI_SNRI_BEST:
        in_place = matrix[best_permutation(estimates, references), np.arange(len(references))]
    return float((in_place - si_snr_matrix(trial.mixture[None], references)[0]).mean())


def statistic(values: pd.Series) -> Statistic:
    """Mean and standard error of the mean; None where there are too few values."""
    mean, error = (None if np.isnan(number) else float(number) for number in (values.mean(), values.sem()))
    return Statistic(mean, error, int(values.count()))


def results(scores: pd.DataFrame, conditions: dict[str, Condition]) -> dict[tuple[str, str], Result]:
    """The rows of the table by condition and measure; the last one is the accuracy both ways."""
    found = {}
    for name, condition in conditions.items():
        for kind in condition.measures:
            part = scores[(scores["condition"] == name) & (scores["measure"] == kind)]
            found[name, kind] = Result(statistic(part["value"]), statistic(part["baseline"]), len(part))
    both = scores[scores["measure"] == ACCURACY].groupby("mixture")["value"].min()
    found[f"{CLEAN} and swapped", BOTH_ACCURACY] = Result(statistic(both), Statistic(None, None, 0), len(both))
    return found


def report(scores: pd.DataFrame, conditions: dict[str, Condition], args: argparse.Namespace, manifest: Manifest) -> None:
    """Print the table, write it with its JSON and its picture."""
    test_name = name_of_test(manifest.path)
    out_dir = args.out_dir or args.exp_dir / "robustness" / test_name
    model = args.exp_dir.resolve().name
    baseline = args.baseline_exp_dir.resolve().name if args.baseline_exp_dir else ""
    rows = results(scores, conditions)
    n_mixtures = rows[CLEAN, SI_SNRI].n_trials
    facts = f"{n_mixtures} of the {len(manifest.items)} mixtures of {args.manifest}, seed {args.seed}"
    windows = f"windows of {SeparationOptions.window_sec:g} s every {SeparationOptions.hop_sec:g} s"
    text = f"{table(rows, model, baseline)}\n{gate(scores)}\n\n"
    text += origin("utils.tools.robustness", args.threads, facts, windows, f"device: {args.device}")
    publish(text, args.results, args.section)
    write_text(out_dir / "robustness.md", text)
    listed = [
        {"condition": name, "measure": kind, "n_trials": row.n_trials}
        | {"model": row.model._asdict(), "baseline": row.baseline._asdict()}
        for (name, kind), row in rows.items()
    ]
    setup = {"model": model, "baseline": baseline, "manifest": str(args.manifest), "seed": args.seed}
    write_json(out_dir / "robustness.json", setup | {"rows": listed})
    draw(rows, out_dir / "robustness.png", f"{model}, {n_mixtures} mixtures of {test_name}", baseline)


def table(rows: dict[tuple[str, str], Result], model: str, baseline: str) -> str:
    """The Markdown table; n says how many have a value where a silent output left some without one."""
    lines = [["condition", "measure", model, baseline or "no baseline", "n"]]
    for (name, kind), row in rows.items():
        n = str(row.n_trials) if row.model.n == row.n_trials else f"{row.model.n} of {row.n_trials}"
        lines.append([name, kind, str(row.model), str(row.baseline), n])
    return f"{markdown_table(lines, n_left=2)}\n{NOTE}\n"


def gate(scores: pd.DataFrame) -> str:
    """The network without any face beside the audio-only baseline."""
    part = scores[(scores["condition"] == ALL_MISSING) & (scores["measure"] == SI_SNRI_BEST)]
    text = f"**All faces missing: {statistic(part['value'])} dB"
    if part["baseline"].isna().all():
        return f"{text}** (SI-SNRi, best order; no baseline given)"
    difference = statistic(part["value"] - part["baseline"])
    return f"{text}, baseline {statistic(part['baseline'])} dB, difference {difference} dB** (SI-SNRi, best order)"


def draw(rows: dict[tuple[str, str], Result], path: Path, title: str, baseline: str) -> None:
    """Draw SI-SNRi over the offset of the faces and over the share of missing frames, the baseline as a line."""
    from matplotlib.figure import Figure

    offsets = {by: rows[offset_name(by), SI_SNRI].model for by in OFFSETS_FRAMES} | {0: rows[CLEAN, SI_SNRI].model}
    missing = {100 * share: rows[missing_name(share), SI_SNRI].model for share in MISSING_SHARES}
    missing |= {0.0: rows[CLEAN, SI_SNRI].model, 100.0: rows[ALL_MISSING, SI_SNRI].model}
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, points in zip(panels, (offsets, missing), strict=True):
        _curve(panel, points, "in the order of the faces", "o-", "tab:blue")
        baseline_db = rows[CLEAN, SI_SNRI].baseline.mean
        if baseline_db is not None:
            panel.axhline(baseline_db, color="tab:orange", linestyle="--", label=f"{baseline}, audio-only")
        panel.grid(alpha=0.3)
    _curve(panels[1], {100.0: rows[ALL_MISSING, SI_SNRI_BEST].model}, "in the best order", "D", "tab:green")
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
