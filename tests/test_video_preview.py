"""Previews: the pictures and the voice of a video again, in time with each other, and the right face in its frame."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
from video_helpers import Video, lag_samples, number_of, numbers, speech_like, wav_of

from utils.data.constants import FACE_COLOURS
from utils.errors import UserError
from utils.video.containers import sound_start
from utils.video.decoding import read_pictures
from utils.video.preview import save_thumbnail, write_faces_preview, write_preview

GREEN = np.array([64, 220, 96])


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[Path, Path]:
    """A video whose pictures are numbered, and a voice of its length."""
    folder = tmp_path_factory.mktemp("clip")
    sound = speech_like(96_000, 48_000)
    video = Video(n_pictures=50, size=(320, 240), sound=sound, sound_codec="flac").write(folder / "a.mkv")
    soundfile.write(folder / "voice.wav", wav_of(video), 16_000, subtype="FLOAT")
    return video, folder / "voice.wav"


def is_green(picture: np.ndarray) -> np.ndarray:
    return np.abs(picture.astype(int) - GREEN).max(axis=-1) < 45


def test_pictures_and_voice_come_back_in_time(clip, tmp_path):
    video, wav = clip
    write_preview(video, wav, tmp_path / "p.mp4", {}, 50)
    assert numbers(tmp_path / "p.mp4", 50) == list(range(50))
    voice, heard = soundfile.read(wav)[0], wav_of(tmp_path / "p.mp4")
    assert len(voice) <= len(heard) <= len(voice) + 1024
    assert abs(lag_samples(voice, heard)) <= 4
    assert np.corrcoef(voice, heard[: len(voice)])[0, 1] > 0.9


def test_a_late_voice_is_late_in_the_preview_too(clip, tmp_path):
    video, wav = clip
    voice = np.concatenate([np.zeros(1234), soundfile.read(wav)[0]])
    soundfile.write(tmp_path / "late.wav", voice, 16_000)
    write_preview(video, tmp_path / "late.wav", tmp_path / "p.mp4", {}, 50)
    assert abs(lag_samples(soundfile.read(wav)[0], wav_of(tmp_path / "p.mp4")) - 1234) <= 4


def test_the_frame_is_drawn_around_the_face_where_it_was_seen_and_only_there(clip, tmp_path):
    video, wav = clip
    boxes = {frame: (100 + frame, 60, 200 + frame, 180) for frame in range(10, 40)}
    write_preview(video, wav, tmp_path / "p.mp4", boxes, 50)
    for frame, picture in read_pictures(tmp_path / "p.mp4", 50):
        green = is_green(picture)
        if frame not in boxes:
            assert green.mean() < 0.001
            continue
        rows, columns = np.nonzero(green)
        x0, y0, x1, y1 = boxes[frame]
        assert np.abs(np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) - [x0, y0, x1, y1]).max() <= 2
        assert not green[y0 + 6 : y1 - 6, x0 + 6 : x1 - 6].any()


def test_high_videos_are_scaled_and_the_box_with_them(clip, tmp_path):
    video, wav = clip
    write_preview(video, wav, tmp_path / "p.mp4", {3: (80, 40, 240, 200)}, 5, max_height=121)
    pictures = dict(read_pictures(tmp_path / "p.mp4", 5))
    assert pictures[3].shape == (120, 160, 3)
    assert number_of(pictures[4]) == 4
    rows, columns = np.nonzero(is_green(pictures[3]))
    assert (
        np.abs(np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - np.array([80, 40, 240, 200]) / 2).max() <= 3
    )


def test_odd_sizes_rotations_and_boxes_beyond_the_border_are_no_trouble(tmp_path):
    path = Video(n_pictures=10, size=(130, 98), rotation=90, sound=np.zeros(48_000)).write(tmp_path / "a.mp4")
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    boxes = {0: (-50, -50, 40, 40), 1: (60, 90, 999, 999), 2: (-90, -90, -10, -10)}
    write_preview(path, tmp_path / "a.wav", tmp_path / "p.mp4", boxes, 25, max_height=101)
    shown = [picture for _, picture in read_pictures(tmp_path / "p.mp4", 25)]
    assert {picture.shape for picture in shown} == {(100, 76, 3)}
    assert is_green(shown[0])[:31, :31].any() and not is_green(shown[2]).any()
    assert max(picture.max() for picture in shown[11:]) < 30  # the video has no picture there


def test_a_short_voice_is_silent_at_its_end_and_a_long_one_is_cut(clip, tmp_path):
    video, wav = clip
    voice = soundfile.read(wav)[0]
    soundfile.write(tmp_path / "short.wav", voice[:16_000], 16_000)
    write_preview(video, tmp_path / "short.wav", tmp_path / "p.mp4", {}, 50)
    heard = wav_of(tmp_path / "p.mp4")
    assert len(heard) >= 32_000 and np.abs(heard[18_000:]).max() < 0.01
    write_preview(video, wav, tmp_path / "q.mp4", {}, 10)
    assert 6400 <= len(wav_of(tmp_path / "q.mp4")) <= 6400 + 1024


def test_all_faces_are_framed_in_their_colours_in_a_video_without_sound(clip, tmp_path):
    faces = [{0: np.array([40, 60, 100, 120])}, {frame: np.array([200, 60, 260, 120]) for frame in range(25)}]
    write_faces_preview(clip[0], tmp_path / "p.mp4", faces, 25)
    shown = [picture.astype(int) for _, picture in read_pictures(tmp_path / "p.mp4", 25)]

    def distance(picture: np.ndarray, face: int, x: int) -> int:
        return int(np.abs(picture[64, x + 2] - FACE_COLOURS[face]).max())  # in the tag with the number

    assert distance(shown[0], 0, 40) < 40 and distance(shown[0], 1, 200) < 40
    assert distance(shown[20], 0, 40) > 60 and distance(shown[20], 1, 200) < 40
    assert sound_start(tmp_path / "p.mp4") is None


def test_nothing_is_left_where_a_preview_cannot_be_made(clip, tmp_path):
    video, wav = clip
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.zeros((99, 2)), 16_000)
    for video_path, wav_path, reason in (
        (broken, wav, "breaks off"),
        (video, stereo, "2 channels at 16000 Hz where one at 16000 Hz is expected"),
        (video, tmp_path / "none.wav", "no such file"),
        (tmp_path / "none.mp4", wav, "no such file"),
    ):
        with pytest.raises(UserError, match=reason):
            write_preview(video_path, wav_path, tmp_path / "p.mp4", {}, 50)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mkv", "stereo.wav"]


def test_a_video_that_breaks_off_while_it_is_written_leaves_nothing(clip, tmp_path, monkeypatch):
    video, wav = clip

    def breaking(*args, **options):
        yield 0, np.zeros((240, 320, 3), np.uint8)
        raise UserError("breaks off at 0.04 s")

    monkeypatch.setattr("utils.video.preview.read_pictures", breaking)
    with pytest.raises(UserError, match="breaks off"):
        write_preview(video, wav, tmp_path / "p.mp4", {}, 50)
    assert not list(tmp_path.iterdir())


# A picture whose red is its column and whose green is its row tells where a thumbnail was cut.
WHERE = np.stack([*np.meshgrid(np.arange(200), np.arange(150)), np.zeros((150, 200))], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ((80, 50, 120, 90), (70, 40, 130, 100)),  # a quarter of the size around it
        ((80, 60, 120, 80), (70, 40, 130, 100)),  # the longer side counts
        ((0, 0, 40, 40), (0, 0, 60, 60)),  # moved inwards
        ((170, 120, 210, 160), (140, 90, 200, 150)),
        ((-500, -500, 700, 700), (25, 0, 175, 150)),  # smaller where the picture is too small
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_thumbnail_is_a_square_around_the_face_inside_the_picture(tmp_path, box, corners, suffix):
    path = tmp_path / f"t{suffix}"
    save_thumbnail(WHERE, np.array(box), path, size=64)
    small = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)
    assert small.shape == (64, 64, 3)
    x0, y0, x1, y1 = corners
    assert np.abs(small[0, 0, :2] - [x0, y0]).max() <= 4 and np.abs(small[-1, -1, :2] - [x1 - 1, y1 - 1]).max() <= 4
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
