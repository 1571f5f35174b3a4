"""Ready-made features in place of a lip network: found by name, checked, and used by all stages as embeddings are."""

import csv
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tiny_corpus import DIM, make_corpus

from utils.data.files import read_json, write_json
from utils.data.manifest import read_manifest
from utils.embedding.embed import plan_embedding
from utils.embedding.frontends import load_frontend, store_name
from utils.embedding.precomputed import PrecomputedEmbeddings
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.stages import embed, score, separate, train

FRAMES = 20
TRAIN_ARGS = (
    "--epochs 1 --epoch_size 4 --batch_size 2 --num_workers 0 --segment_sec 0.4 --off_screen_prob 0 --extra_speaker_prob 0 "
    "--bands 8x4 --bn_chan 8 --hid_size 8 --n_repeats 2 --n_audio_repeats 1 --visual_chan 4 --visual_hid 8 --visual_blocks 1 "
    "--n_filters 64 --kernel_size 64 --stride 32"
)


def make_features(root: Path, folder: Path) -> dict[str, np.ndarray]:
    """A tiny corpus, which has no mouth crops, and its embeddings as files of their own; gives these by id."""
    store = EmbeddingStore(make_corpus(root, frames=FRAMES)["store"])
    features = {Path(key).stem: store.get(key) for key in store.keys()}  # noqa: SIM118 (not a dict)
    folder.mkdir(parents=True)
    for name, vectors in features.items():
        np.save(folder / f"{name}.npy", vectors)
    return features


@pytest.fixture
def features(tmp_path) -> dict[str, np.ndarray]:
    return make_features(tmp_path, tmp_path / "lips")


def run_embed(monkeypatch: pytest.MonkeyPatch, root: Path, *more: str) -> int:
    paths = {"data_dir": root / "data", "frontend_weights": root / "lips", "dump_dir": root / "dump"}
    options = [f"--{name}={path}" for name, path in paths.items()]
    monkeypatch.setattr(sys, "argv", ["embed", *options, "--id", "cpu", *more])
    return embed.main()


def store_of(root: Path) -> EmbeddingStore:
    return EmbeddingStore(root / "dump/embeddings" / store_name(load_frontend(root / "lips"), "centre", "float16") / "tiny")


def test_features_become_the_store_of_a_front_end_of_their_own(tmp_path, features, monkeypatch, caplog):
    caplog.set_level("INFO")
    assert run_embed(monkeypatch, tmp_path) == 0
    store = store_of(tmp_path)
    assert store.dim == DIM and len(store) == len(features)
    for name, vectors in features.items():
        np.testing.assert_array_equal(store.get(f"mouths/{name}.npz"), vectors.astype(np.float16).astype(np.float32))
    facts = read_json(store.root.parent / "frontend.json")
    assert (facts["network"], facts["name"], facts["dim"]) == ("precomputed embeddings", "lips", DIM)
    caplog.clear()
    assert run_embed(monkeypatch, tmp_path) == 0 and "up to date" in caplog.text
    np.save(tmp_path / "lips/0003.npy", features["0003"] + 1)
    assert run_embed(monkeypatch, tmp_path) == 0 and "1 embedded now, 0 failed" in caplog.text
    assert store_of(tmp_path).get("mouths/0003.npz")[0, 0] == features["0003"].astype(np.float16)[0, 0] + 1


def test_another_folder_name_or_size_is_another_front_end(tmp_path, features):
    one = load_frontend(tmp_path / "lips")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "lips").rename(tmp_path / "elsewhere/lips")
    assert store_name(load_frontend(tmp_path / "elsewhere/lips"), "centre", "float16") == store_name(one, "centre", "float16")
    names = {store_name(one, "centre", precision) for precision in ("float16", "float32")}
    (tmp_path / "elsewhere/lips").rename(tmp_path / "muse")
    names.add(store_name(load_frontend(tmp_path / "muse"), "centre", "float16"))
    for path in (tmp_path / "muse").iterdir():
        np.save(path, np.zeros((FRAMES, DIM + 1), np.float32))
    names.add(store_name(load_frontend(tmp_path / "muse"), "centre", "float16"))
    assert len(names) == 4


def test_missing_and_wrong_features_are_listed_row_by_row_and_refused_above_the_limit(tmp_path, features, monkeypatch):
    lips, good = tmp_path / "lips", features["0001"]
    (lips / "0001.npy").unlink()
    wrong = {
        "0002": (good[:, :-1], f"{DIM - 1} values a frame where"),
        "0003": (good.astype(int), "int64 (20, 4) where float (frames, dim) is expected"),
        "0004": (good[None], "float32 (1, 20, 4) where float"),
        "0005": (np.where(good > 0, np.nan, good), "not finite"),
        "0006": (good[:-2], "18 frames where the manifest says 20"),
        "0007": (good.astype(object), "cannot be read"),
    }
    for name, (vectors, _) in wrong.items():
        np.save(lips / f"{name}.npy", vectors, allow_pickle=True)
    with pytest.raises(UserError, match=r"failed\.csv: 7 of 8 mouths could not be embedded.*--max_failed"):
        run_embed(monkeypatch, tmp_path, "--max_failed", "6")
    with open(store_of(tmp_path).root / "failed.csv", newline="") as handle:
        rows = {row["id"]: row for row in csv.DictReader(handle)}
    assert f"{lips / '0001.npy'}: no such file" in rows.pop("0000_0001")["reason"]
    reasons = {Path(row["path"]).stem: row["reason"] for row in rows.values()}
    for name, (_, reason) in wrong.items():
        assert reason in reasons[name] and str(lips / f"{name}.npy") in reasons[name]
    assert run_embed(monkeypatch, tmp_path, "--max_failed", "7") == 0
    assert len(store_of(tmp_path)) == 1


