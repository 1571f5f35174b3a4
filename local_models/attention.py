"""Self-attention over the frames of a grid, light enough for a network whose blocks are small recurrent layers.

A frame attends with all its bands together to all frames of its stream, however far away; a recurrent path has to carry
the past through every frame between.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class FrameAttention(nn.Module):
    """Add to every frame of a stream a projection of what it attends to in all frames; starts as identity.

    Args:
        chan (int): Channels of the grid.
        n_heads (int): Heads; a divisor of chan.
        key_chan (int): Channels that a band gives to a head's query and key.

    Shape:
        - grid: (streams, chan, n_bands, frames); output the same

    References
        Wang et al., "TF-GridNet: Integrating full- and sub-band modeling for speech separation", IEEE/ACM TASLP 2023,
        Sec. III-D (cross-frame self-attention).
    """

    def __init__(self, chan: int, n_heads: int, key_chan: int = 4) -> None:
        super().__init__()
        self.n_heads, self.sizes = n_heads, (n_heads * key_chan, n_heads * key_chan, chan)
        self.norm = nn.GroupNorm(1, chan)
        self.queries_keys_values = nn.Conv2d(chan, sum(self.sizes), 1)
        self.project = nn.Conv2d(chan, chan, 1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        n_bands = grid.shape[2]
        parts = self.queries_keys_values(self.norm(grid)).split(self.sizes, dim=1)  # (streams, sizes, n_bands, frames)
        queries, keys, values = (self._by_head(part) for part in parts)
        attended = scaled_dot_product_attention(queries, keys, values)  # (streams, heads, frames, values)
        attended = attended.transpose(2, 3).unflatten(2, (-1, n_bands)).flatten(1, 2)  # as grid
        return grid + self.project(attended)

    def _by_head(self, part: torch.Tensor) -> torch.Tensor:
        """(streams, heads * chan, n_bands, frames) -> (streams, heads, frames, chan * n_bands)."""
        return part.unflatten(1, (self.n_heads, -1)).flatten(2, 3).transpose(2, 3)
