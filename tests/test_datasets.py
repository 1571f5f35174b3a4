"""Examples for training: true levels, visual embeddings in step with the audio, the same for any number of processes."""

from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import soundfile
import torch
from tiny_corpus import FPS, RATE_HZ, make_corpus
from torch.utils.data import DataLoader

from utils.data.clock import frames_to_samples
from utils.data.manifest import Problem, write_failed
from utils.embedding.store import EmbeddingStore, EmbeddingWriter
from utils.errors import UserError
from utils.mixing.levels import mix_at_sir, power, sir_db
from utils.training.config import DataConfig
from utils.training.datasets import DynamicMixtureDataset, EpochSampler, MixtureDataset, collate


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


SHORT = DataConfig(segment_sec=0.4)


def dynamic(corpus, n_src=2, **data):
    config = DataConfig(**{"segment_sec": 0.4, **data})
    return DynamicMixtureDataset(corpus["utterances"], [EmbeddingStore(corpus["store"])], config, n_src=n_src, seed=3)


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
    dataset = dynamic(corpus, epoch_size=60)
    speakers = {item.mouth_path: item.speaker for item in corpus["utterances"].items}
    store = EmbeddingStore(corpus["store"])
    sirs_db = []
    for index in range(60):
        example = dataset[0, index]
        sources = example["sources"].numpy()
        sirs_db.append(sir_db(sources[0], sources[1]))
        torch.testing.assert_close(example["mixture"], example["sources"].sum(0))
        faces = [face.numpy() for face in example["visual"]]
        who = [next(speakers[key] for key in speakers if _contains(store.get(key), face)) for face in faces]
        assert who[0] != who[1]
    assert -5 <= min(sirs_db) < -3 and 3 < max(sirs_db) <= 5


def _contains(clip, part):
    return any(np.array_equal(clip[start : start + len(part)], part) for start in range(len(clip) - len(part) + 1))


@pytest.mark.parametrize("speed", [0.0, 0.25])
def test_faces_and_audio_of_a_segment_belong_together(corpus, speed):
    """An embedding's first number says when its speaker sounds: energy must be in those frames, at any start and speed."""
    dataset = dynamic(corpus, epoch_size=20, max_speed_change=speed)
    for index in range(20):
        example = dataset[1, index]
        for source, face in zip(example["sources"], example["visual"], strict=True):
            energy = source.reshape(-1, RATE_HZ // FPS).square().mean(dim=1)
            on, off = face[:, 0] > 0.99, face[:, 0] < 0.01
            if on.any() and off.any():
                assert energy[on].mean() > 5 * energy[off].mean()


def test_one_target_is_mixed_with_a_source_that_is_none(corpus):
    example = dynamic(corpus, n_src=1)[0, 3]
    assert example["sources"].shape[0] == example["visual"].shape[0] == 1
    rest = example["mixture"] - example["sources"][0]
    assert -5.001 <= sir_db(example["sources"][0].numpy(), rest.numpy()) <= 5.001


def test_speed_moves_the_pitch_and_keeps_the_length(corpus):
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / RATE_HZ).astype(np.float32)
    path = corpus["utterances"].data_root / "audio" / "tone.wav"
    soundfile.write(path, tone, RATE_HZ, subtype="FLOAT")
    dataset = dynamic(corpus, max_speed_change=0.3)
    dataset.pool.items[0] = replace(dataset.pool.items[0], audio_path="audio/tone.wav")
    peaks_hz = set()
    for seed in range(8):
        source = dataset.pool.segment(0, np.random.default_rng(seed))
        assert len(source.audio) == 6400
        peak_hz = np.abs(np.fft.rfft(source.audio * np.hanning(6400))).argmax() * RATE_HZ / 6400
        assert peak_hz == pytest.approx(1000 * source.pieces[0].n_frames / 10, abs=5)
        peaks_hz.add(round(peak_hz))
    assert len(peaks_hz) > 3


