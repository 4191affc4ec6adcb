import math

import numpy as np
import pytest
import torch
from torch import Tensor

from basinet.evaluation.metrics import Errors, ForceEnergyErrors, evaluate, over_seeds, to_unit
from basinet.structures.batch import Batch, collate
from basinet.structures.molecule import Molecule

ROUNDING = 1e-12
"""Relative; sums of a few hundred float64 numbers of order one."""


def labelled(n_molecules: int, seed: int = 0) -> list[Molecule]:
    """Return molecules of 1 to 6 atoms with random energies and forces."""
    rng = np.random.default_rng(seed)
    molecules = []
    for _ in range(n_molecules):
        n = int(rng.integers(1, 7))
        molecules.append(
            Molecule(
                atomic_numbers=rng.choice(np.array([1, 6, 8], dtype=np.int64), n),
                positions=np.arange(3.0 * n).reshape(n, 3),
                labels={"energy": float(rng.normal(-1000, 5)), "forces": rng.normal(size=(n, 3))},
            )
        )
    return molecules


def noisy(batch: Batch) -> dict[str, Tensor]:
    """Return the labels with an error that depends on the molecule's own numbers only."""
    energy, forces = batch.labels["energy"], batch.labels["forces"]
    return {"energy": energy + torch.sin(energy), "forces": forces + 0.1 * torch.cos(7 * forces)}


def batches_of(molecules: list[Molecule], size: int) -> list[Batch]:
    return [collate(molecules[i : i + size], torch.float64) for i in range(0, len(molecules), size)]


def numbers(errors: Errors) -> list[float]:
    return [
        errors.energy_mae,
        errors.energy_rmse,
        errors.energy_mae_per_atom,
        errors.energy_rmse_per_atom,
        errors.force_mae,
        errors.force_rmse,
        errors.force_cosine,
        *errors.force_mae_by_element.values(),
    ]


def test_errors_equal_their_definitions_written_with_numpy() -> None:
    molecules = labelled(50)
    errors = evaluate(noisy, batches_of(molecules, 8))
    energy = np.array([m.labels["energy"] for m in molecules])
    forces = np.concatenate([m.labels["forces"] for m in molecules])
    number = np.concatenate([m.atomic_numbers for m in molecules])
    off_energy, off_forces = np.sin(energy), 0.1 * np.cos(7 * forces)
    atoms = np.array([m.n_atoms for m in molecules])
    predicted = forces + off_forces
    cosine = (predicted * forces).sum(1) / np.linalg.norm(predicted, axis=1) / np.linalg.norm(forces, axis=1)
    expected = [
        np.abs(off_energy).mean(),
        np.sqrt((off_energy**2).mean()),
        np.abs(off_energy / atoms).mean(),
        np.sqrt(((off_energy / atoms) ** 2).mean()),
        np.abs(off_forces).mean(),
        np.sqrt((off_forces**2).mean()),
        cosine.mean(),
        *[np.abs(off_forces[number == z]).mean() for z in (1, 6, 8)],
    ]
    assert numbers(errors) == pytest.approx(expected, rel=1e-9)  # E + sin E - E loses digits of a large E
    assert (errors.n_molecules, errors.n_energies, errors.n_forces) == (50, 50, 50)


@pytest.mark.parametrize("size", [1, 7, 60])
def test_the_split_into_batches_does_not_matter_not_even_for_the_points_kept(size: int) -> None:
    molecules = labelled(60)
    reference = evaluate(noisy, batches_of(molecules, 13), max_parity=40)
    errors = evaluate(noisy, batches_of(molecules, size), max_parity=40)
    assert numbers(errors) == pytest.approx(numbers(reference), rel=ROUNDING)
    assert np.array_equal(errors.force_parity.reference, reference.force_parity.reference)
    assert np.array_equal(errors.energy_parity.predicted, reference.energy_parity.predicted)
    assert len(errors.force_parity.reference) == len(errors.energy_parity.reference) == 40


