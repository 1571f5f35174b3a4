"""The order of a whole recording: evidence that adds up, voices that go on, faces that come and go."""

from itertools import permutations, product

import numpy as np
import pytest

from utils.separation.assignment import NO_STREAM, WindowEvidence, assign, best_order, in_stretches

SEEN = np.ones(2, bool)


def window(evidence, link=None, seen=SEEN, alone=None) -> WindowEvidence:
    evidence = np.array(evidence, float)
    evidence = evidence if evidence.ndim == 3 else evidence[None]
    link = np.empty((0, evidence.shape[1])) if link is None else np.array(link, float)
    return WindowEvidence(evidence, np.array(seen), link, 25, alone)


def orders_of(found) -> list:
    """The order of each stretch of all windows, one after the other."""
    return [order for window in found.orders for order in window.tolist()]


def test_one_window_takes_the_order_with_the_most_evidence():
    assert best_order(np.array([[0.0, 2.0], [1.0, 0.5]])) == [1, 0]
    found = assign([window([[0.0, 2.0], [1.0, 0.5]])])
    assert orders_of(found) == [[1, 0]]
    assert found.certainties == pytest.approx([1 / (1 + np.exp(-2.5))] * 2)
    assert found.agreement * 25 == pytest.approx(np.array([[1.0, 0.5], [0.0, 2.0]]))


def test_the_evidence_of_the_whole_recording_corrects_a_window_that_was_wrong():
    right, wrong, going_on = [[2.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]], [[0.9, 0.1], [0.1, 0.9]]
    found = assign([window(right), window(wrong, going_on), window(right, going_on)])
    assert orders_of(found) == [[0, 1]] * 3
    assert found.certainties == pytest.approx([1 / (1 + np.exp(-6.0))] * 2, abs=1e-4)
    alone = assign([window(right), window(wrong, np.zeros((2, 2))), window(right, np.zeros((2, 2)))])
    assert orders_of(alone) == [[0, 1], [1, 0], [0, 1]]  # where nothing says that a voice goes on, each window decides


def test_a_stream_that_goes_over_to_the_other_voice_within_a_window_is_followed_if_that_is_sure():
    kept, exchanged = np.eye(2), np.eye(2)[::-1]
    found = assign([window(np.array([kept] * 4 + [exchanged] * 6))])
    assert orders_of(found) == [[0, 1]] * 4 + [[1, 0]] * 6
    assert min(found.certainties) > 0.8 and found.agreement * 25 == pytest.approx(np.eye(2) * 10)
    shortly = assign([window(np.array([kept] * 4 + [exchanged] * 3 + [kept] * 4))])  # two exchanges cost more than they give
    assert orders_of(shortly) == [[0, 1]] * 11
    assert max(shortly.certainties) < 0.98 < 0.999 < min(assign([window(np.array([kept] * 11))]).certainties)


def test_frames_are_summed_over_stretches():
    evidence = np.arange(2 * 3 * 13.0).reshape(2, 3, 13)
    sums = in_stretches(evidence)
    assert sums.shape == (2, 2, 3)
    np.testing.assert_allclose(sums[0], evidence[..., :5].sum(axis=-1))
    np.testing.assert_allclose(sums[1], evidence[..., 5:].sum(axis=-1))
    assert in_stretches(evidence[..., :3]).shape == (1, 2, 3)


def test_voices_are_followed_where_the_streams_change_places():
    exchanged = [[0.1, 0.9], [0.9, 0.1]]
    found = assign([window([[1.0, 0.0], [0.0, 1.0]]), window(np.zeros((2, 2)), exchanged), window(np.zeros((2, 2)), exchanged)])
    assert orders_of(found) == [[0, 1], [1, 0], [0, 1]]


def test_a_face_that_is_not_seen_has_no_stream_and_a_single_face_gets_the_voice_that_goes_with_it():
    found = assign([window([[0.1, 0.0], [3.0, 0.0]], seen=[True, False]), window([[2.0, 0.0], [0.0, 2.0]], np.zeros((2, 2)))])
    assert orders_of(found) == [[1, NO_STREAM], [0, 1]]
    assert found.certainties[0] == pytest.approx(np.mean(1 / (1 + np.exp([-2.9, -4.0]))))  # the other stream is nobody's
    assert np.isfinite(found.agreement).all()
    nobody = assign([WindowEvidence(np.zeros((1, 0, 2)), np.zeros(2, bool), np.empty((0, 0)), 25)])
    assert orders_of(nobody) == [[NO_STREAM, NO_STREAM]] and nobody.certainties == [1.0, 1.0]
    assert np.isnan(nobody.agreement).all()


