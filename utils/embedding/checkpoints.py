"""Checkpoints of visual frontends: read without running code, recognised, and loaded strictly or refused by name.

Reads `--frontend_weights` files (`torch.save` files of the lip-reading TCN family or of LR-ASD, safetensors of a published
network), `--face_weights` files (of FaceNet or of VisualVoice's identity network) and the configurations in `conf/lipreading`.
"""

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from local_models.lipreading import Lipreading
from local_models.lr_asd import LRASDVisual
from utils.data.files import read_json
from utils.errors import UserError

ZOO = Path(__file__).resolve().parents[2] / "conf" / "lipreading"
HOW_TO_GET = "utils/download_weights.sh --help says how to get one"

LR_ASD_PREFIX = "model.visualEncoder."
OUTPUT_KEY = "tcn.tcn_output.weight"
PRELU_KEY = "frontend3D.2.weight"
DENSE_INPUT_KEY = "tcn.tcn_trunk.features.transition0.conv.weight"

_FACENET_KEY, _IDENTITY_KEY = "repeat_1.0.branch0.conv.weight", "feature_extraction.0.weight"
_UNUSED = ("logits.", "conv1.")  # FaceNet's classifier; VisualVoice's first layer under a second name

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The useful part of a weights file; whatever else it holds (optimizer, epoch) is not kept.

    Attributes:
        path: The file.
        state: Its network's state dict, without DataParallel's prefix.
        config: Its own `config` entry: the name of a configuration, the configuration, or None.
    """

    path: Path
    state: State
    config: str | dict | None

    @property
    def family(self) -> str:
        """`lipreading` or `lr_asd`, which see lips; `facenet` or `identity`, which see faces.

        Raises:
            UserError: the file is none of them.
        """
        names = {".".join(key.split(".")[:2]) for key in self.state}
        tops = {key.split(".")[0] for key in self.state}
        if any(key.startswith(LR_ASD_PREFIX) for key in self.state):
            return "lr_asd"
        if {"frontend3D", "trunk", "tcn"} <= tops:
            return "lipreading"
        for family, key in (("facenet", _FACENET_KEY), ("identity", _IDENTITY_KEY)):
            if key in self.state:
                return family
        what = "a network unknown here"
        if {"frontend3D", "resnet"} <= tops:
            what = "a deep_avsr visual frontend (another network)"
        elif {"trunk", "tcn"} <= tops:
            what = "an audio or partial network of the lip-reading family (no frontend3D.*)"
        elif {"frontend3D", "trunk"} <= tops:
            what = "the front half of a visual frontend (no tcn.*)"
        raise UserError(
            f"{self.path}: holds {what}: {', '.join(sorted(names)[:3])}, ...; give a word visual frontend of the lip-reading "
            f"TCN family or LR-ASD ({HOW_TO_GET})"
        )


def read_checkpoint(path: Path | str, option: str = "--frontend_weights") -> Checkpoint:
    """Read a weights file: `{'model_state_dict': ...}` with or without an optimizer, or a bare state dict.

    Args:
        path: the file.
        option: that named it, for messages.

    Raises:
        UserError: the file is missing, is no checkpoint, or would have to run code to be read.
    """
    path = Path(path)
    content = _load(path, option)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state dict; give a file of weights")
    state = content.get("model_state_dict", content)
    config = content.get("config")
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(
            f"{path}: neither a state dict nor a file with 'model_state_dict' (its entries: "
            f"{', '.join(map(str, list(content)[:5])) or 'none'}); give a file of weights ({HOW_TO_GET})"
        )
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return Checkpoint(path, dict(state), config if isinstance(config, str | dict) else None)


def _load(path: Path, option: str) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such weights file ({option}); {HOW_TO_GET}")
    with open(path, "rb") as handle:
        start = handle.read(64).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path}: is a web page, not a checkpoint; the download failed: {HOW_TO_GET}")
    # an accuracy saved as a numpy scalar is data, but torch allows it only by name
    scalars = [(np._core.multiarray.scalar, "numpy.core.multiarray.scalar"), np._core.multiarray.scalar]
    dtypes = [np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32)), type(np.dtype(np.int64))]
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(scalars + dtypes), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, LookupError, ValueError, AttributeError) as error:
        if any(sign in str(error) for sign in ("GLOBAL", "Unsupported class", "TorchScript")):
            raise UserError(
                f"{path}: holds pickled objects or TorchScript, which run code when read, so it is refused; save the "
                f"network's state_dict alone (torch.save(model.state_dict(), ...)) where you trust it, and give that"
            ) from error
        raise UserError(
            f"{path} ({path.stat().st_size} bytes): not a torch checkpoint, or cut short; fetch it again ({HOW_TO_GET})"
        ) from error


def zoo_names() -> list[str]:
    """Names of the configurations in conf/lipreading."""
    return sorted(file.stem for file in ZOO.glob("*.json"))


def read_lipreading_conf(path: Path | str) -> dict:
    """Read a visual frontend's configuration: a JSON file, or the name of one in conf/lipreading.

    Raises:
        UserError: there is none, or it is not a JSON object.
    """
    file = ZOO / f"{path}.json" if str(path) in zoo_names() else Path(path)
    if not file.is_file():
        raise UserError(f"{path}: no such visual frontend configuration (known: {', '.join(zoo_names())})")
    conf = read_json(file)
    if not isinstance(conf, dict):
        raise UserError(f"{file}: a visual frontend's configuration is a JSON object with the fields of conf/lipreading/*.json")
    return conf


def load_lipreading(checkpoint: Checkpoint, conf_path: Path | None) -> tuple[str, Lipreading]:
    """The visual frontend in `checkpoint`, loaded strictly.

    The configuration is `conf_path`, else the file's own `config`, else the one in conf/lipreading that fits. The
    number of words is the file's. (relu and swish have no weights: between these two the configuration decides.)

    Returns:
        The configuration's name and the network.

    Raises:
        UserError: the configuration cannot be used, none fits, or the given one does not fit the file.
    """
    name, conf, source = _choose_conf(checkpoint, conf_path)
    try:
        with torch.device("meta"):
            model = Lipreading(conf, _num_classes(checkpoint))
    except (ValueError, TypeError) as error:
        raise UserError(f"{source}: no network can be built from it: {error}; see conf/lipreading") from error
    wanted = _signature(model.state_dict())
    if wanted != _signature(checkpoint.state):
        raise UserError(_mismatch(checkpoint, conf, source, wanted))
    return name, _load_strictly(model, checkpoint.state)


def load_lr_asd(checkpoint: Checkpoint) -> LRASDVisual:
    """The visual half of an LR-ASD checkpoint, loaded strictly.

    Raises:
        UserError: its entries are not those of the public network.
    """
    return load_plain(LRASDVisual, checkpoint, LR_ASD_PREFIX)


def load_plain(kind: type[nn.Module], checkpoint: Checkpoint, prefix: str = "") -> nn.Module:
    """A network of one form, loaded strictly; what it has no use for is a known classifier, or refused.

    Args:
        kind: the network; it takes no arguments.
        checkpoint: the file.
        prefix: of the entries that are the network's; the others are left alone.

    Raises:
        UserError: the file's entries are not those of the public network.
    """
    own = {key.removeprefix(prefix): value for key, value in checkpoint.state.items() if key.startswith(prefix)}
    state = {key: value for key, value in own.items() if not key.startswith(_UNUSED)}
    with torch.device("meta"):
        model = kind()
    counters = [key for key in model.state_dict() if key.endswith("num_batches_tracked")]
    state = dict.fromkeys(counters, torch.tensor(0)) | state  # older files lack them, and nothing depends on them
    wanted, found = _signature(model.state_dict()), _signature(state)
    if found != wanted:
        key = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise UserError(
            f"{checkpoint.path}: not the public {kind.__name__} ({len(found)} entries for {len(wanted)}; {prefix}{key} "
            "differs); give the public checkpoint"
        )
    return _load_strictly(model, state)


def _load_strictly(model: nn.Module, state: State) -> nn.Module:
    """Put `state`, as float32, into a model on the meta device, which so costs neither time nor random numbers."""
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    model.load_state_dict(state, assign=True)
    return model


def _choose_conf(checkpoint: Checkpoint, conf_path: Path | None) -> tuple[str, dict, str]:
    """The configuration's name, its fields, and where it comes from, for messages."""
    if conf_path is not None:
        return Path(conf_path).stem, read_lipreading_conf(conf_path), str(conf_path)
    if isinstance(checkpoint.config, dict):
        return checkpoint.path.name.split(".")[0], checkpoint.config, f"{checkpoint.path}, entry 'config'"
    if checkpoint.config is not None:
        if checkpoint.config not in zoo_names():
            raise UserError(
                f"{checkpoint.path}: its entry 'config' names '{checkpoint.config}', which conf/lipreading has not "
                f"({', '.join(zoo_names())}); give the configuration with --frontend_conf"
            )
        return checkpoint.config, read_lipreading_conf(checkpoint.config), f"{checkpoint.path}, entry 'config'"
    name = _fitting_name(checkpoint)
    if name is None:
        raise UserError(
            f"{checkpoint.path}: a visual frontend that none of conf/lipreading fits ({', '.join(zoo_names())}); give its "
            f"configuration with --frontend_conf FILE.json"
        )
    return name, read_lipreading_conf(name), name


