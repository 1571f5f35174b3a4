"""Confs: reading `conf/*.yml`, overriding single keys, and refusing what no run can use before anything is loaded.

Second-level keys are unique over all sections (Asteroid's rule), so that `--train_args "--lr 0.0005"` needs no section.
The sections `model`, `filterbank`, `masknet`, `visual` hold the network's constructor arguments; `data`, `training` and
`optim` are the fields of dataclasses (`data_keys.py` and below). Nothing here imports torch, so that a typing error costs
no time.
"""

import ast
import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from utils.data.files import write_text
from utils.engine.data_keys import DATA_CHOICES, DATA_MAY_BE_NEGATIVE, DATA_MAY_BE_ZERO, DATA_SHARES, DataConf, data_problems
from utils.engine.model_keys import DEFAULT_MODEL, MODEL_CHOICES, MODEL_KEYS, MODEL_MAY_BE_ZERO, MODEL_SECTIONS, model_problems
from utils.errors import UserError

Conf = dict[str, dict[str, Any]]


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
    ema_decay: float = 0.0
    """Validate and keep an exponential moving average of the weights, whose past counts for so much a step; 0: none."""


@dataclass(frozen=True)
class LossConf:
    """What training minimises, see `utils.engine.losses`."""

    signal_loss: str = "snr"
    """snr: level counts; si_snr: blind to the voices' level, for networks with `model.fit_to_mixture`."""
    stft_weight: float = 0.0
    """Weight of the multi-resolution STFT loss beside it."""
    block_weight: float = 0.0
    """Weight of the loss after each block but the last (deep supervision); for model.name avdprnn."""


SECTIONS: dict[str, type] = {"data": DataConf, "loss": LossConf, "training": TrainingConf, "optim": OptimConf}

