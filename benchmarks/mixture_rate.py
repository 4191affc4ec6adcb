"""What it costs to draw from several stores instead of one: CPU time of a step, warm, on one core.

    python benchmarks/mixture_rate.py [--molecules 300000] [--batch 256]

The molecules are those of ``store_rate.py`` with energies and forces. One store is read as one, as a mixture of itself
alone, and beside two smaller ones.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader, Stream
from basinet.data.stream.mixture import MixtureLoader, Source, mixing_probabilities
from store_rate import write_store


def mixture(stores: list[MoleculeStore], batch_size: int) -> MixtureLoader:
    """Return the loader of a mixture at temperature 2."""
    shares = mixing_probabilities([len(s) for s in stores], 2.0).tolist()
    sources = [Source(str(i), s, np.arange(len(s)), p) for i, (s, p) in enumerate(zip(stores, shares, strict=True))]
    return MixtureLoader(sources, batch_size=batch_size, seed=0)


def measure(stream: Stream, n_steps: int) -> float:
    """Return microseconds of CPU time a step, the best of five passes, after every page has been read."""
    times: list[float] = []
    for _ in range(6):
        start = time.process_time()
        for _ in range(n_steps):
            stream.next_parts()
        times.append((time.process_time() - start) / n_steps)
    return 1e6 * min(times[1:])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=300_000)
    parser.add_argument("--batch", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    n, batch = arguments.molecules, arguments.batch
    with tempfile.TemporaryDirectory() as folder:
        stores = [
            write_store(Path(folder) / str(size), size, 1, with_forces=True, with_bonds=False)
            for size in (n, n // 10, n // 100)
        ]
        streams = {
            "one store": Loader(stores[0], np.arange(n), batch_size=batch, seed=0),
            "a mixture of one": mixture(stores[:1], batch),
            "a mixture of two": mixture(stores[:2], batch),
            "a mixture of three": mixture(stores, batch),
        }
        print(f"{n}, {n // 10} and {n // 100} molecules, {batch} a step, one thread, warm, CPU time")
        for name, stream in streams.items():
            found = measure(stream, n // batch)
            print(f"{name:>20} {found:>8,.0f} us a step {1e6 * batch / found:>12,.0f} molecules/s", flush=True)


if __name__ == "__main__":
    main()
