"""How many molecules a second a store gives, warm, on one core, in the order in which a loader asks for them.

    python benchmarks/store_rate.py [--molecules 300000] [--batch 256] [--shards 1]

The molecules are random numbers in the sizes of a drug-like set (18 to 36 atoms, mean 27), with energies and forces;
with bonds, they are chains of six rotors that move five atoms each.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from basinet.data.store.arrays import FlatArrays, Strings
from basinet.data.store.manifest import MANIFEST_FILE, Manifest, describe
from basinet.data.store.shards import shard_name
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.files import write_array_directory, write_text


def chain_bonds(counts: np.ndarray, with_bonds: bool) -> dict[str, Any]:
    """Return the arrays of bonds and rotors of chains of the given lengths."""
    n = len(counts)
    n_bonds = counts - 1 if with_bonds else 0 * counts
    n_rotors, n_moved = (6, 5) if with_bonds else (0, 0)
    bond_offsets = np.concatenate([[0], np.cumsum(n_bonds)])
    within = np.arange(bond_offsets[-1]) - np.repeat(bond_offsets[:-1], n_bonds)
    axis = np.arange(1, n_rotors + 1)
    return {
        "bonds": np.stack([within, within + 1], axis=1).astype(np.int32),
        "bond_orders": np.ones(len(within), dtype=np.float32),
        "bond_offsets": bond_offsets,
        "has_bonds": np.full(n, with_bonds),
        "has_bond_orders": np.full(n, with_bonds),
        "rotors": np.tile(np.stack([axis + 1, axis, 0 * axis + n_moved], axis=1), (n, 1)).astype(np.int32),
        "rotor_offsets": n_rotors * np.arange(n + 1),
        "moved": np.tile(np.tile(np.arange(n_moved), n_rotors), n).astype(np.int32),
        "moved_offsets": n_rotors * n_moved * np.arange(n + 1),
    }


def random_arrays(n_molecules: int, with_forces: bool, with_bonds: bool, seed: int) -> FlatArrays:
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
        **chain_bonds(counts, with_bonds),
        smiles=empty,
        names=empty,
    )


def write_store(path: Path, n_molecules: int, n_shards: int, with_forces: bool, with_bonds: bool) -> MoleculeStore:
    """Write a store of exactly ``n_shards`` shards, which ``StoreWriter`` would have joined."""
    path.mkdir()
    manifest = Manifest(level_of_theory="random", source="benchmark", settings={}, complete=True)
    for shard in range(n_shards):
        arrays = random_arrays(n_molecules // n_shards, with_forces, with_bonds, seed=shard)
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
    print(f"{'shards':>8} {'forces':>8} {'bonds':>8} {'loader, molecules/s':>22} {'random, molecules/s':>22}")
    for n_shards in arguments.shards:
        for with_forces, with_bonds in ((False, False), (True, False), (True, True)):
            with tempfile.TemporaryDirectory() as folder:
                store = write_store(Path(folder) / "store", arguments.molecules, n_shards, with_forces, with_bonds)
                loader, at_random = measure(store, arguments.batch)
            has = ["yes" if it_has else "no" for it_has in (with_forces, with_bonds)]
            print(f"{n_shards:>8} {has[0]:>8} {has[1]:>8} {loader:>22,.0f} {at_random:>22,.0f}", flush=True)


if __name__ == "__main__":
    main()
