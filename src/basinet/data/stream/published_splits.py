"""Draw the splits of published work again from their seeds.

A split is defined by the algorithm and seed in the code of its paper. Indices are in the order of the source: QM9 as
gdb9 without the 3,054 uncharacterised molecules, MD17 as the frames of the original file. Only the number of molecules
can be checked.

Not included, because they cannot be drawn again: the splits of 3D-EMGP for MD17 (from the global random state of numpy)
and those of rMD17 (files with indices, which come with the data).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Int64

from basinet.data.stream.splits import Split

N_QM9 = 130_831
"""Molecules of QM9 without those whose geometry failed the consistency check: 133,885 less 3,054."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSplit:
    """A published split and its source."""

    draw: Callable[[int], Split]
    """Draws the split of a number of molecules."""
    n: int | None
    """Molecules of the data; ``None`` if it depends on the molecule (MD17)."""
    n_least: int
    """Smallest number of molecules."""
    sizes: str
    source: str


def torchmd_net(n: int, *, train: int, validation: int, seed: int) -> Split:
    """Return the split of TorchMD-NET: a permutation cut in three, with the rest for the test.

    Source: ``train_val_test_split`` in ``torchmdnet/utils.py`` of torchmd/torchmd-net.
    """
    order = np.random.default_rng(seed).permutation(np.arange(n))
    return _cut(order, train, validation)


def emgp_qm9(n: int) -> Split:
    """Return the split of 3D-EMGP (from Cormorant and EGNN): 100,000 train, a tenth of all tests, the rest validates.

    Source: ``gen_splits_gdb9`` in ``data/qm9/data/prepare/qm9.py`` of jiaor17/3D-EMGP.
    """
    train, test = 100_000, int(0.1 * n)
    order = np.random.RandomState(0).permutation(n)
    return _cut(order, train, n - train - test)


def mdsim_md17(n: int) -> Split:
    """Return the split of the benchmark "Forces are not Enough" for MD17: 9,500 train, 500 validate, 10,000 test.

    Source: ``preprocessing/md17.py`` of kyonofx/MDsim: ``sklearn.model_selection.train_test_split`` twice with
    ``random_state=123``, which permutes with numpy's legacy generator and takes the test set first.
    """
    pool, test = _sklearn_split(np.arange(n), n_test=10_000, seed=123)
    train, validation = _sklearn_split(pool[:10_000], n_test=500, seed=123)
    return Split(train=train, validation=validation, test=test)


PUBLISHED_SPLITS: Mapping[str, PublishedSplit] = MappingProxyType(
    {
        "qm9-110k": PublishedSplit(
            draw=lambda n: torchmd_net(n, train=110_000, validation=10_000, seed=1),
            n=N_QM9,
            n_least=N_QM9,
            sizes="110,000 / 10,000 / 10,831",
            source="TorchMD-NET's splitter with seed 1, as in coordinate denoising (PVD) and Frad",
        ),
        "qm9-3d-emgp": PublishedSplit(
            draw=emgp_qm9,
            n=N_QM9,
            n_least=N_QM9,
            sizes="100,000 / 17,748 / 13,083",
            source="3D-EMGP, numpy's legacy seed 0",
        ),
        "md17-950": PublishedSplit(
            draw=lambda n: torchmd_net(n, train=950, validation=50, seed=1),
            n=None,
            n_least=1001,
            sizes="950 / 50 / the rest",
            source="TorchMD-NET's splitter with seed 1",
        ),
        "md17-9500": PublishedSplit(
            draw=lambda n: torchmd_net(n, train=9500, validation=500, seed=1),
            n=None,
            n_least=10_001,
            sizes="9,500 / 500 / the rest",
            source="TorchMD-NET's splitter with seed 1, as in Frad",
        ),
        "md17-mdsim": PublishedSplit(
            draw=mdsim_md17,
            n=None,
            n_least=20_000,
            sizes="9,500 / 500 / 10,000",
            source="MDsim (Forces are not Enough), sklearn with seed 123",
        ),
    }
)
"""Published splits by name, as ``split: qm9-110k`` in a recipe."""


def published_split(name: str, n: int) -> Split:
    """Draw a published split of ``n`` molecules.

    Raises:
        ValueError: there is no such split, or the data has another number of molecules.
    """
    if name not in PUBLISHED_SPLITS:
        raise ValueError(f"no published split is called {name!r}; expected {', '.join(PUBLISHED_SPLITS)}")
    split = PUBLISHED_SPLITS[name]
    if (split.n is not None and n != split.n) or n < split.n_least:
        wanted = f"{split.n:,}" if split.n is not None else f"{split.n_least:,} or more"
        raise ValueError(f"the split {name} ({split.sizes}) is of {wanted} molecules, but the data has {n:,}")
    return split.draw(n)


def _cut(order: Int64[np.ndarray, " n"], train: int, validation: int) -> Split:
    return Split(train=order[:train], validation=order[train : train + validation], test=order[train + validation :])


def _sklearn_split(
    items: Int64[np.ndarray, " n"], *, n_test: int, seed: int
) -> tuple[Int64[np.ndarray, " n_train"], Int64[np.ndarray, " n_test"]]:
    """Return ``train_test_split`` of scikit-learn for sizes that add up to all items."""
    order = np.random.RandomState(seed).permutation(len(items))
    return items[order[n_test:]], items[order[:n_test]]
