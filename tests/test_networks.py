"""What every separation network must do, whatever its masker: shapes, clocks, faces, the audio-only baseline, files."""

import numpy as np
import pytest
import torch
from asteroid.models import BaseModel
from separation_helpers import wake

from local_models.configs import NETWORK_CONFIGS
from local_models.networks import NETWORKS, build_network
from local_models.separator import AVSeparator, fit_to_mixture
from local_models.visual import resample_frames
from utils.errors import UserError
from utils.training.experiment import load_model, save_model

VISUAL = {"visual_dim": 6, "visual_chan": 4, "visual_hid": 8, "visual_blocks": 1}
FREE = {**VISUAL, "n_filters": 16, "kernel_size": 16, "stride": 8, "bn_chan": 8}
STFT = {**VISUAL, "n_filters": 64, "kernel_size": 64, "stride": 16, "bn_chan": 8}
DPRNN = {**FREE, "hid_size": 8, "chunk_size": 10, "hop_size": 5, "n_repeats": 2}
GRID = {**STFT, "hid_size": 8, "bands": "4x4 2x8", "n_repeats": 3, "n_audio_repeats": 1}
CAUSAL = {**GRID, "stride": 160, "kernel_size": 320, "n_filters": 320, "bands": "8x4 16x8", "grid_stride": 4}
TCN = {**FREE, "hid_chan": 8, "skip_chan": 8, "n_blocks": 2, "n_repeats": 2}
DILATED = {**STFT, "audio_chan": 4, "hid_size": 8, "fc_size": 8}
UNET = {**STFT, "cues": "lips", "unet_chan": 4, "attribute_chan": 4}
for _config in (DILATED, UNET):
    del _config["bn_chan"]
for _name in ("visual_hid", "visual_blocks"):
    del DILATED[_name]
KINDS = {
    "av_dprnn": DPRNN,
    "av_dprnn-every-block": {**DPRNN, "fuse_every_block": True},
    "av_tfdprnn": GRID,
    "av_tfdprnn-no-audio-blocks": {**GRID, "n_audio_repeats": 0, "grid_stride": 1},
    "av_tfdprnn-one-fusion": {**GRID, "fuse_every_block": False, "attention_heads": 2},
    "av_tfdprnn-no-exchange": {**GRID, "exchange": False, "bands": "8x4"},
    "av_tfdprnn_causal": CAUSAL,
    "av_tfdprnn_causal-lookahead": {**CAUSAL, "lookahead_frames": 2, "n_audio_repeats": 0, "fuse_every_block": False},
    "av_convtasnet": TCN,
    "av_convtasnet-early": {**TCN, "n_repeats": 1, "n_audio_repeats": 0},
    "looking_to_listen": DILATED,
    "visualvoice-lips": UNET,
    "visualvoice-face": {**UNET, "cues": "face", "face_dim": 6, "attention": "self", "num_identity_frames": 2},
    "visualvoice-both": {**UNET, "cues": "lips+face", "face_dim": 2, "attention": "lips_to_face", "with_context": True},
}
every = pytest.mark.parametrize("kind", KINDS)
every_with_streams = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "looking_to_listen"])


def tiny(kind: str, **changes) -> AVSeparator:
    """A small network in which everything takes part."""
    torch.manual_seed(0)
    config_type = NETWORK_CONFIGS[kind.partition("-")[0]]
    network = wake(build_network(config_type(**{**KINDS[kind], **changes})).eval())
    if hasattr(network.masker, "masks"):  # those that start as equal shares of the mixture
        torch.nn.init.normal_(network.masker.masks.bias, std=0.3)
    return network


def test_every_network_is_tested_here():
    assert {kind.partition("-")[0] for kind in KINDS} == {name for name in NETWORKS if name != "voice_to_mouth"}


@every
@pytest.mark.parametrize("length", [1600, 1601, 4000, 31999])
def test_output_is_as_long_as_the_input_to_the_sample(kind, length):
    frames = max(1, round(length * 25 / 16000))
    with torch.no_grad():
        assert tiny(kind)(torch.randn(2, length), torch.randn(2, 2, frames, 6)).shape == (2, 2, length)


