"""The fixed set for extraction: true levels, conditions by name, faces that belong to their sources, recordings joined."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from tiny_corpus import FPS, RATE_HZ, make_corpus

from utils.corpora import extraction_set
from utils.data.manifest import Utterance, read_manifest, write_manifest
from utils.data.mouths import read_mouths
from utils.errors import UsageError, UserError
from utils.mixing.levels import power, sir_db


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    made = make_corpus(root)
    rng = np.random.default_rng(0)
    for path in made["utterances"].mouth_paths():
        (root / path).parent.mkdir(exist_ok=True)
        np.savez(root / path, data=rng.integers(0, 256, (25, 96, 96), dtype=np.uint8))
    for name, length in (("speech/1/a", 24000), ("speech/1/b", 8000), ("speech/2/c", 40000), ("noise/n", 9000)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / f"{name}.wav", 0.1 * rng.standard_normal(length), RATE_HZ, subtype="FLOAT")
    return {**made, "root": root}


def make(corpus, monkeypatch, out_dir, *more, faces="utterances"):
    words = ["--faces", corpus[faces].path, "--interferer_dir", corpus["root"] / "speech", "--out_dir", out_dir]
    words += ["--noise_dir", corpus["root"] / "noise", "--n_mixtures", "9", *more]
    monkeypatch.setattr(sys, "argv", ["extraction_set", *map(str, words)])
    assert extraction_set.main() == 0
    return read_manifest(out_dir / "test.csv")


def signals(manifest, item):
    paths = (item.mixture_path, item.source_paths[0])
    return [soundfile.read(manifest.resolve(path), dtype="float32")[0] for path in paths]


def test_each_condition_is_what_its_name_says(corpus, monkeypatch, tmp_path):
    manifest = make(corpus, monkeypatch, tmp_path / "set", "--n_absent", "3", "--snr_low_db", "5", "--snr_high_db", "5")
    assert (manifest.n_src, manifest.corpus, manifest.data_root) == (1, "tiny", corpus["root"])
    by_condition = {}
    for item in manifest.items:
        by_condition.setdefault(item.subset, []).append(item)
        mixture, source = signals(manifest, item)
        assert len(mixture) == len(source) == item.length and manifest.resolve(item.mouth_paths[0]).is_file()
        if item.subset == "speech+speech":
            assert sir_db(source, mixture - source) == pytest.approx(item.sir_db, abs=1e-3) and -10 <= item.sir_db <= 10
        elif item.subset == "speech+noise":
            assert sir_db(source, mixture - source) == pytest.approx(5, abs=1e-3) and item.sir_db is None
        elif item.subset == "absent target":
            assert not source.any() and power(mixture) > 1e-5
        if source.any():
            assert power(source) ** 0.5 == pytest.approx(extraction_set.TARGET_RMS, rel=1e-4)
    assert {name: len(items) for name, items in by_condition.items()} == {
        "speech+speech": 9, "speech+noise": 9, "speech+speech+noise": 9, "absent target": 3,
    }  # fmt: skip
    faces = [item.mouth_paths[0] for item in by_condition["speech+speech"]]
    assert len(set(faces)) == 8  # of eight clips all are taken before one comes twice


def test_the_source_of_a_mixture_is_that_of_its_face(corpus, monkeypatch, tmp_path):
    manifest = make(corpus, monkeypatch, tmp_path / "set")
    audio = {item.mouth_path: item.audio_path for item in corpus["utterances"].items}
    for item in manifest.items[:5]:
        clip = soundfile.read(corpus["root"] / audio[item.mouth_paths[0]])[0]
        assert np.corrcoef(clip, signals(manifest, item)[1])[0, 1] > 0.9999


def test_the_sources_of_mixtures_are_targets_too_each_face_once(corpus, monkeypatch, tmp_path):
    manifest = make(corpus, monkeypatch, tmp_path / "set", faces="val")
    assert len({item.mouth_paths[0] for item in manifest.items}) == 6  # five mixtures in a chain of six clips


def test_the_same_seed_gives_the_same_sound_and_more_mixtures_change_none(corpus, monkeypatch, tmp_path):
    few = make(corpus, monkeypatch, tmp_path / "few", "--n_mixtures", "2")
    more = make(corpus, monkeypatch, tmp_path / "more", "--n_mixtures", "4")
    other = make(corpus, monkeypatch, tmp_path / "other", "--n_mixtures", "2", "--seed", "1")
    sound = [{i.mixture_id: signals(m, i)[0] for i in m.items} for m in (few, more, other)]
    assert sound[0].keys() < sound[1].keys() and sound[0].keys() != sound[2].keys()
    for name, mixture in sound[0].items():
        np.testing.assert_array_equal(mixture, sound[1][name])


def test_clips_of_a_speaker_are_joined_with_their_mouths(corpus, monkeypatch, tmp_path):
    manifest = make(corpus, monkeypatch, tmp_path / "set", "--join_sec", "2.5:4.5", "--n_mixtures", "3")
    speakers = {item.utterance_id: item.speaker for item in corpus["utterances"].items}
    for item in manifest.items:
        assert 2.5 * RATE_HZ <= item.length <= 4.5 * RATE_HZ and item.length == item.frames * RATE_HZ // FPS
        crops = read_mouths(manifest.resolve(item.mouth_paths[0]))
        assert len(crops) == item.frames
        named = {name: read_mouths(corpus["root"] / f"mouths/{name}.npz") for name in speakers}
        pieces = [next(name for name, own in named.items() if np.array_equal(own, crops[at : at + 25]))
                  for at in range(0, item.frames, 25)]  # fmt: skip
        assert {speakers[name] for name in pieces} == set(item.speakers)
        source = signals(manifest, item)[1]
        for k, name in enumerate(pieces):
            clip = soundfile.read(corpus["root"] / f"audio/{name}.wav")[0]
            assert np.corrcoef(clip, source[k * RATE_HZ : (k + 1) * RATE_HZ])[0, 1] > 0.9999


def test_what_cannot_be_a_target_is_listed(corpus, monkeypatch, tmp_path):
    items = list(corpus["utterances"].items)
    items[1], items[2] = replace(items[1], mouth_path=""), replace(items[2], audio_path="audio/none.wav")
    root = corpus["root"]
    common = {"corpus": "tiny", "split": "utterances", "data_root": root, "sample_rate": RATE_HZ, "n_src": 1}
    changed = {**corpus, "utterances": write_manifest(tmp_path / "utterances.csv", items=items, **common)}
    with pytest.raises(UserError, match=r"2 items cannot be used.*--max_failed 2"):
        make(changed, monkeypatch, tmp_path / "set", "--max_failed", "1")
    assert not (tmp_path / "set" / "test.csv").exists()
    make(changed, monkeypatch, tmp_path / "set", "--max_failed", "2")
    listed = (tmp_path / "set" / "failed_test.csv").read_text()
    assert listed.count("\n") == 3 and "3,0001,audio/0001.wav,has no mouth" in listed and "no such file" in listed


def test_mistakes_are_one_line(corpus, monkeypatch, tmp_path):
    for words, kind, said in (
        (("--interferer_dir", tmp_path / "none"), UserError, "--interferer_dir .*no such folder"),
        (("--join_sec", "9:4"), UsageError, "no span of seconds"),
        (("--sir_low_db", "11"), UsageError, "--sir_low_db is above"),
        (("--n_mixtures", "0"), UsageError, "zero or more"),
    ):
        with pytest.raises(kind, match=said):
            make(corpus, monkeypatch, tmp_path / "set", *words)
    silent = corpus["root"] / "audio" / "silence.wav"
    soundfile.write(silent, np.zeros(16000), RATE_HZ)
    only = [Utterance("x", "s", "audio/silence.wav", "mouths/0000.npz", 16000, 25, 25.0)]
    common = {"corpus": "tiny", "split": "utterances", "data_root": corpus["root"], "sample_rate": RATE_HZ, "n_src": 1}
    changed = {**corpus, "utterances": write_manifest(tmp_path / "u.csv", items=only, **common)}
    with pytest.raises(UserError, match="no utterance with a face can be used"):
        make(changed, monkeypatch, tmp_path / "set")


def test_a_forgotten_folder_is_named_and_never_the_one_the_program_runs_in(corpus, monkeypatch, tmp_path):
    """Regression: without --noise_dir every wav below the current folder was noise."""
    monkeypatch.chdir(corpus["root"])
    folders = {"--interferer_dir": corpus["root"] / "speech", "--noise_dir": corpus["root"] / "noise"}

    def call(given, *more):
        words = ["--faces", corpus["utterances"].path, "--out_dir", tmp_path / "set", "--n_mixtures", "1", *more]
        words += [word for name in given for word in (name, folders[name])]
        monkeypatch.setattr(sys, "argv", ["extraction_set", *map(str, words)])
        return extraction_set.main()

    with pytest.raises(UsageError, match=r"--interferer_dir FOLDER is needed for the condition speech\+speech"):
        call(["--noise_dir"])
    with pytest.raises(UsageError, match=r"--noise_dir FOLDER is needed for the condition speech\+noise"):
        call(["--interferer_dir"])
    assert not (tmp_path / "set").exists()
    assert call(["--interferer_dir"], "--n_mixtures", "0", "--n_absent", "1") == 0  # no noise is wanted
