"""Generate labelled data from a list of SMILES: minima of conformers and configurations around them."""

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

from basinet.data.chemistry.compounds import compounds
from basinet.data.generation.calculators import (
    calculator_name,
    calculator_version,
    level_of_theory,
    make_calculator,
    parse_options,
)
from basinet.data.generation.configurations import CALCULATOR_FAILURES, GenerateConfig, Task, died, label
from basinet.data.generation.molecule_list import MoleculeList, choose
from basinet.data.generation.parts import SHARD, UNDIVIDED, Lost, Part, Row, SkippedList, only_writer
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.data.workers import available_cores, map_in_order
from basinet.errors import RunError
from basinet.structures import Molecule

ENOUGH_FAILURES = 4
"""Number of first molecules whose failure shows that the calculator is at fault."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a generation."""

    done: int
    """Molecules done, including those of earlier runs."""
    total: int
    """Molecules of the list."""
    frames: int
    """Labelled configurations."""
    failed: int
    """Molecules of this run without any configuration."""


def generate(
    config: GenerateConfig, out: Path, on_progress: Callable[[Progress], None] | None = None, part: Part | None = None
) -> MoleculeStore:
    """Make a store of labelled configurations: the minimum of each conformer, then frames around it.

    The same call resumes an interrupted run (Ctrl-C, a crash, a lost machine). The store is the same, bit for bit, for
    any number of processes and interruptions on one kind of machine; so are the molecules of all parts together.
    Failures are counted by reason in the manifest and listed in ``skipped.csv``; reasons that begin with ``frame:``
    count frames, ``conformer:`` conformers, all others molecules. A worker process that dies is replaced; a molecule
    whose process dies twice is left out.

    Args:
        config: Settings.
        out: Directory of the store.
        on_progress: Called after each molecule.
        part: Part of the list, if other machines make the others; :func:`basinet.data.generation.merge.merge` joins
            them.

    Raises:
        ValueError: a setting is wrong, or the unfinished store at ``out`` was made with other settings.
        FileExistsError: ``out`` is a finished store or something else.
        RunError: workers keep dying, the calculator fails for each of the first molecules, or another process is
            writing to ``out``; the store can be resumed.
    """
    options = parse_options(config.calculator_options)
    make_calculator(config.calculator, options=options)  # report a wrong name or option now, not in a worker
    excluded = compounds(config.exclude)
    with only_writer(out):
        chosen = choose(config.smiles_file, excluded, config.n_molecules, config.processes or available_cores())
        writer = StoreWriter.open(
            out,
            level_of_theory=config.level_of_theory or level_of_theory(config.calculator, options),
            source="molecules of basinet" if config.smiles_file is None else config.smiles_file.name,
            settings=_settings(config, chosen, part),
        )
        _write(config, chosen, part or UNDIVIDED, writer, on_progress)
        return writer.finish()


def _settings(config: GenerateConfig, chosen: MoleculeList, part: Part | None) -> dict[str, Any]:
    """Return the settings for the manifest: everything the result depends on."""
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

    A block is half a chunk, and the processes work ahead by at most half a chunk, so a kill loses at most a chunk.
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
    """Yield the rows and count them as the manifest does."""
    for row in rows:
        counts[row.lost.counted_as] += row.lost.n
        yield row


def _require_working_calculator(config: GenerateConfig, lost: Sequence[Row]) -> None:
    failures = [row for row in lost if row.lost.reason in CALCULATOR_FAILURES]
    molecules = {row.place for row in failures}
    if len(molecules) >= ENOUGH_FAILURES and molecules == {row.place for row in lost}:
        raise RunError(
            f"{config.calculator} failed for each of the first {len(molecules)} molecules "
            f"({failures[0].lost.detail}); correct the calculator or its options, or begin the list with molecules "
            "that it can treat"
        )
