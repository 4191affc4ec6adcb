"""Read data, and other data to compare it with, and examine it (``basinet data check``)."""

import dataclasses
import os
from pathlib import Path

from basinet.data.doctor.doctor import Diagnosis, examine
from basinet.data.doctor.findings import N_NAMED, Finding
from basinet.data.files.report import ReadReport
from basinet.data.readers import AS_WRITTEN, Reading, load_store, locate
from basinet.data.store.store import MoleculeStore


def check_data(
    path: str | os.PathLike[str],
    against: str | os.PathLike[str] | None = None,
    reading: Reading = AS_WRITTEN,
) -> Diagnosis:
    """Return the findings about a file or store; ``reading`` is for all files.

    Raises:
        ValueError: there is no valid record, or a store is given units.
    """
    store, _, finding = read_for_examination(path, reading)
    other, findings = None, [finding]
    if against is not None:
        other, _, finding = read_for_examination(against, AS_WRITTEN if locate(against).is_dir() else reading)
        findings.append(dataclasses.replace(finding, check="reading the other"))
    return examine(store, Path(path).name, against=other, reading=findings)


def read_for_examination(
    path: str | os.PathLike[str], reading: Reading = AS_WRITTEN
) -> tuple[MoleculeStore, ReadReport, Finding]:
    """Return the valid molecules of a file, the report of reading, and a finding about invalid records.

    Raises:
        ValueError: there is no valid record at all.
    """
    if locate(path).is_dir():
        store, report = load_store(path, reading)
        return store, report, Finding(check="reading", verdict="ok", evidence=f"a store of {len(store):,} molecules")
    store, report = load_store(path, dataclasses.replace(reading, skip_invalid=True))
    if not report.skipped:
        return store, report, Finding(check="reading", verdict="ok", evidence=str(report))
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in report.skipped.most_common())
    names = ", ".join(record.name for record in report.skipped_records[:N_NAMED])
    evidence = f"{report.skipped.total():,} of {len(store) + report.skipped.total():,} records are not valid: {reasons}"
    fix = "mend these records or leave them out; the other checks are of the others, numbered without them"
    return store, report, Finding(check="reading", verdict="fault", evidence=f"{evidence}; first {names}", fix=fix)
