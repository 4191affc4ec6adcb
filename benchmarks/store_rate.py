"""How many molecules a second a store gives, warm, on one core, in the order in which a loader asks for them.

    python benchmarks/store_rate.py [--molecules 300000] [--batch 256] [--shards 1]

The molecules are random numbers in the sizes of a drug-like set (18 to 36 atoms, mean 27), with energies and forces.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from basinet.data.arrays import FlatArrays, Strings
from basinet.data.files import write_array_directory, write_text
from basinet.data.loader import Loader
from basinet.data.manifest import MANIFEST_FILE, Manifest, describe
from basinet.data.shards import shard_name
from basinet.data.store import MoleculeStore


def random_arrays(n_molecules: int, with_forces: bool, seed: int) -> FlatArrays:
    """Return arrays of random molecules, made without a Python loop over them."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(18, 37, size=n_molecules)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    n_atoms = int(offsets[-1])
    true, nothing = np.ones(n_molecules, dtype=bool), np.zeros(n_molecules + 1, dtype=np.int64)
    empty = Strings(blob=np.zeros(0, dtype=np.uint8), offsets=nothing)
    return FlatArrays(
        atomic_numbers=rng.integers(1, 10, size=n_atoms).astype(np.uint8),
        positions=rng.standard_normal((n_atoms, 3), dtype=np.float32),
        offsets=offsets,
        charges=np.zeros(n_molecules, dtype=np.int16),
        is_equilibrium=~true,
        labels={"energy": rng.standard_normal(n_molecules)},
        atom_labels={"forces": rng.standard_normal((n_atoms, 3), dtype=np.float32)} if with_forces else {},
        has={"energy": true, **({"forces": true} if with_forces else {})},
        bonds=np.zeros((0, 2), dtype=np.int32),
        bond_orders=np.zeros(0, dtype=np.float32),
        bond_offsets=nothing,
        has_bonds=~true,
        has_bond_orders=~true,
        smiles=empty,
        names=empty,
    )


def write_store(path: Path, n_molecules: int, n_shards: int, with_forces: bool) -> MoleculeStore:
    """Write a store of exactly ``n_shards`` shards, which ``StoreWriter`` would have joined."""
    path.mkdir()
    manifest = Manifest(level_of_theory="random", source="benchmark", settings={}, complete=True)
    for shard in range(n_shards):
        arrays = random_arrays(n_molecules // n_shards, with_forces, seed=shard)
        entry = describe(shard_name(shard), arrays, {})
        write_array_directory(path / entry.name, arrays.to_files())
        manifest = manifest.with_shard(entry)
    write_text(path / MANIFEST_FILE, manifest.to_json())
    return MoleculeStore.open(path)


def rate(step: Callable[[], int], seconds: float = 2.0) -> float:
    """Return molecules a second, the best of three runs."""
    best = 0.0
    for _ in range(3):
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            count += step()
        best = max(best, count / elapsed)
    return best


def measure(store: MoleculeStore, batch_size: int) -> tuple[float, float]:
    """Return the rate of the loader (an epoch's plan included) and that of gathering single batches at random."""
    loader = Loader(store, np.arange(len(store)), batch_size=batch_size, seed=0)
    for _ in range(len(loader)):  # warm: every page has been read once
        loader.next_batch()
    rng = np.random.default_rng(0)
    at_random = [rng.integers(0, len(store), size=batch_size) for _ in range(1000)]
    position = 0

    def gather() -> int:
        nonlocal position
        position = (position + 1) % len(at_random)
        return store.gather(at_random[position]).n_molecules

    return rate(lambda: loader.next_batch().n_molecules), rate(gather)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=300_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 10, 100])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.molecules} molecules, 27 atoms on average, batches of {arguments.batch}, one thread, warm")
    print(f"{'shards':>8} {'forces':>8} {'loader, molecules/s':>22} {'random, molecules/s':>22}")
    for n_shards in arguments.shards:
        for with_forces in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                store = write_store(Path(folder) / "store", arguments.molecules, n_shards, with_forces)
                loader, at_random = measure(store, arguments.batch)
            print(f"{n_shards:>8} {'yes' if with_forces else 'no':>8} {loader:>22,.0f} {at_random:>22,.0f}", flush=True)


if __name__ == "__main__":
    main()
