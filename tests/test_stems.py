"""Stems: the tracks at the source's rate and with its channels, and videos that carry them."""

import itertools

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import butter, resample_poly, sosfiltfilt
from video_helpers import Video, lag_samples, numbers, speech_like, wav_of

from utils.errors import UserError
from utils.separation.stems import stem_blocks
from utils.video.containers import sound_start
from utils.video.muxing import muxed_suffix, write_muxed
from utils.video.sound import read_source

RATES_HZ = (8_000, 16_000, 22_050, 44_100, 48_000)


def bursts(seed: int, rate_hz: int, n_samples: int) -> np.ndarray:
    """Noise of all frequencies whose level changes all the time."""
    rng = np.random.default_rng(seed)
    knots = rng.uniform(-40, 0, n_samples * 4 // rate_hz + 2)
    level_db = np.interp(np.arange(n_samples) * 4 / rate_hz, np.arange(len(knots)), knots)
    return 0.1 * rng.standard_normal(n_samples) * 10 ** (level_db / 20)


def at_16k(signal: np.ndarray, rate_hz: int) -> np.ndarray:
    divisor = np.gcd(16_000, rate_hz)
    return resample_poly(signal, 16_000 // divisor, rate_hz // divisor, axis=-1).astype(np.float32)


def stems_of(source: np.ndarray, rate_hz: int, tracks: np.ndarray, sizes=(7_001,)) -> np.ndarray:
    """All stems; the source comes in pieces of these sizes."""
    ends = np.minimum(np.cumsum(list(itertools.islice(itertools.cycle(sizes), source.shape[1]))), source.shape[1])
    pieces = np.split(source.astype(np.float32), np.unique(ends)[:-1], axis=1)
    read = lambda start, count: tracks[:, start : start + count]  # noqa: E731
    return np.concatenate(list(stem_blocks(pieces, rate_hz, read, tracks.shape[1])), axis=-1)


def sdr_db(estimate: np.ndarray, reference: np.ndarray) -> float:
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - estimate).sum())


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("n_extra", [0, 1, 777])
def test_stems_and_residual_are_the_source_at_every_rate_and_length(rate_hz, n_extra):
    n_samples = 2 * rate_hz + n_extra
    voices = np.stack([bursts(seed, rate_hz, n_samples) for seed in (0, 1)])
    source = np.stack([voices.sum(axis=0), voices[0] - 0.3 * voices[1]])
    tracks = at_16k(np.stack([*voices, 0 * voices[0]]), rate_hz)
    stems = stems_of(source, rate_hz, tracks)
    assert stems.shape == (3, 2, n_samples) and stems.dtype == np.float32
    np.testing.assert_allclose(stems.sum(axis=0), source, atol=1e-6)


def test_of_one_channel_at_16_khz_the_stems_are_the_tracks():
    voices = np.stack([bursts(seed, 16_000, 40_123) for seed in (0, 1)])
    tracks = np.stack([0.9 * voices[0], 0.8 * voices[1], 0.1 * voices[0] + 0.2 * voices[1]]).astype(np.float32)
    stems = stems_of(voices.sum(axis=0, keepdims=True), 16_000, tracks)[:, 0]
    inner = slice(512, -512)
    assert all(sdr_db(stem[inner], track[inner]) > 20 for stem, track in zip(stems[:2], tracks[:2], strict=True))
    silent = stems_of(voices[:1], 16_000, np.stack([voices[0], 0 * voices[0]]).astype(np.float32))
    np.testing.assert_allclose(silent[0, 0, inner], voices[0, inner], atol=1e-6)  # one voice, and nothing else


