"""Training end to end on a tiny corpus: it learns, stops and goes on, runs on two processes, and keeps what it made."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tiny_corpus import DIM, make_corpus

from utils.embedding.store import EmbeddingStore
from utils.engine.schedule import LearningRate
from utils.errors import UserError
from utils.training.config import Config, read_config
from utils.training.experiment import load_model
from utils.training.losses import si_snr_db
from utils.training.trainer import train

ROOT = Path(__file__).parent.parent
CONF = {
    "model": {"n_cues": 2},
    "filterbank": {"n_filters": 64, "kernel_size": 64, "stride": 32},
    "masknet": {"bands": "8x4", "bn_chan": 8, "hid_size": 8, "n_repeats": 2, "n_audio_repeats": 1},
    "visual": {"visual_chan": 4, "visual_hid": 8, "visual_blocks": 1, "visual_dropout": 0.2},
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


def conf_file(tmp_path: Path, **changes) -> Path:
    sections = {section: dict(values) for section, values in CONF.items()}
    for section, values in changes.items():
        sections[section] = sections.get(section, {}) | values
    path = tmp_path / "conf.yml"
    path.write_text(yaml.safe_dump(sections))
    return path


def conf_of(tmp_path: Path, **changes) -> Config:
    return read_config(conf_file(tmp_path, **changes)).with_visual_dim(DIM)


def run(corpus, exp_dir: Path, conf: Config) -> dict:
    stores = [EmbeddingStore(corpus["store"])] if conf.n_cues else []
    dynamic = corpus["utterances"] if conf.data.dynamic else corpus["train"]
    return train(conf, exp_dir, dynamic, corpus["val"], stores, stores)


def history(exp_dir: Path) -> list[dict[str, str]]:
    with open(exp_dir / "history.csv", newline="") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def assert_same_curve(ours: Path, theirs: Path) -> None:
    """Equal within 0.002 dB; the pipeline's voices were once 2e-6 apart for a reason that was not found."""
    assert len(history(ours)) == len(history(theirs))
    for mine, other in zip(history(ours), history(theirs), strict=True):
        for name, value in mine.items():
            assert float(value) == pytest.approx(float(other[name]), abs=2e-3), name


def test_training_leaves_an_experiment_that_others_can_read(corpus, tmp_path):
    conf = conf_of(tmp_path)
    summary = run(corpus, tmp_path / "exp", conf)
    network, saved_conf = load_model(tmp_path / "exp" / "best_model.pth")
    assert saved_conf == conf.nested and not network.training
    assert summary["epochs"] == 4 and summary["steps"] == 16 and summary["mixtures_seen"] == 32
    assert len(history(tmp_path / "exp")) == 4
    for name in ("conf.yml", "curves.png", "training.json", "checkpoints/last.ckpt"):
        assert (tmp_path / "exp" / name).stat().st_size > 0
    assert list((tmp_path / "exp" / "log" / "tensorboard").glob("events*"))


def test_a_network_learns_one_batch_by_heart(corpus, tmp_path):
    changes = {"training": {"overfit_batch": True, "epochs": 25}, "optim": {"lr": 0.02}, "visual": {"visual_dropout": 0.0}}
    run(corpus, tmp_path / "exp", conf_of(tmp_path, **changes))
    rows = history(tmp_path / "exp")
    assert float(rows[-1]["val_si_snri"]) > float(rows[0]["val_si_snri"]) + 2


def test_fixed_mixtures_and_the_twin_train_too(corpus, tmp_path):
    conf = conf_of(tmp_path, model={"n_cues": 0}, data={"dynamic": False}, training={"epochs": 1, "accumulate": 2})
    assert run(corpus, tmp_path / "exp", conf)["steps"] == 1


def test_an_extraction_network_trains_with_one_face_and_is_validated_on_each(corpus, tmp_path):
    conf = conf_of(tmp_path, model={"n_src": 1, "n_cues": 1}, training={"epochs": 1})
    assert run(corpus, tmp_path / "exp", conf)["epochs"] == 1


DPRNN = {
    "model": {"name": "avdprnn", "n_src": 1, "n_cues": 1},
    "masknet": {"bn_chan": 8, "hid_size": 8, "chunk_size": 20, "hop_size": 10, "n_repeats": 2},
}


