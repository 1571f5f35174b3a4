"""Confs: reading `conf/*.yml`, changing single keys, and refusing what no training can use before anything is loaded.

A conf has five sections: `model` (the network's name and arguments, `local_models/configs.py`), `data`, `loss`,
`training` and `optim`, each the fields of a dataclass. Keys are unique over all sections (Asteroid's rule), so that
`--train_args "--lr 0.0005"` needs no section. Nothing here imports torch, so that a typing error costs no time.
"""

import contextlib
import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import yaml

from local_models.configs import (
    DEFAULT_NETWORK,
    NETWORK_CONFIGS,
    CausalTFDPRNNConfig,
    Checked,
    Count,
    CountOrZero,
    Finite,
    NotNegative,
    Positive,
    Probability,
    Range,
    SeparatorConfig,
    VoiceToMouthConfig,
    value_problem,
)
from utils.data.files import write_text
from utils.errors import UserError


@dataclass(frozen=True)
class DataConfig(Checked):
    """Training examples. Validation takes the mixtures of val.csv as they are."""

    dynamic: bool = True
    """Mix single utterances anew in every epoch (true), or take the mixtures of train.csv (false)."""
    segment_sec: Positive = 2.0
    """Length of a training and validation example; whole video frames."""
    val_segment_sec: NotNegative = 0.0
    """Length of a validation example, where it is another; 0: the same."""
    join_clips: bool = False
    """An utterance shorter than a segment is followed by others of its speaker (true), or left out (false)."""
    epoch_size: CountOrZero = 0
    """Mixtures in an epoch of dynamic mixing; 0: as many as there are utterances."""
    max_sir_db: NotNegative = 5.0
    """The SIR of the first source over each other one is uniform in -max_sir_db..max_sir_db, over the segment."""
    same_speaker_prob: Probability = 0.0
    """All sources of a mixture are of one speaker; 0 keeps speakers apart."""
    shared_speaker: bool = False
    """Mixtures come in twos that have a speaker in common, by two utterances; for `loss.coseparation_weight`."""
    curriculum_epochs: CountOrZero = 0
    """So many epochs go from mixtures of people whose faces are unlike to any: partners are drawn as the most distinct
    of 8 at first, then of fewer, by the distance of their face embeddings; needs faces (`model.cues`)."""
    max_speed_change: Annotated[float, Range(0, 0.5)] = 0.0
    """Each source and its face are played at 1 - max_speed_change to 1 + max_speed_change of their speed."""
    extra_speaker_prob: Probability = 0.0
    """A mixture has n_src + 1 speakers, all with faces, all to be separated; in batches of their own."""
    faceless_prob: Probability = 0.0
    """A source is an utterance that has no face in the manifest: speech alone, of which there is far more."""
    made_embeddings: bool = False
    """Speech without a face is seen by embeddings that stage 2 makes of its sound (`--voice_to_mouth_dir`)."""
    off_screen_prob: Probability = 0.0
    """A mixture has a further speaker without a face, who is not to be separated."""
    interferer_dir: str = ""
    """Folder of speech without faces, mono wav or flac at the corpus' rate, with its subfolders; "": none."""
    interferer_prob: Probability = 0.0
    """A speaker without a face is of interferer_dir, not of the corpus' utterances."""
    target_only_prob: Probability = 0.0
    """Extraction: nobody but the target speaks, in noise."""
    inactive_target_prob: Probability = 0.0
    """One of the faces is seen and its speaker is silent (extraction: the target is absent)."""
    noise_dir: str = ""
    """Folder of mono wav or flac noise at the corpus' rate, with its subfolders; "": none."""
    noise_prob: Probability = 0.0
    """A mixture has noise."""
    noise_source_prob: Probability = 0.0
    """One source of a mixture is noise, without a face: separation learns to give it an estimate of its own."""
    noise_snr_low_db: Finite = 0.0
    """The SNR of all sources together over the noise is uniform from here..."""
    noise_snr_high_db: Finite = 20.0
    """...to here."""
    rir_dir: str = ""
    """Folder of room impulse responses, wav or flac; the channels of a file are positions in one room; "": none."""
    rir_prob: Probability = 0.0
    """A mixture is in a room; the targets keep the first 50 ms after the direct sound."""
    max_shift_frames: CountOrZero = 0
    """The video of each face is late by a whole number of frames, uniform in -max_shift_frames..max_shift_frames."""
    max_dropped_ratio: Probability = 0.0
    """Each face loses a part of its frames (zeros), uniform in 0..max_dropped_ratio, in bursts."""
    max_frozen_ratio: Probability = 0.0
    """Each face repeats its last good frame in a part of its frames, uniform in 0..max_frozen_ratio, in bursts."""
    missing_face_prob: Probability = 0.0
    """One face of a mixture is missing altogether (zeros)."""
    no_visual_prob: Probability = 0.0
    """All faces of a mixture are missing."""
    num_workers: CountOrZero = 1
    """Loader processes for each training process."""

    def problems(self) -> Iterator[str]:
        needs_dynamic = (
            "same_speaker_prob", "max_speed_change", "extra_speaker_prob", "faceless_prob", "off_screen_prob",
            "interferer_prob", "target_only_prob", "inactive_target_prob", "noise_prob", "noise_source_prob",
            "rir_prob", "join_clips", "shared_speaker", "curriculum_epochs",
        )  # fmt: skip
        for key in needs_dynamic:
            if getattr(self, key) and not self.dynamic:
                off = "false" if getattr(self, key) is True else "0"
                yield f"data.{key} needs data.dynamic true (mixtures of train.csv are taken as they are); set it to {off}"
        for key in ("noise_prob", "noise_source_prob", "rir_prob", "interferer_prob"):
            folder = key.partition("_")[0] + "_dir"
            if getattr(self, key) and not getattr(self, folder):
                yield f"data.{key} needs data.{folder}, a folder of wav or flac files; give one, or set it to 0"
        if self.made_embeddings and not self.faceless_prob:
            yield "data.made_embeddings is for speech without faces: set data.faceless_prob above 0, or it to false"
        if self.target_only_prob and not self.noise_prob:
            yield "data.target_only_prob needs data.noise_prob and data.noise_dir, or there is nothing to remove"
        if self.shared_speaker and self.extra_speaker_prob:
            yield "data.shared_speaker takes examples in twos, which data.extra_speaker_prob parts; set one of them to 0"
        if self.noise_snr_low_db > self.noise_snr_high_db:
            yield "data.noise_snr_low_db is above data.noise_snr_high_db; exchange them"


