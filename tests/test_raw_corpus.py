"""Raw corpora, with files of sound in the place of videos: what stage 0 leaves, what it refuses, how it goes on."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora_helpers import RATE_HZ, speech, write_audio, write_crops

from utils.corpora import raw_corpus
from utils.corpora.raw_corpus import prepare_raw
from utils.data.audio import read_audio, write_wav
from utils.data.manifest import Utterance, find_manifests, read_manifest, read_videos
from utils.data.validation import validate_manifest
from utils.errors import UserError
from utils.mixing.lists import ListedMixture, ListedSource
from utils.mixing.options import MixOptions


@pytest.fixture(autouse=True)
def sounds_for_videos(monkeypatch) -> None:
    def extract(given: tuple[Utterance, Path]) -> int:
        clip, wav_path = given
        samples = read_audio(clip.audio_path or clip.video_path)
        write_wav(wav_path, samples, RATE_HZ)
        return len(samples)

    monkeypatch.setattr(raw_corpus, "extract_clip", extract)
    monkeypatch.setattr(raw_corpus, "_mean_duration_sec", lambda clips: 2.7)
    monkeypatch.setattr(raw_corpus, "require_video_packages", lambda: None)


def raw_clip(name: str, speaker: str, split: str, video_path: str) -> Utterance:
    return Utterance(name, speaker, video_path=video_path, split=split)


@pytest.fixture
def clips(tmp_path, shared_data) -> list[Utterance]:
    """Eight speakers, two clips of each, 2.1 to 3.6 s."""
    found = []
    for index in range(8):
        whole = np.resize(speech(shared_data, index), 6 * RATE_HZ)  # some speakers say less
        for part in range(2):
            name, split = f"_s{index}-{part}", ("train", "train", "train", "train", "val", "val", "test", "test")[index]
            seconds = 2.1 + 0.1 * index + 0.5 * part
            path = write_audio(tmp_path / f"raw/{name}.wav", whole[part * 30000 :][: round(seconds * RATE_HZ)])
            found.append(raw_clip(name, f"_s{index}", split, str(path)))
    return found


def prepare(folder: Path, clips: list[Utterance], listed=None, problems=(), **options) -> None:
    options = MixOptions(**{"n_train": 3, "n_val": 2, "n_test": 2, **options})
    prepare_raw(clips, folder, options, lists=listed, problems=problems)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_everything_that_stage_0_writes_is_there_and_right(tmp_path, clips):
    out = tmp_path / "data" / "mine"
    prepare(out, clips[::-1])
    assert [path.stem for path in find_manifests(out)] == ["clips", "test", "train", "utterances", "val"]
    videos = read_videos(out / "videos.csv")
    assert {clip.utterance_id for clip in videos} == {clip.utterance_id for clip in clips}
    for clip in videos:
        write_crops(out / clip.mouth_path, -(-soundfile.info(out / clip.audio_path).frames // 640))
    for path in find_manifests(out):
        assert validate_manifest(read_manifest(path), deep=True) == []
    utterances = read_manifest(out / "utterances.csv").items
    assert {item.speaker for item in utterances} == {"_s0", "_s1", "_s2", "_s3"}
    tested = read_manifest(out / "test.csv").items
    assert all(set(item.speakers) == {"_s6", "_s7"} and item.subset == "unseen_face" for item in tested)
    assert len(rows_of(out / "mixtures.csv")) == 7 and not rows_of(out / "failed.csv")


def test_mouths_that_end_before_their_mixtures_are_still_found(tmp_path, clips):
    out = tmp_path / "out"
    prepare(out, clips)
    manifest = read_manifest(out / "test.csv")
    for path in manifest.mouth_paths():
        write_crops(out / path, 300)
    assert validate_manifest(manifest, deep=True) == []
    write_crops(out / manifest.items[0].mouth_paths[0], manifest.items[0].frames - 2)
    assert "video frames where" in validate_manifest(manifest, deep=True)[0].reason


def test_a_second_call_makes_nothing_again(tmp_path, clips):
    out = tmp_path / "out"
    prepare(out, clips)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    prepare(out, clips)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")} == before


def test_what_cannot_be_used_is_listed_and_refused_above_the_limit(tmp_path, clips):
    out = tmp_path / "out"
    write_audio(Path(clips[0].video_path), np.zeros(20000))
    Path(clips[5].video_path).write_text("no sound")
    clips += [raw_clip("twice", "x", "train", clips[1].video_path)] * 2
    clips += [raw_clip("a/b", "x", "train", clips[1].video_path), raw_clip("where", "x", "dev", clips[1].video_path)]
    with pytest.raises(UserError, match="--max_failed 5"):
        prepare(out, clips)
    assert not find_manifests(out)
    reasons = {row["id"]: row["reason"] for row in rows_of(out / "failed.csv")}
    assert reasons["_s0-0"] == "lasts 1.250 s, less than --min_sec 2"
    assert "cannot be read as audio" in reasons["_s2-1"]
    assert reasons["twice"] == "2 clips have this id; ids must tell them apart"
    assert "cannot be an id" in reasons["a/b"] and "the split is 'dev'" in reasons["where"]
    prepare(out, clips, max_failed=5)
    assert len(read_manifest(out / "utterances.csv").items) == 6


def test_listed_mixtures_are_made_and_their_clips_kept_out_of_training(tmp_path, clips):
    sources = (ListedSource("_s0-0", "_s0", 0.0), ListedSource("_s1-1", "_s1", 3.0))
    absent = (ListedSource("_s0-0", "_s0", 0.0), ListedSource("nobody", "n", 3.0))
    trained = (ListedSource("_s0-0", "_s0", 0.0), ListedSource("_s2-0", "_s2", 0.0))
    listed = [ListedMixture("two", "train", trained), ListedMixture("one", "val", sources)]
    listed.append(ListedMixture("none", "val", absent, row=7))
    with pytest.raises(UserError, match="row 7, none: the list names nobody, which the corpus does not hold"):
        prepare(tmp_path / "out", clips, listed)
    prepare(tmp_path / "out", clips, listed, max_failed=1)
    assert [item.mixture_id for item in read_manifest(tmp_path / "out" / "val.csv").items] == ["one"]
    names = {item.utterance_id for item in read_manifest(tmp_path / "out" / "utterances.csv").items}
    assert names == {"_s2-0"}  # _s0-0 is in val, too; the others are not listed
    assert [item.mixture_id for item in read_manifest(tmp_path / "out" / "train.csv").items] == ["two"]


def test_three_sources_are_mixed(tmp_path, clips):
    prepare(tmp_path / "out", clips, n_src=3, n_train=2, n_val=0, n_test=0)
    assert read_manifest(tmp_path / "out" / "train.csv").n_src == 3


def test_no_clip_at_all_is_refused(tmp_path):
    with pytest.raises(UserError, match="no clip was found"):
        prepare(tmp_path / "out", [])


def listed_pair(name: str, *clips: str, speakers=("", ""), **more) -> ListedMixture:
    found = tuple(ListedSource(clip, speaker, 0.0) for clip, speaker in zip(clips, speakers, strict=True))
    return ListedMixture(name, "val", found, **more)


def test_rows_that_the_clips_contradict_are_listed_with_the_file_of_their_list(tmp_path, clips):
    Path(clips[5].video_path).write_text("no sound")
    listed = [
        listed_pair("good", "_s0-0", "_s1-0", row=2),
        listed_pair("broken", "_s0-0", "_s2-1", row=3),
        listed_pair("other speaker", "_s0-0", "_s1-1", speakers=("_s0", "y"), row=4),
        listed_pair("one speaker", "_s3-0", "_s3-1", speakers=("x", "y"), row=5),
        listed_pair("one speaker, unsaid", "_s3-0", "_s3-1", row=6),
        listed_pair("one speaker, as said", "_s3-0", "_s3-1", speakers=("_s3", "_s3"), row=9),
        listed_pair("other length", "_s0-0", "_s1-1", row=7, seconds=2.3),
        listed_pair("right length", "_s0-0", "_s1-1", row=8, seconds=2.1),
    ]
    listed = [replace(item, source="/lists/mine.csv") for item in listed]
    prepare(tmp_path / "out", clips, listed, max_failed=7)
    rows = {row["id"]: row for row in rows_of(tmp_path / "out" / "failed.csv")}
    reasons = {name: row["reason"] for name, row in rows.items()}
    assert set(rows) == {"_s2-1", "broken", "other speaker", "one speaker", "one speaker, unsaid", "other length"} | {
        "one speaker, as said"
    }
    assert "_s2-1, which could not be used (see its own row)" in reasons["broken"]
    assert "the list says that _s1-1 is of y, the corpus that it is of _s1" in reasons["other speaker"]
    assert "is of x, the corpus that it is of _s3" in reasons["one speaker"]
    for name in ("one speaker, unsaid", "one speaker, as said"):
        assert "mixes the speaker _s3 with themselves" in reasons[name]
    assert "lasts 2.100 s by its clips where the list says 2.3 s" in reasons["other length"]
    assert {row["path"] for name, row in rows.items() if name != "_s2-1"} == {"/lists/mine.csv"}
    prepare(tmp_path / "out", clips, listed, max_failed=5, same_speaker=True)
    assert "one speaker, as said" not in {row["id"] for row in rows_of(tmp_path / "out" / "failed.csv")}


def test_the_disk_must_hold_the_mixtures_before_the_sounds_are_written(tmp_path, clips, monkeypatch):
    sounds = sum(Path(clip.video_path).stat().st_size for clip in clips) * 2  # float32 of PCM16
    usage = type("Usage", (), {"free": round(1.05 * sounds) + 2**24 + 100_000})
    monkeypatch.setattr("utils.data.files.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="the sounds of 16 clips and 7 mixtures need about"):
        prepare(tmp_path / "out", clips)
    assert not list((tmp_path / "out").rglob("*.wav"))
    prepare(tmp_path / "out", clips, n_train=0, n_val=0, n_test=0)
    assert len(list((tmp_path / "out").rglob("*.wav"))) == 16


def test_mixtures_of_an_earlier_list_and_leftovers_go_and_nothing_else(tmp_path, clips):
    out = tmp_path / "out"
    prepare(out, clips, [listed_pair("one", "_s0-0", "_s1-0"), listed_pair("two", "_s0-0", "_s2-0")])
    mine = write_audio(out / "audio/val/mix/mine.wav", np.ones(100))
    leftover = write_audio(out / "audio/val/mix/.tmp-x.wav", np.ones(100))
    prepare(out, clips, [listed_pair("two", "_s0-0", "_s2-0")])
    assert not leftover.exists() and mine.exists()
    assert {path.stem for path in (out / "audio").rglob("*.wav")} == {"two", "mine"}
    prepare(out, clips, n_train=0, n_val=0, n_test=0)
    assert {path.stem for path in (out / "audio").rglob("*.wav")} == {"mine"}
    assert not (out / "mixtures.csv").exists() and not (out / "mixtures.mixing.json").exists()
