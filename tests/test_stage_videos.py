"""Stage 4 on videos, and stage 1 on raw video: synthetic videos whose landmarks are given, so that nobody must be found."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from separation_helpers import RATE_HZ, Stage, make_experiment, make_lips, rows_of, state_of
from video_helpers import Video

from utils.data.audio import probe_audio
from utils.data.files import read_json
from utils.data.manifest import Utterance, read_manifest, write_manifest, write_videos
from utils.data.mouths import MouthFile
from utils.errors import UsageError, UserError, WriteError
from utils.separation.options import is_video_set
from utils.separation.tracks import crowd_warnings, lost_speakers, people_warnings
from utils.separation.videos import find_videos
from utils.stages import mouths
from utils.video.landmarks import Person, write_people
from utils.video.preparation import PreparedVideo, SeenPerson, mouth_motion

SIZE = (320, 160)
SECONDS = 3.0
N_FRAMES = 75
FACES = {"face1": (80, range(75)), "face2": (240, range(30, 75))}  # name: middle in pixels, frames


# Where the alignment looks, in its frame of 256 x 256 pixels; the other points do not matter to it.
STABLE = {
    28: (128, 107),
    33: (129, 137),
    36: (93, 94),
    39: (113, 95),
    42: (146, 95),
    45: (167, 94),
    48: (107, 157),
    54: (152, 157),
}


def mean_face_points() -> np.ndarray:
    points = np.full((68, 2), (129.0, 137.0))
    points[48:] = (129.0, 158.0)
    points[list(STABLE)] = list(STABLE.values())
    return points


def person(name: str, middle: float, frames) -> Person:
    """Somebody whose face stands still."""
    points = mean_face_points() * 0.4 + (middle - 0.4 * 128, 80 - 0.4 * 128)
    box = np.array([middle - 40, 40, middle + 40, 120], np.float32)
    n = len(frames)
    repeated = [np.repeat(value[None], n, axis=0).astype(np.float32) for value in (points, box)]
    return Person(name, np.array(frames), *repeated, np.linspace(0.5, 1, n, dtype=np.float32))


def make_video(folder: Path, name: str = "talk", people=FACES, seconds: float = SECONDS, **changes) -> Path:
    """A video with noise for its sound, and landmarks of it beside the folder."""
    sound = 0.1 * np.random.default_rng(len(name)).standard_normal(round(seconds * RATE_HZ)).astype(np.float32)
    video = Video(n_pictures=round(seconds * 25), size=SIZE, sound=sound, sound_rate_hz=RATE_HZ, sound_codec="pcm_f32le")
    folder.mkdir(exist_ok=True)
    path = replace(video, **changes).write(folder / f"{name}.mkv")
    marks = folder.parent / "landmarks"
    marks.mkdir(exist_ok=True)
    found = [person(face, *where) for face, where in people.items()]
    write_people(marks / f"{name}.npz", found, round(seconds * 25), *SIZE)
    return path


def sound_of(tmp_path: Path) -> Path:
    (path,) = tmp_path.glob("dump/videos/talk-*/talk/sound.wav")
    return path


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Samples are compared between processes: all of them compute with one thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    return make_experiment(folder / "exp/av", make_lips(folder / "lips.pth"))


@pytest.fixture
def stage(tmp_path, monkeypatch, experiment):
    """Stage 4 on a video or a folder of videos, with the landmarks of `make_video`; gives the folder of the tracks."""

    def call(test_dir: Path, *more: str) -> Path:
        options = ("--landmarks_dir", tmp_path / "landmarks", "--out_dir", tmp_path / "out", "--nj", "1", *more)
        Stage(tmp_path, monkeypatch)(experiment, test_dir, *options)
        return tmp_path / "out"

    return call


def test_every_face_gets_a_track_as_long_as_the_sound_and_all_tracks_add_up_to_it(tmp_path, stage):
    video = make_video(tmp_path / "videos", seconds=3.0123)
    folder = stage(video) / "talk"
    names = ["face1", "face2", "rest"]
    tracks = {name: soundfile.read(str(folder / f"{name}.wav"), dtype="float32") for name in names}
    sound, rate_hz = soundfile.read(str(sound_of(tmp_path)), dtype="float32")
    assert rate_hz == RATE_HZ and len(sound) == round(3.0123 * RATE_HZ)
    assert all(len(samples) == len(sound) and rate == RATE_HZ for samples, rate in tracks.values())
    np.testing.assert_allclose(sum(samples for samples, _ in tracks.values()), sound, atol=1e-6)
    assert all(np.abs(samples).max() > 1e-3 for samples, _ in tracks.values())
    assert (folder / "face1.png").stat().st_size > 100 and rows_of(folder.parent / "failed.csv") == []


def test_the_report_says_who_is_on_screen_when(tmp_path, stage):
    report = read_json(stage(make_video(tmp_path / "videos")) / "talk/tracks.json")
    assert [track["name"] for track in report["tracks"]] == ["face1", "face2"]
    assert [track["on_screen_sec"] for track in report["tracks"]] == [[[0.0, 3.0]], [[1.2, 3.0]]]
    assert [track["share_of_frames_with_mouth"] for track in report["tracks"]] == [1.0, 0.6]
    assert (report["n_samples"], report["sample_rate_hz"], report["grid_fps"]) == (48000, 16000, 25.0)
    assert (report["width"], report["height"]) == SIZE
    mixture = soundfile.read(str(sound_of(tmp_path)))[0]
    for track in (*report["tracks"], report["rest"]):
        samples = soundfile.read(str(tmp_path / "out/talk" / track["wav"]))[0]
        assert track["level_db"] == pytest.approx(10 * np.log10(np.sum(samples**2) / np.sum(mixture**2)), abs=0.06)


def test_a_call_says_what_it_made_and_the_next_one_that_nothing_was_to_be_done(tmp_path, stage, caplog):
    caplog.set_level("INFO", "utils")
    video = make_video(tmp_path / "videos")
    for said in (
        f"stage 4: {video}: 2 faces, 3.0 s -> {tmp_path}/out/talk",
        f"stage 4: up to date, the tracks are in {tmp_path}/out",
    ):
        caplog.clear()
        stage(video)
        assert caplog.messages == [said]


def test_no_more_people_than_asked_for_and_who_is_left_out_is_said(tmp_path, stage, caplog):
    video = make_video(tmp_path / "videos")
    folder = stage(video) / "talk"
    report, sound = read_json(folder / "tracks.json"), sound_of(tmp_path).stat().st_mtime_ns
    assert report["faces_left_out"] == [] == report["warnings"] and report["faces_seen_too_shortly"] == 0
    assert [(track["parts"], track["joined_with_certainty"]) for track in report["tracks"]] == [(1, 1.0)] * 2
    assert {"parts", "joined_with_certainty", "faces_left_out"} <= set(report["definitions"])
    caplog.clear()
    stage(video, "--people", "1")
    fewer = read_json(folder / "tracks.json")
    assert [track["name"] for track in fewer["tracks"]] == ["face1"] and fewer["stamp"] != report["stamp"]
    assert fewer["faces_left_out"] == [{"on_screen_sec": [[1.2, 3.0]]}]
    (warning,) = fewer["warnings"]
    assert "1.2 to 3 s" in warning and warning in caplog.text
    assert not (folder / "face2.wav").exists() and list(sound_of(tmp_path).parent.glob("mouths/*")) != []
    assert [path.name for path in sound_of(tmp_path).parent.glob("mouths/*.npz")] == ["face1.npz"]
    stage(video, "--people", "2")
    again = read_json(folder / "tracks.json")
    assert len(again["tracks"]) == 2 and again["faces_left_out"] == []
    assert sound_of(tmp_path).stat().st_mtime_ns == sound  # what does not depend on the people was not made again


@pytest.mark.parametrize("number", ["-1", "1.5", "two"])
def test_a_number_of_people_that_is_none_is_refused(tmp_path, stage, number):
    with pytest.raises(UsageError, match="--people.*no whole number"):
        stage(make_video(tmp_path / "videos"), f"--people={number}")


def test_uncertain_joins_are_warned_of():
    seen = ([[0.0, 1.0]], 0.9, 1.0, 0.02)
    people = (SeenPerson("face1", *seen, 3, 0.55), SeenPerson("face2", *seen, 9, 0.97))
    (warning,) = people_warnings(PreparedVideo(Path(), 1, 1, 1, 1, people, 0, ()))
    assert warning.startswith("face1: joined of 3 parts") and "0.55" in warning and "--people" in warning


@pytest.mark.parametrize(("n_people", "n_trained", "is_said"), [(3, 2, True), (2, 2, False), (3, 1, False)])
def test_more_people_than_the_network_was_trained_on_are_warned_of(n_people, n_trained, is_said):
    people = [SeenPerson(f"face{k}", [[0.0, 1.0]], 0.9, 1.0, 0.02) for k in range(n_people)]
    separator = SimpleNamespace(network=SimpleNamespace(config=SimpleNamespace(n_faces=n_trained)))
    warnings = crowd_warnings(PreparedVideo(Path(), 1, 1, 1, 1, people, 0, ()), separator)
    assert [warning.startswith("3 people") for warning in warnings] == [True] * is_said


def test_a_face_that_left_is_silent_and_what_it_says_later_is_in_the_residual(tmp_path, stage):
    people = {"face1": (80, range(0, 25)), "face2": (240, range(0, 500))}
    folder = stage(make_video(tmp_path / "videos", people=people, seconds=20.0)) / "talk"
    gone = soundfile.read(str(folder / "face1.wav"))[0]
    assert np.abs(gone[: 5 * RATE_HZ]).max() > 1e-3
    assert not gone[8 * RATE_HZ :].any(), "no window after the first one shows this face"
    assert np.abs(soundfile.read(str(folder / "face2.wav"))[0][15 * RATE_HZ :]).max() > 1e-3


def test_what_is_up_to_date_is_not_made_again_and_what_changed_is(tmp_path, stage, caplog):
    caplog.set_level("INFO")
    video = make_video(tmp_path / "videos")
    folder = stage(video) / "talk"
    before = state_of(folder)
    caplog.clear()
    assert state_of(stage(video) / "talk") == before and "up to date" in caplog.text
    (folder / "face2.wav").unlink()
    assert {name: samples for name, (_, samples) in state_of(stage(video) / "talk").items()} == {
        name: samples for name, (_, samples) in before.items()
    }
    make_video(tmp_path / "videos", people={"face1": FACES["face1"]})
    assert state_of(stage(video) / "talk").keys() == {"face1.wav", "rest.wav"}
    assert not (folder / "face2.png").exists()


def test_what_cannot_be_separated_is_listed_and_the_others_are_separated(tmp_path, stage, capsys):
    folder = tmp_path / "videos"
    good = make_video(folder)
    make_video(folder, "nobody", people={})
    make_video(folder, "mute", sound=None)
    (folder / "broken.mp4").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "landmarks/broken.npz").write_bytes((tmp_path / "landmarks/talk.npz").read_bytes())
    with pytest.raises(UserError, match="3 of 4 videos could not be separated"):
        stage(folder)
    reasons = {row["id"]: row["reason"] for row in rows_of(tmp_path / "out/failed.csv")}
    assert reasons.keys() == {"nobody", "mute", "broken"}
    assert "no frame has a face" in reasons["nobody"] and "sound" in reasons["mute"]
    assert (tmp_path / "out/talk/tracks.json").is_file() and not (tmp_path / "out/nobody").exists()
    assert all("\n" not in reason for reason in reasons.values())
    assert stage(folder, "--max_failed", "3")


def test_stems_muxed_videos_and_what_was_said_are_made_on_demand_of_tracks_that_stay(tmp_path, stage, monkeypatch):
    stretches = {"face1": [(0.5, 1.5)], "face2": [(1.0, 2.0), (2.2, 2.4)]}
    monkeypatch.setattr("utils.separation.tracks.find_speech", lambda track, *_: stretches[track.stem])
    sound = 0.1 * np.random.default_rng(5).standard_normal((2, 3 * 44_100)).astype(np.float32)
    video = make_video(tmp_path / "videos", sound=sound, sound_rate_hz=44_100)
    folder = stage(video) / "talk"
    before = state_of(folder)
    assert not list(folder.glob("stems/*")) and not list(folder.glob("tracks.mkv"))
    assert (folder / "speech.rttm").read_text().split("\n")[0].startswith("SPEAKER talk 1 0.500 1.000 <NA> <NA> face1")
    assert [each["lips"] for each in read_json(folder / "tracks.json")["tracks"][1]["speech"]] == ["still", "still"]
    assert "1.2 s of speech where these lips stand still" in read_json(folder / "tracks.json")["warnings"][-1]
    program = tmp_path / "asr.py"
    program.write_text("import sys, soundfile; print(soundfile.info(sys.argv[1]).duration)")
    wanted = ("--output_rate", "source", "--mux", "true", "--asr", f"{sys.executable} {program}")
    stage(video, *wanted)
    report, after = read_json(folder / "tracks.json"), state_of(folder)
    stems = {path.stem: soundfile.read(str(path))[0].T for path in folder.glob("stems/*.wav")}
    assert sorted(stems) == ["face1", "face2", "rest"]
    np.testing.assert_allclose(sum(stems.values()), sound, atol=1e-6)
    assert [report["stems"][key] for key in ("sample_rate_hz", "channels", "n_samples")] == [44_100, 2, 3 * 44_100]
    assert report["muxed"] == {"video": "tracks.mkv", "of_stems": True, "gain": 1.0}
    assert [each["text"] for each in report["tracks"][1]["speech"]] == ["1.4", "0.6"]
    assert "1.4</v>" in (folder / "face2.vtt").read_text()
    assert before.items() <= after.items()
    stage(video, *wanted)
    assert state_of(folder) == after  # nothing was made again
    (folder / "stems/face2.wav").unlink()
    stage(video, *wanted)
    assert (folder / "stems/face2.wav").is_file()
    stage(video, "--force", "true")  # what was made of other tracks goes with them
    assert not (folder / "stems").exists() and not (folder / "tracks.mkv").exists()


def test_what_is_no_fault_of_the_video_leaves_its_tracks(tmp_path, stage, monkeypatch):
    video = make_video(tmp_path / "videos")
    folder = stage(video) / "talk"
    before = state_of(folder)
    (tmp_path / "landmarks/talk.npz").write_bytes(b"no landmarks")
    with pytest.raises(UserError, match="1 of 1 videos"):
        stage(video)
    assert state_of(folder) == before != {} and (folder / "tracks.json").is_file()


def test_another_stream_of_sound_gives_other_tracks(tmp_path, stage):
    sounds = [0.1 * np.random.default_rng(seed).standard_normal(48_000).astype(np.float32) for seed in (7, 8)]
    video = make_video(tmp_path / "videos", sound=sounds[0], more_sounds=[sounds[1]])
    for number, sound in enumerate(sounds, start=1):
        folder = stage(video, "--audio_stream", str(number), "--output_rate", "source") / "talk"
        for where in (folder, folder / "stems"):
            tracks = [soundfile.read(str(where / f"{name}.wav"))[0] for name in ("face1", "face2", "rest")]
            np.testing.assert_allclose(sum(tracks), sound, atol=1e-6)


def test_levels_are_those_before_the_gain_of_full_scale(tmp_path, stage):
    sound = 2 * np.random.default_rng(9).standard_normal(48_000).astype(np.float32)
    video = make_video(tmp_path / "videos", sound=sound)
    levels = []
    for subtype in ("float", "pcm16"):
        report = read_json(stage(video, "--subtype", subtype) / "talk/tracks.json")
        levels.append([track["level_db"] for track in (*report["tracks"], report["rest"])])
    assert report["gain"] < 0.5 and levels[0] == pytest.approx(levels[1], abs=0.1)


def test_stems_that_their_owner_removed_are_not_believed(tmp_path, stage):
    video = make_video(tmp_path / "videos")
    folder = stage(video, "--output_rate", "source", "--mux", "true") / "talk"
    for path in (*folder.glob("stems/*"), folder / "tracks.mkv"):
        path.unlink()
    stage(video, "--mux", "true")
    assert read_json(folder / "tracks.json")["muxed"]["of_stems"] is False and (folder / "tracks.mkv").is_file()


def test_a_recogniser_that_fails_once_costs_one_text_and_goes_on_there(tmp_path, stage, monkeypatch):
    stretches = {"face1": [(0.5, 1.0), (1.5, 2.0)], "face2": [(2.0, 2.6)]}
    monkeypatch.setattr("utils.separation.tracks.find_speech", lambda track, *_: stretches[track.stem])
    program = tmp_path / "asr.py"
    program.write_text(
        "import sys, pathlib; n = len(list(pathlib.Path('calls').iterdir())); pathlib.Path(f'calls/{n}').touch()\n"
        "sys.exit('broken') if n == 1 else print('word', n, '\\x1b[1m')\n"
    )
    (tmp_path / "calls").mkdir()
    video = make_video(tmp_path / "videos")
    asr = ("--asr", f"{sys.executable} ./asr.py", "--asr_dir", tmp_path, "--mux", "true")
    with pytest.raises(UserError, match="1 of 1 videos"):
        stage(video, *asr)
    assert "1 of 3 stretches of speech were not recognised" in rows_of(tmp_path / "out/failed.csv")[0]["reason"]
    folder = tmp_path / "out/talk"
    assert (folder / "tracks.mkv").is_file() and "word 0" in (folder / "face1.vtt").read_text()
    stage(video, *asr)
    assert len(list((tmp_path / "calls").iterdir())) == 4  # only the one that failed was asked for again
    assert "word 3" in (folder / "face1.vtt").read_text() and "\x1b" not in (folder / "face1.vtt").read_text()


def test_a_recogniser_that_fails_fails_the_video_and_leaves_its_tracks(tmp_path, stage, monkeypatch):
    monkeypatch.setattr("utils.separation.tracks.find_speech", lambda *_: [(0.5, 1.5)])
    video = make_video(tmp_path / "videos")
    with pytest.raises(UserError, match="1 of 1 videos"):
        stage(video, "--asr", "false")
    (row,) = rows_of(tmp_path / "out/failed.csv")
    assert "2 of 2 stretches of speech were not recognised: --asr false: ended with exit code 1" in row["reason"]
    assert (tmp_path / "out/talk/face1.wav").is_file() and (tmp_path / "out/talk/tracks.json").is_file()


def test_a_preview_shows_the_video_with_each_track(tmp_path, stage):
    video = make_video(tmp_path / "videos")
    folder = stage(video, "--preview", "true") / "talk"
    assert {path.name for path in folder.glob("*.mp4")} == {"face1.mp4", "face2.mp4"}
    before = (folder / "face1.mp4").stat().st_mtime_ns
    stage(video, "--preview", "true")
    assert (folder / "face1.mp4").stat().st_mtime_ns == before


def test_what_is_unusual_about_a_video_is_in_the_log_and_in_the_report_of_its_tracks(tmp_path, stage, caplog):
    sound = 0.1 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    changes = {"sound": np.stack([sound, -sound]), "n_pictures": 150}
    video = make_video(tmp_path / "videos", people={"face1": (80, range(75))}, **changes)
    folder = stage(video) / "talk"
    warnings = read_json(folder / "tracks.json")["warnings"]
    assert len(warnings) == 2
    assert warnings[0].startswith("its channels 1, 2 cancel each other")
    assert warnings[1] == "its sound ends at 3.00 s, the pictures go on to 6.00 s"
    assert all(warning in caplog.text for warning in warnings)
    tracks = sum(soundfile.read(str(folder / f"{name}.wav"))[0] for name in ("face1", "rest"))
    np.testing.assert_allclose(tracks, sound, atol=1e-6)


def test_a_silent_video_fails_alone_and_the_stream_can_be_chosen(tmp_path, stage):
    sound = 0.1 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    make_video(tmp_path / "videos", "mute", sound=np.zeros_like(sound))
    make_video(tmp_path / "videos", "second", sound=np.zeros_like(sound), more_sounds=[sound, -sound])
    with pytest.raises(UserError, match="1 of 2 videos"):
        stage(tmp_path / "videos")
    (row,) = rows_of(tmp_path / "out/failed.csv")
    assert row["id"] == "mute" and "no sound above -80 dB" in row["reason"]
    taken = [soundfile.read(next(tmp_path.glob("dump/videos/*/second/sound.wav")))[0]]
    stage(tmp_path / "videos/second.mkv", "--audio_stream", "3", "--out_dir", str(tmp_path / "third"))
    taken += [soundfile.read(next(tmp_path.glob("dump/videos/second-*/second/sound.wav")))[0]]
    assert np.array_equal(taken[0], -taken[1]) and np.array_equal(taken[0], sound)


@pytest.mark.parametrize(
    ("motion", "residual_level", "speaks_elsewhere", "is_said"),
    [(0.02, 0.1, False, True), (0.001, 0.1, False, False), (0.02, 0.01, False, False), (0.02, 0.1, True, False)],
)
def test_a_moving_mouth_whose_speaker_is_in_the_residual_is_said(tmp_path, motion, residual_level, speaks_elsewhere, is_said):
    noise = np.random.default_rng(0).standard_normal((2, 48000)).astype(np.float32)
    noise[1, :24000] *= 0.001 if speaks_elsewhere else 1  # heard while nobody is on screen
    for name, samples in zip(("face1", "rest"), noise * [[0.01], [residual_level]], strict=True):
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE_HZ, subtype="FLOAT")
    person = SeenPerson("face1", [[0.0, 1.0], [0.5, 1.5]], 0.9, 0.5, motion)
    prepared = PreparedVideo(tmp_path, 48000, 75, *SIZE, people=(person,), n_ignored=0, warnings=())
    said = lost_speakers(prepared, RATE_HZ, tmp_path)
    assert bool(said) == is_said
    assert not said or said[0].startswith("face1: the mouth moves, but the residual is 20.0 dB") and "rest.wav" in said[0]


def test_a_mouth_that_opens_and_closes_moves_and_one_that_is_carried_about_does_not():
    frames = np.arange(50)
    still = np.repeat(mean_face_points()[None], 50, axis=0) + np.stack([np.sin(frames / 5), frames / 9], axis=1)[:, None]
    still[:, 36:42] -= 20  # the eyes apart
    talking = still.copy()
    talking[:, 65:68, 1] += 3 + 3 * np.sin(frames)[:, None]
    assert mouth_motion(still) < 1e-4 < 0.02 < mouth_motion(talking)
    assert mouth_motion(2 * talking) == pytest.approx(mouth_motion(talking))


def test_landmarks_that_are_missing_or_wrong_are_named(tmp_path, stage):
    video = make_video(tmp_path / "videos")
    os.rename(tmp_path / "landmarks/talk.npz", tmp_path / "landmarks/other.npz")
    with pytest.raises(UserError, match="one file named talk is needed for .*; found: none"):
        stage(video)
    (tmp_path / "landmarks/talk.pkl").write_bytes(pickle.dumps(list(np.zeros((N_FRAMES, 67, 2)))))
    with pytest.raises(UserError, match="1 of 1 videos"):
        stage(video)
    assert "67" in rows_of(tmp_path / "out/failed.csv")[0]["reason"]


def test_killed_and_called_again_the_tracks_are_those_of_an_undisturbed_call(tmp_path, repo_root, experiment, stage):
    video = make_video(tmp_path / "videos", seconds=40.0, people={name: (x, range(1000)) for name, (x, _) in FACES.items()})
    undisturbed = state_of(stage(video) / "talk")
    command = [sys.executable, "-m", "utils.stages.separate", "--exp_dir", experiment, "--test_dir", video, "--id", "cpu"]
    command += ["--landmarks_dir", tmp_path / "landmarks", "--dump_dir", tmp_path / "dump2", "--out_dir", tmp_path / "out2"]
    for seen in ("dump2/videos/talk-*/talk/sound.wav", "dump2/videos/talk-*/talk/prepared.json", "out2/talk/.tmp-*.wav"):
        process = subprocess.Popen(list(map(str, command)), cwd=repo_root, stderr=subprocess.DEVNULL)
        while not list(tmp_path.glob(seen)) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(list(map(str, command)), cwd=repo_root, stderr=subprocess.DEVNULL, check=False).returncode == 0
    again = state_of(tmp_path / "out2/talk")
    assert {name: samples for name, (_, samples) in again.items()} == {
        name: samples for name, (_, samples) in undisturbed.items()
    }
    assert not list((tmp_path / "out2").rglob(".tmp-*"))


def test_videos_of_one_stem_keep_their_whole_names_and_another_folders_video_is_not_overwritten(tmp_path, stage):
    make_video(tmp_path / "videos")
    with pytest.raises(UserError, match="holds the tracks of another video|1 of 1 videos"):
        stage(tmp_path / "videos/talk.mkv")
        stage(make_video(tmp_path / "other"))
    assert "another video" in rows_of(tmp_path / "out/failed.csv")[0]["reason"]
    assert read_json(tmp_path / "out/talk/tracks.json")["video"] == str(tmp_path / "videos/talk.mkv")
    for name in ("a.mp4", "a.mkv", "a.mp4.mkv"):
        (tmp_path / "same").mkdir(exist_ok=True)
        (tmp_path / "same" / name).touch()
    assert sorted(video.name for video in find_videos(tmp_path / "same", "")) == ["a.mkv", "a.mp4", "a.mp4.mkv"]


def test_a_name_that_cannot_be_written_fails_alone(tmp_path, stage):
    make_video(tmp_path / "videos")
    bad = make_video(tmp_path / "videos", "bad")
    for name in (b"new\nline.mkv", b"caf\xe9.mkv"):
        os.link(bad, os.fsencode(tmp_path / "videos") + b"/" + name)
    for path in (tmp_path / "landmarks").glob("bad*"):
        for name in (b"new\nline.npz", b"caf\xe9.npz"):
            os.link(path, os.fsencode(tmp_path / "landmarks") + b"/" + name)
    with pytest.raises(UserError, match="2 of 4 videos"):
        stage(tmp_path / "videos")
    reasons = [row["reason"] for row in sorted(rows_of(tmp_path / "out/failed.csv"), key=lambda row: row["path"])]
    assert "not UTF-8" in reasons[0] and "control character" in reasons[1]
    assert (tmp_path / "out/talk/tracks.json").is_file() and (tmp_path / "out/bad/tracks.json").is_file()


def test_what_a_kill_left_of_another_video_is_not_taken_for_this_one(tmp_path, stage):
    video = make_video(tmp_path / "videos")
    stage(video)
    folder = sound_of(tmp_path).parent
    (folder / "source.json").unlink()  # as a removal that was killed leaves it
    (folder / "prepared.json").unlink()
    soundfile.write(folder / "sound.wav", np.zeros(1000), RATE_HZ)
    stage(video)
    assert probe_audio(sound_of(tmp_path)).length == 48000


def test_tracks_of_a_video_that_now_fails_are_removed(tmp_path, stage):
    video = make_video(tmp_path / "videos")
    folder = stage(video) / "talk"
    make_video(tmp_path / "videos", people={})
    with pytest.raises(UserError, match="1 of 1 videos"):
        stage(video)
    assert not [path for path in folder.iterdir() if path.suffix in (".wav", ".json", ".png")]


def test_pictures_that_begin_after_the_sound_still_give_a_picture_of_the_face(tmp_path, stage):
    people = {"face1": (80, range(75))}
    video = make_video(tmp_path / "videos", people=people, start_sec=0.8)
    write_people(tmp_path / "landmarks/talk.npz", [replace(person("face1", *people["face1"]), scores=np.ones(75, np.float32))],
                 75, *SIZE)  # fmt: skip
    folder = stage(video) / "talk"
    assert (folder / "face1.png").stat().st_size > 100


def test_an_out_dir_that_is_a_file_is_one_line(tmp_path, stage):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        stage(make_video(tmp_path / "videos"), "--out_dir", tmp_path / "file/x")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (["a.MP4", "notes.txt"], True),
        (["notes.txt"], False),
        ([".a.mp4"], False),
        (["a.mp4", "audio/mix/x.wav"], False),
        ([], False),
    ],
)
def test_a_folder_of_videos_is_known_by_its_content(tmp_path, content, expected):
    for name in content:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert is_video_set(tmp_path) == expected


@pytest.fixture
def raw_corpus(tmp_path) -> Path:
    """Two clips of raw video as stage 0 leaves them, one of them with landmarks of nobody."""
    data = tmp_path / "data/raw"
    (data / "utterances").mkdir(parents=True)
    clips, items = [], []
    for name, people in (("anna_1", {"face1": FACES["face1"]}), ("bert_1", {})):
        video = make_video(tmp_path / "videos", name, people=people)
        soundfile.write(data / f"utterances/{name}.wav", np.zeros(N_FRAMES * 640 - 352, np.float32), RATE_HZ)
        mouth = f"mouths/{name}.npz"
        landmarks = str(tmp_path / f"landmarks/{name}.npz")
        sound = f"utterances/{name}.wav"
        clips.append(Utterance(name, "", sound, mouth, video_path=str(video), landmarks_path=landmarks))
        items.append(Utterance(name, name[:4], f"utterances/{name}.wav", mouth, N_FRAMES * 640 - 352, N_FRAMES, 25.0))
    write_videos(data / "videos.csv", clips)
    where = {"corpus": "raw", "split": "utterances", "data_root": data, "sample_rate": RATE_HZ, "n_src": 1}
    write_manifest(data / "utterances.csv", items=items, **where)
    return data


def run_mouths(monkeypatch, data: Path, *more: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mouths", "--data_dir", str(data), *more])
    return mouths.main()


def test_stage_1_is_refused_before_it_writes_where_the_disk_has_no_room_for_the_mouths(raw_corpus, monkeypatch):
    asked = []
    monkeypatch.setattr("utils.data.files.free_bytes", lambda folder: asked.append(folder) or 10**6)
    files = sorted(raw_corpus.rglob("*"))
    wanted = r"raw: the mouths of 2 clips need about 1.03 MB where 1 MB are free; make room, or choose another --data_dir"
    with pytest.raises(UserError, match=wanted):
        run_mouths(monkeypatch, raw_corpus, "--max_failed", "1")
    assert sorted(raw_corpus.rglob("*")) == files and len(asked) == 1


def test_stage_1_stops_at_a_full_disk_and_goes_on_after_it(raw_corpus, monkeypatch, limited):
    limited(2000)
    with pytest.raises(WriteError, match=r"it needs 518 kB, files may have 2 kB\).*mouths/anna_1\.npz"):
        run_mouths(monkeypatch, raw_corpus, "--max_failed", "1")
    assert len(read_manifest(raw_corpus / "utterances.csv").items) == 2 and not list(raw_corpus.rglob(".tmp-*"))
    limited(1_000_000)
    assert run_mouths(monkeypatch, raw_corpus, "--max_failed", "1") == 0
    assert (raw_corpus / "mouths/anna_1.npz").is_file()


def test_stage_1_asks_for_no_room_where_all_mouths_are_there(raw_corpus, monkeypatch):
    assert run_mouths(monkeypatch, raw_corpus, "--max_failed", "1") == 0
    monkeypatch.setattr("utils.data.files.free_bytes", lambda folder: 0)
    assert run_mouths(monkeypatch, raw_corpus, "--max_failed", "1") == 0
    assert run_mouths(monkeypatch, raw_corpus, "--max_failed", "1", "--force") == 0


def test_faces_of_an_earlier_cut_do_not_pass_for_current_ones(raw_corpus, monkeypatch):
    faces = ("--max_failed", "1", "--conf", "conf/demo_looking_to_listen.yml", "--face_weights", "dlib")
    path = raw_corpus / "faces/150/anna_1.npz"
    assert run_mouths(monkeypatch, raw_corpus, *faces) == 0 and path.is_file()
    other = ("--max_failed", "1", "--alignment", "forward5")
    assert run_mouths(monkeypatch, raw_corpus, *other) == 0 and not path.exists()
    assert run_mouths(monkeypatch, raw_corpus, *faces[2:], *other) == 0 and path.is_file()
    before = path.stat().st_mtime_ns
    assert run_mouths(monkeypatch, raw_corpus, *other) == 0  # mouths are as they were, and so are faces
    assert path.stat().st_mtime_ns == before


def test_stage_1_cuts_the_mouths_of_raw_video_and_takes_out_the_rows_without(raw_corpus, monkeypatch, caplog):
    caplog.set_level("INFO")
    with pytest.raises(UserError, match="1 clips have mouth crops that cannot be used"):
        run_mouths(monkeypatch, raw_corpus)
    assert len(read_manifest(raw_corpus / "utterances.csv").items) == 2, "nothing is taken out before the user lets it pass"
    assert run_mouths(monkeypatch, raw_corpus, "--max_failed", "1") == 0
    assert [item.utterance_id for item in read_manifest(raw_corpus / "utterances.csv").items] == ["anna_1"]
    (row,) = rows_of(raw_corpus / "failed_mouths.csv")
    assert row["id"] == "bert_1" and "no frame has a face" in row["reason"]
    mouth = MouthFile(raw_corpus / "mouths/anna_1.npz")
    assert mouth.n_frames == N_FRAMES and mouth.mask.all()
    before = (raw_corpus / "mouths/anna_1.npz").stat().st_mtime_ns
    assert run_mouths(monkeypatch, raw_corpus, "--max_failed", "1") == 0 and "up to date" in caplog.text
    assert run_mouths(monkeypatch, raw_corpus, "--max_failed", "1", "--force") == 0
    assert (raw_corpus / "mouths/anna_1.npz").stat().st_mtime_ns == before
    assert run_mouths(monkeypatch, raw_corpus, "--max_failed", "1", "--alignment", "forward5") == 0
    assert (raw_corpus / "mouths/anna_1.npz").stat().st_mtime_ns != before
