"""Lists of mixtures: what each kind of row means, and which rows are refused with which reason."""

from pathlib import Path

import pytest
from corpora_helpers import LRS3_IDS

from utils.corpora.two_mix import LRS2, LRS3, VOXCELEB2
from utils.errors import UserError
from utils.mixing import lists, public_lists
from utils.mixing.lists import ListedMixture, ListedSource, write_mix_list
from utils.mixing.options import MixOptions, read_settings, settings_path, write_settings
from utils.mixing.public_lists import INTERFERER_OVER_TARGET, TARGET_OVER_INTERFERER

PAIR = "train,train,id08108,RCODGWdfzdY/00197,0,train,id07077,oi72_HHDWY4/00288,0.8976636599379368,4.096"
TRIPLE = PAIR.removesuffix(",4.096") + ",train,id08249,dsn2lLxlZbk/00252,-2.3123658541460035,4.096"


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes((end.join(lines) + end).encode())
    return path


class Read:
    """A list's mixtures, and the problems of its other rows."""

    def __init__(self, found) -> None:
        self.mixtures = [item for item in found if isinstance(item, ListedMixture)]
        self.problems = [item for item in found if not isinstance(item, ListedMixture)]


def extraction(path: Path, sir_convention: str = INTERFERER_OVER_TARGET) -> Read:
    return Read(public_lists.read_extraction_csv(path, sir_convention))


def read_gain_list(path: Path, split: str, rule) -> Read:
    return Read(public_lists.read_gain_list(path, split, rule.id_of_path, rule.speaker_of_id))


def read_mix_list(path: Path) -> Read:
    return Read(lists.read_mix_list(path))


def reasons(found: Read) -> list[tuple[int, str]]:
    return [(problem.row, problem.reason) for problem in found.problems]


def test_the_two_conventions_give_the_same_row_opposite_ratios(tmp_path):
    path = write(tmp_path / "list.csv", PAIR)
    ratios = {
        convention: extraction(path, convention).mixtures[0].sir_db
        for convention in (TARGET_OVER_INTERFERER, INTERFERER_OVER_TARGET)
    }
    assert ratios == {TARGET_OVER_INTERFERER: 0.8976636599379368, INTERFERER_OVER_TARGET: -0.8976636599379368}


def test_no_convention_is_taken_for_granted(tmp_path):
    with pytest.raises(UserError, match="target_over_interferer or interferer_over_target"):
        extraction(write(tmp_path / "list.csv", PAIR), "")


def test_a_row_of_two_speakers_gives_ids_speakers_and_split(tmp_path):
    item = extraction(write(tmp_path / "list.csv", PAIR)).mixtures[0]
    assert [source.utterance_id for source in item.sources] == ["id08108_RCODGWdfzdY_00197", "id07077_oi72_HHDWY4_00288"]
    assert [source.speaker for source in item.sources] == ["id08108", "id07077"]
    assert (item.split, item.row) == ("train", 1)
    assert item.mixture_id == "id08108_RCODGWdfzdY_00197_0_id07077_oi72_HHDWY4_00288_0.89766"


def test_a_row_of_three_speakers_gives_each_its_level(tmp_path):
    item = extraction(write(tmp_path / "list.csv", TRIPLE)).mixtures[0]
    assert [source.level_db for source in item.sources] == [0, 0.8976636599379368, -2.3123658541460035]
    opposite = extraction(tmp_path / "list.csv", TARGET_OVER_INTERFERER).mixtures[0]
    assert [source.level_db for source in opposite.sources] == [0, -0.8976636599379368, 2.3123658541460035]


