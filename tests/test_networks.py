"""What every separation network must do, whatever is in its middle: shapes, clocks, faces, the twin."""

import pytest
import torch
from separation_helpers import wake
from torch import nn

from local_models import MODELS
from local_models.separator import fit_to_mixture
from local_models.visual import resample_frames

VISUAL = {"visual_dim": 6, "visual_chan": 4, "visual_hid": 8, "visual_blocks": 1}
FREE = {**VISUAL, "n_filters": 16, "kernel_size": 16, "stride": 8, "bn_chan": 8}
STFT = {**VISUAL, "n_filters": 64, "kernel_size": 64, "stride": 16, "bn_chan": 8}
DPRNN = {"name": "avdprnn", "hid_size": 8, "chunk_size": 10, "hop_size": 5, "n_repeats": 2}
GRID = {"name": "avtfdprnn", "hid_size": 8, "bands": "4x4 2x8", "n_repeats": 3, "n_audio_repeats": 1}
NETWORKS = {
    "avdprnn": {**FREE, **DPRNN},
    "avdprnn-stft-fused": {**STFT, **DPRNN, "fb_name": "stft", "fuse_every_block": True},
    "avtfdprnn": {**STFT, **GRID},
    "avtfdprnn-no-audio-blocks": {**STFT, **GRID, "n_audio_repeats": 0, "grid_stride": 1, "fusion": "concat"},
    "avtfdprnn-shared": {**STFT, **GRID, "share_repeats": True, "mask": "mapping", "fuse_every_block": False},
    "avtfdprnn-alone": {**STFT, **GRID, "exchange": False, "mask": "real", "bands": "8x4"},
    "avconvtasnet": {**FREE, "name": "avconvtasnet", "hid_chan": 8, "skip_chan": 8, "n_blocks": 2, "n_repeats": 2},
    "avconvtasnet-early": {**FREE, "name": "avconvtasnet", "hid_chan": 8, "skip_chan": 8, "n_blocks": 2, "n_repeats": 1,
                           "n_audio_repeats": 0},
}  # fmt: skip

every = pytest.mark.parametrize("kind", NETWORKS)


def tiny(kind: str, **changes) -> nn.Module:
    """A small network in which everything takes part."""
    torch.manual_seed(0)
    return wake(build_network({"model": {**NETWORKS[kind], **changes}}).eval())


def test_every_network_of_the_registry_is_tested_here():
    assert {settings["name"] for settings in NETWORKS.values()} == set(MODELS)


@every
@pytest.mark.parametrize("length", [1600, 1601, 4000, 31999])
def test_output_is_as_long_as_the_input_to_the_sample(kind, length):
    frames = max(1, round(length * 25 / 16000))
    with torch.no_grad():
        assert tiny(kind)(torch.randn(2, length), torch.randn(2, 2, frames, 6)).shape == (2, 2, length)


@every
def test_any_number_of_faces_gives_as_many_voices(kind):
    net = tiny(kind)
    for faces in (1, 2, 3, 9):
        assert net(torch.randn(1, 3200), torch.randn(1, faces, 5, 6)).shape == (1, faces, 3200)


@every
def test_one_face_in_gives_one_voice_out(kind):
    net = tiny(kind, n_src=1, n_cues=1)
    assert net(torch.randn(3, 3200), torch.randn(3, 1, 5, 6)).shape == (3, 1, 3200)


@every
def test_an_extraction_network_takes_each_of_several_faces_as_if_alone(kind):
    net = tiny(kind, n_src=1, n_cues=1, fit_to_mixture=False)
    mix, faces = torch.randn(1, 3200), torch.randn(1, 2, 5, 6)
    torch.testing.assert_close(net(mix, faces)[:, :1], net(mix, faces[:, :1]))


@every
def test_swapped_faces_swap_the_voices_exactly(kind):
    net, mix, faces = tiny(kind), torch.randn(2, 3200), torch.randn(2, 3, 5, 6)
    order = [2, 0, 1]
    torch.testing.assert_close(net(mix, faces[:, order]), net(mix, faces)[:, order], rtol=1e-3, atol=1e-3)


@every
def test_mixtures_of_a_batch_hear_nothing_of_each_other(kind):
    net, mix, faces = tiny(kind), torch.randn(3, 3200), torch.randn(3, 2, 5, 6)
    torch.testing.assert_close(net(mix, faces)[1:2], net(mix[1:2], faces[1:2]), rtol=1e-3, atol=1e-3)


@every
def test_voices_that_no_face_was_seen_of_still_differ(kind):
    voices = tiny(kind, fit_to_mixture=False)(torch.randn(1, 3200), torch.zeros(1, 2, 5, 6))
    assert (voices[0, 0] - voices[0, 1]).abs().max() > 1e-3 * voices.abs().max()


@every
def test_gradients_reach_the_visual_branch_and_every_parameter(kind):
    net, faces = tiny(kind).train(), torch.randn(2, 8, 5, 6)
    faces[:, :, 3] = 0  # a frame without a mouth, in all places of the list
    net(torch.randn(2, 3200), faces).square().mean().backward()
    trained = [(name, p.grad) for name, p in net.named_parameters() if p.requires_grad]
    without = [name for name, grad in trained if grad is None or not grad.abs().sum() > 0]
    assert without == []


