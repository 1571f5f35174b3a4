"""Examples to hear and to see, in the logs of a training."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from utils.training.loggers import ShownEpochs, show

_SHOWN = ("mixture", "sources", "estimates")
_FLOOR_DB = -60.0
_WINDOW, _HOP = 512, 128


class AudioExamples(ShownEpochs):
    """Show the estimates for the first validation mixtures, and their spectrograms beside those of the sources.

    They are shown after epochs 1, 2, 4, 8, ... and after the last one; mixtures and sources, which stay, once.

    Args:
        count: number of mixtures; 0 shows none.
        sample_rate: Hz.
    """

    def __init__(self, count: int, sample_rate: int) -> None:
        self.count, self.sample_rate = count, sample_rate
        self.latest: dict[str, torch.Tensor] = {}

    def on_validation_batch_end(
        self, trainer: pl.Trainer, system: pl.LightningModule, outputs: Any, batch: dict, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx or not self.count or not trainer.is_global_zero:
            return
        first = {name: value[: self.count] for name, value in batch.items()}
        with torch.inference_mode():
            estimates = system(first).float()
        self.latest = {name: value.cpu() for name, value in (first | {"estimates": estimates}).items() if name in _SHOWN}

    def show_epoch(self, trainer: pl.Trainer, epoch: int) -> bool:
        """Show the estimates of the last validation."""
        if not self.latest:
            return False
        sounds, pictures = {}, {}
        for number, signals in enumerate(zip(*(self.latest[name] for name in _SHOWN), strict=True)):
            mixture, sources, estimates = signals
            heard = {f"s{source}_estimate": signal for source, signal in enumerate(estimates, start=1)}
            rest = {"mixture": mixture} | {f"s{source}": signal for source, signal in enumerate(sources, start=1)}
            shown = heard if epoch else heard | rest
            sounds |= {f"example_{number}/{name}": signal for name, signal in shown.items()}
            pictures[f"example_{number}/spectrograms"] = draw_spectrograms(mixture, sources, estimates, self.sample_rate)
        show(trainer, epoch, sounds, self.sample_rate, pictures)
        return True


def draw_spectrograms(mixture: torch.Tensor, sources: torch.Tensor, estimates: torch.Tensor, sample_rate: int) -> np.ndarray:
    """Spectrograms of a mixture (time,), and below it of its sources and of their estimates (n_src, time), side by side.

    Returns:
        A picture, uint8 (height, width, 3); all levels are relative to the loudest of the mixture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2 * (1 + len(sources))), layout="constrained", dpi=80)
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1 + len(sources), 2, squeeze=False)
    levels = {"mixture": mixture} | {f"s{number}": signal for number, signal in enumerate(sources, start=1)}
    left = {name: _levels_db(signal) for name, signal in levels.items()}
    right = {f"s{number}, estimate": _levels_db(signal) for number, signal in enumerate(estimates, start=1)}
    top_db = float(left["mixture"].max())
    how = {"origin": "lower", "aspect": "auto", "vmin": top_db + _FLOOR_DB, "vmax": top_db, "cmap": "magma"}
    extent = (0, len(mixture) / sample_rate, 0, sample_rate / 2000)
    panels[0, 1].set_axis_off()
    for panel, (name, level) in zip([*panels[:, 0], *panels[1:, 1]], [*left.items(), *right.items()], strict=True):
        panel.imshow(level, extent=extent, **how)
        panel.set(title=name, xlabel="s", ylabel="kHz")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _levels_db(signal: torch.Tensor) -> np.ndarray:
    """Levels, dB, (frequencies, frames)."""
    spectrum = torch.stft(signal, _WINDOW, _HOP, window=torch.hann_window(_WINDOW), return_complex=True)
    return (20 * spectrum.abs().clamp(min=1e-8).log10()).numpy()
