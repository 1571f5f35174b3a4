"""The voices of the people on screen, while the sound comes in.

A network that is steered by faces gives each its stream. One that compares faces with voices gives streams of which it is
decided again and again, by the last seconds, whose they are: until then, and after a change, a track may be somebody else's.
"""

from concurrent.futures import Executor, Future

import numpy as np
import torch

from local_models.causal import CausalTFDPRNN
from utils.live.faces import Embeddings
from utils.separation.assignment import NO_STREAM, WindowEvidence, assign, in_stretches
from utils.separation.exported import Step
from utils.separation.overlap_add import FacesOnScreen

_COMPARED_FRAMES = 150  # of the past, by which it is decided whose the streams are
_FEWEST_FRAMES = 10
_LATEST_FRAMES = 50  # by which embeddings may be late for it
_COMPARE_EVERY_FRAMES = 10
_SEEN_FRAMES = 25  # for so long after its last frame a face that steers keeps its stream


class LiveVoices:
    """Separates sound as it comes, a whole number of video frames at a time.

    Args:
        network: in eval mode.
        embeddings: of the people, as they become known.
        n_people: places; as many tracks, and the residual.
        worker: compares faces with voices beside separation; None: it is done at once, before the next frame.
        wait: for embeddings that are due; else a face whose embedding is late is not seen in that frame.
        step: runs the network in place of torch.

    Attributes:
        certainties: of each person, how likely the track is this face's voice, by the last comparison; empty before it, and
            where nothing is compared.
        n_late: frames whose embeddings came too late.
    """

    def __init__(
        self,
        network: CausalTFDPRNN,
        embeddings: Embeddings,
        n_people: int,
        worker: Executor | None,
        wait: bool,
        step: Step | None = None,
    ) -> None:
        self._step = step or network.step
        self._network, self._config = network, network.config
        self._embeddings, self._n_people = embeddings, n_people
        self._worker, self._wait = worker, wait
        self._model = FacesOnScreen(network)
        self._extracts = self._config.n_faces == 1
        self._n_streams = n_people if self._extracts else max(n_people, self._config.n_src)
        self._state = network.initial_state(*((n_people, 1) if self._extracts else (1, self._n_streams)))
        self._shown = self._order = np.full(n_people, NO_STREAM)  # the order of the tracks now, and that decided last
        self._last_seen = np.full(n_people, -_SEEN_FRAMES - 1)
        self._n_frames = 0
        self._ahead = torch.zeros(self._config.delay)  # sound whose estimates are still to come
        self._past = torch.zeros(1 + self._n_streams, 0)  # the sound and the estimates of it, to be compared
        self._pending: Future | None = None
        self.certainties: list[float] = []
        self.n_late = 0

    @torch.inference_mode()
    def add(self, samples: np.ndarray) -> np.ndarray:
        """Separate what comes next.

        Args:
            samples: float32 (video_frames * config.step,).

        Returns:
            float32 (n_people + 1, video_frames * config.step): the tracks and the residual, `config.delay` samples later than
            the sound.
        """
        n_frames = len(samples) // self._config.step
        visual = self._visual(n_frames)
        mixture = torch.from_numpy(samples)
        estimates = self._separated(mixture, visual)
        known = torch.cat([self._ahead, mixture])
        mixture, self._ahead = known[: len(samples)], known[len(samples) :]
        if self._network.matcher:
            self._remember(mixture, estimates)
            order = self._compared()
        else:
            order = np.where(self._n_frames - self._last_seen <= _SEEN_FRAMES, np.arange(self._n_people), NO_STREAM)
        return self._tracks(order, estimates, mixture).numpy()

    def _visual(self, n_frames: int) -> torch.Tensor:
        """The embeddings that go with the next frames, (n_people, n_frames, dim)."""
        first = self._n_frames - self._config.visual_delay_frames
        n_before = min(max(-first, 0), n_frames)  # before the first picture
        visual = self._embeddings.get(first + n_before, n_frames - n_before, self._wait)
        self.n_late += min(max(first + n_frames - self._embeddings.n_known, 0), n_frames - n_before)
        seen = visual.ne(0).any(dim=-1).any(dim=-1).numpy()
        self._n_frames += n_frames
        self._last_seen[seen] = self._n_frames
        return torch.cat([visual.new_zeros(len(visual), n_before, visual.shape[-1]), visual], dim=1)

    def _separated(self, mixture: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        """The next estimates, (n_streams, samples)."""
        if self._extracts:
            estimates, self._state = self._step(mixture.expand(len(visual), -1), visual.unsqueeze(1), self._state)
            return estimates[:, 0]
        nobody = visual.new_zeros(self._n_streams - len(visual), *visual.shape[1:])
        estimates, self._state = self._step(mixture[None], torch.cat([visual, nobody])[None], self._state)
        return estimates[0]

    def _remember(self, mixture: torch.Tensor, estimates: torch.Tensor) -> None:
        """Keep the last sound and estimates, up to where the estimates are."""
        n_kept = (_COMPARED_FRAMES + _LATEST_FRAMES) * self._config.step
        self._past = torch.cat([self._past, torch.cat([mixture[None], estimates])], dim=1)[:, -n_kept:]

    def _compared(self) -> np.ndarray:
        """The order of the streams by the last comparison, (n_people,); the next one is begun when it is time."""
        if self._pending is not None and self._pending.done():
            self._order, self.certainties = self._pending.result()
            self._pending = None
        if self._pending is None and self._n_frames % _COMPARE_EVERY_FRAMES == 0:
            step = self._config.step
            end = self._n_frames * step - self._config.delay  # of what the past holds
            start = end - self._past.shape[1]
            stop = min(end // step, self._embeddings.n_known)
            first = max(-(-start // step), stop - _COMPARED_FRAMES, 0)
            if stop - first >= _FEWEST_FRAMES:
                past = self._past[:, first * step - start : stop * step - start]
                visual = self._embeddings.get(first, stop - first)
                if self._worker is None:
                    self._order, self.certainties = self._compare(past, visual)
                else:
                    self._pending = self._worker.submit(self._compare, past, visual)
        return self._order

    @torch.inference_mode()
    def _compare(self, past: torch.Tensor, visual: torch.Tensor) -> tuple[np.ndarray, list[float]]:
        """Decide whose the streams are at the end of a stretch: the order, and how certain it is for each person."""
        if not visual.any():
            return np.full(self._n_people, NO_STREAM), [1.0] * self._n_people
        streams = self._model.compare(past[None, 1:], past[:1], visual[None])
        evidence, seen = in_stretches(streams.evidence[0]), streams.seen[0]
        links = np.empty((0, evidence.shape[1]))
        assignment = assign([WindowEvidence(evidence, seen, links, visual.shape[1], streams.alone)])
        return assignment.orders[0][-1], assignment.certainties

    def _tracks(self, order: np.ndarray, estimates: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
        """Tracks and residual, fading from the last order to this one."""
        voices = torch.cat([estimates, mixture[None], torch.zeros_like(mixture)[None]])  # with the whole sound, and silence
        tracks = voices[order]  # NO_STREAM is the last
        if not np.array_equal(order, self._shown):
            step = self._config.step
            fade = torch.cat([torch.linspace(0, 1, step), mixture.new_ones(len(mixture) - step)])
            tracks = torch.lerp(voices[self._shown], tracks, fade)
            self._shown = order.copy()
        return torch.cat([tracks, (mixture - tracks.sum(dim=0))[None]])
