"""Perceive the bonds of all conformations of a store, once for the conformations of one compound."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np

from basinet.data.chemistry.chemical_graph import ChemicalGraph, PerceptionError, agrees, perceive
from basinet.data.store.arrays import concatenate, with_bonds
from basinet.data.store.store import MoleculeStore
from basinet.structures import Molecule

MAX_GRAPHS = 8
"""Largest number of graphs kept for the same atoms in the same order; more mean different compounds."""
LOOK_AHEAD = 256
"""Molecules of a stream that are perceived together."""
SHOWN_EVERY = 100
N_NAMED = 3
"""Molecules named in a report."""


@dataclass(kw_only=True)
class BondReport:
    """Counts of perceived bonds."""

    on_record: int = 0
    """Molecules that had bonds."""
    sources: Counter[str] = field(default_factory=Counter)
    """Molecules by the source of their perceived bonds."""
    failures: Counter[str] = field(default_factory=Counter)
    """Molecules without bonds, by reason."""
    failed: list[str] = field(default_factory=list)
    """Names of the first of them."""
    n_graphs: int = 0
    """Number of different graphs; conformations of one compound share them."""
    n_other: int = 0
    """Conformations whose bonds differ from those of the lowest one of the same atoms in the same order."""
    n_sequences: int = 0
    """Number of different sequences of atoms."""

    @property
    def n_perceived(self) -> int:
        """Number of molecules whose bonds were perceived."""
        return sum(self.sources.values())

    @property
    def n_failed(self) -> int:
        """Number of molecules whose bonds are unknown."""
        return sum(self.failures.values())

    def to_record(self) -> dict[str, Any]:
        """Return the counts for JSON."""
        return {
            "on_record": self.on_record,
            "perceived": dict(sorted(self.sources.items())),
            "failed": dict(sorted(self.failures.items())),
            "graphs": self.n_graphs,
            "other_bonds": self.n_other,
        }

    def __str__(self) -> str:
        total = self.on_record + self.n_perceived + self.n_failed
        parts = [f"{self.on_record} of {total} on record"] if self.on_record else []
        parts += [f"{count} of {total} perceived from {source}" for source, count in sorted(self.sources.items())]
        if self.n_sequences == 1 and total > 1:
            parts.append(f"{self.n_other} conformations whose bonds differ from those of the lowest energy")
        reasons = ", ".join(f"{reason} ({count})" for reason, count in self.failures.most_common())
        names = f", first {', '.join(self.failed)}" if self.failed else ""
        parts.append(f"{self.n_failed} failed{f': {reasons}{names}' if reasons else ''}")
        return f"bonds: {'; '.join(parts)}"


class Perceiver:
    """Perceives bonds molecule by molecule, and reuses them for further conformations of the same compound.

    A molecule gets the bonds of an earlier one with the same atoms in the same order, charge and SMILES if it agrees
    with them (:func:`basinet.data.chemistry.chemical_graph.agrees`), so a stretched bond remains a bond. The
    conformation nearest to equilibrium should come first.
    """

    def __init__(self) -> None:
        self.report = BondReport()
        self._known: dict[tuple[bytes, int, str], list[ChemicalGraph]] = {}

    def __call__(self, molecule: Molecule) -> ChemicalGraph | None:
        """Return the bonds, or ``None``, with the reason in the report."""
        known = self._known_of(molecule)
        if (graph := self.recall(molecule)) is not None:
            return graph
        self.report.n_other += bool(known)
        try:
            graph = perceive(molecule)
        except PerceptionError as error:
            self.report.failures[str(error)] += 1
            if len(self.report.failed) < N_NAMED:
                self.report.failed.append(molecule.name or f"molecule {self.report.n_perceived + self.report.n_failed}")
            return None
        self.report.n_graphs += 1
        self.report.sources[graph.source] += 1
        if len(known) < MAX_GRAPHS:
            known.append(graph)
        return graph

    def recall(self, molecule: Molecule) -> ChemicalGraph | None:
        """Return the bonds of an earlier molecule that this one agrees with, or ``None``."""
        for number, graph in enumerate(self._known_of(molecule)):
            if agrees(graph, molecule):
                self.report.n_other += number > 0
                self.report.sources[graph.source] += 1
                return graph
        return None

    def _known_of(self, molecule: Molecule) -> list[ChemicalGraph]:
        key = molecule.atomic_numbers.tobytes(), molecule.charge, molecule.smiles
        known = self._known.setdefault(key, [])
        self.report.n_sequences = len(self._known)
        return known

    def bonded(self, molecule: Molecule) -> Molecule:
        """Return a molecule with its bonds, perceived if it has none.

        Raises:
            ValueError: they cannot be perceived.
        """
        if molecule.bonds is not None:
            return molecule
        graph = self(molecule)
        if graph is None:
            raise ValueError(
                f"{molecule.name or 'molecule'} has no bonds on record, which this model needs, and none can be "
                f"perceived from its coordinates ({next(iter(self.report.failures))}); read it from an SDF"
            )
        return dataclasses.replace(molecule, bonds=graph.bonds, bond_orders=graph.orders)


def lacks_bonds(store: MoleculeStore) -> bool:
    """Return whether some molecule has no bonds."""
    return store.bond_counts["bonds"] < len(store)


def find_bonds(
    store: MoleculeStore, wanted: Literal["auto", "file", "perceive"], needed: bool
) -> tuple[MoleculeStore, str]:
    """Return a store with the bonds for a run, and a line about perceived ones, or nothing.

    Args:
        store: molecules.
        wanted: ``file``: bonds of the file; ``auto``: these, and perceived ones if they are ``needed``; ``perceive``:
            perceived ones for all molecules.
        needed: the run needs bonds.
    """
    if wanted == "perceive" or (wanted == "auto" and needed and lacks_bonds(store)):
        found, report = perceive_bonds(store, anew=wanted == "perceive")
        return found, str(report)
    return store, ""


def perceive_bonds(
    store: MoleculeStore, *, anew: bool = False, on_progress: Callable[[int, int], None] | None = None
) -> tuple[MoleculeStore, BondReport]:
    """Return a copy of a store, in memory, with perceived bonds for molecules without bonds, and a report.

    Minima come first, then conformations by rising energy: the bonds of a trajectory are those of its frame of lowest
    energy. The result is the same in every process and run. The report is in ``manifest.settings["bonds"]``.

    Args:
        store: molecules.
        anew: perceive the bonds of all molecules, also of those that have bonds.
        on_progress: called with the numbers of molecules done and of all.
    """
    arrays = concatenate(store.shards)
    energy = np.where(arrays.has["energy"], arrays.labels["energy"], np.inf) if "energy" in arrays.has else None
    order = np.lexsort([np.zeros(len(store)) if energy is None else energy, ~arrays.is_equilibrium])
    perceiver = Perceiver()
    graphs: dict[int, ChemicalGraph | None] = {}
    for done, index in enumerate(order.tolist()):
        if on_progress is not None and done % SHOWN_EVERY == 0:
            on_progress(done, len(store))
        if arrays.has_bonds[index] and not anew:
            perceiver.report.on_record += 1
        else:
            graphs[index] = perceiver(store[index])
    found = with_bonds(
        arrays, {i: (None, None) if graph is None else (graph.bonds, graph.orders) for i, graph in graphs.items()}
    )
    return store.with_arrays(found, bonds=perceiver.report.to_record()), perceiver.report


def with_perceived_bonds(molecules: Iterator[Molecule], perceiver: Perceiver | None = None) -> Iterator[Molecule]:
    """Yield molecules in their order, with perceived bonds for those without bonds.

    Blocks of ``LOOK_AHEAD`` molecules are perceived together, minima and low energies first, so that a trajectory which
    begins with a stretched bond gets the bonds of a later frame.

    Args:
        molecules: molecules.
        perceiver: counts the results; molecules whose bonds cannot be perceived then have none. By default they are an
            error.

    Raises:
        ValueError: bonds cannot be perceived.
    """
    required, perceiver = perceiver is None, perceiver or Perceiver()
    while block := list(islice(molecules, LOOK_AHEAD)):
        graphs: dict[int, ChemicalGraph | None] = {}
        for index in sorted(range(len(block)), key=lambda i: _strain(block[i])):
            if block[index].bonds is not None:
                perceiver.report.on_record += 1
            else:
                graphs[index] = perceiver(block[index])
        for index, molecule in enumerate(block):
            if molecule.bonds is not None:
                yield molecule
                continue
            graph = graphs[index] or (perceiver.recall(molecule) if required else None)
            if graph is not None:
                yield dataclasses.replace(molecule, bonds=graph.bonds, bond_orders=graph.orders)
            elif required:
                raise ValueError(_without_bonds(molecule))
            else:
                yield molecule


def _strain(molecule: Molecule) -> tuple[bool, float]:
    """Return the sorting key of molecules: minima first, then low energies."""
    return not molecule.is_equilibrium, float(molecule.labels.get("energy", np.inf))


def _without_bonds(molecule: Molecule) -> str:
    try:
        perceive(molecule)
        reason = "they agree with no other frame"
    except PerceptionError as error:
        reason = str(error)
    return (
        f"{molecule.name or 'molecule'} has no bonds on record, which this model needs, and none can be perceived from "
        f"its coordinates ({reason}); read it from an SDF"
    )
