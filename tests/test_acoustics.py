"""Rooms and noise: true ratios, voices in time with their faces, early targets, and files that cannot be used."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import fftconvolve
from tiny_corpus import RATE_HZ, make_corpus

from utils.errors import UserError
from utils.mixing.levels import power, sir_db
from utils.mixing.recordings import AcousticOptions, Acoustics, reverberate
from utils.training.config import read_config
from utils.training.datasets import DynamicMixtureDataset


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def dynamic(corpus, options: AcousticOptions | None = None, **changes) -> DynamicMixtureDataset:
    return DynamicMixtureDataset(corpus["utterances"], [], 0.4, **{"n_src": 2, "seed": 3, "acoustics": options, **changes})


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


def test_noise_has_the_asked_snr_under_voices_that_stay_as_they_were(corpus, noise_dir):
    noisy = dynamic(corpus, AcousticOptions(str(noise_dir), 1.0, -3.0, 12.0), size=40)
    plain = dynamic(corpus, size=40)
    snrs_db = []
    for index in range(40):
        example, before = noisy[0, index], plain[0, index]
        np.testing.assert_array_equal(example["sources"].numpy(), before["sources"].numpy())
        snrs_db.append(sir_db(before["mixture"].numpy(), (example["mixture"] - before["mixture"]).numpy()))
    assert -3.01 <= min(snrs_db) < 0 and 9 < max(snrs_db) <= 12.01


def test_noise_comes_in_its_share_and_again_the_same(corpus, noise_dir):
    options = AcousticOptions(str(noise_dir), 0.5)
    noisy, again, plain = (dynamic(corpus, chosen, size=80) for chosen in (options, options, None))
    same = [np.array_equal(noisy[0, i]["mixture"], plain[0, i]["mixture"]) for i in range(80)]
    assert 25 < sum(same) < 55
    assert all(np.array_equal(noisy[1, i]["mixture"], again[1, i]["mixture"]) for i in range(10))
    assert not np.array_equal(noisy[0, 0]["mixture"], noisy[1, 0]["mixture"])


def test_noise_that_is_too_short_is_repeated(corpus, tmp_path):
    click = np.zeros(1000, np.float32)
    click[0] = 0.5
    write(tmp_path / "noise/click.wav", click)
    example, before = (dynamic(corpus, o)[0, 0] for o in (AcousticOptions(str(tmp_path / "noise"), 1.0), None))
    clicks = np.flatnonzero(np.abs((example["mixture"] - before["mixture"]).numpy()) > 1e-6)
    assert len(clicks) in (6, 7) and (np.diff(clicks) == 1000).all()


def test_a_room_keeps_time_and_level_and_the_target_is_early():
    voice = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    taps = response(300, 1)
    heard, early = reverberate(voice, taps, RATE_HZ)
    whole = fftconvolve(voice, taps)[300:8300]
    gain = np.sqrt(power(voice) / power(whole))
    np.testing.assert_allclose(heard, gain * whole, atol=1e-4)
    np.testing.assert_allclose(early, gain * fftconvolve(voice, taps[: 300 + 801])[300:8300], atol=1e-4)
    assert power(heard) == pytest.approx(power(voice), rel=1e-4)
    for signal in (heard, early):  # the direct sound is where the voice is
        lags = fftconvolve(signal, voice[::-1])
        assert lags.argmax() == len(voice) - 1
    late = heard - early
    assert 0 < power(late) < power(early)
    impulse = np.zeros(8000, np.float32)
    impulse[100] = 1.0
    heard, early = reverberate(impulse, taps, RATE_HZ)
    assert np.abs(early).argmax() == 100 and not np.abs(early[100 + 801 :]).max() > 1e-6
    np.testing.assert_allclose(early[: 100 + 801], heard[: 100 + 801], atol=1e-6)


def test_a_response_that_is_one_sample_long_changes_nothing():
    voice = np.random.default_rng(0).standard_normal(800).astype(np.float32)
    for signal in reverberate(voice, np.array([0.0, 0.02, 0.0], np.float32), RATE_HZ):
        np.testing.assert_allclose(signal, voice, atol=1e-5)


def test_the_sir_is_true_on_reverberant_voices(corpus, rir_dir, monkeypatch):
    dataset = dynamic(corpus, AcousticOptions(rir_dir=str(rir_dir), rir_share=1.0), size=30)
    placed = []
    place = Acoustics.place
    monkeypatch.setattr(Acoustics, "place", lambda *args: placed.append(place(*args)) or placed[-1])
    for index in range(30):
        example = dataset[0, index]
        heard, early = placed[-1]
        sources = example["sources"].numpy()
        gains = [float(source @ part / (part @ part)) for source, part in zip(sources, early, strict=True)]
        assert gains[0] == pytest.approx(1.0)
        assert -5.01 <= sir_db(gains[0] * heard[0], gains[1] * heard[1]) <= 5.01
        np.testing.assert_allclose(example["mixture"].numpy(), gains[0] * heard[0] + gains[1] * heard[1], atol=1e-4)


def test_voices_of_a_mixture_have_other_files_or_other_places_of_one_room(tmp_path):
    voices = np.zeros((3, 3000), np.float32)
    voices[:, 0] = 1.0

    def echoes(folder: str) -> list[list[int]]:
        acoustics = Acoustics(AcousticOptions(rir_dir=str(tmp_path / folder), rir_share=1.0), RATE_HZ)
        acoustics.check_voices(3)
        heard = [acoustics.place(voices, np.random.default_rng(seed))[0] for seed in range(20)]
        return [[int(np.abs(voice[1:]).argmax()) + 1 for voice in mixture] for mixture in heard]

    for room in range(4):
        taps = np.zeros((3000, 4), np.float32)
        taps[0] = 1.0
        for place in range(4):
            taps[100 * (room + 1) + place, place] = 0.5
        write(tmp_path / f"rooms/{room}.wav", taps)
        write(tmp_path / f"single/{room}.wav", taps[:, 0])
    rooms = echoes("rooms")
    assert all(len({echo // 100 for echo in mixture}) == 1 and len(set(mixture)) == 3 for mixture in rooms)
    assert len({mixture[0] // 100 for mixture in rooms}) > 1
    assert all(len(set(mixture)) == 3 for mixture in echoes("single"))


def test_a_silent_voice_is_silent_in_a_room_too(corpus, rir_dir):
    example = dynamic(corpus, AcousticOptions(rir_dir=str(rir_dir), rir_share=1.0), silent_voice=1.0)[0, 0]
    assert [bool(source.any()) for source in example["sources"]].count(False) == 1


def test_real_noise_and_rooms_can_be_used(corpus, shared_data):
    options = AcousticOptions(str(shared_data / "noise"), 1.0, 0.0, 10.0, str(shared_data / "rirs"), 1.0)
    dataset = dynamic(corpus, options, three_voices=0.5, size=8)
    for index in range(8):
        example = dataset[0, index]
        assert all(np.isfinite(value).all() and value.any() for value in (v.numpy() for v in example.values()))


def test_folders_are_not_looked_at_where_nothing_is_asked_of_them(corpus):
    dynamic(corpus, AcousticOptions(noise_dir="nowhere", rir_dir="nowhere"))


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
    options = AcousticOptions(**{f"{key}_dir": str(tmp_path / "folder"), f"{key}_share": 0.1})
    with pytest.raises(UserError, match=f"--{key}_dir.*{said}") as caught:
        dynamic(corpus, options)
    assert "\n" not in str(caught.value)


def test_too_few_responses_and_mixed_folders_are_refused(corpus, rir_dir):
    options = AcousticOptions(rir_dir=str(rir_dir), rir_share=0.1)
    dynamic(corpus, options, three_voices=0.5)
    with pytest.raises(UserError, match="3 responses of one channel are too few for mixtures of 4 voices"):
        Acoustics(options, RATE_HZ).check_voices(4)
    write(rir_dir / "stereo.wav", np.ones((10, 2), np.float32))
    with pytest.raises(UserError, match="0.wav has one channel, other files have more"):
        dynamic(corpus, options)
    for index in range(3):
        (rir_dir / f"{index}.wav").unlink()
    dynamic(corpus, options)
    with pytest.raises(UserError, match="stereo.wav has 2 channels, too few for mixtures of 3"):
        dynamic(corpus, options, off_screen=0.5)


def test_stereo_noise_is_refused_and_silent_files_are_named_when_met(corpus, tmp_path):
    write(tmp_path / "stereo/a.wav", np.ones((10, 2), np.float32))
    with pytest.raises(UserError, match="a.wav has 2 channels where mono"):
        dynamic(corpus, AcousticOptions(str(tmp_path / "stereo"), 1.0))
    for name in ("a", "b"):
        write(tmp_path / f"silent/{name}.wav", np.zeros(8000, np.float32))
    with pytest.raises(UserError, match=r"--noise_dir: .*\.wav is silent"):
        dynamic(corpus, AcousticOptions(str(tmp_path / "silent"), 1.0))[0, 0]
    with pytest.raises(UserError, match=r"--rir_dir: .*\.wav holds a silent response"):
        dynamic(corpus, AcousticOptions(rir_dir=str(tmp_path / "silent"), rir_share=1.0))[0, 0]


@pytest.fixture
def plain_conf(tmp_path) -> Path:
    """A conf of defaults: nothing is augmented."""
    (tmp_path / "plain.yml").write_text("{}")
    return tmp_path / "plain.yml"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--noise_share 1.5", "a share, 0 to 1"),
        ("--noise_share 0.5", "data.noise_share needs data.noise_dir"),
        ("--rir_prob 0.5", "data.rir_prob needs data.rir_dir"),
        ("--noise_snr_low_db 5 --noise_snr_high_db -5", "noise_snr_low_db is above"),
        ("--noise_snr_low_db 1e999", "must be finite"),
        ("--extra_speaker_prob 0.5 --n_faces 0", "three_voices needs a network for several faces"),
        ("--extra_speaker_prob 0.5 --n_faces 1 --n_src 1", "three_voices needs a network for several faces"),
        ("--extra_speaker_prob 0.5 --overfit_batch true", "overfit_batch repeats one batch"),
        ("--off_screen_prob 0.5 --n_faces 0", "off_screen needs faces"),
        ("--inactive_target_prob 0.5 --dynamic false", "silent_voice needs data.dynamic true"),
        ("--inactive_target_prob 0.5 --fit_to_mixture true", "fit_to_mixture makes every voice as loud"),
        ("--missing_face_prob 0.5 --n_faces 1 --n_src 1", "leave nothing that tells"),
        ("--max_shift_frames -1", "zero or more"),
        ("--missing_face_prob 1.1", "a share"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(plain_conf, words, said):
    with pytest.raises(UserError, match=said):
        read_config(plain_conf, words.split())


def test_noise_may_be_louder_than_speech_and_zero_switches_everything_off(plain_conf):
    words = "--noise_snr_low_db -5 --noise_dir x --noise_share 0 --missing_face_prob 0 --extra_speaker_prob 0 --max_shift_frames 0"
    data = read_config(plain_conf, words.split()).data
    assert data.part(AcousticOptions) == AcousticOptions(noise_dir="x", noise_snr_low_db=-5.0)
