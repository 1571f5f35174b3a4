"""Separation of recordings of any length, in overlapping windows of sound and video, in constant memory.

The recording comes from a reader and leaves as blocks, so that hours can stream from and to disk; `separate_long` does the
same for tensors. `FacesOnScreen` wraps a network for recordings in which faces come and go.

The clocks: video frame f begins at sample f * sample_rate / fps, rounded down and computed again for each f, so that the
rounding, where sample_rate / fps is not whole, stays below one sample and never adds up. Every window begins on a whole
frame. A recording no longer than the window is one pass. In a longer one the windows follow each other by the hop; the
last is moved back so that it is as long as the others. Over the samples that two windows share (window less hop) the
estimates fade from one to the other with weights cos^2 and sin^2, which sum to one.

An audio-only network gives the estimates in an order of its own in each window: there every window takes the order that
correlates best with the window before it over the shared samples. Where nobody speaks in them the order is a guess.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool1d, normalize, pad

from local_models.separator import Streams
from utils.data.clock import frames_covering, frames_to_samples
from utils.data.progress import progress_bar
from utils.embedding.threads import map_on_cores
from utils.errors import UserError
from utils.separation.assignment import NO_STREAM, STRETCH_FRAMES, Assignment, WindowEvidence, assign, in_stretches

# What to add to the network's opinion that a single voice is heard, by the number of faces seen, nats. Chosen on GLips'
# validation part: so lone people keep −0.3 dB of their voice, and two who both speak lose nothing.
_ALONE_NATS = {1: 1.0, 2: -2.0}

MixtureReader = Callable[[int, int], torch.Tensor]
"""(first sample, samples) -> float32 (samples,)."""

VisualReader = Callable[[int, int], torch.Tensor]
"""(first frame, frames) -> float32 (n_faces, frames, dim)."""


def check_windows(window_sec: float, hop_sec: float, fps: float) -> tuple[int, int]:
    """Window and hop in whole video frames.

    Raises:
        UserError: the windows would not overlap, or more than two of them would.
    """
    window_frames, hop_frames = round(window_sec * fps), round(hop_sec * fps)
    if not 1 <= hop_frames < window_frames <= 2 * hop_frames:
        raise UserError(
            f"--window_sec {window_sec:g} --hop_sec {hop_sec:g}: at {fps:g} frames/s that is {window_frames} and "
            f"{hop_frames} frames; the hop must be shorter than the window and at least half of it"
        )
    return window_frames, hop_frames


class Stretch(NamedTuple):
    """A window's place in a recording."""

    first_frame: int
    n_frames: int
    start: int  # first sample
    end: int  # last sample + 1
    fade: int  # first sample that the window before has too; its own first sample for the first window
    kept: int  # first sample that the next window has too; the end for the last window


def stretches(length: int, window: int, hop: int, sample_rate: int, fps: float) -> Iterator[Stretch]:
    """Cut a recording of `length` samples into windows of `window` video frames every `hop` frames."""
    n_frames = frames_covering(length, sample_rate, fps)
    for fade_frame in range(0, n_frames, hop):
        is_last = fade_frame + window >= n_frames
        first_frame = max(n_frames - window, 0) if is_last else fade_frame
        start, fade = (frames_to_samples(frame, sample_rate, fps) for frame in (first_frame, fade_frame))
        end = length if is_last else frames_to_samples(first_frame + window, sample_rate, fps)
        kept = length if is_last else frames_to_samples(fade_frame + hop, sample_rate, fps)
        yield Stretch(first_frame, min(window, n_frames), start, end, fade, kept)
        if is_last:
            return


