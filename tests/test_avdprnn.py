"""The separation network: shapes, clocks, the twin, parity with Asteroid, and what the faces do."""

import pytest
import torch
from asteroid.masknn.recurrent import DPRNN

from local_models import build_model
from local_models.avdprnn import AVDPRNN, AVDPRNNTasNet, fit_to_mixture
from local_models.visual import resample_frames

TINY = {"n_filters": 16, "kernel_size": 16, "stride": 8, "bn_chan": 8, "hid_size": 8, "chunk_size": 10, "hop_size": 5,
        "n_repeats": 2, "visual_dim": 6, "visual_chan": 4, "visual_hid": 8, "visual_blocks": 1}  # fmt: skip
STFT = {**TINY, "fb_name": "stft", "n_filters": 64, "kernel_size": 64, "stride": 16}


def tiny(**changes) -> AVDPRNNTasNet:
    torch.manual_seed(0)
    return AVDPRNNTasNet(**{**TINY, **changes}).eval()


@pytest.mark.parametrize("base", [TINY, STFT], ids=["free", "stft"])
@pytest.mark.parametrize("length", [1600, 1601, 4000, 31999])
def test_output_is_as_long_as_the_input_to_the_sample(base, length):
    net = tiny(**base)
    frames = max(1, round(length * 25 / 16000))
    assert net(torch.randn(2, length), torch.randn(2, 2, frames, 6)).shape == (2, 2, length)


def test_any_number_of_faces_gives_as_many_voices():
    net = tiny()
    for faces in (1, 2, 3, 5):
        assert net(torch.randn(1, 3200), torch.randn(1, faces, 5, 6)).shape == (1, faces, 3200)


def test_one_face_in_gives_one_voice_out():
    net = tiny(n_src=1, n_cues=1)
    assert net(torch.randn(3, 3200), torch.randn(3, 1, 5, 6)).shape == (3, 1, 3200)


def test_an_extraction_network_takes_each_of_several_faces_as_if_alone():
    net, mix, faces = tiny(n_src=1, n_cues=1), torch.randn(1, 3200), torch.randn(1, 2, 5, 6)
    features, cues = torch.randn(1, 16, 50), net._cues(faces, 50)
    both = net.masker(features, cues)
    torch.testing.assert_close(both[:, :1], net.masker(features, cues[:, :1]))
    assert net(mix, faces).shape == (1, 2, 3200)


def test_swapped_faces_swap_the_voices_exactly():
    net, mix, faces = tiny(fuse_every_block=True), torch.randn(1, 3200), torch.randn(1, 2, 5, 6)
    torch.testing.assert_close(net(mix, faces.flip(1)), net(mix, faces).flip(1))


def test_gradients_reach_the_visual_branch_and_every_parameter():
    net = tiny(fuse_every_block=True).train()
    net(torch.randn(2, 3200), torch.randn(2, 2, 5, 6)).square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_twin_without_faces_takes_none_and_has_no_visual_weights():
    net = tiny(n_cues=0)
    assert net(torch.randn(2, 3200)).shape == (2, 2, 3200)
    assert not [name for name in net.state_dict() if "visual" in name or "fusion" in name]
    with pytest.raises(ValueError, match="audio-only"):
        net(torch.randn(2, 3200), torch.randn(2, 2, 5, 6))


def test_wrong_shapes_are_named():
    net = tiny()
    with pytest.raises(ValueError, match="no faces"):
        net(torch.randn(1, 1600))
    with pytest.raises(ValueError, match=r"\(batch, n_cues, frames, 6\)"):
        net(torch.randn(1, 1600), torch.randn(1, 2, 5, 7))
    with pytest.raises(ValueError, match=r"\(batch, time\)"):
        net(torch.randn(1600), torch.randn(1, 2, 5, 6))


