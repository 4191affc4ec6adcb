"""How the store and the loader do with 15 million conformations: start-up, molecules a second, memory, open files.

    python benchmarks/scale.py DIRECTORY [--molecules 15000000] [--batch 256] [--seconds 20] [--keep]

Writes a store of random molecules (18 to 36 atoms, mean 27, an energy each; 6.2 GB) into DIRECTORY, goes on with it if
it was interrupted, and deletes it at the end unless told to keep it. Every line is measured in a fresh process on one
thread. "Cold" is after the kernel was asked to forget the files. A batch is what a training step takes, padded as
the dense layout pads it. "Memory" is that of the process alone, from /proc/self/smaps_rollup: what is anonymous or
written to, so no page of the files counts; beside it what it had before the store was opened. "A CPU s" counts the
time of all threads on a core, which other processes do not lengthen much.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.data.stream.loader import Loader
from basinet.structures.dense import Padding
from store_rate import random_arrays

SHARD = 150_000
"""Molecules of a shard: as many atoms as the store joins to one shard."""
BYTES_EACH = 425
"""Of a molecule, without forces."""
SLICE = 100_000
"""Molecules between two looks at the clock."""


def build(path: Path, n_molecules: int, with_forces: bool) -> None:
    """Write the store, or what is missing of it."""
    settings = {"molecules": n_molecules, "forces": with_forces}
    manifest = path / "manifest.json"
    if manifest.exists() and json.loads(manifest.read_text())["complete"]:
        return
    writer = StoreWriter.open(path, level_of_theory="random", source="benchmarks/scale.py", settings=settings)
    sizes = [min(SHARD, n_molecules - first) for first in range(0, n_molecules, SHARD)]
    needed = sum(sizes[writer.n_shards :]) * (BYTES_EACH + (324 if with_forces else 0))
    if shutil.disk_usage(path).free < 1.1 * needed:
        raise SystemExit(f"{path} needs {needed / 1e9:.1f} GB; {shutil.disk_usage(path).free / 1e9:.1f} GB are free")
    start = time.perf_counter()
    for shard in range(writer.n_shards, len(sizes)):
        writer.write_arrays(random_arrays(sizes[shard], with_forces, False, seed=shard))
        print(f"\rshard {shard + 1} of {len(sizes)}", end="", file=sys.stderr, flush=True)
    writer.finish()
    print(f"\nwritten in {time.perf_counter() - start:.0f} s", file=sys.stderr)


def forget(path: Path) -> None:
    """Ask the kernel to drop the files from its cache."""
    for file in path.rglob("*.npy"):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def own_memory() -> float:
    """Return MB of this process that are no pages of files: anonymous, or private and written to."""
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    kilobytes = {name: int(text.split()[0]) for name, text in fields.items()}
    return max(kilobytes["Anonymous"], kilobytes["Private_Dirty"]) / 1024


def measure(path: Path, batch: int, seconds: float, rank: int, world_size: int) -> dict[str, Any]:
    """Stream padded batches for some seconds, or (0) for an epoch."""
    before = own_memory()
    start = time.perf_counter()
    store = MoleculeStore.open(path)
    loader = Loader(store, None, batch_size=batch, seed=0, rank=rank, world_size=world_size)
    first = loader.next_batch()
    Padding.of(first).pad(first.positions)
    found: dict[str, Any] = {"start_up_s": time.perf_counter() - start}
    rates: list[float] = []
    n_all, n_slice, memory = 0, 0, own_memory()
    begin = since = time.perf_counter()
    begin_cpu = time.process_time()
    while loader.epoch == 0 and (not seconds or since - begin < seconds):
        part = loader.next_batch()
        Padding.of(part).pad(part.positions)
        n_slice += part.n_molecules
        if n_slice >= SLICE:
            now = time.perf_counter()
            rates.append(n_slice / (now - since))
            n_all, n_slice, since = n_all + n_slice, 0, now
            memory = max(memory, own_memory()) if len(rates) % 10 == 0 else memory
    found |= {"molecules": n_all, "rate": n_all / (since - begin), "median": statistics.median(rates)}
    found["per_cpu"] = n_all / (time.process_time() - begin_cpu)
    found |= {"best": max(rates), "before_mb": before, "extra_mb": memory - before, "load": os.getloadavg()[0]}
    return found | {"files": len(os.listdir("/proc/self/fd"))}


def in_new_process(*options: object) -> "subprocess.Popen[str]":
    """Start this script to measure one thing."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *map(str, options)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def result(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Wait for a measurement."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a measurement ended with {process.returncode}")
    return json.loads(output)


def show(what: str, found: dict[str, Any]) -> None:
    """Print a line of the table."""
    rates = " ".join(f"{found[key]:>11,.0f}" for key in ("rate", "median", "best", "per_cpu"))
    memory = f"{found['extra_mb']:>7.0f} ({found['before_mb']:.0f})"
    line = f"{what:<28} {found['start_up_s']:>8.2f} {rates} {memory:>14} {found['files']:>6} {found['load']:>6.1f}"
    print(f"{line} {found['molecules']:>12,}", flush=True)


def main() -> None:
    """Build, measure, print a table, and clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--molecules", type=int, default=15_000_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement but the whole epoch")
    parser.add_argument("--forces", action="store_true", help="another 4.9 GB")
    parser.add_argument("--keep", action="store_true", help="keep the store for the next time")
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, nargs=2, default=(0, 1), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.directory / "scale-store"
    if arguments.measure is not None:
        print(json.dumps(measure(path, arguments.batch, arguments.measure, *arguments.rank)))
        return
    arguments.directory.mkdir(parents=True, exist_ok=True)
    build(path, arguments.molecules, arguments.forces)
    size = sum(f.stat().st_size for f in path.rglob("*.npy")) / 1e9
    print(f"{arguments.molecules:,} molecules, {size:.1f} GB, {len(list(path.glob('shard-*')))} shards, one thread")
    header = f"{'molecules/s':>11} {'median':>11} {'best':>11} {'a CPU s':>11} {'memory, MB':>14}"
    print(f"{'':<28} {'start, s':>8} {header} files   load")
    same = (arguments.directory, "--measure")
    seconds, batch = arguments.seconds, arguments.batch
    with contextlib.ExitStack() as cleanup:
        if not arguments.keep:
            cleanup.callback(shutil.rmtree, path)
        forget(path)
        show(f"cold, batches of {batch}", result(in_new_process(*same, seconds, "--batch", batch)))
        show("one epoch", result(in_new_process(*same, 0, "--batch", batch)))
        for other in (64, batch, 4 * batch):
            show(f"warm, batches of {other}", result(in_new_process(*same, seconds, "--batch", other)))
        two = [in_new_process(*same, seconds, "--batch", 2 * batch, "--rank", rank, 2) for rank in (0, 1)]
        for rank, process in enumerate(two):
            show(f"process {rank} of 2, {batch} each", result(process))


if __name__ == "__main__":
    main()
