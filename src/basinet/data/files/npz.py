"""Read NumPy archives and MATLAB files: frames of one molecule, or many molecules, end to end or padded."""

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from basinet.data.files.array_files import ArrayFile, Header, Rows, open_arrays
from basinet.data.files.options import Reading
from basinet.data.files.report import ReadReport, array_of, read_properties, sign_of_forces, valid
from basinet.structures import Molecule, StructureError
from basinet.units import ENERGY, LENGTH, energy_factor, length_factor

ELEMENTS = ("z", "nuclear_charges", "Z", "charges", "atomic_numbers", "numbers")
POSITIONS = ("R", "coords", "pos", "positions", "coordinates")
COUNTS = ("n_atoms", "num_atoms")
ENERGIES = ("E", "energies")
FORCES = ("F", "forces")
QM7 = frozenset({"X", "R", "Z", "T", "P"})
"""Arrays of ``qm7.mat`` (Rupp et al., Phys. Rev. Lett. 108 (2012) 058301), whose positions are in bohr."""
LENGTH_NAMES = {"Ang": "Angstrom", "A": "Angstrom"}


class ArraySource(NamedTuple):
    """A file of a known layout, and the labels to read."""

    path: Path
    layout: Literal["frames", "padded", "ragged"]
    n_molecules: int
    elements: str
    positions: str
    counts: str | None
    energy: str | None
    forces: str | None


