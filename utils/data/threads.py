"""Work done ahead by threads, for what releases the interpreter's lock: decoders, networks, unzipping, hashing."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import repeat
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

_END = object()


def map_ahead(
    work: Callable[[Given], Made],
    items: Iterable[Given],
    n_threads: int,
    n_ahead: int | None = None,
    initializer: Callable[[], object] | None = None,
) -> Iterator[Made]:
    """`map(work, items)`, in order, computed by threads that are some items ahead of who takes the results.

    Args:
        work: is called in the threads.
        items: are taken in the caller's thread.
        n_threads: that work.
        n_ahead: items that are made or waiting at most; None: one for each thread.
        initializer: is called at the start of each thread.
    """
    pool = ThreadPoolExecutor(n_threads, initializer=initializer)
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > (n_ahead or n_threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def made_ahead(items: Iterator[Made], n_ahead: int = 4) -> Iterator[Made]:
    """The same items, which a thread of its own makes, `n_ahead` of them at most before they are asked for."""
    with closing(map_ahead(lambda _: next(items, _END), repeat(None), 1, n_ahead)) as made:
        for item in made:
            if item is _END:
                return
            yield item
