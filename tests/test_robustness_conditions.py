"""Robustness: the stretches of a noise file that a mixture may get."""

from types import SimpleNamespace

import numpy as np
import pytest

from utils.errors import UserError
from utils.mixing.levels import SILENCE_POWER, power
from utils.tools.robustness_conditions import _excerpt

N_SAMPLES = 1600
EXAMPLE = SimpleNamespace(sources=np.zeros((2, N_SAMPLES)))


def test_a_stretch_begins_anywhere_and_goes_on_at_the_beginning() -> None:
    noise = np.arange(1.0, 1001.0)
    stretches = [_excerpt("fan", noise, EXAMPLE, np.random.default_rng(seed)) for seed in range(5)]
    assert len({stretch[0] for stretch in stretches}) > 1
    for stretch in stretches:
        assert stretch.shape == (N_SAMPLES,) and set(np.diff(stretch)) == {1.0, -999.0}


def test_a_quiet_stretch_is_drawn_again() -> None:
    """Regression: where a draw met a quiet stretch, the benchmark died after minutes."""
    noise = np.r_[np.ones(100), np.zeros(4 * N_SAMPLES)]  # three draws of four begin where nothing follows
    starts = [int(np.random.default_rng(seed).integers(len(noise))) for seed in range(8)]
    assert any(100 <= start <= 3 * N_SAMPLES for start in starts)
    for seed in range(8):
        assert power(_excerpt("gappy", noise, EXAMPLE, np.random.default_rng(seed))) > SILENCE_POWER


def test_a_file_with_nothing_to_hear_is_named() -> None:
    with pytest.raises(UserError, match="--noise_dir: the file 'hum' is silent in 20 stretches"):
        _excerpt("hum", np.full(700, 1e-5), EXAMPLE, np.random.default_rng(0))
