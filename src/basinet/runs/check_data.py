"""What ``basinet data check`` does: read the data, and perhaps other data, and examine it."""

import dataclasses
import os
from pathlib import Path

from basinet.data.doctor import Diagnosis, examine, read_for_examination
from basinet.data.readers import located


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
