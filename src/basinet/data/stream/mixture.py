"""Join stores for statistics, and mix them for training."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64

from basinet.data.store.manifest import Manifest
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.batching import Permutation, ReadAhead, by_size, equal_cuts, gather_each
from basinet.data.stream.loader import ORDER_VERSION, Part, Stream, check_batch, check_indices, check_rank, hash_of
from basinet.structures import Batch


class Source(NamedTuple):
    """One store of a mixture."""

    name: str
    store: MoleculeStore
    indices: Int64[np.ndarray, " n_chosen"]
    """Molecules that are drawn."""
    probability: float
    """Probability that a molecule of a step comes from it."""


def mixing_probabilities(
    sizes: Sequence[int], temperature: float, weights: Sequence[float] | None = None
) -> Float64[np.ndarray, " n_sources"]:
    r"""Return the probability that a molecule is drawn from each source.

    .. math:: p_s = \frac{n_s^{1/T}}{\sum_t n_t^{1/T}}

    ==================  ==============================================================
    :math:`n_s`         ``sizes``, molecules of the source
    :math:`T`           ``temperature``; 1: by size, infinite: uniform
    ==================  ==============================================================

    Args:
        sizes: molecules of each source.
        temperature: at least 1.
        weights: unnormalised probabilities, instead of the formula.
    """
    if weights is None:
        if not temperature >= 1:
            raise ValueError(f"the temperature of a mixture must be at least 1, got {temperature}")
        exponent = 1 / temperature
        share = np.array([math.exp(exponent * math.log(n)) for n in sizes])
    else:
        share = np.array(weights, dtype=np.float64)
        if not (np.isfinite(share).all() and (share > 0).all()):
            raise ValueError(f"weights of sources must be positive and finite, got {list(weights)}")
    return share / share.sum()


class _Place(NamedTuple):
    """Beginning of a round of steps."""

    step: int
    positions: tuple[int, ...]
    """Molecules drawn from each source before it."""


class _Round(NamedTuple):
    """Steps planned and read together."""

    sizes: Sequence[Sequence[int]]
    """Molecules of each source in each step, over all ranks."""
    batches: Sequence[Iterator[Batch]]
    """Batches of this rank, for each source."""
    end: _Place


class MixtureLoader(Stream):
    """An endless, deterministic stream of steps, each made of one batch from every source.

    A source gives its share of ``batch_size`` molecules, rounded down or up at random so that the mean is exact. Each
    source has its own epochs: every molecule comes once an epoch of its source. A term of the loss is averaged over the
    batches of a step together, so its weight does not depend on its number of molecules.

    Steps are planned ``window`` at a time: the molecules of a source for all of them are sorted by size, cut, and
    assigned to the steps at random, so a batch has molecules of similar size. Batches of different sources are not
    joined, so their sizes may differ without padding. With ``batch_atoms`` instead of ``batch_size`` the cuts of a
    source have equal numbers of atoms, up to a molecule; the shares are still those of molecules.

    Rank ``r`` takes molecules ``r``, ``r + world_size``, ... of a step, counted through all its batches.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        batch_size: int | None = None,
        batch_atoms: int | None = None,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        window: int = 64,
    ) -> None:
        check_batch(batch_size, batch_atoms, window)
        check_rank(rank, world_size)
        for source in sources:
            check_indices(source.indices, len(source.store))
        self.sources = tuple(source.name for source in sources)
        self.batch_size, self.batch_atoms = batch_size, batch_atoms
        self._sources = tuple(sources)
        ends = np.cumsum([source.probability for source in sources])
        self._ends = np.concatenate([[0.0], ends[:-1] / ends[-1], [1.0]])
        self._per_step = self._molecules_per_step()
        self._seed, self._window = seed, window
        self._rank, self._world_size = rank, world_size
        self._orders: dict[int, tuple[int, Permutation]] = {}
        self._ahead: ReadAhead[_Place, _Round] = ReadAhead(self._read)
        self._begin(_Place(0, (0,) * len(sources)), 0)

    def next_parts(self) -> list[Part]:
        """Return this rank's share of the next step: a batch from every source with molecules in it.

        A batch may be empty on a rank; all ranks get batches of the same sources.
        """
        steps = self._current()
        if self._done == self._window:
            self._begin(steps.end, 0)
            steps = self._current()
        self._ahead.begin(steps.end)
        parts = [
            Part(number, next(batches))
            for number, (sizes, batches) in enumerate(zip(steps.sizes, steps.batches, strict=True))
            if sizes[self._done]
        ]
        self._done += 1
        return parts

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the stream and its identity."""
        return {"step": self._place.step + self._done, "positions": list(self._place.positions), **self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at a saved place.

        Raises:
            ValueError: the state has other data or another order of batches.
        """
        self.check_state(state, {"step", "positions"}, self._identity)
        if state["step"] < 0 or len(state["positions"]) != len(self._sources) or min(state["positions"]) < 0:
            raise ValueError(f"step {state['step']} at {state['positions']} is not a place in this mixture")
        # A finished round is current until the next step is requested.
        done = state["step"] % self._window
        first = state["step"] - (done if done or not state["step"] else self._window)
        self._begin(_Place(first, tuple(state["positions"])), state["step"] - first)

    def _molecules_per_step(self) -> float:
        if self.batch_size is not None:
            return float(self.batch_size)
        assert self.batch_atoms is not None
        shares = np.diff(self._ends)
        atoms = [s.store.manifest.n_atoms / s.store.manifest.n_molecules for s in self._sources]
        per_step = self.batch_atoms / float(shares @ atoms)
        if per_step * shares.max() < 1:
            needed = math.ceil(float(shares @ atoms) / shares.max())
            raise ValueError(
                f"batch_atoms={self.batch_atoms} is too few for this mixture: even the most frequent source would not "
                f"give a molecule to each step; give at least {needed}"
            )
        return per_step

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """Everything that determines the order of molecules."""
        data = "".join(hash_of(s.store, s.indices) for s in self._sources)
        return {
            "order": ORDER_VERSION,
            "seed": self._seed,
            "batch_size": self.batch_size,
            "batch_atoms": self.batch_atoms,
            "window": self._window,
            "probabilities": np.diff(self._ends).tolist(),
            "data": sha256(data.encode()).hexdigest(),
        }

    def _begin(self, place: _Place, done: int) -> None:
        self._place, self._done = place, done
        self._round: _Round | None = None

    def _current(self) -> _Round:
        """Return the rest of the round, from the next step on."""
        if self._round is None:
            self._round = self._ahead.take(self._place) or self._read(self._place)
            for sizes, batches in zip(self._round.sizes, self._round.batches, strict=True):
                for size in sizes[: self._done]:
                    if size:
                        next(batches)
        return self._round

    def _read(self, place: _Place) -> _Round:
        """Plan a round of steps and read its molecules of this rank."""
        generator = np.random.default_rng([self._seed, len(self._sources), place.step])
        # Systematic sampling: one random offset a step, then evenly spaced points on the line of probabilities.
        offset = generator.random(self._window)
        counts = np.diff(np.floor(self._per_step * self._ends + offset[:, None]).astype(np.int64), axis=1)
        plan = [self._cut(s, place.positions[s], counts[:, s], generator) for s in range(len(self._sources))]
        sizes = np.array([[len(chosen) for chosen in of_source] for of_source in plan])
        before = np.cumsum(sizes, axis=0) - sizes
        batches = [
            gather_each(
                source.store,
                [
                    chosen[(self._rank - n) % self._world_size :: self._world_size]
                    for chosen, n in zip(of_source, before[number].tolist(), strict=True)
                    if len(chosen)
                ],
            )
            for number, (source, of_source) in enumerate(zip(self._sources, plan, strict=True))
        ]
        given = tuple(p + n for p, n in zip(place.positions, sizes.sum(1).tolist(), strict=True))
        return _Round(sizes.tolist(), batches, _Place(place.step + self._window, given))

    def _cut(
        self, number: int, first: int, counts: Int64[np.ndarray, " n_steps"], generator: np.random.Generator
    ) -> list[Int64[np.ndarray, " _"]]:
        """Return the molecules of a source in each step of a round."""
        chosen = self._draw(number, first, int(counts.sum()))
        sizes = self._sources[number].store.atom_counts(chosen)
        order = by_size(sizes)
        steps = generator.permutation(len(counts))
        cuts = np.cumsum(counts[steps])[:-1] if self.batch_atoms is None else equal_cuts(sizes[order], len(counts))
        plan = [chosen[:0]] * len(counts)
        for step, piece in zip(steps.tolist(), np.split(chosen[order], cuts), strict=True):
            plan[step] = piece
        return plan

    def _draw(self, number: int, first: int, n: int) -> Int64[np.ndarray, " n"]:
        """Return molecules ``first`` to ``first + n`` of the endless epochs of a source."""
        indices = self._sources[number].indices
        drawn = [np.zeros(0, dtype=np.int64)]
        while n > 0:
            epoch, place = divmod(first, len(indices))
            piece = indices[self._order(number, epoch)(place, n)]
            drawn.append(piece)
            first, n = first + len(piece), n - len(piece)
        return np.concatenate(drawn)

    def _order(self, number: int, epoch: int) -> Permutation:
        known = self._orders.get(number)
        if known is None or known[0] != epoch:
            known = (epoch, Permutation(len(self._sources[number].indices), [self._seed, number, epoch, 1]))
            self._orders[number] = known
        return known[1]


