import ase.units
import pytest

from basinet import units

CODATA_YEARS = 1e-6
"""ASE uses the constants of 2014, we those of 2018; they agree to better than this."""


@pytest.mark.parametrize(
    ("ours", "ase_value"),
    [
        (units.HARTREE, ase.units.Hartree),
        (units.BOHR, ase.units.Bohr),
        (units.KCAL_PER_MOL, ase.units.kcal / ase.units.mol),
        (units.KJ_PER_MOL, ase.units.kJ / ase.units.mol),
        (units.BOLTZMANN, ase.units.kB),
        (units.ACCELERATION, ase.units.fs**2),
        (units.DEBYE, ase.units.Debye),
        (units.length_factor("nm"), ase.units.nm),
        (units.energy_factor("meV"), 1e-3 * ase.units.eV),
    ],
)
def test_constants_agree_with_those_of_ase(ours: float, ase_value: float) -> None:
    assert ours == pytest.approx(ase_value, rel=CODATA_YEARS)


def test_an_unknown_unit_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown energy unit 'hartree'; choose one of eV, meV, Ha, kcal/mol, kJ/mol"):
        units.energy_factor("hartree")
    with pytest.raises(ValueError, match="unknown length unit 'A'; choose one of Angstrom, bohr, nm"):
        units.length_factor("A")
