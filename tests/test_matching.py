"""Comparing faces with voices: clocks, levels, what is left out, and that it can be learned."""

import numpy as np
import pytest
import torch

from local_models.av_tfdprnn import AVTFDPRNN
from local_models.matching import FaceVoiceMatcher

RATE, FPS = 16000, 25.0


def matcher(**changes) -> FaceVoiceMatcher:
    torch.manual_seed(0)
    return FaceVoiceMatcher(**({"visual_dim": 6, "chan": 8, "hid_chan": 16, "sample_rate": RATE, "video_fps": FPS} | changes))


def modulated(gains: torch.Tensor, seed: int) -> torch.Tensor:
    """Noise (time,) whose level in each video frame is a gain (frames,)."""
    noise = torch.randn(len(gains) * 640, generator=torch.Generator().manual_seed(seed))
    return noise * gains.repeat_interleave(640)


def examples(n: int, frames: int = 25) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mixtures of two voices and their faces: a face's first number is the level of its voice, the others are noise."""
    levels = torch.rand(n, 2, frames) + 0.05
    sources = torch.stack(
        [torch.stack([modulated(level, 2 * i + k) for k, level in enumerate(pair)]) for i, pair in enumerate(levels)]
    )
    visual = torch.randn(n, 2, frames, 6) * 0.3
    visual[..., 0] = 4 * levels
    return sources, visual, sources.sum(dim=1)


def test_a_frame_of_a_voice_is_that_of_the_face_at_the_same_time():
    net = matcher().eval()
    for frame in (3, 12, 20):
        click = torch.zeros(1, 16000)
        click[0, frame * 640 + 320] = 1.0
        energies = net._log_mels(click, click)[:, :32].mean(dim=1)[0]
        heard = (energies > energies.min() + 0.1).nonzero().float()
        assert abs((float(heard.mean()) + 0.5) * 0.01 - (frame + 0.5) / FPS) < 0.006
        changed = (net.voices(click, click, 25) - net.voices(torch.zeros_like(click), click, 25)).abs().sum(dim=-1)[0]
        assert abs(int(changed.argmax()) - frame) <= 1


@pytest.mark.parametrize(("rate", "fps", "n_frames"), [(16000, 25.0, 25), (8000, 25.0, 25), (16000, 30.0, 31)])
def test_shapes_and_rates(rate, fps, n_frames):
    net = matcher(sample_rate=rate, video_fps=fps).eval()
    agreement = net(torch.randn(3, 2, rate), torch.randn(3, 4, n_frames, 6), torch.randn(3, rate))
    assert agreement.shape == (3, 2, 4, n_frames)


def test_level_says_nothing_and_unseen_frames_say_nothing():
    net = matcher().eval()
    estimates, visual, mixture = examples(2)
    visual[:, 1, 5:9] = 0
    agreement = net(estimates, visual, mixture)
    assert not agreement[:, :, 1, 5:9].any() and agreement[:, :, 0].ne(0).all()
    torch.testing.assert_close(net(3 * estimates, visual, 3 * mixture), agreement, rtol=1e-3, atol=1e-4)


def test_it_learns_whose_voice_is_whose_and_a_network_puts_its_estimates_in_that_order():
    net = matcher()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    active = torch.ones(16, 2, dtype=torch.bool)
    for _ in range(60):
        sources, visual, mixture = examples(16)
        optimizer.zero_grad()
        net.contrastive_loss(sources, visual, mixture, active).backward()
        optimizer.step()
    sources, visual, mixture = examples(50)
    network = AVTFDPRNN(bn_chan=8, hid_size=8, n_repeats=1, n_audio_repeats=0, visual_dim=6, match_chan=8, match_hid=16).eval()
    network.matcher = net.eval()
    swapped = torch.arange(50) % 2 == 1
    given = torch.where(swapped[:, None, None], sources.flip(1), sources)
    with torch.inference_mode():
        ordered = network.in_order_of_faces(given, visual, mixture)
    right = (ordered == sources).flatten(1).all(dim=1)
    assert right.float().mean() > 0.9


def test_silent_speakers_and_unseen_faces_are_left_out_of_the_loss():
    net = matcher().eval()
    sources, visual, mixture = examples(4)
    nobody = torch.zeros(4, 2, dtype=torch.bool)
    assert net.contrastive_loss(sources, visual, mixture, nobody) == 0
    assert net.contrastive_loss(sources, torch.zeros_like(visual), mixture, ~nobody) == 0
    one = nobody.clone()
    one[0, 0] = True
    other = visual.clone()
    other[1:] = torch.randn_like(other[1:])  # faces of silent speakers
    args = (mixture, one)
    torch.testing.assert_close(net.contrastive_loss(sources, other, *args), net.contrastive_loss(sources, visual, *args))


def test_a_pretrained_network_that_gets_faces_starts_as_it_is():
    torch.manual_seed(0)
    small = {"bn_chan": 8, "hid_size": 8, "visual_dim": 6, "match_chan": 8, "match_hid": 16}
    network = AVTFDPRNN(**small).eval()
    for fusion in network.masker.fusions:
        torch.nn.init.normal_(fusion.affine.weight, std=0.1)
    mixture, visual = torch.randn(2, 8000), torch.randn(2, 2, 13, 6)
    torch.testing.assert_close(network(mixture, visual), network(mixture))
    estimates = network(mixture, visual)
    assert (estimates[:, 0] - estimates[:, 1]).abs().max() > 1e-4  # and the streams differ


def test_it_learns_whether_a_single_voice_is_heard():
    net = matcher()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)

    def drawn(n):
        sources, _, _ = examples(n)
        active = torch.ones(n, 2, dtype=torch.bool)
        active[::2, 1] = False
        sources = sources * active.unsqueeze(-1)
        mixture = sources.sum(dim=1)
        share = torch.rand(n, 1, 1)  # what a network makes of a single voice: parts of it
        parts = torch.cat([share, 1 - share], dim=1) * mixture.unsqueeze(1)
        return torch.where(active.all(dim=1)[:, None, None], sources, parts), mixture, active

    for _ in range(60):
        optimizer.zero_grad()
        net.alone_loss(*drawn(16)).backward()
        optimizer.step()
    estimates, mixture, active = drawn(40)
    alone = net.eval().alone(estimates, mixture)
    assert ((alone > 0) == ~active.all(dim=1)).float().mean() > 0.9


def test_silence_is_no_nan():
    net = matcher().eval()
    agreement = net(torch.zeros(1, 2, 16000), torch.randn(1, 2, 25, 6), torch.zeros(1, 16000))
    assert np.isfinite(agreement.detach().numpy()).all()


def test_the_order_is_learned_from_agreement_and_from_what_the_network_did_to_its_streams():
    torch.manual_seed(1)
    net = matcher()
    optimizer = torch.optim.Adam([net.scale, net.own_stream], 0.1)
    sources, visual, mixture = examples(40)
    active = torch.ones(40, 2, dtype=torch.bool)
    order = torch.tensor([[0, 1]] * 36 + [[1, 0]] * 4)  # the network has nine of ten in the order of the faces
    first = net.order_loss(sources, visual, mixture, order, active).item()
    for _ in range(60):
        optimizer.zero_grad()
        net.order_loss(sources, visual, mixture, order, active).backward()
        optimizer.step()
    assert net.own_stream > 0.5 and net.order_loss(sources, visual, mixture, order, active) < 0.6 * first
    assert net.order_loss(sources, torch.zeros_like(visual), mixture, order, active) == 0