@dataclass(frozen=True)
class ClipsConfig(Checked):
    """Examples of voice to mouth: stretches of single clips; in validation the beginning of each clip of val.csv."""

    segment_sec: Positive = 1.0
    """Length of an example; whole video frames. Shorter clips are left out."""
    epoch_size: CountOrZero = 0
    """Examples in an epoch; 0: as many as there are clips."""
    num_workers: CountOrZero = 1
    """Loader processes for each training process."""


@dataclass(frozen=True)
class LossConfig(Checked):
    """The loss that training minimises, see `utils.training.losses`."""

    signal_loss: Literal["snr", "si_snr", "spectra", "masks"] = "snr"
    """snr: level counts; si_snr: blind to the level of the estimates, for networks with `model.fit_to_mixture`; spectra:
    error of compressed complex spectra (Looking to Listen); masks: error of complex masks (VisualVoice)."""
    discriminative_weight: NotNegative = 0.1
    """signal_loss spectra: an estimate is to be unlike the other sources, with this weight."""
    order_weight: Probability = 1.0
    """Share of the loss in the order of the faces, at the end of the training; the rest is in the best order."""
    order_weight_start: Probability = 1.0
    """The same at the start; it changes linearly. A network that cannot tell yet learns to separate first."""
    match_weight: NotNegative = 0.0
    """Weight of telling which voice is whose, for networks with `model.match_chan`."""
    crossmodal_weight: NotNegative = 0.0
    """Weight of holding the attributes of each estimate's voice against those of the faces of its mixture; for model.name
    visualvoice with faces."""
    coseparation_weight: NotNegative = 0.0
    """Weight of holding the voices of one person in two mixtures against each other; the same, with data.shared_speaker."""
    attribute_margin: Positive = 0.5
    """By so much a voice is to be nearer to its own face, or its other utterance, than to another (cosine distance)."""
    block_weight: NotNegative = 0.0
    """Weight of the loss after each block but the last (deep supervision); for model.name av_dprnn."""


@dataclass(frozen=True)
class MotionLossConfig(Checked):
    """The loss of voice to mouth, see `utils.voice_to_mouth.losses`."""

    position_weight: NotNegative = 1.0
    """Weight of the error of the targets less their mean over an example, over their power."""
    mean_weight: NotNegative = 0.1
    """Weight of the error of that mean."""
    velocity_weight: NotNegative = 1.0
    """Weight of the error of their change from frame to frame."""
    correlation_weight: NotNegative = 1.0
    """Weight of 1 - correlation over an example: of the mouth's opening, or of all numbers of an embedding."""
    range_weight: NotNegative = 0.1
    """Weight of the squared log ratio of the ranges, so that a mouth moves as much as the true one."""


