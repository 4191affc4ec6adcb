"""Every check passes on a sound model, and fails on one that is broken in the way it is about."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from basinet.backbones.base import Layout
from basinet.backbones.egnn import EGNNConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.commands.certify import subject_of
from basinet.evaluation.certificate import Ask, Check, Subject, Thresholds, compare_kernels, examine
from basinet.structures.batch import Batch, collate
from basinet.structures.layouts import neighbors_of
from basinet.structures.segment import sum_per_molecule
from basinet.structures.sparse import SparseNeighbors
from molecules import AMMONIUM, ETHANOL, HELIUM, WATER, bonded, molecule
from small_runs import tiny_model

CONFIG = EquivariantTransformerConfig(n_features=8, n_layers=2, n_heads=2, n_basis=8)
Twist = Callable[[Batch, Layout, dict[str, Tensor]], Mapping[str, Tensor]]


def rattled_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    batch = collate([AMMONIUM, WATER, HELIUM], dtype=torch.float64)
    noise = torch.randn(batch.positions.shape, generator=generator, dtype=torch.float64)
    return batch.replace(positions=batch.positions + 0.05 * noise)


def sound(config: EquivariantTransformerConfig = CONFIG) -> Subject:
    model = tiny_model(["energy", "noise"], config=config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return subject_of(model)


def faults(subject: Subject, batch: Batch | None = None) -> set[str]:
    """Return the names of the checks that are not passed."""
    found = examine(
        subject, rattled_batch() if batch is None else batch, Thresholds(), torch.Generator().manual_seed(0)
    )
    return {check.name for check in found if check.verdict == "fault"}


def broken(twist: Twist) -> Subject:
    """Return a sound model whose outputs are tampered with."""
    good = sound()

    def ask(batch: Batch, layout: Layout) -> Mapping[str, Tensor]:
        return twist(batch, layout, dict(good.ask(batch, layout)))

    return Subject(ask, good.cutoff)


def with_energy(energy_of: Callable[[Batch], Tensor]) -> Subject:
    """Return a sound model whose energy has a term that should not be there, and the forces of it."""

    def twist(batch: Batch, layout: Layout, found: dict[str, Tensor]) -> Mapping[str, Tensor]:
        positions = batch.positions.detach().requires_grad_()
        energy = energy_of(batch.replace(positions=positions))
        (gradient,) = torch.autograd.grad(energy.sum(), positions)
        return found | {"energy": found["energy"] + energy.detach(), "forces": found["forces"] - gradient}

    return broken(twist)


def test_a_sound_model_passes_every_check() -> None:
    found = list(examine(sound(), rattled_batch(), Thresholds(), torch.Generator().manual_seed(0)))
    assert [check for check in found if check.verdict != "ok"] == []
    assert {check.output for check in found if check.name == "rotation"} == {"energy", "forces", "noise"}
    assert {check.name for check in found} == {
        "rotation", "reflection", "translation", "permutation", "F = -dE/dr", "cutoff", "two copies", "batch",
        "batch order", "layout", "float32", "repeated",
    }  # fmt: skip


def test_an_energy_of_directions_in_space_fails_the_symmetries() -> None:
    of_x = with_energy(lambda b: sum_per_molecule(1e-4 * b.positions[:, 0].square(), b))
    assert {"rotation", "reflection", "translation"} <= faults(of_x)
    assert "F = -dE/dr" not in faults(of_x)


def test_an_energy_of_handedness_fails_reflection_alone() -> None:
    def handedness(batch: Batch) -> Tensor:
        r = batch.positions
        volumes = [
            torch.linalg.det(mine[1:4] - mine[0]) if len(mine := r[batch.molecule == m]) > 3 else r.sum() * 0
            for m in range(batch.n_molecules)
        ]
        return 1e-4 * torch.stack(volumes)

    assert {"reflection", "permutation"} <= faults(with_energy(handedness))
    assert "rotation" not in faults(with_energy(handedness))


def test_an_energy_of_the_order_of_atoms_fails_permutation() -> None:
    def of_order(batch: Batch) -> Tensor:
        place = torch.arange(batch.n_atoms) - batch.first_atom[batch.molecule]
        centred = batch.positions - batch.positions[batch.first_atom][batch.molecule]
        return sum_per_molecule(1e-4 * place * centred.square().sum(1), batch)

    assert "permutation" in faults(with_energy(of_order))
    assert not {"rotation", "reflection", "translation"} & faults(with_energy(of_order))


def test_forces_that_are_no_gradient_fail_finite_differences_and_no_symmetry() -> None:
    def swirl(batch: Batch, layout: Layout, found: dict[str, Tensor]) -> Mapping[str, Tensor]:
        pull = found["forces"] * (1 + 1e-3 * found["energy"][batch.molecule, None])
        return found | {"forces": pull}

    found = faults(broken(swirl))
    assert "F = -dE/dr" in found
    assert not found & {"rotation", "reflection", "translation", "permutation", "cutoff", "batch"}


def test_a_hard_cutoff_fails_at_the_cutoff_alone() -> None:
    def pairs_inside(batch: Batch) -> Tensor:
        neighbors = SparseNeighbors(batch, CONFIG.cutoff)
        n_pairs = len(neighbors.distances) - 1
        depth = 1e-3 * torch.exp(-neighbors.distances[:-1] / 20)
        energy = depth.new_zeros(batch.n_atoms).index_add(0, neighbors.receiver[:n_pairs], depth)
        return sum_per_molecule(energy, batch)

    assert faults(with_energy(pairs_inside)) == {"cutoff"}


def test_the_published_network_jumps_at_the_cutoff() -> None:
    published = EquivariantTransformerConfig(n_features=8, n_layers=2, n_heads=2, n_basis=8, vector_cutoff=False)
    assert faults(sound(published)) == {"cutoff"}


def test_the_published_whitening_turns_with_the_laboratory() -> None:
    compatible = EquivariantTransformerConfig(
        n_features=8, n_layers=2, n_heads=2, n_basis=8, vector_norm="whitened_compatible"
    )
    assert {"rotation", "reflection"} <= faults(sound(compatible))


def test_statistics_of_the_batch_fail_its_composition() -> None:
    def centred(batch: Batch, layout: Layout, found: dict[str, Tensor]) -> Mapping[str, Tensor]:
        return found | {"energy": found["energy"] - 1e-4 * found["energy"].mean()}

    assert "batch" in faults(broken(centred))
    assert "rotation" not in faults(broken(centred))


def test_dependence_on_the_place_in_the_batch_fails_its_order() -> None:
    def numbered(batch: Batch, layout: Layout, found: dict[str, Tensor]) -> Mapping[str, Tensor]:
        return found | {"energy": found["energy"] + 1e-4 * torch.arange(batch.n_molecules)}

    assert {"batch", "batch order"} <= faults(broken(numbered))


def test_an_energy_that_is_no_sum_fails_two_copies() -> None:
    assert "two copies" in faults(with_energy(lambda b: 1e-3 * b.atoms_per_molecule**2 + 0 * b.positions.sum()))
    emgp = tiny_model(["pooled_energy"], config=EGNNConfig(n_features=8, n_layers=1))
    in_bonds = collate([bonded(ETHANOL), bonded(WATER)], dtype=torch.float64)
    assert faults(subject_of(emgp), in_bonds) == set()  # not measured: see the next test


def test_what_cannot_be_measured_says_why() -> None:
    egnn = subject_of(tiny_model(config=EGNNConfig(n_features=8, n_layers=1)))
    batch = collate([bonded(ETHANOL), bonded(WATER)], dtype=torch.float64)
    found = list(examine(egnn, batch, Thresholds(), torch.Generator().manual_seed(0)))
    assert {c.name: c.note for c in found if c.verdict == "not measured"} == {
        "permutation": "the network reads bonds, which are not permuted here",
        "cutoff": "the network has no cutoff",
        "two copies": "the network reads bonds, and connects all atoms",
    }


def test_a_layout_that_matters_is_found() -> None:
    def of_layout(batch: Batch, layout: Layout, found: dict[str, Tensor]) -> Mapping[str, Tensor]:
        return found | {"forces": found["forces"] + (1e-4 if layout is SparseNeighbors else 0.0)}

    assert faults(broken(of_layout)) == {"layout"}


def test_lost_digits_are_found() -> None:
    def rounded(batch: Batch, layout: Layout, found: dict[str, Tensor]) -> Mapping[str, Tensor]:
        lost = 0.01 if batch.positions.dtype == torch.float32 else 0.0
        return found | {"energy": found["energy"] + lost}

    assert faults(broken(rounded)) == {"float32"}


def test_dropout_left_on_is_found() -> None:
    generator = torch.Generator().manual_seed(0)

    def dropped(batch: Batch, layout: Layout, found: dict[str, Tensor]) -> Mapping[str, Tensor]:
        return found | {"energy": found["energy"] + 1e-3 * torch.rand(1, generator=generator, dtype=torch.float64)}

    assert "repeated" in faults(broken(dropped))


def test_kernels_that_differ_are_found() -> None:
    good = sound()

    def wrong(batch: Batch, layout: Layout) -> Mapping[str, Tensor]:
        return {name: 1.01 * value for name, value in good.ask(batch, layout).items()}

    def verdicts(by_kernels: Ask) -> set[str]:
        return {check.verdict for check in compare_kernels(good, by_kernels, rattled_batch(), 1e-3)}

    assert verdicts(good.ask) == {"ok"}
    assert "fault" in verdicts(wrong)


def test_outputs_that_are_not_numbers_are_faults() -> None:
    def nan(batch: Batch, layout: Layout, found: dict[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: value * float("nan") for name, value in found.items()}

    assert {"rotation", "F = -dE/dr", "cutoff", "two copies", "batch", "layout", "repeated"} <= faults(broken(nan))
    assert Check("rotation", "energy", float("inf"), 1.0, "eV").verdict == "fault"


def test_one_atom_alone_can_be_examined() -> None:
    assert faults(sound(), collate([HELIUM], dtype=torch.float64)) == set()
    dimer = collate([molecule([6, 8], [[0, 0, 0], [0, 0, 1.2]])], dtype=torch.float64)
    assert faults(sound(), dimer) == set()
    assert neighbors_of(dimer, 5.0).cutoff == 5.0
