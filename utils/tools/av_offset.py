"""Offsets between faces and voices of a corpus, clip by clip, in video frames.

Reads   --manifest, the sound it names and its visual embeddings (stage 2); --fit, a CSV whose clips are in step on the
        whole, to fit the estimator to, or --sync_model, one that was fitted before.
Writes  --out: a row for each clip, `id,source,mouth_path,offset_frames,offset_ms,agreement,margin`; beside it
        failed_<name>.csv; where --fit is given --sync_model, and failed_fit_<name>.csv. Either list may hold
        --max_failed rows.
Run     python -m utils.tools.av_offset --fit data/grid/utterances.csv --manifest data/other/test.csv \\
            --embeddings dump/embeddings/lr_asd-5ebd3ada3e43 --out exp/offsets.csv
        python -m utils.tools.av_offset ... --known_shifts=-5:5     moves the sound by known amounts and says how
            often the estimate is right

An offset is positive where the video comes too late; `data.max_shift_frames` of a conf trains for such, and
`--av_offset_sweep` tests it. A ridge regression from the embeddings of a few frames to the log energies of the sound in
a few bands is fitted to clips that are in step; the offset of a clip is the one at which prediction and sound correlate
best, relative to the clips of the fit.
"""

import argparse
import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from utils.corpora.output import refuse_failures
from utils.data.audio import read_audio
from utils.data.clock import frames_to_samples
from utils.data.files import atomic_path, write_text
from utils.data.manifest import Manifest, Problem, Utterance, item_id, read_manifest, write_failed
from utils.data.reports import markdown_table
from utils.embedding.store import EmbeddingStore
from utils.errors import OptionParser, UserError, run_cli
from utils.tools.sections import add_results_options, origin, publish

COLUMNS = ("id", "source", "mouth_path", "offset_frames", "offset_ms", "agreement", "margin")
BAND_EDGES_HZ = (80.0, 300.0, 700.0, 1500.0, 3000.0, 7800.0)
CONTEXT_FRAMES = 3  # of the embeddings, on either side
RIDGE = 1000.0  # frames' worth of keeping the weights small
ENERGY_FLOOR = 1e-4
NEAR_FRAMES = 2  # around the best offset, where the second best does not count
LEAST_SHARED_FRAMES = 8
MOST_FRAMES = 10


class Clip(NamedTuple):
    """A face and the sound that it is compared with."""

    row: int
    name: str
    source: int
    audio_path: str  # "" where there is no reference
    mouth_path: str
    fps: float


@dataclass(frozen=True)
class Offset:
    """The offset of one clip, or of several together."""

    frames: float  # the video comes so many frames too late; between whole ones by a parabola
    agreement: float  # mean correlation there, -1 to 1
    margin: float  # over the best offset elsewhere


@dataclass(frozen=True, eq=False)
class SyncModel:
    """Weights from visual embeddings to band energies: predicted = ((visual in context) - mean) / scale @ weights."""

    mean: np.ndarray  # (values,)
    scale: np.ndarray  # (values,)
    weights: np.ndarray  # (values, bands)

    def agreement(self, visual: np.ndarray, energies: np.ndarray, most_frames: int = MOST_FRAMES) -> np.ndarray:
        """Mean correlation of face and voice at each offset from -most_frames to most_frames.

        Args:
            visual: embeddings (frames, dim); frames of zeros, without a face, do not count.
            energies: of `band_energies`, (frames, bands).
            most_frames: the largest offset to try.

        Returns:
            (2 * most_frames + 1,), NaN where too few frames are shared.

        Raises:
            UserError: embeddings of another size than those of the fit.
        """
        if visual.shape[1] * (2 * CONTEXT_FRAMES + 1) != len(self.mean):
            dim = len(self.mean) // (2 * CONTEXT_FRAMES + 1)
            raise UserError(f"embeddings of {visual.shape[1]} values where the fit was of {dim}; take the same visual frontend")
        n_frames = min(len(visual), len(energies))
        predicted = (in_context(visual[:n_frames]) - self.mean) / self.scale @ self.weights
        seen = visual[:n_frames].any(axis=1)
        found = np.full(2 * most_frames + 1, np.nan)
        for place, late in enumerate(range(-most_frames, most_frames + 1)):
            shown = slice(max(late, 0), n_frames + min(late, 0))
            heard = slice(max(-late, 0), n_frames - max(late, 0))
            kept = seen[shown]
            if kept.sum() >= LEAST_SHARED_FRAMES:
                found[place] = _correlation(predicted[shown][kept], energies[heard][kept])
        return found

    def save(self, path: Path) -> None:
        """Write the weights as plain arrays."""
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, mean=self.mean, scale=self.scale, weights=self.weights)


