"""Which molecules train, validate and test: drawn with a seed, saved with a hash."""

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from basinet.data.store.store import MoleculeStore
from basinet.files import write_text

FORMAT_VERSION = 1
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Three disjoint sets of indices into a store or file. The order is kept: learning curves take the first n."""

    train: Int64[np.ndarray, " n_train"]
    validation: Int64[np.ndarray, " n_validation"]
    test: Int64[np.ndarray, " n_test"]

    def __post_init__(self) -> None:
        """Refuse a split that leaks."""
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
        """Hash of the three sets with their order."""
        return sha256(json.dumps(self._lists()).encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split as JSON."""
        record = {"format_version": FORMAT_VERSION, "sha256": self.hash, **self._lists()}
        write_text(Path(path), json.dumps(record))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Split":
        """Read a split.

        Raises:
            ValueError: not a split, of a newer format, or edited since it was saved.
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
    """Draw disjoint sets of the given sizes from ``range(n)``; ``None`` for at most one of them: the rest.

    With the other two sizes given, the training set of a larger ``train`` begins with that of a smaller one: the
    learning curves of one seed are nested.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    open_ends = [name for name, size in sizes.items() if size is None]
    if len(open_ends) > 1:
        raise ValueError(f"only one of train, validation, test may be left open, got {' and '.join(open_ends)}")
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
    """Hold out whole compounds for validation: all conformations of one SMILES fall on the same side.

    Compounds are drawn until their conformations make up at least ``validation_fraction`` of the store; at least one
    compound stays on each side, and the test set is empty.

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
