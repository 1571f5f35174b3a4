"""Several passes of a network at once, in threads: on few cores faster than one pass on all of them, which waits for the
slowest core after every layer, above all where another process has work for the cores.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch

from utils.data.threads import Given, Made, map_ahead

_MOST_AT_ONCE = 4  # passes, whose memory is needed at the same time; further cores share them


def map_on_cores(work: Callable[[Given], Made], items: Iterable[Given], n_items: int, device: torch.device) -> Iterator[Made]:
    """`map(work, items)`, in order; on a CPU several at once, on as many cores as torch has threads here."""
    n_cores = torch.get_num_threads() if device.type == "cpu" else 1
    at_once = min(n_cores, n_items, _MOST_AT_ONCE)
    return map_in_threads(work, items, at_once, n_cores // at_once) if at_once > 1 else map(work, items)


def map_in_threads(work: Callable[[Given], Made], items: Iterable[Given], n_threads: int, cores_each: int) -> Iterator[Made]:
    """`map(work, items)`, in order, computed ahead by threads in each of which torch takes so many cores."""
    n_cores = torch.get_num_threads()
    try:
        yield from map_ahead(work, items, n_threads, initializer=partial(_take, cores_each))
    finally:
        torch.set_num_threads(n_cores)  # threads that start later take the last value set


def _take(n_cores: int) -> None:
    torch.get_num_threads()  # else the first operation took what another thread has set by then
    torch.set_num_threads(n_cores)
