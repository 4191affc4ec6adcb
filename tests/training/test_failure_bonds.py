from pathlib import Path

import pytest
import torch

from basinet.models.model import Model
from basinet.noise.internal import require_rotors
from basinet.structures.batch import Batch, collate
from basinet.training.failure import FAILURE_FILE, BeforeStep, load_failure, stop_for_failure
from molecules import WATER, from_smiles


@pytest.mark.parametrize("batch", [collate([from_smiles("CCO"), from_smiles("CCCC")]), collate([WATER])])
def test_a_saved_batch_comes_back_with_its_bonds(
    tmp_path: Path, model: Model, generator: torch.Generator, batch: Batch
) -> None:
    stop_for_failure(tmp_path, 0, 3, model, [("", batch)], BeforeStep(model, generator), "the loss")
    (again,) = load_failure(tmp_path / FAILURE_FILE).batches
    assert torch.equal(again.positions, batch.positions)
    assert (again.topology is None) == (batch.topology is None)
    if batch.topology is not None:
        rotors, expected = require_rotors(again).rotors, batch.topology.rotors
        assert torch.equal(rotors.axis, expected.axis)
        assert torch.equal(rotors.moved_atom, expected.moved_atom)
