"""The edge stage over a list of pairs: its formulas against those of blocks, the C++ kernels against autograd."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from edge_stages import CONFIGS, EXACT, force_training, has_compiler, model_of, native_of
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.derivatives import hessian
from basinet.speed import pair_stage
from basinet.speed.check import all_pairs, largest_pair_error, random_inputs, random_pair_inputs
from basinet.speed.differentiable import differentiable
from basinet.speed.edge_stage import EdgeOutputs, forward
from basinet.speed.native import library
from basinet.speed.pair_native import native
from basinet.speed.pair_stage import PairInputs
from basinet.speed.pair_sum import pair_sum
from basinet.structures.batch import Batch, collate
from basinet.structures.dense import DenseNeighbors
from basinet.structures.layouts import neighbors_of
from basinet.structures.molecule import Molecule
from basinet.structures.pairs import AtomPairs
from basinet.structures.sparse import PairList, SparseNeighbors
from molecules import ETHANOL, HELIUM, SMALL, WATER, apart

pytestmark = pytest.mark.skipif(not has_compiler(), reason="the kernels are C++, and there is no compiler")
SIZES = {"one molecule": (1, 5), "three molecules": (3, 4), "atoms alone": (2, 1)}
HEADS = {"one head": 1, "two heads": 2, "heads of one feature": 6}


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Compute by two threads for a while."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("n", [1, 4])
def test_the_formulas_are_those_of_blocks(generator: torch.Generator, n: int) -> None:
    blocks = random_inputs(2, n, 6, generator)
    first, second = torch.triu_indices(n, n, offset=1)
    unit = blocks.unit.triu() - blocks.unit.triu().transpose(1, 3)  # odd, as directions are
    unit = unit - unit.diagonal(dim1=1, dim2=3).transpose(1, 2)[..., None] * torch.eye(n)[None, :, None]
    n_pairs = len(first)
    rows = torch.cat([blocks.filters[:, :n_pairs].flatten(0, 1), blocks.filters[:1, -1:].flatten(0, 1)])
    shared = torch.cat([blocks.filters[:, :-1], blocks.filters[:1, -1:].expand(2, -1, -1, -1)], dim=1)
    expected = forward(blocks._replace(filters=torch.nn.functional.silu(shared), unit=unit), 2)
    inputs = PairInputs(
        *(x.flatten(0, 1) for x in blocks[:5]),
        filters=rows,
        fades=torch.ones(len(rows), 4, dtype=torch.float64),
        unit=unit[:, first, :, second].transpose(0, 1).flatten(0, 1),
    )
    for a, b in zip(pair_stage.forward(all_pairs(2, n), inputs, 2), expected, strict=True):
        assert torch.allclose(a, b.flatten(0, 1), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("n_heads", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_kernels_are_the_formulas_and_autograd(size: tuple[int, int], n_heads: int) -> None:
    sizes = {"n_molecules": size[0], "n": size[1], "n_features": 6, "n_heads": n_heads}
    assert largest_pair_error(native, **sizes, dtype=torch.float64) < EXACT
    assert largest_pair_error(native, **sizes, dtype=torch.float32) < 1e-5


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("n_molecules", [1, 5])
def test_two_threads_compute_the_same(n_molecules: int) -> None:
    sizes = {"n_molecules": n_molecules, "n": 4, "n_features": 9, "n_heads": 3}
    assert largest_pair_error(native, **sizes, dtype=torch.float64) < EXACT


def test_wide_features_are_within_rounding() -> None:
    assert largest_pair_error(native, n_features=128, n_heads=8, dtype=torch.float32) < 1e-5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 200.0])
def test_the_activation_is_exact_far_out_too(generator: torch.Generator, scale: float) -> None:
    pairs = all_pairs(1, 3)
    exact = random_pair_inputs(pairs, 3, 8, generator)
    exact = exact._replace(filters=exact.filters * scale)
    single = PairInputs(*(x.float() for x in exact))
    found = native(pairs).forward(single, 1)
    expected = pair_stage.forward(pairs, PairInputs(*(x.double() for x in single)), 1)
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).abs().max()) < 2e-6 * float(b.abs().max())


def test_rows_may_lie_apart_in_memory(generator: torch.Generator) -> None:
    pairs = all_pairs(2, 3)
    inputs, tangents = (random_pair_inputs(pairs, 6, 4, generator) for _ in range(2))
    grads = EdgeOutputs(inputs.scalar.clone(), inputs.vector.clone())

    def scattered(group: PairInputs) -> PairInputs:
        query, key, scalar, directed = torch.cat([group[0], group[1], group[2], group[4]], dim=1).split(4, dim=1)
        vector = group.vector.transpose(1, 2).contiguous().transpose(1, 2)
        unit = group.unit.t().contiguous().t()
        return PairInputs(query, key, scalar, vector, directed, group.filters, group.fades, unit)

    stage = native(pairs)
    expected = stage.double_backward(inputs, grads, tangents, 2)
    turned = EdgeOutputs(grads.message.t().contiguous().t(), grads.vector_message)
    found = stage.double_backward(scattered(inputs), turned, scattered(tangents), 2)
    for a, b in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        assert torch.equal(a, b)


def test_what_is_not_a_number_stays_so(generator: torch.Generator) -> None:
    pairs = all_pairs(2, 2)
    inputs = PairInputs(*(x.float() for x in random_pair_inputs(pairs, 4, 4, generator)))
    inputs.filters[0, 0, 0] = torch.nan
    message, _ = native(pairs).forward(inputs, 1)
    assert message[:2].isnan().all() and message[2:].isfinite().all()


def test_another_dtype_is_refused(generator: torch.Generator) -> None:
    pairs = all_pairs(1, 2)
    inputs = PairInputs(*(x.bfloat16() for x in random_pair_inputs(pairs, 2, 4, generator)))
    with pytest.raises(TypeError, match=r"float32 and float64, got torch.bfloat16; use launch.kernels=plain"):
        native(pairs).forward(inputs, 1)


def test_a_graph_that_is_recorded_does_not_miss_the_kernels_in_silence(generator: torch.Generator) -> None:
    pairs = all_pairs(1, 3)
    inputs = random_pair_inputs(pairs, 3, 4, generator)
    with pytest.raises(RuntimeError, match=r"cannot be recorded in a graph; call backbone"):
        make_fx(lambda query: native(pairs).forward(inputs._replace(query=query), 2).message)(inputs.query)
    with pytest.raises(TypeError, match="got a FakeTensor on cpu"):
        make_fx(lambda query: pair_sum(pairs, query, query), tracing_mode="fake")(inputs.query)


def test_tensors_elsewhere_are_refused(generator: torch.Generator) -> None:
    pairs = all_pairs(1, 2)
    inputs = PairInputs(*(x.to("meta") for x in random_pair_inputs(pairs, 2, 4, generator)))
    with pytest.raises(TypeError, match=r"for tensors on a CPU, got a Tensor on meta; call backbone.use_kernels"):
        native(pairs).forward(inputs, 1)


def test_a_third_derivative_of_pairs_is_refused(generator: torch.Generator) -> None:
    pairs = all_pairs(1, 2)
    inputs = PairInputs(*(x.requires_grad_() for x in random_pair_inputs(pairs, 2, 4, generator)))
    message, _ = differentiable(native(pairs), inputs, 2)
    (first,) = torch.autograd.grad(message.square().sum(), inputs.query, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), inputs.query, create_graph=True)
    with pytest.raises(RuntimeError, match="no third derivative"):
        torch.autograd.grad(second.sum(), inputs.query)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(
    "batch",
    [SMALL, [HELIUM], [apart(WATER, HELIUM, 20.0), ETHANOL], []],
    ids=["sizes differ", "one atom", "no neighbours", "nothing"],
)
def test_a_network_trains_on_forces_over_pairs(config: EquivariantTransformerConfig, batch: list[Molecule]) -> None:
    molecules = collate(batch, dtype=torch.float64) if batch else collate(SMALL, dtype=torch.float64).select([])
    expected, ours = (force_training(m, molecules) for m in (model_of(config), model_of(config, native_of(config))))
    assert expected.keys() == ours.keys()
    for key, value in expected.items():
        assert torch.allclose(ours[key], value, rtol=1e-11, atol=1e-11), key


def test_the_hessian_over_pairs_is_the_same() -> None:
    batch = collate([WATER], dtype=torch.float64)
    expected, ours = (hessian(model_of(CONFIGS["own"], *used), batch) for used in ((), (native_of(CONFIGS["own"]),)))
    assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("two_threads")
def test_pairs_in_any_order_will_do_with_two_threads() -> None:
    batch = collate(SMALL, dtype=torch.float64)
    model = model_of(CONFIGS["own"], native_of(CONFIGS["own"]))
    pairs = neighbors_of(batch, 5.0).as_list().pair_list
    shuffled = torch.randperm(len(pairs.first), generator=torch.Generator().manual_seed(0))
    other = AtomPairs(pairs.second[shuffled], pairs.first[shuffled])
    expected = model(batch, ["forces"])["forces"]
    found = model(batch, ["forces"], layout=lambda b, cutoff: SparseNeighbors(b, cutoff, other))["forces"]
    assert torch.allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_pairs_may_lie_anyhow_in_memory() -> None:
    batch = collate(SMALL, dtype=torch.float64)
    model = model_of(CONFIGS["own"], native_of(CONFIGS["own"]))
    pairs = neighbors_of(batch, 5.0).as_list().pair_list
    first, second = torch.stack([pairs.first, pairs.second], dim=1).int().unbind(1)
    expected = model(batch, ["forces"])["forces"]
    layout = partial(SparseNeighbors, pairs=AtomPairs(first, second))
    assert torch.equal(model(batch, ["forces"], layout=layout)["forces"], expected)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("batch", [SMALL, [ETHANOL], [HELIUM, HELIUM, WATER], [HELIUM] * 40], ids=str)
def test_chunks_hold_all_pairs_and_share_no_atoms(batch: list[Molecule]) -> None:
    first, second, pair_starts, atom_starts = neighbors_of(collate(batch), 5.0).as_list().pair_list
    n_atoms = sum(m.n_atoms for m in batch)
    assert pair_starts[0] == atom_starts[0] == 0
    assert pair_starts[-1] == len(first) and atom_starts[-1] == n_atoms
    for chunk in range(len(pair_starts) - 1):
        own = slice(int(pair_starts[chunk]), int(pair_starts[chunk + 1]))
        atoms = torch.cat([first[own], second[own]])
        assert ((atoms >= atom_starts[chunk]) & (atoms < atom_starts[chunk + 1])).all()


def test_every_repetition_is_the_same_to_the_bit() -> None:
    batch = collate(SMALL)
    found = [force_training(model_of(CONFIGS["own"], native_of(CONFIGS["own"])).float(), batch) for _ in range(2)]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("n_rows", [3, 5], ids=["rows of pairs", "further rows"])
def test_the_sum_over_neighbours_is_the_sum_and_has_all_derivatives(generator: torch.Generator, n_rows: int) -> None:
    pairs = PairList(torch.tensor([0, 0, 1]), torch.tensor([1, 3, 2]), torch.tensor([0, 3]), torch.tensor([0, 4]))
    weights = torch.randn(n_rows, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.randn(4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    w = weights.detach()
    expected = torch.stack([w[0] * x[1] + w[1] * x[3], w[0] * x[0] + w[2] * x[2], w[2] * x[1], w[1] * x[0]])

    def summed(weights: Tensor, x: Tensor) -> Tensor:
        return pair_sum(pairs, weights, x)

    assert torch.allclose(summed(weights, x), expected)
    assert torch.autograd.gradcheck(summed, (weights, x))
    assert torch.autograd.gradgradcheck(summed, (weights, x))
    third = torch.autograd.functional.hessian(lambda x: summed(weights, x.square()).pow(3).sum(), x, create_graph=True)
    assert torch.autograd.grad(third.sum(), x)[0].isfinite().all()


def test_kernels_are_compiled_once() -> None:
    assert library("pair_sum", torch.float32, N_FEATURES=4) is library("pair_sum", torch.float32, N_FEATURES=4)


def by_hand(batch: Batch) -> int:
    """Return the number of pairs within 5 Å, one by one."""
    found = 0
    for i in range(batch.n_atoms):
        for j in range(i + 1, batch.n_atoms):
            near = bool((batch.positions[i] - batch.positions[j]).norm() < 5.0)
            found += near and bool(batch.molecule[i] == batch.molecule[j])
    return found


def test_both_layouts_have_the_same_list() -> None:
    batch = collate([*SMALL, apart(WATER, HELIUM, 20.0)])
    dense, sparse = DenseNeighbors(batch, 5.0).as_list(), SparseNeighbors(batch, 5.0).as_list()
    assert len(dense.pair_list.first) == len(sparse.pair_list.first) == by_hand(batch)
    assert torch.equal(dense.distances, sparse.distances)
