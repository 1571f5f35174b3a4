"""AVSpeech: its lists as published, parts cut by exact seconds, a download that may be killed, faces by their place."""

import csv
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recipe_helpers import ROOT, sound_of
from video_helpers import Video, number_of, speech_like, wav_of

from egs.avspeech.prepare import Clip, _read_row
from utils.data.manifest import read_manifest, read_videos
from utils.errors import UserError
from utils.video.cutting import Part, cut_parts
from utils.video.decoding import read_pictures
from utils.video.landmarks import Person, people_at


def test_rows_as_published_are_read_and_others_named():
    clip = _read_row(["_8K1hWki-Lo", "114.52", "120.000000", "0.46875", "0.303977"], "")
    assert clip == Clip("_8K1hWki-Lo", Fraction("114.52"), Fraction(120), "0.46875 0.303977", "")
    assert clip.clip_id == "_8K1hWki-Lo_114520_4688_3040"
    assert clip.starts_sec(Fraction(3)) == [Fraction("114.52")]  # 5.48 s: one part of 3 s, the rest is not taken
    assert len(clip.starts_sec(Fraction(1))) == 5
    for row, said in (
        (["a", "1", "2", "0.5"], "4 fields"),
        (["a b", "1", "2", "0.5", "0.5"], "no id"),
        (["", "1", "2", "0.5", "0.5"], "no id"),
        (["a", "1:30", "2", "0.5", "0.5"], "to be numbers"),
        (["a", "3", "2", "0.5", "0.5"], "before end"),
        (["a", "1", "2", "1.5", "0.5"], "from 0 to 1"),
    ):
        assert said in _read_row(row, "")


@pytest.mark.parametrize("fps", [25, 30, Fraction(30000, 1001)])
def test_parts_are_cut_by_exact_seconds_also_across_a_minute(tmp_path, fps):
    sound = speech_like(62 * 16000, 16000)
    path = Video(fps=fps, n_pictures=int(62 * fps), sound=sound, sound_rate_hz=16000).write(tmp_path / "a.mp4")
    start = Fraction("58.5823")
    parts = [Part(start + 2 * k, 50, tmp_path / f"{k}.mp4", tmp_path / f"{k}.wav") for k in range(3)]
    reasons = cut_parts(path, parts, tmp_path)
    assert reasons[:1] == [""] and "ends at 64.58 s, the video at 62." in reasons[2] and not (tmp_path / "2.mp4").exists()
    whole = wav_of(path)
    for part in parts[:1]:
        samples, rate = soundfile.read(part.audio_path, dtype="float32")
        first = round(part.start_sec * 16000)
        np.testing.assert_array_equal(samples, whole[first : first + 32000])
        assert rate == 16000
        shown = [number_of(picture) for _, picture in read_pictures(part.video_path, 50)]
        middles = [part.start_sec + Fraction(2 * frame + 1, 50) for frame in range(50)]
        assert shown == [int(middle * fps) for middle in middles]
    assert not (tmp_path / "sound.wav").exists()


def test_a_silent_part_is_named_and_the_others_are_cut(tmp_path):
    sound = speech_like(4 * 16000, 16000)
    sound[: 2 * 16000] = 0
    path = Video(n_pictures=100, sound=sound, sound_rate_hz=16000, sound_codec="flac").write(tmp_path / "a.mkv")
    parts = [Part(Fraction(k), 25, tmp_path / f"{k}.mp4", tmp_path / f"{k}.wav") for k in range(4)]
    assert cut_parts(path, parts, tmp_path) == ["silent", "silent", "", ""]
    assert sorted(file.name for file in tmp_path.glob("*.mp4")) == ["2.mp4", "3.mp4"]


