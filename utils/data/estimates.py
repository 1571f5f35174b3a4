"""Estimates on disk: `<folder>/s1/<mixture id>.wav`, `s2/...`, `separated.csv`, and the journal of what was made.

Written by stage 4, read by stage 5. `separated.csv` has the columns `mixture_ID,mixture_path,source_1_path,...,
estimate_1_path,...,subset,separated_by,order_certainty,gain`: paths of the inputs are absolute ("" where absent), those
of the estimates start at the CSV's folder; `separated_by` ends in `ORDER_UNKNOWN` where no visual embedding told the
order of the estimates; `order_certainty` is how likely the order is right, in the mean over the time, where the network
compares faces with voices; `gain` is what all estimates of the mixture were multiplied with so that none is clipped.

In the journal (`utils.data.jobs.Journal`) a mixture has the stamp of all that its estimates depend on, and the last three
of these columns, written after the estimates; what is to be made again has no line meanwhile.

Below the folder of a test set lie further ones of the same form, separated with other visual embeddings: `CUE_FOLDERS` of
the visual cue swap test, and those of `offset_folder`.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from utils.data.audio import probe_audio, wav_writer
from utils.data.files import atomic_path, write_text
from utils.data.jobs import Journal
from utils.data.manifest import Manifest
from utils.errors import UserError

ORDER_UNKNOWN = "(audio-only, order unknown)"
SUBTYPES = {"float": "FLOAT", "pcm16": "PCM_16"}
SAMPLE_BYTES = {"float": 4, "pcm16": 2}
JOURNAL_NAME = "made.jsonl"
CUE_FOLDERS = {"swapped": "cues_swapped", "shuffled": "cues_shuffled"}
_BLOCK_SAMPLES = 1 << 16
_WAV_BYTES = 4_200_000_000  # its size is a number of 32 bits


def offset_folder(folder: Path, offset_frames: int) -> Path:
    """The estimates made with the video that many frames late, below the folder of the test set."""
    return folder / f"offset_{offset_frames:+d}"


def offset_folders(folder: Path) -> dict[int, Path]:
    """All folders of `offset_folder` that are complete, by the offset."""
    names = (re.fullmatch(r"offset_([+-]\d+)", path.parent.name) for path in folder.glob("offset_*/separated.csv"))
    return {offset: offset_folder(folder, offset) for offset in sorted(int(name[1]) for name in names if name)}


def estimate_paths(folder: Path, mixture_id: str, n_src: int) -> list[Path]:
    """The files of a mixture's estimates."""
    return [folder / f"s{k}" / f"{mixture_id}.wav" for k in range(1, n_src + 1)]


def are_complete(paths: Sequence[Path], length: int, sample_rate: int, channels: int = 1) -> bool:
    """Tell if all these files are complete: `length` samples, so many channels, at the rate."""
    try:
        infos = [probe_audio(path) for path in paths]
    except UserError:
        return False
    return all((info.length, info.channels, info.sample_rate) == (length, channels, sample_rate) for info in infos)


def write_estimates(
    paths: Sequence[Path], blocks: Iterable[np.ndarray], sample_rate: int, subtype: str, length: int = 0, channels: int = 1
) -> float:
    """Write the estimates of one mixture, block by block, each file whole or absent.

    Args:
        paths: a file for each estimate.
        blocks: float32 (n_src, samples), or (n_src, channels, samples), one after the other.
        sample_rate: Hz.
        subtype: "float" keeps the values as they are; "pcm16" makes all estimates quieter by one common gain where any of
            them would exceed full scale.
        length: samples to come, where they are known: for the message where the disk is full, and as files beyond 4 GB are
            RF64 instead of WAV.
        channels: of each estimate.

    Returns:
        The gain, 1.0 where nothing had to be made quieter.

    Raises:
        UserError: the values are not finite.
        WriteError: the disk is full.
    """
    with ExitStack() as stack:
        n_bytes = length * channels * SAMPLE_BYTES["float"]
        temporaries = [stack.enter_context(atomic_path(path, n_bytes)) for path in paths]
        layout = {"sample_rate": sample_rate, "channels": channels, "file_format": "WAV" if n_bytes < _WAV_BYTES else "RF64"}
        peak = _write_float(temporaries, blocks, layout)
        if subtype == "float":
            return 1.0
        gain = 1.0 / max(peak, 1.0)
        for temporary in temporaries:
            _rewrite_as_pcm16(temporary, gain)
    return gain


def _write_float(paths: Sequence[Path], blocks: Iterable[np.ndarray], layout: dict[str, Any]) -> float:
    """Write blocks as float32; gives the largest magnitude."""
    peak = 0.0
    with ExitStack() as stack:
        files = [stack.enter_context(wav_writer(path, subtype=SUBTYPES["float"], **layout)) for path in paths]
        for block in blocks:
            if not np.isfinite(block).all():
                raise UserError("the network gave values that are not finite; look at its training")
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            for file, estimate in zip(files, block, strict=True):
                file.write(estimate.T)
    return peak


def _rewrite_as_pcm16(path: Path, gain: float) -> None:
    with atomic_path(path) as temporary, soundfile.SoundFile(str(path)) as source:
        layout = {"sample_rate": source.samplerate, "channels": source.channels, "file_format": source.format}
        with wav_writer(temporary, subtype=SUBTYPES["pcm16"], **layout) as target:
            for block in source.blocks(_BLOCK_SAMPLES, dtype="float32"):
                target.write(np.clip(block * np.float32(gain), -1.0, 1.0))  # only rounding can exceed full scale here


def write_separated(folder: Path, manifest: Manifest, journal: Journal) -> None:
    """Write `separated.csv` for the mixtures that were made, in the manifest's order."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    numbers = range(1, manifest.n_src + 1)
    sources, estimates = ([f"{kind}_{k}_path" for k in numbers] for kind in ("source", "estimate"))
    rows.writerow(["mixture_ID", "mixture_path", *sources, *estimates, "subset", "separated_by", "order_certainty", "gain"])
    for item in manifest.items:
        if item.mixture_id not in journal.entries:
            continue
        _, made = journal.entries[item.mixture_id]
        inputs = [str(manifest.resolve(path)) if path else "" for path in (item.mixture_path, *item.source_paths)]
        estimates = [path.relative_to(folder).as_posix() for path in estimate_paths(folder, item.mixture_id, manifest.n_src)]
        certainty = made.get("order_certainty")
        certainty = "" if certainty is None else f"{certainty:.4f}"
        rows.writerow(
            [item.mixture_id, *inputs, *estimates, item.subset, made["separated_by"], certainty, f"{made['gain']:.9g}"]
        )
    write_text(folder / "separated.csv", text.getvalue())
