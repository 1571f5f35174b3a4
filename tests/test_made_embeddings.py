"""Embeddings made of voices: like real ones in mean, variance and time, the same at every call, and only for training."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from separation_helpers import make_lips
from test_voice_to_mouth import N_FRAMES, make_talking_mouths, run, talk

from utils.data.files import read_json
from utils.data.manifest import Utterance, read_manifest, write_manifest
from utils.embedding.store import EmbeddingStore, made_key
from utils.errors import UserError
from utils.training.config import read_config
from utils.training.utterances import UtterancePool
from utils.voice_to_mouth.made import made_stamp, make_embeddings, missing
from utils.voice_to_mouth.residuals import Residuals, read_residuals, statistics

N_SPEECH = 8


def sequences(rng: np.random.Generator, n_clips: int, n_frames: int) -> list[np.ndarray]:
    """Slow random motion around a place for each clip."""
    steps = rng.standard_normal((n_clips, n_frames + 8, 3))
    smooth = np.stack([np.apply_along_axis(np.convolve, 0, one, np.ones(9) / 3, "valid") for one in steps])
    return list(smooth + rng.standard_normal((n_clips, 1, 3)))


def test_statistics_are_those_of_the_formula():
    (one,) = sequences(np.random.default_rng(0), 1, 25)
    found = statistics([one])
    np.testing.assert_allclose(found.mean, one.mean(axis=0))
    np.testing.assert_allclose(found.variance, one.var(axis=0))
    moved = one - one.mean(axis=0)
    wanted = (moved[:-3] * moved[3:]).sum() / 22 / (moved**2).sum() * 25
    assert found.autocorrelation[0] == 1 and found.autocorrelation[3] == pytest.approx(wanted)


def test_what_is_missing_is_a_persons_own_and_keeps_variance_and_time_over_joints():
    rng = np.random.default_rng(1)
    clips = sequences(rng, 60, 30)
    people = np.arange(60) // 30
    for person, place in enumerate((-5.0, 5.0)):
        clips = [clip + place * (owner == person) for clip, owner in zip(clips, people, strict=True)]
    residuals = Residuals(clips, people, statistics(clips))
    items = [Utterance(f"u{k}", f"speaker{k % 2}") for k in range(40)]
    drawn = [missing(residuals, item, 300) for item in items]
    assert all(one.shape == (300, 3) for one in drawn)
    np.testing.assert_array_equal(drawn[3], missing(residuals, items[3], 300))
    assert not np.allclose(drawn[1], drawn[3])
    places = [one.mean() for one in drawn]
    assert np.ptp(places[::2]) < 2 and np.ptp(places[1::2]) < 2  # one person for all utterances of a speaker
    of_one = [one for one, clip in zip(drawn, items, strict=True) if clip.speaker == "speaker0"]
    own = [clip for clip, owner in zip(clips, people, strict=True) if owner == (places[0] > 0)]
    found, wanted = statistics(of_one), statistics(own)
    np.testing.assert_allclose(found.variance / wanted.variance, 1, atol=0.25)
    np.testing.assert_allclose(found.autocorrelation, wanted.autocorrelation, atol=0.15)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A corpus with faces, speech without, and a network from voices to its frontend's embeddings, by the stages."""
    root = tmp_path_factory.mktemp("made")
    make_talking_mouths(root / "data", with_pictures=True)
    lips = make_lips(root / "lips.pth")
    rng = np.random.default_rng(5)
    utterances = read_manifest(root / "data/utterances.csv")
    speech = []
    for number in range(N_SPEECH):
        name, (_, voice) = f"s{number}", talk(rng, N_FRAMES + 12 * number)
        soundfile.write(root / f"data/sounds/{name}.wav", voice, 16000, "FLOAT")
        speech.append(Utterance(name, f"s{number}", f"sounds/{name}.wav", length=len(voice)))
    facts = {"corpus": "data", "split": "utterances", "data_root": root / "data", "sample_rate": 16000, "n_src": 1}
    write_manifest(root / "data/utterances.csv", items=[*utterances.items, *speech], **facts)
    conf = ["--conf", "conf/wav2kp.yml", "--data_dir", root / "data", "--dump_dir", root / "dump", "--frontend_weights", lips]
    run("embed", *conf, "--nj", "1", "--train_args", "--target lips", "--id", "cpu")
    small = "--hid_chan 16 --n_blocks 1 --n_layers 1 --n_features 20 --epochs 12 --batch_size 4 --lr 0.01 --warmup_steps 5"
    args = f"--target lips {small} --num_workers 0 --early_stop 0"
    run("train", *conf, "--exp_dir", root / "voice_to_lips", "--train_args", args, "--id", "cpu")
    return root


