"""What ``basinet data check`` does: read the data, and perhaps other data, and examine it."""

import dataclasses
import os
from pathlib import Path

from basinet.data.doctor.doctor import Diagnosis, examine
from basinet.data.doctor.findings import N_NAMED, Finding
from basinet.data.files.report import ReadReport
from basinet.data.reading import load_store, located
from basinet.data.store.store import MoleculeStore


def check_data(
    path: str | os.PathLike[str],
    against: str | os.PathLike[str] | None = None,
    *,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
) -> Diagnosis:
    """Return the findings about a file or store; units and keys are of both files, as of ``read_molecules``.

    Raises:
        ValueError: there is no sound record, or a store is given units.
    """
    units = {"energy_unit": energy_unit, "length_unit": length_unit}
    store, _, reading = read_for_examination(path, **units, energy_key=energy_key, forces_key=forces_key)
    other, findings = None, [reading]
    if against is not None:
        given = {} if located(against).is_dir() else {**units, "energy_key": energy_key, "forces_key": forces_key}
        other, _, reading_other = read_for_examination(against, **given)
        findings.append(dataclasses.replace(reading_other, check="reading the other"))
    return examine(store, Path(path).name, against=other, reading=findings)


def read_for_examination(
    path: str | os.PathLike[str],
    *,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
) -> tuple[MoleculeStore, ReadReport, Finding]:
    """Return the valid molecules of a file, what was read, and a finding about the records that are not valid.

    Raises:
        ValueError: there is no valid record at all.
    """
    if located(path).is_dir():
        store, report = load_store(
            path, energy_unit=energy_unit, length_unit=length_unit, energy_key=energy_key, forces_key=forces_key
        )
        return store, report, Finding(check="reading", verdict="ok", evidence=f"a store of {len(store):,} molecules")
    store, report = load_store(
        path,
        energy_unit=energy_unit,
        length_unit=length_unit,
        energy_key=energy_key,
        forces_key=forces_key,
        skip_invalid=True,
    )
    if not report.skipped:
        return store, report, Finding(check="reading", verdict="ok", evidence=str(report))
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in report.skipped.most_common())
    names = ", ".join(record.name for record in report.skipped_records[:N_NAMED])
    evidence = f"{report.skipped.total():,} of {len(store) + report.skipped.total():,} records are not valid: {reasons}"
    fix = "mend these records or leave them out; the other checks are of the others, numbered without them"
    return store, report, Finding(check="reading", verdict="fault", evidence=f"{evidence}; first {names}", fix=fix)
