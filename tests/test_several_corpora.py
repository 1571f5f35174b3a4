"""egs/several: prepared corpora and speech without faces as one corpus, and a training on it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora_helpers import run_prepare

from utils.data.manifest import Mixture, Utterance, read_manifest, write_manifest
from utils.training.config import DataConfig
from utils.training.datasets import DynamicMixtureDataset


def corpus(folder: Path, speakers: str) -> Path:
    """A prepared corpus of one clip and one mixture for each speaker; there are no pictures behind its mouths."""
    rng = np.random.default_rng(len(str(folder)))
    folder.mkdir(parents=True)
    utterances, mixtures = [], []
    for speaker in speakers:
        for name in (f"{speaker}.wav", f"mix_{speaker}.wav"):
            soundfile.write(folder / name, rng.normal(0, 0.1, 32000).astype(np.float32), 16000)
        utterances.append(Utterance(f"{speaker}1", speaker, f"{speaker}.wav", f"{speaker}.npz", 32000, 50, 25.0))
        mixtures.append(
            Mixture(speaker, f"mix_{speaker}.wav", (f"{speaker}.wav",) * 2, "", 32000, (f"{speaker}.npz",) * 2, 50, 25.0,
                    (speaker, ""), 0.0, "old")
        )  # fmt: skip
        (folder / f"{speaker}.npz").touch()
    common = {"corpus": folder.name, "data_root": folder, "sample_rate": 16000}
    write_manifest(folder / "utterances.csv", split="train", n_src=1, items=utterances, **common)
    write_manifest(folder / "val.csv", split="val", n_src=2, items=mixtures, **common)
    return folder


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Speech in both layouts, one file of it compressed with losses."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "speech"
    for name in ("anna/one.flac", "84-1-0000.flac", "91/1/91-1-0000.wav", "92-1-0001.mp3"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, rng.normal(0, 0.1, 48000).astype(np.float32), 16000)
    return folder


def test_clips_and_speech_of_all_corpora_come_together(tmp_path: Path, speech: Path) -> None:
    one, other, out = corpus(tmp_path / "one", "ab"), corpus(tmp_path / "two", "bc"), tmp_path / "all"
    said = run_prepare("several", out, one, "--also", other, "--speech_dir", speech)
    manifest = read_manifest(out / "utterances.csv")
    speakers = [item.speaker for item in manifest.items]
    assert speakers[:4] == ["one_a", "one_b", "two_b", "two_c"]
    assert sorted(speakers[4:]) == ["speech_84", "speech_91", "speech_92", "speech_anna"]
    assert all(manifest.resolve(item.audio_path).is_file() for item in manifest.items)
    assert [bool(item.mouth_path) for item in manifest.items] == [True] * 4 + [False] * 4
    decoded = next(item for item in manifest.items if item.speaker == "speech_92")
    assert soundfile.info(decoded.audio_path).frames == decoded.length and decoded.audio_path.endswith(".wav")
    val = read_manifest(out / "val.csv")
    assert [item.subset for item in val.items] == ["one", "one", "two", "two"]
    assert val.items[0].speakers == ("one_a", "")
    assert all(Path(path).is_file() for item in val.items for path in (item.mixture_path, *item.source_paths))
    assert "utterances: 8" in said


def test_names_with_dots_and_names_that_lie_about_the_format(tmp_path: Path) -> None:
    voice = 0.1 * np.random.default_rng(0).standard_normal(16000)
    for name in ("dr.smith/a.wav", "dr.jones/a.wav", "dr.jones/a.flac", "dr.jones/b.wav"):
        (tmp_path / "speech" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "speech" / name, voice, 16000, format="MP3" if name.endswith("b.wav") else None)
    said = run_prepare("librispeech", tmp_path / "out", tmp_path / "speech", code=1)
    assert "would get the name" in said
    run_prepare("librispeech", tmp_path / "out", tmp_path / "speech", "--max_failed", 1)
    items = {item.utterance_id: item for item in read_manifest(tmp_path / "out/utterances.csv").items}
    assert {item.speaker for item in items.values()} == {"speech_dr.smith", "speech_dr.jones"} and len(items) == 3
    decoded = next(item for item in items.values() if item.utterance_id.endswith("jones_b"))
    assert "sounds" in decoded.audio_path and soundfile.info(decoded.audio_path).format == "WAV"


def test_training_takes_as_much_speech_without_faces_as_it_is_told(tmp_path: Path, speech: Path) -> None:
    out = tmp_path / "all"
    run_prepare("several", out, corpus(tmp_path / "one", "abc"), "--speech_dir", speech)
    manifest = read_manifest(out / "utterances.csv")

    def faceless(prob: float, same_speaker_prob: float = 0.0) -> float:
        config = DataConfig(segment_sec=1.0, epoch_size=200, faceless_prob=prob, same_speaker_prob=same_speaker_prob)
        pool = DynamicMixtureDataset(manifest, [], config, n_src=2).pool
        drawn = [pool.draw_utterances(2, np.random.default_rng(seed)) for seed in range(200)]
        assert all(len({pool.items[index].speaker for index in pair}) == 2 for pair in drawn)
        return float(np.mean([not pool.items[index].mouth_path for pair in drawn for index in pair]))

    assert 0.4 < faceless(0.5) < 0.6
    assert faceless(1.0) == 1.0
    assert 0.1 < faceless(0.2) < 0.3


def test_what_cannot_be_used_is_said(tmp_path: Path, speech: Path) -> None:
    one, out = corpus(tmp_path / "one", "ab"), tmp_path / "all"
    soundfile.write(speech / "anna" / "two.wav", np.zeros(16000), 16000)
    soundfile.write(speech / "anna" / "three.wav", np.ones(16000) / 2, 8000)
    said = run_prepare("several", out, one, "--speech_dir", speech, code=1)
    assert "2 items cannot be used" in said
    run_prepare("several", out, one, "--speech_dir", speech, "--max_failed", 2)
    failed = (out / "failed.csv").read_text(encoding="utf-8")
    assert "8000 Hz" in failed and "no sound" in failed
    shutil.copytree(one, tmp_path / "again" / "one")
    assert "two corpora have the name one" in run_prepare("several", out, one, "--also", tmp_path / "again" / "one", code=1)
    (tmp_path / "empty").mkdir()
    assert "holds no .wav" in run_prepare("several", out, one, "--speech_dir", tmp_path / "empty", code=1)


def test_speech_is_a_corpus_of_its_own_that_others_take_in(tmp_path: Path, speech: Path) -> None:
    voices, out = tmp_path / "librispeech", tmp_path / "all"
    assert "utterances: 4" in run_prepare("librispeech", voices, speech)
    manifest = read_manifest(voices / "utterances.csv")
    assert not any(item.mouth_path for item in manifest.items) and not (voices / "val.csv").exists()
    run_prepare("several", out, corpus(tmp_path / "one", "ab"), "--also", voices)
    speakers = {item.speaker for item in read_manifest(out / "utterances.csv").items if not item.mouth_path}
    assert speakers == {f"librispeech_speech_{name}" for name in ("84", "91", "92", "anna")}
    (tmp_path / "empty").mkdir()
    assert "--corpus_dir" in run_prepare("librispeech", tmp_path / "none", tmp_path / "empty", code=1)
