import pickle
import re
from typing import Any

import jaxtyping
import numpy as np
import pytest

from basinet.structures import Molecule, StructureError
from basinet.structures import molecule as module
from basinet.structures.molecule import closest_pair
from molecules import BENZENE, ETHANOL, HELIUM, WATER, molecule

TWO = [[0, 0, 0], [0, 0, 1.0]]
ONE_BOND = np.array([[0, 1]])


def test_the_formula_has_carbon_and_hydrogen_first() -> None:
    assert [m.formula for m in (ETHANOL, WATER, HELIUM, BENZENE)] == ["C2H6O", "H2O", "He", "C6H6"]
    assert molecule([17, 1], TWO).formula == "ClH"


def test_bonds_that_are_unknown_differ_from_no_bonds() -> None:
    assert molecule([2], [[0, 0, 0]]).bonds is None
    no_bonds = molecule([2], [[0, 0, 0]], bonds=np.zeros((0, 2), dtype=np.int64), bond_orders=np.zeros(0))
    assert no_bonds.bonds is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"atomic_numbers": [], "positions": []}, "x.sdf:3: a molecule needs at least one atom, got none"),
        ({"atomic_numbers": [0, 1]}, "x.sdf:3: atomic numbers must be 1 to 99, got 0 for atom 0"),
        ({"atomic_numbers": [1, 100]}, "x.sdf:3: atomic numbers must be 1 to 99, got 100 for atom 1"),
        ({"positions": [[0, 0, 0], [0, np.nan, 0]]}, "x.sdf:3: the position of atom 1 is not finite"),
        (
            {"positions": [[0, 0, 0], [0, 0, 0.074]]},
            "x.sdf:3: atoms 0 and 1 are 0.074 Å apart (at least 0.3 Å expected); are the coordinates in Å?",
        ),
        ({"bond_orders": np.ones(1)}, "x.sdf:3: bond orders without bonds"),
        ({"bonds": np.array([[0, 2]])}, "x.sdf:3: a bond names an atom outside 0 to 1"),
        ({"bonds": np.array([[-1, 0]])}, "x.sdf:3: a bond names an atom outside 0 to 1"),
        ({"bonds": np.array([[1, 1]])}, "x.sdf:3: an atom is bonded to itself"),
        ({"bonds": np.array([[0, 1], [1, 0]])}, "x.sdf:3: a bond is listed twice"),
        ({"labels": {"energy": "low"}}, "x.sdf:3: label 'energy' must be numbers, got <U3"),
        ({"labels": {"energy": float("nan")}}, "x.sdf:3: label 'energy' is not finite"),
        (
            {"labels": {"charges": np.zeros(3)}},
            "x.sdf:3: label 'charges' has 3 rows for 2 atoms; a label is one number per molecule or one row per atom",
        ),
        ({"labels": {"forces": np.zeros((2, 2))}}, "x.sdf:3: forces must be [2, 3], got [2, 2]"),
        ({"labels": {"forces": 0.0}}, "x.sdf:3: forces must be [2, 3], got []"),
    ],
)
def test_a_damaged_record_is_refused_and_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StructureError, match=f"^{re.escape(message)}$"):
        molecule(**{"atomic_numbers": [1, 1], "positions": TWO, "name": "x.sdf:3"} | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": np.zeros((1, 3))}, "molecule: positions must be [2, 3], got [1, 3]"),
        ({"bonds": ONE_BOND, "bond_orders": np.ones(2)}, "molecule: 1 bonds but 2 bond orders"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(
    fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production, where shapes are not checked
    with pytest.raises(StructureError, match=f"^{re.escape(message)}$"):
        Molecule(**{"atomic_numbers": np.array([1, 1]), "positions": np.array(TWO)} | fields)


def test_the_closest_pair_of_a_large_system_is_found_as_in_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    positions = np.random.default_rng(0).uniform(0, 20, size=(513, 3))
    row_by_row = closest_pair(positions)
    monkeypatch.setattr(module, "_closest_pair_of_many", None)
    assert closest_pair(positions[:512]) == pytest.approx(min_of_double_loop(positions[:512]))
    assert row_by_row == pytest.approx(min_of_double_loop(positions))


def min_of_double_loop(positions: np.ndarray) -> tuple[int, int, float]:
    pairs = ((i, j) for i in range(len(positions)) for j in range(i + 1, len(positions)))
    i, j = min(pairs, key=lambda pair: float(((positions[pair[0]] - positions[pair[1]]) ** 2).sum()))
    return i, j, float(np.linalg.norm(positions[i] - positions[j]))


def test_one_atom_has_no_closest_pair() -> None:
    assert closest_pair(np.zeros((1, 3))) is None


def test_a_molecule_without_labels_can_be_sent_to_another_process() -> None:
    helium = Molecule(atomic_numbers=np.array([2]), positions=np.zeros((1, 3)))
    assert pickle.loads(pickle.dumps(helium)).formula == "He"
