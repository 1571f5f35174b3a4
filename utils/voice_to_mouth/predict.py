"""Stage 4 of a voice-to-mouth network: what it gives for the clips of a test set, or for sounds."""

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from local_models.voice_to_mouth import VoiceToMouth
from utils.data.audio import read_audio
from utils.data.constants import CONVERTIBLE_SUFFIXES, VIDEO_SUFFIXES
from utils.data.devices import choose_device
from utils.data.experiments import Experiment
from utils.data.files import exclusive_lock, sha256_file
from utils.data.fingerprints import StageMark, hash_contents, hash_stats
from utils.data.manifest import VIDEOS_NAME, Problem, read_manifest, read_videos, write_failed
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.separation.options import TestSetOptions
from utils.training.experiment import load_model
from utils.voice_to_mouth.clips import single_clips
from utils.voice_to_mouth.drawing import write_face_video
from utils.voice_to_mouth.predictions import Prediction, Predictions, write_prediction, write_predictions

logger = logging.getLogger(__name__)


class Voice(NamedTuple):
    """A voice to predict for, and what a camera saw, if one did."""

    row: Prediction
    samples: np.ndarray
    true: np.ndarray | None


def predict(experiment: Experiment, options: TestSetOptions) -> None:
    """Predict for every clip of a prepared CSV, or for a sound file or a folder of them, of which videos are drawn.

    Raises:
        UserError: nothing can be predicted, or more failed than `max_failed`.
    """
    device = choose_device(options.device)
    network: VoiceToMouth = load_model(experiment.network_path).to(device)
    out_dir = experiment.folder / "predicted" / options.name
    is_manifest = options.test_dir.suffix == ".csv"
    sounds = [] if is_manifest else _sounds(options.test_dir)
    inputs = {"network": sha256_file(experiment.network_path)}
    inputs["test"] = hash_contents([options.test_dir]) if is_manifest else hash_stats(sounds)
    with exclusive_lock(out_dir, "this test"):
        mark = StageMark(out_dir / ".done-4.json", inputs)
        if mark.changed() == [] and not options.force:
            logger.info("stage 4: up to date, %s", out_dir)
            return
        rows, problems, sound_sec, spent_sec = [], [], 0.0, 0.0
        voices = _clips(experiment, options) if is_manifest else _voices(sounds, problems, network.config.sample_rate)
        for voice in tqdm(voices, desc="predict", unit="clip", disable=None):
            start_sec = time.perf_counter()
            estimate = network.predict(voice.samples)
            spent_sec += time.perf_counter() - start_sec
            sound_sec += len(voice.samples) / network.config.sample_rate
            write_prediction(out_dir, voice.row.id, estimate, voice.true)
            rows.append(voice.row._replace(frames=len(estimate)))
            if not is_manifest and network.config.target == "keypoints":
                _draw(out_dir / f"{voice.row.id}.mp4", voice.samples, estimate, network.config.sample_rate)
        write_failed(out_dir / "failed.csv", problems)
        if len(problems) > options.max_failed:
            raise UserError(
                f"{len(problems)} sounds could not be used (--max_failed {options.max_failed}); see {out_dir / 'failed.csv'}; "
                f"the first: {problems[0].path}: {problems[0].reason}"
            )
        mean = network.target_norm.running_mean.cpu().numpy()
        name = experiment.folder.resolve().name
        write_predictions(Predictions(out_dir, network.config.target, name, network.config.video_fps, mean, tuple(rows)))
        mark.write()
    factor = spent_sec / max(sound_sec, 1e-9)
    timing = f"{sound_sec:.1f} s of sound, real-time factor {factor:.4f} (the network alone)"
    logger.info("stage 4: %d voices, %d failed: %s; %s", len(rows), len(problems), out_dir, timing)


def _clips(experiment: Experiment, options: TestSetOptions) -> Iterator[Voice]:
    """The clips of a prepared CSV, with what stage 2 stored of their mouths."""
    manifest = single_clips(read_manifest(options.test_dir))
    (record,) = experiment.frontends.values()
    folder = options.dump_dir / "embeddings" / record.store_name / manifest.corpus
    if not folder.is_dir():
        raise UserError(f"{folder}: no embeddings of this test set; stage 2 makes them (--stage 2 --stop_stage 2)")
    store = EmbeddingStore(folder)
    listed = manifest.data_root / VIDEOS_NAME
    rows = read_videos(listed) if listed.is_file() else []
    videos = {row.mouth_path: str(manifest.resolve(row.video_path)) for row in rows}
    for clip in manifest.items:
        true = store.get(clip.mouth_path) if clip.mouth_path in store else None
        audio_path, mouth_path = (str(manifest.resolve(path)) for path in (clip.audio_path, clip.mouth_path))
        video_path = videos.get(clip.mouth_path, "")
        row = Prediction(clip.utterance_id, clip.speaker, audio_path, 0, true is not None, mouth_path, video_path)
        yield Voice(row, read_audio(audio_path, sample_rate=manifest.sample_rate), true)


def _sounds(place: Path) -> list[Path]:
    """A sound file, or those of a folder; videos have sound, too."""
    if place.is_file():
        return [place]
    suffixes = (*CONVERTIBLE_SUFFIXES, *VIDEO_SUFFIXES)
    found = sorted(path for path in place.iterdir() if path.suffix.lower() in suffixes) if place.is_dir() else []
    if not found:
        raise UserError(f"--test_dir {place}: no sound file there; give a prepared CSV, a sound, or a folder of sounds")
    return found


def _voices(paths: list[Path], problems: list[Problem], sample_rate: int) -> Iterator[Voice]:
    """Sounds of any kind, as the network wants them; those that cannot be used become problems."""
    from utils.video.sound import extract_sound

    named: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="voices-") as folder:
        for row, path in enumerate(paths, start=1):
            wav, name = Path(folder) / "voice.wav", path.stem
            try:
                if name in named:
                    raise UserError("another sound of this folder has the same name; rename one")
                named.add(name)
                for warning in extract_sound(path, wav).warnings:
                    logger.warning("%s: %s", path, warning)
            except UserError as error:
                problems.append(Problem(row, name, str(path), str(error).removeprefix(f"{path}: ")))
                continue
            yield Voice(Prediction(name, "", str(path), 0, False), read_audio(wav, sample_rate=sample_rate), None)


def _draw(path: Path, samples: np.ndarray, estimate: np.ndarray, sample_rate: int) -> None:
    from utils.data.audio import write_wav

    with tempfile.TemporaryDirectory(prefix="voices-") as folder:
        wav = Path(folder) / "voice.wav"
        write_wav(wav, samples, sample_rate)
        write_face_video(path, wav, {"from the voice": estimate})