@dataclass(frozen=True)
class TrainingConfig(Checked):
    """Length of the training, and the machine that it runs on."""

    epochs: Count = 100
    max_minutes: NotNegative = 0.0
    """Stop after the epoch in which so much time has passed; 0: never. For comparisons at equal wall-clock time."""
    batch_size: Count = 4
    """Mixtures for each step and device."""
    accumulate: Count = 1
    """Batches whose gradients are added before a step."""
    early_stop: CountOrZero = 15
    """Epochs without a better validation loss before stopping; 0: never."""
    gradient_clipping: NotNegative = 5.0
    seed: Annotated[int, Range(0, 10**9)] = 0
    precision: Literal["32", "bf16", "16"] = "32"
    """bf16 and 16 are for GPUs."""
    devices: str = "auto"
    num_nodes: Count = 1
    strategy: str = "auto"
    """auto takes ddp where there is more than one device."""
    overfit_batch: bool = False
    """Train and validate on one and the same batch: a network that cannot overfit to it is broken."""
    logger: Literal["none", "wandb", "comet"] = "none"
    """A logger beside CSV and TensorBoard; its package must be installed (docs/sharing.md)."""
    audio_examples: CountOrZero = 2
    """Validation mixtures whose estimates the loggers get."""


@dataclass(frozen=True)
class OptimConfig(Checked):
    """Optimiser and learning rate: warm-up, then `schedule`."""

    optimizer: Literal["adam", "adamw"] = "adam"
    lr: Positive = 1.0e-3
    train_only: Literal["", "matcher"] = ""
    """matcher: only the comparison of faces with voices is trained, the rest stays as it was initialised."""
    weight_decay: NotNegative = 0.0
    warmup_steps: CountOrZero = 0
    schedule: Literal["plateau", "cosine"] = "plateau"
    """plateau: times `plateau_factor` after `plateau_patience` epochs without gain; cosine: to zero over all epochs."""
    plateau_patience: CountOrZero = 5
    plateau_factor: Annotated[float, Range(0, 1, above=True)] = 0.5