@every_with_streams
def test_any_number_of_faces_gives_as_many_estimates(kind):
    net = tiny(kind)
    for faces in (1, 2, 3, 9):
        assert net(torch.randn(1, 3200), torch.randn(1, faces, 5, 6)).shape == (1, faces, 3200)


def test_a_network_that_sees_all_faces_together_refuses_another_number_of_them():
    with pytest.raises(ValueError, match="3 faces for a network that sees exactly 2 together"):
        tiny("looking_to_listen")(torch.randn(1, 3200), torch.randn(1, 3, 5, 6))


@every
def test_one_face_gives_one_estimate(kind):
    net = tiny(kind, n_src=1, n_faces=1)
    assert net(torch.randn(3, 3200), torch.randn(3, 1, 5, 6)).shape == (3, 1, 3200)


@every
def test_an_extraction_network_takes_each_of_several_faces_as_if_it_were_the_only_one(kind):
    net = tiny(kind, n_src=1, n_faces=1, fit_to_mixture=False)
    mixture, visual = torch.randn(1, 3200), torch.randn(1, 2, 5, 6)
    torch.testing.assert_close(net(mixture, visual)[:, :1], net(mixture, visual[:, :1]))


@every_with_streams
def test_swapped_faces_swap_the_estimates_exactly(kind):
    net, mixture, visual = tiny(kind), torch.randn(2, 3200), torch.randn(2, 3, 5, 6)
    if "causal" in kind:  # which has seen nobody before the first picture: then places differ
        net.visual_net.unseen.data[:] = net.visual_net.unseen.data[:1]
    order = [2, 0, 1]
    torch.testing.assert_close(net(mixture, visual[:, order]), net(mixture, visual)[:, order], rtol=1e-3, atol=1e-3)


@every
def test_mixtures_of_a_batch_hear_nothing_of_each_other(kind):
    net, mixture, visual = tiny(kind), torch.randn(3, 3200), torch.randn(3, 2, 5, 6)
    torch.testing.assert_close(net(mixture, visual)[1:2], net(mixture[1:2], visual[1:2]), rtol=1e-3, atol=1e-3)


@every
def test_sources_that_no_face_was_seen_of_still_differ(kind):
    estimates = tiny(kind, fit_to_mixture=False)(torch.randn(1, 3200), torch.zeros(1, 2, 5, 6))
    assert (estimates[0, 0] - estimates[0, 1]).abs().max() > 1e-3 * estimates.abs().max()


@every
def test_gradients_reach_the_visual_branch_and_every_parameter(kind):
    net, visual = tiny(kind).train(), torch.randn(3, 2 if kind == "looking_to_listen" else 8, 5, 6)
    visual[:, :, 3] = 0  # a frame without a mouth, in all places of the list
    visual[0] = 0  # a mixture of which no face is seen
    net(torch.randn(3, 3200), visual).square().mean().backward()
    trained = [(name, p.grad) for name, p in net.named_parameters() if p.requires_grad]
    without = [name for name, grad in trained if grad is None or not grad.abs().sum() > 0]
    assert without == []


@every
def test_the_audio_only_baseline_takes_no_faces_and_has_no_visual_weights(kind):
    net = tiny(kind, n_faces=0)
    assert net(torch.randn(2, 3200)).shape == (2, 2, 3200)
    assert not [name for name in net.state_dict() if "visual" in name or "fusion" in name or "exchange" in name]
    with pytest.raises(ValueError, match="audio-only"):
        net(torch.randn(2, 3200), torch.randn(2, 2, 5, 6))


@every
def test_without_visual_embeddings_no_face_is_seen(kind):
    net, mixture = tiny(kind).eval(), torch.randn(2, 3200)
    torch.testing.assert_close(net(mixture), net(mixture, torch.zeros(2, 2, 5, 6)))


@every
def test_wrong_shapes_are_named(kind):
    net = tiny(kind)
    with pytest.raises(ValueError, match="needs the visual embeddings of its target"):
        tiny(kind, n_src=1, n_faces=1)(torch.randn(1, 1600))
    with pytest.raises(ValueError, match=r"\(batch, n_faces, video_frames, 6\)"):
        net(torch.randn(1, 1600), torch.randn(1, 2, 5, 7))
    with pytest.raises(ValueError, match=r"\(batch, time\)"):
        net(torch.randn(1600), torch.randn(1, 2, 5, 6))


