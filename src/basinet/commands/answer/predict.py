"""Predict the molecules of a file of any length: extended XYZ of energies and forces, or a table of properties."""

import csv
import io
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from basinet.commands.answer.halving import Halving
from basinet.commands.answer.load import Predictor
from basinet.commands.answer.records import Record, TableOptions
from basinet.commands.answer.stream import (
    CHUNK_RECORDS,
    Done,
    Journal,
    OutsidePolicy,
    answer_records,
    batch_of,
    fingerprint_of,
    locate_input,
)
from basinet.commands.progress import Say, Show, hidden, silent
from basinet.data.chemistry.perception import with_perceived_bonds
from basinet.data.files.extxyz import frame_text
from basinet.data.files.table import column_names, is_table
from basinet.data.readers import AS_WRITTEN, Reading, open_unlabelled
from basinet.files import replacing
from basinet.models.committee import joined
from basinet.models.model import Model
from basinet.structures import Molecule
from basinet.structures.batch import collate, unbatch

OUTSIDE_KEY = "outside_scope"
"""Key in the comment line of a molecule unlike those in training: how it differs."""
COVERAGE = 0.9
"""Default coverage of intervals."""
FRAMES, ROWS = "frames", "rows"
ADDED = ("status", "reason")
"""Columns added to every table."""
Numbers = Mapping[str, float]
"""Predictions for a record, by column."""


def predict_file(
    model_file: Path,
    data: Path,
    out: Path,
    device: str = "cpu",
    *,
    reading: Reading = AS_WRITTEN,
    outside_scope: OutsidePolicy = "error",
    show: Show = hidden,
    say: Say = silent,
) -> Done:
    """Write an extxyz with the energies (eV) and forces (eV/Å) of a model.

    A model of a property writes it by its name, with its unit as ``<name>_unit``; an ensemble writes the mean of its
    members and their spread as ``<name>_std`` (:class:`~basinet.models.committee.Committee`). Labels of the input are
    kept as ``REF_<name>``. A molecule unlike those in training is refused, or marked with ``outside_scope``.
    Memory does not grow with the file. The output appears when it is complete; an interrupted run is resumed by the
    same call.
    """
    data = locate_input(data, out)
    predictor = Predictor.load(model_file, device)
    about = {"kind": "extxyz", "outside": outside_scope, "reading": reading}
    journal = Journal(out, [FRAMES], fingerprint_of([model_file, data], about))
    before, n_outside = journal.done, int(journal.notes.get("outside", 0))
    if before:
        say(f"resuming after {before} molecules")
    molecules, _ = open_unlabelled(data, reading)
    if predictor.file.backbone.needs_bonds:
        molecules = with_perceived_bonds(molecules)
    rest = islice(molecules, before, None)

    def compute(chunk: Sequence[Molecule]) -> list[dict[str, Any]]:
        return _results(predictor, chunk, outside_scope)

    halved = Halving(compute, CHUNK_RECORDS, say)
    while chunk := list(islice(rest, CHUNK_RECORDS)):
        results = halved(chunk)
        text = "".join(frame_text(molecule, found) for molecule, found in zip(chunk, results, strict=True))
        n_outside += sum(OUTSIDE_KEY in found for found in results)
        journal.append({FRAMES: text.encode()}, len(chunk), {"outside": n_outside})
        show(journal.done, None, "")
    journal.require_records(data)
    journal.finish({FRAMES: out})
    return Done(journal.done, 0, before, n_outside)


def _results(predictor: Predictor, chunk: Sequence[Molecule], outside_scope: OutsidePolicy) -> list[dict[str, Any]]:
    """Return the entries of the comment line and the columns of each molecule."""
    model, scope = predictor.first, predictor.first.scope
    outside = ["; ".join(scope.outside(molecule.atomic_numbers, molecule.charge)) for molecule in chunk]
    if outside_scope == "error":
        for molecule in chunk:
            scope.check_molecule(molecule)
    batch = collate(chunk).to(predictor.device)
    found = predictor.answers(batch, model.offers & {"energy", "forces", *model.properties})
    rows: dict[str, Sequence[Any]] = {}
    for name, values in found.items():
        of_atoms = name.startswith("forces")
        rows[name] = [v.double().cpu().numpy() for v in unbatch(values, batch)] if of_atoms else values.tolist()
    units = {f"{name}_unit": head.form.unit for name, head in model.properties.items()}
    marks = [{OUTSIDE_KEY: why} if why else {} for why in outside]
    return [{name: values[i] for name, values in rows.items()} | units | marks[i] for i in range(len(chunk))]


