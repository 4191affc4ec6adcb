"""Run the training loop.

Data, forward, backward, reduce, clip, step, average, log, validate, save, in that order. Gradients of several processes
are added with one all-reduce of one flat vector, so that a step may hold any number of forward passes, double backward
and unused heads; the loss of a step is that of its whole batch however it was cut up (see :class:`Objective`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed
from lightning_fabric import Fabric
from torch import Tensor

from basinet.data.stream.loader import Part, Stream
from basinet.models.model import Model
from basinet.objectives.base import Objective, mean_terms, total_loss
from basinet.structures.batch import Batch
from basinet.training.config import MatmulPrecision, TrainingConfig
from basinet.training.failure import BeforeStep, stop_for_failure
from basinet.training.interrupt import InterruptedRunError, StopRequest, stop_on_signals
from basinet.training.log import MetricsLog
from basinet.training.optim import Schedule, averaged, build_optimizer
from basinet.training.state import STATE_FILE, TrainState

NOISE_STREAM = 7919
"""Factor between the recipe's seed and the noise seeds of the processes."""


class Progress(NamedTuple):
    """Progress of a run, reported after each step."""

    step: int
    n_steps: int
    loss: float
    validation: Mapping[str, float] | None
    """Metrics of this step, if it was validated."""


class FitResult(NamedTuple):
    """Result of a run."""

    best: float
    """Validation loss of the best step."""
    best_step: int
    step: int
    seconds: float


Validate = Callable[[Model], Mapping[str, float]]
"""Return the metrics of a model, ``loss`` among them."""
SaveBest = Callable[[Model, int, Mapping[str, float]], None]
"""Save the model of the best step."""


