import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as g2
from ase.calculators.lj import LennardJones

from basinet.data.chemistry.conformers import GenerationError
from basinet.data.generation.calculators import calculator_version, level_of_theory, make_calculator, parse_options
from basinet.data.workers import one_thread

with one_thread():
    pytest.importorskip("tblite.ase")
LENNARD_JONES = "ase.calculators.lj:LennardJones"


@pytest.mark.parametrize("name", ["gfn2-xtb", "gfn1-xtb"])
def test_forces_of_water_are_finite_differences_of_its_energy(name):
    water = g2("H2O")
    water.rattle(0.05, seed=1)
    water.calc = make_calculator(name, options={"accuracy": 1e-4})
    forces, positions, step = water.get_forces(), water.get_positions(), 1e-3
    for atom, axis in np.ndindex(3, 3):
        energy = []
        for sign in (1, -1):
            water.positions = positions
            water.positions[atom, axis] += sign * step
            energy.append(water.get_potential_energy())
        numerical = -(energy[0] - energy[1]) / (2 * step)
        assert abs(numerical - forces[atom, axis]) < 1e-4, f"{numerical} against {forces[atom, axis]} eV/Å"


def test_the_charge_reaches_the_calculator_and_nothing_is_printed(capfd):
    energies = []
    for charge in (0, 1):
        water = g2("H2O")
        water.calc = make_calculator("gfn2-xtb", charge=charge)
        energies.append(water.get_potential_energy())
    assert 10 < energies[1] - energies[0] < 25  # eV: ionisation
    assert capfd.readouterr() == ("", "")


def test_any_ase_calculator_can_be_named():
    argon = Atoms("Ar2", [(0, 0, 0), (2 ** (1 / 6) * 3.4, 0, 0)])
    argon.calc = make_calculator(LENNARD_JONES, options={"sigma": 3.4, "epsilon": 0.01, "rc": 50.0})
    assert isinstance(argon.calc, LennardJones)
    np.testing.assert_allclose(argon.get_forces(), 0.0, atol=1e-12)


def test_a_charged_molecule_needs_a_calculator_with_a_charge():
    with pytest.raises(GenerationError, match="^calculator takes no charge$"):
        make_calculator(LENNARD_JONES, charge=1)


@pytest.mark.parametrize("name", ["gfn3", "ase.calculators.lj:Lenard", "no.such.module:Class", "ase:"])
def test_an_unknown_name_says_what_is_expected(name):
    with pytest.raises(ValueError, match="module:Class"):
        make_calculator(name)


def test_a_misspelled_option_of_xtb_is_an_error():
    with pytest.raises(ValueError, match="GFN2-xTB has no option acuracy; choose from accuracy"):
        make_calculator("gfn2-xtb", options={"acuracy": 0.1})


def test_options_are_literals_or_words():
    assert parse_options(("a=1", "b=2.5", "c=word", "d=None")) == {"a": 1, "b": 2.5, "c": "word", "d": None}
    with pytest.raises(ValueError, match="'sigma' is not key=value"):
        parse_options(["sigma"])


def test_the_level_of_theory_names_the_method_and_what_is_not_default():
    assert level_of_theory("gfn1-xtb") == "GFN1-xTB"
    assert level_of_theory("gfn2-xtb", {"accuracy": 0.1}) == "GFN2-xTB(accuracy=0.1)"
    assert calculator_version(LENNARD_JONES).startswith("ase 3.")
    assert calculator_version("mine:Calculator") == "mine"


def test_without_tblite_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(ImportError, match=r'pip install "basinet\[labels\]"'):
        make_calculator("gfn2-xtb")
