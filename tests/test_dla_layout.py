"""The DLA layout: what is found, what is passed over, and what is listed with a reason."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.corpora.dla import dla_splits, scan_dla
from utils.corpora.output import label_mixtures
from utils.data.manifest import write_manifest
from utils.errors import UserError

RATE = 16000
LENGTH = 6400  # 10 video frames


def noise(seed: int, gain: float = 0.1) -> np.ndarray:
    return gain * np.random.default_rng(seed).standard_normal(LENGTH)


def write_audio(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)


def write_crops(root: Path, *names: str, frames: int = 10) -> None:
    (root / "mouths").mkdir(parents=True, exist_ok=True)
    for name in names:
        np.savez_compressed(root / "mouths" / f"{name}.npz", data=np.full((frames, 96, 96), 90, np.uint8))


def write_mixture(root: Path, stem: str, split: str = "", suffixes=("wav", "wav", "wav")) -> None:
    s1, s2 = noise(1, 0.1), noise(2, 0.05)
    for folder, suffix, samples in zip(("mix", "s1", "s2"), suffixes, (s1 + s2, s1, s2), strict=True):
        write_audio(root / "audio" / split / folder / f"{stem}.{suffix}", samples)


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Two good mixtures of three clips in the flat form."""
    write_mixture(tmp_path, "00000002026_00315409549")
    write_mixture(tmp_path, "00315409549_00000000007")
    write_crops(tmp_path, "00000002026", "00315409549", "00000000007")
    return tmp_path


GOOD, SPOILT = "00000002026_00315409549", "00315409549_00000000007"


def test_the_flat_form_gives_every_field(corpus):
    mixtures, problems = scan_dla(corpus, None)
    assert problems == []
    first = mixtures[0]
    assert [m.mixture_id for m in mixtures] == [GOOD, SPOILT]
    assert first.mixture_path == f"audio/mix/{GOOD}.wav"
    assert first.source_paths == (f"audio/s1/{GOOD}.wav", f"audio/s2/{GOOD}.wav")
    assert first.mouth_paths == ("mouths/00000002026.npz", "mouths/00315409549.npz")
    assert (first.length, first.frames, first.fps) == (LENGTH, 10, 25.0)
    assert (first.speakers, first.subset, first.noise_path) == (("", ""), "", "")


def test_the_sir_is_that_of_the_sources(corpus):
    write_audio(corpus / "audio" / "s1" / f"{GOOD}.wav", np.full(LENGTH, 0.5))
    write_audio(corpus / "audio" / "s2" / f"{GOOD}.wav", np.full(LENGTH, 0.25))
    assert scan_dla(corpus, None)[0][0].sir_db == pytest.approx(20 * math.log10(2), abs=1e-3)


def test_the_form_with_splits_is_recognised(tmp_path):
    for split in ("test", "train"):
        write_mixture(tmp_path, "a_b", split)
    write_crops(tmp_path, "a", "b")
    assert dla_splits(tmp_path) == ["train", "test"]
    assert scan_dla(tmp_path, "test")[0][0].mixture_path == "audio/test/mix/a_b.wav"


def test_a_folder_in_no_form_or_in_both_is_refused(corpus, tmp_path_factory):
    assert dla_splits(corpus) == [None]
    write_mixture(corpus, "a_b", "val")
    with pytest.raises(UserError, match="both audio/mix and audio/val/mix"):
        dla_splits(corpus)
    with pytest.raises(UserError, match="not the DLA layout"):
        dla_splits(tmp_path_factory.mktemp("empty"))
    with pytest.raises(UserError, match="no such folder"):
        dla_splits(corpus / "nowhere")


@pytest.mark.parametrize("suffixes", [("wav", "flac", "WAV"), ("flac", "wav", "wav"), ("mp3", "wav", "mp3")])
def test_files_are_matched_by_stem_whatever_their_kind(tmp_path, suffixes):
    write_mixture(tmp_path, "a_b", suffixes=suffixes)
    write_crops(tmp_path, "a", "b")
    mixtures, problems = scan_dla(tmp_path, None)
    assert problems == []
    paths = (mixtures[0].mixture_path, *mixtures[0].source_paths)
    assert [path.rpartition(".")[2] for path in paths] == list(suffixes)