def joined(stores: Mapping[str, MoleculeStore]) -> MoleculeStore:
    """Return one store of the molecules of several, in their order, without copying molecules.

    Raises:
        ValueError: a label is per molecule in one of them and per atom in another.
    """
    labelled = [s for s in stores.values() if s.label_counts]
    manifest = Manifest(
        level_of_theory="; ".join(dict.fromkeys(s.manifest.level_of_theory for s in labelled)),
        source="; ".join(f"{name}: {s.manifest.source}" for name, s in stores.items()),
        settings={},
        complete=True,
    )
    for name, store in stores.items():
        for shard in store.manifest.shards:
            try:
                manifest = manifest.with_shard(shard)
            except ValueError as error:
                raise ValueError(f"{name} does not fit the sources before it: {error}") from None
    return MoleculeStore(manifest, [shard for store in stores.values() for shard in store.shards])


def adapted(
    store: MoleculeStore,
    *,
    is_equilibrium: bool | None = None,
    level_of_theory: str | None = None,
    leave_out: Sequence[str] = (),
) -> MoleculeStore:
    """Return a view of a store with other facts about its molecules.

    Args:
        store: the molecules.
        is_equilibrium: all positions are minima, or none; ``None``: unchanged.
        level_of_theory: level of theory of the labels; ``None``: unchanged.
        leave_out: labels to drop.

    Raises:
        ValueError: the store has no such label.
    """
    unknown = sorted(set(leave_out) - set(store.label_counts))
    if unknown:
        raise ValueError(f"cannot leave out {', '.join(unknown)}: the labels are {store.label_counts or 'none'}")

    def kept(labels: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in labels.items() if name not in leave_out}

    shards = [
        dataclasses.replace(
            shard,
            labels=kept(shard.labels),
            atom_labels=kept(shard.atom_labels),
            has=kept(shard.has),
            is_equilibrium=shard.is_equilibrium
            if is_equilibrium is None
            else np.full(shard.n_molecules, is_equilibrium),
        )
        for shard in store.shards
    ]
    entries = tuple(dataclasses.replace(entry, labels=kept(entry.labels)) for entry in store.manifest.shards)
    level = store.manifest.level_of_theory if level_of_theory is None else level_of_theory
    return MoleculeStore(dataclasses.replace(store.manifest, shards=entries, level_of_theory=level), shards)


