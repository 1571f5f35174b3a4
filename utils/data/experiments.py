"""A trained experiment as stage 3 leaves it, opened without torch: its folder, and the visual frontends that it needs.

exp/<tag>/best_model.pth is the network, model.safetensors that of a published one; exp/<tag>/frontend.json names the visual
frontend of the lips whose embeddings it was trained on, shape_frontend.json what gives the shape of the lips,
keypoints_frontend.json the landmarks of the face, face_frontend.json the face frontend. An audio-only one has none.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from utils.data.files import read_json
from utils.errors import UserError

NETWORK_FILES = ("best_model.pth", "model.safetensors")  # as trained, or as published (utils.tools.publish)
HUB_FILE = "hub.json"  # of a network that was fetched: its address and commit
DLIB, LANDMARKS = "dlib", "landmarks"
BUILT_IN_FRONTENDS = (DLIB, LANDMARKS)
FRONTEND_FILES = {
    "lips": "frontend.json",
    "shape": "shape_frontend.json",
    "keypoints": "keypoints_frontend.json",
    "face": "face_frontend.json",
}
FRONTEND_OPTIONS = {
    "lips": "--frontend_weights",
    "shape": "model.cues",
    "keypoints": "model.target",
    "face": "--face_weights",
}


@dataclass(frozen=True)
class FrontendRecord:
    """A visual frontend of an experiment and its embeddings, as frontend.json or face_frontend.json has them."""

    weights: str  # file, folder of precomputed embeddings, or a name that is no file
    layer: str
    view: str  # of the mouth crops, for everything but training
    precision: str  # of the stored embeddings
    store_name: str  # folder below <dump_dir>/embeddings
    int8: str = ""  # the same network in 8 bits, for the CPU: an ONNX file, in frontend.json named as from its folder
    conf: str = ""  # conf/lipreading/*.json; "" is found out from the weights
    training_stores: list[str] = field(default_factory=list)  # one for each view
    description: dict[str, Any] = field(default_factory=dict)

    @property
    def is_precomputed(self) -> bool:
        """Tell if the embeddings were computed elsewhere: `weights` is a folder of them."""
        return Path(self.weights).is_dir()

    @property
    def is_built_in(self) -> bool:
        """Tell if the weights come with a package: `weights` is the name of a network."""
        return self.weights in BUILT_IN_FRONTENDS


@dataclass(frozen=True)
class Experiment:
    """A trained experiment."""

    folder: Path
    frontends: dict[str, FrontendRecord]  # by what they see, in the order of FRONTEND_FILES; none if audio-only

    @property
    def face_size(self) -> int:
        """Pixels of the face crops that its face frontend sees; 0: it has none."""
        return self.frontends["face"].description["preprocessing"]["size"] if "face" in self.frontends else 0

    @property
    def network_path(self) -> Path:
        """The file of the network."""
        return network_path(self.folder)


def network_path(folder: Path) -> Path:
    """The file of the network in an experiment's folder; where there is none, that which training would write."""
    paths = [folder / name for name in NETWORK_FILES]
    return next(filter(Path.is_file, paths), paths[0])


def experiment_name(folder: Path) -> str:
    """What an experiment is called beside its results: its folder's name, or its address and commit on a hub."""
    if not (folder / HUB_FILE).is_file():
        return folder.resolve().name
    facts = read_json(folder / HUB_FILE)
    return f"{facts['address']}@{facts['commit'][:12]}"


def open_experiment(
    folder: Path, frontend_weights: str = "", option: str = "--exp_dir", needs_weights: bool = True, face_weights: str = ""
) -> Experiment:
    """Open the folder of an experiment.

    Args:
        folder: exp/<tag>.
        frontend_weights, face_weights: where the weights of its visual frontends are now; "" where they were in training.
        option: of the command line that names the folder, for messages.
        needs_weights: refuse an experiment whose visual frontends' weights are missing.

    Raises:
        UserError: it is not trained, its frontend.json cannot be used, or the weights are missing.
    """
    if not network_path(folder).is_file():
        trained = (path.parent for name in NETWORK_FILES for path in folder.parent.glob(f"*/{name}"))
        known = ", ".join(sorted(map(str, trained))) or "none"
        what = f"holds no {NETWORK_FILES[0]}" if folder.is_dir() else "no such experiment"
        raise UserError(f"{option} {folder}: {what}; stage 3 makes it; experiments that are trained: {known}")
    frontends = {}
    for kind, weights in weights_by_kind(frontend_weights, face_weights).items():
        path = folder / FRONTEND_FILES[kind]
        if not path.is_file():
            continue
        record = frontends[kind] = _frontend(path, weights)
        if needs_weights and not record.is_built_in and not Path(record.weights).exists():
            where = f"say where with {FRONTEND_OPTIONS[kind]}"
            raise UserError(f"{record.weights}: the visual frontend of {folder} is missing; {where}")
    return Experiment(folder, frontends)


def weights_by_kind(frontend_weights: str, face_weights: str) -> dict[str, str]:
    """The weights that the options name, by what their visual frontends see."""
    return {"lips": frontend_weights, "shape": LANDMARKS, "keypoints": LANDMARKS, "face": face_weights}


def _frontend(path: Path, weights: str) -> FrontendRecord:
    found = read_json(path)
    wanted = ("weights", "layer", "view", "precision", "store_name")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in wanted):
        raise UserError(f"{path}: does not name {', '.join(wanted)}; run stage 3 again")
    known = {entry.name: found[entry.name] for entry in fields(FrontendRecord) if entry.name in found}
    beside = path.parent / found["weights"]  # of a published network
    int8 = path.parent / str(found.get("int8", ""))
    known["int8"] = str(int8) if int8.is_file() and not weights else ""  # weights that are given are taken as they are
    return FrontendRecord(**known | {"weights": weights or (str(beside) if beside.is_file() else found["weights"])})
