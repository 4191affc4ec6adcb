r"""Labels from density functional theory with PySCF (https://pyscf.org), as a calculator for ``basinet data generate``.

    pip install pyscf
    basinet data generate dft calculator=examples/pyscf_calculator.py:density_functional \
        'calculator_options=[xc=wb97x-v, basis=def2-svp]' level_of_theory=wB97X-V/def2-SVP n_molecules=10

Any ASE calculator can be named in this way: a callable that takes its options by name, and ``charge`` if it can treat
ions. Closed shells only, as the molecules of ``data generate`` are.
"""

from typing import Any, ClassVar

from ase.calculators.calculator import Calculator, SCFError, all_changes
from ase.units import Bohr, Hartree
from pyscf import dft, gto, scf


class PySCF(Calculator):
    """Energy (eV) and forces (eV/Å) of a restricted Kohn-Sham or, with ``xc=hf``, Hartree-Fock calculation."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, charge: int, xc: str, basis: str, conv_tol: float) -> None:
        super().__init__()
        self.charge, self.xc, self.basis, self.conv_tol = charge, xc, basis, conv_tol
        self.density: Any = None

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Compute both, beginning from the density of the last positions."""
        super().calculate(atoms, properties, system_changes)
        molecule = gto.M(
            atom=list(zip(self.atoms.symbols, self.atoms.positions, strict=True)),
            unit="Angstrom",
            basis=self.basis,
            charge=self.charge,
            spin=0,
            verbose=0,
        )
        method = scf.RHF(molecule) if self.xc.lower() == "hf" else dft.RKS(molecule, xc=self.xc)
        method.conv_tol = self.conv_tol
        energy = method.kernel(dm0=self.density)
        if not method.converged:
            self.density = None
            raise SCFError("the self-consistent field does not converge")
        self.density = method.make_rdm1()
        gradient = method.nuc_grad_method()
        if self.xc.lower() != "hf":
            gradient.grid_response = True  # so that the forces are the derivatives of the energies
        self.results = {"energy": float(energy) * Hartree, "forces": -gradient.kernel() * Hartree / Bohr}


def density_functional(charge: int = 0, xc: str = "pbe", basis: str = "def2-svp", conv_tol: float = 1e-9) -> PySCF:
    """Return the calculator of one molecule."""
    return PySCF(charge, xc, basis, conv_tol)
