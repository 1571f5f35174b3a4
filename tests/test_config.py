"""Confs: every conf of the repository is right, and whatever is wrong is named with its remedy."""

import inspect
from pathlib import Path

import pytest

from local_models import MODELS
from utils.engine.model_keys import MODEL_KEYS
from utils.errors import UserError
from utils.training.config import read_config, write_config

CONFS = sorted((Path(__file__).parent.parent / "conf").glob("*.yml"))


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.stem)
def test_every_conf_of_the_repository_builds_its_network(path):
    conf = read_config(path)
    network = build_network(conf.with_visual_dim(7).nested)
    assert network.n_src == conf.nested["model"]["n_src"]
    assert network.visual_dim == (7 if conf.n_cues else 0)


@pytest.mark.parametrize("name", MODELS)
def test_defaults_of_the_conf_are_those_of_the_network(name):
    signature = inspect.signature(MODELS[name]).parameters
    ours = {key: default for key, (_, default) in MODEL_KEYS[name].items() if key != "hop_size"}
    assert ours == {key: p.default for key, p in signature.items() if key != "hop_size"}


TWINS = {"dprnn": "avdprnn", "dprnn_time": "avdprnn_time", "dprnn_chunks": "avdprnn_chunks", "convtasnet": "avconvtasnet"}


@pytest.mark.parametrize("twin", TWINS)
def test_a_twin_differs_from_its_model_by_the_faces_alone(twin):
    ours, theirs = (read_config(CONFS[0].parent / f"{name}.yml").nested for name in (twin, TWINS[twin]))
    assert (ours["model"].pop("n_cues"), theirs["model"].pop("n_cues")) == (0, 2)
    for key in ("three_voices", "off_screen"):  # there is no such mixture without faces
        assert ours["data"].pop(key) == 0
        theirs["data"].pop(key)
    assert ours == theirs


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.stem)
def test_the_demo_can_train_every_conf_with_its_own_budget(path):
    words = (path.parent.parent / "egs/demo/train_args").read_text().split()
    if read_config(path).data.task == "extraction":  # whose face must not be missing
        words += ["--missing_face_prob", "0", "--no_visual_prob", "0"]
    assert read_config(path, words).training.epochs == int(words[words.index("--epochs") + 1])


def test_a_conf_takes_over_what_its_base_says_and_does_not_say_itself(tmp_path):
    (tmp_path / "a.yml").write_text("model: {name: avdprnn}\nmasknet: {chunk_size: 20, hop_size: 10}\noptim: {lr: 0.5}\n")
    (tmp_path / "b.yml").write_text("base: a.yml\nmasknet: {hop_size: 20}\n")
    (tmp_path / "c.yml").write_text("base: b.yml\noptim: {lr: 0.25}\n")
    conf = read_config(tmp_path / "c.yml")
    assert conf.nested["model"]["name"] == "avdprnn" and conf.optim.lr == 0.25
    assert (conf.nested["masknet"]["chunk_size"], conf.nested["masknet"]["hop_size"]) == (20, 20)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("base: a.yml", "c.yml: based on itself"),
        ("base: none.yml", r"none.yml: no such conf \(base of .*c.yml\)"),
        ("base: 3", "base is 3 where"),
    ],
)
def test_a_base_that_is_none_is_named(tmp_path, base, said):
    (tmp_path / "a.yml").write_text("base: c.yml")
    (tmp_path / "c.yml").write_text(base)
    with pytest.raises(UserError, match=said):
        read_config(tmp_path / "c.yml")


