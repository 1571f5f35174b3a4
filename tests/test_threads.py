"""Work done ahead by threads: in order, not too far ahead, with its errors, and ended with who takes it."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from utils.data.threads import made_ahead, map_ahead
from utils.embedding.threads import map_on_cores


def test_results_come_in_the_order_of_the_items_whichever_is_done_first():
    def slowest_first(number: int) -> int:
        time.sleep(0.02 * (number == 0))
        return number

    assert list(map_ahead(slowest_first, range(20), 3)) == list(range(20))


def test_items_are_made_by_another_thread_and_only_some_ahead():
    made = []

    def items() -> Iterator[str]:
        for number in range(100):
            made.append(number)
            yield threading.current_thread().name

    ahead = made_ahead(items(), 4)
    assert next(ahead) != threading.current_thread().name
    time.sleep(0.1)
    assert len(made) <= 6
    ahead.close()
    n_made = len(made)
    time.sleep(0.05)
    assert len(made) == n_made < 100 and sum(1 for _ in made_ahead(iter(range(7)))) == 7


def test_an_error_arrives_after_what_was_made_before_it():
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("broken off")

    ahead = made_ahead(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="broken off"):
        next(ahead)


@pytest.mark.parametrize(("n_threads", "each"), [(1, 1), (2, 1), (3, 1), (9, 2)])
def test_the_cores_are_shared_by_the_passes_and_given_back(n_threads, each):
    """A single pass has all of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        for n_items, wanted in ((12, each), (1, n_threads)):
            found = map_on_cores(lambda _: torch.get_num_threads(), range(n_items), n_items, torch.device("cpu"))
            assert list(found) == [wanted] * n_items and torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