def test_deep_supervision_trains_earlier_blocks_and_logs_the_last_one_alone(corpus, tmp_path):
    """The curves of both begin alike: what is logged is the loss of the voices that the network gives in the end."""
    first = {}
    for weight in (0.0, 0.1):
        sections = yaml.safe_load(conf_file(tmp_path).read_text())
        sections |= {"masknet": DPRNN["masknet"], "model": {**DPRNN["model"], "fit_to_mixture": False}}
        sections["data"] |= {"task": "extraction", "silent_voice": 0.3}
        sections["loss"] = {"block_weight": weight}
        sections["training"] |= {"epochs": 1, "batch_size": 8}  # one step
        path = tmp_path / f"{weight}.yml"
        path.write_text(yaml.safe_dump(sections))
        run(corpus, tmp_path / str(weight), read_config(path).with_visual_dim(DIM))
        first[weight] = history(tmp_path / str(weight))[0]
    assert first[0.0]["loss"] == first[0.1]["loss"]
    plain, deep = (torch.load(tmp_path / w / "best_model.pth", weights_only=True)["model"] for w in ("0.0", "0.1"))
    assert any((plain[name] - tensor).abs().max() > 1e-3 for name, tensor in deep.items())


def test_what_is_too_short_to_train_on_is_listed_in_the_experiment(corpus, tmp_path):
    items = corpus["utterances"].items
    short = replace(corpus["utterances"], items=(*items[:7], replace(items[7], length=3200, frames=5)))
    conf = conf_of(tmp_path, training={"epochs": 1})
    run({**corpus, "utterances": short}, tmp_path / "exp", conf)
    listed = (tmp_path / "exp" / "left_out.csv").read_text().splitlines()
    assert len(listed) == 2 and listed[1].startswith('9,0007,audio/0007.wav,"utterances.csv: lasts 0.20 s')


def test_marks_of_experiments_from_before_a_key_came_still_hold(corpus):
    """A key that older experiments lack counts as unchanged at its default, or all of them would be trained again."""
    from utils.mixing.recordings import AcousticOptions, Acoustics
    from utils.stages.train import LATER_DEFAULTS, _inputs

    conf = read_config(ROOT / "conf/av_tfdprnn.yml", ["--attention_heads", "0"])
    inputs = _inputs(conf, {}, corpus["utterances"], corpus["val"], Acoustics(AcousticOptions(), 16000))
    assert not LATER_DEFAULTS.keys() & inputs.keys() and "data.off_screen_prob" in inputs
    changed = read_config(ROOT / "conf/av_tfdprnn.yml", ["--interferer_prob", "0.5", "--interferer_dir", "d"])
    inputs = _inputs(changed, {}, corpus["utterances"], corpus["val"], Acoustics(AcousticOptions(), 16000))
    assert inputs["data.interferer_prob"] == "0.5"
    assert all(conf.nested[key.split(".")[0]][key.split(".")[1]] == value for key, value in LATER_DEFAULTS.items())


def test_too_large_a_batch_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="lower --batch_size"):
        run(corpus, tmp_path / "exp", conf_of(tmp_path, training={"batch_size": 9}))


def test_a_logger_that_is_not_installed_is_named(corpus, tmp_path):
    with pytest.raises(UserError, match="comet_ml is not installed"):
        run(corpus, tmp_path / "exp", conf_of(tmp_path, training={"logger": "comet"}))


def stage_3(corpus, exp_dir: Path, conf: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "utils.stages.train", "--conf", str(conf), "--exp_dir", str(exp_dir),
            "--data_dir", str(corpus["val"].path.parent), *more]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def finish(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_a_killed_training_goes_on_and_ends_with_the_same_network(corpus, tmp_path):
    conf = conf_file(tmp_path, model={"n_cues": 0}, training={"epochs": 6})
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
    ours, theirs = (torch.load(d / "best_model.pth", weights_only=True)["model"] for d in (cut, whole))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-3)

    again = finish(stage_3(corpus, cut, conf))
    assert again.returncode == 0 and "up to date" in again.stderr


EVERYTHING = {"three_voices": 0.25, "silent_voice": 0.3, "shift_frames": 2, "drop_frames": 0.5,
              "freeze_frames": 0.5, "drop_face": 0.3, "drop_all_faces": 0.3, "same_speaker": 0.3}  # fmt: skip