def predict_table(
    model_file: Path,
    data: Path,
    out: Path,
    *,
    smiles: str | None = None,
    n_conformers: int | None = None,
    coverage: float | None = None,
    processes: int | None = 1,
    device: str = "cpu",
    outside_scope: OutsidePolicy = "error",
    reading: Reading = AS_WRITTEN,
    show: Show = hidden,
    say: Say = silent,
) -> Done:
    """Write a table of predictions, with a row for each row of a table or each molecule of a file, beside its columns.

    Columns: ``<name>_predicted``; ``<name>_std`` of an ensemble; ``<name>_lower`` and ``<name>_upper`` of a calibrated
    model; ``status`` (ok, outside, failed) and ``reason``. Failed rows stay, without predictions.
    As for :func:`predict_file`, memory does not grow with the file, and the same call resumes an interrupted run.

    Args:
        model_file: a model of energies or properties.
        data: a table of SMILES, or any file of molecules.
        out: a .csv.
        smiles: column of the SMILES; ``None``: that of the training if the table has it, or else ``smiles``.
        n_conformers: conformers of each SMILES, whose predictions are averaged; ``None``: as in the training.
        coverage: coverage of the intervals; ``None``: as in the training.
        processes: processes that make conformers; ``None``: one for each core.
        device: cpu or cuda.
        outside_scope: molecules unlike those in training fail, or have a prediction and the status "outside".
        reading: units and keys of a file of molecules.
        show: moves a progress bar.
        say: called about resuming, and about batches that do not fit into memory.
    """
    if out.suffix.lower() != ".csv":
        raise ValueError(f"{out}: a table of predictions is written as .csv, got {out.suffix or 'no suffix'}")
    data = locate_input(data, out)
    predictor = Predictor.load(model_file, device)
    plan = _plan(predictor, data, smiles, n_conformers, coverage, processes)
    about = {"table": plan.table._replace(processes=None), "coverage": plan.coverage, "outside": outside_scope}
    settings = {"kind": "table", **about, "reading": reading}
    journal = Journal(out, [ROWS], fingerprint_of([model_file, data], settings))
    done = answer_records(
        data,
        partial(predict_records, predictor, coverage=plan.coverage),
        predictor.first.scope,
        journal,
        partial(_lines, given=plan.given, columns=plan.columns),
        table=plan.table,
        needs_bonds=predictor.file.backbone.needs_bonds,
        reading=reading,
        outside_scope=outside_scope,
        show=show,
        say=say,
    )
    _put_together(journal, out, [*plan.given, *plan.columns, *ADDED])
    return done


class _Plan(NamedTuple):
    """Columns of a table of predictions, and the options for making it."""

    given: Sequence[str]
    columns: Sequence[str]
    table: TableOptions
    coverage: float


def _plan(
    predictor: Predictor,
    data: Path,
    smiles: str | None,
    n_conformers: int | None,
    coverage: float | None,
    processes: int | None,
) -> _Plan:
    """Return how to make a table of predictions; by default as in the training."""
    trained: Mapping[str, Any] = predictor.file.metadata.get("assay", {})
    known = trained.get("smiles")
    given = column_names(data) if is_table(data) else ["name", "smiles"]
    columns = predicted_columns(predictor)
    if clash := sorted({*columns, *ADDED} & set(given)):
        raise ValueError(f"{data} has columns that predictions are written to: {', '.join(clash)}; rename them")
    table = TableOptions(
        smiles=known if smiles is None and known in given else smiles,
        n_conformers=n_conformers or trained.get("conformers", 1),
        seed=trained.get("conformer_seed", 0),
        fragments=trained.get("fragments", "refuse"),
        processes=processes,
    )
    return _Plan(given, columns, table, trained.get("coverage", COVERAGE) if coverage is None else coverage)


def predicted_columns(predictor: Predictor) -> list[str]:
    """Return the columns that a model adds to a table."""
    names: list[str] = []
    for name in _predicted(predictor.first):
        names.append(f"{name}_predicted")
        if len(predictor.members) > 1:
            names.append(f"{name}_std")
        if name in predictor.file.calibration:
            names += [f"{name}_lower", f"{name}_upper"]
    return names


def _predicted(model: Model) -> list[str]:
    return sorted(model.offers & {"energy", *model.properties})


def predict_records(predictor: Predictor, records: Sequence[Record], coverage: float) -> list[Numbers]:
    """Return the predictions for records, averaged over their conformers, with intervals if the model has them."""
    batch, owner = batch_of(records)
    batch = batch.to(predictor.device)
    found: dict[str, list[float]] = {}
    n = len(records)
    names = _predicted(predictor.first)
    answers = predictor.ask(batch, names)
    for name in names:
        answer = joined(torch.stack([one[name].double().cpu() for one in answers]), owner, n)
        found[f"{name}_predicted"] = answer.value.tolist()
        if answer.deviation is not None:
            found[f"{name}_std"] = answer.deviation.tolist()
        calibration = predictor.file.calibration.get(name)
        if calibration is not None:
            radius = calibration.radius(answer.deviation, n, coverage)
            found[f"{name}_lower"] = (answer.value - radius).tolist()
            found[f"{name}_upper"] = (answer.value + radius).tolist()
    return [{name: values[i] for name, values in found.items()} for i in range(n)]


def _lines(
    rows: Sequence[tuple[Record, Numbers | None, str]], given: Sequence[str], columns: Sequence[str]
) -> dict[str, bytes]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for record, numbers, reason in rows:
        cells = record.cells or {"name": record.name, "smiles": record.smiles}
        if numbers is not None and any(math.isnan(value) for value in numbers.values()):
            numbers, reason = None, "the prediction is not finite"
        predicted = [""] * len(columns) if numbers is None else [f"{numbers[name]:.8g}" for name in columns]
        status = "failed" if numbers is None else "outside" if reason else "ok"
        writer.writerow([*(cells[name] for name in given), *predicted, status, reason])
    return {ROWS: text.getvalue().encode()}


def _put_together(journal: Journal, out: Path, header: Sequence[str]) -> None:
    with replacing(out) as temporary, open(temporary, "wb") as file:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(header)
        file.write(line.getvalue().encode())
        with open(journal.path(ROWS), "rb") as rows:
            shutil.copyfileobj(rows, file)
    journal.discard()
