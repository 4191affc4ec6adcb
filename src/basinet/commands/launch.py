"""Start the processes of a run."""

import ctypes
import os
from collections.abc import Sequence

import torch
import torch.distributed
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from basinet.commands.recipe import LaunchConfig

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Options of glibc's ``mallopt``, as ``malloc.h`` numbers them."""
TOP_PAD = 64 << 20
"""Bytes requested from the system at once."""
NO_LIMIT = 2**31 - 1


def launch(config: LaunchConfig) -> Fabric:
    """Start the processes of a run, or join those that torchrun or SLURM started."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.keep_memory and not keep_freed_memory():
        raise ValueError("launch.keep_memory=true needs Linux with glibc, and this is another system; leave it out")
    n_processes = config.devices * config.nodes
    _require_as_launched(n_processes)
    strategy = "ddp" if n_processes > 1 else "auto"
    accelerator = config.accelerator
    if accelerator == "auto":
        # Fabric would take the GPU of a Mac, which has no float64, and energies need it.
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        fabric = Fabric(accelerator=accelerator, devices=config.devices, num_nodes=config.nodes, strategy=strategy)
    except (RuntimeError, MisconfigurationException) as error:
        raise ValueError(f"cannot run on {n_processes} x {accelerator} (launch.*): {error}") from None
    fabric.launch()
    return fabric


def _require_as_launched(n_processes: int) -> None:
    """Refuse to be one of several processes that do not know each other: they would write the same files."""
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else n_processes
    if started != n_processes:
        raise ValueError(
            f"torchrun started {started} processes, the recipe asks for {n_processes}; set launch.devices to the "
            "processes on each machine and launch.nodes to the machines"
        )


def sum_over_processes(values: Sequence[float], fabric: Fabric) -> list[float]:
    """Return the sum of each value over all processes."""
    total = torch.tensor(values, dtype=torch.float64, device=fabric.device)
    if fabric.world_size > 1:
        torch.distributed.all_reduce(total)
    return total.tolist()


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks of any size for the next allocation, and return whether this is glibc.

    By default blocks above 32 MB go back to the kernel when they are freed, and come back as zeroed pages, each with a
    fault, in the next step. The memory of the process stays at its peak from here on.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(
        mallopt(*option) == 1 for option in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NO_LIMIT), (M_TOP_PAD, TOP_PAD))
    )
