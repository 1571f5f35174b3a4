"""Stage 4 on tiny networks: outputs, lists, bad mouths, swapped and shuffled visual embeddings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from separation_helpers import (
    LENGTHS,
    RATE_HZ,
    Stage,
    copy_experiment,
    make_experiment,
    make_folder,
    make_lips,
    mixture_row,
    rows_of,
    state_of,
)

from utils.data.files import read_json
from utils.data.manifest import write_manifest
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.training.experiment import load_model


@pytest.fixture(scope="module")
def lips(tmp_path_factory) -> Path:
    return make_lips(tmp_path_factory.mktemp("lips") / "lips.pth.tar")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, lips) -> Path:
    return make_experiment(tmp_path_factory.mktemp("av") / "exp" / "av", lips)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory) -> Path:
    return make_experiment(tmp_path_factory.mktemp("baseline") / "exp" / "baseline", None)


@pytest.fixture
def stage(tmp_path, monkeypatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


@pytest.fixture
def experiment(tmp_path, trained) -> Path:
    """A copy of the trained experiment, without outputs."""
    return copy_experiment(trained, tmp_path / "exp" / "av")


@pytest.mark.parametrize(("split", "references"), [("", False), ("test", True)])
def test_a_folder_in_either_form_becomes_estimates_of_the_same_length(stage, experiment, tmp_path, split, references):
    root = make_folder(tmp_path / "mine", references, split)
    folder = stage(experiment, root)
    rows = rows_of(folder / "separated.csv")
    assert list(rows[0]) == [
        "mixture_ID", "mixture_path", "source_1_path", "source_2_path", "estimate_1_path", "estimate_2_path", "subset",
        "separated_by", "order_certainty", "gain",
    ]  # fmt: skip
    assert [row["mixture_ID"] for row in rows] == sorted(LENGTHS)
    for row in rows:
        mixture = soundfile.info(row["mixture_path"])
        assert Path(row["mixture_path"]).is_absolute()
        assert bool(row["source_1_path"]) == references
        assert row["separated_by"] == "av"
        for k in (1, 2):
            assert row[f"estimate_{k}_path"] == f"s{k}/{row['mixture_ID']}.wav"
            estimate = soundfile.info(folder / row[f"estimate_{k}_path"])
            assert (estimate.frames, estimate.samplerate, estimate.subtype) == (mixture.frames, RATE_HZ, "FLOAT")
    assert rows_of(folder / "failed.csv") == []
    assert (tmp_path / "data" / "mine" / "test.csv").is_file()


def test_batched_estimates_are_those_of_single_mixtures_and_the_network_gets_the_right_faces(stage, experiment, tmp_path):
    from utils.embedding.store import EmbeddingStore
    from utils.training.experiment import load_model

    rng = np.random.default_rng(1)
    root = make_folder(tmp_path / "mine")
    for part in ("mix", "s1", "s2"):
        for name in LENGTHS:  # all equally long, so that they are one batch
            soundfile.write(root / "audio" / part / f"{name}.wav", rng.standard_normal(6400) * 0.2, RATE_HZ)
    folder = stage(experiment, root)
    name = read_json(experiment / "frontend.json")["store_name"]
    store = EmbeddingStore(tmp_path / "dump" / "embeddings" / name / "mine")
    network = load_model(experiment / "best_model.pth")
    for name in LENGTHS:
        mixture, _ = soundfile.read(root / "audio" / "mix" / f"{name}.wav", dtype="float32")
        visual = np.stack([store.get(f"mouths/{face}.npz") for face in name.split("_")])
        with torch.inference_mode():
            expected = network(torch.from_numpy(mixture)[None], torch.from_numpy(visual)[None])[0].numpy()
        for k in (0, 1):
            estimate, _ = soundfile.read(folder / f"s{k + 1}" / f"{name}.wav", dtype="float32")
            assert np.abs(estimate - expected[k]).max() < 1e-4


def test_long_mixtures_are_streamed_in_windows_to_the_same_length(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "mine")
    folder = stage(experiment, root, "--window_sec", "0.2", "--hop_sec", "0.12")
    for row in rows_of(folder / "separated.csv"):
        assert soundfile.info(folder / row["estimate_1_path"]).frames == soundfile.info(row["mixture_path"]).frames


def test_a_second_call_makes_nothing_and_does_not_import_the_network(stage, experiment, tmp_path, monkeypatch, caplog):
    root = make_folder(tmp_path / "mine")
    folder = stage(experiment, root)
    before = state_of(folder)
    monkeypatch.setattr("utils.separation.test_sets._separate", lambda *_: pytest.fail("it was up to date"))
    caplog.set_level("INFO")
    stage(experiment, root)
    assert "up to date" in caplog.text
    assert state_of(folder) == before


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_bad_mouth_is_named_and_its_mixtures_are_skipped(stage, experiment, tmp_path, damage):
    root = make_folder(tmp_path / "mine")
    if damage == "missing":
        (root / "mouths" / "c.npz").unlink()
    else:
        (root / "mouths" / "c.npz").write_bytes(b"no archive at all")
    with pytest.raises(UserError, match=r"2 of 3 mixtures could not be separated.*failed.csv"):
        stage(experiment, root)
    folder = stage(experiment, root, "--max_failed", "2")
    assert [row["mixture_ID"] for row in rows_of(folder / "separated.csv")] == ["a_b"]
    failed = rows_of(folder / "failed.csv")
    assert [row["id"] for row in failed] == ["b_c", "c_a"]
    assert all(row["path"] == "mouths/c.npz" for row in failed)
    assert all(("no such file" if damage == "missing" else "not an npz") in row["reason"] for row in failed)


def test_the_audio_only_baseline_takes_over_where_mouths_are_bad(stage, experiment, baseline, tmp_path):
    root = make_folder(tmp_path / "mine")
    (root / "mouths" / "c.npz").unlink()
    folder = stage(experiment, root, "--fallback_exp_dir", str(baseline), "--cue_test", "true")
    made_by = {row["mixture_ID"]: row["separated_by"] for row in rows_of(folder / "separated.csv")}
    unknown = "baseline (audio-only, order unknown)"
    assert made_by == {"a_b": "av", "b_c": unknown, "c_a": unknown}
    assert rows_of(folder / "failed.csv") == []
    assert [row["mixture_ID"] for row in rows_of(folder / "cues_swapped" / "separated.csv")] == ["a_b"]
    with pytest.raises(UserError, match="needs visual embeddings itself"):
        stage(experiment, root, "--fallback_exp_dir", str(experiment))


def test_an_audio_only_experiment_separates_without_embeddings(stage, baseline, tmp_path):
    root = make_folder(tmp_path / "mine")
    (root / "mouths" / "c.npz").write_bytes(b"")
    folder = stage(copy_experiment(baseline, tmp_path / "exp" / "baseline"), root, "--cue_test", "true")
    rows = rows_of(folder / "separated.csv")
    assert {row["separated_by"] for row in rows} == {"baseline (audio-only, order unknown)"}
    assert len(rows) == 3
    assert not (tmp_path / "dump").exists()
    assert not (folder / "cues_swapped").exists()


def test_pcm16_has_one_gain_for_all_estimates_and_never_clips(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "mine")
    for part in ("mix", "s1", "s2"):
        data, _ = soundfile.read(root / "audio" / part / "a_b.wav", dtype="float32")
        soundfile.write(root / "audio" / part / "a_b.wav", data * 100, RATE_HZ, subtype="FLOAT")
    folder = stage(experiment, root)
    loud = [soundfile.read(folder / f"s{k}" / "a_b.wav", dtype="float32")[0] for k in (1, 2)]
    peak = max(np.abs(estimate).max() for estimate in loud)
    assert peak > 1.0
    stage(experiment, root, "--subtype", "pcm16")
    gains = {row["mixture_ID"]: float(row["gain"]) for row in rows_of(folder / "separated.csv")}
    assert gains["a_b"] == pytest.approx(1.0 / peak, rel=1e-6)
    for estimate, name in zip(loud, ("s1", "s2"), strict=True):
        data, _ = soundfile.read(folder / name / "a_b.wav", dtype="float64")
        assert soundfile.info(folder / name / "a_b.wav").subtype == "PCM_16"
        assert np.abs(data - estimate * gains["a_b"]).max() < 2 / 32768
    quiet = [name for name in LENGTHS if gains[name] == 1.0]
    assert all(np.abs(soundfile.read(folder / "s1" / f"{name}.wav")[0]).max() < 1.0 for name in quiet)


def test_swapped_embeddings_swap_the_estimates_and_shuffled_ones_come_from_other_mixtures(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "mine")
    rng = np.random.default_rng(2)
    soundfile.write(root / "audio/mix/d_e.wav", rng.standard_normal(6400) * 0.1, RATE_HZ)
    for part in ("s1", "s2"):
        soundfile.write(root / f"audio/{part}/d_e.wav", rng.standard_normal(6400) * 0.1, RATE_HZ)
    for face in "de":
        np.savez(root / f"mouths/{face}.npz", data=rng.integers(0, 256, (10, 96, 96), dtype=np.uint8))
    folder = stage(experiment, root, "--cue_test", "true")
    for name in (*LENGTHS, "d_e"):
        for own, swapped in (("s1", "s2"), ("s2", "s1")):
            estimate, _ = soundfile.read(folder / own / f"{name}.wav")
            other, _ = soundfile.read(folder / "cues_swapped" / swapped / f"{name}.wav")
            shuffled, _ = soundfile.read(folder / "cues_shuffled" / own / f"{name}.wav")
            scale = np.abs(estimate).max()
            assert np.abs(estimate - other).max() < 1e-4 * scale
            assert shuffled.shape == estimate.shape
            assert np.abs(estimate - shuffled).max() > 1e-4 * scale
    first = state_of(folder / "cues_shuffled")
    for path in folder.rglob("made.jsonl"):
        path.unlink()
    stage(experiment, root, "--cue_test", "true", "--force")
    assert {k: v[1] for k, v in state_of(folder / "cues_shuffled").items()} == {k: v[1] for k, v in first.items()}
    stage(experiment, root)
    assert not (folder / "cues_swapped" / "separated.csv").exists(), "stage 5 must not score a cue test not asked for"


def test_a_prepared_csv_is_separated_under_the_name_of_its_corpus(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "raw")
    items = [
        mixture_row("a_b", "a_b", 6400, ("a", "b"), "hard"),
        mixture_row("faceless", "b_c", 6401, ("a", "")),
        mixture_row("wrong", "c_a", 9000, ("a", "c")),
    ]
    path = tmp_path / "data" / "corpus" / "test.csv"
    write_manifest(path, corpus="corpus", split="test", data_root=root, sample_rate=RATE_HZ, n_src=2, items=items)
    stage(experiment, path, "--max_failed", "2")
    folder = experiment / "separated" / "corpus_test"
    assert [(row["mixture_ID"], row["subset"]) for row in rows_of(folder / "separated.csv")] == [("a_b", "hard")]
    reasons = {row["id"]: row["reason"] for row in rows_of(folder / "failed.csv")}
    assert "mouth_2_path is empty" in reasons["faceless"]
    assert "6399 samples" in reasons["wrong"]


def test_a_network_for_several_faces_extracts_a_single_one_beside_whoever_else_is_heard(stage, experiment, tmp_path):
    root = make_folder(tmp_path / "mine")
    row = mixture_row("a", "a_b", LENGTHS["a_b"], ("a", ""))
    item = replace(row, source_paths=("",), mouth_paths=row.mouth_paths[:1], speakers=("",))
    manifest = write_manifest(
        tmp_path / "data/one/test.csv", corpus="one", split="test", data_root=root, sample_rate=RATE_HZ, n_src=1, items=[item]
    )
    folder = stage(experiment, manifest.path, "--test_name", "one").parent / "one"
    estimate, _ = soundfile.read(folder / "s1/a.wav", dtype="float32")
    mixture = torch.from_numpy(soundfile.read(root / "audio/mix/a_b.wav", dtype="float32")[0])
    (store,) = (tmp_path / "dump/embeddings").glob("*/one")
    face = torch.from_numpy(EmbeddingStore(store).get("mouths/a.npz", 0, 10))
    network = load_model(experiment / "best_model.pth")
    both = network.separate(mixture, torch.stack([face, torch.zeros_like(face)]))
    np.testing.assert_allclose(estimate, both[0], atol=1e-5)


def test_real_recordings_become_estimates(shared_data, stage, experiment, tmp_path):
    root = tmp_path / "few"
    for name in sorted((shared_data / "grid_dla/audio/test/mix").glob("*.flac"))[:2]:
        for part in ("mix", "s1", "s2"):
            target = root / "audio/test" / part / name.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((shared_data / "grid_dla/audio/test" / part / name.name).read_bytes())
        for face in name.stem.split("_"):
            (root / "mouths").mkdir(exist_ok=True)
            (root / "mouths" / f"{face}.npz").write_bytes((shared_data / "grid_dla/mouths" / f"{face}.npz").read_bytes())
    folder = stage(experiment, root)
    assert len(rows_of(folder / "separated.csv")) == 2
    assert all(soundfile.info(folder / name).frames == 32000 for name in state_of(folder))
