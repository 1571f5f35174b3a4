"""Confs: every conf of the repository is right, and whatever is wrong is named with its remedy."""

import inspect
from pathlib import Path

import pytest

from local_models import build_model
from local_models.avdprnn import AVDPRNNTasNet
from utils.engine.config import MODEL_KEYS, read_conf, write_conf
from utils.errors import UserError

CONFS = sorted((Path(__file__).parent.parent / "conf").glob("*.yml"))


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.stem)
def test_every_conf_of_the_repository_builds_its_network(path):
    conf = read_conf(path)
    network = build_model(conf.with_visual_dim(7).nested)
    assert network.n_src == conf.nested["model"]["n_src"]
    assert network.visual_dim == (7 if conf.n_cues else 0)


def test_defaults_of_the_conf_are_those_of_the_network():
    signature = inspect.signature(AVDPRNNTasNet).parameters
    ours = {key: default for key, (_, default) in MODEL_KEYS.items() if key not in ("name", "hop_size")}
    assert ours == {name: p.default for name, p in signature.items() if name != "hop_size"}


@pytest.mark.parametrize("twin,model", [("dprnn", "avdprnn"), ("demo_audio", "demo"), ("small_audio", "small")])
def test_a_twin_differs_from_its_model_by_the_faces_alone(twin, model):
    ours, theirs = (read_conf(CONFS[0].parent / f"{name}.yml").nested for name in (twin, model))
    for conf in (ours, theirs):
        conf["model"].pop("n_cues"), conf.pop("visual")
    assert ours == theirs


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim: {lr: fast}", "optim.lr is 'fast' where a number"),
        ("optim: {lr: -1.0}", "above zero"),
        ("optim: {lr: .nan}", "above zero"),
        ("optim: {leraning_rate: 1.0}", "unknown key 'optim.leraning_rate'"),
        ("optim: {epochs: 3}", "belongs in section 'training'"),
        ("masknet: {bn_chn: 3}", "did you mean 'bn_chan'"),
        ("masknet: {bn_chan: 2.5}", "a whole number"),
        ("masknet: {bn_chan: true}", "a whole number"),
        ("masknet: {chunk_size: 10, hop_size: 20}", "hop_size is larger"),
        ("masknt: {bn_chan: 3}", "did you mean 'masknet'"),
        ("model: {n_src: 2, n_cues: 1}", "n_cues must be"),
        ("training: {precision: 8}", "one of: 32, bf16, 16"),
        ("data: {dynamic: 1}", "true or false"),
        ("data: {same_speaker: 1.5}", "a share"),
        ("data: 7", "holds no keys"),
        ("- 1", "sections of keys"),
        ("a: [", "not valid YAML"),
        ("filterbank: {kernel_size: 20, stride: 8}", "multiple of filterbank.stride"),
    ],
)
def test_a_wrong_conf_is_named(tmp_path, text, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        read_conf(write(tmp_path, text))


def test_a_missing_conf_lists_those_there_are():
    with pytest.raises(UserError, match=r"conf/nope.yml: no such conf; there are: .*avdprnn.yml"):
        read_conf("conf/nope.yml")


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    assert read_conf(write(tmp_path, "optim: {lr: 1e-3}")).optim.lr == 1e-3


def test_overrides_keep_their_type_and_are_remembered(tmp_path):
    conf = read_conf(write(tmp_path, ""), ["--lr", "0.5", "--batch-size=2", "--visual_dropout", "0", "--devices", "2"])
    assert (conf.optim.lr, conf.training.batch_size, conf.training.devices) == (0.5, 2, "2")
    assert conf.nested["visual"]["visual_dropout"] == 0.0
    assert set(conf.overrides) == {"lr", "batch_size", "visual_dropout", "devices"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epoch", "3"], "did you mean 'epochs'"),
        (["--lr"], "has no value"),
        (["lr", "3"], "stray word"),
        (["--batch_size", "__import__('os').getcwd()"], "whole number"),
        (["--dynamic", "yes"], "true or false"),
    ],
)
def test_wrong_overrides_are_named(tmp_path, words, said):
    with pytest.raises(UserError, match=said):
        read_conf(write(tmp_path, ""), words)


def test_a_written_conf_reads_back_the_same(tmp_path):
    conf = read_conf(CONFS[0]).with_visual_dim(12)
    write_conf(tmp_path / "out.yml", conf)
    assert read_conf(tmp_path / "out.yml").nested == conf.nested
