"""Save and load the state of a run, so that it resumes bit for bit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from basinet.data.stream.loader import Stream
from basinet.files import read_torch, write_torch
from basinet.models.version_0_1 import current_weights
from basinet.training.optim import Schedule

STATE_FILE = "state.pt"
AVERAGED = "module."
"""Prefix of the weights in an ``AveragedModel``."""


class TrainState:
    """State of a run: weights, optimiser, place in the data, random generators.

    The file holds tensors and plain values only and is read with ``weights_only``: it runs no code.
    """

    def __init__(
        self,
        model: nn.Module,
        average: AveragedModel | None,
        optimizer: AdamW,
        schedule: Schedule,
        loader: Stream,
        generator: torch.Generator,
    ) -> None:
        self.model, self.average, self.optimizer, self.schedule = model, average, optimizer, schedule
        self.loader, self.generator = loader, generator
        self.step = 0
        """Steps done."""
        self.best = float("inf")
        """Loss of the best step so far."""
        self.best_selected = float("-inf")
        """Metric of the best step, if it is not selected by loss; higher is better."""
        self.best_step = 0

    def save(self, path: Path, generators: list[torch.Tensor]) -> None:
        """Write the state.

        Args:
            path: File to write.
            generators: State of the noise generator of every process.
        """
        state = {
            "step": self.step,
            "best": self.best,
            "best_selected": self.best_selected,
            "best_step": self.best_step,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "loader": self.loader.state_dict(),
            "generators": generators,
        }
        write_torch(path, state)

    def load(self, path: Path, rank: int, world_size: int, device: torch.device) -> None:
        """Load a saved state.

        Raises:
            ValueError: the state does not fit this run.
        """
        state = read_torch(path, device)
        if (state["average"] is None) != (self.average is None):
            raise ValueError(f"{path}: ema_decay was switched on or off since the run was stopped; restore it")
        if world_size != len(state["generators"]):
            raise ValueError(
                f"{path}: the run had {len(state['generators'])} processes and now has {world_size}; use as many as "
                "before (launch.devices, launch.nodes)"
            )
        self.model.load_state_dict(current_weights(state["model"]))
        if self.average is not None:
            self.average.load_state_dict(_current_average(state["average"]))
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.loader.load_state_dict(state["loader"])
        self.generator.set_state(state["generators"][rank].cpu())
        self.step, self.best, self.best_step = state["step"], state["best"], state["best_step"]
        # Files of early versions, which selected by loss alone, have none.
        self.best_selected = state.get("best_selected", 0.0 if self.best_step else float("-inf"))


def _current_average(average: Mapping[str, Any]) -> dict[str, Any]:
    """Return an averaged model under the current names of its weights."""
    weights = {key.removeprefix(AVERAGED): value for key, value in average.items() if key.startswith(AVERAGED)}
    rest = {key: value for key, value in average.items() if not key.startswith(AVERAGED)}
    return rest | {AVERAGED + key: value for key, value in current_weights(weights).items()}
