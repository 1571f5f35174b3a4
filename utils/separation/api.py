"""The recipe from Python: a video in, tracks out; a network and its visual embeddings.

    from utils.separation.api import separate

    talk = separate("talk.mp4", "separated/talk")
    left = talk.tracks[0].read()

All work is that of `./separate.sh`, with the same files; docs/python.md shows it in use.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from local_models.separator import AVSeparator
from utils.data.audio import read_audio
from utils.data.constants import SAMPLE_RATE_HZ
from utils.data.experiments import open_experiment
from utils.data.files import read_json
from utils.data.hub import experiment_folder
from utils.data.mouths import MouthFile
from utils.embedding.embed import embed_file
from utils.errors import UserError
from utils.separation.mixtures import load_frontends
from utils.separation.on_demand import REPORT, has_stems
from utils.separation.options import VideoSetOptions
from utils.separation.speech import Speech
from utils.separation.videos import find_videos, separate_videos
from utils.training.experiment import load_model

PRETRAINED = Path(__file__).resolve().parents[2] / "egs/own_video/pretrained"
"""The network that comes with the recipe."""


@dataclass(frozen=True)
class Track:
    """The voice of a face, or the residual.

    Attributes:
        name: face1, face2, … from left to right; rest.
        path: wav of 16 kHz, mono.
        on_screen_sec: from, to; of the residual none.
        speech: who spoke when, of the residual nothing.
        voice_certainty: 0 to 1, how likely it is the voice of this face; None where the network does not say.
        stem_path: wav of the sound's own rate and channels, where it was asked for.
    """

    name: str
    path: Path
    on_screen_sec: tuple[tuple[float, float], ...] = ()
    speech: tuple[Speech, ...] = ()
    voice_certainty: float | None = None
    stem_path: Path | None = None

    def read(self, start_sec: float = 0.0, duration_sec: float | None = None) -> np.ndarray:
        """The samples of the track, or of a stretch of it: float32 (samples,), 16 kHz."""
        length = -1 if duration_sec is None else round(duration_sec * SAMPLE_RATE_HZ)
        return read_audio(self.path, round(start_sec * SAMPLE_RATE_HZ), length, SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class SeparatedVideo:
    """The result of `separate`: files in `folder`, and what its tracks.json says.

    Attributes:
        folder: of the files.
        tracks: those of the faces, from left to right.
        rest: the residual: the video's sound less all tracks.
        n_samples: of each track, at 16 kHz.
        warnings: what looks wrong, a line each.
        facts: all of tracks.json.
    """

    folder: Path
    tracks: tuple[Track, ...]
    rest: Track
    n_samples: int
    warnings: tuple[str, ...]
    facts: Mapping[str, Any]


def separate(
    video: str | Path, out_dir: str | Path, exp_dir: str | Path = PRETRAINED, *, frontend_weights: str = "", **options: Any
) -> SeparatedVideo:
    """Separate the people of a video, as `./separate.sh` does; what is up to date is not made again.

    Args:
        video: a video with sound.
        out_dir: gets a folder of the video's name with the files, and `.cache` with faces and embeddings.
        exp_dir: a trained experiment, or `hf://USER/NAME`; by default the network that comes with the recipe.
        frontend_weights: the visual frontend's file, if it is not where the experiment had it.
        options: fields of `utils.separation.options.VideoSetOptions`, e.g. `people=2`, `output_rate="source"`, `mux=True`,
            `preview=True`, `asr="COMMAND"`, `device="cpu"`, `force=True`.

    Raises:
        UserError: the video cannot be separated, or the experiment cannot be used.
        TypeError: an unknown option.
    """
    video, out_dir = Path(video), Path(out_dir)
    if not video.is_file():
        raise UserError("no such video", video)
    out_dir.mkdir(parents=True, exist_ok=True)
    given = {"dump_dir": out_dir / ".cache", "nj": 1} | options | {"test_dir": video, "out_dir": str(out_dir), "max_failed": 1}
    experiment = open_experiment(experiment_folder(str(exp_dir)), frontend_weights)
    separate_videos(experiment, VideoSetOptions(**given))
    with open(out_dir / "failed.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            raise UserError(row["reason"], video)
    (found,) = find_videos(video, "")
    return read_separated(out_dir / found.name)


def read_separated(folder: str | Path) -> SeparatedVideo:
    """What an earlier call, or `./separate.sh`, left in the folder of a video.

    Raises:
        UserError: there is no tracks.json.
    """
    folder = Path(folder)
    if not (folder / REPORT).is_file():
        raise UserError(f"holds no {REPORT}; ./separate.sh VIDEO makes it", folder)
    facts = read_json(folder / REPORT)
    known = facts["stems"]["wavs"] if has_stems(folder, facts) else {}
    stems = {name: folder / path for name, path in known.items()}
    tracks = tuple(
        Track(
            name=track["name"],
            path=folder / track["wav"],
            on_screen_sec=tuple((first, last) for first, last in track["on_screen_sec"]),
            speech=tuple(map(Speech.from_json, track["speech"])),
            voice_certainty=track.get("voice_certainty"),
            stem_path=stems.get(track["name"]),
        )
        for track in facts["tracks"]
    )
    rest = Path(facts["rest"]["wav"])
    residual = Track(rest.stem, folder / rest, stem_path=stems.get(rest.stem))
    return SeparatedVideo(folder, tracks, residual, facts["n_samples"], tuple(facts["warnings"]), facts)


def load_network(exp_dir: str | Path = PRETRAINED) -> AVSeparator:
    """The network of an experiment, in eval mode; `network.separate(mixture, embeddings)` separates.

    Raises:
        UserError: there is none.
    """
    return load_model(open_experiment(experiment_folder(str(exp_dir)), needs_weights=False).network_path)


def embed_mouths(mouth_path: str | Path, exp_dir: str | Path = PRETRAINED, frontend_weights: str = "") -> np.ndarray:
    """The visual embeddings of a mouth file, as the network of an experiment wants them.

    Args:
        mouth_path: npz of stage 1, or of `.cache/videos/*/*/mouths/` after `separate`.
        exp_dir: the experiment; its visual frontends are taken.
        frontend_weights: as of `separate`.

    Returns:
        float32 (video_frames, visual_dim), zeros on frames where no mouth is seen.

    Raises:
        UserError: the file, or the frontend's, cannot be used; or the experiment wants faces, which lie beside the mouths.
    """
    experiment = open_experiment(experiment_folder(str(exp_dir)), frontend_weights)
    if "face" in experiment.frontends:
        raise UserError(f"{experiment.folder}: sees faces besides mouths; let separate() make the embeddings")
    path, parts = Path(mouth_path), []
    for kind, frontend in load_frontends(experiment, "cpu").items():
        record = experiment.frontends[kind]
        if kind == "lips":
            vectors = embed_file(frontend, MouthFile(path), record.view).numpy()
        else:
            vectors = frontend.read(path, MouthFile(path).n_frames, False, record.view)
        parts.append(vectors.astype(record.precision).astype(np.float32))  # as they are stored
    return np.concatenate(parts, axis=1)