def fit(
    model: Model,
    objective: Objective,
    loader: Stream,
    config: TrainingConfig,
    directory: Path,
    *,
    validate: Validate,
    save_best: SaveBest,
    fabric: Fabric,
    select_by: str | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> FitResult:
    """Train a model in place; afterwards it holds the averaged weights of the last step.

    Args:
        model: Model to train, on any device; it is moved to that of ``fabric``.
        objective: Loss to minimise.
        loader: Batches of this process.
        config: Settings.
        directory: Run directory; receives ``metrics.jsonl`` and ``state.pt``.
        validate: Called with the averaged weights, in evaluation mode.
        save_best: Called with the averaged weights when they are the best so far.
        select_by: Metric whose highest value makes the best step, ties broken by the lowest ``loss``; ``None``: the
            lowest ``loss``.
        fabric: Launched; gives device, rank and number of processes.
        resume: Continue from ``state.pt``, bit for bit as if the run had not stopped.
        on_progress: Called after each step.

    Raises:
        NonFiniteLossError: a loss or gradient is not finite; the step is saved for ``basinet debug-step``.
        InterruptedRunError: stopped by a signal; the state is saved.
    """
    check_objective(model, objective)
    model.to(fabric.device)
    run = _Run(model, objective, loader, config, directory, fabric, select_by)
    if resume:
        run.state.load(directory / STATE_FILE, fabric.global_rank, fabric.world_size, fabric.device)
    log = MetricsLog(directory, resume_step=run.state.step, tensorboard=config.tensorboard) if run.is_main else None
    start = time.monotonic()
    try:
        with stop_on_signals() as request, matmul_precision(config.matmul_precision):
            run.loop(validate, save_best, log, on_progress, request)
    finally:
        if log is not None:
            log.close()
    if run.state.average is not None:
        model.load_state_dict(run.state.average.module.state_dict())
    return FitResult(run.state.best, run.state.best_step, run.state.step, time.monotonic() - start)


@contextmanager
def matmul_precision(precision: MatmulPrecision) -> Iterator[None]:
    """Set the precision of float32 matrix products within the block, for the whole process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def check_objective(model: Model, objective: Objective) -> None:
    """Raise a ``ValueError`` if the model does not offer what the objective requires."""
    missing = objective.requires - model.offers
    if missing:
        raise ValueError(
            f"the objective needs the outputs {sorted(objective.requires)}, the model offers {sorted(model.offers)}; "
            f"add a head for {sorted(missing)}"
        )


class _Run:
    """State of one run, with a method for each stage of a step."""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        loader: Stream,
        config: TrainingConfig,
        directory: Path,
        fabric: Fabric,
        select_by: str | None = None,
    ) -> None:
        self.select_by = select_by
        self.model, self.objective, self.config = model, objective, config
        self.directory, self.fabric = directory, fabric
        self.is_main = fabric.global_rank == 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self._broadcast_weights()
        optimizer = build_optimizer(self.parameters, config.optimizer)
        decay = config.optimizer.ema_decay
        generator = torch.Generator(fabric.device)
        generator.manual_seed(config.seed * NOISE_STREAM + fabric.global_rank)
        self.state = TrainState(
            model,
            None if decay is None else averaged(model, decay),
            optimizer,
            Schedule(optimizer, config.optimizer, config.n_steps),
            loader,
            generator,
        )

    def loop(
        self,
        validate: Validate,
        save_best: SaveBest,
        log: MetricsLog | None,
        on_progress: Callable[[Progress], None] | None,
        request: StopRequest,
    ) -> None:
        """Take the remaining steps."""
        state, config = self.state, self.config
        while state.step < config.n_steps:
            values = self._step()
            state.step += 1
            is_last = state.step == config.n_steps
            if log is not None and (state.step % config.log_every == 0 or is_last):
                log.write("train", state.step, values)
            metrics = None
            if state.step % config.validate_every == 0 or is_last:
                metrics = self._validate(validate, save_best)
                if log is not None:
                    log.write("validation", state.step, metrics)
            stop = self._any_process(request.is_set)
            if state.step % config.save_every == 0 or is_last or stop:
                self._save()
            if on_progress is not None and self.is_main:
                on_progress(Progress(state.step, config.n_steps, values["loss"], metrics))
            if stop and not is_last:
                raise InterruptedRunError(f"stopped after step {state.step} of {config.n_steps}; the state is saved")

    def _step(self) -> dict[str, float]:
        """Take one optimiser step and return what to log about it."""
        state = self.state
        self.model.train()
        before = BeforeStep(self.model, state.generator)
        parts = self._parts()
        counts = self._total_counts(parts)
        state.optimizer.zero_grad(set_to_none=True)
        sums = self._backward(parts, counts)
        norm = self._reduce_and_clip()
        means = self._means(sums, counts)
        loss = sum((self.objective.weights[key] * value for key, value in means.items()), start=0.0)
        for what, value in (("the loss", loss), ("the norm of the gradient", norm)):
            if not _is_finite(value):
                raise stop_for_failure(
                    self.directory,
                    self.fabric.global_rank,
                    state.step + 1,
                    self.model,
                    self._named(parts),
                    before,
                    what,
                )
        learning_rate = state.optimizer.param_groups[0]["lr"]
        state.optimizer.step()
        state.schedule.after_step()
        if state.average is not None:
            state.average.update_parameters(self.model)
        by_source = self._means_by_source(sums, counts)
        return {"loss": loss, **means, **by_source, "gradient_norm": norm, "learning_rate": learning_rate}

    def _parts(self) -> list[Part]:
        """Return the batches of the next step."""
        return [
            Part(part.source, part.batch.to(self.fabric.device))
            for _ in range(self.config.accumulate)
            for part in self.state.loader.next_parts()
        ]

    def _backward(self, parts: Sequence[Part], counts: Tensor) -> Tensor:
        """Add up the gradients of the batches; return the sums of the terms over all processes, source by source."""
        terms = list(self.objective.weights)
        of_step = self._by_term(counts.sum(0))
        total = torch.zeros(counts.shape, dtype=torch.float64, device=self.fabric.device)
        for source, batch in parts:
            sums = self.objective.sums(self.model, batch, self.state.generator)
            loss = total_loss(self.objective, sums, of_step)
            if loss.requires_grad:  # a process may have no molecule of a small batch
                loss.backward()
            total[source] += torch.stack([sums[key].detach().double() for key in terms])
        return self._sum(total)

    def _reduce_and_clip(self) -> float:
        """Add the gradients of all processes, clip them, and return their norm before clipping."""
        if self.fabric.world_size > 1:
            self._add_gradients()
        clip = self.config.optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, float("inf") if clip is None else clip)
        return float(norm)

    def _add_gradients(self) -> None:
        """Add the gradients of all processes; a parameter that no process used keeps none, as in one process."""
        used = [p.grad is not None for p in self.parameters]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([gradients[0].new_tensor(used), *(g.flatten() for g in gradients)])
        torch.distributed.all_reduce(flat)
        n_using, *totals = flat.split([len(used), *(g.numel() for g in gradients)])
        for p, n, total in zip(self.parameters, n_using.tolist(), totals, strict=True):
            p.grad = total.view_as(p) if n > 0 else None

    def _validate(self, validate: Validate, save_best: SaveBest) -> dict[str, float]:
        state = self.state
        model = self.model if state.average is None else state.average.module
        assert isinstance(model, Model)
        model.eval()
        metrics = dict(validate(model))
        metrics["loss"] = self._of_first_process(metrics["loss"])
        if not _is_finite(metrics["loss"]):
            raise ValueError(f"step {state.step}: the validation loss is not finite; see metrics.jsonl")
        state.schedule.after_validation(metrics["loss"])
        selected = 0.0
        if self.select_by is not None:
            selected = metrics[self.select_by] = self._of_first_process(metrics[self.select_by])
        if (-selected, metrics["loss"]) < (-state.best_selected, state.best):
            state.best_selected, state.best, state.best_step = selected, metrics["loss"], state.step
            if self.is_main:
                save_best(model, state.step, metrics)
        return metrics

    def _save(self) -> None:
        generators = self._all_generators()
        if self.is_main:
            self.state.save(self.directory / STATE_FILE, generators)

    def _all_generators(self) -> list[Tensor]:
        own = self.state.generator.get_state()
        if self.fabric.world_size == 1:
            return [own]
        gathered: list[Tensor | None] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(gathered, own)
        return [g for g in gathered if g is not None]

    def _total_counts(self, parts: Sequence[Part]) -> Tensor:
        """Return the counts over all processes: [n_sources, n_terms]."""
        terms = list(self.objective.weights)
        counts = torch.zeros(len(self.state.loader.sources), len(terms), dtype=torch.float64)
        for source, batch in parts:
            found = self.objective.counts(batch)
            counts[source] += torch.tensor([found[key] for key in terms], dtype=torch.float64)
        return self._sum(counts.to(self.fabric.device))

    def _means(self, sums: Tensor, counts: Tensor) -> dict[str, float]:
        return mean_terms(self._by_term(sums.sum(0)), self._by_term(counts.sum(0)))

    def _means_by_source(self, sums: Tensor, counts: Tensor) -> dict[str, float]:
        """Return the mean of each term over each of several sources: ``forces/md17``."""
        names = self.state.loader.sources
        if len(names) == 1:
            return {}
        return {
            f"{term}/{name}": value
            for name, s, c in zip(names, sums, counts, strict=True)
            for term, value in mean_terms(self._by_term(s), self._by_term(c)).items()
        }

    def _by_term(self, values: Tensor) -> dict[str, float]:
        return dict(zip(self.objective.weights, values.tolist(), strict=True))

    def _named(self, parts: Sequence[Part]) -> list[tuple[str, Batch]]:
        return [(self.state.loader.sources[part.source], part.batch) for part in parts]

    def _sum(self, values: Tensor) -> Tensor:
        if self.fabric.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def _any_process(self, flag: bool) -> bool:
        return bool(self._sum(torch.tensor(float(flag), device=self.fabric.device)) > 0)

    def _of_first_process(self, value: float) -> float:
        """Return the value of process 0, so that all processes decide alike despite rounding."""
        shared = torch.tensor(value, dtype=torch.float64, device=self.fabric.device)
        if self.fabric.world_size > 1:
            torch.distributed.broadcast(shared, src=0)
        return float(shared)

    def _broadcast_weights(self) -> None:
        if self.fabric.world_size > 1:
            for tensor in self.model.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)


def _is_finite(value: float) -> bool:
    return value - value == 0
