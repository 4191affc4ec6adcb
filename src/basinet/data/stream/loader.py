"""Load batches from a store: bucketed by size, the same on any number of ranks, resumable to the batch."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int64

from basinet.data.store.store import MoleculeStore
from basinet.data.stream.batching import Permutation, ReadAhead, by_size, cuts_by_atoms, gather_each
from basinet.structures import Batch

ORDER_VERSION = 2
"""Version of the order of batches for given settings and seed; a state of another version cannot be resumed."""


class Part(NamedTuple):
    """A batch and its source."""

    source: int
    """Index into the ``sources`` of the stream."""
    batch: Batch


class Stream(ABC):
    """An endless, deterministic, resumable sequence of batches for training."""

    sources: Sequence[str]
    """Names of the sources of molecules."""

    @abstractmethod
    def next_parts(self) -> list[Part]:
        """Return this rank's share of the next batch, a part for each source."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the place of the stream and its identity."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at a saved place."""

    @staticmethod
    def check_state(state: Mapping[str, Any], place: set[str], identity: Mapping[str, Any]) -> None:
        """Raise a ``ValueError`` unless a state has a place and this identity."""
        if "order" not in state and {"seed", "batch_size", "data"} <= set(state):
            raise ValueError(
                "cannot resume: the state was saved by a version of basinet with another order of batches; finish the "
                "run with that version, or start a new one from its model (from=...)"
            )
        if missing := sorted({*place, *identity} - set(state)):
            raise ValueError(f"the saved loader state lacks {', '.join(missing)}: it is no state of a loader")
        differences = [f"{key} was {state[key]}, now {value}" for key, value in identity.items() if state[key] != value]
        if differences:
            raise ValueError(
                f"cannot resume: {'; '.join(differences)}. Resume with the same data and settings, or start a new run"
            )


class _Window(NamedTuple):
    """Batches planned and read together."""

    batches: Iterator[Batch]
    n_batches: int


class _Place(NamedTuple):
    """Place of a window."""

    epoch: int
    window: int


