"""How fast is basinet beside its peers?

Prints one table and writes it into docs/performance.md. A peer that is not installed, or does not run here, gives a
line that says so and no number; `pip install "basinet[bench]"` brings the peers.

    OMP_NUM_THREADS=1 python benchmarks/peers.py                     # everything, some 20 minutes on a quiet machine
    OMP_NUM_THREADS=1 python benchmarks/peers.py --only energy-forces --rounds 9 --no-write
"""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping

import torch

from rows import epoch, inference, page, system, training
from rows.timing import Line, NotMeasured, not_measured

ROWS: Mapping[str, Callable[[int], list[Line]]] = {
    "force-step": training.force_step,
    "energy-forces": inference.energy_forces,
    "denoising-step": training.denoising_step,
    "egnn-step": training.egnn_step,
    "nequip": inference.against_nequip,
    "memory": system.peak_memory,
    "dynamics": system.batched_dynamics,
    "torsion-noise": system.rotor_noise,
    "epoch": epoch.linear_epochs,
}


def main() -> None:
    """Measure the rows that are asked for."""
    given = _arguments()
    if given.steady_malloc:
        _restart_with_steady_malloc()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    lines: list[Line] = []
    for name in given.only or ROWS:
        begin = time.perf_counter()
        try:
            found = ROWS[name](given.rounds)
        except NotMeasured as why:
            found = [not_measured(name, "", "", "", why)]
        lines += found
        print(f"{name}, {time.perf_counter() - begin:.0f} s:\n{page.table(found)}\n", file=sys.stderr, flush=True)
    text = f"{page.machine(load, given.rounds)}\n\n{page.table(lines)}"
    print(text)
    if given.write and not given.only:
        page.write("peers", text)
        print(f"written to {page.PAGE}", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=ROWS, action="append", help="this row alone; may be given several times")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--write", action=argparse.BooleanOptionalAction, default=True, help="write docs/performance.md"
    )
    parser.add_argument(
        "--steady-malloc", action="store_true", help="keep large blocks of memory in the process (glibc), on both sides"
    )
    given = parser.parse_args()
    if given.rounds < 3:
        parser.error(f"--rounds must be at least 3 for quartiles, got {given.rounds}")
    return given


def _restart_with_steady_malloc() -> None:
    """Start this program again with glibc told never to give memory back; it reads this when a process begins."""
    wanted = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_TOP_PAD_": "67108864"}
    if any(os.environ.get(key) != value for key, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)


if __name__ == "__main__":
    main()