def separate_blocks(
    model: nn.Module,
    read_mixture: MixtureReader,
    read_visual: VisualReader | None,
    length: int,
    *,
    window_sec: float,
    hop_sec: float,
    sample_rate: int,
    fps: float,
    assignment: Assignment | None = None,
) -> Iterator[torch.Tensor]:
    """Separate a recording piece by piece.

    Args:
        model: called with (1, time) and (1, n_faces, frames, dim) or None; gives (1, n_src, time). In eval mode.
        read_mixture: gives a stretch of the recording.
        read_visual: gives the visual embeddings of a stretch; None for an audio-only network.
        length: samples of the recording, at least 1.
        window_sec: the stretch that the network hears at once.
        hop_sec: from window to window; shorter than the window and at least half of it.
        sample_rate: of the recording, Hz.
        fps: of the video, frames for each second; windows keep to its frames without video too.
        assignment: of `assign_recording` with the same arguments; None makes it where the model compares faces with voices.

    Yields:
        float32 (n_src, samples) on the CPU; all blocks together are as long as the recording.

    Raises:
        UserError: window and hop do not fit each other.
    """
    window, hop = check_windows(window_sec, hop_sec, fps)
    places = list(stretches(length, window, hop, sample_rate, fps))
    clocks = {"window_sec": window_sec, "hop_sec": hop_sec, "sample_rate": sample_rate, "fps": fps}
    if assignment is None and read_visual is not None and compares(model) and len(places) > 1:
        assignment = assign_recording(model, read_mixture, read_visual, length, **clocks)

    def separate(window: Window) -> torch.Tensor:
        orders = assignment.orders[window.index] if assignment else None
        return separate_window(model, window.mixture, window.visual, orders)[0]

    windows = _windows(places, read_mixture, read_visual)
    tail = None  # the estimates of the window before over the samples shared with the coming one
    for place, estimates in zip(places, map_on_cores(separate, windows, len(places), _device(model)), strict=True):
        estimates = estimates[:, place.fade - place.start :]
        if tail is not None:
            estimates = _joined(tail, estimates, order_known=read_visual is not None)
        yield estimates[:, : place.kept - place.fade]
        tail = estimates[:, place.kept - place.fade :].clone()  # not a view, which would keep the whole window alive


class Window(NamedTuple):
    """What a network is given of a window."""

    index: int
    mixture: torch.Tensor  # (1, time)
    visual: torch.Tensor | None  # (1, n_faces, frames, dim)


def _windows(places: Sequence[Stretch], read_mixture: MixtureReader, read_visual: VisualReader | None) -> Iterator[Window]:
    for index, place in enumerate(places):
        mixture = read_mixture(place.start, place.end - place.start)[None]
        yield Window(index, mixture, None if read_visual is None else read_visual(place.first_frame, place.n_frames)[None])


def assign_recording(
    model: nn.Module,
    read_mixture: MixtureReader,
    read_visual: VisualReader,
    length: int,
    *,
    window_sec: float,
    hop_sec: float,
    sample_rate: int,
    fps: float,
) -> Assignment:
    """Decide by the whole recording which stream of each window belongs to which face; arguments as of `separate_blocks`.

    The windows are separated for it and forgotten again, so that memory does not grow with the recording.
    """
    window, hop = check_windows(window_sec, hop_sec, fps)
    found: list[WindowEvidence] = []
    tail = torch.empty(0, 0)
    places = list(stretches(length, window, hop, sample_rate, fps))

    @torch.inference_mode()
    def separate(window: Window) -> Streams:
        return model.streams(*_on_device(model, window.mixture, window.visual))

    windows = _windows(places, read_mixture, read_visual)
    separated = map_on_cores(separate, windows, len(places), _device(model))
    separated = progress_bar(separated, desc="whose voices", total=len(places), unit="window", leave=False)
    for place, streams in zip(places, separated, strict=True):
        estimates = streams.estimates[0].float().cpu()[:, place.fade - place.start :]
        shared = estimates[:, : tail.shape[1]]
        link = (normalize(tail, dim=1) @ normalize(shared, dim=1).T).numpy().astype(float)
        evidence = in_stretches(streams.evidence[0])
        found.append(WindowEvidence(evidence, streams.seen[0], link, place.n_frames, streams.alone))
        tail = estimates[:, place.kept - place.fade :].clone()
    return assign(found)


def separate_long(
    model: nn.Module,
    mixture: torch.Tensor,
    visual: torch.Tensor | None,
    *,
    window_sec: float,
    hop_sec: float,
    sample_rate: int,
    fps: float,
) -> torch.Tensor:
    """Separate a recording that is in memory; see `separate_blocks`.

    Args:
        mixture: float32 (time,).
        visual: (n_faces, frames, dim), or None. One frame too many is left out, one too few repeats the last.

    Returns:
        float32 (n_src, time).

    Raises:
        UserError: window and hop do not fit, or sound and video differ by more than one frame.
    """
    length = mixture.shape[-1]
    clocks = {"window_sec": window_sec, "hop_sec": hop_sec, "sample_rate": sample_rate, "fps": fps}
    if visual is not None:
        check_frames(visual.shape[1], frames_covering(length, sample_rate, fps))

    def read_visual(first: int, count: int) -> torch.Tensor:
        stretch = visual[:, first : first + count]
        return stretch if stretch.shape[1] == count else torch.cat([stretch, visual[:, -1:]], dim=1)

    blocks = separate_blocks(
        model,
        lambda start, count: mixture[start : start + count],
        None if visual is None else read_visual,
        length,
        **clocks,
    )
    estimates, done = torch.empty(0), 0
    for block in blocks:
        if not done:
            estimates = torch.empty(len(block), length)
        estimates[:, done : done + block.shape[1]] = block
        done += block.shape[1]
    return estimates


