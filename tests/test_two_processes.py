"""Training with faces on two processes is training on one with batches twice as large: started by us, or by torchrun."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from separation_helpers import make_lips
from tiny_corpus import RATE_HZ, make_corpus

from utils.embedding.frontends import load_frontend, store_name
from utils.embedding.store import EmbeddingStore, EmbeddingWriter, Source
from utils.training.datasets import MixtureDataset
from utils.training.experiment import load_model
from utils.training.losses import SeparationLoss

ROOT = Path(__file__).parent.parent
CONF = {
    "model": {"name": "av_dprnn", "n_src": 1, "n_faces": 1, "fit_to_mixture": False, "n_filters": 16, "kernel_size": 32,
              "stride": 16, "bn_chan": 8, "hid_size": 8, "chunk_size": 20, "hop_size": 10, "n_repeats": 2, "visual_chan": 4,
              "visual_hid": 8, "visual_blocks": 1},
    "data": {"segment_sec": 0.4, "epoch_size": 14, "num_workers": 1, "inactive_target_prob": 0.2, "interferer_prob": 0.5,
             "target_only_prob": 0.2, "noise_prob": 0.5, "off_screen_prob": 0.3, "max_shift_frames": 1},
    "loss": {"block_weight": 0.1},
    "training": {"epochs": 2, "batch_size": 4, "audio_examples": 1},
    "optim": {"lr": 0.003},
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The tiny corpus with embeddings of a visual frontend's size, and a folder of noise that is also taken for speech."""
    root = tmp_path_factory.mktemp("corpus")
    made, rng = make_corpus(root, frames=20), np.random.default_rng(0)
    soundfile.write(root / "noise.wav", 0.1 * rng.standard_normal(20000), RATE_HZ, subtype="FLOAT")
    (root / "noise").mkdir()
    (root / "noise.wav").rename(root / "noise" / "noise.wav")
    frontend = load_frontend(make_lips(root / "lips.pth"))
    tiny, name = EmbeddingStore(made["store"]), store_name(frontend, "centre", "float16")
    spread = rng.standard_normal((tiny.dim, frontend.dim)).astype(np.float32)
    with EmbeddingWriter(root / "dump" / "embeddings" / name / "tiny") as writer:
        for key in sorted(tiny.keys()):
            writer.add(key, tiny.get(key) @ spread, Source(0, 0, ""))
    sections = {**CONF, "data": CONF["data"] | {"noise_dir": str(root / "noise"), "interferer_dir": str(root / "noise")}}
    (root / "conf.yml").write_text(yaml.safe_dump(sections))
    return {**made, "root": root, "embeddings": root / "dump" / "embeddings" / name / "tiny"}


def stage_3(corpus, exp_dir: Path, launcher: list[str], train_args: str) -> dict:
    words = ["-m", "utils.stages.train", "--conf", corpus["root"] / "conf.yml", "--data_dir", corpus["root"] / "data"]
    words += ["--exp_dir", exp_dir, "--frontend_weights", corpus["root"] / "lips.pth", "--dump_dir", corpus["root"] / "dump"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, *launcher, *map(str, words), "--train_args", train_args]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load((exp_dir / "training.json").read_text())


@pytest.fixture(scope="module")
def single(corpus, tmp_path_factory):
    exp_dir = tmp_path_factory.mktemp("single")
    assert stage_3(corpus, exp_dir, [], "")["world_size"] == 1
    return exp_dir


def curve(exp_dir: Path) -> np.ndarray:
    with open(exp_dir / "history.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    return np.array([[float(row[name]) for name in ("steps", "loss", "val_loss", "val_si_snri")] for row in rows])


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.mark.parametrize("launcher", [[], TORCHRUN], ids=["lightning", "torchrun"])
def test_two_processes_with_faces_train_as_one_with_larger_batches(corpus, single, tmp_path, launcher):
    summary = stage_3(corpus, tmp_path / "two", launcher, "--devices 2 --strategy ddp --batch_size 2")
    assert summary["world_size"] == 2 and summary["mixtures_seen"] == 2 * 12  # 14 mixtures are three whole steps of four
    np.testing.assert_allclose(curve(tmp_path / "two"), curve(single), atol=0.01)
    ours, theirs = (torch.load(d / "best_model.pth", weights_only=True)["state_dict"] for d in (tmp_path / "two", single))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=2e-3)
    # Five mixtures for two processes: none is left out, none counts twice.
    assert curve(tmp_path / "two")[:, 2].min() == pytest.approx(validated(corpus, tmp_path / "two"), abs=2e-3)


def validated(corpus, exp_dir: Path) -> float:
    """The validation loss of an experiment's best network, each of the five mixtures counted once."""
    network, loss = load_model(exp_dir / "best_model.pth"), SeparationLoss("snr")
    dataset = MixtureDataset(corpus["val"], [EmbeddingStore(corpus["embeddings"])], 0.4)
    losses = []
    for index in range(5):
        example = {name: tensor[None] for name, tensor in dataset[0, index].items()}
        with torch.no_grad():
            estimates = network(example["mixture"], example["visual"])
        without_visual = torch.zeros(estimates.shape[:2], dtype=torch.bool)
        losses.append(loss(estimates, example["sources"], example["mixture"], without_visual)[0].item())
    assert len(dataset) == 5
    return float(np.mean(losses))
