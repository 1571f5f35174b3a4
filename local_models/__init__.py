"""Networks only: `nn.Module` code without input, output or training. Built from a conf by `build_model`."""

from typing import Any

from torch import nn

from local_models.avconvtasnet import AVConvTasNet
from local_models.avdprnn import AVDPRNNTasNet
from local_models.avtfdprnn import AVTFDPRNN

MODELS: dict[str, type[nn.Module]] = {"avtfdprnn": AVTFDPRNN, "avdprnn": AVDPRNNTasNet, "avconvtasnet": AVConvTasNet}


def build_model(conf: dict[str, dict[str, Any]]) -> nn.Module:
    """Build the separation network that a conf describes.

    Args:
        conf: nested dict of a `conf/*.yml`; the sections `model`, `filterbank`, `masknet` and `visual` hold the
            constructor's keyword arguments, `model.name` chooses the class.

    Returns:
        A network with `forward(mixture (batch, time), visual (batch, n_cues, frames, visual_dim) | None)`
        -> (batch, n_src, time).

    Raises:
        ValueError: unknown `model.name`, or values that the network cannot have.
    """
    arguments = {k: v for part in ("model", "filterbank", "masknet", "visual") for k, v in conf.get(part, {}).items()}
    name = arguments.pop("name", None)
    if name not in MODELS:
        raise ValueError(f"model.name is '{name}'; known networks: {', '.join(sorted(MODELS))}")
    return MODELS[name](**arguments)
