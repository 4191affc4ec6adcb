"""Read and split several sources, and decide how often molecules of each are drawn."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning_fabric import Fabric

from basinet.commands.recipe import PretrainRecipe, SourceConfig, UnitsConfig, property_columns
from basinet.commands.statistics import MODEL_BATCH, Statistics, label_statistics, require_data, used_split
from basinet.commands.train.bonds import bond_needs, lacking_bonds, with_bonds_known
from basinet.data.chemistry.perception import find_bonds
from basinet.data.doctor.check import ConsistencyReport, require_consistent
from basinet.data.doctor.leaks import find_leaks
from basinet.data.readers import load_store, locate
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.data.stream.mixture import MixtureLoader, Source, adapted, joined, mixing_probabilities
from basinet.data.stream.splits import Split, split_sources
from basinet.objectives.base import Objective
from basinet.training.fit import TrainingConfig


def read_data(
    source: SourceConfig, units: UnitsConfig, label: str | None = None, needs_bonds: bool = False
) -> tuple[MoleculeStore, str]:
    """Return the molecules of a file or store, and a line about what was read; a second one if bonds were perceived.

    Args:
        source: the path, and what to change of its molecules.
        units: units and keys of the file.
        label: a property to read.
        needs_bonds: perceive bonds that are missing.
    """
    columns = property_columns(source.path, units, label)
    store, report = load_store(source.path, units.reading(columns))
    store = adapted(
        store,
        is_equilibrium=source.is_equilibrium,
        level_of_theory=source.level_of_theory,
        leave_out=source.leave_out,
    )
    store, bonds = find_bonds(store, units.bonds, needs_bonds)
    return store, f"{report}\n{bonds}" if bonds else str(report)


class RunSource(NamedTuple):
    """One of the sources of a run."""

    name: str
    config: SourceConfig
    store: MoleculeStore
    read: str
    """A line about what was read."""
    consistency: ConsistencyReport


class Mixture(NamedTuple):
    """Several sources, split, and how often molecules of each are drawn."""

    sources: tuple[RunSource, ...]
    splits: tuple[Split, ...]
    """Molecules of each source that some term of the loss uses."""
    probabilities: tuple[float, ...]
    store: MoleculeStore
    """All sources joined."""
    split: Split
    """Split of the joined store."""
    notes: tuple[str, ...]
    """Lines for the user."""


def read_sources(
    configs: Sequence[SourceConfig], units: UnitsConfig, needs_bonds: bool = False
) -> tuple[RunSource, ...]:
    """Read every source; ``units`` are those of files without units of their own, and ``bonds`` of stores too.

    Raises:
        ValueError: a source cannot be read, is empty, contradicts itself, or is given twice.
    """
    given = units != UnitsConfig(bonds=units.bonds)
    if given and all(locate(c.path).is_dir() or c.units is not None for c in configs):
        raise ValueError("units are given, but no source is a file without units of its own; leave units out")
    names = _names(configs)
    return tuple(_read(config, name, units, needs_bonds) for config, name in zip(configs, names, strict=True))


def _names(configs: Sequence[SourceConfig]) -> list[str]:
    chosen = [c.path.name.removesuffix(c.path.suffix) if c.name is None else c.name for c in configs]
    for name, count in Counter(chosen).items():
        if count > 1:
            paths = ", ".join(str(c.path) for c, n in zip(configs, chosen, strict=True) if n == name)
            raise ValueError(
                f"{count} sources are called {name!r} ({paths}); give them names: {{path: ..., name: ...}}"
            )
    return chosen


def _read(config: SourceConfig, name: str, units: UnitsConfig, needs_bonds: bool) -> RunSource:
    if config.units is not None:
        units = config.units
    elif locate(config.path).is_dir():
        units = UnitsConfig(bonds=units.bonds)
    if config.level_of_theory is not None and config.units is not None and config.units.level_of_theory:
        raise ValueError(f"{name} has a level_of_theory twice, in its units too; leave one out")
    try:
        store, read = read_data(config, units, needs_bonds=needs_bonds)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"source {name}: {error}") from None
    except ValueError as error:
        raise ValueError(f"source {name}: {error}") from None
    return RunSource(name, config, store, read, require_consistent(store, f"source {name}"))


def read_mixture(recipe: PretrainRecipe, objective: Objective) -> Mixture:
    """Read, check, split and weigh the sources of a recipe.

    Raises:
        ValueError: a source cannot be used, or they do not fit each other or the loss.
    """
    assert not isinstance(recipe.data, Path)
    needs = bond_needs(recipe, objective)
    sources = read_sources(recipe.data, recipe.units, needs.any)
    notes = _compare(sources)
    _require_one_level(objective, sources)
    stores = {s.name: s.store for s in sources}
    store = joined(stores)
    drawn = split_sources(stores, recipe.validation_fraction, recipe.training.seed)
    notes += [f"{name} is one compound; its conformations are split" for name in drawn.by_conformation]
    notes += [
        f"{count} conformations of {name} are not used: their compound is split by conformation in another source"
        for name, count in drawn.left_out.items()
    ]
    candidates = dict(drawn.splits)
    if needs.network:
        for source in sources:
            try:
                candidates[source.name], note = with_bonds_known(source.store, candidates[source.name])
            except ValueError as error:
                raise ValueError(f"source {source.name}: {error}; or leave the source out") from None
            notes += [f"{source.name}: {note}"] if note else []
    require_data(objective, store, _joined_split(sources, list(candidates.values())), "all sources together")
    splits: list[Split] = []
    for source in sources:
        try:
            used, n_unused = used_split(objective, source.store, candidates[source.name])
        except ValueError as error:
            raise ValueError(f"source {source.name}: {error}; or leave the source out") from None
        splits.append(used)
        notes += [f"{source.name}: {line}" for line in lacking_bonds(needs, source.store, used)]
        if n_unused:
            notes.append(f"{n_unused} conformations of {source.name} have no label the loss uses; skipped")
    probabilities = _probabilities(recipe, [len(split.train) for split in splits])
    return Mixture(
        sources, tuple(splits), probabilities, store, _joined_split(sources, splits), (*notes, _levels_note(sources))
    )


def _compare(sources: Sequence[RunSource]) -> list[str]:
    """Refuse the same data twice; return a line about each two sources that share conformations."""
    notes: list[str] = []
    for a, b in combinations(sources, 2):
        if a.store.fingerprint == b.store.fingerprint:
            raise ValueError(f"the sources {a.name} and {b.name} hold the same data; leave one of them out")
        small, large = sorted((a, b), key=lambda s: len(s.store))
        leaks = find_leaks(large.store, small.store, compounds=False)
        if len(leaks.rows):
            notes.append(
                f"warning: {len(leaks.rows)} conformations of {large.name} are in {small.name} too; they are drawn "
                "from both, and may train in one and validate in the other unless both name their compounds (SMILES)"
            )
    return notes


def energy_levels(sources: Sequence[RunSource]) -> dict[str, list[str]]:
    """Return the sources with energies by their level of theory."""
    levels: dict[str, list[str]] = {}
    for source in sources:
        if source.store.label_counts.get("energy"):
            levels.setdefault(source.store.manifest.level_of_theory, []).append(source.name)
    return levels


def _require_one_level(objective: Objective, sources: Sequence[RunSource]) -> None:
    """Refuse to fit energies of several levels of theory with one set of reference energies."""
    levels = energy_levels(sources)
    names = [name for of_level in levels.values() for name in of_level]
    if "energy" not in objective.labels or (len(levels) <= 1 and ("" not in levels or len(names) == 1)):
        return
    found = "; ".join(f"{', '.join(of_level)}: {level or 'not on record'}" for level, of_level in levels.items())
    raise ValueError(
        f"the loss fits energies, and those of the sources are not known to be of one level of theory ({found}). Learn "
        "forces only (objective.kind=forces), or leave the energies of all levels but one out (leave_out: [energy]); "
        "if they are of one level, name it in each source (level_of_theory: ...)"
    )


def reference_sources(sources: Sequence[RunSource]) -> tuple[str, list[str]]:
    """Return the level of theory with most energies, and its sources: reference energies are fitted to them.

    Energies of an unknown level are one level for each source.
    """
    groups: list[tuple[str, list[str]]] = []
    for level, of_level in energy_levels(sources).items():
        groups += [(level, of_level)] if level else [(level, [name]) for name in of_level]
    counts = {s.name: s.store.label_counts.get("energy", 0) for s in sources}
    return max(groups, key=lambda group: sum(counts[name] for name in group[1]), default=("", []))


def _levels_note(sources: Sequence[RunSource]) -> str:
    level, names = reference_sources(sources)
    if not names:
        return "no energies; reference energies are zero"
    return f"reference energies are fitted to {', '.join(names)} (level of theory: {level or 'not on record'})"


def _joined_split(sources: Sequence[RunSource], splits: Sequence[Split]) -> Split:
    """Return the split of the joined store."""
    ends = np.cumsum([len(s.store) for s in sources])
    first = [0, *ends[:-1].tolist()]
    parts = {
        part: np.concatenate([getattr(split, part) + f for split, f in zip(splits, first, strict=True)])
        for part in ("train", "validation", "test")
    }
    return Split(**parts)


def _probabilities(recipe: PretrainRecipe, sizes: Sequence[int]) -> tuple[float, ...]:
    assert not isinstance(recipe.data, Path)
    weights = [c.weight for c in recipe.data if c.weight is not None]
    if weights and len(weights) < len(sizes):
        raise ValueError(f"{len(weights)} of {len(sizes)} sources have a weight; give one to all or to none")
    return tuple(mixing_probabilities(sizes, recipe.mixing_temperature, weights or None).tolist())


def mixture_statistics(mixture: Mixture, seed: int) -> Statistics:
    """Fit reference energies to the sources of one level of theory, and measure the forces of all."""
    _, names = reference_sources(mixture.sources)
    forces = label_statistics(mixture.store, mixture.split.train, seed).force_rms
    chosen = [(s, split) for s, split in zip(mixture.sources, mixture.splits, strict=True) if s.name in names]
    if not chosen:
        return Statistics(None, forces)
    store = joined({s.name: s.store for s, _ in chosen})
    split = _joined_split([s for s, _ in chosen], [split for _, split in chosen])
    return Statistics(label_statistics(store, split.train, seed).references, forces)


def mixture_loaders(
    mixture: Mixture, config: TrainingConfig, fabric: Fabric
) -> tuple[MixtureLoader, dict[str, Loader]]:
    """Return this process's share of the training data, and the validation set of each source."""
    every = list(zip(mixture.sources, mixture.splits, mixture.probabilities, strict=True))
    training = MixtureLoader(
        [Source(s.name, s.store, split.train, p) for s, split, p in every],
        batch_size=config.batch_size,
        batch_atoms=config.batch_atoms,
        seed=config.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    validation = {
        s.name: Loader(s.store, split.validation, batch_size=MODEL_BATCH, seed=0, shuffle=False)
        for s, split, _ in every
    }
    return training, validation


def source_records(mixture: Mixture) -> list[dict[str, Any]]:
    """Return the entry of each source in ``data.json``; ``first`` is the index of its first molecule in the split."""
    records: list[dict[str, Any]] = []
    first = 0
    for source, split, probability in zip(mixture.sources, mixture.splits, mixture.probabilities, strict=True):
        manifest = source.store.manifest
        records.append(
            {
                "name": source.name,
                "path": str(source.config.path),
                "fingerprint": source.store.fingerprint,
                "source": manifest.source,
                "level_of_theory": manifest.level_of_theory,
                "is_equilibrium": source.config.is_equilibrium,
                "n_molecules": len(source.store),
                "first": first,
                "labels": source.store.label_counts,
                "n_train": len(split.train),
                "n_validation": len(split.validation),
                "probability": probability,
                "consistency": source.consistency.reason,
            }
        )
        first += len(source.store)
    return records
