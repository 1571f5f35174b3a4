"""What a training shows beside its files, really written: by TensorBoard, and without a network by Comet and W&B."""

import importlib.util
import json
import os
import re
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import config_of, history, run
from tiny_corpus import RATE_HZ, make_corpus

from utils.errors import UserError
from utils.training.examples import draw_spectrograms
from utils.training.loggers import is_shown, make_loggers

HEARD = {f"example_0/{name}": count for name, count in
         {"mixture": 1, "s1": 1, "s2": 1, "s1_estimate": 3, "s2_estimate": 3}.items()}  # fmt: skip
SEEN = {"curves": 3, "example_0/spectrograms": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), frames=20)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def train_twice(corpus, tmp_path: Path, logger: str) -> Path:
    """One epoch, then on to the third: the first, the second and the last of all are shown."""
    for epochs in (1, 3):
        run(corpus, tmp_path / "exp", config_of(tmp_path, training={"epochs": epochs, "logger": logger}))
    return tmp_path / "exp"


def test_tensorboard_has_metrics_sounds_and_pictures_of_some_epochs(corpus, tmp_path) -> None:
    exp = train_twice(corpus, tmp_path, "none")
    board = EventAccumulator(str(exp / "log/tensorboard"), {"audio": 0, "images": 0, "scalars": 0})
    board.Reload()
    assert {tag: len(board.Audio(tag)) for tag in board.Tags()["audio"]} == HEARD
    steps = {tag: [entry.step for entry in board.Images(tag)] for tag in board.Tags()["images"]}
    assert steps == dict.fromkeys(SEEN, [0, 1, 2])
    values = [entry.value for entry in board.Scalars("val_loss")]
    assert values == pytest.approx([float(row["val_loss"]) for row in history(exp)], abs=1e-4)
    sound, rate = soundfile.read(BytesIO(board.Audio("example_0/mixture")[0].encoded_audio_string))
    item = corpus["val"].items[0]
    mixture = soundfile.read(corpus["val"].resolve(item.mixture_path))[0][: len(sound)]
    assert rate == RATE_HZ and abs(np.corrcoef(sound, mixture)[0, 1]) > 0.999
    assert "plateau_patience" in (exp / "log/tensorboard/hparams.yaml").read_text()


def test_comet_gets_the_same_in_an_archive_for_each_start(corpus, tmp_path, monkeypatch) -> None:
    pytest.importorskip("comet_ml", reason="comet_ml is not installed")
    for name, value in {"START_ONLINE": "0", "DISABLE_AUTO_LOGGING": "1", "LOGGING_CONSOLE": "ERROR"}.items():
        monkeypatch.setenv(f"COMET_{name}", value)
    exp = train_twice(corpus, tmp_path, "comet")
    archives = sorted(exp.glob("log/comet/*/*.zip"))
    assert len(archives) == 2 and len({path.name.split("-")[0] for path in archives}) == 1  # one run
    assert archives[0].name.startswith((exp / "log/run_id").read_text().strip())
    names, parameters, losses = Counter(), set(), []
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            for message in map(json.loads, archive.read("messages.json").splitlines()):
                payload = message["payload"]
                if "param" in payload:
                    parameters.add(payload["param"]["paramName"])
                elif payload.get("metric", {}).get("metricName") == "val_loss":
                    losses.append((payload["metric"]["epoch"], payload["metric"]["metricValue"]))
                elif facts := payload.get("additional_params"):
                    name = facts.get("figName") or facts.get("fileName", "")
                    if name in SEEN or name.startswith("example"):
                        names[name.removesuffix(".wav")] += 1
                        assert len(archive.read(payload["file_path"])) > 1000
    assert names == HEARD | SEEN
    assert {"model|bn_chan", "optim|plateau_patience"} <= parameters
    assert losses == [(number, pytest.approx(float(row["val_loss"]), abs=1e-4)) for number, row in enumerate(history(exp))]


def test_wandb_gets_the_same_in_a_folder_for_each_start(corpus, tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    exp = train_twice(corpus, tmp_path, "wandb")
    folders = sorted(exp.glob("log/wandb/offline-run-*"))
    run_id = (exp / "log/run_id").read_text().strip()
    assert len(folders) == 2 and all(folder.name.endswith(run_id) for folder in folders)
    names = Counter()
    for folder in folders:
        for kind in ("audio", "images"):
            for path in folder.glob(f"files/media/{kind}/**/*.*"):
                names[re.sub(r"_\d+_\w+$", "", str(path.relative_to(folder / "files/media" / kind).with_suffix("")))] += 1
                assert len(soundfile.read(path)[0]) > 1000 if kind == "audio" else imread(path).std() > 0.05
        told = (folder / f"run-{run_id}.wandb").read_bytes()
        assert all(word in told for word in (b"val_si_snri", b"plateau_patience", b"bn_chan"))
    assert names == HEARD | SEEN


def test_a_logger_without_a_login_or_a_package_is_one_line(tmp_path, monkeypatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    if importlib.util.find_spec("wandb"):
        import wandb

        wandb.teardown()  # of its settings, which it reads once
        with pytest.raises(UserError, match="--logger wandb: cannot be started .* set WANDB_MODE=offline$") as caught:
            make_loggers("wandb", tmp_path / "exp")
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="--logger comet: the package comet_ml is not installed; pip install comet_ml"):
        make_loggers("comet", tmp_path / "exp")


def test_epochs_that_are_shown_become_rare() -> None:
    assert [epoch for epoch in range(40) if is_shown(epoch)] == [0, 1, 3, 7, 15, 31]


def test_a_tone_is_bright_at_its_frequency_and_silence_is_dark() -> None:
    tone = torch.sin(2 * torch.pi * 2000 * torch.arange(16000) / 16000)
    picture = draw_spectrograms(tone, torch.stack([tone, 0 * tone]), torch.stack([tone, 0 * tone]), 16000)
    assert picture.dtype == np.uint8 and picture.shape == (480, 640, 3)
    column = np.ptp(picture[:, 160].astype(int), axis=-1).reshape(3, 160)  # colour along mixture, s1 and s2
    assert (column.max(axis=1) > 60).tolist() == [True, True, False]
    assert all(0.5 < row / 160 < 0.75 for row in column[:2].argmax(axis=1))  # a quarter of 8 kHz, above the axis' label
