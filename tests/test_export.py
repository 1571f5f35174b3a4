"""Networks as ONNX graphs: they are torch's for every length and number of faces, or are not written; stage 4 runs them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from separation_helpers import TINY, Stage, make_experiment, wake
from torch import nn

from local_models.causal import CausalTFDPRNN
from local_models.lr_asd import LRASDVisual
from local_models.separator import AVSeparator
from utils.data.experiments import network_path, open_experiment
from utils.data.files import read_json, sha256_file
from utils.data.mouths import MouthFile
from utils.embedding.checkpoints import LR_ASD_PREFIX
from utils.embedding.embed import embed_file
from utils.embedding.frontends import store_name
from utils.embedding.kinds import load_kind
from utils.errors import UsageError, UserError
from utils.export import graphs
from utils.export.graphs import FACTS, Graph, OnnxModule, check_graph, is_written, write_graphs
from utils.separation.exported import OnnxSeparator, run_by_onnx, separator_graphs, stream_by_onnx
from utils.separation.mixtures import load_frontends
from utils.separation.overlap_add import FacesOnScreen
from utils.tools import export
from utils.training.experiment import load_model, save_model

pytest.importorskip("onnxruntime", reason="needs requirements-onnx.txt")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def one_thread():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    """A network that compares faces with voices, and never finds that a single voice is all that is heard."""
    folder = tmp_path_factory.mktemp("experiment")
    state = {f"{LR_ASD_PREFIX}{name}": tensor for name, tensor in LRASDVisual().state_dict().items()}
    torch.save(state, folder / "lips.pth")
    make_experiment(folder / "exp", folder / "lips.pth", words=f"{TINY} --match_chan 4 --match_hid 8")
    network = load_model(network_path(folder / "exp"))
    network.matcher.alone_out.bias.data.fill_(-50.0)
    save_model(network_path(folder / "exp"), network, {})
    return folder / "exp"


@pytest.fixture(scope="module")
def exported(experiment, tmp_path_factory) -> Path:
    """What utils/tools/export.py writes of it."""
    folder = tmp_path_factory.mktemp("exported")
    mouths = folder / "clips/mouths"
    mouths.mkdir(parents=True)
    for index in range(4):
        make_mouths(mouths / f"{index}.npz", 12, index)
    call_tool(experiment, folder / "out", "--int8", "true", "--mouths_dir", folder / "clips")
    return folder / "out"


@pytest.fixture(scope="module")
def onnx_dir(experiment, exported, tmp_path_factory) -> Path:
    """The cache of stage 4, which has the network already."""
    folder = tmp_path_factory.mktemp("cache") / "onnx"
    shutil.copytree(exported, folder / f"separator-{sha256_file(network_path(experiment))[:12]}")
    return folder


def make_mouths(path: Path, n_frames: int, seed: int = 0) -> Path:
    data = np.random.default_rng(seed).integers(0, 256, (n_frames, 96, 96), dtype=np.uint8)
    np.savez(path, data=data, mask=np.arange(n_frames) != 3)
    return path


def call_tool(exp_dir: Path, out_dir: Path, *more: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export", "--exp_dir", str(exp_dir), "--out_dir", str(out_dir), *map(str, more)])
        assert export.main() == 0


def network_of(experiment: Path) -> AVSeparator:
    return load_model(network_path(experiment))


@pytest.mark.parametrize(("n_mixtures", "n_faces", "length"), [(1, 5, 11111), (2, 2, 24000), (1, 1, 640), (3, 9, 4001)])
def test_graphs_are_the_network_for_other_lengths_and_faces(experiment, exported, n_mixtures, n_faces, length):
    network = network_of(experiment)
    onnx = OnnxSeparator(network, exported)
    mixture = torch.randn(n_mixtures, length)
    visual = torch.randn(n_mixtures, n_faces, -(-length // 640), network.config.visual_dim)
    visual[:, -1, 1:] = 0
    mixture[-1, length // 3 :] = 0
    with torch.inference_mode():
        estimates = network(mixture, visual)
        torch.testing.assert_close(onnx(mixture, visual), estimates, atol=1e-4, rtol=0)
        torch.testing.assert_close(onnx(mixture), network(mixture), atol=1e-4, rtol=0)
        given = (estimates, visual, mixture)
        np.testing.assert_allclose(onnx.evidence(*given), network.evidence(*given), atol=1e-4)
        np.testing.assert_allclose(onnx.alone(estimates, mixture), network.alone(estimates, mixture), atol=1e-4)


def test_faces_that_come_and_go_are_separated_alike(experiment, exported):
    network = network_of(experiment)
    mixture, visual = torch.randn(1, 16000), torch.randn(1, 3, 25, network.config.visual_dim)
    visual[:, 1:] = 0  # a single face is seen: the stream of whoever else is heard is beside it
    with torch.inference_mode():
        wanted, found = (FacesOnScreen(each).streams(mixture, visual) for each in (network, OnnxSeparator(network, exported)))
    torch.testing.assert_close(found.estimates, wanted.estimates, atol=1e-4, rtol=0)
    np.testing.assert_allclose(found.evidence, wanted.evidence, atol=1e-4)
    assert found.alone == pytest.approx(wanted.alone, abs=1e-3) and (found.seen == wanted.seen).all()


def test_the_folder_says_what_it_holds(experiment, exported):
    facts = read_json(exported / FACTS)
    assert facts["weights_sha256"] == sha256_file(network_path(experiment))
    assert (facts["sample_rate_hz"], facts["video_fps"], facts["n_faces"]) == (16000, 25.0, 2)
    assert facts["frontend"]["description"]["preprocessing"]["crop_size"] == 88
    assert set(facts["graphs"]) == {"model", "matcher", "frontend"}
    for graph in facts["graphs"].values():
        assert graph["differs_from_torch_by"] < 1e-4
        assert sha256_file(exported / graph["file"]) == graph["sha256"]
    assert facts["graphs"]["model"]["inputs"]["visual"] == ["batch", "faces", "frames", 128]


def test_8_bits_are_smaller_and_nearly_the_same(exported):
    assert all(read_json(exported / FACTS)["graphs"][name]["int8"]["sdr_db"] >= 25 for name in ("model", "frontend"))
    sizes = [(exported / file).stat().st_size for file in ("frontend.onnx", "frontend.int8.onnx")]
    assert sizes[1] < sizes[0] / 2
    clips = torch.randn(1, 5, 88, 88)
    one, other = (OnnxModule(exported / file)(clips) for file in ("frontend.onnx", "frontend.int8.onnx"))
    assert 0 < (one - other).square().sum() < 10 ** (-1.5) * one.square().sum()


def test_a_visual_frontend_gives_the_same_embeddings_whatever_runs_it(experiment, onnx_dir, tmp_path):
    weights, path = experiment.parent / "lips.pth", make_mouths(tmp_path / "long.npz", 530)  # goes through in pieces
    wanted = embed_file(load_kind("lips", weights), MouthFile(path))
    frontend = load_kind("lips", weights, onnx_dir=onnx_dir)
    torch.testing.assert_close(embed_file(frontend, MouthFile(path)), wanted, atol=1e-4, rtol=0)
    (facts,) = onnx_dir.glob(f"lr_asd-*/{FACTS}")
    before = facts.stat().st_mtime_ns
    again = frontend.load_again()  # as in another process: what is there is not made anew
    torch.testing.assert_close(embed_file(again, MouthFile(path)), wanted, atol=1e-4, rtol=0)
    assert facts.stat().st_mtime_ns == before
    (facts.parent / "frontend.onnx").write_bytes(b"damaged")
    assert not is_written(facts.parent)
    shutil.rmtree(facts.parent)


def test_the_recipes_own_frontend_in_8_bits_is_nearly_the_same_and_has_a_store_of_its_own(shared_data):
    own = ROOT / "egs/own_video/pretrained"
    record = open_experiment(own).frontends["lips"]
    assert Path(record.int8) == own / "frontend.int8.onnx"
    wanted, found = (load_frontends(open_experiment(own), "cpu", in_float=in_float)["lips"] for in_float in (True, False))
    assert store_name(wanted, record.view, record.precision) == record.store_name
    assert store_name(found, record.view, record.precision) != record.store_name
    noise = signal = 0.0
    for path in sorted((shared_data / "grid_dla/mouths").glob("*.npz"))[::40]:
        one, other = (embed_file(frontend, MouthFile(path)) for frontend in (wanted, found))
        signal, noise = signal + one.square().sum(), noise + (one - other).square().sum()
        torch.testing.assert_close(embed_file(found.load_again(), MouthFile(path)), other)  # as in another process
    assert 20 < 10 * torch.log10(signal / noise) < 60
    assert found.load_again().describe() == found.describe()
    given = open_experiment(own, frontend_weights=str(own / "frontend.pth"))  # weights that are named are taken as they are
    assert load_frontends(given, "cpu")["lips"].describe() == wanted.describe()


def test_the_tracks_of_a_video_are_those_of_torch(experiment, onnx_dir, shared_data, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert", reason="needs requirements-video.txt")
    pytest.importorskip("silero_vad", reason="needs requirements-video.txt")
    video = min((shared_data / "grid_video").glob("*.mpg"))
    shutil.copytree(onnx_dir, tmp_path / "dump/onnx")
    stage, sounds, stamps = Stage(tmp_path, monkeypatch), {}, {}
    for runtime in ("torch", "onnx", "onnx"):
        stage(experiment, video, "--out_dir", tmp_path / "out", "--runtime", runtime, "--nj", "1")
        folder = tmp_path / "out" / video.stem
        report = folder / "tracks.json"
        assert read_json(report)["runtime"] == runtime  # tracks of the other one are made anew
        assert stamps.setdefault(runtime, report.stat().st_mtime_ns) == report.stat().st_mtime_ns  # those of this one are kept
        sounds[runtime] = {name: soundfile.read(folder / f"{name}.wav")[0] for name in ("face1", "rest")}
    for name, sound in sounds["torch"].items():
        assert np.abs(sound).max() > 0.01
        np.testing.assert_allclose(sounds["onnx"][name], sound, atol=1e-3)
    assert len(list(tmp_path.glob("dump/embeddings/*"))) == 1  # one store for both


def test_onnxruntime_keeps_and_reports_nothing_about_its_use(exported, tmp_path):
    """Not for continuous integration, where it keeps nothing anyway."""
    code = (
        "from pathlib import Path\nimport torch\nfrom utils.export.graphs import OnnxModule\n"
        f"OnnxModule(Path({str(exported / 'frontend.onnx')!r}))(torch.randn(1, 5, 88, 88))"
    )
    there = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=there | {"HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))


class Recurrent(nn.Module):
    """Recurrent layers of all kinds, one of them with a state that goes in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.both_ways = nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True)
        self.gru, self.plain = nn.GRU(8, 6), nn.RNN(6, 3, batch_first=True)
        self.kept = nn.LSTM(3, 2, 2)

    def forward(self, sequence, hidden, cell):
        x = self.gru(self.both_ways(sequence)[0])[0]
        x, (hidden, cell) = self.kept(self.plain(x)[0], (hidden, cell))
        return x, hidden, cell