class Loader(Stream):
    """An endless, deterministic stream of batches.

    Each epoch is a permutation drawn from ``(seed, epoch)``. Molecules of a window of ``window`` batches are sorted by
    size and cut into batches, which are shuffled: a batch has molecules of similar size (little padding), while the
    molecules of a window are random. Every molecule comes exactly once an epoch; the last batch may be smaller. A
    window is read at once, the next one meanwhile in a thread; batches are views of it.

    A batch has ``batch_size`` molecules, or molecules with at most ``batch_atoms`` atoms together, as equal as whole
    molecules allow (a larger molecule is a batch of its own). Both count over all ranks: rank ``r`` takes molecules
    ``r``, ``r + world_size``, ... of each batch, so a step does not depend on the number of ranks. A rank may get an
    empty batch.

    ``indices`` are the molecules to draw; ``None``: all.
    """

    def __init__(
        self,
        store: MoleculeStore,
        indices: Int[np.ndarray, " n_chosen"] | None,
        *,
        batch_size: int | None = None,
        batch_atoms: int | None = None,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        window: int = 64,
    ) -> None:
        if indices is None:
            check_indices(np.arange(min(1, len(store))), len(store))
        else:
            check_indices(indices, len(store))
            indices = indices.astype(np.int32 if len(store) < 2**31 else np.int64)
        check_batch(batch_size, batch_atoms, window)
        check_rank(rank, world_size)
        self.sources = ("",)
        self.store = store
        self.batch_size, self.batch_atoms = batch_size, batch_atoms
        self._indices = indices
        self._n = len(store) if indices is None else len(indices)
        self._per_window = window * molecules_per_batch(store, batch_size, batch_atoms)
        self._seed, self._shuffle, self._window_size = seed, shuffle, window
        self._rank, self._world_size = rank, world_size
        self._ahead: ReadAhead[_Place, _Window] = ReadAhead(self._read)
        self._order: tuple[int, Permutation] | None = None
        self._begin(_Place(0, 0), 0)

    def __len__(self) -> int:
        """Batches an epoch."""
        if self.batch_size is None:
            raise TypeError("the number of batches of batch_atoms in an epoch is not known in advance; use batch_size")
        return -(-self._n // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.next_batch()

    @property
    def indices(self) -> Int64[np.ndarray, " n_chosen"]:
        """Molecules that are drawn."""
        return np.arange(self._n) if self._indices is None else self._indices.astype(np.int64)

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, from 0."""
        return self._place.epoch

    def next_batch(self) -> Batch:
        """Return this rank's share of the next batch; after the last batch of an epoch the next epoch begins."""
        window = self._current()
        batch = next(window.batches)
        self._ahead.begin(self._after(self._place))
        self._done += 1
        if self._done == window.n_batches:
            self._begin(self._after(self._place), 0)
        return batch

    def next_parts(self) -> list[Part]:
        """Return this rank's share of the next batch, which has one source."""
        return [Part(0, self.next_batch())]

    def epoch_batches(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield every molecule once, in the order of ``indices``, for validation; the place of the stream stays.

        Each rank takes whole batches ``rank``, ``rank + world_size``, ...: the batches do not depend on the number of
        ranks, and the last ranks may have one less, or none.
        """
        number = itertools.count()
        for window in range(self._n_windows):
            for chosen in self._cut(self._chosen(window * self._per_window)):
                if next(number) % world_size == rank:
                    yield self.store.gather(chosen)

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the stream and its identity."""
        return {"epoch": self._place.epoch, "windows": self._place.window, "batch": self._done, **self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at a saved place.

        Raises:
            ValueError: the state has other data or another order of batches.
        """
        self.check_state(state, {"epoch", "windows", "batch"}, self._identity)
        place = _Place(state["epoch"], state["windows"])
        if place.epoch < 0 or not 0 <= place.window < self._n_windows or state["batch"] < 0:
            raise ValueError(f"epoch {place.epoch}, window {place.window} is not a place in this data")
        self._begin(place, state["batch"])
        if state["batch"] and state["batch"] >= self._current().n_batches:
            raise ValueError(f"batch {state['batch']} of window {place.window} is not a place in this data")

    @property
    def _n_windows(self) -> int:
        return -(-self._n // self._per_window)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """Everything that determines the order of molecules."""
        return {
            "order": ORDER_VERSION,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "batch_size": self.batch_size,
            "batch_atoms": self.batch_atoms,
            "window": self._window_size,
            "data": hash_of(self.store, self.indices),
        }

    def _begin(self, place: _Place, done: int) -> None:
        self._place, self._done = place, done
        self._window: _Window | None = None

    def _current(self) -> _Window:
        """Return the rest of the window, from the next batch on."""
        if self._window is None:
            window = self._ahead.take(self._place)
            self._window = self._read(self._place, self._done, at_once=False) if window is None else window
        return self._window

    def _after(self, place: _Place) -> _Place:
        is_last = place.window + 1 == self._n_windows
        return _Place(place.epoch + 1, 0) if is_last else _Place(place.epoch, place.window + 1)

    def _read(self, place: _Place, done: int = 0, *, at_once: bool = True) -> _Window:
        """Read a window from batch ``done`` on; the first batch alone if it is waited for (not ``at_once``)."""
        plan = [chosen[self._rank :: self._world_size] for chosen in self._plan(place)]
        left = plan[done:]
        if at_once:
            return _Window(gather_each(self.store, left), len(plan))
        groups = (group for group in (left[:1], left[1:]) if group)
        return _Window((batch for group in groups for batch in gather_each(self.store, group)), len(plan))

    def _plan(self, place: _Place) -> list[Int64[np.ndarray, " _"]]:
        """Return the molecules of each batch of a window."""
        first = place.window * self._per_window
        if not self._shuffle:
            return self._cut(self._chosen(first))
        if self._order is None or self._order[0] != place.epoch:
            self._order = (place.epoch, Permutation(self._n, [self._seed, place.epoch]))
        places = self._order[1](first, self._per_window)
        chosen = places if self._indices is None else self._indices[places].astype(np.int64)
        batches = self._cut(chosen[by_size(self.store.atom_counts(chosen))])
        # The last number separates these draws from those of the permutation.
        generator = np.random.default_rng([self._seed, place.epoch, place.window, 1])
        return [batches[i] for i in generator.permutation(len(batches))]

    def _chosen(self, first: int) -> Int64[np.ndarray, " n"]:
        """Return the molecules of a window, in the order of the indices."""
        last = min(first + self._per_window, self._n)
        return np.arange(first, last) if self._indices is None else self._indices[first:last].astype(np.int64)

    def _cut(self, molecules: Int64[np.ndarray, " n"]) -> list[Int64[np.ndarray, " _"]]:
        if self.batch_size is not None:
            return [molecules[first : first + self.batch_size] for first in range(0, len(molecules), self.batch_size)]
        assert self.batch_atoms is not None
        return np.split(molecules, cuts_by_atoms(self.store.atom_counts(molecules), self.batch_atoms))


def molecules_per_batch(store: MoleculeStore, batch_size: int | None, batch_atoms: int | None) -> int:
    """Return the size of a batch, or the mean size of one with so many atoms."""
    if batch_size is not None:
        return batch_size
    assert batch_atoms is not None
    return max(1, round(batch_atoms * store.manifest.n_molecules / store.manifest.n_atoms))


def hash_of(store: MoleculeStore, indices: Int[np.ndarray, " n"]) -> str:
    """Return a hash of chosen molecules of a store."""
    found = sha256(store.fingerprint.encode())
    for first in range(0, len(indices), 2**20):
        found.update(indices[first : first + 2**20].astype(np.int64).tobytes())
    return found.hexdigest()


def check_batch(batch_size: int | None, batch_atoms: int | None, window: int) -> None:
    """Raise a ``ValueError`` unless exactly one size of a batch is given, and both numbers are positive."""
    if (batch_size is None) == (batch_atoms is None):
        raise ValueError(f"give batch_size or batch_atoms, one of them; got {batch_size} and {batch_atoms}")
    size = batch_atoms if batch_size is None else batch_size
    if size is None or size < 1 or window < 1:
        raise ValueError(f"the size of a batch and window must be at least 1, got {size} and {window}")


def check_rank(rank: int, world_size: int) -> None:
    """Raise a ``ValueError`` if there is no such rank."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be 0 to world_size - 1 = {world_size - 1}, got {rank}")


def check_indices(indices: Int[np.ndarray, " n"], n_molecules: int) -> None:
    """Raise a ``ValueError`` unless the indices are distinct, at least one, and of a store of that size."""
    if len(indices) == 0:
        raise ValueError("a loader needs at least one molecule, got no indices")
    if indices.min() < 0 or indices.max() >= n_molecules:
        raise ValueError(
            f"indices go from {indices.min()} to {indices.max()}, but the store has {n_molecules} molecules"
        )
    is_chosen = np.zeros(n_molecules, dtype=bool)
    is_chosen[indices] = True
    if np.count_nonzero(is_chosen) != len(indices):
        raise ValueError("an index occurs twice; every molecule is drawn once an epoch")
