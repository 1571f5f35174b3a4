"""GLips: its tree, who speaks, splits without a shared person, and the offset of its sound."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from corpora_helpers import run_prepare
from separation_helpers import make_experiment

from utils.data.crops import write_shifted
from utils.data.files import write_json
from utils.data.manifest import find_manifests, read_manifest, read_videos
from utils.data.mouths import MouthFile, MouthWriter, read_mouths
from utils.embedding.sync import MOST_FRAMES, corpus_offset
from utils.errors import UserError
from utils.tools import stacked_videos


@pytest.fixture(scope="module")
def tree(shared_data: Path, tmp_path_factory) -> Path:
    """Three clips of each of eight people, as distributed."""
    root = tmp_path_factory.mktemp("glips")
    with open(shared_data / "glips/clips.csv", newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["part"] == "test"]
    speakers = sorted({row["speaker"] for row in rows})[:8]
    with open(root / "clips.csv", "w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, ["id", "speaker", "part"])
        table.writeheader()
        for speaker in speakers:
            for row in [row for row in rows if row["speaker"] == speaker][:3]:
                part = {0: "val", 1: "val", 2: "test", 3: "test", 7: "close_up"}.get(speakers.index(speaker), "train")
                table.writerow({"id": row["id"], "speaker": speaker, "part": part})
                folder = root / "lipread_files" / row["word"] / "train"
                folder.mkdir(parents=True, exist_ok=True)
                for suffix in (".mp4", ".flac"):
                    source = shared_data / "glips/lipread_files" / row["word"] / "test" / (row["id"] + suffix)
                    shutil.copy(source, folder)
    return root


def test_the_tree_becomes_manifests_with_the_speakers_that_are_given(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "glips"
    run_prepare("glips", out, tree, "--n_val", 3, "--n_test", 3)
    utterances = read_manifest(out / "utterances.csv")
    val, test = (read_manifest(out / f"{split}.csv") for split in ("val", "test"))
    people = [{item.speaker for item in utterances.items}, *({s for i in m.items for s in i.speakers} for m in (val, test))]
    assert [len(group) for group in people] == [3, 2, 2] and len(set.union(*people)) == 7  # one is of another part
    assert all(18000 < item.length < 19000 and item.frames == 30 for item in utterances.items)
    assert len(read_videos(out / "videos.csv")) == 21
    speakers = tmp_path / "who.csv"
    speakers.write_text("id,speaker\nnobody_0001-0001,anna\n", encoding="utf-8")
    assert "does not say who speaks" in run_prepare("glips", tmp_path / "b", tree, "--speakers", speakers, code=1)
    speakers.write_text("name,speaker\n", encoding="utf-8")
    assert "id and speaker are needed" in run_prepare("glips", tmp_path / "b", tree, "--speakers", speakers, code=1)


def test_speakers_are_told_by_their_faces(tree: Path, tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    shutil.copytree(tree / "lipread_files", corpus / "lipread_files")
    given = {row["id"]: row["speaker"] for row in csv.DictReader((tree / "clips.csv").open(encoding="utf-8"))}
    run_prepare("glips", out, corpus, "--n_val", 2, "--n_test", 0, "--val_share", 0.4, "--test_share", 0)
    found = list(csv.DictReader((out / "speakers.csv").open(encoding="utf-8")))
    assert {row["id"] for row in found} == set(given)
    pairs = [(a, b) for a in found for b in found if a["id"] < b["id"]]
    joined = {True: [], False: []}
    for a, b in pairs:
        joined[given[a["id"]] == given[b["id"]]].append(a["speaker"] == b["speaker"])
    assert np.mean(joined[True]) > 0.85 and np.mean(joined[False]) < 0.2  # the labels given are clusters too
    parts = {}
    for row in found:
        parts.setdefault(row["speaker"], set()).add(row["part"])
    assert all(len(own) == 1 for own in parts.values())  # nobody is in two splits


def test_pictures_are_moved_to_where_they_belong(tmp_path: Path) -> None:
    crops = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 96, 96), np.uint8)
    with MouthWriter(tmp_path / "a.npz", 10) as writer:
        for index, crop in enumerate(crops):
            writer.add(crop, index != 5)
    # three frames early: what is heard now was seen then
    write_shifted(MouthFile(tmp_path / "a.npz"), MouthWriter(tmp_path / "b.npz", 10), -3)
    assert read_mouths(tmp_path / "b.npz")[3:, 0, 0].tolist() == list(range(7))
    assert MouthFile(tmp_path / "b.npz").mask.tolist() == [False] * 3 + [index != 5 for index in range(7)]
    write_shifted(MouthFile(tmp_path / "a.npz"), MouthWriter(tmp_path / "a.npz", 10), 2)
    assert read_mouths(tmp_path / "a.npz")[:8, 0, 0].tolist() == list(range(2, 10))
    assert MouthFile(tmp_path / "a.npz").mask.tolist() == [index != 5 for index in range(2, 10)] + [False] * 2


def curves(offset: int, n: int, height: float, seed: int = 0) -> np.ndarray:
    agreements = np.random.default_rng(seed).normal(0, 0.2, (n, 2 * MOST_FRAMES + 1))
    agreements[:, MOST_FRAMES + offset] += height
    return agreements


def test_a_corpus_offset_is_sure_only_where_its_clips_agree() -> None:
    found = corpus_offset(curves(-3, 200, 0.3))
    assert (found.frames, found.is_sure, found.n_clips) == (-3, True, 200)
    assert "3 frames early" in str(found)
    assert not corpus_offset(curves(0, 200, 0.0)).is_sure
    halves = np.concatenate([curves(-3, 100, 0.3), curves(4, 100, 0.3)]).reshape(2, 100, -1).swapaxes(0, 1).reshape(200, -1)
    assert not corpus_offset(halves).is_sure
    with pytest.raises(UserError, match="too short"):
        corpus_offset(np.full((3, 2 * MOST_FRAMES + 1), np.nan))


@pytest.mark.parametrize("late", [0, 4])
def test_stage_1_finds_how_late_the_pictures_of_a_corpus_come_and_corrects_it(
    shared_data: Path, tmp_path: Path, late: int, caplog
) -> None:
    """Clips of GRID whose pictures are moved by a known amount; the estimator has seen other clips of this speaker."""
    from utils.data.manifest import Utterance, write_videos
    from utils.embedding import corpus_offset as module

    sources = {path.stem.partition("_")[0]: path for path in (shared_data / "grid_dla/audio").rglob("s1/*.flac")}
    sources |= {path.stem.rpartition("_")[2]: path for path in (shared_data / "grid_dla/audio").rglob("s2/*.flac")}
    mouths = sorted((shared_data / "grid_dla/mouths").glob("*.npz"))
    clips = []
    for path in [path for path in mouths if path.stem in sources][::3]:
        file = MouthFile(path)
        write_shifted(file, MouthWriter(tmp_path / path.name, file.n_frames), -late)
        clips.append(Utterance(path.stem, "", str(sources[path.stem]), path.name, video_path="v.mp4"))
    write_videos(tmp_path / "videos.csv", clips)
    weights = shared_data / "weights/lr_asd_talkset.model"
    calls = []
    cut = lambda some: calls.append(len(some)) or []  # noqa: E731
    with caplog.at_level("INFO"):
        found = module.find_offset(tmp_path, weights, "centred8", cut)
    assert found.is_sure and abs(found.frames - late) <= 1
    assert ("in step" in caplog.text) == (found.frames == 0)
    assert module.find_offset(tmp_path, weights, "centred8", cut) == found and calls == [len(clips)]  # kept
    assert (tmp_path / "av_offset_clips.csv").is_file() and find_manifests(tmp_path) == []  # later stages read manifests only
    write_json(tmp_path / "av_offset.json", json.loads((tmp_path / "av_offset.json").read_text()) | {"key": "another"})
    module.find_offset(tmp_path, weights, "centred8", cut)
    assert len(calls) == 2


def test_mixtures_become_videos_that_are_separated_and_scored(
    tree: Path, tmp_path: Path, shared_data: Path, capfd, monkeypatch
) -> None:
    out = tmp_path / "glips"
    run_prepare("glips", out, tree, "--n_val", 2, "--n_test", 2)
    write_json(out / "av_offset.json", {"key": "", "found": {"frames": -3, "is_sure": True}})
    experiment = make_experiment(tmp_path / "exp/av", shutil.copy(shared_data / "weights/lr_asd_talkset.model", tmp_path))
    words = ["x", "--data_dir", out, "--exp_dir", experiment, "--out_dir", tmp_path / "out", "--dump_dir", tmp_path / "dump"]
    for more, n_columns in ([], 7), (["--alone", "--out_dir", tmp_path / "alone"], 6):
        monkeypatch.setattr("sys.argv", [*map(str, words), *map(str, more), "--n_mixtures", "2"])
        assert stacked_videos.main() == 0
        rows = [line.strip("|").split("|") for line in capfd.readouterr().out.splitlines() if line.startswith("| 2 ")]
        assert [len(row) for row in rows] == [n_columns] and rows[0][1].strip() == "0"  # all faces are found
    report = json.loads(next((tmp_path / "out/tracks").glob("*/tracks.json")).read_text())
    assert (report["width"], len(report["tracks"])) == (512, 2)
    assert abs(report["duration_sec"] - 1.04) < 0.08  # three frames of 29 are not in step
