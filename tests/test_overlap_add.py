"""The windows of long recordings: lengths, seams, clocks, order and memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from local_models.separator import Streams
from utils.data.clock import frames_covering, frames_to_samples
from utils.errors import UserError
from utils.separation.overlap_add import assign_recording, separate_blocks, separate_long, stretches

CLOCKS = {"sample_rate": 16000, "fps": 25.0}
WINDOWS = {"window_sec": 2.0, "hop_sec": 1.2}


class Identity(nn.Module):
    """Gives the mixture as each of two voices, and remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths, self.frames = [], []

    def forward(self, mixture, visual):
        self.lengths.append(mixture.shape[-1])
        self.frames.append(None if visual is None else visual.shape[2])
        return mixture[:, None].repeat(1, 2, 1)


def noise(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1600, 1601, 31999, 32000, 32001, 51200, 51201, 80007, 480_123])
def test_an_identity_network_gives_the_input_back_to_the_sample(length):
    mixture = noise(length)
    visual = torch.zeros(2, frames_covering(length, **CLOCKS), 3)
    voices = separate_long(Identity(), mixture, visual, **WINDOWS, **CLOCKS)
    assert voices.shape == (2, length)
    assert (voices - mixture).abs().max() <= 1e-6


@pytest.mark.parametrize("fps", [24.0, 29.97, 30000 / 1001, 59.94])
@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050])
def test_rates_without_a_whole_number_of_samples_in_a_frame_lose_nothing(fps, sample_rate):
    length = 7 * sample_rate + 13
    mixture = noise(length)
    n_frames = frames_covering(length, sample_rate, fps)
    assert frames_to_samples(n_frames - 1, sample_rate, fps) < length <= frames_to_samples(n_frames, sample_rate, fps)
    voices = separate_long(
        Identity(), mixture, torch.zeros(1, n_frames, 3), window_sec=2.0, hop_sec=1.0, sample_rate=sample_rate, fps=fps
    )
    assert voices.shape == (2, length)
    assert (voices - mixture).abs().max() <= 1e-6


def test_an_input_up_to_the_window_is_one_pass():
    model = Identity()
    separate_long(model, noise(32000), None, **WINDOWS, **CLOCKS)
    assert model.lengths == [32000]
    separate_long(model, noise(32001), None, **WINDOWS, **CLOCKS)
    assert len(model.lengths) == 3


def test_every_window_of_a_long_input_is_a_whole_one():
    model = Identity()
    separate_long(model, noise(16000 * 9 + 100), torch.zeros(2, 226, 3), **WINDOWS, **CLOCKS)
    assert set(model.frames) == {50}
    assert set(model.lengths[:-1]) == {32000}
    assert 32000 - 640 < model.lengths[-1] <= 32000


def test_the_network_sees_the_frames_of_the_samples_it_hears():
    class Probe(nn.Module):
        """Voices hold the difference between the sample's own frame number and the one that the cues show."""

        def forward(self, mixture, visual):
            shown = visual[:, :, :, 0].repeat_interleave(640, dim=2)[..., : mixture.shape[-1]]
            return shown - mixture[:, None]

    length = 16000 * 7 + 321
    mixture = torch.div(torch.arange(length), 640, rounding_mode="floor").float()
    visual = torch.arange(frames_covering(length, **CLOCKS)).float().reshape(1, -1, 1).repeat(2, 1, 1)
    assert separate_long(Probe(), mixture, visual, **WINDOWS, **CLOCKS).abs().max() == 0


def test_voices_fade_without_a_step_where_windows_disagree():
    class Drifting(nn.Module):
        """Each window is louder than the one before: the hardest case for a seam."""

        gain = 0.0

        def forward(self, mixture, visual):
            self.gain += 1.0
            return (mixture * self.gain)[:, None]

    voices = separate_long(Drifting(), torch.ones(16000 * 6), torch.zeros(1, 150, 1), **WINDOWS, **CLOCKS)
    assert voices.max() > 3.9
    assert voices.diff().abs().max() < 3e-4  # a fade of 0.8 s; a seam would be a step of 1


def test_one_frame_too_few_is_repeated_and_one_too_many_left_out():
    for n_frames in (99, 100, 101):
        voices = separate_long(Identity(), noise(64000), torch.zeros(2, n_frames, 3), **WINDOWS, **CLOCKS)
        assert voices.shape == (2, 64000)
    for n_frames in (98, 102):
        with pytest.raises(UserError, match=f"{n_frames} video frames where the sound has 100"):
            separate_long(Identity(), noise(64000), torch.zeros(2, n_frames, 3), **WINDOWS, **CLOCKS)


def test_windows_of_an_audio_only_network_are_put_in_one_order():
    class Shuffling(nn.Module):
        """Tells three tones apart perfectly, but gives them in another order each time."""

        calls = 0

        def forward(self, mixture, visual):
            spectrum = torch.fft.rfft(mixture)
            hz = torch.fft.rfftfreq(mixture.shape[-1], 1 / 16000)
            bands = [(hz >= low) & (hz < low + 1000) for low in (0, 1000, 2000)]
            voices = [torch.fft.irfft(spectrum * band, mixture.shape[-1]) for band in bands]
            self.calls += 1
            return torch.stack([voices[(k + self.calls) % 3] for k in range(3)], dim=1)

    time = torch.arange(16000 * 8, dtype=torch.float64) / 16000
    tones = torch.stack([torch.sin(2 * torch.pi * hz * time) for hz in (500, 1500, 2500)]).float()
    model = Shuffling()
    voices = separate_long(model, tones.sum(dim=0), None, **WINDOWS, **CLOCKS)
    assert model.calls > 3
    assert (voices - tones[[1, 2, 0]]).abs().max() < 1e-3  # the order of the first window