def test_each_stem_keeps_its_place_among_the_channels_and_what_is_above_8_khz():
    n_samples = 3 * 48_000
    turn = np.arange(n_samples) // 12_000 % 2  # they speak by turns
    voices = np.stack([bursts(3, 48_000, n_samples) * turn, bursts(4, 48_000, n_samples) * (1 - turn)])
    places = np.array([[1.0, 0.2], [0.3, 0.9]])
    source = places.T @ voices
    heard = source.mean(axis=0)
    tracks = places.mean(axis=1, keepdims=True) * voices
    assert np.allclose(tracks.sum(axis=0), heard)
    stems = stems_of(source, 48_000, at_16k(np.stack([*tracks, 0 * heard]), 48_000))
    high = butter(8, 9_000, "high", fs=48_000, output="sos")
    for stem, voice, place in zip(stems, voices, places, strict=False):
        reference = place[:, None] * voice
        assert sdr_db(stem, reference) > sdr_db(source, reference) + 6
        above = [sosfiltfilt(high, signal) for signal in (stem, source, reference)]
        assert sdr_db(above[0], above[2]) > sdr_db(above[1], above[2]) + 5
        loudness_db = 10 * np.log10(np.square(stem[0]).sum() / np.square(stem[1]).sum())
        assert loudness_db == pytest.approx(20 * np.log10(place[0] / place[1]), abs=2)


def test_the_result_does_not_depend_on_the_pieces(monkeypatch):
    voices = np.stack([bursts(seed, 44_100, 130_000) for seed in (0, 1)])
    tracks = at_16k(np.stack([*voices, 0 * voices[0]]), 44_100)
    source = voices.sum(axis=0, keepdims=True)
    whole = stems_of(source, 44_100, tracks, sizes=(200_000,))
    np.testing.assert_array_equal(stems_of(source, 44_100, tracks, sizes=(999, 31, 20_000)), whole)
    monkeypatch.setattr("utils.separation.stems._CHUNK_SEC", 0.7)
    np.testing.assert_allclose(stems_of(source, 44_100, tracks), whole, atol=2e-6)