@every
@pytest.mark.parametrize("fit", [True, False])
def test_level_of_the_mixture_only_scales_the_estimates(kind, fit):
    net, mixture, visual = tiny(kind, fit_to_mixture=fit), torch.randn(1, 3200), torch.randn(1, 2, 5, 6)
    torch.testing.assert_close(net(100 * mixture, visual), 100 * net(mixture, visual), rtol=1e-3, atol=1e-3)


@every
@pytest.mark.parametrize("fit", [True, False])
def test_silence_in_gives_silence_out(kind, fit):
    estimates = tiny(kind, fit_to_mixture=fit)(torch.zeros(1, 3200), torch.randn(1, 2, 5, 6))
    assert torch.isfinite(estimates).all() and estimates.abs().max() < 1e-6


@every
def test_its_arguments_make_the_same_network_again(kind):
    net = tiny(kind)
    again = type(net)(**net.get_model_args()).eval()
    again.load_state_dict(net.state_dict())
    mixture, visual = torch.randn(1, 1600), torch.randn(1, 2, 3, 6)
    assert again.config == net.config
    torch.testing.assert_close(again(mixture, visual), net(mixture, visual))


@every
@pytest.mark.parametrize("n_faces", [0, 2])
def test_a_saved_network_is_an_asteroid_model_that_separates(kind, n_faces, tmp_path):
    """By its own class, by Asteroid's base class, and by `load_model`; the file holds tensors and plain types only."""
    net, path = tiny(kind, n_faces=n_faces, visual_dropout=0.5), str(tmp_path / "best_model.pth")
    save_model(path, net, {"epoch": 3, "val_loss": -7.5})
    saved = torch.load(path, weights_only=True)
    assert saved["model_name"] == type(net).__name__ and saved["model_args"] == net.get_model_args()
    assert saved["infos"]["epoch"] == 3 and "asteroid_version" in saved["infos"]["software_versions"]
    mixture = 0.1 * torch.randn(3200)
    visual = torch.randn(2, 5, 6) if n_faces else None
    wanted = net.separate(mixture, visual)
    assert wanted.shape == (2, 3200)
    for loaded in (type(net).from_pretrained(path), BaseModel.from_pretrained(path), load_model(path)):
        assert type(loaded) is type(net) and loaded.config == net.config and loaded.sample_rate == 16000
        torch.testing.assert_close(loaded.separate(mixture, visual), wanted)
    assert not load_model(path).training


