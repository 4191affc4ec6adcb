"""The calculator of ASE: the same numbers as the model, and what ASE does with them."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule as g2
from ase.mep import NEB
from ase.optimize import LBFGS
from ase.vibrations import Vibrations, VibrationsData

from basinet.backbones.egnn import EGNNConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformer, EquivariantTransformerConfig
from basinet.interfaces.ase import Calculator, OutsideScopeWarning
from basinet.models.checkpoint import save_model
from basinet.models.heads.property import PropertyForm, build_property_head
from basinet.models.model import Model, build_model
from basinet.models.scope import OutsideScopeError, Scope
from basinet.structures.batch import collate
from molecules import ETHANOL
from small_runs import finetune_recipe, frames, make_xyz, training

CONFIG = EquivariantTransformerConfig(n_features=16, n_layers=2, n_heads=4, n_basis=16)


def some_model(seed: int = 0) -> Model:
    """Return a network that no one trained, with forces of the size of those of molecules."""
    torch.manual_seed(seed)
    model = build_model(EquivariantTransformer(CONFIG), ["energy"])
    model.energy_scale.scale.fill_(5.0)
    model.energy_scale.references[6] = -1030.0
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that was trained on molecules of springs, and so has their minima."""
    from basinet.commands.train.finetune import finetune

    directory = tmp_path_factory.mktemp("springs")
    data = make_xyz(directory / "data.xyz", frames(["H2O", "NH3"], per_compound=30))
    changes = {"n_steps": 200, "batch_size": 8, "log_every": 50, "validate_every": 100, "save_every": 200}
    settings = training(**changes, optimizer={"learning_rate": 5e-3, "ema_decay": 0.98})
    return finetune(finetune_recipe(data, model=CONFIG, training=settings), directory / "run").model


@pytest.fixture
def ethanol() -> Atoms:
    return g2("CH3CH2OH")


def test_energy_and_forces_are_those_of_the_model(ethanol: Atoms) -> None:
    model = some_model().double().eval()
    expected = model(collate([ETHANOL], dtype=torch.float64), ["energy", "forces"])
    ethanol.calc = Calculator(model, precision="float64")
    assert ethanol.get_potential_energy() == pytest.approx(float(expected["energy"]), rel=1e-13)
    assert ethanol.get_potential_energy(force_consistent=True) == ethanol.get_potential_energy()
    np.testing.assert_allclose(ethanol.get_forces(), expected["forces"].numpy(), rtol=1e-9, atol=1e-10)


def test_a_file_gives_the_calculator_of_its_model(tmp_path: Path, ethanol: Atoms) -> None:
    save_model(some_model(), tmp_path / "m.safetensors", CONFIG)
    of_file = Calculator(tmp_path / "m.safetensors").get_potential_energy(ethanol)
    assert of_file == Calculator(str(tmp_path / "m.safetensors")).get_potential_energy(ethanol)
    assert of_file == Calculator(some_model()).get_potential_energy(ethanol)


def test_the_model_that_was_given_stays_as_it_is(ethanol: Atoms) -> None:
    model = some_model().train()
    Calculator(model, precision="float64").get_potential_energy(ethanol)
    assert model.training
    assert next(model.parameters()).dtype == torch.float32


def test_both_precisions_agree_to_the_digits_of_the_lower(ethanol: Atoms) -> None:
    single, double = (Calculator(some_model(), precision=p) for p in ("float32", "float64"))
    difference = np.abs(single.get_forces(ethanol) - double.get_forces(ethanol)).max()
    assert 0 < difference < 1e-4 * np.abs(double.get_forces(ethanol)).max()


def test_nothing_is_computed_twice_and_a_changed_charge_is_a_change(ethanol: Atoms) -> None:
    calls: list[int] = []
    model = some_model()
    model.register_forward_hook(lambda *_: calls.append(1))
    ethanol.calc = Calculator(model)
    calls.clear()
    ethanol.calc.model.register_forward_hook(lambda *_: calls.append(1))
    ethanol.get_potential_energy()
    n_first = len(calls)
    ethanol.get_forces()
    ethanol.info["note"] = "nothing to do with the energy"
    ethanol.get_forces()
    assert len(calls) == n_first > 0
    for change in range(1, 4):
        ethanol.info["charge"] = change
        ethanol.get_potential_energy()
        assert len(calls) == (1 + change) * n_first
    del ethanol.info["charge"]
    ethanol.set_initial_charges([1.0] + 8 * [0.0])
    ethanol.get_potential_energy()
    assert len(calls) == 5 * n_first


