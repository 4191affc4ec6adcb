"""Print by how many MiB the resident memory grows over a force-training step: `peak.py ours` or `peak.py stock`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402

from rows import molecules, training  # noqa: E402
from rows.stock import ET_256X8, fresh_et, torchmd_net_of  # noqa: E402

N_MOLECULES, N_ATOMS = 64, 18
FREE_GIB = 13
"""Memory that has to be free, or the step would push other programs out."""


def main() -> None:
    """Do a tiny step, so that libraries are loaded, then the step itself."""
    torch.set_num_threads(1)
    if _status("/proc/meminfo", "MemAvailable") < FREE_GIB * 1024:
        sys.exit(f"less than {FREE_GIB} GiB of memory are free")
    model = fresh_et(ET_256X8, ["energy", "forces"]).train()
    loss = training.our_forces
    if sys.argv[1] == "stock":
        model, loss = torchmd_net_of(model).train(), training.stock_forces
    chosen = molecules.of_size(N_ATOMS, N_MOLECULES)
    training.step(model, loss, training.labelled(molecules.batch_of(chosen[:1])))
    before = _status("/proc/self/status", "VmHWM")
    training.step(model, loss, training.labelled(molecules.batch_of(chosen)))
    print(_status("/proc/self/status", "VmHWM") - before)


def _status(path: str, key: str) -> float:
    """Return an entry of a table of the kernel, MiB."""
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
