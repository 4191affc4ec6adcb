"""Read extended XYZ frame by frame, and write it with predictions.

ASE parses each frame, but does not split the file: it would stop silently at the first blank line, and read the whole
file before it returns the first frame.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import read_xyz, write_xyz

from basinet.data.files.ase_atoms import read_atoms
from basinet.data.files.options import Reading
from basinet.data.files.report import ReadReport
from basinet.files import replacing
from basinet.structures import Molecule, StructureError
from basinet.structures.ase_labels import CHARGE_KEY, SMILES_KEY


def read_extxyz(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read molecules frame by frame; ``name`` is ``file.xyz:17``, numbered from 0 as ``ase.io.read(file, 17)`` does.

    Raises:
        StructureError: a frame is damaged, periodic, or has its labels under other keys than the frames before.
    """
    for frame, text in enumerate(_frames(path)):
        name = f"{path.name}:{frame}"
        atoms = _parse(text, name)
        yield from read_atoms(atoms, name, report, reading)


def write_extxyz(
    path: str | os.PathLike[str],
    frames: Iterable[tuple[Molecule, Mapping[str, Any]]],
    *,
    label_prefix: str = "REF_",
) -> int:
    """Write molecules with results one by one, and return their number; the file appears when all are written.

    Args:
        path: File to write; replaced if it exists.
        frames: Each molecule with its results by key: numbers go to the comment line, rows per atom to columns.
            ``energy`` and ``forces`` (eV, eV/Å) are what ASE's calculator gives back on reading.
        label_prefix: Prefix for the names of the molecule's own labels, to keep them apart from the results.
    """
    count = 0
    with replacing(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for molecule, results in frames:
            file.write(frame_text(molecule, results, label_prefix))
            count += 1
    return count


def frame_text(molecule: Molecule, results: Mapping[str, Any], label_prefix: str = "REF_") -> str:
    """Return one molecule with its results as text; the arguments are those of :func:`write_extxyz`."""
    own = {f"{label_prefix}{key}": value for key, value in molecule.labels.items()}
    if clash := sorted(set(own) & set(results)):
        raise ValueError(
            f"{molecule.name or 'a molecule'}: {', '.join(clash)} would be written twice, as label and as result; "
            "choose another label_prefix"
        )
    text = StringIO()
    write_xyz(text, [_to_atoms(molecule, {**own, **results})])
    return text.getvalue()


def _frames(path: Path) -> Iterator[str]:
    """Split a file into the texts of its frames."""
    with open(path, encoding="utf-8") as file:
        frame = 0
        while header := _next_line(file, path, frame):
            if not header.strip():
                _require_end(file, path, frame)
                return
            n_atoms = _atom_count(header, f"{path.name}:{frame}")
            lines = [_next_line(file, path, frame) for _ in range(n_atoms + 1)]
            missing = sum(not line for line in lines[1:])
            if missing or not lines[0]:
                raise StructureError(
                    f"{path.name}:{frame}: the file ends inside the frame, {missing} of {n_atoms} atoms are missing; "
                    "it is truncated"
                )
            yield "".join([header, *lines])
            frame += 1


def _atom_count(header: str, name: str) -> int:
    if header.strip().isdecimal():
        return int(header)
    raise StructureError(
        f"{name}: expected a number of atoms, got {header.strip()[:40]!r}; "
        "the frame before has more rows than it says, or this is not an xyz file"
    )


def _next_line(file: TextIO, path: Path, frame: int) -> str:
    try:
        return file.readline()
    except UnicodeDecodeError:
        raise StructureError(f"{path.name}:{frame}: not text; is this an xyz file?") from None


def _require_end(file: TextIO, path: Path, frame: int) -> None:
    """Refuse text after a blank line, which would otherwise be dropped silently; blank lines may end a file."""
    while line := _next_line(file, path, frame):
        if line.strip():
            raise StructureError(f"{path.name}:{frame}: got a blank line where a frame should begin; remove it")


def _parse(text: str, name: str) -> Atoms:
    try:
        return next(read_xyz(StringIO(text), 0))
    except (ValueError, TypeError, KeyError, IndexError, OSError, RuntimeError) as error:
        cut = "" if text.endswith("\n") else "; its last line is cut short: the file is truncated"
        raise StructureError(f"{name}: cannot be read as extended xyz ({type(error).__name__}: {error}){cut}") from None


def _to_atoms(molecule: Molecule, values: Mapping[str, Any]) -> Atoms:
    atoms = Atoms(numbers=molecule.atomic_numbers, positions=molecule.positions)
    if molecule.charge:
        atoms.info[CHARGE_KEY] = molecule.charge
    if molecule.smiles:
        atoms.info[SMILES_KEY] = molecule.smiles
    known = {key: values[key] for key in ("energy", "forces") if key in values}
    if known:
        atoms.calc = SinglePointCalculator(atoms, **known)
    for key in sorted(set(values) - set(known)):
        if np.ndim(values[key]):
            atoms.new_array(key, np.asarray(values[key]))
        else:
            atoms.info[key] = values[key]
    return atoms