def test_windows_with_faces_are_never_reordered():
    class Swapping(nn.Module):
        calls = 0

        def forward(self, mixture, visual):
            self.calls += 1
            voices = torch.stack([mixture, -mixture], dim=1)
            return voices if self.calls == 1 else voices.flip(1)

    voices = separate_long(Swapping(), torch.ones(64000), torch.zeros(2, 100, 1), **WINDOWS, **CLOCKS)
    assert (voices[:, 0] == torch.tensor([1.0, -1.0])).all()
    assert (voices[:, -1] == torch.tensor([-1.0, 1.0])).all()


@pytest.mark.parametrize(("window_sec", "hop_sec"), [(2.0, 2.0), (2.0, 3.0), (2.0, 0.9), (0.01, 0.005), (2.0, 0.0)])
def test_windows_that_cannot_be_joined_are_refused(window_sec, hop_sec):
    with pytest.raises(UserError, match="at least half"):
        separate_long(Identity(), noise(64000), None, window_sec=window_sec, hop_sec=hop_sec, **CLOCKS)


def test_a_network_that_changes_the_length_is_not_hidden():
    class Short(nn.Module):
        def forward(self, mixture, visual):
            return mixture[:, None, 1:]

    with pytest.raises(ValueError, match="15999 samples for 16000"):
        separate_long(Short(), noise(16000), None, **WINDOWS, **CLOCKS)


def test_blocks_stream_from_a_reader_without_the_whole_recording():
    mixture, asked = noise(16000 * 10).numpy(), []

    def read(start: int, count: int) -> torch.Tensor:
        asked.append((start, count))
        return torch.from_numpy(mixture[start : start + count])

    blocks = separate_blocks(Identity(), read, None, len(mixture), **WINDOWS, **CLOCKS)
    first = next(blocks)
    assert asked == [(0, 32000)]
    voices = np.concatenate([first.numpy(), *(block.numpy() for block in blocks)], axis=1)
    assert voices.shape == (2, len(mixture))
    assert np.abs(voices - mixture).max() <= 1e-6
    assert max(count for _, count in asked) <= 32000


MEMORY_PROBE = """
import resource, sys, torch
from utils.separation.overlap_add import separate_blocks
torch.set_num_threads(1)
class Doubling(torch.nn.Module):
    def forward(self, mixture, visual):
        return mixture[:, None].repeat(1, 2, 1)
total = 0
for block in separate_blocks(Doubling(), lambda start, count: torch.randn(count),
                             lambda first, count: torch.zeros(2, count, 512), int(sys.argv[1]) * 16000,
                             window_sec=4.0, hop_sec=3.0, sample_rate=16000, fps=25.0):
    total += block.shape[1]
assert total == int(sys.argv[1]) * 16000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB
"""


def test_ten_minutes_take_no_more_memory_than_one(repo_root):
    peaks = []
    for minutes in (1, 10):
        command = [sys.executable, "-c", MEMORY_PROBE, str(60 * minutes)]
        peaks.append(int(subprocess.run(command, cwd=repo_root, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 20_000, f"peaks of 1 and 10 minutes: {peaks} KiB"  # the ten minutes alone are 115 MB


class Comparing(nn.Module):
    """Gives the mixture and a late copy of it as streams, in an order that changes from call to call.

    It says whose each stream is, weakly, and is wrong in some of its five windows.
    """

    matcher = True

    def __init__(self, wrong: set[int]) -> None:
        super().__init__()
        self.wrong, self.calls = wrong, 0

    def streams(self, mixture, visual):
        call, self.calls = self.calls % 5, self.calls + 1
        swapped = call % 2 == 1
        sources = torch.stack([mixture, mixture.roll(100, dims=-1)], dim=1)
        evidence = np.eye(2)[::-1] if swapped != (call in self.wrong) else np.eye(2)
        return Streams(sources.flip(1) if swapped else sources, evidence[None, ..., None].copy(), np.ones((1, 2), bool))

    def arrange(self, estimates, orders, mixture):
        return estimates[:, list(orders[0])]


@pytest.mark.parametrize("wrong", [set(), {0}, {4}, {1, 3}])
def test_the_order_is_decided_by_the_whole_recording(wrong):
    mixture, model = noise(16000 * 6 + 800), Comparing(wrong)
    assert len(list(stretches(len(mixture), 50, 30, **CLOCKS))) == 5
    voices = separate_long(model, mixture, torch.ones(2, 152, 3), **WINDOWS, **CLOCKS)
    assert model.calls == 10  # once to decide, once to separate
    assert torch.equal(voices[0], mixture)  # most of its windows say that this is the voice of the first face
    torch.testing.assert_close(voices[1, 100:16000], mixture[: 16000 - 100])


def test_how_sure_the_order_is_comes_with_it():
    reads = (lambda start, count: noise(16000 * 9)[start : start + count], lambda first, count: torch.ones(2, count, 3))
    model, length = Comparing(set()), 16000 * 6
    found = assign_recording(model, *reads, length, **WINDOWS, **CLOCKS)
    assert len(found.orders) == model.calls == 5
    assert min(found.certainties) > 0.99  # two nats a window
    doubtful = assign_recording(Comparing({0, 1}), *reads, length, **WINDOWS, **CLOCKS)
    assert 0.5 < max(doubtful.certainties) < 0.9
