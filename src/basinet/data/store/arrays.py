"""Lay molecules end to end in flat arrays: the contents of one shard of a store, in memory or mapped from files."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, Int32, Int64, Shaped, UInt8

from basinet.structures import Molecule, StructureError
from basinet.structures.topology import rotor_table

_LABEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_LABEL, _ATOM_LABEL, _HAS = "label.", "atom_label.", "has."


@dataclass(frozen=True, slots=True, kw_only=True)
class Strings:
    """Many strings as one UTF-8 blob and offsets, because object arrays would need pickle."""

    blob: UInt8[np.ndarray, " n_bytes"]
    offsets: Int64[np.ndarray, " n_strings_plus_1"]

    @classmethod
    def pack(cls, strings: Sequence[str]) -> "Strings":
        """Encode strings."""
        encoded = [s.encode() for s in strings]
        return cls(
            blob=np.frombuffer(b"".join(encoded), dtype=np.uint8).copy(),
            offsets=_offsets([len(s) for s in encoded]),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        return self.blob[self.offsets[index] : self.offsets[index + 1]].tobytes().decode()

    def to_list(self) -> list[str]:
        """Decode all strings."""
        blob, ends = self.blob.tobytes(), self.offsets.tolist()
        return [blob[first:last].decode() for first, last in zip(ends[:-1], ends[1:], strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatArrays:
    """Molecules laid end to end. Lengths are checked against each other when the record is made.

    A label that a molecule lacks is NaN in ``labels`` or ``atom_labels`` and False in ``has``.
    """

    atomic_numbers: UInt8[np.ndarray, " n_atoms"]
    positions: Float32[np.ndarray, "n_atoms 3"]
    """Å; each molecule centred in float64 before the cast."""
    offsets: Int64[np.ndarray, " n_molecules_plus_1"]
    """Atoms of molecule ``i`` are the rows ``offsets[i]:offsets[i + 1]``."""
    charges: Int16[np.ndarray, " n_molecules"]
    """Total charge, e."""
    is_equilibrium: Bool[np.ndarray, " n_molecules"]
    labels: Mapping[str, Float64[np.ndarray, " n_molecules"]]
    """One number per molecule: ``energy`` in eV, further properties by name."""
    atom_labels: Mapping[str, Float32[np.ndarray, "n_atoms ..."]]
    """One row per atom: ``forces`` in eV/Å, further properties by name."""
    has: Mapping[str, Bool[np.ndarray, " n_molecules"]]
    bonds: Int32[np.ndarray, "n_bonds 2"]
    """Atom indices within the molecule."""
    bond_orders: Float32[np.ndarray, " n_bonds"]
    bond_offsets: Int64[np.ndarray, " n_molecules_plus_1"]
    has_bonds: Bool[np.ndarray, " n_molecules"]
    """False where the source has no bonds, which is not the same as zero bonds."""
    has_bond_orders: Bool[np.ndarray, " n_molecules"]
    rotors: Int32[np.ndarray, "n_rotors 3"]
    """(fixed atom, atom on the side that turns, number of atoms that move), derived from the bonds."""
    rotor_offsets: Int64[np.ndarray, " n_molecules_plus_1"]
    moved: Int32[np.ndarray, " n_moved"]
    """Atoms that move, rotor after rotor."""
    moved_offsets: Int64[np.ndarray, " n_molecules_plus_1"]
    smiles: Strings
    names: Strings

    def __post_init__(self) -> None:
        """Refuse arrays of contradicting lengths: from different stores, or damaged."""
        n_atoms, n_bonds, n = len(self.atomic_numbers), len(self.bonds), self.n_molecules
        for name, offsets, end in (
            ("offsets", self.offsets, n_atoms),
            ("bond_offsets", self.bond_offsets, n_bonds),
            ("rotor_offsets", self.rotor_offsets, len(self.rotors)),
            ("moved_offsets", self.moved_offsets, len(self.moved)),
        ):
            if len(offsets) != n + 1 or offsets[0] != 0 or offsets[-1] != end:
                raise ValueError(f"{name} must be {n + 1} numbers from 0 to {end}")
        per_atom = {"positions": self.positions, **{f"label {k}": rows for k, rows in self.atom_labels.items()}}
        per_molecule: dict[str, Any] = {f"label {k}": rows for k, rows in self.labels.items()}
        per_molecule |= {f"has {k}": rows for k, rows in self.has.items()}
        per_molecule |= {name: getattr(self, name) for name in ("charges", "has_bonds", "names", "smiles")}
        for columns, expected in ((per_atom, n_atoms), (per_molecule, n), ({"bond_orders": self.bond_orders}, n_bonds)):
            for name, rows in columns.items():
                if len(rows) != expected:
                    raise ValueError(f"{name} has {len(rows)} rows, expected {expected}")

    @property
    def n_molecules(self) -> int:
        """Number of molecules."""
        return len(self.is_equilibrium)

    def __getitem__(self, index: int) -> Molecule:
        atoms = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        bonds = slice(int(self.bond_offsets[index]), int(self.bond_offsets[index + 1]))
        labels: dict[str, Any] = {k: float(v[index]) for k, v in self.labels.items() if self.has[k][index]}
        labels |= {k: v[atoms].astype(np.float64) for k, v in self.atom_labels.items() if self.has[k][index]}
        has_bonds, has_orders = bool(self.has_bonds[index]), bool(self.has_bond_orders[index])
        return Molecule(
            atomic_numbers=self.atomic_numbers[atoms].astype(np.int64),
            positions=self.positions[atoms].astype(np.float64),
            bonds=self.bonds[bonds].astype(np.int64) if has_bonds else None,
            bond_orders=self.bond_orders[bonds].astype(np.float64) if has_orders else None,
            charge=int(self.charges[index]),
            labels=labels,
            is_equilibrium=bool(self.is_equilibrium[index]),
            smiles=self.smiles[index],
            name=self.names[index],
        )

    def to_files(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Return every array under the name of its file, without the suffix; sorted."""
        files: dict[str, np.ndarray] = {name: getattr(self, name) for name in _PLAIN}
        for name in _STRINGS:
            strings: Strings = getattr(self, name)
            files |= {name: strings.blob, f"{name}_offsets": strings.offsets}
        for prefix, arrays in ((_LABEL, self.labels), (_ATOM_LABEL, self.atom_labels), (_HAS, self.has)):
            files |= {f"{prefix}{name}": array for name, array in arrays.items()}
        return dict(sorted(files.items()))

    @classmethod
    def from_files(cls, files: Mapping[str, Shaped[np.ndarray, "..."]]) -> "FlatArrays":
        """Put back together what :meth:`to_files` took apart.

        Stores written before rotors were kept have no files for them: theirs are found here, in about 0.1 ms a molecule
        each time such a store is opened.
        """
        required = {*_PLAIN, *_STRINGS, *(f"{name}_offsets" for name in _STRINGS)} - set(_ROTORS)
        if missing := sorted(required - set(files)):
            raise ValueError(f"missing arrays: {', '.join(missing)}")
        if not set(_ROTORS) <= set(files):
            files = {**files, **_find_rotors(files)}
        fields: dict[str, Any] = {name: files[name] for name in _PLAIN}
        for name in _STRINGS:
            fields[name] = Strings(blob=files[name], offsets=files[f"{name}_offsets"])
        for field, prefix in (("labels", _LABEL), ("atom_labels", _ATOM_LABEL), ("has", _HAS)):
            fields[field] = {k.removeprefix(prefix): v for k, v in files.items() if k.startswith(prefix)}
        return cls(**fields)


