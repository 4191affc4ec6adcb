"""Draw minima beside the data of fine-tuning (``replay:`` in a recipe)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning_fabric import Fabric

from basinet.commands.recipe import FinetuneRecipe, ReplayConfig, SourceConfig, TrainableRecipe, UnitsConfig
from basinet.commands.statistics import chunks, used_by
from basinet.commands.train.mixture import read_sources
from basinet.commands.train.plugin import objective_of
from basinet.data.stream.loader import Stream
from basinet.data.stream.mixture import MixtureLoader, ReplayStream, Source, adapted, mixing_probabilities
from basinet.models.model import Model
from basinet.objectives.base import Objective
from basinet.objectives.replay import IS_REPLAY, WithReplay, minima_to_keep


class ReplayData(NamedTuple):
    """Minima to replay."""

    config: ReplayConfig
    sources: tuple[Source, ...]
    record: Sequence[Mapping[str, Any]]
    """Entries of ``data.json``."""

    def __str__(self) -> str:
        """Return one line for people."""
        each = ", ".join(f"{len(s.indices)} of {s.name}" for s in self.sources)
        return f"{self.config.batch_size} minima with every {_nth(self.config.every)}batch, from {each}"


def _nth(every: int) -> str:
    return "" if every == 1 else f"{every}. "


def training_objective(recipe: TrainableRecipe) -> Objective:
    """Return the objective of the training steps; validation leaves the replayed minima out."""
    objective = objective_of(recipe)
    if not isinstance(recipe, FinetuneRecipe) or recipe.replay is None:
        return objective
    return WithReplay(objective, replay_objective(recipe.replay))


def replay_objective(config: ReplayConfig) -> Objective:
    """Return the objective of the replayed minima."""
    return minima_to_keep(config.zero_force, config.denoising, config.sigma, config.temperature)


def read_replay(config: ReplayConfig) -> ReplayData:
    """Read the minima without their labels, so that no energy of another level of theory is learned.

    Raises:
        ValueError: a source cannot be read, or has no minima.
    """
    paths = (SourceConfig(path=config.data),) if isinstance(config.data, Path) else config.data
    read = read_sources(paths, UnitsConfig())
    if any(source.config.weight is not None for source in read):
        raise ValueError("replay draws from its sources by their sizes; leave their weights out")
    objective = replay_objective(config)
    found: list[tuple[str, Any, np.ndarray]] = []
    for source in read:
        store = adapted(source.store, leave_out=sorted(source.store.label_counts))
        try:
            found.append((source.name, store, used_by(objective, store, np.arange(len(store)))))
        except ValueError:
            raise ValueError(
                f"replay needs minima, and source {source.name} has none on record; if they are minima, say "
                "replay: {data: [{path: ..., is_equilibrium: true}]}"
            ) from None
    shares = mixing_probabilities([len(used) for _, _, used in found], config.mixing_temperature).tolist()
    sources = tuple(Source(name, store, used, p) for (name, store, used), p in zip(found, shares, strict=True))
    record = [
        {
            "name": s.name,
            "path": str(r.config.path),
            "fingerprint": s.store.fingerprint,
            "n_minima": len(s.indices),
            "probability": s.probability,
        }
        for s, r in zip(sources, read, strict=True)
    ]
    return ReplayData(config, sources, record)


def fit_scope(model: Model, replay: ReplayData, *, is_fresh: bool) -> None:
    """Extend the scope of a fresh model by the minima; check that a loaded model knows them.

    Raises:
        ValueError: the minima have elements that the loaded model was never trained on.
    """
    if not is_fresh:
        for source in replay.sources:
            for batch in chunks(source.store, source.indices):
                model.scope.check(batch)
        return
    for source in replay.sources:
        model.scope = model.scope.extended(source.store.elements, source.store.charges, source.store.sizes)


def with_replay(stream: Stream, replay: ReplayData, seed: int, fabric: Fabric) -> ReplayStream:
    """Return the batches of a stream with minima beside them."""
    minima = MixtureLoader(
        replay.sources,
        batch_size=replay.config.batch_size,
        seed=seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    return ReplayStream(stream, minima, every=replay.config.every, flag=IS_REPLAY)
