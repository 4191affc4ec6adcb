"""Options of a fine-tuning on a table of SMILES and measured numbers."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from basinet.backbones.build import BackboneConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.commands.recipe import LaunchConfig
from basinet.config import settings
from basinet.data.chemistry.compounds import Fragments
from basinet.models.heads.fit import Spread
from basinet.models.heads.property import ReadoutKind
from basinet.objectives.properties import PropertyLoss
from basinet.training.fit import TrainingConfig
from basinet.training.optim import OptimizerConfig

Duplicates = Literal["median", "mean", "drop"]
SplitKind = Literal["scaffold", "random", "time"]


@settings
class AssayRecipe:
    """Fine-tune a model on a table of SMILES with a number each, or train one from scratch on it."""

    data: Path
    """A table: .csv, or .parquet."""
    target: str
    """Column of the number that is learned. Its unit is kept as it is."""
    smiles: str | None = None
    """Column of the SMILES; null: the one called smiles."""
    start: Annotated[str, Field(alias="from")] = "scratch"
    """A model file to start from, or scratch."""
    freeze: int | Literal["backbone"] = 0
    """What keeps the loaded weights. n: embedding and first n layers; backbone: all but the head; 0: nothing."""
    split: SplitKind = "scaffold"
    """scaffold: all compounds of a Bemis-Murcko scaffold on one side, the most frequent ones train; random; time: the
    latest are tested."""
    time: str | None = None
    """Column of dates (2024-05-31) or numbers, for split=time."""
    validation_fraction: float = 0.1
    """Part of the compounds that chooses the best step."""
    calibration_fraction: float = 0.1
    """Part of the compounds that the intervals are calibrated on; 0: no intervals."""
    test_fraction: float = 0.1
    """Part of the compounds that is tested on at the end; 0: none."""
    split_seed: int = 0
    """Which compounds go where, for split=random."""
    duplicates: Duplicates = "median"
    """What the label of a compound is that has several rows: their median, their mean, or the compound is dropped if
    they differ."""
    fragments: Fragments = "refuse"
    """SMILES of several molecules (salts): refuse drops the row; largest takes the molecule with most heavy atoms."""
    unknown_elements: Literal["error", "drop"] = "error"
    """Compounds with elements that the model of from= was never trained on: stop, or drop their rows."""
    conformers: int = 4
    """Conformers made of each compound, at most; all are trained on, and averaged in predictions."""
    conformer_seed: int = 0
    """Of the embedding."""
    processes: int | None = None
    """That make conformers; null: one for each core."""
    ensemble: int = 1
    """Members: networks that differ in fresh weights and in the order of the data. Their spread says where they are not
    sure."""
    coverage: float = 0.9
    """Of the intervals that are reported; the model can give any other."""
    baselines: bool = True
    """Whether to compare with fingerprints and a random forest or a ridge, if scikit-learn is installed."""
    readout: ReadoutKind = "mean"
    """From atoms to molecule: mean for what does not grow with the molecule, sum for what does; see the objective."""
    loss: PropertyLoss = "smooth_l1"
    """Of the standardised error."""
    spread: Spread = "rms"
    """What a standardised label is divided by."""
    model: BackboneConfig = EquivariantTransformerConfig(n_features=48, n_layers=3)
    """The network, if it starts from scratch."""
    training: TrainingConfig = TrainingConfig(
        n_steps=1000,
        batch_size=16,
        validate_every=100,
        save_every=250,
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=50, schedule="cosine", ema_decay=0.99),
    )
    """How to learn it; its seed is that of the first member."""
    launch: LaunchConfig = LaunchConfig()
    """Where to run; one process."""

    def __post_init__(self) -> None:
        """Refuse fractions, counts and columns that cannot be meant."""
        self._check_numbers()
        if (self.split == "time") != (self.time is not None):
            raise ValueError(
                "split=time needs the column of dates or numbers, time=COLUMN"
                if self.time is None
                else f"time={self.time} is for split=time, got split={self.split}"
            )
        if self.start == "scratch" and self.freeze:
            raise ValueError("freeze is for a loaded model; say which, with from=MODEL")
        if self.launch.devices * self.launch.nodes != 1:
            raise ValueError(
                f"a table is learned from in one process; got launch.devices={self.launch.devices} and launch.nodes="
                f"{self.launch.nodes}, expected 1 and 1"
            )

    @property
    def fractions(self) -> tuple[float, float, float, float]:
        """Of training, validation, calibration and test."""
        held = (self.validation_fraction, self.calibration_fraction, self.test_fraction)
        return (1 - math.fsum(held), *held)

    def _check_numbers(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be between 0 and 1, got {self.validation_fraction}")
        if not (self.calibration_fraction >= 0 and self.test_fraction >= 0 and self.fractions[0] > 0):
            raise ValueError(
                f"validation_fraction={self.validation_fraction}, calibration_fraction={self.calibration_fraction} and "
                f"test_fraction={self.test_fraction} must not be negative and leave something to train on"
            )
        if not 0 < self.coverage < 1:
            raise ValueError(f"coverage must be between 0 and 1, got {self.coverage}")
        for name, value in (("ensemble", self.ensemble), ("conformers", self.conformers)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes must be at least 1 or null, got {self.processes}")
