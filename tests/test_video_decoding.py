"""Videos on the common clock: which picture each grid frame shows, where sound lies, and that every bad file is named."""

from fractions import Fraction
from math import ceil, floor
from pathlib import Path

import av
import numpy as np
import pytest
from video_helpers import VP9, Video, number_of, numbered_picture, numbers, speech_like, wav_of

from utils.errors import UserError
from utils.video import containers
from utils.video.decoding import probe_video, read_pictures
from utils.video.sound import extract_sound

RATE_HZ = 48_000
CONTAINERS = {
    "h264_aac.mp4": Video(),
    "fragments.mp4": Video(container_options={"movflags": "frag_keyframe+empty_moov"}),
    "no_b.mov": Video(sound_codec="pcm_s16le", b_frames=0),
    "h264_flac.mkv": Video(sound_codec="flac"),
    "open_gop.mkv": Video(sound_codec="flac", codec_options={"x264-params": "open-gop=1:keyint=12"}),
    "mpeg1_mp2.mpg": Video(codec="mpeg1video", sound_codec="mp2"),
    "mpeg2_mp2.mpg": Video(codec="mpeg2video", sound_codec="mp2", b_frames=1),
    "vp9_opus.webm": Video(**VP9, sound_codec="libopus"),
    "h264_aac.ts": Video(),
    "h264_aac.flv": Video(sound_rate_hz=44_100),
    "mpeg4.avi": Video(codec="mpeg4", sound_codec="pcm_s16le"),
    "h264.avi": Video(sound_codec="pcm_s16le"),
    "late_sound.mkv": Video(sound_codec="flac", sound_start_sec=0.31),
    "late_pictures.mp4": Video(start_sec=0.31),
    "both_late.mkv": Video(sound_codec="flac", sound_start_sec=5.1, start_sec=5.0),
    "rates.mkv": Video(sound_codec="flac", fps=30),
}
CLICK_SEC = 1.22  # after the start of the sound's content


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Path]:
    """Each container once, with a click of 1 ms in its sound at the middle of a known picture."""
    folder = tmp_path_factory.mktemp("containers")
    for name, video in CONTAINERS.items():
        video.sound = 0.01 * speech_like(2 * video.sound_rate_hz, video.sound_rate_hz)
        click = round(CLICK_SEC * video.sound_rate_hz)
        video.sound[click : click + video.sound_rate_hz // 1000] += 0.8
        video.write(folder / name)
    return {name: folder / name for name in CONTAINERS}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_click_is_heard_in_the_grid_frame_whose_picture_it_belongs_to(videos, name):
    video, sound = CONTAINERS[name], wav_of(videos[name])
    shown = numbers(videos[name], ceil(len(sound) / 640))
    clicked = shown[int(np.argmax(np.abs(sound))) // 640]
    assert clicked == floor((CLICK_SEC + video.sound_start_sec - video.start_sec + 0.0005) * float(video.fps))


@pytest.mark.parametrize("name", CONTAINERS)
def test_starting_late_gives_the_same_pictures_as_starting_at_zero(videos, name):
    whole = dict(read_pictures(videos[name], 54))
    for first_frame in (1, 11, 12, 13, 23, 24, 25, 37, 47, 53):
        for frame, picture in read_pictures(videos[name], 54, first_frame):
            assert (picture is None) == (whole[frame] is None)
            assert picture is None or np.array_equal(picture, whole[frame])


@pytest.mark.parametrize("fps", [5, Fraction(25, 2), Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 50, 60])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_frame_shows_the_picture_at_its_middle_whatever_the_rate(tmp_path, fps, suffix):
    n_pictures = floor(2 * fps)
    path = Video(fps=fps, n_pictures=n_pictures, sound=np.zeros(2 * RATE_HZ), sound_codec="flac").write(tmp_path / f"a{suffix}")
    n_frames = floor(n_pictures / fps * 25)
    shown = numbers(path, n_frames)
    expected = [floor(Fraction(2 * k + 1, 50) * fps) for k in range(n_frames)]
    if suffix == ".mp4":
        assert shown == expected
    else:  # stamps of whole ms: where a picture begins within 1 ms of the middle, its neighbour is as right
        middles = [Fraction(2 * k + 1, 50) * fps for k in range(n_frames)]
        wrong = [k for k in range(n_frames) if shown[k] != expected[k] and abs(middles[k] - round(middles[k])) > fps / 1000]
        assert wrong == []
    assert probe_video(path).fps == pytest.approx(float(fps), rel=2e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_pictures_at_uneven_times_are_shown_when_they_are_due(tmp_path, suffix):
    steps = np.random.default_rng(3).choice([0.013, 0.021, 0.034, 0.047, 0.35], 60, p=[0.3, 0.3, 0.2, 0.1, 0.1])
    stamps = np.round(np.concatenate([[0.0], np.cumsum(steps)]), 3)
    path = Video(stamps_sec=stamps.tolist(), sound=np.zeros(RATE_HZ), sound_codec="flac").write(tmp_path / f"a{suffix}")
    n_frames = floor(stamps[-1] * 25)
    middles = (np.arange(n_frames) + 0.5) / 25
    expected = (np.searchsorted(stamps, middles + 1e-6, side="right") - 1).tolist()
    assert numbers(path, n_frames) == expected


@pytest.mark.parametrize(("start_sec", "sound_start_sec"), [(0, 0.25), (0.25, 0), (3.01, 3.0), (3.0, 3.01), (60.0, 60.5)])
def test_time_zero_is_where_the_sound_starts_and_nothing_is_shown_before_and_after_the_pictures(
    tmp_path, start_sec, sound_start_sec
):
    video = Video(start_sec=start_sec, sound_start_sec=sound_start_sec, sound=np.zeros(RATE_HZ), sound_codec="flac")
    path = video.write(tmp_path / "a.mkv")
    expected = []
    for k in range(60):
        number = floor(((k + 0.5) / 25 + sound_start_sec - start_sec) * 25 + 1e-6)
        expected.append(number if 0 <= number < 50 else None)
    assert numbers(path, 60) == expected


def test_sound_shorter_than_the_pictures_ends_the_grid_and_longer_sound_shows_nothing(tmp_path):
    short = Video(sound=speech_like(RATE_HZ + 1, RATE_HZ), sound_codec="flac").write(tmp_path / "short.mkv")
    assert extract_sound(short, tmp_path / "short.wav").n_samples == 16_001
    assert numbers(short, 26) == list(range(26))
    long = Video(sound=speech_like(3 * RATE_HZ, RATE_HZ), sound_codec="flac").write(tmp_path / "long.mkv")
    assert numbers(long, 75) == [*range(50), *([None] * 25)]


def test_without_sound_time_zero_is_the_first_picture(tmp_path):
    path = Video(start_sec=7.5).write(tmp_path / "a.mkv")
    assert numbers(path, 50) == list(range(50))
    assert numbers(path, 50, first_frame=20) == list(range(20, 50))


def test_pictures_without_time_stamps_follow_each_other_at_the_nominal_rate(tmp_path):
    path = Video().write(tmp_path / "a.h264")
    assert numbers(path, 51) == [*range(50), None]
    assert probe_video(path).duration_sec == pytest.approx(2.0)


def test_single_missing_stamps_are_filled_in(tmp_path, monkeypatch):
    path = Video(sound=np.zeros(RATE_HZ), sound_codec="flac").write(tmp_path / "a.mkv")

    def with_gaps(*args):
        for number, frame in enumerate(containers.decoded(*args)):
            if number in (3, 4, 20, 49):
                frame.pts = None
            yield frame

    monkeypatch.setattr("utils.video.decoding.decoded", with_gaps)
    assert numbers(path, 50) == list(range(50))


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0, 1, 2, 2, 4, 5], [0, 1, 3, 3, 4, 5]),
        ([0, 3, 1, 2, 4, 5], [0, 0, 0, 1, 4, 5]),
        ([0, 1, 2, 1, 2, 5], [0, 1, 4, 4, 4, 5]),
    ],
)
def test_double_and_disordered_stamps_show_what_a_player_shows(tmp_path, monkeypatch, stamps, expected):
    path = Video(n_pictures=6, sound=np.zeros(RATE_HZ), sound_codec="flac").write(tmp_path / "a.mkv")

    def disordered(*args):
        for frame, stamp in zip(containers.decoded(*args), stamps, strict=True):
            frame.pts = 40 * stamp
            yield frame

    monkeypatch.setattr("utils.video.decoding.decoded", disordered)
    assert numbers(path, 6) == expected


