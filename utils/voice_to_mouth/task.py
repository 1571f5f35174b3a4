"""Voice to mouth as a kind of training."""

from collections.abc import Callable

from local_models.voice_to_mouth import VoiceToMouth
from utils.training.config import Config
from utils.training.tasks import Task
from utils.voice_to_mouth.clips import make_clip_datasets
from utils.voice_to_mouth.system import VoiceToMouthSystem


def _system(config: Config, network: VoiceToMouth, progress: Callable[[int], float]) -> VoiceToMouthSystem:
    return VoiceToMouthSystem(network, config.loss, config.optim, progress, config.training.seed)


VOICE_TO_MOUTH = Task(make_clip_datasets, _system, lambda _: [])
