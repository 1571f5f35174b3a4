"""The two steps of a training for unseen people: pretraining without faces, then faces and whose voice is whose."""

import logging
from pathlib import Path

import pytest
import torch
from test_training import MODEL, config_of, history, run, weights
from tiny_corpus import DIM, make_corpus

from local_models.networks import build_network
from utils.data.manifest import read_manifest
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.training.augmentation import Acoustics
from utils.training.experiment import initialise, save_model, training_inputs
from utils.training.losses import SeparationLoss
from utils.training.separation import AVSystem
from utils.training.trainer import train

STEP_1 = {"data": {"no_visual_prob": 1.0}, "training": {"epochs": 2}}
STEP_2 = {
    "model": {"match_chan": 4, "match_hid": 8},
    "loss": {"order_weight_start": 0.0, "order_weight": 0.0, "match_weight": 1.0},
    "training": {"epochs": 2},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), frames=20)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_a_network_is_pretrained_without_faces_and_goes_on_with_them(corpus, tmp_path: Path, caplog) -> None:
    first = config_of(tmp_path, **STEP_1)
    assert not first.needs_visual
    train(first, tmp_path / "first", corpus["utterances"], corpus["val"], [], [])
    stores = [EmbeddingStore(corpus["store"])]
    second = config_of(tmp_path, **STEP_2)
    with caplog.at_level(logging.INFO):
        init = tmp_path / "first/best_model.pth"
        train(second, tmp_path / "second", corpus["utterances"], corpus["val"], stores, stores, init)
    assert "weights are those of" in caplog.text and "new: matcher" in caplog.text
    assert len(history(tmp_path / "second")) == 2
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "second").values())


def test_validation_is_in_the_best_order_until_the_comparison_is_trained(corpus, tmp_path: Path) -> None:
    sources = torch.randn(4, 2, 6400)
    batch = {"mixture": sources.sum(dim=1), "sources": sources, "visual": torch.randn(4, 2, 10, DIM)}
    losses = {}
    for match_weight in (0.0, 1.0):
        config = config_of(tmp_path, **STEP_2 | {"loss": {"match_weight": match_weight}})
        system = AVSystem(build_network(config.model), config.loss, config.optim, lambda step: 0.0, 0).eval()
        system.network.forward = lambda mixture, visual: sources.flip(1) + 0.1 * torch.randn_like(sources)
        system.network.in_order_of_faces = lambda estimates, visual, mixture: estimates  # a wrong opinion
        with torch.inference_mode():
            system.validation_step(batch, 0)
        losses[match_weight] = float(system.val_loss.compute())
    assert losses[0.0] < -15 < 0 < losses[1.0]


def test_weights_that_fit_are_taken_over_and_others_start_anew(corpus, tmp_path: Path) -> None:
    torch.manual_seed(0)
    audio_only = build_network(config_of(tmp_path, MODEL | {"n_faces": 0}).model)
    save_model(tmp_path / "a.pth", audio_only, {})
    network = build_network(config_of(tmp_path).model)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    initialise(network, tmp_path / "a.pth")
    after, given = network.state_dict(), audio_only.state_dict()
    assert torch.equal(after["masker.net.0.intra_linear.weight"], given["masker.net.0.intra_linear.weight"])
    assert torch.equal(after["visual_net.project.weight"], before["visual_net.project.weight"])
    shapes = [name for name in given if name in after and given[name].shape != after[name].shape]
    assert shapes and all(torch.equal(after[name], before[name]) for name in shapes)  # the masks of two sources in one stream
    other = build_network(config_of(tmp_path, {"name": "av_convtasnet"}).model)
    with pytest.raises(UserError, match="no weight fits this network"):
        initialise(other, tmp_path / "a.pth")


def test_another_start_is_another_training(corpus, tmp_path: Path) -> None:
    config = config_of(tmp_path)
    acoustics = Acoustics(config.data, 16000)
    common = (config, ["store"], corpus["utterances"], corpus["val"], acoustics)
    paths = [tmp_path / "a.pth", tmp_path / "b.pth"]
    for path in paths:
        path.write_text(path.name)
    found = {training_inputs(*common, path)["initial weights"] for path in (None, *paths)}
    assert len(found) == 3 and "" in found


def test_the_loss_goes_from_the_best_order_to_that_of_the_faces() -> None:
    torch.manual_seed(0)
    sources = torch.randn(3, 2, 800)
    mixture, seen = sources.sum(dim=1), torch.zeros(3, 2, dtype=torch.bool)
    estimates = sources.flip(1) + 0.1 * torch.randn(3, 2, 800)
    loss = SeparationLoss("snr")
    best, ordered = loss(estimates, sources, mixture, seen, order_weight=0.0)
    faces, as_given = loss(estimates, sources, mixture, seen)
    torch.testing.assert_close(ordered, estimates.flip(1))
    torch.testing.assert_close(as_given, estimates)
    assert best < -15 < 0 < faces
    between, _ = loss(estimates, sources, mixture, seen, order_weight=0.25)
    torch.testing.assert_close(between, 0.25 * faces + 0.75 * best)


def test_a_conf_that_cannot_tell_voices_is_not_asked_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set model.match_chan"):
        config_of(tmp_path, loss={"match_weight": 1.0})


def test_utterances_without_a_face_need_a_word_and_are_left_to_it(corpus, tmp_path: Path) -> None:
    config = config_of(tmp_path, data={"faceless_prob": 0.5}, training={"epochs": 1})
    with pytest.raises(UserError, match="every utterance has a face"):
        run(corpus, tmp_path / "exp", config)
    assert read_manifest(corpus["utterances"].path).mouth_paths()
