"""The offset estimator: known shifts are found, what has no mouth does not count, mistakes are one line."""

import csv
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from tiny_corpus import FPS, RATE_HZ, make_corpus, make_source

from utils.data.manifest import read_manifest, write_manifest
from utils.embedding.sync import MOST_FRAMES, SyncModel, band_energies, fit, in_context, load_sync_model, offset_of
from utils.errors import UsageError, UserError
from utils.tools import av_offset


def clips(seeds, frames=50):
    for seed in seeds:
        audio, visual = make_source(np.random.default_rng(seed), frames)
        yield visual, band_energies(audio, frames, RATE_HZ, FPS)


@pytest.fixture(scope="module")
def model() -> SyncModel:
    return fit(clips(range(40)))


@pytest.mark.parametrize("late", [-6, -1, 0, 1, 3, 6])
def test_a_video_that_comes_late_is_found_late(model, late):
    for visual, energies in clips(range(100, 105), frames=60):
        shown, heard = visual[max(-late, 0) : 50 + max(-late, 0)], energies[max(late, 0) : 50 + max(late, 0)]
        offset = offset_of(model.agreement(shown, heard))
        assert round(offset.frames) == late and offset.agreement > 0.5 and offset.margin > 0.1


def test_frames_without_a_mouth_do_not_count(model):
    visual, energies = next(clips([7], frames=60))
    gappy = visual.copy()
    gappy[20:32] = 0
    assert round(offset_of(model.agreement(gappy, energies)).frames) == 0
    with pytest.raises(UserError, match="too short to tell"):
        offset_of(model.agreement(np.zeros_like(visual), energies))
    with pytest.raises(UserError, match="embeddings of 3 values where the fit was of 4"):
        model.agreement(visual[:, :3], energies)


def test_the_offset_lies_between_frames_by_a_parabola():
    agreement = np.zeros(2 * MOST_FRAMES + 1)
    places = np.arange(-MOST_FRAMES, MOST_FRAMES + 1)
    agreement = 0.9 - 0.01 * (places - 2.3) ** 2
    assert offset_of(agreement).frames == pytest.approx(2.3)


def test_the_fit_is_ridge_regression():
    pairs = list(clips(range(5)))
    ours = fit(pairs)
    values = np.concatenate([in_context(visual) for visual, _ in pairs]).astype(np.float64)
    wanted = np.concatenate([energies - energies.mean(axis=0) for _, energies in pairs])
    standard = (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6)
    by_hand = np.linalg.solve(standard.T @ standard + 1000 * np.eye(values.shape[1]), standard.T @ wanted)
    np.testing.assert_allclose(ours.weights, by_hand, rtol=1e-3, atol=1e-4)


def test_weights_are_read_back_and_nothing_else_is(model, tmp_path):
    model.save(tmp_path / "sync.npz")
    np.testing.assert_array_equal(load_sync_model(tmp_path / "sync.npz").weights, model.weights)
    np.savez(tmp_path / "other.npz", mean=np.array([None], dtype=object))
    for name in ("other.npz", "none.npz"):
        with pytest.raises(UserError, match="no weights of the offset estimator"):
            load_sync_model(tmp_path / name)
    with pytest.raises(UserError, match="too few to fit"):
        fit(clips([1]))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), frames=50, n_utterances=10)