@dataclass(frozen=True)
class Config:
    """A whole conf, checked.

    Raises:
        ValueError: sections that do not go together.
    """

    model: SeparatorConfig | VoiceToMouthConfig
    data: DataConfig | ClipsConfig
    loss: LossConfig | MotionLossConfig
    training: TrainingConfig
    optim: OptimConfig

    def __post_init__(self) -> None:
        problems = [] if self.is_voice_to_mouth else list(self._separation_problems())
        if problems:
            raise ValueError("; ".join(problems))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Sections of keys, plain types: what a conf file holds."""
        sections = {field.name: getattr(self, field.name).to_dict() for field in fields(self)}
        name = next(name for name, kind in NETWORK_CONFIGS.items() if kind is type(self.model))
        return sections | {"model": {"name": name} | sections["model"]}

    def with_visual_dim(self, visual_dim: int, face_dim: int = 0, shape_dim: int = 0) -> "Config":
        """The same conf for visual embeddings of `visual_dim` numbers, some of the lips' shape, the last ones of the face."""
        dims = {"visual_dim": visual_dim}
        if not self.is_voice_to_mouth:
            dims |= {"face_dim": face_dim, "shape_dim": shape_dim}
        return replace(self, model=replace(self.model, **dims))

    def with_visual_delay(self, delay_frames: int) -> "Config":
        """The same conf for visual embeddings that are known so many frames later; only causal networks mind."""
        if not self.is_causal or delay_frames <= self.model.visual_delay_frames:
            return self
        return replace(self, model=replace(self.model, visual_delay_frames=delay_frames))

    @property
    def is_causal(self) -> bool:
        """True for a network that separates while the sound comes in."""
        return isinstance(self.model, CausalTFDPRNNConfig)

    @property
    def kinds_of_frontends(self) -> tuple[str, ...]:
        """What visual embeddings are of, in the order of `FRONTEND_FILES`; empty where none are needed."""
        if self.is_voice_to_mouth:
            return (self.model.target,)
        return tuple(self.model.cues.split("+")) if self.needs_visual else ()

    @property
    def needs_visual(self) -> bool:
        """False for the audio-only baseline, and where an audio-visual network is pretrained on speech without faces."""
        return self.is_voice_to_mouth or (self.model.n_faces > 0 and self.data.no_visual_prob < 1)

    @property
    def is_voice_to_mouth(self) -> bool:
        """True for a network that predicts what a camera would see of a voice, not for separation."""
        return isinstance(self.model, VoiceToMouthConfig)

    @property
    def makes_embeddings(self) -> bool:
        """True where stage 2 is to make embeddings of voices."""
        return not self.is_voice_to_mouth and self.needs_visual and self.data.made_embeddings

    @property
    def trains_on_utterances(self) -> bool:
        """True where training takes utterances.csv, false where it takes the mixtures of train.csv."""
        return self.is_voice_to_mouth or self.data.dynamic

    @property
    def is_extraction(self) -> bool:
        """True for target-speaker extraction: one face in, its source out."""
        return not self.is_voice_to_mouth and self.model.n_src == self.model.n_faces == 1

    def _separation_problems(self) -> Iterator[str]:
        model, data = self.model, self.data
        if self.loss.signal_loss == "si_snr" and not model.fit_to_mixture:
            yield "loss.signal_loss si_snr leaves level to chance; set model.fit_to_mixture to true, or take snr"
        if self.loss.block_weight and type(model) is not NETWORK_CONFIGS["av_dprnn"]:
            yield "loss.block_weight needs masks after each block, which only av_dprnn has; set it to 0"
        if self.loss.match_weight and model.n_faces > 1 and not model.match_chan:
            yield "loss.match_weight needs a network that compares faces with voices: set model.match_chan, or it to 0"
        if self.optim.train_only and not (model.match_chan and self.loss.match_weight):
            yield "optim.train_only matcher needs model.match_chan and loss.match_weight above 0"
        has_attributes = type(model) is NETWORK_CONFIGS["visualvoice"] and "face" in model.cues
        if (self.loss.crossmodal_weight or self.loss.coseparation_weight) and model.n_faces and not has_attributes:
            yield "loss.crossmodal_weight and coseparation_weight are for visualvoice with faces in model.cues; set them to 0"
        if self.loss.crossmodal_weight and model.n_src == 1:
            yield "loss.crossmodal_weight compares the faces of a mixture, of which there is one (model.n_src 1); set it to 0"
        if (self.loss.crossmodal_weight or self.loss.coseparation_weight) and model.n_faces:
            if not data.dynamic:
                yield "loss.crossmodal_weight and coseparation_weight must know who speaks (data.dynamic true); set them to 0"
            if data.no_visual_prob == 1:
                yield "loss.crossmodal_weight and coseparation_weight need faces (data.no_visual_prob below 1); set them to 0"
        if self.loss.coseparation_weight and not data.shared_speaker:
            yield "loss.coseparation_weight needs mixtures that share a speaker: set data.shared_speaker to true, or it to 0"
        if data.shared_speaker and self.training.batch_size % 2:
            yield f"training.batch_size is {self.training.batch_size}; data.shared_speaker needs an even one"
        if data.shared_speaker and model.n_src == 1:
            yield "data.shared_speaker is for networks of several sources; set it to false"
        for key in ("shared_speaker", "curriculum_epochs"):
            if getattr(data, key) and data.faceless_prob:
                yield f"data.faceless_prob takes speech without faces, data.{key} knows none; set one of them to 0 or false"
        if data.made_embeddings and model.n_faces and model.cues != "lips":
            yield f"data.made_embeddings makes embeddings of lips alone, model.cues is {model.cues}; set one of them otherwise"
        if data.curriculum_epochs and not ("face" in model.cues and self.needs_visual):
            yield "data.curriculum_epochs needs faces in model.cues, by whose embeddings people are compared; set it to 0"
        if data.noise_source_prob and model.n_src == 1:
            yield "data.noise_source_prob is for networks of several sources; set it to 0"
        if data.target_only_prob and not self.is_extraction:
            yield "data.target_only_prob is for extraction (model.n_src 1, model.n_faces 1); set it to 0"
        if data.interferer_prob and model.n_src > 1 and not data.off_screen_prob:
            yield "data.interferer_prob needs speakers without a face: set data.off_screen_prob above 0, or it to 0"
        if data.same_speaker_prob and model.n_src == 1 and data.interferer_prob == 1:
            yield "data.same_speaker_prob needs two sources of the corpus; set data.interferer_prob below 1, or it to 0"
        if data.extra_speaker_prob and type(model) is NETWORK_CONFIGS["looking_to_listen"]:
            yield "data.extra_speaker_prob makes mixtures of more faces than model.name looking_to_listen sees; set it to 0"
        if data.extra_speaker_prob and not model.n_faces == model.n_src >= 2:
            yield "data.extra_speaker_prob needs a network for several faces (model.n_faces 2 or more); set it to 0"
        if data.extra_speaker_prob and self.training.overfit_batch:
            yield "training.overfit_batch repeats one batch, data.extra_speaker_prob makes two kinds; take one of them"
        if data.off_screen_prob and not model.n_faces:
            yield "data.off_screen_prob needs faces that tell which sources are wanted (model.n_faces); set it to 0"
        if data.inactive_target_prob and model.fit_to_mixture:
            yield "model.fit_to_mixture makes every estimate loud; set it to false, or data.inactive_target_prob to 0"
        if model.n_faces == 1 and (data.missing_face_prob or data.no_visual_prob):
            yield "data.missing_face_prob and data.no_visual_prob leave the target open (model.n_faces 1); set them to 0"


