"""Fine-tuning of LR-ASD: it learns whose voice is whose, goes on where it was interrupted, and leaves the rest as it was."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import MODEL, config_of
from tiny_corpus import FPS, RATE_HZ, make_corpus

from local_models.lr_asd import LRASDVisual
from local_models.networks import build_network
from utils.data.audio import read_audio
from utils.data.manifest import read_manifest
from utils.data.mouths import MouthFile, MouthWriter
from utils.embedding.checkpoints import LR_ASD_PREFIX
from utils.embedding.frontends import load_frontend
from utils.errors import UserError
from utils.tools import tune_frontend
from utils.training import frontend_tuning as tuning
from utils.training.experiment import load_model, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Clips whose mouths are bright where the voice is loud, an LR-ASD and a network without training."""
    root = tmp_path_factory.mktemp("tuning")
    made = make_corpus(root, frames=20, n_utterances=9, n_mixtures=9)
    rng = np.random.default_rng(0)
    (root / "mouths").mkdir()
    for item in made["utterances"].items:
        sound = read_audio(root / item.audio_path).reshape(20, RATE_HZ // FPS)
        loud = sound.std(axis=1) > 0.5 * sound.std()
        crops = rng.integers(0, 40, (20, 96, 96)) + 180 * loud[:, None, None]
        np.savez(root / item.mouth_path, data=crops.astype(np.uint8))
    torch.manual_seed(0)
    network = LRASDVisual()
    torch.save({LR_ASD_PREFIX + name: each for name, each in network.state_dict().items()}, root / "lr_asd.pth")
    model = {"n_src": 2, "n_faces": 2, "match_chan": 8, "match_hid": 16}
    save_model(root / "exp/best_model.pth", build_network(config_of(root, MODEL | model).with_visual_dim(128).model), {})
    return root


def words(folder: Path, out: Path, *more: object) -> list[str]:
    fixed = ("--data_dir", folder / "data", "--exp_dir", folder / "exp", "--frontend_weights", folder / "lr_asd.pth")
    small = ("--out_dir", out, "--segment_sec", 0.6, "--batch_size", 4, "--epoch_size", 8, "--num_workers", 0, "--id", "cpu")
    return [str(word) for word in ("tune_frontend", *fixed, *small, *more)]


def test_pictures_and_landmarks_of_an_example_are_moved_alike_and_compared_together(
    folder: Path, tmp_path: Path, monkeypatch
) -> None:
    """A corpus part of which has landmarks: an example has shapes there, zeros elsewhere, and a network for both is tuned."""
    data = tmp_path / "corpus"
    shutil.copytree(folder, data)
    manifest = replace(read_manifest(folder / "data/utterances.csv"), data_root=data)
    for index, item in enumerate(manifest.items):
        crops = MouthFile(data / item.mouth_path).all()
        with MouthWriter(data / item.mouth_path, len(crops)) as writer:
            if index % 2:
                writer.extra["points"] = np.random.default_rng(index).uniform(-40, 40, (len(crops), 68, 2))
            for crop in crops:
                writer.add(crop, True)
    frontend = load_frontend(folder / "lr_asd.pth")
    pairs = tuning.VoicePairs(manifest, frontend, segment_sec=0.6, fps=float(FPS), size=8, seed=0)
    examples = [pairs[0, index] for index in range(8)]
    assert {bool(each.any()) for example in examples for each in example["shapes"]} == {True, False}
    assert all(torch.equal(pairs[0, index]["shapes"], examples[index]["shapes"]) for index in range(8))
    model = {"n_src": 2, "n_faces": 2, "match_chan": 8, "match_hid": 16, "cues": "lips+shape"}
    network = build_network(config_of(tmp_path, MODEL | model).with_visual_dim(168, shape_dim=40).model)
    batch = {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
    tuning.matching_loss(frontend.network, network.matcher.train(), batch).backward()
    assert network.matcher.shape_in[0].weight.grad.abs().sum() > 0
    shares = tune_frontend.shares_told(
        frontend, network.matcher.eval(), replace(read_manifest(folder / "data/val.csv"), data_root=data)
    )
    assert 0 <= shares[0] <= 1


def test_it_is_learned_whose_voice_is_whose(folder: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(tune_frontend, "_N_PAIRS", 100)
    monkeypatch.setattr(sys, "argv", words(folder, tmp_path, "--epochs", 12, "--lr", 1e-3))
    assert tune_frontend.main() == 0
    rows = [line.strip("|").split("|") for line in capfd.readouterr().out.splitlines() if "val" in line]
    before, after = (float(row[1].strip(" %")) for row in rows)
    assert after > max(before + 10, 80)
    old, new = load_frontend(folder / "lr_asd.pth").network, load_frontend(tmp_path / "frontend.pth").network
    changed = {name for name, each in new.state_dict().items() if not torch.allclose(each, old.state_dict()[name], atol=2e-3)}
    assert changed and all(name.startswith("block3.") and "running" not in name for name in changed)
    given, made = (load_model(path / "best_model.pth").state_dict() for path in (folder / "exp", tmp_path))
    changed = {name for name, each in made.items() if not torch.equal(each, given[name])}
    assert changed and all(name.startswith("matcher.") for name in changed)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        ".done.json",
        "best_model.pth",
        "frontend.pth",
    ]
    monkeypatch.setattr(tune_frontend, "tune", lambda *_, **__: pytest.fail("tuned again"))
    assert tune_frontend.main() == 0


def test_an_interrupted_tuning_ends_as_one_that_was_not(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tune_frontend, "_N_PAIRS", 2)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    monkeypatch.setattr(sys, "argv", words(folder, straight, "--epochs", 3))
    assert tune_frontend.main() == 0
    monkeypatch.setattr(sys, "argv", words(folder, broken, "--epochs", 3))
    examples = tuning.VoicePairs.__getitem__

    def interrupted(self, key):
        if key[0] == 2:
            raise KeyboardInterrupt
        return examples(self, key)

    monkeypatch.setattr(tuning.VoicePairs, "__getitem__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune_frontend.main()
    epochs = []

    def noted(self, key):
        epochs.append(key[0])
        return examples(self, key)

    monkeypatch.setattr(tuning.VoicePairs, "__getitem__", noted)
    assert tune_frontend.main() == 0
    assert set(epochs) == {2}
    for name in ("frontend.pth", "best_model.pth"):
        both = [torch.load(path / name, weights_only=True) for path in (straight, broken)]
        states = [each.get("state_dict", each) for each in both]
        for key, each in states[0].items():
            torch.testing.assert_close(each, states[1][key], msg=key)


def test_what_cannot_be_tuned_is_refused(folder: Path, tmp_path: Path, monkeypatch) -> None:
    save_model(tmp_path / "exp/best_model.pth", build_network(config_of(tmp_path).with_visual_dim(128).model), {})
    monkeypatch.setattr(sys, "argv", words(folder, tmp_path, "--exp_dir", tmp_path / "exp"))
    with pytest.raises(UserError, match="compares no faces with voices"):
        tune_frontend.main()
    monkeypatch.setattr(sys, "argv", words(folder, tmp_path, "--batch_size", 9))
    with pytest.raises(UserError, match="below --batch_size"):
        tune_frontend.main()
    monkeypatch.setattr(sys, "argv", words(folder, tmp_path, "--segment_sec", 0.2))
    with pytest.raises(UserError, match="raise it"):
        tune_frontend.main()
