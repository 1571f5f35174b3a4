"""Faces that come and go: who goes through the network in which window, and that nothing is lost."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from utils.separation.overlap_add import FacesOnScreen, separate_long, separate_window


class Recorder(nn.Module):
    """Gives each face a tenth of the mixture for each unit of its visual embedding, and notes what it was called with."""

    def __init__(self, n_faces: int, has_fixed_faces: bool = False) -> None:
        super().__init__()
        self.config = SimpleNamespace(n_faces=n_faces)
        self.has_fixed_faces = has_fixed_faces
        self.calls: list[torch.Size] = []

    def forward(self, mixture, visual):
        self.calls.append(visual.shape)
        return mixture.unsqueeze(1) * visual.amax(dim=(2, 3)).unsqueeze(-1) / 10


def visual(*values: float, frames: int = 5) -> torch.Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1).expand(1, len(values), frames, 3).contiguous()


def test_only_seen_faces_go_through_the_network_and_the_tracks_add_up():
    network, mixture = Recorder(2), torch.randn(1, 800)
    tracks = FacesOnScreen(network)(mixture, visual(2.0, 0.0, 3.0))
    assert network.calls == [(1, 2, 5, 3)]
    torch.testing.assert_close(tracks[0, :3], torch.tensor([[0.2], [0.0], [0.3]]) * mixture)
    torch.testing.assert_close(tracks.sum(dim=1), mixture)


def test_a_single_face_gets_an_unseen_second_stream_and_without_faces_all_is_residual():
    network, mixture = Recorder(2), torch.randn(1, 800)
    tracks = FacesOnScreen(network)(mixture, visual(0.0, 4.0))
    assert network.calls == [(1, 2, 5, 3)]
    torch.testing.assert_close(tracks[0, 1], 0.4 * mixture[0])
    tracks = FacesOnScreen(network)(mixture, visual(0.0, 0.0))
    assert len(network.calls) == 1
    assert not tracks[0, :2].any() and torch.equal(tracks[0, 2], mixture[0])


def test_a_network_that_sees_a_fixed_number_of_faces_gets_unseen_ones_up_to_it():
    network, mixture = Recorder(3, has_fixed_faces=True), torch.randn(1, 800)
    tracks = FacesOnScreen(network)(mixture, visual(0.0, 4.0, 1.0))
    assert network.calls == [(1, 3, 5, 3)]
    torch.testing.assert_close(tracks[0, :3], torch.tensor([[0.0], [0.4], [0.1]]) * mixture)


def test_an_extraction_network_takes_each_face_for_itself():
    network, mixture = Recorder(1), torch.randn(1, 800)
    tracks = FacesOnScreen(network)(mixture, visual(2.0, 3.0))
    assert network.calls == [(2, 1, 5, 3)]
    torch.testing.assert_close(tracks[0, :2], torch.tensor([[0.2], [0.3]]) * mixture)


@pytest.mark.parametrize("seconds", [3.0, 17.3])
def test_over_windows_a_face_is_silent_where_it_is_far_from_being_seen_and_the_tracks_still_add_up(seconds):
    length = int(seconds * 1000)
    frames = -(-length // 40)
    mixture, faces = torch.randn(length), torch.ones(2, frames, 3)
    faces[1, frames // 3 :] = 0
    tracks = separate_long(FacesOnScreen(Recorder(2)), mixture, faces, window_sec=2.0, hop_sec=1.5, sample_rate=1000, fps=25.0)
    torch.testing.assert_close(tracks.sum(dim=0), mixture, rtol=1e-4, atol=1e-5)
    assert not tracks[1, length // 3 + 2000 :].any()
    torch.testing.assert_close(tracks[0], 0.1 * mixture, rtol=1e-4, atol=1e-5)


class Comparing(Recorder):
    """Says how well each stream goes with each face, and whether a single voice is heard, as it is told to."""

    matcher = True

    def __init__(self, *evidence: list[float], alone: float) -> None:
        super().__init__(2)
        self.said, self.said_alone = np.array(evidence), alone

    def evidence(self, estimates, visual, mixture):
        assert (estimates.shape[1], visual.shape[1]) == self.said.shape
        return np.repeat(self.said[None, ..., None] / visual.shape[2], visual.shape[2], axis=-1)

    def alone(self, estimates, mixture):
        return np.array([self.said_alone])


@pytest.mark.parametrize(
    ("evidence", "alone", "share"),
    [((2.0, 0.0, 0.5), 0.0, 0.4), ((0.0, 2.0, 0.5), 0.0, 0.0), ((1.0, 0.0, 2.0), 0.0, 1.0), ((2.0, 0.0, 0.5), 1.0, 1.0)],
)
def test_a_single_face_gets_the_stream_that_goes_with_it_or_all_that_is_heard(evidence, alone, share):
    model, mixture = FacesOnScreen(Comparing(*[[each] for each in evidence], alone=alone)), torch.randn(1, 800)
    tracks = separate_window(model, mixture, visual(0.0, 4.0))
    assert not tracks[0, 0].any()
    torch.testing.assert_close(tracks[0, 1], share * mixture[0])
    torch.testing.assert_close(tracks.sum(dim=1), mixture)


def test_seen_faces_get_the_streams_that_go_with_them_or_one_gets_all_that_is_heard():
    mixture = torch.randn(1, 800)
    model = FacesOnScreen(Comparing([0.0, 3.0], [1.0, 0.0], [1.0, 2.0], alone=-5.0))
    tracks = separate_window(model, mixture, visual(2.0, 0.0, 3.0))
    torch.testing.assert_close(tracks[0, :3], torch.tensor([[0.3], [0.0], [0.2]]) * mixture)
    model.network.said_alone = 5.0
    tracks = separate_window(model, mixture, visual(2.0, 0.0, 3.0))
    torch.testing.assert_close(tracks[0, :3], torch.tensor([[0.0], [0.0], [1.0]]) * mixture)
    assert not tracks[0, 3].any()


def test_where_the_order_changes_within_a_window_the_streams_fade_into_each_other():
    mixture = torch.ones(1, 1000)
    faces = visual(4.0, 2.0, frames=25)
    orders = np.array([[0, 1]] * 2 + [[1, 0]] * 3)  # stretches of 5 frames, of 40 samples each
    tracks = separate_window(FacesOnScreen(Comparing(*np.zeros((3, 2)), alone=0.0)), mixture, faces, orders)
    for track, before, after in ((tracks[0, 0], 0.4, 0.2), (tracks[0, 1], 0.2, 0.4)):
        torch.testing.assert_close(track[:379], torch.full((379,), before))
        torch.testing.assert_close(track[421:], torch.full((579,), after))
        assert abs(float(track[400]) - 0.3) < 0.01
    torch.testing.assert_close(tracks.sum(dim=1), mixture)