def test_a_charge_the_model_does_not_know_is_an_error_also_when_it_changes(ethanol: Atoms) -> None:
    model = some_model()
    model.scope = Scope(frozenset({1, 6, 8}), "", frozenset({0}), (1, 20))
    ethanol.calc = Calculator(model)
    ethanol.get_potential_energy()
    ethanol.info["charge"] = 1
    with pytest.raises(OutsideScopeError, match=r"charge \+1, the model knows 0"):
        ethanol.get_potential_energy()
    ethanol.info["charge"] = 0.5
    with pytest.raises(ValueError, match="charge must be a whole number"):
        ethanol.get_potential_energy()


def test_outside_of_its_scope_a_model_answers_only_if_asked_to_and_says_so(ethanol: Atoms) -> None:
    model = some_model()
    model.scope = Scope(frozenset({1, 6}), "")
    with pytest.raises(OutsideScopeError, match="elements O, the model knows H C"):
        Calculator(model).get_potential_energy(ethanol)
    ethanol.calc = Calculator(model, outside_scope="warn")
    with pytest.warns(OutsideScopeWarning, match="C2H6O is outside of the scope: elements O"):
        ethanol.get_potential_energy()
    assert ethanol.calc.results["outside_scope"] == "elements O, the model knows H C"


def test_periodic_atoms_are_refused(ethanol: Atoms) -> None:
    ethanol.set_cell([10, 10, 10])
    ethanol.calc = Calculator(some_model())
    ethanol.get_potential_energy()
    ethanol.pbc = True
    with pytest.raises(ValueError, match="are periodic .pbc., and basinet treats molecules only"):
        ethanol.get_potential_energy()


def test_damaged_geometries_are_refused(ethanol: Atoms) -> None:
    ethanol.calc = Calculator(some_model())
    ethanol.positions[0] = ethanol.positions[1]
    with pytest.raises(ValueError, match="atoms 0 and 1 are 0 Å apart"):
        ethanol.get_potential_energy()
    ethanol.positions[0] = np.nan
    with pytest.raises(ValueError, match="the position of atom 0 is not finite"):
        ethanol.get_potential_energy()
    with pytest.raises(ValueError, match="at least one atom"):
        Calculator(some_model()).get_potential_energy(Atoms())


def test_one_atom_has_an_energy_and_no_force() -> None:
    atoms = Atoms("He", calculator=Calculator(some_model(), precision="float64"))
    assert np.isfinite(atoms.get_potential_energy())
    np.testing.assert_array_equal(atoms.get_forces(), np.zeros((1, 3)))
    np.testing.assert_allclose(atoms.calc.get_hessian(atoms), np.zeros((3, 3)), atol=1e-12)


def test_a_property_has_its_name(ethanol: Atoms) -> None:
    backbone = EquivariantTransformer(CONFIG)
    model = Model(backbone, {"gap": build_property_head(PropertyForm("sum", "eV"), backbone)})
    calc = Calculator(model)
    assert calc.implemented_properties == ["gap"]
    expected = model.eval()(collate([ETHANOL]), ["gap"])["gap"].detach()
    assert calc.get_property("gap", ethanol) == pytest.approx(float(expected))
    with pytest.raises(NotImplementedError):
        calc.get_potential_energy(ethanol)
    with pytest.raises(ValueError, match="a Hessian needs an energy"):
        calc.get_hessian(ethanol)


def test_a_model_of_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="offers noise: no energy in eV and no property; fine-tune it first"):
        Calculator(build_model(EquivariantTransformer(CONFIG), ["noise"]))


def test_several_models_are_an_ensemble(ethanol: Atoms) -> None:
    members = [some_model(seed) for seed in range(3)]
    alone = [Calculator(m, precision="float64") for m in members]
    energies = np.array([c.get_potential_energy(ethanol) for c in alone])
    forces = np.stack([c.get_forces(ethanol) for c in alone])
    calc = Calculator(members, precision="float64")
    assert calc.get_potential_energy(ethanol) == pytest.approx(energies.mean(), rel=1e-12)
    assert calc.results["energy_std"] == pytest.approx(energies.std(ddof=1), rel=1e-9)
    np.testing.assert_allclose(calc.get_forces(ethanol), forces.mean(0), rtol=1e-9, atol=1e-10)
    spread = np.sqrt(forces.var(axis=0, ddof=1).sum(1))
    np.testing.assert_allclose(calc.get_property("forces_std", ethanol), spread, rtol=1e-9)
    hessians = [c.get_hessian(ethanol) for c in alone]
    np.testing.assert_allclose(calc.get_hessian(ethanol), np.mean(hessians, axis=0), rtol=1e-9, atol=1e-9)


