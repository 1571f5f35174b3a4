"""How the audio of a list of mixtures was made, beside the list: mixtures.csv and mixtures.mixing.json.

The list says what differs from one mixture to the next, this file what holds for all of them. Both together, with the
clips, noises and room responses that the list names, give the same bytes again; of FLOAT files the same samples, for
libsndfile writes the time into their headers.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.data.files import read_json, write_json
from utils.errors import UsageError, UserError
from utils.mixing.rendering import MAX, MIN, SUBTYPES, MixingOptions
from utils.mixing.speech_level import MEASURES

log = logging.getLogger(__name__)
_CHOICES = {"measure": MEASURES, "length": (MIN, MAX), "subtype": SUBTYPES}
_NUMBERS = ("min_sec", "max_sec", "sample_rate")


def settings_path(list_path: Path | str) -> Path:
    """Where the settings of a list are; not mixtures.json, by which mixtures.csv would be taken for a manifest."""
    return Path(list_path).with_suffix(".mixing.json")


def write_settings(list_path: Path | str, options: MixingOptions) -> None:
    """Write what the mixtures of a list are made with, atomically."""
    values = {name: getattr(options, name) for name in (*_CHOICES, *_NUMBERS)}
    write_json(settings_path(list_path), {name: None if value == math.inf else value for name, value in values.items()})


def read_settings(list_path: Path | str) -> dict[str, Any]:
    """What the mixtures of a list were made with; nothing where the file is missing, which is logged.

    Raises:
        UserError: the file is damaged.
    """
    path = settings_path(list_path)
    if not path.is_file():
        log.warning("%s: not there; the audio is the same again only with the options that it was made with", path)
        return {}
    values = read_json(path)
    if not isinstance(values, dict) or set(values) != {*_CHOICES, *_NUMBERS}:
        raise UserError(f"{path}: does not hold {', '.join((*_CHOICES, *_NUMBERS))}; copy it again, or take it away")
    values["max_sec"] = math.inf if values["max_sec"] is None else values["max_sec"]
    wrong = [name for name, choices in _CHOICES.items() if values[name] not in choices]
    wrong += [name for name in _NUMBERS if type(values[name]) not in (int, float) or not values[name] >= 0]
    if wrong:
        raise UserError(f"{path}: {wrong[0]} is {values[wrong[0]]!r}; copy it again, or take it away")
    return values


def settle(given: Mapping[str, Any], list_path: Path | str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a list, which options may repeat, but not contradict.

    Args:
        given: options that the user gave.
        list_path: the list.
        defaults: what holds where neither says anything.

    Raises:
        UserError: the file is damaged, or an option contradicts it.
    """
    listed = read_settings(list_path)
    for name, value in given.items():
        if name in listed and listed[name] != value:
            raise UsageError(
                f"--{name} {value}: the mixtures of {list_path} were made with {listed[name]} (see "
                f"{settings_path(list_path).name}); leave the option out, or take that file away to make others"
            )
    return {**defaults, **listed, **given}
