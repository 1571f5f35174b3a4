"""The visual branch: from mouth embeddings at the video's rate to cues on the audio encoder's frames."""

import torch
from asteroid.masknn.norms import GlobLN
from torch import nn


class VisualBlock(nn.Module):
    """Residual temporal convolution: PReLU, norm, 1x1, PReLU, norm, depthwise over time, 1x1, add.

    Args:
        chan (int): Channels in and out.
        hid_chan (int): Channels of the depthwise convolution.
        kernel_size (int): Video frames seen by one block, odd.

    Shape:
        - input, output: (batch, chan, video_frames)

    References
        [1] Pan et al., "USEV: Universal speaker extraction with visual cue", IEEE/ACM TASLP 2022, Sec. III-B.
    """

    def __init__(self, chan: int, hid_chan: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.PReLU(),
            GlobLN(chan),
            nn.Conv1d(chan, hid_chan, 1),
            nn.PReLU(),
            GlobLN(hid_chan),
            nn.Conv1d(hid_chan, hid_chan, kernel_size, padding=kernel_size // 2, groups=hid_chan),
            nn.Conv1d(hid_chan, chan, 1),
        )

    def forward(self, visual: torch.Tensor) -> torch.Tensor:
        return visual + self.net(visual)


class VisualNet(nn.Module):
    """Projection and temporal convolutions over one face's embeddings.

    Args:
        visual_dim (int): Size of one mouth embedding.
        out_chan (int): Channels out.
        hid_chan (int): Channels inside a block.
        n_blocks (int): Number of `VisualBlock`s.
        dropout (float): Dropout of whole channels after the projection, in training.

    Shape:
        - input: (batch, video_frames, visual_dim)
        - output: (batch, out_chan, video_frames)
    """

    def __init__(self, visual_dim: int, out_chan: int, hid_chan: int, n_blocks: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(visual_dim)
        self.project = nn.Conv1d(visual_dim, out_chan, 1)
        self.dropout = nn.Dropout1d(dropout)
        self.blocks = nn.Sequential(*(VisualBlock(out_chan, hid_chan) for _ in range(n_blocks)))

    def forward(self, visual: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.dropout(self.project(self.norm(visual).transpose(1, 2))))


def resample_frames(visual: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Read a sequence of frames at fractional positions, linearly; outside the sequence the end frames are held.

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
