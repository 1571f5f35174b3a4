"""The cost of long recordings: what is separated, how it is measured, and the table."""

import sys
from pathlib import Path

import pytest
import soundfile
import torch
from separation_helpers import TINY, make_experiment

from local_models.av_tfdprnn import AVTFDPRNN
from local_models.networks import build_network
from utils.data.files import write_json
from utils.errors import UserError
from utils.tools import long_recordings
from utils.tools.long_recordings import separate_noise, table
from utils.tools.memory import in_own_process
from utils.training.config import read_config
from utils.training.experiment import save_model

CONFIG = read_config("conf/av_tfdprnn.yml", TINY.split()).with_visual_dim(4)


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


@pytest.mark.parametrize("has_faces", [True, False])
def test_a_recording_of_noise_is_separated_in_full_through_windows(tmp_path, experiment, has_faces):
    exp_dir = experiment if has_faces else make_experiment(tmp_path / "exp", None)
    peak, factor = separate_noise(exp_dir, 3.0, 1.0, 0.8, 1, tmp_path)
    mixture, _ = soundfile.read(tmp_path / "mix.wav")
    assert len(mixture) == 48000 and mixture.std() == pytest.approx(0.1, rel=0.05)
    for k in (1, 2):
        estimate, _ = soundfile.read(tmp_path / f"s{k}.wav")
        assert len(estimate) == 48000 and estimate[-100:].any()
    assert factor > 0 and peak >= sum(tensor.nbytes for tensor in build_network(CONFIG.model).parameters())


def test_the_peak_holds_what_the_network_holds_for_a_moment(experiment):
    # in a fresh process: in this one, the network could be given memory that other tests have left behind
    peaks_mb = in_own_process(peaks_while_holding, experiment, (0, 0, 100_000_000))
    assert 90 < peaks_mb[2] - peaks_mb[1] < 150  # what the first call leaves behind is not of the network


def peaks_while_holding(exp_dir: Path, n_bytes: tuple[int, ...]) -> list[float]:
    """The peak memory in MB where a pass of the network fills so many bytes for a moment, for each of `n_bytes`."""
    peaks_mb = []
    for n_held in n_bytes:

        def forward(self, mixture: torch.Tensor, visual: torch.Tensor, n_held: int = n_held) -> torch.Tensor:
            torch.ones(n_held, dtype=torch.uint8)
            return mixture[:, None].repeat(1, visual.shape[1], 1)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AVTFDPRNN, "forward", forward)
            peaks_mb.append(separate_noise(exp_dir, 1.0, 8.0, 6.0, 1)[0] / 1e6)
    return peaks_mb


def test_the_program_measures_in_a_process_of_its_own_and_fills_its_section(tmp_path, experiment, arguments, capsys):
    results = tmp_path / "R.md"
    arguments("--exp_dir", experiment, "--minutes", "0.02", "--results", results)
    assert long_recordings.main() == 0
    printed = capsys.readouterr().out
    row = next(line.strip("| ").split(" | ") for line in printed.splitlines() if " 0.02 |" in line)
    assert len(row) == 4 and float(row[3]) > 0
    assert "<!-- begin long-recordings -->" in results.read_text("utf-8") and "windows of 8 s every 6 s" in printed


def test_the_table_compares_memory_with_the_first_length():
    text = table({1.0: (50_000_000, 0.1), 10.0: (150_000_000, 0.1234)})
    assert text.replace(" ", "").endswith("|\n|1|50|1.00|0.100|\n|10|150|3.00|0.123|\n")
    assert "over 1 min's" in text


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
