"""How much memory reading a large file takes, format by format.

``python benchmarks/reader_memory.py [DIRECTORY] [--frames 220000]`` writes frames of a molecule of 100 atoms as a file
of each format, first a tenth of them, then all, and reads each file in processes of their own: molecule by molecule,
and as a store, as ``data info``, ``data check`` and training do. It prints by how much the memory of such a process
grew (largest resident memory without mapped files, which the system takes back when it needs the room).
"""

import argparse
import multiprocessing
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms
from ase.io.jsonio import encode

N_ATOMS = 100
BLOCK = 1000
NUMBERS = np.array([6, 1] * 50)
UNIT = {"energy_unit": "eV"}


def frames(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions on a shaken grid, energies and forces."""
    generator = np.random.default_rng(0)
    grid = 1.5 * np.stack(np.meshgrid(*[np.arange(5)] * 3), -1).reshape(-1, 3)[:N_ATOMS]
    R = (grid + generator.normal(0, 0.05, (n, N_ATOMS, 3))).astype(np.float64)
    return R, generator.normal(size=n), generator.normal(size=(n, N_ATOMS, 3))


def write_npz(path: Path, n: int) -> None:
    """Write an archive."""
    R, E, F = frames(n)
    np.savez(path, z=NUMBERS, R=R, E=E, F=F)


def write_packed(path: Path, n: int) -> None:
    """Write a compressed archive."""
    R, E, F = frames(n)
    np.savez_compressed(path, z=NUMBERS, R=R, E=E, F=F)


def write_hdf5(path: Path, n: int) -> None:
    """Write the layout of ANI-1x."""
    R, E, F = frames(n)
    with h5py.File(path, "w") as file:
        for name, values in {
            "atomic_numbers": NUMBERS,
            "coordinates": R,
            "wb97x_dz.energy": E,
            "wb97x_dz.forces": F,
        }.items():
            file.create_dataset(f"C9H8O4/{name}", data=values)


def write_xyz(path: Path, n: int) -> None:
    """Write extended XYZ."""
    R, E, F = frames(n)
    symbols = Atoms(numbers=NUMBERS).get_chemical_symbols()
    with open(path, "w", encoding="utf-8") as file:
        for r, e, f in zip(R, E, F, strict=True):
            file.write(f'{N_ATOMS}\nProperties=species:S:1:pos:R:3:forces:R:3 energy={e:.9f} pbc="F F F"\n')
            rows = np.concatenate([r, f], axis=1).tolist()
            file.writelines(f"{s} {' '.join(f'{x:.8f}' for x in row)}\n" for s, row in zip(symbols, rows, strict=True))


def write_lmdb(path: Path, n: int) -> None:
    """Write an ASE-LMDB."""
    R, E, F = frames(n)
    environment = lmdb.open(str(path), subdir=False, map_size=2**36, lock=False)
    with environment, environment.begin(write=True) as transaction:
        for i in range(n):
            row = {"numbers": NUMBERS, "positions": R[i], "energy": E[i], "forces": F[i]}
            transaction.put(str(i + 1).encode(), zlib.compress(encode(row).encode(), 1))
        transaction.put(b"nextid", zlib.compress(str(n + 1).encode()))


def write_parquet(path: Path, n: int) -> None:
    """Write lists in rows, in groups of 10,000 rows."""
    R, E, F = frames(n)
    schema = pa.schema(
        [("numbers", pa.list_(pa.int64())), ("positions", pa.list_(pa.float64())), ("energy", pa.float64())]
        + [("forces", pa.list_(pa.float64()))]
    )
    with pq.ParquetWriter(path, schema) as file:
        for first in range(0, n, 10 * BLOCK):
            part = slice(first, first + 10 * BLOCK)
            count = len(E[part])
            columns = [
                [NUMBERS.tolist()] * count,
                list(R[part].reshape(count, -1)),
                E[part],
                list(F[part].reshape(count, -1)),
            ]
            file.write_table(pa.table(columns, schema=schema))


FORMATS: dict[str, tuple[str, Callable[[Path, int], None], dict[str, Any], float]] = {
    "npz": ("npz", write_npz, UNIT, 1.0),
    "npz, compressed": ("npz", write_packed, UNIT, 0.1),
    "HDF5 (ANI-1x)": ("h5", write_hdf5, {}, 0.5),
    "extended XYZ": ("xyz", write_xyz, {}, 0.02),
    "LMDB": ("lmdb", write_lmdb, {}, 0.05),
    "parquet": ("parquet", write_parquet, {}, 0.1),
}
"""Suffix, writer, how to read it, and the part of the frames that are written (the slow ones get fewer)."""


def measure(path: Path, options: dict[str, Any], as_store: bool, pipe: Any) -> None:
    """Read a file and send the growth of the largest resident memory (bytes) and the number of molecules."""
    from basinet.data.readers import Reading, load_store, open_molecules

    watch = Watch()
    watch.start()
    reading = Reading(**options)
    count = len(load_store(path, reading)[0]) if as_store else sum(1 for _ in open_molecules(path, reading)[0])
    pipe.send((watch.stop(), count))


class Watch(threading.Thread):
    """Looks at the memory of this process twenty times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()
        self._before = self._largest = _private()

    def run(self) -> None:
        """Look until told to stop."""
        while not self._done.wait(0.05):
            self._largest = max(self._largest, _private())

    def stop(self) -> int:
        """Return by how much the memory grew, in bytes."""
        self._done.set()
        self.join()
        return self._largest - self._before


def _private() -> int:
    """Return the resident memory of this process, without mapped files, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measured(path: Path, options: dict[str, Any], as_store: bool) -> tuple[int, int]:
    """Measure in a new process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=measure, args=(path, options, as_store, send))
    child.start()
    found = receive.recv()
    child.join()
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--frames", type=int, default=220_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as directory:
        print("| format | file, MB | molecules | read: MB more | as a store: MB more |")
        print("|---|---|---|---|---|", flush=True)
        for name, (suffix, write, options, part) in FORMATS.items():
            for n in (int(0.1 * part * given.frames), int(part * given.frames)):
                path = Path(directory) / f"frames.{suffix}"
                writer = multiprocessing.get_context("spawn").Process(target=write, args=(path, n))
                writer.start()
                writer.join()
                size = path.stat().st_size
                grown, count = measured(path, options, as_store=False)
                stored, _ = measured(path, options, as_store=True)
                cells = (name, f"{size / 1e6:,.0f}", f"{count:,}", f"{grown / 1e6:.0f}", f"{stored / 1e6:.0f}")
                print(f"| {' | '.join(cells)} |", flush=True)
                path.unlink()


if __name__ == "__main__":
    main()