def _sections(network: str) -> dict[str, type[Checked]]:
    """The sections of a conf whose network has this name."""
    model = NETWORK_CONFIGS[network]
    data, loss = (ClipsConfig, MotionLossConfig) if model is VoiceToMouthConfig else (DataConfig, LossConfig)
    return {"model": model, "data": data, "loss": loss, "training": TrainingConfig, "optim": OptimConfig}


def read_config(path: Path | str, overrides: list[str] | None = None) -> Config:
    """Read a conf, apply `--key value` overrides, fill in defaults, check every value.

    A conf may say `base: other.yml`, a file beside it whose keys it takes over where it does not give them itself.

    Args:
        path: a `conf/*.yml`, or the `conf.yml` of an experiment.
        overrides: words such as `["--lr", "0.0005", "--batch_size=2"]`.

    Raises:
        UserError: no such file, no YAML, an unknown key (with the nearest right one), or a value no training can use.
    """
    path = Path(path)
    layers = _layers(path)
    given_words = list(_split_overrides(overrides or []))
    kinds = _sections(_network_name([*layers, (Path("--train_args"), _name_given(given_words))]))
    values: dict[str, dict[str, Any]] = {section: {} for section in kinds}
    for file, given in layers:
        for section, key, value in _checked_keys(file, given, kinds):
            values[section][key] = _checked_value(f"{file}: {section}.{key}", kinds[section], key, value)
    for key, text in given_words:
        if key == "name":
            continue
        section = _section_of(key, kinds)
        value = _parsed(kinds[section], key, text)
        values[section][key] = _checked_value(f"--train_args: --{key}", kinds[section], key, value)
    where = f"{path} with --train_args" if overrides else str(path)
    sections = {section: _made(where, section, kind, values[section]) for section, kind in kinds.items()}
    try:
        return Config(**sections)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def read_separation_config(path: Path | str, overrides: list[str] | None = None) -> Config:
    """Read the conf of a separation network, where no other will do; arguments and errors as of `read_config`."""
    config = read_config(path, overrides)
    if config.is_voice_to_mouth:
        raise UserError(f"{path}: predicts faces from voices, it separates nothing; give the conf of a separation network")
    return config


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML file, {} from an empty one; `what` it holds is for messages.

    Raises:
        UserError: no such file, or no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        known = ", ".join(sorted(str(other) for other in path.parent.glob("*.yml"))) or "none"
        raise UserError(f"{path}: no such {what}; there are: {known}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


def is_voice_to_mouth(exp_dir: Path) -> bool:
    """Tell if an experiment's network predicts mouths; one without a conf separates.

    Raises:
        UserError: its conf cannot be read.
    """
    path = exp_dir / "conf.yml"
    return path.is_file() and read_config(path).is_voice_to_mouth


def write_config(path: Path | str, config: Config) -> None:
    """Write a conf with all its keys as YAML, atomically."""
    write_text(path, yaml.safe_dump(config.to_dict(), sort_keys=False))


def nearest(word: Any, known: Iterable[Any]) -> str:
    """End a message about an unknown word: with the nearest known one, else with all of them."""
    known = list(known)
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(sorted(str(k) for k in known))}"


