"""Live separation: tracks whatever the pieces that the sound comes in, places of people, files that are aligned."""

import numpy as np
import pytest
import soundfile
import torch

from local_models.causal import CausalTFDPRNN
from utils.errors import UserError
from utils.live.faces import Embeddings
from utils.live.tracks import LiveTracks
from utils.live.voices import LiveVoices
from utils.separation.assignment import NO_STREAM

SMALL = {"bn_chan": 8, "hid_size": 6, "n_repeats": 3, "n_audio_repeats": 1, "visual_chan": 6, "visual_hid": 8,
         "visual_blocks": 2, "visual_dim": 5}  # fmt: skip


def made(seed=0, **more):
    """A small network, with faces that change something."""
    torch.manual_seed(seed)
    network = CausalTFDPRNN(**SMALL | more).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def embeddings_of(visual):
    n_people, n_frames, dim = visual.shape
    known = Embeddings(n_people, dim)
    for frame in range(n_frames):
        known.set(frame, visual[:, frame].numpy())
    return known


def separated(network, mixture, visual, sizes):
    """The tracks of a stream in pieces of so many frames, without the delay."""
    voices = LiveVoices(network, embeddings_of(visual), len(visual), None, wait=False)
    step, delay = network.config.step, network.config.delay
    n_frames = -(-(len(mixture) + delay) // step)
    samples = np.zeros(n_frames * step, np.float32)
    samples[: len(mixture)] = mixture
    parts, start = [], 0
    while start < n_frames:
        count = min(next(sizes), n_frames - start)
        parts.append(voices.add(samples[start * step : (start + count) * step]))
        start += count
    return np.concatenate(parts, axis=1)[:, delay : delay + len(mixture)]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("more", [{}, {"lookahead_frames": 2}, {"visual_delay_frames": 3}, {"n_src": 1, "n_faces": 1}])
def test_tracks_are_the_networks_estimates_whatever_the_pieces(size, more):
    network = made(**more)
    mixture, visual = torch.randn(16000), torch.randn(2, 25, 5)
    with torch.inference_mode():
        if network.config.n_faces == 1:
            wanted = network(mixture.expand(2, -1), visual.unsqueeze(1))[:, 0]
        else:
            wanted = network(mixture[None], visual[None])[0]
    found = separated(network, mixture.numpy(), visual, iter([size] * 100))
    late = 640 * network.config.visual_delay_frames  # before that no face is known, and all is the residual's
    fade = network.config.step + late + network.config.lookahead_frames * 640
    assert np.abs(found[:2] - wanted.numpy())[:, fade:].max() < 1e-5 * float(wanted.abs().max())
    assert np.abs(found.sum(axis=0) - mixture.numpy()).max() < 1e-5


def test_a_face_that_left_gives_its_sound_to_the_residual():
    network, visual = made(), torch.randn(2, 100, 5)
    visual[1, 30:] = 0
    found = separated(network, torch.randn(64000).numpy(), visual, iter([1] * 200))
    assert np.abs(found[1, : 640 * 50]).max() > 0 and not found[1, 640 * 60 :].any()


def test_whose_the_streams_are_is_decided_by_the_past_alone():
    network = made(match_chan=4, match_hid=8)
    mixture, visual = torch.randn(3 * 16000), torch.randn(2, 75, 5)
    one = separated(network, mixture.numpy(), visual, iter([1] * 100))
    other_mixture, other_visual = mixture.clone(), visual.clone()
    other_mixture[32000:], other_visual[:, 50:] = 0.5, 0.25
    other = separated(network, other_mixture.numpy(), other_visual, iter([1] * 100))
    same = 32000 - network.config.latency
    assert np.array_equal(one[:, :same], other[:, :same])
    assert one[:2, : 640 * 10].any() == False  # noqa: E712 (nobody has a voice before the first comparison)
    assert one[:2, 640 * 20 :].any(axis=1).any()


def test_late_embeddings_are_not_waited_for_and_are_counted():
    network = made()
    known = Embeddings(2, 5)
    voices = LiveVoices(network, known, 2, None, wait=False)
    voices.add(np.zeros(640 * 4, np.float32))
    assert voices.n_late == 4
    known.set(0, np.ones((2, 5), np.float32))
    assert not known.get(0, 2)[:, 1].any() and known.get(0, 2)[:, 0].all()


def test_old_embeddings_are_forgotten_and_not_mistaken_for_new_ones():
    known = Embeddings(1, 2)
    for frame in range(1600):
        known.set(frame, np.full((1, 2), frame + 1, np.float32))
    assert not known.get(50, 1).any() and known.get(1599, 2)[0, :, 0].tolist() == [1600, 0]


def test_files_are_as_long_as_the_sound(tmp_path):
    with LiveTracks(tmp_path / "out", ["face1", "rest"], delay=100) as tracks:
        for start in range(0, 1000, 250):
            tracks.hear(np.full(250, 0.1, np.float32))
            tracks.add(np.tile(np.arange(start, start + 250, dtype=np.float32), (2, 1)) / 10000)
            tracks.flush()
            assert soundfile.info(tmp_path / "out/face1.wav").frames == start + 150
        tracks.add(np.zeros((2, 640), np.float32))
    lengths = {path.name: soundfile.info(path).frames for path in (tmp_path / "out").glob("*.wav")}
    assert lengths == {"sound.wav": 1000, "face1.wav": 1000, "rest.wav": 1000}
    assert soundfile.read(tmp_path / "out/face1.wav")[0][0] == pytest.approx(0.01)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        LiveTracks(tmp_path, ["face1"], 0)
    assert NO_STREAM == -1 and [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
