"""From a voice to the motion of a mouth: network, examples, loss, measures, and the stages on a corpus whose truth is known."""

import csv
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from corpora_helpers import encode_clip
from tiny_corpus import make_corpus

from egs.own_video.prepare import find_clips
from egs.wav2kp.prepare import _split_by_list
from local_models.voice_to_mouth import VoiceToMouth
from utils.data.crops import write_shifted
from utils.data.files import read_json
from utils.data.manifest import Manifest, Problem, Utterance, read_manifest, write_manifest
from utils.data.mouths import MouthFile, MouthWriter
from utils.data.phonemes import Phoneme, read_phonemes, write_phonemes
from utils.embedding.store import EmbeddingStore, EmbeddingWriter, Source
from utils.errors import UserError
from utils.training.config import MotionLossConfig, read_config
from utils.training.preflight import check_frontend_weights
from utils.voice_to_mouth.clips import ClipDataset, make_clip_datasets, single_clips, with_targets
from utils.voice_to_mouth.drawing import _pictures, draw_face
from utils.voice_to_mouth.losses import MotionLoss
from utils.voice_to_mouth.measures import embedding_measures, keypoint_measures, right_of_ten
from utils.voice_to_mouth.motion import correlation, opening
from utils.voice_to_mouth.score import _geometric_mean

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"hid_chan": 16, "n_blocks": 1, "n_layers": 1, "n_features": 20}
# A face whose lips are 12 outer and 8 inner points, in tens of pixels of a crop, closed, where the mean face has them.
ANGLES = np.concatenate([np.linspace(np.pi, -np.pi, 13)[:-1], np.linspace(np.pi, -np.pi, 9)[:-1]])
WIDTHS = np.concatenate([np.full(12, 2.2), np.full(8, 1.7)])
CLOSED = np.stack([WIDTHS * np.cos(ANGLES), np.concatenate([np.full(12, 0.5), np.zeros(8)]) * -np.sin(ANGLES)], axis=1)


def mouth(height: np.ndarray) -> np.ndarray:
    """Keypoints (frames, 136) of faces whose mouths are open by `height` (frames,)."""
    lips = np.repeat(CLOSED[None], len(height), axis=0)
    lips[..., 1] += 2.9 - height[:, None] / 2 * np.sin(ANGLES)
    others = np.random.default_rng(9).uniform((-6, -6), (6, -3), (48, 2))  # above the lips
    points = np.concatenate([np.repeat(others[None], len(height), axis=0), lips], axis=1)
    return points.reshape(len(height), -1).astype(np.float32)


@pytest.mark.parametrize("encoder", ["conv_blstm", "conv_attention", "lstm"])
@pytest.mark.parametrize("features", ["mel", "mfcc"])
def test_a_network_gives_any_length_at_any_rate_and_comes_back_from_its_file(encoder, features):
    torch.manual_seed(0)
    network = VoiceToMouth(**SMALL, encoder=encoder, features=features, visual_dim=5).eval()
    for n_samples, fps, n_frames in ((16000, None, 25), (16000, 29.97, 30), (40000, 60, 150), (100, None, 1), (1, None, 1)):
        found = network.predict(np.random.default_rng(0).standard_normal(n_samples), fps)
        assert found.shape == (n_frames, 5) and np.isfinite(found).all()
    again = VoiceToMouth.from_pretrained(network.serialize())
    voice = np.random.default_rng(1).standard_normal(8000)
    np.testing.assert_allclose(again.predict(voice), network.predict(voice), atol=1e-6)
    np.testing.assert_allclose(network.predict(1e-2 * voice), network.predict(voice), atol=1e-4)  # the level says nothing
    assert np.isfinite(network.predict(np.zeros(8000))).all()
    with pytest.raises(ValueError, match="batch, time"):
        network(torch.zeros(8000))


def test_what_is_heard_is_at_its_time():
    network, click = VoiceToMouth(**SMALL).eval(), torch.zeros(1, 16000)
    click[0, 8000] = 1.0
    assert network.hearing(click)[0].mean(dim=1).argmax() == 50  # 0.5 s at 100 steps each second


def test_targets_are_standardised_by_what_was_trained_on():
    network = VoiceToMouth(**SMALL, visual_dim=2, target="lips")
    targets = torch.tensor([[[1.0, 10.0], [3.0, 30.0], [9.0, 9.0]]])
    seen = torch.tensor([[True, True, False]])
    network.standardise(targets, seen)
    network.eval()
    torch.testing.assert_close(network.standardise(targets, seen)[0, :2].mean(dim=0), torch.zeros(2))
    torch.testing.assert_close(network.restored(network.standardise(targets, seen)), targets)


