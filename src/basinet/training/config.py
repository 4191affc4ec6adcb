"""Settings of training."""

from typing import Any

from pydantic import model_validator

from basinet.config import settings, without_retired
from basinet.training.matmul import MatmulPrecision
from basinet.training.optim import OptimizerConfig


@settings
class TrainingConfig:
    """How long to train, how often to look, and what is random."""

    n_steps: int = 1000
    """Optimiser steps."""
    batch_size: int | None = 32
    """Molecules in a batch, over all processes together; null: see batch_atoms."""
    batch_atoms: int | None = None
    """Atoms in a batch, over all processes together, in place of batch_size=null: batches of large molecules then hold
    fewer of them. At most so many with one source of data, about as many with several."""
    accumulate: int = 1
    """Batches in a step: the gradient is that of all of them joined."""
    seed: int = 0
    """Of the order of the data, the noise and fresh weights."""
    validate_every: int = 100
    """Steps between validations; the last step is always validated."""
    log_every: int = 10
    """Steps between lines of the log."""
    save_every: int = 100
    """Steps between saved states: what a killed run loses at most."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimiser and learning rate."""
    matmul_precision: MatmulPrecision = "highest"
    """Of products of float32 matrices. highest: float32; high: TF32 on GPUs that have it, 10 bits in place of 23;
    medium: bfloat16, 7 bits. All else stays as it is. Compare the force error with that of highest before use."""
    tensorboard: bool = False
    """Whether to write TensorBoard events too."""

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, values: Any) -> Any:
        why = "is not available any more: networks are not compiled; leave the option out"
        return without_retired(values, {"compile": ("auto", "never")}, why)

    def __post_init__(self) -> None:
        """Refuse counts that make no sense."""
        if self.batch_size is not None and self.batch_atoms is not None:
            raise ValueError(
                f"batch_size is {self.batch_size} and batch_atoms {self.batch_atoms}, and only one can decide; for "
                "batches of equal numbers of atoms say batch_size=null too"
            )
        if self.batch_size is None and self.batch_atoms is None:
            raise ValueError("batch_size is null, and batch_atoms too; give one of them")
        counts = ("n_steps", "batch_size", "batch_atoms", "accumulate", "validate_every", "log_every", "save_every")
        for name in counts:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
