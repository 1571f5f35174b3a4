"""Small networks, folders and calls for the tests of stage 4."""

import csv
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from local_models.lipreading import Lipreading
from local_models.networks import build_network
from utils.data.files import read_json, write_json
from utils.data.manifest import Mixture
from utils.embedding.frontends import load_frontend, store_name
from utils.embedding.kinds import lookahead_frames
from utils.stages import separate
from utils.training.config import read_config, write_config
from utils.training.experiment import save_model

RATE_HZ, FPS = 16000, 25.0
TINY = (
    "--n_filters 64 --kernel_size 64 --stride 32 --bands 8x4 --bn_chan 8 --hid_size 4 --n_repeats 2 --n_audio_repeats 1 "
    "--visual_chan 8 --visual_hid 8 --visual_blocks 1"
)
LENGTHS = {"a_b": 6400, "b_c": 6401, "c_a": 6399}  # samples; 10 video frames, a little more, a little less


def make_lips(path: Path) -> Path:
    """Weights of a small visual frontend."""
    torch.manual_seed(0)
    model = Lipreading(read_json("conf/lipreading/demo_snv05x.json"))
    torch.save({"model_state_dict": model.state_dict(), "config": "demo_snv05x"}, path)
    return path


def wake(network: nn.Module) -> nn.Module:
    """Give weights to layers that start as zero, as training would, so that visual embeddings have an influence."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return network


def make_experiment(exp_dir: Path, frontend_weights: Path | None, seed: int = 0, words: str = TINY) -> Path:
    """A network with random weights as stage 3 leaves one; audio-only without a visual frontend."""
    torch.manual_seed(seed)
    config = read_config("conf/av_tfdprnn.yml" if frontend_weights else "conf/av_tfdprnn_audio_only.yml", words.split())
    if frontend_weights:
        frontend = load_frontend(frontend_weights)
        config = config.with_visual_dim(frontend.dim).with_visual_delay(lookahead_frames(frontend))
        name = store_name(frontend, "centre", "float32")
        facts = {"weights": str(frontend_weights), "conf": "", "layer": "trunk", "view": "centre", "precision": "float32"}
        write_json(exp_dir / "frontend.json", facts | {"store_name": name})
    save_model(exp_dir / "best_model.pth", wake(build_network(config.model)), {})
    write_config(exp_dir / "conf.yml", config)
    return exp_dir


def make_folder(root: Path, references: bool = True, split: str = "") -> Path:
    """Three mixtures of three faces in the DLA layout."""
    rng = np.random.default_rng(0)
    for name, length in LENGTHS.items():
        sources = 0.3 * rng.standard_normal((2, length)).astype(np.float32)
        for part, signal in (("mix", sources.sum(axis=0)), ("s1", sources[0]), ("s2", sources[1])):
            if part == "mix" or references:
                path = root / "audio" / split / part / f"{name}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, signal, RATE_HZ, subtype="FLOAT")
    (root / "mouths").mkdir(parents=True)
    for face in "abc":
        np.savez(root / "mouths" / f"{face}.npz", data=rng.integers(0, 256, (10, 96, 96), dtype=np.uint8))
    return root


class Stage:
    """Runs the stage in this process, with all outputs below `root`."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch

    def __call__(self, exp_dir: Path, test_dir: Path, *more: str) -> Path:
        arguments = ["--exp_dir", exp_dir, "--test_dir", test_dir, "--dump_dir", self.root / "dump", "--id", "cpu"]
        arguments += ["--data_root_dir", self.root / "data", *more]
        self.monkeypatch.setattr(sys, "argv", ["separate", *map(str, arguments)])
        assert separate.main() == 0
        return exp_dir / "separated" / test_dir.name


def copy_experiment(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for name in ("best_model.pth", "conf.yml", "frontend.json"):
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())
    return target


def mixture_row(mixture_id: str, audio: str, length: int, faces: tuple[str, str], subset: str = "") -> Mixture:
    """A mixture of `make_folder` without references, as a row of a manifest."""
    mouths = tuple(f"mouths/{face}.npz" if face else "" for face in faces)
    frames = round(length / RATE_HZ * FPS)
    return Mixture(mixture_id, f"audio/mix/{audio}.wav", ("", ""), "", length, mouths, frames, FPS, ("", ""), None, subset)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def state_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Time and samples of every estimate. (The header of a float WAV holds the time, so that files differ.)"""
    paths = sorted(path for path in folder.rglob("*.wav") if not path.name.startswith("."))
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, samples_hash(path)) for path in paths}


def samples_hash(path: Path) -> str:
    return hashlib.sha256(soundfile.read(path)[0].tobytes()).hexdigest()
