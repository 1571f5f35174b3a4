"""Rooms and noise: true ratios, sources that keep their time, early targets, and files that cannot be used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import fftconvolve
from tiny_corpus import RATE_HZ, make_corpus

from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.mixing.levels import power, sir_db
from utils.mixing.recordings import reverberate
from utils.training.augmentation import Acoustics
from utils.training.config import DataConfig
from utils.training.datasets import DynamicMixtureDataset


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def dynamic(corpus, **data) -> DynamicMixtureDataset:
    return DynamicMixtureDataset(corpus["utterances"], [], DataConfig(segment_sec=0.4, **data), n_src=2, seed=3)


def noise(folder: Path, prob: float = 1.0) -> dict:
    return {"noise_dir": str(folder), "noise_prob": prob}


def rooms(folder: Path, prob: float = 1.0) -> dict:
    return {"rir_dir": str(folder), "rir_prob": prob}


def write(path: Path, signal: np.ndarray, rate_hz: int = RATE_HZ) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, signal, rate_hz, subtype="FLOAT")


def response(delay: int, seed: int, taps: int = 4000) -> np.ndarray:
    """A direct sound after `delay` samples, and a tail that dies away."""
    rng = np.random.default_rng(seed)
    tail = 0.05 * rng.standard_normal(taps) * np.exp(-np.arange(taps) / 1500)
    return np.concatenate([np.zeros(delay), [1.0], tail]).astype(np.float32)


@pytest.fixture
def noise_dir(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "noise/long.wav", 0.1 * rng.standard_normal(RATE_HZ).astype(np.float32))
    write(tmp_path / "noise/deeper/short.flac.wav", 0.1 * rng.standard_normal(1000).astype(np.float32))
    return tmp_path / "noise"


@pytest.fixture
def rir_dir(tmp_path):
    for index in range(3):
        write(tmp_path / f"rirs/{index}.wav", response(50 + 300 * index, index))
    return tmp_path / "rirs"


def test_noise_has_the_asked_snr_under_sources_that_stay_as_they_were(corpus, noise_dir):
    noisy = dynamic(corpus, **noise(noise_dir), noise_snr_low_db=-3.0, noise_snr_high_db=12.0, epoch_size=40)
    plain = dynamic(corpus, epoch_size=40)
    snrs_db = []
    for index in range(40):
        example, before = noisy[0, index], plain[0, index]
        np.testing.assert_array_equal(example["sources"].numpy(), before["sources"].numpy())
        snrs_db.append(sir_db(before["mixture"].numpy(), (example["mixture"] - before["mixture"]).numpy()))
    assert -3.01 <= min(snrs_db) < 0 and 9 < max(snrs_db) <= 12.01


def test_noise_takes_the_place_of_a_source_and_of_its_face(corpus, noise_dir):
    config = DataConfig(segment_sec=0.4, noise_dir=str(noise_dir), noise_source_prob=1.0, epoch_size=12)
    store = EmbeddingStore(corpus["store"])
    made = [DynamicMixtureDataset(corpus["utterances"], [store], replace(config, noise_source_prob=prob), n_src=2, seed=3)
            for prob in (1.0, 0.0)]  # fmt: skip
    places = set()
    for index in range(12):
        example, before = (data_set[0, index] for data_set in made)
        (place,) = (k for k in (0, 1) if not example["visual"][k].any())
        torch.testing.assert_close(example["visual"][1 - place], before["visual"][1 - place])
        speech, speech_before = (each["sources"][1 - place] for each in (example, before))
        torch.testing.assert_close(speech / speech.norm(), speech_before / speech_before.norm())
        torch.testing.assert_close(example["sources"].sum(dim=0), example["mixture"])
        sirs_db = [sir_db(*each["sources"].numpy()) for each in (example, before)]
        assert sirs_db[0] == pytest.approx(sirs_db[1], abs=1e-3)  # as drawn
        places.add(place)
    assert places == {0, 1}


def test_noise_comes_as_often_as_asked_and_again_the_same(corpus, noise_dir):
    half = noise(noise_dir, 0.5)
    noisy, again, plain = (dynamic(corpus, **chosen, epoch_size=80) for chosen in (half, half, {}))
    same = [np.array_equal(noisy[0, i]["mixture"], plain[0, i]["mixture"]) for i in range(80)]
    assert 25 < sum(same) < 55
    assert all(np.array_equal(noisy[1, i]["mixture"], again[1, i]["mixture"]) for i in range(10))
    assert not np.array_equal(noisy[0, 0]["mixture"], noisy[1, 0]["mixture"])


def test_noise_that_is_too_short_is_repeated(corpus, tmp_path):
    click = np.zeros(1000, np.float32)
    click[0] = 0.5
    write(tmp_path / "noise/click.wav", click)
    example, before = (dynamic(corpus, **chosen)[0, 0] for chosen in (noise(tmp_path / "noise"), {}))
    clicks = np.flatnonzero(np.abs((example["mixture"] - before["mixture"]).numpy()) > 1e-6)
    assert len(clicks) in (6, 7) and (np.diff(clicks) == 1000).all()


def test_a_room_keeps_time_and_level_and_the_target_is_early():
    source = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    taps = response(300, 1)
    heard, early = reverberate(source, taps, RATE_HZ)
    whole = fftconvolve(source, taps)[300:8300]
    gain = np.sqrt(power(source) / power(whole))
    np.testing.assert_allclose(heard, gain * whole, atol=1e-4)
    np.testing.assert_allclose(early, gain * fftconvolve(source, taps[: 300 + 801])[300:8300], atol=1e-4)
    assert power(heard) == pytest.approx(power(source), rel=1e-4)
    for signal in (heard, early):  # the direct sound is where the source is
        lags = fftconvolve(signal, source[::-1])
        assert lags.argmax() == len(source) - 1
    late = heard - early
    assert 0 < power(late) < power(early)
    impulse = np.zeros(8000, np.float32)
    impulse[100] = 1.0
    heard, early = reverberate(impulse, taps, RATE_HZ)
    assert np.abs(early).argmax() == 100 and not np.abs(early[100 + 801 :]).max() > 1e-6
    np.testing.assert_allclose(early[: 100 + 801], heard[: 100 + 801], atol=1e-6)


def test_a_response_that_is_one_sample_long_changes_nothing():
    source = np.random.default_rng(0).standard_normal(800).astype(np.float32)
    for signal in reverberate(source, np.array([0.0, 0.02, 0.0], np.float32), RATE_HZ):
        np.testing.assert_allclose(signal, source, atol=1e-5)


def test_the_sir_is_true_on_reverberant_sources(corpus, rir_dir, monkeypatch):
    dataset = dynamic(corpus, **rooms(rir_dir), epoch_size=30)
    placed = []
    in_room = Acoustics.reverberate
    monkeypatch.setattr(Acoustics, "reverberate", lambda *args: placed.append(in_room(*args)) or placed[-1])
    for index in range(30):
        example = dataset[0, index]
        heard, early = placed[-1]
        sources = example["sources"].numpy()
        gains = [float(source @ part / (part @ part)) for source, part in zip(sources, early, strict=True)]
        assert gains[0] == pytest.approx(1.0)
        assert -5.01 <= sir_db(gains[0] * heard[0], gains[1] * heard[1]) <= 5.01
        np.testing.assert_allclose(example["mixture"].numpy(), gains[0] * heard[0] + gains[1] * heard[1], atol=1e-4)


def test_sources_of_a_mixture_have_other_files_or_other_places_of_one_room(tmp_path):
    sources = np.zeros((3, 3000), np.float32)
    sources[:, 0] = 1.0

    def echoes(folder: str) -> list[list[int]]:
        acoustics = Acoustics(DataConfig(**rooms(tmp_path / folder)), RATE_HZ)
        acoustics.check_sources(3)
        heard = [acoustics.reverberate(sources, np.random.default_rng(seed))[0] for seed in range(20)]
        return [[int(np.abs(source[1:]).argmax()) + 1 for source in mixture] for mixture in heard]

    for room in range(4):
        taps = np.zeros((3000, 4), np.float32)
        taps[0] = 1.0
        for place in range(4):
            taps[100 * (room + 1) + place, place] = 0.5
        write(tmp_path / f"rooms/{room}.wav", taps)
        write(tmp_path / f"single/{room}.wav", taps[:, 0])
    found = echoes("rooms")
    assert all(len({echo // 100 for echo in mixture}) == 1 and len(set(mixture)) == 3 for mixture in found)
    assert len({mixture[0] // 100 for mixture in found}) > 1
    assert all(len(set(mixture)) == 3 for mixture in echoes("single"))


def test_an_inactive_target_is_silent_in_a_room_too(corpus, rir_dir):
    example = dynamic(corpus, **rooms(rir_dir), inactive_target_prob=1.0)[0, 0]
    assert [bool(source.any()) for source in example["sources"]].count(False) == 1


def test_real_noise_and_rooms_can_be_used(corpus, shared_data):
    recordings = noise(shared_data / "noise") | rooms(shared_data / "rirs")
    dataset = dynamic(corpus, **recordings, extra_speaker_prob=0.5, epoch_size=8)
    for index in range(8):
        example = dataset[0, index]
        assert all(np.isfinite(value).all() and value.any() for value in (v.numpy() for v in example.values()))


def test_folders_are_not_looked_at_where_nothing_is_asked_of_them(corpus):
    dynamic(corpus, noise_dir="nowhere", rir_dir="nowhere", interferer_dir="nowhere")


def _missing(folder: Path) -> str:
    return "no such folder"


def _empty(folder: Path) -> str:
    folder.mkdir()
    (folder / "readme.txt").write_text("no audio")
    return "no .wav or .flac files"


def _other_rate(folder: Path) -> str:
    write(folder / "a.wav", np.ones(100, np.float32), 8000)
    return "a.wav is sampled at 8000 Hz, the corpus at 16000 Hz; resample it"


def _unreadable(folder: Path) -> str:
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"RIFF and nothing else")
    return "a.wav: cannot be read as audio .*; take it out"


def _no_samples(folder: Path) -> str:
    write(folder / "a.wav", np.zeros(0, np.float32))
    return "a.wav is empty"


@pytest.mark.parametrize("key", ["noise", "rir"])
@pytest.mark.parametrize("break_folder", [_missing, _empty, _other_rate, _unreadable, _no_samples])
def test_folders_that_cannot_be_used_are_named_at_once(corpus, tmp_path, key, break_folder):
    said = break_folder(tmp_path / "folder")
    with pytest.raises(UserError, match=f"--{key}_dir.*{said}") as caught:
        dynamic(corpus, **{f"{key}_dir": str(tmp_path / "folder"), f"{key}_prob": 0.1})
    assert "\n" not in str(caught.value)


def test_too_few_responses_and_mixed_folders_are_refused(corpus, rir_dir):
    some = rooms(rir_dir, 0.1)
    dynamic(corpus, **some, extra_speaker_prob=0.5)
    with pytest.raises(UserError, match="3 responses of one channel are too few for mixtures of 4 sources"):
        Acoustics(DataConfig(**some), RATE_HZ).check_sources(4)
    write(rir_dir / "stereo.wav", np.ones((10, 2), np.float32))
    with pytest.raises(UserError, match="0.wav has one channel, others have more"):
        dynamic(corpus, **some)
    for index in range(3):
        (rir_dir / f"{index}.wav").unlink()
    dynamic(corpus, **some)
    with pytest.raises(UserError, match="stereo.wav has 2 channels, too few for mixtures of 3"):
        dynamic(corpus, **some, off_screen_prob=0.5)


def test_stereo_noise_is_refused_and_silent_files_are_named_when_met(corpus, tmp_path):
    write(tmp_path / "stereo/a.wav", np.ones((10, 2), np.float32))
    with pytest.raises(UserError, match="a.wav has 2 channels where mono"):
        dynamic(corpus, **noise(tmp_path / "stereo"))
    for name in ("a", "b"):
        write(tmp_path / f"silent/{name}.wav", np.zeros(8000, np.float32))
    with pytest.raises(UserError, match=r"--noise_dir: .*\.wav is silent"):
        dynamic(corpus, **noise(tmp_path / "silent"))[0, 0]
    with pytest.raises(UserError, match=r"--rir_dir: .*\.wav holds a silent response"):
        dynamic(corpus, **rooms(tmp_path / "silent"))[0, 0]
