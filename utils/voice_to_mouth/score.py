"""Stage 5 of a voice-to-mouth network: its predictions against what was seen, beside two mouths that do not move."""

import csv
import io
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.files import write_json, write_text
from utils.data.fingerprints import StageMark, hash_contents
from utils.data.manifest import Problem, write_failed
from utils.data.reports import markdown_table
from utils.errors import UserError
from utils.scoring.report import provenance
from utils.voice_to_mouth.drawing import draw_openings, write_face_video
from utils.voice_to_mouth.measures import (
    EMBEDDING_DEFINITIONS,
    KEYPOINT_DEFINITIONS,
    embedding_measures,
    keypoint_measures,
    right_of_ten,
)
from utils.voice_to_mouth.predictions import Prediction, Predictions, read_predictions

logger = logging.getLogger(__name__)

_N_SHOWN = 4
_STILL = {"mean": "the mean mouth of the training", "first": "the first frame, held"}


def score_predictions(exp_dir: Path, test_name: str, force: bool) -> None:
    """Score the predictions of a test, unless nothing changed; write tables, a picture and videos.

    Raises:
        UserError: there are no predictions, or no clip with a face can be scored.
    """
    predictions = read_predictions(exp_dir / "predicted" / test_name)
    out_dir = exp_dir / "results" / test_name
    lists = [predictions.folder / name for name in ("predicted.csv", "predicted.json", ".done-4.json")]
    mark = StageMark(out_dir / ".done-5.json", {"predictions": hash_contents([path for path in lists if path.is_file()])})
    if mark.changed() == [] and not force:
        logger.info("stage 5: up to date, the results are in %s", out_dir)
        return
    seen = [row for row in predictions.rows if row.has_truth]
    if not seen:
        logger.info("stage 5: skipped, no camera saw these voices; their faces are drawn in %s", predictions.folder)
        return
    out_dir.mkdir(parents=True, exist_ok=True)
    rows, problems = _measured(predictions, seen)
    write_failed(out_dir / "failed.csv", problems)
    if not rows:
        raise UserError(f"{predictions.folder}: no clip can be scored; the first: {problems[0].item_id}: {problems[0].reason}")
    if predictions.target == "lips":
        kept = {row["id"] for row in rows}
        arrays = [predictions.arrays(row) for row in seen if row.id in kept]
        told = right_of_ten([estimate for estimate, _, _ in arrays], [true for _, true, _ in arrays])
        for row, right in zip(rows, told, strict=False):
            row["right_of_ten"] = float(right)
    final = _final(predictions, rows, len(problems))
    _write_rows(out_dir / "all_metrics.csv", rows)
    write_json(out_dir / "final_metrics.json", final)
    write_text(out_dir / "RESULTS.md", _results_text(final))
    if predictions.target == "keypoints":
        _show(predictions, seen, rows, out_dir)
    mark.write()
    print(_table(final))
    logger.info("stage 5: the results are in %s", out_dir)


def _measured(predictions: Predictions, seen: list[Prediction]) -> tuple[list[dict[str, Any]], list[Problem]]:
    """A row of measures for each clip, and the clips that have none."""
    rows, problems = [], []
    for row in seen:
        try:
            estimate, true, closings = predictions.arrays(row)
            values: dict[str, Any] = {"id": row.id, "speaker": row.speaker}
            if predictions.target == "lips":
                values |= embedding_measures(estimate, true)
            else:
                values |= keypoint_measures(estimate, true, predictions.fps, closings)
                first = true[np.flatnonzero(true.any(axis=1))[0]]
                for name, still in (("mean", predictions.mean), ("first", first)):
                    errors = keypoint_measures(np.broadcast_to(still, true.shape), true, predictions.fps)
                    values |= {f"{name}_{key}": errors[key] for key in ("error", "error_of_motion")}
        except UserError as error:
            problems.append(Problem(0, row.id, row.audio_path, str(error)))
        else:
            rows.append(values)
    return rows, problems


def _mean(values: np.ndarray) -> dict[str, float | None]:
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": error}


