"""The options of mixtures: how lists are drawn, and how their audio is made.

Each is declared once, as a field of `MixOptions`; `add_options` gives them to a program, and only those that the user
gave are in its arguments. Some hold for all mixtures of a list: these settings stand in mixtures.mixing.json beside it,
and options may repeat them, but not contradict them.
"""

import argparse
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from utils.data.constants import SAMPLE_RATE_HZ
from utils.data.files import read_json, write_json
from utils.errors import UsageError, UserError, flag
from utils.mixing.levels import MEASURES, WHOLE
from utils.mixing.lists import is_own_list
from utils.mixing.recordings import recording_lengths, response_channels

log = logging.getLogger(__name__)
SUBTYPES = ("PCM_16", "FLOAT")
_CHOICES = {"measure": MEASURES, "subtype": SUBTYPES}
_SETTINGS = ("min_sec", "max_sec", *_CHOICES)
_FIXED = {"length": "min", "sample_rate": SAMPLE_RATE_HZ}  # of every list: the shortest clip ends a mixture


def _option(default: Any, help: str, **more: Any) -> Any:
    """A field that is an option, too; its type is that of the default, or a path where that is None."""
    kind = {bool: flag, type(None): Path}.get(type(default), type(default))
    return field(default=default, metadata={"help": help, "type": kind, **more})


@dataclass(frozen=True)
class MixOptions:
    """Options of a preparation of raw video; SIR and SNR are drawn uniformly between their lowest and highest value."""

    nj: int = _option(1, "processes")
    max_failed: int = _option(0, "clips and mixtures that may be left out")
    seed: int = _option(0, "of all that is drawn")
    min_sec: float = _option(2.0, "clips and mixtures that are shorter are listed, left out")
    max_sec: float = _option(math.inf, "mixtures are cut to this")
    n_train: int = _option(0, "fixed training mixtures; 0: training mixes utterances.csv")
    n_val: int = _option(500, "validation mixtures")
    n_test: int = _option(500, "test mixtures")
    val_share: float = _option(0.1, "of the speakers, where the corpus has no such split")
    test_share: float = _option(0.1, "of the speakers, where the corpus has no such split")
    n_src: int = _option(2, "sources of a mixture", choices=(2, 3))
    sir_low_db: float = _option(-5.0, "lowest SIR of the first source over each other one")
    sir_high_db: float = _option(5.0, "highest SIR of the first source over each other one")
    same_speaker: bool = _option(False, "also mix clips of one speaker")
    measure: str = _option(WHOLE, "levels: of whole clips, or only while somebody speaks", choices=MEASURES)
    subtype: str = _option("PCM_16", "of the mixtures' files", choices=SUBTYPES)
    noise_dir: Path | None = _option(None, "folder of noise, e.g. data/musan/noise/test")
    noise_prob: float = _option(1.0, "probability of noise, where there is --noise_dir")
    snr_low_db: float = _option(0.0, "lowest SNR of all sources over the noise")
    snr_high_db: float = _option(20.0, "highest SNR of all sources over the noise")
    rir_dir: Path | None = _option(None, "folder of room responses")
    simulate_rooms: bool = _option(False, "rooms by pyroomacoustics, which you install")
    room_prob: float = _option(0.0, "probability that a mixture is in a room")
    noises: Mapping[str, int] = field(default_factory=dict)  # files below noise_dir, with their samples
    responses: Mapping[str, int] = field(default_factory=dict)  # files below rir_dir, with their channels
    is_listed: bool = False  # a list says which mixtures are made, and of which clips: none is drawn

    @property
    def settings(self) -> dict[str, Any]:
        """What holds for all mixtures of a list."""
        return {name: getattr(self, name) for name in _SETTINGS}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options of mixtures to a program."""
    for item in fields(MixOptions):
        if item.metadata:
            default = f"{item.default}, or the setting of --mix_list" if item.name in _SETTINGS else item.default
            said = item.metadata["help"] + ("" if default is None else f" (default: {default})")
            parser.add_argument(f"--{item.name}", **{**item.metadata, "help": said, "default": argparse.SUPPRESS})


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of mixtures that the user gave."""
    return {item.name: getattr(args, item.name) for item in fields(MixOptions) if hasattr(args, item.name)}


def mix_options(args: argparse.Namespace) -> MixOptions:
    """The options of a program, checked; the folders of noise and of rooms are read.

    Raises:
        UserError: a folder cannot be used, a range is empty, or the user contradicts the settings of `args.mix_list`.
    """
    values = given_options(args)
    if args.mix_list and is_own_list(args.mix_list):
        for name, value in read_settings(args.mix_list).items():
            if values.setdefault(name, value) != value:
                raise UsageError(
                    f"--{name} {values[name]}: the mixtures of {args.mix_list} were made with {value} (see "
                    f"{settings_path(args.mix_list).name}); leave the option out, or remove that file to make others"
                )
    options = MixOptions(**values)
    for low, high in (("sir_low_db", "sir_high_db"), ("snr_low_db", "snr_high_db"), ("min_sec", "max_sec")):
        if not getattr(options, low) <= getattr(options, high):
            raise UsageError(f"--{low} {getattr(options, low):g} is above --{high} {getattr(options, high):g}")
    for name in ("noise_prob", "room_prob", "val_share", "test_share"):
        if not 0 <= getattr(options, name) <= 1:
            kind = "probability" if name.endswith("prob") else "share"
            raise UsageError(f"--{name} {getattr(options, name):g}: a {kind} is between 0 and 1")
    noises = recording_lengths("noise_dir", options.noise_dir, SAMPLE_RATE_HZ) if options.noise_dir else {}
    responses = response_channels(options.rir_dir, SAMPLE_RATE_HZ) if options.rir_dir else {}
    return replace(
        options,
        noises={path.relative_to(options.noise_dir).as_posix(): length for path, length in noises.items()},
        responses={path.relative_to(options.rir_dir).as_posix(): count for path, count in responses.items()},
    )


# Settings of a list


def settings_path(list_path: Path | str) -> Path:
    """The file of a list's settings; not mixtures.json, by which mixtures.csv would be taken for a manifest."""
    return Path(list_path).with_suffix(".mixing.json")


def write_settings(list_path: Path | str, options: MixOptions) -> None:
    """Write the settings of a list, atomically."""
    values = _FIXED | options.settings
    write_json(settings_path(list_path), {name: None if value == math.inf else value for name, value in values.items()})


def read_settings(list_path: Path | str) -> dict[str, Any]:
    """The settings of a list; nothing where the file is missing, which is logged.

    Raises:
        UserError: the file is damaged, or of mixtures that this recipe does not make.
    """
    path = settings_path(list_path)
    if not path.is_file():
        log.warning("%s is missing; the audio is the same again only with the options that it was made with", path)
        return {}
    values = read_json(path)
    if not isinstance(values, dict) or set(values) != {*_FIXED, *_SETTINGS}:
        raise UserError(f"does not hold {', '.join((*_FIXED, *_SETTINGS))}; copy it again, or remove it", path)
    values["max_sec"] = math.inf if values["max_sec"] is None else values["max_sec"]
    for name, value in values.items():
        choices = (_FIXED[name],) if name in _FIXED else _CHOICES.get(name)
        if not (value in choices if choices else type(value) in (int, float) and value >= 0):
            raise UserError(f"{name} is {value!r}; copy it again, or remove it", path)
    return {name: values[name] for name in _SETTINGS}
