"""Archives of public data sets, damaged at random, are read rightly or refused in words, as single files are.

Half of the damage is to the archive, half to a file in an archive that is sound. Checksums of the published files are
left out here: with them, nearly all of this would be refused before it is read.
"""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as g2
from rdkit import Chem
from rdkit.Chem import rdDistGeom

import source_files as native
from basinet.data.sources.collection import FetchConfig, Files
from basinet.data.sources.names import parse_name
from basinet.structures import Molecule
from damage import Read, isolated_outcomes, outcome
from damage import damaged as damaged_copies
from source_files import METHANE, METHANE_PROPERTIES, springs

FEW, MANY = 12, 500


def read_source(name: str, *others: Path) -> Read:
    """Return how to read the file of a public data set; others are beside it."""

    def read(path: Path) -> tuple[list[Molecule], int]:
        shutil.rmtree(path.parent / "extracted", ignore_errors=True)
        opened = parse_name(name).contents.read(Files((path, *others), FetchConfig()))
        found = [molecule for molecules, _ in opened for molecule in molecules]
        return found, sum(report.skipped.total() for _, report in opened)

    return read


def qm9_xyz(path: Path) -> tuple[Path, ...]:
    names = (f"dsgdb9nsd_{n:06}.xyz" for n in range(1, 7))
    files = {
        name: native.qm9_xyz(n, "CHHHH", METHANE + 0.01 * n, METHANE_PROPERTIES, "C")
        for n, name in enumerate(names, start=1)
    }
    native.write_tar(path, files)
    native.write_uncharacterized(path.parent / "left-out.txt")
    return (path.parent / "left-out.txt",)


def qm9_sdf(path: Path) -> tuple[Path, ...]:
    native.write_qm9_sdf(path, ["C", "CO", "N", "C=O"], [-40.5, -115.7, -56.5, -114.5])
    native.write_uncharacterized(path.parent / "left-out.txt")
    return (path.parent / "left-out.txt",)


def geom(path: Path) -> tuple[Path, ...]:
    def conformer(frame: Atoms, i: int) -> dict[str, object]:
        xyz = np.column_stack([frame.numbers, frame.positions]).tolist()
        return {"xyz": xyz, "boltzmannweight": 0.1 * i, "totalenergy": -11.0 - i, "geom_id": i}

    compound = {"charge": 0, "uniqueconfs": 3, "conformers": [conformer(f, i) for i, f in enumerate(springs(3))]}
    packed: list[bytes] = [msgpack.packb({smiles: compound}) or b"" for smiles in ("CCO", "OCC")]
    native.write_tar(path, {"qm9_crude.msgpack": b"".join(packed)})
    return ()


def affinities(path: Path) -> tuple[Path, ...]:
    pocket = g2("CH3CONH2")
    pocket.positions += 8
    records = [native.lba_record(pocket, g2("CH3OH"), 4.0 + i) for i in range(4)]
    native.write_lba(path, {"train": records[:2], "val": records[2:3], "test": records[3:]})
    return ()


def revised(path: Path) -> tuple[Path, ...]:
    native.write_rmd17(path, springs(6), {"train_01": range(3)})
    return ()


def isomers(path: Path) -> tuple[Path, ...]:
    native.write_iso17(path, {fold: springs(3) for fold in ("reference", "test_within", "test_other")}, {})
    return ()


def minima(path: Path) -> tuple[Path, ...]:
    blocks: list[str] = []
    for smiles in ("C", "CO", "N", "C=O"):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=7)
        blocks.append(f"{Chem.MolToMolBlock(mol)}$$$$\n")
    native.write_tar(path, {"pcqm4m-v2-train.sdf": "".join(blocks).encode()})
    return ()


COLLECTIONS: dict[str, tuple[str, Callable[[Path], tuple[Path, ...]], tuple[str, ...]]] = {
    "qm9:": ("tar", qm9_xyz, ("gdb9:",)),
    "qm9:sdf": ("zip", qm9_sdf, ("gdb9:",)),
    "geom-qm9:": ("tar", geom, ("CCO#", "OCC#")),
    "lba:30": ("tar", affinities, ("train:", "validation:", "test:")),
    "rmd17:ethanol": ("tar", revised, ("rmd17_ethanol.npz",)),
    "iso17:": ("tar", isomers, ("reference.db", "test_within.db", "test_other.db")),
    "pcqm4mv2:": ("tar", minima, ("pcqm4m-v2-train.sdf",)),
}
"""Suffix and writer of the archive (not compressed, so that its damage is not that of a checksum), names of records."""


def written(name: str, directory: Path) -> tuple[Path, Read]:
    suffix, write, _ = COLLECTIONS[name]
    path = directory / f"archive.{suffix}"
    return path, read_source(name, *write(path))


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_damaged_archive_is_read_or_refused(name: str, tmp_path: Path) -> None:
    path, read = written(name, tmp_path)
    expected, _ = read(path)
    assert len(expected) >= 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {outcome(target, expected, read, COLLECTIONS[name][2]) for target in damaged_copies(path, FEW, 1, True)}
    assert found <= {"right", "refused", "changed"}


@pytest.mark.slow
@pytest.mark.parametrize("name", COLLECTIONS)
def test_no_damage_to_an_archive_crashes_or_loses(name: str, tmp_path: Path) -> None:
    path, read = written(name, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = isolated_outcomes(path, MANY, 2, read, is_archive=True, names=COLLECTIONS[name][2])
    print(f"\n{name}: " + ", ".join(f"{count} {what}" for what, count in sorted(found.items())))
    assert set(found) <= {"right", "refused", "changed"}, found
