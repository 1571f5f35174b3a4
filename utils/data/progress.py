"""Progress of long work: a bar on a terminal; elsewhere, as in a log file, a line now and then.

Every loop that may take longer than two seconds is wrapped in `progress_bar`.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_DELAY_SEC = 2.0  # quicker work shows nothing on a terminal
INTERVAL_NAME = "AVSEP_PROGRESS_SEC"
"""Variable of the environment: seconds between two lines where the output is no terminal."""
_INTERVAL_SEC = 30.0


class _Lines(tqdm):
    """A bar whose states follow each other as lines."""

    monitor_interval = 0  # no thread that would shorten the interval

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if msg is None:  # else it asks for the bar to be wiped out
            print(str(self), file=self.fp, flush=True)
        return False


def progress_bar(iterable: Iterable | None = None, **options: Any) -> tqdm:
    """A `tqdm` over an iterable, or to be updated by hand, with tqdm's options `desc`, `unit`, `total`, `initial`.

    A terminal gets a bar once the work has taken two seconds. Any other output gets a line each half minute, or as often as
    `AVSEP_PROGRESS_SEC` says, and none of what takes less than that. `update(0)` shows that it still goes on.
    """
    options |= {"miniters": 0, "smoothing": 0}  # a rate over what is new would count from the last `update(0)`
    if sys.stderr.isatty():
        return tqdm(iterable, delay=_DELAY_SEC, dynamic_ncols=True, **options)
    interval_sec = float(os.environ.get(INTERVAL_NAME) or _INTERVAL_SEC)
    seldom = {"mininterval": interval_sec, "maxinterval": interval_sec, "delay": interval_sec, "leave": False}
    return _Lines(iterable, ncols=0, **options | seldom)
