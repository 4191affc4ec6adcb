"""Functions of a distance, looked up in a table instead of computed."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Function = Callable[[Float[Tensor, " n"]], Float[Tensor, "n n_functions"]]
"""From distances, Å, to the values of some functions there."""
DECAY = 2.5
"""The table is even in exp(-DECAY r / cutoff): fine where bases of exponentials have their functions, and still fine
enough at the cutoff, where it would be coarse with twice the exponent."""
FEWEST_KNOTS, MOST_KNOTS = 128, 16384
CHECKS_PER_KNOT = 4


class TableError(NamedTuple):
    """How far a table is from its functions, at and between the knots, float64."""

    value: float
    """Largest error of a value, relative to the largest value."""
    slope: float
    """Largest error of a derivative in the distance, relative to the largest value, 1/Å."""
    n_knots: int


class RadialTable(nn.Module):
    r"""Cubic Hermite interpolation between knots, whose values and slopes are exact.

    .. math:: f(r) \approx h_{00}(u) f_k + h_{10}(u) f'_k + h_{01}(u) f_{k+1} + h_{11}(u) f'_{k+1},
              \qquad k + u = \frac{e^{-\lambda r} - e^{-\lambda r_c}}{h}

    ==================  ===========================================================
    :math:`\lambda`     ``rate``, 1/Å
    :math:`f_k, f'_k`   rows ``2 k`` and ``2 k + 1`` of ``rows``, slopes times ``h``
    ==================  ===========================================================

    Value and slope are continuous. The slope that is given is that of the interpolated value, exactly: forces are
    still minus the gradient of an energy. Beyond the cutoff every function has its value there.

    Args:
        function: to tabulate; evaluated in float64, on the CPU or wherever its own weights are.
        cutoff: where the table ends, Å.
        n_knots: rows of the table.
    """

    rows: Tensor

    def __init__(self, function: Function, cutoff: float, n_knots: int, device: torch.device) -> None:
        super().__init__()
        self.cutoff, self.n_knots, self.rate = cutoff, n_knots, DECAY / cutoff
        self.start = math.exp(-DECAY)
        self.step = (1 - self.start) / (n_knots - 1)
        distance = self._distance(torch.arange(n_knots, dtype=torch.float64, device=device))
        value, slope = _with_slope(function, distance)  # the slope is in the distance
        slope = slope * (-self.step / (self.rate * torch.exp(-self.rate * distance)))[:, None]
        rows = torch.stack([value, slope], dim=1).flatten(0, 1)
        self.register_buffer("rows", rows.contiguous(), persistent=False)

    def forward(self, distance: Float[Tensor, "*pairs"]) -> Float[Tensor, "*pairs n_functions"]:
        """Return the functions at distances in Å."""
        if self.training:
            raise RuntimeError(
                "a table does not follow the weights it was made of, so a model with tables cannot be trained; train "
                "the model itself and tabulate it afterwards, or call model.eval()"
            )
        place = (torch.exp(-self.rate * distance.clamp(max=self.cutoff)) - self.start) / self.step
        flat = _interpolated(self.rows, place.reshape(-1), 0)
        return flat.reshape(*distance.shape, self.rows.shape[1])

    def error(self, function: Function) -> TableError:
        """Return how far the table is from the functions it was made of."""
        n = CHECKS_PER_KNOT * (self.n_knots - 1)
        place = torch.arange(n, dtype=torch.float64, device=self.rows.device) / CHECKS_PER_KNOT
        distance = self._distance(place)
        exact, exact_slope = _with_slope(function, distance)
        rows = self.rows.double()
        found = _interpolated(rows, place, 0)
        slope = _interpolated(rows, place, 1) * (-self.rate * torch.exp(-self.rate * distance) / self.step)[:, None]
        size = exact.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
        value_error, slope_error = (found - exact).abs().max() / size, (slope - exact_slope).abs().max() / size
        return TableError(float(value_error), float(slope_error), self.n_knots)

    def _distance(self, place: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the distance at a place in the table."""
        return (-torch.log(self.start + self.step * place) / self.rate).clamp(0, self.cutoff)


def tabulate(
    function: Function, cutoff: float, tolerance: float, device: torch.device
) -> tuple[RadialTable, TableError]:
    """Return the smallest table, by doubling, whose values are exact to a tolerance (relative to the largest).

    Raises:
        ValueError: there is none of an affordable size; the functions are not smooth.
    """
    n_knots, error = FEWEST_KNOTS, TableError(math.inf, math.inf, 0)
    while n_knots <= MOST_KNOTS:
        table = RadialTable(function, cutoff, n_knots, device)
        error = table.error(function)
        if error.value <= tolerance:
            return table, error
        n_knots *= 2
    raise ValueError(
        f"a table of {MOST_KNOTS} knots is {error.value:.1e} from the functions it stands for, and {tolerance:.1e} is "
        "allowed; they are not smooth enough, or not finite"
    )


def _with_slope(function: Function, distance: Float[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Return values and derivatives in the distance.

    What comes back for a cotangent is linear in it, with the derivatives as factors: its own derivative gives them all.
    """
    with torch.enable_grad():
        distance = distance.detach().requires_grad_()
        value = function(distance)
        cotangent = torch.zeros_like(value, requires_grad=True)
        (back,) = torch.autograd.grad(value, distance, cotangent, create_graph=True)
        (slope,) = torch.autograd.grad(back.sum(), cotangent)
    return value.detach(), slope


def _interpolated(rows: Float[Tensor, "n_rows n"], place: Float[Tensor, " p"], order: int) -> Float[Tensor, "p n"]:
    """Return the derivative of some order of the interpolated functions, in units of the step."""
    return cast(Tensor, _Interpolate.apply(rows, place, order))


class _Interpolate(torch.autograd.Function):
    """A weighted sum of four rows of the table for each place, without a temporary; its derivative is one more."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, place: Tensor, order: int) -> Tensor:
        ctx.save_for_backward(rows, place)
        ctx.order = order
        knot = place.detach().floor().clamp(0, rows.shape[0] // 2 - 2)
        of_rows = 2 * knot.long()[:, None] + torch.arange(4, device=rows.device)
        weights = _weights(place - knot, order).to(rows.dtype)
        return F.embedding_bag(of_rows, rows, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        rows, place = ctx.saved_tensors
        slope = _interpolated(rows, place, ctx.order + 1)
        return None, (gradients[0] * slope).sum(-1).to(place.dtype), None


def _weights(u: Float[Tensor, " p"], order: int) -> Float[Tensor, "p 4"]:
    """Return the derivative of some order of the Hermite polynomials of both values and slopes."""
    one, zero = torch.ones_like(u), torch.zeros_like(u)
    match order:
        case 0:
            terms = (1 + u * u * (2 * u - 3), u * (1 + u * (u - 2)), u * u * (3 - 2 * u), u * u * (u - 1))
        case 1:
            terms = (6 * u * (u - 1), 1 + u * (3 * u - 4), 6 * u * (1 - u), u * (3 * u - 2))
        case 2:
            terms = (12 * u - 6, 6 * u - 4, 6 - 12 * u, 6 * u - 2)
        case 3:
            terms = (12 * one, 6 * one, -12 * one, 6 * one)
        case _:
            terms = (zero, zero, zero, zero)
    return torch.stack(terms, dim=-1)