def test_the_opening_is_the_distance_of_the_inner_lips():
    assert opening(torch.from_numpy(mouth(np.array([0.0, 1.0, 2.0])))).tolist() == pytest.approx(
        [0.0, *(height * np.mean([2**-0.5, 1, 2**-0.5]) for height in (1, 2))], abs=2e-3
    )


def test_a_mouth_that_does_not_move_fails_every_measure():
    time = np.arange(50) / 25
    true = mouth(1 + np.sin(2 * np.pi * 3 * time))
    right = keypoint_measures(true, true)
    assert right["opening"] == right["opening_velocity"] == pytest.approx(1.0, abs=1e-5)
    assert right["range"] == pytest.approx(1.0)
    assert (right["error"], right["error_of_motion"]) == pytest.approx((0.0, 0.0), abs=1e-6)
    still = keypoint_measures(np.repeat(true.mean(axis=0, keepdims=True), 50, axis=0), true)
    assert (still["opening"], still["opening_velocity"]) == (0, 0) and still["range"] < 0.01 and still["error"] > 0.03
    half = keypoint_measures(mouth(1 + 0.5 * np.sin(2 * np.pi * 3 * time)), true)
    assert half["opening"] > 0.999 and half["range"] == pytest.approx(0.5, abs=0.01)
    other = keypoint_measures(true + 0.5, true)  # somebody else's mouth, moving rightly
    assert other["error"] > 0.1 and other["error_of_motion"] == pytest.approx(0.0, abs=1e-6)


def test_short_closings_are_counted_and_pauses_are_not():
    height = np.full(60, 1.5)
    height[:8] = height[20:23] = height[40:42] = 0.0  # a pause at the start, two closings
    height[50:57] = 0.0  # too long
    true, guess = mouth(height), height.copy()
    assert keypoint_measures(true, true)["closings"] == 1.0
    guess[40:42] = 1.5
    assert keypoint_measures(mouth(guess), true)["closings"] == 0.5
    assert keypoint_measures(mouth(np.full(60, 1.0)), true)["closings"] == 0.0
    assert keypoint_measures(mouth(np.zeros(60)), true)["closings"] == 0.0  # a mouth that is always closed meets none
    assert np.isnan(keypoint_measures(true[:20], true[:20])["closings"])


def test_frames_on_which_no_mouth_is_seen_do_not_count():
    time = np.arange(50) / 25
    true = mouth(1 + np.sin(2 * np.pi * 3 * time))
    estimate = true.copy()
    true[10:20] = 0
    assert keypoint_measures(estimate, true)["opening"] == pytest.approx(1.0, abs=1e-5)
    for gone, said in ((slice(2, None), "fewer than three frames"), (slice(0, 0), "does not move")):
        shown = mouth(np.ones(50)) if said == "does not move" else true.copy()
        shown[gone] = 0
        with pytest.raises(UserError, match=said):
            keypoint_measures(estimate, shown)


def test_embeddings_are_told_apart_by_the_voice_that_predicts_them():
    rng = np.random.default_rng(0)
    trues = [rng.standard_normal((30, 8)).astype(np.float32) for _ in range(12)]
    near = [true + rng.standard_normal(true.shape).astype(np.float32) for true in trues]
    assert np.mean(right_of_ten(near, trues)) > 0.9
    assert np.mean(right_of_ten(near[1:] + near[:1], trues)) < 0.4
    assert right_of_ten(near[:3], trues[:3]) == []
    found = embedding_measures(near[0], trues[0])
    assert 0.5 < found["cosine"] < 0.9 and found["deviation"] == pytest.approx(2**0.5, rel=0.15)


def test_the_loss_wants_motion_not_the_mean():
    loss, time = MotionLoss(MotionLossConfig(), is_keypoints=True), torch.arange(25) / 25
    true = torch.from_numpy(mouth(1 + np.sin(2 * np.pi * 3 * time.numpy())))[None]
    seen = torch.ones(1, 25, dtype=torch.bool)

    def of(guess: torch.Tensor) -> float:
        return loss(guess, true, guess, true, seen).item()

    still = true.mean(dim=1, keepdim=True).expand_as(true)
    small = still + 0.5 * (true - still)
    assert of(true) == pytest.approx(0.0, abs=1e-3) and of(true) < of(small) < of(still)
    wrong = still - (true - still)
    assert of(wrong) > of(still)
    only_range = MotionLoss(MotionLossConfig(position_weight=0, velocity_weight=0, correlation_weight=0), is_keypoints=True)
    assert only_range(small, true, small, true, seen).item() == pytest.approx(0.1 * np.log(2) ** 2, rel=0.1)