def main() -> int:
    """Fit or read the estimator, then estimate."""
    args = parse_args()
    model = _fitted(args)
    manifest = read_manifest(args.manifest)
    store = EmbeddingStore(args.embeddings / manifest.corpus)
    failed_path = args.out.with_name(f"failed_{args.out.stem}.csv")
    clips, problems = _usable(manifest, store, args.heard)
    refuse_failures(failed_path, problems, args.max_failed)  # before hours of reading
    rows, agreements, trials = [], [], []
    for clip in tqdm(clips, unit="clip", disable=None):
        try:
            visual, energies = _read(manifest, store, clip)
            agreement = model.agreement(visual, energies)
            offset = offset_of(agreement)
        except UserError as error:
            problems.append(_problem(clip, error))
            continue
        agreements.append(agreement)
        values = (offset.frames, 1000 * offset.frames / clip.fps, offset.agreement, offset.margin)
        rows.append([clip.name, clip.source, clip.mouth_path, *(f"{value:.3f}" for value in values)])
        trials += [(by, shifted_offset(model, visual, energies, by)) for by in args.known_shifts or ()]
    write_failed(failed_path, problems)
    if not rows:
        raise UserError(f"{args.manifest}: no clip could be used, see {failed_path}")
    refuse_failures(failed_path, problems, args.max_failed)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([COLUMNS, *rows])
    write_text(args.out, text.getvalue())
    report = summary(args.manifest, rows, np.array(agreements), len(problems)) + (accuracy(trials) if trials else "")
    report += "\n" + origin("utils.tools.av_offset", 1, f"offset by clip: {args.out}")
    publish(report, args.results, args.section)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="av_offset", description="Offsets between faces and voices, in video frames.")
    parser.add_argument("--manifest", type=Path, required=True, help="CSV of utterances or of mixtures with references")
    parser.add_argument("--embeddings", type=Path, required=True, help="dump/embeddings/<frontend>-<fingerprint>")
    parser.add_argument("--fit", type=Path, help="CSV whose clips are in step, to fit to; embeddings as above")
    parser.add_argument("--sync_model", type=Path, help="the fitted estimator: written with --fit, else read")
    parser.add_argument("--heard", default="source", choices=("source", "mixture"), help="what faces are compared with")
    parser.add_argument("--known_shifts", type=_shifts, help="=-5:5: also measure the errors at such shifts")
    parser.add_argument("--out", type=Path, required=True, help="the CSV of offsets")
    parser.add_argument("--max_failed", type=int, default=0, help="clips of --manifest, and of --fit, that may fail")
    add_results_options(parser, "av-offset")
    args = parser.parse_args()
    if args.fit is None and args.sync_model is None:
        parser.error("--fit CSV is needed, or --sync_model FILE of an earlier call")
    return args


def _shifts(text: str) -> range:
    span = re.fullmatch(r"([+-]?\d{1,2}):([+-]?\d{1,2})", text)
    if not span or not -MOST_FRAMES <= int(span[1]) <= int(span[2]) <= MOST_FRAMES:
        raise argparse.ArgumentTypeError(f"'{text}' is no span of at most ±{MOST_FRAMES} frames such as -5:5")
    return range(int(span[1]), int(span[2]) + 1)


def _fitted(args: argparse.Namespace) -> SyncModel:
    if args.fit is None:
        return load_sync_model(args.sync_model)
    manifest = read_manifest(args.fit)
    store = EmbeddingStore(args.embeddings / manifest.corpus)
    failed_path = args.out.with_name(f"failed_fit_{args.out.stem}.csv")
    clips, problems = _usable(manifest, store, "source")
    refuse_failures(failed_path, problems, args.max_failed)
    try:
        model = fit(_readable(manifest, store, clips, problems))
    finally:  # also where too little is left to fit to
        write_failed(failed_path, problems)
    refuse_failures(failed_path, problems, args.max_failed)
    if args.sync_model:
        model.save(args.sync_model)
    return model


