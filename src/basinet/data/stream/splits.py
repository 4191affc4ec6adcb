"""Split molecules into training, validation and test sets; draw with a seed, save with a hash."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from basinet.data.doctor.leaks import canonical_names
from basinet.data.store.store import MoleculeStore
from basinet.files import write_text

FORMAT_VERSION = 1
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Three disjoint, ordered sets of indices into a store or file; learning curves take the first n."""

    train: Int64[np.ndarray, " n_train"]
    validation: Int64[np.ndarray, " n_validation"]
    test: Int64[np.ndarray, " n_test"]

    def __post_init__(self) -> None:
        """Check that no index occurs twice."""
        every = np.concatenate([self.train, self.validation, self.test])
        if len(every) and every.min() < 0:
            raise ValueError(f"indices of a split start at 0, got {every.min()}")
        values, counts = np.unique(every, return_counts=True)
        if (counts > 1).any():
            index = int(values[np.argmax(counts > 1)])
            places = [name for name in PARTS for _ in range(int((getattr(self, name) == index).sum()))]
            raise ValueError(f"index {index} occurs {len(places)} times ({', '.join(places)}); each may occur once")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Split) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def hash(self) -> str:
        """Hash of the three ordered sets."""
        return sha256(json.dumps(self._lists()).encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split as JSON."""
        record = {"format_version": FORMAT_VERSION, "sha256": self.hash, **self._lists()}
        write_text(Path(path), json.dumps(record))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Split":
        """Read a split.

        Raises:
            ValueError: the file is no split, has a newer format, or was edited.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            version, expected = record["format_version"], record["sha256"]
            parts = {name: np.array(record[name], dtype=np.int64) for name in PARTS}
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{path} is not a split written by basinet") from None
        if version != FORMAT_VERSION:
            raise ValueError(f"{path} has format version {version}, expected {FORMAT_VERSION}; update basinet")
        split = cls(**parts)
        if split.hash != expected:
            raise ValueError(f"{path} was changed after it was saved (its sha256 does not match); draw the split again")
        return split

    def _lists(self) -> dict[str, list[int]]:
        return {name: getattr(self, name).tolist() for name in PARTS}


def random_split(
    n: int, *, train: int | None = None, validation: int | None = None, test: int | None = None, seed: int
) -> Split:
    """Draw disjoint sets of the given sizes from ``range(n)``; at most one size may be ``None``: the rest.

    For given other sizes, a larger training set begins with a smaller one: learning curves of one seed are nested.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    open_ends = [name for name, size in sizes.items() if size is None]
    if len(open_ends) > 1:
        raise ValueError(f"only one of train, validation, test may be None, got {' and '.join(open_ends)}")
    given = sum(size for size in sizes.values() if size is not None)
    if any(size < 0 for size in sizes.values() if size is not None) or given > n:
        raise ValueError(f"cannot draw train={train}, validation={validation}, test={test} from {n} molecules")
    order = np.random.default_rng(seed).permutation(n)
    n_test = n - given if test is None else test
    n_validation = n - given if validation is None else validation
    n_train = n - given if train is None else train
    first = n_test + n_validation
    return Split(test=order[:n_test], validation=order[n_test:first], train=order[first : first + n_train])


def split_by_smiles(store: MoleculeStore, validation_fraction: float, seed: int) -> Split:
    """Hold out whole compounds for validation: all conformations of one SMILES are in one set.

    Compounds are drawn until their conformations are at least ``validation_fraction`` of the store; both sets have at
    least one compound, and the test set is empty.

    Raises:
        ValueError: a molecule has no SMILES, or there are fewer than two compounds.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must be between 0 and 1, got {validation_fraction}")
    smiles = np.array(store.smiles, dtype=np.str_)
    if (unknown := int((smiles == "").sum())) or len(smiles) == 0:
        raise ValueError(
            f"{unknown} of {len(store)} molecules have no SMILES, so their compound is unknown; use random_split"
        )
    compounds, compound, count = np.unique(smiles, return_inverse=True, return_counts=True)
    if len(compounds) < 2:
        raise ValueError(
            f"all molecules are {compounds[0]}; one compound cannot be split by compound, use random_split"
        )
    order = np.random.default_rng(seed).permutation(len(compounds))
    held = np.cumsum(count[order])
    n_held = min(int(np.searchsorted(held, validation_fraction * len(smiles))) + 1, len(compounds) - 1)
    is_held = np.isin(compound, order[:n_held])
    return Split(train=np.flatnonzero(~is_held), validation=np.flatnonzero(is_held), test=np.zeros(0, dtype=np.int64))


UNDECIDED, TRAIN, HELD, WITHIN = 0, 1, 2, 3
"""Assignment of a compound; ``WITHIN``: the only compound of a store, which is split by conformation."""


class SourceSplits(NamedTuple):
    """Splits of several stores."""

    splits: dict[str, Split]
    by_conformation: tuple[str, ...]
    """Stores of one compound, split by conformation."""
    left_out: dict[str, int]
    """Molecules in neither set, because their compound is split by conformation in another store."""


def split_sources(stores: Mapping[str, MoleculeStore], validation_fraction: float, seed: int) -> SourceSplits:
    """Hold out a part of each store; a compound in several stores is in the same set in all.

    Compounds are compared by canonical SMILES; a molecule without SMILES is a compound of its own. A store of a single
    compound is split by conformation, and its compound left out of the other stores.

    Raises:
        ValueError: a store is too small, or all its compounds are assigned to one set by other stores.
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
    # Stores with few compounds first: they have the least choice.
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
    """Assign the undecided compounds of a store to the sets."""
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
                f"{name}: all its compounds are in other sources too, which leaves none to {what}; join the sources, "
                "or leave one out"
            )
    return Split(train=train, validation=validation, test=np.zeros(0, dtype=np.int64))


def compound_codes(smiles: Sequence[Sequence[str]]) -> list[Int64[np.ndarray, " _"]]:
    """Return a number for each compound, the same in all lists; each molecule without SMILES has its own."""
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