def test_short_clips_are_joined_to_a_segment_with_their_faces(corpus):
    """Clips of 0.52 s fill segments of 1 s: sound and embeddings of the same stretches, all of one speaker."""
    store = EmbeddingStore(corpus["store"])
    short = tuple(replace(item, length=13 * 640, frames=13) for item in corpus["utterances"].items)
    manifest = replace(corpus["utterances"], items=short)
    config = replace(SHORT, segment_sec=1.0, join_clips=True)
    with pytest.raises(UserError, match="nothing lasts 1 s"):
        DynamicMixtureDataset(manifest, [store], replace(config, join_clips=False), n_src=2)
    pool = DynamicMixtureDataset(manifest, [store], config, n_src=2).pool
    for seed in range(5):
        sources = pool.draw(2, np.random.default_rng(seed))
        for source in sources:
            assert source.audio.shape == (25 * 640,) and sum(piece.n_frames for piece in source.pieces) == 25
            assert len({piece.item.speaker for piece in source.pieces}) == 1 and len(source.pieces) == 2
            place = 0
            visual = pool.visual(source, store)
            for item, start_frame, n_frames in source.pieces:
                samples, _ = soundfile.read(manifest.resolve(item.audio_path), dtype="float32")
                stretch = samples[start_frame * 640 : (start_frame + n_frames) * 640]
                assert np.array_equal(source.audio[place * 640 : (place + n_frames) * 640], stretch)
                embeddings = store.get(item.mouth_path, start_frame, n_frames)
                assert np.array_equal(visual[place : place + n_frames], embeddings)
                place += n_frames


def test_same_speaker_pairs_are_drawn_when_asked(corpus):
    dataset = dynamic(corpus, same_speaker_prob=1.0)
    for index in range(len(dataset)):
        rng = np.random.default_rng(index)
        first, second = (dataset.pool.items[i] for i in dataset.pool.draw_utterances(2, rng))
        assert first.speaker == second.speaker and first.utterance_id != second.utterance_id


def test_a_single_speaker_is_refused_with_the_remedy(corpus):
    single = replace(corpus["utterances"], items=tuple(replace(i, speaker="s1") for i in corpus["utterances"].items))
    with pytest.raises(UserError, match="--same_speaker_prob 1"):
        DynamicMixtureDataset(single, [], SHORT, n_src=2)


def test_examples_are_the_same_whatever_the_number_of_workers(corpus):
    def load(workers):
        sampler = EpochSampler(8, seed=5)
        sampler.set_epoch(2)
        loader = DataLoader(dynamic(corpus), 2, sampler=sampler, num_workers=workers, collate_fn=collate)
        return torch.cat([batch["mixture"] for batch in loader])

    torch.testing.assert_close(load(0), load(2), rtol=0, atol=0)


def test_plain_settings_draw_as_they_always_did(corpus):
    """What was trained can be trained again: the order of the draws is part of the recipe."""
    dataset, store = dynamic(corpus), EmbeddingStore(corpus["store"])
    items = corpus["utterances"].items

    def stretch(item, rng):
        audio, _ = soundfile.read(corpus["utterances"].resolve(item.audio_path), dtype="float32")
        while True:
            start = int(rng.integers(16))
            if power(audio[640 * start : 640 * start + 6400]) > 1e-8:
                return audio[640 * start : 640 * start + 6400], store.get(item.mouth_path, start, 10)

    for index in range(8):
        rng = np.random.default_rng([3, 1, 4, index])
        first = int(rng.integers(8))
        others = [speaker for speaker in ("spk0", "spk1", "spk2") if speaker != items[first].speaker]
        other = rng.choice(others, 1)[0]
        second = int(rng.choice([i for i in range(8) if items[i].speaker == other]))
        pair = [items[(first, second)[i]] for i in rng.permutation(2)]
        sources, faces = zip(*(stretch(item, rng) for item in pair), strict=True)
        mixture, sources = mix_at_sir(np.stack(sources), rng.uniform(-5, 5, 1))
        speakers = [int(item.speaker.removeprefix("spk")) for item in pair]
        expected = {"mixture": mixture, "sources": sources, "visual": np.stack(faces), "speakers": speakers}
        for name, value in dataset[4, index].items():
            np.testing.assert_array_equal(value.numpy(), expected[name])


def test_mixtures_with_an_extra_speaker_come_first_and_all_have_faces(corpus):
    dataset = dynamic(corpus, epoch_size=10, extra_speaker_prob=0.4)
    for index in range(10):
        example, n = dataset[0, index], 3 if index < 4 else 2
        assert len(example["sources"]) == len(example["visual"]) == n
        torch.testing.assert_close(example["mixture"], example["sources"].sum(0))
        sirs_db = [sir_db(example["sources"][0].numpy(), other.numpy()) for other in example["sources"][1:]]
        assert max(map(abs, sirs_db)) <= 5.001
    plain = dynamic(corpus, epoch_size=10)
    assert torch.equal(dataset[2, 9]["mixture"], plain[2, 9]["mixture"])  # the others stay as they were


