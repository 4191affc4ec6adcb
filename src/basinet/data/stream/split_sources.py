"""Which molecules of several stores train and validate, so that nothing leaks from one store to another."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from basinet.data.doctor.leaks import canonical_names
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split

UNDECIDED, TRAIN, HELD, WITHIN = 0, 1, 2, 3
"""Where the conformations of a compound go; ``WITHIN``: one store that has nothing else is split by conformation."""


class SourceSplits(NamedTuple):
    """A split of each of several stores."""

    splits: dict[str, Split]
    by_conformation: tuple[str, ...]
    """Stores of one compound, whose conformations were split."""
    left_out: dict[str, int]
    """Molecules that are in neither part, because their compound is split by conformation in another store."""


def split_sources(stores: Mapping[str, MoleculeStore], validation_fraction: float, seed: int) -> SourceSplits:
    """Hold out a part of each store; a compound that is in several of them falls on the same side in all.

    Compounds are told apart by their canonical SMILES, however the stores write it. A molecule without SMILES counts
    as a compound of its own. A store of a single compound can only be split by conformation; its compound is then left
    out of the other stores.

    Raises:
        ValueError: a store is too small, or all its compounds are on one side already because of the other stores.
    """
    names = canonical_names(list(stores.values()))
    smiles = [[known.get(s, s) for s in store.smiles] for known, store in zip(names, stores.values(), strict=True)]
    codes = dict(zip(stores, compound_codes(smiles), strict=True))
    n_compounds = {name: len(np.unique(found)) for name, found in codes.items()}
    side = np.full(1 + max((int(c.max()) for c in codes.values() if len(c)), default=0), UNDECIDED, dtype=np.int8)
    for name, found in codes.items():
        if len(found) < 2:
            raise ValueError(f"{name} has {len(found)} molecules; too few to keep some for validation")
        if n_compounds[name] == 1:
            side[found[0]] = WITHIN
    splits: dict[str, Split] = {}
    by_conformation: list[str] = []
    left_out: dict[str, int] = {}
    # Those with few compounds first: the larger ones can do with what is left.
    for number, name in sorted(enumerate(stores), key=lambda item: n_compounds[item[1]]):
        found = codes[name]
        generator = np.random.default_rng([seed, number])
        usable = np.flatnonzero(side[found] != WITHIN) if n_compounds[name] > 1 else np.arange(len(found))
        if len(usable) < len(found):
            left_out[name] = len(found) - len(usable)
        if len(np.unique(found[usable])) == 1:
            side[found[usable[0]]] = WITHIN
            by_conformation.append(name)
            order, n_held = generator.permutation(usable), max(1, round(validation_fraction * len(usable)))
            held = np.isin(np.arange(len(found)), order[:n_held])
        else:
            _decide(side, found[usable], validation_fraction, generator)
            held = side[found] == HELD
        splits[name] = _split(name, usable[~held[usable]], usable[held[usable]])
    return SourceSplits({name: splits[name] for name in stores}, tuple(by_conformation), left_out)


def _decide(
    side: np.ndarray, found: Int64[np.ndarray, " n"], validation_fraction: float, generator: np.random.Generator
) -> None:
    """Send the compounds of a store that are undecided to one of the sides."""
    compounds, count = np.unique(found, return_counts=True)
    n_held = int(count[side[compounds] == HELD].sum())
    is_open = side[compounds] == UNDECIDED
    order = generator.permutation(np.flatnonzero(is_open))
    wanted = validation_fraction * len(found) - n_held
    n_more = int(np.searchsorted(np.cumsum(count[order]), wanted)) + 1 if wanted > 0 else 0
    if not (side[compounds] == TRAIN).any():
        n_more = min(n_more, len(order) - 1)
    side[compounds[order]] = TRAIN
    side[compounds[order[: max(n_more, 0)]]] = HELD


def _split(name: str, train: Int64[np.ndarray, " n"], validation: Int64[np.ndarray, " m"]) -> Split:
    for what, part in (("train on", train), ("validate on", validation)):
        if len(part) == 0:
            raise ValueError(
                f"{name}: all its compounds are needed elsewhere, for they are in other sources too, and none is left "
                f"to {what}; join the sources, or leave one out"
            )
    return Split(train=train, validation=validation, test=np.zeros(0, dtype=np.int64))


def compound_codes(smiles: Sequence[Sequence[str]]) -> list[Int64[np.ndarray, " _"]]:
    """Return a number for each compound, the same in all lists; a molecule without SMILES has one of its own."""
    known: dict[str, int] = {}
    n_unknown = 0
    codes: list[np.ndarray] = []
    for entries in smiles:
        numbers = np.array([known.setdefault(s, len(known)) if s else -1 for s in entries], dtype=np.int64)
        codes.append(numbers)
    for numbers in codes:
        unknown = np.flatnonzero(numbers < 0)
        numbers[unknown] = len(known) + n_unknown + np.arange(len(unknown))
        n_unknown += len(unknown)
    return codes