_ROTORS = ("rotors", "rotor_offsets", "moved", "moved_offsets")
_PLAIN = (
    "atomic_numbers",
    "positions",
    "offsets",
    "charges",
    "is_equilibrium",
    "bonds",
    "bond_orders",
    "bond_offsets",
    "has_bonds",
    "has_bond_orders",
    *_ROTORS,
)
_STRINGS = ("smiles", "names")
_OFFSETS = ("offsets", "bond_offsets", "rotor_offsets", "moved_offsets", "smiles_offsets", "names_offsets")


def flatten(molecules: Sequence[Molecule]) -> FlatArrays:
    """Lay molecules end to end; no molecules give empty arrays.

    Raises:
        StructureError: a charge does not fit, or a label is per molecule in one record and per atom in another.
    """
    shapes = _label_shapes(molecules)
    per_molecule = [name for name, shape in shapes.items() if shape is None]
    per_atom = {name: shape for name, shape in shapes.items() if shape is not None}
    offsets = _offsets([m.n_atoms for m in molecules])
    return FlatArrays(
        atomic_numbers=_join([m.atomic_numbers.astype(np.uint8) for m in molecules], np.zeros(0, dtype=np.uint8)),
        positions=_join(
            [(m.positions - m.positions.mean(0)).astype(np.float32) for m in molecules],
            np.zeros((0, 3), dtype=np.float32),
        ),
        offsets=offsets,
        charges=np.array([_int16_charge(m) for m in molecules], dtype=np.int16),
        is_equilibrium=np.array([m.is_equilibrium for m in molecules], dtype=bool),
        labels={name: np.array([m.labels.get(name, np.nan) for m in molecules], np.float64) for name in per_molecule},
        atom_labels={name: _join_atom_label(molecules, name, shape) for name, shape in per_atom.items()},
        has={name: np.array([name in m.labels for m in molecules], dtype=bool) for name in shapes},
        **_bond_arrays(offsets, [m.bonds for m in molecules], [m.bond_orders for m in molecules]),
        smiles=Strings.pack([m.smiles for m in molecules]),
        names=Strings.pack([m.name for m in molecules]),
    )