def test_only_an_mp3_may_be_longer_and_the_common_length_counts(corpus):
    mix = corpus / "audio" / "mix" / f"{SPOILT}.wav"
    mix.unlink()
    write_audio(mix.with_suffix(".mp3"), np.append(noise(3), noise(4)[:1000]))
    mixtures, problems = scan_dla(corpus, None)
    assert problems == []
    assert [m.length for m in mixtures] == [LENGTH, LENGTH]
    mix.with_suffix(".mp3").unlink()
    write_audio(mix, np.append(noise(3), 0.1))
    (problem,) = scan_dla(corpus, None)[1]
    assert (problem.item_id, problem.reason) == (SPOILT, "6401 samples, another file of this mixture has 6400")


def test_sources_may_be_absent_all_or_one(corpus):
    (corpus / "audio" / "s2").rename(corpus / "elsewhere")
    mixtures, problems = scan_dla(corpus, None)
    assert problems == []
    assert mixtures[0].source_paths == (f"audio/s1/{GOOD}.wav", "")
    assert mixtures[0].sir_db is None
    (corpus / "audio" / "s1").rename(corpus / "elsewhere too")
    assert scan_dla(corpus, None)[0][0].source_paths == ("", "")


def test_stray_files_and_folders_are_passed_over(corpus):
    for folder in ("audio", "audio/mix", "audio/s1", "mouths"):
        for name in (".DS_Store", "Thumbs.db", "notes.txt", "._x", f"._{GOOD}.wav", ".hidden_x.wav"):
            (corpus / folder / name).write_bytes(b"stray")
        (corpus / folder / "folder_x.wav").mkdir()
    mixtures, problems = scan_dla(corpus, None)
    assert (len(mixtures), problems) == (2, [])


def spoil_mouth(frames: int):
    return lambda root: write_crops(root, "00000000007", frames=frames)


def spoil_audio(folder: str, samples: np.ndarray, rate: int = RATE):
    return lambda root: write_audio(root / "audio" / folder / f"{SPOILT}.wav", samples, rate)


@pytest.mark.parametrize(
    ("spoil", "path", "reason"),
    [
        (lambda root: (root / "mouths/00000000007.npz").unlink(), "mouths/00000000007.npz", "no such file"),
        (lambda root: (root / "mouths/00000000007.npz").write_bytes(b"PK"), "mouths/00000000007.npz", "not an npz"),
        (spoil_mouth(12), "mouths/00000000007.npz", "12 video frames where 6400 samples"),
        (spoil_audio("mix", noise(3), 8000), f"audio/mix/{SPOILT}.wav", "8000 Hz where 16000 Hz"),
        (spoil_audio("s1", np.stack([noise(3)] * 2, 1)), f"audio/s1/{SPOILT}.wav", "2 channels"),
        (spoil_audio("s2", np.zeros(LENGTH)), f"audio/s2/{SPOILT}.wav", "silent"),
        (spoil_audio("mix", np.zeros(0)), f"audio/mix/{SPOILT}.wav", "holds no sample"),
        (spoil_audio("s1", noise(3)[:-1]), f"audio/mix/{SPOILT}.wav", "6400 samples, another file"),
        (
            lambda root: (root / f"audio/s2/{SPOILT}.wav").unlink(),
            f"audio/mix/{SPOILT}.wav",
            "audio/s2 holds no file of this name",
        ),
        (
            lambda root: write_audio(root / f"audio/s1/{SPOILT}.flac", noise(3)),
            f"audio/mix/{SPOILT}.wav",
            "more than one file of this name",
        ),
        (
            lambda root: (root / f"audio/mix/{SPOILT}.wav").write_bytes(b""),
            f"audio/mix/{SPOILT}.wav",
            "cannot be read as audio",
        ),
    ],
)
def test_what_cannot_be_used_is_listed_with_its_reason(corpus, spoil, path, reason):
    spoil(corpus)
    mixtures, problems = scan_dla(corpus, None)
    assert [m.mixture_id for m in mixtures] == [GOOD]
    assert {p.item_id for p in problems} == {SPOILT}
    assert any(p.path == path and reason in p.reason for p in problems)


def test_a_broken_link_is_listed_and_not_passed_over(corpus):
    (corpus / "audio" / "mix" / f"{SPOILT}.wav").unlink()
    (corpus / "audio" / "mix" / f"{SPOILT}.wav").symlink_to(corpus / "gone.wav")
    assert [p.reason for p in scan_dla(corpus, None)[1]] == ["no such file"]


@pytest.mark.parametrize(
    ("stem", "ids"),
    [
        ("plain", None),
        ("_b", None),
        ("a_", None),
        ("my_clip_b", ("my_clip", "b")),
        ("a_b_c", None),  # "a" + "b_c" and "a_b" + "c" both have mouths
        ("x_y_z", None),
    ],
)
def test_names_are_split_where_both_mouths_are_and_only_there(tmp_path, stem, ids):
    write_mixture(tmp_path, stem)
    write_crops(tmp_path, "a", "b", "c", "a_b", "b_c", "my_clip")
    mixtures, problems = scan_dla(tmp_path, None)
    if ids:
        assert mixtures[0].mouth_paths == tuple(f"mouths/{name}.npz" for name in ids)
    else:
        assert not mixtures
        assert "the name is not ID1_ID2" in problems[0].reason


