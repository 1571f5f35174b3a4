"""Who spoke when: stretches of speech, the lips in them, tables for other programs, recognisers."""

import multiprocessing
import sys
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
import torch

from egs.demo.speech import speak
from egs.demo.voices import voices_of
from utils.errors import UserError
from utils.separation.on_demand import check_asr
from utils.separation.speech import MOVING, STILL, UNSEEN, Speech, find_speech, lips_of, recognise, write_rttm, write_vtt

pytest.importorskip("silero_vad", reason="the packages of requirements-video.txt are not installed")
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """Some two seconds of espeak-ng, as the demo corpus has it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # espeak-ng speaks once in a process
        return pool.apply(speak, (voices_of("train")[0], "bin blue at two now place red by nine again", 0)).samples


def write(path, samples):
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    return path


def test_speech_is_found_where_it_is_and_torch_keeps_its_threads(tmp_path, voice):
    samples = np.zeros(8 * RATE_HZ, np.float32)
    for start_sec in (1, 5):
        samples[start_sec * RATE_HZ :][: len(voice)] += voice
    track = write(tmp_path / "track.wav", samples)
    n_threads = torch.get_num_threads()
    found = find_speech(track, track, len(samples))
    assert torch.get_num_threads() == n_threads
    seconds = len(voice) / RATE_HZ
    assert len(found) >= 2 and found[0][0] == pytest.approx(1, abs=0.2) and found[-1][1] == pytest.approx(5 + seconds, abs=0.3)
    assert not any(1.2 + seconds < middle < 4.9 for middle in np.mean(found, axis=1))


def test_speech_up_to_the_end_ends_there(tmp_path, voice):
    track = write(tmp_path / "track.wav", voice[: len(voice) // 2])
    assert find_speech(track, track, len(voice) // 2)[-1][1] == pytest.approx(len(voice) // 2 / RATE_HZ)


def test_what_is_far_below_the_mixture_is_somebody_elses(tmp_path, voice):
    track = write(tmp_path / "track.wav", 0.02 * voice)
    mixture = write(tmp_path / "mixture.wav", voice)
    assert find_speech(track, mixture, len(voice)) == []
    assert find_speech(track, track, len(voice)) == find_speech(mixture, mixture, len(voice)) != []  # a quiet recording


def test_silence_holds_no_speech(tmp_path):
    track = write(tmp_path / "track.wav", np.zeros(RATE_HZ))
    assert find_speech(track, track, RATE_HZ) == []


def test_long_tracks_are_read_in_parts_that_leave_no_seams(tmp_path, voice, monkeypatch):
    samples = np.tile(np.concatenate([voice, np.zeros(RATE_HZ, np.float32)]), 2)
    track = write(tmp_path / "track.wav", samples)
    whole = find_speech(track, track, len(samples))
    monkeypatch.setattr("utils.separation.speech._READ_CHUNKS", 13)
    assert find_speech(track, track, len(samples)) == whole


def test_lips_move_stand_still_or_are_not_seen():
    frames = np.arange(100)
    points = np.zeros((100, 68, 2))
    points[:, 36:42] = (-50, 0)
    points[:, 42:48] = (50, 0)
    points[50:, 65:68, 1] = 10 * np.abs(np.sin(np.arange(50)))[:, None]
    assert lips_of((2.0, 4.0), frames, points) == MOVING
    assert lips_of((0.0, 2.0), frames, points) == STILL
    assert lips_of((3.6, 6.0), frames, points) == UNSEEN
    assert lips_of((0.0, 0.001), frames, points) == STILL


def test_tables_have_the_form_that_other_programs_read(tmp_path):
    first, second = Speech(0.5, 1.25, MOVING, "a <b> & c"), Speech(3661.0, 3662.9996)
    write_rttm(tmp_path / "s.rttm", "my talk", [("face2", second), ("face1", first)])
    assert (tmp_path / "s.rttm").read_text() == (
        "SPEAKER my%20talk 1 0.500 0.750 <NA> <NA> face1 <NA> <NA>\n"
        "SPEAKER my%20talk 1 3661.000 2.000 <NA> <NA> face2 <NA> <NA>\n"
    )
    write_vtt(tmp_path / "s.vtt", "face1", [first, second])
    assert (tmp_path / "s.vtt").read_text() == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.250\n<v face1>a &lt;b&gt; &amp; c</v>\n"
        "\n01:01:01.000 --> 01:01:03.000\n<v face1>…</v>\n"
    )


def test_each_name_of_a_video_is_one_field_of_its_own_in_the_table_of_speech(tmp_path):
    names = ["b c", "b_c", "b  c", "b\u00a0c", "b%20c", "Gespräch/1"]
    fields = []
    for name in names:
        write_rttm(tmp_path / "s.rttm", name, [("face1", Speech(0.5, 1.0))])
        row = (tmp_path / "s.rttm").read_text(encoding="utf-8").split()
        assert len(row) == 10
        fields.append(row[1])
    assert fields == ["b%20c", "b_c", "b%20%20c", "b%C2%A0c", "b%2520c", "Gespräch/1"]
    assert list(map(unquote, fields)) == names


def test_a_recogniser_gets_the_stretch_as_a_wav_and_its_words_are_taken(tmp_path, voice):
    track = write(tmp_path / "track.wav", np.tile(voice, 3))
    program = tmp_path / "my recogniser.py"
    program.write_text("import sys, soundfile\nx = soundfile.info(sys.argv[-1])\nprint(x.frames, x.samplerate, x.subtype)\n")
    command = f"{sys.executable} '{program}'"
    check_asr(command)
    assert recognise(command, track, Speech(1.0, 2.0), 3 * len(voice)) == f"{round(1.4 * RATE_HZ)} 16000 PCM_16"
    program.write_text("import sys\nsys.exit('no model')\n")
    with pytest.raises(UserError, match="exit code 1, and said: no model"):
        recognise(command, track, Speech(1.0, 2.0), 3 * len(voice))


@pytest.mark.parametrize(
    ("command", "why"), [("no-such-program --x", "is no program"), ("a 'b", "mind the quotes"), (" ", "is no program")]
)
def test_a_recogniser_that_cannot_be_run_is_refused_at_once(command, why):
    with pytest.raises(UserError, match=why):
        check_asr(command)
