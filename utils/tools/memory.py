"""Peak memory of networks, measured on Linux in processes that have done nothing else."""

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process, where peak memory is that of the function.

    Raises:
        UserError: the process was killed; what the function raises comes through as it is.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise UserError("the measuring process was killed, perhaps because memory ran out") from None


def peak_bytes(network: "nn.Module", run: Callable[[], Any]) -> int:
    """Memory of the network's weights, and the growth of this process at its peak while `run` runs."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*network.parameters(), *network.buffers()))
    before = _resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here, not from the imports
    run()
    return weights + max(_resident_bytes("VmHWM") - before, 0)


def _resident_bytes(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (peak) of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)[1])
