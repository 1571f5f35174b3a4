"""Voice to mouth as a kind of training."""

from collections.abc import Callable, Sequence
from pathlib import Path

from local_models.voice_to_mouth import VoiceToMouth
from utils.data.manifest import Manifest
from utils.embedding.joined import AnyStore
from utils.training.config import Config
from utils.training.tasks import Task
from utils.voice_to_mouth.clips import make_clip_datasets
from utils.voice_to_mouth.residuals import write_residuals
from utils.voice_to_mouth.system import VoiceToMouthSystem


def _system(config: Config, network: VoiceToMouth, progress: Callable[[int], float]) -> VoiceToMouthSystem:
    return VoiceToMouthSystem(network, config.loss, config.optim, progress, config.training.seed)


def _finish(config: Config, exp_dir: Path, manifest: Manifest, stores: Sequence[AnyStore]) -> None:
    if config.model.target == "lips":
        write_residuals(exp_dir, manifest, stores)


VOICE_TO_MOUTH = Task(make_clip_datasets, _system, lambda _: [], _finish)
