"""What trainings differ in: the examples, the losses, and what is shown of a network on the way."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pytorch_lightning import Callback
from torch import nn
from torch.utils.data import Dataset

from utils.data.manifest import Manifest
from utils.embedding.joined import AnyStore
from utils.training.config import Config
from utils.training.datasets import make_datasets
from utils.training.examples import AudioExamples
from utils.training.separation import AVSystem
from utils.training.system import TrainedSystem


class Task(NamedTuple):
    """A kind of training."""

    make_datasets: Callable[..., tuple[Dataset, Dataset]]
    """Of training and of validation; arguments as of `utils.training.datasets.make_datasets`."""
    make_system: Callable[[Config, nn.Module, Callable[[int], float]], TrainedSystem]
    """From the conf, the network, and how far the training is at an optimiser step."""
    make_callbacks: Callable[[Config], list[Callback]]
    finish: Callable[[Config, Path, Manifest, Sequence[AnyStore]], None] = lambda *_: None
    """After the training, by one process: conf, folder of the experiment, what was trained on, and its stores."""


def _separation_system(config: Config, network: nn.Module, progress: Callable[[int], float]) -> AVSystem:
    return AVSystem(network, config.loss, config.optim, progress, config.training.seed)


def _separation_callbacks(config: Config) -> list[Callback]:
    return [AudioExamples(config.training.audio_examples, config.model.sample_rate)]


SEPARATION = Task(make_datasets, _separation_system, _separation_callbacks)
