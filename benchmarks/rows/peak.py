"""Print by how many MiB the resident memory grows over a force-training step: `peak.py stock|ours|...`."""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402

from basinet.structures.batch import Batch  # noqa: E402
from rows import molecules, training  # noqa: E402
from rows.stock import ET_256X8, fresh_et, torchmd_net_of  # noqa: E402

N_MOLECULES, N_ATOMS, N_PARTS, SMALL = 64, 18, 4, 16
FREE_GIB = 13
"""Memory that has to be free, or the step would push other programs out."""


def main() -> None:
    """Do a small step, so that libraries are loaded and code is compiled, then the step itself."""
    torch.set_num_threads(1)
    if _status("/proc/meminfo", "MemAvailable") < FREE_GIB * 1024:
        sys.exit(f"less than {FREE_GIB} GiB of memory are free")
    chosen = molecules.of_size(N_ATOMS, N_MOLECULES)
    step = _step(sys.argv[1])
    step(training.labelled(molecules.batch_of(chosen[:SMALL])))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the small step left behind goes back to the kernel
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _status("/proc/self/status", "VmHWM")
    step(training.labelled(molecules.batch_of(chosen)))
    print(_status("/proc/self/status", "VmHWM") - before)


def _step(side: str) -> Callable[[Batch], None]:
    model = fresh_et(ET_256X8, ["energy", "forces"]).train()
    match side:
        case "stock":
            stock = torchmd_net_of(model).train()
            return lambda batch: training.step(stock, training.stock_forces, batch)
        case "ours":
            return lambda batch: training.step(model, training.our_forces, batch)
        case "kernels":
            assert model.backbone.use_kernels("native") is None
            return lambda batch: training.step(model, training.our_forces, batch)
        case "parts":

            def parts(batch: Batch) -> None:
                for part in batch.split([batch.n_molecules // N_PARTS] * N_PARTS):
                    training.our_forces(model, part).backward()

            return parts
        case _:
            sys.exit(f"stock, ours, kernels or parts, got {side}")


def _status(path: str, key: str) -> float:
    """Return an entry of a table of the kernel, MiB."""
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
