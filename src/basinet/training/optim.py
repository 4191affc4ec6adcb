"""The optimiser, its learning rate, and the averaged weights."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from basinet.config import settings


@settings
class OptimizerConfig:
    """AdamW with gradient clipping and a learning-rate schedule."""

    learning_rate: float = 1e-3
    """Largest learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """After the warm-up: fall to zero along a cosine, fall whenever the validation loss stalls, or stay."""
    plateau_factor: float = 0.8
    """What a stall multiplies the learning rate by."""
    plateau_patience: int = 15
    """Validations without improvement that make a stall."""
    minimum_learning_rate: float = 1e-7
    """A plateau schedule stops falling here."""
    clip_norm: float | None = 10.0
    """Largest norm of the gradient; null: no clipping."""
    ema_decay: float | None = 0.995
    """Decay of the averaged weights, which are the ones validated and saved; null: no averaging."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")
        if not 0 < self.plateau_factor < 1:
            raise ValueError(f"plateau_factor must be between 0 and 1, got {self.plateau_factor}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive or null, got {self.clip_norm}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1, or null, got {self.ema_decay}")


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> AdamW:
    """Return AdamW over the parameters that are trained."""
    trained = [p for p in parameters if p.requires_grad]
    return AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)


class Schedule:
    """The learning rate as a function of the step and, for ``plateau``, of the validation losses.

    Args:
        optimizer: whose learning rate is set.
        config: which schedule.
        n_steps: length of the run; the cosine reaches zero there.
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
        """Take a validation loss into account."""
        if self._config.schedule == "plateau" and self._step >= self._config.warmup_steps:
            self._by_loss.step(loss)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that decides the learning rates to come."""
        return {"step": self._step, "by_step": self._by_step.state_dict(), "by_loss": self._by_loss.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
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
