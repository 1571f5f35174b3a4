"""The cost of long recordings: what is separated, how it is measured, and the table."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from separation_helpers import TINY, make_experiment

from local_models.av_tfdprnn import AVTFDPRNN
from local_models.networks import build_network
from utils.data.files import write_json
from utils.data.manifest import read_manifest
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.stages import separate
from utils.tools import long_recordings
from utils.tools.long_recordings import HOP_SEC, MANIFEST, STORE, WINDOW_SEC, make_recording, separate_recording, table
from utils.tools.processes import in_own_process
from utils.training.config import read_config
from utils.training.experiment import load_model, save_model

DIM = 4
CONFIG = read_config("conf/av_tfdprnn.yml", TINY.split()).with_visual_dim(DIM)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    exp_dir = tmp_path_factory.mktemp("exp") / "av"
    torch.manual_seed(0)
    save_model(exp_dir / "best_model.pth", build_network(CONFIG.model), {})
    record = {"weights": "w", "layer": "trunk", "view": "centre", "store_name": "front", "precision": "float32"}
    write_json(exp_dir / "frontend.json", record)
    return exp_dir


@pytest.fixture
def arguments(monkeypatch):
    def give(*words) -> None:
        monkeypatch.setattr(sys, "argv", ["long_recordings", *map(str, words)])

    return give


def test_a_recording_has_the_asked_length_and_embeddings_for_all_its_frames(tmp_path):
    make_recording(tmp_path, 1.5, CONFIG.model, "float32")
    manifest = read_manifest(tmp_path / MANIFEST)
    (item,) = manifest.items
    assert item.length == soundfile.info(tmp_path / "mix.wav").frames == 24000
    store = EmbeddingStore(tmp_path / STORE)
    assert [store.get(path).shape for path in item.mouth_paths] == [(38, DIM)] * 2
    assert soundfile.read(tmp_path / "mix.wav")[0].std() == pytest.approx(0.1, rel=0.05)


def test_a_recording_is_separated_in_full_through_windows(tmp_path, experiment):
    make_recording(tmp_path, 3.0, CONFIG.model, "float32")
    measured = separate_recording(tmp_path, experiment, 1.0, 0.8, 1)
    for k in (1, 2):
        estimate, _ = soundfile.read(tmp_path / f"estimates/s{k}/recording.wav")
        assert len(estimate) == 48000 and estimate[-100:].any()
    assert measured["real_time_factor"] > 0


def test_the_peak_holds_what_the_network_holds_for_a_moment(tmp_path, experiment, monkeypatch):
    peaks_mb = []
    for number, n_held in enumerate((0, 0, 100_000_000)):  # what the first call leaves behind is not of the network
        folder = tmp_path / str(number)
        folder.mkdir()
        make_recording(folder, 1.0, CONFIG.model, "float32")
        monkeypatch.setattr(AVTFDPRNN, "forward", holding(n_held))
        measured = separate_recording(folder, experiment, WINDOW_SEC, HOP_SEC, 1)
        peaks_mb.append(measured["peak_memory_bytes"] / 1e6)
    assert 90 < peaks_mb[2] - peaks_mb[1] < 150


def holding(n_bytes: int):
    """A network's pass that fills so many bytes for a moment and gives the mixture for each face."""

    def forward(self, mixture: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        torch.ones(n_bytes, dtype=torch.uint8)
        return mixture[:, None].repeat(1, visual.shape[1], 1)

    return forward


def test_a_recording_that_does_not_fit_the_network_is_an_error(tmp_path, experiment):
    make_recording(tmp_path, 1.0, replace(CONFIG.model, sample_rate=8000))
    with pytest.raises(UserError, match="8000 Hz"):
        in_own_process(separate_recording, tmp_path, experiment, WINDOW_SEC, HOP_SEC, 1)


def test_the_program_measures_in_a_process_of_its_own_and_fills_its_section(tmp_path, experiment, arguments, capsys):
    results = tmp_path / "R.md"
    arguments("--exp_dir", experiment, "--minutes", "0.02", "--results", results)
    assert long_recordings.main() == 0
    printed = capsys.readouterr().out
    row = next(line.strip("| ").split(" | ") for line in printed.splitlines() if " 0.02 |" in line)
    assert len(row) == 4 and float(row[3]) > 0
    assert "<!-- begin long-recordings -->" in results.read_text("utf-8") and "windows of 8 s every 6 s" in printed


def test_audio_only_networks_need_no_faces(tmp_path):
    exp_dir = make_experiment(tmp_path / "exp", None)
    make_recording(tmp_path, 1.0, load_model(exp_dir / "best_model.pth").config)
    separate_recording(tmp_path, exp_dir, WINDOW_SEC, HOP_SEC, 1)
    assert not (tmp_path / STORE).exists()
    assert len(soundfile.read(tmp_path / "estimates/s2/recording.wav")[0]) == 16000


def test_the_table_compares_memory_with_the_first_length():
    measured = [
        {"minutes": 1.0, "peak_memory_bytes": 50e6, "real_time_factor": 0.1},
        {"minutes": 10.0, "peak_memory_bytes": 150e6, "real_time_factor": 0.1234},
    ]
    assert table(measured).replace(" ", "").endswith("|\n|1|50|1.00|0.100|\n|10|150|3.00|0.123|\n")
    assert "over 1 min's" in table(measured)


def test_the_windows_are_those_of_stage_4(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["separate", "--exp_dir", "e", "--test_dir", "t"])
    stage = separate.parse_args()
    assert (stage.window_sec, stage.hop_sec) == (WINDOW_SEC, HOP_SEC)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--minutes", "1,x"], "no list of minutes"),
        (["--minutes", "0"], "no list of minutes"),
        (["--threads", "0"], "at least 1"),
        (["--hop_sec", "1"], "at least half"),
        (["--section", "two words"], "section 'two words': a name has"),
        (["--exp_dir", "exp/nowhere"], "stage 3 makes it"),
    ],
)
def test_wrong_options_are_named(experiment, arguments, words, reason):
    arguments("--exp_dir", experiment, *words)
    with pytest.raises(UserError, match=reason):
        long_recordings.main()
