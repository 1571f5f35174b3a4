"""Training end to end on a tiny corpus: it learns, stops and goes on, runs on two processes, and keeps what it made."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from asteroid.models import BaseModel
from pytorch_lightning.callbacks import Timer
from tiny_corpus import DIM, make_corpus

from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.training.augmentation import Acoustics
from utils.training.config import Config, DataConfig, read_config
from utils.training.datasets import MixtureDataset
from utils.training.experiment import TrainingMarks, load_model, training_inputs
from utils.training.losses import si_snr_db
from utils.training.separation import AVSystem
from utils.training.trainer import _progress, train

ROOT = Path(__file__).parent.parent
MODEL = {"n_filters": 64, "kernel_size": 64, "stride": 32, "bands": "8x4", "bn_chan": 8, "hid_size": 8, "n_repeats": 2,
         "n_audio_repeats": 1, "visual_chan": 4, "visual_hid": 8, "visual_blocks": 1, "visual_dropout": 0.2}  # fmt: skip
DPRNN = {"name": "av_dprnn", "n_filters": 64, "kernel_size": 64, "stride": 32, "bn_chan": 8, "hid_size": 8, "chunk_size": 20,
         "hop_size": 10, "n_repeats": 2, "visual_chan": 4, "visual_hid": 8, "visual_blocks": 1}  # fmt: skip
CONF = {
    "data": {"segment_sec": 0.4, "epoch_size": 8, "num_workers": 0},
    "training": {"epochs": 4, "batch_size": 2, "audio_examples": 1},
    "optim": {"lr": 0.01, "plateau_patience": 1},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), frames=20)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def conf_file(tmp_path: Path, base: dict = MODEL, **changes) -> Path:
    sections = {"model": base, **CONF}
    names = dict.fromkeys([*sections, *changes])
    sections = {section: {**sections.get(section, {}), **changes.get(section, {})} for section in names}
    path = tmp_path / "conf.yml"
    path.write_text(yaml.safe_dump(sections))
    return path


def config_of(tmp_path: Path, base: dict = MODEL, **changes) -> Config:
    return read_config(conf_file(tmp_path, base, **changes)).with_visual_dim(DIM)


def run(corpus, exp_dir: Path, config: Config) -> dict:
    stores = [EmbeddingStore(corpus["store"])] if config.model.n_faces else []
    manifest = corpus["utterances"] if config.data.dynamic else corpus["train"]
    return train(config, exp_dir, manifest, corpus["val"], stores, stores)


def history(exp_dir: Path) -> list[dict[str, str]]:
    with open(exp_dir / "history.csv", newline="") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def assert_same_curve(ours: Path, theirs: Path) -> None:
    """Equal within 0.002 dB; two runs were once 2e-6 apart for a reason that was not found."""
    assert len(history(ours)) == len(history(theirs))
    for mine, other in zip(history(ours), history(theirs), strict=True):
        for name, value in mine.items():
            assert float(value) == pytest.approx(float(other[name]), abs=2e-3), name


def weights(exp_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(exp_dir / "best_model.pth", weights_only=True)["state_dict"]


def test_training_leaves_an_experiment_that_others_can_read(corpus, tmp_path):
    config = config_of(tmp_path)
    summary = run(corpus, tmp_path / "exp", config)
    network = load_model(tmp_path / "exp" / "best_model.pth")
    assert network.config == config.model and not network.training
    assert BaseModel.from_pretrained(str(tmp_path / "exp" / "best_model.pth")).config == config.model
    assert read_config(tmp_path / "exp" / "conf.yml") == config
    assert summary["epochs"] == 4 and summary["steps"] == 16 and summary["mixtures_seen"] == 32
    rows = history(tmp_path / "exp")
    assert len(rows) == 4
    infos = torch.load(tmp_path / "exp" / "best_model.pth", weights_only=True)["infos"]
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert (infos["epoch"], infos["val_loss"]) == (int(best["epoch"]), float(best["val_loss"]))
    assert (summary["best_epoch"], summary["best_val_loss"]) == (infos["epoch"], infos["val_loss"])
    for name in ("conf.yml", "curves.png", "training.json", "checkpoints/last.ckpt"):
        assert (tmp_path / "exp" / name).stat().st_size > 0
    assert list((tmp_path / "exp" / "log" / "tensorboard").glob("events*"))


def test_a_network_learns_one_batch_by_heart(corpus, tmp_path):
    changes = {"training": {"overfit_batch": True, "epochs": 25}, "optim": {"lr": 0.02}, "model": {"visual_dropout": 0.0}}
    run(corpus, tmp_path / "exp", config_of(tmp_path, **changes))
    rows = history(tmp_path / "exp")
    assert float(rows[-1]["val_si_snri"]) > float(rows[0]["val_si_snri"]) + 2


def test_fixed_mixtures_and_the_audio_only_baseline_train_too(corpus, tmp_path):
    config = config_of(tmp_path, model={"n_faces": 0}, data={"dynamic": False}, training={"epochs": 1, "accumulate": 2})
    assert run(corpus, tmp_path / "exp", config)["steps"] == 1


def test_an_extraction_network_trains_with_one_face_and_is_validated_on_each(corpus, tmp_path):
    config = config_of(tmp_path, model={"n_src": 1, "n_faces": 1}, training={"epochs": 1})
    assert run(corpus, tmp_path / "exp", config)["epochs"] == 1


def test_deep_supervision_trains_earlier_blocks_and_logs_only_the_last_one(corpus, tmp_path):
    """The curves of both begin alike: what is logged is the loss of the estimates that the network gives in the end."""
    first = {}
    for weight in (0.0, 0.1):
        changes = {"model": {"n_src": 1, "n_faces": 1, "fit_to_mixture": False}, "loss": {"block_weight": weight}}
        changes |= {"data": {"inactive_target_prob": 0.3}, "training": {"epochs": 1, "batch_size": 8}}  # one step
        run(corpus, tmp_path / str(weight), config_of(tmp_path, DPRNN, **changes))
        first[weight] = history(tmp_path / str(weight))[0]
    assert first[0.0]["loss"] == first[0.1]["loss"]
    plain, deep = weights(tmp_path / "0.0"), weights(tmp_path / "0.1")
    assert any((plain[name] - tensor).abs().max() > 1e-3 for name, tensor in deep.items())


def test_what_is_too_short_to_train_on_is_listed_in_the_experiment(corpus, tmp_path):
    items = corpus["utterances"].items
    short = replace(corpus["utterances"], items=(*items[:7], replace(items[7], length=3200, frames=5)))
    run({**corpus, "utterances": short}, tmp_path / "exp", config_of(tmp_path, training={"epochs": 1}))
    listed = (tmp_path / "exp" / "left_out.csv").read_text().splitlines()
    assert len(listed) == 2 and listed[1].startswith('9,0007,audio/0007.wav,"utterances.csv: lasts 0.20 s')


def test_the_inputs_of_a_training_are_all_that_changes_its_result(corpus, tmp_path):
    config = read_config(ROOT / "conf/av_tfdprnn.yml")
    manifests = corpus["utterances"], corpus["val"]

    def inputs(config: Config, stores: list[str], acoustics: Acoustics) -> dict[str, str]:
        return training_inputs(config, stores, *manifests, acoustics)

    noise = tmp_path / "noise"
    noise.mkdir()
    (noise / "a.wav").write_bytes((corpus["val"].data_root / "audio" / "0000.wav").read_bytes())
    quiet, noisy = Acoustics(DataConfig(), 16000), Acoustics(DataConfig(noise_prob=0.1, noise_dir=str(noise)), 16000)
    before = inputs(config, ["a"], quiet)
    assert before["optim.lr"] == "0.001" and before["model.name"] == '"av_tfdprnn"'
    assert {"utterances.csv", "val.csv"} < set(before)

    def changed(after: dict[str, str]) -> list[str]:
        return [name for name in {**before, **after} if before.get(name) != after.get(name)]

    neutral = ["--num_workers", "7", "--audio_examples", "0", "--logger", "wandb"]
    assert changed(inputs(read_config(ROOT / "conf/av_tfdprnn.yml", neutral), ["a"], quiet)) == []
    assert changed(inputs(replace(config, optim=replace(config.optim, lr=0.5)), ["a"], quiet)) == ["optim.lr"]
    assert changed(inputs(config, ["a", "b"], quiet)) == ["embeddings"]
    assert changed(inputs(config, ["a"], noisy)) == ["noise and rooms"]


def test_a_training_that_is_done_again_is_awaited_by_the_other_processes(tmp_path, monkeypatch):
    """Regression: with --force the other processes went on from the checkpoint that the first one was about to move."""
    first, second = TrainingMarks(tmp_path, {"lr": "1"}), TrainingMarks(tmp_path, {"lr": "1"})
    first.start({}, again=False)
    second.wait_for_start(again=True)
    first.finish()
    (tmp_path / "best_model.pth").touch()
    assert second.is_finished()
    waited_sec = []

    def sleep(seconds: float) -> None:
        waited_sec.append(seconds)
        if len(waited_sec) == 3:
            first.start({}, again=True)

    monkeypatch.setattr("utils.training.experiment.time.sleep", sleep)
    second.wait_for_start(again=True)
    assert len(waited_sec) == 3 and not second.is_finished() and len(list(tmp_path.glob("previous-*/best_model.pth"))) == 1
    monkeypatch.setattr("utils.training.experiment.time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match="the first process has not started within ten minutes"):
        TrainingMarks(tmp_path, {"lr": "2"}).wait_for_start(again=False)


def test_too_large_a_batch_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="lower --batch_size"):
        run(corpus, tmp_path / "exp", config_of(tmp_path, training={"batch_size": 9}))


def stage_3(corpus, exp_dir: Path, conf: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "utils.stages.train", "--conf", str(conf), "--exp_dir", str(exp_dir),
            "--data_dir", str(corpus["val"].path.parent), *more]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def finish(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_a_killed_training_goes_on_and_ends_with_the_same_network(corpus, tmp_path):
    conf = conf_file(tmp_path, model={"n_faces": 0}, training={"epochs": 6})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert finish(stage_3(corpus, whole, conf)).returncode == 0

    process = subprocess.Popen(stage_3(corpus, cut, conf), env=environment(), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (cut / "history.csv").exists() or len(history(cut)) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / ".done-3.json").exists()
    (cut / "checkpoints/.tmp-killed.ckpt").touch()  # what a kill in the middle of a write leaves

    done = finish(stage_3(corpus, cut, conf))
    assert done.returncode == 0 and "continuing from" in done.stderr
    assert not list(cut.rglob(".tmp-*"))
    assert_same_curve(cut, whole)
    ours, theirs = weights(cut), weights(whole)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-3)

    again = finish(stage_3(corpus, cut, conf))
    assert again.returncode == 0 and "up to date" in again.stderr


EVERYTHING = {"extra_speaker_prob": 0.25, "inactive_target_prob": 0.3, "max_shift_frames": 2, "max_dropped_ratio": 0.5,
              "max_frozen_ratio": 0.5, "missing_face_prob": 0.3, "no_visual_prob": 0.3, "same_speaker_prob": 0.3}  # fmt: skip


class Killed(Exception):
    """In place of SIGKILL, in this process."""


def run_and_kill(corpus, exp_dir: Path, config: Config) -> None:
    """Train and die in the second epoch, before its checkpoint is written."""

    def kill(path: Path, rows: list[dict], *_: object) -> None:
        if len(rows) == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr("utils.training.trainer.write_history", kill)
        run(corpus, exp_dir, config)


@pytest.mark.parametrize(("workers", "data"), [(0, {}), (1, {}), (1, EVERYTHING)])
def test_resuming_gives_the_same_curve_with_dropout_and_loader_processes(corpus, tmp_path, workers, data):
    """Regression: workers prefetched the first epoch's data again, and their seeds shifted the dropout."""
    changes = {"data": {"num_workers": workers} | data, "training": {"epochs": 3}, "model": {"visual_dropout": 0.3}}
    config, whole, cut = config_of(tmp_path, **changes), tmp_path / "whole", tmp_path / "cut"
    run(corpus, whole, config)
    run_and_kill(corpus, cut, config)
    run(corpus, cut, config)
    assert_same_curve(cut, whole)


