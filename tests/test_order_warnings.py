"""What is warned of where it is doubtful whose voice a track is."""

from types import SimpleNamespace

import numpy as np
import pytest

from utils.separation.assignment import Assignment
from utils.separation.tracks import order_warnings


def video(n_people: int) -> SimpleNamespace:
    return SimpleNamespace(people=[SimpleNamespace(name=f"face{k + 1}") for k in range(n_people)])


def assignment(certainties, nats=None) -> Assignment:
    n_faces, n_frames = len(certainties), np.full(len(certainties), 50.0)
    return Assignment([], certainties, np.diag(np.array(nats or [10.0] * n_faces) / 50), n_frames)


@pytest.mark.parametrize(
    ("certainties", "residual_db", "named"),
    [
        ([0.99, 0.99], -30.0, []),
        ([0.6, 0.99], -30.0, ["face1"]),
        ([0.6], -5.0, ["face1"]),  # somebody else is to be heard
        ([0.6], None, []),  # all that is heard is the voice of the only face
        ([1.0], -5.0, []),
    ],
)
def test_doubtful_voices_are_named(certainties, residual_db, named):
    warnings = order_warnings(video(len(certainties)), assignment(certainties), residual_db)
    assert [warning.partition(":")[0] for warning in warnings] == named
    assert order_warnings(video(len(certainties)), None, residual_db) == []


def test_a_voice_that_contradicts_the_mouth_is_named_also_where_nobody_else_is_heard():
    (warning,) = order_warnings(video(1), assignment([0.99], [-5.0]), None)
    assert "does not go with the movements of this mouth" in warning
    warnings = order_warnings(video(2), assignment([0.99, 0.99], [5.0, -5.0]), -30.0)
    assert [each.partition(":")[0] for each in warnings] == ["face2"]
    unseen = assignment([1.0])
    unseen.agreement[:] = np.nan
    assert order_warnings(video(1), unseen, -5.0) == []