def test_byte_order_mark_carriage_returns_and_spaces_do_no_harm(tmp_path):
    path = write(tmp_path / "list.csv", "\ufeff" + PAIR.replace(",", " , "), "", "  ", TRIPLE[:0], end="\r\n")
    assert extraction(path).mixtures == extraction(write(tmp_path / "plain.csv", PAIR)).mixtures


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (PAIR.replace("id07077,oi72_HHDWY4/00288", "id08108,RCODGWdfzdY/00197"), "mixes a clip with itself"),
        (PAIR.replace("0.8976636599379368", "10.5"), "a dB of 10.5 is beyond ±10 dB"),
        (PAIR.replace("0.8976636599379368", "nan"), "a dB or the seconds are no number"),
        (PAIR.replace("0.8976636599379368", ""), "a dB or the seconds are no number"),
        (PAIR.replace(",0,", ",3,"), "the target's dB is 3 where 0 is expected"),
        (PAIR.replace(",4.096", ",-1"), "lasts -1 s"),
        (PAIR.replace("train,train,", "eval,train,", 1), "the split is 'eval'"),
        (PAIR.replace("id07077", ""), "a speaker or a clip is empty"),
        (PAIR + ",7", "11 fields where the list has 10"),
        (TRIPLE, "both kinds"),
    ],
)
def test_a_bad_row_is_listed_with_its_number_and_reason(tmp_path, row, reason):
    path = write(tmp_path / "list.csv", PAIR.replace("00197", "00001"), row)
    if reason == "both kinds":
        with pytest.raises(UserError, match="both kinds"):
            extraction(path)
        return
    found = extraction(path)
    assert len(found.mixtures) == 1
    assert [number for number, _ in reasons(found)] == [2]
    assert reason in reasons(found)[0][1]


def test_a_row_that_is_listed_twice_is_refused_both_times(tmp_path):
    found = extraction(write(tmp_path / "list.csv", PAIR, PAIR, TRIPLE[:0]))
    assert [number for number, _ in reasons(found)] == [1, 2]
    assert "2 rows of the list" in reasons(found)[0][1]


def test_a_gain_list_keeps_its_gains_and_finds_ids_by_the_corpus_rule(tmp_path):
    path = write(
        tmp_path / "list.scp",
        "/some disk/lrs3/_8K1hWkirLo/00002.wav 1.06817 /some disk/lrs3/aaEA__Js2u-/00010.wav -1.06817",
        "min/NCJTV5KaJJc_00001.wav 1e-05 min/vhVWzkbAW4I_00005.wav -1e-05",
        end="\r\n",
    )
    found = read_gain_list(path, "val", LRS3)
    assert not found.problems
    assert [[source.utterance_id for source in item.sources] for item in found.mixtures] == [
        list(LRS3_IDS[2:]),
        list(LRS3_IDS[:2]),
    ]
    assert [source.speaker for source in found.mixtures[0].sources] == ["_8K1hWkirLo", "aaEA__Js2u-"]
    assert found.mixtures[0].sir_db == pytest.approx(2 * 1.06817)
    assert found.mixtures[0].split == "val"


def test_a_gain_list_of_three_sources_is_read(tmp_path):
    line = "a/6339077953587836416/00025.wav 1 a/6338273935710083967/00003.wav -1 a/5535415699068794046/00001.wav 0.5"
    found = read_gain_list(write(tmp_path / "l.txt", line), "test", LRS2)
    assert [source.level_db for source in found.mixtures[0].sources] == [1, -1, 0.5]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x/id00017/01dfn2spqyE/00001.wav 1", "is not PATH GAIN PATH GAIN"),
        ("x/id00017/01dfn2spqyE/00001.wav x/id00018/01dfn2spqyE/00001.wav 1", "is not PATH GAIN PATH GAIN"),
        ("x/id00017/01dfn2spqyE/00001.wav 6 x/id00018/01dfn2spqyE/00001.wav -6", "beyond ±5 dB"),
        ("x/id00017/01dfn2spqyE/1.wav 1 x/id00018/01dfn2spqyE/00001.wav -1", "no clip of this corpus"),
    ],
)
def test_a_bad_line_of_a_gain_list_is_listed(tmp_path, line, reason):
    good = "x/id00017/01dfn2spqyE/00002.wav 1 x/id00018/01dfn2spqyE/00001.wav -1"
    path = write(tmp_path / "list.scp", good, line)
    found = read_gain_list(path, "test", VOXCELEB2)
    assert len(found.mixtures) == 1
    assert found.problems[0].row == 2 and reason in found.problems[0].reason


