"""Video out of step with the sound at test: the embeddings shown, the folders of estimates, the table and picture."""

import argparse
import csv
import json
import sys

import numpy as np
import pytest
import torch
from separation_helpers import Stage, make_experiment, make_folder, make_lips, state_of

from utils.embedding.store import EmbeddingStore, EmbeddingWriter, Source
from utils.scoring.items import ScoreItem
from utils.scoring.metrics import score_mixture
from utils.scoring.offsets import offset_rows, offset_table
from utils.separation.offsets import ShiftedStore
from utils.separation.options import offsets
from utils.stages import score
from utils.training.augmentation import shift_frames


@pytest.mark.parametrize("by", [-30, -5, -1, 0, 1, 5, 30])
def test_what_is_shown_is_the_clip_shifted_as_a_whole(tmp_path, by):
    clip = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    with EmbeddingWriter(tmp_path / "store", "float32") as writer:
        writer.add("a", clip, Source(0, 0, ""))
    store, wanted = ShiftedStore(EmbeddingStore(tmp_path / "store"), by), shift_frames(clip, by)
    np.testing.assert_array_equal(store.get("a"), wanted)
    for first, count in ((0, 20), (3, 4), (0, 1), (19, 1), (12, 8)):
        np.testing.assert_array_equal(store.get("a", first, count), wanted[first : first + count])
    np.testing.assert_array_equal(store.get("a", 15, 6)[:5], wanted[15:])  # one frame past the end, as a store has it
    assert "a" in store and store.frames("a") == 20


def test_spans_and_lists_of_offsets_are_read():
    assert offsets("-2:2") == (-2, -1, 1, 2) and offsets("-5,1,0") == (-5, 1) and offsets("2:4") == (2, 3, 4)
    assert offsets("") == () == offsets("0")
    for wrong in ("5:-5", "a", "1.5", "-500:3", "1,,2"):
        with pytest.raises(argparse.ArgumentTypeError, match="-5:5"):
            offsets(wrong)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A sweep over a tiny test set; its sources are noise, long enough for every metric but PESQ and STOI."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("sweep")
    make_experiment(root / "exp", make_lips(root / "lips.pth"))
    make_folder(root / "talks")
    with pytest.MonkeyPatch.context() as patch:
        sweep(patch, root)
    return root


def sweep(patch, root, *more):
    """Stage 4 with the sweep, then stage 5."""
    Stage(root, patch)(root / "exp", root / "talks", "--av_offset_sweep=-2,1", *more)
    patch.setattr(sys, "argv", ["score", "--exp_dir", str(root / "exp"), "--test_dir", str(root / "talks"), "--nj", "1"])
    assert score.main() == 0


def test_a_sweep_leaves_a_table_and_a_picture(done):
    results = done / "exp" / "results" / "talks"
    with open(results / "offset_sweep.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["offset_frames"] for row in rows] == ["-2", "0", "1"] and {row["n"] for row in rows} == {"3"}
    overall = json.loads((results / "final_metrics.json").read_text())["overall"]["metrics"]
    assert float(rows[1]["si_snr_imp"]) == overall["si_snr_imp"]["mean"]
    assert len({row["si_snr"] for row in rows}) == 3  # the network looks
    assert "| all" in (results / "offset_sweep.md").read_text()
    assert (results / "offset_sweep.png").stat().st_size > 5000


def test_a_second_sweep_makes_nothing_again_and_a_wider_one_only_what_is_new(done, monkeypatch, caplog):
    caplog.set_level("INFO")
    folder = done / "exp" / "separated" / "talks"
    before = state_of(folder)
    sweep(monkeypatch, done)
    assert state_of(folder) == before
    assert "stage 4: up to date" in caplog.text and "stage 5: up to date" in caplog.text
    sweep(monkeypatch, done, "--av_offset_sweep=-2,1,2")
    after = state_of(folder)
    assert {name: after[name] for name in before} == before and len(after) == len(before) * 4 // 3
    with open(done / "exp/results/talks/offset_sweep.csv", newline="") as handle:
        assert [row["offset_frames"] for row in csv.DictReader(handle)] == ["-2", "0", "1", "2"]


def test_only_offsets_that_were_asked_for_last_are_scored_and_the_others_are_kept(done, monkeypatch):
    folder = done / "exp" / "separated" / "talks"
    sweep(monkeypatch, done)
    before = state_of(folder)
    sweep(monkeypatch, done, "--av_offset_sweep=1")
    assert state_of(folder) == before and not (folder / "offset_-2/separated.csv").exists()
    with open(done / "exp/results/talks/offset_sweep.csv", newline="") as handle:
        assert [row["offset_frames"] for row in csv.DictReader(handle)] == ["0", "1"]
    sweep(monkeypatch, done)
    assert state_of(folder) == before and (folder / "offset_-2/separated.csv").exists()


@pytest.mark.parametrize("words", [("--window_sec", "0.2", "--hop_sec", "0.12"), ("--subtype", "pcm16")])
def test_all_offsets_are_made_with_the_same_options(tmp_path, monkeypatch, words):
    exp_dir, talks = make_experiment(tmp_path / "exp", make_lips(tmp_path / "lips.pth")), make_folder(tmp_path / "talks")
    stage = Stage(tmp_path, monkeypatch)
    before = state_of(stage(exp_dir, talks, "--av_offset_sweep", "1:1"))
    after = state_of(stage(exp_dir, talks, "--av_offset_sweep", "1:1", *words))
    assert before.keys() == after.keys() and not [name for name in before if before[name] == after[name]]


def test_an_audio_only_experiment_has_nothing_to_shift(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    folder = Stage(tmp_path, monkeypatch)(
        make_experiment(tmp_path / "exp", None), make_folder(tmp_path / "talks"), "--av_offset_sweep=1:2"
    )
    assert "audio-only: no visual embeddings to swap or to shift" in caplog.text
    assert (folder / "separated.csv").is_file() and not list(folder.glob("offset_*"))


def test_silent_outputs_are_counted_by_offset():
    """A target that is heard and got silence is in no mean: only a count tells of it."""
    scores = [score_mixture(heard + 0.1, heard[None], out[None], 16000) for heard, out in _outputs()]
    results = [{"rows": rows, "trimmed_samples": 0} for rows in scores]
    items = [ScoreItem(str(n), "m", ("s",), ("e",), "ab"[n > 0]) for n in range(len(results))]
    rows = offset_rows(1, items, results)
    assert [(row["subset"], row["n"], row["n_silent_output"]) for row in rows] == [("all", 1, 1), ("a", 1, 0), ("b", 0, 1)]
    table = offset_table(rows)
    assert "silent outputs" in table and "are in no mean" in table
    assert "silent outputs" not in offset_table(offset_rows(1, items[:1], results[:1]))


def _outputs():
    heard = np.random.default_rng(0).standard_normal((2, 2000))
    return [(heard[0], heard[0] + 0.1 * heard[1]), (heard[1], np.zeros(2000))]
