"""Labelled data from a list of SMILES: conformers, their minima and configurations around them, on many machines."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from heapq import merge
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from basinet.data.chemistry.molecules import compounds
from basinet.data.generation.calculators import (
    calculator_name,
    calculator_version,
    level_of_theory,
    make_calculator,
    parse_options,
)
from basinet.data.generation.configurations import CALCULATOR_FAILURES, GenerateConfig, Task, died, label
from basinet.data.generation.molecule_list import MoleculeList, choose
from basinet.data.generation.parts import SHARD, WHOLE, Lost, Part, Row, SkippedList, only_writer
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.data.workers import available_cores, map_in_order
from basinet.errors import RunError
from basinet.structures import Molecule

ENOUGH_FAILURES = 4
"""A calculator that fails for so many molecules, the first ones, is not the fault of the molecules."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a generation is."""

    done: int
    """Molecules treated so far, in this run and before."""
    total: int
    """Molecules to treat."""
    frames: int
    """Labelled configurations so far."""
    failed: int
    """Molecules of this run that gave nothing."""


def generate(
    config: GenerateConfig, out: Path, on_progress: Callable[[Progress], None] | None = None, part: Part | None = None
) -> MoleculeStore:
    """Make a store of labelled configurations: of each conformer its minimum, then frames away from it.

    An interrupted run (Ctrl-C, a crash, a lost machine) is resumed by the same call. The store is the same, bit for
    bit, for any number of processes and of interruptions on one kind of machine, and so are the molecules of all parts
    together. What could not be treated is left out, counted by reason in the manifest and listed in ``skipped.csv``;
    reasons that begin with ``frame:`` count frames, ``conformer:`` conformers, all others molecules. A worker process
    that dies is replaced; a molecule that ends two of them is given up.

    Args:
        config: What to make.
        out: Directory of the store.
        on_progress: Called after each molecule.
        part: Of the list of molecules, for other machines to make the others;
            :func:`basinet.data.generation.merge.merge` joins them.

    Raises:
        ValueError: a setting is wrong, or the unfinished store at ``out`` was made with other settings.
        FileExistsError: ``out`` is a finished store or something else.
        RunError: worker after worker dies, or the calculator fails for each of the first molecules, or another
            process is writing to ``out``; the store can be resumed.
    """
    options = parse_options(config.calculator_options)
    make_calculator(config.calculator, options=options)  # a wrong name or option is an error now, not in a worker
    excluded = compounds(config.exclude)
    with only_writer(out):
        chosen = choose(config.smiles_file, excluded, config.n_molecules, config.processes or available_cores())
        writer = StoreWriter.open(
            out,
            level_of_theory=config.level_of_theory or level_of_theory(config.calculator, options),
            source="molecules of basinet" if config.smiles_file is None else config.smiles_file.name,
            settings=_settings(config, chosen, part),
        )
        _write(config, chosen, part or WHOLE, writer, on_progress)
        return writer.finish()


def _settings(config: GenerateConfig, chosen: MoleculeList, part: Part | None) -> dict[str, Any]:
    """Return everything the result depends on, for the manifest."""
    settings = dataclasses.asdict(config)
    del settings["processes"], settings["smiles_file"], settings["level_of_theory"]
    settings["calculator"] = calculator_name(config.calculator)
    settings["molecules"] = {"count": len(chosen), "sha256": chosen.sha256}
    settings["made_with"] = [calculator_version(config.calculator), *(f"{p} {version(p)}" for p in ("rdkit", "ase"))]
    return settings | ({SHARD: str(part)} if part is not None else {})


def _write(
    config: GenerateConfig,
    chosen: MoleculeList,
    part: Part,
    writer: StoreWriter,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    """Label the molecules that the store does not have yet, block by block.

    A block is half a chunk, and the processes work ahead by half a chunk at most: together, what a kill can lose.
    """
    span = part.range(len(chosen))
    block = max(1, config.molecules_per_chunk // 2)
    begin = min(span.start + writer.n_shards * block, span.stop)
    skipped = SkippedList(writer.path, chosen.first_place(begin))
    tasks = (Task(entry.place, entry.smiles, config) for entry in chosen.entries(begin, span.stop))
    processes = config.processes or available_cores()
    failed = 0
    with closing(map_in_order(label, tasks, processes, ahead=block, lost=died)) as outcomes:
        for first in range(begin, span.stop, block):
            before, frames = writer.manifest.n_molecules, list[Molecule]()
            lost: list[Row] = []
            for done, outcome in enumerate(islice(outcomes, block), start=first - span.start + 1):
                frames += outcome.molecules
                lost += [Row(outcome.place, outcome.smiles, what) for what in outcome.lost]
                failed += not outcome.molecules
                if on_progress is not None:
                    on_progress(Progress(done=done, total=len(span), frames=before + len(frames), failed=failed))
            if not before + len(frames):
                _require_working_calculator(config, lost)
            counts: Counter[str] = Counter()
            skipped.add(_counted(merge(_left_out(chosen, first, min(first + block, span.stop)), lost), counts))
            writer.write_shard(frames, skipped=counts)


def _left_out(chosen: MoleculeList, first: int, last: int) -> Iterator[Row]:
    return (Row(*entry, Lost("molecule", reason)) for entry, reason in chosen.left_out(first, last))


def _counted(rows: Iterable[Row], counts: Counter[str]) -> Iterator[Row]:
    """Pass lines on, and count them as the manifest does."""
    for row in rows:
        counts[row.lost.counted_as] += row.lost.n
        yield row


def _require_working_calculator(config: GenerateConfig, lost: Sequence[Row]) -> None:
    failures = [row for row in lost if row.lost.reason in CALCULATOR_FAILURES]
    molecules = {row.place for row in failures}
    if len(molecules) >= ENOUGH_FAILURES and molecules == {row.place for row in lost}:
        raise RunError(
            f"{config.calculator} failed for each of the first {len(molecules)} molecules "
            f"({failures[0].lost.detail}); mend the calculator or its options, or begin the list with molecules that "
            "it can treat"
        )