def test_a_network_that_reads_bonds_perceives_them(ethanol: Atoms) -> None:
    from basinet.backbones.egnn import EGNN

    torch.manual_seed(0)
    model = build_model(EGNN(EGNNConfig(n_features=8, n_layers=2)), ["energy"])
    ethanol.calc = Calculator(model, precision="float64")
    before = ethanol.get_potential_energy()
    ethanol.rotate(30, "x")
    assert ethanol.get_potential_energy() == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_gives_the_same(ethanol: Atoms, copied: object) -> None:
    calc = Calculator(some_model(), precision="float64")
    ethanol.calc = calc
    energy = ethanol.get_potential_energy()
    other = copied(calc)  # type: ignore[operator]
    assert other.get_potential_energy(g2("CH3CH2OH")) == energy


def test_the_hessian_is_the_finite_difference_of_the_forces(ethanol: Atoms) -> None:
    ethanol.calc = Calculator(some_model(), precision="float64")
    found = ethanol.calc.get_hessian(ethanol)
    step = 1e-4
    expected = np.zeros_like(found)
    for row in range(27):
        moved = [ethanol.copy(), ethanol.copy()]
        for atoms, sign in zip(moved, (1, -1), strict=True):
            atoms.positions[row // 3, row % 3] += sign * step
        plus, minus = (ethanol.calc.get_forces(atoms).flatten() for atoms in moved)
        expected[row] = -(plus - minus) / (2 * step)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(found, found.T)
    # Shifting all atoms changes nothing: rows add up to zero over atoms.
    np.testing.assert_allclose(found.reshape(27, 9, 3).sum(1), 0, atol=1e-9 * np.abs(found).max())


def test_relaxed_molecules_vibrate_with_real_frequencies(tmp_path: Path, trained: Path) -> None:
    atoms = g2("H2O")
    atoms.calc = Calculator(trained, precision="float64")
    LBFGS(atoms, logfile=None).run(fmax=1e-4, steps=200)
    assert np.abs(atoms.get_forces()).max() < 1e-4
    by_autograd = VibrationsData.from_2d(atoms, atoms.calc.get_hessian(atoms)).get_energies()
    # Near planes and axes of symmetry vectors are short, and their norms bend within 1e-3 Å.
    differences = Vibrations(atoms, name=str(tmp_path / "vib"), delta=1e-5)
    differences.run()
    by_differences = differences.get_energies()
    # Six of nine are no vibrations: their energies are zero up to the root of rounding.
    np.testing.assert_allclose(by_autograd[6:].real, by_differences[6:].real, rtol=1e-3)
    assert (by_autograd[6:].real > 0.03).all()
    assert np.abs(by_autograd[:6]).max() < 0.01


def test_a_path_between_two_minima_has_a_top(trained: Path) -> None:
    """Ammonia turned inside out: the network sees the mirror image at the same energy, and a planar one between."""
    first = g2("NH3")
    first.calc = Calculator(trained, precision="float64")
    LBFGS(first, logfile=None).run(fmax=0.01, steps=200)
    last = first.copy()
    last.positions[0, 2] = 2 * last.positions[1:, 2].mean() - last.positions[0, 2]
    last.calc = Calculator(trained, precision="float64")
    images = [first, *(first.copy() for _ in range(3)), last]
    band = NEB(images, climb=True, k=0.5, method="improvedtangent")
    band.interpolate("linear")
    for image in images[1:-1]:
        image.calc = Calculator(trained, precision="float64")
    LBFGS(band, logfile=None).run(fmax=0.01, steps=300)
    assert np.abs(band.get_forces()).max() < 0.01
    energies = np.array([image.get_potential_energy() for image in images])
    assert energies[0] == pytest.approx(energies[-1], abs=1e-6)
    assert energies.argmax() == 2
    # The trained surface is flat at its top: the nearly planar molecule there has the energy of the planar one.
    pyramid, top = (abs(image.positions[0, 2] - image.positions[1:, 2].mean()) for image in (first, images[2]))
    assert top < 0.25 * pyramid
    planar = images[2].copy()
    planar.positions[0, 2] = planar.positions[1:, 2].mean()
    planar.calc = images[2].calc
    assert planar.get_potential_energy() == pytest.approx(energies[2], abs=0.02 * np.ptp(energies))