def run(corpus, monkeypatch, manifest, out, *more):
    words = ["--manifest", manifest.path, "--embeddings", corpus["store"].parent, "--out", out, *more]
    monkeypatch.setattr(sys, "argv", ["av_offset", *map(str, words)])
    assert av_offset.main() == 0
    with open(out, newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_program_fits_estimates_and_says_how_often_it_is_right(corpus, monkeypatch, tmp_path, capsys):
    sync = tmp_path / "sync.npz"
    more = ("--fit", corpus["utterances"].path, "--sync_model", sync, "--known_shifts=-3:3")
    rows = run(corpus, monkeypatch, corpus["val"], tmp_path / "out.csv", *more)
    assert len(rows) == 10 and all(abs(float(row["offset_ms"])) < 20 for row in rows)  # five mixtures, two sources each
    said = re.sub(" {2,}", " ", capsys.readouterr().out)
    assert "| all | 70 | 100 % | 100 % |" in said and "10 clips, 0 could not be used" in said
    again = run(corpus, monkeypatch, corpus["val"], tmp_path / "again.csv", "--sync_model", sync)
    assert again == rows


def test_what_cannot_be_estimated_is_listed(corpus, monkeypatch, tmp_path):
    items = list(corpus["utterances"].items)
    items[0], items[1] = replace(items[0], mouth_path=""), replace(items[1], mouth_path="mouths/none.npz")
    common = {"corpus": "tiny", "split": "u", "data_root": corpus["utterances"].data_root, "sample_rate": RATE_HZ, "n_src": 1}
    manifest = write_manifest(tmp_path / "u.csv", items=items, **common)
    fit_to = ("--fit", corpus["utterances"].path)
    with pytest.raises(UserError, match=r"failed_out.csv: 2 items cannot be used.*--max_failed 2"):
        run(corpus, monkeypatch, manifest, tmp_path / "out.csv", *fit_to, "--max_failed", 1)
    assert not (tmp_path / "out.csv").exists()
    rows = run(corpus, monkeypatch, manifest, tmp_path / "out.csv", *fit_to, "--max_failed", 2)
    listed = (tmp_path / "failed_out.csv").read_text()
    assert len(rows) == 8 and "has no mouth" in listed and "no embedding of mouths/none.npz" in listed
    with pytest.raises(UsageError, match="--fit CSV is needed"):
        run(corpus, monkeypatch, manifest, tmp_path / "out.csv")


def test_clips_that_cannot_be_fitted_to_are_listed_and_do_not_end_the_fit(corpus, monkeypatch, tmp_path):
    """Regression: clips without embeddings were dropped without a word, and one broken sound ended the fit."""
    items = list(corpus["utterances"].items)
    (tmp_path / "broken.wav").write_bytes(b"not audio")
    items[0] = replace(items[0], mouth_path="mouths/none.npz")
    items[1] = replace(items[1], audio_path=str(tmp_path / "broken.wav"))
    common = {"corpus": "tiny", "split": "u", "data_root": corpus["utterances"].data_root, "sample_rate": RATE_HZ, "n_src": 1}
    fit_to = ("--fit", write_manifest(tmp_path / "u.csv", items=items, **common).path, "--sync_model", tmp_path / "sync.npz")
    with pytest.raises(UserError, match=r"failed_fit_out.csv: 2 items cannot be used"):
        run(corpus, monkeypatch, corpus["val"], tmp_path / "out.csv", *fit_to, "--max_failed", 1)
    assert not (tmp_path / "sync.npz").exists()
    assert len(run(corpus, monkeypatch, corpus["val"], tmp_path / "out.csv", *fit_to, "--max_failed", 2)) == 10
    listed = (tmp_path / "failed_fit_out.csv").read_text()
    assert "no embedding of mouths/none.npz" in listed and "cannot be read as audio" in listed
    with pytest.raises(UserError, match="too few to fit"):
        few = ("--fit", _without_mouths(corpus, tmp_path), "--max_failed", 10)
        run(corpus, monkeypatch, corpus["val"], tmp_path / "few.csv", *few)
    assert (tmp_path / "failed_fit_few.csv").read_text().count("has no mouth") == 10


def test_too_many_clips_without_mouths_are_refused_before_a_sound_is_read(corpus, monkeypatch, tmp_path):
    monkeypatch.setattr(av_offset, "read_audio", lambda *_, **__: pytest.fail("read although it will be refused"))
    few, fit_to = _without_mouths(corpus, tmp_path), corpus["utterances"].path
    with pytest.raises(UserError, match="failed_fit_out.csv: 10 items cannot be used.*--max_failed 10"):
        run(corpus, monkeypatch, corpus["val"], tmp_path / "out.csv", "--fit", few, "--max_failed", 9)
    monkeypatch.setattr(av_offset, "_fitted", lambda _: None)
    with pytest.raises(UserError, match="failed_out.csv: 10 items cannot be used"):
        run(corpus, monkeypatch, read_manifest(few), tmp_path / "out.csv", "--fit", fit_to)
    assert (tmp_path / "failed_out.csv").read_text().count("has no mouth") == 10


def _without_mouths(corpus, folder):
    items = [replace(item, mouth_path="") for item in corpus["utterances"].items]
    common = {"corpus": "tiny", "split": "n", "data_root": corpus["utterances"].data_root, "sample_rate": RATE_HZ, "n_src": 1}
    return write_manifest(folder / "n.csv", items=items, **common).path


def test_a_face_without_a_reference_is_not_compared_with_the_mixture_unasked(corpus, monkeypatch, tmp_path):
    """Regression: --heard source took the mixture for it, in silence."""
    items = list(corpus["val"].items)
    items[0] = replace(items[0], source_paths=("", items[0].source_paths[1]))
    common = {"corpus": "tiny", "split": "v", "data_root": corpus["val"].data_root, "sample_rate": RATE_HZ, "n_src": 2}
    manifest = write_manifest(tmp_path / "v.csv", items=items, **common)
    words = ("--fit", corpus["utterances"].path, "--max_failed", 1)
    assert len(run(corpus, monkeypatch, manifest, tmp_path / "out.csv", *words)) == 9
    assert "has no reference (--heard mixture" in (tmp_path / "failed_out.csv").read_text()
    assert len(run(corpus, monkeypatch, manifest, tmp_path / "mix.csv", *words, "--heard", "mixture")) == 10
