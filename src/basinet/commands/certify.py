"""Certify a model: measure its symmetries, forces and smoothness, and write a card."""

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.build import molecule as of_g2
from torch import Tensor

from basinet import __version__
from basinet.backbones.base import Layout
from basinet.commands.progress import Show, hidden
from basinet.data.chemistry.perception import Perceiver
from basinet.data.readers import open_unlabelled
from basinet.evaluation.certificate import (
    VECTORS,
    Ask,
    Check,
    Subject,
    Thresholds,
    compare_kernels,
    examine,
    without_kernels,
)
from basinet.files import write_text
from basinet.models.checkpoint import load_ensemble, load_model
from basinet.models.model import Model
from basinet.structures import Batch, Molecule
from basinet.structures.batch import collate

G2_NAMES = ("CH3CH2OH", "H2O", "NH3", "HCN", "H2CO", "CH3SH", "CH3Cl", "CH3CH2NH2", "C2H4", "CH4", "SH2", "HCl", "PH3")
"""Default molecules, from ASE's G2 collection; those with elements unknown to the model are left out."""
N_MOLECULES = 6
"""Molecules examined: enough for every check, and few enough for quick finite differences."""
RATTLE = 0.05
"""Standard deviation of the random displacement of every atom, Å: no force vanishes by symmetry."""
SEED = 20220814
HEADER = ("check", "output", "largest error", "threshold", "verdict")
"""Columns of a table of checks."""


class Certificate(NamedTuple):
    """Result of a certification."""

    members: Sequence[Sequence[Check]]
    """Checks of each member; a plain model has one."""
    molecules: Sequence[str]
    """Formulas of the molecules examined."""
    sha256: str
    """Hash of the model file that the certificate is for."""

    @property
    def checks(self) -> list[Check]:
        """Worst result of each check over all members."""
        return [max(of_members, key=_severity) for of_members in zip(*self.members, strict=True)]

    @property
    def worst_members(self) -> list[int]:
        """Number, from 1, of the member with each of :attr:`checks`."""
        return [1 + of.index(worst) for of, worst in zip(zip(*self.members, strict=True), self.checks, strict=True)]

    @property
    def passed(self) -> bool:
        """Whether no member exceeds a threshold."""
        return all(check.verdict != "fault" for check in self.checks)

    def to_record(self) -> dict[str, Any]:
        """Return a JSON record; of several members the worst of each check, and all checks of each."""
        record = {"passed": self.passed, "sha256": self.sha256, "basinet_version": __version__}
        record |= {"molecules": list(self.molecules), "checks": [_as_record(c) for c in self.checks]}
        if len(self.members) == 1:
            return record
        return record | {"members": [{"checks": [_as_record(c) for c in checks]} for checks in self.members]}


def _severity(check: Check) -> tuple[int, float]:
    """Return a key that is larger for a worse check; NaN is the worst error."""
    order = ("ok", "not measured", "fault").index(check.verdict)
    return order, -1.0 if check.error is None else math.inf if math.isnan(check.error) else check.error


def _as_record(check: Check) -> dict[str, Any]:
    return check._asdict() | {"verdict": check.verdict, "error": _as_json(check.error)}


def _as_json(error: float | None) -> float | str | None:
    """Return a number, or text for infinity, which JSON does not have."""
    return error if error is None or math.isfinite(error) else str(error)


def certify(
    model_file: Path,
    molecules: Path | None = None,
    *,
    thresholds: Thresholds | None = None,
    show: Show = hidden,
) -> Certificate:
    """Examine a model, or each member of an ensemble, on molecules of a file or on well-known ones.

    Args:
        model_file: the model.
        molecules: file whose first molecules are examined, each displaced at random as in dynamics.
        thresholds: largest errors that pass.
        show: moves a progress bar, with the members.
    """
    limits = Thresholds() if thresholds is None else thresholds
    members = [member.eval() for member in load_ensemble(model_file).members]
    chosen = _chosen(members[0], molecules)
    batch = collate(chosen, dtype=torch.float64)
    found: list[list[Check]] = []
    for member in members:
        found.append(_checks(member, batch, limits))
        show(len(found), len(members), "")
    return Certificate(found, [m.formula for m in chosen], file_hash(model_file))


def _checks(model: Model, batch: Batch, limits: Thresholds) -> list[Check]:
    generator = torch.Generator().manual_seed(SEED)
    subject = subject_of(model)
    return [*examine(subject, batch, limits, generator), *_kernels(model, subject, batch, limits.kernels)]


def subject_of(model: Model) -> Subject:
    """Return a model in both precisions, in evaluation mode."""
    single, double = _asked(_copy(model, torch.float32)), _asked(_copy(model, torch.float64))

    def ask(batch: Batch, layout: Layout) -> Mapping[str, Tensor]:
        return (double if batch.positions.dtype == torch.float64 else single)(batch, layout)

    return Subject(ask, model.backbone.cutoff)


