"""The order of a whole recording: which stream of each window is the voice of which face.

A second of video says little about whose a voice is, a minute says almost everything. So the evidence of all windows is
added up along the voices: streams of neighbouring windows that agree over the samples that both have are one voice. The
most likely sequence of orders is found by dynamic programming (Viterbi), from a few numbers for each window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.optimize import linear_sum_assignment

NO_STREAM = -1  # in an order: the face is not seen in this window, or another one has all that is heard
_LINK_NATS = 20.0  # of two windows that agree perfectly over what they share; a wrong order of clear voices costs twice as much
_MOST_ENUMERATED = 6  # faces; of more, only each window's best order is considered


@dataclass(frozen=True, eq=False)
class WindowEvidence:
    """What a window says of the order.

    Attributes:
        evidence: (n_streams, n_faces), nats: what speaks for a stream being the voice of a face; 0 for unseen faces.
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
        return len(self.evidence) - (self.alone is not None)

    @property
    def whole(self) -> int | None:
        """The stream that is the whole sound."""
        return None if self.alone is None else self.n_voices

    def of(self, order: Sequence[int]) -> float:
        """What speaks for an order, nats."""
        faces = [face for face, stream in enumerate(order) if stream != NO_STREAM]
        streams = [order[face] for face in faces]
        alone = self.alone if self.whole is not None and self.whole in streams else 0.0
        return float(self.evidence[streams, faces].sum() + alone)


@dataclass(frozen=True, eq=False)
class Assignment:
    """The order of a recording.

    Attributes:
        orders: for each window the stream of each face, `NO_STREAM` where it has none.
        margins: of each face, nats: how much less likely the best other assignment of its voice is, over all windows.
        agreement: (n_faces, n_faces): of the voice given to a face (row) with a face (column), nats for each frame; nan
            where the two are never seen together.
    """

    orders: list[list[int]]
    margins: list[float]
    agreement: np.ndarray

    @property
    def certainties(self) -> list[float]:
        """Of each face, the probability that it has its own voice rather than the best other one."""
        return [float(1 / (1 + np.exp(-margin))) for margin in self.margins]


def best_order(evidence: np.ndarray, seen: np.ndarray | None = None) -> list[int]:
    """The most likely order of one window alone; arguments as of `WindowEvidence`."""
    n_faces = evidence.shape[1]
    faces = np.arange(n_faces) if seen is None else np.flatnonzero(seen)
    order = [NO_STREAM] * n_faces
    for column, stream in zip(*linear_sum_assignment(evidence[:, faces].T, maximize=True), strict=True):
        order[faces[column]] = int(stream)
    return order


def assign(windows: Sequence[WindowEvidence]) -> Assignment:
    """Find the most likely orders of all windows together."""
    states = [_orders(window) for window in windows]
    totals, came_from = _local(windows[0], states[0]), []
    for before, here, window, old in zip(states, states[1:], windows[1:], windows, strict=False):
        steps = totals[:, None] + _LINK_NATS * _continuity(before, here, window.link, old.seen & window.seen)
        came_from.append(steps.argmax(axis=0))
        totals = steps.max(axis=0) + _local(window, here)
    chosen = [int(totals.argmax())]
    for back in reversed(came_from):
        chosen.append(int(back[chosen[-1]]))
    orders = [each[index].tolist() for each, index in zip(states, reversed(chosen), strict=True)]
    return Assignment(orders, _margins(windows, orders), _agreement(windows, orders))


def _orders(window: WindowEvidence) -> np.ndarray:
    """The orders that a window can have, (orders, n_faces)."""
    faces = np.flatnonzero(window.seen)
    if len(faces) > _MOST_ENUMERATED:
        return np.array([best_order(window.evidence[: window.n_voices], window.seen)])
    voices = list(permutations(range(window.n_voices), len(faces)))
    found = np.array(voices, int).reshape(len(voices), len(faces))
    if window.alone is not None:
        found = np.concatenate([found, np.where(np.eye(len(faces), dtype=bool), window.whole, NO_STREAM)])
    orders = np.full((len(found), len(window.seen)), NO_STREAM)
    orders[:, faces] = found
    return orders


def _local(window: WindowEvidence, orders: np.ndarray) -> np.ndarray:
    """The evidence of a window for each of its orders."""
    return np.array([window.of(order) for order in orders])


def _continuity(before: np.ndarray, here: np.ndarray, link: np.ndarray, both: np.ndarray) -> np.ndarray:
    """How well voices go on from each order of a window to each of the next: (orders before, orders here).

    A seen face without a stream goes on as well as any: silence contradicts nothing.
    """
    total = np.zeros((len(before), len(here)))
    for face in np.flatnonzero(both):
        old, new = before[:, face][:, None], here[:, face][None, :]
        total += np.where((old == NO_STREAM) | (new == NO_STREAM), 1.0, link[old, new])
    return total


def _margins(windows: Sequence[WindowEvidence], orders: Sequence[Sequence[int]]) -> list[float]:
    """Of each face, the least that an exchange of its voice costs: with another face, or with a stream without one."""
    n_faces = len(windows[0].seen)
    costs = np.zeros((n_faces, n_faces + 1))  # by face and partner; the last partner is a stream without a face
    possible = np.zeros((n_faces, n_faces + 1), bool)
    for window, order in zip(windows, orders, strict=True):
        now = window.of(order)
        for face in np.flatnonzero(window.seen):
            for other in np.flatnonzero(window.seen):
                exchanged = list(order)
                exchanged[face], exchanged[other] = order[other], order[face]
                if other != face and exchanged != list(order):
                    costs[face, other] += now - window.of(exchanged)
                    possible[face, other] = True
            others = range(len(window.evidence)) if window.seen.sum() == 1 else range(window.n_voices)
            spare = [stream for stream in others if stream not in list(order)]
            if spare and order[face] not in (NO_STREAM, *([window.whole] if window.seen.sum() > 1 else [])):
                costs[face, -1] += now - max(window.of([*order[:face], stream, *order[face + 1 :]]) for stream in spare)
                possible[face, -1] = True
    return [float(cost[may].min()) if may.any() else float("inf") for cost, may in zip(costs, possible, strict=True)]


def _agreement(windows: Sequence[WindowEvidence], orders: Sequence[Sequence[int]]) -> np.ndarray:
    """See `Assignment.agreement`."""
    n_faces = len(windows[0].seen)
    total, frames = np.zeros((n_faces, n_faces)), np.zeros((n_faces, n_faces))
    for window, order in zip(windows, orders, strict=True):
        faces = np.flatnonzero(window.seen)
        for voice in faces[[order[face] != NO_STREAM for face in faces]]:
            total[voice, faces] += window.evidence[order[voice], faces]
            frames[voice, faces] += window.n_frames
    return np.where(frames > 0, total / np.maximum(frames, 1), np.nan)