def test_recordings_joined_end_to_end_are_refused_because_their_clock_restarts(tmp_path):
    path = Video(codec="mpeg1video", sound=speech_like(2 * RATE_HZ, RATE_HZ), sound_codec="mp2").write(tmp_path / "a.mpg")
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(UserError, match="clock of its pictures jumps back by .* at 1.9"):
        list(read_pictures(path, 100))
    with pytest.raises(UserError, match="clock of its sound jumps by -2.0 s at 2.0"):
        extract_sound(path, tmp_path / "a.wav")


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_pictures_are_turned_as_a_player_turns_them(tmp_path, rotation, hflip):
    video = Video(n_pictures=30, rotation=rotation, hflip=hflip, sound=np.zeros(RATE_HZ))
    path = video.write(tmp_path / "a.mp4")
    flipped = [numbered_picture(number)[:, ::-1] if hflip else numbered_picture(number) for number in range(30)]
    variants = [[np.rot90(picture, rotation // 90) for picture in flipped]]
    if hflip:  # a matrix that mirrors before it turns is as good a reading of "a turn and a flip"
        variants.append([np.rot90(numbered_picture(number), rotation // 90)[:, ::-1] for number in range(30)])
    for first_frame in (0, 20):
        for frame, picture in read_pictures(path, 25, first_frame):
            assert any(np.abs(v[frame].astype(int) - picture).mean() < 6 for v in variants if v[frame].shape == picture.shape)
    info = probe_video(path)
    assert (info.width, info.height) == ((96, 128) if rotation in (90, 270) else (128, 96))


@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("libx264", "yuv420p"), ("mjpeg", "yuvj420p"), ("ffv1", "gray"), ("ffv1", "rgb24")]
)
def test_grey_levels_keep_their_range(tmp_path, codec, pix_fmt):
    path = Video(n_pictures=4, codec=codec, pix_fmt=pix_fmt if pix_fmt != "rgb24" else "bgr0").write(tmp_path / "a.mkv")
    for number, picture in read_pictures(path, 4):
        assert np.abs(picture.astype(int) - numbered_picture(number)).mean() < 4


def test_colours_are_red_green_blue_in_this_order(tmp_path, monkeypatch):
    colours = np.zeros((96, 128, 3), np.uint8)
    colours[:, :64, 0], colours[:, 64:, 2] = 200, 150
    monkeypatch.setattr("video_helpers.numbered_picture", lambda *_: colours)
    _, picture = next(read_pictures(Video(n_pictures=2).write(tmp_path / "a.mp4"), 2))
    assert np.abs(picture[:, 8:56].mean(axis=(0, 1)) - [200, 0, 0]).max() < 8
    assert np.abs(picture[:, 72:120].mean(axis=(0, 1)) - [0, 0, 150]).max() < 8


@pytest.mark.parametrize(
    "video",
    [
        Video(size=(1366, 768), pix_fmt="yuv420p"),
        Video(size=(1366, 768), pix_fmt="yuv444p"),
        Video(size=(1366, 768), codec="mjpeg", pix_fmt="yuvj420p"),
        Video(size=(768, 1366), rotation=90),
        Video(size=(1282, 802), hflip=True),
        Video(size=(1281, 803), codec="ffv1"),
    ],
    ids=lambda video: f"{video.codec}-{video.pix_fmt}-{video.size[0]}",
)
def test_parts_of_large_pictures_are_those_of_the_whole(tmp_path, video, monkeypatch):
    rng = np.random.default_rng(1)
    monkeypatch.setattr("video_helpers.numbered_picture", lambda _, size: rng.integers(0, 256, (*size[::-1], 3), np.uint8))
    video.n_pictures = 3
    path = video.write(tmp_path / "a.mkv")
    for (_, whole), (_, picture) in zip(read_pictures(path, 3), read_pictures(path, 3, in_parts=True), strict=True):
        height, width = whole.shape[:2]
        has_parts = video.pix_fmt == "yuv420p" and not (video.rotation or video.hflip or width % 2)
        assert isinstance(picture, np.ndarray) != has_parts and picture.shape == whole.shape
        places = [(0, height, 0, width), (height - 3, height, width - 2, width), (0, 1, 0, 1)]
        places += [(*sorted(rng.choice(height, 2, False)), *sorted(rng.choice(width, 2, False))) for _ in range(20)]
        for top, bottom, left, right in places:
            assert np.array_equal(picture[top:bottom, left:right], whole[top:bottom, left:right])


def test_small_pictures_come_whole_also_in_parts(tmp_path):
    path = Video(n_pictures=2).write(tmp_path / "a.mp4")
    assert all(isinstance(picture, np.ndarray) for _, picture in read_pictures(path, 2, in_parts=True))


def test_a_size_that_changes_in_the_middle_leaves_all_pictures_of_one_size(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        small = av.CodecContext.create("mjpeg", "w")
        for coder, (width, height) in ((stream.codec_context, (128, 96)), (small, (96, 72))):
            coder.width, coder.height, coder.pix_fmt, coder.time_base = width, height, "yuvj420p", Fraction(1, 25)
        for number in range(10):
            coder = stream if number < 5 else small
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, (coder.width, coder.height)), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in coder.encode(frame):
                packet.stream = stream
                container.mux(packet)
    shown = [picture for _, picture in read_pictures(path, 10)]
    assert {picture.shape for picture in shown} == {(96, 128, 3)}
    assert [number_of(picture) for picture in shown] == list(range(10))


def test_a_picture_shown_twice_is_one_array_that_nobody_may_change(tmp_path):
    shown = [picture for _, picture in read_pictures(Video(fps=5, n_pictures=2).write(tmp_path / "a.mp4"), 10)]
    assert all(picture is shown[0] for picture in shown[:5]) and shown[5] is not shown[4]
    with pytest.raises(ValueError, match="read-only"):
        shown[0][0, 0] = 0


def test_probing_tells_what_a_video_holds(tmp_path):
    path = Video(fps=30, n_pictures=60, sound=np.zeros(RATE_HZ)).write(tmp_path / "a.mp4")
    info = probe_video(str(path))
    assert (info.width, info.height, info.fps, info.n_pictures) == (128, 96, 30.0, 60)
    assert info.duration_sec == pytest.approx(2.0, abs=0.05)


def test_real_clips_give_their_own_pictures_one_to_one(shared_data, tmp_path):
    for path in sorted((shared_data / "grid_video").glob("*.mpg"))[::7]:
        with av.open(str(path)) as container:
            own = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(own) == 75
        assert extract_sound(path, tmp_path / "a.wav").n_samples == 47_648
        shown = dict(read_pictures(path, ceil(47_648 / 640)))
        assert list(shown) == list(range(75))
        assert all(np.array_equal(shown[k], own[k]) for k in range(75))
        for first_frame in (1, 13, 40, 74):
            assert all(np.array_equal(picture, own[k]) for k, picture in read_pictures(path, 75, first_frame))
        info = probe_video(path)
        assert (info.width, info.height, info.fps) == (360, 288, 25.0)
