"""The sound of videos: every sample in its place, the exact length, gaps and overlaps mended."""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import scipy.signal
from av import AudioLayout
from av.stream import Disposition
from video_helpers import VP9, Video, lag_samples, speech_like, wav_of

from utils.errors import UserError
from utils.video import containers
from utils.video.sound import extract_sound, read_source

RATE_HZ = 48_000


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "flac"), ("a.mov", "pcm_s16le"), ("a.mov", "pcm_f32le"), ("a.avi", "pcm_s16le")]
)
def test_an_impulse_in_lossless_sound_stays_on_its_sample(tmp_path, name, codec):
    sound = np.zeros(2 * RATE_HZ)
    places = [0, 3 * 400, 3 * 16_000, 2 * RATE_HZ - 3]
    sound[places] = 0.9
    video = Video(sound=sound, sound_codec=codec, codec="mpeg4", b_frames=0)
    heard = wav_of(video.write(tmp_path / name))
    assert len(heard) == 32_000
    assert sorted(np.argsort(heard)[-4:]) == [place // 3 for place in places]


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("n_extra", [0, 1, 777])
def test_sound_of_any_rate_is_resampled_in_place_and_to_the_exact_length(tmp_path, rate_hz, n_extra):
    sound = speech_like(rate_hz + n_extra, rate_hz)
    path = Video(n_pictures=2, sound=sound, sound_rate_hz=rate_hz, sound_codec="pcm_f32le").write(tmp_path / "a.mkv")
    heard = wav_of(path)
    assert len(heard) == ceil(Fraction(len(sound) * 16_000, rate_hz))
    up, down = Fraction(16_000, rate_hz).as_integer_ratio()
    oracle = scipy.signal.resample_poly(sound.astype(np.float64), up, down)[: len(heard)]
    inner = slice(200, len(oracle) - 200)  # at the borders the two filters assume different things
    assert lag_samples(oracle, heard) == 0
    assert np.sqrt(np.mean((heard[inner] - oracle[inner]) ** 2)) < 0.02 * np.sqrt(np.mean(oracle**2))


def test_sound_of_16_khz_is_copied_to_the_bit(tmp_path):
    sound = speech_like(16_123, 16_000)
    path = Video(n_pictures=2, sound=sound, sound_rate_hz=16_000, sound_codec="pcm_f32le").write(tmp_path / "a.mkv")
    assert np.array_equal(wav_of(path), sound)


@pytest.mark.parametrize(
    ("name", "codec", "delay"),
    [("a.mp4", "aac", 0), ("a.mkv", "aac", 0), ("a.webm", "libopus", 0), ("a.mp4", "libmp3lame", 0), ("a.mpg", "mp2", 481)],
)
def test_what_a_lossy_codec_puts_before_the_sound_is_skipped_where_the_file_says_so(tmp_path, name, codec, delay):
    sound = speech_like(RATE_HZ, RATE_HZ)
    picture = {"a.webm": VP9, "a.mpg": {"codec": "mpeg1video"}}.get(name, {})
    heard = wav_of(Video(n_pictures=2, sound=sound, sound_codec=codec, **picture).write(tmp_path / name))
    original = scipy.signal.resample_poly(sound, 1, 3)
    # an MPEG program stream does not say how long its coder's delay is; its sound begins as much earlier on the clock
    assert abs(lag_samples(original, heard) - round(delay / 3)) <= 3
    assert len(original) - 64 <= len(heard) <= len(original) + 800


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_f32le", "pcm_f64le", "flac"])
@pytest.mark.parametrize("n_channels", [1, 2, 6])
def test_channels_become_their_mean_in_every_sample_format(tmp_path, codec, n_channels):
    sound = np.stack([speech_like(8000, 16_000, seed) for seed in range(n_channels)])
    path = Video(n_pictures=2, sound=sound, sound_rate_hz=16_000, sound_codec=codec).write(tmp_path / "a.mkv")
    tolerance = 1e-6 if codec in ("pcm_f32le", "pcm_f64le") else 1 / 100 if codec == "pcm_u8" else 1 / 16_000
    assert np.abs(wav_of(path) - sound.mean(axis=0)).max() < tolerance


@pytest.mark.parametrize(("codec", "layout"), [("aac", "7.1"), ("flac", "7.1"), ("aac", "hexadecagonal")])
def test_of_eight_channels_and_more_each_is_read(tmp_path, codec, layout):
    n_channels = AudioLayout(layout).nb_channels
    sound = np.stack([speech_like(9_600, RATE_HZ, seed) for seed in range(n_channels)])
    video = Video(n_pictures=5, sound=sound, sound_codec=codec, sound_layout=layout).write(tmp_path / "a.mkv")
    heard = np.concatenate([samples for _, samples in read_source(video)], axis=1)[:, :9_600]
    full = [k for k in range(n_channels) if (codec, layout, k) != ("aac", "7.1", 3)]  # that is for low frequencies
    assert len(heard) == n_channels
    assert all(lag_samples(sound[k], heard[k]) == 0 and np.corrcoef(sound[k], heard[k])[0, 1] > 0.9 for k in full)


def test_missing_sound_becomes_silence_so_that_the_rest_stays_in_time(tmp_path):
    sound = speech_like(2 * RATE_HZ, RATE_HZ)
    path = Video(sound=sound, sound_codec="flac", cuts_sec=((0.5, 1.0),)).write(tmp_path / "a.mkv")
    heard, original = wav_of(path), scipy.signal.resample_poly(sound, 1, 3)
    assert len(heard) == 32_000
    assert not heard[10_000:15_000].any() and heard[6000:7000].any()
    assert lag_samples(original[17_000:], heard[17_000:]) == 0


def test_sound_whose_stamps_wander_within_the_slack_is_left_whole(tmp_path):
    sound = speech_like(2 * RATE_HZ, RATE_HZ)
    path = Video(sound=sound, sound_codec="pcm_s16le", cuts_sec=((0.5, 0.52),)).write(tmp_path / "a.mkv")
    heard = wav_of(path)
    n_lost = 32_000 - len(heard)
    assert 300 <= n_lost <= 400  # one packet of 1024 samples at 48 kHz
    assert lag_samples(scipy.signal.resample_poly(sound, 1, 3)[20_000:], heard[20_000 - n_lost :]) == 0


def test_sound_that_overlaps_is_cut_so_that_the_rest_stays_in_time(tmp_path, monkeypatch):
    sound = speech_like(2 * RATE_HZ, RATE_HZ)
    path = Video(sound=sound, sound_codec="pcm_s16le").write(tmp_path / "a.mkv")

    def overlapping(*args):
        for frame in containers.decoded(*args):
            frame.pts -= 200 if frame.pts > 1000 else 0  # ms: the sound of 0.8 to 1.0 s comes twice
            yield frame

    monkeypatch.setattr("utils.video.sound.decoded", overlapping)
    heard, original = wav_of(path), scipy.signal.resample_poly(sound, 1, 3)
    assert len(heard) == pytest.approx(32_000 - 3200, abs=32)
    assert abs(lag_samples(original[20_000:24_000], heard[16_800:20_800])) <= 16  # the file's stamps are whole ms


def test_a_gap_of_many_minutes_is_a_clock_that_jumps(tmp_path, monkeypatch):
    path = Video(sound=speech_like(RATE_HZ, RATE_HZ), sound_codec="pcm_s16le").write(tmp_path / "a.mkv")

    def jumping(*args):
        for frame in containers.decoded(*args):
            frame.pts += 700_000 if frame.pts > 500 else 0
            yield frame

    monkeypatch.setattr("utils.video.sound.decoded", jumping)
    with pytest.raises(UserError, match="jumps by 700.0 s at 0.5"):
        extract_sound(path, tmp_path / "a.wav")
    assert not (tmp_path / "a.wav").exists() and not list(tmp_path.glob(".tmp-*"))


def test_of_several_sounds_the_first_is_taken_or_the_one_marked_as_default(tmp_path):
    first, second = speech_like(16_000, 16_000, 1), speech_like(16_000, 16_000, 2)
    video = Video(n_pictures=2, sound=first, more_sounds=[second], sound_rate_hz=16_000, sound_codec="pcm_f32le")
    assert np.array_equal(wav_of(video.write(tmp_path / "first.mkv")), first)
    add_sound = video._add_sound

    def second_is_default(container, sound):
        stream = add_sound(container, sound)
        stream.disposition = Disposition.default if sound is second else Disposition(0)
        return stream

    video._add_sound = second_is_default
    assert np.array_equal(wav_of(video.write(tmp_path / "second.mkv")), second)
