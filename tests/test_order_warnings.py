"""What is warned of where it is doubtful whose voice a track is."""

from types import SimpleNamespace

import numpy as np
import pytest

from utils.separation.assignment import Assignment
from utils.separation.tracks import order_warnings


def video(n_people: int) -> SimpleNamespace:
    return SimpleNamespace(people=[SimpleNamespace(name=f"face{k + 1}") for k in range(n_people)])


@pytest.mark.parametrize(
    ("margins", "residual_db", "named"),
    [
        ([5.0, 5.0], -30.0, []),
        ([0.5, 5.0], -30.0, ["face1"]),
        ([0.5], -5.0, ["face1"]),  # somebody else is to be heard
        ([0.5], None, []),  # all that is heard is the voice of the only face
        ([float("inf")], -5.0, []),
    ],
)
def test_doubtful_voices_are_named(margins, residual_db, named):
    assignment = Assignment([], margins, np.zeros((len(margins), len(margins))))
    warnings = order_warnings(video(len(margins)), assignment, residual_db)
    assert [warning.partition(":")[0] for warning in warnings] == named
    assert order_warnings(video(len(margins)), None, residual_db) == []
