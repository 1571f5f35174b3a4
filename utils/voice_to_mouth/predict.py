"""Stage 4 of a voice-to-mouth network: what it gives for the clips of a test set, or for sounds."""

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from local_models.configs import VoiceToMouthConfig
from local_models.voice_to_mouth import VoiceToMouth
from utils.data.audio import read_audio
from utils.data.constants import CONVERTIBLE_SUFFIXES, VIDEO_SUFFIXES
from utils.data.devices import choose_device
from utils.data.experiments import Experiment
from utils.data.files import exclusive_lock, sha256_file
from utils.data.fingerprints import StageMark, hash_json, hash_stats
from utils.data.manifest import VIDEOS_NAME, Manifest, Problem, read_manifest, read_videos, write_failed
from utils.data.phonemes import PHONEMES_NAME, Phoneme, read_phonemes
from utils.data.progress import progress_bar
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.separation.options import TestSetOptions
from utils.training.experiment import load_model
from utils.voice_to_mouth.clips import single_clips
from utils.voice_to_mouth.drawing import write_face_video
from utils.voice_to_mouth.predictions import Prediction, Predictions, write_prediction, write_predictions

logger = logging.getLogger(__name__)

_CLOSE_LIPS, _STRESS = ("p", "b", "m"), "ˈˌ"  # IPA


class Voice(NamedTuple):
    """A voice to predict for, and what a camera saw, if one did."""

    row: Prediction
    samples: np.ndarray
    true: np.ndarray | None = None
    closings: list[Phoneme] | None = None


def predict(experiment: Experiment, options: TestSetOptions) -> None:
    """Predict for every clip of a prepared CSV, or for a sound file or a folder of them, of which videos are drawn.

    Raises:
        UserError: nothing can be predicted, or more failed than `max_failed`.
    """
    device = choose_device(options.device)
    network: VoiceToMouth = load_model(experiment.network_path).to(device)
    out_dir = experiment.folder / "predicted" / options.name
    is_manifest = options.test_dir.suffix == ".csv"
    clips = _clips(experiment, options, network.config) if is_manifest else None
    sounds = clips.sounds() if clips else _sounds(options.test_dir)
    inputs = {"network": sha256_file(experiment.network_path), "sounds": hash_stats(sounds)}
    inputs |= {"max_failed": str(options.max_failed), "targets": clips.fingerprint() if clips else ""}
    with exclusive_lock(out_dir, "this test"):
        mark = StageMark(out_dir / ".done-4.json", inputs)
        if mark.changed() == [] and not options.force:
            logger.info("stage 4: up to date, %s", out_dir)
            return
        mark.path.unlink(missing_ok=True)
        rows, problems, sound_sec, spent_sec = [], [], 0.0, 0.0
        voices = clips.voices(problems) if clips else _voices(sounds, problems, network.config.sample_rate)
        for voice in progress_bar(voices, total=len(sounds), desc="predict", unit="clip"):
            start_sec = time.perf_counter()
            estimate = network.predict(voice.samples)
            spent_sec += time.perf_counter() - start_sec
            sound_sec += len(voice.samples) / network.config.sample_rate
            write_prediction(out_dir, voice.row.id, estimate, voice.true, voice.closings)
            rows.append(voice.row._replace(frames=len(estimate)))
            if not is_manifest and network.config.target == "keypoints":
                _draw(out_dir / f"{voice.row.id}.mp4", voice.samples, estimate, network.config)
        write_failed(out_dir / "failed.csv", problems)
        if len(problems) > options.max_failed:
            raise UserError(
                f"{len(problems)} of {len(sounds)} voices could not be used (--max_failed {options.max_failed}); see "
                f"{out_dir / 'failed.csv'}; the first: {problems[0].path}: {problems[0].reason}"
            )
        mean = network.target_norm.running_mean.cpu().numpy()
        name = experiment.folder.resolve().name
        write_predictions(Predictions(out_dir, network.config.target, name, network.config.video_fps, mean, tuple(rows)))
        mark.write()
    factor = spent_sec / max(sound_sec, 1e-9)
    timing = f"{sound_sec:.1f} s of sound, real-time factor {factor:.4f} (the network alone)"
    logger.info("stage 4: %d voices, %d failed: %s; %s", len(rows), len(problems), out_dir, timing)