def _asked(model: Model) -> Ask:
    def ask(batch: Batch, layout: Layout) -> Mapping[str, Tensor]:
        found = model(batch, _outputs(model), create_graph=False, layout=layout)
        return {name: value.detach() for name, value in found.items()}

    return ask


def _outputs(model: Model) -> list[str]:
    return sorted(model.offers & {"energy", "forces", *(VECTORS & model.offers), *model.properties})


def _copy(model: Model, dtype: torch.dtype) -> Model:
    return copy.deepcopy(model).to(dtype).eval()


def _chosen(model: Model, file: Path | None) -> list[Molecule]:
    if file is None:
        found = [m for m in map(_of_g2, G2_NAMES) if not model.scope.elements or _known(m, model)][:N_MOLECULES]
        if not found:
            raise ValueError("the default molecules have elements unknown to the model; give others (--molecules FILE)")
    else:
        stream, _ = open_unlabelled(file)
        found = list(islice((m for m in stream if _known(m, model)), N_MOLECULES))
        if not found:
            raise ValueError(f"{file}: all molecules have elements unknown to the model")
    perceiver = Perceiver() if model.backbone.needs_bonds else None
    random = np.random.default_rng(SEED)
    return [_rattled(m if perceiver is None else perceiver.bonded(m), random) for m in found]


def _known(molecule: Molecule, model: Model) -> bool:
    return not model.scope.elements or set(molecule.atomic_numbers.tolist()) <= model.scope.elements


def _of_g2(name: str) -> Molecule:
    atoms = of_g2(name)
    return Molecule(atomic_numbers=atoms.numbers.astype(np.int64), positions=atoms.positions, name=name)


def _rattled(molecule: Molecule, random: np.random.Generator) -> Molecule:
    positions = molecule.positions + RATTLE * random.normal(size=molecule.positions.shape)
    return Molecule(
        atomic_numbers=molecule.atomic_numbers,
        positions=positions,
        bonds=molecule.bonds,
        bond_orders=molecule.bond_orders,
        charge=molecule.charge,
        name=molecule.name,
    )


def _kernels(model: Model, subject: Subject, batch: Batch, threshold: float) -> Iterator[Check]:
    """Compare the C++ kernels with PyTorch, in float32."""
    by_kernels = _copy(model, torch.float32)
    missing = by_kernels.backbone.use_kernels("native")
    if missing is not None:
        return without_kernels(_outputs(model), threshold, missing)
    return compare_kernels(subject, _asked(by_kernels), batch, threshold)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card_of(model_file: Path) -> Path:
    """Return the path of the card, beside the model."""
    return model_file.with_suffix(".card.json")


def write_card(certificate: Certificate, model_file: Path, out: Path) -> None:
    """Write the card as JSON, and as Markdown beside it."""
    write_text(out, json.dumps(certificate.to_record(), indent=2, ensure_ascii=False) + "\n")
    write_text(out.with_suffix(".md"), describe_card(certificate, model_file))


def describe_card(certificate: Certificate, model_file: Path) -> str:
    """Return a certificate as a page in Markdown."""
    scope = load_model(model_file).model.scope
    n_members = len(certificate.members)
    several = f" The worst of each check over {n_members} members, then each member." if n_members > 1 else ""
    lines = [
        f"# {model_file.name}",
        "",
        f"Certificate: {'passed' if certificate.passed else 'not passed'}, by basinet {__version__}, on "
        f"{', '.join(certificate.molecules)}, displaced at random by {RATTLE} Å.",
        f"Level of theory: {scope.level_of_theory or 'unknown'}. SHA-256 of the file: `{certificate.sha256}`.{several}",
        "",
        *_in_markdown(certificate.checks),
    ]
    if n_members > 1:
        for number, checks in enumerate(certificate.members, start=1):
            lines += ["", f"## Member {number}: {verdict_of(checks)}", "", *_in_markdown(checks)]
    return "\n".join(lines) + "\n"


def _in_markdown(checks: Sequence[Check]) -> list[str]:
    rows = [HEADER, ("---",) * len(HEADER), *rows_of(checks)]
    return [f"| {' | '.join(row)} |" for row in rows]


def verdict_of(checks: Sequence[Check]) -> str:
    """Return whether checks are passed, in words."""
    n_faults, n_open = (sum(check.verdict == verdict for check in checks) for verdict in ("fault", "not measured"))
    passed = f"{n_faults} of {len(checks)} checks not passed" if n_faults else "passed"
    return f"{passed}, {n_open} not measured" if n_open else passed


def rows_of(checks: Sequence[Check]) -> list[tuple[str, str, str, str, str]]:
    """Return checks as texts: name, output, error, threshold, verdict (:data:`HEADER`)."""
    rows: list[tuple[str, str, str, str, str]] = []
    for check in checks:
        unit = "" if check.unit == "relative" else f" {check.unit}"
        error = check.note if check.error is None else f"{check.error:.1e}{unit}"
        rows.append((check.name, check.output, error, f"{check.threshold:g}{unit}", check.verdict))
    return rows
