"""Predictions on disk: what stage 4 makes of voices, and stage 5 reads.

exp/<tag>/predicted/<test name>/
    predicted.json     what was predicted (`target`), by which network, frames per second, and the mean of what was trained on
    predicted.csv      a row for each clip: id, speaker, audio_path, frames, has_truth, mouth_path, video_path ("": none)
    <id>.npz           `estimate` float32 (frames, dim); `true` the same, zeros where no mouth is seen, if a camera saw it;
                       `closings` (n, 2), seconds from and to which there is a p, b or m, if the corpus knows
    <id>.mp4           a drawn face with the sound, of sounds that no corpus knows
"""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.files import atomic_path, read_json, write_json, write_text
from utils.data.phonemes import Phoneme
from utils.errors import UserError


class Prediction(NamedTuple):
    """A row of predicted.csv."""

    id: str
    speaker: str
    audio_path: str
    frames: int
    has_truth: bool
    mouth_path: str = ""
    video_path: str = ""


class Predictions(NamedTuple):
    """The predictions of a test."""

    folder: Path
    target: str
    network: str
    fps: float
    mean: np.ndarray  # (dim,)
    rows: tuple[Prediction, ...]

    def arrays(self, row: Prediction) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Estimate and truth of a row, (frames, dim) each, and its closings (n, 2).

        Raises:
            UserError: the file is missing or damaged.
        """
        path = self.folder / f"{row.id}.npz"
        try:
            with np.load(path) as file:
                closings = file.get("closings")
                return file["estimate"], file["true"] if row.has_truth else None, closings
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"cannot be read ({error}); run stage 4 again with --force true", path) from None


def write_prediction(
    folder: Path, name: str, estimate: np.ndarray, true: np.ndarray | None, closings: list[Phoneme] | None
) -> None:
    """Write the arrays of a clip, whole or not at all."""
    arrays = {"estimate": estimate} | ({} if true is None else {"true": true})
    if closings is not None:
        arrays["closings"] = np.array([each[1:] for each in closings]).reshape(-1, 2)
    with atomic_path(folder / f"{name}.npz") as temporary, open(temporary, "wb") as handle:
        np.savez(handle, **{key: array.astype(np.float32) for key, array in arrays.items()})


def write_predictions(predictions: Predictions) -> None:
    """Write the two lists, after the arrays."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Prediction._fields)
    writer.writerows(predictions.rows)
    write_text(predictions.folder / "predicted.csv", text.getvalue())
    facts = {"target": predictions.target, "network": predictions.network, "fps": predictions.fps}
    write_json(predictions.folder / "predicted.json", facts | {"mean": predictions.mean.tolist()})


def read_predictions(folder: Path) -> Predictions:
    """Read what `write_predictions` wrote.

    Raises:
        UserError: it is not there, or damaged.
    """
    path = folder / "predicted.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; stage 4 makes it")
    try:
        facts = read_json(path)
        with open(folder / "predicted.csv", newline="", encoding="utf-8") as handle:
            found = list(csv.DictReader(handle))
        rows = tuple(
            Prediction(**row | {"frames": int(row["frames"]), "has_truth": row["has_truth"] == "True"}) for row in found
        )
        mean = np.array(facts["mean"], np.float32)
        return Predictions(folder, facts["target"], facts["network"], facts["fps"], mean, rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: its lists are damaged ({error}); run stage 4 again with --force true") from None
