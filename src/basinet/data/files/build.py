"""Write the molecules of several inputs into one store: constant memory, resumable, all or nothing."""

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from basinet.data.files.report import Opened, ReadReport
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.files import replacing
from basinet.structures import Molecule

MOLECULES_PER_SHARD = 2**13
ATOMS_PER_SHARD = 2**18
"""A shard is full at either limit, so that memory does not grow with the size of molecules."""
SHOWN_EVERY = 50
SKIPPED_FILE = "skipped.csv"
"""Name of the list, in the store, of records that gave no molecule, with reasons."""

OnProgress = Callable[[int, str], None]
"""Called with the number of molecules so far and the name of the input."""


class Built(NamedTuple):
    """A store and the reports about its inputs."""

    store: MoleculeStore
    reports: tuple[ReadReport, ...]


def write_store(
    inputs: Sequence[Opened],
    out: Path,
    *,
    level_of_theory: str,
    source: str,
    settings: Mapping[str, Any],
    units: Mapping[str, str],
    limit: int | None = None,
    on_progress: OnProgress | None = None,
) -> Built:
    """Read inputs, in their order, into one store.

    Memory does not grow with the inputs. A build that was interrupted is resumed by the same call, which reads its
    inputs again up to where it stopped; until it is finished, nothing opens the store. If an input turns out to be
    damaged, the store is deleted. Records that gave no molecule are listed in ``skipped.csv`` in the store.

    Args:
        inputs: Open files and stores, in order.
        out: Directory of the store.
        level_of_theory: Level of theory of the labels.
        source: Origin of the molecules.
        settings: Settings that made them; a build with other settings is not resumed.
        units: Units of labels other than energies and forces, by name.
        limit: Largest number of molecules; ``None``: all.
        on_progress: Callback, every 50 molecules.

    Raises:
        ValueError: an input cannot be read, or ``out`` was started with other settings.
        FileExistsError: ``out`` is a finished store or something else.
    """
    writer = StoreWriter.open(out, level_of_theory=level_of_theory, source=source, settings=settings, units=dict(units))
    try:
        _write(inputs, writer, limit, on_progress)
        store = writer.finish()
    except ValueError:
        writer.discard()
        raise
    _list_skipped(inputs, out / SKIPPED_FILE)
    return Built(store, tuple(i.report for i in inputs))


def _write(inputs: Sequence[Opened], writer: StoreWriter, limit: int | None, on_progress: OnProgress | None) -> None:
    """Write the molecules that the store does not have yet; those before are read again and skipped."""
    there, skipped_before = writer.manifest.n_molecules, Counter(writer.manifest.skipped)
    shard: list[Molecule] = []
    n_atoms = n_read = 0

    def flush() -> None:
        nonlocal n_atoms, skipped_before
        skipped = sum((i.report.skipped for i in inputs), Counter[str]())
        writer.write_shard(shard, skipped=skipped - skipped_before)
        skipped_before |= skipped
        shard.clear()
        n_atoms = 0

    for source in inputs:
        for molecule in islice(source.molecules, None if limit is None else limit - n_read):
            n_read += 1
            if on_progress is not None and n_read % SHOWN_EVERY == 0:
                on_progress(n_read, Path(source.report.path).name)
            if n_read <= there:
                continue
            shard.append(molecule)
            n_atoms += molecule.n_atoms
            if len(shard) == MOLECULES_PER_SHARD or n_atoms >= ATOMS_PER_SHARD:
                flush()
    if n_read < there:
        raise ValueError(f"the inputs gave {n_read} molecules and {there} before; were they changed?")
    flush()


def _list_skipped(inputs: Sequence[Opened], path: Path) -> None:
    """Write the list of records that gave no molecule, unless it is empty."""
    if not any(i.report.skipped for i in inputs):
        return
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("input", "record", "status", "reason"))
        for _, report in inputs:
            rows.writerows((report.path, name, "skipped", reason) for name, reason in report.skipped_records)