def test_closings_at_known_phonemes_are_those_that_count():
    height = np.ones(60)
    height[[10, 30, 50]] = 0.0
    guess = height.copy()
    guess[30] = 1.0
    times_sec = np.array([[0.36, 0.44], [1.24, 1.32], [1.6, 1.7]])  # closed at 10, at 30 (lips ahead), and not at all
    found = keypoint_measures(mouth(guess), mouth(height), 25.0, times_sec)
    assert found["closings"] == 0.5 and keypoint_measures(mouth(guess), mouth(height))["closings"] == pytest.approx(2 / 3)
    assert keypoint_measures(mouth(guess), mouth(height), 25.0, times_sec[:1])["closings"] == 1.0
    assert np.isnan(keypoint_measures(mouth(guess), mouth(height), 25.0, np.zeros((0, 2)))["closings"])


def test_phonemes_of_a_corpus_are_read_and_reach_the_score(tmp_path):
    phonemes = {"a": [Phoneme("ˈp", 0.1, 0.2), Phoneme("a", 0.2, 0.4)], "b": [Phoneme("m", 0.0, 0.1)]}
    write_phonemes(tmp_path / "phonemes.csv", phonemes.items())
    assert read_phonemes(tmp_path / "phonemes.csv") == phonemes and read_phonemes(tmp_path / "none.csv") == {}
    (tmp_path / "phonemes.csv").write_text("utterance_ID,phoneme\na,p\n", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        read_phonemes(tmp_path / "phonemes.csv")


def test_the_mean_of_ratios_is_the_geometric_one():
    found = _geometric_mean(np.array([0.5, 2.0, 1.0]))
    assert found["mean"] == pytest.approx(1) and found["standard_error"] == pytest.approx(np.log(2) / 3**0.5)
    assert _geometric_mean(np.array([0.0]))["mean"] == pytest.approx(0.01)


def test_level_and_pauses_do_not_change_what_is_heard_of_speech():
    hearing = VoiceToMouth(**SMALL, visual_dim=5).hearing
    torch.manual_seed(1)
    voice = torch.randn(1, 16000) * torch.linspace(0.3, 1, 16000)
    heard = hearing(voice)
    torch.testing.assert_close(hearing(100 * voice), heard, rtol=0, atol=1e-3)
    paused = hearing(torch.cat([voice, 1e-3 * torch.randn(1, 32000)], dim=1))
    torch.testing.assert_close(paused[:, :95], heard[:, :95], rtol=0, atol=0.1)
    assert heard[:, :95].std() > 0.5 and paused[:, 105:].mean() < -5
    assert hearing(torch.zeros(1, 16000)).abs().max() < 1e-4


def test_correlation_is_zero_where_nothing_moves():
    values, seen = torch.randn(2, 9, 3), torch.ones(2, 9, dtype=torch.bool)
    torch.testing.assert_close(correlation(values, 2 * values + 1, seen), torch.ones(2))
    assert correlation(torch.ones(2, 9, 3), values, seen).tolist() == [0, 0]


def test_a_pretrained_wav2vec2_is_listened_to_and_stays_as_it_is(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"conv_dim": (8,) * 7, "num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 16}
    torch.manual_seed(0)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**sizes)).save_pretrained(tmp_path / "w2v")
    conf = {**SMALL, "features": "wav2vec2", "wav2vec2_dir": str(tmp_path / "w2v"), "visual_dim": 5}
    network = VoiceToMouth(**conf).train()
    voice = torch.randn(2, 16000)
    network(voice).square().sum().backward()
    assert not any("hearing" in name for name in network.state_dict())
    assert all(parameter.grad is None for parameter in network.hearing._network[0].parameters())
    again = VoiceToMouth.from_pretrained(network.serialize())
    heard = voice[0].numpy()
    np.testing.assert_allclose(again.predict(heard), network.predict(heard), atol=1e-6)
    np.testing.assert_allclose(network.predict(heard / 100), network.predict(heard), atol=1e-3)
    assert network.predict(np.zeros(3)).shape == (1, 5) and network.predict(heard, 29.97).shape == (30, 5)
    impulse = torch.zeros(1, 16000)
    impulse[0, 8000] = 1
    features = network.hearing._network[0].feature_extractor(impulse)[0]  # (chan, steps)
    strongest = float(features.sub(features[:, :1]).abs().sum(dim=0).argmax())
    assert network.hearing.first_sec + strongest * network.hearing.hop_sec == pytest.approx(0.5, abs=0.02)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    for folder in (tmp_path, tmp_path / "bert"):
        with pytest.raises(ValueError, match="no wav2vec 2.0 with safetensors"):
            VoiceToMouth(**conf | {"wav2vec2_dir": str(folder)})
    words = ["--features", "wav2vec2", "--wav2vec2_dir", str(tmp_path)]
    with pytest.raises(UserError, match="holds no config.json"):
        check_frontend_weights(read_config("conf/wav2kp.yml", words), "", "")
    with pytest.raises(UserError, match="go together"):
        read_config("conf/wav2kp.yml", words[:2])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("tiny"), n_utterances=12)


