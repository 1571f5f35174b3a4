"""The 2Mix layout: ids by each corpus' rule, folders and json lists, and what is listed with which reason."""

import json
from pathlib import Path

import numpy as np
import pytest
from corpora_helpers import LRS2_IDS, LRS3_IDS, VOX_IDS, two_mix_name, write_audio, write_crops

from utils.corpora import two_mix
from utils.corpora.output import usable
from utils.corpora.two_mix import LRS2, LRS3, VOXCELEB2
from utils.errors import UserError

NOISE = 0.1 * np.random.default_rng(0).standard_normal((3, 3200))


def write_mixture(root: Path, name: str, split: str = "tr", n_src: int = 2, rate_hz: int = 16000) -> None:
    parts = {"mix": NOISE[:n_src].sum(axis=0)} | {f"s{k}": NOISE[k - 1] for k in range(1, n_src + 1)}
    for part, samples in parts.items():
        write_audio(root / f"audio/wav16k/min/{split}/{part}/{name}.wav", samples, rate_hz)
    for rule in (LRS2, LRS3, VOXCELEB2):
        for clip, _ in rule.ids_of_name(name) or []:
            write_crops(root / "mouths" / f"{clip}.npz", 5)


def read_two_mix(root: Path, rule, json_dir: Path | None = None, **more) -> tuple[dict[str, list], list]:
    problems = []
    found = two_mix.read_two_mix(root, rule, json_dir, **more)
    return {split: usable(items, problems) for split, items in found.items()}, problems


def write_json(folder: Path, name: str, part: str, **more) -> None:
    """Add a row as the public lists have it: the mixture of two items, the sources of three."""
    path = folder / f"{part}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text()) if path.is_file() else []
    row = [f"/home/somebody/data/min/tr/{part}/{name}.wav", more.get("length", 3200)]
    if part != "mix":
        row.insert(1, f"/home/somebody/data/mouths/{more['mouth']}.npz")
    path.write_text(json.dumps([*rows, row]))


@pytest.fixture
def listed(tmp_path) -> tuple[Path, Path, list[str]]:
    """Two mixtures with their json lists; the sources' in another order."""
    names = [two_mix_name(LRS3_IDS[:2], (2.6659, -2.6659)), two_mix_name(LRS3_IDS[2:], (-0.5, 0.5))]
    for name in names:
        write_mixture(tmp_path, name)
    for part, order in (("mix", names), ("s1", names[::-1]), ("s2", names)):
        for name in order:
            ids = LRS3_IDS[:2] if name == names[0] else LRS3_IDS[2:]
            write_json(tmp_path / "json" / "tr", name, part, mouth=ids[int(part == "s2")])
    return tmp_path, tmp_path / "json", names


@pytest.mark.parametrize(
    ("rule", "name", "expected"),
    [
        (LRS2, "6339077953587836416_00025_1.048_6338273935710083967_00003_-1.048", LRS2_IDS[:2]),
        (LRS3, "NCJTV5KaJJc_00001_2.6659_vhVWzkbAW4I_00005_-2.6659", LRS3_IDS[:2]),
        (LRS3, "_8K1hWkirLo_00002_-0.5_aaEA__Js2u-_00010_0.5", LRS3_IDS[2:]),
        (LRS3, "__-_1_-1_--_00002_1e-05_aaEA__Js2u-_00010_-1e-05", ("__-_1_-1_--_00002", LRS3_IDS[3])),
        (VOXCELEB2, two_mix_name(VOX_IDS[:2], (0, -4.5)), VOX_IDS[:2]),
        (VOXCELEB2, two_mix_name(VOX_IDS[:3], (0, -4.5, 3)), VOX_IDS[:3]),
    ],
)
def test_the_ids_in_a_name_are_found_by_the_rule_of_the_corpus(rule, name, expected):
    assert tuple(found for found, _ in rule.ids_of_name(name)) == expected


