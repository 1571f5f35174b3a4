"""Rendered mixtures: exact ratios, exact sums, no clipping; the same bytes from the same list; resumed, never half made."""

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora_helpers import RATE_HZ, speech, write_audio

from utils.data.manifest import Problem, Utterance
from utils.errors import UserError
from utils.mixing.drawing import draw_responses
from utils.mixing.levels import level_db, power
from utils.mixing.lists import ListedMixture, ListedSource
from utils.mixing.options import MixOptions
from utils.mixing.rendering import make_mixtures, mix_sources
from utils.mixing.rooms import load_response


@pytest.fixture(scope="module")
def corpus(shared_data, tmp_path_factory) -> dict[str, Utterance]:
    """Three real clips of 3, 2.5 and 2.2 s, the first with a pause in its middle."""
    folder = tmp_path_factory.mktemp("clips")
    clips = {}
    for index, (name, seconds) in enumerate((("_a-", 3.0), ("b", 2.5), ("c_1", 2.2))):
        samples = 0.5 * speech(shared_data, index, seconds)
        samples[16000:32000] *= index > 0
        path = write_audio(folder / f"{name}.wav", samples)
        clips[name] = Utterance(name, name, str(path), f"mouths/{name}.npz", len(samples))
    return clips


def listed(*levels_db: float, names=("_a-", "b", "c_1"), mixture_id: str = "x", **more) -> ListedMixture:
    sources = tuple(ListedSource(name, name, level) for name, level in zip(names, levels_db, strict=False))
    return ListedMixture(mixture_id, "test", sources, **more)


def signals(folder: Path, row) -> tuple[np.ndarray, np.ndarray]:
    paths = (row.mixture_path, *row.source_paths, *([row.noise_path] if row.noise_path else []))
    mixture, *parts = (soundfile.read(folder / path, dtype="float64")[0] for path in paths)
    return mixture, np.stack(parts)


def make(folder: Path, items: list[ListedMixture], corpus, **options):
    found = make_mixtures(folder, items, corpus, MixOptions(**options))
    problems = [item for item in found if isinstance(item, Problem)]
    return [item for item in found if not isinstance(item, Problem)], problems


@pytest.mark.parametrize("measure", ["whole", "active"])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_the_files_have_the_asked_ratio_and_add_up_to_the_bit(tmp_path, corpus, measure, subtype):
    (row,), problems = make(tmp_path, [listed(0, 3.5, -4.25)], corpus, measure=measure, subtype=subtype)
    assert not problems
    mixture, sources = signals(tmp_path, row)
    levels = [level_db(source, RATE_HZ, measure) for source in sources]
    # 1e-3 dB: PCM16 rounds the quietest voice; a pause moves the active level by its rounding noise alone
    assert np.subtract(levels[0], levels) == pytest.approx([0, -3.5, 4.25], abs=1e-3 if subtype == "PCM_16" else 1e-5)
    assert np.array_equal(mixture, sources.sum(axis=0))
    assert max(np.abs(mixture).max(), np.abs(sources).max()) == pytest.approx(0.9, abs=2 / 32768)
    assert soundfile.info(tmp_path / row.mixture_path).subtype == subtype
    assert (row.length, row.frames, row.fps) == (35200, 55, 25.0)
    assert row.sir_db == -3.5
    assert row.mouth_paths == ("mouths/_a-.npz", "mouths/b.npz", "mouths/c_1.npz")


def test_mixtures_are_cut_to_the_longest_that_is_wanted(tmp_path, corpus):
    (row,), _ = make(tmp_path, [listed(0, 0)], corpus, max_sec=1.5)
    assert row.length == 24000


def test_noise_has_its_ratio_to_all_sources_and_is_a_file_of_its_own(tmp_path, corpus, shared_data):
    item = listed(0, -2, noise="noise2.wav", noise_start=1000, snr_db=7.5)
    (row,), problems = make(tmp_path, [item], corpus, noise_dir=shared_data / "noise")
    assert not problems
    mixture, parts = signals(tmp_path, row)
    assert row.noise_path == "audio/test/noise/x.wav"
    assert 10 * np.log10(power(parts[:2].sum(axis=0)) / power(parts[2])) == pytest.approx(7.5, abs=1e-3)
    assert np.array_equal(mixture, parts.sum(axis=0))


def test_a_short_noise_goes_on_from_its_beginning(tmp_path, corpus):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3000)
    write_audio(tmp_path / "n.wav", noise)
    clips = [soundfile.read(corpus[name].audio_path)[0] for name in ("_a-", "b")]
    item = listed(0, 0, noise="n.wav", noise_start=2500, snr_db=0)
    _, rest = mix_sources(item, clips, MixOptions(noise_dir=tmp_path))
    assert rest[500:3500] == pytest.approx(rest[0] / noise[2500] * noise, abs=1e-3)