class _Clips(NamedTuple):
    """The clips of a prepared CSV, with what stage 2 stored of their mouths."""

    manifest: Manifest
    store: EmbeddingStore
    videos: dict[str, str]  # mouth path -> video
    phonemes: dict[str, list[Phoneme]]  # of clips, if the corpus knows them

    def sounds(self) -> list[Path]:
        return [self.manifest.resolve(clip.audio_path) for clip in self.manifest.items]

    def fingerprint(self) -> str:
        """Of the clips and of the mouths as they are stored now."""
        stored = [clip.mouth_path in self.store and self.store.clip(clip.mouth_path).source for clip in self.manifest.items]
        return hash_json([[str(clip) for clip in self.manifest.items], stored, self.phonemes])

    def voices(self, problems: list[Problem]) -> Iterator[Voice]:
        """Those that can be used; the others become problems."""
        for row, clip in enumerate(self.manifest.items, start=2):
            audio_path, mouth_path = (str(self.manifest.resolve(path)) for path in (clip.audio_path, clip.mouth_path))
            try:
                true = self.store.get(clip.mouth_path)
                samples = read_audio(audio_path, sample_rate=self.manifest.sample_rate)
            except UserError as error:
                problems.append(Problem(row, clip.utterance_id, audio_path, str(error).removeprefix(f"{audio_path}: ")))
                continue
            video_path = self.videos.get(clip.mouth_path, "")
            has_truth = bool(true.any())  # else no face was seen
            shown = Prediction(clip.utterance_id, clip.speaker, audio_path, 0, has_truth, mouth_path, video_path)
            known = self.phonemes.get(clip.utterance_id)
            closings = known and [phoneme for phoneme in known if phoneme.label.lstrip(_STRESS)[:1] in _CLOSE_LIPS]
            yield Voice(shown, samples, true if has_truth else None, closings)


def _clips(experiment: Experiment, options: TestSetOptions, config: VoiceToMouthConfig) -> _Clips:
    """Open a prepared CSV.

    Raises:
        UserError: it is of other rates than the network's, or stage 2 was not run.
    """
    manifest = single_clips(read_manifest(options.test_dir))
    if manifest.sample_rate != config.sample_rate:
        raise UserError(f"{manifest.path}: {manifest.sample_rate} Hz, the network was trained at {config.sample_rate} Hz")
    other = next((clip for clip in manifest.items if clip.fps and clip.fps != config.video_fps), None)
    if other:
        raise UserError(
            f"{manifest.path}: {other.utterance_id} has {other.fps:g} frames/s, the network was trained at {config.video_fps:g}"
        )
    (record,) = experiment.frontends.values()
    folder = options.dump_dir / "embeddings" / record.store_name / manifest.corpus
    if not folder.is_dir():
        raise UserError(f"{folder}: no embeddings of this test set; stage 2 makes them (--stage 2 --stop_stage 2)")
    listed = manifest.data_root / VIDEOS_NAME
    rows = read_videos(listed) if listed.is_file() else []
    videos = {row.mouth_path: str(manifest.resolve(row.video_path)) for row in rows}
    return _Clips(manifest, EmbeddingStore(folder), videos, read_phonemes(manifest.data_root / PHONEMES_NAME))


def _sounds(place: Path) -> list[Path]:
    """A sound file, or those of a folder; videos have sound, too."""
    if place.is_file():
        return [place]
    suffixes = (*CONVERTIBLE_SUFFIXES, *VIDEO_SUFFIXES)
    found = sorted(place.iterdir()) if place.is_dir() else []
    found = [path for path in found if path.suffix.lower() in suffixes and not path.name.startswith(".")]
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
            yield Voice(Prediction(name, "", str(path), 0, False), read_audio(wav, sample_rate=sample_rate))


def _draw(path: Path, samples: np.ndarray, estimate: np.ndarray, config: VoiceToMouthConfig) -> None:
    from utils.data.audio import write_wav

    with tempfile.TemporaryDirectory(prefix="voices-") as folder:
        wav = Path(folder) / "voice.wav"
        write_wav(wav, samples, config.sample_rate)
        write_face_video(path, wav, {"from the voice": estimate})
