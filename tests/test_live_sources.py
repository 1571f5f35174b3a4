"""Sources of live separation, and the whole on real clips: a file at its own pace, devices in the hands of stand-ins."""

import csv
import json
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
from separation_helpers import make_experiment

cv2 = pytest.importorskip("cv2", reason="needs requirements-video.txt")

from video_helpers import Video, number_of, speech_like  # noqa: E402

from utils.data.audio import read_audio  # noqa: E402
from utils.data.mouths import MouthFile  # noqa: E402
from utils.embedding.embed import embed_file  # noqa: E402
from utils.embedding.frontends import load_frontend  # noqa: E402
from utils.errors import UserError  # noqa: E402
from utils.live.faces import LiveFaces  # noqa: E402
from utils.live.sources import DeviceSource, FileSource  # noqa: E402
from utils.video.decoding import read_pictures  # noqa: E402
from utils.video.preparation import VideoOptions, prepare_video  # noqa: E402
from utils.video.sound import extract_sound  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
LR_ASD = ROOT / "egs/own_video/pretrained/frontend.pth"
CAUSAL = ("--name av_tfdprnn_causal --kernel_size 480 --stride 160 --grid_stride 4 --bn_chan 8 --hid_size 6 --n_repeats 2 "
          "--n_audio_repeats 1 --visual_chan 4 --visual_hid 6 --visual_blocks 1 --match_chan 4 --match_hid 8")  # fmt: skip


@pytest.fixture
def video(tmp_path):
    return Video(n_pictures=30, sound=speech_like(57_600, 48_000)).write(tmp_path / "v.mp4")


def test_a_file_gives_its_sound_and_its_pictures(video, tmp_path):
    source = FileSource(video, realtime=False)
    source.start()
    pictures = {frame: number_of(picture) for frame, picture in source.pictures() if picture is not None}
    heard = np.concatenate(list(source.sound()))
    n_samples = extract_sound(video, tmp_path / "s.wav").n_samples
    assert np.array_equal(heard, read_audio(tmp_path / "s.wav")) and len(heard) == n_samples
    assert pictures == {frame: frame for frame in range(30)}
    source.close()


def test_in_real_time_nothing_comes_before_its_time(video):
    source = FileSource(video, realtime=True, max_sec=0.8)
    times = {}
    source.start()
    watching = threading.Thread(target=lambda: times.update((k, source.now_sec()) for k, _ in source.pictures()))
    watching.start()
    ends, n_heard = [], 0
    for block in source.sound():
        n_heard += len(block)
        ends.append(source.now_sec() - n_heard / 16000)
    watching.join()
    assert n_heard == 12_800 and min(ends) >= 0
    assert sorted(times) == list(range(20)) and all(at >= frame / 25 for frame, at in times.items())
    source.close()


def test_a_closed_file_ends_for_all_who_read_it(video):
    source = FileSource(video, realtime=True)
    source.start()
    pictures = iter(source.pictures())
    next(pictures)
    source.close()
    assert len(list(pictures)) <= 5 and not list(source.sound())


class _Microphone:
    """PortAudio's stream as far as it is used: a thread calls back with blocks of a ramp."""

    opened: list = []

    def __init__(self, rate_hz, block, device, *, channels, dtype, latency, callback):
        assert (rate_hz, channels, dtype) == (16000, 1, "float32")
        if device == "none":
            raise ValueError("No input device matching 'none'")
        self.block, self.callback, self.is_open = block, callback, True
        self.opened.append(self)

    def start(self):
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        for index in range(200):
            samples = np.arange(index * self.block, (index + 1) * self.block, dtype=np.float32)[:, None]
            if self.is_open:
                self.callback(samples, self.block, None, None)
            time.sleep(0.002)

    def close(self):
        self.is_open = False


@pytest.fixture
def devices(monkeypatch):
    stand_in = types.SimpleNamespace(InputStream=_Microphone, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", stand_in)
    return stand_in


def test_devices_give_every_sample_once_and_the_newest_picture(devices, video):
    source = DeviceSource(camera=str(video), max_sec=1.0)
    source.start()
    seen = []
    watching = threading.Thread(target=lambda: seen.extend(source.pictures()), daemon=True)
    watching.start()
    heard = np.concatenate(list(source.sound()))
    time.sleep(0.15)
    source.close()
    watching.join(5)
    assert np.array_equal(heard, np.arange(16000, dtype=np.float32))
    assert [frame for frame, _ in seen] == list(range(len(seen))) and len(seen) >= 3
    numbers = [number_of(picture) for _, picture in seen if picture is not None]
    assert numbers and numbers == sorted(numbers)
    assert not _Microphone.opened[-1].is_open and not watching.is_alive()


def test_missing_devices_are_one_line_each(devices, monkeypatch, video):
    with pytest.raises(UserError, match=r"--camera .*nothing\.mp4: cannot be opened; plug one in, name another"):
        DeviceSource(camera=str(video.parent / "nothing.mp4"))
    with pytest.raises(UserError, match="--microphone none: cannot be opened"):
        DeviceSource(camera=str(video), microphone="none")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match="needs PortAudio, e.g. apt-get install libportaudio2"):
        DeviceSource()


