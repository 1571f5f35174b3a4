"""MACs against two independent counters and closed forms; the measuring program on a tiny conf."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from local_models.networks import build_network
from utils.data.files import read_json
from utils.errors import UserError
from utils.tools import complexity
from utils.tools.complexity import median_seconds
from utils.tools.macs import MacCounter, count_macs
from utils.training.config import read_config, write_config

TINY = "--bn_chan 8 --hid_size 6 --n_repeats 2 --n_audio_repeats 1 --visual_chan 8 --visual_hid 12"


def tiny_conf(*more: str):
    return read_config("conf/av_tfdprnn.yml", [*TINY.split(), "--visual_dim", "5", "--visual_blocks", "1", *more])


def torch_macs(network: nn.Module, *inputs) -> int:
    """torch's own counter, which works below the level of modules; it sees LSTMs on the meta device only."""
    inputs = [None if tensor is None else tensor.to("meta") for tensor in inputs]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.to("meta")(*inputs)
    return counter.get_total_flops() // 2


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv1d(6, 8, 5, stride=2, groups=2), (3, 6, 25), 3 * 8 * 11 * 3 * 5),
        (nn.Conv2d(3, 4, (3, 5)), (2, 3, 10, 12), 2 * 4 * 8 * 8 * 3 * 15),
        (nn.Conv3d(1, 2, 3, padding=1), (1, 1, 4, 5, 6), 2 * 4 * 5 * 6 * 27),
        (nn.ConvTranspose1d(6, 4, 5, stride=2, groups=2), (3, 6, 25), 3 * 6 * 25 * 2 * 5),
        (nn.ConvTranspose2d(2, 3, 3), (1, 2, 4, 4), 2 * 16 * 3 * 9),
        (nn.Linear(7, 5), (2, 3, 7), 2 * 3 * 7 * 5),
        (nn.LSTM(7, 5, batch_first=True), (2, 11, 7), 2 * 11 * 4 * 5 * (7 + 5)),
        (nn.LSTM(7, 5, bidirectional=True), (11, 2, 7), 2 * 11 * 2 * 4 * 5 * (7 + 5)),
        (nn.LSTM(7, 5, num_layers=2, bidirectional=True), (11, 2, 7), 22 * 2 * 4 * 5 * ((7 + 5) + (10 + 5))),
        (nn.LSTM(7, 5, proj_size=3), (11, 2, 7), 22 * (4 * 5 * (7 + 3) + 5 * 3)),
        (nn.GRU(7, 5), (11, 2, 7), 22 * 3 * 5 * (7 + 5)),
        (nn.BatchNorm1d(6), (3, 6, 25), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_macs_of_a_layer_are_those_of_its_closed_form_and_of_torch(layer, shape, expected):
    signal = torch.rand(shape)
    assert count_macs(layer, signal) == expected
    if not isinstance(layer, nn.GRU | nn.BatchNorm1d):
        assert torch_macs(layer, signal) == expected


def test_products_and_attention_are_counted_and_hidden_products_refused():
    left, right = torch.rand(2, 3, 4), torch.rand(2, 4, 5)
    for product in (lambda: left @ right, lambda: torch.bmm(left, right), lambda: left.matmul(right)):
        with MacCounter() as counter:
            product()
        assert counter.macs == 2 * 3 * 4 * 5
    query, key = torch.rand(2, 1, 6, 4), torch.rand(2, 1, 7, 4)
    with MacCounter() as counter:
        nn.functional.scaled_dot_product_attention(query, key, torch.rand(2, 1, 7, 3))
    assert counter.macs == 2 * 6 * 7 * (4 + 3)
    with pytest.raises(NotImplementedError, match="einsum"), MacCounter():
        torch.einsum("bij,bjk->bik", left, right)


@pytest.mark.parametrize(
    ("conf", "more"),
    [
        ("avdprnn", []),
        ("avdprnn", ["--fusion", "concat", "--mask", "real", "--share_repeats", "true", "--grid_stride", "1"]),
        ("dprnn", []),
        ("avdprnn_time", ["--fb_name", "stft", "--n_filters", "40", "--fuse_every_block", "true"]),
        ("avdprnn_time", ["--n_filters", "16"]),
    ],
)
def test_macs_of_the_networks_equal_those_of_torch(conf, more):
    sizes = TINY.replace("--n_audio_repeats 1", "") if conf == "avdprnn_time" else TINY
    conf = read_config(f"conf/{conf}.yml", [*sizes.split(), "--visual_dim", "5", *more])
    network = build_network(conf.model).eval()
    inputs = torch.rand(1, 4000), torch.rand(1, 2, 7, 5) if conf.n_cues else None
    counted = count_macs(network, *inputs)
    assert counted > 0
    assert counted == torch_macs(network, *inputs)


def test_macs_of_the_network_agree_with_ptflops_but_for_biases_and_activations():
    ptflops = pytest.importorskip("ptflops")
    sizes = "--n_filters 16 --bn_chan 32 --hid_size 32 --chunk_size 40 --hop_size 20 --n_repeats 2"
    network = build_network(read_config("conf/av_dprnn_audio_only.yml", sizes.split()).nested).eval()
    counted = count_macs(network, torch.rand(1, 8000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, _ = ptflops.get_model_complexity_info(
            network, (8000,), as_strings=False, print_per_layer_stat=False, backend="pytorch", verbose=False
        )
    assert counted == pytest.approx(theirs, rel=0.05)


def test_the_lip_network_is_counted_although_it_computes_by_functions():
    from local_models.lipreading import Lipreading

    network = Lipreading(read_json("conf/lipreading/demo_snv05x.json")).eval()
    clips = torch.rand(1, 3, 88, 88)
    assert count_macs(network, clips) == torch_macs(network, clips)


def test_the_program_measures_a_conf_with_and_without_lips(tmp_path, monkeypatch, capsys):
    from local_models.lipreading import Lipreading

    lips = Lipreading(read_json("conf/lipreading/demo_snv05x.json"))
    torch.save({"model_state_dict": lips.state_dict(), "config": "demo_snv05x"}, tmp_path / "lips.pth.tar")
    write_config(tmp_path / "tiny.yml", tiny_conf())
    command = ["--conf", tmp_path / "tiny.yml", "--json", tmp_path / "out.json", "--threads", "1", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["complexity", *map(str, command), "--frontend_weights", str(tmp_path / "lips.pth.tar")])
    probes = []
    monkeypatch.setattr(complexity, "run_probe", lambda probe: probes.append(probe) or 1000 + len(probes))
    assert complexity.main() == 0
    numbers = json.loads((tmp_path / "out.json").read_text())
    network = build_network(tiny_conf("--visual_dim", "1024").nested)
    expected = sum(parameter.numel() for parameter in network.parameters())
    assert (numbers["n_src"], numbers["params"]) == (2, expected)
    assert numbers["macs_per_audio_second"] == count_macs(network, torch.rand(1, 32000), torch.rand(1, 2, 50, 1024)) // 2
    assert numbers["disk_bytes"] > 4 * expected
    assert (numbers["peak_memory_bytes"], numbers["train_peak_memory_bytes"]) == (1001, 1002)
    assert ["--frontend_weights" in probe for probe in probes] == [False, False, True, True]
    assert numbers["inference_seconds_per_2s_mixture"] > 0 and numbers["train_step_seconds"] > 0
    assert numbers["real_time_factor"] == numbers["inference_seconds_per_2s_mixture"] / 2
    with_lips = numbers["with_lip_network"]
    assert with_lips["params"] == expected + sum(parameter.numel() for parameter in lips.parameters())
    assert with_lips["macs_per_audio_second"] > numbers["macs_per_audio_second"]
    assert with_lips["disk_bytes"] == numbers["disk_bytes"] + (tmp_path / "lips.pth.tar").stat().st_size
    table = capsys.readouterr().out
    assert "| Parameters (M) |" in table
    assert "tiny with lip network" in table


def test_memory_is_that_of_weights_and_of_the_largest_tensors(tmp_path, repo_root):
    conf = tiny_conf("--bn_chan", "64")
    write_config(tmp_path / "tiny.yml", conf)
    command = [sys.executable, "-m", "utils.tools.complexity", "--conf", str(tmp_path / "tiny.yml"), "--probe", "training"]
    done = subprocess.run([*command, "--threads", "1"], cwd=repo_root, capture_output=True, text=True, check=True)
    weights = 4 * sum(parameter.numel() for parameter in build_network(conf.model).parameters())
    chunks = 4 * 2 * 64 * 3200  # bytes of the chunks (overlapping by half) of 1600 frames for two faces
    kept_for_the_gradient = 2 * 2 * 3 * chunks  # blocks, paths, and at least input, projection and norm of each
    assert weights + kept_for_the_gradient < int(done.stdout) < 100 * (weights + kept_for_the_gradient)


def test_the_median_time_leaves_the_warm_up_out(monkeypatch):
    clock = iter([0, 100, 100, 200, 200, 201, 201, 203, 203, 212])  # runs of 100, 100, 1, 2 and 9 s
    monkeypatch.setattr(complexity.time, "perf_counter", lambda: next(clock))
    assert median_seconds(lambda: None, repeats=3, device="cpu") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--conf", "conf/nothing.yml"], "no such conf"),
        (["--frontend_weights", "nothing.pth"], "no such file"),
    ],
)
def test_wrong_paths_are_named_before_anything_is_measured(monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["complexity", *arguments])
    monkeypatch.setattr(complexity, "measure_conf", lambda *_: pytest.fail("it measured"))
    with pytest.raises(UserError, match=message):
        complexity.main()
