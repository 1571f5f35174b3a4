"""The causal network: a stream gives what the whole gives, and nothing depends on what comes later than it says."""

import pytest
import torch
from separation_helpers import wake
from torch.nn.functional import pad

from local_models.causal import CausalTFDPRNN
from local_models.configs import CausalTFDPRNNConfig
from utils.training.config import read_config

SMALL = {"bn_chan": 8, "hid_size": 6, "n_repeats": 2, "n_audio_repeats": 1, "visual_chan": 4, "visual_hid": 6,
         "visual_blocks": 1, "visual_dim": 5, "n_filters": 512, "bands": "2x64 1x128"}  # fmt: skip
KINDS = {
    "faces": {},
    "lookahead": {"lookahead_frames": 1},
    "late faces": {"visual_delay_frames": 3, "lookahead_frames": 2},
    "audio-only": {"n_faces": 0},
    "extraction": {"n_src": 1, "n_faces": 1},
    "all blocks see": {"n_audio_repeats": 0},
}


def made(kind):
    torch.manual_seed(0)
    return wake(CausalTFDPRNN(**SMALL | KINDS[kind]).eval())


def given(network, n_samples=16017):
    n_faces = network.config.n_faces
    visual = torch.randn(2, n_faces, 25, 5) if n_faces else None
    return torch.randn(2, n_samples) * torch.linspace(0.01, 1, n_samples), visual


def streamed(network, mixture, visual, sizes, state=None):
    """The estimates of a stream in pieces of so many video frames, without the delay; and the last state."""
    config, length = network.config, mixture.shape[1]
    n_frames = -(-(length + config.delay) // config.step)
    mixture = pad(mixture, (0, n_frames * config.step - length))
    if visual is not None:
        visual = pad(visual, (0, 0, config.visual_delay_frames, n_frames))[:, :, :n_frames]
    state = state or network.initial_state(len(mixture), config.n_faces)
    parts, start = [], 0
    while start < n_frames:
        stop = min(start + next(sizes), n_frames)
        piece = None if visual is None else visual[:, :, start:stop]
        estimates, state = network.step(mixture[:, start * config.step : stop * config.step], piece, state)
        parts.append(estimates)
        start = stop
    return torch.cat(parts, dim=-1)[..., config.delay : config.delay + length], state


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_gives_what_the_whole_gives_for_every_size_of_pieces(kind):
    network = made(kind)
    mixture, visual = given(network)
    with torch.inference_mode():
        whole = network(mixture, visual)
        for sizes in ([1] * 99, [2] * 99, [7] * 99, [1, 5, 2, 11, 3] * 9):
            found, _ = streamed(network, mixture, visual, iter(sizes))
            assert (found - whole).abs().max() < 1e-5 * whole.abs().max()


def test_a_new_state_is_a_new_beginning():
    network = made("faces")
    mixture, visual = given(network)
    with torch.inference_mode():
        whole, used = streamed(network, mixture, visual, iter([3] * 99))
        again, _ = streamed(network, mixture, visual, iter([3] * 99))
        after, _ = streamed(network, mixture, visual, iter([3] * 99), used)
    assert torch.equal(whole, again) and not torch.allclose(whole, after, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimate_depends_on_no_sound_after_its_latency(kind):
    network = made(kind)
    mixture, visual = given(network)
    changed_at = 8000
    other = mixture.clone()
    other[:, changed_at:] += 1
    with torch.inference_mode():
        change = (network(mixture, visual) - network(other, visual)).abs().amax(dim=(0, 1))
    first = int((change > 0).nonzero()[0])
    assert changed_at - network.config.latency <= first <= changed_at
    assert network.config.latency == 960 + 640 * network.config.lookahead_frames  # 60 ms, and 40 for each frame


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "audio-only"])
def test_an_estimate_depends_on_no_picture_that_cannot_be_there_yet(kind):
    network = made(kind)
    config = network.config
    mixture, visual = given(network)
    other = visual.clone()
    other[:, :, 12:] += 1
    with torch.inference_mode():
        change = (network(mixture, visual) - network(mixture, other)).abs().amax(dim=(0, 1))
    known_at = (12 + config.visual_delay_frames) * config.step  # sound that comes in with the first of these embeddings
    first = int((change > 0).nonzero()[0])
    assert known_at - config.delay <= first < known_at - config.delay + config.step


def test_the_level_counts_for_nothing_from_the_first_sample_on():
    network = made("faces")
    mixture, visual = given(network)
    with torch.inference_mode():
        one, other = network(mixture, visual), network(mixture * 1000, visual)
    torch.testing.assert_close(other / 1000, one, rtol=1e-3, atol=1e-4)


def test_silence_and_very_short_sounds_pass():
    network = made("faces")
    with torch.inference_mode():
        assert not network(torch.zeros(1, 5000), torch.randn(1, 2, 8, 5)).any()
        assert network(torch.randn(1, 3), torch.randn(1, 2, 1, 5)).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stride": 80, "kernel_size": 240}, r"stride \(80\) times grid_stride \(4\) must be the samples of .* 640"),
        ({"video_fps": 30.0}, "533.333"),
        ({"stride": 640, "kernel_size": 640, "n_filters": 640, "bands": "10x32", "grid_stride": 1}, "an even number"),
    ],
)
def test_networks_without_a_common_frame_of_sound_and_pictures_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        CausalTFDPRNNConfig(**changes)


def test_the_slowest_visual_frontend_says_how_late_its_embeddings_are():
    config = read_config("conf/av_tfdprnn_causal.yml")
    assert config.with_visual_delay(9).model.visual_delay_frames == 9
    longer = read_config("conf/av_tfdprnn_causal.yml", ["--visual_delay_frames", "12"])
    assert longer.with_visual_delay(9).model.visual_delay_frames == 12
    default = read_config("conf/av_tfdprnn.yml")
    assert default.with_visual_delay(9) is default