def test_examples_are_stretches_of_single_clips_and_depend_on_the_seed_only(tiny):
    manifest, store = single_clips(tiny["utterances"]), EmbeddingStore(tiny["store"])
    drawn = ClipDataset(manifest, [store], 0.4, 25.0, seed=3)
    assert len(drawn) == len(manifest.items)
    for name, value in drawn[2, 5].items():
        assert torch.equal(value, ClipDataset(manifest, [store], 0.4, 25.0, seed=3)[2, 5][name])
    assert drawn[0, 0]["voice"].shape == (6400,) and drawn[0, 0]["targets"].shape[0] == 10
    kept = ClipDataset(manifest, [store], 0.4, 25.0)
    item = manifest.items[1]
    np.testing.assert_array_equal(kept[7, 1]["targets"], store.get(item.mouth_path, 0, 10))
    sound, _ = soundfile.read(manifest.resolve(item.audio_path), frames=6400, dtype="float32")
    np.testing.assert_array_equal(kept[7, 1]["voice"], sound)


def test_the_clips_of_mixtures_are_their_sources_and_never_those_trained_on(tiny):
    before = tiny["val"].path.read_bytes()
    clips = single_clips(tiny["val"])
    assert all(isinstance(clip, Utterance) and clip.mouth_path for clip in clips.items)
    assert len({clip.mouth_path for clip in clips.items}) == len(clips.items)
    assert tiny["val"].path.read_bytes() == before
    config, stores = read_config("conf/wav2kp.yml", ["--segment_sec", "0.4"]), [EmbeddingStore(tiny["store"])]
    with pytest.raises(UserError, match="clips are in"):
        make_clip_datasets(config, tiny["utterances"], tiny["utterances"], stores, stores)
    sources = single_clips(tiny["val"])  # whose sounds are copies of those of utterances with the same mouths
    trained_on = replace(tiny["utterances"], items=sources.items[:1])
    moved = [replace(item, audio_path=f"copies/{item.audio_path}") for item in sources.items]
    with pytest.raises(UserError, match="1 clips are in"):
        make_clip_datasets(config, trained_on, replace(sources, items=tuple(moved)), stores, stores)


def test_clips_of_one_name_are_told_apart(tiny):
    item = tiny["val"].items[0]
    places = ("/one/clip.npz", "two/clip.npz")
    mixtures = replace(tiny["val"], items=(replace(item, mouth_paths=places, speakers=("anna", "bert")),))
    assert [clip.utterance_id for clip in single_clips(mixtures).items] == ["one_clip", "two_clip"]


def test_clips_without_landmarks_are_left_out_and_a_corpus_of_them_is_refused(tiny, tmp_path, caplog):
    clips = single_clips(tiny["utterances"])
    with EmbeddingWriter(tmp_path / "some", "float32") as writer:
        for number, item in enumerate(clips.items):
            writer.add(item.mouth_path, np.full((12, 136), float(number > 1), np.float32), Source(1, 1, "0"))
    assert with_targets(clips, EmbeddingStore(tmp_path / "some")).items == clips.items[2:]
    assert "2 of" in caplog.text and "left out" in caplog.text
    with EmbeddingWriter(tmp_path / "none", "float32") as writer:
        for item in clips.items:
            writer.add(item.mouth_path, np.zeros((12, 136), np.float32), Source(1, 1, "0"))
    with pytest.raises(UserError, match="came without landmarks, which there are for raw video only"):
        with_targets(clips, EmbeddingStore(tmp_path / "none"))