class ReplayStream(Stream):
    """The batches of a stream, with a batch of another stream, whose molecules are flagged, at every ``every``-th step.

    The sources of the first stream keep their names (an empty name becomes ``data``).

    Args:
        stream: gives a batch at every step.
        replay: gives a batch at every ``every``-th step, from the first on.
        every: at least 1.
        flag: flag of the molecules of ``replay``.
    """

    def __init__(self, stream: Stream, replay: Stream, *, every: int, flag: str) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.sources = (*(name or "data" for name in stream.sources), *replay.sources)
        self._stream, self._replay, self._every, self._flag = stream, replay, every, flag
        self._n_given = 0

    def next_parts(self) -> list[Part]:
        """Return this rank's share of the next batch, and of a replayed one if it is due."""
        parts = self._stream.next_parts()
        if self._n_given % self._every == 0:
            parts += [self._flagged(part) for part in self._replay.next_parts()]
        self._n_given += 1
        return parts

    def state_dict(self) -> dict[str, Any]:
        """Return the places of both streams."""
        return {
            "n_given": self._n_given,
            "every": self._every,
            "stream": self._stream.state_dict(),
            "replay": self._replay.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at a saved place.

        Raises:
            ValueError: the state has other data or another order of batches.
        """
        self.check_state(state, {"n_given", "stream", "replay"}, {"every": self._every})
        self._stream.load_state_dict(state["stream"])
        self._replay.load_state_dict(state["replay"])
        self._n_given = state["n_given"]

    def _flagged(self, part: Part) -> Part:
        batch = part.batch
        flags = {**batch.flags, self._flag: torch.ones(batch.n_molecules, dtype=torch.bool)}
        return Part(len(self._stream.sources) + part.source, batch.replace(flags=flags))
