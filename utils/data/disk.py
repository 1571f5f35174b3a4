"""Room on the disk: estimates of a stage's outputs are refused before it begins where the disk cannot take them."""

import logging
import shutil
from pathlib import Path

from utils.errors import UserError

log = logging.getLogger(__name__)
RESERVE = 0.05  # of the estimate, for file systems count in blocks
RESERVE_BYTES = 16 * 2**20


def require_space(folder: Path | str, n_bytes: int, what: str, option: str) -> None:
    """Log how much will be written, and stop where there is less room than that.

    Args:
        folder: where it will be written; it need not exist yet.
        n_bytes: the estimate; where it is 0 nothing is asked.
        what: is written, for the message, e.g. "28000 mixtures".
        option: that says where it goes, for the message, e.g. "--data_dir".

    Raises:
        UserError: the disk has not enough room.
    """
    if n_bytes <= 0:
        return
    free = free_bytes(folder)
    log.info("%s: %s need about %s, %s are free", folder, what, readable_bytes(n_bytes), readable_bytes(free))
    if n_bytes * (1 + RESERVE) + RESERVE_BYTES > free:
        raise UserError(
            f"{folder}: {what} need about {readable_bytes(n_bytes)} where {readable_bytes(free)} are free; make room, or "
            f"choose another {option}"
        )


def free_bytes(folder: Path | str) -> int:
    """The room on the disk that a folder is on, or will be on once it is made."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def readable_bytes(n_bytes: float) -> str:
    """`2.1 GB`; decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