def with_bonds(arrays: FlatArrays, changes: Mapping[int, tuple[np.ndarray | None, np.ndarray | None]]) -> FlatArrays:
    """Return the arrays with other bonds and bond orders for some molecules; ``None`` where they are unknown."""
    bonds: list[np.ndarray | None] = []
    orders: list[np.ndarray | None] = []
    for i in range(arrays.n_molecules):
        if i in changes:
            of_bonds, of_orders = changes[i]
        else:
            rows = slice(int(arrays.bond_offsets[i]), int(arrays.bond_offsets[i + 1]))
            of_bonds = arrays.bonds[rows] if arrays.has_bonds[i] else None
            of_orders = arrays.bond_orders[rows] if arrays.has_bond_orders[i] else None
        bonds.append(of_bonds)
        orders.append(of_orders)
    return dataclasses.replace(arrays, **_bond_arrays(arrays.offsets, bonds, orders))


def _bond_arrays(
    offsets: Int64[np.ndarray, " n_molecules_plus_1"],
    bonds: Sequence[np.ndarray | None],
    orders: Sequence[np.ndarray | None],
) -> dict[str, Any]:
    """Return the arrays of bonds, and of the rotors that follow from them."""
    no_bonds = np.zeros((0, 2), dtype=np.int32)
    rows = [no_bonds if b is None else b.astype(np.int32) for b in bonds]
    of_rows = [
        np.full(len(b), np.nan, dtype=np.float32) if o is None else o.astype(np.float32)
        for b, o in zip(rows, orders, strict=True)
    ]
    of_bonds: dict[str, Any] = {
        "bonds": _join(rows, no_bonds),
        "bond_orders": _join(of_rows, np.zeros(0, dtype=np.float32)),
        "bond_offsets": _offsets([len(b) for b in rows]),
        "has_bonds": np.array([b is not None for b in bonds], dtype=bool),
        "has_bond_orders": np.array([o is not None for o in orders], dtype=bool),
    }
    return {**of_bonds, **_find_rotors({"offsets": offsets, **of_bonds})}


