"""The time-domain audio-visual DPRNN: parity with Asteroid, its chunks, and extraction."""

import torch
from asteroid.masknn.recurrent import DPRNN

from local_models.av_dprnn import AVDPRNN, DPRNNMasker

TINY = {"n_filters": 16, "kernel_size": 16, "stride": 8, "bn_chan": 8, "hid_size": 8, "chunk_size": 10, "hop_size": 5,
        "n_repeats": 2, "visual_dim": 6, "visual_chan": 4, "visual_hid": 8, "visual_blocks": 1}  # fmt: skip


def tiny(**changes) -> AVDPRNN:
    torch.manual_seed(0)
    return AVDPRNN(**{**TINY, **changes}).eval()


def test_an_extraction_network_takes_each_of_several_faces_as_if_it_were_the_only_one():
    net, mixture, visual = tiny(n_src=1, n_faces=1), torch.randn(1, 3200), torch.randn(1, 2, 5, 6)
    features, visual_features = torch.randn(1, 16, 50), net._visual_features(visual, 50)
    both = net.masker(features, visual_features)
    torch.testing.assert_close(both[:, :1], net.masker(features, visual_features[:, :1]))
    assert net(mixture, visual).shape == (1, 2, 3200)


def test_mask_network_equals_asteroids_on_copied_weights():
    torch.manual_seed(1)
    sizes = {"bn_chan": 8, "hid_size": 4, "chunk_size": 10, "n_repeats": 2, "mask_act": "sigmoid"}
    theirs, ours = DPRNN(16, 2, **sizes).eval(), DPRNNMasker(16, 2, **sizes).eval()
    ours.load_state_dict(theirs.state_dict())
    features = torch.randn(3, 16, 87)
    torch.testing.assert_close(ours(features), theirs(features))


def test_chunks_hear_nothing_of_each_other_before_the_first_inter_path():
    net = tiny(hop_size=10).masker
    chunks = torch.randn(1, 8, 10, 4)
    changed = chunks.clone()
    changed[..., 2] += 1.0
    block = net.net[0]

    def intra(x):
        batch, chan, size, count = x.shape
        y = block.intra_RNN(x.transpose(1, -1).reshape(batch * count, size, chan))
        return block.intra_linear(y).reshape(batch, count, size, chan)

    difference = (intra(changed) - intra(chunks)).abs().sum(dim=(0, 2, 3))
    assert (difference > 0).tolist() == [False, False, True, False]


def test_a_block_whose_norms_are_zero_is_the_identity():
    block = tiny().masker.net[0]
    for norm in (block.intra_norm, block.inter_norm):
        torch.nn.init.zeros_(norm.gamma)
        torch.nn.init.zeros_(norm.beta)
    chunks = torch.randn(2, 8, 10, 7)
    torch.testing.assert_close(block(chunks), chunks, rtol=0, atol=0)
