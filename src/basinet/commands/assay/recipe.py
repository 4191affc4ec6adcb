"""Declare the recipe of a fine-tuning on a table of SMILES and measured numbers."""

import math
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import Field

from basinet.backbones.build import BackboneConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.commands.recipe import SCRATCH, Fraction, LaunchConfig
from basinet.config import Count, NonNegative, PathText, settings
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
    """Fine-tune a model on a table of SMILES and numbers, or train one from scratch on it."""

    data: Path
    """A table: .csv, or .parquet."""
    target: str
    """Column of the number to learn. Its unit is kept."""
    smiles: str | None = None
    """Column of the SMILES; null: the one called smiles."""
    start: Annotated[PathText, Field(alias="from")] = SCRATCH
    """A model file to start from, or scratch."""
    freeze: Annotated[int, Ge(0)] | Literal["backbone"] = 0
    """Frozen part of the loaded model. n: embedding and first n layers; backbone: all but the head; 0: nothing."""
    split: SplitKind = "scaffold"
    """Split of the compounds. scaffold: compounds of one Bemis-Murcko scaffold stay together, frequent scaffolds train;
    random; time: the latest compounds are tested."""
    time: str | None = None
    """Column of dates (2024-05-31) or numbers, for split=time."""
    validation_fraction: Fraction = 0.1
    """Fraction of the compounds for validation."""
    calibration_fraction: NonNegative = 0.1
    """Fraction of the compounds for calibrating intervals; 0: no intervals."""
    test_fraction: NonNegative = 0.1
    """Fraction of the compounds for the test at the end; 0: no test."""
    split_seed: int = 0
    """Seed of split=random."""
    duplicates: Duplicates = "median"
    """Label of a compound with several rows: their median, their mean, or drop the compound if they differ."""
    fragments: Fragments = "refuse"
    """SMILES of several molecules (salts): refuse drops the row; largest takes the molecule with most heavy atoms."""
    unknown_elements: Literal["error", "drop"] = "error"
    """Compounds with elements unknown to the loaded model: stop, or drop their rows."""
    conformers: Count = 4
    """Most conformers of each compound; all are trained on, and averaged in predictions."""
    conformer_seed: int = 0
    """Seed of the conformers."""
    processes: Count | None = None
    """Processes that make conformers; null: one for each core."""
    ensemble: Count = 1
    """Networks, which differ in initial weights and data order; their spread measures the uncertainty."""
    coverage: Fraction = 0.9
    """Coverage of the reported intervals; the model can give any other."""
    baselines: bool = True
    """Compare with fingerprints and a random forest or a ridge, if scikit-learn is installed."""
    readout: ReadoutKind = "mean"
    """Readout from atoms to molecule: mean for an intensive property, sum for an extensive one; see the objective."""
    loss: PropertyLoss = "smooth_l1"
    """Loss of the standardised error."""
    spread: Spread = "rms"
    """Divisor of standardised labels."""
    model: BackboneConfig = EquivariantTransformerConfig(n_features=48, n_layers=3)
    """The network, if it starts from scratch."""
    training: TrainingConfig = TrainingConfig(
        n_steps=1000,
        batch_size=16,
        validate_every=100,
        save_every=250,
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=50, schedule="cosine", ema_decay=0.99),
    )
    """Length, batches, optimiser; its seed is that of the first member."""
    launch: LaunchConfig = LaunchConfig()
    """Processes and kernels; one process."""

    def __post_init__(self) -> None:
        """Check the options that depend on each other."""
        if self.fractions[0] <= 0:
            raise ValueError(
                f"validation_fraction={self.validation_fraction}, calibration_fraction={self.calibration_fraction} and "
                f"test_fraction={self.test_fraction} leave nothing to train on"
            )
        if (self.split == "time") != (self.time is not None):
            raise ValueError(
                "split=time needs the column of dates or numbers, time=COLUMN"
                if self.time is None
                else f"time={self.time} is for split=time, got split={self.split}"
            )
        if self.start == SCRATCH and self.freeze:
            raise ValueError("freeze is for a loaded model; name it with from=MODEL")
        if self.launch.devices * self.launch.nodes != 1:
            raise ValueError(
                f"a table is learned in one process; got launch.devices={self.launch.devices} and launch.nodes="
                f"{self.launch.nodes}, expected 1 and 1"
            )

    @property
    def fractions(self) -> tuple[float, float, float, float]:
        """Fractions for training, validation, calibration and test."""
        held = (self.validation_fraction, self.calibration_fraction, self.test_fraction)
        return (1 - math.fsum(held), *held)