def test_mask_network_equals_asteroids_on_copied_weights():
    torch.manual_seed(1)
    sizes = {"bn_chan": 8, "hid_size": 4, "chunk_size": 10, "n_repeats": 2, "mask_act": "sigmoid"}
    theirs, ours = DPRNN(16, 2, **sizes).eval(), AVDPRNN(16, 2, **sizes).eval()
    ours.load_state_dict(theirs.state_dict())
    features = torch.randn(3, 16, 87)
    torch.testing.assert_close(ours(features), theirs(features))


def test_stft_network_with_masks_of_one_gives_the_mixture_back():
    net = tiny(**STFT, n_src=1, n_cues=1)

    def ones(features, cues):
        masks = torch.zeros(features.shape[0], 1, net.encoder.n_feats_out, features.shape[-1])
        masks[:, :, : net.encoder.n_feats_out // 2] = 1.0  # real part one, imaginary part zero
        return masks

    net.masker.forward = ones
    mix = torch.randn(1, 3333)
    torch.testing.assert_close(net(mix, torch.randn(1, 1, 5, 6))[:, 0], mix, atol=1e-2, rtol=0)


def test_voices_of_any_loudness_and_sign_are_fitted_to_the_mixture():
    torch.manual_seed(0)
    voices = torch.randn(3, 2, 8000)
    mixture = voices.sum(dim=1)
    wrong = voices * torch.tensor([-30.0, 0.001])[:, None]
    torch.testing.assert_close(fit_to_mixture(wrong, mixture), voices, rtol=0, atol=0.05)
    alike = torch.stack([mixture, mixture], dim=1)
    torch.testing.assert_close(fit_to_mixture(alike, mixture).sum(dim=1), mixture, rtol=1e-2, atol=1e-2)


def test_loudness_of_the_mixture_only_scales_the_voices():
    net, mix, faces = tiny(), torch.randn(1, 3200), torch.randn(1, 2, 5, 6)
    torch.testing.assert_close(net(100 * mix, faces), 100 * net(mix, faces), rtol=1e-3, atol=1e-4)


def test_silence_in_gives_silence_out():
    out = tiny()(torch.zeros(1, 3200), torch.randn(1, 2, 5, 6))
    assert torch.isfinite(out).all() and out.abs().max() < 1e-6


def test_cues_follow_the_clock_of_the_video():
    """A video frame that changes only moves the cues of the audio frames that it overlaps or that interpolate to it."""
    net = tiny(visual_blocks=0, kernel_size=16, stride=8)
    faces = torch.zeros(1, 1, 25, 6)
    n_frames = 2001  # one second: 16000 / 8 + 1
    quiet = net._cues(faces, n_frames)
    faces[0, 0, 10] = torch.randn(6)
    moved = (net._cues(faces, n_frames) - quiet).abs().sum(dim=2)[0, 0].nonzero().flatten()
    centre = moved.float().mean() * 8 / 16000  # seconds
    assert abs(centre - 10.5 / 25) < 0.002  # frame 10 is shown from 0.40 to 0.44 s
    assert (moved.max() - moved.min()) * 8 / 16000 <= 2 / 25


def test_resampling_holds_the_ends_and_interpolates_between():
    frames = torch.tensor([[[0.0, 1.0, 4.0]]])
    got = resample_frames(frames, torch.tensor([-1.0, 0.0, 0.5, 1.5, 2.0, 9.0]))
    torch.testing.assert_close(got, torch.tensor([[[0.0, 0.0, 0.5, 2.5, 4.0, 4.0]]]))


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


def test_config_builds_the_same_network_again():
    net = tiny(fuse_every_block=True)
    again = AVDPRNNTasNet(**net.get_config()).eval()
    again.load_state_dict(net.state_dict())
    mix, faces = torch.randn(1, 1600), torch.randn(1, 2, 3, 6)
    torch.testing.assert_close(again(mix, faces), net(mix, faces))


def test_impossible_networks_are_refused():
    with pytest.raises(ValueError, match="n_cues"):
        tiny(n_src=2, n_cues=1)
    with pytest.raises(ValueError, match="multiple of stride"):
        tiny(kernel_size=20, stride=8)
    with pytest.raises(ValueError, match="known networks: avdprnn"):
        build_model({"model": {"name": "transformer"}})