def test_the_points_kept_are_spread_over_the_whole_stream() -> None:
    molecules = labelled(400)
    kept = evaluate(noisy, batches_of(molecules, 50), max_parity=100).energy_parity.reference
    place = np.searchsorted(energies := np.sort([m.labels["energy"] for m in molecules]), kept)
    assert np.isin(kept, energies).all()
    in_stream = np.array([[m.labels["energy"] for m in molecules].index(e) for e in kept])
    assert (np.diff(in_stream) > 0).all(), "in the order of the stream"
    assert 150 < in_stream.mean() < 250
    assert len(np.unique(place)) == 100


def test_a_perfect_prediction_has_no_error_and_cosine_one() -> None:
    errors = evaluate(lambda b: dict(b.labels), batches_of(labelled(10), 4))
    assert errors.energy_mae == errors.force_mae == errors.force_rmse == 0.0
    assert errors.force_cosine == pytest.approx(1.0)
    backwards = evaluate(lambda b: {"forces": -b.labels["forces"]}, batches_of(labelled(10), 4))
    assert backwards.force_cosine == pytest.approx(-1.0)
    still = evaluate(lambda b: {"forces": 0 * b.labels["forces"]}, batches_of(labelled(10), 4))
    assert still.force_cosine == 0.0


def test_molecules_without_a_label_are_left_out() -> None:
    molecules = labelled(12)
    bare = [Molecule(atomic_numbers=m.atomic_numbers, positions=m.positions) for m in labelled(12, seed=1)]
    only_energy = [
        Molecule(atomic_numbers=m.atomic_numbers, positions=m.positions, labels={"energy": m.labels["energy"]})
        for m in labelled(5, seed=2)
    ]
    mixed = [m for pair in zip(molecules, bare, strict=True) for m in pair]
    expected = evaluate(noisy, batches_of(molecules, 12))
    errors = evaluate(noisy, batches_of(mixed, 8))
    assert numbers(errors) == pytest.approx(numbers(expected), rel=ROUNDING)
    assert (errors.n_molecules, errors.n_energies, errors.n_forces) == (24, 12, 12)

    metric = ForceEnergyErrors()
    for batch in [*batches_of(molecules, 12), *batches_of(only_energy, 5)]:
        metric.update({"energy": batch.labels["energy"], "forces": torch.zeros_like(batch.positions)}, batch)
    assert (metric.compute().n_energies, metric.compute().n_forces) == (17, 12)


def test_nothing_labelled_gives_nan_and_a_count_of_zero_and_not_a_perfect_score() -> None:
    errors = ForceEnergyErrors().compute()
    assert errors.n_energies == errors.n_forces == 0
    assert all(math.isnan(x) for x in numbers(errors))
    assert len(errors.force_parity.reference) == 0


def test_a_prediction_of_the_wrong_kind_is_refused_with_the_reason() -> None:
    (batch,) = batches_of(labelled(3), 3)
    with pytest.raises(ValueError, match=r"only \['noise'\]"):
        ForceEnergyErrors().update({"noise": batch.positions}, batch)
    with pytest.raises(ValueError, match=r"predicted energy are \[3, 1\], expected \[3\]"):
        ForceEnergyErrors().update({"energy": batch.labels["energy"][:, None]}, batch)
    with pytest.raises(ValueError, match=r"not finite in the batch of molecules \[0, 1, 2\]"):
        ForceEnergyErrors().update({"forces": batch.labels["forces"] * math.nan}, batch)
    with pytest.raises(ValueError, match="no flag 'has_forces'"):
        ForceEnergyErrors().update({"forces": batch.labels["forces"]}, batch.replace(flags={}))


def test_mean_and_spread_over_seeds() -> None:
    assert over_seeds([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7.0)), 3)
    assert over_seeds([1.5]) == (1.5, None, 1)
    with pytest.raises(ValueError, match="one number per seed"):
        over_seeds([])


def test_an_error_is_shown_in_the_units_of_the_field() -> None:
    assert to_unit(0.1, "meV") == pytest.approx(100.0)
    assert to_unit(1.0, "kcal/mol") == pytest.approx(23.0605, abs=1e-4)
