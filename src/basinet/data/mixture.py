"""Several stores as one set of data: joined for statistics, mixed for training."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from basinet.data.loader import Part, Stream, check_indices, check_rank
from basinet.data.manifest import Manifest
from basinet.data.store import MoleculeStore


class Source(NamedTuple):
    """One store of a mixture."""

    name: str
    store: MoleculeStore
    indices: Int64[np.ndarray, " n_chosen"]
    """Molecules that are drawn."""
    probability: float
    """That a molecule of a step comes from here."""


def mixing_probabilities(
    sizes: Sequence[int], temperature: float, weights: Sequence[float] | None = None
) -> Float64[np.ndarray, " n_sources"]:
    r"""Return the probability that a molecule is drawn from each source.

    .. math:: p_s = \frac{n_s^{1/T}}{\sum_t n_t^{1/T}}

    ==================  ==============================================================
    :math:`n_s`         ``sizes``, molecules of the source
    :math:`T`           ``temperature``; 1: as the sources were one, infinite: all alike
    ==================  ==============================================================

    Args:
        sizes: molecules of each source.
        temperature: at least 1.
        weights: in place of the formula: the probabilities, up to a factor.
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


class MixtureLoader(Stream):
    """An endless, deterministic stream of steps, each made of one batch from every source.

    Of ``batch_size`` molecules a source gives its share, rounded down or up at random so that the mean is exact. Each
    source is gone through in an order of its own: every molecule once an epoch of that source, however often the
    others were gone through meanwhile. A term of the loss is averaged over the batches of a step together, so its
    weight does not depend on how many molecules it had.

    Steps are planned ``window`` at a time: the molecules a source gives to all of them are sorted by size and cut, and
    the cuts fall to the steps at random, so a batch holds molecules of similar size. Batches of different sources are
    not joined: each is a pass of its own, and their sizes may differ without padding.

    Rank ``r`` takes molecules ``r``, ``r + world_size``, ... of a step, counted through all its batches.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        window: int = 64,
    ) -> None:
        if batch_size < 1 or window < 1:
            raise ValueError(f"batch_size and window must be at least 1, got {batch_size} and {window}")
        check_rank(rank, world_size)
        for source in sources:
            check_indices(source.indices, len(source.store))
        self.sources = tuple(source.name for source in sources)
        self.batch_size = batch_size
        self._sources = tuple(sources)
        ends = np.cumsum([source.probability for source in sources])
        self._ends = np.concatenate([[0.0], ends[:-1] / ends[-1], [1.0]])
        self._seed, self._window = seed, window
        self._rank, self._world_size = rank, world_size
        self._orders: dict[int, tuple[int, Int64[np.ndarray, " _"]]] = {}
        self._begin(0, [0] * len(sources))

    def next_parts(self) -> list[Part]:
        """Return this rank's share of the next step: a batch from every source that has molecules in it.

        A batch is empty where a rank gets none of its molecules; all ranks get batches of the same sources.
        """
        in_round = self._step - self._first_step
        if in_round == self._window:
            self._begin(self._step, [p + n for p, n in zip(self._positions, self._given(), strict=True)])
            in_round = 0
        parts: list[Part] = []
        before = 0
        for number, (source, plan) in enumerate(zip(self._sources, self._plan, strict=True)):
            chosen = plan[in_round]
            if len(chosen):
                mine = chosen[(self._rank - before) % self._world_size :: self._world_size]
                parts.append(Part(number, source.store.gather(mine)))
            before += len(chosen)
        self._step += 1
        return parts

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream is, and what it is a stream of."""
        return {"step": self._step, "positions": list(self._positions), **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            ValueError: the state is of other data or another order of batches.
        """
        self.check_state(state, {"step", "positions"}, self._identity())
        if state["step"] < 0 or len(state["positions"]) != len(self._sources) or min(state["positions"]) < 0:
            raise ValueError(f"step {state['step']} at {state['positions']} is not a place in this mixture")
        # A round that is just over is not left before the next step is asked for.
        done = state["step"] % self._window
        first = state["step"] - (done if done or not state["step"] else self._window)
        self._begin(first, list(state["positions"]))
        self._step = state["step"]

    def _identity(self) -> dict[str, Any]:
        """Return everything that decides the order of molecules; the number of ranks does not."""
        data = [s.store.fingerprint.encode() + s.indices.tobytes() for s in self._sources]
        return {
            "seed": self._seed,
            "batch_size": self.batch_size,
            "window": self._window,
            "probabilities": np.diff(self._ends).tolist(),
            "data": sha256(b"".join(sha256(d).digest() for d in data)).hexdigest(),
        }

    def _begin(self, step: int, positions: list[int]) -> None:
        """Plan a round of steps; ``positions`` are the molecules that each source has given before it."""
        self._step = self._first_step = step
        self._positions = positions
        generator = np.random.default_rng([self._seed, len(self._sources), step])
        # Systematic sampling: one random offset a step, then evenly spaced points on the line of probabilities.
        offset = generator.random(self._window)
        counts = np.diff(np.floor(self.batch_size * self._ends + offset[:, None]).astype(np.int64), axis=1)
        self._plan = [self._cut(s, counts[:, s], generator) for s in range(len(self._sources))]

    def _cut(
        self, number: int, counts: Int64[np.ndarray, " n_steps"], generator: np.random.Generator
    ) -> list[Int64[np.ndarray, " _"]]:
        """Return the molecules that a source gives to each step of a round."""
        source = self._sources[number]
        chosen = self._draw(number, self._positions[number], int(counts.sum()))
        by_size = chosen[np.argsort(source.store.atoms_per_molecule[chosen], kind="stable")]
        order = generator.permutation(len(counts))
        pieces = np.split(by_size, np.cumsum(counts[order])[:-1])
        plan = [pieces[0]] * len(counts)
        for step, piece in zip(order.tolist(), pieces, strict=True):
            plan[step] = piece
        return plan

    def _draw(self, number: int, first: int, n: int) -> Int64[np.ndarray, " n"]:
        """Return molecules ``first`` to ``first + n`` of a source whose epochs follow one another without end."""
        size = len(self._sources[number].indices)
        drawn = [np.zeros(0, dtype=np.int64)]
        while n > 0:
            epoch, place = divmod(first, size)
            piece = self._order(number, epoch)[place : place + n]
            drawn.append(piece)
            first, n = first + len(piece), n - len(piece)
        return np.concatenate(drawn)

    def _order(self, number: int, epoch: int) -> Int64[np.ndarray, " n_chosen"]:
        known = self._orders.get(number)
        if known is None or known[0] != epoch:
            generator = np.random.default_rng([self._seed, number, epoch, 1])
            known = (epoch, generator.permutation(self._sources[number].indices))
            self._orders[number] = known
        return known[1]

    def _given(self) -> list[int]:
        return [sum(len(piece) for piece in plan) for plan in self._plan]


def joined(stores: Mapping[str, MoleculeStore]) -> MoleculeStore:
    """Return one store of the molecules of several, in that order; nothing is copied but an index of molecules.

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
    """Return a store that says something else about its molecules; the files stay as they are.

    Args:
        store: as it is.
        is_equilibrium: whether all its positions are minima; ``None``: as the store says.
        level_of_theory: of the labels; ``None``: as the store says.
        leave_out: labels to pretend not to have.

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