def read_npz(path: Path, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    """Read the molecules of an archive or a MATLAB file one by one; ``name`` is ``file.npz:17``, numbered from 0.

    ========================  ==============================================================================
    one molecule, as rMD17    ``z`` [n_atoms], ``R`` [frames, n_atoms, 3], and perhaps ``E``, ``F``
    many, ragged              ``n_atoms`` [n], ``z`` [atoms of all], ``pos`` [atoms of all, 3], perhaps ``smiles``
    many, padded, as QM7      ``Z`` [n, most_atoms], 0 where there is no atom, ``R`` [n, most_atoms, 3]
    ========================  ==============================================================================

    Other names are known too (:data:`ELEMENTS`, :data:`POSITIONS` ...). In the last two layouts energies and forces are
    read only if they are named. Units and level of theory that the file states go to the report.

    Raises:
        ValueError: the unit of the energies is not known.
        StructureError: arrays are missing or do not fit each other, or the file is damaged, which may show only at its
            end, where its checksum is.
    """
    with open_arrays(path) as file:
        source = _source(path, file, reading)
        stated, length, theory = (file.text(name) for name in ("e_unit", "r_unit", "theory"))
        is_qm7 = set(file.headers) >= QM7
    length = "bohr" if is_qm7 else LENGTH_NAMES.get(length, length)
    if reading.energy_unit is None and stated not in ENERGY and (source.energy or source.forces):
        of = '"kcal/mol" for QM7' if is_qm7 else '"kcal/mol" for rMD17, or "eV"'
        raise ValueError(f"{path}: {'a .mat' if is_qm7 else 'an .npz'} does not say its units; give energy_unit ({of})")
    report.energy_unit = reading.energy_unit or (stated if stated in ENERGY else "eV")
    report.length_unit = reading.length_unit or (length if length in LENGTH else "Angstrom")
    report.level_of_theory = "" if theory == "unknown" else theory
    return _read(source, report, reading)


def _source(path: Path, file: ArrayFile, reading: Reading) -> ArraySource:
    headers = file.headers
    elements, positions, counts = (_first(known, headers) for known in (ELEMENTS, POSITIONS, COUNTS))
    named = {array_of(key) for key in (reading.energy_key, reading.forces_key) if key is not None}
    missing = sorted((named - set(headers)) | {n for n, a in (("z", elements), ("R", positions)) if a is None})
    if missing or elements is None or positions is None:
        raise StructureError(
            f"{path}: has no {', '.join(missing)}; expected z [n_atoms], R [frames, n_atoms, 3] and perhaps E, F (or "
            f"n_atoms, z, pos for many molecules); it has {', '.join(sorted(headers)) or 'nothing'}"
        )
    z, R = headers[elements], headers[positions]
    layout = "ragged" if counts and len(z.shape) == 1 and len(R.shape) == 2 else "frames"
    layout = "padded" if len(z.shape) == 2 and len(R.shape) == 3 else layout
    usual = (ENERGIES, FORCES) if layout == "frames" and not reading.columns else ((), ())
    energy, forces = (
        key or _first(known, headers)
        for key, known in zip((reading.energy_key, reading.forces_key), usual, strict=True)
    )
    n = headers[counts].size if counts and layout == "ragged" else R.shape[0] if R.shape else 0
    source = ArraySource(path, layout, n, elements, positions, counts, energy, forces)
    if layout == "ragged":
        _check_ragged(source, file)
    else:
        _check_frames(source, file)
    return source


def _first(known: Sequence[str], headers: Mapping[str, Header]) -> str | None:
    return next((name for name in known if name in headers), None)


def _check_frames(source: ArraySource, file: ArrayFile) -> None:
    path, headers = source.path, file.headers
    z, R = headers[source.elements], headers[source.positions]
    expected = (*R.shape[:2],) if source.layout == "padded" else R.shape[1:2]
    if len(R.shape) != 3 or R.shape[2] != 3 or z.shape != expected or not (z.is_numeric and R.is_numeric):
        raise StructureError(
            f"{path}: {source.elements} {list(z.shape)} and {source.positions} {list(R.shape)} do not fit; expected "
            "numbers [n] and [frames, n, 3]"
        )
    energy, forces = (headers.get(array_of(name or "")) for name in (source.energy, source.forces))
    if not (_fits(energy, source.n_molecules) and (forces is None or (forces.shape == R.shape and forces.is_numeric))):
        found = {n: h for n, h in ((source.energy, energy), (source.forces, forces)) if h is not None}
        shapes = {name: f"{header.dtype} {list(header.shape)}" for name, header in found.items()}
        raise StructureError(
            f"{path}: R has {len(R.shape) and R.shape[0]} frames of {R.shape[1]} atoms, but {shapes} do not fit"
        )


def _fits(header: Header | None, n: int) -> bool:
    return header is None or (header.size == n and header.is_numeric)


def _check_ragged(source: ArraySource, file: ArrayFile) -> None:
    path, headers, n = source.path, file.headers, source.n_molecules
    assert source.counts is not None
    total, smallest = 0, 1
    if headers[source.counts].dtype.kind not in "iu":
        raise StructureError(f"{path}: {source.counts} is {headers[source.counts].dtype}, expected whole numbers")
    for part in _blocks(file.rows(source.counts, n), n):
        total, smallest = total + int(part.astype(np.int64).sum()), min(smallest, int(part.min()))
    expected: dict[str, tuple[int, ...]] = {source.elements: (total,), source.positions: (total, 3)}
    if source.energy:
        expected[array_of(source.energy)] = (n,)
    if source.forces:
        expected[array_of(source.forces)] = (total, 3)
    wrong = [f"{k} {list(headers[k].shape)}, expected {list(s)}" for k, s in expected.items() if headers[k].shape != s]
    wrong += [f"{k} is {headers[k].dtype}, expected numbers" for k in expected if not headers[k].is_numeric]
    if "smiles" in headers and headers["smiles"].shape != (n,):
        wrong.append(f"smiles {list(headers['smiles'].shape)}, expected {[n]}")
    if wrong or len(headers[source.counts].shape) != 1 or smallest < 1:
        raise StructureError(
            f"{path}: n_atoms {[n]} adds up to {total} atoms, but: {'; '.join(wrong) or 'one has none'}"
        )


def _blocks(rows: Rows, n: int) -> Iterator[np.ndarray]:
    for first in range(0, n, 2**16):
        yield rows.take(min(2**16, n - first))


def _read(source: ArraySource, report: ReadReport, reading: Reading) -> Iterator[Molecule]:
    energy, length = energy_factor(report.energy_unit), length_factor(report.length_unit)
    force = energy / length * sign_of_forces(source.forces or "")
    with open_arrays(source.path) as file:
        molecules = _Molecules(source, file, {c.key for c in reading.columns})
        for i in range(source.n_molecules):
            name = f"{source.path.name}:{i}"
            found = molecules.next()
            labels: dict[str, Any] = {}
            if found.energy is not None:
                labels["energy"] = found.energy * energy
                report.energy_keys[str(source.energy)] += 1
            if found.forces is not None:
                labels["forces"] = found.forces.astype(np.float64) * force
                report.forces_keys[str(source.forces)] += 1
            labels |= read_properties(found.scalars, reading.columns, name, report)
            yield from valid(
                report,
                atomic_numbers=_whole(found.numbers, name),
                positions=found.positions.astype(np.float64) * length,
                labels=labels,
                is_equilibrium=reading.is_equilibrium,
                smiles=found.smiles,
                name=name,
            )


def _whole(numbers: np.ndarray, name: str) -> np.ndarray:
    """Return atomic numbers as integers; MATLAB stores floats."""
    whole = np.nan_to_num(numbers, nan=0, posinf=0, neginf=0).astype(np.int64)
    if (whole != numbers).any():
        raise StructureError(
            f"{name}: atomic numbers must be whole numbers, got {numbers[whole != numbers][:3].tolist()}"
        )
    return whole


class _Raw(NamedTuple):
    """One molecule, in the units of the file."""

    numbers: np.ndarray
    positions: np.ndarray
    energy: float | None
    forces: np.ndarray | None
    smiles: str
    scalars: dict[str, Any]


class _Molecules:
    """Streams of all arrays to read, which advance together."""

    def __init__(self, source: ArraySource, file: ArrayFile, wanted: Set[str]) -> None:
        n, headers = source.n_molecules, file.headers
        self._layout = source.layout
        self._counts = file.rows(source.counts, n) if source.layout == "ragged" and source.counts else None

        def per_atom(name: str) -> Rows:
            return file.rows(name, headers[name].shape[0])

        z = per_atom(source.elements)
        self._elements = z
        self._numbers = z.take(headers[source.elements].size) if source.layout == "frames" else None
        self._positions = per_atom(source.positions)
        self._energies = file.rows(array_of(source.energy), n) if source.energy else None
        self._forces = per_atom(array_of(source.forces)) if source.forces else None
        has_smiles = "smiles" in headers and headers["smiles"].shape == (n,) and headers["smiles"].dtype.kind in "SU"
        self._smiles = file.rows("smiles", n) if has_smiles and source.layout != "frames" else None
        there = [name for name, header in headers.items() if _fits(header, n)]
        self._scalars = {key: file.rows(key, n) for key in there if key in wanted}
        self._absent = dict.fromkeys(set(there) - wanted, "not read")

    def next(self) -> _Raw:
        """Return the next molecule."""
        rows = 1 if self._counts is None else int(self._counts.take(1).reshape(-1)[0])
        numbers = self._elements.take(rows).reshape(-1) if self._numbers is None else self._numbers
        positions = self._positions.take(rows).reshape(-1, 3)
        forces = None if self._forces is None else self._forces.take(rows).reshape(-1, 3)
        if self._layout == "padded":
            real = numbers != 0
            numbers, positions, forces = numbers[real], positions[real], None if forces is None else forces[real]
        smiles = "" if self._smiles is None else self._smiles.take(1)[0]
        return _Raw(
            numbers,
            positions,
            None if self._energies is None else float(self._energies.take(1)[0]),
            forces,
            smiles.decode(errors="replace") if isinstance(smiles, bytes) else str(smiles),
            self._absent | {key: rows.take(1)[0] for key, rows in self._scalars.items()},
        )