def test_a_part_whose_pictures_end_before_its_sound_is_named(tmp_path):
    sound = speech_like(4 * 16000, 16000)
    path = Video(n_pictures=60, sound=sound, sound_rate_hz=16000, sound_codec="flac").write(tmp_path / "a.mkv")
    parts = [Part(Fraction(k), 25, tmp_path / f"{k}.mp4", tmp_path / f"{k}.wav") for k in range(4)]
    reasons = cut_parts(path, parts, tmp_path)
    assert reasons[:2] == ["", ""] and all("shows no picture at" in reason for reason in reasons[2:])
    assert sorted(file.name for file in tmp_path.glob("*.mp4")) == ["0.mp4", "1.mp4"]


def test_the_face_at_a_place_is_the_speakers():
    def person(name: str, box: tuple[float, ...]) -> Person:
        return Person(name, np.arange(4), np.zeros((4, 68, 2)), np.tile(np.array(box, float), (4, 1)), np.ones(4))

    left, right = person("left", (10, 10, 90, 90)), person("right", (110, 20, 150, 60))
    assert people_at([left, right], "0.65 0.4", (200, 100)) == [right]  # although the other face is larger
    assert people_at([left, right], "0.25 0.5", (200, 100)) == [left]
    assert people_at([left, right], "0.5 0.95", (200, 100)) == []