def test_recurrent_layers_are_those_of_torch_for_any_length_and_batch(tmp_path):
    def given(n_batch: int, n_frames: int) -> tuple:
        return torch.randn(n_batch, n_frames, 5), torch.randn(2, n_frames, 2), torch.randn(2, n_frames, 2)

    kept = (2, "frames", 2)
    inputs = {"sequence": ("batch", "frames", 5), "hidden": kept, "cell": kept}
    outputs = {"output": ("batch", "frames", 2), "new_hidden": kept, "new_cell": kept}
    trials = [given(3, 7), given(1, 1), given(2, 40), given(5, 1)]
    facts = write_graphs(tmp_path, {"rnn": Graph(Recurrent().eval(), inputs, outputs, trials)}, {})
    assert facts["graphs"]["rnn"]["differs_from_torch_by"] < 1e-6


def test_a_graph_that_is_not_the_network_is_refused_and_what_was_there_stays(tmp_path, monkeypatch):
    def graph_of(network: nn.Module) -> Graph:
        trials = [(torch.randn(3, 4),), (torch.randn(1, 4),)]
        return Graph(network, {"x": ("batch", 4)}, {"y": ("batch", 4)}, trials)

    good, other = nn.Linear(4, 4).eval(), nn.Linear(4, 4).eval()
    write_graphs(tmp_path, {"model": graph_of(good)}, {})
    before = {path.name: sha256_file(path) for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"model: y differs from torch by .* it is not written"):
        check_graph(graph_of(other), tmp_path / "model.onnx", "model")
    monkeypatch.setattr(graphs, "_in_onnx_operators", lambda network: other)
    with pytest.raises(UserError, match="not written"):
        write_graphs(tmp_path, {"model": graph_of(good)}, {})
    assert {path.name: sha256_file(path) for path in tmp_path.iterdir()} == before


