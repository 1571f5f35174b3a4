"""Spectrum to a grid of bands and frames, and back: bands are narrow where speech has its energy, wide above.

Each band covers twice its width and a little time; neighbours overlap, so that nothing falls between two of them.
"""

import torch
from torch import nn
from torch.nn.functional import pad

from local_models.configs import parse_bands


class BandSplit(nn.Module):
    """Spectrum to grid, by a strided convolution for each width of band.

    Args:
        bands (str): See `local_models.configs.parse_bands`.
        n_bins (int): Bins of the spectrum.
        n_feats (int): Features of a bin.
        chan (int): Channels of the grid.
        grid_stride (int): Spectral frames from one frame of the grid to the next; 1 or even.
        causal (bool): A frame of the grid covers the `grid_stride` frames of its own and as many before them, which the caller
            puts before the spectrum; else half as many before and after.

    Shape:
        - spectrum: (batch, n_feats, n_bins, frames)
        - output: (batch, chan, n_bands, ceil(frames / grid_stride)); causal: one frame less
    """

    def __init__(self, bands: str, n_bins: int, n_feats: int, chan: int, grid_stride: int, causal: bool = False) -> None:
        super().__init__()
        self.sizes, self.grid_stride = parse_bands(bands, n_bins), grid_stride
        self.n_bands = sum(count for count, _ in self.sizes)
        self.margins = _margins(self.sizes, n_bins)
        self.convs = nn.ModuleList(nn.Conv2d(n_feats, chan, **_window(width, grid_stride, causal)) for _, width in self.sizes)
        self.place = nn.Parameter(torch.zeros(chan, self.n_bands, 1))  # tells the bands apart

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        n_frames = spectrum.shape[-1]
        missing_frames = (n_frames + self.grid_stride - 1) // self.grid_stride * self.grid_stride - n_frames
        spectrum = pad(spectrum, (0, missing_frames, *self.margins))
        parts, start = [], self.margins[0]
        for conv, (count, width) in zip(self.convs, self.sizes, strict=True):
            rows = spectrum[:, :, start - width // 2 : start + count * width + width // 2]
            parts.append(conv(rows))  # (batch, chan, count, grid frames)
            start += count * width
        return torch.cat(parts, dim=2) + self.place


class BandMerge(nn.Module):
    """Grid to masks on the spectrum, the transpose of `BandSplit`: overlapping bands add up.

    Args:
        bands, n_bins, grid_stride, causal: As of the split.
        chan (int): Channels of the grid.
        n_out (int): Numbers for each bin and frame.

    Shape:
        - grid: (batch, chan, n_bands, grid frames)
        - output: (batch, n_out, n_bins, grid frames * grid_stride); causal: grid_stride frames more, which are not complete
          before the next frame of the grid is there
    """

    def __init__(self, bands: str, n_bins: int, chan: int, n_out: int, grid_stride: int, causal: bool = False) -> None:
        super().__init__()
        self.sizes, self.n_bins = parse_bands(bands, n_bins), n_bins
        self.margins = _margins(self.sizes, n_bins)
        windows = [_window(width, grid_stride, causal) for _, width in self.sizes]
        self.convs = nn.ModuleList(nn.ConvTranspose2d(chan, n_out, **window) for window in windows)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        masks, start = 0, self.margins[0]
        n_rows = sum(self.margins) + self.n_bins
        parts = grid.split([count for count, _ in self.sizes], dim=2)  # (batch, chan, count, grid frames) each
        for conv, part, (count, width) in zip(self.convs, parts, self.sizes, strict=True):
            above = n_rows - start - count * width - width // 2
            masks = masks + pad(conv(part), (0, 0, start - width // 2, above))  # (batch, n_out, n_rows, frames)
            start += count * width
        return masks[:, :, self.margins[0] : self.margins[0] + self.n_bins]


def _margins(sizes: list[tuple[int, int]], n_bins: int) -> tuple[int, int]:
    """Rows to add below and above the spectrum, so that every band finds its whole window."""
    ends, end = [], 0
    for count, width in sizes:
        ends.append((end - width // 2, end + count * width + width // 2))
        end += count * width
    return max(0, -min(low for low, _ in ends)), max(0, max(high for _, high in ends) - n_bins)


def _window(width: int, grid_stride: int, causal: bool) -> dict[str, tuple[int, int]]:
    """Kernel, stride and padding of a group's convolution, over bins and frames."""
    if grid_stride == 1:
        return {"kernel_size": (2 * width, 3), "stride": (width, 1), "padding": (0, 1)}
    stride, padding = (width, grid_stride), (0, 0 if causal else grid_stride // 2)
    return {"kernel_size": (2 * width, 2 * grid_stride), "stride": stride, "padding": padding}