class Server:
    """A folder as a site of videos, which remembers what was asked for, and may be slow."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.wait_sec = 0.0
        site = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(Path(self.path).stem)
                time.sleep(site.wait_sec)
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/{{id}}.mp4"


@pytest.fixture
def site(tmp_path, shared_data):
    """Real clips of four people under ids that begin with `_` and `-`."""
    pytest.importorskip("yt_dlp")
    folder = tmp_path / "site"
    folder.mkdir()
    names = ["g2brbk7n", "g3lbax4n", "g4lbbc2a", "s1bgbh4n", "s1briz8p", "s1lbak3a"]
    for index, name in enumerate(names):
        (folder / f"{'_-'[index % 2]}{name}_x-.mp4").write_bytes((shared_data / f"grid_video/{name}.mpg").read_bytes())
    server = Server(folder)
    yield server, [path.stem for path in sorted(folder.iterdir())]
    server.server.shutdown()


def command(root: Path, site: Server, *more: str) -> list[str]:
    options = {"data_dir": root / "data", "corpus_dir": root, "clips_dir": root / "clips", "address": site.address}
    words = [f"--{name}={value}" for name, value in options.items()]
    sizes = ["--part_sec", "1", "--min_sec", "1", "--n_val", "1", "--n_test", "1", "--val_share", "0.34", "--nj", "1"]
    return [sys.executable, str(ROOT / "egs/avspeech/prepare.py"), *words, *sizes, *more]


def test_a_killed_download_goes_on_with_the_next_video_and_gone_ones_are_lines(tmp_path, site):
    server, ids = site
    rows = [f"{name},0.2,2.7,0.5,0.5" for name in ids[:4]]
    rows.insert(1, "gone-video_,0,3,0.5,0.5")
    rows.append("short-video,0,0.9,0.5,0.5")
    (tmp_path / "avspeech_train.csv").write_bytes(("\ufeff" + "\r\n".join(rows) + "\r\n").encode())
    tests = [f"{name},0.200000,2.700000,0.5,0.5" for name in ids[4:]]
    (tmp_path / "avspeech_test.csv").write_text("\n".join(tests), encoding="utf-8")
    server.wait_sec = 0.4
    process = subprocess.Popen(command(tmp_path, server), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / "clips/made.jsonl"
    while process.poll() is None and not (journal.is_file() and len(journal.read_text().splitlines()) >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = {line.split('"')[3] for line in journal.read_text().splitlines()}
    assert 2 <= len(made) < 6
    server.asked.clear()
    server.wait_sec = 0.0
    refused = subprocess.run(command(tmp_path, server), cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1 and "--max_failed" in refused.stderr and "Traceback" not in refused.stderr
    assert not made & set(server.asked)  # what was made before the kill is not asked for again
    server.asked.clear()
    done = subprocess.run(command(tmp_path, server, "--max_failed", "9"), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 7 videos could not be had" in done.stderr
    assert set(server.asked) == {"gone-video_"}
    with open(tmp_path / "data/failed.csv", newline="", encoding="utf-8") as handle:
        short, row = csv.DictReader(handle)
    assert short["id"].startswith("short-video_") and "lasts 0.90 s, shorter than --part_sec 1" in short["reason"]
    assert row["id"] == "gone-video_" and "404" in row["reason"] and "\n" not in row["reason"]
    videos = read_videos(tmp_path / "data/videos.csv")
    assert len(videos) == 12 and {clip.face_at for clip in videos} == {"0.5 0.5"}  # two parts of a second each
    assert not list((tmp_path / "clips").glob(".tmp-*"))
    test = read_manifest(tmp_path / "data/test.csv").items[0]
    assert {Path(path).stem.rsplit("_", 4)[0] for path in test.mouth_paths} == set(ids[4:])
    assert set(test.speakers) == set(ids[4:])  # never one video with itself; the test list's videos are tested
    train = read_manifest(tmp_path / "data/utterances.csv").items
    assert not {item.speaker for item in train} & set(test.speakers)
    server.asked.clear()
    next((tmp_path / "clips").glob("*.mp4")).unlink()
    again = subprocess.run(command(tmp_path, server, "--max_failed", "9"), cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0 and len(set(server.asked)) == 2  # the gone one, and that of the lost part
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 12


def test_more_than_ten_parts_of_a_clip_keep_their_order_and_paths_hold_from_any_folder(tmp_path, site, monkeypatch):
    server, ids = site
    (tmp_path / "avspeech_test.csv").write_text("\n".join(f"{name},0.2,2.7,0.5,0.5" for name in ids[:2]), encoding="utf-8")
    places = ["--data_dir=data/mine", "--clips_dir=clips", "--corpus_dir=.", f"--address={server.address}"]
    sizes = ["--part_sec", "0.2", "--min_sec", "0.2", "--n_val", "0", "--n_test", "1", "--nj", "1"]
    words = [sys.executable, str(ROOT / "egs/avspeech/prepare.py"), *places, *sizes]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir("/")
    for name in ids[:2]:
        clips = {clip.utterance_id: clip for clip in read_videos(tmp_path / "data/mine/videos.csv")}
        assert len(clips) == 24
        whole = sound_of(tmp_path / "site" / f"{name}.mp4")
        for number in range(12):
            clip = clips[f"{name}_200_5000_5000_part{number}"]
            assert Path(clip.video_path).is_file()
            start = round((0.2 + 0.2 * number) * 16000)
            part = soundfile.read(tmp_path / "data/mine" / clip.audio_path, dtype="float32")[0]
            np.testing.assert_allclose(part, whole[start : start + 3200], atol=1e-4)


def test_without_a_network_there_is_one_line(tmp_path, site):
    server, ids = site
    server.server.shutdown()
    server.server.server_close()
    (tmp_path / "avspeech_train.csv").write_text(f"{ids[0]},0.2,2.7,0.5,0.5\n", encoding="utf-8")
    done = subprocess.run(command(tmp_path, server), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "none of 1 videos could be had" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_without_the_lists_is_refused(tmp_path, site):
    done = subprocess.run(command(tmp_path, site[0]), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "holds neither avspeech_train.csv nor avspeech_test.csv" in done.stderr


def test_a_face_that_is_not_where_the_list_says_is_named(tmp_path, shared_data):
    from utils.video.preparation import VideoOptions, cut_clip

    video = shared_data / "grid_video/g2brbk7n.mpg"
    found = cut_clip(video, 16000, tmp_path / "mouths.npz", VideoOptions(), face_at="0.5 0.5")
    assert found["share_with_mouth"] > 0.9
    with pytest.raises(UserError, match="1 faces are seen, but none at 0.05 0.9"):
        cut_clip(video, 16000, tmp_path / "mouths.npz", VideoOptions(), face_at="0.05 0.9")
