"""`videos.csv`: what is written comes back, and what is wrong is told with its row."""

import pytest

from utils.data.manifest import Utterance, read_videos, write_videos
from utils.errors import UserError


def clip(name: str, video: str, landmarks: str, audio: str, mouth: str) -> Utterance:
    return Utterance(name, "", audio, mouth, video_path=video, landmarks_path=landmarks)


CLIPS = [
    clip("_8K1-,x", "/raw/a b.mp4", "", "utterances/_8K1-,x.wav", "mouths/_8K1-,x.npz"),
    clip("-2", "raw/c.mp4", "marks/c.csv", "utterances/-2.wav", "mouths/-2.npz"),
]
HEADER = "utterance_ID,video_path,landmarks_path,audio_path,mouth_path"


def test_what_is_written_comes_back(tmp_path):
    write_videos(tmp_path / "videos.csv", CLIPS)
    assert read_videos(tmp_path / "videos.csv") == tuple(CLIPS)


def test_byte_order_mark_carriage_returns_and_columns_of_ones_own_do_no_harm(tmp_path):
    path = tmp_path / "videos.csv"
    path.write_bytes(f"\ufeff{HEADER},mine\r\na,v.mp4,,a.wav,a.npz,5\r\n".encode())
    assert read_videos(path) == (clip("a", "v.mp4", "", "a.wav", "a.npz"),)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,v.mp4,,a.wav,a.npz\na,w.mp4,,b.wav,b.npz", "row 3, column utterance_ID: row 2 has the id 'a' too"),
        ("a,v.mp4,,a.wav,", "row 2, column mouth_path: '' where a value is required"),
        ("a,v.mp4", "row 2: 2 fields, the header has 5"),
        ("x/a,v.mp4,,a.wav,a.npz", "'x/a' cannot be an id"),
        ("", "holds no row"),
    ],
)
def test_a_wrong_row_is_told_by_its_number(tmp_path, rows, message):
    path = tmp_path / "videos.csv"
    path.write_text(f"{HEADER}\n{rows}\n")
    with pytest.raises(UserError, match=message):
        read_videos(path)


def test_a_missing_column_or_file_is_told(tmp_path):
    with pytest.raises(UserError, match="no such file; stage 0"):
        read_videos(tmp_path / "videos.csv")
    (tmp_path / "videos.csv").write_text("utterance_ID,video_path\n")
    with pytest.raises(UserError, match="no column landmarks_path, audio_path, mouth_path"):
        read_videos(tmp_path / "videos.csv")
