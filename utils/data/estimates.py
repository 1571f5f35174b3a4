"""Separated voices on disk: `<folder>/s1/<mixture id>.wav`, `s2/...`, `separated.csv`, and the journal of what was made.

Written by stage 4, read by stage 5. `separated.csv` has the columns `mixture_ID,mixture_path,source_1_path,...,
estimate_1_path,...,subset,separated_by,gain`: paths of the inputs are absolute ("" where absent), those of the
estimates start at the CSV's folder; `separated_by` ends in `ORDER_UNKNOWN` where no face told the voices' order; `gain`
is what all voices of the mixture were multiplied with so that none is clipped.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from utils.data.audio import probe_audio
from utils.data.files import append_line, atomic_path, write_text
from utils.data.manifest import Manifest
from utils.errors import UserError

ORDER_UNKNOWN = "(audio-only, order unknown)"
SUBTYPES = {"float": "FLOAT", "pcm16": "PCM_16"}
SAMPLE_BYTES = {"float": 4, "pcm16": 2}
JOURNAL_NAME = "made.jsonl"
_BLOCK_SAMPLES = 1 << 16


@dataclass(frozen=True)
class Made:
    """A mixture whose voices lie on disk, as a line of the journal."""

    mixture_id: str
    stamp: str  # of all that the voices depend on; "" while they are being written
    separated_by: str
    gain: float


class Journal:
    """What was made in a folder and from what: one JSON line for each step, so that a kill at any moment is understood.

    A mixture's line without a stamp is written before its voices, the one with the stamp after them; the last counts.

    Args:
        folder: that of `separated.csv`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_NAME
        self.made: dict[str, Made] = {}
        if self.path.is_file():
            self.made = {made.mixture_id: made for made in _journal_lines(self.path)}

    def write(self, made: Made) -> None:
        """Add a line; after `keep_only`, which removes what a kill left of a line."""
        self.made[made.mixture_id] = made
        append_line(self.path, _journal_line(made))

    def keep_only(self, mixture_ids: Iterable[str]) -> list[str]:
        """Forget all other mixtures, and the history of these; gives the ids that were forgotten."""
        wanted = set(mixture_ids)
        forgotten = [mixture_id for mixture_id in self.made if mixture_id not in wanted]
        self.made = {mixture_id: made for mixture_id, made in self.made.items() if mixture_id in wanted}
        write_text(self.path, "".join(_journal_line(made) + "\n" for made in self.made.values()))
        return forgotten


def _journal_line(made: Made) -> str:
    return json.dumps(asdict(made))  # escaped: an id may hold what ends a line for `splitlines`


def _journal_lines(path: Path) -> Iterator[Made]:
    """The lines that can be read; one that a kill cut off says nothing, so that its mixture is made again."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield Made(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue


def voice_paths(folder: Path, mixture_id: str, n_src: int) -> list[Path]:
    """Where the voices of a mixture lie."""
    return [folder / f"s{k}" / f"{mixture_id}.wav" for k in range(1, n_src + 1)]


def are_complete(paths: Sequence[Path], length: int, sample_rate: int) -> bool:
    """Whether all these voices are there in full: `length` samples, mono, at the rate."""
    try:
        infos = [probe_audio(path) for path in paths]
    except UserError:
        return False
    return all((info.length, info.channels, info.sample_rate) == (length, 1, sample_rate) for info in infos)


def write_voices(
    paths: Sequence[Path], blocks: Iterable[np.ndarray], sample_rate: int, subtype: str, length: int = 0
) -> float:
    """Write the voices of one mixture, block by block, each file whole or absent.

    Args:
        paths: a file for each voice.
        blocks: float32 (n_src, samples), one after the other.
        sample_rate: Hz.
        subtype: "float" keeps the values as they are; "pcm16" makes all voices quieter by one common gain where any of
            them would exceed full scale.
        length: samples to come, where they are known; for the message where the disk is full.

    Returns:
        The gain, 1.0 where nothing had to be made quieter.

    Raises:
        UserError: the values are not finite.
        WriteError: the disk is full.
    """
    with ExitStack() as stack:
        temporaries = [stack.enter_context(atomic_path(path, length * SAMPLE_BYTES["float"])) for path in paths]
        peak = _write_float(temporaries, blocks, sample_rate)
        gain = 1.0
        if subtype == "pcm16":
            gain = 1.0 / peak if peak > 1.0 else 1.0
            for temporary in temporaries:
                _rewrite_as_pcm16(temporary, gain)
    return gain


def _write_float(paths: Sequence[Path], blocks: Iterable[np.ndarray], sample_rate: int) -> float:
    """Write blocks as float32 WAV; gives the largest magnitude."""
    peak = 0.0
    with ExitStack() as stack:
        files = [
            stack.enter_context(soundfile.SoundFile(path, "w", sample_rate, 1, SUBTYPES["float"], format="WAV"))
            for path in map(str, paths)
        ]
        for block in blocks:
            if not np.isfinite(block).all():
                raise UserError("the network gave values that are not finite; look at its training")
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            for file, voice in zip(files, block, strict=True):
                file.write(voice)
    return peak


def _rewrite_as_pcm16(path: Path, gain: float) -> None:
    with atomic_path(path) as temporary, soundfile.SoundFile(str(path)) as source:
        subtype, rate = SUBTYPES["pcm16"], source.samplerate
        with soundfile.SoundFile(str(temporary), "w", rate, 1, subtype, format="WAV") as target:
            for block in source.blocks(_BLOCK_SAMPLES, dtype="float32"):
                target.write(np.clip(block * np.float32(gain), -1.0, 1.0))  # only rounding can exceed full scale here


def write_separated(folder: Path, manifest: Manifest, journal: Journal) -> None:
    """Write `separated.csv` for the mixtures that were made, in the manifest's order."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(separated_columns(manifest.n_src))
    for item in manifest.items:
        made = journal.made.get(item.mixture_id)
        if made is None or not made.stamp:
            continue
        inputs = [str(manifest.resolve(path)) if path else "" for path in (item.mixture_path, *item.source_paths)]
        voices = [path.relative_to(folder).as_posix() for path in voice_paths(folder, item.mixture_id, manifest.n_src)]
        rows.writerow([item.mixture_id, *inputs, *voices, item.subset, made.separated_by, f"{made.gain:.9g}"])
    write_text(folder / "separated.csv", text.getvalue())


def separated_columns(n_src: int) -> list[str]:
    """The columns of `separated.csv`, in order."""
    sources = [f"source_{k}_path" for k in range(1, n_src + 1)]
    estimates = [f"estimate_{k}_path" for k in range(1, n_src + 1)]
    return ["mixture_ID", "mixture_path", *sources, *estimates, "subset", "separated_by", "gain"]
