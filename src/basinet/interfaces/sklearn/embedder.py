"""Compute features of SMILES with a pre-trained network."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from basinet.commands.answer.embed import embed_records
from basinet.commands.answer.halving import Halving
from basinet.commands.answer.load import load_any
from basinet.commands.answer.records import Record
from basinet.commands.answer.stream import CHUNK_RECORDS, OutsidePolicy
from basinet.commands.certify import file_hash
from basinet.data.chemistry.compounds import Fragments, canonical_compound
from basinet.data.chemistry.conformers import GenerationError, require_rdkit
from basinet.devices import resolve_device
from basinet.interfaces.sklearn.base import OfSmiles, as_smiles, quiet, records_of, refusal
from basinet.interfaces.sklearn.cache import FeatureCache, Kept
from basinet.models.model import Model, Pooling


class Embedder(TransformerMixin, OfSmiles):
    """Turn SMILES into features of a pre-trained network: the scalars of its last layer, which no rotation changes.

    Conformers are made from the canonical SMILES, so a compound has one row however it is written; see
    :meth:`basinet.models.model.Model.embed`. Fitting learns nothing.

    Args:
        model: a model file; of an ensemble, the first member.
        n_conformers: conformers of each compound; the result is the mean of their features.
        pooling: how atoms become a conformer, ``"mean"`` or ``"sum"``.
        seed: seed for the conformers.
        fragments: ``"refuse"`` fails SMILES of several molecules; ``"largest"`` takes the largest.
        outside_scope: ``"error"`` fails molecules unlike those in training; ``"warn"`` computes them.
        cache: file that keeps the rows of compounds, by canonical SMILES, model and settings; ``None``: no cache.
        processes: processes that make conformers; ``None``: one for each core.
        device: ``"cpu"`` or ``"cuda"``.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        n_conformers: int = 1,
        pooling: Pooling = "mean",
        seed: int = 0,
        fragments: Fragments = "refuse",
        outside_scope: OutsidePolicy = "error",
        cache: str | Path | None = None,
        processes: int | None = 1,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.n_conformers = n_conformers
        self.pooling: Pooling = pooling
        self.seed = seed
        self.fragments: Fragments = fragments
        self.outside_scope: OutsidePolicy = outside_scope
        self.cache = cache
        self.processes = processes
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "Embedder":  # noqa: N803
        """Read the model; nothing is learned from the molecules."""
        del y
        as_smiles(X)
        self.model_hash_ = file_hash(Path(self.model))
        self.n_features_out_ = load_any(Path(self.model), self.device).backbone.n_scalar
        return self

    def transform(self, X: Any) -> Float32[np.ndarray, "n n_features"]:  # noqa: N803
        """Return a row for each SMILES; NaN for those that fail, with the reason in ``failures_``."""
        check_is_fitted(self, "n_features_out_")
        smiles = as_smiles(X)
        compounds, failures = self._compounds(smiles)
        rows = self._rows(sorted(set(compounds.values())))
        features = np.full((len(smiles), self.n_features_out_), np.nan, dtype=np.float32)
        for number, compound in compounds.items():
            found = rows[compound]
            if isinstance(found, str):
                failures[number] = found
            else:
                features[number] = found
        self.note(dict(sorted(failures.items())), smiles)
        return features

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the features: ``basinet0``, ``basinet1`` ..."""
        del input_features
        check_is_fitted(self, "n_features_out_")
        return np.array([f"basinet{i}" for i in range(self.n_features_out_)], dtype=object)

    def _compounds(self, smiles: Sequence[str]) -> tuple[dict[int, str], dict[int, str]]:
        """Return the canonical SMILES of rows, and the reasons for rows that have none."""
        compounds: dict[int, str] = {}
        failures: dict[int, str] = {}
        for number, text in enumerate(smiles):
            try:
                compounds[number] = canonical_compound(text, self.fragments)
            except GenerationError as error:
                failures[number] = str(error)
        return compounds, failures

    def _rows(self, compounds: Sequence[str]) -> dict[str, Kept]:
        """Return the features of compounds, from the cache where they are there."""
        if file_hash(Path(self.model)) != self.model_hash_:
            raise ValueError(f"{self.model} is another file than when this was fitted; fit again")
        keys = {compound: self._key(compound) for compound in compounds}
        cache = None if self.cache is None else FeatureCache(Path(self.cache))
        kept = {} if cache is None else cache.find(keys.values())
        rows = {compound: kept[key] for compound, key in keys.items() if key in kept}
        missing = [compound for compound in compounds if compound not in rows]
        model = load_any(Path(self.model), self.device) if missing else None
        for first in range(0, len(missing), CHUNK_RECORDS):
            assert model is not None
            made = self._computed(model, missing[first : first + CHUNK_RECORDS])
            if cache is not None:
                cache.keep({keys[compound]: one for compound, one in made.items()})
            rows |= made
        return rows

    def _computed(self, model: Model, compounds: Sequence[str]) -> dict[str, Kept]:
        rows: dict[str, Kept] = {}
        good: list[Record] = []
        for record in records_of(compounds, self.n_conformers, self.seed, self.fragments, self.processes):
            if reason := refusal(record, model.scope, self.outside_scope):
                rows[record.smiles] = reason
            else:
                good.append(record)

        def compute(part: Sequence[Record]) -> list[Float32[np.ndarray, "_ n"]]:
            return embed_records(model, part, "molecule", self.pooling, resolve_device(self.device))

        for record, found in zip(good, Halving(compute, CHUNK_RECORDS, quiet)(good), strict=True):
            rows[record.smiles] = found[0] if np.isfinite(found).all() else "the features are not finite"
        return rows

    def _key(self, compound: str) -> str:
        require_rdkit()
        from rdkit import __version__ as rdkit_version

        settings = [self.n_conformers, self.pooling, self.seed, self.fragments, self.outside_scope, rdkit_version]
        return sha256(json.dumps([self.model_hash_, compound, *settings]).encode()).hexdigest()