def test_live_embeddings_are_those_of_the_stage_but_for_the_smoothing(shared_data, tmp_path):
    """Landmarks are averaged over those before only: crops move by parts of a pixel, embeddings hardly."""
    clip = shared_data / "grid_video/g2brbk7n.mpg"
    frontend = load_frontend(LR_ASD)
    with LiveFaces({"lips": frontend}, 2, "centre", "centred8") as faces:
        for frame, picture in read_pictures(clip, 75):
            faces.add(frame, picture)
        live = faces.embeddings.get(0, 66).numpy()
    prepared = prepare_video(clip, tmp_path / "prepared", VideoOptions())
    stage = embed_file(frontend, MouthFile(prepared.mouth_path(prepared.people[0])))[:66].numpy()
    assert live.shape == (2, 66, 128) and not live[1].any()
    known = live[0].any(axis=1)
    products = (live[0] * stage).sum(axis=1)[known]
    cosines = products / np.linalg.norm(live[0][known], axis=1) / np.linalg.norm(stage[known], axis=1)
    assert known.mean() > 0.95 and np.median(cosines) > 0.98 and np.quantile(cosines, 0.05) > 0.9


def test_people_keep_their_places(shared_data):
    """Two who come one after the other get two places; who comes back gets the own one."""
    clips = [[picture for _, picture in read_pictures(shared_data / f"grid_video/{name}.mpg", 20)]
             for name in ("s1lbak3a", "g4lbbc2a", "s1bgbh4n")]  # fmt: skip
    seen = []
    with LiveFaces({"lips": load_frontend(LR_ASD)}, 2, "centre", "centred8") as faces:
        for frame, picture in enumerate(picture for clip in clips for picture in clip):
            faces.add(frame, picture)
            seen.append([person.is_seen for person in faces._people])
    assert np.array(seen[:20]).sum(axis=0).tolist() == [20, 0]
    assert np.array(seen[22:40]).sum(axis=0)[1] >= 15 and np.array(seen[42:]).sum(axis=0)[0] >= 15


def live(*words, **how):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([ROOT / "live.sh", *map(str, words)], **pipes, **how)


def test_a_file_is_separated_in_step_and_the_same_again(shared_data, tmp_path):
    exp_dir = make_experiment(tmp_path / "exp", LR_ASD, words=CAUSAL)
    clip = shared_data / "grid_video/g2brbk7n.mpg"
    for name in ("one", "two"):
        words = ("--source", clip, "--out_dir", tmp_path / name, "--exp_dir", exp_dir, "--realtime", "false")
        done = live(*words)
        _, stderr = done.communicate(timeout=200)
        assert done.returncode == 0, stderr
    tracks = {path.name: soundfile.read(path)[0] for path in (tmp_path / "one").glob("*.wav")}
    assert set(tracks) == {"face1.wav", "face2.wav", "rest.wav", "sound.wav"}
    assert {len(track) for track in tracks.values()} == {extract_sound(clip, tmp_path / "s.wav").n_samples}
    together = tracks["face1.wav"] + tracks["face2.wav"] + tracks["rest.wav"]
    assert np.abs(together - tracks["sound.wav"]).max() < 1e-5
    assert tracks["face1.wav"].any() and not tracks["face2.wav"].any()
    for path in (tmp_path / "one").glob("*.wav"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    facts = json.loads((tmp_path / "one/live.json").read_text())
    assert facts["algorithmic_latency_ms"] == 60 and facts["pictures_not_searched"] == 0
    with open(tmp_path / "one/live.csv", newline="") as file:
        assert [row["second"] for row in csv.DictReader(file)] == ["1", "2"]
    assert not (tmp_path / "one/live.png").exists()  # there was no clock to keep up with


def test_ctrl_c_ends_a_recording_whole(shared_data, tmp_path):
    exp_dir = make_experiment(tmp_path / "exp", LR_ASD, words=CAUSAL)
    long = Video(n_pictures=1500, size=(64, 48), sound=speech_like(60 * 8000, 8000), sound_rate_hz=8000)
    running = live("--source", long.write(tmp_path / "v.mp4"), "--out_dir", tmp_path / "out", "--exp_dir", exp_dir)
    sound = tmp_path / "out/sound.wav"
    for _ in range(600):
        if sound.is_file() and soundfile.info(sound).frames >= 16000:  # the first second is on disk
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == 0, stderr
    lengths = {path.name: soundfile.info(path).frames for path in (tmp_path / "out").glob("*.wav")}
    assert len(set(lengths.values())) == 1 and 16000 <= lengths["sound.wav"] < 60 * 16000
    assert (tmp_path / "out/live.json").is_file() and "Traceback" not in stderr
    height, width, _ = cv2.imread(str(tmp_path / "out/live.png")).shape
    assert (width, height) == (1200, 900)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--source", "nothing.mp4"), 1, "nothing.mp4: no such video"),
        (("--source", "README.md"), 1, "README.md"),
        (("--source", "README.md", "--exp_dir", "egs/own_video/pretrained"), 1, "its network hears the whole recording"),
        (("--people", "0"), 2, "--people"),
    ],
)
def test_what_cannot_be_separated_live_is_one_line(tmp_path, words, code, said):
    exp_dir = () if "--exp_dir" in words else ("--exp_dir", make_experiment(tmp_path / "exp", LR_ASD, words=CAUSAL))
    done = live(*words, *exp_dir, "--out_dir", tmp_path / "out", cwd=ROOT)
    _, stderr = done.communicate(timeout=100)
    assert done.returncode == code and said in stderr and "Traceback" not in stderr
