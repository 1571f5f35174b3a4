"""A trained experiment as stage 3 leaves it, opened without torch: its folder, and the visual frontend that it needs.

exp/<tag>/best_model.pth is the network; exp/<tag>/frontend.json names the visual frontend whose embeddings the network was
trained on, and is missing for an audio-only one.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from utils.data.files import read_json
from utils.errors import UserError

_NETWORK, _FRONTEND = "best_model.pth", "frontend.json"


@dataclass(frozen=True)
class FrontendRecord:
    """The visual frontend of an experiment and its embeddings, as frontend.json has them."""

    weights: str  # file, or folder of precomputed embeddings
    layer: str
    view: str  # of the mouth crops, for everything but training
    precision: str  # of the stored embeddings
    store_name: str  # folder below <dump_dir>/embeddings
    conf: str = ""  # conf/lipreading/*.json; "" is found out from the weights
    training_stores: list[str] = field(default_factory=list)  # one for each view
    description: dict[str, Any] = field(default_factory=dict)

    @property
    def is_precomputed(self) -> bool:
        """Tell if the embeddings were computed elsewhere: `weights` is a folder of them."""
        return Path(self.weights).is_dir()


@dataclass(frozen=True)
class Experiment:
    """A trained experiment."""

    folder: Path
    frontend: FrontendRecord | None  # None for an audio-only network

    @property
    def network_path(self) -> Path:
        """The file of the network."""
        return self.folder / _NETWORK


def open_experiment(
    folder: Path, frontend_weights: str = "", option: str = "--exp_dir", needs_weights: bool = True
) -> Experiment:
    """Open the folder of an experiment.

    Args:
        folder: exp/<tag>.
        frontend_weights: where the weights of its visual frontend are now; "" where they were in training.
        option: of the command line that names the folder, for messages.
        needs_weights: refuse an experiment whose visual frontend's weights are missing.

    Raises:
        UserError: it is not trained, its frontend.json cannot be used, or the weights are missing.
    """
    if not (folder / _NETWORK).is_file():
        known = ", ".join(sorted(str(path.parent) for path in folder.parent.glob(f"*/{_NETWORK}"))) or "none"
        what = f"holds no {_NETWORK}" if folder.is_dir() else "no such experiment"
        raise UserError(f"{option} {folder}: {what}; stage 3 makes it; experiments that are trained: {known}")
    path = folder / _FRONTEND
    if not path.is_file():
        return Experiment(folder, None)
    frontend = _frontend(path, frontend_weights)
    if needs_weights and not Path(frontend.weights).exists():
        raise UserError(f"{frontend.weights}: the visual frontend of {folder} is missing; say where with --frontend_weights")
    return Experiment(folder, frontend)


def _frontend(path: Path, weights: str) -> FrontendRecord:
    found = read_json(path)
    wanted = ("weights", "layer", "view", "precision", "store_name")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in wanted):
        raise UserError(f"{path}: does not name {', '.join(wanted)}; run stage 3 again")
    known = {entry.name: found[entry.name] for entry in fields(FrontendRecord) if entry.name in found}
    return FrontendRecord(**known | {"weights": weights or found["weights"]})
