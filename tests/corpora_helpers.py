"""Small copies of published layouts, from real parts, with names as difficult as the real ones."""

import contextlib
import importlib
import io
import shutil
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.errors import UsageError, UserError

RATE_HZ = 16000
GAINS_DB = (1.048, -1.048)  # of the sources of a 2Mix mixture

# Ids as the corpora have them: `_` and `-` inside, in front and at the end.
LRS2_IDS = ("6339077953587836416_00025", "6338273935710083967_00003", "5535415699068794046_00001", "6330311066473698535_00011")
LRS3_IDS = ("NCJTV5KaJJc_00001", "vhVWzkbAW4I_00005", "_8K1hWkirLo_00002", "aaEA__Js2u-_00010")
VOX_IDS = ("id08108_RCODGWdfzdY_00197", "id07077_oi72_HHDWY4_00288", "id08249_-sn2lLxlZb__00252", "id00017__1dfn2spq-E_00001")


# Six videos of each corpus, two for each split, the most difficult names among those that are tested on.
VIDEOS = {
    "lrs2": ("6339077953587836416", "6338273935710083967", "5535415699068794046", "6330311066473698535",
             "0000000000000000007", "6330311066473698536"),
    "lrs3": ("NCJTV5KaJJc", "vhVWzkbAW4I", "_-_-_-_-_-_", "aaEA__Js2u-", "_8K1hWkirLo", "_00001_-1_5"),
    "voxceleb2": ("id08108_RCODGWdfzdY", "id07077_oi72_HHDWY4", "id08249_-sn2lLxlZb_", "id00017__1dfn2spq-E",
                  "id08000___________-", "id08001_-_00001_-_0"),
}  # fmt: skip


def speech(shared_data: Path, index: int, seconds: float | None = None) -> np.ndarray:
    """A real utterance (time,), float32; another index is another speaker."""
    path = sorted((shared_data / "librispeech" / "train").rglob("*.flac"))[index]
    samples = soundfile.read(path, dtype="float32")[0]
    return samples if seconds is None else samples[: round(seconds * RATE_HZ)]


def write_audio(path: Path, samples: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz)
    return path


def write_crops(path: Path, n_frames: int, shared_data: Path | None = None) -> Path:
    """Mouth crops, real ones where there are any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    crops = np.full((n_frames, 96, 96), 90, np.uint8)
    if shared_data is not None:
        source = sorted((shared_data / "grid_dla" / "mouths").glob("*.npz"))[0]
        crops = np.resize(np.load(source)["data"], crops.shape)
    np.savez_compressed(path, data=crops)
    return path


def two_mix_name(ids: tuple[str, ...], gains_db: tuple[float, ...]) -> str:
    return "_".join(f"{name}_{gain:.5g}" for name, gain in zip(ids, gains_db, strict=True))


def write_two_mix(root: Path, splits: Mapping[str, Sequence[tuple[str, ...]]], sounds: Mapping[str, np.ndarray]) -> list[str]:
    """The audio of a 2Mix folder, in each split the mixtures of these ids; their names."""
    names = []
    for split, groups in splits.items():
        for ids in groups:
            gains_db = GAINS_DB[: len(ids)]
            names.append(two_mix_name(ids, gains_db))
            sources = np.stack([10 ** (gain / 20) * sounds[name] for name, gain in zip(ids, gains_db, strict=True)])
            for folder, samples in (("mix", sources.sum(axis=0)), *((f"s{k}", s) for k, s in enumerate(sources, start=1))):
                write_audio(root / f"audio/wav16k/min/{split}/{folder}/{names[-1]}.wav", samples)
    return names


def make_two_mix(
    root: Path, shared_data: Path, ids: tuple[str, ...], seconds: float = 2.0, splits=("tr", "cv", "tt")
) -> list[str]:
    """A 2Mix folder of one mixture in each split; their names."""
    pairs = [(ids[0], ids[1]), (ids[2], ids[3]), (ids[3], ids[2])]
    sounds = {name: 0.3 * speech(shared_data, index, seconds) for index, name in enumerate(ids)}
    for name in ids:
        write_crops(root / "mouths" / f"{name}.npz", round(seconds * 25), shared_data)
    return write_two_mix(root, {split: [pair] for split, pair in zip(splits, pairs, strict=False)}, sounds)


def copy_video(shared_data: Path, index: int, target: Path) -> Path:
    """A real clip of somebody who speaks for 3 s, under another name: the content tells readers what it is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sorted((shared_data / "grid_video").glob("*.mpg"))[index], target)
    return target


def encode_clip(
    path: Path, samples: np.ndarray, rate_hz: int, fps: Fraction | None, pictures: Sequence[np.ndarray] | None = None
) -> Path:
    """An mp4 or m4a of a sound; with `fps` it has pictures at that rate: these, RGB of one size, or small grey ones."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    if fps and pictures is None:
        n_pictures = round(len(samples) / rate_hz * fps)
        pictures = [np.full((64, 64, 3), number % 200, np.uint8) for number in range(n_pictures)]
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=rate_hz, layout="mono")
        if fps:
            stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "4"})
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def run_prepare(corpus: str, data_dir: Path, corpus_dir: Path, *options: object, code: int = 0) -> str:
    """The program `egs/<corpus>/prepare.py`, in this process; what it said."""
    program = importlib.import_module(f"egs.{corpus}.prepare")
    words = ["prepare.py", "--data_dir", data_dir, "--corpus_dir", corpus_dir, *options]
    said, found = io.StringIO(), 0
    with contextlib.redirect_stdout(said), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(word) for word in words])
        try:
            program.main()
        except UserError as error:
            found = 2 if isinstance(error, UsageError) else 1
            said.write(str(error))
            assert "\n" not in str(error)
    assert found == code, said.getvalue()
    return said.getvalue()
