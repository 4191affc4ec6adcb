"""A fast potential says what its model says, whatever is asked of it."""

import pytest
import torch
from ase import Atoms
from ase.build import molecule as g2

from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig, RadiusGraph
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.errors import RunError
from basinet.models.corrections import ZBLConfig
from basinet.models.fast import FastPotential, compiler_for
from basinet.models.joint import Compiler, interpreted
from basinet.models.model import Model, build_model
from basinet.structures import Molecule
from basinet.structures.batch import Batch, collate

CONFIG = EquivariantTransformerConfig(n_features=16, n_layers=1, n_heads=4, n_basis=8)


def batch_of(*names: str, dtype: torch.dtype = torch.float64) -> Batch:
    atoms = [g2(name) if len(name) > 2 else Atoms(name) for name in names]
    molecules = [Molecule(atomic_numbers=a.numbers.astype("int64"), positions=a.positions) for a in atoms]
    batch = collate(molecules, dtype=dtype)
    noise = torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return batch.replace(positions=batch.positions + 0.05 * noise)


def et(dtype: torch.dtype = torch.float64) -> Model:
    torch.manual_seed(0)
    return build_model(build_backbone(CONFIG), ["energy", "forces"]).to(dtype).eval()


def check(fast: FastPotential, model: Model, batch: Batch, tolerance: float) -> None:
    found, expected = fast(batch), model(batch, ["energy", "forces"])
    for key, value in expected.items():
        error = float((getattr(found, key) - value).detach().abs().max())
        assert error < tolerance, f"{key}: {error:.1e}"
    assert not found.energy.requires_grad
    assert not found.forces.requires_grad


@pytest.mark.parametrize("tables", [False, True])
@pytest.mark.parametrize("compiler", [None, interpreted()], ids=["eager", "graph"])
def test_energies_and_forces_are_those_of_the_model(tables: bool, compiler: Compiler | None) -> None:
    model, batch = et(), batch_of("CH3CH2OH", "H2O", "CH3OH", "H2O")
    fast = FastPotential(model, batch, tables=tables, compiler=compiler)
    check(fast, model, batch, 1e-5 if tables else 1e-12)
    assert len(fast.notes) == tables


def test_other_molecules_than_those_it_was_made_for() -> None:
    model = et()
    fast = FastPotential(model, batch_of("H2O", "H2O"), tables=True, compiler=interpreted())
    for names in (["C6H6"], ["He"], ["H2O"], ["H2O", "C6H6", "He", "CH3OH", "H2O"]):
        check(fast, model, batch_of(*names), 1e-5)


def test_the_model_may_change_and_the_potential_does_not() -> None:
    model, batch = et(), batch_of("H2O")
    fast = FastPotential(model, batch, compiler=interpreted())
    before = fast(batch).energy
    with torch.no_grad():
        model.energy_scale.scale.mul_(2)
    assert torch.equal(fast(batch).energy, before)
    assert all(p.requires_grad for p in model.parameters())


def test_corrections_are_added() -> None:
    model, batch = et().with_corrections(ZBLConfig()).eval(), batch_of("H2O", "H2O")
    check(FastPotential(model, batch, compiler=interpreted()), model, batch, 1e-12)


def test_an_invariant_network_can_be_compiled_and_has_no_tables() -> None:
    torch.manual_seed(0)
    config = EGNNConfig(n_features=8, n_layers=1, graph=RadiusGraph())
    model, batch = build_model(build_backbone(config), ["energy"]).double().eval(), batch_of("H2O", "H2O")
    check(FastPotential(model, batch, compiler=interpreted()), model, batch, 1e-12)
    with pytest.raises(ValueError, match="this network is EGNN"):
        FastPotential(model, batch, tables=True)


def test_positions_of_another_dtype_are_converted() -> None:
    model = et(torch.float32)
    fast = FastPotential(model, batch_of("H2O", dtype=torch.float32), tables=True)
    assert fast(batch_of("H2O")).forces.dtype == torch.float64


def test_a_model_without_an_energy_is_refused() -> None:
    with pytest.raises(ValueError, match="has an energy in eV"):
        FastPotential(build_model(build_backbone(CONFIG), ["noise"]), batch_of("H2O"))


def test_a_graph_that_is_wrong_is_not_used() -> None:
    def broken(graph: object, example: object) -> object:
        right = interpreted().forward(graph, example)

        def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
            return [1.01 * x if x.is_floating_point() else x for x in right(inputs)]

        run._boxed_call = True  # pyright: ignore[reportFunctionMemberAccess]
        return run

    model, batch = et(), batch_of("H2O")
    fast = FastPotential(model, batch, compiler=Compiler(broken, broken))
    with pytest.raises(RunError, match="from the network itself"):
        fast(batch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in modules of PyTorch, as they are imported
@pytest.mark.parametrize("tables", [False, True])
def test_inductor_agrees_to_rounding(tables: bool) -> None:
    model, batch = et(torch.float32), batch_of("CH3OH", "H2O", dtype=torch.float32)
    compiler = compiler_for(torch.device("cpu"))
    check(FastPotential(model, batch, tables=tables, compiler=compiler), model, batch, 1e-5)