def _geometric_mean(values: np.ndarray) -> dict[str, float | None]:
    """Of ratios, so that half the range and twice the range make one; a clip whose prediction is still counts as 0.01."""
    found = _mean(np.log(np.maximum(values, 0.01)))
    mean = float(np.exp(found["mean"]))
    return {"mean": mean, "standard_error": None if found["standard_error"] is None else mean * found["standard_error"]}


def _final(predictions: Predictions, rows: list[dict[str, Any]], n_failed: int) -> dict[str, Any]:
    """The content of final_metrics.json."""
    names = [name for name in rows[0] if name not in ("id", "speaker")]
    metrics = {}
    for name in names:
        values = np.array([row[name] for row in rows if name in row])
        values = values[np.isfinite(values)]
        if not len(values):
            metrics[name] = None
            continue
        metrics[name] = _geometric_mean(values) if name == "range" else _mean(values)
    definitions = KEYPOINT_DEFINITIONS if predictions.target == "keypoints" else EMBEDDING_DEFINITIONS
    counts = {"n_clips": len(rows), "n_speakers": len({row["speaker"] for row in rows}), "n_failed": n_failed}
    facts = {"network": predictions.network, "target": predictions.target, "test": predictions.folder.name}
    return facts | counts | {"metrics": metrics, "definitions": definitions, "provenance": provenance(sys.argv[1:])}


def _table(final: dict[str, Any]) -> str:
    """The Markdown table: the network, and the two mouths that do not move."""
    names = list(final["definitions"])
    rows = [["", *(name.replace("_", " ") for name in names)]]
    rows.append([final["network"], *(_text(final["metrics"].get(name)) for name in names)])
    if final["target"] == "keypoints":
        for key, title in _STILL.items():
            cells = [_text(final["metrics"].get(f"{key}_{name}"), "0") for name in names]
            rows.append([title, *cells])
    return markdown_table(rows)


def _text(value: dict[str, float | None] | None, absent: str = "–") -> str:
    if value is None:
        return absent
    error = value["standard_error"]
    return f"{value['mean']:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def _results_text(final: dict[str, Any]) -> str:
    """The whole of RESULTS.md."""
    counts = f"{final['n_clips']} clips of {final['n_speakers']} speakers"
    failed = f", {final['n_failed']} could not be scored (failed.csv)" if final["n_failed"] else ""
    source = final["provenance"]
    lines = [
        f"# Scores of {final['network']} on {final['test']}", _table(final).rstrip("\n"),
        f"Mean over {counts}{failed}, ± standard error.", "## Definitions",
        "\n".join(f"- {name.replace('_', ' ')}: {text}" for name, text in final["definitions"].items()),
        "## Where this comes from", f"- `{source['command']}`\n- {source['date']}, {source['git']}",
    ]  # fmt: skip
    if final["target"] == "keypoints":
        lines.insert(3, "![opening over time](opening.png)")
    return "\n\n".join(lines) + "\n"


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()})
    write_text(path, text.getvalue())


def _show(predictions: Predictions, seen: list[Prediction], rows: list[dict[str, Any]], out_dir: Path) -> None:
    """Draw some clips, spread from the best to the worst by the correlation of the opening."""
    by_id = {row.id: row for row in seen}
    ordered = sorted(rows, key=lambda row: -row["opening"])
    shown = [ordered[i] for i in np.unique(np.linspace(0, len(ordered) - 1, _N_SHOWN).round().astype(int))]
    panels = []
    for values in shown:
        row = by_id[values["id"]]
        estimate, true, _ = predictions.arrays(row)
        n_frames = min(len(estimate), len(true))
        panels.append((f"{row.id}: correlation {values['opening']:.2f}", estimate[:n_frames], true[:n_frames]))
        faces = {"seen": true[:n_frames], "from the voice": estimate[:n_frames]}
        path = out_dir / f"examples/{row.id}.mp4"
        try:
            write_face_video(path, Path(row.audio_path), faces, row.mouth_path, row.video_path)
        except UserError as error:
            logger.warning("stage 5: %s: not drawn, %s", row.id, error)
    draw_openings(out_dir / "opening.png", panels, predictions.fps)
