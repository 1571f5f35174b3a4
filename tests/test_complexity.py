"""MACs against closed forms and independent counters; the measuring program on a tiny conf."""

import json
import sys
import warnings

import pytest
import torch
from torch import nn

from local_models.networks import build_network
from utils.data.files import read_json
from utils.errors import UserError
from utils.tools import complexity
from utils.tools.complexity import count_macs, median_seconds, peak_memory_bytes
from utils.tools.memory import in_own_process
from utils.training.config import read_config, write_config

TINY = "--bn_chan 8 --hid_size 6 --n_repeats 2 --n_audio_repeats 1 --visual_chan 8 --visual_hid 12"


def tiny_config(*more: str):
    return read_config("conf/av_tfdprnn.yml", [*TINY.split(), "--visual_dim", "5", "--visual_blocks", "1", *more])


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
def test_macs_of_a_layer_are_those_of_its_closed_form(layer, shape, expected):
    assert count_macs(layer, torch.rand(shape)) == expected
    assert next(layer.parameters()).device.type == "cpu"


class Calls(nn.Module):
    """A function of tensors as a network."""

    def __init__(self, function) -> None:
        super().__init__()
        self.forward = function


@pytest.mark.parametrize("product", [torch.matmul, torch.bmm, lambda left, right: torch.einsum("bij,bjk->bik", left, right)])
def test_products_are_counted(product):
    assert count_macs(Calls(product), torch.rand(2, 3, 4), torch.rand(2, 4, 5)) == 2 * 3 * 4 * 5


def test_attention_is_counted():
    query, key, value = torch.rand(2, 1, 6, 4), torch.rand(2, 1, 7, 4), torch.rand(2, 1, 7, 3)
    assert count_macs(Calls(nn.functional.scaled_dot_product_attention), query, key, value) == 2 * 6 * 7 * (4 + 3)


