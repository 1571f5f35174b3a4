"""Scoring over processes: a crash costs its own mixture only, and a journal is believed as far as it can be."""

import json
import os
import signal

from utils.data.fingerprints import hash_stats
from utils.scoring.items import ScoreItem
from utils.scoring.pool import score_all


def die_on_two(item: ScoreItem) -> dict:
    """A worker that crashes as PESQ's C code can."""
    if item.mixture_id == "2":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"id": item.mixture_id}


def die(item: ScoreItem) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_crashed_worker_costs_its_own_mixture_only(tmp_path):
    items = [ScoreItem(str(n), "", (), ()) for n in range(5)]
    results, reasons = score_all(die_on_two, items, 2, tmp_path / "journal", "1")
    assert [result.get("id") for result in results] == ["0", "1", None, "3", "4"]
    assert [bool(reason) for reason in reasons] == [False, False, True, False, False]
    assert "died" in reasons[2]


def test_a_torn_journal_line_is_scored_again(tmp_path):
    items = [ScoreItem(name, "", (), ()) for name in "ab"]
    journal = tmp_path / "journal"
    first = score_all(die_on_two, items, 1, journal, "1")
    whole = journal.read_text()
    journal.write_text(whole[:-10])
    assert score_all(die_on_two, items, 1, journal, "1") == first
    assert journal.read_text() == whole


def test_lines_of_another_version_or_of_an_older_form_are_scored_again(tmp_path):
    items = [ScoreItem(name, "", (), ()) for name in "ab"]
    journal = tmp_path / "journal"
    key = f"1 a {hash_stats(())}"
    journal.write_text(json.dumps({"key": key, "result": {"id": "of an older form"}}) + "\n")
    for version in ("1", "2"):
        assert all(score_all(die, items, 1, journal, version)[1])
        results, _ = score_all(die_on_two, items, 1, journal, version)
        assert results == [{"id": "a"}, {"id": "b"}]
        assert len(journal.read_text().splitlines()) == 2
        assert score_all(die, items, 1, journal, version) == (results, ["", ""])