def test_what_is_wrong_in_a_base_is_named_with_its_own_file(tmp_path):
    (tmp_path / "a.yml").write_text("optim: {rl: 1.0}")
    (tmp_path / "c.yml").write_text("base: a.yml")
    with pytest.raises(UserError, match=r"a.yml: unknown key 'optim.rl'"):
        read_config(tmp_path / "c.yml")


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
        ("model: {name: avdprnn}\nmasknet: {chunk_size: 10, hop_size: 20}", "hop_size is larger"),
        ("model: {name: avdprnn}\nmasknet: {chunk_size: 10, hop_size: 4}", "a multiple of masknet.hop_size"),
        ("masknet: {chunk_size: 10}", "unknown key 'masknet.chunk_size' of network avtfdprnn; it is one of avdprnn"),
        ("model: {name: avdprn}", "model.name is 'avdprn'; did you mean 'avdprnn'"),
        ("model: {name: [a]}", "model.name is"),
        ("masknet: {n_repeats: 2, n_audio_repeats: 2}", "n_audio_repeats must be below"),
        ("masknet: {bands: 8x7}", "bins even"),
        ("masknet: {bands: 16by16}", "a list such as '8x4"),
        ("masknet: {bands: 8x16}", "covers 128 bins where filterbank.n_filters makes 257; make it 256"),
        ("masknet: {grid_stride: 3}", "grid_stride must be 1 or even"),
        ("masknet: {bn_chan: -16}", "above zero"),
        ("masknet: {fusion: fim}", "one of: film, concat"),
        ("filterbank: {n_filters: 256}", "n_filters >= filterbank.kernel_size"),
        ("loss: {signal_loss: si_snr}", "si_snr leaves level to chance"),
        ("masknet: {norm_type: cgLN}", "cgLN is for avconvtasnet alone"),
        ("data: {speed: 0.9}", "at most 0.5"),
        ("data: {task: extraction}", "extraction needs model.n_src 1 and model.n_cues 1"),
        ("data: {task: extract}", "one of: separation, extraction"),
        ("data: {lone_voice: 0.1, noise_share: 0.1, noise_dir: d}", "lone_voice is for data.task extraction"),
        ("model: {n_src: 1, n_cues: 1}\ndata: {task: extraction, lone_voice: 0.1}", "lone_voice needs data.noise_share"),
        ("data: {interferer_share: 0.5, off_screen: 0.5}", "interferer_share needs data.interferer_dir"),
        ("data: {interferer_share: 0.5, interferer_dir: d}", "set data.off_screen_prob above 0"),
        (
            "model: {n_src: 1, n_cues: 1}\ndata: {interferer_share: 1.0, interferer_dir: d, same_speaker: 0.1}",
            "same_speaker needs a second voice of the corpus",
        ),
        ("loss: {block_weight: 0.1}", "which avdprnn alone has"),
        ("data: {dynamic: false, same_speaker: 0.5, off_screen: 0.1}", "same_speaker needs .*off_screen needs"),
        ("loss: {stft_wieght: 0.1}", "did you mean 'stft_weight'"),
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
        read_config(write(tmp_path, text))


def test_a_missing_conf_lists_those_there_are():
    with pytest.raises(UserError, match=r"conf/nope.yml: no such conf; there are: .*avdprnn.yml"):
        read_config("conf/nope.yml")


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    assert read_config(write(tmp_path, "optim: {lr: 1e-3}")).optim.lr == 1e-3


def test_overrides_keep_their_type_and_are_remembered(tmp_path):
    conf = read_config(write(tmp_path, ""), ["--lr", "0.5", "--batch-size=2", "--visual_dropout", "0", "--devices", "2"])
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
        (["--name", "avdprnn"], "choose another --conf"),
        (["--chunk_size", "3"], "unknown key 'chunk_size' of network avtfdprnn; it is one of avdprnn"),
    ],
)
def test_wrong_overrides_are_named(tmp_path, words, said):
    with pytest.raises(UserError, match=said):
        read_config(write(tmp_path, ""), words)


def test_a_written_conf_reads_back_the_same(tmp_path):
    conf = read_config(CONFS[0]).with_visual_dim(12)
    write_config(tmp_path / "out.yml", conf)
    assert read_config(tmp_path / "out.yml").nested == conf.nested


def test_the_published_extraction_network_has_its_size():
    """Encoder 40/20, 5 visual blocks, 6 dual-path blocks: 4.12 M parameters by the published formula, and a gate of ours."""
    conf = read_config(CONFS[0].parent / "tse_avdprnn.yml")
    network = build_network(conf.model)
    assert (network.kernel_size, network.stride, len(network.visual_net.blocks), len(network.masker.net)) == (40, 20, 5, 6)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(4.12, rel=0.05)
    assert conf.loss.block_weight == 0.1 and conf.data.task == "extraction"
