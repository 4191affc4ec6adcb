"""Read, check and split the data of a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from basinet.commands.progress import Say
from basinet.commands.recipe import FinetuneRecipe, PretrainRecipe, SourceConfig, TrainableRecipe
from basinet.commands.statistics import require_data, used_split
from basinet.commands.train.bonds import bond_needs, lacking_bonds, with_bonds_known
from basinet.commands.train.mixture import Mixture, read_data, read_mixture, source_records
from basinet.commands.train.replay import ReplayData, read_replay
from basinet.data.doctor.check import require_consistent
from basinet.data.sources.fetch import saved_splits
from basinet.data.sources.names import locate
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.published_splits import PUBLISHED_SPLITS, published_split
from basinet.data.stream.splits import Split
from basinet.objectives.base import Objective
from basinet.objectives.methods import property_settings


class RunData(NamedTuple):
    """Data to train on."""

    store: MoleculeStore
    """All sources joined, if there are several."""
    split: Split
    record: Mapping[str, Any]
    """Entries of ``data.json`` beside counts and hashes."""
    mixture: Mixture | None = None
    """The sources, if the recipe has a list of them."""
    replay: ReplayData | None = None
    """Minima to train on beside it."""

    def each(self) -> list[tuple[str, MoleculeStore, Split]]:
        """Return name, store and split of each source; the only one has no name."""
        if self.mixture is None:
            return [("", self.store, self.split)]
        return [(s.name, s.store, split) for s, split in zip(self.mixture.sources, self.mixture.splits, strict=True)]


DrawSplit = Callable[[MoleculeStore], Split]


def read_run_data(recipe: TrainableRecipe, objective: Objective, draw_split: DrawSplit, say: Say) -> RunData:
    """Read and split the data of a run, minima to replay included, and describe it.

    Raises:
        ValueError: it contradicts itself, or a part lacks what a term of the loss needs.
    """
    if isinstance(recipe, PretrainRecipe) and not isinstance(recipe.data, Path):
        return _mixed_data(read_mixture(recipe, objective), say)
    assert isinstance(recipe.data, Path)
    data = _single_data(recipe, recipe.data, objective, draw_split, say)
    if isinstance(recipe, FinetuneRecipe) and recipe.replay is not None:
        data = data._replace(replay=read_replay(recipe.replay))
    return data


def _single_data(recipe: TrainableRecipe, path: Path, objective: Objective, draw_split: DrawSplit, say: Say) -> RunData:
    target = property_settings(recipe.objective)
    needs = bond_needs(recipe, objective)
    label = None if target is None else target.label
    store, read = read_data(SourceConfig(path=path), recipe.units, label, needs.any)
    consistency = require_consistent(store, str(path))
    split = draw_split(store)
    notes: list[str] = []
    if needs.network:
        split, note = with_bonds_known(store, split)
        notes = [note] if note else []
    require_data(objective, store, split, str(path))
    say(read)
    say(f"units and signs: {consistency.verdict} ({consistency.reason})")
    used, n_unused = used_split(objective, store, split)
    if n_unused:
        say(f"{n_unused} conformations have no label the loss uses; skipped")
    for note in [*notes, *lacking_bonds(needs, store, used)]:
        say(note)
    say(_sizes(used))
    return RunData(store, used, {"split": used.hash, "consistency": consistency.reason})


def _mixed_data(mixture: Mixture, say: Say) -> RunData:
    every = zip(mixture.sources, mixture.splits, mixture.probabilities, strict=True)
    for source, split, probability in every:
        say(source.read)
        say(f"{source.name}: units and signs: {source.consistency.verdict} ({source.consistency.reason})")
        say(f"{source.name}: {_sizes(split)}; {probability:.1%} of the molecules of a step")
    for note in mixture.notes:
        say(note)
    record = {"split": mixture.split.hash, "sources": source_records(mixture)}
    return RunData(mixture.store, mixture.split, record, mixture)


def _sizes(split: Split) -> str:
    sizes = f"{len(split.train)} conformations to train on, {len(split.validation)} to validate on"
    return f"{sizes}, {len(split.test)} to test on" if len(split.test) else sizes


def given_split(given: Path, store: MoleculeStore, data: Path) -> Split:
    """Return a split that came with the data, a published one by its name, or that of a file."""
    with_data = saved_splits(locate(data))
    if str(given) in with_data:
        return Split.load(with_data[str(given)])
    if str(given) in PUBLISHED_SPLITS:
        return published_split(str(given), len(store))
    if not given.exists():
        there = ", ".join((*with_data, *PUBLISHED_SPLITS))
        raise FileNotFoundError(f"split={given}: no such file, and no split of that name for {data}; by name: {there}")
    split = Split.load(given)
    largest = max((int(part.max()) for part in (split.train, split.validation, split.test) if len(part)), default=-1)
    if largest >= len(store):
        raise ValueError(f"{given} names molecule {largest}, but {data} has {len(store)} molecules")
    return split
