"""Settings of the quickstart, and its fine-tunings."""

from pathlib import Path
from typing import NamedTuple

from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.config import settings
from basinet.quickstart.results import Start


@settings
class QuickstartConfig:
    """Sizes that fit into six minutes on two cores."""

    smiles: str = "O=C(O)c1ccccc1O"
    """SMILES of the molecule of the fine-tuning, which pre-training leaves out."""
    name: str = "salicylic acid"
    """Name of the molecule in the report."""
    seeds: int = 1
    """Repetitions of the fine-tuning, with different labels and initial weights."""
    processes: int | None = None
    """Processes for labelling and fine-tuning; null: all cores."""
    n_molecules: int = 500
    """Compounds to pre-train on."""
    label_counts: tuple[int, ...] = (50, 200)
    """Labelled frames to fine-tune on."""
    n_validation: int = 50
    """Validation frames of a fine-tuning."""
    n_test: int = 250
    """Test frames, from another trajectory."""
    model: EquivariantTransformerConfig = EquivariantTransformerConfig(n_features=48, n_layers=3)
    """Network of both starts."""
    pretrain_steps: int = 2000
    """Steps of pre-training, of 8 molecules."""
    finetune_steps: int = 600
    """Steps of each fine-tuning, of 8 frames."""
    learning_rate: float = 5e-3
    """Largest learning rate of all runs: between the best tried from scratch (8e-3) and pre-trained (4e-3)."""
    dynamics_steps: int = 1000
    """Time steps of 0.5 fs."""
    replicas: int = 4
    """Trajectories of each model."""
    temperature: float = 300.0
    """Initial temperature of the dynamics, K."""

    def __post_init__(self) -> None:
        """Check the counts."""
        if self.seeds < 1 or (self.processes is not None and self.processes < 1):
            raise ValueError(f"seeds and processes must be at least 1, got {self.seeds} and {self.processes}")

    @property
    def most_labels(self) -> int:
        """The largest label count, whose models are simulated and drawn."""
        return max(self.label_counts)


class Job(NamedTuple):
    """One fine-tuning of the comparison."""

    start: Start
    labels: int
    seed: int

    def directory(self, out: Path) -> Path:
        """Return its run directory."""
        return out / f"finetune-{self.start}-{self.labels}-seed{self.seed}"

    def split_file(self, out: Path) -> Path:
        """Return the file of its split, which both starts share."""
        return out / f"split-{self.labels}-seed{self.seed}.json"
