"""The commands that ask a model about files of any length."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from basinet.cli.arguments import (
    DataFile,
    Device,
    EnergyKey,
    EnergyUnit,
    ForcesKey,
    LengthUnit,
    ModelFile,
    Outside,
    OutsideScope,
)
from basinet.cli.fetching import ensure_fetched
from basinet.terminal import progress, say

Smiles = Annotated[str | None, typer.Option(help="Column of the SMILES of a table; without it, the one called smiles.")]
Processes = Annotated[
    int | None, typer.Option(help="Processes that make conformers of a table; all cores without a number.")
]


class Level(StrEnum):
    """What has a row."""

    molecule = "molecule"
    atom = "atom"


class PoolingName(StrEnum):
    """How atoms become a molecule."""

    mean = "mean"
    sum = "sum"


def predict(
    model: ModelFile,
    molecules: DataFile,
    out: Annotated[Path, typer.Argument(help="A .csv with a row for each row or molecule, or an extended XYZ.")],
    smiles: Smiles = None,
    conformers: Annotated[
        int | None, typer.Option(help="Made of each SMILES and averaged; without it, as the model was trained.")
    ] = None,
    coverage: Annotated[
        float | None, typer.Option(help="Of the intervals in a .csv; without it, as the model was trained (0.9).")
    ] = None,
    processes: Processes = None,
    outside_scope: OutsideScope = Outside.ERROR,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    device: Device = "cpu",
) -> None:
    """Predict energies (eV) and forces (eV/Å), or the property, of the molecules of a file.

    To .csv: the columns of the table, the prediction with its interval, and a status, a row for each row. To .xyz: the
    molecules with what is predicted. A run that was interrupted goes on if it is typed again.
    """
    from basinet.commands import predict_file, predict_table
    from basinet.data.files.table import is_table
    from basinet.data.reading import Reading

    ensure_fetched([molecules])
    reading = Reading(energy_unit=energy_unit, length_unit=length_unit, energy_key=energy_key, forces_key=forces_key)
    how = {"device": device, "reading": reading, "outside_scope": outside_scope.value}
    with progress("predicting") as show:
        if out.suffix.lower() != ".csv":
            if not (smiles is None and conformers is None and coverage is None):
                raise ValueError(f"--smiles, --conformers and --coverage are for a table of predictions; {out} is none")
            done = predict_file(model, molecules, out, **how, show=show, say=say)
        else:
            done = predict_table(
                model,
                molecules,
                out,
                smiles=smiles,
                n_conformers=conformers,
                coverage=coverage,
                processes=processes if is_table(molecules) else 1,
                **how,
                show=show,
                say=say,
            )
    failed = f", {done.n_failed} of them without a prediction (see the column reason)" if done.n_failed else ""
    say(f"{done.n_records} molecules written to {out}{failed}")
    _warn(done.n_outside)


def _warn(n_outside: int) -> None:
    if n_outside:
        say(f"{n_outside} of them are unlike those the model was trained on; beside each stands in what")


def embed(
    model: ModelFile,
    molecules: DataFile,
    out: Annotated[Path, typer.Argument(help="A .npy for molecules, an .npz with features and offsets for atoms.")],
    level: Annotated[Level, typer.Option(help="A row for each molecule, or for each atom.")] = Level.molecule,
    pooling: Annotated[PoolingName, typer.Option(help="Of the atoms of a molecule.")] = PoolingName.mean,
    member: Annotated[int, typer.Option(help="Of an ensemble, from 1.")] = 1,
    smiles: Smiles = None,
    conformers: Annotated[int, typer.Option(help="Made of each SMILES of a table; their mean is taken.")] = 1,
    processes: Processes = None,
    outside_scope: OutsideScope = Outside.ERROR,
    device: Device = "cpu",
) -> None:
    """Write what a model makes of molecules: its invariant features, for models and maps of your own.

    Beside OUT an index (.index.csv) says what each row is; rows of molecules that failed are NaN. A run that was
    interrupted goes on if it is typed again.
    """
    from basinet.commands.answer.embed import embed_file, index_path
    from basinet.commands.answer.records import TableOptions
    from basinet.data.files.table import is_table

    ensure_fetched([molecules])
    workers = processes if is_table(molecules) else 1
    table = TableOptions(smiles=smiles, n_conformers=conformers, processes=workers)
    with progress("embedding") as show:
        done = embed_file(
            model,
            molecules,
            out,
            level=level.value,
            pooling=pooling.value,
            member=member,
            table=table,
            device=device,
            outside_scope=outside_scope.value,
            show=show,
            say=say,
        )
    failed = f", {done.n_failed} of them failed" if done.n_failed else ""
    say(f"{done.n_records} molecules written to {out}{failed}; what each row is: {index_path(out)}")
    _warn(done.n_outside)
