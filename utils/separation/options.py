"""Options of stage 4, and what its `--test_dir` is. Imports no torch, as wrong paths must fail at once."""

import argparse
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path

from utils.data.constants import ALIGNMENTS, VIDEO_SUFFIXES
from utils.data.estimates import SUBTYPES
from utils.errors import UserError

OUTPUT_RATES = ("16k", "source")
RUNTIMES = ("torch", "onnx")
MAX_OFFSET_FRAMES = 50


@dataclass(frozen=True)
class SeparationOptions:
    """Options of separation, whatever the network; the defaults of the records here are those of stage 4."""

    window_sec: float = 8.0  # longer mixtures are separated in windows of this length
    hop_sec: float = 6.0  # from window to window
    subtype: str = "float"  # sample format of the estimates, see utils.data.estimates.SUBTYPES
    batch_size: int = 4  # equally long mixtures that are separated at once


@dataclass(frozen=True, kw_only=True)
class StageOptions(SeparationOptions):
    """Options for mixtures and for videos."""

    test_dir: Path
    test_name: str = ""  # "" takes `name_of_test`
    dump_dir: Path = Path("dump")
    nj: int = 2
    device: str = ""  # as `utils.data.devices.choose_device` takes it
    runtime: str = RUNTIMES[0]  # what runs the networks; "onnx" is onnxruntime, on the CPU
    max_failed: int = 0
    force: bool = False

    @property
    def onnx_dir(self) -> Path | None:
        """Where exported networks are kept; None where torch runs them."""
        return self.dump_dir / "onnx" if self.runtime == "onnx" else None

    @property
    def name(self) -> str:
        """The name of the outputs."""
        return self.test_name or name_of_test(self.test_dir)


@dataclass(frozen=True, kw_only=True)
class TestSetOptions(StageOptions):
    """Options for the mixtures of a test set."""

    __test__ = False  # its name is not meant for pytest

    data_root_dir: Path = Path("data")  # the manifest of a folder is <data_root_dir>/<test name>/test.csv
    cue_test: bool = False
    av_offset_sweep: tuple[int, ...] = ()  # video frames, without 0


@dataclass(frozen=True, kw_only=True)
class VideoSetOptions(StageOptions):
    """Options for videos."""

    out_dir: str = ""  # "" is <exp_dir>/separated/<test name>
    preview: bool = False
    output_rate: str = OUTPUT_RATES[0]  # "source": also stems, at the sound's own rate and with its channels
    mux: bool = False
    asr: str = ""  # command of a recogniser that gets a wav as its last word and prints what it understood
    asr_dir: str = ""  # where it works, and relative paths in it begin; "" is the present folder
    landmarks_dir: str = ""
    alignment: str = ALIGNMENTS[0]
    audio_stream: int = 0
    min_on_screen_sec: float = 0.5
    people: int = 0  # at most; 0 is no limit

    def __post_init__(self) -> None:
        """Refuse values that no option of the command line can have.

        Raises:
            UserError: a value is of another kind, or none of the choices.
        """
        choices = {"subtype": tuple(SUBTYPES), "output_rate": OUTPUT_RATES, "alignment": ALIGNMENTS, "runtime": RUNTIMES}
        for field in fields(self):
            value, wanted = getattr(self, field.name), type(field.default)
            if field.name in choices and value not in choices[field.name]:
                raise UserError(f"{field.name} {value!r}: it is one of {', '.join(choices[field.name])}")
            kinds = {bool: "True or False", int: "a whole number, 0 or more", str: "a text"}
            if wanted in kinds and (type(value) is not wanted or (wanted is int and value < 0)):
                raise UserError(f"{field.name} {value!r}: it is {kinds[wanted]}")


def name_of_test(test_dir: Path) -> str:
    """The folder's name, `<corpus>_<split>` of `<corpus>/<split>.csv`, or a video's name without its suffix.

    A link has a name of its own.
    """
    path = Path(os.path.abspath(test_dir))
    if path.suffix == ".csv" and not path.is_dir():
        return f"{path.parent.name}_{path.stem}"
    return path.stem if path.is_file() else path.name


def is_video_set(test_dir: Path) -> bool:
    """Tell if stage 4 was given a video (any file but a CSV), or a folder of videos (and not of the DLA layout)."""
    if test_dir.is_file():
        return test_dir.suffix.lower() != ".csv"
    return test_dir.is_dir() and not (test_dir / "audio").is_dir() and any(map(is_video, test_dir.iterdir()))


def is_video(path: Path) -> bool:
    """Tell a video in a folder by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not path.name.startswith(".")


def offsets(text: str) -> tuple[int, ...]:
    """`-5:5` or `-5,-1,1,5` -> the offsets in order, without 0, which is always separated.

    Raises:
        argparse.ArgumentTypeError: the text is neither.
    """
    found: set[int] = set()
    if span := re.fullmatch(r"([+-]?\d+):([+-]?\d+)", text):
        found = set(range(int(span[1]), int(span[2]) + 1))
    elif re.fullmatch(r"[+-]?\d+(,[+-]?\d+)*", text):
        found = {int(word) for word in text.split(",")}
    if text and (not found or max(map(abs, found)) > MAX_OFFSET_FRAMES):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no span of video frames such as -5:5 and no list such as -5,-1,1,5 "
            f"(at most {MAX_OFFSET_FRAMES} either way)"
        )
    return tuple(sorted(found - {0}))
