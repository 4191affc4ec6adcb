"""Correlate the forces that a model implies with those of a file."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from basinet.commands.answer.evaluate import in_chunks
from basinet.commands.answer.load import load_any
from basinet.commands.recipe import UnitsConfig
from basinet.data.readers import open_molecules
from basinet.evaluation.force_correlation import CorrelationBin, CorrelationCurves, ForceCorrelation
from basinet.evaluation.plots import force_correlation_figure
from basinet.files import write_text
from basinet.models.model import Model
from basinet.structures import Molecule
from basinet.structures.batch import Batch, collate, unbatch
from basinet.structures.geometry import superposed_rmsd

FROM_MINIMUM = "rmsd from the nearest minimum (Å)"
BY_FORCE = "rms of the reference force (eV/Å)"
JSON_FILE = "force_correlation.json"
PLOT_FILE = "force_correlation.png"

Minima = Mapping[tuple[str, bytes], Float64[np.ndarray, "n_minima n_atoms 3"]]


def implied_forces(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Return the forces that a model implies, [n_atoms, 3], by source.

    ``energy``: minus the gradient of the energy, which for 3D-EMGP has no unit. ``noise``: the output of the noise
    head, which points from the noisy position to the clean one: the sign of a force, the size of normalised noise.
    """
    sources = {"energy": "forces", "noise": "noise"}
    offered = {source: output for source, output in sources.items() if output in model.offers}
    if not offered:
        raise ValueError(f"the model offers {sorted(model.offers)}: no energy and no noise, and so no force")
    found = model(batch, offered.values())
    return {source: found[output].detach() for source, output in offered.items()}


def correlate_file(
    model_file: Path, data: Path, units: UnitsConfig, device: str = "cpu", n_bins: int = 8
) -> tuple[CorrelationCurves, str]:
    """Return how implied forces of a model correlate with the labels of a file, and a line about what was read.

    Frames are ordered by displacement: the RMSD from the nearest minimum of their compound if the data has frames
    flagged as minima, else the root mean square of the reference force. Minima have no force and are skipped.

    Raises:
        ValueError: no frame has forces, or none is displaced, or there are elements the model does not know.
    """
    model = load_any(model_file, device)

    def read() -> tuple[Any, Any]:
        return open_molecules(data, units.reading())

    minima = _minima(read()[0])
    molecules, report = read()
    correlations: dict[str, ForceCorrelation] = {}
    n_labelled = n_left_out = 0
    for chunk in in_chunks(molecules):
        labelled = [m for m in chunk if "forces" in m.labels and not m.is_equilibrium]
        n_labelled += len(labelled)
        placed = [(m, place) for m in labelled if (place := displacement(m, minima)) is not None]
        n_left_out += len(labelled) - len(placed)
        if placed:
            _add(correlations, model, placed, device)
    if not correlations:
        raise ValueError(_nothing(data, n_labelled))
    curves = CorrelationCurves(
        axis=FROM_MINIMUM if minima else BY_FORCE,
        n_left_out=n_left_out,
        curves={source: found.bins(n_bins) for source, found in correlations.items()},
        whole={source: found.whole() for source, found in correlations.items()},
    )
    return curves, str(report)


def write_correlation(curves: CorrelationCurves, directory: Path) -> None:
    """Write the curves as JSON and as a figure into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    record = {
        "displacement": curves.axis,
        "n_left_out": curves.n_left_out,
        "curves": {source: [_plain(b) for b in bins] for source, bins in curves.curves.items()},
        "all": {source: _plain(b) for source, b in curves.whole.items()},
    }
    write_text(directory / JSON_FILE, json.dumps(record, indent=2) + "\n")
    force_correlation_figure(curves).savefig(directory / PLOT_FILE, dpi=150)


def displacement(molecule: Molecule, minima: Minima) -> float | None:
    """Return the displacement of a labelled frame; ``None`` if other compounds have minima and its own has none."""
    if not minima:
        return float(np.sqrt(np.square(molecule.labels["forces"]).mean()))
    known = minima.get(_compound(molecule))
    return None if known is None else float(superposed_rmsd(molecule.positions, known).min())


def _add(
    correlations: dict[str, ForceCorrelation], model: Model, placed: list[tuple[Molecule, float]], device: str
) -> None:
    batch = collate([m for m, _ in placed]).to(device)
    model.scope.check(batch)
    for source, forces in implied_forces(model, batch).items():
        correlation = correlations.setdefault(source, ForceCorrelation())
        for (molecule, place), force in zip(placed, unbatch(forces, batch), strict=True):
            correlation.add(force.double().cpu().numpy(), np.asarray(molecule.labels["forces"]), place)


def _minima(molecules: Any) -> Minima:
    found: dict[tuple[str, bytes], list[np.ndarray]] = {}
    for molecule in molecules:
        if molecule.is_equilibrium:
            found.setdefault(_compound(molecule), []).append(molecule.positions)
    return {compound: np.stack(positions) for compound, positions in found.items()}


def _compound(molecule: Molecule) -> tuple[str, bytes]:
    """Return a key for a compound: its SMILES if known, and its atoms in order, which an RMSD pairs."""
    return molecule.smiles, molecule.atomic_numbers.tobytes()


def _nothing(data: Path, n_labelled: int) -> str:
    if n_labelled:
        return f"{data}: none of its {n_labelled} frames with forces is of a compound whose minimum is in the data"
    return f"{data}: no molecule outside a minimum has forces to compare with"


def _plain(of: CorrelationBin) -> dict[str, float | None]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in dataclasses.asdict(of).items()}
