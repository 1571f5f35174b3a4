"""LR-ASD's visual half: its entries, its arithmetic against plain 3-D convolutions, and the real weights on real lips."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from local_models.lr_asd import LRASDVisual
from utils.embedding.frontends import load_frontend


@pytest.fixture(scope="module")
def network() -> LRASDVisual:
    """Random weights and statistics."""
    torch.manual_seed(0)
    model = LRASDVisual().eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm3d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                tensor.uniform_(0.5, 1.5)
    return model


def plainly(model: LRASDVisual, clips: torch.Tensor) -> torch.Tensor:
    """The specification, word by word: 3-D convolutions, batch normalisation, ReLU, max-pooling."""
    x = clips[:, None]
    for number, block in enumerate((model.block1, model.block2, model.block3)):
        if number:
            x = functional.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for conv, norm in (("s_1", "s_norm_1"), ("s_2", "s_norm_2"), ("t_1", "t_norm_1"), ("t_2", "t_norm_2")):
            x = torch.relu(getattr(block, norm)(getattr(block, conv)(x)))
    return x.amax(dim=(3, 4)).transpose(1, 2)


def test_the_state_dict_has_the_72_entries_of_the_visual_half(network):
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert len(shapes) == 72
    assert shapes["block1.s_1.weight"] == (16, 1, 1, 5, 5)
    assert shapes["block2.s_2.weight"] == (64, 32, 1, 3, 3)
    assert shapes["block3.t_1.weight"] == (128, 128, 5, 1, 1)
    assert {layer.eps for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm3d)} == {1e-3}


@pytest.mark.parametrize("shape", [(1, 1, 20, 20), (2, 7, 25, 30), (3, 4, 88, 88)])
def test_vectors_equal_those_of_the_plain_3d_form(network, shape):
    clips = torch.randn(shape)
    vectors = network(clips)
    assert vectors.shape == (*shape[:2], 128)
    torch.testing.assert_close(vectors, plainly(network, clips), atol=1e-4, rtol=1e-4)


def test_the_real_weights_load_whole_and_tell_real_mouths_apart(shared_data):
    frontend = load_frontend(shared_data / "weights" / "lr_asd_talkset.model")
    assert (frontend.name, frontend.dim, frontend.crop_size) == ("lr_asd", 128, 88)
    mouths = sorted((shared_data / "grid_dla" / "mouths").glob("*.npz"))[:2]
    clips = [frontend.preprocess(np.load(path, allow_pickle=False)["data"]) for path in mouths]
    vectors = frontend(torch.stack(clips))
    assert vectors.shape == (2, 50, 128)
    assert torch.isfinite(vectors).all()
    between_clips = (vectors[0] - vectors[1]).norm(dim=-1).mean()
    between_neighbours = (vectors[:, 1:] - vectors[:, :-1]).norm(dim=-1).mean()
    assert between_clips > between_neighbours > 0.1
    torch.testing.assert_close(vectors, plainly(frontend.network, torch.stack(clips)), atol=1e-4, rtol=1e-4)