def test_a_source_of_a_few_samples_has_stems_too():
    stems = stems_of(np.full((2, 5), 0.1), 48_000, np.full((2, 2), 0.05, np.float32))
    assert stems.shape == (2, 2, 5)
    np.testing.assert_allclose(stems.sum(axis=0), 0.1, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
def test_the_source_is_read_as_it_is_in_time_with_the_sound_at_16_khz(tmp_path, rate_hz):
    sound = np.stack([speech_like(rate_hz + 77, rate_hz, seed) for seed in (0, 1)])
    video = Video(n_pictures=30, sound=sound, sound_rate_hz=rate_hz, sound_codec="pcm_f32le").write(tmp_path / "a.mkv")
    pieces = list(read_source(video))
    assert {own_hz for own_hz, _ in pieces} == {rate_hz}
    source = np.concatenate([samples for _, samples in pieces], axis=1)
    np.testing.assert_array_equal(source, sound)
    heard = wav_of(video)
    assert lag_samples(at_16k(sound.mean(axis=0), rate_hz), heard) == 0
    assert len(heard) == -(-sound.shape[1] * 16_000 // rate_hz)


def test_a_gap_in_the_sound_is_a_gap_in_the_source(tmp_path):
    sound = np.stack([speech_like(96_000, 48_000, seed) for seed in (0, 1)])
    gap = {"cuts_sec": ((0.8, 1.2),)}
    video = Video(sound=sound, sound_codec="flac", **gap).write(tmp_path / "a.mkv")
    source = np.concatenate([samples for _, samples in read_source(video)], axis=1)
    silent = np.flatnonzero(np.abs(source).max(axis=0) == 0)
    assert 0.7 * 48_000 < silent[0] < 0.9 * 48_000 and 1.1 * 48_000 < silent[-1] < 1.3 * 48_000
    np.testing.assert_allclose(source[:, 70_000:], sound[:, 70_000 : source.shape[1]], atol=1e-4)


def packets_of(path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


def sound_behind_pictures_sec(path) -> float:
    with av.open(str(path)) as container:
        return float(sound_start(path) - min(frame.pts * frame.time_base for frame in container.decode(video=0)))


@pytest.mark.parametrize(("name", "suffix"), [("a.mp4", ".mp4"), ("a.mov", ".mov"), ("a.mkv", ".mkv"), ("a.webm", ".mkv")])
@pytest.mark.parametrize("start_sec", [0.0, 0.3])
def test_a_muxed_video_has_its_pictures_and_a_named_stream_in_time_for_each_track(tmp_path, name, suffix, start_sec):
    sound = np.stack([speech_like(96_000, 48_000, seed) for seed in (0, 1)])
    how = {"codec": "libvpx-vp9", "sound_codec": "libopus", "pix_fmt": "yuv420p"} if name == "a.webm" else {}
    video = Video(sound=sound, sound_start_sec=start_sec, **how).write(tmp_path / name)
    tracks = []
    for seed, track in enumerate(("face1", "rest")):
        samples = np.stack([speech_like(96_000, 48_000, 10 + 2 * seed + k) for k in (0, 1)])
        soundfile.write(tmp_path / f"{track}.wav", samples.T, 48_000, subtype="FLOAT")
        tracks.append((track, tmp_path / f"{track}.wav"))
    assert muxed_suffix(video) == suffix
    out = tmp_path / f"tracks{suffix}"
    assert write_muxed(video, out, tracks) == 1.0
    assert packets_of(out) == packets_of(video)
    with av.open(str(out)) as container:
        streams = container.streams.audio
        titles = [stream.metadata.get("title") or stream.metadata.get("handler_name") for stream in streams]
        assert titles == ["face1", "rest"] and [stream.codec_context.channels for stream in streams] == [2, 2]
    for number, (_, wav) in enumerate(tracks, start=1):
        heard = np.concatenate([samples for _, samples in read_source(out, audio_stream=number)], axis=1)
        given = soundfile.read(wav)[0].T
        lag = lag_samples(given[0], heard[0])  # AAC that does not begin the file keeps its first frame, which is silent
        moved_sec = sound_behind_pictures_sec(out) - sound_behind_pictures_sec(video)
        assert abs(lag / 48_000 + moved_sec) < 0.002 and lag in (0, 1024)
        n_samples = min(heard.shape[1] - lag, given.shape[1])
        assert n_samples >= 96_000 - 1024
        assert sdr_db(heard[:, lag:][:, :n_samples], given[:, :n_samples]) > (60 if suffix == ".mkv" else 10)


@pytest.mark.parametrize(("n_channels", "layout"), [(1, "mono"), (2, "stereo"), (3, "3.0"), (6, "5.1")])
def test_channels_keep_their_places(tmp_path, n_channels, layout):
    video = Video(n_pictures=10, sound=speech_like(19_200, 48_000)).write(tmp_path / "a.mp4")
    voices = np.stack([speech_like(19_200, 48_000, seed) for seed in range(n_channels)])
    soundfile.write(tmp_path / "t.wav", voices.T, 48_000, subtype="FLOAT")
    write_muxed(video, tmp_path / "tracks.mp4", [("face1", tmp_path / "t.wav")])
    with av.open(str(tmp_path / "tracks.mp4")) as container:
        assert container.streams.audio[0].layout.name == layout
    heard = np.concatenate([samples for _, samples in read_source(tmp_path / "tracks.mp4")], axis=1)[:, :19_200]
    full = [k for k in range(n_channels) if layout != "5.1" or k != 3]  # the fourth of 5.1 is for low frequencies
    assert all(np.corrcoef(heard[k], voices[k])[0, 1] > 0.9 for k in full)


@pytest.mark.parametrize(
    ("name", "codec", "layout", "muxed"),
    [
        ("a.mov", "pcm_s16le", "quad", "quad"),
        ("a.mov", "pcm_s16le", "4.0", "4.0"),
        ("a.mov", "pcm_s16le", "5.1(side)", "5.1"),  # AAC cannot tell the places of the former
        ("a.mkv", "flac", "5.1(side)", "5.1(side)"),
        ("a.mkv", "flac", "6.0", "6.0"),
        ("a.mkv", "pcm_s16le", "quad", "4.0"),  # this video does not tell them
        ("a.mkv", "flac", "7.1", "7.1"),
    ],
)
def test_channels_have_the_places_of_the_videos_sound(tmp_path, name, codec, layout, muxed):
    n_channels = av.AudioLayout(layout).nb_channels
    voices = np.stack([speech_like(19_200, 48_000, seed) for seed in range(n_channels)])
    video = Video(n_pictures=10, sound=voices, sound_codec=codec, sound_layout=layout).write(tmp_path / name)
    soundfile.write(tmp_path / "t.wav", voices.T, 48_000, subtype="FLOAT")
    out = tmp_path / f"tracks{muxed_suffix(video)}"
    write_muxed(video, out, [("face1", tmp_path / "t.wav")])
    with av.open(str(out)) as container:
        assert container.streams.audio[0].layout.name == muxed
    heard = np.concatenate([samples for _, samples in read_source(out)], axis=1)[:, :19_200]
    full = [k for k in range(n_channels) if (muxed, k) != ("5.1", 3)]  # the fourth of 5.1 is for low frequencies
    assert all(np.corrcoef(heard[k], voices[k])[0, 1] > 0.9 for k in full)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("stamps_sec", [[0, 20, 40], [0, 1, 59]])
def test_what_is_played_at_one_time_lies_in_one_place_also_where_pictures_are_minutes_apart(tmp_path, suffix, stamps_sec):
    sound = speech_like(60 * 8_000, 8_000)
    how = {"sound": sound, "sound_rate_hz": 8_000, "b_frames": 0}
    video = Video(n_pictures=3, stamps_sec=stamps_sec, **how).write(tmp_path / f"a{suffix}")
    soundfile.write(tmp_path / "t.wav", sound, 8_000)
    out = tmp_path / f"tracks{suffix}"
    write_muxed(video, out, [(name, tmp_path / "t.wav") for name in ("face1", "face2", "rest")])
    with av.open(str(out)) as container:
        packets = [packet for packet in container.demux() if packet.size]
    times_sec = [float(packet.pts * packet.time_base) for packet in sorted(packets, key=lambda packet: packet.pos)]
    assert np.abs(np.diff(times_sec)).max() < 1.5 and times_sec[-1] > 59


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
@pytest.mark.parametrize("tag", ["hev1", "hvc1"])
def test_hevc_has_the_tag_that_apples_players_ask_for(tmp_path, name, tag):
    hevc = {"codec": "libx265", "codec_tag": tag, "codec_options": {"preset": "ultrafast", "x265-params": "log-level=none"}}
    video = Video(n_pictures=5, sound=speech_like(9_600, 48_000), **hevc).write(tmp_path / name)
    soundfile.write(tmp_path / "t.wav", speech_like(9_600, 48_000), 48_000)
    out = tmp_path / f"tracks{muxed_suffix(video)}"
    write_muxed(video, out, [("face1", tmp_path / "t.wav")])
    assert tag.encode() in video.read_bytes()
    assert b"hvc1" in out.read_bytes() and b"hev1" not in out.read_bytes()
    assert packets_of(out) == packets_of(video)
    assert numbers(out, 5) == list(range(5))


def test_a_turned_video_stays_turned(tmp_path):
    video = Video(n_pictures=5, rotation=90, sound=speech_like(9_600, 48_000)).write(tmp_path / "a.mp4")
    soundfile.write(tmp_path / "t.wav", speech_like(9_600, 48_000), 48_000)
    write_muxed(video, tmp_path / "tracks.mp4", [("face1", tmp_path / "t.wav")])
    with av.open(str(video)) as before, av.open(str(tmp_path / "tracks.mp4")) as after:
        rotations = [next(container.decode(video=0)).rotation for container in (before, after)]
    assert rotations[0] == rotations[1] != 0


def test_tracks_beyond_full_scale_get_one_gain_and_more_channels_than_fit_are_refused(tmp_path):
    video = Video(n_pictures=10, sound=speech_like(19_200, 48_000)).write(tmp_path / "a.mkv")
    soundfile.write(tmp_path / "loud.wav", 4 * speech_like(19_200, 48_000), 48_000, subtype="FLOAT")
    gain = write_muxed(video, tmp_path / "tracks.mkv", [("face1", tmp_path / "loud.wav")])
    assert gain == pytest.approx(0.5, rel=1e-3)
    assert np.abs(wav_of(tmp_path / "tracks.mkv")).max() <= 1.0
    soundfile.write(tmp_path / "many.wav", np.zeros((4_800, 9)), 48_000)
    with pytest.raises(UserError, match="9 channels"):
        write_muxed(video, tmp_path / "none.mkv", [("face1", tmp_path / "many.wav")])
    assert not (tmp_path / "none.mkv").exists()