def test_what_cannot_be_exported_or_read_is_said_in_one_line(experiment, tmp_path, monkeypatch):
    class Solver(nn.Module):
        def forward(self, x):
            return torch.linalg.solve(x @ x.transpose(1, 2), x)

    square = Graph(Solver(), {"x": ("batch", 2, 2)}, {"y": ("batch", 2, 2)}, [(torch.randn(3, 2, 2),)])
    with pytest.raises(UserError, match=r"^solver: this network cannot be exported \(.*linalg_solve.*\)$"):
        write_graphs(tmp_path, {"solver": square}, {})
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"model\.onnx: onnxruntime cannot read it .* make it again"):
        OnnxModule(tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"nothing\.onnx: no such file"):
        OnnxModule(tmp_path / "nothing.onnx")
    with pytest.raises(UsageError, match="--id 0: with --runtime onnx the CPU does the work"):
        Stage(tmp_path, monkeypatch)(experiment, tmp_path, "--runtime", "onnx", "--id", "0")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"utils/install_more\.sh requirements-onnx\.txt$"):
        write_graphs(tmp_path, separator_graphs(network_of(experiment)), {})


@pytest.mark.parametrize("more", [{}, {"n_src": 1, "n_faces": 1}, {"n_faces": 0}, {"lookahead_frames": 1, "match_chan": 4}])
def test_a_stream_by_onnxruntime_is_that_of_torch(tmp_path, more):
    torch.manual_seed(0)
    sizes = {"bn_chan": 8, "hid_size": 6, "n_repeats": 2, "n_audio_repeats": 1, "visual_chan": 4, "visual_blocks": 1}
    network = wake(CausalTFDPRNN(**sizes, **more, visual_dim=5).eval())
    step = stream_by_onnx(network, "0" * 64, tmp_path)
    batch, n_faces = (2, 1) if more.get("n_faces") == 1 else (1, 2 if network.config.n_faces else 0)
    mixture = torch.cat([torch.randn(batch, 640 * 9), torch.zeros(batch, 640 * 3)], dim=1)
    visual = torch.randn(batch, n_faces, 12, 5) if n_faces else None
    states = [network.initial_state(batch, n_faces)] * 2
    parts = [[], []]
    with torch.inference_mode():
        for start in (0, 5):  # several frames at a time
            stop = 5 if start == 0 else 12
            seen = None if visual is None else visual[:, :, start:stop]
            for index, run in enumerate((network.step, step)):
                estimates, states[index] = run(mixture[:, 640 * start : 640 * stop], seen, states[index])
                parts[index].append(estimates)
    torch_estimates, onnx_estimates = (torch.cat(each, dim=-1) for each in parts)
    assert (torch_estimates - onnx_estimates).abs().max() < 1e-4 * torch_estimates.abs().max()
    with pytest.raises(UserError, match=r"in ./live.sh only; separate whole recordings with --runtime torch"):
        run_by_onnx(network, "0" * 64, tmp_path)
