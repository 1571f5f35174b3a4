"""The processors of this machine: CPU cores for `--nj`, the device for `--id`, and which of several processes this is.

Torch is imported only where a device is chosen.
"""

import os
from collections.abc import Mapping

from utils.errors import UsageError, UserError


def n_cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def choose_device(ids: str, environment: Mapping[str, str] = os.environ) -> str:
    """The device of this process: the GPU of `--id` that its local rank falls on, or the CPU.

    Args:
        ids: GPU numbers such as "0" or "0,1"; "cpu"; "" takes a GPU if one is visible.
        environment: LOCAL_RANK of torchrun or SLURM_LOCALID of srun tells which process this is.

    Returns:
        "cpu" or "cuda:<number>".

    Raises:
        UserError: this machine has no such GPU.
        UsageError: `ids` is no list of GPUs.
    """
    import torch

    n_gpus = torch.cuda.device_count()
    if ids in ("cpu", "-1") or (not ids and not n_gpus):
        return "cpu"
    gpus = _numbers(ids) if ids else range(n_gpus)
    local_rank = int(environment.get("LOCAL_RANK") or environment.get("SLURM_LOCALID") or 0)
    gpu = gpus[local_rank % len(gpus)]
    if gpu >= n_gpus:
        raise UserError(f"--id {ids}: no GPU {gpu}, this machine shows {n_gpus}; take another, or --id cpu")
    return f"cuda:{gpu}"


def show_only(ids: str) -> None:
    """Let torch see only the GPUs of `--id`, for code that takes all it sees; to be called before torch is imported.

    Raises:
        UsageError: `ids` is no list of GPUs.
    """
    if ids in ("cpu", "-1"):
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    elif ids:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, _numbers(ids)))


def _numbers(ids: str) -> list[int]:
    gpus = ids.split(",")
    if not all(gpu.isdecimal() for gpu in gpus):
        raise UsageError(f"--id {ids}: neither GPU numbers such as 0 or 0,1 nor cpu")
    return [int(gpu) for gpu in gpus]


def process_share(environment: Mapping[str, str]) -> tuple[int, int]:
    """(rank, number of processes) as torchrun or srun set them, (0, 1) without either.

    The number is taken from srun's step, not from SLURM_NTASKS: a batch script that starts one process has that too.

    Raises:
        UsageError: numbers that make no sense.
    """
    for rank_name, count_name in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank_name in environment and count_name in environment:
            rank, count = environment[rank_name], environment[count_name]
            if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
                raise UsageError(f"{rank_name}={rank}, {count_name}={count}: no process of a group; unset them")
            return int(rank), int(count)
    return 0, 1
