"""Build the optimiser, the learning-rate schedule and the averaged weights."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from basinet.config import Positive, settings


@settings
class OptimizerConfig:
    """AdamW with gradient clipping and a learning-rate schedule."""

    learning_rate: Positive = 1e-3
    """Largest learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    warmup_steps: Annotated[int, Ge(0)] = 100
    """Steps over which the learning rate rises linearly."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """Learning rate after the warm-up: a cosine to zero, a drop whenever the validation loss stalls, or constant."""
    plateau_factor: Annotated[float, Gt(0), Lt(1)] = 0.8
    """Factor of the learning rate at a stall."""
    plateau_patience: int = 15
    """Validations without improvement before a stall."""
    minimum_learning_rate: float = 1e-7
    """Lower limit of the learning rate of a plateau schedule."""
    clip_norm: Annotated[float, Gt(0)] | None = 10.0
    """Largest norm of the gradient; null: no clipping."""
    ema_decay: Annotated[float, Gt(0), Lt(1)] | None = 0.995
    """Decay of the averaged weights, which are validated and saved; null: no averaging."""


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> AdamW:
    """Return AdamW over the parameters that are trained."""
    trained = [p for p in parameters if p.requires_grad]
    return AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)


class Schedule:
    """The learning rate as a function of the step and, for ``plateau``, of the validation losses.

    Args:
        optimizer: Optimiser whose learning rate is set.
        config: Settings.
        n_steps: Length of the run, where the cosine reaches zero.
    """

    def __init__(self, optimizer: AdamW, config: OptimizerConfig, n_steps: int) -> None:
        self._config = config
        self._n_steps = n_steps
        # A plain function: of anything else the scheduler would save the attributes in its state.
        self._by_step = LambdaLR(optimizer, lambda step: self.factor(step))
        self._by_loss = ReduceLROnPlateau(
            optimizer,
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            min_lr=config.minimum_learning_rate,
        )
        self._step = 0

    def factor(self, step: int) -> float:
        """Return the learning rate of a step (from 0), in units of the largest one."""
        warmup = self._config.warmup_steps
        if step < warmup:
            return (step + 1) / warmup
        if self._config.schedule != "cosine":
            return 1.0
        progress = (step - warmup) / max(1, self._n_steps - warmup)
        return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * min(1.0, progress), dtype=torch.float64)).item())

    def after_step(self) -> None:
        """Set the learning rate of the next step."""
        self._step += 1
        # A plateau schedule owns the learning rate once the warm-up is over: do not set it back.
        if self._config.schedule == "cosine" or self._step <= self._config.warmup_steps:
            self._by_step.step()

    def after_validation(self, loss: float) -> None:
        """Lower the learning rate if the validation loss stalls."""
        if self._config.schedule == "plateau" and self._step >= self._config.warmup_steps:
            self._by_loss.step(loss)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedule."""
        return {"step": self._step, "by_step": self._by_step.state_dict(), "by_loss": self._by_loss.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of the schedule."""
        self._step = state["step"]
        self._by_step.load_state_dict(state["by_step"])
        self._by_loss.load_state_dict(state["by_loss"])


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of the weights; buffers are copied.

    Early on the decay is ``(1 + t) / (10 + t)``, so that the first, random weights are soon forgotten.
    """

    @torch.no_grad()
    def update(
        average: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], n_averaged: Tensor | int
    ) -> None:
        n = int(n_averaged)
        for a, c in zip(average, current, strict=True):
            a.lerp_(c, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(model, multi_avg_fn=update)
