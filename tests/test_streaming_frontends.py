"""Visual frontends on frames as they come: the vectors of the whole clip, late by what they say."""

import pytest
import torch

from local_models.lr_asd import LRASDVisual
from utils.embedding.frontends import load_frontend
from utils.embedding.kinds import lookahead_frames
from utils.errors import UserError

WEIGHTS = {"lipreading": "egs/demo/lipreader.pth.tar", "lr_asd": "egs/own_video/pretrained/frontend.pth"}


@pytest.fixture(scope="module", params=WEIGHTS)
def network(request):
    return load_frontend(WEIGHTS[request.param]).network


@pytest.mark.parametrize("sizes", [(30,), (1,) * 30, (1, 2, 10, 3, 14), (14, 16)])
def test_a_stream_gives_the_vectors_of_the_whole(network, sizes):
    clips = torch.randn(2, 30, 88, 88, generator=torch.Generator().manual_seed(1))
    late = network.lookahead_frames
    with torch.inference_mode():
        whole = network(clips)
        state, parts = (), []
        for piece in clips.split(sizes, dim=1):
            vectors, state = network.stream(piece, state)
            assert vectors.shape[:2] == piece.shape[:2]
            parts.append(vectors)
    streamed = torch.cat(parts, dim=1)[:, late:]
    scale = whole.abs().max()
    assert (streamed - whole[:, :-late]).abs().max() < 1e-5 * scale


def test_what_comes_after_counts_for_as_long_as_is_said(network):
    clips = torch.randn(1, 24, 88, 88, generator=torch.Generator().manual_seed(2))
    other = clips.clone()
    other[:, -1] += 1
    with torch.inference_mode():
        changed = (network(clips) != network(other)).any(dim=-1)[0]
    assert changed.nonzero()[0] == 24 - 1 - network.lookahead_frames


def test_a_frontend_that_sees_the_whole_clip_is_not_streamed():
    with pytest.raises(UserError, match="take --frontend_layer trunk"):
        lookahead_frames(load_frontend(WEIGHTS["lipreading"], layer="tcn"))


def test_pieces_of_a_batch_are_those_of_each_clip():
    network = LRASDVisual().eval()
    clips = torch.randn(2, 6, 32, 32)
    with torch.inference_mode():
        both, _ = network.stream(clips)
        one, _ = network.stream(clips[1:])
    assert torch.allclose(both[1:], one, atol=1e-6)
