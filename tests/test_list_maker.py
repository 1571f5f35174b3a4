"""Drawn lists: seeded, different, without a speaker against himself, every clip about equally often."""

from collections import Counter
from itertools import combinations

import pytest

from utils.data.manifest import Utterance
from utils.errors import UserError
from utils.mixing.drawing import count_mixtures, draw_mixtures, split_speakers
from utils.mixing.options import MixOptions

CLIPS = [Utterance(f"s{speaker}_{number}", f"s{speaker}") for speaker in range(10) for number in range(6)]


@pytest.mark.parametrize("n_src", [2, 3])
def test_mixtures_are_different_and_never_of_one_speaker(n_src):
    found = draw_mixtures(CLIPS, "train", 200, MixOptions(n_src=n_src))
    assert len({frozenset(source.utterance_id for source in item.sources) for item in found}) == 200
    assert all(len({source.speaker for source in item.sources}) == n_src for item in found)
    assert len({item.mixture_id for item in found}) == 200


def test_every_clip_is_used_about_equally_often():
    clips = [Utterance(f"s{speaker}_{number}", f"s{speaker}") for speaker in range(40) for number in range(10)]
    found = draw_mixtures(clips, "train", 2000, MixOptions(seed=1))
    uses = Counter(source.utterance_id for item in found for source in item.sources)
    assert len(uses) == 400 and set(uses.values()) <= {8, 9, 10, 11}


def test_the_list_depends_on_seed_and_split_and_not_on_the_order_of_the_clips():
    first = draw_mixtures(CLIPS, "train", 50, MixOptions(seed=1))
    assert draw_mixtures(CLIPS[::-1], "train", 50, MixOptions(seed=1)) == first
    assert draw_mixtures(CLIPS, "train", 50, MixOptions(seed=2)) != first
    other = draw_mixtures(CLIPS, "val", 50, MixOptions(seed=1))
    assert [item.sources for item in other] != [item.sources for item in first]


def test_ratios_are_in_their_range_and_the_name_tells_them():
    found = draw_mixtures(CLIPS, "test", 300, MixOptions(sir_low_db=-3, sir_high_db=8))
    ratios = [item.sir_db for item in found]
    assert -3 <= min(ratios) < -2 and 7 < max(ratios) <= 8
    assert found[0].mixture_id.endswith(f"_{found[0].sources[1].level_db:.5g}")


def test_all_possible_mixtures_can_be_asked_for_and_there_are_no_more(caplog):
    clips = CLIPS[:13]  # 6, 6 and 1 of three speakers
    expected = {frozenset((a.utterance_id, b.utterance_id)) for a, b in combinations(clips, 2) if a.speaker != b.speaker}
    for more in (0, 1):
        assert not caplog.text
        found = draw_mixtures(clips, "val", len(expected) + more, MixOptions())
        assert len(found) == len(expected)
        assert {frozenset(source.utterance_id for source in item.sources) for item in found} == expected
    assert f"val: different mixtures that can be made: {len(expected)}; wanted were {len(expected) + 1}" in caplog.text


@pytest.mark.parametrize("n_src", [2, 3])
@pytest.mark.parametrize("same", [False, True])
def test_the_count_of_possible_mixtures_is_that_of_trying_all(n_src, same):
    speakers = ["a", "a", "a", "b", "b", "c", "d"]
    tried = sum(same or len(set(group)) == n_src for group in combinations(speakers, n_src))
    assert count_mixtures(speakers, n_src, same) == tried


def test_one_speaker_is_mixed_with_himself_only_where_asked():
    clips = CLIPS[:6]
    with pytest.raises(UserError, match="test split has 6 clips of 1 speakers, of which no mixture can be made"):
        draw_mixtures(clips, "test", 1, MixOptions())
    assert len(draw_mixtures(clips, "test", 15, MixOptions(same_speaker=True))) == 15


def test_a_dominant_speaker_does_not_stop_the_draw():
    clips = [Utterance(f"a_{k}", "a") for k in range(400)] + [Utterance(f"b{k}_0", f"b{k}") for k in range(5)]
    found = draw_mixtures(clips, "train", 300, MixOptions())
    assert all(len({source.speaker for source in item.sources}) == 2 for item in found)


def test_noise_and_rooms_are_part_of_the_list():
    noise = {"noises": {"a/n.wav": 1000, "b.wav": 50}, "noise_prob": 0.7, "snr_low_db": 3, "snr_high_db": 6}
    options = MixOptions(**noise, responses={"r1.wav": 1, "r2.wav": 1, "r3.wav": 1}, room_prob=0.5)
    found = draw_mixtures(CLIPS, "test", 400, options)
    noisy = [item for item in found if item.noise]
    assert 0.6 < len(noisy) / 400 < 0.8
    assert all(3 <= item.snr_db <= 6 and item.noise_start < options.noises[item.noise] for item in noisy)
    in_rooms = [item for item in found if item.sources[0].response]
    assert 0.4 < len(in_rooms) / 400 < 0.6
    assert all(item.sources[0].response != item.sources[1].response for item in in_rooms)


def test_each_speaker_gets_one_split_and_each_split_a_speaker():
    names = [f"s{k}" for k in range(20)] * 3
    found = split_speakers(names, {"train": 0.8, "val": 0.1, "test": 0.1}, 0)
    assert Counter(found.values()) == {"train": 16, "val": 2, "test": 2}
    assert found == split_speakers(names[::-1], {"train": 0.8, "val": 0.1, "test": 0.1}, 0)
    assert Counter(split_speakers(["a", "b", "c"], {"train": 0.98, "val": 0.01, "test": 0.01}, 0).values()) == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    assert set(split_speakers(names, {"train": 1.0, "val": 0.0}, 0).values()) == {"train"}
    with pytest.raises(UserError, match="no split of train, val has a share"):
        split_speakers(names, {"train": 0.0, "val": 0.0}, 0)
    with pytest.raises(UserError, match="2 speakers are too few for 3 splits"):
        split_speakers(["a", "b"], {"train": 0.8, "val": 0.1, "test": 0.1}, 0)
