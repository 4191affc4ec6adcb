"""A batch that is asked in pieces says what it says as a whole."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from ase import Atoms
from ase.build import molecule as g2
from torch import Tensor

from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig
from basinet.commands.answer.load import PIECE_ATOMS, in_pieces
from basinet.data.chemistry.perception import with_perceived_bonds
from basinet.models.model import Model, build_model
from basinet.structures import Molecule
from basinet.structures.batch import Batch, collate
from small_runs import TINY

MIXED = ["C6H6", "H2O", "He", "CH3CH2OH", "trans-butane", "CH4"] * 12
CASES = {
    "mixed": MIXED,
    "descending": ["C6H6"] * 30 + ["He"] * 3,
    "one atom each": ["He", "O"] * (PIECE_ATOMS + 1),
    "a larger one than a piece": ["He", "chain", "H2O"],
    "one": ["H2O"],
}
TOLERANCE = 1e-12
"""eV and eV/Å, float64, of a network of one layer."""


def atoms(name: str) -> Atoms:
    if name == "chain":
        return Atoms(f"O{PIECE_ATOMS + 1}", positions=[(1.4 * i, 0.1 * (i % 3), 0.0) for i in range(PIECE_ATOMS + 1)])
    return g2(name) if len(name) > 2 else Atoms(name)


def batch_of(names: Sequence[str], *, bonds: bool = False) -> Batch:
    made = (Molecule(atomic_numbers=a.numbers.astype("int64"), positions=a.positions) for a in map(atoms, names))
    batch = collate(list(with_perceived_bonds(made) if bonds else made), dtype=torch.float64)
    noise = torch.randn(batch.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return batch.replace(positions=batch.positions + 0.05 * noise, labels={"energy": batch.ids.double()})


def check(model: Model, batch: Batch) -> list[Batch]:
    asked: list[Batch] = []

    def ask(part: Batch) -> Mapping[str, Tensor]:
        asked.append(part)
        return model(part, ["energy", "forces"])

    expected = model(batch, ["energy", "forces"])
    for name, value in in_pieces(ask, batch).items():
        error = float((value - expected[name]).abs().max())
        assert value.shape == expected[name].shape and error < TOLERANCE, f"{name}: {error:.1e}"
    return asked


@pytest.mark.parametrize("case", CASES)
def test_every_molecule_and_atom_has_its_own_answer(case: str) -> None:
    torch.manual_seed(0)
    batch = batch_of(CASES[case])
    asked = check(build_model(build_backbone(TINY), ["energy"]).double().eval(), batch)
    assert sum(part.n_molecules for part in asked) == batch.n_molecules
    assert all(part.n_atoms <= PIECE_ATOMS or part.n_molecules == 1 for part in asked)
    assert (len(asked) == 1) == (batch.n_atoms <= PIECE_ATOMS)


def test_pieces_are_of_similar_sizes_and_without_labels() -> None:
    torch.manual_seed(0)
    asked = check(build_model(build_backbone(TINY), ["energy"]).double().eval(), batch_of(MIXED))
    largest = [int(part.atoms_per_molecule.max()) for part in asked]
    smallest = [int(part.atoms_per_molecule.min()) for part in asked]
    assert len(asked) > 1 and all(low >= high for high, low in zip(largest, smallest[1:], strict=False))
    assert not any(part.labels for part in asked)


def test_bonds_go_with_their_molecules() -> None:
    torch.manual_seed(0)
    model = build_model(build_backbone(EGNNConfig(n_features=8, n_layers=1)), ["energy"]).double().eval()
    check(model, batch_of(["C6H6", "H2O", "CH3CH2OH"] * 15, bonds=True))


def test_no_molecules_are_asked_about_once() -> None:
    batch = batch_of(["H2O"]).select([])
    assert in_pieces(lambda part: {"energy": part.positions.sum(1)}, batch)["energy"].shape == (0,)