@pytest.mark.parametrize("n_src", [1, 2])
def test_speakers_off_screen_are_heard_and_are_no_targets(corpus, n_src):
    with_none, with_all = (dynamic(corpus, n_src, epoch_size=8, off_screen_prob=prob) for prob in (0.0, 1.0))
    plain, some = (dynamic(corpus, n_src, epoch_size=80, off_screen_prob=prob) for prob in (0.0, 0.5))
    for index in range(8):
        example = with_all[0, index]
        assert len(example["sources"]) == len(example["visual"]) == n_src
        rest = (example["mixture"] - example["sources"].sum(0)).numpy()
        if n_src == 2:
            assert -5.001 <= sir_db(example["sources"][0].numpy(), rest) <= 5.001
            without = with_none[0, index]
            torch.testing.assert_close(without["mixture"], without["sources"].sum(0))
        assert len(with_all.pool.draw(n_src + 1, np.random.default_rng(0))) == n_src + 1
    same = [torch.equal(some[0, index]["mixture"], plain[0, index]["mixture"]) for index in range(80)]
    assert 25 < sum(same) < 55


def test_an_inactive_target_keeps_its_face_and_leaves_the_mixture(corpus):
    plain, dataset = dynamic(corpus, epoch_size=30), dynamic(corpus, epoch_size=30, inactive_target_prob=1.0)
    inactive = []
    for index in range(30):
        example, before = dataset[0, index], plain[0, index]
        inactive.append([i for i, source in enumerate(example["sources"]) if not source.any()])
        talks = 1 - inactive[-1][0]
        torch.testing.assert_close(example["mixture"], before["sources"][talks], rtol=0, atol=0)
        torch.testing.assert_close(example["visual"], before["visual"], rtol=0, atol=0)
    assert sorted(map(len, inactive)) == [1] * 30 and {(0,), (1,)} == set(map(tuple, inactive))


def test_a_single_target_may_be_inactive_while_the_interferer_talks(corpus):
    example = dynamic(corpus, n_src=1, inactive_target_prob=1.0)[0, 0]
    assert not example["sources"].any() and example["mixture"].square().mean() > 1e-6


def test_faces_are_augmented_only_in_training_and_audio_never(corpus):
    lost, stores = DataConfig(no_visual_prob=1.0), [EmbeddingStore(corpus["store"])]
    assert not dynamic(corpus, no_visual_prob=1.0)[0, 0]["visual"].any()
    assert torch.equal(dynamic(corpus, no_visual_prob=1.0)[0, 0]["mixture"], dynamic(corpus)[0, 0]["mixture"])
    fixed = MixtureDataset(corpus["train"], stores, 0.4, seed=1, config=lost)
    assert not fixed[0, 0]["visual"].any() and fixed[0, 0]["sources"].any()
    assert MixtureDataset(corpus["val"], stores, 0.4, config=lost)[0, 0]["visual"].any()


def test_no_face_is_missing_beside_a_source_that_is_not_wanted(corpus):
    some = dynamic(corpus, epoch_size=40, off_screen_prob=0.5, no_visual_prob=1.0)
    missing = [not some[0, index]["visual"].any() for index in range(40)]
    off_screen = [not torch.allclose(some[0, i]["mixture"], some[0, i]["sources"].sum(0), atol=1e-5) for i in range(40)]
    assert 10 < sum(missing) < 30 and [not lost for lost in missing] == off_screen


def test_too_few_speakers_for_a_third_source_are_refused(corpus):
    two = replace(corpus["utterances"], items=tuple(i for i in corpus["utterances"].items if i.speaker != "spk2"))
    remedy = "--extra_speaker_prob 0 --off_screen_prob 0"
    for key in ("extra_speaker_prob", "off_screen_prob"):
        with pytest.raises(UserError, match=rf"2 speaker\(s\) cannot make mixtures of 3.*{remedy}"):
            dynamic({**corpus, "utterances": two}, **{key: 0.1})
    with pytest.raises(UserError, match=f"no speaker has 4 utterances.*{remedy}"):
        dynamic({**corpus, "utterances": two}, same_speaker_prob=1.0, extra_speaker_prob=0.5, off_screen_prob=0.5)


