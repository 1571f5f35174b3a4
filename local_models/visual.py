"""The visual branch: from visual embeddings at the video's rate to features on the audio encoder's frames."""

import torch
from asteroid.masknn.norms import ChanLN, GlobLN
from torch import nn


class VisualBlock(nn.Module):
    """Residual temporal convolution: PReLU, norm, 1x1, PReLU, norm, depthwise over time, 1x1, add.

    Args:
        chan (int): Channels in and out.
        hid_chan (int): Channels of the depthwise convolution over three frames.
        causal (bool): A frame sees itself and the two before it, and is normalised by itself; else one before and one after,
            normalised over all frames.

    Shape:
        - input, output: (batch, chan, video_frames); causal: the output lacks the first two frames

    References
        [1] Pan et al., "USEV: Universal speaker extraction with visual cue", IEEE/ACM TASLP 2022, Sec. III-B.
    """

    def __init__(self, chan: int, hid_chan: int, causal: bool = False) -> None:
        super().__init__()
        norm = ChanLN if causal else GlobLN
        self.n_past = 2 if causal else 0
        self.net = nn.Sequential(
            nn.PReLU(),
            norm(chan),
            nn.Conv1d(chan, hid_chan, 1),
            nn.PReLU(),
            norm(hid_chan),
            nn.Conv1d(hid_chan, hid_chan, 3, padding=0 if causal else 1, groups=hid_chan),
            nn.Conv1d(hid_chan, chan, 1),
        )

    def forward(self, visual: torch.Tensor) -> torch.Tensor:
        return visual[..., self.n_past :] + self.net(visual)


class VisualNet(nn.Module):
    """Projection and temporal convolutions over the visual embeddings of the faces of a mixture.

    A video frame whose embedding is all zeros is one on which no mouth was seen. It gets a learned vector instead, a
    different one for every position in the list of faces: so sources without a face still differ from each other, and a
    mixture of which no face is seen is separated as by an audio-only network (in an order left to chance).

    Args:
        visual_dim (int): Numbers of a visual embedding.
        out_chan (int): Channels out.
        hid_chan (int): Channels inside a block.
        n_blocks (int): Number of `VisualBlock`s.
        dropout (float): Dropout of whole channels after the projection, in training.
        adds_to_position (bool): What is seen is added to the learned vector of the position instead of taking its place,
            and starts at zero: a network that was pretrained without faces starts as it is. The streams are then no
            longer those of the faces alone, and their order is to be decided otherwise.
        causal (bool): As of `VisualBlock`; the caller puts `n_past` frames before the embeddings.

    Shape:
        - input: (batch, n_faces, video_frames, visual_dim)
        - output: (batch, n_faces, out_chan, video_frames); causal: without the `n_past` first frames
    """

    N_POSITIONS = 8  # faces that differ without being seen; further ones share vectors

    def __init__(
        self,
        visual_dim: int,
        out_chan: int,
        hid_chan: int,
        n_blocks: int,
        dropout: float = 0.0,
        adds_to_position: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.adds_to_position = adds_to_position
        self.n_past = 2 * n_blocks if causal else 0
        self.norm = nn.LayerNorm(visual_dim)
        self.project = nn.Conv1d(visual_dim, out_chan, 1)
        if adds_to_position:
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)
        self.unseen = nn.Parameter(torch.randn(self.N_POSITIONS, out_chan))
        self.dropout = nn.Dropout1d(dropout)
        self.blocks = nn.Sequential(*(VisualBlock(out_chan, hid_chan, causal) for _ in range(n_blocks)))

    def forward(self, visual: torch.Tensor) -> torch.Tensor:
        seen = visual.ne(0).any(dim=-1).unsqueeze(2)  # (batch, n_faces, 1, video_frames)
        faces = visual.flatten(0, 1)  # (batch * n_faces, video_frames, visual_dim)
        projected = self.dropout(self.project(self.norm(faces).transpose(1, 2))).unflatten(0, visual.shape[:2])
        positions = torch.arange(visual.shape[1], device=visual.device) % self.N_POSITIONS
        unseen = self.unseen[positions][:, :, None].to(projected.dtype)  # (n_faces, out_chan, 1)
        projected = projected + unseen if self.adds_to_position else projected
        features = torch.where(seen, projected, unseen)  # (batch, n_faces, out_chan, video_frames)
        return self.blocks(features.flatten(0, 1)).unflatten(0, visual.shape[:2])


def resample_frames(visual: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Interpolate a sequence of frames linearly at fractional positions; beyond its ends the end frames are held.

    Args:
        visual: (batch, chan, video_frames).
        positions: (frames,) in video frames; 0 is the centre of the first frame.

    Returns:
        (batch, chan, frames).
    """
    last = visual.shape[-1] - 1
    positions = positions.clamp(0, last)
    before = positions.floor().long()
    after = (before + 1).clamp(max=last)
    weight = (positions - before).to(visual.dtype)
    return torch.lerp(visual[..., before], visual[..., after], weight)
