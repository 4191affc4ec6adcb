"""A table of functions of the distance: close to them, smooth, and with the slope of what it gives."""

import pytest
import torch
from torch import Tensor

from basinet.nn.radial import cosine_cutoff
from basinet.nn.table import MOST_KNOTS, RadialTable, tabulate

CUTOFF = 5.0
CPU = torch.device("cpu")


def functions(distance: Tensor) -> Tensor:
    """Return a bell, a cutoff and a constant."""
    bell = torch.exp(-20 * (torch.exp(-distance) - 0.4) ** 2)
    return torch.stack([bell, cosine_cutoff(distance, CUTOFF), torch.ones_like(distance)], dim=-1)


def kinked(distance: Tensor) -> Tensor:
    return (distance - 1.2345).abs()[:, None]


@pytest.fixture(scope="module")
def table() -> RadialTable:
    return RadialTable(functions, CUTOFF, 256, CPU).eval()


def test_values_at_knots_are_exact(table: RadialTable) -> None:
    place = torch.arange(256, dtype=torch.float64)
    distance = -torch.log(table.start + table.step * place) / table.rate
    assert (table(distance) - functions(distance)).abs().max() < 1e-12


def test_the_stated_error_holds_everywhere(table: RadialTable) -> None:
    distance = CUTOFF * torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    error = table.error(functions)
    found = (table(distance) - functions(distance)).abs().max()
    assert found <= 1.05 * error.value
    assert error.value < 1e-6


def test_the_error_falls_with_the_fourth_power_of_the_knots() -> None:
    coarse, fine = (RadialTable(functions, CUTOFF, n, CPU).error(functions).value for n in (128, 256))
    assert 12 < coarse / fine < 20


def test_slopes_are_those_of_what_is_given_to_the_third_derivative(table: RadialTable) -> None:
    distance = torch.tensor([0.3, 1.2, 2.7, 4.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(table, distance, eps=1e-7)
    assert torch.autograd.gradgradcheck(table, distance, eps=1e-7)


def test_slopes_are_close_to_those_of_the_functions(table: RadialTable) -> None:
    distance = torch.linspace(0.1, 4.95, 500, dtype=torch.float64, requires_grad=True)
    for column in range(3):
        found, expected = (torch.autograd.grad(f(distance)[:, column].sum(), distance)[0] for f in (table, functions))
        assert (found - expected).abs().max() <= 1.05 * table.error(functions).slope


def test_beyond_the_cutoff_everything_stays_as_it_is_there(table: RadialTable) -> None:
    distance = torch.tensor([CUTOFF, 6.0, 100.0], dtype=torch.float64, requires_grad=True)
    found = table(distance)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])
    (slope,) = torch.autograd.grad(found[1:].sum(), distance)
    assert not slope.any()


def test_at_distance_zero_it_is_exact(table: RadialTable) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    assert (table(zero) - functions(zero)).abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(0,), (1,), (2, 3), (2, 3, 4)])
def test_distances_may_have_any_shape(table: RadialTable, shape: tuple[int, ...]) -> None:
    distance = torch.full(shape, 1.5, dtype=torch.float64)
    assert table(distance).shape == (*shape, 3)


def test_float32_is_as_good_as_float32_can_be() -> None:
    table, error = tabulate(functions, CUTOFF, 1e-6, CPU)
    distance = torch.linspace(0, CUTOFF, 1000)
    found = table.float().eval()(distance)
    assert found.dtype == torch.float32
    assert (found - functions(distance.double())).abs().max() < error.value + 2e-6


def test_tables_grow_until_they_are_good_enough() -> None:
    coarse, fine = (tabulate(functions, CUTOFF, tolerance, CPU)[1] for tolerance in (1e-4, 1e-9))
    assert coarse.n_knots < fine.n_knots
    assert fine.value <= 1e-9


def test_functions_with_a_kink_are_refused() -> None:
    with pytest.raises(ValueError, match=f"{MOST_KNOTS} knots is .* not smooth enough"):
        tabulate(kinked, CUTOFF, 1e-9, CPU)


def test_functions_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        tabulate(lambda distance: functions(distance) / 0, CUTOFF, 1e-6, CPU)


def test_a_table_cannot_be_trained(table: RadialTable) -> None:
    fresh = RadialTable(functions, CUTOFF, 128, CPU)
    with pytest.raises(RuntimeError, match="cannot be trained"):
        fresh(torch.ones(3, dtype=torch.float64))
