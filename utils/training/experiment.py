"""An experiment's files: the trained network, the history of its epochs, and the marks of what it was trained on.

exp/<tag>/conf.yml            every key of the conf as trained
exp/<tag>/best_model.pth      the network of the epoch with the lowest validation loss, an Asteroid model
exp/<tag>/model.safetensors   instead, where it is a published one: the same as float16
exp/<tag>/frontend.json       the visual frontend whose embeddings of lips it was trained on (absent where it saw none)
exp/<tag>/face_frontend.json  the same for embeddings of faces
exp/<tag>/history.csv         one row an epoch
exp/<tag>/training.json       what the training cost
exp/<tag>/.started-3.json     what it was trained on; .done-3.json the same when it is finished
exp/<tag>/previous-<time>/    what was trained before on something else
"""

import csv
import io
import json
import logging
import os
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from local_models.networks import NETWORKS, AnyNetwork
from utils.data.experiments import FRONTEND_FILES, FrontendRecord
from utils.data.files import atomic_path, remove_leftovers, write_json, write_text
from utils.data.fingerprints import StageMark, hash_contents
from utils.data.manifest import Manifest
from utils.errors import UserError
from utils.training.augmentation import Acoustics
from utils.training.config import Config
from utils.training.system import Metric

log = logging.getLogger(__name__)

# What a training makes: set aside together when it is started anew.
PRODUCTS = ("conf.yml", "left_out.csv", "checkpoints", "best_model.pth", "history.csv", "curves.png", "training.json",
            "log/tensorboard", "log/wandb", "log/comet", "log/run_id", *FRONTEND_FILES.values(), "residuals.npz",
            "separated", "predicted", "results", ".done-3.json")  # fmt: skip
_UNREADABLE = (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError)
NEUTRAL_KEYS = ("num_workers", "logger", "audio_examples")  # they change no number of the result


def save_model(path: Path | str, network: AnyNetwork, infos: dict[str, Any]) -> None:
    """Write a network as Asteroid serialises it, tensors and plain types only, atomically."""
    saved = network.serialize()
    saved["state_dict"] = {name: tensor.detach().cpu() for name, tensor in saved["state_dict"].items()}
    versions = {name: str(version) for name, version in saved["infos"]["software_versions"].items()}
    with atomic_path(path) as temporary:
        torch.save(saved | {"infos": infos | {"software_versions": versions}}, temporary)


def save_as_published(path: Path | str, source: Path) -> None:
    """Write a trained network as others get it: float16, safetensors with the network's name and arguments as its metadata.

    Raises:
        UserError: as `load_model`, or it holds weights beyond the range of float16.
    """
    load_model(source)  # refuses what is none
    saved = _read(source)
    weights = {name: each.half() if each.is_floating_point() else each for name, each in saved["state_dict"].items()}
    if not all(each.isfinite().all() for each in weights.values()):
        raise UserError(f"{source}: holds weights beyond the range of float16; train it again with weight decay")
    facts = {"format": "pt", "model_name": saved["model_name"], "model_args": json.dumps(saved["model_args"])}
    with atomic_path(path) as temporary:
        save_file({name: each.contiguous() for name, each in weights.items()}, temporary, facts)


def load_model(path: Path | str) -> AnyNetwork:
    """Read a trained network, in evaluation mode, on the CPU.

    Raises:
        UserError: no such file, not a model of this recipe, or weights that do not fit their arguments.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no trained model; stage 3 makes it")
    try:
        saved = _read(path)
        network = {kind.__name__: kind for kind in NETWORKS.values()}[saved["model_name"]].from_pretrained(saved)
    except (*_UNREADABLE, LookupError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a model of this recipe ({reason}); train it again") from None
    return network.eval()


def _read(path: Path) -> dict[str, Any]:
    """What Asteroid's `from_pretrained` takes: model_name, model_args, state_dict."""
    if path.suffix != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True)
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return {"model_name": facts["model_name"], "model_args": json.loads(facts["model_args"]), "state_dict": weights}


def initialise(network: AnyNetwork, path: Path | str) -> None:
    """Start a network from a trained one: take over every weight that has the same name and shape in both.

    An audio-only network gives what it shares with an audio-visual one.

    Raises:
        UserError: as `load_model`, or the networks have nothing in common.
    """
    own, given = network.state_dict(), load_model(path).state_dict()
    shared = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    if not shared:
        raise UserError(f"{path}: no weight fits this network; it is of another kind")
    network.load_state_dict(own | shared)
    left = sorted({name.rpartition(".")[0] for name in own if name not in shared})
    log.info("%d of %d weights are those of %s%s", len(shared), len(own), path, f"; new: {', '.join(left)}" if left else "")


