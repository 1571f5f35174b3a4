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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.corpora.output import refuse_failures
from utils.data.audio import read_audio
from utils.data.files import write_text
from utils.data.manifest import Manifest, Problem, Utterance, item_id, read_manifest, write_failed
from utils.data.progress import progress_bar
from utils.data.reports import markdown_table
from utils.embedding.store import EmbeddingStore
from utils.embedding.sync import MOST_FRAMES, SyncModel, band_energies, fit, load_sync_model, offset_of
from utils.errors import OptionParser, UserError, run_cli
from utils.tools.sections import add_results_options, origin, publish

COLUMNS = ("id", "source", "mouth_path", "offset_frames", "offset_ms", "agreement", "margin")


class Clip(NamedTuple):
    """A face and the sound that it is compared with."""

    row: int
    name: str
    source: int
    audio_path: str  # "" where there is no reference
    mouth_path: str
    fps: float


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
    for clip in progress_bar(clips, unit="clip"):
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
    for clip in progress_bar(clips, desc="fit", unit="clip"):
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


if __name__ == "__main__":
    run_cli(main)
