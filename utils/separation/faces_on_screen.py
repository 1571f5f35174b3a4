"""A separation network for recordings in which faces come and go.

Reads and writes nothing. In each window of a recording only those faces go through the network that are seen in it; the
others are silent there, and what no face said is a track of its own. All tracks add up to what was heard, so nothing is lost
when a face leaves the screen and its voice goes on.
"""

import torch
from torch import nn


class FacesOnScreen(nn.Module):
    """Wraps a network for the windows of `utils.separation.overlap_add.separate_blocks`.

    A network for several faces that meets a single one gets a second, unseen stream beside it: it was trained on mixtures, and
    somebody off screen may be speaking. A network for one face (target-speaker extraction) takes each face for itself.

    Args:
        network: audio-visual, in eval mode; a video frame of zeros is one without a mouth.

    Shape:
        - mixture: (1, time)
        - visual: (1, faces, frames, dim), zeros where a face is not seen
        - output: (1, faces + 1, time), the voices of the faces and the rest
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, mixture: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        seen = visual[0].flatten(1).any(dim=1)
        voices = mixture.new_zeros(1, visual.shape[1], mixture.shape[-1])
        if seen.any():
            voices[:, seen] = self._voices(mixture, visual[:, seen])
        rest = mixture.unsqueeze(1) - voices.sum(dim=1, keepdim=True)
        return torch.cat([voices, rest], dim=1)

    def _voices(self, mixture: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        n_faces = visual.shape[1]
        if self.network.config.n_faces == 1:
            return self.network(mixture.expand(n_faces, -1), visual.transpose(0, 1)).transpose(0, 1)
        if n_faces == 1:
            visual = torch.cat([visual, torch.zeros_like(visual)], dim=1)
        return self.network(mixture, visual)[:, :n_faces]