def test_in_a_room_the_rest_is_what_comes_late(tmp_path, corpus, shared_data):
    item = listed(0, 6)
    item = replace(item, sources=tuple(replace(s, response=f"rir{k}.wav#0") for k, s in enumerate(item.sources, start=1)))
    (row,), problems = make(tmp_path, [item], corpus, rir_dir=shared_data / "rirs", subtype="FLOAT")
    assert not problems
    mixture, parts = signals(tmp_path, row)
    assert np.array_equal(mixture, parts.sum(axis=0))
    # what is heard of each speaker is made here without the early parts, by convolving it with the whole response
    heard = []
    for k, name in enumerate(("_a-", "b"), start=1):
        response = soundfile.read(shared_data / "rirs" / f"rir{k}.wav")[0]
        voice = soundfile.read(corpus[name].audio_path)[0][: row.length]
        n_fft = len(voice) + len(response)
        whole = np.fft.irfft(np.fft.rfft(voice, n_fft) * np.fft.rfft(response, n_fft), n_fft)
        heard.append(whole[np.abs(response).argmax() :][: row.length])
    heard[1] *= np.sqrt(power(heard[0]) / power(heard[1])) * 10 ** (6 / 20)
    expected = np.sum(heard, axis=0)
    assert mixture == pytest.approx(expected * np.sqrt(power(mixture) / power(expected)), abs=1e-4)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.wav"))
    }


def test_the_list_determines_the_bytes_whatever_the_processes(tmp_path, corpus, shared_data):
    noise = {"noise": "noise1.wav", "snr_db": 3.0}
    items = [listed(0, k / 3, mixture_id=f"m{k}", **(noise if k % 2 else {})) for k in range(4)]
    make(tmp_path / "one", items, corpus, noise_dir=shared_data / "noise")
    make(tmp_path / "two", items[::-1], corpus, noise_dir=shared_data / "noise", nj=2)
    assert len(digests(tmp_path / "one")) == 14
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_second_call_makes_only_what_is_missing_or_changed(tmp_path, corpus):
    items = [listed(0, k, mixture_id=f"m{k}") for k in range(3)]
    rows, _ = make(tmp_path, items, corpus)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")}
    (tmp_path / rows[0].source_paths[1]).unlink()
    items[2] = replace(items[2], sources=(items[2].sources[0], replace(items[2].sources[1], level_db=-9.0)))
    rows, _ = make(tmp_path, items, corpus)
    touched = {path.stem for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert touched == {"m0", "m2"}
    _, sources = signals(tmp_path, rows[2])
    assert 10 * np.log10(power(sources[0]) / power(sources[1])) == pytest.approx(9, abs=1e-2)


def test_a_journal_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path, corpus):
    items = [listed(0, k, mixture_id=f"m{k}") for k in range(2)]
    expected, _ = make(tmp_path, items, corpus)
    journal = tmp_path / "audio" / ".made.jsonl"
    journal.write_text(journal.read_text()[:-20])
    assert make(tmp_path, items, corpus)[0] == expected


def test_what_cannot_be_mixed_is_listed_and_the_others_are_made(tmp_path, corpus):
    bad = {
        "silent": write_audio(tmp_path / "silent.wav", np.zeros(48000)),
        "fast": write_audio(tmp_path / "fast.wav", np.full(48000, 0.1), 16384),
        "short": write_audio(tmp_path / "short.wav", np.full(8000, 0.1)),
        "absent": tmp_path / "absent.wav",
    }
    clips = corpus | {name: Utterance(name, name, str(path), f"mouths/{name}.npz", 48000) for name, path in bad.items()}
    items = [replace(listed(0, 0, names=("b", name), mixture_id=name), row=5) for name in bad]
    items += [listed(0, 0, noise="n.wav", snr_db=1.0, mixture_id="no folder"), listed(0, 0, mixture_id="good")]
    items = [replace(item, source="/lists/mine.csv") for item in items]
    rows, problems = make(tmp_path / "out", items, clips, min_sec=2.0)
    assert [row.mixture_id for row in rows] == ["good"]
    found = {problem.item_id: problem.reason for problem in problems}
    assert "silent: is silent" in found["silent"]
    assert "sampled at 16384 Hz where 16000 Hz is expected" in found["fast"]
    assert "would last 0.500 s where 2 s are the least" in found["short"]
    assert "no such file" in found["absent"]
    assert "--noise_dir" in found["no folder"]
    assert problems[0].row == 5 and {problem.path for problem in problems} == {"/lists/mine.csv"}
    assert {path.stem for path in (tmp_path / "out").rglob("*.wav")} == {"good"}


# Levels


def test_the_active_level_of_a_steady_sound_is_its_power():
    noise = np.random.default_rng(0).standard_normal(48000) * 0.1
    assert level_db(noise, RATE_HZ, "active") == pytest.approx(level_db(noise, RATE_HZ, "whole"), abs=0.1)