def test_confs_of_the_two_systems_do_not_mix():
    for words, said in ((["--n_src", "2"], "n_src"), (["--same_speaker_prob", "0.5"], "same_speaker_prob")):
        with pytest.raises(UserError, match=said):
            read_config("conf/wav2kp.yml", words)
    with pytest.raises(UserError, match="velocity_weight"):
        read_config("conf/av_tfdprnn.yml", ["--velocity_weight", "1"])


def test_faces_are_drawn_with_mouths_open_and_closed_and_where_the_picture_has_them():
    dark = [int((draw_face(mouth(np.array([height]))[0]) == (66, 22, 30)).all(axis=2).sum()) for height in (0.0, 1.0, 2.0)]
    assert dark[0] < 20 and dark[1] > 100 and dark[2] > 1.5 * dark[1]
    assert (draw_face(np.zeros(136)) == draw_face(np.zeros(136))[0, 0]).all()
    picture, place = np.zeros((160, 200, 3), np.uint8), np.array([[0.5, 0, 100], [0, 0.5, 80]])
    drawn = draw_face(mouth(np.array([2.0]))[0], "", picture, place)
    assert drawn.shape == (320, 400, 3)
    rows, _ = np.nonzero(drawn[:, 190:210].any(axis=2))
    assert abs(np.median(rows[rows > 150]) - (80 + 29 * 0.5) * 2) < 12  # the lips, 29 pixels below the middle of the mean face
    assert not draw_face(mouth(np.array([2.0]))[0], "", picture, np.full((2, 3), np.nan)).any()


@pytest.mark.parametrize("late", [0, 3, -2])
def test_faces_are_drawn_on_the_pictures_that_they_were_found_in(tmp_path, late):
    """Pictures that get brighter; stage 1 has moved them by `late` frames against the sound."""
    pictures = np.repeat(np.arange(20, 220, 10, dtype=np.uint8), 64 * 64 * 3).reshape(20, 64, 64, 3)
    encode_clip(tmp_path / "a.mp4", 0.1 * np.random.default_rng(0).standard_normal(12800), 16000, Fraction(25), list(pictures))
    with MouthWriter(tmp_path / "mouth.npz", 20) as writer:
        for _ in range(20):
            writer.add(np.zeros((96, 96), np.uint8), True)
        writer.extra["points"] = mouth(np.ones(20)).reshape(20, 68, 2) * 10
        writer.extra["to_picture"] = np.repeat(np.array([[[0.3, 0, 32], [0, 0.3, 32]]]), 20, axis=0)
        writer.extra["picture_frame"] = np.arange(20)
    if late:
        write_shifted(MouthFile(tmp_path / "mouth.npz"), MouthWriter(tmp_path / "mouth.npz", 20), late)
    width, shown = _pictures(str(tmp_path / "mouth.npz"), str(tmp_path / "a.mp4"), 20)
    tones = [float(picture.mean()) for picture, _ in shown]
    wanted = [20 + 10 * (frame + late) for frame in range(max(-late, 0), 20 - max(late, 0))]
    start = max(-late, 0)
    assert width == 320 and np.abs(np.array(tones[start : start + len(wanted)]) - wanted).max() < 4
    gone, (nothing, place) = _pictures(str(tmp_path / "mouth.npz"), str(tmp_path / "gone.mp4"), 20)[1], (None, None)
    assert next(iter(gone)) == (nothing, place)


N_FRAMES = 40
PLACE = np.array([[1.0, 0, 47.5], [0, 1, 18.5]])  # the mouth in the middle of the crop