@pytest.mark.parametrize("name", ["", "a_b", "NCJTV5KaJJc_00001_vhVWzkbAW4I_00005", two_mix_name(VOX_IDS[:2], (1, 2)) + "_x"])
def test_a_name_of_another_corpus_has_no_ids(name):
    assert LRS3.ids_of_name(name) is None
    assert LRS2.ids_of_name(name) is None


@pytest.mark.parametrize(
    ("rule", "path", "expected"),
    [
        (LRS2, "/data/2021/main/6339077953587836416/00025", LRS2_IDS[0]),
        (LRS3, "/data_x/test/_8K1hWkirLo/00002", LRS3_IDS[2]),
        (LRS3, "wav16k/_8K1hWkirLo_00002", LRS3_IDS[2]),
        (VOXCELEB2, "aac/id08249/-sn2lLxlZb_/00252", VOX_IDS[2]),
        (VOXCELEB2, "aac/08249/-sn2lLxlZb_/00252", ""),
        (LRS2, "main/video/00025", ""),
    ],
)
def test_the_id_of_a_path_is_found_from_its_end(rule, path, expected):
    assert rule.id_of_path(path) == expected


def test_the_speaker_of_an_id_is_its_video_or_person():
    assert [LRS2.speaker_of_id(LRS2_IDS[0]), LRS3.speaker_of_id(LRS3_IDS[3]), VOXCELEB2.speaker_of_id(VOX_IDS[2])] == [
        "6339077953587836416",
        "aaEA__Js2u-",
        "id08249",
    ]


def test_folders_give_rows_with_mouths_and_levels(tmp_path):
    name = two_mix_name(LRS2_IDS[:2], (1.048, -1.048))
    write_mixture(tmp_path, name, "tt")
    mixtures, problems = read_two_mix(tmp_path, LRS2)
    assert not problems and list(mixtures) == ["test"]
    row = mixtures["test"][0]
    assert row.mixture_path == f"audio/wav16k/min/tt/mix/{name}.wav"
    assert row.mouth_paths == tuple(f"mouths/{clip}.npz" for clip in LRS2_IDS[:2])
    assert (row.length, row.frames, row.sir_db, row.speakers) == (
        3200,
        5,
        2.096,
        ("6339077953587836416", "6338273935710083967"),
    )


def test_three_voices_are_read(tmp_path):
    write_mixture(tmp_path, two_mix_name(VOX_IDS[:3], (0, -4.5, 3)), n_src=3)
    mixtures, problems = read_two_mix(tmp_path, VOXCELEB2)
    assert not problems and len(mixtures["train"][0].source_paths) == 3


def test_json_lists_of_another_machine_and_in_another_order_give_the_same_rows(listed):
    root, json_dir, _ = listed
    mixtures, problems = read_two_mix(root, LRS3, json_dir)
    assert not problems
    assert sorted(mixtures["train"], key=str) == sorted(read_two_mix(root, LRS3)[0]["train"], key=str)


def problem_of(root: Path, json_dir: Path | None = None) -> tuple[str, str]:
    mixtures, problems = read_two_mix(root, LRS3, json_dir)
    assert [len(problems), len(mixtures["train"])] == [1, 1]
    return problems[0].item_id, problems[0].reason


def drop(path: Path, name: str) -> None:
    path.write_text(json.dumps([row for row in json.loads(path.read_text()) if name not in row[0]]))


@pytest.mark.parametrize("part", ["mix", "s1", "s2"])
def test_a_json_of_unequal_length_is_told_by_name_and_row(listed, part):
    root, json_dir, names = listed
    drop(json_dir / "tr" / f"{part}.json", names[1])
    name, reason = problem_of(root, json_dir)
    assert name == names[1] and f"not in {part}.json (1 rows)" in reason


