"""Small files in the native layouts of public data sets, with labels that are known."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import lmdb
import numpy as np
from ase import Atoms
from ase.build import molecule as g2
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write as ase_write
from rdkit import Chem
from rdkit.Chem import AllChem

from basinet.data.sources.collection import Contents, PublicDataset
from basinet.data.sources.qm9 import N_UNCHARACTERIZED
from basinet.units import KCAL_PER_MOL

STIFFNESS = 3.0
"""eV/Å²: every pair of atoms is held at its distance by a spring, so that energies and forces fit each other."""


def springs(n: int, formula: str = "CH3CH2OH", seed: int = 0) -> list[Atoms]:
    """Return displaced frames of a molecule with the energies (eV) and forces (eV/Å) of springs."""
    generator = np.random.default_rng(seed)
    rest = g2(formula)
    frames: list[Atoms] = []
    for _ in range(n):
        atoms = rest.copy()
        atoms.positions += generator.normal(0, 0.03, atoms.positions.shape)
        vectors = atoms.positions[:, None] - atoms.positions[None]
        distances = np.linalg.norm(vectors, axis=-1) + np.eye(len(atoms))
        longer = (distances - rest.get_all_distances() - np.eye(len(atoms))) / distances
        energy = -4200 + 0.25 * STIFFNESS * float(((longer * distances) ** 2).sum())
        forces = -STIFFNESS * (longer[:, :, None] * vectors).sum(axis=1)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    return frames


def labels(frames: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, energies and forces."""
    return (
        np.array([a.positions for a in frames]),
        np.array([a.get_potential_energy() for a in frames]),
        np.array([a.get_forces() for a in frames]),
    )


def unverified(dataset: PublicDataset) -> PublicDataset:
    """Return the data set without published checksums and sizes, for a file that stands in for the real one."""

    def plain(part: Contents) -> Contents:
        return replace(part, files=tuple(replace(file, checksum=None, n_bytes=None) for file in part.files))

    contents = {key: plain(part) for key, part in dataset.collection.contents.items()}
    return PublicDataset(replace(dataset.collection, contents=contents), dataset.key)


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """Write an archive, compressed as its name says; a directory comes first, as in the real ones."""
    with tarfile.open(path, f"w:{path.suffix.removeprefix('.')}") as archive:
        top = tarfile.TarInfo("top")
        top.type = tarfile.DIRTYPE
        archive.addfile(top)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    """Write a zip archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def npz(**arrays: np.ndarray) -> bytes:
    """Return an .npz as bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def write_gdml_npz(path: Path, frames: Sequence[Atoms], sign: float = 1.0) -> None:
    """Write an MD17 or MD22 file, with the other arrays that it has."""
    R, E, F = labels(frames)
    extra = {"name": np.array("ethanol"), "theory": np.array("unknown"), "type": np.array("d")}
    numbers = frames[0].numbers.astype(np.uint8)
    path.write_bytes(npz(R=R, E=E.reshape(-1, 1) / KCAL_PER_MOL, F=sign * F / KCAL_PER_MOL, z=numbers, **extra))


def write_rmd17(path: Path, frames: Sequence[Atoms], indices: Mapping[str, Sequence[int]]) -> None:
    """Write ``rmd17.tar.bz2`` with one molecule and the lists of its splits."""
    R, E, F = labels(frames)
    arrays = {
        "nuclear_charges": frames[0].numbers.astype(np.uint8),
        "coords": R,
        "energies": E / KCAL_PER_MOL,
        "forces": F / KCAL_PER_MOL,
        "old_indices": np.arange(len(R)),
        "old_energies": E / KCAL_PER_MOL + 1,
        "old_forces": 0 * F,
    }
    lists = {f"rmd17/splits/index_{k}.csv": "".join(f"{i}\n" for i in v).encode() for k, v in indices.items()}
    write_tar(path, {"rmd17/npz_data/rmd17_ethanol.npz": npz(**arrays), **lists})


def write_iso17(path: Path, folds: Mapping[str, Sequence[Atoms]], ids: Mapping[str, Sequence[int]]) -> None:
    """Write ``iso17.tar.gz``: databases of ASE, with forces in their data, and lists of ids."""
    members: dict[str, bytes] = {}
    for fold, frames in folds.items():
        file = path.parent / f"{fold}.db"
        with connect(file) as database:
            for atoms in frames:
                bare = Atoms(atoms.numbers, atoms.positions)
                data = {"atomic_forces": atoms.get_forces()}
                database.write(bare, key_value_pairs={"total_energy": atoms.get_potential_energy()}, data=data)
        members[f"iso17/{fold}.db"] = file.read_bytes()
        file.unlink()
    members |= {f"iso17/{name}.txt": "".join(f"{i}\n" for i in rows).encode() for name, rows in ids.items()}
    write_tar(path, members)