def check_frames(n_frames: int, expected_frames: int) -> None:
    """Refuse a video that does not belong to its sound.

    Raises:
        UserError: they differ by more than one frame.
    """
    if abs(n_frames - expected_frames) > 1:
        raise UserError(f"{n_frames} video frames where the sound has {expected_frames}; cut both to the same stretch")


def separate_window(
    model: nn.Module, mixture: torch.Tensor, visual: torch.Tensor | None, orders: np.ndarray | None = None
) -> torch.Tensor:
    """Run the network on its own device.

    Args:
        mixture: (batch, time).
        visual: (batch, n_faces, frames, dim), or None.
        orders: as of `Assignment`; None lets a model that compares faces with voices find them in these frames.

    Returns:
        float32 (batch, n_src, time) on the CPU, in the order of the faces.
    """
    return separate_and_assign(model, mixture, visual, orders)[0]


@torch.inference_mode()
def separate_and_assign(
    model: nn.Module, mixture: torch.Tensor, visual: torch.Tensor | None, orders: np.ndarray | None = None
) -> tuple[torch.Tensor, list[Assignment]]:
    """As `separate_window`; also how the order of each mixture was found, none where it was not looked for."""
    given = _on_device(model, mixture, visual)
    assignments: list[Assignment] = []
    if visual is None or not compares(model):
        estimates = model(*given)
    else:
        streams = model.streams(*given)
        if orders is None:
            links, n_frames = np.empty((0, streams.evidence.shape[1])), visual.shape[2]
            for evidence, seen in zip(streams.evidence, streams.seen, strict=True):
                window = WindowEvidence(in_stretches(evidence), seen, links, n_frames, streams.alone)
                assignments.append(assign([window]))
        all_orders = [assignment.orders[0] for assignment in assignments] or [orders] * len(mixture)
        each = zip(streams.estimates.split(1), all_orders, given[0].split(1), strict=True)
        estimates = torch.cat([_in_orders(model, *one, n_frames=visual.shape[2]) for one in each])
    if estimates.shape[-1] != mixture.shape[-1]:
        raise ValueError(f"the network gave {estimates.shape[-1]} samples for {mixture.shape[-1]}")
    return estimates.float().cpu(), assignments


def _in_orders(
    model: nn.Module, estimates: torch.Tensor, orders: np.ndarray, mixture: torch.Tensor, n_frames: int
) -> torch.Tensor:
    """Put streams (1, n_streams, time) into the orders of their stretches (n_stretches, n_faces), one fading into the next."""
    distinct, which = np.unique(orders, axis=0, return_inverse=True)
    if len(distinct) == 1:
        return model.arrange(estimates, distinct, mixture)
    frame = mixture.shape[-1] / n_frames  # samples, also the length of a fade
    stretch = np.minimum(np.arange(mixture.shape[-1]) / (STRETCH_FRAMES * frame), len(orders) - 1).astype(int)
    holds = torch.from_numpy(np.arange(len(distinct))[:, None] == which.ravel()[stretch]).to(estimates)  # (distinct, time)
    half = max(int(frame / 2), 1)
    weights = avg_pool1d(pad(holds[None], (half, half), mode="replicate"), 2 * half + 1, stride=1)[0]
    return sum(weight * model.arrange(estimates, order[None], mixture) for weight, order in zip(weights, distinct, strict=True))


def compares(model: nn.Module) -> bool:
    """Tell if a model compares faces with voices, so that the order of its estimates is still to be decided."""
    return getattr(model, "matcher", None) is not None


