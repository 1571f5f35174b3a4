"""Examples for training: true levels, faces in step with voices, the same whoever asks."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from tiny_corpus import FPS, RATE_HZ, make_corpus
from torch.utils.data import DataLoader

from utils.data.datasets import DynamicMixtureDataset, EpochSampler, MixtureDataset, collate
from utils.data.embedding_store import EmbeddingStore
from utils.data.mixing import frames_to_samples, mix_at_sir, sir_db
from utils.errors import UserError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def dynamic(corpus, **changes):
    arguments = {"n_src": 2, "segment_sec": 0.4, "seed": 3, **changes}
    return DynamicMixtureDataset(corpus["utterances"], [EmbeddingStore(corpus["store"])], **arguments)


def test_mixing_gives_the_asked_sir_and_adds_up():
    rng = np.random.default_rng(0)
    sources = rng.standard_normal((3, 4000)) * [[1.0], [5.0], [0.01]]
    mixture, scaled = mix_at_sir(sources, np.array([-3.0, 4.5]))
    assert sir_db(scaled[0], scaled[1]) == pytest.approx(-3.0, abs=1e-4)
    assert sir_db(scaled[0], scaled[2]) == pytest.approx(4.5, abs=1e-4)
    np.testing.assert_allclose(mixture, scaled.sum(axis=0), atol=1e-6)
    with pytest.raises(UserError, match="silent"):
        mix_at_sir(np.zeros((2, 10)), np.array([0.0]))


def test_frames_begin_on_whole_samples_at_any_rate():
    assert frames_to_samples(3, 16000, 25) == 1920
    assert frames_to_samples(30000, 16000, 30000 / 1001) == 16016000
    assert frames_to_samples(1, 16000, 30000 / 1001) == 533  # rounded down


def test_dynamic_mixtures_have_a_true_sir_within_the_range_and_different_speakers(corpus):
    dataset = dynamic(corpus, size=60)
    speakers = {item.mouth_path: item.speaker for item in corpus["utterances"].items}
    store = EmbeddingStore(corpus["store"])
    sirs_db = []
    for index in range(60):
        example = dataset[0, index]
        sources = example["sources"].numpy()
        sirs_db.append(sir_db(sources[0], sources[1]))
        torch.testing.assert_close(example["mixture"], example["sources"].sum(0))
        who = [next(speakers[key] for key in speakers if _contains(store.get(key), cue.numpy())) for cue in example["visual"]]
        assert who[0] != who[1]
    assert -5 <= min(sirs_db) < -3 and 3 < max(sirs_db) <= 5


def _contains(clip, cue):
    return any(np.array_equal(clip[start : start + len(cue)], cue) for start in range(len(clip) - len(cue) + 1))


@pytest.mark.parametrize("speed", [0.0, 0.25])
def test_faces_and_voices_of_a_segment_belong_together(corpus, speed):
    """The corpus' first cue says when its voice sounds, so energy must sit in those frames, at whatever start and speed."""
    dataset = dynamic(corpus, size=20, speed=speed)
    for index in range(20):
        example = dataset[1, index]
        for source, cue in zip(example["sources"], example["visual"], strict=True):
            energy = source.reshape(-1, RATE_HZ // FPS).square().mean(dim=1)
            on, off = cue[:, 0] > 0.99, cue[:, 0] < 0.01
            if on.any() and off.any():
                assert energy[on].mean() > 5 * energy[off].mean()


def test_one_target_is_mixed_with_a_voice_that_is_none(corpus):
    example = dynamic(corpus, n_src=1)[0, 3]
    assert example["sources"].shape[0] == example["visual"].shape[0] == 1
    rest = example["mixture"] - example["sources"][0]
    assert -5.001 <= sir_db(example["sources"][0].numpy(), rest.numpy()) <= 5.001


def test_speed_moves_the_pitch_and_keeps_the_length(corpus):
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / RATE_HZ).astype(np.float32)
    path = corpus["utterances"].data_root / "audio" / "tone.wav"
    soundfile.write(path, tone, RATE_HZ, subtype="FLOAT")
    dataset = dynamic(corpus, speed=0.3)
    dataset.items[0] = replace(dataset.items[0], audio_path="audio/tone.wav")
    peaks_hz = set()
    for seed in range(8):
        audio, _, _, n_frames = dataset._segment(0, np.random.default_rng(seed))
        assert len(audio) == 6400
        peak_hz = np.abs(np.fft.rfft(audio * np.hanning(6400))).argmax() * RATE_HZ / 6400
        assert peak_hz == pytest.approx(1000 * n_frames / 10, abs=5)
        peaks_hz.add(round(peak_hz))
    assert len(peaks_hz) > 3


