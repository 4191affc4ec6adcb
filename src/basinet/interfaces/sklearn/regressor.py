"""Train a network on SMILES and numbers."""

import csv
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted

from basinet.commands.answer.halving import Halving
from basinet.commands.answer.load import Predictor
from basinet.commands.answer.predict import Numbers, predict_records, predicted_columns
from basinet.commands.answer.records import Record
from basinet.commands.answer.stream import CHUNK_RECORDS, OutsidePolicy
from basinet.commands.assay.data import ROWS_FILE
from basinet.commands.assay.finetune import finetune_assay
from basinet.commands.assay.recipe import AssayRecipe
from basinet.data.chemistry.compounds import Fragments
from basinet.interfaces.sklearn.base import OfSmiles, as_smiles, quiet, records_of, refusal
from basinet.training.fit import TrainingConfig

TARGET = "target"


class Regressor(RegressorMixin, OfSmiles):
    """Fine-tune a network on SMILES and numbers, as ``basinet finetune table.csv`` does.

    Args:
        model: a model file to start from, or scratch.
        n_conformers: largest number of conformers of a compound; all are trained on, and predictions are their mean.
        ensemble: number of networks; their spread is the standard deviation of a prediction.
        validation_fraction: part of the compounds that chooses the best step.
        calibration_fraction: part of the compounds that calibrates intervals; 0: none.
        freeze: layers that keep their weights: n for the embedding and the first n; backbone for all but the head.
        readout: how atoms become a molecule: mean for intensive properties, sum for extensive ones.
        training: steps, batches, optimiser and the seed; ``None``: those of ``basinet finetune``.
        seed: seed for the conformers and the division of the data.
        fragments: ``"refuse"`` leaves SMILES of several molecules out; ``"largest"`` takes the largest.
        outside_scope: ``"error"`` fails molecules unlike those in training; ``"warn"`` predicts them.
        processes: processes that make conformers; ``None``: one for each core.
        device: device of predictions, ``"cpu"`` or ``"cuda"``.
    """

    def __init__(
        self,
        model: str | Path = "scratch",
        *,
        n_conformers: int = 4,
        ensemble: int = 1,
        validation_fraction: float = 0.1,
        calibration_fraction: float = 0.0,
        freeze: int | Literal["backbone"] = 0,
        readout: Literal["mean", "sum"] = "mean",
        training: TrainingConfig | None = None,
        seed: int = 0,
        fragments: Fragments = "refuse",
        outside_scope: OutsidePolicy = "error",
        processes: int | None = 1,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.n_conformers = n_conformers
        self.ensemble = ensemble
        self.validation_fraction = validation_fraction
        self.calibration_fraction = calibration_fraction
        self.freeze: int | Literal["backbone"] = freeze
        self.readout: Literal["mean", "sum"] = readout
        self.training = training
        self.seed = seed
        self.fragments: Fragments = fragments
        self.outside_scope: OutsidePolicy = outside_scope
        self.processes = processes
        self.device = device

    def fit(self, X: Any, y: Any) -> "Regressor":  # noqa: N803
        """Train on compounds and their numbers; rows of one compound count as one, with their median.

        Raises:
            ValueError: a number is not finite, the lengths differ, or too few rows give a molecule.
        """
        smiles, numbers = as_smiles(X), np.asarray(y, dtype=np.float64)
        if numbers.shape != (len(smiles),):
            raise ValueError(f"expected one number for each of {len(smiles)} SMILES, got an array of {numbers.shape}")
        if not np.isfinite(numbers).all():
            raise ValueError(f"y is not finite in row {int(np.flatnonzero(~np.isfinite(numbers))[0])}")
        with tempfile.TemporaryDirectory(prefix="basinet-") as directory:
            table, out = Path(directory, "table.csv"), Path(directory, "run")
            _write_table(table, smiles, numbers)
            found = finetune_assay(self._recipe(table), out)
            self.model_bytes_ = found.model.read_bytes()
            self.note(_unused(out / ROWS_FILE), smiles)
        return self

    def predict(self, X: Any) -> Float64[np.ndarray, " n"]:  # noqa: N803
        """Return the property of each SMILES; NaN for those that fail, with the reason in ``failures_``."""
        return self._columns(X, ["_predicted"], 0.9)[:, 0]

    def predict_with_std(self, X: Any) -> Float64[np.ndarray, "n 2"]:  # noqa: N803
        """Return the mean of an ensemble and its standard deviation.

        Raises:
            ValueError: there is one network only.
        """
        return self._columns(X, ["_predicted", "_std"], 0.9)

    def predict_interval(self, X: Any, coverage: float = 0.9) -> Float64[np.ndarray, "n 2"]:  # noqa: N803
        """Return the lower and upper end of intervals that hold a new label with a probability (split conformal).

        Raises:
            ValueError: there was no calibration part.
        """
        return self._columns(X, ["_lower", "_upper"], coverage)

    def save(self, path: str | Path) -> None:
        """Write a model file, for ``basinet predict`` and others."""
        check_is_fitted(self, "model_bytes_")
        Path(path).write_bytes(self.model_bytes_)

    def _recipe(self, table: Path) -> AssayRecipe:
        given: dict[str, Any] = {} if self.training is None else {"training": self.training}
        return AssayRecipe(
            data=table,
            target=TARGET,
            start=str(self.model),
            freeze=self.freeze,
            split="random",
            validation_fraction=self.validation_fraction,
            calibration_fraction=self.calibration_fraction,
            test_fraction=0.0,
            split_seed=self.seed,
            fragments=self.fragments,
            conformers=self.n_conformers,
            conformer_seed=self.seed,
            processes=self.processes,
            ensemble=self.ensemble,
            readout=self.readout,
            baselines=False,
            **given,
        )

    def _columns(self, X: Any, endings: Sequence[str], coverage: float) -> Float64[np.ndarray, "n _"]:  # noqa: N803
        check_is_fitted(self, "model_bytes_")
        smiles = as_smiles(X)
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            file.write(self.model_bytes_)
            file.flush()
            predictor = Predictor.load(Path(file.name), self.device)
        if TARGET + endings[-1] not in predicted_columns(predictor):
            raise ValueError(
                "one network has no spread; fit with ensemble=3"
                if endings[-1] == "_std"
                else "nothing was calibrated; fit with calibration_fraction=0.1"
            )
        values = np.full((len(smiles), len(endings)), np.nan)
        failures: dict[int, str] = {}

        def compute(part: Sequence[Record]) -> list[Numbers]:
            return predict_records(predictor, part, coverage)

        halved = Halving(compute, CHUNK_RECORDS, quiet)
        records = records_of(smiles, self.n_conformers, self.seed, self.fragments, self.processes)
        while chunk := list(islice(records, CHUNK_RECORDS)):
            reasons = {r.number: refusal(r, predictor.first.scope, self.outside_scope) for r in chunk}
            failures |= {number: reason for number, reason in reasons.items() if reason}
            good = [r for r in chunk if not reasons[r.number]]
            for record, found in zip(good, halved(good), strict=True):
                values[record.number] = [found[TARGET + ending] for ending in endings]
        self.note(failures, smiles)
        return values


def _write_table(path: Path, smiles: Sequence[str], numbers: Float64[np.ndarray, " n"]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", TARGET])
        writer.writerows([text, repr(float(number))] for text, number in zip(smiles, numbers, strict=True))


def _unused(rows: Path) -> dict[int, str]:
    """Return the reasons for rows that were not trained on."""
    with open(rows, newline="", encoding="utf-8") as file:
        return {int(row["row"]): row["reason"] for row in csv.DictReader(file) if row["reason"]}