@pytest.mark.parametrize("pause_sec", [2, 6])
def test_pauses_do_not_count_in_the_active_level(pause_sec):
    noise = np.random.default_rng(0).standard_normal(2 * RATE_HZ) * 0.1
    paused = np.concatenate([noise, np.zeros(pause_sec * RATE_HZ)])
    # P.56 hangs on for 0.2 s after speech, and its envelope takes another moment to fall
    hangover_db = 10 * np.log10((2 + 0.2 + 0.15) / 2)
    assert -hangover_db < level_db(paused, RATE_HZ, "active") - level_db(noise, RATE_HZ, "whole") < 0.1


def test_a_gain_moves_the_active_level_by_itself_exactly(shared_data):
    voice = speech(shared_data, 3).astype(np.float64)
    levels = [level_db(gain * voice, RATE_HZ, "active") for gain in (1, 0.1, 0.037)]
    assert np.subtract(levels, levels[0]) == pytest.approx([0, -20, 20 * np.log10(0.037)], abs=1e-9)


def test_the_active_level_is_that_of_the_exact_crossing(shared_data):
    """The oracle tries 4000 thresholds one by one and takes the first one that speech is no more than 15.9 dB above."""
    from scipy.signal import lfilter

    for index in range(6):
        voice = speech(shared_data, index, 4).astype(np.float64)
        envelope = np.abs(voice)
        pole = np.exp(-1 / (0.03 * RATE_HZ))
        for _ in range(2):
            envelope = lfilter([1 - pole], [1, -pole], envelope)
        energy, crossing = (voice**2).sum(), None
        for threshold in np.geomspace(1e-4, 1, 4000) * np.sqrt(power(voice)):
            above = np.flatnonzero(envelope >= threshold)
            n_active = np.minimum(np.diff(above, append=len(voice)), 3200).sum()
            if 10 * np.log10(energy / n_active) - 20 * np.log10(threshold) <= 15.9:
                crossing = 10 * np.log10(energy / n_active)
                break
        assert level_db(voice, RATE_HZ, "active") == pytest.approx(crossing, abs=0.1)


# Rooms


def test_a_room_that_is_drawn_can_be_read_back(shared_data):
    rng = np.random.default_rng(0)
    files = {f"rir{k}.wav": 1 for k in range(1, 5)}
    drawn = draw_responses(MixOptions(room_prob=1, responses=files), 2, rng)
    responses = [load_response(text, shared_data / "rirs", RATE_HZ) for text in drawn]
    assert drawn[0] != drawn[1] and all(response.ndim == 1 and response.any() for response in responses)


@pytest.mark.parametrize("text", ["nonsense", "shoebox 1 2", "rir1.wav#7", "absent.wav#0"])
def test_a_room_that_is_none_is_refused(text, shared_data):
    with pytest.raises(UserError):
        load_response(text, shared_data / "rirs", RATE_HZ)


def test_a_room_of_another_rate_is_refused(tmp_path):
    write_audio(tmp_path / "r.wav", np.ones(10), 8000)
    with pytest.raises(UserError, match="8000 Hz, the corpus at 16000 Hz"):
        load_response("r.wav#0", tmp_path, RATE_HZ)


def test_simulated_rooms_without_pyroomacoustics_say_what_to_do():
    if importlib.util.find_spec("pyroomacoustics"):
        pytest.skip("pyroomacoustics is installed here")
    text = draw_responses(MixOptions(room_prob=1, simulate_rooms=True), 2, np.random.default_rng(0))[0]
    with pytest.raises(UserError, match="pip install pyroomacoustics"):
        load_response(text, None, RATE_HZ)


def test_a_simulated_room_has_its_direct_sound_where_its_distance_says():
    pytest.importorskip("pyroomacoustics", reason="pyroomacoustics is not installed; simulated rooms are optional")
    response = load_response("shoebox 5 4 3 rt60 0.3 mic 1 1.2 1.1 voice 3.7 2.9 1.6", None, RATE_HZ)
    distance_m = np.linalg.norm([2.7, 1.7, 0.5])
    offset = 40  # half of pyroomacoustics' fractional delay filter
    assert np.abs(response).argmax() == pytest.approx(distance_m / 343 * RATE_HZ + offset, abs=2)
    energy = np.cumsum(response[::-1] ** 2)[::-1]
    decay_db = 10 * np.log10(energy / energy[0])
    rt60_sec = 2 * (np.argmax(decay_db < -35) - np.argmax(decay_db < -5)) / RATE_HZ
    assert rt60_sec == pytest.approx(0.3, rel=0.35)


def test_drawn_rooms_can_all_be_simulated():
    pytest.importorskip("pyroomacoustics", reason="pyroomacoustics is not installed; simulated rooms are optional")
    rng = np.random.default_rng(0)
    options = MixOptions(room_prob=1, simulate_rooms=True)
    for text in [text for _ in range(5) for text in draw_responses(options, 2, rng)]:
        assert load_response(text, None, RATE_HZ).any()