def qm9_xyz(number: int, symbols: str, positions: np.ndarray, properties: Sequence[float], smiles: str) -> bytes:
    """Return a file of QM9; small numbers have the exponents of Mathematica."""

    def text(x: float) -> str:
        return f"{x * 1e6:.7f}".rstrip("0") + "*^-6" if 0 < abs(x) < 1e-4 else repr(float(x))

    atoms = [f"{s}\t" + "\t".join(text(x) for x in xyz) + "\t-0.1" for s, xyz in zip(symbols, positions, strict=True)]
    head = f"gdb {number}\t" + "\t".join(map(text, properties))
    lines = [str(len(symbols)), head, *atoms, "1341.3\t1562.1", f"{smiles}\t{smiles}", "InChI=1S/x\tInChI=1S/x", ""]
    return "\n".join(lines).encode()


METHANE = np.array(
    [
        [-0.0126981359, 1.0858041578, 0.0080009958],
        [0.002150416, -0.0060313176, 0.0000197612],
        [1.0117308433, 1.4637511618, 0.0002765748],
        [-0.540815069, 1.4475266138, -0.8766437152],
        [-0.5238136345, 1.4379326443, 0.9063972942],
    ]
)
METHANE_PROPERTIES = (
    157.7118, 157.70997, 157.70699, 0.0, 13.21, -0.3877, 0.1171, 0.5048, 35.3641, 0.044749,
    -40.47893, -40.476062, -40.475117, -40.498597, 6.469,
)  # fmt: skip
"""The first molecule of QM9, as published."""


def write_uncharacterized(path: Path, numbers: Sequence[int] = ()) -> None:
    """Write a list of as many molecules as the real one, with its heading."""
    rest = range(200_000, 200_000 + N_UNCHARACTERIZED - len(numbers))
    heading = "====\nIndex of molecules\n that failed the consistency check\n\n"
    path.write_text(heading + "".join(f"   {n}   C#C  OK\n" for n in (*numbers, *rest)) + "\n====\n")


def write_qm9_sdf(path: Path, compounds: Sequence[str], u0: Sequence[float]) -> None:
    """Write ``qm9.zip``: an SDF with hydrogens and the table beside it."""
    blocks, rows = [], ["mol_id,smiles,A,B,C,mu,alpha,homo,lumo,gap,r2,zpve,u0,u298,h298,g298,cv"]
    for number, (smiles, energy) in enumerate(zip(compounds, u0, strict=True), start=1):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMolecule(mol, randomSeed=7)
        blocks.append(f"{Chem.MolToMolBlock(mol)}$$$$\n")
        rows.append(
            f"gdb_{number},{smiles},1,2,3,0.5,13.2,-0.38,0.11,0.5,35.3,0.04,{energy},{energy},{energy},{energy},6.4"
        )
    write_zip(path, {"gdb9.sdf": "".join(blocks).encode(), "gdb9.sdf.csv": ("\n".join(rows) + "\n").encode()})


def write_botnet(path: Path, frames: Sequence[Atoms]) -> None:
    """Write an extended XYZ."""
    ase_write(path, frames, format="extxyz")


def lba_record(pocket: Atoms, ligand: Atoms, affinity: float) -> dict[str, object]:
    """Return a record as ATOM3D writes it as JSON."""

    def table(atoms: Atoms) -> dict[str, object]:
        rows = [
            [0, element.upper(), *xyz]
            for element, xyz in zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True)
        ]
        return {"columns": ["model", "element", "x", "y", "z"], "index": list(range(len(rows))), "data": rows}

    return {
        "id": "1abc",
        "atoms_pocket": table(pocket),
        "atoms_ligand": table(ligand),
        "scores": {"neglog_aff": affinity},
    }


def write_lba(path: Path, parts: Mapping[str, Sequence[object]], how: str = "json") -> None:
    """Write the archive of a split: an LMDB of gzipped records for each part."""
    members: dict[str, bytes] = {}
    for part, records in parts.items():
        directory = path.parent / f"lmdb-{part}"
        with lmdb.open(str(directory), map_size=2**24) as environment, environment.begin(write=True) as transaction:
            for i, record in enumerate(records):
                transaction.put(str(i).encode(), gzip.compress(json.dumps(record).encode()))
            transaction.put(b"num_examples", str(len(records)).encode())
            transaction.put(b"serialization_format", how.encode())
        members[f"split-by-sequence-identity-30/data/{part}/data.mdb"] = (directory / "data.mdb").read_bytes()
    write_tar(path, members)
