"""Examples of extraction: speech without faces beside the target, mixtures of a single or absent target, what is too short."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_corpus import RATE_HZ, make_corpus

from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.mixing.levels import power, sir_db
from utils.mixing.recordings import draw_stretch, recording_lengths
from utils.training.config import DataConfig
from utils.training.datasets import DynamicMixtureDataset


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def dynamic(corpus, n_src=2, **data):
    config = DataConfig(segment_sec=0.4, **data)
    return DynamicMixtureDataset(corpus["utterances"], [EmbeddingStore(corpus["store"])], config, n_src=n_src, seed=3)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A folder of speech without faces: two talkers, one of them with a long pause, one shorter than a segment."""
    folder = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(1)
    (folder / "b").mkdir()
    pause = np.concatenate([np.zeros(16000), 0.1 * rng.standard_normal(8000)])
    for name, samples in (("a", 0.1 * rng.standard_normal(32000)), ("b/b", pause), ("b/c", 0.1 * rng.standard_normal(1600))):
        soundfile.write(folder / f"{name}.wav", samples.astype(np.float32), RATE_HZ, subtype="FLOAT")
    return str(folder)


def extraction(corpus, speech="", noise="", **changes):
    """Mixtures of one target; interferers all of the folder `speech`, and noise in every other one, where not told."""
    data = {"interferer_dir": speech, "interferer_prob": 1.0 if speech else 0.0}
    data |= {"noise_dir": noise, "noise_prob": 0.5 if noise else 0.0, "noise_snr_low_db": 5.0, "noise_snr_high_db": 5.0}
    return dynamic(corpus, n_src=1, **{"epoch_size": 40, **data, **changes})


def test_speech_without_faces_takes_the_place_of_the_interferer_and_changes_nothing_else(corpus, speech):
    plain, some = extraction(corpus), extraction(corpus, speech, interferer_prob=0.5)
    same = 0
    for index in range(40):
        before, example = plain[0, index], some[0, index]
        torch.testing.assert_close(example["sources"], before["sources"], rtol=0, atol=0)
        torch.testing.assert_close(example["visual"], before["visual"], rtol=0, atol=0)
        rest, rest_before = ((e["mixture"] - e["sources"][0]).numpy() for e in (example, before))
        target = example["sources"][0].numpy()
        assert sir_db(target, rest) == pytest.approx(sir_db(target, rest_before), abs=1e-3)
        same += torch.equal(example["mixture"], before["mixture"])
    assert 10 < same < 30


def test_a_corpus_of_one_speaker_needs_no_second_one_where_the_others_are_from_elsewhere(corpus, speech):
    single = replace(corpus["utterances"], items=tuple(replace(i, speaker="s1") for i in corpus["utterances"].items))
    dataset = extraction({**corpus, "utterances": single}, speech, off_screen_prob=1.0)
    example = dataset[0, 0]
    assert (example["mixture"] - example["sources"][0]).square().mean() > 1e-6
    with pytest.raises(UserError, match=r"1 speaker\(s\) cannot make mixtures of 2"):
        extraction({**corpus, "utterances": single}, speech, interferer_prob=0.5)


def test_one_source_of_the_corpus_is_of_one_speaker_whatever_same_speaker_prob_is(corpus, speech):
    """Regression: same_speaker_prob with interferer_prob 1 ended in KeyError 1."""
    same, plain = extraction(corpus, speech, same_speaker_prob=1.0), extraction(corpus, speech)
    torch.testing.assert_close(same[0, 3]["mixture"], plain[0, 3]["mixture"], rtol=0, atol=0)


def test_a_single_target_is_heard_in_noise_and_with_nobody_else(corpus, speech, tmp_path):
    tone = np.sin(2 * np.pi * 3000 * np.arange(32000) / RATE_HZ).astype(np.float32)
    soundfile.write(tmp_path / "tone.wav", tone, RATE_HZ, subtype="FLOAT")
    dataset = extraction(corpus, speech, str(tmp_path), noise_prob=0.01, target_only_prob=0.5)
    plain, n_single = extraction(corpus, speech), 0
    for index in range(40):
        example, before = dataset[0, index], plain[0, index]
        torch.testing.assert_close(example["sources"], before["sources"], rtol=0, atol=0)
        rest = (example["mixture"] - example["sources"][0]).numpy()
        spectrum = np.abs(np.fft.rfft(rest * np.hanning(len(rest)))) ** 2
        peak = round(3000 * len(rest) / RATE_HZ)
        if spectrum[peak - 3 : peak + 4].sum() > 0.99 * spectrum.sum():
            n_single += 1
            assert sir_db(example["sources"][0].numpy(), rest) == pytest.approx(5.0, abs=0.05)
    assert 10 < n_single < 30


def test_an_absent_target_always_leaves_an_interferer(corpus, speech, tmp_path):
    soundfile.write(tmp_path / "hum.wav", np.ones(9000, np.float32) * 0.1, RATE_HZ, subtype="FLOAT")
    dataset = extraction(corpus, speech, str(tmp_path), target_only_prob=1.0, inactive_target_prob=1.0)
    for index in range(10):
        example = dataset[0, index]
        assert not example["sources"].any() and example["visual"].any() and example["mixture"].std() > 1e-3


def test_a_stretch_in_which_nobody_talks_is_not_taken(corpus, speech):
    files = recording_lengths("interferer_dir", Path(speech) / "b", RATE_HZ)
    for seed in range(20):
        stretch = draw_stretch("interferer_dir", files, 6400, RATE_HZ, np.random.default_rng(seed), 1e-5)
        assert len(stretch) == 6400 and power(stretch) > 1e-5


@pytest.mark.parametrize("folder", ["nowhere", ""])
def test_a_folder_of_speech_that_is_none_is_named(corpus, tmp_path, folder):
    with pytest.raises(UserError, match="--interferer_dir .*give"):
        extraction(corpus, str(tmp_path / folder))


def test_what_is_too_short_is_listed(corpus):
    items = corpus["utterances"].items
    short = replace(items[3], length=3200, frames=5)
    dataset = dynamic({**corpus, "utterances": replace(corpus["utterances"], items=(*items[:3], short, *items[4:]))})
    assert [(p.row, p.item_id) for p in dataset.left_out] == [(5, items[3].utterance_id)]
    assert "lasts 0.20 s, shorter than a segment of 0.4 s" in dataset.left_out[0].reason
    assert dynamic(corpus).left_out == []
