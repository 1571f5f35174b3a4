"""Sound that cannot be what its maker meant is noticed where it is read: in videos, in --test_dir, in corpora."""

import numpy as np
import pytest
import scipy.signal
import soundfile
from video_helpers import Video, speech_like

from utils.data.audio import check_sound, read_audio
from utils.data.manifest import Mixture, read_manifest, write_manifest
from utils.data.sound_checks import (
    ChannelMeter,
    SoundMeter,
    choose_channels,
    duration_warnings,
    wrong_rate_hint,
)
from utils.data.validation import check_audio, clock_problem
from utils.errors import UserError
from utils.video.sound import extract_sound

RATE_HZ = 48_000
# as voices are, strongest where their fundamental is
SPEECH = scipy.signal.lfilter([0.05], [1, -0.99], speech_like(3 * RATE_HZ, RATE_HZ)).astype(np.float32)
SILENCE = np.zeros_like(SPEECH)
HUM = (0.5 * np.sin(2 * np.pi * 50 * np.arange(len(SPEECH)) / RATE_HZ)).astype(np.float32)


def delayed(sound: np.ndarray, n_samples: int) -> np.ndarray:
    return np.concatenate([np.zeros(n_samples, sound.dtype), sound[:-n_samples]])


def products(channels: list[np.ndarray], rate_hz: int = RATE_HZ) -> np.ndarray:
    meter = ChannelMeter()
    for start in range(0, len(channels[0]), rate_hz):
        meter.add(np.stack(channels)[:, start : start + rate_hz], rate_hz)
    return meter.products()