@pytest.mark.parametrize("name", ["new\nline_b", "back\\slash_b", "byte\udcff_b"])
def test_names_that_no_manifest_can_hold_are_listed(tmp_path, name):
    write_mixture(tmp_path, "a_b")
    write_crops(tmp_path, "a", "b")
    for folder in ("mix", "s1", "s2"):
        file = tmp_path / "audio" / folder / "a_b.wav"
        file.with_name(f"{name}.wav").write_bytes(file.read_bytes())
    mixtures, problems = scan_dla(tmp_path, None)
    assert [m.mixture_id for m in mixtures] == ["a_b"]
    assert "; rename the file" in problems[0].reason


def test_speakers_come_from_the_pattern(tmp_path):
    for stem in ("s1aa_s1bb", "s1aa_g2cc"):
        write_mixture(tmp_path, stem)
    write_crops(tmp_path, "s1aa", "s1bb", "g2cc")
    mixtures, _ = scan_dla(tmp_path, None, speaker_pattern=r"^([sg]\d)")
    assert [m.speakers for m in mixtures] == [("s1", "g2"), ("s1", "s1")]
    mixtures, problems = scan_dla(tmp_path, None, speaker_pattern=r"^(s\d)")
    assert [m.mixture_id for m in mixtures] == ["s1aa_s1bb"]
    assert "finds no speaker in the id g2cc" in problems[0].reason


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "no regular expression"), ("s.", "0 groups"), ("^(x)", "finds no speaker in any id")]
)
def test_a_wrong_speaker_pattern_stops_the_scan(corpus, pattern, message):
    with pytest.raises(UserError, match=message):
        scan_dla(corpus, None, speaker_pattern=pattern)


def test_subsets_follow_from_the_speakers_and_the_train_split(tmp_path):
    for stem in ("s1a_s1b", "s1a_s2c", "s1a_g3d", "g3d_g3e"):
        write_mixture(tmp_path, stem)
    write_crops(tmp_path, "s1a", "s1b", "s2c", "g3d", "g3e")
    mixtures, _ = scan_dla(tmp_path, None, speaker_pattern="^(..)")

    def subsets(train_speakers):
        return {m.mixture_id: m.subset for m in label_mixtures({"val": mixtures}, train_speakers)["val"]}

    known = {"g3d_g3e": "same_voice", "s1a_s1b": "same_voice", "s1a_s2c": "different_voices"}
    assert subsets({"s1", "s2"}) == known | {"s1a_g3d": "unseen_face"}
    assert subsets(None) == known | {"s1a_g3d": "different_voices"}
    unnamed = {"val": scan_dla(tmp_path, None)[0]}
    assert {m.subset for m in label_mixtures(unnamed, {"s1"})["val"]} == {""}


def test_an_empty_split_and_a_corpus_without_mouths_are_refused(corpus):
    (corpus / "audio" / "val" / "mix").mkdir(parents=True)
    with pytest.raises(UserError, match=r"audio/val/mix: holds no \.wav"):
        scan_dla(corpus, "val")
    (corpus / "mouths").rename(corpus / "lips")
    with pytest.raises(UserError, match="mouths: no such folder"):
        scan_dla(corpus, None)


def test_several_threads_find_the_same(tmp_path):
    for k in range(12):
        write_mixture(tmp_path, f"a{k}_b{k}")
        write_crops(tmp_path, f"a{k}", f"b{k}", frames=10 if k else 3)
    alone = scan_dla(tmp_path, None, nj=1)
    assert scan_dla(tmp_path, None, nj=3) == alone
    assert (len(alone[0]), len(alone[1])) == (11, 2)


def test_the_real_set_is_wholly_usable(shared_data, tmp_path):
    root = shared_data / "grid_dla"
    mixtures, problems = scan_dla(root, "val", speaker_pattern=r"^([sg]\d)")
    assert (len(mixtures), problems) == (16, [])
    assert all(-5.1 < m.sir_db < 5.1 and m.frames == 50 for m in mixtures)
    manifest = write_manifest(
        tmp_path / "val.csv", corpus="grid", split="val", data_root=root, sample_rate=RATE, n_src=2, items=mixtures
    )
    assert manifest.items == tuple(mixtures)
