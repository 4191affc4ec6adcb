"""Learning rates, averaged weights, clipping and decay, against closed forms and slow loops."""

import math

import pytest
import torch
from torch import nn

from basinet.training.optim import OptimizerConfig, Schedule, averaged, build_optimizer


def rates(config: OptimizerConfig, n_steps: int, losses=None, every: int = 1) -> list[float]:
    """Return the learning rate that each step of a run uses."""
    optimizer = build_optimizer([nn.Parameter(torch.ones(1))], config)
    schedule = Schedule(optimizer, config, n_steps)
    used = []
    for step in range(n_steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_step()
        if losses is not None and (step + 1) % every == 0:
            schedule.after_validation(losses[step])
    return used


@pytest.mark.parametrize("kind", ["cosine", "plateau", "constant"])
def test_the_warm_up_rises_linearly_and_reaches_the_full_rate(kind):
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=4, schedule=kind)
    assert rates(config, 20)[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])


def test_the_cosine_falls_from_the_full_rate_to_nearly_nothing_at_the_last_step():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=10, schedule="cosine")
    found = rates(config, 110)
    expected = [0.05 * (1 + math.cos(math.pi * k / 100)) for k in range(100)]
    assert found[10:] == pytest.approx(expected)
    assert found[60] == pytest.approx(0.05)
    assert 0 < found[-1] < 1e-3 * found[10]


def test_a_constant_rate_stays():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, schedule="constant")
    assert rates(config, 50) == [0.1] * 50


def test_a_plateau_lowers_the_rate_after_more_validations_without_improvement_than_its_patience():
    config = OptimizerConfig(
        learning_rate=0.1, warmup_steps=0, schedule="plateau", plateau_factor=0.5, plateau_patience=2
    )
    losses = [5.0, 4.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    # Steps 3, 4 and 5 do not improve on step 2: one more than the patience. Then 7, 8 and 9.
    assert rates(config, 10, losses) == pytest.approx([0.1] * 5 + [0.05] * 4 + [0.025])


def test_a_falling_loss_never_lowers_the_rate_of_a_plateau():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, schedule="plateau", plateau_patience=0)
    assert rates(config, 30, [0.9**k for k in range(30)]) == [0.1] * 30


def test_a_plateau_does_not_count_validations_of_the_warm_up_nor_fall_below_its_minimum():
    config = OptimizerConfig(
        learning_rate=0.1,
        warmup_steps=5,
        schedule="plateau",
        plateau_factor=0.1,
        plateau_patience=0,
        minimum_learning_rate=1e-3,
    )
    found = rates(config, 20, [1.0] * 20)
    assert found[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert found[5] == pytest.approx(0.1)  # the first validation that counts is the best so far
    assert found[6] == pytest.approx(0.01)
    assert found[-1] == pytest.approx(1e-3)


@pytest.mark.parametrize("kind", ["cosine", "plateau", "constant"])
def test_a_schedule_goes_on_where_its_state_was_taken(kind):
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=3, schedule=kind, plateau_patience=1)
    losses = [1.0] * 12
    whole = rates(config, 12, losses)
    optimizer = build_optimizer([nn.Parameter(torch.ones(1))], config)
    schedule, found = Schedule(optimizer, config, 12), []
    for step in range(12):
        if step == 7:
            state = schedule.state_dict(), optimizer.state_dict()
            optimizer = build_optimizer([nn.Parameter(torch.ones(1))], config)
            schedule = Schedule(optimizer, config, 12)
            optimizer.load_state_dict(state[1])
            schedule.load_state_dict(state[0])
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_step()
        schedule.after_validation(losses[step])
    assert found == whole


def test_averaged_weights_follow_their_formula_and_buffers_are_copied():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    decay = 0.5
    average = averaged(model, decay)
    slow: dict[str, torch.Tensor] = {}
    for t in range(12):
        with torch.no_grad():
            for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
                tensor.normal_()
        average.update_parameters(model)
        for name, p in model.named_parameters():
            beta = min(decay, (1 + t) / (10 + t))
            slow[name] = p.detach().clone() if t == 0 else beta * slow[name] + (1 - beta) * p.detach()
    for name, p in average.module.named_parameters():
        torch.testing.assert_close(p.detach(), slow[name], rtol=1e-5, atol=1e-6)
    for (_, a), (_, b) in zip(average.module.named_buffers(), model.named_buffers(), strict=True):
        assert torch.equal(a, b)


def test_the_first_random_weights_are_forgotten_early_and_the_memory_grows_to_the_decay():
    model = nn.Linear(1, 1, bias=False)
    average = averaged(model, 0.99)
    with torch.no_grad():
        model.weight.fill_(100.0)
    average.update_parameters(model)
    with torch.no_grad():
        model.weight.fill_(1.0)
    for _ in range(10):
        average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(1.0, abs=1e-2)  # a decay of 0.99 alone would leave 90


def test_only_parameters_that_are_trained_are_in_the_optimiser():
    frozen, free = nn.Parameter(torch.ones(2), requires_grad=False), nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([frozen, free], OptimizerConfig())
    assert [p for group in optimizer.param_groups for p in group["params"]] == [free]


def test_weight_decay_is_decoupled_from_the_gradient():
    p = nn.Parameter(torch.full((2,), 2.0))
    optimizer = build_optimizer([p], OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    p.grad = torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((2,), 2.0 * (1 - 0.1 * 0.5)))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("learning_rate", 0.0),
        ("warmup_steps", -1),
        ("plateau_factor", 1.0),
        ("clip_norm", 0.0),
        ("ema_decay", 1.0),
        ("ema_decay", 0.0),
    ],
)
def test_values_that_cannot_train_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=option):
        OptimizerConfig(**{option: value})
