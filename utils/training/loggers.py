"""Where a training is shown beside its files: TensorBoard always, Weights & Biases or Comet where the conf asks for one.

exp/<tag>/log/{tensorboard,wandb,comet}   what they write; made without a network (WANDB_MODE=offline, COMET_START_ONLINE=0) it
                                          can be sent later
exp/<tag>/log/run_id                      the run's name at wandb or Comet: an interrupted training goes on in the same run
"""

import importlib.util
import os
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from matplotlib.image import imread
from pytorch_lightning.loggers import CometLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from utils.data.files import write_text
from utils.errors import UserError
from utils.training.config import Config

_PROJECT = "audio-visual-speech-separation"
_PACKAGES = {"wandb": "wandb", "comet": "comet_ml"}
_REMEDIES = {
    "wandb": "log in with `wandb login`, or set WANDB_MODE=offline",
    "comet": "log in with `comet login`, or set COMET_START_ONLINE=0",
}


def make_loggers(wanted: str, exp_dir: Path) -> list[Logger]:
    """TensorBoard, and the logger that the conf asks for.

    Args:
        wanted: "none", "wandb" or "comet".
        exp_dir: of the experiment, whose name the run gets.

    Raises:
        UserError: the logger's package is not installed, or it has neither a login nor a network.
    """
    loggers: list[Logger] = [TensorBoardLogger(exp_dir, name="log", version="tensorboard", default_hp_metric=False)]
    if wanted == "none":
        return loggers
    package = _PACKAGES[wanted]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"--logger {wanted}: the package {package} is not installed; pip install {package}")
    folder = exp_dir.absolute() / "log"
    run_id = _run_id(folder / "run_id") if rank_zero_only.rank == 0 else None
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if wanted == "wandb":
            project = os.environ.get("WANDB_PROJECT", _PROJECT)
            loggers.append(WandbLogger(name=exp_dir.name, save_dir=folder, id=run_id, project=project))
        else:
            # A folder for each start: the name of an archive is drawn from random numbers whose seed is the training's.
            archives = folder / "comet" / f"{datetime.now():%Y%m%d-%H%M%S}"
            archives.mkdir(parents=True, exist_ok=True)
            kept = {"experiment_key": run_id, "offline_directory": str(archives), "name": exp_dir.name}
            kept |= {"auto_metric_logging": False, "parse_args": False}  # it would take TensorBoard's numbers and pictures, too
            loggers.append(CometLogger(project=os.environ.get("COMET_PROJECT_NAME", _PROJECT), **kept))
        _ = loggers[-1].experiment  # begins the run
    except Exception as error:  # of a package that is not ours
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--logger {wanted}: cannot be started ({reason}); {_REMEDIES[wanted]}") from None
    return loggers


def _run_id(path: Path) -> str:
    """The run's name there, made once: 32 hex digits, as Comet wants them."""
    if not path.is_file():
        write_text(path, uuid.uuid4().hex + "\n")
    return path.read_text(encoding="utf-8").strip()


def is_shown(epoch: int) -> bool:
    """Tell if sounds and pictures of an epoch (counted from 0) are shown: the first, second, fourth, eighth, ..."""
    return (epoch + 1) & epoch == 0


def show(
    trainer: pl.Trainer,
    epoch: int,
    sounds: Mapping[str, torch.Tensor] | None = None,
    sample_rate: int = 0,
    pictures: Mapping[str, Any] | None = None,
) -> None:
    """Add sounds and pictures to all loggers of a training.

    Args:
        trainer: has the loggers, and the step.
        epoch: counted from 0.
        sounds: by name, (time,); shown peak-normalised.
        sample_rate: of the sounds, Hz.
        pictures: by name, uint8 (height, width, 3).
    """
    sounds = {name: (sound / sound.abs().max().clamp(min=1e-8)).numpy() for name, sound in (sounds or {}).items()}
    pictures = pictures or {}
    step = trainer.global_step
    for logger in trainer.loggers:
        run = logger.experiment
        if isinstance(logger, TensorBoardLogger):
            for name, sound in sounds.items():
                run.add_audio(name, sound[None], epoch, sample_rate)
            for name, picture in pictures.items():
                run.add_image(name, picture, epoch, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            from wandb import Audio, Image

            shown = {name: Audio(sound, sample_rate) for name, sound in sounds.items()}
            shown |= {name: Image(picture) for name, picture in pictures.items()}
            logger.log_metrics(shown | {"epoch": epoch}, step)
        elif isinstance(logger, CometLogger):
            for name, sound in sounds.items():
                run.log_audio(sound, sample_rate=sample_rate, file_name=f"{name}.wav", step=step)
            for name, picture in pictures.items():
                run.log_image(picture, name, step=step)


class ShownEpochs(pl.Callback):
    """Call `show_epoch` after each shown epoch and after the last one, once for each."""

    shown_epoch = -1

    def show_epoch(self, trainer: pl.Trainer, epoch: int) -> bool:
        """Give an epoch to the loggers; tells whether there was anything to show."""
        raise NotImplementedError

    def on_train_epoch_end(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        if is_shown(trainer.current_epoch):
            self._show_once(trainer, trainer.current_epoch)

    def on_train_end(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        self._show_once(trainer, trainer.current_epoch - 1)

    def _show_once(self, trainer: pl.Trainer, epoch: int) -> None:
        if epoch > self.shown_epoch and self.show_epoch(trainer, epoch):
            self.shown_epoch = epoch


class RunLog(ShownEpochs):
    """Give the loggers what they do not get by themselves: the conf, and the curves of shown epochs and of the last one.

    It comes after what writes curves.png.

    Args:
        config: becomes the run's hyperparameters.
        exp_dir: the experiment's folder.
    """

    def __init__(self, config: Config, exp_dir: Path) -> None:
        self.config, self.curves = config, exp_dir / "curves.png"

    def on_fit_start(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            logger.log_hyperparams(self.config.to_dict())

    def show_epoch(self, trainer: pl.Trainer, epoch: int) -> bool:
        """Show the curves."""
        has_curves = trainer.is_global_zero and self.curves.is_file()
        if has_curves:
            show(trainer, epoch, pictures={"curves": (imread(self.curves)[..., :3] * 255).astype("uint8")})
        return has_curves


def end_runs(loggers: list[Logger]) -> None:
    """Tell wandb or Comet that a training has ended, which writes what they still hold."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
        elif isinstance(logger, CometLogger):
            logger.experiment.end()
