"""Faces out of step at test: what the network is shown, and the table and picture that come of it."""

import argparse
import csv
import json
import sys

import numpy as np
import pytest
import torch
from separation_helpers import Stage, make_experiment, make_folder, make_lips, state_of

from utils.embedding.store import EmbeddingStore, EmbeddingWriter, Source
from utils.errors import UserError
from utils.scoring.items import ScoreItem
from utils.scoring.metrics import score_mixture
from utils.scoring.offsets import offset_rows, offset_table
from utils.separation.offsets import ShiftedStore
from utils.stages import offset_sweep, score
from utils.stages.offset_sweep import offsets
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
    assert offsets("-5:5") == list(range(-5, 6)) and offsets("-5,1") == [-5, 0, 1] and offsets("2:4") == [0, 2, 3, 4]
    for wrong in ("", "5:-5", "a", "1.5", "-500:3", "1,,2"):
        with pytest.raises(argparse.ArgumentTypeError, match="-5:5"):
            offsets(wrong)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A sweep over a tiny test set; voices are noise, of length enough for every metric but PESQ and STOI."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("sweep")
    exp_dir = make_experiment(root / "exp", make_lips(root / "lips.pth"))
    folder = make_folder(root / "talks")
    with pytest.MonkeyPatch.context() as patch:
        Stage(root, patch)(exp_dir, folder)
        patch.setattr(sys, "argv", ["score", "--exp_dir", str(exp_dir), "--test_name", "talks", "--nj", "1"])
        assert score.main() == 0
        sweep(patch, root)
    return root


def sweep(patch, root, *more):
    words = ["--exp_dir", root / "exp", "--test_dir", root / "talks", "--av_offset_sweep=-2,1", "--nj", "1", "--id", "cpu"]
    words += ["--dump_dir", root / "dump", "--data_root_dir", root / "data", *more]
    patch.setattr(sys, "argv", ["offset_sweep", *map(str, words)])
    assert offset_sweep.main() == 0


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


def test_a_second_sweep_makes_nothing_again_and_a_wider_one_only_what_is_new(done, monkeypatch):
    folder = done / "exp" / "separated" / "talks"
    before = state_of(folder)
    sweep(monkeypatch, done)
    assert state_of(folder) == before
    sweep(monkeypatch, done, "--av_offset_sweep=-2,1,2")
    after = state_of(folder)
    assert {name: after[name] for name in before} == before and len(after) == len(before) * 4 // 3


def test_what_stage_4_made_is_needed_and_faces_are(done, monkeypatch):
    with pytest.raises(UserError, match="stage 4 .* makes it"):
        sweep(monkeypatch, done, "--test_name", "other", "--test_dir", str(done / "data" / "talks" / "test.csv"))
    make_experiment(done / "blind", None)
    with pytest.raises(UserError, match="audio-only"):
        sweep(monkeypatch, done, "--exp_dir", str(done / "blind"))


@pytest.mark.parametrize("words", [("--window_sec", "4", "--hop_sec", "3"), ("--subtype", "pcm16")])
def test_voices_that_stage_4_made_with_other_options_are_not_taken_for_offset_0(done, monkeypatch, words):
    before = state_of(done / "exp" / "separated" / "talks")
    with pytest.raises(
        UserError, match=r"3 of 3 mixtures \(first: a_b\) are not as --window_sec .* give the options that stage 4"
    ):
        sweep(monkeypatch, done, *words)
    assert state_of(done / "exp" / "separated" / "talks") == before


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
