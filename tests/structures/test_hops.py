import numpy as np
import pytest
import torch

from basinet.structures.batch import collate
from basinet.structures.blocks import hop_blocks
from molecules import WATER, from_smiles, hop_distances, molecule

METHANOL = molecule(
    [6, 8, 1, 1, 1, 1],
    [[0, 0.66, 0], [0, -0.76, 0], [-1.1, 1, 0], [0.9, -1.05, 0], [0.45, 1.1, 0.9], [0.45, 1.1, -0.9]],
    bonds=np.array([[0, 1], [0, 2], [1, 3], [0, 4], [0, 5]]),
)
TWO_WATERS = molecule(
    [8, 1, 1, 8, 1, 1], [[2 * i, 0, 0] for i in range(6)], bonds=np.array([[0, 1], [0, 2], [3, 4], [3, 5]])
)


def test_hops_of_methanol() -> None:
    hops = hop_blocks(collate([METHANOL]), 3)[0]
    assert torch.equal(hops, hops.T)
    assert {pair: int(hops[pair]) for pair in ((0, 1), (0, 3), (2, 3), (2, 4), (1, 1))} == {
        (0, 1): 1,
        (0, 3): 2,
        (2, 3): 3,
        (2, 4): 2,
        (1, 1): 0,
    }
    assert int(hop_blocks(collate([METHANOL]), 2)[0, 2, 3]) == 0


@pytest.mark.parametrize("max_hops", [0, 1, 3, 5])
def test_a_batch_has_the_hops_of_its_molecules_one_by_one(max_hops: int) -> None:
    molecules = [from_smiles(s) for s in ("CCCCO", "c1ccccc1C#N", "O")]
    molecules += [TWO_WATERS, molecule([2], [[0, 0, 0]], bonds=np.zeros((0, 2), dtype=np.int64))]
    blocks = hop_blocks(collate(molecules), max_hops)
    for m, block in zip(molecules, blocks, strict=True):
        assert m.bonds is not None
        expected = torch.from_numpy(hop_distances(m.n_atoms, m.bonds, max_hops))
        assert torch.equal(block[: m.n_atoms, : m.n_atoms], expected)
        assert not bool(block[m.n_atoms :].any())
        assert not bool(block[:, m.n_atoms :].any())


def test_molecules_without_bonds_on_record_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 molecules have no bonds on record; read them from a format that has"):
        hop_blocks(collate([METHANOL, WATER]), 3)
    assert hop_blocks(collate([METHANOL]).select([]), 3).shape == (0, 0, 0)