def _find_rotors(arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> dict[str, Any]:
    """Return the arrays of rotors that follow from those of bonds."""
    n_atoms, ends = np.diff(arrays["offsets"]), arrays["bond_offsets"]
    n_rotors, n_moved = np.zeros_like(n_atoms), np.zeros_like(n_atoms)
    rotors, moved = [np.zeros((0, 3), dtype=np.int32)], [np.zeros(0, dtype=np.int32)]
    for i in np.flatnonzero(arrays["has_bond_orders"]).tolist():
        rows = slice(int(ends[i]), int(ends[i + 1]))
        bonds, orders = arrays["bonds"][rows].astype(np.int64), arrays["bond_orders"][rows].astype(np.float64)
        table = rotor_table(int(n_atoms[i]), bonds, orders)
        n_rotors[i], n_moved[i] = len(table.rotors), len(table.moved)
        rotors.append(table.rotors.astype(np.int32))
        moved.append(table.moved.astype(np.int32))
    return {
        "rotors": np.concatenate(rotors),
        "rotor_offsets": _offsets(n_rotors),
        "moved": np.concatenate(moved),
        "moved_offsets": _offsets(n_moved),
    }


def concatenate(parts: Sequence[FlatArrays]) -> FlatArrays:
    """Lay shards end to end; a label that a shard does not have at all becomes NaN there."""
    columns = [part.to_files() for part in parts]
    joined: dict[str, np.ndarray] = {}
    for name in sorted({name for files in columns for name in files}):
        if name in _OFFSETS:
            joined[name] = _offsets(np.concatenate([np.diff(files[name]) for files in columns]))
            continue
        like = next(files[name] for files in columns if name in files)
        rows = [f[name] if name in f else _absent(name, like, p) for f, p in zip(columns, parts, strict=True)]
        joined[name] = np.concatenate(rows)
    return FlatArrays.from_files(joined)


def absent_atom_label(n_atoms: int, row_shape: tuple[int, ...]) -> Float32[np.ndarray, " n_atoms *rest"]:
    """Return the filler of a per-atom label that is not there."""
    return np.full((n_atoms, *row_shape), np.nan, dtype=np.float32)


def _absent(name: str, like: Shaped[np.ndarray, "..."], part: FlatArrays) -> Shaped[np.ndarray, "..."]:
    """Return the filler for a label array that ``part`` lacks; only label arrays can be lacking."""
    if name.startswith(_HAS):
        return np.zeros(part.n_molecules, dtype=bool)
    if name.startswith(_LABEL):
        return np.full(part.n_molecules, np.nan)
    return absent_atom_label(len(part.atomic_numbers), like.shape[1:])


def _label_shapes(molecules: Sequence[Molecule]) -> dict[str, tuple[int, ...] | None]:
    """Return the row shape of each label; ``None`` for one number per molecule."""
    shapes: dict[str, tuple[int, ...] | None] = {}
    for m in molecules:
        for name, value in m.labels.items():
            shape = np.shape(value)[1:] if np.ndim(value) else None
            if name not in shapes and not _LABEL_NAME.fullmatch(name):
                raise StructureError(
                    f"{m.name or 'molecule'}: a stored label needs a name of letters, digits and _, got {name!r}"
                )
            if shapes.setdefault(name, shape) != shape:
                raise StructureError(
                    f"{m.name or 'molecule'}: label {name!r} is {_kind(shape)}, but {_kind(shapes[name])} in one "
                    "before; give the two properties different names"
                )
    return dict(sorted(shapes.items()))


def _kind(shape: tuple[int, ...] | None) -> str:
    return "one number per molecule" if shape is None else f"a row of shape {list(shape)} per atom"


def _join_atom_label(
    molecules: Sequence[Molecule], name: str, shape: tuple[int, ...]
) -> Float32[np.ndarray, " n_atoms *rest"]:
    rows = [
        np.asarray(m.labels[name], dtype=np.float32) if name in m.labels else absent_atom_label(m.n_atoms, shape)
        for m in molecules
    ]
    return _join(rows, absent_atom_label(0, shape))


def _join(rows: Sequence[Shaped[np.ndarray, "..."]], empty: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    return np.concatenate([empty, *rows])


def _offsets(lengths: Sequence[int] | Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n_plus_1"]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.asarray(lengths, dtype=np.int64))])


def _int16_charge(molecule: Molecule) -> int:
    if abs(molecule.charge) > np.iinfo(np.int16).max:
        raise StructureError(f"{molecule.name or 'molecule'}: a charge of {molecule.charge} e cannot be right")
    return molecule.charge