def test_a_json_that_names_another_mouth_or_length_is_told(listed):
    root, json_dir, names = listed
    for path, old, new in ((json_dir / "tr/s2.json", "aaEA__Js2u-_00010.npz", "NCJTV5KaJJc_00001.npz"),):
        path.write_text(path.read_text().replace(old, new))
    assert "the list names this mouth" in problem_of(root, json_dir)[1]
    for part in ("mix", "s1", "s2"):
        drop(json_dir / "tr" / f"{part}.json", names[1])
        write_json(json_dir / "tr", names[1], part, mouth=LRS3_IDS[2 + int(part == "s2")], length=32000)
    assert "3200 samples where the list says 32000" in problem_of(root, json_dir)[1]


def test_a_row_of_four_items_is_told(listed):
    root, json_dir, names = listed
    path = json_dir / "tr/mix.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([rows[0], [*rows[1], 1, 2]]))
    reasons = {problem.reason for problem in read_two_mix(root, LRS3, json_dir)[1]}
    assert "is neither [path, samples] nor [path, mouth, samples]" in reasons


def test_a_listed_file_that_is_not_there_is_told(listed):
    root, json_dir, names = listed
    (root / f"audio/wav16k/min/tr/mix/{names[1]}.wav").unlink()
    assert problem_of(root, json_dir) == (names[1], "no such file")


def test_a_partner_that_is_missing_is_told(listed):
    root, _, names = listed
    (root / f"audio/wav16k/min/tr/s2/{names[1]}.wav").unlink()
    assert problem_of(root) == (names[1], "audio/wav16k/min/tr/s2 holds no file of this name")


def test_another_rate_a_strange_name_and_a_clip_with_itself_are_told(tmp_path):
    good, fast, twin = (two_mix_name(ids, (1, -1)) for ids in (LRS3_IDS[:2], LRS3_IDS[2:], (LRS3_IDS[0], LRS3_IDS[0])))
    for name, rate_hz in ((good, 16000), (fast, 16384), (twin, 16000), ("strange", 16000)):
        write_mixture(tmp_path, name, rate_hz=rate_hz)
    (tmp_path / "audio/wav16k/min/tr/mix/.DS_Store").write_text("")
    mixtures, problems = read_two_mix(tmp_path, LRS3)
    reasons = {problem.item_id: problem.reason for problem in problems}
    assert [item.mixture_id for item in mixtures["train"]] == [good]
    assert "sampled at 16384 Hz where 16000 Hz is expected" in reasons[fast]
    assert reasons[twin] == "mixes a clip with itself"
    assert "no ID_GAIN_ID_GAIN of lrs3" in reasons["strange"]


def test_splits_that_the_json_folder_does_not_have_are_told(listed, caplog):
    root, json_dir, _ = listed
    write_mixture(root, two_mix_name(LRS3_IDS[:2], (1, -1)), "tt")
    mixtures, problems = read_two_mix(root, LRS3, json_dir)
    assert not problems and [len(mixtures[split]) for split in ("train", "test")] == [2, 1]
    assert "has no tt/; for test all mixtures of" in caplog.text and "no tr/" not in caplog.text


def test_a_json_with_a_byte_order_mark_is_read_and_a_damaged_one_to_be_copied_again(listed):
    root, json_dir, _ = listed
    path = json_dir / "tr/mix.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_two_mix(root, LRS3, json_dir)[0]["train"]) == 2
    path.write_text("[[")
    with pytest.raises(UserError, match="copy it again"):
        read_two_mix(root, LRS3, json_dir)


def test_what_is_no_such_layout_is_refused(tmp_path):
    with pytest.raises(UserError, match="this is not the 2Mix layout"):
        read_two_mix(tmp_path, LRS2)
    write_mixture(tmp_path, two_mix_name(LRS2_IDS[:2], (1, -1)))
    with pytest.raises(UserError, match="holds none of tr/, cv/, tt/"):
        read_two_mix(tmp_path, LRS2, tmp_path / "nowhere")