@pytest.fixture
def rates(monkeypatch) -> list[float]:
    """The learning rate of every optimiser step, as it is taken."""
    taken: list[float] = []
    record = lambda _, optimizer: taken.append(optimizer.param_groups[0]["lr"])  # noqa: E731
    monkeypatch.setattr(AVSystem, "on_before_optimizer_step", record, raising=False)
    return taken


def cosine(step: int, n_steps: int) -> float:
    return 0.5 * (1 + np.cos(np.pi * min(step / n_steps, 1)))


LR = 1e-30  # nothing is learnt, so that every epoch after the first one is without gain
SCHEDULES = {
    "plateau": ({"plateau_patience": 0, "plateau_factor": 0.5}, [1] * 8 + [0.5] * 4 + [0.25] * 4),
    "patient plateau": ({"plateau_patience": 1, "plateau_factor": 0.1}, [1] * 12 + [0.1] * 4),
    "plateau after warm-up": ({"plateau_patience": 1, "warmup_steps": 4}, [0.25, 0.5, 0.75] + [1] * 9 + [0.5] * 4),
    "plateau within warm-up": (
        {"plateau_patience": 0, "warmup_steps": 12},
        [(step + 1) / 12 for step in range(8)] + [(step + 1) / 24 for step in range(8, 12)] + [0.25] * 4,
    ),
    "cosine": ({"schedule": "cosine"}, [cosine(step, 16) for step in range(16)]),
    "cosine with warm-up": (
        {"schedule": "cosine", "warmup_steps": 5},
        [min((step + 1) / 5, 1) * cosine(step, 16) for step in range(16)],
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rates_are_right_step_by_step_and_the_same_after_a_kill(corpus, tmp_path, rates, schedule):
    optim, factors = SCHEDULES[schedule]
    config = config_of(tmp_path, model={"n_faces": 0}, optim={"lr": LR, **optim})
    run(corpus, tmp_path / "whole", config)
    np.testing.assert_allclose(rates, LR * np.array(factors), rtol=1e-9)
    np.testing.assert_allclose([float(row["lr"]) for row in history(tmp_path / "whole")], rates[3::4], rtol=1e-9)
    whole = rates.copy()
    rates.clear()
    run_and_kill(corpus, tmp_path / "cut", config)
    assert rates == whole[:8]
    rates.clear()
    run(corpus, tmp_path / "cut", config)
    assert rates == whole[4:]


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_weights_are_the_same_after_a_kill_with_each_schedule(corpus, tmp_path, schedule):
    optim = {"lr": 0.05, "schedule": schedule, "warmup_steps": 6, "plateau_patience": 0}
    config = config_of(tmp_path, model={"n_faces": 0}, optim=optim)
    run(corpus, tmp_path / "whole", config)
    run_and_kill(corpus, tmp_path / "cut", config)
    run(corpus, tmp_path / "cut", config)
    assert_same_curve(tmp_path / "cut", tmp_path / "whole")
    ours, theirs = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-4)


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock of `max_minutes` on which every training step lasts six seconds, so that an epoch lasts 24."""
    made = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr("pytorch_lightning.callbacks.timer.time", SimpleNamespace(monotonic=lambda: made.seconds))
    plain = AVSystem.training_step

    def training_step(system: AVSystem, batch: dict, index: int) -> torch.Tensor:
        made.seconds += 6
        return plain(system, batch, index)

    monkeypatch.setattr(AVSystem, "training_step", training_step)
    return made


def test_training_stops_after_the_epoch_in_which_the_time_has_passed(corpus, tmp_path, clock):
    config = config_of(tmp_path, model={"n_faces": 0}, training={"epochs": 9, "max_minutes": 1.0})
    assert run(corpus, tmp_path / "exp", config)["epochs"] == 3  # 72 s
    clock.seconds += 500
    before = history(tmp_path / "exp")
    assert run(corpus, tmp_path / "exp", config)["epochs"] == 3  # nothing is added to what is finished
    assert history(tmp_path / "exp") == before


def test_a_resumed_training_counts_the_time_that_passed_before(corpus, tmp_path, clock, rates):
    """Both for the end and for the cosine; the time of the epoch that was lost, and of the pause, do not count."""
    optim = {"lr": LR, "schedule": "cosine"}
    config = config_of(tmp_path, model={"n_faces": 0}, training={"epochs": 9, "max_minutes": 1.0}, optim=optim)
    wanted = [LR * cosine(step, 10) for step in range(12)]  # 60 s are 10 steps, the epochs would be 36
    run(corpus, tmp_path / "whole", config)
    np.testing.assert_allclose(rates, wanted, rtol=1e-9, atol=1e-9 * LR)
    rates.clear()
    run_and_kill(corpus, tmp_path / "cut", config)
    clock.seconds += 500
    rates.clear()
    assert run(corpus, tmp_path / "cut", config)["epochs"] == 3
    np.testing.assert_allclose(rates, wanted[4:], rtol=1e-9, atol=1e-9 * LR)


def test_a_cosine_ends_with_the_epochs_where_they_are_over_before_the_time(corpus, tmp_path, clock, rates):
    optim = {"lr": LR, "schedule": "cosine"}
    config = config_of(tmp_path, model={"n_faces": 0}, training={"epochs": 2, "max_minutes": 60.0}, optim=optim)
    assert run(corpus, tmp_path / "exp", config)["epochs"] == 2
    np.testing.assert_allclose(rates, [LR * cosine(step, 8) for step in range(8)], rtol=1e-9)


def test_all_processes_follow_the_clock_of_the_first(clock):
    """Regression: with learning rates of their own clocks the networks of several processes drift apart."""
    timer = Timer({"minutes": 1})
    timer.on_train_start(None, None)
    trainer = SimpleNamespace(callbacks=[timer], strategy=SimpleNamespace(broadcast=lambda mine: mine - 0.125))
    clock.seconds += 30
    assert _progress(trainer, 100, 1.0)(3) == 0.375
    trainer.callbacks = []
    assert _progress(trainer, 100, 0.0)(3) == 0.03


def test_what_early_stopping_ended_is_not_trained_on(corpus, tmp_path):
    changes = {"training": {"epochs": 9, "early_stop": 1}, "optim": {"lr": LR}}
    run(corpus, tmp_path / "exp", config_of(tmp_path, **changes))
    before = history(tmp_path / "exp")
    assert len(before) == 2  # a first epoch, and one without gain
    run(corpus, tmp_path / "exp", config_of(tmp_path, **changes))
    assert history(tmp_path / "exp") == before


def test_a_damaged_checkpoint_is_named(corpus, tmp_path):
    checkpoint = tmp_path / "exp" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"PK\x03\x04 half")
    with pytest.raises(UserError, match="last.ckpt: damaged"):
        run(corpus, tmp_path / "exp", config_of(tmp_path))


def test_sound_that_vanished_is_one_line_even_from_a_loader_process(corpus, tmp_path):
    gone = replace(corpus["utterances"], data_root=tmp_path / "nowhere")
    config = config_of(tmp_path, data={"num_workers": 1})
    stores = [EmbeddingStore(corpus["store"])]
    with pytest.raises(UserError, match="no such file") as caught:
        train(config, tmp_path / "exp", gone, corpus["val"], stores, stores)
    assert "\n" not in str(caught.value)


def test_another_frame_rate_than_the_conf_says_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="25 frames/s where the conf's video_fps is 50"):
        run(corpus, tmp_path / "exp", config_of(tmp_path, model={"video_fps": 50.0}))


def test_half_precision_on_a_cpu_falls_back_and_says_so(corpus, tmp_path, caplog):
    run(corpus, tmp_path / "exp", config_of(tmp_path, training={"epochs": 1, "precision": "bf16"}))
    assert "training in 32 bits" in caplog.text or torch.cuda.is_available()


def test_a_changed_conf_trains_anew_and_keeps_the_old_network(corpus, tmp_path):
    exp = tmp_path / "exp"
    conf = conf_file(tmp_path, model={"n_faces": 0}, training={"epochs": 1})
    assert finish(stage_3(corpus, exp, conf)).returncode == 0
    again = finish(stage_3(corpus, exp, conf, "--train_args", "--lr 0.5"))
    assert again.returncode == 0 and "optim.lr: 0.01 -> 0.5" in again.stderr
    assert len(list(exp.glob("previous-*/best_model.pth"))) == 1
    assert yaml.safe_load((exp / "conf.yml").read_text())["optim"]["lr"] == 0.5


def test_two_processes_share_the_work(corpus, tmp_path):
    si_snr = {"model": {"n_faces": 0, "fit_to_mixture": True}, "loss": {"signal_loss": "si_snr"}}
    conf = conf_file(tmp_path, **si_snr, training={"epochs": 1, "devices": "2", "strategy": "ddp"})
    done = finish(stage_3(corpus, tmp_path / "two", conf))
    assert done.returncode == 0, done.stderr
    summary = yaml.safe_load((tmp_path / "two" / "training.json").read_text())
    assert summary["world_size"] == 2 and summary["steps"] == 2 and summary["mixtures_seen"] == 8
    # The validation of the same network on one process gives the same figure: nothing was counted twice (5 mixtures).
    network = load_model(tmp_path / "two" / "best_model.pth")
    dataset = MixtureDataset(corpus["val"], [], 0.4)
    losses = [
        -max(si_snr_db(given, e["sources"][None]).item() for given in (estimates, estimates.flip(1)))
        for e, estimates in ((e, network(e["mixture"][None])) for e in (dataset[0, index] for index in range(len(dataset))))
    ]
    assert float(history(tmp_path / "two")[0]["val_loss"]) == pytest.approx(sum(losses) / 5, abs=2e-3)


@pytest.mark.parametrize(
    ("more", "said", "code"),
    [
        (["--train_args", "--lrr 3"], "unknown key 'lrr'; did you mean 'lr'", 1),
        (["--train_args", "--lr '3"], "No closing quotation", 2),
        (["--train_args", "--n_faces 0 --strategy nonsense"], "--strategy nonsense cannot be used on this machine", 1),
        (["--nonsense", "3"], "unrecognized arguments", 2),
    ],
)
def test_mistakes_are_one_line(corpus, tmp_path, more, said, code):
    done = finish(stage_3(corpus, tmp_path / "exp", conf_file(tmp_path), *more))
    assert done.returncode == code and said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_faces_need_a_visual_frontend(corpus, tmp_path):
    done = finish(stage_3(corpus, tmp_path / "exp", conf_file(tmp_path)))
    assert done.returncode == 2 and "--frontend_weights FILE is needed" in done.stderr