def _num_classes(checkpoint: Checkpoint) -> int:
    output = checkpoint.state.get(OUTPUT_KEY)
    if output is None:
        raise UserError(f"{checkpoint.path}: {OUTPUT_KEY} is missing; give the whole checkpoint, classifier included")
    return output.shape[0]


def _signature(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Key -> shape of every entry."""
    return {key: tuple(value.shape) for key, value in state.items()}


@cache
def _zoo_signature(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return _signature(Lipreading(read_lipreading_conf(name)).state_dict())


def _fitting_name(checkpoint: Checkpoint) -> str | None:
    """The configuration in conf/lipreading whose network has the file's keys and shapes, whatever its words."""

    def without_output(signature: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {key: shape for key, shape in signature.items() if not key.startswith("tcn.tcn_output.")}

    _num_classes(checkpoint)
    found = without_output(_signature(checkpoint.state))
    return next((name for name in zoo_names() if without_output(_zoo_signature(name)) == found), None)


def _mismatch(checkpoint: Checkpoint, conf: dict, source: str, wanted: dict[str, tuple[int, ...]]) -> str:
    """One line: how the file differs from its configuration, and what to give instead."""
    found = _signature(checkpoint.state)
    fitting = _fitting_name(checkpoint)
    remedy = "none of conf/lipreading fits either; give the configuration that it was trained with as --frontend_conf"
    if fitting:
        remedy = f"it fits conf/lipreading/{fitting}.json: give that as --frontend_conf, or none"
    return f"{checkpoint.path}: does not fit {source}: {_difference(found, wanted, conf)}; {remedy}"


def _difference(found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], conf: dict) -> str:
    backbone = "resnet" if "trunk.layer1.0.conv1.weight" in found else "shufflenet"
    if backbone != conf["backbone_type"]:
        return f"the file's backbone_type is {backbone}, the configuration's {conf['backbone_type']}"
    if (PRELU_KEY in found) != (PRELU_KEY in wanted):
        in_file = "prelu (it has their slopes)" if PRELU_KEY in found else "relu or swish (it has no PReLU slopes)"
        return f"the file's relu_type is {in_file}, the configuration's {conf['relu_type']}"
    inputs = [signature.get(DENSE_INPUT_KEY, (0, 0))[1] for signature in (found, wanted)]
    if all(inputs) and inputs[0] != inputs[1]:
        with_boundary = ["with" if inputs[index] > inputs[1 - index] else "without" for index in (0, 1)]
        return (
            f"the file's temporal network has {inputs[0]} inputs ({with_boundary[0]} word boundary), the "
            f"configuration's {inputs[1]} ({with_boundary[1]})"
        )
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    shapes = sorted(key for key in set(found) & set(wanted) if found[key] != wanted[key])
    if missing or extra:
        first = f"{missing[0]} is missing" if missing else f"{extra[0]} has no place"
        return f"{len(missing)} entries missing, {len(extra)} too many ({first})"
    return f"{len(shapes)} entries of another shape ({shapes[0]}: {found[shapes[0]]} for {wanted[shapes[0]]})"