def test_a_training_for_embeddings_keeps_what_it_could_not_tell(trained):
    residuals = read_residuals(trained / "voice_to_lips")
    assert len(residuals.clips) == 36 == len(residuals.people) and len(set(residuals.people)) == 6
    assert all(clip.shape == (N_FRAMES, residuals.real.mean.size) for clip in residuals.clips)
    (trained / "broken").mkdir()
    (trained / "broken/residuals.npz").write_bytes(b"no")
    with pytest.raises(UserError, match="damaged"):
        read_residuals(trained / "broken")


def test_stage_2_makes_them_and_training_takes_them_and_nothing_else_does(trained):
    conf = ["--conf", "conf/demo.yml", "--data_dir", trained / "data", "--dump_dir", trained / "dump"]
    conf += ["--frontend_weights", trained / "lips.pth", "--nj", "1", "--id", "cpu"]
    args = ["--train_args", "--faceless_prob 0.5 --made_embeddings true"]
    assert "--voice_to_mouth_dir DIR" in run("embed", *conf, *args, code=1)
    maker = ["--voice_to_mouth_dir", trained / "voice_to_lips"]
    said = run("embed", *conf, *args, *maker)
    assert f"embeddings made of {N_SPEECH} voices ({N_SPEECH} now)" in said
    assert "up to date, embeddings made" in run("embed", *conf, *args, *maker)
    store_name = read_json(trained / "voice_to_lips/frontend.json")["store_name"]
    root = trained / "dump/embeddings" / store_name / "data"
    store, manifest = EmbeddingStore(root), read_manifest(trained / "data/utterances.csv")
    made = {key for key in store.keys() if key.startswith("made/")}  # noqa: SIM118
    assert made == {made_key(f"s{number}") for number in range(N_SPEECH)}
    assert store.frames(made_key("s3")) == N_FRAMES + 36
    facts = read_json(root / "made.json")
    assert facts["stamp"] == made_stamp(root) and (root / "made.png").read_bytes().startswith(b"\x89PNG")
    found = facts["statistics"]
    assert 0 < found["predicted"]["variance_ratio"] < found["made"]["variance_ratio"] == pytest.approx(1, abs=0.3)
    assert found["made"]["mean_off"] < 0.6  # 8 voices get 6 people
    assert found["made"]["autocorrelation"] == pytest.approx(found["real"]["autocorrelation"], abs=0.15)
    assert found["real"]["variance_ratio"] == pytest.approx(1, abs=1e-3) and found["real"]["mean_off"] == 0
    pool = UtterancePool(manifest, [store], read_config("conf/demo.yml", args[1].split()).data, 25.0, 2)
    drawn = pool.segment(next(i for i, item in enumerate(pool.items) if item.utterance_id == "s2"), np.random.default_rng(0))
    seen, (piece,) = pool.visual(drawn, store), drawn.pieces
    np.testing.assert_array_equal(seen, store.get(made_key("s2"), piece.start_frame, piece.n_frames))
    plain = read_config("conf/demo.yml", ["--faceless_prob", "0.5"]).data
    assert not UtterancePool(manifest, [store], plain, 25.0, 2).visual(drawn, store).any()


def test_what_was_made_is_the_same_again_and_made_anew_for_another_network(trained, tmp_path):
    dump = tmp_path / "dump"
    make_embeddings(trained / "data", trained / "voice_to_lips", dump)
    (root,) = dump.glob("embeddings/*/data")
    first = {name: EmbeddingStore(root).get(made_key(name)) for name in ("s0", "s7")}
    for path in root.glob("part-*"):
        path.unlink()  # as if killed before the first part
    with pytest.raises(UserError, match="no embeddings made of voices"):
        made_stamp(tmp_path)
    make_embeddings(trained / "data", trained / "voice_to_lips", dump)
    for name, embedding in first.items():
        np.testing.assert_array_equal(EmbeddingStore(root).get(made_key(name)), embedding)
    other = tmp_path / "other"
    other.mkdir()
    for path in (trained / "voice_to_lips").iterdir():
        if path.is_file():
            (other / path.name).write_bytes(path.read_bytes())
    with np.load(other / "residuals.npz") as file:
        arrays = dict(file)
    np.savez(other / "residuals.npz", **arrays | {"residuals": -arrays["residuals"]})
    make_embeddings(trained / "data", other, dump)
    assert len(EmbeddingStore(root)) == N_SPEECH
    assert not np.allclose(EmbeddingStore(root).get(made_key("s0")), first["s0"])