OTHER = speech_like(3 * RATE_HZ, RATE_HZ, seed=1)
SELDOM = np.where(np.arange(len(OTHER)) // RATE_HZ == 1, OTHER, 0)  # somebody who speaks in one second only
CHANNELS = {
    "stereo": ([SPEECH, 0.7 * SPEECH + 0.3 * OTHER], [0, 1], ""),
    "two people, one on each side": ([SPEECH, SELDOM], [0, 1], ""),
    "inverted": ([SPEECH, -SPEECH], [0], "channels 1, 2 cancel each other"),
    "inverted, one louder": ([0.7 * SPEECH, -SPEECH], [1], "channel 2 was taken"),
    "inverted and 0.5 ms late": ([SPEECH, -delayed(SPEECH, 24)], [0], "cancel"),
    "inverted for a second": ([SPEECH, np.where(np.arange(len(SPEECH)) < RATE_HZ, -SPEECH, SPEECH)], [0], "cancel"),
    "late but not inverted": ([SPEECH, delayed(SPEECH, 24)], [0, 1], ""),
    "left is silent": ([SILENCE, SPEECH], [1], "no speech in channel 1 of 2; channel 2 was taken"),
    "left hums": ([HUM, SPEECH], [1], "no speech in channel 1 of 2"),
    "5.1, centre only": ([SILENCE, SILENCE, SPEECH, SILENCE, SILENCE, SILENCE], [2], "channel 3 was taken"),
    "5.1, low frequencies": ([SPEECH, SPEECH, SPEECH, HUM, SILENCE, SILENCE], [0, 1, 2], "channel 4, 5, 6 of 6"),
    "all silent": ([SILENCE, SILENCE], [0, 1], ""),
    "mono": ([SPEECH], [0], ""),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_the_channels_that_hold_speech_are_taken(name):
    channels, wanted, words = CHANNELS[name]
    chosen, warnings = choose_channels(products(channels))
    assert chosen == wanted
    assert (words in warnings[0]) if words else not warnings


def test_every_sample_that_is_no_number_is_named_with_its_place():
    for value, words in ((np.nan, "sample 7 is nan"), (np.inf, "is inf"), (-np.inf, "is -inf"), (1e30, "is 1e+30, far beyond")):
        meter = SoundMeter("a.wav")
        meter.add(np.full(5, 0.1, np.float32))
        with pytest.raises(UserError, match=f"a.wav: .*{words}".replace("+", r"\+")):
            meter.add(np.array([0.1, 0.1, value, 0.1], np.float32))


def test_what_is_too_loud_is_said_and_what_decoders_overshoot_is_not():
    meter = SoundMeter("a.mp3")
    meter.add(np.array([0.5, -1.3], np.float32))
    assert meter.warnings() == []
    meter.add(np.array([0.5, 40.0], np.float32))
    assert meter.warnings() == ["sample 3 lies 32.0 dB beyond full scale; the sound may be damaged there"]


@pytest.mark.parametrize(("level", "silent"), [(0.0, True), (1 / 32768, True), (2e-4, False)])
def test_silence_ends_at_minus_80_db(tmp_path, level, silent):
    soundfile.write(tmp_path / "a.wav", np.full(16_000, level), 16_000, subtype="FLOAT")
    if silent:
        with pytest.raises(UserError, match="a.wav: is silent: no sound above -80 dB"):
            check_sound(tmp_path / "a.wav")
    assert bool(check_audio(tmp_path / "a.wav", 16_000).reason) == silent


def test_a_whole_file_is_judged_in_pieces_and_its_level_is_exact(tmp_path):
    sound = speech_like(2_500_000, 16_000)
    soundfile.write(tmp_path / "a.wav", sound, 16_000, subtype="FLOAT")
    meter = check_sound(tmp_path / "a.wav", 16_000)
    assert meter.length == len(sound) and meter.peak == np.abs(sound).max() == abs(sound[meter.peak_sample])
    assert meter.power == pytest.approx(float(np.mean(np.square(sound, dtype=np.float64))), rel=1e-9)


def test_reading_a_piece_names_the_sample_of_the_file(tmp_path):
    sound = speech_like(16_000, 16_000)
    sound[9_000] = np.nan
    soundfile.write(tmp_path / "a.wav", sound, 16_000, subtype="FLOAT")
    assert len(read_audio(tmp_path / "a.wav", 0, 9_000)) == 9_000
    with pytest.raises(UserError, match="a.wav: sample 9000 is nan"):
        read_audio(tmp_path / "a.wav", 8_000, 4_000)


def test_a_header_with_the_wrong_rate_is_recognised_by_the_pictures():
    assert "seem to be at 48000 Hz" in wrong_rate_hint(96_000, 16_000, 2.0)
    assert "seem to be at 8000 Hz" in clock_problem(50, 16_000, 16_000, 25.0)
    assert wrong_rate_hint(32_000, 16_000, 2.0) == "" and wrong_rate_hint(40_000, 16_000, 2.0) == ""
    assert clock_problem(50, 32_000, 16_000, 25.0) == ""


def test_sound_that_ends_before_the_pictures_is_said():
    assert duration_warnings(3.0, 3.5) == [] and duration_warnings(3.0, 2.0) == []
    assert duration_warnings(3.0, 9.0) == ["its sound ends at 3.00 s, the pictures go on to 9.00 s"]


def level_db(sound: np.ndarray) -> float:
    return 10 * np.log10(np.mean(np.square(sound, dtype=np.float64)))


def extracted(path, audio_stream: int = 0) -> tuple[np.ndarray, tuple[str, ...]]:
    target = path.with_suffix(".wav")
    sound = extract_sound(path, target, audio_stream)
    return soundfile.read(target)[0], sound.warnings


@pytest.mark.parametrize("name", ["inverted", "inverted and 0.5 ms late", "left is silent", "left hums", "5.1, centre only"])
def test_speech_in_some_channels_of_a_video_has_its_full_level(tmp_path, name):
    channels, _, words = CHANNELS[name]
    path = Video(n_pictures=75, sound=np.stack(channels), sound_codec="pcm_f32le").write(tmp_path / "a.mkv")
    sound, warnings = extracted(path)
    assert abs(level_db(sound) - level_db(SPEECH)) < 0.1
    assert len(warnings) == 1 and words in warnings[0]


def test_a_stereo_video_is_the_mean_of_its_channels_without_a_warning(tmp_path):
    path = Video(n_pictures=75, sound=np.stack([SPEECH, OTHER]), sound_codec="pcm_f32le").write(tmp_path / "a.mkv")
    mono = Video(n_pictures=75, sound=(SPEECH + OTHER) / 2, sound_codec="pcm_f32le").write(tmp_path / "b.mkv")
    sound, warnings = extracted(path)
    assert warnings == () and np.allclose(sound, extracted(mono)[0], atol=1e-6)


def test_of_several_streams_the_one_with_sound_is_taken_unless_the_user_chooses(tmp_path):
    streams = {"sound": SILENCE, "more_sounds": [SPEECH, OTHER], "sound_codec": "pcm_f32le"}
    path = Video(n_pictures=75, **streams).write(tmp_path / "a.mkv")
    sound, warnings = extracted(path)
    assert abs(level_db(sound) - level_db(SPEECH)) < 0.1 and warnings == ("audio stream 1 is silent; stream 2 was taken",)
    third, warnings = extracted(path, 3)
    alone = extracted(Video(n_pictures=75, sound=OTHER, sound_codec="pcm_f32le").write(tmp_path / "b.mkv"))[0]
    assert np.array_equal(third, alone) and warnings == ()
    with pytest.raises(UserError, match="no sound above -80 dB|is silent"):
        extracted(path, 1)
    with pytest.raises(UserError, match="--audio_stream 4: there is no such stream; it has 3"):
        extracted(path, 4)


def test_silence_in_every_stream_is_refused_and_leaves_no_file(tmp_path):
    path = Video(n_pictures=75, sound=SILENCE, more_sounds=[SILENCE], sound_codec="pcm_f32le").write(tmp_path / "a.mkv")
    with pytest.raises(UserError, match="no sound above -80 dB in any of its 2 audio streams"):
        extracted(path)
    assert not list(tmp_path.glob("*.wav")) and not list(tmp_path.glob(".tmp-*"))


def test_a_sample_of_a_video_that_is_no_number_is_named(tmp_path):
    sound = SPEECH.copy()
    sound[RATE_HZ] = np.nan
    path = Video(n_pictures=75, sound=sound, sound_codec="pcm_f32le").write(tmp_path / "a.mkv")
    with pytest.raises(UserError, match=r"a\.mkv: sample 1[56]\d{3} is nan"):
        extracted(path)


def test_a_rewritten_manifest_keeps_every_field(tmp_path):
    def mixture(name: str) -> Mixture:
        return Mixture(name, "m.wav", ("a.wav", "b.wav"), "", 32_000, ("a.npz", "b.npz"), 50, 25.0, ("a", "b"), 0.0, "")

    common = {"corpus": "c", "split": "test", "data_root": tmp_path, "sample_rate": 16_000, "n_src": 2}
    manifest = write_manifest(tmp_path / "test.csv", **common, items=[mixture("x"), mixture("y")], mouths_go_on=True)
    shorter = manifest.with_items(manifest.items[:1])
    assert [item.mixture_id for item in shorter.items] == ["x"]
    assert read_manifest(tmp_path / "test.csv") == shorter
    assert shorter.mouths_go_on and (shorter.corpus, shorter.split, shorter.n_src) == ("c", "test", 2)