def _layers(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """A conf and those it is based on, the base first: (file, its sections)."""
    if path.resolve() in [file.resolve() for file in above]:
        raise UserError(f"{path}: based on itself: {' -> '.join(str(file) for file in (*above, path))}")
    given = read_yaml(path, f"conf (base of {above[-1]})" if above else "conf")
    if not isinstance(given, dict):
        raise UserError(f"{path}: a conf is sections of keys, this is a {type(given).__name__}")
    base = given.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise UserError(f"{path}: base is {base!r} where the name of a conf is expected")
    return [*(_layers(path.parent / base, (*above, path)) if base else []), (path, given)]


def _name_given(words: list[tuple[str, str]]) -> dict[str, Any]:
    """The network's name among overrides, as a conf has it: another network with the keys of the same conf."""
    return next(({"model": {"name": text}} for key, text in reversed(words) if key == "name"), {})


def _network_name(layers: list[tuple[Path, dict[str, Any]]]) -> str:
    """Name of a conf's network; sections that hold no keys are left to the checks that follow."""
    name = DEFAULT_NETWORK
    for path, given in layers:
        model = given.get("model")
        name = model.get("name", name) if isinstance(model, dict) else name
        if not isinstance(name, str) or name not in NETWORK_CONFIGS:
            raise UserError(f"{path}: model.name is {name!r}{nearest(name, NETWORK_CONFIGS)}")
    return name


def _checked_keys(path: Path, given: dict[str, Any], kinds: dict[str, type]) -> Iterator[tuple[str, str, Any]]:
    """(section, key, value) of a file, the network's name left out."""
    for section, values in given.items():
        if section not in kinds:
            raise UserError(f"{path}: unknown section '{section}'{nearest(section, kinds)}")
        if not isinstance(values, dict):
            raise UserError(f"{path}: section '{section}' holds no keys")
        for key, value in values.items():
            if (section, key) == ("model", "name"):
                continue
            if key not in _keys(kinds[section]):
                home = next((name for name, kind in kinds.items() if key in _keys(kind)), None)
                hint = f"; it belongs in section '{home}'" if home else _hint(key, _keys(kinds[section]))
                raise UserError(f"{path}: unknown key '{section}.{key}'{hint}")
            yield section, key, value


def _keys(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _hint(key: str, known: Iterable[str]) -> str:
    """The nearest key, or the networks that have this one."""
    networks = [name for name, kind in NETWORK_CONFIGS.items() if key in _keys(kind)]
    if networks:
        return f" of this network; it is one of {', '.join(networks)} (model.name)"
    return nearest(key, known)


def _split_overrides(words: list[str]) -> Iterator[tuple[str, str]]:
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UserError(f"--train_args: stray word '{word}'; the form is --key value")
        key, sign, value = word[2:].partition("=")
        key = key.replace("-", "_")
        if not sign:
            if not words:
                raise UserError(f"--train_args: --{key} has no value")
            value = words.pop(0)
        yield key, value


def _section_of(key: str, kinds: dict[str, type]) -> str:
    for section, kind in kinds.items():
        if key in _keys(kind):
            return section
    known = [known for kind in kinds.values() for known in _keys(kind)]
    raise UserError(f"--train_args: unknown key '{key}'{_hint(key, known)}")


def _parsed(section: type[Checked], key: str, text: str) -> Any:
    """A word of the command line as its field has it, or as it is: then the check says what is wrong, if anything."""
    kind = _kind(section, key)
    if kind is int:
        with contextlib.suppress(ValueError):
            return int(text)
    return {"true": True, "false": False}.get(text.lower(), text) if kind is bool else text


def _kind(section: type[Checked], key: str) -> type:
    """The type of a field without its limits; that of a choice is `str`."""
    hint = get_type_hints(section)[key]
    return str if get_origin(hint) is Literal else hint


def _checked_value(where: str, section: type[Checked], key: str, value: Any) -> Any:
    """The value as its field has it; numbers that YAML reads as text, such as 1e-3, are numbers.

    Raises:
        UserError: the field does not allow it.
    """
    kind = _kind(section, key)
    if kind is float and type(value) in (int, str):
        with contextlib.suppress(ValueError, OverflowError):
            value = float(value)
    if kind is str and type(value) in (int, float):
        value = str(value)
    problem = value_problem(get_type_hints(section, include_extras=True)[key], value)
    if problem:
        shown = value if not isinstance(value, float) or math.isfinite(value) else str(value)
        raise UserError(f"{where} is {shown!r}; it must be {problem}")
    return value


def _made(where: str, section: str, kind: type[Checked], values: dict[str, Any]) -> Checked:
    try:
        return kind(**values)
    except ValueError as error:
        text = str(error)
        raise UserError(f"{where}: {text if text.startswith(section + '.') else f'{section}.{text}'}") from None
