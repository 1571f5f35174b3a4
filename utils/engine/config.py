"""Confs: reading `conf/*.yml`, overriding single keys, and refusing what no run can use before anything is loaded.

Second-level keys are unique over all sections (Asteroid's rule), so that `--train_args "--lr 0.0005"` needs no section.
The sections `model`, `filterbank`, `masknet`, `visual` hold the network's constructor arguments; `data`, `training` and
`optim` are the fields of the dataclasses below. Nothing here imports torch, so that a typing error costs no time.
"""

import ast
import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from utils.data.files import write_text
from utils.errors import UserError

Conf = dict[str, dict[str, Any]]

MODEL_SECTIONS = ("model", "filterbank", "masknet", "visual")


@dataclass(frozen=True)
class DataConf:
    """What the network hears and sees in training."""

    dynamic: bool = True
    """Mix single utterances anew in every epoch (true), or take the mixtures of train.csv (false)."""
    segment_sec: float = 2.0
    """Length of a training and validation example; whole video frames."""
    epoch_size: int = 0
    """Mixtures in an epoch of dynamic mixing; 0: as many as there are utterances."""
    sir_db: float = 5.0
    """Dynamic mixing draws the true SIR of a pair uniformly from -sir_db..sir_db, over the segment."""
    same_speaker: float = 0.0
    """Share of the drawn pairs in which both utterances are of one speaker; 0 keeps speakers apart."""
    speed: float = 0.0
    """Dynamic mixing plays each voice with its face at 1 - speed to 1 + speed of its speed."""
    num_workers: int = 1
    """Loader processes for each training process."""


@dataclass(frozen=True)
class TrainingConf:
    """How long and on what."""

    epochs: int = 100
    batch_size: int = 4
    """Mixtures for each step and device."""
    accumulate: int = 1
    """Batches whose gradients are added before a step."""
    early_stop: int = 15
    """Epochs without a better validation loss before stopping; 0: never."""
    gradient_clipping: float = 5.0
    seed: int = 0
    precision: str = "32"
    """32, bf16 or 16; the latter two on GPUs."""
    devices: str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    """auto takes ddp where there is more than one device."""
    overfit_batch: bool = False
    """Train and validate on one and the same batch: a network that cannot learn it by heart is broken."""
    logger: str = "none"
    """wandb or comet beside the CSV and TensorBoard logs; the package must be installed."""
    audio_examples: int = 2
    """Validation mixtures whose voices are written to TensorBoard."""


@dataclass(frozen=True)
class OptimConf:
    """Optimiser and learning rate: warm-up, then `schedule`."""

    optimizer: str = "adam"
    lr: float = 1.0e-3
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: str = "plateau"
    """plateau: times `plateau_factor` after `plateau_patience` epochs without gain; cosine: to zero over all epochs."""
    plateau_patience: int = 5
    plateau_factor: float = 0.5


SECTIONS: dict[str, type] = {"data": DataConf, "training": TrainingConf, "optim": OptimConf}

CHOICES = {
    "precision": ("32", "bf16", "16"),
    "optimizer": ("adam", "adamw"),
    "schedule": ("plateau", "cosine"),
    "logger": ("none", "wandb", "comet"),
    "name": ("avdprnn",),
    "fb_name": ("free", "stft"),
    "norm_type": ("gLN", "cLN", "cgLN"),
    "rnn_type": ("LSTM", "GRU", "RNN"),
}
MAY_BE_ZERO = {
    "epoch_size", "num_workers", "early_stop", "seed", "warmup_steps", "weight_decay", "same_speaker", "speed", "n_cues",
    "visual_dropout", "visual_blocks", "audio_examples", "gradient_clipping", "sir_db", "plateau_patience",
}  # fmt: skip
SHARES = ("same_speaker", "speed", "visual_dropout", "plateau_factor")

# The network's arguments by section: (section, default). A default gives the type; visual_dim comes from the embeddings.
MODEL_KEYS: dict[str, tuple[str, Any]] = {
    "name": ("model", "avdprnn"),
    "n_src": ("model", 2),
    "n_cues": ("model", 2),
    "sample_rate": ("model", 16000),
    "fb_name": ("filterbank", "free"),
    "n_filters": ("filterbank", 256),
    "kernel_size": ("filterbank", 40),
    "stride": ("filterbank", 20),
    "bn_chan": ("masknet", 64),
    "hid_size": ("masknet", 128),
    "chunk_size": ("masknet", 100),
    "hop_size": ("masknet", 50),
    "n_repeats": ("masknet", 6),
    "norm_type": ("masknet", "gLN"),
    "rnn_type": ("masknet", "LSTM"),
    "bidirectional": ("masknet", True),
    "fuse_every_block": ("masknet", False),
    "visual_dim": ("visual", 512),
    "visual_chan": ("visual", 256),
    "visual_hid": ("visual", 512),
    "visual_blocks": ("visual", 5),
    "visual_dropout": ("visual", 0.0),
    "video_fps": ("visual", 25.0),
}


@dataclass(frozen=True)
class ResolvedConf:
    """A conf with every key present and checked.

    Attributes:
        nested: section -> key -> value, plain types, ready to be written and hashed.
        overrides: the keys that the command line changed.
    """

    nested: Conf
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> DataConf:
        return DataConf(**self.nested["data"])

    @property
    def training(self) -> TrainingConf:
        return TrainingConf(**self.nested["training"])

    @property
    def optim(self) -> OptimConf:
        return OptimConf(**self.nested["optim"])

    @property
    def n_cues(self) -> int:
        return self.nested["model"]["n_cues"]

    def with_visual_dim(self, visual_dim: int) -> "ResolvedConf":
        """The same conf for embeddings of `visual_dim` numbers."""
        nested = {section: dict(values) for section, values in self.nested.items()}
        nested["visual"]["visual_dim"] = visual_dim
        return ResolvedConf(nested, self.overrides)