@pytest.mark.parametrize(
    ("there", "goes_on", "fits"), [(19, False, True), (21, False, True), (22, False, False), (90, True, True)]
)
def test_one_frame_more_or_less_is_tolerated_and_the_mouth_of_a_cut_mixture_may_go_on(tmp_path, there, goes_on, fits):
    np.save(tmp_path / "a.npy", np.ones((there, 3)))
    found = PrecomputedEmbeddings(tmp_path)
    if fits:
        assert found.read(found.path_of("mouths/a.npz"), 20, goes_on).dtype == np.float32
    else:
        with pytest.raises(UserError, match=f"{there} frames where the manifest says 20"):
            found.read(found.path_of("mouths/a.npz"), 20, goes_on)


def test_features_are_found_in_the_extraction_familys_folders(tmp_path):
    path = tmp_path / "lip/train/id08108/RC_dWf-zdY/00197.npy"
    path.parent.mkdir(parents=True)
    np.save(path, np.ones((20, 512), np.float32))
    found = PrecomputedEmbeddings(tmp_path / "lip")
    assert found.dim == 512 and found.path_of("mouths/id08108_RC_dWf-zdY_00197.npz") == path
    assert found.path_of("mouths/id00001_x_00001.npz") == tmp_path / "lip/id00001_x_00001.npy"
    other = tmp_path / "lip/val/id08108/RC_dWf-zdY/00197.npy"
    other.parent.mkdir(parents=True)
    other.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"val.*/00197.npy may both be id08108_RC_dWf-zdY_00197"):
        PrecomputedEmbeddings(tmp_path / "lip").path_of("mouths/id08108_RC_dWf-zdY_00197.npz")


def test_two_mouths_of_one_name_are_refused_where_features_are_found_by_name(tmp_path, features):
    table = tmp_path / "data/val.csv"
    table.write_text(table.read_text().replace("mouths/0001.npz", "other/0000.npz"))
    with pytest.raises(UserError, match="other/0000.npz: mouths/0000.npz has the same name"):
        plan_embedding([read_manifest(table)], load_frontend(tmp_path / "lips"), tmp_path / "dump", "centre", "float16", 4, 1)


def test_what_a_folder_of_features_cannot_be_asked_for_is_one_line(tmp_path, features, monkeypatch):
    with pytest.raises(UserError, match="no mirror image"):
        run_embed(monkeypatch, tmp_path, "--views", "centre,flip")
    with pytest.raises(UserError, match="leave --frontend_conf and --frontend_layer out"):
        run_embed(monkeypatch, tmp_path, "--frontend_layer", "tcn")
    for path in (tmp_path / "lips").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="lips: holds no ID.npy"):
        run_embed(monkeypatch, tmp_path)
    (tmp_path / "lips/0000.npy").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="0000.npy: cannot be read"):
        run_embed(monkeypatch, tmp_path)


def run_stage(monkeypatch: pytest.MonkeyPatch, stage: ModuleType, **options: object) -> int:
    monkeypatch.setattr(sys, "argv", [stage.__name__, *(f"--{name}={value}" for name, value in options.items())])
    return stage.main()


def test_training_separation_and_scoring_take_them_and_another_test_set_brings_its_own(tmp_path, features, monkeypatch, caplog):
    caplog.set_level("INFO")
    run_embed(monkeypatch, tmp_path)
    exp, lips, dump = tmp_path / "exp", tmp_path / "lips", {"dump_dir": tmp_path / "dump"}
    conf = {"conf": "conf/av_tfdprnn.yml", "train_args": TRAIN_ARGS, "data_dir": tmp_path / "data"}
    assert run_stage(monkeypatch, train, exp_dir=exp, frontend_weights=lips, **conf, **dump) == 0
    assert read_json(exp / "frontend.json")["description"]["network"] == "precomputed embeddings"

    test = {"exp_dir": exp, "test_dir": tmp_path / "data/val.csv", "test_name": "own", "id": "cpu", **dump}
    run_stage(monkeypatch, separate, **test)
    run_stage(monkeypatch, score, exp_dir=exp, test_name="own", nj=1)
    assert read_json(exp / "results/own/final_metrics.json")["overall"]["n"] == 5
    run_stage(monkeypatch, separate, **test)
    assert "stage 4: up to date" in caplog.text
    times = {path: path.stat().st_mtime_ns for path in (exp / "separated/own").glob("s?/*.wav")}
    np.save(lips / "0000.npy", features["0000"][::-1])
    run_stage(monkeypatch, separate, **test)
    assert {path.name for path, time in times.items() if path.stat().st_mtime_ns != time} == {"0000_0001.wav"}

    other = tmp_path / "other"
    make_features(other, other / "moved/lips")
    write_json(other / "data/val.json", read_json(other / "data/val.json") | {"corpus": "other"})
    test |= {"test_dir": other / "data/val.csv", "test_name": "other"}
    run_stage(monkeypatch, separate, frontend_weights=other / "moved/lips", **test)
    assert len(list((exp / "separated/other").glob("s?/*.wav"))) == 10
    (other / "moved/lips").rename(other / "moved/others")
    with pytest.raises(UserError, match="gives the embeddings others-.*trained on lips-.*known by the name of their folder"):
        run_stage(monkeypatch, separate, frontend_weights=other / "moved/others", **test)
    (other / "a.mp4").touch()
    with pytest.raises(UserError, match="trained on precomputed embeddings, which videos lack"):
        run_stage(monkeypatch, separate, **test | {"test_dir": other / "a.mp4"})
