"""The demo corpus: seeded, true to its numbers, and mouths that do what the voice says."""

import hashlib
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from egs.demo.clips import Clip, make_clip
from egs.demo.mouths import CANVAS, make_face, shape_lips
from egs.demo.pretrain_lipreader import normalise
from egs.demo.speech import Span, Speech, speak
from egs.demo.visemes import LEAD_SEC, VISEMES, label_frames, visemes_of
from egs.demo.voices import VOICES, WORDS, voices_of
from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.manifest import read_manifest
from utils.data.validation import validate_manifest
from utils.embedding.checkpoints import load_lipreading, read_checkpoint

SIZES = {"train": 6, "val": 4, "test": 5}


def prepare(repo_root: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(repo_root / "egs/demo/prepare.py")]
    command += ["--data_dir", str(folder / "data"), "--raw_dir", str(folder / "raw"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def prepare_small(repo_root: Path, folder: Path, nj: int) -> Path:
    sizes = [text for split, size in SIZES.items() for text in (f"--n_{split}", str(size))]
    done = prepare(repo_root, folder, "--nj", str(nj), *sizes)
    assert done.returncode == 0, done.stderr
    return folder / "data"


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file but the side files, which name the folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def in_fresh_processes(function, orders: list[tuple]) -> list:
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        return pool.starmap(function, orders, chunksize=1)


@pytest.fixture(scope="module")
def corpus(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_small(repo_root, tmp_path_factory.mktemp("demo"), nj=2)


@pytest.fixture(scope="module")
def clips() -> list[tuple[int, Clip]]:
    """One clip of each test voice, with the number of its voice."""
    voices = voices_of("test")
    made = in_fresh_processes(make_clip, [(voice, 3, 0) for voice in voices])
    return [(VOICES.index(voice), clip) for voice, clip in zip(voices, made, strict=True)]


def opening(number: int, clip: Clip) -> np.ndarray:
    """Distance of the lips in the middle of the mouth, pixels (frames,)."""
    lips = shape_lips(make_face(number, VOICES[number].gender), clip.motion)
    return np.maximum(0, lips.lower_inner - lips.upper_inner)[:, 0, CANVAS // 2]


def test_the_same_seed_gives_the_same_bytes_with_another_number_of_processes(corpus, repo_root, tmp_path):
    assert contents(prepare_small(repo_root, tmp_path, nj=1)) == contents(corpus)


def test_a_damaged_clip_is_remade_and_the_others_are_kept(repo_root, tmp_path):
    folder = tmp_path / "data"
    sizes = ("--n_train", "4", "--n_val", "4", "--n_test", "4")
    assert prepare(repo_root, tmp_path, *sizes).returncode == 0
    before = contents(folder)
    damaged, kept = sorted((folder / "mouths").iterdir())[:2]
    made_at = kept.stat().st_mtime_ns
    damaged.write_bytes(damaged.read_bytes()[:1000])
    (folder / "audio/train/mix/f00u0009_m01u0009.wav").write_bytes(b"left by a larger corpus")
    assert prepare(repo_root, tmp_path, *sizes).returncode == 0
    assert contents(folder) == before
    assert kept.stat().st_mtime_ns == made_at


def test_the_manifests_are_valid_down_to_every_file(corpus):
    for split, size in SIZES.items():
        manifest = read_manifest(corpus / f"{split}.csv")
        assert len(manifest.items) == size
        assert validate_manifest(manifest, deep=True) == []
    assert len(read_manifest(corpus / "utterances.csv").items) == SIZES["train"]


def test_no_voice_is_shared_between_the_parts(corpus):
    speakers = {
        split: {name for item in read_manifest(corpus / f"{split}.csv").items for name in item.speakers} for split in SIZES
    }
    assert not speakers["train"] & speakers["val"] and not (speakers["train"] | speakers["val"]) & speakers["test"]
    assert {item.speaker for item in read_manifest(corpus / "utterances.csv").items} <= speakers["train"]


def test_only_the_same_voice_subset_mixes_two_sentences_of_one_voice(corpus):
    items = read_manifest(corpus / "test.csv").items
    assert {item.subset for item in items} == {"same_voice", "different_voices"}
    for item in items:
        assert (item.speakers[0] == item.speakers[1]) == (item.subset == "same_voice")
        assert item.mouth_paths[0] != item.mouth_paths[1]


def test_mixtures_are_the_sum_of_their_sources_at_the_stored_ratio(corpus):
    for split in SIZES:
        for item in read_manifest(corpus / f"{split}.csv").items:
            paths = (item.mixture_path, *item.source_paths)
            mixture, first, second = (soundfile.read(corpus / path, dtype="int16")[0].astype(int) for path in paths)
            assert soundfile.info(corpus / item.mixture_path).subtype == "PCM_16"
            assert mixture.shape == (2 * SAMPLE_RATE_HZ,)
            assert np.abs(mixture - first - second).max() <= 1
            assert np.abs(mixture).max() <= round(0.9 * 32767) + 1
            assert item.sir_db == pytest.approx(10 * np.log10(np.mean(first**2) / np.mean(second**2)), abs=0.01)
            assert -5.01 <= item.sir_db <= 5.01


def test_what_a_voice_says_does_not_depend_on_what_was_said_before():
    first, second = (VOICES[0], "paper window", 1), (VOICES[1], "yellow banana", 2)
    forward, backward = in_fresh_processes(speak, [first, second]), in_fresh_processes(speak, [second, first])
    for ours, theirs in zip(forward, reversed(backward), strict=True):
        assert np.array_equal(ours.samples, theirs.samples) and ours.phones == theirs.phones


def speak_twice(voice) -> str:
    speak(voice, "once", 1)
    try:
        speak(voice, "twice", 1)
    except RuntimeError as error:
        return str(error)
    return ""


def test_a_process_is_kept_from_speaking_twice():
    assert "has spoken" in in_fresh_processes(speak_twice, [(VOICES[0],)])[0]


def timbre(speech: Speech) -> np.ndarray:
    """Mean log spectrum in 20 bands and the pitch in semitones."""
    samples = speech.samples[: len(speech.samples) // 512 * 512].reshape(-1, 512) * np.hanning(512)
    power = (np.abs(np.fft.rfft(samples)) ** 2).mean(axis=0)
    edges = np.geomspace(3, 256, 21).astype(int)
    bands = [10 * np.log10(power[low : max(high, low + 1)].mean() + 1e-9) for low, high in zip(edges, edges[1:], strict=False)]
    loudest = speech.samples[np.abs(speech.samples).argmax() // 512 * 512 :][:2048]
    correlation = np.correlate(loudest, loudest, "full")[len(loudest) - 1 :]
    lag = 35 + correlation[35:250].argmax()
    return np.array([*(np.array(bands) - np.mean(bands)), 12 * np.log2(SAMPLE_RATE_HZ / lag / 100)])


def test_at_least_24_voices_speak_and_all_sound_different():
    spoken = in_fresh_processes(speak, [(voice, "yellow window paper mother about happy", 1) for voice in VOICES])
    assert len(VOICES) >= 24
    timbres = np.array([timbre(speech) for speech in spoken])
    distance = np.sqrt(((timbres[:, None] - timbres) ** 2).mean(axis=2)) + 99 * np.eye(len(VOICES))
    assert distance.min() > 1.0, [VOICES[index].name for index in np.unravel_index(distance.argmin(), distance.shape)]


def test_every_sound_of_every_dialect_has_a_viseme():
    dialects = {voice.name.split("+")[0]: voice for voice in VOICES}
    sentences = [" ".join(WORDS[start : start + 24]) for start in range(0, len(WORDS), 24)]
    spoken = in_fresh_processes(speak, [(voice, text, 1) for voice in dialects.values() for text in sentences])
    assert all(visemes_of(phone.label) is not None for speech in spoken for phone in speech.phones)
    with pytest.raises(ValueError, match="no viseme"):
        visemes_of("x")


def test_lips_are_closed_on_p_b_m_and_open_on_wide_vowels(clips):
    closed, wide = 0, []
    for number, clip in clips:
        gap = opening(number, clip)
        for phone in clip.phones:
            middle = (phone.start_sec + phone.end_sec) / 2 if phone.label == "m" else phone.start_sec
            frame = int((middle - LEAD_SEC) * VIDEO_FPS)
            if not 2 <= frame < len(gap) - 2:
                continue
            if phone.label in ("p", "b", "m"):
                assert gap[frame - 1 : frame + 2].min() < 0.8, (number, phone)
                closed += 1
            elif "a" in phone.label or "ɑ" in phone.label:
                wide.append(gap[frame : frame + 4].max())
    assert closed > 15
    assert np.mean(wide) > 4


def test_the_lips_lead_the_sound(clips):
    shifts = np.arange(-4, 7)
    total = np.zeros(len(shifts))
    for number, clip in clips:
        gap = opening(number, clip)
        envelope = np.log(np.sqrt((clip.samples.reshape(len(gap), -1) ** 2).mean(axis=1)) + 1e-3)
        for index, shift in enumerate(shifts):  # the lips of a frame with the sound `shift` frames later
            sound = envelope[max(0, shift) : len(gap) + min(0, shift)]
            total[index] += np.corrcoef(gap[max(0, -shift) : len(gap) - max(0, shift)], sound)[0, 1] / len(clips)
    assert shifts[total.argmax()] in (1, 2)
    assert total.max() > 0.3


def test_there_is_no_long_silence(clips):
    for _, clip in clips:
        loud = np.abs(clip.samples).reshape(-1, 160).max(axis=1) > 0.02
        gaps = np.diff(np.flatnonzero(np.concatenate([[True], loud, [True]])))
        assert gaps.max() * 0.01 < 0.4


def test_crops_are_grey_centred_on_the_mouth_and_differ_between_faces(clips):
    for _, clip in clips:
        assert clip.mouths.shape == (50, 96, 96) and clip.mouths.dtype == np.uint8
        motion = clip.mouths.astype(float).std(axis=0)
        rows = np.arange(96)[motion.max(axis=1) > 0.6 * motion.max()]
        assert 36 < rows.mean() < 66
    means = [clip.mouths.mean(axis=0) for _, clip in clips]
    pairs = [(a, b) for a in range(len(means)) for b in range(a)]
    assert min(np.abs(means[a] - means[b]).mean() for a, b in pairs) > 5


def test_each_frame_is_labelled_with_the_viseme_that_its_lips_show():
    labels = label_frames((Span("p", 0.0, 0.2), Span("aɪ", 0.2, 0.6)), 25)
    shown = [VISEMES[label] for label in labels]
    assert shown[:3] == ["closed"] * 3 and shown[3] == "a"  # 60 ms early: frame 3 shows what sounds at 0.20 s
    assert shown[8:13] == ["i"] * 5 and set(shown[14:]) == {"rest"}


def test_the_committed_lip_reader_reads_words_of_voices_and_faces_it_never_saw(clips, repo_root):
    path = repo_root / "egs/demo/lipreader.pth.tar"
    assert path.stat().st_size < 6e6
    name, network = load_lipreading(read_checkpoint(path), None)
    assert name == "demo_snv05x"
    windows, labels = [], []
    for _, clip in clips:
        for word in clip.words:
            middle = ((word.start_sec + word.end_sec) / 2 - LEAD_SEC) * VIDEO_FPS
            start = int(np.clip(round(middle) - 8, 0, 34))
            windows.append(normalise(clip.mouths[start : start + 16]))
            labels.append(WORDS.index(word.label))
    with torch.inference_mode():
        guesses = network.eval()(torch.from_numpy(np.stack(windows))).argmax(dim=1)
    assert len(labels) > 20
    assert (guesses.numpy() == labels).mean() > 0.4  # chance is 1 in 144


def test_a_corpus_too_small_to_split_is_refused(repo_root, tmp_path):
    done = prepare(repo_root, tmp_path, "--n_test", "1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "--n_test: '1' is no whole number of at least 4" in done.stderr