def _usable(manifest: Manifest, store: EmbeddingStore, heard: str) -> tuple[list[Clip], list[Problem]]:
    """The faces that have a sound and an embedding, as far as that is known without reading any, and the others."""
    clips, problems = [], []
    for clip in _clips(manifest, heard):
        try:
            if not clip.mouth_path:
                raise UserError("has no mouth")
            if not clip.audio_path:
                raise UserError("has no reference (--heard mixture: estimate against the mixture)")
            store.clip(clip.mouth_path)
            clips.append(clip)
        except UserError as error:
            problems.append(_problem(clip, error))
    return clips, problems


def _readable(
    manifest: Manifest, store: EmbeddingStore, clips: list[Clip], problems: list[Problem]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embeddings and band energies of every face and its own voice; adds clips that cannot be read to `problems`."""
    for clip in tqdm(clips, desc="fit", unit="clip", disable=None):
        try:
            pair = _read(manifest, store, clip)
        except UserError as error:
            problems.append(_problem(clip, error))
            continue
        yield pair


def _problem(clip: Clip, error: UserError) -> Problem:
    return Problem(clip.row, clip.name, clip.mouth_path or clip.audio_path, str(error))


def _clips(manifest: Manifest, heard: str) -> Iterator[Clip]:
    """Every face; one that several mixtures name comes once for each sound."""
    for row, item in enumerate(manifest.items, start=2):
        if isinstance(item, Utterance):
            yield Clip(row, item_id(item), 1, item.audio_path, item.mouth_path, item.fps)
            continue
        for number, (source, mouth) in enumerate(zip(item.source_paths, item.mouth_paths, strict=True), start=1):
            yield Clip(row, item_id(item), number, source if heard == "source" else item.mixture_path, mouth, item.fps)


def _read(manifest: Manifest, store: EmbeddingStore, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    visual = store.get(clip.mouth_path)
    audio = read_audio(manifest.resolve(clip.audio_path), sample_rate=manifest.sample_rate)
    return visual, band_energies(audio, len(visual), manifest.sample_rate, clip.fps)


def shifted_offset(model: SyncModel, visual: np.ndarray, energies: np.ndarray, by: int) -> float:
    """The estimate for a clip that was cut so that its video comes `by` frames later than it did, less that shift."""
    n_frames = min(len(visual), len(energies)) - abs(by)
    shown, heard = visual[max(-by, 0) :][:n_frames], energies[max(by, 0) :][:n_frames]
    try:
        return offset_of(model.agreement(shown, heard)).frames - by
    except UserError:  # too short once it is cut
        return float("nan")


def summary(manifest: Path, rows: list[list], agreements: np.ndarray, n_failed: int) -> str:
    """The offset of the corpus as a whole, and the distribution over its clips, as Markdown."""
    offsets = np.array([float(row[3]) for row in rows])
    together = offset_of(np.nanmean(agreements, axis=0))
    counts = {by: int((np.rint(offsets) == by).sum()) for by in range(-MOST_FRAMES, MOST_FRAMES + 1)}
    present = {by: count for by, count in counts.items() if count}
    table = [["offset (frames)", *(f"{by:+d}" for by in present)], ["clips", *map(str, present.values())]]
    return (
        f"{manifest}: {len(rows)} clips, {n_failed} could not be used.\n"
        f"All together: the video is {together.frames:+.2f} frames late (agreement {together.agreement:.2f}, "
        f"{together.margin:.2f} above any other offset); median of the clips {np.median(offsets):+.2f}.\n\n"
        f"{markdown_table(table)}"
    )


def accuracy(trials: list[tuple[int, float]]) -> str:
    """The errors of the estimates at known shifts, as Markdown."""
    rows = [["known shift (frames)", "clips", "right to the frame", "within one frame", "mean error (frames)"]]
    shifts = sorted({by for by, _ in trials})
    for label, wanted in [("all", set(shifts)), *((f"{by:+d}", {by}) for by in shifts)]:
        errors = np.array([error for by, error in trials if by in wanted])
        errors = errors[~np.isnan(errors)]
        right, near = (f"{100 * np.mean(np.abs(np.rint(errors)) <= most):.0f} %" for most in (0, 1))
        rows.append([label, str(len(errors)), right, near, f"{np.abs(errors).mean():.2f}"])
    return f"\n{markdown_table(rows)}"


def load_sync_model(path: Path) -> SyncModel:
    """Read what `SyncModel.save` wrote.

    Raises:
        UserError: no such file, or another one.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return SyncModel(arrays["mean"], arrays["scale"], arrays["weights"])
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: no weights of the offset estimator ({reason}); fit them again") from None


def fit(clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> SyncModel:
    """Fit the weights to clips that are in step, one at a time in memory.

    Args:
        clips: embeddings (frames, dim) and `band_energies` (frames, bands) of each.

    Raises:
        UserError: there are too few frames.
    """
    count, sums, products, crossed = 0, 0.0, 0.0, 0.0
    for visual, energies in clips:
        n_frames = min(len(visual), len(energies))
        seen = visual[:n_frames].any(axis=1)
        values = in_context(visual[:n_frames])[seen].astype(np.float64)
        wanted = energies[:n_frames][seen].astype(np.float64)
        wanted -= wanted.mean(axis=0) if len(wanted) else 0.0  # the level of a clip as a whole says nothing
        count += len(values)
        sums, products, crossed = sums + values.sum(axis=0), products + values.T @ values, crossed + values.T @ wanted
    if count < 100:
        raise UserError(f"{count} video frames are too few to fit the estimator to; give a corpus of some minutes")
    mean = sums / count
    scale = np.sqrt(np.maximum(np.diag(products) / count - mean**2, 0)) + 1e-6
    covariance = (products - count * np.outer(mean, mean)) / np.outer(scale, scale)
    weights = np.linalg.solve(covariance + RIDGE * np.eye(len(mean)), crossed / scale[:, None])
    return SyncModel(mean.astype(np.float32), scale.astype(np.float32), weights.astype(np.float32))


def offset_of(agreement: np.ndarray) -> Offset:
    """The offset at which an agreement (of one clip, or the mean of several) is best.

    Raises:
        UserError: it has no value anywhere.
    """
    most_frames = len(agreement) // 2
    if np.isnan(agreement).all():
        raise UserError(f"fewer than {LEAST_SHARED_FRAMES} frames with a mouth: too short to tell an offset")
    values = np.where(np.isnan(agreement), -np.inf, agreement)
    best = int(values.argmax())
    others = np.delete(values, range(max(best - NEAR_FRAMES, 0), min(best + NEAR_FRAMES + 1, len(values))))
    step = 0.0
    if 0 < best < len(values) - 1 and np.isfinite(values[best - 1 : best + 2]).all():
        before, peak, after = values[best - 1 : best + 2]
        step = 0.5 * (before - after) / min(before - 2 * peak + after, -1e-12)
    margin = float(values[best] - others.max(initial=-1.0))
    return Offset(best - most_frames + step, float(values[best]), margin)


def band_energies(audio: np.ndarray, n_frames: int, sample_rate: int, fps: float) -> np.ndarray:
    """Log energies of the sound of each video frame, (n_frames, bands); beyond its end there is silence."""
    starts = np.array([frames_to_samples(frame, sample_rate, fps) for frame in range(n_frames)])
    length = frames_to_samples(1, sample_rate, fps)
    padded = np.pad(audio, (0, max(int(starts[-1]) + length - len(audio), 0)))
    windows = padded[starts[:, None] + np.arange(length)] * np.hanning(length)
    power = np.abs(np.fft.rfft(windows)) ** 2
    frequencies = np.fft.rfftfreq(length, 1 / sample_rate)
    bands = [(frequencies >= low) & (frequencies < high) for low, high in pairwise(BAND_EDGES_HZ)]
    return np.log(np.stack([power[:, band].sum(axis=1) for band in bands], axis=1) + ENERGY_FLOOR)


def in_context(visual: np.ndarray) -> np.ndarray:
    """Each frame with its neighbours, (frames, dim) -> (frames, (2 * CONTEXT_FRAMES + 1) * dim); ends are repeated."""
    padded = np.pad(visual, ((CONTEXT_FRAMES, CONTEXT_FRAMES), (0, 0)), mode="edge")
    return np.concatenate([padded[k : k + len(visual)] for k in range(2 * CONTEXT_FRAMES + 1)], axis=1)


def _correlation(predicted: np.ndarray, energies: np.ndarray) -> float:
    """The mean over bands of the correlation over time, both (frames, bands)."""
    ours, theirs = predicted - predicted.mean(axis=0), energies - energies.mean(axis=0)
    norms = np.sqrt(np.square(ours).sum(axis=0) * np.square(theirs).sum(axis=0))
    return float(((ours * theirs).sum(axis=0) / np.maximum(norms, 1e-9)).mean())


if __name__ == "__main__":
    run_cli(main)
