"""Settings of training."""

from typing import Any, Literal

from pydantic import model_validator

from basinet.config import Count, settings, without_retired
from basinet.training.optim import OptimizerConfig

MatmulPrecision = Literal["highest", "high", "medium"]
"""As torch names it: float32, TF32 or bfloat16 inside products of float32 matrices, where the hardware has them."""


@settings
class TrainingConfig:
    """Length, batches, random seed, log and optimiser of a training run."""

    n_steps: Count = 1000
    """Optimiser steps."""
    batch_size: Count | None = 32
    """Molecules in a batch, summed over processes; null: see batch_atoms."""
    batch_atoms: Count | None = None
    """Atoms in a batch, summed over processes, instead of batch_size (set that to null): at most this many with one
    source of data, about as many with several."""
    accumulate: Count = 1
    """Batches whose gradients are accumulated in a step."""
    seed: int = 0
    """Seed for data order, noise and initial weights."""
    validate_every: Count = 100
    """Steps between validations; the last step is always validated."""
    log_every: Count = 10
    """Steps between records in the log."""
    save_every: Count = 100
    """Steps between saved states."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimiser and learning-rate schedule."""
    matmul_precision: MatmulPrecision = "highest"
    """Precision of float32 matrix products. highest: float32; high: TF32 on GPUs that have it, 10 bits instead of 23;
    medium: bfloat16, 7 bits. Compare the force error with that of highest before use."""
    tensorboard: bool = False
    """Write TensorBoard events as well."""

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, values: Any) -> Any:
        why = "is not available any more: networks are not compiled; leave the option out"
        return without_retired(values, {"compile": ("auto", "never")}, why)

    def __post_init__(self) -> None:
        """Check that one size of the batch is given."""
        if self.batch_size is not None and self.batch_atoms is not None:
            raise ValueError(
                f"batch_size is {self.batch_size} and batch_atoms is {self.batch_atoms}, expected one of them; for "
                "batches of equal numbers of atoms set batch_size=null"
            )
        if self.batch_size is None and self.batch_atoms is None:
            raise ValueError("batch_size and batch_atoms are both null; set one of them")