def talk(rng: np.random.Generator, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """How far a mouth is open (n_frames,), and a voice that is as loud."""
    height = np.interp(np.arange(n_frames), np.arange(0, n_frames + 4, 4), rng.uniform(0, 2, n_frames // 4 + 1))
    gain = np.interp((np.arange(n_frames * 640) + 0.5) / 640 - 0.5, np.arange(n_frames), height)
    return height, 0.05 * rng.standard_normal(n_frames * 640) * (0.02 + gain)


def make_talking_mouths(folder: Path, with_pictures: bool = False) -> None:
    """A corpus of voices that are louder the wider the mouth is open, of people whose mouths differ.

    Without pictures the crops are black.
    """
    rng, data = np.random.default_rng(0), folder
    for part in ("sounds", "mouths"):
        (data / part).mkdir(parents=True)
    for split, people in (("utterances", range(6)), ("val", (6, 7)), ("test", (8, 9))):
        items = []
        for person in people:
            for number in range(6):
                name = f"p{person}_{number}"
                height, voice = talk(rng, N_FRAMES)
                soundfile.write(data / f"sounds/{name}.wav", voice, 16000, "FLOAT")
                points = mouth(height).reshape(N_FRAMES, 68, 2) * (0.9 + 0.02 * person) * 10
                with MouthWriter(data / f"mouths/{name}.npz", N_FRAMES) as writer:
                    writer.extra["points"] = points
                    writer.extra["to_picture"] = np.repeat(PLACE[None], N_FRAMES, axis=0)
                    for frame in range(N_FRAMES):
                        crop = np.zeros((96, 96), np.uint8)
                        if with_pictures:
                            crop[:] = 120 + 5 * person
                            half = round(2 + 10 * height[frame])
                            crop[48 - half : 48 + half, 28:68] = 20
                        writer.add(crop, True)
                items.append(
                    Utterance(name, f"p{person}", f"sounds/{name}.wav", f"mouths/{name}.npz", N_FRAMES * 640, N_FRAMES, 25.0)
                )
        facts = {"corpus": data.name, "split": split, "data_root": data, "sample_rate": 16000, "n_src": 1}
        write_manifest(data / f"{split}.csv", items=items, **facts)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A corpus and an experiment trained on it, by the stages."""
    root = tmp_path_factory.mktemp("talking")
    make_talking_mouths(root / "data")
    conf = ["--conf", "conf/wav2kp.yml", "--data_dir", root / "data", "--dump_dir", root / "dump"]
    run("embed", *conf, "--nj", "1")
    small = "--hid_chan 16 --n_blocks 1 --n_layers 1 --n_features 20 --epochs 12 --batch_size 4 --lr 0.01 --warmup_steps 5"
    run("train", *conf, "--exp_dir", root / "exp", "--train_args", f"{small} --num_workers 0 --early_stop 0", "--id", "cpu")
    return root


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def run(stage: str, *words: object, code: int = 0) -> str:
    program = [sys.executable, "-m", f"utils.stages.{stage}", *map(str, words)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_strangers_mouths_move_with_their_voices(trained):
    history = rows_of(trained / "exp/history.csv")
    assert float(history[-1]["val_correlation"]) > 0.9
    assert (trained / "exp/curves.png").is_file() and read_json(trained / "exp/training.json")["best_val_correlation"] > 0.9
    test = ("--exp_dir", trained / "exp", "--test_dir", trained / "data/test.csv")
    said = run("separate", *test, "--dump_dir", trained / "dump", "--id", "cpu")
    assert "12 voices, 0 failed" in said
    table = run("score", *test)
    assert "first frame, held" in table
    found = read_json(trained / "exp/results/data_test/final_metrics.json")
    metrics = {name: value["mean"] for name, value in found["metrics"].items()}
    assert found["n_clips"] == 12 and found["n_speakers"] == 2
    assert metrics["opening"] > 0.9 and metrics["opening_velocity"] > 0.6 and 0.7 < metrics["range"] < 1.3
    assert metrics["error_of_motion"] < 0.67 * metrics["mean_error_of_motion"]
    results = trained / "exp/results/data_test"
    assert (results / "opening.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((results / "examples").glob("*.mp4"))) == 4
    assert "up to date" in run("separate", *test, "--dump_dir", trained / "dump", "--id", "cpu")
    assert "up to date" in run("score", *test)
    (trained / "exp/predicted/data_test/p8_0.npz").write_bytes(b"x")
    said = run("score", *test, "--force")
    assert "Traceback" not in said and read_json(results / "final_metrics.json")["n_failed"] == 1
    for path in (trained / "exp/predicted/data_test").glob("*.npz"):
        path.write_bytes(b"x")
    assert "no clip can be scored; the first: p8_0" in run("score", *test, "--force", code=1)


def copied(trained: Path, place: Path) -> Manifest:
    """The test clips of the corpus in a folder of their own, and their store."""
    shutil.copytree(trained / "data", place / "data")
    shutil.copytree(trained / "dump", place / "dump")
    manifest = read_manifest(place / "data/test.csv")
    facts = {"corpus": "data", "split": "test", "data_root": place / "data", "sample_rate": 16000, "n_src": 1}
    write_manifest(place / "data/test.csv", items=manifest.items, **facts)
    return manifest


def test_a_clip_that_cannot_be_used_is_listed_and_another_truth_is_noticed(trained, tmp_path):
    manifest = copied(trained, tmp_path)
    words = ("--exp_dir", trained / "exp", "--test_dir", tmp_path / "data/test.csv", "--dump_dir", tmp_path / "dump")
    words = (*words, "--test_name", "copied", "--id", "cpu")
    (root,) = (tmp_path / "dump/embeddings").glob("*/data")
    lost, changed, unseen = (item.mouth_path for item in manifest.items[:3])
    with EmbeddingWriter(root) as writer:
        writer.forget({lost})
    (tmp_path / "data" / manifest.items[3].audio_path).unlink()
    write_phonemes(tmp_path / "data/phonemes.csv", [("p8_1", [Phoneme("ˈb", 0.1, 0.2), Phoneme("a", 0.2, 0.4)])])
    said = run("separate", *words, code=1)
    assert "2 of 12 voices could not be used" in said
    said = run("separate", *words, "--max_failed", "2")
    assert "10 voices, 2 failed" in said and "real-time factor" in said
    failed = {row["id"]: row["reason"] for row in rows_of(trained / "exp/predicted/copied/failed.csv")}
    assert "run stage 2" in failed["p8_0"] and "o such file" in failed["p8_3"]
    assert "up to date" in run("separate", *words, "--max_failed", "2")
    assert "2 of 12 voices could not be used" in run("separate", *words, code=1)
    with EmbeddingWriter(root) as writer:
        old = EmbeddingStore(root).get(changed)
        writer.forget({changed, unseen})
        writer.add(changed, old + 1, Source(1, 1, "0"))
        writer.add(unseen, np.zeros_like(old), Source(1, 1, "0"))
    assert "10 voices, 2 failed" in run("separate", *words, "--max_failed", "2")
    rows = {row["id"]: row for row in rows_of(trained / "exp/predicted/copied/predicted.csv")}
    assert rows["p8_1"]["has_truth"] == "True" and rows["p8_2"]["has_truth"] == "False"
    with np.load(trained / "exp/predicted/copied/p8_1.npz") as file:
        np.testing.assert_allclose(file["true"], old + 1, atol=0.01)
        np.testing.assert_allclose(file["closings"], [[0.1, 0.2]])


@pytest.mark.parametrize(("rate", "fps", "said"), [(8000, 25.0, "8000 Hz, the network"), (16000, 50.0, "p8_0 has 50 frames/s")])
def test_a_test_at_another_rate_is_refused(trained, tmp_path, rate, fps, said):
    manifest = read_manifest(trained / "data/test.csv")
    items = [replace(item, fps=fps) for item in manifest.items]
    facts = {"corpus": "data", "split": "test", "data_root": trained / "data", "sample_rate": rate, "n_src": 1}
    write_manifest(tmp_path / "test.csv", items=items, **facts)
    words = ("--exp_dir", trained / "exp", "--test_dir", tmp_path / "test.csv", "--dump_dir", trained / "dump")
    assert said in run("separate", *words, "--id", "cpu", code=1)


def test_any_sound_is_drawn_and_what_is_none_is_a_line(trained, tmp_path):
    voice = 0.1 * np.random.default_rng(0).standard_normal(44100)
    soundfile.write(tmp_path / "stereo.wav", np.stack([voice, voice], axis=1), 44100)
    soundfile.write(tmp_path / "eight.wav", voice[:8000], 8000, "PCM_U8")
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    (tmp_path / "none.wav").write_bytes(b"RIFFxxxx")
    soundfile.write(tmp_path / "stereo.flac", voice, 44100)
    (tmp_path / "._eight.wav").write_bytes(b"left by another system")
    words = ("--exp_dir", trained / "exp", "--test_dir", tmp_path, "--test_name", "sounds", "--id", "cpu")
    said = run("separate", *words, code=1)
    assert "3 of 5 voices could not be used" in said and "Traceback" not in said
    said = run("separate", *words, "--max_failed", "3")
    out = trained / "exp/predicted/sounds"
    assert "2 voices, 3 failed" in said
    assert {path.name for path in out.glob("*.mp4")} == {"stereo.mp4", "eight.mp4"}
    with np.load(out / "stereo.npz") as file:
        assert file["estimate"].shape == (25, 136)
    failed = {Path(row["path"]).name: row["reason"] for row in rows_of(out / "failed.csv")}
    assert set(failed) == {"silent.wav", "none.wav", "stereo.wav"} and "same name" in failed["stereo.wav"]
    assert "no camera saw these voices" in run("score", *words[:-2])


def test_one_batch_can_be_learned_by_heart(trained):
    conf = ("--conf", "conf/wav2kp.yml", "--data_dir", trained / "data", "--dump_dir", trained / "dump")
    small = "--hid_chan 32 --n_blocks 1 --n_layers 1 --dropout 0 --epochs 8 --batch_size 4 --lr 0.01 --schedule plateau"
    args = f"{small} --warmup_steps 0 --num_workers 0 --early_stop 0 --overfit_batch true"
    run("train", *conf, "--exp_dir", trained / "overfit", "--train_args", args, "--id", "cpu")
    history = rows_of(trained / "overfit/history.csv")
    assert float(history[-1]["val_correlation"]) > 0.97


def test_a_corpus_without_mouths_is_refused(trained):
    manifest = read_manifest(trained / "data/test.csv")
    blind = replace(manifest, items=tuple(replace(item, mouth_path="") for item in manifest.items))
    with pytest.raises(UserError, match="no clip has a mouth"):
        single_clips(blind)


def test_tools_for_separation_refuse_it_in_a_line(tmp_path):
    (tmp_path / "suite.yml").write_text("minutes: 1\nbaseline: a\nrows:\n  a: {conf: conf/wav2kp.yml}\n", encoding="utf-8")
    places = ["--suite", tmp_path / "suite.yml", "--data_dir", tmp_path, "--out_dir", tmp_path / "out"]
    for words in (["complexity", "--conf", "conf/wav2kp.yml"], ["comparison", *places]):
        program = [sys.executable, "-m", f"utils.tools.{words[0]}", *map(str, words[1:])]
        done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "it separates nothing" in done.stderr and "Traceback" not in done.stderr


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listed(folder: Path, path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The split of each clip, and the reason against each row, by a list."""
    found, problems = [], []
    for each in _split_by_list(find_clips(folder, needs_folders=False), path):
        (problems if isinstance(each, Problem) else found).append(each)
    return {clip.utterance_id: clip.split for clip in found}, {problem.item_id: problem.reason for problem in problems}


def test_a_split_list_is_followed_and_rows_that_cannot_be_are_named(tmp_path):
    names = ("anna/happy.mp4", "anna/sad.mp4", "bert/happy.mp4", "carl.mkv")
    folder = touched(tmp_path / "videos", *names)
    rows = [("sad", "Train"), ("anna_happy", "dev"), ("carl.mkv", "TEST"), ("happy", "train"), ("gone.mp4", "test")]
    rows += [("carl", "val"), ("bert_happy", "some")]
    text = "\ufeffVideo,Set,emotion\r\n" + "".join(f"{video},{given},x\r\n" for video, given in rows)
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    splits, problems = listed(folder, tmp_path / "list.csv")
    clip = next(name for name in splits if name.endswith("carl"))
    assert splits == {"anna_sad": "train", "anna_happy": "val", clip: "test"}
    assert "2 videos are called so" in problems["happy"] and "no such video" in problems["gone.mp4"]
    assert problems["carl"] == "listed twice" and "'some' is none of train, val, test" in problems["bert_happy"]
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    pytest.importorskip("et_xmlfile")
    pandas.DataFrame(rows, columns=["video", "set"]).to_excel(tmp_path / "list.xlsx", index=False)
    assert listed(folder, tmp_path / "list.xlsx") == (splits, problems)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), ("clip,part\na,train\n", "columns video and set"), ("video,set\nx,train\n", "names no video")],
)
def test_a_list_that_cannot_be_used_is_one_line(tmp_path, content, said):
    folder = touched(tmp_path / "videos", "anna/happy.mp4")
    if content:
        (tmp_path / "list.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        listed(folder, tmp_path / "list.csv")
    for content in (b"PK no sheet", b"PK\3\4 cut off"):
        (tmp_path / "list.xlsx").write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            listed(folder, tmp_path / "list.xlsx")
