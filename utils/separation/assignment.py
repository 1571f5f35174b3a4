"""The order of a whole recording: which stream is the voice of which face, at every time.

A second of video says little about whose a voice is, a minute says almost everything. So the evidence is added up along
the voices, over stretches of a window and over windows: streams of neighbouring windows that agree over the samples that
both have are one voice, and inside a window a stream seldom goes over from one voice to another. The most likely
sequence of orders is found by dynamic programming (Viterbi), from a few numbers for each stretch, and how likely it is at
each time by the same model (forward-backward).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, permutations
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp, softmax

NO_STREAM = -1  # in an order: the face is not seen in this window, or another one has all that is heard
STRETCH_FRAMES = 5  # video frames (0.2 s) for which an order holds at least
_LINK_NATS = 20.0  # of two windows that agree perfectly over what they share; a wrong order of clear voices costs twice as much
# Against another order in the next stretch. Chosen on GLips' validation part: two who speak by turns gain 4.5 dB by it,
# two who speak at once for 4.6 s lose 0.2 of 4.7 dB.
_SWITCH_NATS = 4.0
_MOST_ENUMERATED = 5  # faces; of more, only each window's best order and those in which two faces change places are considered


@dataclass(frozen=True, eq=False)
class WindowEvidence:
    """What a window says of the order.

    Attributes:
        evidence: (n_stretches, n_streams, n_faces), nats: what speaks for a stream being the voice of a face; 0 for unseen
            faces.
        seen: bool (n_faces,).
        link: (streams of the window before, n_streams): their correlation over the shared samples, -1 to 1; empty for the
            first window.
        n_frames: seen and compared.
        alone: nats, what speaks for a single voice being all that is heard. Then the last stream is the whole sound: a face
            has it and no other has any, or none has it. None: every seen face has one of the streams.
    """

    evidence: np.ndarray
    seen: np.ndarray
    link: np.ndarray
    n_frames: int
    alone: float | None = None

    @property
    def n_voices(self) -> int:
        """Streams that are a voice each."""
        return self.evidence.shape[1] - (self.alone is not None)

    @property
    def whole(self) -> int | None:
        """The stream that is the whole sound."""
        return None if self.alone is None else self.n_voices

    def of(self, orders: np.ndarray) -> np.ndarray:
        """What speaks for orders (n_orders, n_faces) in each stretch, nats: (n_stretches, n_orders)."""
        has_one = orders != NO_STREAM
        faces = np.broadcast_to(np.arange(orders.shape[1]), orders.shape)
        total = np.zeros((len(self.evidence), len(orders)))
        if has_one.any():
            total = np.where(has_one, self.evidence[:, np.where(has_one, orders, 0), faces], 0.0).sum(axis=-1)
        if self.alone is not None:
            total += (orders == self.whole).any(axis=1) * self.alone / len(self.evidence)
        return total


@dataclass(frozen=True, eq=False)
class Assignment:
    """The order of a recording.

    Attributes:
        orders: for each window (n_stretches, n_faces), the stream of each face, `NO_STREAM` where it has none.
        certainties: of each face, how likely it is that the voice given to it is its own, in the mean over the time in which it
            is seen; 1 where it never is.
        agreement: (n_faces, n_faces): of the voice given to a face (row) with a face (column), nats for each frame; nan
            where the two are never seen together.
        n_frames: (n_faces,), in which each face was seen and had a voice.
    """

    orders: list[np.ndarray]
    certainties: list[float]
    agreement: np.ndarray
    n_frames: np.ndarray


def in_stretches(evidence: np.ndarray) -> np.ndarray:
    """Evidence of frames (..., frames) summed over stretches, the last of which may be longer: (n_stretches, ...)."""
    n_frames = evidence.shape[-1]
    starts = np.arange(max(n_frames // STRETCH_FRAMES, 1)) * STRETCH_FRAMES
    sums = np.add.reduceat(evidence, starts, axis=-1) if n_frames else np.zeros((*evidence.shape[:-1], 1))
    return np.moveaxis(sums, -1, 0)


def best_order(evidence: np.ndarray, seen: np.ndarray | None = None) -> list[int]:
    """The most likely order of all frames together; evidence (n_streams, n_faces), seen as of `WindowEvidence`."""
    n_faces = evidence.shape[1]
    faces = np.arange(n_faces) if seen is None else np.flatnonzero(seen)
    order = [NO_STREAM] * n_faces
    for column, stream in zip(*linear_sum_assignment(evidence[:, faces].T, maximize=True), strict=True):
        order[faces[column]] = int(stream)
    return order


def assign(windows: Sequence[WindowEvidence]) -> Assignment:
    """Find the most likely orders of all windows together."""
    states = [_orders(window) for window in windows]
    steps: list[_Step] = []
    for index, (window, here) in enumerate(zip(windows, states, strict=True)):
        links = None
        if index:
            before = windows[index - 1]
            links = _LINK_NATS * _continuity(states[index - 1], here, window.link, before.seen & window.seen)
        evidence = window.of(here)
        steps += [_Step(evidence[0], links), *(_Step(each, None) for each in evidence[1:])]
    n_stretches = [len(window.evidence) for window in windows]
    chosen, probabilities = _in_windows(_most_likely(steps), n_stretches), _in_windows(_probabilities(steps), n_stretches)
    orders = [here[own] for here, own in zip(states, chosen, strict=True)]
    agreement, n_frames = _agreement(windows, orders)
    return Assignment(orders, _certainties(windows, states, orders, probabilities), agreement, np.diag(n_frames))


class _Step(NamedTuple):
    """A stretch: what speaks for each of its orders, and how well each order before goes on in each, nats."""

    evidence: np.ndarray  # (n_orders,)
    links: np.ndarray | None  # (n_orders before, n_orders); None inside a window


def _most_likely(steps: Sequence[_Step]) -> list[int]:
    """The most likely sequence of orders (Viterbi)."""
    totals, came_from = steps[0].evidence, []
    for evidence, links in steps[1:]:
        if links is None:
            came_from.append(np.where(totals >= totals.max() - _SWITCH_NATS, np.arange(len(totals)), totals.argmax()))
            totals = np.maximum(totals, totals.max() - _SWITCH_NATS) + evidence
        else:
            came_from.append((totals[:, None] + links).argmax(axis=0))
            totals = (totals[:, None] + links).max(axis=0) + evidence
    chosen = [int(totals.argmax())]
    for back in reversed(came_from):
        chosen.append(int(back[chosen[-1]]))
    return chosen[::-1]


def _probabilities(steps: Sequence[_Step]) -> list[np.ndarray]:
    """How likely each order of each stretch is, by all evidence before and after it (forward-backward): (n_orders,) each."""
    forward = [steps[0].evidence]
    for evidence, links in steps[1:]:
        forward.append(_passed_on(forward[-1], links) + evidence)
    backward = [np.zeros_like(forward[-1])]
    for evidence, links in steps[:0:-1]:
        backward.append(_passed_on(backward[-1] + evidence, None if links is None else links.T))
    return [softmax(before + after) for before, after in zip(forward, reversed(backward), strict=True)]


def _passed_on(totals: np.ndarray, links: np.ndarray | None) -> np.ndarray:
    """Log likelihoods of the orders of a stretch handed on to the next one."""
    if links is None:
        return np.logaddexp(totals + np.log1p(-np.exp(-_SWITCH_NATS)), logsumexp(totals) - _SWITCH_NATS)
    return logsumexp(totals[:, None] + links, axis=0)


def _in_windows(values: Sequence, n_stretches: Sequence[int]) -> list[list]:
    """Values of all stretches by window."""
    left = iter(values)
    return [list(islice(left, count)) for count in n_stretches]


def _certainties(
    windows: Sequence[WindowEvidence],
    states: Sequence[np.ndarray],
    orders: Sequence[np.ndarray],
    probabilities: Sequence[Sequence[np.ndarray]],
) -> list[float]:
    """`Assignment.certainties`."""
    certainties = []
    for face in range(len(windows[0].seen)):
        own = [
            float(probability[here[:, face] == order[face]].sum())
            for window, here, chosen, each in zip(windows, states, orders, probabilities, strict=True)
            if window.seen[face]
            for order, probability in zip(chosen, each, strict=True)
        ]
        certainties.append(float(np.mean(own)) if own else 1.0)
    return certainties


def _orders(window: WindowEvidence) -> np.ndarray:
    """The orders that a window can have, (orders, n_faces)."""
    faces = np.flatnonzero(window.seen)
    if len(faces) > _MOST_ENUMERATED:
        best = np.array(best_order(window.evidence[:, : window.n_voices].sum(axis=0), window.seen))
        pairs = np.array(list(combinations(faces, 2)))
        orders = np.repeat(best[None], 1 + len(pairs), axis=0)
        np.put_along_axis(orders[1:], pairs, best[pairs[:, ::-1]], axis=1)
        return orders
    voices = list(permutations(range(window.n_voices), len(faces)))
    found = np.array(voices, int).reshape(len(voices), len(faces))
    if window.alone is not None:
        found = np.concatenate([found, np.where(np.eye(len(faces), dtype=bool), window.whole, NO_STREAM)])
    orders = np.full((len(found), len(window.seen)), NO_STREAM)
    orders[:, faces] = found
    return orders


def _continuity(before: np.ndarray, here: np.ndarray, link: np.ndarray, both: np.ndarray) -> np.ndarray:
    """How well voices go on from each order of a window to each of the next: (orders before, orders here).

    A seen face without a stream goes on as well as any: silence contradicts nothing.
    """
    total = np.zeros((len(before), len(here)))
    for face in np.flatnonzero(both):
        old, new = before[:, face][:, None], here[:, face][None, :]
        total += np.where((old == NO_STREAM) | (new == NO_STREAM), 1.0, link[old, new])
    return total


def _agreement(windows: Sequence[WindowEvidence], orders: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """`Assignment.agreement`, and the frames that it is a mean over."""
    n_faces = len(windows[0].seen)
    total, frames = np.zeros((n_faces, n_faces)), np.zeros((n_faces, n_faces))
    for window, order, stretches in _runs(windows, orders):
        faces = np.flatnonzero(window.seen)
        for voice in faces[order[faces] != NO_STREAM]:
            total[voice, faces] += window.evidence[stretches, order[voice]][:, faces].sum(axis=0)
            frames[voice, faces] += window.n_frames * len(stretches) / len(window.evidence)
    return np.where(frames > 0, total / np.maximum(frames, 1), np.nan), frames


def _runs(
    windows: Sequence[WindowEvidence], orders: Sequence[np.ndarray]
) -> Iterator[tuple[WindowEvidence, np.ndarray, np.ndarray]]:
    """Every order that a window has, with the stretches that have it."""
    for window, own in zip(windows, orders, strict=True):
        distinct, which = np.unique(own, axis=0, return_inverse=True)
        for index, order in enumerate(distinct):
            yield window, order, np.flatnonzero(which.ravel() == index)
