"""Files that are no videos, or only a part of one: each is named with the reason, in one line, and nothing is half written."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from av.stream import Disposition
from video_helpers import VP9, Video, number_of, numbers, speech_like

from utils.errors import UserError
from utils.video import containers
from utils.video.decoding import probe_video, read_pictures
from utils.video.sound import extract_sound

RATE_HZ = 48_000


def cover_only(path: Path) -> None:
    """A song with a cover: its picture is a stream of video, but no video."""
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 48, "yuvj420p", Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(speech_like(16_000, 16_000)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        picture.pts = 0
        container.mux([*cover.encode(picture), *cover.encode(None), *sound.encode(frame), *sound.encode(None)])


def encrypted(path: Path) -> None:
    keys = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}
    Video(n_pictures=10, sound=np.zeros(RATE_HZ), container_options=keys).write(path)


def without_index(path: Path) -> None:
    Video(n_pictures=10).write(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


NOT_VIDEOS = [
    ("a.mp4", lambda path: path.write_bytes(b""), "empty file"),
    ("a.mp4", lambda path: path.write_bytes(b"no video at all\n" * 99), "not a video"),
    ("a.mp4", lambda path: path.write_bytes(os.urandom(9999)), "not a video"),
    ("a.txt", lambda path: path.write_text("FFmpeg draws this as a terminal would\n" * 9), "not a video"),
    ("a.txt", lambda path: path.write_text("ffconcat version 1.0\nfile real.mp4\n"), "not a video"),
    ("a.m3u8", lambda path: path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nreal.ts\n"), "not a video"),
    ("a.mp4", lambda path: path.mkdir(), "a folder"),
    ("a.mp4", lambda path: None, "no such file"),
    ("a.mp4", without_index, "cut off"),
    ("a.mp4", encrypted, "encrypted"),
    ("a.m4a", cover_only, "no moving pictures, only a still picture"),
    ("a.wav", lambda path: soundfile.write(path, np.zeros(999), 16_000), "no moving pictures, sound or other data"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "reason"), NOT_VIDEOS)
def test_what_is_no_video_is_named_with_the_reason_in_one_line(tmp_path, name, make, reason):
    for real in ("real.mp4", "real.ts"):
        Video(n_pictures=10).write(tmp_path / real)
    path = tmp_path / name
    make(path)
    for call in (probe_video, lambda path: list(read_pictures(path, 5))):
        with pytest.raises(UserError, match=reason) as error:
            call(path)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_video_without_sound_or_with_encrypted_sound_gives_no_wav(tmp_path):
    with pytest.raises(UserError, match=r"a\.mp4: has no sound"):
        extract_sound(Video(n_pictures=5).write(tmp_path / "a.mp4"), tmp_path / "a.wav")
    encrypted(tmp_path / "b.mp4")
    with pytest.raises(UserError, match=r"b\.mp4: encrypted"):
        extract_sound(tmp_path / "b.mp4", tmp_path / "b.wav")
    assert not list(tmp_path.glob("*.wav")) and not list(tmp_path.glob(".tmp-*"))


def test_a_song_with_a_cover_still_gives_its_sound(tmp_path):
    cover_only(tmp_path / "a.m4a")
    assert extract_sound(tmp_path / "a.m4a", tmp_path / "a.wav").n_samples >= 16_000


CUT_VIDEOS = {
    "a.mp4": Video(n_pictures=150, container_options={"movflags": "faststart"}),
    "fragments.mp4": Video(n_pictures=150, container_options={"movflags": "frag_keyframe+empty_moov"}),
    "a.mkv": Video(n_pictures=150, sound_codec="flac"),
    "a.avi": Video(n_pictures=150, codec="mpeg4", sound_codec="pcm_s16le"),
}


@pytest.mark.parametrize("name", CUT_VIDEOS)
def test_a_file_that_breaks_off_gives_what_is_there_and_then_names_the_time(tmp_path, name):
    video = CUT_VIDEOS[name]
    video.sound = speech_like(6 * RATE_HZ, RATE_HZ)
    path = video.write(tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(UserError, match="breaks off"):
        probe_video(path)
    shown = []
    with pytest.raises(UserError, match=r"breaks off at [2-4]\.\d\d s") as error:
        for _, picture in read_pictures(path, 150):
            shown.append(picture)
    assert str(error.value).startswith(f"{path}: ")
    given = [number_of(picture) for picture in shown[:-2] if picture is not None]  # the very last may be half a picture
    assert len(given) > 50 and given == list(range(len(given)))
    with pytest.raises(UserError, match=r"breaks off at [2-4]\.\d\d s"):
        extract_sound(path, tmp_path / "a.wav")
    assert not (tmp_path / "a.wav").exists() and not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("name", ["a.mpg", "a.ts"])
def test_where_a_container_does_not_tell_its_length_what_is_there_is_all(tmp_path, name):
    codecs = {"codec": "mpeg1video", "sound_codec": "mp2"} if name == "a.mpg" else {}
    path = Video(n_pictures=150, sound=speech_like(6 * RATE_HZ, RATE_HZ), **codecs).write(tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    seen = [picture is not None for _, picture in read_pictures(path, 150)]
    assert 50 < sum(seen) < 130 and not any(seen[130:])
    assert 16_000 < extract_sound(path, tmp_path / "a.wav").n_samples < 5 * 16_000


WHOLE = {
    **CUT_VIDEOS,
    "a.webm": Video(**VP9, n_pictures=20, sound_codec="libopus"),
    "a.mov": Video(n_pictures=20, sound_codec="pcm_s16le"),
    "live.mkv": Video(n_pictures=20, container_options={"live": "1"}),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("appended", [b"", b"\0" * 500, b"\xff" * 500])
def test_whole_files_are_not_taken_for_cut_ones_even_with_something_appended(tmp_path, name, appended):
    path = WHOLE[name].write(tmp_path / name)
    path.write_bytes(path.read_bytes() + appended)
    probe_video(path)
    assert len(list(read_pictures(path, 160))) == 160


def test_a_demuxer_that_fails_ends_in_one_line_after_the_pictures_that_are_there(tmp_path):
    path = Video(n_pictures=20).write(tmp_path / "a.mkv")

    class Failing:
        def __init__(self, container):
            self.container, self.format, self.start_time = container, container.format, container.start_time

        def demux(self, stream):
            for number, packet in enumerate(self.container.demux(stream)):
                if number == 12:
                    raise av.error.InvalidDataError(1, "broken")
                yield packet

    given = []
    with containers.open_video(path) as container:
        stream = containers.picture_stream(path, container)
        with pytest.raises(UserError, match=r"breaks off at 0\.\d\d s"):
            for frame in containers.decoded(path, Failing(container), stream):
                given.append(number_of(frame.to_ndarray(format="rgb24")))
    assert sorted(given) == given and set(range(10)) <= set(given)


def test_a_damaged_packet_in_the_middle_is_left_out_and_counted(tmp_path, caplog):
    path = Video(n_pictures=50, codec="png", pix_fmt="rgb24").write(tmp_path / "a.mov")
    data = path.read_bytes()
    places = [place for place in range(len(data)) if data.startswith(b"\x89PNG", place)]
    path.write_bytes(data[: places[20]] + b"damaged!" + data[places[20] + 8 :])
    assert numbers(path, 50) == [*range(20), 19, *range(21, 50)]
    assert "damaged packets of its video that were left out: 1" in caplog.text
    for place in places[:30]:
        data = data[:place] + b"damaged!" + data[place + 8 :]
    path.write_bytes(data)
    with pytest.raises(UserError, match="30 packets of its pictures cannot be decoded .20 can.; damaged or encrypted"):
        list(read_pictures(path, 51))
