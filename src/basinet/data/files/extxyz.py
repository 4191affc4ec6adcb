"""Read extended XYZ frame by frame, and write it with predictions.

ASE parses each frame, but does not split the file: it would stop silently at the first blank line, and read the whole
file before it returns the first frame.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers as number_of_symbol
from ase.data import chemical_symbols
from ase.io.extxyz import read_xyz, write_xyz

from basinet.data.files.ase_atoms import read_atoms
from basinet.data.files.options import Reading
from basinet.data.files.report import ReadReport, plain_number
from basinet.files import replacing
from basinet.structures import Molecule, StructureError
from basinet.structures.ase_labels import CHARGE_KEY, SMILES_KEY

ISOTOPES = frozenset({"D", "T", "1H", "2H", "3H"})
"""Symbols of the isotopes of hydrogen."""


def read_extxyz(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read molecules frame by frame; ``name`` is ``file.xyz:17``, numbered from 0 as ``ase.io.read(file, 17)`` does.

    Raises:
        StructureError: a frame is damaged, periodic, or has its labels under other keys than the frames before.
    """
    for frame, text in enumerate(_frames(path)):
        name = f"{path.name}:{frame}"
        atoms = _parse(text, name, report)
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
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
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
    line = file.readline()
    if line.isascii():
        return line
    for place, letter in enumerate(line, start=1):
        if "\udc80" <= letter <= "\udcff":
            raise StructureError(
                f"{path.name}:{frame}: not text in UTF-8: byte 0x{ord(letter) - 0xDC00:02x} at letter {place} of the "
                f"line {line.encode('ascii', 'replace').decode().strip()[:60]!r}; convert it: iconv -f latin1 -t utf-8"
            )
    return line


def _require_end(file: TextIO, path: Path, frame: int) -> None:
    """Refuse text after a blank line, which would otherwise be dropped silently; blank lines may end a file."""
    while line := _next_line(file, path, frame):
        if line.strip():
            raise StructureError(f"{path.name}:{frame}: got a blank line where a frame should begin; remove it")


def _parse(text: str, name: str, report: ReadReport) -> Atoms:
    comment = text.split("\n", 2)[1]
    if re.match(r"gdb \d+\t", comment):
        raise StructureError(f"{name}: this is a raw file of QM9, expected extended xyz; use qm9: instead of the file")
    try:
        return _frame(text)
    except KeyError:
        pass  # symbols that ASE does not know
    except (ValueError, TypeError, IndexError, OSError, RuntimeError) as error:
        plain = _plain_numbers(text)
        if plain == text:
            raise _unreadable(text, name, error) from None
        text = plain
    text, isotopes = _plain_symbols(text, name)
    if isotopes:
        report.leave_unused("D and T (read as H: the energy does not depend on masses)")
    try:
        return _frame(text)
    except (ValueError, TypeError, KeyError, IndexError, OSError, RuntimeError) as error:
        raise _unreadable(text, name, error) from None


def _frame(text: str) -> Atoms:
    return next(read_xyz(StringIO(text), 0))


def _unreadable(text: str, name: str, error: Exception) -> StructureError:
    cut = "" if text.endswith("\n") else "; its last line is cut short: the file is truncated"
    return StructureError(f"{name}: cannot be read as extended xyz ({type(error).__name__}: {error}){cut}")


def _plain_numbers(text: str) -> str:
    """Write the numbers of Fortran and Mathematica in the rows of atoms as others do."""
    head, comment, *rows = text.split("\n")
    return "\n".join([head, comment, *(" ".join(map(plain_number, row.split())) for row in rows)])


def _plain_symbols(text: str, name: str) -> tuple[str, bool]:
    """Write isotopes, atomic numbers and small letters in the first column as symbols; True if there are isotopes.

    Raises:
        StructureError: something else stands for an element.
    """
    head, comment, *rows = text.split("\n")
    if "Properties=" in comment and "Properties=species:" not in comment:
        return text, False
    isotopes = False
    for i, row in enumerate(rows):
        symbol, *rest = row.split() or [""]
        if not symbol or symbol in number_of_symbol:
            continue
        isotopes |= symbol in ISOTOPES
        rows[i] = " ".join([_symbol(symbol, i, name), *rest])
    return "\n".join([head, comment, *rows]), isotopes


def _symbol(written: str, atom: int, name: str) -> str:
    if written in ISOTOPES:
        return "H"
    if written.isdecimal() and 0 < int(written) < len(chemical_symbols):
        return chemical_symbols[int(written)]
    if (written.islower() or written in ("CL", "BR", "SI")) and written.capitalize() in number_of_symbol:
        return written.capitalize()
    letters = written.rstrip("0123456789_*'")
    hint = f"; if it is atom {written[len(letters) :]} of its kind, write {letters!r}" if letters != written else ""
    hint = hint if letters in number_of_symbol else "; a ghost or dummy atom must be left out"
    raise StructureError(f"{name}: cannot be read: atom {atom} is {written!r}, expected the symbol of an element{hint}")


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