def test_macs_of_the_network_agree_with_ptflops_but_for_biases_and_activations():
    ptflops = pytest.importorskip("ptflops")
    sizes = "--n_filters 16 --bn_chan 32 --hid_size 32 --chunk_size 40 --hop_size 20 --n_repeats 2 --n_faces 0"
    network = build_network(read_config("conf/av_dprnn.yml", sizes.split()).model).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, _ = ptflops.get_model_complexity_info(
            network, (8000,), as_strings=False, print_per_layer_stat=False, backend="pytorch", verbose=False
        )
    assert count_macs(network, torch.rand(1, 8000)) == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize(
    ("conf", "sizes"),
    [("av_dprnn", TINY.replace("--n_audio_repeats 1", "")), ("av_convtasnet", TINY.replace("hid_size", "hid_chan"))],
)
def test_macs_of_a_network_are_those_of_its_layers_and_of_its_filterbank(conf, sizes):
    config = read_config(f"conf/{conf}.yml", [*sizes.split(), "--visual_dim", "5"]).model
    network, of_layers = build_network(config).eval(), []

    def add(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        weights = [weight for weight in layer.parameters(recurse=False) if weight.ndim > 1]
        steps = inputs[0].shape[:-1].numel() if isinstance(layer, nn.LSTM | nn.Linear) else output[:, 0].numel()
        of_layers.append(steps * sum(weight.numel() for weight in weights))

    hooks = [layer.register_forward_hook(add) for layer in network.modules()
             if isinstance(layer, nn.LSTM | nn.Linear | nn.Conv1d | nn.Conv2d)]  # fmt: skip
    inputs = torch.rand(1, 4000), torch.rand(1, 2, 7, 5)
    with torch.no_grad():
        network(*inputs)
    for hook in hooks:
        hook.remove()
    n_frames = 4000 // config.stride + 1
    of_filterbank = (1 + config.n_src) * n_frames * config.kernel_size * config.n_filters  # analysis, a synthesis each
    assert count_macs(network, *inputs) == sum(of_layers) + of_filterbank


def test_a_conf_that_sees_faces_is_measured_with_them(tmp_path, monkeypatch):
    words = "--unet_chan 4 --visual_chan 8 --visual_hid 8 --visual_blocks 1 --attention lips_to_face --visual_dim 20"
    write_config(tmp_path / "tiny.yml", read_config("conf/visualvoice.yml", words.split()))
    command = ["--conf", tmp_path / "tiny.yml", "--json", tmp_path / "out.json", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["complexity", *map(str, command)])
    monkeypatch.setattr(complexity, "in_own_process", lambda *call: 1000)
    monkeypatch.setattr(complexity, "RUNS", 1)
    assert complexity.main() == 0
    config = read_config(tmp_path / "tiny.yml").with_visual_dim(20 + 128, 128)
    expected = sum(parameter.numel() for parameter in build_network(config.model).parameters())
    assert json.loads((tmp_path / "out.json").read_text())["params"] == expected


def test_the_program_measures_a_conf_with_and_without_the_visual_frontend(tmp_path, monkeypatch, capsys):
    from local_models.lipreading import Lipreading

    frontend, weights = Lipreading(read_json("conf/lipreading/demo_snv05x.json")), tmp_path / "frontend.pth.tar"
    torch.save({"model_state_dict": frontend.state_dict(), "config": "demo_snv05x"}, weights)
    write_config(tmp_path / "tiny.yml", tiny_config())
    command = ["--conf", tmp_path / "tiny.yml", "--json", tmp_path / "out.json", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["complexity", *map(str, command), "--frontend_weights", str(weights)])
    measured = []
    monkeypatch.setattr(complexity, "in_own_process", lambda *call: measured.append(call) or 1000 + len(measured))
    monkeypatch.setattr(complexity, "RUNS", 1)
    assert complexity.main() == 0
    numbers = json.loads((tmp_path / "out.json").read_text())
    network = build_network(tiny_config("--visual_dim", "1024").model)
    expected = sum(parameter.numel() for parameter in network.parameters())
    assert (numbers["n_src"], numbers["params"]) == (2, expected)
    assert numbers["macs_per_audio_second"] == count_macs(network, torch.rand(1, 32000), torch.rand(1, 2, 50, 1024)) // 2
    assert numbers["disk_bytes"] > 4 * expected
    assert (numbers["peak_memory_bytes"], numbers["train_peak_memory_bytes"]) == (1001, 1002)
    assert [call[2:] for call in measured] == [(None, "infer", "cpu", 1), (None, "train_step", "cpu", 1),
                                               (weights, "infer", "cpu", 1), (weights, "train_step", "cpu", 1)]  # fmt: skip
    assert numbers["inference_seconds_per_2s_mixture"] > 0 and numbers["train_step_seconds"] > 0
    assert numbers["real_time_factor"] == numbers["inference_seconds_per_2s_mixture"] / 2
    with_frontend = numbers["with_visual_frontend"]
    assert with_frontend["params"] == expected + sum(parameter.numel() for parameter in frontend.parameters())
    assert with_frontend["macs_per_audio_second"] > numbers["macs_per_audio_second"]
    assert with_frontend["disk_bytes"] == numbers["disk_bytes"] + weights.stat().st_size
    table = capsys.readouterr().out
    assert "| Parameters (M) " in table
    assert "tiny with visual frontend" in table


def test_memory_is_that_of_weights_and_of_the_largest_tensors():
    config = tiny_config("--bn_chan", "64")
    peak_bytes = in_own_process(peak_memory_bytes, config, None, "train_step", "cpu", 1)
    weights = 4 * sum(parameter.numel() for parameter in build_network(config.model).parameters())
    grid = 4 * 2 * 64 * 22 * 63  # bytes of 64 channels, 22 bands and 63 frames for two faces
    kept_for_the_gradient = 2 * 2 * 3 * grid  # blocks, paths, and at least input, projection and norm of each
    assert weights + kept_for_the_gradient < peak_bytes < 100 * (weights + kept_for_the_gradient)


def test_the_median_times_are_of_runs_in_turns_without_the_warm_up(monkeypatch):
    # Runs of a: 100, 100, 1, 2 and 9 s; runs of b: 1 s each
    times_sec, now, called = {"a": iter([100, 100, 1, 2, 9]), "b": iter([1] * 5)}, [0], []

    def run(name: str) -> None:
        called.append(name)
        now[0] += next(times_sec[name])

    monkeypatch.setattr(complexity.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(complexity, "RUNS", 3)
    assert median_seconds({name: lambda name=name: run(name) for name in "ab"}) == {"a": 2, "b": 1}
    assert called == ["a", "b"] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--conf", "conf/nothing.yml"], "no such conf"),
        (["--frontend_weights", "nothing.pth"], "no such file"),
    ],
)
def test_wrong_paths_are_named_before_anything_is_measured(monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["complexity", *arguments])
    monkeypatch.setattr(complexity, "measure", lambda *_: pytest.fail("it measured"))
    with pytest.raises(UserError, match=message):
        complexity.main()