def test_where_one_voice_is_all_that_is_heard_one_face_gets_it_and_the_other_nothing():
    evidence = [[1.0, 0.0], [0.0, 1.0], [0.5, 2.0]]  # the last stream is the whole sound
    assert orders_of(assign([window(evidence, alone=-1.0)])) == [[0, 1]]
    found = assign([window(evidence, alone=1.0)])
    assert orders_of(found) == [[NO_STREAM, 2]]
    weights = np.exp([2.0, 0.0, 1.0 + 0.5, 1.0 + 2.0])  # both streams in either order, all to the one, all to the other
    assert found.certainties == pytest.approx([(weights[3]) / weights.sum()] * 2)
    assert np.isnan(found.agreement[0]).all() and found.agreement[1] * 25 == pytest.approx([0.5, 2.0])
    single = assign([window([[1.0], [0.0], [0.5]], seen=[True], alone=1.0)])
    weights = np.exp([1.0, 0.0, 1.0 + 0.5])
    assert orders_of(single) == [[2]] and single.certainties == pytest.approx([weights[2] / weights.sum()])


def test_a_voice_goes_on_through_windows_in_which_one_person_has_all_that_is_heard():
    both = [[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]]
    link = [[0.9, 0.1, 0.9], [0.1, 0.9, 0.1], [0.7, 0.7, 0.9]]
    found = assign([window(both, alone=-5.0), window(np.zeros((3, 2)), link, alone=5.0), window(both, link, alone=-5.0)])
    assert orders_of(found) == [[0, 1], [2, NO_STREAM], [0, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_all_sequences_is_found(seed):
    rng = np.random.default_rng(seed)
    windows = [window(rng.normal(size=(3, 3)) * 10, rng.normal(size=(3, 3)) if w else None, np.ones(3, bool)) for w in range(4)]
    orders = list(permutations(range(3)))

    def total(sequence) -> float:
        evidence = sum(w.evidence[0, list(o), range(3)].sum() for w, o in zip(windows, sequence, strict=True))
        links = sum(w.link[list(a), list(b)].sum() for w, a, b in zip(windows[1:], sequence, sequence[1:], strict=False))
        return evidence + 20.0 * links

    sequences = list(product(orders, repeat=4))
    totals = np.array([total(sequence) for sequence in sequences])
    best = sequences[totals.argmax()]
    found = assign(windows)
    assert orders_of(found) == [list(order) for order in best]
    weights = np.exp(totals - totals.max())
    for face, certainty in enumerate(found.certainties):
        share = [np.mean([a[face] == b[face] for a, b in zip(sequence, best, strict=True)]) for sequence in sequences]
        assert certainty == pytest.approx(np.average(share, weights=weights))


def test_certainty_inside_a_window_counts_all_sequences():
    evidence = np.random.default_rng(0).normal(size=(5, 2, 2)) * 2
    found = assign([window(evidence)])
    orders = list(permutations(range(2)))
    sequences = list(product(orders, repeat=5))

    def weight(sequence) -> float:
        agreement = sum(each[list(order), range(2)].sum() for each, order in zip(evidence, sequence, strict=True))
        stays = [a == b for a, b in zip(sequence, sequence[1:], strict=False)]
        return np.exp(agreement) * np.prod([1 if stay else np.exp(-4.0) for stay in stays])

    weights = [weight(sequence) for sequence in sequences]
    chosen = [tuple(order) for order in orders_of(found)]
    share = [np.mean([a == b for a, b in zip(sequence, chosen, strict=True)]) for sequence in sequences]
    assert found.certainties == pytest.approx([np.average(share, weights=weights)] * 2)


def test_many_faces_take_each_windows_best_order():
    evidence = np.eye(9)[::-1].copy()
    found = assign([window(evidence, seen=np.ones(9, bool))])
    assert orders_of(found) == [list(range(8, -1, -1))]
    assert 0.2 < min(found.certainties) < 0.9  # exchanges of two are as likely as an eighth of it each
