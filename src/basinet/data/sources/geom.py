"""Read GEOM in MessagePack: compounds by SMILES, each with the conformers that CREST found.

The pickled RDKit objects of the same repository are not read, because unpickling runs code.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from basinet.data.files.report import Opened, ReadReport, counted, valid
from basinet.data.sources.archives import damage_named, walk
from basinet.data.sources.collection import Files
from basinet.errors import optional_module
from basinet.files import Stream
from basinet.structures import Molecule, StructureError
from basinet.units import energy_factor

MAX_OBJECT = 2**31 - 1
"""Largest object of the file, bytes; each holds about a thousand compounds."""
NO_CONFORMERS = "has fewer conformers than it says"
FILTERED = "its SMILES is in the filter list"


def open_conformers(files: Files) -> list[Opened]:
    """Open an archive of MessagePack, and perhaps a list of SMILES to skip.

    Each compound gives its conformers of the largest Boltzmann weights, as in 3D-EMGP, in that order and with the names
    ``SMILES#0``, ``SMILES#1`` ...
    """
    archive, *lists = files.paths
    filtered = frozenset(line.strip() for path in lists for line in path.read_text(encoding="utf-8").splitlines())
    report = ReadReport(path=str(archive), energy_unit="Ha")
    return [counted(_molecules(archive, filtered - {""}, files.config.conformers, report), report)]


def _molecules(archive: Path, filtered: frozenset[str], n: int, report: ReadReport) -> Iterator[Molecule]:
    for smiles, compound in _compounds(archive):
        if smiles in filtered:
            report.skip(smiles, FILTERED)
            continue
        try:
            conformers = compound["conformers"]
            unique = int(compound.get("uniqueconfs", len(conformers)))
            if not 1 <= unique <= len(conformers):
                report.skip(smiles, NO_CONFORMERS)
                continue
            chosen = sorted(conformers, key=lambda c: -float(c["boltzmannweight"]))[:n]  # sorted keeps ties in order
            rows = [np.array(c["xyz"], dtype=np.float64).reshape(-1, 4) for c in chosen]
            energies = [float(c["totalenergy"]) for c in chosen]
            charge = int(compound.get("charge", 0))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StructureError(f"{archive.name}: {smiles}: not a compound of GEOM ({error!r})") from None
        for i, (xyz, energy) in enumerate(zip(rows, energies, strict=True)):
            report.energy_keys["totalenergy"] += 1
            yield from valid(
                report,
                atomic_numbers=xyz[:, 0].astype(np.int64),
                positions=xyz[:, 1:].copy(),
                charge=charge,
                labels={"energy": energy * energy_factor("Ha")},
                is_equilibrium=True,
                smiles=smiles,
                name=f"{smiles}#{i}",
            )


def _compounds(archive: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    msgpack = optional_module("msgpack", "geom", "reading GEOM")
    with damage_named(archive):
        for name, stream in walk(archive):
            if not name.endswith(".msgpack"):
                continue
            counted_stream = _Counted(stream)
            unpacker = msgpack.Unpacker(counted_stream, raw=False, max_buffer_size=MAX_OBJECT)
            end = 0
            try:
                for compounds in unpacker:
                    end = unpacker.tell()
                    yield from compounds.items()
                if end < counted_stream.n_bytes:  # its iterator ends in silence where an object is cut off
                    raise ValueError(f"an object of it is cut off after {counted_stream.n_bytes - end} bytes")
            except (ValueError, AttributeError, msgpack.exceptions.UnpackException) as error:
                raise StructureError(f"{archive.name}: {name} is not MessagePack of GEOM ({error!r})") from None


class _Counted:
    """A stream that counts the bytes read."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.n_bytes = stream, 0

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, or all."""
        content = self.stream.read(size)
        self.n_bytes += len(content)
        return content