@pytest.mark.parametrize(("workers", "data"), [(0, {}), (1, {}), (1, EVERYTHING)])
def test_resuming_gives_the_same_curve_with_dropout_and_loader_processes(corpus, tmp_path, workers, data):
    """Regression: workers prefetched the first epoch's data again, and their seeds shifted the dropout."""
    changes = {"data": {"num_workers": workers} | data, "training": {"epochs": 3}, "visual": {"visual_dropout": 0.3}}
    if data:
        changes["loss"] = {"signal_loss": "snr", "stft_weight": 0.1}
    whole = tmp_path / "whole"
    run(corpus, whole, conf_of(tmp_path, **changes))
    cut = tmp_path / "cut"

    class Stop(Exception):
        pass

    def kill(*_):
        raise Stop

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr("utils.training.trainer.write_history", lambda path, rows: len(rows) == 2 and kill())
        run(corpus, cut, conf_of(tmp_path, **changes))  # dies in its second epoch, before that one's checkpoint
    run(corpus, cut, conf_of(tmp_path, **changes))
    assert_same_curve(cut, whole)


def test_the_moving_average_of_the_weights_is_validated_kept_and_resumed(corpus, tmp_path):
    plain, whole, cut = tmp_path / "plain", tmp_path / "whole", tmp_path / "cut"
    average = {"optim": {"ema_decay": 0.8, "lr": 0.01}}
    run(corpus, plain, conf_of(tmp_path, training={"epochs": 2}))
    run(corpus, whole, conf_of(tmp_path, training={"epochs": 2}, **average))
    assert [row["loss"] for row in history(whole)] == [row["loss"] for row in history(plain)]
    assert [row["val_loss"] for row in history(whole)] != [row["val_loss"] for row in history(plain)]
    run(corpus, tmp_path / "once", conf_of(tmp_path, training={"epochs": 1}, **average))
    state = torch.load(tmp_path / "once" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    kept = torch.load(tmp_path / "once" / "best_model.pth", weights_only=True)["model"]
    assert all(torch.equal(tensor, state[f"average.module.{name}"]) for name, tensor in kept.items())
    assert any(not torch.equal(tensor, state[f"network.{name}"]) for name, tensor in kept.items())
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("utils.training.trainer.write_history", lambda path, rows: len(rows) == 2 and stop())
        run(corpus, cut, conf_of(tmp_path, training={"epochs": 2}, **average))  # dies before its second checkpoint
    run(corpus, cut, conf_of(tmp_path, training={"epochs": 2}, **average))
    assert_same_curve(cut, whole)


def stop() -> None:
    raise KeyboardInterrupt


def test_an_average_that_never_moves_is_refused(tmp_path):
    with pytest.raises(UserError, match="ema_decay must be below 1"):
        conf_of(tmp_path, optim={"ema_decay": 1.0})


def test_what_early_stopping_ended_is_not_trained_on(corpus, tmp_path):
    changes = {"training": {"epochs": 9, "early_stop": 1}, "optim": {"lr": 1e-9}}
    run(corpus, tmp_path / "exp", conf_of(tmp_path, **changes))
    before = history(tmp_path / "exp")
    assert len(before) < 9
    run(corpus, tmp_path / "exp", conf_of(tmp_path, **changes))
    assert history(tmp_path / "exp") == before


def test_a_damaged_checkpoint_is_named(corpus, tmp_path):
    checkpoint = tmp_path / "exp" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"PK\x03\x04 half")
    with pytest.raises(UserError, match="last.ckpt: damaged"):
        run(corpus, tmp_path / "exp", conf_of(tmp_path))


def test_sound_that_vanished_is_one_line_even_from_a_loader_process(corpus, tmp_path):
    gone = replace(corpus["utterances"], data_root=tmp_path / "nowhere")
    conf = conf_of(tmp_path, data={"num_workers": 1})
    stores = [EmbeddingStore(corpus["store"])]
    with pytest.raises(UserError, match="no such file") as caught:
        train(conf, tmp_path / "exp", gone, corpus["val"], stores, stores)
    assert "\n" not in str(caught.value)


def test_another_frame_rate_than_the_conf_says_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="25 frames/s where the conf's video_fps is 50"):
        run(corpus, tmp_path / "exp", conf_of(tmp_path, visual={"video_fps": 50.0}))