CHOICES = {
    "precision": ("32", "bf16", "16"),
    "optimizer": ("adam", "adamw"),
    "schedule": ("plateau", "cosine"),
    "logger": ("none", "wandb", "comet"),
    "signal_loss": ("si_snr", "snr"),
    "name": tuple(MODEL_KEYS),
    **MODEL_CHOICES,
    **DATA_CHOICES,
}
MAY_BE_ZERO = {
    "early_stop", "seed", "warmup_steps", "weight_decay", "audio_examples", "gradient_clipping", "plateau_patience",
    "stft_weight", "block_weight", "ema_decay", *DATA_MAY_BE_ZERO, *MODEL_MAY_BE_ZERO,
}  # fmt: skip
SHARES = ("visual_dropout", "plateau_factor", "ema_decay", *DATA_SHARES)


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
    def loss(self) -> LossConf:
        return LossConf(**self.nested["loss"])

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

    A conf may say `base: other.yml`, a file beside it whose keys it takes over where it does not give them itself.

    Args:
        path: a `conf/*.yml`, or the `conf.yml` of an experiment.
        overrides: words such as `["--lr", "0.0005", "--batch_size=2"]`.

    Raises:
        UserError: no such file, no YAML, an unknown key (with the nearest right one), or a value no run can use.
    """
    path = Path(path)
    layers = _layers(path)
    nested = _defaults(_model_name(layers))
    for file, given in layers:
        for section, values in _checked_sections(file, given, nested).items():
            for key, value in values.items():
                default = nested[section][key]
                nested[section][key] = _checked_value(f"{file}: {section}.{key}", key, value, default)
    changed = {}
    for key, text in _split_overrides(overrides or []):
        section = _section_of(key, nested)
        before = nested[section][key]
        nested[section][key] = _checked_value(f"--train_args: --{key}", key, _parsed(text, before), before)
        changed[key] = nested[section][key]
    _check_together(path, nested, changed)
    return ResolvedConf(nested, changed)


def write_conf(path: Path | str, conf: ResolvedConf) -> None:
    """Write the resolved conf as YAML, atomically."""
    write_text(path, yaml.safe_dump(conf.nested, sort_keys=False))


def _layers(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[Path, Conf]]:
    """A conf and what it is based on, the base first: (file, its sections)."""
    if path.resolve() in [file.resolve() for file in above]:
        raise UserError(f"{path}: based on itself: {' -> '.join(str(file) for file in (*above, path))}")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        known = ", ".join(sorted(str(p) for p in path.parent.glob("*.yml"))) or "none"
        raise UserError(f"{path}: no such conf{f' (base of {above[-1]})' if above else ''}; there are: {known}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(given, dict):
        raise UserError(f"{path}: a conf is sections of keys, this is a {type(given).__name__}")
    base = given.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise UserError(f"{path}: base is {base!r} where the name of a conf is expected")
    return [*(_layers(path.parent / base, (*above, path)) if base else []), (path, given)]


def _model_name(layers: list[tuple[Path, Conf]]) -> str:
    """Which network a conf is for; sections that are none are left to the checks that follow."""
    name = DEFAULT_MODEL
    for path, given in layers:
        model = given.get("model")
        name = model.get("name", name) if isinstance(model, dict) else name
        if not isinstance(name, str) or name not in MODEL_KEYS:
            raise UserError(f"{path}: model.name is {name!r}{nearest(name, MODEL_KEYS)}")
    return name


def _defaults(name: str) -> Conf:
    nested: Conf = {section: {} for section in MODEL_SECTIONS}
    nested["model"]["name"] = name
    for key, (section, default) in MODEL_KEYS[name].items():
        nested[section][key] = default
    for section, dataclass_ in SECTIONS.items():
        nested[section] = {f.name: f.default for f in fields(dataclass_)}
    return nested


def _checked_sections(path: Path, given: Any, defaults: Conf) -> Conf:
    for section, values in given.items():
        if section not in defaults:
            raise UserError(f"{path}: unknown section '{section}'{nearest(section, defaults)}")
        if not isinstance(values, dict):
            raise UserError(f"{path}: section '{section}' holds no keys")
        for key in values:
            if key not in defaults[section]:
                home = next((s for s, keys in defaults.items() if key in keys), None)
                hint = f"; it belongs in section '{home}'" if home else _hint(key, defaults[section], defaults)
                raise UserError(f"{path}: unknown key '{section}.{key}'{hint}")
    return given


def _hint(key: str, known: Any, defaults: Conf) -> str:
    """The nearest key, or the networks that would know this one."""
    networks = [name for name, keys in MODEL_KEYS.items() if key in keys]
    if networks:
        return f" of network {defaults['model']['name']}; it is one of {', '.join(networks)} (model.name)"
    return nearest(key, known)


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


def _section_of(key: str, defaults: Conf) -> str:
    if key == "name":
        raise UserError("--train_args: --name is the conf's own; choose another --conf")
    for section, keys in defaults.items():
        if key in keys:
            return section
    known = [k for s in defaults.values() for k in s]
    raise UserError(f"--train_args: unknown key '{key}'{_hint(key, known, defaults)}")


def nearest(word: Any, known: Iterable[Any]) -> str:
    """The end of a message about an unknown word: what was meant perhaps, else what there is."""
    known = list(known)
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
        low_ok = value > 0 or (value == 0 and key in MAY_BE_ZERO) or key in DATA_MAY_BE_NEGATIVE
        if not low_ok or not math.isfinite(value):
            wanted = "finite" if key in DATA_MAY_BE_NEGATIVE else "zero or more" if key in MAY_BE_ZERO else "above zero"
            raise UserError(f"{where} is {value!r}; it must be {wanted}")
    if key in SHARES and value > 1:
        raise UserError(f"{where} is {value!r}; it is a share, 0 to 1")
    return value


def _kind_name(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[kind]


def _check_together(path: Path, nested: Conf, changed: dict[str, Any]) -> None:
    problems = list(chain(model_problems(nested["model"]["name"], nested), data_problems(nested)))
    if nested["optim"]["ema_decay"] == 1:
        problems.append("optim.ema_decay must be below 1, or the average stays where it began")
    if problems:
        raise UserError(f"{path}{' with --train_args' if changed else ''}: {'; '.join(problems)}")
