"""An experiment's files: the trained network, its conf, and the history of its epochs.

exp/<tag>/conf.yml            every key of the conf as trained
exp/<tag>/best_model.pth      the network of the epoch with the lowest validation loss, an Asteroid model
exp/<tag>/frontend.json       the visual frontend whose embeddings it was trained on (absent for an audio-only network)
exp/<tag>/history.csv         one row an epoch
exp/<tag>/training.json       what the training cost
"""

import csv
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from local_models.networks import NETWORKS
from local_models.separator import AVSeparator
from utils.data.files import atomic_path, write_text
from utils.errors import UserError

HISTORY_COLUMNS = ("epoch", "steps", "lr", "loss", "si_snri", "val_loss", "val_si_snri", "seconds")


def save_model(path: Path | str, network: AVSeparator, infos: dict[str, Any]) -> None:
    """Write a network as Asteroid serialises it, tensors and plain types only, atomically."""
    saved = network.serialize()
    saved["state_dict"] = {name: tensor.detach().cpu() for name, tensor in saved["state_dict"].items()}
    versions = {name: str(version) for name, version in saved["infos"]["software_versions"].items()}
    with atomic_path(path) as temporary:
        torch.save(saved | {"infos": infos | {"software_versions": versions}}, temporary)


def load_model(path: Path | str) -> AVSeparator:
    """Read a trained network, in evaluation mode, on the CPU.

    Raises:
        UserError: no such file, not a model of this recipe, or weights that do not fit their arguments.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no trained model; stage 3 makes it")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        network = {kind.__name__: kind for kind in NETWORKS.values()}[saved["model_name"]].from_pretrained(saved)
    except (pickle.UnpicklingError, RuntimeError, LookupError, TypeError, ValueError, EOFError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a model of this recipe ({reason}); train it again") from None
    return network.eval()


def write_history(path: Path | str, rows: list[dict[str, Any]]) -> None:
    """Write the epochs' rows as CSV, atomically; the whole file each time, so that resuming never doubles a row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def draw_curves(path: Path | str, rows: list[dict[str, Any]], title: str) -> None:
    """Draw loss and SI-SNRi of training and validation over the epochs, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    epochs = [row["epoch"] + 1 for row in rows]
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for panel, key, label in zip(panels, ("loss", "si_snri"), ("loss (dB)", "SI-SNRi (dB)"), strict=True):
        panel.plot(epochs, [row[key] for row in rows], label="training", color="tab:blue")
        panel.plot(epochs, [row[f"val_{key}"] for row in rows], label="validation", color="tab:orange")
        panel.set(xlabel="epoch", ylabel=label)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.suptitle(title, parse_math=False)  # a name may have dollar signs
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
