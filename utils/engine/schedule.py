"""The learning rate as a plain object: its whole state is two numbers and a count, so that resuming is exact."""

import math
from typing import Any

from utils.engine.config import OptimConf


class LearningRate:
    """Warm-up over the first steps, times a cosine over all steps or a factor that falls on plateaus.

    Args:
        conf: `lr`, `warmup_steps`, `schedule` and its numbers.
        total_steps: optimiser steps of the whole training (cosine).
    """

    def __init__(self, conf: OptimConf, total_steps: int) -> None:
        self.conf, self.total_steps = conf, max(total_steps, 1)
        self.factor, self.best, self.bad_epochs = 1.0, math.inf, 0

    def at(self, step: int) -> float:
        """Learning rate of optimiser step `step`, counted from 0."""
        warmup = min(1.0, (step + 1) / self.conf.warmup_steps) if self.conf.warmup_steps else 1.0
        if self.conf.schedule == "cosine":
            return self.conf.lr * warmup * 0.5 * (1 + math.cos(math.pi * min(step / self.total_steps, 1.0)))
        return self.conf.lr * warmup * self.factor

    def end_epoch(self, val_loss: float) -> None:
        """Take note of a validation loss; a plateau lowers the rate."""
        if val_loss < self.best - 1e-4:
            self.best, self.bad_epochs = val_loss, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > self.conf.plateau_patience:
            self.factor, self.bad_epochs = self.factor * self.conf.plateau_factor, 0

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "best": self.best, "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factor, self.best, self.bad_epochs = state["factor"], state["best"], state["bad_epochs"]