def read_conf(path: Path | str, overrides: list[str] | None = None) -> ResolvedConf:
    """Read a conf, apply `--key value` overrides, fill in defaults, check every value.

    Args:
        path: a `conf/*.yml`, or the `conf.yml` of an experiment.
        overrides: words such as `["--lr", "0.0005", "--batch_size=2"]`.

    Raises:
        UserError: no such file, no YAML, an unknown key (with the nearest right one), or a value no run can use.
    """
    path = Path(path)
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        known = ", ".join(sorted(str(p) for p in path.parent.glob("*.yml"))) or "none"
        raise UserError(f"{path}: no such conf; there are: {known}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    nested = {section: dict(defaults) for section, defaults in _defaults().items()}
    for section, values in _checked_sections(path, given).items():
        for key, value in values.items():
            nested[section][key] = _checked_value(f"{path}: {section}.{key}", key, value, nested[section][key])
    changed = {}
    for key, text in _split_overrides(overrides or []):
        section = _section_of(key, "--train_args")
        before = nested[section][key]
        nested[section][key] = _checked_value(f"--train_args: --{key}", key, _parsed(text, before), before)
        changed[key] = nested[section][key]
    _check_together(path, nested)
    return ResolvedConf(nested, changed)


def write_conf(path: Path | str, conf: ResolvedConf) -> None:
    """Write the resolved conf as YAML, atomically."""
    write_text(path, yaml.safe_dump(conf.nested, sort_keys=False))


def _defaults() -> Conf:
    nested: Conf = {section: {} for section in MODEL_SECTIONS}
    for key, (section, default) in MODEL_KEYS.items():
        nested[section][key] = default
    for section, dataclass_ in SECTIONS.items():
        nested[section] = {f.name: f.default for f in fields(dataclass_)}
    return nested


def _checked_sections(path: Path, given: Any) -> Conf:
    if not isinstance(given, dict):
        raise UserError(f"{path}: a conf is sections of keys, this is a {type(given).__name__}")
    defaults = _defaults()
    for section, values in given.items():
        if section not in defaults:
            raise UserError(f"{path}: unknown section '{section}'{_nearest(section, defaults)}")
        if not isinstance(values, dict):
            raise UserError(f"{path}: section '{section}' holds no keys")
        for key in values:
            if key not in defaults[section]:
                home = next((s for s, keys in defaults.items() if key in keys), None)
                hint = f"; it belongs in section '{home}'" if home else _nearest(key, defaults[section])
                raise UserError(f"{path}: unknown key '{section}.{key}'{hint}")
    return given


def _split_overrides(words: list[str]) -> list[tuple[str, str]]:
    pairs, words = [], list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UserError(f"--train_args: stray word '{word}'; the form is --key value")
        key, sign, value = word[2:].replace("-", "_").partition("=")
        if not sign:
            if not words:
                raise UserError(f"--train_args: --{key} has no value")
            value = words.pop(0)
        else:
            value = word.partition("=")[2]
        pairs.append((key, value))
    return pairs


def _section_of(key: str, where: str) -> str:
    for section, keys in _defaults().items():
        if key in keys:
            return section
    raise UserError(f"{where}: unknown key '{key}'{_nearest(key, [k for s in _defaults().values() for k in s])}")


def _nearest(word: Any, known: Any) -> str:
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(sorted(str(k) for k in known))}"


def _parsed(text: str, default: Any) -> Any:
    """The plain value that a word of the command line stands for; text where the default is text."""
    if isinstance(default, str):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _checked_value(where: str, key: str, value: Any, default: Any) -> Any:
    kind = type(default)
    if kind is float and isinstance(value, str):  # YAML reads 1e-3 as text
        value = _parsed(value, default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if type(value) is not kind:
        raise UserError(f"{where} is {value!r} where {_kind_name(kind)} is expected, such as {default!r}")
    if key in CHOICES and value not in CHOICES[key]:
        raise UserError(f"{where} is '{value}'; one of: {', '.join(CHOICES[key])}")
    if kind in (int, float):
        low_ok = value > 0 or (value == 0 and key in MAY_BE_ZERO)
        if not low_ok or value != value or (kind is float and value == float("inf")):
            raise UserError(f"{where} is {value!r}; it must be {'zero or more' if key in MAY_BE_ZERO else 'above zero'}")
    if key in SHARES and value > 1:
        raise UserError(f"{where} is {value!r}; it is a share, 0 to 1")
    return value


def _kind_name(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[kind]


def _check_together(path: Path, nested: Conf) -> None:
    model, bank, mask = nested["model"], nested["filterbank"], nested["masknet"]
    problems = [
        (model["n_cues"] not in (0, model["n_src"]), "model.n_cues must be model.n_src (a face a voice) or 0 (no video)"),
        (bank["kernel_size"] % bank["stride"] != 0, "filterbank.kernel_size must be a multiple of filterbank.stride"),
        (bank["fb_name"] == "stft" and bank["n_filters"] < bank["kernel_size"], "an stft needs n_filters >= kernel_size"),
        (bank["fb_name"] == "stft" and bank["n_filters"] % 2 != 0, "an stft needs an even n_filters"),
        (mask["hop_size"] > mask["chunk_size"], "masknet.hop_size is larger than masknet.chunk_size: frames would be lost"),
        (mask["chunk_size"] % mask["hop_size"] != 0, "masknet.chunk_size must be a multiple of masknet.hop_size"),
    ]
    for wrong, message in problems:
        if wrong:
            raise UserError(f"{path}: {message}")