@pytest.mark.parametrize("world_size", [1, 3])
def test_batches_hold_equally_many_sources_on_all_processes_in_random_order(world_size):
    def kinds(epoch):
        sizes = {"batch_size": 2, "n_with_extra_speaker": 17}
        samplers = [EpochSampler(50, 0, rank, world_size, epoch, **sizes) for rank in range(world_size)]
        orders = np.array([[index for _, index in sampler] for sampler in samplers]).reshape(world_size, -1, 2)
        assert all(2 * orders.shape[1] == len(sampler) for sampler in samplers)
        assert len(np.unique(orders)) == orders.size
        large = orders < 17
        assert (large == large[:1, :, :1]).all()
        return large[0, :, 0].tolist(), orders.tolist()

    large, order = kinds(0)
    assert (sum(large), len(large)) == {1: (8, 24), 3: (2, 7)}[world_size]
    assert order == kinds(0)[1] != kinds(1)[1]
    assert len({tuple(kinds(epoch)[0]) for epoch in range(8)}) > 1


class Listener(pl.LightningModule):
    """Learns nothing and remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.heard = []

    def training_step(self, batch, _):
        self.heard.append((self.current_epoch, len(batch["sources"][0]), batch["mixture"].sum().item()))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore")
def test_lightning_gets_other_batches_each_epoch_and_goes_on_where_it_stopped(corpus, tmp_path, workers):
    dataset = dynamic(corpus, epoch_size=10, extra_speaker_prob=0.5, inactive_target_prob=0.2, missing_face_prob=0.5)

    def fit(first_epoch, last_epoch, checkpoint=None):
        sampler = EpochSampler(10, 3, epoch=first_epoch, batch_size=2, n_with_extra_speaker=dataset.n_with_extra_speaker)
        loader = DataLoader(dataset, 2, sampler=sampler, num_workers=workers, collate_fn=collate, drop_last=True,
                            persistent_workers=workers > 0)  # fmt: skip
        trainer = pl.Trainer(max_epochs=last_epoch, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                             enable_model_summary=False, use_distributed_sampler=False, accelerator="cpu")  # fmt: skip
        listener = Listener()
        trainer.fit(listener, loader, ckpt_path=checkpoint)
        if last_epoch == 2:
            trainer.save_checkpoint(tmp_path / "last.ckpt")
        return listener.heard

    whole = fit(0, 3)
    assert [epoch for epoch, _, _ in whole] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(sorted(n for e, n, _ in whole if e == epoch) == [2, 2, 3, 3] for epoch in range(3))
    assert len({total for _, _, total in whole}) == 12
    assert fit(0, 2) + fit(2, 3, tmp_path / "last.ckpt") == whole


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


def test_a_silent_source_of_a_fixed_mixture_is_passed_on_as_zeros(corpus):
    item = corpus["val"].items[0]
    silent = corpus["val"].data_root / "audio" / "silent.wav"
    soundfile.write(silent, np.zeros(item.length, np.float32), RATE_HZ, subtype="FLOAT")
    items = (replace(item, source_paths=(item.source_paths[0], "audio/silent.wav")),)
    example = MixtureDataset(replace(corpus["val"], items=items), [], 1.0)[0, 0]
    assert example["sources"][0].any() and not example["sources"][1].any()


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
        DynamicMixtureDataset(corpus["utterances"], [EmbeddingStore(tmp_path / "empty")], SHORT, n_src=2)


def test_what_stage_2_could_not_embed_is_left_out_with_its_row_and_reason(corpus, tmp_path):
    item = corpus["utterances"].items[2]
    whole, store = EmbeddingStore(corpus["store"]), tmp_path / "store"
    with EmbeddingWriter(store, "float16") as writer:
        for key in whole.keys() - {item.mouth_path}:
            writer.add(key, whole.get(key), whole.clip(key).source)
    write_failed(store / "failed-0.csv", [Problem(4, item.utterance_id, item.mouth_path, "no npz file")])
    training = DynamicMixtureDataset(corpus["utterances"], [EmbeddingStore(store)], SHORT, n_src=2)
    assert [(p.row, p.item_id, p.reason) for p in training.left_out] == [
        (4, item.utterance_id, f"{item.mouth_path}: no npz file")
    ]
    assert item not in training.pool.items and len(training.pool.items) == len(corpus["utterances"].items) - 1
    fixed = MixtureDataset(corpus["train"], [EmbeddingStore(store)], 0.4)
    with_it = [mixture for mixture in corpus["train"].items if item.mouth_path in mixture.mouth_paths]
    assert with_it and len(fixed.left_out) == len(with_it) and not set(with_it) & set(fixed.segments.items)


def test_segments_longer_than_everything_are_refused(corpus):
    with pytest.raises(UserError, match="nothing lasts 3 s"):
        MixtureDataset(corpus["val"], [], 3.0)
