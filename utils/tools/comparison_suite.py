"""Suites: which confs are compared, with which changed keys and seeds, and for how long each is trained.

Reads `conf/suites/*.yml`; used by `utils.tools.comparison`. A suite is refused as a whole before anything runs.

    minutes: 5                          # of training and validation, for each run
    common: "--epoch_size 400"          # train_args of all rows
    baseline: plain                     # optional: the row that the others' SI-SNRi is compared with
    rows:
      plain: {conf: conf/av_tfdprnn.yml}
      wide:  {conf: conf/av_tfdprnn.yml, train_args: "--bn_chan 128", seeds: [0, 1]}
"""

import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError
from utils.training.config import Config, nearest, read_config

SUITE_KEYS = ("minutes", "common", "baseline", "rows")
ROW_KEYS = ("conf", "train_args", "seeds")
DECIDED_HERE = {"epochs": "minutes", "early_stop": "minutes", "seed": "seeds"}  # key of a conf -> what the suite says instead


@dataclass(frozen=True)
class Row:
    """A row of the table: a conf with changed keys, trained once for each seed."""

    name: str
    conf_path: Path
    words: tuple[str, ...]  # train_args: those of all rows, then its own
    seeds: tuple[int, ...]
    conf: Config


@dataclass(frozen=True)
class Suite:
    """What a suite's file says."""

    path: Path
    minutes: float
    rows: tuple[Row, ...]
    baseline: str


def read_suite(path: Path, minutes: float | None = None, train_args: str = "") -> Suite:
    """Read a suite and check all of it.

    Args:
        path: `conf/suites/*.yml`.
        minutes: instead of the file's.
        train_args: keys for all rows, after the suite's common ones and before those of a row.

    Raises:
        UserError: no such file, no YAML, an unknown key, or a row that cannot be trained; names the row.
    """
    given = _read_yaml(path)
    _check_keys(str(path), given, SUITE_KEYS)
    rows, common = given.get("rows"), given.get("common", "")
    if not isinstance(rows, dict) or not rows:
        raise UserError(f"{path}: 'rows' must map the name of each row to its conf")
    words = _words(f"{path}: common", common) + _words("--train_args", train_args)
    read = tuple(_read_row(path, name, row, words) for name, row in rows.items())
    baseline = str(given.get("baseline") or "")
    names = [row.name for row in read]
    if baseline and baseline not in names:
        raise UserError(f"{path}: baseline '{baseline}' is no row{nearest(baseline, names)}")
    return Suite(path, _minutes(path, given.get("minutes") if minutes is None else minutes), read, baseline)


def choose_rows(suite: Suite, wanted: str) -> list[Row]:
    """The rows that `--rows a,b` names, all where it is empty.

    Raises:
        UserError: the suite has no such row.
    """
    rows = {row.name: row for row in suite.rows}
    chosen = [name.strip() for name in wanted.split(",") if name.strip()] or list(rows)
    for name in chosen:
        if name not in rows:
            raise UserError(f"--rows: {suite.path} has no row '{name}'{nearest(name, rows)}")
    return [rows[name] for name in dict.fromkeys(chosen)]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        known = ", ".join(sorted(str(other) for other in path.parent.glob("*.yml"))) or "none"
        raise UserError(f"{path}: no such suite; there are: {known}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(given, dict):
        raise UserError(f"{path}: a suite has the keys {', '.join(SUITE_KEYS)}; this is a {type(given).__name__}")
    return given


def _check_keys(where: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'{nearest(str(key), known)}")


def _minutes(path: Path, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{path}: minutes is {value!r}; give the minutes of training for each run, such as 5")
    return float(value)


def _words(where: str, text: Any) -> tuple[str, ...]:
    if not isinstance(text, str):
        raise UserError(f'{where} is {text!r} where text such as "--lr 0.0005" is expected')
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _read_row(path: Path, name: Any, given: Any, common: tuple[str, ...]) -> Row:
    where = f"{path}: row '{name}'"
    if not isinstance(name, str):
        raise UserError(f"{where}: YAML reads its name as {type(name).__name__}, not as text; put it in quotes")
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(f"{where}: its name makes a folder, so it has letters, digits, '-', '_', '+' and '.' only")
    if not isinstance(given, dict) or not isinstance(given.get("conf"), str):
        raise UserError(f"{where}: must be a mapping with a conf, such as {{conf: conf/av_tfdprnn.yml}}")
    _check_keys(where, given, ROW_KEYS)
    words = common + _words(f"{where}: train_args", given.get("train_args", ""))
    try:
        conf = read_config(given["conf"], list(words))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    for key, instead in DECIDED_HERE.items():
        if key in conf.overrides:
            raise UserError(f"{where}: --{key} is for the comparison to decide; take it out and set '{instead}'")
    return Row(name, Path(given["conf"]), words, _seeds(where, given.get("seeds", [0])), conf)


def _seeds(where: str, seeds: Any) -> tuple[int, ...]:
    right = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not right or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: seeds is {seeds!r} where different whole numbers are expected, such as [0, 1]")
    return tuple(seeds)
