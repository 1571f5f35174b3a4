"""Confs: every conf of the repository is right, and whatever is wrong is named with its remedy."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from local_models.configs import NETWORK_CONFIGS, AVDPRNNConfig, AVTFDPRNNConfig, Range, parse_bands
from local_models.networks import NETWORKS, build_network
from utils.errors import UserError
from utils.training.config import DataConfig, LossConfig, OptimConfig, TrainingConfig, read_config, write_config

ROOT = Path(__file__).parent.parent
CONFS = sorted((ROOT / "conf").glob("*.yml"))
BASELINES = [path.stem for path in CONFS if path.stem.endswith("_audio_only")]


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.stem)
def test_every_conf_of_the_repository_builds_its_network(path):
    config = read_config(path)
    if config.is_voice_to_mouth:
        assert build_network(config.with_visual_dim(7).model)(torch.randn(1, 3200)).shape == (1, 5, 7)
        return
    network = build_network(config.with_visual_dim(7, 3 if config.model.cues == "lips+face" else 0).model)
    assert network.config.n_src == config.model.n_src
    assert (network.visual_net is None) == (config.model.n_faces == 0)
    if network.visual_net is not None:
        n_past = getattr(network.visual_net, "n_past", 0)  # frames that a causal one needs before the first
        features = network.visual_net.eval()(torch.randn(1, 2, 9 + n_past, 7))
        assert (features.shape[:2], features.shape[3]) == ((1, 2), 9)


def test_confs_and_networks_have_the_same_names():
    assert {name: network.config_type for name, network in NETWORKS.items()} == NETWORK_CONFIGS


@pytest.mark.parametrize("name", BASELINES)
def test_an_audio_only_baseline_differs_from_its_model_only_by_the_faces(name):
    ours, theirs = (read_config(ROOT / f"conf/{stem}.yml").to_dict() for stem in (name, name.removesuffix("_audio_only")))
    assert (ours["model"].pop("n_faces"), theirs["model"].pop("n_faces")) == (0, 2)
    for key in ("extra_speaker_prob", "off_screen_prob"):  # there is no such mixture without faces
        assert ours["data"].pop(key) == 0
        theirs["data"].pop(key)
    assert ours == theirs


def test_there_is_an_audio_only_baseline_of_every_separation_network():
    # The three steps for unseen people: the first is itself a network that sees no face, and the baseline of the others.
    steps = {"av_tfdprnn_pretrain", "av_tfdprnn_longer", "av_tfdprnn_match"}
    configs = {path.stem: read_config(path) for path in CONFS}
    separation = {name for name, each in configs.items() if not (each.is_extraction or each.is_voice_to_mouth)}
    separation -= set(BASELINES) | steps
    assert {f"{name}_audio_only" for name in separation} == set(BASELINES)


@pytest.mark.parametrize("module", ["utils.training.config", "local_models.configs"])
def test_reading_a_conf_needs_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_conf_takes_over_what_its_base_says_and_does_not_say_itself(tmp_path):
    (tmp_path / "a.yml").write_text("model: {name: av_dprnn, chunk_size: 20, hop_size: 10}\noptim: {lr: 0.5}\n")
    (tmp_path / "b.yml").write_text("base: a.yml\nmodel: {hop_size: 20, fit_to_mixture: false}\n")
    (tmp_path / "c.yml").write_text("base: b.yml\noptim: {lr: 0.25}\n")
    config = read_config(tmp_path / "c.yml")
    assert config.model == AVDPRNNConfig(chunk_size=20, hop_size=20, fit_to_mixture=False) and config.optim.lr == 0.25


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


EXTRACTION = "model: {n_src: 1, n_faces: 1}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # files, sections and keys
        ("a: [", "not valid YAML"),
        ("- 1", "sections of keys"),
        ("data: 7", "holds no keys"),
        ("modl: {bn_chan: 3}", "unknown section 'modl'; did you mean 'model'"),
        ("optim: {leraning_rate: 1.0}", "unknown key 'optim.leraning_rate'; known: lr, optimizer, plateau_factor"),
        ("optim: {epochs: 3}", "belongs in section 'training'"),
        ("model: {bn_chn: 3}", "did you mean 'bn_chan'"),
        ("model: {chunk_size: 10}", "unknown key 'model.chunk_size' of this network; it is one of av_dprnn"),
        ("model: {name: av_dprn}", "model.name is 'av_dprn'; did you mean 'av_dprnn'"),
        ("model: {name: [a]}", "model.name is"),
        # values of one key, by their kinds
        ("optim: {lr: fast}", "optim.lr is 'fast'; it must be a number"),
        ("optim: {lr: 0.0}", "optim.lr is 0.0; it must be above 0"),
        ("optim: {lr: .nan}", "optim.lr is 'nan'; it must be above 0"),
        ("optim: {weight_decay: -1.0}", "optim.weight_decay is -1.0; it must be 0 or more"),
        ("optim: {plateau_factor: 0.0}", "optim.plateau_factor is 0.0; it must be from 0 to 1"),
        ("optim: {plateau_factor: 1.5}", "it must be from 0 to 1"),
        ("training: {max_minutes: -1}", "training.max_minutes is -1.0; it must be 0 or more"),
        ("training: {gradient_clipping: .inf}", "training.gradient_clipping is 'inf'; it must be 0 or more"),
        ("training: {epochs: 0}", "training.epochs is 0; it must be 1 or more"),
        ("training: {seed: -1}", "training.seed is -1; it must be from 0 to 1e+09"),
        ("training: {precision: 8}", "training.precision is '8'; it must be one of: 32, bf16, 16"),
        ("training: {devices: true}", "training.devices is True; it must be a text"),
        ("data: {dynamic: 1}", "data.dynamic is 1; it must be true or false"),
        ("data: {noise_snr_low_db: .inf}", "data.noise_snr_low_db is 'inf'; it must be a finite number"),
        ("data: {segment_sec: 0}", "data.segment_sec is 0.0; it must be above 0"),
        ("data: {max_speed_change: 0.9}", "data.max_speed_change is 0.9; it must be from 0 to 0.5"),
        ("data: {same_speaker_prob: 1.5}", "data.same_speaker_prob is 1.5; it must be from 0 to 1"),
        ("model: {bn_chan: 2.5}", "model.bn_chan is 2.5; it must be a whole number"),
        ("model: {bn_chan: true}", "it must be a whole number"),
        ("model: {bn_chan: -16}", "it must be 1 or more"),
        ("model: {norm_type: cgLN}", "model.norm_type is 'cgLN'; it must be one of: gLN, cLN"),
        ("model: {bands: [8x4]}", "it must be a text"),
        # values of a section together
        ("model: {n_src: 1, n_faces: 0}", "model.n_src is 1 with n_faces 0: nothing tells which voice is wanted"),
        ("model: {n_src: 2, n_faces: 1}", "model.n_faces is 1 with n_src 2; it is n_src"),
        ("model: {kernel_size: 20, stride: 8}", "model.kernel_size (20) must be a multiple of stride (8)"),
        ("model: {n_filters: 256}", "model.n_filters (256) of an STFT must be even and not below kernel_size (512)"),
        ("model: {n_filters: 513}", "model.n_filters (513) of an STFT must be even"),
        ("model: {n_repeats: 2, n_audio_repeats: 2}", "model.n_audio_repeats (2) must be below n_repeats (2)"),
        ("model: {name: av_convtasnet, n_repeats: 1}", "model.n_audio_repeats (1) must be below n_repeats (1)"),
        ("model: {grid_stride: 3}", "model.grid_stride is 3; 1 or an even number"),
        ("model: {attention_heads: 5}", "model.attention_heads (5) must divide bn_chan (48)"),
        ("model: {bands: 8x7}", "bins even"),
        ("model: {bands: 16by16}", "a list such as '8x4"),
        ("model: {bands: 8x16}", "model.bands '8x16' covers 128 bins where the spectrum has 257; make it 256"),
        ("model: {name: av_dprnn, chunk_size: 10, hop_size: 20}", "chunk_size (10) must be a multiple of hop_size (20)"),
        ("model: {name: av_dprnn, chunk_size: 10, hop_size: 4}", "chunk_size (10) must be a multiple of hop_size (4)"),
        ("data: {dynamic: false, same_speaker_prob: 0.5}", "data.same_speaker_prob needs data.dynamic true"),
        ("data: {dynamic: false, max_speed_change: 0.1}", "data.max_speed_change needs data.dynamic true"),
        ("data: {dynamic: false, extra_speaker_prob: 0.1}", "data.extra_speaker_prob needs data.dynamic true"),
        ("data: {dynamic: false, off_screen_prob: 0.1}", "data.off_screen_prob needs data.dynamic true"),
        ("data: {dynamic: false, interferer_prob: 0.1}", "data.interferer_prob needs data.dynamic true"),
        ("data: {dynamic: false, target_only_prob: 0.1}", "data.target_only_prob needs data.dynamic true"),
        ("data: {dynamic: false, inactive_target_prob: 0.5}", "data.inactive_target_prob needs data.dynamic true"),
        ("data: {dynamic: false, noise_prob: 0.1}", "data.noise_prob needs data.dynamic true"),
        ("data: {dynamic: false, rir_prob: 0.1}", "data.rir_prob needs data.dynamic true"),
        ("data: {noise_prob: 0.5}", "data.noise_prob needs data.noise_dir"),
        ("data: {noise_source_prob: 0.5}", "data.noise_source_prob needs data.noise_dir"),
        ("data: {dynamic: false, join_clips: true}", "data.join_clips needs data.dynamic true"),
        ("data: {rir_prob: 0.5}", "data.rir_prob needs data.rir_dir"),
        ("data: {interferer_prob: 0.5, off_screen_prob: 0.5}", "data.interferer_prob needs data.interferer_dir"),
        ("data: {target_only_prob: 0.1}", "data.target_only_prob needs data.noise_prob and data.noise_dir"),
        ("data: {noise_snr_low_db: 5, noise_snr_high_db: -5}", "data.noise_snr_low_db is above data.noise_snr_high_db"),
        # sections together
        ("loss: {signal_loss: si_snr}", "si_snr leaves level to chance"),
        ("loss: {block_weight: 0.1}", "loss.block_weight needs masks after each block, which only av_dprnn has"),
        ("data: {target_only_prob: 0.1, noise_prob: 0.1, noise_dir: d}", "data.target_only_prob is for extraction"),
        ("data: {interferer_prob: 0.5, interferer_dir: d}", "set data.off_screen_prob above 0"),
        (
            f"{EXTRACTION}data: {{interferer_prob: 1.0, interferer_dir: d, same_speaker_prob: 0.1}}",
            "data.same_speaker_prob needs two sources of the corpus",
        ),
        ("model: {n_faces: 0}\ndata: {extra_speaker_prob: 0.5}", "data.extra_speaker_prob needs a network for several faces"),
        (f"{EXTRACTION}data: {{extra_speaker_prob: 0.5}}", "data.extra_speaker_prob needs a network for several faces"),
        ("data: {extra_speaker_prob: 0.5}\ntraining: {overfit_batch: true}", "training.overfit_batch repeats one batch"),
        ("model: {n_faces: 0}\ndata: {off_screen_prob: 0.5}", "data.off_screen_prob needs faces"),
        (
            "model: {fit_to_mixture: true}\ndata: {inactive_target_prob: 0.5}",
            "model.fit_to_mixture makes every estimate loud; set it to false, or data.inactive_target_prob to 0",
        ),
        (f"{EXTRACTION}data: {{missing_face_prob: 0.5}}", "leave the target open (model.n_faces 1)"),
        (f"{EXTRACTION}data: {{no_visual_prob: 0.5}}", "leave the target open (model.n_faces 1)"),
        ("loss: {block_weight: 0.1, signal_loss: si_snr}", "si_snr leaves .*; .*block_weight needs"),
    ],
)
def test_a_wrong_conf_is_named(tmp_path, text, said):
    with pytest.raises(UserError, match=re.sub(r"([()+])", r"\\\1", said)) as caught:
        read_config(write(tmp_path, text))
    assert "c.yml: " in str(caught.value) and "\n" not in str(caught.value)


def test_the_same_mistakes_are_refused_where_a_network_or_a_section_is_made():
    with pytest.raises(ValueError, match="n_repeats is 0; it must be 1 or more"):
        AVTFDPRNNConfig(n_repeats=0)
    with pytest.raises(ValueError, match=r"hop_size \(4\)"):
        AVDPRNNConfig(chunk_size=10, hop_size=4)
    with pytest.raises(ValueError, match="signal_loss is 'sdr'; it must be one of: snr, si_snr"):
        LossConfig(signal_loss="sdr")
    with pytest.raises(ValueError, match="data.noise_prob needs data.noise_dir"):
        replace(DataConfig(), noise_prob=0.5)


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        (Range(0, 1), (0, 0.5, 1), (-0.1, 1.1, float("nan"))),
        (Range(0, above=True), (1e-9, 7, 10**400), (0, -1, float("inf"))),
        (Range(), (-7, 0.0), (float("inf"), -float("inf"), float("nan"))),
    ],
)
def test_ranges_hold_their_ends_and_nothing_endless(limits, inside, outside):
    assert all(value in limits for value in inside) and not any(value in limits for value in outside)


@pytest.mark.parametrize("bands", ["", "8", "8x5", "0x4", "8x4x2", "8x-4"])
def test_a_list_of_bands_that_is_none_is_named(bands):
    with pytest.raises(ValueError, match="a list such as"):
        parse_bands(bands, 33)


def test_a_missing_conf_lists_those_there_are():
    with pytest.raises(UserError, match=r"conf/nope.yml: no such conf; there are: .*av_dprnn.yml"):
        read_config("conf/nope.yml")


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    assert read_config(write(tmp_path, "optim: {lr: 1e-3}")).optim.lr == 1e-3


def test_ends_of_ranges_are_allowed(tmp_path):
    words = "--noise_snr_low_db -5 --noise_snr_high_db -5 --max_speed_change 0.5 --same_speaker_prob 1 --plateau_factor 1"
    config = read_config(write(tmp_path, ""), words.split())
    assert config.data == DataConfig(noise_snr_low_db=-5.0, noise_snr_high_db=-5.0, max_speed_change=0.5, same_speaker_prob=1.0)
    assert config.optim == OptimConfig(plateau_factor=1.0) and config.training == TrainingConfig()


def test_overrides_keep_their_type(tmp_path):
    words = ["--lr", "0.5", "--batch-size=2", "--visual_dropout", "0", "--devices", "2", "--precision", "16"]
    words += ["--noise_dir", "007", "--rir_dir", "no", "--dynamic", "TRUE"]
    config = read_config(write(tmp_path, "training: {batch_size: 3}"), words)
    assert (config.optim.lr, config.training.batch_size, config.training.devices) == (0.5, 2, "2")
    assert (config.training.precision, config.data.noise_dir, config.data.rir_dir) == ("16", "007", "no")
    assert config.data.dynamic is True
    assert config.model.visual_dropout == 0.0 and type(config.model.visual_dropout) is float


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epoch", "3"], "did you mean 'epochs'"),
        (["--lr"], "has no value"),
        (["lr", "3"], "stray word"),
        (["--batch_size", "__import__('os').getcwd()"], "whole number"),
        (["--batch_size", "0"], "--train_args: --batch_size is 0; it must be 1 or more"),
        (["--dynamic", "yes"], "--dynamic is 'yes'; it must be true or false"),
        (["--epochs", "1:30"], "--epochs is '1:30'; it must be a whole number"),
        (["--noise_snr_low_db", "1e999"], "a finite number"),
        (["--chunk_size", "3"], "unknown key 'chunk_size' of this network; it is one of av_dprnn"),
        (["--noise_prob", "0.5"], "c.yml with --train_args: data.noise_prob needs data.noise_dir"),
    ],
)
def test_wrong_overrides_are_named(tmp_path, words, said):
    with pytest.raises(UserError, match=said):
        read_config(write(tmp_path, ""), words)


@pytest.mark.parametrize("path", CONFS, ids=lambda path: path.stem)
def test_a_written_conf_reads_back_the_same(tmp_path, path):
    config = read_config(path).with_visual_dim(12)
    write_config(tmp_path / "out.yml", config)
    assert read_config(tmp_path / "out.yml") == config


def test_the_published_extraction_network_has_its_size():
    """Encoder 40/20, 5 visual blocks, 6 dual-path blocks: 4.12 M parameters by the published formula, and a gate of ours."""
    config = read_config(ROOT / "conf/tse_dprnn.yml")
    network, model = build_network(config.model), config.model
    assert (model.kernel_size, model.stride, len(network.visual_net.blocks), len(network.masker.net)) == (40, 20, 5, 6)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(4.12, rel=0.05)
    assert config.loss.block_weight == 0.1 and config.is_extraction


def test_another_network_takes_the_keys_of_the_same_conf():
    words = ["--name", "av_tfdprnn_causal", "--kernel_size", "480", "--stride", "160", "--grid_stride", "4"]
    config = read_config("conf/av_tfdprnn_pretrain.yml", words)
    assert config.is_causal and config.model.match_chan == 64 and config.data.no_visual_prob == 1
    with pytest.raises(UserError, match=r"--train_args: model.name is 'av_tfdprn'; did you mean 'av_tfdprnn'"):
        read_config("conf/av_tfdprnn.yml", ["--name", "av_tfdprn"])