def listed(name: str, **more) -> ListedMixture:
    sources = (ListedSource("a_1", "a", 0.0, "rir 1.wav#0"), ListedSource("-b", "b", -3.25))
    return ListedMixture(name, **{"split": "test", "sources": sources, **more})


def test_our_own_list_comes_back_as_it_was_written(tmp_path):
    items = [listed("x, y"), listed("z", noise="free sound/n-1.wav", noise_start=5, snr_db=-2.5)]
    write_mix_list(tmp_path / "list.csv", items)
    found = read_mix_list(tmp_path / "list.csv")
    assert not found.problems
    assert [(i.mixture_id, i.sources, i.noise, i.noise_start, i.snr_db) for i in found.mixtures] == [
        (i.mixture_id, i.sources, i.noise, i.noise_start, i.snr_db) for i in items
    ]
    assert [item.row for item in found.mixtures] == [2, 3]


def test_a_level_out_of_range_in_our_own_list_is_listed(tmp_path):
    sources = (ListedSource("a", "a", 0.0), ListedSource("b", "b", -45.0))
    write_mix_list(tmp_path / "list.csv", [listed("x"), listed("y", sources=sources), listed("z", noise="n.wav", snr_db=60.0)])
    found = read_mix_list(tmp_path / "list.csv")
    assert [(p.row, p.item_id) for p in found.problems] == [(3, "y"), (4, "z")]


@pytest.mark.parametrize("name", ["../n.wav", "/x/n.wav", "a/../../n.wav", "..\\n.wav"])
def test_noises_and_rooms_outside_of_their_folders_are_refused(tmp_path, name):
    sources = (ListedSource("a", "a", 0.0, f"{name}#0"), ListedSource("b", "b", 1.0))
    write_mix_list(tmp_path / "list.csv", [listed("x", noise=name, snr_db=1.0), listed("y", sources=sources), listed("z")])
    found = read_mix_list(tmp_path / "list.csv")
    assert [(p.row, p.path) for p in found.problems] == [(2, str(tmp_path / "list.csv")), (3, str(tmp_path / "list.csv"))]
    assert "no file below the folder" in found.problems[0].reason


def test_a_start_of_thousands_of_digits_is_listed_and_a_field_without_end_refused(tmp_path):
    write_mix_list(tmp_path / "list.csv", [listed("x", noise="n.wav", noise_start=5, snr_db=-2.5), listed("z")])
    text = (tmp_path / "list.csv").read_text()
    (tmp_path / "list.csv").write_text(text.replace("n.wav,5,", f"n.wav,{'5' * 5000},"))
    assert "no number that can be used" in read_mix_list(tmp_path / "list.csv").problems[0].reason
    (tmp_path / "list.csv").write_text(text.replace("n.wav", "n" * 140_000))
    with pytest.raises(UserError, match="row 2: no row of a CSV"):
        read_mix_list(tmp_path / "list.csv")


def test_settings_of_a_list_come_back_and_damaged_ones_are_refused(tmp_path):
    options = MixOptions(measure="active", subtype="FLOAT", min_sec=1.5)
    write_settings(tmp_path / "list.csv", options)
    found = read_settings(tmp_path / "list.csv")
    assert MixOptions(**found) == options
    path = settings_path(tmp_path / "list.csv")
    for old, new in (('"active"', '"loud"'), ("1.5", "NaN"), ('"min_sec"', '"least"'), ("16000", '"x"')):
        text = path.read_text()
        path.write_text(text.replace(old, new))
        with pytest.raises(UserError, match=r"list\.mixing\.json"):
            read_settings(tmp_path / "list.csv")
        path.write_text(text)
    assert read_settings(tmp_path / "another.csv") == {}


@pytest.mark.parametrize("content", ["", "mixture_ID,split\n", "just text\n"])
def test_what_is_no_list_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "list.csv"
    path.write_text(content)
    for read in (read_mix_list, extraction):
        with pytest.raises(UserError, match=r"list\.csv") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_list_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"train,\xff\xfe,")
    with pytest.raises(UserError, match="not UTF-8"):
        extraction(tmp_path / "list.csv")
