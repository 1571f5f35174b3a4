"""The time-frequency DPRNN: its grid, its masks, and faces, which have no influence at first."""

import pytest
import torch
from asteroid.masknn import norms

from local_models.av_tfdprnn import AVTFDPRNN, FrameAttention, _norm
from local_models.bands import BandSplit

TINY = {"n_filters": 64, "kernel_size": 64, "stride": 16, "bn_chan": 8, "hid_size": 8, "bands": "8x4", "n_repeats": 3,
        "visual_dim": 6, "visual_chan": 4, "visual_hid": 8, "visual_blocks": 1}  # fmt: skip


def tiny(**changes) -> AVTFDPRNN:
    torch.manual_seed(0)
    return AVTFDPRNN(**{**TINY, **changes}).eval()


def inputs(batch: int = 1, faces: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(batch, 3200), torch.randn(batch, faces, 5, 6)


def test_a_new_network_does_not_look_at_faces():
    net, (mixture, visual) = tiny(), inputs()
    estimates = net(mixture, visual)
    torch.testing.assert_close(estimates[:, 0], estimates[:, 1])
    torch.testing.assert_close(net(mixture, -visual), estimates)


def test_faces_tell_sources_apart_after_one_step():
    net, (mixture, visual) = tiny().train(), inputs()
    sources = torch.stack([mixture * 0.9, mixture * 0.1], dim=1)
    (net(mixture, visual) - sources).square().mean().backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    estimates = net(mixture, visual)
    assert (estimates[:, 0] - estimates[:, 1]).abs().max() > 1e-6


def test_a_stream_hears_the_others_only_through_the_exchange():
    (mixture, visual), changed = inputs(), inputs()[1].clone()
    changed[:, 1] = torch.randn(5, 6)
    for exchange in (True, False):
        net = tiny(exchange=exchange, fuse_every_block=True)
        for part in (*net.masker.fusions.parameters(), *net.masker.exchanges.parameters()):
            torch.nn.init.normal_(part, std=0.3)
        moved = (net(mixture, changed)[:, 0] - net(mixture, visual)[:, 0]).abs().max() > 1e-4
        assert moved == exchange


def test_masks_of_one_give_the_mixture_back():
    net = tiny()
    n_bins = net.n_feats // 2

    def ones(features, visual):
        return torch.cat([torch.full((1, 2, n_bins, features.shape[-1]), number) for number in (1.0, 0.0)], dim=2)

    net.masker.forward = ones
    mixture = torch.randn(1, 3333)
    torch.testing.assert_close(net(mixture, torch.randn(1, 2, 5, 6))[:, 0], mixture, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kernel_size", "bands"), [(64, "8x4"), (64, "2x2 3x4 1x16"), (64, "1x16 8x2"), (512, "8x32")])
@pytest.mark.parametrize("grid_stride", [1, 2, 4])
def test_every_bin_and_frame_is_heard_and_written(kernel_size, bands, grid_stride):
    net = tiny(kernel_size=kernel_size, n_filters=kernel_size, stride=kernel_size // 2, bands=bands, grid_stride=grid_stride)
    n_bins = net.n_feats // 2
    features = torch.randn(1, 3 * n_bins, 13, requires_grad=True)
    masks = net.masker(features, torch.randn(1, 2, 4, 13))
    assert masks.shape == (1, 2, 2 * n_bins, 13)
    written = masks[0, 0].detach().unflatten(0, (2, n_bins)).abs().sum(dim=0)
    assert (written > 0).all()
    grid = net.masker.split(features.unflatten(1, (3, n_bins)))
    grid.square().sum().backward()
    assert (features.grad[0].unflatten(0, (3, n_bins)).abs().sum(dim=0) > 0).all()


def test_a_band_hears_its_own_bins_and_half_its_width_around():
    split = BandSplit("8x4 4x8", 65, 1, 3, grid_stride=1)
    spectrum = torch.zeros(1, 1, 65, 9)
    quiet = split(spectrum)
    spectrum[0, 0, 34] = 1.0  # in the first band of 8, within the half width of the last one of 4 (28..31, heard to 33)
    moved = (split(spectrum) - quiet).abs().sum(dim=(0, 1, 3)).nonzero().flatten().tolist()
    assert moved == [8]
    spectrum[0, 0, 34], spectrum[0, 0, 33] = 0.0, 1.0
    assert (split(spectrum) - quiet).abs().sum(dim=(0, 1, 3)).nonzero().flatten().tolist() == [7, 8]


def test_the_mixtures_blocks_run_once_whatever_the_number_of_faces():
    net, sizes = tiny(n_audio_repeats=2), []
    for block in net.masker.net:
        block.register_forward_hook(lambda _, given, __: sizes.append(given[0].shape[0]))
    net(*inputs(batch=2, faces=3))
    assert sizes == [2, 2, 6]


def test_attention_starts_as_identity_and_then_brings_far_frames_near():
    torch.manual_seed(0)
    layer, grid = FrameAttention(8, n_heads=2), torch.randn(3, 8, 5, 40)
    assert torch.equal(layer(grid), grid)
    torch.nn.init.normal_(layer.project.weight, std=0.3)
    before, changed = layer(grid), grid.clone()
    changed[1, :, :, 39] *= -1
    moved = (layer(changed) - before).abs().amax(dim=(1, 2))
    assert moved[1, 0] > 1e-5 and moved[[0, 2]].max() == 0  # the first frame of that stream hears its last one


def test_attention_is_torchs_attention_over_flattened_bands():
    torch.manual_seed(0)
    layer, grid = FrameAttention(4, n_heads=2, key_chan=3), torch.randn(1, 4, 5, 7)
    torch.nn.init.normal_(layer.project.weight, std=0.3)
    queries, keys, values = layer.queries_keys_values(layer.norm(grid))[0].split((6, 6, 4))
    heads = []
    for head in range(2):
        query, key = (part[3 * head : 3 * head + 3].reshape(15, 7) for part in (queries, keys))
        weights = (query.T @ key / 15**0.5).softmax(dim=-1)
        heads.append((values[2 * head : 2 * head + 2].reshape(10, 7) @ weights.T).reshape(2, 5, 7))
    torch.testing.assert_close(layer(grid), grid + layer.project(torch.cat(heads)[None]))


def test_the_network_takes_attention_after_each_block():
    net = tiny(attention_heads=2)
    assert len(net.masker.attentions) == 3 and len(tiny().masker.attentions) == 0
    assert net(*inputs()).shape == (1, 2, 3200)
    with pytest.raises(ValueError, match=r"attention_heads \(3\) must divide bn_chan \(8\)"):
        tiny(attention_heads=3)


def test_the_fused_norm_is_asteroids_global_layer_norm():
    norm, theirs, grid = _norm("gLN")(8), norms.get("gLN")(8), torch.randn(2, 8, 5, 7) * 3 + 1
    torch.testing.assert_close(norm(grid), theirs(grid))