def test_a_model_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "best_model.pth"
    with pytest.raises(UserError, match="stage 3 makes it"):
        load_model(path)
    saved = tiny("av_dprnn").serialize()
    saved = {name: saved[name] for name in ("model_name", "model_args", "state_dict")}
    others = [
        {"weights": torch.zeros(3)},
        [1.0],
        {**saved, "model_name": "ConvTasNet"},
        {**saved, "model_args": {**saved["model_args"], "hop_size": 3}},
        {**saved, "model_args": {**saved["model_args"], "bn_chan": 16}},
        {**saved, "model_args": {**saved["model_args"], "unknown": 3}},
    ]
    for other in others:
        torch.save(other, path)
        with pytest.raises(UserError, match=r"best_model.pth: not a model of this recipe \(.+\); train it again") as caught:
            load_model(path)
        assert "\n" not in str(caught.value)
    for content in (b"", b"PK\x03\x04 half", b"text"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a model of this recipe"):
            load_model(path)


@every
def test_numpy_and_torch_are_separated_alike_at_the_level_of_the_mixture(kind):
    net = tiny(kind, visual_dropout=0.5).train()
    mixture, visual = np.random.default_rng(0).standard_normal((1600,)), np.ones((2, 3, 6))
    estimates = net.separate(mixture, visual)
    assert isinstance(estimates, np.ndarray) and estimates.dtype == np.float32 and estimates.shape == (2, 1600)
    assert net.training  # as it was, although nothing was dropped
    as_tensors = net.separate(torch.from_numpy(mixture), torch.from_numpy(visual))
    np.testing.assert_allclose(as_tensors.numpy(), estimates, atol=1e-6)
    with torch.no_grad():
        given = (torch.from_numpy(array).float()[None] for array in (mixture, visual))
        np.testing.assert_allclose(net.eval()(*given)[0].numpy(), estimates, atol=1e-6)
    np.testing.assert_allclose(net.separate(0.01 * mixture, visual), 0.01 * estimates, atol=1e-4 * np.abs(estimates).max())


def test_estimates_of_any_level_and_sign_are_fitted_to_the_mixture():
    torch.manual_seed(0)
    sources = torch.randn(3, 2, 8000)
    mixture = sources.sum(dim=1)
    wrong = sources * torch.tensor([-30.0, 0.001])[:, None]
    torch.testing.assert_close(fit_to_mixture(wrong, mixture), sources, rtol=0, atol=0.05)
    alike = torch.stack([mixture, mixture], dim=1)
    torch.testing.assert_close(fit_to_mixture(alike, mixture).sum(dim=1), mixture, rtol=1e-2, atol=1e-2)


def test_visual_features_follow_the_clock_of_the_video():
    """A video frame that changes only moves the features of the audio frames that it overlaps or that interpolate to it."""
    net = tiny("av_dprnn", visual_blocks=0)
    visual = torch.ones(1, 1, 25, 6)
    n_frames = 2001  # one second: 16000 / 8 + 1
    before = net._visual_features(visual, n_frames)
    visual[0, 0, 10] = torch.randn(6)
    moved = (net._visual_features(visual, n_frames) - before).abs().sum(dim=2)[0, 0].nonzero().flatten()
    centre_sec = moved.float().mean() * 8 / 16000
    assert abs(centre_sec - 10.5 / 25) < 0.002  # frame 10 is shown from 0.40 to 0.44 s
    assert (moved.max() - moved.min()) * 8 / 16000 <= 2 / 25


def test_resampling_holds_the_ends_and_interpolates_between():
    frames = torch.tensor([[[0.0, 1.0, 4.0]]])
    resampled = resample_frames(frames, torch.tensor([-1.0, 0.0, 0.5, 1.5, 2.0, 9.0]))
    torch.testing.assert_close(resampled, torch.tensor([[[0.0, 0.0, 0.5, 2.5, 4.0, 4.0]]]))


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("av_dprnn", {"n_src": 2, "n_faces": 1}, "n_faces"),
        ("av_dprnn", {"kernel_size": 20}, "multiple of stride"),
        ("av_dprnn", {"hop_size": 4}, "multiple of hop_size"),
        ("av_tfdprnn", {"n_audio_repeats": 3}, "below n_repeats"),
        ("av_tfdprnn", {"bands": "8x5"}, "bins even"),
        ("av_tfdprnn", {"bands": "4x4"}, "covers 16 bins where the spectrum has 33; make it 32"),
        ("av_tfdprnn", {"grid_stride": 3}, "1 or an even number"),
        ("av_convtasnet", {"n_audio_repeats": 2}, "below n_repeats"),
        ("looking_to_listen", {"n_filters": 60}, "not below kernel_size"),
        ("looking_to_listen", {"match_chan": 8}, "set it to 0"),
        ("visualvoice-lips", {"n_filters": 96}, "power of two"),
        ("visualvoice-lips", {"attention": "lips_to_face"}, "needs cues"),
        ("visualvoice-both", {"face_dim": 9}, "are parts of visual_dim"),
    ],
)
def test_impossible_networks_are_refused(kind, changes, said):
    with pytest.raises(ValueError, match=said):
        NETWORKS[kind.partition("-")[0]](**{**KINDS[kind], **changes})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("av_dprnn")])
@pytest.mark.parametrize("n_faces", [0, 1, 2])
def test_estimates_after_each_block_end_with_the_networks_own(kind, n_faces):
    net = tiny(kind, n_faces=n_faces, n_src=n_faces or 2)
    mixture, visual = torch.randn(2, 3200), torch.randn(2, n_faces, 5, 6) if n_faces else None
    blocks = net.after_each_block(mixture, visual)
    assert len(blocks) == 2
    torch.testing.assert_close(blocks[-1], net(mixture, visual), rtol=0, atol=0)
    assert (blocks[0] - blocks[1]).abs().max() > 1e-3 * blocks[1].abs().max()