@every
def test_twin_without_faces_takes_none_and_has_no_visual_weights(kind):
    net = tiny(kind, n_cues=0)
    assert net(torch.randn(2, 3200)).shape == (2, 2, 3200)
    assert not [name for name in net.state_dict() if "visual" in name or "fusion" in name or "exchange" in name]
    with pytest.raises(ValueError, match="audio-only"):
        net(torch.randn(2, 3200), torch.randn(2, 2, 5, 6))


@every
def test_wrong_shapes_are_named(kind):
    net = tiny(kind)
    with pytest.raises(ValueError, match="no faces"):
        net(torch.randn(1, 1600))
    with pytest.raises(ValueError, match=r"\(batch, n_cues, frames, 6\)"):
        net(torch.randn(1, 1600), torch.randn(1, 2, 5, 7))
    with pytest.raises(ValueError, match=r"\(batch, time\)"):
        net(torch.randn(1600), torch.randn(1, 2, 5, 6))


@every
@pytest.mark.parametrize("fit", [True, False])
def test_loudness_of_the_mixture_only_scales_the_voices(kind, fit):
    net, mix, faces = tiny(kind, fit_to_mixture=fit), torch.randn(1, 3200), torch.randn(1, 2, 5, 6)
    torch.testing.assert_close(net(100 * mix, faces), 100 * net(mix, faces), rtol=1e-3, atol=1e-3)


@every
@pytest.mark.parametrize("fit", [True, False])
def test_silence_in_gives_silence_out(kind, fit):
    out = tiny(kind, fit_to_mixture=fit)(torch.zeros(1, 3200), torch.randn(1, 2, 5, 6))
    assert torch.isfinite(out).all() and out.abs().max() < 1e-6


@every
def test_config_builds_the_same_network_again(kind):
    net = tiny(kind)
    again = type(net)(**net.get_config()).eval()
    again.load_state_dict(net.state_dict())
    mix, faces = torch.randn(1, 1600), torch.randn(1, 2, 3, 6)
    torch.testing.assert_close(again(mix, faces), net(mix, faces))


def test_voices_of_any_loudness_and_sign_are_fitted_to_the_mixture():
    torch.manual_seed(0)
    voices = torch.randn(3, 2, 8000)
    mixture = voices.sum(dim=1)
    wrong = voices * torch.tensor([-30.0, 0.001])[:, None]
    torch.testing.assert_close(fit_to_mixture(wrong, mixture), voices, rtol=0, atol=0.05)
    alike = torch.stack([mixture, mixture], dim=1)
    torch.testing.assert_close(fit_to_mixture(alike, mixture).sum(dim=1), mixture, rtol=1e-2, atol=1e-2)


def test_cues_follow_the_clock_of_the_video():
    """A video frame that changes only moves the cues of the audio frames that it overlaps or that interpolate to it."""
    net = tiny("avdprnn", visual_blocks=0)
    faces = torch.ones(1, 1, 25, 6)
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


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("avdprnn", {"n_src": 2, "n_cues": 1}, "n_cues"),
        ("avdprnn", {"kernel_size": 20}, "multiple of stride"),
        ("avdprnn", {"fb_name": "mel"}, "known filterbanks: free, stft"),
        ("avdprnn", {"name": "transformer"}, "known networks: avconvtasnet, avdprnn, avtfdprnn"),
        ("avtfdprnn", {"n_audio_repeats": 3}, "below n_repeats"),
        ("avtfdprnn", {"bands": "8x5"}, "bins even"),
        ("avtfdprnn", {"bands": "4x4"}, "covers 16 bins where the spectrum has 33; make it 32"),
        ("avtfdprnn", {"grid_stride": 3}, "1 or an even number"),
        ("avtfdprnn", {"fusion": "sum"}, "film, concat"),
        ("avtfdprnn", {"mask": "binary"}, "complex, real, mapping"),
        ("avconvtasnet", {"n_audio_repeats": 2}, "below n_repeats"),
    ],
)
def test_impossible_networks_are_refused(kind, changes, said):
    with pytest.raises(ValueError, match=said):
        tiny(kind, **changes)


@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if NETWORKS[kind]["name"] == "avdprnn"])
@pytest.mark.parametrize("n_cues", [0, 1, 2])
def test_voices_after_each_block_end_with_the_networks_own(kind, n_cues):
    net = tiny(kind, n_cues=n_cues, n_src=n_cues or 2)
    mix, faces = torch.randn(2, 3200), torch.randn(2, n_cues, 5, 6) if n_cues else None
    blocks = net.after_each_block(mix, faces)
    assert len(blocks) == 2
    torch.testing.assert_close(blocks[-1], net(mix, faces), rtol=0, atol=0)
    assert (blocks[0] - blocks[1]).abs().max() > 1e-3 * blocks[1].abs().max()