def test_half_precision_on_a_cpu_falls_back_and_says_so(corpus, tmp_path, caplog):
    run(corpus, tmp_path / "exp", conf_of(tmp_path, training={"epochs": 1, "precision": "bf16"}))
    assert "training in 32 bits" in caplog.text or torch.cuda.is_available()


def test_a_changed_conf_trains_anew_and_keeps_the_old_network(corpus, tmp_path):
    exp = tmp_path / "exp"
    conf = conf_file(tmp_path, model={"n_cues": 0}, training={"epochs": 1})
    assert finish(stage_3(corpus, exp, conf)).returncode == 0
    again = finish(stage_3(corpus, exp, conf, "--train_args", "--lr 0.5"))
    assert again.returncode == 0 and "optim.lr: 0.01 -> 0.5" in again.stderr
    assert len(list(exp.glob("previous-*/best_model.pth"))) == 1
    assert yaml.safe_load((exp / "conf.yml").read_text())["optim"]["lr"] == 0.5


def test_two_processes_share_the_work(corpus, tmp_path):
    si_snr = {"model": {"n_cues": 0, "fit_to_mixture": True}, "loss": {"signal_loss": "si_snr"}}
    conf = conf_file(tmp_path, **si_snr, training={"epochs": 1, "devices": "2", "strategy": "ddp"})
    done = finish(stage_3(corpus, tmp_path / "two", conf))
    assert done.returncode == 0, done.stderr
    summary = yaml.safe_load((tmp_path / "two" / "training.json").read_text())
    assert summary["world_size"] == 2 and summary["steps"] == 2 and summary["mixtures_seen"] == 8
    # The validation of the same network on one process gives the same figure: nothing was counted twice (5 mixtures).
    network, saved = load_model(tmp_path / "two" / "best_model.pth")
    from utils.training.datasets import MixtureDataset

    dataset = MixtureDataset(corpus["val"], [], 0.4)
    losses = [
        -max(si_snr_db(voices, e["sources"][None]).item(), si_snr_db(voices.flip(1), e["sources"][None]).item())
        for e, voices in ((e, network(e["mixture"][None])) for e in (dataset[0, index] for index in range(len(dataset))))
    ]
    assert float(history(tmp_path / "two")[0]["val_loss"]) == pytest.approx(sum(losses) / 5, abs=2e-3)


@pytest.mark.parametrize(
    ("more", "said", "code"),
    [
        (["--train_args", "--lrr 3"], "unknown key 'lrr'; did you mean 'lr'", 1),
        (["--train_args", "--lr '3"], "No closing quotation", 2),
        (["--train_args", "--n_faces 0 --strategy nonsense"], "--strategy nonsense cannot be had", 1),
        (["--nonsense", "3"], "unrecognized arguments", 2),
    ],
)
def test_mistakes_are_one_line(corpus, tmp_path, more, said, code):
    done = finish(stage_3(corpus, tmp_path / "exp", conf_file(tmp_path), *more))
    assert done.returncode == code and said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_faces_need_a_front_end(corpus, tmp_path):
    done = finish(stage_3(corpus, tmp_path / "exp", conf_file(tmp_path)))
    assert done.returncode == 2 and "give --frontend_weights" in done.stderr


def test_a_model_file_of_something_else_is_named(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "best_model.pth")
    with pytest.raises(UserError, match="not a model of this recipe"):
        load_model(tmp_path / "best_model.pth")
    with pytest.raises(UserError, match="stage 3 makes it"):
        load_model(tmp_path / "absent.pth")


def test_learning_rate_warms_up_falls_on_plateaus_and_resumes():
    conf = OptimConf(lr=1.0, warmup_steps=4, schedule="plateau", plateau_patience=1, plateau_factor=0.5)
    rate = LearningRate(conf, 100)
    assert [rate.at(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    for loss in (3.0, 3.0, 3.0):
        rate.end_epoch(loss)
    assert rate.at(10) == 0.5
    again = LearningRate(conf, 100)
    again.load_state_dict(rate.state_dict())
    assert again.at(10) == 0.5
    cosine = LearningRate(replace(conf, schedule="cosine", warmup_steps=0), 100)
    assert (cosine.at(0), cosine.at(50), cosine.at(100)) == pytest.approx((1.0, 0.5, 0.0))