def test_what_is_made_does_not_depend_on_what_was_made_before_nor_on_sounds_that_are_broken(trained, tmp_path):
    manifest = read_manifest(trained / "data/utterances.csv")
    items = [item for item in manifest.items if not item.mouth_path]
    items = [replace(item, audio_path=str(manifest.resolve(item.audio_path))) for item in items]

    def make(folder: Path, chosen: list[Utterance]) -> EmbeddingStore:
        folder.mkdir(exist_ok=True)
        facts = {"corpus": "speech", "split": "utterances", "data_root": folder, "sample_rate": 16000, "n_src": 1}
        write_manifest(folder / "utterances.csv", items=chosen, **facts)
        make_embeddings(folder, trained / "voice_to_lips", folder / "dump")
        (root,) = (folder / "dump/embeddings").glob("*/speech")
        return EmbeddingStore(root)

    make(tmp_path / "grown", items[:3])
    grown, fresh = make(tmp_path / "grown", items), make(tmp_path / "fresh", items)
    for item in items:
        np.testing.assert_array_equal(*(store.get(made_key(item.utterance_id)) for store in (grown, fresh)))
    broken = replace(items[1], audio_path=str(tmp_path / "gone.wav"))
    with pytest.raises(UserError, match=r"1 of 8 voices could not be read, the others are made.*gone\.wav"):
        make(tmp_path / "broken", [items[0], broken, *items[2:]])
    (root,) = (tmp_path / "broken/dump/embeddings").glob("*/speech")
    assert len(EmbeddingStore(root)) == 7
    with pytest.raises(UserError, match="not all"):
        made_stamp(root)
    assert len(make(tmp_path / "broken", items)) == 8
    with pytest.raises(UserError, match="16000 Hz"):
        soundfile.write(tmp_path / "slow.wav", np.random.default_rng(0).standard_normal(8000) / 9, 8000)
        make(tmp_path / "slow", [replace(items[0], audio_path=str(tmp_path / "slow.wav"))])


def test_bad_requests_are_a_line(trained, tmp_path):
    with pytest.raises(UserError, match="set data.faceless_prob"):
        read_config("conf/demo.yml", ["--made_embeddings", "true"])
    with pytest.raises(UserError, match="embeddings of lips alone"):
        words = ["--made_embeddings", "true", "--faceless_prob", "0.5", "--cues", "lips+shape"]
        read_config("conf/demo.yml", words)
    faces = read_manifest(trained / "data/utterances.csv")
    (tmp_path / "faces").mkdir()
    facts = {"corpus": "faces", "split": "utterances", "data_root": faces.data_root, "sample_rate": 16000, "n_src": 1}
    items = [item for item in faces.items if item.mouth_path]
    write_manifest(tmp_path / "faces/utterances.csv", items=items, **facts)
    with pytest.raises(UserError, match="every utterance has a face"):
        make_embeddings(tmp_path / "faces", trained / "voice_to_lips", tmp_path / "dump")
    data = replace(read_config("conf/demo.yml").data, faceless_prob=0.5, made_embeddings=True)
    (root,) = (trained / "dump/embeddings").glob("*/data")
    only_real = tmp_path / "real"
    only_real.mkdir()
    for index in root.glob("part-*.json"):
        clips = [clip for clip in json.loads(index.read_text()) if not clip["key"].startswith("made/")]
        if clips:
            (only_real / index.name).write_text(json.dumps(clips))
            (only_real / index.with_suffix(".npy").name).write_bytes(index.with_suffix(".npy").read_bytes())
    with pytest.raises(UserError, match="8 of 8 voices have no made embeddings"):
        UtterancePool(faces, [EmbeddingStore(only_real)], data, 25.0, 2)