def _on_device(
    model: nn.Module, mixture: torch.Tensor, visual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    device = _device(model)
    return mixture.to(device), None if visual is None else visual.to(device)


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@torch.inference_mode()
def _joined(tail: torch.Tensor, estimates: torch.Tensor, order_known: bool) -> torch.Tensor:
    """Fade from `tail` (n_src, shared samples) into `estimates` (n_src, samples), which begins where `tail` does."""
    shared = tail.shape[1]
    if not order_known:
        estimates = estimates[_best_order(tail, estimates[:, :shared])]
    weight = torch.sin(torch.linspace(0, math.pi / 2, shared)).square()
    return torch.cat([torch.lerp(tail, estimates[:, :shared], weight), estimates[:, shared:]], dim=1)


def _best_order(reference: torch.Tensor, estimates: torch.Tensor) -> list[int]:
    """The order of `estimates` (n_src, time) that correlates best with `reference` (n_src, time)."""
    zero_mean = [signal.double() - signal.double().mean(dim=-1, keepdim=True) for signal in (reference, estimates)]
    correlation = zero_mean[0] @ zero_mean[1].T  # (n_src, n_src)
    rows = list(range(len(estimates)))
    return list(max(permutations(rows), key=lambda order: correlation[rows, list(order)].sum().item()))


class FacesOnScreen(nn.Module):
    """Wrap a network for recordings in which faces come and go.

    In each window only those faces pass the network that are seen in it; the estimates of the others are silent there. The
    mixture less all estimates is one more track, the residual, so that nothing is lost when a face leaves the screen and its
    speaker goes on. A network for several faces that meets a single one gets a second, unseen stream beside it: it was
    trained on mixtures, and somebody off screen may be speaking. One that sees a fixed number of faces together gets unseen
    ones up to that number. One that compares faces with voices may also give a face the whole sound, where one or two are
    seen. A network for one face (target speaker extraction) takes each by itself.

    Args:
        network: audio-visual, in eval mode; a video frame of zeros is one without a mouth.

    Shape:
        - mixture: (1, time)
        - visual: (1, n_faces, frames, dim), zeros where a face is not seen
        - output: (1, n_faces + 1, time), the estimates of the faces and the residual
    """

    has_fixed_faces = False

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.matcher = getattr(network, "matcher", None)

    def forward(self, mixture: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        """Separate a window by a network whose streams are those of the faces."""
        seen = _seen(visual)
        estimates = self._estimates(mixture, visual[:, seen])
        order = iter(range(int(seen.sum())))
        return self.arrange(estimates, [[next(order) if each else NO_STREAM for each in seen]], mixture)

    def streams(self, mixture: torch.Tensor, visual: torch.Tensor) -> Streams:
        """Separate a window, and compare each stream with each face (`AVSeparator.streams`); unseen faces have no stream.

        Where there are two streams, one for a single face and one for who may be off screen, or one for each of two faces,
        the whole sound is a third one: perhaps only one person speaks.
        """
        return self.compare(self._estimates(mixture, visual[:, _seen(visual)]), mixture, visual)

    def compare(self, estimates: torch.Tensor, mixture: torch.Tensor, visual: torch.Tensor) -> Streams:
        """As `streams`, of estimates (1, n_streams, time) that are there already."""
        seen, alone = _seen(visual), None
        if estimates.shape[1] == 2:
            alone = float(self.network.alone(estimates, mixture)[0]) + _ALONE_NATS[int(seen.sum())]
            estimates = torch.cat([estimates, mixture.unsqueeze(1)], dim=1)
        evidence = np.zeros((1, estimates.shape[1], len(seen), visual.shape[2]))
        if seen.any():
            evidence[:, :, seen.cpu().numpy()] = self.network.evidence(estimates, visual[:, seen], mixture)
        return Streams(estimates, evidence, seen[None].cpu().numpy(), alone)

    def arrange(self, estimates: torch.Tensor, orders: Sequence[Sequence[int]], mixture: torch.Tensor) -> torch.Tensor:
        """The tracks of the faces and the residual: streams (1, n_streams, time) -> (1, n_faces + 1, time)."""
        silence = torch.zeros_like(mixture)
        tracks = [silence if stream == NO_STREAM else estimates[:, stream] for stream in orders[0]]
        return torch.stack([*tracks, mixture - sum(tracks)], dim=1)

    def _estimates(self, mixture: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        """A stream for each seen face, and one more where there is only one: (1, n_streams, time)."""
        n_faces = visual.shape[1]
        if n_faces == 0:
            return mixture.new_zeros(1, 0, mixture.shape[-1])
        if self.network.config.n_faces == 1:
            return self.network(mixture.expand(n_faces, -1), visual.transpose(0, 1)).transpose(0, 1)
        n_wanted = self.network.config.n_faces if self.network.has_fixed_faces else 2
        return self.network(mixture, pad(visual, (0, 0, 0, 0, 0, max(n_wanted - n_faces, 0))))


def _seen(visual: torch.Tensor) -> torch.Tensor:
    """Which faces of a window are seen in any frame, bool (n_faces,)."""
    return visual[0].flatten(1).any(dim=1)