def test_same_speaker_pairs_are_drawn_when_asked(corpus):
    dataset = dynamic(corpus, same_speaker=1.0)
    for index in range(len(dataset)):
        rng = np.random.default_rng(index)
        first, second = (dataset.items[i] for i in dataset._draw(rng))
        assert first.speaker == second.speaker and first.utterance_id != second.utterance_id


def test_one_speaker_alone_is_refused_with_the_remedy(corpus, tmp_path):
    alone = replace(corpus["utterances"], items=tuple(replace(i, speaker="s1") for i in corpus["utterances"].items))
    with pytest.raises(UserError, match="--same_speaker 1"):
        DynamicMixtureDataset(alone, [], 0.4, n_src=2)


def test_examples_are_the_same_whatever_the_number_of_workers(corpus):
    def load(workers):
        sampler = EpochSampler(8, seed=5)
        sampler.set_epoch(2)
        loader = DataLoader(dynamic(corpus), 2, sampler=sampler, num_workers=workers, collate_fn=collate)
        return torch.cat([batch["mixture"] for batch in loader])

    torch.testing.assert_close(load(0), load(2), rtol=0, atol=0)


def test_processes_share_out_training_without_overlap_and_validation_without_doubling():
    parts = [list(EpochSampler(11, seed=0, rank=rank, world_size=3)) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 3, 3]
    assert len({index for part in parts for _, index in part}) == 9
    parts = [list(EpochSampler(11, seed=None, rank=rank, world_size=3)) for rank in range(3)]
    assert sorted(index for part in parts for _, index in part) == list(range(11))


def test_epochs_differ_and_the_seed_repeats_them():
    def order(seed, epoch):
        sampler = EpochSampler(50, seed)
        sampler.set_epoch(epoch)
        return [index for _, index in sampler]

    assert order(0, 1) == order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_fixed_mixtures_are_the_files_themselves(corpus):
    dataset = MixtureDataset(corpus["val"], [EmbeddingStore(corpus["store"])], 1.0)
    item = corpus["val"].items[2]
    example = dataset[0, 2]
    audio, _ = soundfile.read(corpus["val"].resolve(item.mixture_path), dtype="float32")
    np.testing.assert_array_equal(example["mixture"].numpy(), audio)
    np.testing.assert_array_equal(example["visual"][1].numpy(), EmbeddingStore(corpus["store"]).get(item.mouth_paths[1]))


def test_random_segments_of_fixed_mixtures_start_on_whole_frames(corpus):
    dataset = MixtureDataset(corpus["train"], [], 0.4, seed=1)
    whole = MixtureDataset(corpus["train"], [], 1.0)[0, 0]["mixture"]
    starts = set()
    for epoch in range(20):
        segment = dataset[epoch, 0]["mixture"]
        starts.add(next(f for f in range(16) if torch.equal(whole[f * 640 : f * 640 + 6400], segment)))
    assert len(starts) > 5


def test_missing_embeddings_are_named(corpus, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"8 mouth crops have no embeddings .* stage 2"):
        DynamicMixtureDataset(corpus["utterances"], [EmbeddingStore(tmp_path / "empty")], 0.4, n_src=2)


def test_segments_longer_than_everything_are_refused(corpus):
    with pytest.raises(UserError, match="nothing lasts 3 s"):
        MixtureDataset(corpus["val"], [], 3.0)
