"""Batches straight from a store: bucketed by size, the same on any number of ranks, resumable to the batch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int64

from basinet.data.store import MoleculeStore
from basinet.structures import Batch


class Part(NamedTuple):
    """A batch, and where it came from."""

    source: int
    """Index into the ``sources`` of the stream."""
    batch: Batch


class Stream(ABC):
    """What a step of training takes its molecules from: endless, deterministic, resumable."""

    sources: Sequence[str]
    """Name of each source of molecules."""

    @abstractmethod
    def next_parts(self) -> list[Part]:
        """Return this rank's share of the next batch, in pieces that belong to one source each."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return where the stream is, and what it is a stream of."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""

    @staticmethod
    def check_state(state: Mapping[str, Any], place: set[str], identity: Mapping[str, Any]) -> None:
        """Raise a ``ValueError`` unless a state says a place and is of the stream with this identity."""
        if missing := sorted({*place, *identity} - set(state)):
            raise ValueError(f"the saved loader state lacks {', '.join(missing)}: it is not a loader's state")
        differences = [f"{key} was {state[key]}, now {value}" for key, value in identity.items() if state[key] != value]
        if differences:
            raise ValueError(
                f"cannot resume the batches where they stopped: {'; '.join(differences)}. "
                "Resume with the same data and settings, or start a new run"
            )


class Loader(Stream):
    """An endless, deterministic stream of batches.

    Each epoch is a permutation drawn from ``(seed, epoch)``. Within windows of ``window`` batches the molecules are
    sorted by size, cut into batches, and the batches shuffled: a batch then holds molecules of similar size (little
    padding), while over a window every molecule is still drawn at random. Every molecule comes exactly once an epoch;
    the last batch to be cut may be smaller.

    ``batch_size`` is that of the whole batch over all ranks: rank ``r`` takes molecules ``r``, ``r + world_size``, ...
    of each batch, so what the model sees in a step does not depend on the number of ranks. A rank gets an empty batch
    where a batch has fewer molecules than there are ranks.
    """

    def __init__(
        self,
        store: MoleculeStore,
        indices: Int[np.ndarray, " n_chosen"],
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        window: int = 64,
    ) -> None:
        indices = indices.astype(np.int64)
        check_indices(indices, len(store))
        if batch_size < 1 or window < 1:
            raise ValueError(f"batch_size and window must be at least 1, got {batch_size} and {window}")
        check_rank(rank, world_size)
        self.sources = ("",)
        self.store = store
        self.indices = indices
        self.batch_size = batch_size
        self._seed, self._shuffle, self._window = seed, shuffle, window
        self._rank, self._world_size = rank, world_size
        self._epoch, self._position = 0, 0
        self._plan = self._plan_epoch(0)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.next_batch()

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, from 0."""
        return self._epoch

    def next_batch(self) -> Batch:
        """Return this rank's share of the next batch; after the last batch of an epoch the next epoch begins."""
        chosen = self._plan[self._position]
        self._position += 1
        if self._position == len(self._plan):
            self._begin(self._epoch + 1, 0)
        return self._gather(chosen)

    def next_parts(self) -> list[Part]:
        """Return this rank's share of the next batch, which has one source."""
        return [Part(0, self.next_batch())]

    def epoch_batches(self) -> Iterator[Batch]:
        """Give every molecule once, in the order of ``indices``: a pass for validation, which moves nothing."""
        for first in range(0, len(self.indices), self.batch_size):
            yield self._gather(self.indices[first : first + self.batch_size])

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream is, and what it is a stream of."""
        return {"epoch": self._epoch, "position": self._position, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            ValueError: the state is of other data or another order of batches.
        """
        self.check_state(state, {"epoch", "position"}, self._identity())
        if state["epoch"] < 0 or not 0 <= state["position"] < len(self):
            raise ValueError(f"epoch {state['epoch']}, batch {state['position']} is not a place in this data")
        self._begin(state["epoch"], state["position"])

    def _identity(self) -> dict[str, Any]:
        """Return everything that decides the order of molecules; the number of ranks does not."""
        return {
            "seed": self._seed,
            "shuffle": self._shuffle,
            "batch_size": self.batch_size,
            "window": self._window,
            "data": sha256(self.store.fingerprint.encode() + self.indices.tobytes()).hexdigest(),
        }

    def _begin(self, epoch: int, position: int) -> None:
        self._epoch, self._position = epoch, position
        self._plan = self._plan_epoch(epoch)

    def _plan_epoch(self, epoch: int) -> list[Int64[np.ndarray, " _"]]:
        if not self._shuffle:
            return _cut(self.indices, self.batch_size)
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(self.indices)
        plan: list[Int64[np.ndarray, " _"]] = []
        for window in _cut(order, self.batch_size * self._window):
            by_size = window[np.argsort(self.store.atoms_per_molecule[window], kind="stable")]
            batches = _cut(by_size, self.batch_size)
            plan.extend(batches[i] for i in generator.permutation(len(batches)))
        return plan

    def _gather(self, chosen: Int64[np.ndarray, " n_in_batch"]) -> Batch:
        return self.store.gather(chosen[self._rank :: self._world_size])


def _cut(order: Int64[np.ndarray, " n"], size: int) -> list[Int64[np.ndarray, " _"]]:
    return [order[first : first + size] for first in range(0, len(order), size)]


def check_rank(rank: int, world_size: int) -> None:
    """Raise a ``ValueError`` if there is no such rank."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be 0 to world_size - 1 = {world_size - 1}, got {rank}")


def check_indices(indices: Int64[np.ndarray, " n"], n_molecules: int) -> None:
    """Raise a ``ValueError`` unless the indices are distinct, at least one, and of a store of that size."""
    if len(indices) == 0:
        raise ValueError("a loader needs at least one molecule, got no indices")
    if indices.min() < 0 or indices.max() >= n_molecules:
        raise ValueError(
            f"indices go from {indices.min()} to {indices.max()}, but the store has {n_molecules} molecules"
        )
    if len(np.unique(indices)) != len(indices):
        raise ValueError("an index occurs twice; every molecule is drawn once an epoch")