def history_columns(metric: Metric) -> tuple[str, ...]:
    """The columns of history.csv."""
    return ("epoch", "steps", "lr", "loss", metric.name, "val_loss", f"val_{metric.name}", "seconds")


def write_history(path: Path | str, rows: list[dict[str, Any]], metric: Metric) -> None:
    """Write the epochs' rows as CSV, atomically; the whole file each time, so that resuming never doubles a row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, history_columns(metric), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def draw_curves(path: Path | str, rows: list[dict[str, Any]], title: str, metric: Metric) -> None:
    """Draw loss and metric of training and validation over the epochs, as PNG."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] + 1 for row in rows]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    shown = (("loss", "loss", metric.loss_unit), (metric.name, metric.title, metric.unit))
    for panel, (key, label, unit) in zip(figure.subplots(1, 2), shown, strict=True):
        panel.plot(epochs, [row[key] for row in rows], label="training", color="tab:blue")
        panel.plot(epochs, [row[f"val_{key}"] for row in rows], label="validation", color="tab:orange")
        panel.set(xlabel="epoch", ylabel=f"{label} ({unit})" if unit else label)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.suptitle(title, parse_math=False)  # a name may have dollar signs
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def training_inputs(
    config: Config,
    training_stores: Sequence[str],
    train: Manifest,
    val: Manifest,
    acoustics: Acoustics | None,
    init_path: Path | None = None,
) -> dict[str, str]:
    """Everything whose change asks for a new training: name -> value.

    Args:
        config: all its keys but those that change no number of the result.
        training_stores: names of the embedding stores; they hold the visual frontend's fingerprint.
        train, val: the manifests.
        acoustics: the recordings of noise, rooms and interferers; None where a training has none.
        init_path: the trained network that the training starts from.
    """
    values = {
        f"{section}.{key}": json.dumps(value)
        for section, keys in config.to_dict().items()
        for key, value in keys.items()
        if key not in NEUTRAL_KEYS
    }
    values |= {manifest.path.name: hash_contents([manifest.path]) for manifest in (train, val)}
    values |= {"noise and rooms": acoustics.fingerprint() if acoustics else "", "embeddings": ",".join(training_stores)}
    return values | {"initial weights": hash_contents([init_path]) if init_path else ""}


class TrainingMarks:
    """The marks in an experiment's folder: what a training was started on, and that it is finished.

    Args:
        exp_dir: the experiment's folder.
        inputs: as `training_inputs` gives them.
    """

    START_TIMEOUT_SEC = 600

    def __init__(self, exp_dir: Path, inputs: dict[str, str]) -> None:
        self.exp_dir, self.inputs = exp_dir, inputs
        self.started, self.done = (StageMark(exp_dir / f".{name}-3.json", inputs) for name in ("started", "done"))

    def is_finished(self) -> bool:
        """Tell whether a network was trained to the end on these inputs."""
        return self.done.changed() == [] and (self.exp_dir / "best_model.pth").is_file()

    def start(self, frontends: Mapping[str, FrontendRecord], again: bool) -> None:
        """Set aside what was trained on other inputs, remove what a kill left, and write down what is trained on now.

        Args:
            frontends: the visual frontends by what they see; none for an audio-only network.
            again: set aside a training on the same inputs too, if it is finished.
        """
        for folder in (self.exp_dir, self.exp_dir / "checkpoints"):
            remove_leftovers(folder, below=False)  # not below: stage 4 may be at work there
        changes = self.started.changed()
        if changes or (again and self.done.path.exists()):
            for change in changes or []:
                log.info("stage 3: changed since the last training here: %s", change)
            self._set_aside()
        for kind, record in frontends.items():
            write_json(self.exp_dir / FRONTEND_FILES[kind], asdict(record))
        write_json(self.started.path, {"inputs": self.inputs})

    def wait_for_start(self, again: bool) -> None:
        """Wait until the first process of several has called `start` with the same `again`.

        Raises:
            UserError: it has not after ten minutes.
        """
        for _ in range(self.START_TIMEOUT_SEC):
            if self.started.changed() == [] and not (again and self.done.path.exists()):  # which `start` moves last
                return
            time.sleep(1)
        raise UserError(f"{self.started.path}: the first process has not started within ten minutes; look at its log")

    def finish(self) -> None:
        """Mark the training as finished."""
        self.done.write()

    def _set_aside(self) -> None:
        previous = _unused(self.exp_dir / f"previous-{datetime.now():%Y%m%d-%H%M%S}")
        moved = [name for name in PRODUCTS if (self.exp_dir / name).exists()]
        for name in moved:
            target = previous / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.exp_dir / name, target)
        if moved:
            log.info("stage 3: training anew; what was trained before is kept in %s", previous)


def _unused(path: Path) -> Path:
    """The path, or one with a number behind it: where a clock was set back, an older training may have its name."""
    names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000)))
    return next(name for name in names if not name.exists())
